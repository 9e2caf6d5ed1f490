"""Contractions: each is told as letters, so that one place decides what is a weight.

`ik,kj->ij` says which axes stay, which are summed over, and which run side by side. Letters may be
any objects.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any

from downslope.grouping.facts import Kind
from downslope.grouping.flow.info import Info, Trace
from downslope.grouping.flow.uses import Letters, Uses
from downslope.grouping.labels import Dim, Dims, axes_of, foreign, size_of

Sizes = Mapping[Any, int]


def product(
    uses: Uses, name: str, ix: Info, iy: Info, lx: Letters, ly: Letters, kept: Letters, sizes: Sizes
) -> Info:
    """Return what the contraction of two values is; enter the use if one of them is a weight."""
    different = not {t.origin for t in ix.weights} & {t.origin for t in iy.weights}
    if different and not ix.data and not iy.data and ix.weights and iy.weights:
        # What stands for data: a weight stretched along axes of its own (learned tokens, queries), or
        # a single vector beside a matrix (a latent).
        if _stands_for_data(ix) and not _stands_for_data(iy):
            ix = as_data(uses, ix)
        elif _stands_for_data(iy) and not _stands_for_data(ix):
            iy = as_data(uses, iy)
    if _is_weight(iy) and ix.data:
        return _weighted(uses, name, ix, iy, ly, kept, lx, sizes)
    if _is_weight(ix) and iy.data:
        return _weighted(uses, name, iy, ix, lx, kept, ly, sizes)
    if ix.data or iy.data:
        made = []
        for info, own, other in ((ix, lx, ly), (iy, ly, lx)):
            outputs = [k for k, letter in enumerate(own) if letter in kept and letter not in other]
            inputs = [k for k, letter in enumerate(own) if letter in other and letter not in kept]
            made += _scaled(uses, Kind.CONTRACTION, name, info, outputs, inputs)
        uses.note_routes([ix, iy])
        uses.note_whole(ix)
        uses.note_whole(iy)
        uses.note_heads(ix, lx, ly, kept)
        uses.note_heads(iy, ly, lx, kept)
        uses.note_mixture(ix, iy, [(k, list(ly).index(c)) for k, c in enumerate(lx) if c in ly])
        uses.note_mixture(iy, ix, [(k, list(lx).index(c)) for k, c in enumerate(ly) if c in lx])
        return _deeper(uses, uses.merged([replace(ix, weights=()), replace(iy, weights=())]), made)
    folded = [_folded(t, own, kept, sizes) for i, own in ((ix, lx), (iy, ly)) for t in i.weights]
    return uses.merged([Info(weights=tuple(folded))])


def as_data(uses: Uses, info: Info) -> Info:
    """Turn weights into data that the model makes by itself."""
    whole = Info(data=True, depth=1)
    uses.absorb(info, Kind.JOIN, "query", whole)
    return whole


def _stands_for_data(info: Info) -> bool:
    whole = [t for t in info.weights if not t.factored]  # of a product, other weights made the rest
    stretched = any(
        all(any(f.axis is None and f.size > 1 for f in dim) for dim in along)
        for along in zip(*(t.dims for t in whole), strict=False)
    )
    vector = all(len(t.dims) == 1 and not t.inner for t in info.weights)
    return stretched or vector


def _is_weight(info: Info) -> bool:
    """Whether a value is weights: made from parameters alone, or matrices fetched from a stack."""
    if not info.data:
        return bool(info.weights)
    return any(len(axes_of(t.dims)) > 1 for t in info.weights)


def _weighted(
    uses: Uses, name: str, data: Info, weight: Info, own: Letters, kept: Letters, other: Letters, sizes: Sizes
) -> Info:
    """Enter one use for every parameter in the weight; return what the result is."""
    uses.feed(data)
    uses.feed(replace(weight, weights=()))
    if weight.choices or data.choices:
        uses.note_routes([weight, data])
    uses.note_stacks(data, other, own, kept)
    summed = prod(sizes[letter] for letter in own if letter in other and letter not in kept)
    stays = prod(sizes[letter] for letter in own if letter not in other and letter in kept)
    writers, results = set(), []
    for trace in weight.weights:
        sides: dict[str, set[int]] = {"outputs": set(), "inputs": set(), "batch": set()}
        for letter, dim in zip(own, trace.dims, strict=True):
            # A letter that only the weight has is picked from, one matrix at a time.
            side = "outputs" if letter in kept and letter not in other else "inputs"
            side = "batch" if (letter in kept) == (letter in other) else side
            sides[side] |= axes_of((dim,))
        axes = _settled(sides, trace)
        if _is_gain(axes, stays, summed):
            uses.meet(trace, Kind.SCALING, name, data, outputs=axes["outputs"])
            continue
        number = uses.meet(trace, Kind.CONTRACTION, name, data, **axes)
        beside = set(other) & set(kept)
        uses.note_mixer(number, data, [k for k, c in enumerate(other) if c in own and c not in kept])
        uses.note_groups(number, tuple(d for c, d in zip(own, trace.dims, strict=True) if c in beside))
        writers.add(number)
        results.append(uses.result(number, _placed(trace.dims, own, kept, sizes)))
    depth = max(data.depth, weight.depth) + 1
    if not writers:
        return Info(data=True, depth=depth, writers=uses.open(data.writers), choices=data.choices)
    return Info(data=True, depth=depth, writers=uses.open(writers), results=tuple(results))


def _scaled(
    uses: Uses, kind: Kind, name: str, info: Info, outputs: Sequence[int], inputs: Sequence[int]
) -> list[int]:
    """Enter the uses of matrices that data has scaled before they meet other data."""
    made = []
    for t in info.results:
        if len(t.dims) > max((*outputs, *inputs), default=0):
            summed = axes_of([t.dims[k] for k in inputs])
            stays = axes_of([t.dims[k] for k in outputs]) - summed
            uses.note_mixed(t, stays, summed)
            made.append(uses.summed(info, t, kind, name, stays, summed))
    return [number for number in made if number is not None]


def _deeper(uses: Uses, info: Info, made: Sequence[int]) -> Info:
    """Return what came out of contractions with matrices that data had scaled."""
    if not made:
        return info
    return replace(info, depth=info.depth + 1, writers=uses.open(made))


def _is_gain(axes: Mapping[str, frozenset[int]], stays: int, summed: int) -> bool:
    """Whether a parameter is only stretched along a side of the weight: the gain of a weight norm."""
    outputs, inputs = axes["outputs"], axes["inputs"]
    return (not inputs and summed > 1) or (not outputs and stays > 1) or not (outputs or inputs)


def _settled(sides: dict[str, set[int]], trace: Trace) -> dict[str, frozenset[int]]:
    """Give each axis one side: an axis that is partly batch is cut into heads, not stacked."""
    sides["batch"] |= trace.fetched | trace.stacked
    sides["batch"] -= sides["outputs"] | sides["inputs"]
    sides["outputs"] -= sides["inputs"]
    inner = set(trace.inner) - sides["outputs"] - sides["inputs"] - sides["batch"]
    if not sides["inputs"] and not sides["outputs"] and len(trace.factored & inner) > 1:
        first, *others = sorted(inner)  # in the middle of a product: which side is which makes no difference
        sides["outputs"], sides["inputs"] = {first}, set(others)
    elif not sides["inputs"]:
        sides["inputs"] |= inner
    elif not sides["outputs"]:
        sides["outputs"] |= inner
    return {side: frozenset(found) for side, found in sides.items()}


def _placed(dims: Dims, own: Letters, kept: Letters, sizes: Sizes) -> Dims:
    where: dict[Any, Dim] = dict(zip(own, dims, strict=True))
    return tuple(where[letter] if letter in where else foreign(sizes[letter]) for letter in kept)


def _folded(trace: Trace, own: Letters, kept: Letters, sizes: Sizes) -> Trace:
    gone = axes_of([d for letter, d in zip(own, trace.dims, strict=True) if letter not in kept])
    dims = _placed(trace.dims, own, kept, sizes)
    gone -= axes_of(dims)
    return replace(trace, dims=dims, inner=trace.inner | gone, factored=trace.factored | gone)


def convolution(
    uses: Uses,
    x: Info,
    w: Info,
    kernel: tuple[int, ...],
    o: int,
    shape: tuple[int, ...],
    at: int,
    groups: int,
) -> Info:
    """Return what a convolution of any rank makes of data.

    `o` is the kernel's axis of output channels, `at` the result's; a transposed convolution in
    groups counts the outputs of one group along `o`.
    """
    if not w.weights or w.data:
        if x.weights and not x.data and w.data:
            uses.absorb(x, Kind.UNKNOWN, "convolution", w)
        rest = [k for k in range(len(kernel)) if k != o]
        made = _scaled(uses, Kind.CONVOLUTION, "convolution", w, [o], rest)
        uses.feed(x)
        return _deeper(uses, uses.merged([replace(x, weights=()), replace(w, weights=())]), made)
    x = as_data(uses, x) if x.weights and not x.data else x
    through = _through(x, shape, at, groups)
    passed = {t.origin for t in through}
    uses.feed(replace(x, results=tuple(t for t in x.results if t.origin not in passed)))
    summed = prod(n for k, n in enumerate(kernel) if k != o)
    writers, results = set(), []
    for trace in w.weights:
        if len(trace.dims) != len(kernel) or not (axes_of(trace.dims) or trace.inner):
            uses.meet(trace, Kind.SCALING, "convolution", x)
            continue
        outputs = set(axes_of((trace.dims[o],)))
        inputs = set(axes_of([d for k, d in enumerate(trace.dims) if k != o])) - outputs
        axes = _settled({"outputs": outputs, "inputs": inputs, "batch": set()}, trace)
        if _is_gain(axes, kernel[o], summed):
            uses.meet(trace, Kind.SCALING, "convolution", x, outputs=axes["outputs"] | axes["inputs"])
            continue
        number = uses.meet(trace, Kind.CONVOLUTION, "convolution", x, **axes)
        uses.uses[number].groups = groups
        uses.uses[number].along = "outputs" if kernel[o] == shape[at] else "inputs"
        writers.add(number)
        own = trace.dims[o] if kernel[o] == shape[at] else foreign(shape[at])
        results.append(
            uses.result(number, tuple(own if k == at else foreign(n) for k, n in enumerate(shape)))
        )
    # A kernel of one row a channel is not cut: what it was given is.
    return Info(data=True, depth=x.depth + 1, writers=uses.open(writers), results=through or tuple(results))


def _through(x: Info, shape: tuple[int, ...], at: int, groups: int) -> tuple[Trace, ...]:
    """Return the results that a depthwise convolution leaves where they are: all along the channels."""
    through = []
    for t in x.results if groups > 1 and groups == shape[at] else ():
        beside = axes_of([d for k, d in enumerate(t.dims) if k != at])
        if len(t.dims) == len(shape) and size_of(t.dims[at]) == groups and not beside:
            dims = tuple(t.dims[at] if k == at else foreign(n) for k, n in enumerate(shape))
            through.append(replace(t, dims=dims))
    return tuple(through)
