"""Muon of matrices that are spread over processes: whole where they are orthogonalised.

The element-wise half of the rule needs nothing of other processes. A polar factor is one of a whole
matrix: steps of the parts by themselves would be others, and depend on how many processes there are.
So each matrix has an *owner* among the processes that share it. It is sent the parts, orthogonalises, and
sends back to each its part of the step: two exchanges a portion, in which each process sends and receives
what it has of the portion once, and the work is shared out. Stacks of which each process has whole
matrices (experts) stay where they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.placement_types import Placement

from downslope.grouping.view import MatrixView
from downslope.rules.muon import Muon
from downslope.rules.orthogonalize import least_operations
from downslope.torch.engine import Engine, Write
from downslope.torch.places import Item, Layout, layout_of, within
from downslope.torch.regions import region
from downslope.torch.spread import local
from downslope.torch.stacks import directions_of, update_momenta
from downslope.torch.writing import written


@dataclass
class Part:
    """What this process has of a parameter whose matrices are spread over a group of them.

    Attributes:
        item: its local tensors; the view, and the layout of the whole.
        whole: the parameter, spread.
        shape: of what the group has together.
        axis: along which each process of the group has a piece.
        mesh_axis: of the parameter's mesh, the group is one line of it.
        placements: how the group shares it: not as the parameter is, where several axes of the mesh cut it.

    """

    item: Item
    whole: DTensor
    shape: tuple[int, ...]
    axis: int
    mesh_axis: int
    placements: tuple[Placement, ...]

    @cached_property
    def group(self) -> dist.ProcessGroup:
        """The processes that exchange its parts, in the order of the pieces."""
        return self.whole.device_mesh.get_group(self.mesh_axis)

    def bounds(self, rank: int) -> tuple[int, int]:
        """Return where the piece of a process begins and ends: all but the last have equal ones."""
        length = self.shape[self.axis]
        size = -(-length // self.group.size())
        return min(rank * size, length), min((rank + 1) * size, length)

    def piece(self, whole: Tensor, rank: int) -> Tensor:
        """Return the piece of a process of an array of `shape`, a view."""
        low, high = self.bounds(rank)
        return whole.narrow(self.axis, low, high - low)

    def count(self, rank: int) -> int:
        """Return how many elements that is."""
        low, high = self.bounds(rank)
        return (high - low) * self.elements // max(1, self.shape[self.axis])

    @property
    def elements(self) -> int:
        """Of the whole."""
        return int(torch.Size(self.shape).numel())

    def gathered(self, array: Tensor) -> Tensor:
        """Return this process's piece for the group of an array like the local tensors."""
        return self._moved(array, self.whole.placements, self.placements)

    def returned(self, piece: Tensor) -> Tensor:
        """Return from the piece for the group what goes with the local tensors."""
        return self._moved(piece, self.placements, self.whole.placements)

    def _moved(self, array: Tensor, before: Sequence[Placement], after: Sequence[Placement]) -> Tensor:
        if tuple(before) == tuple(after):
            return array
        p = self.whole
        spread = DTensor.from_local(
            array.contiguous(),
            p.device_mesh,
            before,
            run_check=False,
            shape=p.shape,
            stride=_strides(p.shape),
        )
        return local(spread.redistribute(p.device_mesh, after))


def placed(
    p: Tensor, g: Tensor, momentum: Tensor, view: MatrixView, row_square: Tensor | None = None
) -> Item | Part:
    """Return a parameter with all that its step needs: an `Item` where this process has whole matrices.

    Where NorMuon remembers rows, each process remembers all, and no stack is left where it is.
    """
    if not isinstance(p, DTensor):
        return Item(p, g, momentum, view, layout_of(view, tuple(p.shape)), row_square)
    mesh, placements = p.device_mesh, list(p.placements)
    sharing = [i for i, how in enumerate(placements) if mesh.size(i) > 1 and not how.is_replicate()]
    plain = all(type(placements[i]) is Shard for i in sharing)
    stays = [i for i in sharing if plain and row_square is None and _axis(placements[i]) in view.batch]
    cuts = [i for i in sharing if i not in stays]
    own = local(p)
    if not cuts:
        return Item(own, g, momentum, view, layout_of(view, tuple(own.shape)), row_square)
    kept = max(cuts, key=mesh.size)
    for i in cuts:
        placements[i] = Shard(_axis(placements[i])) if i == kept else Replicate()
    axis, shape = _axis(placements[kept]), list(p.shape)
    for i in stays:
        shape[_axis(placements[i])] = own.shape[_axis(placements[i])]
    item = Item(own, g, momentum, view, layout_of(view, tuple(shape)), row_square)
    return Part(item, p, tuple(shape), axis, kept, tuple(placements))


def _axis(how: Placement) -> int:
    """Return the axis that a placement cuts."""
    return int(how.dim)  # type: ignore[attr-defined]


def step_parts(
    rule: Muon,
    parts: Sequence[Part],
    *,
    t: Any,
    how: Write,
    dtype: torch.dtype | None,
    max_stack_bytes: int,
    engine: Engine | None = None,
) -> None:
    """Take one Muon step of every part, together with the processes that have the others.

    All of a group call it with the same parameters in the same order.
    """
    engine = engine or Engine()
    groups: dict[dist.ProcessGroup, list[Part]] = {}
    for part in parts:
        groups.setdefault(part.group, []).append(part)
    for group, shared in groups.items():
        for portion in within(shared, max_stack_bytes * group.size(), _stacked):
            with region("momentum"):
                rows = [_row(part.item) for part in portion]
                update_momenta(rule, rows, t, engine.ok)
            with region("exchange"):
                owners = owners_of(rule, [part.item.layout for part in portion], group.size(), dtype)
                pieces = [part.gathered(out) for part, (*_, out) in zip(portion, rows, strict=True)]
                exchange = _Exchange(portion, owners, group)
                own = exchange.to_owners(pieces)
            with region("orthogonalise"):
                items = [
                    Item(u, u, u, part.item.view, part.item.layout, part.item.row_square) for part, u in own
                ]
                made = directions_of(rule, items, dtype, max_stack_bytes, engine)
            with region("exchange"):
                back = exchange.to_all(made, pieces)
                steps = [part.returned(piece) for part, piece in zip(portion, back, strict=True)]
            with region("write"):
                taken = [(part.item.p, part.item.layout, d) for part, d in zip(portion, steps, strict=True)]
                written(rule, taken, how, engine.ok)


def _row(item: Item) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return what the momentum is updated with, and room for what is to be orthogonalised."""
    return (
        item.p,
        item.g,
        item.momentum,
        torch.empty_like(item.momentum, memory_format=torch.contiguous_format),
    )


def _stacked(part: Part) -> int:
    """Return the bytes that the whole takes, twice: in its stack, and on the way."""
    return 2 * part.elements * part.item.momentum.element_size()


def work_of(rule: Muon, layout: Layout, dtype: torch.dtype | None) -> float:
    """Return how many operations the iterations of a parameter's matrices take."""
    half = dtype in (torch.bfloat16, torch.float16)
    return sum(
        n * least_operations(*sorted(sides), rule.coefficients, rule.ns_steps, half)
        for n, *sides in layout.matrices
    )


def owners_of(rule: Muon, layouts: Sequence[Layout], processes: int, dtype: torch.dtype | None) -> list[int]:
    """Return the owner of each of some matrices: the costliest first, each goes to who has least to do."""
    work = [work_of(rule, layout, dtype) for layout in layouts]
    load = [0.0] * processes
    owners = [0] * len(layouts)
    for i in sorted(range(len(layouts)), key=lambda i: -work[i]):
        owners[i] = min(range(len(load)), key=load.__getitem__)
        load[owners[i]] += work[i]
    return owners


class _Exchange:
    """The two ways of a portion: pieces to the owners, and what they made back to all."""

    def __init__(self, portion: Sequence[Part], owners: Sequence[int], group: dist.ProcessGroup) -> None:
        self.portion, self.group = portion, group
        self.rank, self.size = group.rank(), group.size()
        self.of = [[i for i, owner in enumerate(owners) if owner == rank] for rank in range(self.size)]
        """The parts that each process owns, by their place in the portion."""

    def to_owners(self, pieces: Sequence[Tensor]) -> list[tuple[Part, Tensor]]:
        """Return the parts that this process owns, each with the whole that it makes of all pieces."""
        mine = [self.portion[i] for i in self.of[self.rank]]
        sent = [pieces[i].reshape(-1) for owned in self.of for i in owned]
        counts = [sum(self.portion[i].count(self.rank) for i in owned) for owned in self.of]
        expected = [[part.count(rank) for part in mine] for rank in range(self.size)]
        arrived = self._swapped(sent, counts, expected, pieces[0])
        wholes = [pieces[0].new_empty(part.shape) for part in mine]
        for rank, row in enumerate(arrived):
            for part, whole, flat in zip(mine, wholes, row, strict=True):
                place = part.piece(whole, rank)
                place.copy_(flat.view(place.shape))
        return list(zip(mine, wholes, strict=True))

    def to_all(self, made: Sequence[Tensor], pieces: Sequence[Tensor]) -> list[Tensor]:
        """Return this process's piece of what the owners made, and take over the rows that they remember."""
        mine = [self.portion[i] for i in self.of[self.rank]]
        sent, counts = [], []
        for rank in range(self.size):
            row = [part.piece(d, rank).reshape(-1) for part, d in zip(mine, made, strict=True)]
            row += [r for part in mine if (r := part.item.row_square) is not None]
            sent += [flat.to(pieces[0].dtype) for flat in row]
            counts.append(sum(flat.numel() for flat in row))
        expected = []
        for owned in self.of:
            rows = [r.numel() for i in owned if (r := self.portion[i].item.row_square) is not None]
            expected.append([self.portion[i].count(self.rank) for i in owned] + rows)
        arrived = self._swapped(sent, counts, expected, pieces[0])
        found: dict[int, Tensor] = {}
        for owned, row in zip(self.of, arrived, strict=True):
            for i, flat in zip(owned, row, strict=False):
                found[i] = flat.view(pieces[i].shape)
            remembering = [self.portion[i].item.row_square for i in owned]
            for square, flat in zip(
                (r for r in remembering if r is not None), row[len(owned) :], strict=True
            ):
                square.copy_(flat)
        return [found[i] for i in range(len(self.portion))]

    def _swapped(
        self, sent: Sequence[Tensor], counts: Sequence[int], expected: Sequence[Sequence[int]], like: Tensor
    ) -> list[list[Tensor]]:
        """Send so many elements to each process; return what came from each, cut as expected."""
        out = torch.cat(list(sent)) if sent else like.new_empty(0)
        into = like.new_empty(sum(map(sum, expected)))
        totals = [sum(row) for row in expected]
        dist.all_to_all_single(into, out, totals, list(counts), group=self.group)
        return [
            list(torch.split(one, list(row)))
            for one, row in zip(torch.split(into, totals), expected, strict=True)
        ]


def _strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the strides of a contiguous array."""
    return tuple(int(torch.Size(shape[i + 1 :]).numel()) for i in range(len(shape)))
