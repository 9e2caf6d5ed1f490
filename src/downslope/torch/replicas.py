"""Muon of parameters that processes hold alike, as under DDP: each orthogonalises its share of the matrices.

Gradients are the same on every process and so are the momenta, which each updates by itself. Polar factors,
nearly all of the work, are shared out, and what a process made is sent to all: one exchange a portion. Each
writes what was sent, its own part too, so that the parameters stay the same to the last bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from downslope.rules.muon import Muon
from downslope.torch.engine import Engine, Write
from downslope.torch.exchange import owners_of
from downslope.torch.places import Item, cut
from downslope.torch.regions import region
from downslope.torch.stacks import directions_of, scale_of, update_momenta, written


def step_replicas(
    rule: Muon,
    items: Sequence[Item],
    group: dist.ProcessGroup,
    *,
    t: object,
    how: Write,
    dtype: torch.dtype | None,
    max_stack_bytes: int,
    engine: Engine | None = None,
) -> None:
    """Take one Muon step of every item, together with the other processes of the group.

    All of them call it with the same parameters, gradients and states, in the same order.
    """
    engine = engine or Engine()
    pieces = [piece for item in items if item.p.numel() for piece in cut(item, max_stack_bytes)]
    wires = [_wire(rule, piece, dtype) for piece in pieces]
    for portion, wire in _portions(pieces, wires, group.size(), 3 * max_stack_bytes):
        owners = owners_of(rule, [item.layout for item in portion], group.size(), dtype)
        with region("momentum"):
            own = _look_ahead(rule, portion, [owner == group.rank() for owner in owners], t, engine.ok)
        with region("orthogonalise"):
            made = directions_of(rule, own, dtype, max_stack_bytes, engine)
        with region("exchange"):
            directions = _sent_to_all(portion, owners, own, made, wire, group)
        with region("write"):
            rows = [(item.p, item.leading, d) for item, d in zip(portion, directions, strict=True)]
            written(rule, rows, how, engine.ok)


_gather: Any = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
"""Renamed in torch 2.13."""


def _wire(rule: Muon, item: Item, dtype: torch.dtype | None) -> torch.dtype:
    """Return the dtype in which an item's direction is sent: the one that it was rounded to.

    That is the one of the iterations, but where NorMuon or scales that differ have multiplied since.
    """
    kept = item.momentum.dtype
    if dtype is None or dtype.itemsize >= kept.itemsize or rule.normuon:
        return kept
    scale = scale_of(rule, item.leading)
    return dtype if all(rule.scale_of(*sides) == scale for _, *sides in item.matrices) else kept


def _portions(
    items: Sequence[Item], wires: Sequence[torch.dtype], size: int, most: int
) -> Iterator[tuple[list[Item], torch.dtype]]:
    """Cut the items into portions sent in one dtype, within a budget or a sixteenth of their bytes.

    Of a portion a process has what is sent to it, and of its own part the look-ahead and the direction.
    """
    most = max(most, sum(item.p.numel() * item.p.element_size() for item in items) // 16)
    portion: list[Item] = []
    taken, last = 0.0, None
    for item, wire in sorted(zip(items, wires, strict=True), key=lambda pair: pair[1].itemsize):
        need = item.p.numel() * (wire.itemsize + (2 * item.momentum.element_size() + wire.itemsize) / size)
        if portion and (wire != last or taken + need > most):
            assert last is not None
            yield portion, last
            portion, taken = [], 0.0
        portion.append(item)
        taken, last = taken + need, wire
    if portion:
        assert last is not None
        yield portion, last


def _look_ahead(
    rule: Muon, portion: Sequence[Item], mine: Sequence[bool], t: object, ok: Tensor | None
) -> list[Item]:
    """Update all momenta; return those items that are this process's, to be orthogonalised."""
    most = max(item.momentum.numel() for item in portion)
    unread = portion[0].momentum.new_empty(0 if all(mine) else most)
    rows, own = [], []
    for item, is_mine in zip(portion, mine, strict=True):
        if is_mine:
            u = torch.empty_like(item.momentum, memory_format=torch.contiguous_format)
            own.append(Item(u, u, u, item.view, item.layout, item.row_square, item.whole))
        else:
            u = unread[: item.momentum.numel()].view(item.momentum.shape)
        rows.append((item.p, item.g, item.momentum, u))
    update_momenta(rule, rows, t, ok)
    return own


def _sent_to_all(
    portion: Sequence[Item],
    owners: Sequence[int],
    own: Sequence[Item],
    made: Sequence[Tensor],
    wire: torch.dtype,
    group: dist.ProcessGroup,
) -> list[Tensor]:
    """Return the directions of a portion, each from its owner, and take over the rows that they remember."""
    sizes = [[part.numel() for part in (item.p, item.row_square) if part is not None] for item in portion]
    of = [[i for i, owner in enumerate(owners) if owner == rank] for rank in range(group.size())]
    width = max(sum(sum(sizes[i]) for i in owned) for owned in of)
    sent = portion[0].momentum.new_empty(width, dtype=wire)
    parts = [
        part for item, d in zip(own, made, strict=True) for part in (d, item.row_square) if part is not None
    ]
    if parts:
        flat = [part.reshape(-1).to(wire) for part in parts]
        torch.cat(flat, out=sent[: sum(map(len, flat))])
    arrived = sent.new_empty((group.size(), width))
    # as bytes, which every backend sends
    _gather(arrived.view(-1).view(torch.uint8), sent.view(torch.uint8), group=group)
    found: dict[int, Tensor] = {}
    for owned, row in zip(of, arrived, strict=True):
        lengths = [n for i in owned for n in sizes[i]]
        pieces = iter(torch.split(row[: sum(lengths)], lengths) if lengths else ())
        for i in owned:
            found[i] = next(pieces).view(portion[i].p.shape)
            if (square := portion[i].row_square) is not None:
                square.copy_(next(pieces))
    return [found[i] for i in range(len(portion))]
