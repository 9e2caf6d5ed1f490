"""Where each matrix stands: which shapes share a stack, and which part of it is whose.

Matrices of one shape make one stack. Matrices of other shapes may join it, padded with zeros and
transposed where they lie the other way: neither changes a singular value. What that costs is products
with zeros, what it saves is launches: a stack takes some fifteen, whatever its size.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from torch import Tensor

from downslope.grouping.view import MatrixView

Shape = tuple[int, int]


class Layout(NamedTuple):
    """What a view makes of a shape.

    Attributes:
        matrices: (count, fan_out, fan_in) of each stack of equal matrices.
        in_order: whether the memory of a contiguous array is one stack of its matrices.

    """

    matrices: tuple[tuple[int, int, int], ...]
    in_order: bool


@lru_cache(maxsize=4096)
def layout_of(view: MatrixView, shape: tuple[int, ...]) -> Layout:
    """Return the layout; every step asks for it, and on small models the host is what is slow."""
    matrices = tuple(view.matrices(shape))
    in_order = (*view.batch, *view.outputs, *view.inputs) == tuple(range(len(shape)))
    one_stack = len(matrices) == 1 and view.blocks_along == "outputs" and view.repeats == 1
    return Layout(matrices, in_order and one_stack)


@dataclass(slots=True)
class Item:
    """One parameter with all that its step needs."""

    p: Tensor
    g: Tensor
    momentum: Tensor
    view: MatrixView
    layout: Layout
    row_square: Tensor | None = None

    @property
    def matrices(self) -> tuple[tuple[int, int, int], ...]:
        """(count, fan_out, fan_in) of each of its stacks."""
        return self.layout.matrices

    @property
    def in_place(self) -> bool:
        """Whether its memory, in order, is one stack of its matrices."""
        return self.layout.in_order and self.p.is_contiguous()


class Place(NamedTuple):
    """Some matrices of one shape, one after the other in a stack."""

    stack: Shape
    start: int
    many: int
    shape: Shape

    def of(self, stack: Tensor) -> Tensor:
        """Return these matrices of the stack (count, …, …), each (fan_out, fan_in); a view."""
        part = stack[self.start : self.start + self.many]
        if turned(self.shape, self.stack):
            part = part.mT
        return part[:, : self.shape[0], : self.shape[1]]


def turned(shape: Shape, stack: Shape) -> bool:
    """Whether matrices of this shape lie transposed in the stack."""
    return shape[0] != shape[1] and (shape[0] > shape[1]) != (stack[0] > stack[1])


def shared(
    counts: Mapping[Shape, int], work: Callable[[int, int], float], spare: float
) -> dict[Shape, Shape]:
    """Return the shape of the stack in which matrices of each shape stand.

    From the largest shape on, each joins the stack for which it wastes least, if that is less than
    `spare`, and else founds its own.

    Args:
        counts: how many matrices there are of each (fan_out, fan_in).
        work: multiply-adds of an (m, n) matrix, m <= n.
        spare: multiply-adds that a stack less is worth.

    >>> counts = {(64, 576): 3, (64, 512): 2, (576, 60): 1, (8, 8): 1}
    >>> shared(counts, lambda m, n: m * m * n, spare=1e6)
    {(64, 576): (64, 576), (64, 512): (64, 576), (576, 60): (64, 576), (8, 8): (8, 8)}

    """
    chosen: dict[Shape, Shape] = {}
    founders: list[Shape] = []
    for shape in sorted(counts, key=lambda shape: (work(min(shape), max(shape)), shape), reverse=True):
        m, n = sorted(shape)
        best, least = None, spare
        for founder in founders:
            M, N = sorted(founder)
            waste = counts[shape] * (work(M, N) - work(m, n))
            if m <= M and n <= N and waste <= least:
                best, least = founder, waste
        if best is None:
            founders.append(shape)
        chosen[shape] = best or shape
    return chosen


def lay(items: Sequence[Item], stacks: Mapping[Shape, Shape]) -> tuple[list[list[Place]], dict[Shape, int]]:
    """Return the places of each item's matrices, and how many matrices each stack has."""
    taken: Counter[Shape] = Counter()
    places = []
    for item in items:
        own = []
        for count, fan_out, fan_in in item.matrices:
            stack = stacks[fan_out, fan_in]
            own.append(Place(stack, taken[stack], count, (fan_out, fan_in)))
            taken[stack] += count
        places.append(own)
    return places, dict(taken)


def padded(places: Sequence[Sequence[Place]]) -> set[Shape]:
    """Return the stacks in which some matrices are smaller than their place."""
    return {p.stack for own in places for p in own if sorted(p.shape) != sorted(p.stack)}
