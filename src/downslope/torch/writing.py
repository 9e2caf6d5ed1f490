"""How Muon's steps are written to the parameters: one line, in as few passes as the machine allows."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import compress

import torch
from torch import Tensor

from downslope.rules.descent import step
from downslope.rules.muon import Muon
from downslope.torch import fused
from downslope.torch.blocks import for_each_block
from downslope.torch.engine import Write
from downslope.torch.kernel import OPS, write
from downslope.torch.places import Layout


def written(
    rule: Muon, rows: Sequence[tuple[Tensor, Layout, Tensor]], how: Write, ok: Tensor | None = None
) -> None:
    """Step parameters along their directions; the layout says by which scale."""
    alike: dict[float, list[tuple[Tensor, Tensor]]] = {}
    for p, layout, direction in rows:
        alike.setdefault(scale_of(rule, layout), []).append((p, direction))
    for scale, pairs in alike.items():
        if ok is None and _in_one_pass(how, pairs[0][0]):
            _descend(pairs, how.lr * scale, how.weight_decay / scale)
        else:
            for_each_block(partial(_write_block, how, ok, scale), pairs, (True, False))


def _in_one_pass(how: Write, p: Tensor) -> bool:
    """Whether torch's kernel of gradient descent writes such steps."""
    plain = how.fused and not how.cautious and not isinstance(how.lr, Tensor)
    return plain and p.device.type == "cpu" and fused.suits(p)


def _descend(pairs: Sequence[tuple[Tensor, Tensor]], lr: float, weight_decay: float) -> None:
    """Step parameters by that kernel: all at once, in blocks where a direction must be copied for it."""
    ready = [p.is_contiguous() and d.is_contiguous() and p.dtype == d.dtype for p, d in pairs]
    if any(ready):
        whole = list(zip(*compress(pairs, ready), strict=True))
        fused.descend(*map(list, whole), lr=lr, weight_decay=weight_decay)

    def kernel(p: Tensor, d: Tensor) -> None:
        fused.descend([p], [d.to(p.dtype)], lr=lr, weight_decay=weight_decay)

    rest = [pair for pair, done in zip(pairs, ready, strict=True) if not done]
    for_each_block(kernel, rest, (True, False))


def _write_block(how: Write, ok: Tensor | None, scale: float, p: Tensor, d: Tensor) -> None:
    """Step a block of a parameter along `scale` times its direction."""
    exact = p if p.dtype == torch.float64 else p.float()
    d = d.to(exact.dtype) * scale
    change = step(OPS, exact, d, lr=how.lr, weight_decay=how.weight_decay, cautious=how.cautious)
    write(p, exact, change, ok)


def scale_of(rule: Muon, layout: Layout) -> float:
    """Return the scale of a parameter's first matrices, to which `_directions` refers the others."""
    _, fan_out, fan_in = layout.matrices[0]
    return rule.scale_of(fan_out, fan_in)
