"""Muon's matrices: gathered by shape into stacks, orthogonalised together, and written back.

Parameters are taken in portions that fit a memory budget. Of a portion, the element-wise half of
the rule runs in blocks and leaves what is to be orthogonalised in float32; matrices of one shape
then make one stack, whichever parameters they come from; and the steps are written in blocks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from downslope.grouping.view import MatrixView
from downslope.rules.muon import Muon
from downslope.rules.rule import step
from downslope.torch.blocks import for_each_block
from downslope.torch.kernel import OPS, write


@dataclass(frozen=True)
class Item:
    """One parameter with all that its step needs."""

    p: Tensor
    g: Tensor
    momentum: Tensor
    view: MatrixView


def step_stacks(
    rule: Muon,
    items: Sequence[Item],
    *,
    lr: Any,
    weight_decay: float,
    cautious: bool,
    ns_dtype: torch.dtype | None,
    max_stack_bytes: int,
) -> None:
    """Take one Muon step of every item; results do not depend on how items were stacked."""
    for portion in _portions(items, max_stack_bytes):
        update = _momentum(rule, portion)
        directions = _orthogonal(rule, portion, update, ns_dtype)

        def write_step(p: Tensor, d: Tensor) -> None:
            exact = p.to(d.dtype)
            write(p, exact, step(OPS, exact, d, lr=lr, weight_decay=weight_decay, cautious=cautious))

        rows = [(item.p, d) for item, d in zip(portion, directions, strict=True)]
        for_each_block(write_step, rows, (True, False))


def _portions(items: Sequence[Item], max_stack_bytes: int) -> Iterator[list[Item]]:
    """Cut the items, those of like matrices together, into portions within the budget."""
    portion: list[Item] = []
    size = 0
    for item in sorted(items, key=lambda item: item.view.matrices(tuple(item.p.shape))):
        need = item.momentum.numel() * item.momentum.element_size()
        if portion and size + need > max_stack_bytes:
            yield portion
            portion, size = [], 0
        portion.append(item)
        size += need
    if portion:
        yield portion


def _momentum(rule: Muon, portion: Sequence[Item]) -> list[Tensor]:
    """Update the momenta; return what is to be orthogonalised, in each parameter's shape."""
    make = rule.state_type

    def kernel(p: Tensor, g: Tensor, momentum: Tensor, out: Tensor) -> None:
        exact = p.to(momentum.dtype)
        u, new = rule.momentum_of(OPS, g.to(momentum.dtype), make(momentum), exact)
        if new.momentum_buffer is not momentum:
            momentum.copy_(new.momentum_buffer)
        out.copy_(u)

    updates = [torch.empty_like(item.momentum) for item in portion]
    rows = [(item.p, item.g, item.momentum, u) for item, u in zip(portion, updates, strict=True)]
    for_each_block(kernel, rows, (False, False, True, True))
    return updates


def _orthogonal(
    rule: Muon, portion: Sequence[Item], updates: list[Tensor], ns_dtype: torch.dtype | None
) -> list[Tensor]:
    """Return the direction of each parameter, in its shape."""
    pieces = [item.view.split(OPS, u) for item, u in zip(portion, updates, strict=True)]
    by_shape: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for i, stacks in enumerate(pieces):
        for j, stack in enumerate(stacks):
            by_shape.setdefault((stack.shape[1], stack.shape[2]), []).append((i, j))
    for places in by_shape.values():
        parts = [pieces[i][j] for i, j in places]
        stack = parts[0] if len(parts) == 1 else torch.cat(parts)
        done = rule.matrix_direction(OPS, stack, dtype=ns_dtype)
        for (i, j), piece in zip(places, done.split([len(part) for part in parts]), strict=True):
            pieces[i][j] = piece
    return [
        item.view.join(OPS, stacks, tuple(item.p.shape)) for item, stacks in zip(portion, pieces, strict=True)
    ]


def fast_dtype(p: Tensor) -> torch.dtype | None:
    """Return the dtype in which this device orthogonalises fastest, or None for the state's own.

    bfloat16 where matrix products in it are fast: CPUs with AVX-512 BF16 or AMX, GPUs from compute
    capability 8.0 on. Never float16. float64 stays float64.
    """
    if p.dtype == torch.float64:
        return None
    if p.device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(p.device) >= (8, 0) else None
    if p.device.type == "cpu":
        fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        return torch.bfloat16 if fast else None
    return None
