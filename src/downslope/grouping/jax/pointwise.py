"""Operations element by element, joins, lookups, reductions, rankings, and everything else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from downslope.grouping.facts import Kind
from downslope.grouping.jax.record import CONSTANT, Info, Record, Trace
from downslope.grouping.labels import Dim, Dims, axes_of, blurred, broadcast, factors, foreign, size_of

Shape = tuple[int, ...]

LINEAR = {"add", "add_any", "sub", "mul", "div", "neg", "select_n", "copy", "convert_element_type", "psum"}
"""Operations after which a result is still a sum or a multiple of itself."""

SCALE = {"mul", "div", "pow"}
ADD = {
    "add",
    "add_any",
    "sub",
    "max",
    "min",
    "select_n",
    "clamp",
    "rem",
    "atan2",
    "nextafter",
    "and",
    "or",
    "xor",
}
COMPARE = {"eq", "ne", "lt", "le", "gt", "ge"}
"""Operations of several values of one shape."""


def absorb(record: Record, weight: Info, kind: Kind, operation: str, data: Info) -> None:
    """Enter the uses of parameters that meet data element by element, or beside it."""
    for trace in () if weight.data else weight.weights:
        if trace.inner:
            outputs = axes_of(trace.dims) - trace.inner
            if outputs:
                record.meet(trace, Kind.CONTRACTION, operation, CONSTANT, outputs=outputs, inputs=trace.inner)
            continue
        met = Kind.LOOKUP if trace.fetched else kind
        record.meet(trace, met, operation, data, outputs=axes_of(trace.dims), batch=trace.stacked)


def elementwise(record: Record, eqn: Any, infos: Sequence[Info]) -> Info:
    """Return what a value is that was made position by position."""
    name, shape = eqn.primitive.name, eqn.outvars[0].aval.shape
    parts = [(_fitted(i, v.aval.shape, shape), v.aval.shape) for i, v in zip(infos, eqn.invars, strict=True)]
    infos = [info for info, _ in parts]
    if any(i.choices for i in infos):
        record.note_routes(infos)
    if not any(i.data for i in infos):
        return record.merged(infos)
    kind = Kind.SCALING if name in SCALE else Kind.ADDITION
    whole = record.merged(infos)
    for info in infos:
        absorb(record, _as_bias(info, infos) if kind is Kind.ADDITION else info, kind, name, whole)
    if name in ADD:
        record.note_join(infos)
    linear = name in LINEAR
    results = [
        replace(t, linear=t.linear and linear) for k in range(len(parts)) for t in _kept(parts, k, kind)
    ]
    return record.merged(infos, _distinct(results))


def _as_bias(info: Info, infos: Sequence[Info]) -> Info:
    """Return weights that are added along the outputs of one use as a bias, its heads stacked.

    A bias of shape (heads, size) is a vector; a table of positions lies along an axis of the data.
    """
    if info.data:
        return info
    traces = []
    for t in info.weights:
        spread = [k for k, dim in enumerate(t.dims) if axes_of((dim,))]
        for result in (r for i in infos for r in i.results):
            if len(spread) > 1 and all(axes_of((result.dims[k],)) for k in spread):
                stacked = axes_of([t.dims[k] for k in spread[:-1]])
                t = replace(t, dims=tuple(() if k in spread[:-1] else d for k, d in enumerate(t.dims)))
                t = replace(t, stacked=t.stacked | stacked)
                break
        traces.append(t)
    return replace(info, weights=tuple(traces))


def _kept(parts: Sequence[tuple[Info, Shape]], k: int, kind: Kind) -> Sequence[Trace]:
    """Return the results that go on: a product with other data is linear only along other axes."""
    kept = []
    for trace in parts[k][0].results:
        others = [s for j, (i, s) in enumerate(parts) if j != k and i.data and i.depth > 0]
        crossed = kind is Kind.SCALING and any(
            any(n != 1 and axes_of((d,)) for d, n in zip(trace.dims, s, strict=False)) for s in others
        )
        kept.append(replace(trace, linear=trace.linear and not crossed))
    return kept


def _distinct(traces: Sequence[Trace]) -> list[Trace]:
    found: dict[tuple[int, frozenset[tuple[int, int]]], Trace] = {}
    for t in traces:
        found.setdefault((t.origin, frozenset((f.axis or 0, f.start) for f in factors(t.dims))), t)
    return list(found.values())


def _fitted(info: Info, own: Shape, shape: Shape) -> Info:
    return info if own == shape else info.moved(lambda dims: broadcast(dims, own, shape))


def _refitted(info: Info, shape: Shape) -> Info:
    return info.moved(lambda dims: dims if tuple(map(size_of, dims)) == shape else blurred(dims, shape))


def join(record: Record, eqn: Any, infos: Sequence[Info]) -> Info:
    """Return what values become that are put side by side, or written into another."""
    shape, at = eqn.outvars[0].aval.shape, eqn.params.get("dimension")

    def beside(dims: Dims) -> Dims:
        if at is None or len(dims) != len(shape):
            return dims if tuple(map(size_of, dims)) == shape else blurred(dims, shape)
        own = dims[at] if size_of(dims[at]) == shape[at] else _stretched(dims[at], shape[at])
        return (*dims[:at], own, *dims[at + 1 :])

    if any(i.choices for i in infos):
        record.note_routes(infos)
    whole = record.merged(infos)
    if not whole.data:
        return whole.moved(beside)
    for info in infos:
        absorb(record, info, Kind.JOIN, eqn.primitive.name, whole)
    record.note_join(infos)
    results = [replace(t, dims=beside(t.dims)) for i in infos for t in i.results]
    own = any(i.weights and not i.data for i in infos)
    info = record.merged(infos, _distinct(results))
    return replace(info, depth=max(info.depth, 1)) if own else info


def _stretched(dim: Dim, size: int) -> Dim:
    return blurred((dim,), (size,))[0]


def gather(record: Record, eqn: Any, infos: Sequence[Info]) -> Info:
    """Return what an index picks from a table, from a stack of matrices, or from data."""
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    shape = eqn.outvars[0].aval.shape
    gone = (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)
    own = [k for k in range(len(sizes)) if k not in gone]
    full = eqn.invars[0].aval.shape

    def move(dims: Dims) -> Dims:
        new = [foreign(n) for n in shape]
        for at, k in zip(numbers.offset_dims, own, strict=True):
            new[at] = dims[k] if sizes[k] == full[k] else _stretched(dims[k], sizes[k])
        return tuple(new)

    return _picked(
        record, infos, move, sorted({*numbers.start_index_map, *numbers.operand_batching_dims}), gone
    )


def dynamic_slice(record: Record, eqn: Any, infos: Sequence[Info]) -> Info:
    """Return what is at a place that is known only when the function runs."""
    sizes, full = eqn.params["slice_sizes"], eqn.invars[0].aval.shape
    picked = [k for k, n in enumerate(sizes) if n != full[k]]

    def move(dims: Dims) -> Dims:
        return tuple(
            _stretched(d, n) if k in picked else d for k, (d, n) in enumerate(zip(dims, sizes, strict=True))
        )

    return _picked(record, infos, move, picked, [k for k in picked if sizes[k] == 1])


def _picked(
    record: Record, infos: Sequence[Info], move: Any, picked: Sequence[int], gone: Sequence[int]
) -> Info:
    table, *others = infos
    whole = record.merged(infos)
    if any(i.choices for i in others) and (
        table.data or any(len(axes_of(t.dims)) > 2 for t in table.weights)
    ):
        record.note_routes(infos)
    if not table.weights or table.data:
        return replace(
            record.merged(infos, [replace(t, dims=move(t.dims)) for t in table.results]), weights=()
        )
    traces = [
        replace(t, dims=move(t.dims), stacked=t.stacked | axes_of([t.dims[k] for k in gone]))
        for t in table.weights
    ]
    if not any(i.data for i in others):
        return Info(weights=tuple(traces), choices=whole.choices)
    matrices = []
    for old, new in zip(table.weights, traces, strict=True):
        fetched = axes_of([old.dims[k] for k in picked])
        if len(axes_of(new.dims)) > 1:
            matrices.append(replace(new, fetched=old.fetched | fetched, stacked=old.stacked))
        else:
            record.meet(
                old, Kind.LOOKUP, "gather", whole, inputs=fetched, outputs=axes_of(new.dims) - fetched
            )
    return Info(weights=tuple(matrices), data=True, depth=max(whole.depth, 1), choices=whole.choices)


def reduce(record: Record, eqn: Any, infos: Sequence[Info]) -> Info:
    """Return what is left of a value after axes were summed (or otherwise reduced) away."""
    gone = {int(k) for k in eqn.params["axes"]}
    info = record.merged(infos, [t for i in infos for t in i.results])
    summed = eqn.primitive.name == "reduce_sum"

    def move(dims: Dims) -> Dims:
        return tuple(d for k, d in enumerate(dims) if k not in gone)

    weights = tuple(
        replace(
            t,
            dims=move(t.dims),
            inner=t.inner | (axes_of([t.dims[k] for k in gone]) if summed else frozenset()),
        )
        for t in info.weights
    )
    whole = [t for t in info.results if not axes_of([t.dims[k] for k in gone])]
    results = tuple(replace(t, dims=move(t.dims), linear=t.linear and summed) for t in whole)
    return replace(info, weights=weights, results=results)


def rank(record: Record, eqn: Any, infos: Sequence[Info]) -> list[Info]:
    """Return what the values and the places of a ranking are."""
    name, info = eqn.primitive.name, infos[0]
    at = eqn.params.get("dimension", eqn.params.get("axes", (-1,))[0] if "axes" in eqn.params else -1)
    ranked = frozenset(t.origin for t in info.results if t.dims and axes_of((t.dims[at],)))
    places = replace(
        record.merged(infos), weights=(), choices=record.merged(infos).choices | ranked, writers=frozenset()
    )
    if name in ("argmax", "argmin"):
        return [places]
    return [record.merged([info]) if k == 0 else places for k in range(len(eqn.outvars))]


def anything(record: Record, eqn: Any, infos: Sequence[Info]) -> list[Info]:
    """Return what an operation makes of which no more is known than what goes in."""
    whole = record.merged(infos)
    if not whole.data:
        return [_refitted(whole, getattr(v.aval, "shape", ())) for v in eqn.outvars]
    if len(eqn.invars) > 1:
        for info in infos:
            absorb(record, info, Kind.UNKNOWN, eqn.primitive.name, whole)
    same = len(infos) == 1 and all(v.aval.shape == eqn.invars[0].aval.shape for v in eqn.outvars)
    results = [replace(t, linear=False) for t in infos[0].results] if same else []
    linear = eqn.primitive.name in LINEAR and same
    return [record.merged(infos, infos[0].results if linear else results) for _ in eqn.outvars]
