"""The tasks that come along, for PyTorch: their models, and how batches reach them.

The models are small, but made as a practitioner would make them today: a pre-activation residual
network for images, a pre-norm transformer with rotary positions for text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from downslope.tasks import digits as digit_data
from downslope.tasks import text as text_data
from downslope.tasks.task import Task


class ResidualBlock(nn.Module):
    """Two 3 × 3 convolutions with normalisation and activation before each (He et al., 2016)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, channels, height, width) to the same shape."""
        h = self.conv1(functional.relu(self.norm1(x)))
        h = self.conv2(functional.relu(self.norm2(h)))
        summed: Tensor = x + h
        return summed


class ConvNet(nn.Module):
    """A residual network for 8 × 8 images: one block at full size, one at half."""

    def __init__(self, width: int = 32, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1)
        self.block1 = ResidualBlock(width)
        self.down = nn.Conv2d(width, 2 * width, 2, stride=2)
        self.block2 = ResidualBlock(2 * width)
        self.norm = nn.BatchNorm2d(2 * width)
        self.head = nn.Linear(2 * width, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (batch, 1, 8, 8) to logits (batch, classes)."""
        x = self.block2(self.down(self.block1(self.stem(images))))
        logits: Tensor = self.head(functional.relu(self.norm(x)).mean(dim=(2, 3)))
        return logits


class Attention(nn.Module):
    """Causal self-attention with rotary positions and normalised queries and keys."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.query_norm = nn.RMSNorm(width // heads)
        self.key_norm = nn.RMSNorm(width // heads)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Map (batch, length, width) to the same shape; cos, sin: (length, width / heads / 2)."""
        q, k, v = (
            project(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for project in (self.query, self.key, self.value)
        )  # each (batch, heads, length, width / heads)
        q, k = rotate(self.query_norm(q), cos, sin), rotate(self.key_norm(k), cos, sin)
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        attended: Tensor = self.out(y.transpose(1, 2).flatten(-2))
        return attended


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair (first half, second half) of x by its position's angle (Su et al., 2021)."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)


class GatedMLP(nn.Module):
    """SwiGLU (Shazeer, 2020)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate = nn.Linear(width, hidden, bias=False)
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, length, width) to the same shape."""
        y: Tensor = self.down(functional.silu(self.gate(x)) * self.up(x))
        return y


class Layer(nn.Module):
    """Attention, then the gated MLP, each normalised before and added to what came in."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(width)
        self.attention = Attention(width, heads)
        self.mlp_norm = nn.RMSNorm(width)
        self.mlp = GatedMLP(width, hidden)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Map (batch, length, width) to the same shape."""
        x = x + self.attention(self.attention_norm(x), cos, sin)
        x = x + self.mlp(self.mlp_norm(x))
        return x


class Transformer(nn.Module):
    """A pre-norm decoder over bytes."""

    def __init__(self, width: int = 128, layers: int = 5, heads: int = 4, length: int = 128) -> None:
        super().__init__()
        hidden = 8 * width // 3 // 16 * 16  # two thirds of the usual 4 × width: the gate is a third matrix
        self.embed = nn.Embedding(256, width)
        self.layers = nn.ModuleList(Layer(width, heads, hidden) for _ in range(layers))
        self.norm = nn.RMSNorm(width)
        self.head = nn.Linear(width, 256, bias=False)
        frequency = 10_000.0 ** -torch.linspace(0, 1, width // heads // 2)
        angle = torch.outer(torch.arange(length), frequency)  # (length, width / heads / 2)
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)
        self._draw()

    def _draw(self) -> None:
        """Draw the matrices: each keeps the variance of what it is given."""
        for p in (self.embed.weight, self.head.weight):
            nn.init.normal_(p, std=0.02)
        for name, p in self.layers.named_parameters():
            if p.ndim == 2:
                # What adds to the residual stream starts smaller, or depth would raise its variance.
                into_stream = name.endswith(("out.weight", "down.weight"))
                scale = (2 * len(self.layers)) ** -0.5 if into_stream else 1.0
                nn.init.normal_(p, std=scale * p.shape[1] ** -0.5)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (batch, length) to logits (batch, length, 256)."""
        length = tokens.shape[1]
        cos: Tensor = self.get_buffer("cos")[:length]
        sin: Tensor = self.get_buffer("sin")[:length]
        x = self.embed(tokens)
        for layer in self.layers:
            x = layer(x, cos, sin)
        logits: Tensor = self.head(self.norm(x))
        return logits


def cross_entropy(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Return the mean cross-entropy of the model's logits, in nats; batch: (inputs, classes)."""
    inputs, classes = batch
    return functional.cross_entropy(model(inputs).flatten(0, -2), classes.flatten())


def _tensors(arrays: tuple[Any, ...]) -> tuple[Tensor, ...]:
    return tuple(torch.from_numpy(np.ascontiguousarray(a)) for a in arrays)


def _build(model: Callable[[], nn.Module], seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return model()


def _at_width(task: Task, model: Callable[[int], nn.Module]) -> Task:
    """Return a task that can be had at another width too."""

    def at_width(width: int) -> Task:
        return replace(
            task, name=f"{task.name}-{width}", build=lambda seed: _build(lambda: model(width), seed)
        )

    return replace(task, at_width=at_width)


def _version(data_module: Any) -> str:
    """Return digits that change whenever the code of a task does."""
    files = (__file__, data_module.__file__)
    return hashlib.sha256(b"".join(Path(f).read_bytes() for f in files)).hexdigest()[:16]


def digits() -> Task:
    """Return the task of telling handwritten digits apart."""
    data = digit_data.load()
    held_out = _tensors((data.validation_images, data.validation_labels))

    def batches(seed: int) -> Iterator[tuple[Tensor, ...]]:
        return map(_tensors, digit_data.batches(data, size=64, seed=seed))

    task = Task(
        name="digits",
        description="a residual ConvNet on scikit-learn's handwritten digits of 8×8 pixels, shifted and "
        "under noise; 1297 for training, 500 for validation",
        metric="validation loss (nats)",
        build=lambda seed: _build(ConvNet, seed),
        batches=batches,
        loss=cross_entropy,
        evaluate=lambda model: cross_entropy(model, (held_out[0], held_out[1])).item(),
        steps=200,
        learning_rates={"adamw": (3e-4, 3e-1)},  # its best lies at the upper edge of its own range
        fingerprint=_version(digit_data),
    )
    return _at_width(task, lambda width: ConvNet(width))


def text() -> Task:
    """Return the task of predicting the next byte of Python's documentation."""
    data = text_data.load()
    length = 128
    held_out = _tensors(text_data.validation_windows(data, count=64, length=length))

    def batches(seed: int) -> Iterator[tuple[Tensor, ...]]:
        return map(_tensors, text_data.batches(data, size=16, length=length, seed=seed))

    task = Task(
        name="text",
        description=f"a byte-level transformer on {data.origin}, {len(data.train):,} bytes for training",
        metric="validation loss (nats per byte)",
        build=lambda seed: _build(Transformer, seed),
        batches=batches,
        loss=cross_entropy,
        evaluate=lambda model: cross_entropy(model, (held_out[0], held_out[1])).item(),
        steps=300,
        fingerprint=f"{_version(text_data)} {data.digest()}",
    )
    return _at_width(task, lambda width: Transformer(width))
