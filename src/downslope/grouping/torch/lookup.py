"""Lookups and rankings: what an index picks, and where a ranking's winners decide what is picked.

An index that picks rows of a parameter makes it an embedding; one that picks whole matrices makes
it a stack, whose matrices are contracted later. Indices that come out of a ranking remember whose
result was ranked: where they pick other data or other weights, that result is a router's.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from downslope.grouping.facts import Kind
from downslope.grouping.flow.info import NONE, Info, Trace
from downslope.grouping.flow.pointwise import ranked
from downslope.grouping.labels import Dims, axes_of, blurred, cut, foreign, size_of
from downslope.grouping.torch.names import INDEXING, LOOKUP
from downslope.grouping.torch.pointwise import tensors
from downslope.grouping.torch.record import Record


def lookup(record: Record, name: str, a: dict[str, Any], out: Any) -> None:
    """Label what an index picks from a table, from a stack of matrices, or from data."""
    table: torch.Tensor = a[LOOKUP[name]]
    others = [t for key, v in a.items() if key != LOOKUP[name] for t in tensors((v,))]
    info, picks = record.get(table), [record.get(t) for t in others]
    result = out[0] if isinstance(out, (list, tuple)) else out
    if any(p.choices for p in picks) and (info.data or _matrices(info)):
        record.note_routes([info, *picks])
    whole = record.merged([info, *picks])
    if info.weights and not info.data:
        traces = tuple(_fetch(t, name, a, table, result) for t in info.weights)
        if name not in INDEXING or any(p.data for p in picks):
            info = _fetched(record, name, traces, whole, record.routed(info, picks))
        else:
            info = Info(weights=traces)
    elif whole.data and (part := _as_slice(record, name, a, table)):
        axis, low, high = part
        record.note_cut(info, axis, low, high)
        info = info.moved(lambda dims: (*dims[:axis], cut(dims[axis], low, high), *dims[axis + 1 :]))
    elif whole.data:
        if name == "gather":
            record.note_picked(info, [a["dim"] % max(table.dim(), 1)], picks)
        results = tuple(replace(t, dims=_after_index(name, a, t.dims, result)) for t in info.results)
        choices = record.elsewhere(whole.choices, info)
        info = replace(whole, results=results, choices=choices)
    else:
        info = whole
    for t in tensors(out):
        record.set(t, info)


def _fetched(record: Record, name: str, traces: tuple[Trace, ...], whole: Info, routed: bool) -> Info:
    """Enter the lookup of rows; matrices that were fetched are weights still."""
    keep = tuple(t for t in traces if len(axes_of(t.dims)) > 1)
    bias = routed and name in INDEXING  # rows that a router picked are an expert's own
    for t in traces:
        if t not in keep:
            kind, inputs = (Kind.ADDITION, NONE) if bias else (Kind.LOOKUP, t.fetched)
            record.meet(replace(t, dims=()), kind, name, whole, inputs=inputs, outputs=axes_of(t.dims))
    depth = max(whole.depth, 1) if keep or not bias else 0  # an expert's bias: no stream
    return Info(weights=keep, data=True, depth=depth, choices=whole.choices)


def _as_slice(record: Record, name: str, a: dict[str, Any], x: torch.Tensor) -> tuple[int, int, int] | None:
    """Return (axis, low, high) where an index written in the program takes a run of positions."""
    if name not in ("index", "index_select") or x.device.type == "meta":
        return None
    if name == "index":
        given = [(k, i) for k, i in enumerate(a["indices"]) if i is not None]
    else:
        given = [(a["dim"] % max(x.dim(), 1), a["index"])]
    if len(given) != 1 or given[0][1].dtype == torch.bool or given[0][1].dim() != 1:
        return None
    axis, index = given[0]
    if record.get(index).data:
        return None
    with torch.utils._python_dispatch._disable_current_modes():
        places = [int(i) % x.shape[axis] for i in index.tolist()] if index.numel() <= x.shape[axis] else []
    if not places or places != list(range(places[0], places[0] + len(places))):
        return None
    return axis, places[0], places[0] + len(places)


def _matrices(info: Info) -> bool:
    return any(len(axes_of(t.dims)) > 2 for t in info.weights)


def _after_index(name: str, a: dict[str, Any], dims: Dims, out: torch.Tensor) -> Dims:
    if name == "index_select" or (name == "gather" and len(dims) == out.dim()):
        at = a["dim"] % len(dims)
        return tuple(
            blurred((d,), (n,))[0] if k == at or size_of(d) != n else d
            for k, (d, n) in enumerate(zip(dims, out.shape, strict=True))
        )
    if name == "index" and (
        a["indices"] and a["indices"][0] is not None and all(i is None for i in a["indices"][1:])
    ):
        lead = out.dim() - (len(dims) - 1)
        if a["indices"][0].dtype != torch.bool and lead >= 0:
            return (*blurred((), tuple(out.shape[:lead])), *dims[1:])
    return blurred(dims, tuple(out.shape))


def _fetch(trace: Trace, name: str, a: dict[str, Any], table: torch.Tensor, out: torch.Tensor) -> Trace:
    """Return the labels of what was fetched: the picked axes are gone, the others at the end."""
    if name in ("index", "_unsafe_index"):
        picked = [k for k, i in enumerate(a["indices"]) if i is not None]
    elif name in ("index_select", "gather"):
        picked = [a["dim"] % table.dim()]
    else:
        picked = (
            [0] if name.endswith(("embedding", "embedding_bag", "forward_only")) else list(range(table.dim()))
        )
    beside = _beside(a["index"], picked[0]) if name == "gather" else ()
    gone = axes_of([trace.dims[k] for k in (*picked, *beside)])
    dims = tuple(foreign(out.shape[k]) if k in beside else d for k, d in enumerate(trace.dims))
    trace = replace(trace, dims=dims)
    rest = tuple(d for k, d in enumerate(trace.dims) if k not in picked)
    lead = tuple(out.shape[: max(out.dim() - len(rest), 0)])
    if len(rest) <= out.dim() and tuple(map(size_of, rest)) == tuple(out.shape[len(lead) :]):
        dims = (*blurred((), lead), *rest)
    else:
        dims = blurred(rest, tuple(out.shape))
    return replace(trace, dims=dims, fetched=trace.fetched | gone)


def _beside(index: torch.Tensor, at: int) -> list[int]:
    """Return the axes along which places run beside what they pick from, if along others they are stretched.

    Of a stack of codebooks each gives its own rows then.
    """
    moves = [step != 0 and size > 1 for step, size in zip(index.stride(), index.shape, strict=True)]
    stretched = any(step == 0 and size > 1 for step, size in zip(index.stride(), index.shape, strict=True))
    return [k for k, move in enumerate(moves) if move and k != at] if stretched else []


def rank(record: Record, name: str, a: dict[str, Any], out: Any) -> None:
    """Label the values and the indices of a ranking."""
    x: torch.Tensor = a["self"]
    info = record.get(x)
    values, indices = (out[0], out[1]) if isinstance(out, (list, tuple)) else (None, out)
    at = a.get("dim", -1)
    known, places = ranked(record, info, None if at is None or not x.dim() else at % x.dim())
    if values is not None:
        record.set(values, known)
    if indices.dtype.is_floating_point:
        record.set(indices, record.merged([info, *(record.get(t) for t in tensors(a))]))
    else:
        record.set(indices, places)
