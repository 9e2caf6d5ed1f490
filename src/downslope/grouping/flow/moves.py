"""Rearrangements: parts, slices and single positions of a value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from downslope.grouping.flow.info import Info
from downslope.grouping.flow.uses import Uses
from downslope.grouping.labels import Dims, axes_of, cut, shifted


def parts(uses: Uses, info: Info, at: int, sizes: Sequence[int]) -> list[Info]:
    """Return the parts that a value is split into along an axis."""
    low, found = 0, []
    for size in sizes:
        if len(sizes) > 1:
            uses.note_cut(info, at, low, low + size)
        one = size == 1 and len(sizes) > 1
        found.append(taken(info, at, low) if one else _sliced(info, at, low, low + size, 1))
        low += size
    return found


def sliced(
    uses: Uses,
    info: Info,
    own: Sequence[int],
    starts: Sequence[int],
    stops: Sequence[int],
    steps: Sequence[int] | None = None,
) -> Info:
    """Return a slice of a value of shape `own`, with a start, a stop and a step for each axis."""
    ranges = zip(own, starts, stops, steps or (1,) * len(own), strict=True)
    for k, (n, low, high, step) in enumerate(ranges):
        if (low, high, step) != (0, n, 1):
            uses.note_cut(info, k, low, high, step)
            info = taken(info, k, low) if high - low == 1 else _sliced(info, k, low, high, step)
    return info


def _sliced(info: Info, at: int, low: int, high: int, step: int) -> Info:
    return info.moved(lambda dims: (*dims[:at], cut(dims[at], low, high, step), *dims[at + 1 :]))


def taken(info: Info, at: int, low: int) -> Info:
    """Return what is left of a value where one position of an axis was taken, the axis kept."""

    def move(dims: Dims) -> Dims:
        rest = shifted((*dims[:at], *dims[at + 1 :]), cut(dims[at], low, low + 1))
        return (*rest[:at], (), *rest[at:])

    weights = []
    for t in info.weights:
        dims = move(t.dims)
        lost = axes_of(t.dims[at : at + 1]) - axes_of(dims)
        weights.append(replace(t, dims=dims, stacked=t.stacked | lost))
    return replace(info.moved(move), weights=tuple(weights))
