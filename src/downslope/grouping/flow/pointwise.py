"""Values met position by position, put side by side, summed, ranked, picked from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations
from typing import Any

from downslope.grouping.facts import Kind
from downslope.grouping.flow.info import CONSTANT, MOST_RESULTS, NONE, Info, Trace
from downslope.grouping.flow.uses import Uses
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

CROSSED: dict[str, Any] = {"linear": False, "mixed": True, "event": -1}
Shape = tuple[int, ...]
Part = tuple[Info, Shape]


def combine(uses: Uses, kind: Kind, operation: str, parts: Sequence[Part], shape: Shape) -> Info:
    """Return what a sum, a product or a choice of these is, element by element."""
    parts = _without_noise(parts, shape) if kind is Kind.ADDITION else parts
    infos = [info for info, _ in parts]
    if not any(i.data for i in infos):
        return uses.merged([fitted(i, own, shape) for i, own in parts])
    whole = uses.merged(infos)
    products: tuple[Trace, ...] = ()
    for info, own in parts:
        if not info.data and info.weights:
            weight = fitted(info, own, shape)
            weight = _as_bias(uses, weight, parts, shape) if kind is Kind.ADDITION else weight
            made = uses.absorb(weight, kind, operation, whole)
            for t in made:
                lacking = [t.dims[k] for k in _lacking(parts, shape)]
                uses.uses[t.origin].stretched |= axes_of(lacking)
            products += made
    if kind is Kind.ADDITION:
        uses.note_join(infos)
    else:
        for (x, own), (y, other) in permutations(parts, 2):
            shared = min(len(own), len(other))
            uses.note_mixture(x, y, [(len(own) - k, len(other) - k) for k in range(1, shared + 1)])
    deep = [i for i, own in parts if i.data and i.depth and not _stretched(own, parts, shape)]
    deep = [i for i in deep if not any(_measures(i, other) for other in infos)]
    if kind is Kind.ADDITION and len(deep) > 1 and not all(map(uses.fresh, deep)):
        return uses.merged(infos, products)  # a residual stream: no single projection to be cut
    results = [t for k in range(len(parts)) for t in _kept(parts, k, kind, shape)]
    return uses.merged(infos, (*distinct(results), *products))


def _without_noise(parts: Sequence[Part], shape: Shape) -> Sequence[Part]:
    """Return weights that noise of their own shape is added to as weights: noise is a constant there."""
    given = [(info, own) for info, own in parts if info.weights and not info.data]
    if not given or any(own != shape for _, own in given) or not all(i.noise for i, _ in parts if i.data):
        return parts
    return [(CONSTANT if info.noise else info, own) for info, own in parts]


def _lacking(parts: Sequence[Part], shape: Shape) -> list[int]:
    """Return the axes along which all data was stretched."""
    given = [(1,) * (len(shape) - len(own)) + own for info, own in parts if info.data]
    return [k for k in range(len(shape)) if all(own[k] == 1 for own in given)]


def _stretched(own: Shape, parts: Sequence[Part], shape: Shape) -> bool:
    """Whether a value is stretched along the outputs of another: a mean or a maximum over them."""
    lost = {len(shape) - k for k in range(1, len(shape) + 1) if k > len(own) or own[-k] != shape[-k]}
    results = [_fit(r.dims, size, shape) for i, size in parts for r in i.results]
    return any(axes_of([dims[k] for k in lost]) for dims in results)


def _as_bias(uses: Uses, info: Info, parts: Sequence[Part], shape: Shape) -> Info:
    """Return weights that are added along the outputs of one use as a bias, its heads stacked.

    A bias of shape (heads, size) is a vector; a table of positions lies along an axis of the data.
    """
    traces = []
    for t in info.weights:
        spread = [k for k, dim in enumerate(t.dims) if axes_of((dim,))]
        for other, own in parts:
            results = [_fit(r.dims, own, shape) for r in other.results if uses.uses[r.origin].kind.multiplies]
            if len(spread) > 1 and any(all(axes_of((dims[k],)) for k in spread) for dims in results):
                stacked = axes_of([t.dims[k] for k in spread[:-1]])
                dims = tuple(() if k in spread[:-1] else d for k, d in enumerate(t.dims))
                t = replace(t, dims=dims, stacked=t.stacked | stacked)
                break
        traces.append(t)
    return replace(info, weights=tuple(traces))


def _kept(parts: Sequence[Part], k: int, kind: Kind, shape: Shape) -> list[Trace]:
    """Return the results that go on through an elementwise operation.

    A sum of results is linear in each. A product is linear in one factor as long as the other
    comes from no weight, or is stretched along the outputs: a norm's scale, a rotary table. With what
    was made of itself, entry by entry, it is an activation. Of any other product it is only known where
    the axes lie, and no more whose result it is.
    """
    info, own = parts[k]
    kept = []
    for trace in info.results:
        dims = _fit(trace.dims, own, shape)
        crossed, linear = False, trace.linear
        for j, (other, size) in enumerate(parts):
            if kind is Kind.SCALING and j != k and other.data and other.depth > 0:
                if any(r.origin == trace.origin and _fit(r.dims, size, shape) == dims for r in other.results):
                    linear = False
                    continue
                if _measures(other, info):
                    continue
                padded = (1,) * (len(shape) - len(size)) + size
                crossed |= any(n != 1 and axes_of((d,)) for d, n in zip(dims, padded, strict=True))
        kept.append(replace(trace, dims=dims, **(CROSSED if crossed else {"linear": linear})))
    return kept


def _measures(info: Info, other: Info) -> bool:
    """Whether a value was made of another's results alone, and is none itself: a group's mean or scale."""
    mine = {t.origin for t in other.results}
    return bool(mine and not info.results and info.writers and info.writers <= other.writers & mine)


def distinct(traces: Sequence[Trace]) -> list[Trace]:
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


def _reshaped(trace: Trace, own: Shape, shape: Shape) -> Trace:
    """Return a weight after an operation of any arithmetic; where axes are fewer, some were summed away."""
    dims = _fit(trace.dims, own, shape)
    gone = axes_of(trace.dims) - axes_of(dims) if len(shape) < len(own) else NONE
    return replace(trace, dims=dims, inner=trace.inner | gone)


def fitted(info: Info, own: Shape, shape: Shape) -> Info:
    """Return weights as they are stretched to a shape."""
    return replace(info, weights=tuple(replace(t, dims=_fit(t.dims, own, shape)) for t in info.weights))


def normalized(uses: Uses, x: Info, shape: Shape, gain: Part | None, bias: Part | None, name: str) -> Info:
    """Return what a normalisation with a gain and a bias makes of a value of a shape."""
    for part, kind in ((gain, Kind.SCALING), (bias, Kind.ADDITION)):
        if part is not None and x.data:
            uses.absorb(part[0], kind, name, x)
        elif part is not None:  # a learned array is normalised before it meets the data
            x = uses.merged([x, fitted(part[0], part[1], shape)])
    return x


def join(
    uses: Uses, name: str, parts: Sequence[Part], shape: Shape, at: int | None, new: bool = False
) -> Info:
    """Return what values become that are put side by side along `at` (a `new` axis or one they have).

    `at` is None where they are written into each other.
    """
    infos = [i for i, _ in parts]
    if any(i.choices for i in infos):
        uses.note_routes(infos)
    weights = tuple(_written(t, shape, at, new) for i in infos if not i.data for t in i.weights)
    if not any(i.data for i in infos):
        return uses.merged([Info(weights=weights)])
    whole = uses.merged(infos)
    for info in infos:
        uses.absorb(info, Kind.JOIN, name, whole)
    along = at is not None and any(axes_of(t.dims[at : at + 1]) for i in infos for t in i.results)
    if at is None or new or along or all(own[at : at + 1] == (1,) for _, own in parts):
        uses.note_join(infos, beside=not new and along)  # other axes are the data's: tokens beside tokens
    results = [replace(t, dims=_side_by_side(t.dims, shape, at, new)) for i in infos for t in i.results]
    info = uses.merged(infos, tuple(distinct(results))[:MOST_RESULTS])
    has_parameter = any(i.weights and not i.data for i in infos)
    return replace(info, depth=max(info.depth, 1)) if has_parameter and shape else info


def _written(trace: Trace, shape: Shape, at: int | None, new: bool) -> Trace:
    """Return a weight that is put beside others or, entry by entry, into them.

    Entries that are given places of their own, as those of a triangle, have no axis there.
    """
    own = tuple(map(size_of, trace.dims))
    if at is not None or len(own) == len(shape) or own == shape[len(shape) - len(own) :]:
        return replace(trace, dims=_side_by_side(trace.dims, shape, at, new))
    padded = (*trace.dims, *map(foreign, shape[len(own) :]))[: len(shape)]
    dims = tuple(d if size_of(d) == n else foreign(n) for d, n in zip(padded, shape, strict=True))
    return replace(trace, dims=dims, inner=trace.inner | (axes_of(trace.dims) - axes_of(dims)))


def _side_by_side(dims: Dims, shape: Shape, at: int | None, new: bool) -> Dims:
    if at is not None and new:
        return (*dims[:at], (Factor(MEMBERS, shape[at]),) if shape[at] > 1 else (), *dims[at:])
    if at is not None and len(dims) == len(shape):
        return (*dims[:at], _grown(dims[at], shape[at]), *dims[at + 1 :])
    if len(dims) != len(shape):
        return blurred(dims, shape)
    return tuple(d if size_of(d) == n else blurred((d,), (n,))[0] for d, n in zip(dims, shape, strict=True))


def _grown(dim: Dim, size: int) -> Dim:
    """Return an axis after others were put beside it: where its own part begins is still known."""
    if size_of(dim) == size:
        return dim
    own = next(iter(factors((dim,))), None)
    if own is not None and size_of(dim) and size % size_of(dim) == 0:
        return (*foreign(size // size_of(dim)), *dim)
    return foreign(size) if own is None else (replace(own, size=size),)


def reduced(uses: Uses, info: Info, gone: set[int], keep: bool = False, summed: bool = True) -> Info:
    """Return what is left of a value after axes were summed (or otherwise reduced) away.

    A product of data and a matrix that is summed over is a contraction.
    """
    info = _contracted(uses, info, gone) if summed else info

    def move(labels: Dims) -> Dims:
        return tuple(() if k in gone else d for k, d in enumerate(labels) if keep or k not in gone)

    weights = []
    for t in info.weights:
        lost = axes_of([d for k, d in enumerate(t.dims) if k in gone])
        dims = move(t.dims)
        weights.append(replace(t, dims=dims, inner=t.inner | (lost - axes_of(dims))))
    results = tuple(
        replace(t, dims=move(t.dims))
        for t in info.results
        if not axes_of([d for k, d in enumerate(t.dims) if k in gone])
    )
    return replace(info, weights=tuple(weights), results=results)


def _contracted(uses: Uses, info: Info, gone: set[int]) -> Info:
    for t in info.results:
        inputs = axes_of([t.dims[k] for k in gone if k < len(t.dims)])
        outputs = axes_of(t.dims) - inputs
        number = uses.summed(info, t, Kind.CONTRACTION, "mul and sum", outputs, inputs)
        if number is not None:
            info = replace(info, depth=info.depth + 1, writers=frozenset({number}))
    return info


def ranked(uses: Uses, info: Info, at: int | None) -> tuple[Info, Info]:
    """Return what the values and the places of a ranking along an axis are."""
    places = NONE
    if at is not None:
        places = frozenset(t.origin for t in info.results)
    values = replace(uses.merged([info]), choices=info.choices)
    return values, Info(data=info.data, depth=info.depth, choices=info.choices | places)


def anything(
    uses: Uses, parts: Sequence[Part], shape: Shape, *, shifting: bool = False, mixing: bool = False
) -> Info:
    """Return what an operation makes whose arithmetic is not known.

    `shifting` says that each entry is moved or scaled alone, `mixing` that the result's positions are
    no longer those of the outputs one by one.
    """
    infos = [i for i, _ in parts]
    whole = uses.merged(infos)
    if not whole.data:
        weights = tuple(_reshaped(w, own, shape) for i, own in parts for w in i.weights)
        return replace(uses.merged([Info(weights=weights)]), choices=whole.choices)
    results = tuple(
        replace(r, linear=r.linear and shifting, mixed=r.mixed or mixing)
        for i, own in parts
        for r in i.results
        if len(parts) == 1 and own == shape
    )
    return uses.merged(infos, results)


def absorb_unknown(uses: Uses, name: str, infos: Sequence[Info]) -> None:
    """Enter what an operation meets whose arithmetic is not known."""
    if any(i.choices for i in infos):
        uses.note_routes(infos)
    whole = uses.merged(infos)
    for info in infos if whole.data else ():
        uses.absorb(info, Kind.UNKNOWN, name, whole)
        if sum(i.data for i in infos) > 1:
            uses.note_whole(info)
