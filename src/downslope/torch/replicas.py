"""Muon of parameters that processes hold alike, as under DDP: each orthogonalises its share of the matrices.

Gradients are the same on every process and so are the momenta, which each updates by itself. Polar factors,
nearly all of the work, are shared out, and what a process made is sent to all: one exchange a portion. Each
writes what was sent, its own part too, so that the parameters stay the same to the last bit. What is made
faster than sent each makes for itself, where all do so to the last bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import compress
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from downslope.rules.muon import Muon
from downslope.torch.engine import Engine, Write
from downslope.torch.exchange import owners_of, work_of
from downslope.torch.places import Item, cut, within
from downslope.torch.regions import region
from downslope.torch.stacks import directions_of, step_stacks, update_momenta
from downslope.torch.writing import scale_of, written


def step_replicas(
    rule: Muon,
    items: Sequence[Item],
    group: dist.ProcessGroup,
    *,
    t: Any,
    how: Write,
    dtype: torch.dtype | None,
    max_stack_bytes: int,
    engine: Engine | None = None,
    home: bool = False,
) -> None:
    """Take one Muon step of every item, together with the other processes of the group.

    All of them call it with the same parameters, gradients and states, in the same order. With `home`, each
    takes the steps of small matrices by itself.
    """
    engine = engine or Engine()
    items = [item for item in items if item.p.numel()]
    sent = [not home or _is_sent(rule, item, group.size(), dtype) for item in items]
    if kept := list(compress(items, (not one for one in sent))):
        step_stacks(rule, kept, t=t, how=how, dtype=dtype, max_stack_bytes=max_stack_bytes, engine=engine)
    pieces = [piece for item in compress(items, sent) for piece in cut(item, max_stack_bytes)]
    wires = [_wire(rule, piece, dtype) for piece in pieces]
    for portion, wire in _portions(pieces, wires, max_stack_bytes):
        directions = _directions(rule, portion, wire, group, t, dtype, max_stack_bytes, engine)
        with region("write"):
            rows = [(item.p, item.leading, d) for item, d in zip(portion, directions, strict=True)]
            written(rule, rows, how, engine.ok)
        del directions, rows  # before the next ones are made


LEAST = 900
"""How many operations an element must be spared a process, for its step to be sent to it.

Measured with two processes of one machine, by gloo: at 1,700 to 2,700 operations an element, of which each is
spared half, sending takes as long (matrices of 192 × 192, 256 × 1024 and 384 × 2304).
"""


def _is_sent(rule: Muon, item: Item, processes: int, dtype: torch.dtype | None) -> bool:
    """Whether the direction of an item is made by one process and sent to the others, on CPUs."""
    return work_of(rule, item.layout, dtype) * (1 - 1 / processes) >= LEAST * item.p.numel()


def _directions(
    rule: Muon,
    portion: Sequence[Item],
    wire: torch.dtype,
    group: dist.ProcessGroup,
    t: Any,
    dtype: torch.dtype | None,
    max_stack_bytes: int,
    engine: Engine,
) -> list[Tensor]:
    """Update the momenta of a portion; return its directions, of which each process makes its share."""
    owners = owners_of(rule, [item.layout for item in portion], group.size(), dtype)
    mine = [owner == group.rank() for owner in owners]
    with region("momentum"):
        _update_only(rule, [item for item, own in zip(portion, mine, strict=True) if not own], t, engine.ok)
    sent = _Sent(portion, owners, wire, group)
    for some in within(list(compress(portion, mine)), max_stack_bytes, _stacked):
        with region("momentum"):
            ahead = _look_ahead(rule, some, t, engine.ok)
        with region("orthogonalise"):
            made = directions_of(rule, ahead, dtype, max_stack_bytes, engine)
        with region("exchange"):
            sent.put(some, made)
    with region("exchange"):
        return sent.to_all()


_gather: Any = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
"""Renamed in torch 2.13."""

_ONE_BY_ONE = ("cpu",)
"""Devices where what is gathered takes its memory twice: gloo makes a copy of it all."""


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
    items: Sequence[Item], wires: Sequence[torch.dtype], max_stack_bytes: int
) -> Iterator[tuple[list[Item], torch.dtype]]:
    """Cut the items into portions sent in one dtype, in a budget or in a sixteenth of the parameters' bytes.

    The larger a portion, the more evenly it is shared out; but a step is to take 64 MiB at most.
    """
    most = max(5 * max_stack_bytes // 4, sum(item.p.numel() * item.p.element_size() for item in items) // 16)
    for wire in dict.fromkeys(wires):
        alike = [item for item, own in zip(items, wires, strict=True) if own == wire]
        for portion in within(alike, most, partial(_sent_bytes, wire)):
            yield portion, wire


def _sent_bytes(wire: torch.dtype, item: Item) -> int:
    return item.p.numel() * wire.itemsize


def _stacked(item: Item) -> int:
    """Return the bytes that an item takes, twice: in its stack, and on the way."""
    return 2 * item.p.numel() * item.momentum.element_size()


def _update_only(rule: Muon, items: Sequence[Item], t: Any, ok: Tensor | None) -> None:
    """Update momenta whose look-ahead nobody reads here."""
    if items:
        unread = items[0].momentum.new_empty(max(item.momentum.numel() for item in items))
        rooms = [unread[: item.momentum.numel()].view(item.momentum.shape) for item in items]
        rows = [(item.p, item.g, item.momentum, room) for item, room in zip(items, rooms, strict=True)]
        update_momenta(rule, rows, t, ok)


def _look_ahead(rule: Muon, items: Sequence[Item], t: Any, ok: Tensor | None) -> list[Item]:
    """Update momenta; return the items with what is to be orthogonalised."""
    ahead = [torch.empty_like(item.momentum, memory_format=torch.contiguous_format) for item in items]
    rows = [(item.p, item.g, item.momentum, u) for item, u in zip(items, ahead, strict=True)]
    update_momenta(rule, rows, t, ok)
    return [
        Item(u, u, u, item.view, item.layout, item.row_square, item.whole)
        for item, u in zip(items, ahead, strict=True)
    ]


class _Sent:
    """What this process sends of a portion: its directions, and the rows that they remember."""

    def __init__(
        self, portion: Sequence[Item], owners: Sequence[int], wire: torch.dtype, group: dist.ProcessGroup
    ) -> None:
        self.portion, self.group = portion, group
        self.of = [[i for i, owner in enumerate(owners) if owner == rank] for rank in range(group.size())]
        self.sizes = [
            [part.numel() for part in (item.p, item.row_square) if part is not None] for item in portion
        ]
        self.widths = [sum(sum(self.sizes[i]) for i in owned) for owned in self.of]
        like = portion[0].momentum
        self.rows = like.new_empty((group.size(), max(self.widths)), dtype=wire)  # one for each process
        self.filled = 0

    def put(self, items: Sequence[Item], made: Sequence[Tensor]) -> None:
        """Add the directions of some items, in the order in which this process owns them."""
        for item, d in zip(items, made, strict=True):
            for part in (d, item.row_square):
                if part is not None:
                    end = self.filled + part.numel()
                    self.rows[self.group.rank(), self.filled : end].view(part.shape).copy_(part)
                    self.filled = end

    def to_all(self) -> list[Tensor]:
        """Return the directions of the portion, each from its owner, and take over the rows."""
        as_bytes = self.rows.view(torch.uint8)  # which every backend sends
        if self.rows.device.type in _ONE_BY_ONE:
            for rank, width in enumerate(self.widths):
                if width:
                    row = as_bytes[rank, : width * self.rows.element_size()]
                    dist.broadcast(row, group=self.group, group_src=rank)
        else:
            _gather(as_bytes.view(-1), as_bytes[self.group.rank()], group=self.group)
        found: dict[int, Tensor] = {}
        for owned, row, width in zip(self.of, self.rows, self.widths, strict=True):
            lengths = [n for i in owned for n in self.sizes[i]]
            pieces = iter(torch.split(row[:width], lengths) if lengths else ())
            for i in owned:
                found[i] = next(pieces).view(self.portion[i].p.shape)
                if (square := self.portion[i].row_square) is not None:
                    square.copy_(next(pieces))
        return [found[i] for i in range(len(self.portion))]
