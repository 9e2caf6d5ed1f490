"""NorMuon's rows: a stack evened out by the mean squares that its parameters remember."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from downslope.rules.muon import Muon
from downslope.torch.kernel import OPS, assign
from downslope.torch.places import Item, Shape


def evened(rule: Muon, polar: Tensor, portion: Sequence[Item], shape: Shape, ok: Tensor | None) -> Tensor:
    """Return NorMuon's stack, its rows evened out; the next mean squares go to where they came from."""
    squares = []
    for item in portion:
        assert item.row_square is not None
        pieces = item.view.split_rows(OPS, item.row_square, tuple(item.p.shape))
        squares += [p for (_, *own), p in zip(item.matrices, pieces, strict=True) if tuple(own) == shape]
    even, new = rule.evened(OPS, polar.to(squares[0].dtype), torch.cat(squares))
    for square, value in zip(squares, new.split([len(s) for s in squares]), strict=True):
        assign(square, value, ok)
    out: Tensor = even
    return out
