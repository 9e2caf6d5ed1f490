"""Contractions: the dimension numbers of `dot_general` and of a convolution say all there is to say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import Any

from downslope.grouping.facts import Kind
from downslope.grouping.jax.pointwise import absorb
from downslope.grouping.jax.record import Info, Record, Trace, shown, sides_of
from downslope.grouping.labels import Dim, Dims, axes_of, factors, foreign

Letters = tuple[Any, ...]


def dot_general(record: Record, eqn: Any, infos: Sequence[Info]) -> Info:
    """Return what a `dot_general` makes; enter the use if one side is a weight."""
    (x, y), ((cx, cy), (bx, by)) = (v.aval.shape for v in eqn.invars), eqn.params["dimension_numbers"]
    left: list[Any] = [("left", k) for k in range(len(x))]
    right: list[Any] = [("right", k) for k in range(len(y))]
    for i, j in (*zip(cx, cy, strict=True), *zip(bx, by, strict=True)):
        right[j] = left[i]
    free_x = [left[k] for k in range(len(x)) if k not in (*cx, *bx)]
    free_y = [right[k] for k in range(len(y)) if k not in (*cy, *by)]
    kept = (*(left[k] for k in bx), *free_x, *free_y)
    sizes = dict(zip(left, x, strict=True)) | dict(zip(right, y, strict=True))
    return product(record, infos[0], infos[1], tuple(left), tuple(right), kept, sizes)


def product(
    record: Record, ix: Info, iy: Info, lx: Letters, ly: Letters, kept: Letters, sizes: dict[Any, int]
) -> Info:
    """Return what the contraction of two values is."""
    if not ix.data and not iy.data and ix.weights and iy.weights:
        # A weight that was stretched along axes of its own stands for data: learned tokens, queries.
        if _stretched(ix) and not _stretched(iy):
            ix = as_data(record, ix)
        elif _stretched(iy) and not _stretched(ix):
            iy = as_data(record, iy)
    if _is_weight(iy) and ix.data:
        return weighted(record, ix, iy, ly, kept, lx, sizes)
    if _is_weight(ix) and iy.data:
        return weighted(record, iy, ix, lx, kept, ly, sizes)
    if ix.data or iy.data:
        record.note_routes([ix, iy])
        _note_heads(record, ix, lx, ly, kept)
        _note_heads(record, iy, ly, lx, kept)
        return record.merged([replace(ix, weights=()), replace(iy, weights=())])
    folded = [_folded(t, own, kept, sizes) for i, own in ((ix, lx), (iy, ly)) for t in i.weights]
    return record.merged([Info(weights=tuple(folded))])


def as_data(record: Record, info: Info) -> Info:
    """Turn weights into data that the model makes by itself."""
    whole = Info(data=True, depth=1)
    absorb(record, info, Kind.JOIN, "query", whole)
    return whole


def _is_weight(info: Info) -> bool:
    """Whether a value is weights: made from parameters alone, or matrices fetched from a stack."""
    return bool(info.weights) if not info.data else any(len(axes_of(t.dims)) > 1 for t in info.weights)


def _stretched(info: Info) -> bool:
    return any(f.axis is None and f.size > 1 for t in info.weights for dim in t.dims for f in dim)


def weighted(
    record: Record,
    data: Info,
    weight: Info,
    own: Letters,
    kept: Letters,
    other: Letters,
    sizes: dict[Any, int],
) -> Info:
    """Enter one use for every parameter in the weight; return what the result is."""
    record.feed(data)
    record.feed(replace(weight, weights=()))
    if weight.choices or data.choices:
        record.note_routes([weight, data])
    _note_stacks(record, data, other, own, kept)
    writers, results = set(), []
    for trace in weight.weights:
        axes = sides_of(trace, own, kept, other)
        if not axes["outputs"] and not axes["inputs"]:
            record.meet(trace, Kind.SCALING, "dot_general", data)
            continue
        number = record.meet(trace, Kind.CONTRACTION, "dot_general", data, **axes)
        writers.add(number)
        results.append(Trace(number, _placed(trace.dims, own, kept, sizes)))
    depth = max(data.depth, weight.depth) + 1
    if not writers:
        return Info(data=True, depth=depth, writers=record.open(data.writers), choices=data.choices)
    return Info(data=True, depth=depth, writers=record.open(writers), results=tuple(results))


def _note_stacks(record: Record, data: Info, own: Letters, other: Letters, kept: Letters) -> None:
    """Say that an axis of a result runs beside an axis of the next weight: it counts experts."""
    for trace in data.results:
        met = record.uses[trace.origin]
        for letter, dim in zip(own, trace.dims, strict=True):
            axes = axes_of((dim,))
            whole = len(dim) == 1 and len(axes) == 1 and shown(dim) == record.shapes[met.parameter][min(axes)]
            if letter in other and letter in kept and whole and axes < met.outputs:
                met.outputs, met.batch = met.outputs - axes, met.batch | axes


def convolution(record: Record, eqn: Any, infos: Sequence[Info]) -> Info:
    """Return what a `conv_general_dilated` makes, of any rank, layout and number of groups."""
    x, w = infos
    numbers, groups = eqn.params["dimension_numbers"], eqn.params["feature_group_count"]
    if not w.weights or w.data:
        if x.weights and not x.data and w.data:
            absorb(record, x, Kind.UNKNOWN, "convolution", w)
        record.feed(x)
        return record.merged([replace(x, weights=()), replace(w, weights=())])
    x = x if x.data or not x.weights else as_data(record, x)
    record.feed(x)
    out, writers, results = eqn.outvars[0].aval.shape, set(), []
    letters = tuple("o" if k == numbers.rhs_spec[0] else k for k in range(len(numbers.rhs_spec)))
    for trace in w.weights:
        axes = sides_of(trace, letters, ("o",), ())
        if not axes["outputs"] and not axes["inputs"]:
            record.meet(trace, Kind.SCALING, "convolution", x)
            continue
        number = record.meet(trace, Kind.CONVOLUTION, "convolution", x, **axes)
        record.uses[number].groups = groups
        writers.add(number)
        at = numbers.out_spec[1]
        own = trace.dims[numbers.rhs_spec[0]]
        results.append(Trace(number, tuple(own if k == at else foreign(n) for k, n in enumerate(out))))
    return Info(data=True, depth=x.depth + 1, writers=record.open(writers), results=tuple(results))


def _placed(dims: Dims, own: Letters, kept: Letters, sizes: dict[Any, int]) -> Dims:
    where: dict[Any, Dim] = dict(zip(own, dims, strict=True))
    return tuple(where[letter] if letter in where else foreign(sizes[letter]) for letter in kept)


def _folded(trace: Trace, own: Letters, kept: Letters, sizes: dict[Any, int]) -> Trace:
    gone = axes_of([d for letter, d in zip(own, trace.dims, strict=True) if letter not in kept])
    dims = _placed(trace.dims, own, kept, sizes)
    return replace(trace, dims=dims, inner=trace.inner | (gone - axes_of(dims)))


def _note_heads(record: Record, info: Info, own: Letters, other: Letters, kept: Letters) -> None:
    """Say how much of a result one head takes: what is left of its axis beside another's."""
    for trace in info.results:
        if not trace.linear or len(own) != len(trace.dims):
            continue
        beside = [d for letter, d in zip(own, trace.dims, strict=True) if letter in other and letter in kept]
        within = [
            d for letter, d in zip(own, trace.dims, strict=True) if not (letter in other and letter in kept)
        ]
        met = record.uses[trace.origin]
        if axes_of(beside) & met.outputs:
            size = prod(f.size for f in factors(within) if f.axis in met.outputs)
            met.head = size if size > 1 else met.head
