"""From the parts that a result was cut into to the projections that a weight fuses.

A cut counts if the parts cover the outputs and do not overlap, once or in a pattern that repeats
(by head). It does not count where the parts were added to each other or put back side by side (the
halves of a rotary embedding), where a larger part is contracted as it is, or where it only peels
single rows off a part.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod

from downslope.grouping.facts import Use
from downslope.grouping.flow.info import Cut, Met
from downslope.grouping.policy import NARROW


def use_of(met: Met, shape: tuple[int, ...]) -> Use:
    """Return a use as the policy reads it."""
    blocks, repeats = blocks_of(met, shape)
    return Use(
        met.kind,
        tuple(sorted(met.outputs)),
        tuple(sorted(met.inputs)),
        tuple(sorted(met.batch)),
        blocks=blocks,
        repeats=repeats,
        groups=met.groups,
        along=met.along,
        parts=parts_of(met, shape),
        head=met.head,
        depth=met.depth,
        deepest=met.deepest,
        data=met.data,
        last=met.last,
        feeds=met.feeds,
        routes=met.routes,
        picked=met.picked,
        operation=met.operation,
    )


def blocks_of(met: Met, shape: tuple[int, ...]) -> tuple[tuple[int, ...], int]:
    """Return the parts that a result was cut into, and how often their pattern repeats."""
    if not met.outputs or met.groups > 1:
        return (), 1
    if met.gates > 1:
        (axis,) = met.outputs
        return (shape[axis] // met.gates,) * met.gates, 1
    for axis in sorted(met.outputs):
        blocks, repeats = _blocks_along(axis, met, shape[axis])
        if blocks:  # the outputs are flattened in the order of their axes
            before = prod(shape[a] for a in met.outputs if a < axis)
            after = prod(shape[a] for a in met.outputs if a > axis)
            return tuple(b * after for b in blocks), repeats * before
    return (), 1


def _blocks_along(axis: int, met: Met, size: int) -> tuple[tuple[int, ...], int]:
    if (axis, 0, size) in met.whole:
        return (), 1
    cuts = [c for c in met.cuts if c.axis == axis and not (c.period == 0 and _inside(c, met))]
    for period in sorted({c.period for c in cuts}, key=lambda p: (p != 0, -p)):
        edges = _projections(cuts, period, met, axis, 0, period or size)
        if len(edges) > 2 and size % (period or size) == 0:
            return tuple(b - a for a, b in pairwise(edges)), size // (period or size)
    return (), 1


def parts_of(met: Met, shape: tuple[int, ...]) -> tuple[tuple[int, int, int], ...]:
    """Return (axis, low, high) of each range of the outputs that was used, or cut, by itself.

    A packed weight may be used in two parts, queries and the rest, and the rest be cut in two.
    """
    found: list[tuple[int, int, int]] = []
    for axis, low, high in sorted(met.ranges):
        cuts = [c for c in met.cuts if c.axis == axis and c.period == 0 and not _inside(c, met)]
        partial = (low, high) != (0, shape[axis]) and (axis, low, high) not in met.whole
        edges = _projections(cuts, 0, met, axis, low, high) if partial else []
        found += [(axis, a, b) for a, b in pairwise(edges or [low, high])]
    return tuple(found)


def _projections(cuts: Sequence[Cut], period: int, met: Met, axis: int, low: int, high: int) -> list[int]:
    """Return where the projections within [low, high) begin and end."""
    edges = _edges([c for c in cuts if c.period == period], low, high)
    return _without_slivers(_without_joined(edges, met, axis, high - low, high), cuts)


def _inside(cut: Cut, met: Met) -> bool:
    """Whether a part lies in a larger one that is contracted as it is."""
    return any(
        low <= cut.low and cut.high <= high and cut.high - cut.low < high - low
        for axis, low, high in met.whole
        if axis == cut.axis
    )


def _edges(cuts: list[Cut], low: int, high: int) -> list[int]:
    """Return where the parts begin and end if they cover everything and do not overlap."""
    parts = sorted({(c.low, c.high) for c in cuts})
    edges = sorted({e for part in parts for e in part})
    covered = sum(b - a for a, b in pairwise(edges) if any(lo <= a and b <= hi for lo, hi in parts))
    return edges if edges and (edges[0], edges[-1], covered) == (low, high, high - low) else []


def _without_joined(edges: list[int], met: Met, axis: int, whole: int, end: int) -> list[int]:
    """Drop the edges between parts that were added to each other or put back side by side."""
    for where, first, second in met.joined:
        # Places are counted from the start of the axis; in a pattern, from the start of a repeat.
        low, high = sorted((first, second) if end != whole else (first % whole, second % whole))
        if where == axis:
            edges = [e for e in edges if not low < e <= high or e == end]
    return edges


def _without_slivers(edges: list[int], cuts: Sequence[Cut]) -> list[int]:
    """Put parts narrower than a matrix should be back into the part that they were cut from."""
    for c in cuts:
        within = [e for e in edges if c.low <= e <= c.high]
        if len(within) > 2 and min(b - a for a, b in pairwise(within)) < NARROW:
            edges = [e for e in edges if not c.low < e < c.high]
    return edges
