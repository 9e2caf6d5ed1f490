"""Operations that only rearrange a tensor: how labels move through each of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import prod
from typing import Any

import torch

from downslope.grouping.flow.info import Info
from downslope.grouping.flow.moves import taken
from downslope.grouping.labels import Dims, blurred, cut, foreign, regroup, shifted
from downslope.grouping.torch.record import Record

Arguments = dict[str, Any]
Move = Callable[[Dims], Dims]


def _transpose(a: Arguments, x: torch.Tensor) -> Move:
    order = list(range(x.dim()))
    i, j = a.get("dim0", 0), a.get("dim1", x.dim() - 1)
    if x.dim() > 1:
        order[i], order[j] = order[j], order[i]
    return lambda dims: tuple(dims[k] for k in order)


def _permute(a: Arguments, x: torch.Tensor) -> Move:
    return lambda dims: tuple(dims[k] for k in a["dims"])


def _unsqueeze(a: Arguments, x: torch.Tensor) -> Move:
    at = a["dim"] % (x.dim() + 1)
    return lambda dims: (*dims[:at], (), *dims[at:])


def _squeeze(a: Arguments, x: torch.Tensor) -> Move:
    at = a.get("dim")
    if at is None:
        gone = set(range(x.dim()))
    else:
        gone = {k % max(x.dim(), 1) for k in (at if isinstance(at, Sequence) else (at,))}
    return lambda dims: tuple(d for k, d in enumerate(dims) if k not in gone or x.shape[k] != 1)


def _flip(a: Arguments, x: torch.Tensor) -> Move:
    return lambda dims: dims


MOVES: dict[str, Callable[[Arguments, torch.Tensor], Move]] = {
    "t": _transpose,
    "numpy_T": _transpose,
    "transpose": _transpose,
    "transpose_": _transpose,
    "adjoint": _transpose,
    "permute": _permute,
    "unsqueeze": _unsqueeze,
    "unsqueeze_": _unsqueeze,
    "squeeze": _squeeze,
    "squeeze_": _squeeze,
    "view_as_real": lambda a, x: lambda dims: (*dims, foreign(2)),
    "flip": _flip,
    "roll": _flip,
}
RESHAPES = {
    "view",
    "_unsafe_view",
    "reshape",
    "_reshape_alias",
    "_reshape_copy",
    "view_copy",
    "unflatten",
    "flatten",
}
COPIES = {
    "alias", "clone", "_to_copy", "contiguous", "lift_fresh_copy", "lift", "lift_fresh", "to", "_conj",
    "resolve_conj", "resolve_neg", "_fw_primal", "positive", "_neg_view", "conj_physical", "pin_memory",
}  # fmt: skip
PARTS = {
    "split",
    "split_with_sizes",
    "unsafe_split",
    "unsafe_split_with_sizes",
    "chunk",
    "tensor_split",
    "unsafe_chunk",
}
VIEWS = {
    *MOVES,
    *RESHAPES,
    *COPIES,
    *PARTS,
    "slice",
    "select",
    "unbind",
    "expand",
    "narrow",
    "detach",
    "detach_",
    "unfold",
    "view_as_complex",
}


def view(record: Record, name: str, a: Arguments, out: Any) -> None:
    """Label the result or results of a view of `self`."""
    x: torch.Tensor = a["self"] if "self" in a else a["input"]
    info = record.get(x)
    if name in PARTS:
        _parts(record, x, info, a.get("dim", 0), out)
    elif name == "unbind":
        at = a.get("dim", 0) % x.dim()
        for i, part in enumerate(out):
            record.note_cut(info, at, i, i + 1)
            record.set(part, _selected(info, at, i))
    elif name == "select":
        at, i = a["dim"] % x.dim(), a["index"] % x.shape[a["dim"]]
        record.note_cut(info, at, i, i + 1)
        record.set(out, _selected(info, at, i))
    elif name in ("slice", "narrow"):
        _slice(record, x, info, a, out)
    elif name == "view_as_complex":  # a stack of real and imaginary parts
        record.set(out, taken(info, x.dim() - 1, 0).moved(lambda dims: dims[:-1]))
    elif name in ("detach", "detach_"):
        record.set(out, Info(info.weights, info.data, info.depth, choices=info.choices))
    else:
        record.set(out, info.moved(_move(name, a, x, out)))


def _move(name: str, a: Arguments, x: torch.Tensor, out: torch.Tensor) -> Move:
    own, shape = tuple(x.shape), tuple(out.shape)
    if name in MOVES:
        return MOVES[name](a, x)
    if name == "expand":
        missing = len(shape) - len(own)
        sizes = (1,) * missing + own
        return lambda dims: tuple(
            d if s == n else foreign(n) for d, s, n in zip(((),) * missing + dims, sizes, shape, strict=True)
        )
    if prod(own) == prod(shape) and name != "unfold":
        return lambda dims: regroup(dims, shape)
    return lambda dims: blurred(dims, shape)


def _parts(record: Record, x: torch.Tensor, info: Info, dim: int, out: Sequence[torch.Tensor]) -> None:
    at, low = dim % x.dim(), 0
    for part in out:
        high = low + part.shape[at]
        if len(out) > 1:
            record.note_cut(info, at, low, high)
        record.set(part, _sliced(info, at, low, high, 1))
        low = high


def _slice(record: Record, x: torch.Tensor, info: Info, a: Arguments, out: torch.Tensor) -> None:
    at = a.get("dim", 0) % x.dim()
    size = x.shape[at]
    if "length" in a:
        start, stop, step = int(a["start"]) % max(size, 1), int(a["start"]) % max(size, 1) + a["length"], 1
    else:
        start, stop, step = slice(a.get("start"), a.get("end"), a.get("step", 1)).indices(size)
    if (start, stop, step) != (0, size, 1):
        record.note_cut(info, at, start, stop, step)
    record.set(out, _sliced(info, at, start, max(stop, start), step))


def _sliced(info: Info, at: int, low: int, high: int, step: int) -> Info:
    return info.moved(lambda dims: (*dims[:at], cut(dims[at], low, high, step), *dims[at + 1 :]))


def _selected(info: Info, at: int, i: int) -> Info:
    def move(dims: Dims) -> Dims:
        rest = (*dims[:at], *dims[at + 1 :])
        return shifted(rest, cut(dims[at], i, i + 1))

    return info.moved(move)


def gated(record: Record, a: dict[str, Any], out: torch.Tensor) -> None:
    """Label a gated linear unit: one half of a result gates the other."""
    x: torch.Tensor = a["self"]
    info, at = record.get(x), a.get("dim", -1) % x.dim()
    half = x.shape[at] // 2
    record.note_cut(info, at, 0, half)
    record.note_cut(info, at, half, 2 * half)
    record.set(out, replace(info, results=()))
