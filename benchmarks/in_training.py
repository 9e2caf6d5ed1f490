"""What an optimizer costs a training: its step's share of forward pass, backward pass and step.

    python benchmarks/in_training.py [--rounds 5] [--models perceptron,transformer,convolutions]

Each optimizer trains the model in a process of its own, so that a step finds caches and memory as a training
leaves them, and all take turns round by round. Times are medians of 20 steps, and then of the rounds; ratios
are medians of the ratios within a round.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from multiprocessing import get_context
from typing import Any

import torch
from step_time import SETS
from timing import dump, ratio, show
from torch import Tensor, nn
from torch.nn.functional import conv2d, cross_entropy, gelu, relu

import downslope.torch as dt

WIDTH, VOCABULARY = 768, 8192


class Perceptron(nn.Module):
    """Eight hidden matrices of 64 × 64."""

    def __init__(self) -> None:
        super().__init__()
        hidden = [layer for _ in range(8) for layer in (nn.Linear(64, 64), nn.Tanh())]
        self.layers = nn.Sequential(nn.Linear(16, 64), nn.Tanh(), *hidden, nn.Linear(64, 10))
        self.hidden = [layer.weight for layer in hidden if isinstance(layer, nn.Linear)]

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        return self.layers(x)

    @staticmethod
    def batch() -> tuple[Tensor, Tensor]:
        """Return inputs and targets."""
        return torch.randn(64, 16), torch.randint(10, (64,))


class Transformer(nn.Module):
    """Four layers as GPT-2 small has them, on a small vocabulary."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(VOCABULARY, WIDTH), nn.Linear(WIDTH, VOCABULARY)
        layer = partial(nn.TransformerEncoderLayer, WIDTH, 12, 4 * WIDTH, 0.0, gelu, batch_first=True)
        self.layers = nn.ModuleList(layer(norm_first=True) for _ in range(4))
        self.hidden = [p for p in self.layers.parameters() if p.ndim == 2]

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits."""
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1])
        x = self.embed(tokens)
        for layer in self.layers:
            x = layer(x, mask, is_causal=True)
        return self.head(x).transpose(1, 2)

    @staticmethod
    def batch() -> tuple[Tensor, Tensor]:
        """Return inputs and targets."""
        tokens = torch.randint(VOCABULARY, (2, 257))
        return tokens[:, :-1], tokens[:, 1:]


class Convolutions(nn.Module):
    """The 126 convolutions of `step_time.py`, held as matrices if `flat`, which torch.optim's Muon wants."""

    def __init__(self, flat: bool = False) -> None:
        super().__init__()
        self.shapes = SETS["conv-126"]
        drawn = [torch.randn(shape) / torch.Size(shape[1:]).numel() ** 0.5 for shape in self.shapes]
        self.weights = nn.ParameterList(nn.Parameter(w.flatten(1) if flat else w) for w in drawn)
        self.hidden = list(self.weights)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        weights = [w.view(shape) for w, shape in zip(self.weights, self.shapes, strict=True)]
        for w in weights[:40]:
            x = x + 0.1 * conv2d(relu(x), w, padding=1)
        x = sum(conv2d(x, w, padding=1, stride=2) for w in weights[40:60]) / 20**0.5
        for w in weights[60:100]:
            x = x + 0.1 * conv2d(relu(x), w, padding=1)
        return sum(conv2d(x, w) for w in weights[100:]).mean((2, 3))

    @staticmethod
    def batch() -> tuple[Tensor, Tensor]:
        """Return inputs and targets."""
        return torch.randn(8, 64, 16, 16), torch.randint(256, (8,))


MODELS: dict[str, Any] = {
    "perceptron": Perceptron,
    "transformer": Transformer,
    "convolutions": Convolutions,
}


def ours(model: Any) -> list[torch.optim.Optimizer]:
    if isinstance(model, Convolutions):
        return [dt.Muon(model.hidden, lr=1e-5)]
    return [dt.Muon(model, model.batch()[0], lr=1e-5)]


def torch_muon(model: Any) -> list[torch.optim.Optimizer]:
    known = set(map(id, model.hidden))
    rest = [p for p in model.parameters() if id(p) not in known]
    muon = torch.optim.Muon(model.hidden, lr=1e-5)
    return [muon, *([torch.optim.AdamW(rest, lr=1e-5, fused=True)] if rest else [])]


def torch_adamw(model: Any, fused: bool) -> list[torch.optim.Optimizer]:
    return [torch.optim.AdamW(model.parameters(), lr=1e-5, fused=fused)]


TORCH_MUON = "torch.optim, Muon and AdamW"
OPTIMIZERS: dict[str, Callable[[Any], list[torch.optim.Optimizer]]] = {
    "Muon": ours,
    "AdamW": lambda model: [dt.AdamW(model.parameters(), lr=1e-5)],
    TORCH_MUON: torch_muon,
    "torch.optim, AdamW": partial(torch_adamw, fused=False),
    "torch.optim, AdamW fused": partial(torch_adamw, fused=True),
}


def trained(name: str, label: str, count: int) -> tuple[list[float], list[float]]:
    """Return the seconds of an optimizer's steps in a training, and of the passes before them."""
    torch.manual_seed(0)
    flat = {"flat": True} if name == "convolutions" and OPTIMIZERS[label] is torch_muon else {}
    model = MODELS[name](**flat)
    optimizers, (batch, targets) = OPTIMIZERS[label](model), model.batch()
    steps, passes = [], []
    for i in range(count + 5):
        start = time.perf_counter()
        cross_entropy(model(batch), targets).backward()
        between = time.perf_counter()
        for optimizer in optimizers:
            optimizer.step()
        end = time.perf_counter()
        model.zero_grad()
        if i >= 5:  # the first ones compile, and touch their memory for the first time
            passes.append(between - start)
            steps.append(end - between)
    return steps, passes


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20, help="of a training")
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--json")
    args = parser.parse_args()
    results: dict[str, Any] = {}
    for name in args.models.split(","):
        steps: dict[str, list[float]] = {label: [] for label in OPTIMIZERS}
        passes: list[float] = []
        for label in list(OPTIMIZERS) * args.rounds:
            with get_context("spawn").Pool(1) as alone:
                took = alone.apply(trained, (name, label, args.steps))
            steps[label].append(statistics.median(took[0]))
            passes.append(statistics.median(took[1]))
        between = statistics.median(passes)
        rows = []
        for label, seconds in steps.items():
            step = statistics.median(seconds)
            times = ratio(steps, label, TORCH_MUON)
            rows.append([label, f"{1e3 * step:.2f}", f"{step / (step + between):.1%}", f"{times:.2f}"])
        title = f"{name}: forward and backward pass {1e3 * between:.1f} ms"
        show(title, ["step", "ms", "of a training step", "x torch's Muon"], rows)
        results[name] = {"passes": between, **{k: statistics.median(v) for k, v in steps.items()}}
    if args.json:
        dump(args.json, results)


if __name__ == "__main__":
    main()
