"""The transformer of `tests.parity`, trained in PyTorch: roles traced, projections fused."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from downslope.torch import Muon
from tests.parity import transformer as t
from tests.parity.cases import assert_ulp


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        d = t.WIDTH
        self.gain1, self.gain2 = nn.RMSNorm(d, eps=t.EPS), nn.RMSNorm(d, eps=t.EPS)
        self.qkv, self.out = nn.Linear(d, 3 * d, bias=False), nn.Linear(d, d, bias=False)
        self.up, self.down = nn.Linear(d, 4 * d, bias=False), nn.Linear(4 * d, d, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = self.qkv(self.gain1(x)).chunk(3, dim=-1)
        q, k, v = (p.unflatten(-1, (t.HEADS, -1)).transpose(1, 2) for p in parts)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.down(F.silu(self.up(self.gain2(x))))


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.position = nn.Embedding(t.VOCABULARY, t.WIDTH), nn.Embedding(t.LENGTH, t.WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(t.BLOCKS))
        self.gain, self.head = nn.RMSNorm(t.WIDTH, eps=t.EPS), nn.Linear(t.WIDTH, t.VOCABULARY, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens) + self.position(torch.arange(t.LENGTH))
        for block in self.blocks:
            x = block(x)
        return self.head(self.gain(x))


def name_of(name: str) -> str:
    """Return the reference's name of a parameter: blocks.0.up.weight is 0.up."""
    return name.removeprefix("blocks.").removesuffix(".weight")


def from_reference(w: t.Weights) -> dict[str, torch.Tensor]:
    own = {}
    for name, _ in Model().named_parameters():
        short = name_of(name)
        if short.endswith(".qkv"):
            parts = [w[short.replace("qkv", part)] for part in ("query", "key", "value")]
            own[name] = torch.tensor(np.concatenate(parts))
        else:
            own[name] = torch.tensor(w[short])
    return own


def test_losses_of_50_steps_are_the_references() -> None:
    model = Model().double()
    model.load_state_dict(from_reference(t.weights()))
    batches = [tuple(map(torch.tensor, batch)) for batch in t.batches()]
    optimizer = Muon(model, batches[0][0], **t.OPTIONS)
    hidden = {name_of(n).split(".")[-1] for n in optimizer.param_groups[0]["param_names"]}
    assert hidden == {"qkv", "out", "up", "down"}
    losses = []
    for tokens, targets in batches:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(tokens).flatten(0, 1), targets.flatten())
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    expected, after = t.reference()
    np.testing.assert_allclose(losses, expected, rtol=0, atol=t.TOLERANCE)
    final = from_reference(after)
    for name, p in model.named_parameters():
        assert_ulp(p.detach().numpy(), final[name].numpy(), 1e-8 * 2**52, what=name)
    assert len({round(x, 6) for x in losses}) == t.STEPS  # every step moved it
