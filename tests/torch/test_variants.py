"""Muon's variants through the optimizer: views, stacks and saved states."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from downslope.grouping.view import MatrixView
from downslope.torch import Muon, partition


class Attention(nn.Module):
    """Attention of two heads with separate projections."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Linear(6, 32), nn.Linear(32, 6)
        self.q, self.k, self.v = (nn.Linear(32, 32, bias=False) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(self.embed(x))
        q, k, v = (f(x).unflatten(-1, (2, 16)).transpose(1, 2) for f in (self.q, self.k, self.v))
        out: torch.Tensor = self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(-2))
        return out


def stepped(model: nn.Module, x: torch.Tensor, **options: Any) -> Muon:
    optimizer = Muon(model, x, lr=0.1, **options)
    model(x).square().mean().backward()
    optimizer.step()
    return optimizer


def test_heads_split_moves_each_head_as_a_matrix() -> None:
    torch.manual_seed(0)
    model, x = Attention().double(), torch.randn(2, 5, 6, dtype=torch.float64)
    before = model.q.weight.detach().clone()
    fused = copy.deepcopy(model)
    stepped(fused, x)
    stepped(model, x, heads="split")
    for rows in (slice(0, 16), slice(16, 32)):
        head = nn.Parameter(before[rows].clone())
        head.grad = model.q.weight.grad[rows].clone()
        Muon([head], lr=0.1).step()
        torch.testing.assert_close(model.q.weight[rows].detach(), head.detach(), rtol=1e-10, atol=1e-12)
    assert (model.q.weight - fused.q.weight).abs().max() > 1e-3, "heads would not have been seen"


def test_heads_go_with_a_model_that_is_traced() -> None:
    model, x = Attention(), torch.randn(2, 5, 6)
    with pytest.raises(ValueError, match="heads = 'both': expected 'fused' or 'split'"):
        Muon(model, x, heads="both")
    with pytest.raises(ValueError, match="pass no example inputs, overrides or heads beside it"):
        Muon(model, partition=partition(model, x), heads="split")
    with pytest.raises(ValueError, match=r'heads="split" goes into the partition'):
        Muon(partition(model, x), heads="split")
    with pytest.raises(ValueError, match="heads go with a model"):
        Muon([model.q.weight], heads="split")


def test_the_view_of_a_parameter() -> None:
    model, x = Attention(), torch.randn(2, 5, 6)
    optimizer = Muon(model, x, heads="split")
    assert optimizer.view_of(model.q.weight).blocks == (16, 16)
    with pytest.raises(ValueError, match="Muon does not step it here"):
        optimizer.view_of(model.embed.weight)


VIEWS = [
    ((6, 4), MatrixView((0,), (1,))),
    ((4, 6), MatrixView((1,), (0,))),
    ((12, 4), MatrixView((0,), (1,), blocks=(6, 3, 3))),
    ((3, 6, 4), MatrixView((1,), (2,), batch=(0,))),
    ((6, 4, 3, 3), MatrixView((0,), (1, 2, 3))),
]


@pytest.mark.parametrize("budget", [None, 500])
def test_normuon_does_not_depend_on_stacks_or_layout(budget: int | None) -> None:
    generator = torch.Generator().manual_seed(0)
    weights, views = [torch.randn(s, generator=generator).double() for s, _ in VIEWS], [v for _, v in VIEWS]
    together = [nn.Parameter(w.clone()) for w in weights]
    alone = [nn.Parameter(w.clone()) for w in weights]
    optimizers = [Muon([{"params": together, "views": views}], lr=0.1, normuon=True, max_stack_bytes=budget)]
    pairs = zip(alone, views, strict=True)
    optimizers += [Muon([{"params": [p], "view": view}], lr=0.1, normuon=True) for p, view in pairs]
    for _ in range(3):
        for p, q in zip(together, alone, strict=True):
            p.grad = torch.randn(p.shape, generator=generator).double()
            q.grad = p.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for p, q in zip(together, alone, strict=True):
        # a batched product may sum in another order
        torch.testing.assert_close(p, q, rtol=1e-10, atol=1e-11)
    plain = nn.Parameter(weights[0].clone())
    plain.grad = alone[0].grad
    Muon([plain], lr=0.1).step()
    assert (plain - alone[0]).abs().max() > 1e-2


def test_a_state_without_rows_is_refused_where_they_are_needed() -> None:
    p = nn.Parameter(torch.ones(4, 3))
    p.grad = torch.randn(4, 3)
    with_rows, without = Muon([p], normuon=True), Muon([p])
    with_rows.step()
    without.step()
    saved = with_rows.state_dict()
    assert saved["state"][0]["row_square"].shape == (4,)
    again = Muon([p], normuon=True)
    again.load_state_dict(copy.deepcopy(saved))
    assert torch.equal(again.state[p]["row_square"], with_rows.state[p]["row_square"])
    lacking = without.state_dict()
    lacking["param_groups"][0]["normuon"] = True
    with pytest.raises(ValueError, match="lacks row_square"):
        again.load_state_dict(lacking)
    saved["state"][0]["row_square"] = torch.zeros(5)
    with pytest.raises(ValueError, match=r"row_square of .* has shape \(5,\), expected \(4,\)"):
        again.load_state_dict(saved)
