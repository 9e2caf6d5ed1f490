"""Operations that contract: each is told as letters, so that one place decides what is a weight.

`ik,kj->ij` says which axes stay, which are summed over, and which run side by side.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

import torch

from downslope.grouping.facts import Kind
from downslope.grouping.labels import Dim, Dims, axes_of, factors, foreign
from downslope.grouping.torch.info import Info, Trace
from downslope.grouping.torch.pointwise import absorb, combine, note_mixture
from downslope.grouping.torch.record import Record

LETTERS: dict[str, tuple[str, str, str | None]] = {
    "mm": ("self", "mat2", "ik,kj->ij"),
    "addmm": ("mat1", "mat2", "ik,kj->ij"),
    "_addmm_activation": ("mat1", "mat2", "ik,kj->ij"),
    "addmm_": ("mat1", "mat2", "ik,kj->ij"),
    "bmm": ("self", "mat2", "bik,bkj->bij"),
    "baddbmm": ("batch1", "batch2", "bik,bkj->bij"),
    "baddbmm_": ("batch1", "batch2", "bik,bkj->bij"),
    "addbmm": ("batch1", "batch2", "bik,bkj->ij"),
    "mv": ("self", "vec", "ik,k->i"),
    "addmv": ("mat", "vec", "ik,k->i"),
    "addmv_": ("mat", "vec", "ik,k->i"),
    "dot": ("self", "tensor", "k,k->"),
    "vdot": ("self", "other", "k,k->"),
    "_grouped_mm": ("self", "mat2", None),
    "addr": ("vec1", "vec2", "i,j->ij"),
}


def contract(record: Record, name: str, a: dict[str, Any], out: torch.Tensor) -> None:
    """Label the result of a matrix product."""
    left, right, letters = LETTERS[name]
    if letters is None:
        letters = _grouped(a["self"].dim(), a["mat2"].dim())
    info = product(record, name, a[left], a[right], letters)
    if name.startswith("add") or name.startswith("badd"):
        shift = a["self"]
        info = combine(
            record,
            Kind.ADDITION,
            "add",
            [(info, tuple(out.shape)), (record.get(shift), tuple(shift.shape))],
            out,
        )
    record.set(out, info)


def _grouped(left: int, right: int) -> str:
    """Return the letters of a grouped product: a side without a group axis has its groups in a row."""
    return f"{'gik'[3 - left :]},{'gkj'[3 - right :]}->{'gij' if left == right else 'ij'}"


def product(record: Record, name: str, x: torch.Tensor, y: torch.Tensor, letters: str) -> Info:
    """Return what the contraction of two tensors is; enter the use if one of them is a weight."""
    (lx, ly), lo = letters.split("->")[0].split(","), letters.split("->")[1]
    ix, iy = record.get(x), record.get(y)
    sizes = dict(zip(lx, x.shape, strict=True)) | dict(zip(ly, y.shape, strict=True))
    if _is_weight(iy) and ix.data:
        return weighted(record, name, Kind.CONTRACTION, ix, iy, ly, lo, lx, sizes)
    if _is_weight(ix) and iy.data:
        return weighted(record, name, Kind.CONTRACTION, iy, ix, lx, lo, ly, sizes)
    if ix.data or iy.data:
        record.note_whole(ix)
        record.note_whole(iy)
        note_heads(record, ix, lx, ly, lo)
        note_heads(record, iy, ly, lx, lo)
        note_mixture(record, ix, iy, [(lx.index(c), ly.index(c)) for c in lx if c in ly])
        return record.merged([replace(ix, weights=()), replace(iy, weights=())])
    folded = [_folded(t, own, lo, sizes) for i, own in ((ix, lx), (iy, ly)) for t in i.weights]
    return record.merged([Info(weights=tuple(folded))])


def _is_weight(info: Info) -> bool:
    """Whether a tensor is weights: made from parameters alone, or matrices fetched from a stack."""
    return (
        bool(info.weights)
        if not info.data
        else any(t.fetched and len(axes_of(t.dims)) > 1 for t in info.weights)
    )


def weighted(
    record: Record,
    name: str,
    kind: Kind,
    data: Info,
    weight: Info,
    own: str,
    kept: str,
    other: str,
    sizes: dict[str, int],
) -> Info:
    """Enter one use for every parameter in the weight; return what the result is."""
    record.feed(data)
    record.feed(replace(weight, weights=()))
    writers, results = set(), []
    for trace in weight.weights:
        sides: dict[str, set[int]] = {"outputs": set(), "inputs": set(), "batch": set()}
        for letter, dim in zip(own, trace.dims, strict=True):
            # A letter that only the weight has is picked from, one matrix at a time.
            side = "outputs" if letter in kept and letter not in other else "inputs"
            side = "batch" if (letter in kept) == (letter in other) else side
            sides[side] |= axes_of((dim,))
        _settle(sides, trace)
        axes = {side: frozenset(found) for side, found in sides.items()}
        summed = prod(sizes[letter] for letter in own if letter in other and letter not in kept)
        stays = prod(sizes[letter] for letter in own if letter not in other and letter in kept)
        if _is_gain(axes["outputs"], axes["inputs"], stays, summed):
            record.meet(trace, Kind.SCALING, name, data, outputs=axes["outputs"])
            continue
        number = record.meet(trace, kind, name, data, **axes)
        writers.add(number)
        results.append(record.result(number, _placed(trace.dims, own, kept, sizes)))
    depth = max(data.depth, weight.depth) + 1
    if not writers:
        return Info(data=True, depth=depth, writers=record.open(data.writers), choices=data.choices)
    return Info(data=True, depth=depth, writers=record.open(writers), results=tuple(results))


def _is_gain(outputs: frozenset[int], inputs: frozenset[int], stays: int, summed: int) -> bool:
    """Whether a parameter is only stretched along a side of the weight: the gain of a weight norm."""
    return (not inputs and summed > 1) or (not outputs and stays > 1) or not (outputs or inputs)


def _settle(sides: dict[str, set[int]], trace: Trace) -> None:
    """Give each axis one side: an axis that is partly batch is cut into heads, not stacked."""
    sides["batch"] |= trace.fetched
    sides["batch"] -= sides["outputs"] | sides["inputs"]
    sides["outputs"] -= sides["inputs"]
    inner = set(trace.inner) - sides["outputs"] - sides["inputs"] - sides["batch"]
    if not sides["inputs"]:
        sides["inputs"] |= inner
    elif not sides["outputs"]:
        sides["outputs"] |= inner


def _placed(dims: Dims, own: str, kept: str, sizes: dict[str, int]) -> Dims:
    where: dict[str, Dim] = dict(zip(own, dims, strict=True))
    return tuple(where[letter] if letter in where else foreign(sizes[letter]) for letter in kept)


def _folded(trace: Trace, own: str, kept: str, sizes: dict[str, int]) -> Trace:
    gone = axes_of([d for letter, d in zip(own, trace.dims, strict=True) if letter not in kept])
    dims = _placed(trace.dims, own, kept, sizes)
    return replace(trace, dims=dims, inner=trace.inner | (gone - axes_of(dims)))


def note_heads(record: Record, info: Info, own: str, other: str, kept: str) -> None:
    """Say how much of a result one head takes: what is left of its axis beside another's."""
    for trace in info.results:
        if not trace.linear or len(own) != len(trace.dims):
            continue
        beside = [d for letter, d in zip(own, trace.dims, strict=True) if letter in other and letter in kept]
        within = [
            d for letter, d in zip(own, trace.dims, strict=True) if not (letter in other and letter in kept)
        ]
        both = axes_of(beside) & axes_of(within)
        if both:
            record.uses[trace.origin].head = prod(f.size for f in factors(within) if f.axis in both)


def convolution(record: Record, a: dict[str, Any], out: torch.Tensor) -> None:
    """Label the result of a convolution of any rank, transposed or grouped."""
    x, w = record.get(a["input"]), record.get(a["weight"])
    groups = a.get("groups", 1)
    if w.weights and not w.data:
        o = 1 if a.get("transposed", False) else 0
        info = _convolved(record, x, w, tuple(a["weight"].shape), o, groups, out)
    else:
        record.feed(x)
        info = record.merged([x, w])
    if a.get("bias") is not None:
        absorb(record, record.get(a["bias"]), Kind.ADDITION, "bias", info)
    record.set(out, info)


def _convolved(
    record: Record, x: Info, w: Info, shape: tuple[int, ...], o: int, groups: int, out: torch.Tensor
) -> Info:
    spatial = len(shape) - 2
    record.feed(x)
    writers, results = set(), []
    for trace in w.weights:
        if len(trace.dims) != spatial + 2 or (len(axes_of(trace.dims)) == 0 and not trace.inner):
            record.meet(trace, Kind.SCALING, "convolution", x)
            continue
        outputs = axes_of((trace.dims[o],))
        inputs = axes_of([d for k, d in enumerate(trace.dims) if k != o]) - outputs
        sides = {"outputs": set(outputs), "inputs": set(inputs), "batch": set()}
        _settle(sides, trace)
        axes = {side: frozenset(found) for side, found in sides.items()}
        summed = prod(n for k, n in enumerate(shape) if k != o)
        if _is_gain(axes["outputs"], axes["inputs"], shape[o], summed):
            record.meet(trace, Kind.SCALING, "convolution", x, outputs=axes["outputs"] | axes["inputs"])
            continue
        number = record.meet(trace, Kind.CONVOLUTION, "convolution", x, **axes)
        record.uses[number].groups = groups
        writers.add(number)
        own = trace.dims[o]
        if o == 1 and groups > 1:
            own = foreign(out.shape[-spatial - 1])
        lead = out.dim() - spatial - 1
        dims = (*(foreign(n) for n in out.shape[:lead]), own, *(foreign(n) for n in out.shape[lead + 1 :]))
        results.append(record.result(number, dims))
    return Info(data=True, depth=x.depth + 1, writers=record.open(writers), results=tuple(results))


def bilinear(record: Record, a: dict[str, Any], out: torch.Tensor) -> None:
    """Label the result of x Wₖ y: each matrix of the weight is summed over whole."""
    x, w, y = (record.get(a[k]) for k in ("i1", "i2", "i3"))
    data = record.merged([replace(x, weights=()), replace(y, weights=())])
    if not data.data or w.data or not w.weights:
        record.set(out, record.merged([x, w, y]))
        return
    record.feed(x)
    record.feed(y)
    writers = set()
    for trace in w.weights:
        outputs, inputs = axes_of(trace.dims[:1]), axes_of(trace.dims[1:])
        writers.add(record.meet(trace, Kind.CONTRACTION, "bilinear", data, outputs=outputs, inputs=inputs))
    record.set(out, Info(data=True, depth=data.depth + 1, writers=record.open(writers)))
