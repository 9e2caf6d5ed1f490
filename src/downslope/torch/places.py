"""Where each matrix stands: which shapes share a stack, and which part of it is whose.

Matrices of one shape make one stack. Matrices of other shapes may join it, padded with zeros and
transposed where they lie the other way: neither changes a singular value. What that costs is products
with zeros, what it saves is launches: a stack takes some fifteen, whatever its size.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import groupby
from math import prod
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from downslope.grouping.view import MatrixView

Shape = tuple[int, int]
T = TypeVar("T")


class Lying(NamedTuple):
    """How equal matrices, or their transposes, lie in the memory of a contiguous array, by rows.

    Attributes:
        shape: of each as it lies.
        stride: numbers from one row to the next.
        starts: where each begins, in numbers.

    """

    shape: Shape
    stride: int
    starts: tuple[int, ...]


class Layout(NamedTuple):
    """What a view makes of a shape.

    Attributes:
        matrices: (count, fan_out, fan_in) of each stack of equal matrices.
        in_order: whether the memory of a contiguous array is one stack of its matrices.
        lying: how they lie there, where all are equal and their rows or their columns are in one piece.

    """

    matrices: tuple[tuple[int, int, int], ...]
    in_order: bool
    lying: Lying | None


@lru_cache(maxsize=4096)
def layout_of(view: MatrixView, shape: tuple[int, ...]) -> Layout:
    """Return the layout; every step asks for it, and on small models the host is what is slow."""
    matrices = tuple(view.matrices(shape))
    one_stack = len(matrices) == 1 and view.blocks_along == "outputs" and view.repeats == 1
    return Layout(matrices, view.in_order and one_stack, _lying(view.as_laid_out(), shape))


def _lying(view: MatrixView, shape: tuple[int, ...]) -> Lying | None:
    """Return how the matrices of a view that is as memory lies do so; None where it cannot be said."""
    (count, rows, columns), *others = view.matrices(shape)
    if others or not view.in_order or view.repeats != 1 or 0 in shape:
        return None
    side_by_side = len(view.blocks) or 1 if view.blocks_along == "inputs" else 1
    stride, beside = side_by_side * columns, range(0, side_by_side * columns, columns)
    below = range(0, count * rows * columns, rows * stride)
    return Lying((rows, columns), stride, tuple(low + left for low in below for left in beside))


@dataclass(slots=True)
class Item:
    """One parameter with all that its step needs."""

    p: Tensor
    g: Tensor
    momentum: Tensor
    view: MatrixView
    layout: Layout
    row_square: Tensor | None = None
    whole: Layout | None = None

    @property
    def leading(self) -> Layout:
        """The layout whose first matrices say the scale of all: of the whole that this was cut from."""
        return self.whole or self.layout

    @property
    def matrices(self) -> tuple[tuple[int, int, int], ...]:
        """(count, fan_out, fan_in) of each of its stacks."""
        return self.layout.matrices

    @property
    def in_place(self) -> bool:
        """Whether its memory, in order, is one stack of its matrices."""
        return self.layout.in_order and self.p.is_contiguous()


def cut(item: Item, max_stack_bytes: int) -> list[Item]:
    """Return an item as several that each fit the budget, where it has several matrices; one is the least.

    What is gathered of an element is there twice: in the stack, and on the way. Rows that are remembered
    are cut along, which keeps to their order: first by shapes, then by the batch, then by blocks.
    """
    elements = max_stack_bytes // (2 * item.momentum.element_size())
    if item.p.numel() <= elements:
        return [item]
    batch = next((axis for axis in item.view.batch if item.p.shape[axis] > 1), None)
    rows_part = item.row_square is not None and len(item.matrices) > 1
    if batch is None or rows_part:
        parts = _blocks_of(item, item.p.numel() if batch is not None else elements)
    else:
        count = item.p.shape[batch]
        many = max(1, elements * count // item.p.numel())
        parts = [_slice(item, item.view, batch, i, min(many, count - i)) for i in range(0, count, many)]
    if len(parts) < 2:
        return [item]
    _share_rows(item, parts)
    return [part for one in parts for part in cut(one, max_stack_bytes)]


def _blocks_of(item: Item, elements: int) -> list[Item]:
    """Return runs of equal blocks, of at most so many elements each if they have more than one."""
    view, outputs = item.view, item.view.blocks_along == "outputs"
    axes = view.outputs if outputs else view.inputs
    inner = prod(item.p.shape[a] for a in axes[1:])  # of blocks along several axes the first is cut
    if len(view.blocks) < 2 or any(b % inner for b in view.blocks) or (view.repeats > 1 and len(axes) > 1):
        return [item]
    if view.repeats > 1:
        item, axes = _repeats_apart(item, axes[0]), (axes[0], axes[0] + 1)
    axis = axes[-1] if view.repeats > 1 else axes[0]
    each = item.p.numel() // sum(view.blocks)
    parts, low = [], 0
    for size, run in groupby(view.blocks):
        left = len(list(run))
        while left:
            many = min(left, max(1, elements // (size * each)))
            repeats, blocks = (view.repeats, (size,) * many) if many > 1 else (1, ())
            own = replace(item.view, blocks=blocks, repeats=repeats)
            parts.append(_slice(item, own, axis, low, many * size // inner))
            low, left = low + many * size // inner, left - many
    return parts


def _repeats_apart(item: Item, axis: int) -> Item:
    """Return an item with the repeats of its blocks along an axis of their own, before the blocks."""
    r = item.view.repeats

    def moved(axes: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(b for a in axes for b in ((a, a + 1) if a == axis else (a + (a > axis),)))

    p, g, m = (_unflattened(t, axis, r) for t in (item.p, item.g, item.momentum))
    old = item.view
    view = replace(old, outputs=moved(old.outputs), inputs=moved(old.inputs), batch=moved(old.batch))
    return Item(p, g, m, view, item.layout, item.row_square, item.whole)


def _unflattened(t: Tensor, axis: int, r: int) -> Tensor:
    """Return a view with an axis cut into two, of which the first has r."""
    return t.view(*t.shape[:axis], r, -1, *t.shape[axis + 1 :])


def _slice(item: Item, view: MatrixView, axis: int, low: int, many: int) -> Item:
    """Return what an item has of a piece of an axis, but for its rows."""
    p, g, m = (t.narrow(axis, low, many) for t in (item.p, item.g, item.momentum))
    return Item(p, g, m, view, layout_of(view, tuple(p.shape)), whole=item.leading)


def _share_rows(item: Item, parts: Sequence[Item]) -> None:
    """Give parts that follow one another their rows of what the item remembers."""
    if item.row_square is None:
        return
    counts = [sum(count * fan_out for count, fan_out, _ in part.matrices) for part in parts]
    for part, rows in zip(parts, torch.split(item.row_square, counts), strict=True):
        part.row_square = rows


def within(things: Sequence[T], most: int, size_of: Callable[[T], int]) -> Iterator[list[T]]:
    """Cut a sequence into runs of so many bytes together; one thing is the least."""
    run: list[T] = []
    taken = 0
    for thing in things:
        need = size_of(thing)
        if run and taken + need > most:
            yield run
            run, taken = [], 0
        run.append(thing)
        taken += need
    if run:
        yield run


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
    counts: Mapping[Shape, int], work: Callable[[int, int], float], spare: float, turn: float = 0.0
) -> dict[Shape, Shape]:
    """Return the shape of the stack in which matrices of each shape stand.

    From the largest shape on, each joins the stack for which it wastes least, if that is less than
    `spare`, and else founds its own.

    Args:
        counts: how many matrices there are of each (fan_out, fan_in).
        work: multiply-adds of an (m, n) matrix, m <= n.
        spare: multiply-adds that a stack less is worth.
        turn: multiply-adds that an element costs which lies transposed in its stack.

    >>> counts = {(64, 576): 3, (64, 512): 2, (576, 60): 1, (8, 8): 1}
    >>> shared(counts, lambda m, n: m * m * n, spare=1e6)
    {(64, 576): (64, 576), (64, 512): (64, 576), (576, 60): (64, 576), (8, 8): (8, 8)}
    >>> shared(counts, lambda m, n: m * m * n, spare=1e6, turn=1e3)[576, 60]
    (576, 60)

    """
    chosen: dict[Shape, Shape] = {}
    founders: list[Shape] = []
    for shape in sorted(counts, key=lambda shape: (work(min(shape), max(shape)), shape), reverse=True):
        m, n = sorted(shape)
        best, least = None, spare
        for founder in founders:
            M, N = sorted(founder)
            across = turn * m * n if turned(shape, founder) else 0.0
            waste = counts[shape] * (work(M, N) - work(m, n) + across)
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
