"""Operations element by element: additions and scalings, joins, reductions, and everything else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from downslope.grouping.facts import Kind
from downslope.grouping.flow import pointwise as flow
from downslope.grouping.flow.info import Info
from downslope.grouping.labels import blurred
from downslope.grouping.torch.names import MIXING, SCALE, SHIFTING
from downslope.grouping.torch.record import Record


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
    kind, given = Kind.SCALING if name in SCALE else Kind.ADDITION, tensors(a)
    parts = [(record.get(t), tuple(t.shape)) for t in given]
    infos = [i for i, _ in parts]
    if any(i.choices for i in infos):
        record.note_routes(infos)
    name, shape = name.strip("_"), tuple(out.shape)
    if name in ("addcmul", "addcdiv"):
        info = _sum_and_product(record, a, shape)
    elif name == "lerp" and isinstance(a["weight"], torch.Tensor):
        info = _way_between(record, a, shape)
    else:
        info = flow.combine(record, kind, name, _without_masks(given, parts), shape)
    record.set(out, info)


def _sum_and_product(record: Record, a: dict[str, Any], shape: flow.Shape) -> Info:
    first, x, y = ((record.get(a[k]), tuple(a[k].shape)) for k in ("self", "tensor1", "tensor2"))
    product = flow.combine(record, Kind.SCALING, "mul", [x, y], shape), shape
    return flow.combine(record, Kind.ADDITION, "add", [first, product], shape)


def _way_between(record: Record, a: dict[str, Any], shape: flow.Shape) -> Info:
    start, end, weight = ((record.get(a[k]), tuple(a[k].shape)) for k in ("self", "end", "weight"))
    way = flow.combine(record, Kind.ADDITION, "sub", [end, start], shape), shape
    product = flow.combine(record, Kind.SCALING, "mul", [way, weight], shape), shape
    return flow.combine(record, Kind.ADDITION, "add", [start, product], shape)


def _without_masks(given: Sequence[torch.Tensor], parts: list[flow.Part]) -> list[flow.Part]:
    """Return values without the depth of masks, which take part in no arithmetic, if there is other data."""
    numbers = [t.dtype.is_floating_point or t.dtype.is_complex for t in given]
    if all(numbers) or not any(n and info.data for n, (info, _) in zip(numbers, parts, strict=True)):
        return parts
    return [
        (info if n else replace(info, depth=0), own) for n, (info, own) in zip(numbers, parts, strict=True)
    ]


def norm(record: Record, name: str, a: dict[str, Any], out: Any) -> None:
    """Label the result of a normalisation with a gain and a bias."""
    x: torch.Tensor = a["input"] if "input" in a else a["self"]
    result = out[0] if isinstance(out, (list, tuple)) else out
    gain, bias = (
        None
        if (t := a.get(key)) is None
        else (record.get(t), tuple(t.shape) if name != "native_batch_norm" else (1,))
        for key in ("weight", "bias")
    )
    kind = name.removeprefix("native_")
    info = flow.normalized(record, record.get(x), tuple(x.shape), gain, bias, kind)
    for t in tensors(out):
        record.set(t, replace(info, results=()))
    record.set(result, info)


def join(record: Record, name: str, a: dict[str, Any], out: torch.Tensor) -> None:
    """Label what tensors become that are put side by side, or written into another."""
    parts = [(record.get(t), tuple(t.shape)) for t in tensors(a)]
    known = name in ("stack", "cat", "concat") and out.dim()
    at = a.get("dim", 0) % out.dim() if known else None
    info = flow.join(record, name.strip("_"), parts, tuple(out.shape), at, name == "stack")
    record.set(out, info)


def reduce(record: Record, name: str, a: dict[str, Any], out: Any) -> None:
    """Label a reduction; a product of data and a matrix that is summed over is a contraction."""
    x: torch.Tensor = a["self"] if "self" in a else a["x"]
    dims, keep = a.get("dim"), bool(a.get("keepdim", False))
    gone = (
        set(range(x.dim()))
        if dims in (None, [])
        else {k % max(x.dim(), 1) for k in (dims if isinstance(dims, (list, tuple)) else (dims,))}
    )
    info = flow.reduced(record, record.get(x), gone, keep, name in ("sum", "mean"))
    for t in tensors(out if isinstance(out, (list, tuple)) else (out,)):
        if t.dim() == x.dim() - (0 if keep else len(gone)):
            record.set(t, info)
        else:
            weights = tuple(replace(w, dims=blurred(w.dims, tuple(t.shape))) for w in info.weights)
            record.set(t, replace(info, weights=weights, results=()))


def anything(record: Record, name: str, inputs: Sequence[torch.Tensor], out: Any) -> None:
    """Label the result of an operation whose arithmetic is not known here."""
    parts = [(record.get(t), tuple(t.shape)) for t in inputs]
    flow.absorb_unknown(record, name, [i for i, _ in parts])
    for t in tensors(out if isinstance(out, (list, tuple)) else (out,)):
        flags = {"shifting": name in SHIFTING, "mixing": name in MIXING}
        record.set(t, flow.anything(record, parts, tuple(t.shape), **flags))


def nested(record: Record, name: str, a: dict[str, Any], results: Sequence[torch.Tensor]) -> None:
    """Label what is made of tensors of tensors, whose shapes cannot be asked for: where axes lie is lost."""
    infos = [record.get(t) for t in tensors(a)]
    whole = record.merged(infos)
    if name == "embedding":
        record.absorb(infos[0], Kind.LOOKUP, name, whole)
        whole = replace(whole, depth=max(whole.depth, 1))
    else:
        flow.absorb_unknown(record, name, infos)
    for t in results:
        record.set(t, replace(whole, results=()))


def derivative(record: Record, inputs: Sequence[torch.Tensor], results: Sequence[torch.Tensor]) -> None:
    """Label what a backward pass computes: it meets each weight again, and that is no use of its own."""
    infos = [record.get(t) for t in inputs]
    known = any(i.data or i.weights for i in infos)
    whole = record.merged([*infos, *([Info(data=True)] if known else [])])
    for t in results:
        record.set(t, replace(whole, weights=(), results=()))
