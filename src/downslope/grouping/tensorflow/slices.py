"""`StridedSlice`, which is what TensorFlow makes of `x[..., 1:3, None, 0]`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from downslope.grouping.flow import moves
from downslope.grouping.flow.gather import picked
from downslope.grouping.flow.info import Info
from downslope.grouping.flow.uses import Uses
from downslope.grouping.labels import Dim, Dims, blurred, foreign, size_of


def shape_of(tensor: Any) -> tuple[int, ...]:
    """Return a static shape; an unknown size is 1, an unknown rank none at all."""
    rank = tensor.shape.rank
    return () if rank is None else tuple(1 if n is None else int(n) for n in tensor.shape)


def static(tensor: Any) -> Any:
    """Return the value of a tensor that the graph says, None where it is known only when it runs."""
    return tf.get_static_value(tensor)


@dataclass(frozen=True)
class Range:
    """What is taken of one axis; `single` drops the axis."""

    low: int
    high: int
    step: int = 1
    single: bool = False


def strided_slice(uses: Uses, op: Any, infos: list[Info]) -> list[Info]:
    """Return a slice by ranges, single positions, new axes and an ellipsis."""
    own, out = shape_of(op.inputs[0]), shape_of(op.outputs[0])
    bounds = [static(t) for t in op.inputs[1:4]]
    if any(b is None for b in bounds):
        return [_at_run_time(uses, op, infos, own, out)]
    ranges = _ranges(op, [[int(n) for n in b] for b in bounds], own)
    taken = [r for r in ranges if r is not None]
    if any(r.step < 0 for r in taken):
        return [infos[0].moved(lambda dims: blurred(dims, out))]
    lows, highs, steps = ([getattr(r, k) for r in taken] for k in ("low", "high", "step"))
    info = moves.sliced(uses, infos[0], own, lows, highs, steps)

    def arrange(dims: Dims) -> Dims:
        left = iter(dims)
        new: list[Dim] = []
        for r in ranges:
            dim = () if r is None else next(left)
            if r is None or not r.single:
                new.append(dim)
        return tuple(new) if tuple(map(size_of, new)) == out else blurred(dims, out)

    return [info.moved(arrange)]


def _ranges(op: Any, bounds: Sequence[Sequence[int]], own: Sequence[int]) -> list[Range | None]:
    """Return what is taken of each axis in turn, None for an axis that is new."""
    mask = {k: op.get_attr(f"{k}_mask") for k in ("begin", "end", "ellipsis", "new_axis", "shrink_axis")}

    def marked(kind: str, j: int) -> bool:
        return bool(mask[kind] >> j & 1)

    begin, end, stride = bounds
    found: list[Range | None] = []
    axis = 0
    for j, (first, last, step) in enumerate(zip(begin, end, stride, strict=True)):
        if marked("ellipsis", j):
            rest = sum(not marked("new_axis", i) for i in range(j + 1, len(begin)))
            found += [Range(0, n) for n in own[axis : len(own) - rest]]
            axis = len(own) - rest
        elif marked("new_axis", j):
            found.append(None)
        elif marked("shrink_axis", j):
            low = first % own[axis]
            found.append(Range(low, low + 1, single=True))
            axis += 1
        else:
            part = slice(None if marked("begin", j) else first, None if marked("end", j) else last, step)
            found.append(Range(*part.indices(own[axis])))
            axis += 1
    return [*found, *(Range(0, n) for n in own[axis:])]


def _at_run_time(uses: Uses, op: Any, infos: list[Info], own: Sequence[int], out: tuple[int, ...]) -> Info:
    """Return what is at a place that is known only when the graph runs."""
    length = shape_of(op.inputs[1])[0]
    gone = [k for k in range(length) if op.get_attr("shrink_axis_mask") >> k & 1]
    kept = [k for k in range(len(own)) if k not in gone]
    if op.get_attr("ellipsis_mask") or op.get_attr("new_axis_mask") or len(out) != len(kept):
        return infos[0].moved(lambda dims: blurred(dims, out))
    axes = [*gone, *(k for k, n in zip(kept, out, strict=True) if own[k] != n)]

    def move(dims: Dims) -> Dims:
        return tuple(foreign(n) if k in axes else dims[k] for k, n in zip(kept, out, strict=True))

    return picked(uses, infos, move, axes, gone, index=False)
