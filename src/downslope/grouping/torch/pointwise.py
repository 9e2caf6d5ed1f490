"""Operations element by element: additions and scalings, joins, lookups, and everything else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations
from math import prod
from typing import Any

import torch

from downslope.grouping.facts import Kind
from downslope.grouping.labels import (
    MEMBERS,
    Dim,
    Dims,
    Factor,
    axes_of,
    blurred,
    broadcast,
    factors,
    foreign,
    size_of,
)
from downslope.grouping.torch.info import CONSTANT, MOST_RESULTS, RAW, Info, Trace
from downslope.grouping.torch.names import MIXING, SCALE, SHIFTING
from downslope.grouping.torch.record import Record

Shape = tuple[int, ...]


def absorb(
    record: Record, weight: Info, kind: Kind, operation: str, data: Info, linear: bool = True
) -> tuple[Trace, ...]:
    """Enter the uses of parameters that meet data element by element, or beside it; return their traces."""
    products = []
    for trace in () if weight.data else weight.weights:
        if trace.inner:
            outputs = axes_of(trace.dims) - trace.inner
            record.meet(trace, Kind.CONTRACTION, operation, CONSTANT, outputs=outputs, inputs=trace.inner)
            continue
        met = kind if not trace.fetched else Kind.LOOKUP
        number = record.meet(trace, met, operation, data, outputs=axes_of(trace.dims))
        if met is Kind.SCALING and len(axes_of(trace.dims)) > 1:
            products.append(replace(trace, origin=number, linear=False))
    return tuple(products)


def combine(
    record: Record, kind: Kind, operation: str, parts: Sequence[tuple[Info, Shape]], out: torch.Tensor
) -> Info:
    """Return what an elementwise result of these is."""
    shape = tuple(out.shape)
    infos = [info for info, _ in parts]
    if not any(i.data for i in infos):
        return record.merged([_fitted(i, own, shape) for i, own in parts])
    whole = record.merged(infos)
    products: tuple[Trace, ...] = ()
    for info, own in parts:
        if not info.data and info.weights:
            products += absorb(record, _fitted(info, own, shape), kind, operation, whole)
    if kind is Kind.ADDITION:
        record.note_join(infos)
    else:
        for (x, own), (y, other) in permutations(parts, 2):
            shared = min(len(own), len(other))
            note_mixture(record, x, y, [(len(own) - k, len(other) - k) for k in range(1, shared + 1)])
    deep = [i for i in infos if i.data and i.depth]
    if kind is Kind.ADDITION and len(deep) > 1 and not all(map(record.fresh, deep)):
        return record.merged(infos, products)  # a residual stream: no single projection to be cut
    results = [t for k in range(len(parts)) for t in _kept(parts, k, kind, shape)]
    return record.merged(infos, (*_distinct(results), *products))


def _kept(parts: Sequence[tuple[Info, Shape]], k: int, kind: Kind, shape: Shape) -> list[Trace]:
    """Return the results that go on through an elementwise operation.

    A sum of results is linear in each. A product is linear in one factor as long as the other
    comes from no weight, or is stretched along the outputs: a norm's scale, a rotary table.
    """
    info, own = parts[k]
    kept = []
    for trace in info.results:
        dims = _fit(trace.dims, own, shape)
        linear = trace.linear
        for j, (other, size) in enumerate(parts):
            if kind is Kind.SCALING and j != k and other.data and other.depth > 0:
                padded = (1,) * (len(shape) - len(size)) + size
                if any(n != 1 and axes_of((d,)) for d, n in zip(dims, padded, strict=True)):
                    break
        else:
            kept.append(replace(trace, dims=dims, linear=linear))
    return kept


def _distinct(traces: Sequence[Trace]) -> list[Trace]:
    """Keep one trace for each use: the part that begins first."""
    found: dict[int, Trace] = {}
    for t in traces:
        if t.origin not in found or _start(t) < _start(found[t.origin]):
            found[t.origin] = t
    return list(found.values())


def _start(t: Trace) -> int:
    return sum(f.start for f in factors(t.dims))


def _fit(dims: Dims, own: Shape, shape: Shape) -> Dims:
    if len(dims) != len(own):
        return blurred(dims, shape)
    return broadcast(dims, own, shape)


def _fitted(info: Info, own: Shape, shape: Shape) -> Info:
    return replace(info, weights=tuple(replace(t, dims=_fit(t.dims, own, shape)) for t in info.weights))


def tensors(value: Any) -> list[torch.Tensor]:
    """Return the tensors among the arguments of an operation."""
    found: list[torch.Tensor] = []
    for v in (
        value if isinstance(value, (list, tuple)) else value.values() if isinstance(value, dict) else (value,)
    ):
        if isinstance(v, torch.Tensor):
            found.append(v)
        elif isinstance(v, (list, tuple)):
            found.extend(tensors(v))
    return found


def elementwise(record: Record, name: str, a: dict[str, Any], out: torch.Tensor) -> None:
    """Label sums, products and choices between tensors."""
    kind = Kind.SCALING if name in SCALE else Kind.ADDITION
    # A mask takes part in no arithmetic: it has no depth of its own here.
    parts = [(_arithmetic(record.get(t), t), tuple(t.shape)) for t in tensors(a)]
    infos = [i for i, _ in parts]
    if any(i.choices for i in infos):
        note_routes(record, infos)
    record.set(out, combine(record, kind, name.strip("_"), parts, out))


def _arithmetic(info: Info, t: torch.Tensor) -> Info:
    return info if t.dtype.is_floating_point or t.dtype.is_complex else replace(info, depth=0)


def norm(record: Record, name: str, a: dict[str, Any], out: Any) -> None:
    """Label the result of a normalisation with a gain and a bias."""
    x: torch.Tensor = a["input"] if "input" in a else a["self"]
    result = out[0] if isinstance(out, (list, tuple)) else out
    info, shape = record.get(x), tuple(x.shape)
    for key, kind in (("weight", Kind.SCALING), ("bias", Kind.ADDITION)):
        t = a.get(key)
        if t is None:
            continue
        own = record.get(t)
        if info.data:
            absorb(record, own, kind, name.removeprefix("native_"), info)
        else:  # a learned array is normalised before it meets the data
            lengths = tuple(t.shape) if name != "native_batch_norm" else (1,)
            info = record.merged([info, _fitted(own, lengths, shape)])
    for t in tensors(out):
        record.set(t, replace(info, results=()))
    record.set(result, info)


def join(record: Record, name: str, a: dict[str, Any], out: torch.Tensor) -> None:
    """Label what tensors become that are put side by side, or written into another."""
    inputs = tensors(a)
    infos = [record.get(t) for t in inputs]
    shape = tuple(out.shape)
    if any(i.choices for i in infos):
        note_routes(record, infos)
    if not any(i.data for i in infos):
        weights = tuple(
            replace(t, dims=_side_by_side(name, a, t.dims, x, out))
            for x, i in zip(inputs, infos, strict=True)
            for t in i.weights
        )
        record.set(out, record.merged([Info(weights=weights)]))
        return
    whole = record.merged(infos)
    for info in infos:
        absorb(record, info, Kind.JOIN, name.strip("_"), whole)
    record.note_join(infos, beside=name in ("cat", "concat") and _along_outputs(infos, a, out.dim()))
    results = tuple(
        replace(t, dims=_side_by_side(name, a, t.dims, x, out))
        for x, i in zip(inputs, infos, strict=True)
        for t in i.results
    )
    info = record.merged(infos, tuple(_distinct(results))[:MOST_RESULTS])
    has_parameter = any(i.weights and not i.data for i in infos)
    record.set(out, replace(info, depth=max(info.depth, 1)) if has_parameter and shape else info)


def _along_outputs(infos: Sequence[Info], a: dict[str, Any], rank: int) -> bool:
    """Whether results are put beside each other along the axis of their outputs."""
    at = a.get("dim", 0) % max(rank, 1)
    return any(axes_of((t.dims[at],)) for i in infos for t in i.results if at < len(t.dims))


def _side_by_side(name: str, a: dict[str, Any], dims: Dims, x: torch.Tensor, out: torch.Tensor) -> Dims:
    shape = tuple(out.shape)
    if name == "stack":
        at = a.get("dim", 0) % out.dim()
        return (*dims[:at], (Factor(MEMBERS, shape[at]),) if shape[at] > 1 else (), *dims[at:])
    if name in ("cat", "concat") and len(dims) == len(shape):
        at = a.get("dim", 0) % out.dim()
        return (*dims[:at], _grown(dims[at], shape[at]), *dims[at + 1 :])
    return dims if size_of_all(dims) == shape else blurred(dims, shape)


def _grown(dim: Dim, size: int) -> Dim:
    """Return an axis after others were put beside it: where its own part begins is still known."""
    if size_of(dim) == size:
        return dim
    own = next(iter(factors((dim,))), None)
    return foreign(size) if own is None else (replace(own, size=size),)


def size_of_all(dims: Dims) -> Shape:
    """Return the shape that labels describe."""
    return tuple(size_of(d) for d in dims)


def reduce(record: Record, name: str, a: dict[str, Any], out: Any) -> None:
    """Label a reduction; a product of data and a matrix that is summed over is a contraction."""
    x: torch.Tensor = a["self"] if "self" in a else a["x"]
    info = record.get(x)
    dims = a.get("dim")
    gone = (
        set(range(x.dim()))
        if dims in (None, [])
        else {k % max(x.dim(), 1) for k in (dims if isinstance(dims, (list, tuple)) else (dims,))}
    )
    keep = bool(a.get("keepdim", False))
    info = _summed(record, info, gone) if name in ("sum", "mean") else info

    def move(labels: Dims) -> Dims:
        return tuple(() if k in gone else d for k, d in enumerate(labels) if keep or k not in gone)

    for t in tensors((out,)) if not isinstance(out, (list, tuple)) else tensors(out):
        same = t.dim() == x.dim() - (0 if keep else len(gone))
        weights = tuple(
            replace(w, dims=move(w.dims) if same else blurred(w.dims, tuple(t.shape))) for w in info.weights
        )
        results = tuple(
            replace(w, dims=move(w.dims))
            for w in info.results
            if same and not axes_of([w.dims[k] for k in gone])
        )
        record.set(t, replace(info, weights=weights, results=results))


def _summed(record: Record, info: Info, gone: set[int]) -> Info:
    number = 0
    for t in info.results:
        met = record.uses[t.origin]
        inputs = axes_of([t.dims[k] for k in gone if k < len(t.dims)])
        outputs = axes_of(t.dims) - inputs
        if met.kind is Kind.SCALING and inputs and outputs:
            record.feed(info)
            basis = replace(RAW, depth=met.depth, data=met.data)
            number = record.meet(
                replace(t, origin=met.parameter),
                Kind.CONTRACTION,
                "mul and sum",
                basis,
                outputs=outputs,
                inputs=inputs,
            )
            info = replace(info, depth=info.depth + 1, writers=frozenset({number}))
    return info


def anything(record: Record, name: str, inputs: Sequence[torch.Tensor], out: Any) -> None:
    """Label the result of an operation whose arithmetic is not known here."""
    infos = [record.get(t) for t in inputs]
    if any(i.choices for i in infos):
        note_routes(record, infos)
    whole = record.merged(infos)
    if whole.data:
        for info in infos:
            absorb(record, info, Kind.UNKNOWN, name, whole)
            if sum(i.data for i in infos) > 1:
                record.note_whole(info)
    for t in tensors(out if isinstance(out, (list, tuple)) else (out,)):
        shape = tuple(t.shape)
        if whole.data:
            one = len(inputs) == 1
            # After a sum of several results, an activation's channels are no single projection's.
            mixing = name in MIXING or (name not in SHIFTING and len(infos[0].results) > 1)
            results = tuple(
                replace(r, linear=r.linear and name in SHIFTING, mixed=r.mixed or mixing)
                for x, i in zip(inputs, infos, strict=True)
                for r in i.results
                if one and tuple(x.shape) == shape
            )
            record.set(t, record.merged(infos, results))
        else:
            parts = [(i, tuple(x.shape)) for i, x in zip(infos, inputs, strict=True)]
            weights = tuple(replace(w, dims=_fit(w.dims, own, shape)) for i, own in parts for w in i.weights)
            record.set(t, replace(record.merged([Info(weights=weights)]), choices=whole.choices))


def _shown(t: Trace) -> int:
    return prod(f.size for f in factors(t.dims))


def note_mixture(record: Record, gate: Info, mixed: Info, axes: Sequence[tuple[int, int]]) -> None:
    """Say that a result weighs the results of other weights, lined up along its own outputs."""
    for g in gate.results:
        for m in mixed.results:
            batch = record.uses[m.origin].batch
            for i, j in axes:
                if i >= len(g.dims) or j >= len(m.dims) or g.origin == m.origin:
                    continue
                own = axes_of((g.dims[i],)) & record.uses[g.origin].outputs
                stacked = any(f.axis == MEMBERS or f.axis in batch for f in m.dims[j])
                whole = size_of(g.dims[i]) == _shown(g)  # one weight for each of the others, and nothing else
                if not g.linear and own and stacked and whole:
                    record.uses[g.origin].routes = True


def note_routes(record: Record, infos: Sequence[Info]) -> None:
    """Say that a ranking decided what the data meets, where it picks from more than itself."""
    for k, info in enumerate(infos):
        for use in info.choices:
            for j, other in enumerate(infos):
                mine = use in other.writers or any(t.origin == use for t in other.results)
                if j != k and not mine and use not in other.choices and (other.depth or other.weights):
                    record.uses[use].routes = True
