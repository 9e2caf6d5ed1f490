"""TensorFlow's operations: which axes they sum over, pick from, move or put side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np

from downslope.grouping.facts import Kind
from downslope.grouping.flow import contract, moves, pointwise
from downslope.grouping.flow.gather import picked
from downslope.grouping.flow.info import Info
from downslope.grouping.flow.uses import Uses
from downslope.grouping.labels import Dims, blurred, foreign, regroup, size_of
from downslope.grouping.tensorflow.slices import shape_of, static, strided_slice

SCALE = {"Mul", "RealDiv", "Div", "DivNoNan", "MulNoNan", "Pow", "Xdivy", "Xlogy"}
ADD = {
    "Add", "AddV2", "AddN", "Sub", "BiasAdd", "Maximum", "Minimum", "SquaredDifference", "Select", "SelectV2",
    "Where", "FloorMod", "Atan2", "ClipByValue", "LogicalAnd", "LogicalOr", "FloorDiv",
    "Less", "LessEqual", "Greater", "GreaterEqual", "Equal", "NotEqual",
}  # fmt: skip
SHIFTING = {"Neg", "AddN"}
MIXING = {"Softmax", "LogSoftmax", "Cumsum", "Cumprod", "ReverseV2", "Roll", "MaxPool", "MaxPool3D"}
SAME = {
    "Identity", "Cast", "ReadVariableOp", "Snapshot", "EnsureShape", "CheckNumerics", "Bitcast",
    "PreventGradient", "OptimizationBarrier",
}  # fmt: skip
SHAPES = {"Shape", "ShapeN", "Size", "Rank", "VariableShape", "ZerosLike", "OnesLike"}
RANDOM = {
    "RandomStandardNormal", "RandomUniform", "RandomUniformInt", "TruncatedNormal", "Multinomial",
    "StatelessRandomNormalV2", "StatelessRandomUniformV2", "StatelessTruncatedNormalV2",
    "StatelessRandomNormal", "StatelessRandomUniform", "StatelessTruncatedNormal",
    "StatelessRandomUniformIntV2", "StatelessRandomUniformFullIntV2", "StatelessRandomGetKeyCounter",
}  # fmt: skip
REDUCING = {"Sum", "Mean", "Max", "Min", "Prod", "All", "Any", "EuclideanNorm"}
NORMS = {"FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3"}
JOIN = {
    "Pad", "PadV2", "MirrorPad", "ScatterNd", "TensorScatterUpdate", "TensorScatterAdd", "UnsortedSegmentSum",
    "UnsortedSegmentMax", "SegmentSum", "DynamicStitch", "ParallelDynamicStitch",
}  # fmt: skip


def result(uses: Uses, op: Any, infos: list[Info]) -> list[Info]:
    """Return what is known of the results of one operation."""
    name, n = op.type, len(op.outputs)
    if name in SAME:
        return [infos[0]] * n
    if name == "IdentityN":  # what has a gradient of its own, as a SiLU
        return infos
    if name == "StopGradient":
        i = infos[0]
        return [Info(i.weights, i.data, i.depth, choices=i.choices)]
    if name in ADD | SCALE:
        return [_elementwise(uses, op, infos)]
    if name in MOVES:
        return [_moved(op, infos[0], MOVES[name](op))]
    if name in HANDLERS:
        return HANDLERS[name](uses, op, infos)
    if name in JOIN:
        parts = _parts(op, infos)
        return [pointwise.join(uses, name.lower(), parts, shape_of(op.outputs[0]), None)]
    if len(infos) > 1:
        pointwise.absorb_unknown(uses, name, infos)
    parts = _parts(op, infos)
    flags = {"shifting": name in SHIFTING, "mixing": name in MIXING}
    return [pointwise.anything(uses, _telling(parts), shape_of(t), **flags) for t in op.outputs]


def _parts(op: Any, infos: Sequence[Info]) -> list[tuple[Info, tuple[int, ...]]]:
    return [(i, shape_of(t)) for i, t in zip(infos, op.inputs, strict=True)]


def _telling(parts: list[tuple[Info, tuple[int, ...]]]) -> list[tuple[Info, tuple[int, ...]]]:
    """Return the inputs that are no constants: axes, sizes and the like say nothing of the data."""
    return [p for p in parts if p[0].data or p[0].weights or p[0].choices] or parts


def _elementwise(uses: Uses, op: Any, infos: Sequence[Info]) -> Info:
    if any(i.choices for i in infos):
        uses.note_routes(infos)
    kind = Kind.SCALING if op.type in SCALE else Kind.ADDITION
    parts = _parts(op, infos)
    if op.type == "BiasAdd" and op.get_attr("data_format") == b"NCHW":
        rank = len(parts[0][1])
        bias = infos[1].moved(lambda dims: (*dims, *[()] * (rank - 2)))
        parts[1] = (bias, (*parts[1][1], *[1] * (rank - 2)))
    return pointwise.combine(uses, kind, op.type.lower(), parts, shape_of(op.outputs[0]))


# -- rearrangements ----------------------------------------------------------------------------


def _moved(op: Any, info: Info, move: Callable[[Dims], Dims]) -> Info:
    own, shape = shape_of(op.inputs[0]), shape_of(op.outputs[0])
    return info.moved(lambda dims: move(dims) if len(dims) == len(own) else blurred(dims, shape))


def _reshape(op: Any) -> Callable[[Dims], Dims]:
    own, shape = shape_of(op.inputs[0]), shape_of(op.outputs[0])
    if prod(own) == prod(shape):
        return lambda dims: regroup(dims, shape)
    return lambda dims: blurred(dims, shape)


def _transpose(op: Any) -> Callable[[Dims], Dims]:
    order = static(op.inputs[1])
    if order is None:
        return lambda dims: blurred(dims, shape_of(op.outputs[0]))
    return lambda dims: tuple(dims[k] for k in order)


def _stretch(op: Any) -> Callable[[Dims], Dims]:
    own, shape = shape_of(op.inputs[0]), shape_of(op.outputs[0])
    padded = (1,) * (len(shape) - len(own)) + own

    def move(dims: Dims) -> Dims:
        whole = ((),) * (len(shape) - len(own)) + dims
        return tuple(d if n == m else foreign(m) for d, n, m in zip(whole, padded, shape, strict=True))

    return move


MOVES: dict[str, Callable[[Any], Callable[[Dims], Dims]]] = {
    "Reshape": _reshape,
    "ExpandDims": _reshape,
    "Squeeze": _reshape,
    "Transpose": _transpose,
    "BroadcastTo": _stretch,
    "Tile": _stretch,
    "ReverseV2": lambda op: lambda dims: dims,
}


def _split(uses: Uses, op: Any, infos: list[Info]) -> list[Info]:
    at, value = (0, 1) if op.type == "Split" else (2, 0)
    axis = int(static(op.inputs[at])) % max(op.inputs[value].shape.rank, 1)
    return moves.parts(uses, infos[value], axis, [shape_of(t)[axis] for t in op.outputs])


def _unpack(uses: Uses, op: Any, infos: list[Info]) -> list[Info]:
    axis = op.get_attr("axis") % op.inputs[0].shape.rank
    found = moves.parts(uses, infos[0], axis, [1] * len(op.outputs))
    return [i.moved(lambda dims: (*dims[:axis], *dims[axis + 1 :])) for i in found]


def _slice(uses: Uses, op: Any, infos: list[Info]) -> list[Info]:
    own, shape = shape_of(op.inputs[0]), shape_of(op.outputs[0])
    starts = static(op.inputs[1])
    if starts is None:
        return _dynamic(uses, op, infos, [k for k in range(len(own)) if own[k] != shape[k]])
    stops = [int(a) + n for a, n in zip(starts, shape, strict=True)]
    return [moves.sliced(uses, infos[0], own, [int(a) for a in starts], stops)]


def _dynamic(uses: Uses, op: Any, infos: list[Info], axes: list[int]) -> list[Info]:
    """Return what is at a place that is known only when the graph runs."""
    shape = shape_of(op.outputs[0])

    def move(dims: Dims) -> Dims:
        return tuple(
            blurred((d,), (n,))[0] if k in axes and n > 1 else () if k in axes else d
            for k, (d, n) in enumerate(zip(dims, shape, strict=True))
        )

    return [picked(uses, infos, move, axes, [k for k in axes if shape[k] == 1], index=False)]


def _join(uses: Uses, op: Any, infos: list[Info]) -> list[Info]:
    shape = shape_of(op.outputs[0])
    if op.type == "Pack":
        at = op.get_attr("axis") % len(shape)
        return [pointwise.join(uses, "pack", _parts(op, infos), shape, at, new=True)]
    at = int(static(op.inputs[-1])) % len(shape)
    return [pointwise.join(uses, "concat", _parts(op, infos)[:-1], shape, at)]


# -- contractions ------------------------------------------------------------------------------


def _matmul(uses: Uses, op: Any, infos: list[Info]) -> list[Info]:
    x, y = (shape_of(t) for t in op.inputs)
    plain = op.type == "MatMul"
    left = op.get_attr("transpose_a" if plain else "adj_x")
    right = op.get_attr("transpose_b" if plain else "adj_y")
    rank = max(len(x), len(y))
    lead = list(range(rank - 2))
    lx = [*_lead(x, lead), *(("k", "i") if left else ("i", "k"))]
    ly = [*_lead(y, lead), *(("j", "k") if right else ("k", "j"))]
    # An axis of size one runs beside nothing.
    lx = [("x", c) if n == 1 and c in lead else c for c, n in zip(lx, x, strict=True)]
    ly = [("y", c) if n == 1 and c in lead else c for c, n in zip(ly, y, strict=True)]
    kept = [c if c in lx or c in ly else ("x", c) if ("x", c) in lx else ("y", c) for c in lead]
    return [_product(uses, "matmul", op, infos, lx, ly, [*kept, "i", "j"])]


def _lead(shape: tuple[int, ...], lead: list[int]) -> list[int]:
    return lead[len(lead) - (len(shape) - 2) :] if len(shape) > 2 else []


def _product(
    uses: Uses, name: str, op: Any, infos: list[Info], lx: list[Any], ly: list[Any], kept: list[Any]
) -> Info:
    x, y = (shape_of(t) for t in op.inputs)
    sizes = dict(zip(lx, x, strict=True)) | dict(zip(ly, y, strict=True))
    return contract.product(uses, name, infos[0], infos[1], lx, ly, kept, sizes)


def _einsum(uses: Uses, op: Any, infos: list[Info]) -> list[Info]:
    left, kept = op.get_attr("equation").decode().replace(" ", "").split("->")
    terms = left.split(",")
    if len(terms) != 2:
        shape = shape_of(op.outputs[0])
        pointwise.absorb_unknown(uses, "einsum", infos)
        return [pointwise.anything(uses, _parts(op, infos), shape)]
    ranks = [len(shape_of(t)) for t in op.inputs]
    dots = max(rank - len(term.replace("...", "")) for rank, term in zip(ranks, terms, strict=True))

    def letters(term: str, rank: int) -> list[Any]:
        n = rank - len(term.replace("...", ""))
        before, _, after = term.partition("...")
        return [*before, *range(dots - n, dots), *after] if "..." in term else list(term)

    lx, ly = (letters(term, rank) for term, rank in zip(terms, ranks, strict=True))
    return [_product(uses, "einsum", op, infos, lx, ly, letters(kept, len(shape_of(op.outputs[0]))))]


def _convolution(uses: Uses, op: Any, infos: list[Info]) -> list[Info]:
    kernel, shape = shape_of(op.inputs[1]), shape_of(op.outputs[0])
    format_ = op.get_attr("data_format").decode()
    channels = 1 if format_.startswith("NC") else len(shape) - 1
    groups = shape_of(op.inputs[0])[channels] // kernel[-2]
    o = len(kernel) - 1
    return [contract.convolution(uses, infos[0], infos[1], kernel, o, shape, channels, groups)]


def _transposed(uses: Uses, op: Any, infos: list[Info]) -> list[Info]:
    kernel, shape = shape_of(op.inputs[1]), shape_of(op.outputs[0])
    channels = 1 if op.get_attr("data_format").decode().startswith("NC") else len(shape) - 1
    o = len(kernel) - 2
    return [contract.convolution(uses, infos[2], infos[1], kernel, o, shape, channels, 1)]


def _depthwise(uses: Uses, op: Any, infos: list[Info]) -> list[Info]:
    """A kernel (height, width, in, multiplier) has a filter, or several, for each channel."""
    kernel, shape = shape_of(op.inputs[1]), shape_of(op.outputs[0])
    channels = 1 if op.get_attr("data_format").decode().startswith("NC") else len(shape) - 1
    flat = (*kernel[:-2], 1, kernel[-2] * kernel[-1])
    weight = infos[1].moved(lambda dims: regroup(dims, flat))
    return [contract.convolution(uses, infos[0], weight, flat, 3, shape, channels, kernel[-2])]


# -- lookups, reductions, rankings -------------------------------------------------------------


def _gather(uses: Uses, op: Any, infos: list[Info]) -> list[Info]:
    own, out = shape_of(op.inputs[0]), shape_of(op.outputs[0])
    if op.type == "ResourceGather":  # of a variable itself, whose handle has no shape
        own = tuple(size_of(d) for d in infos[0].weights[0].dims) if infos[0].weights else own
        axis, beside = 0, op.get_attr("batch_dims")
    elif op.type == "GatherV2":
        axis, beside = int(static(op.inputs[2])) % max(len(own), 1), op.get_attr("batch_dims")
    else:  # GatherNd picks along the first axes
        depth = shape_of(op.inputs[1])[-1]
        axes = list(range(depth))
        lead = len(out) - (len(own) - depth)
        move = lambda dims: (*(foreign(n) for n in out[:lead]), *dims[depth:])  # noqa: E731
        return [picked(uses, infos[:2], move, axes, axes)]
    places = len(out) - (len(own) - 1)

    def move_rest(dims: Dims) -> Dims:
        if len(dims) != len(own) or places < 0:
            return blurred(dims, out)
        middle = out[axis : axis + places]
        return (*dims[:axis], *(foreign(n) for n in middle), *dims[axis + 1 :])

    axes = [axis, *range(beside)]
    return [picked(uses, infos[:2], move_rest, axes, axes, beside=range(beside))]


def _reduce(uses: Uses, op: Any, infos: list[Info]) -> list[Info]:
    rank = op.inputs[0].shape.rank or 0
    axes = static(op.inputs[1])
    gone = set(range(rank)) if axes is None else {int(a) % max(rank, 1) for a in np.atleast_1d(axes)}
    keep = op.get_attr("keep_dims")
    return [pointwise.reduced(uses, infos[0], gone, keep, op.type in ("Sum", "Mean"))]


def _rank(uses: Uses, op: Any, infos: list[Info]) -> list[Info]:
    rank = op.inputs[0].shape.rank or 0
    at = rank - 1 if op.type == "TopKV2" else int(static(op.inputs[1])) % max(rank, 1)
    values, places = pointwise.ranked(uses, infos[0], at if rank else None)
    return [values, places] if op.type == "TopKV2" else [places]


def _norm(uses: Uses, op: Any, infos: list[Info]) -> list[Info]:
    parts = _parts(op, infos)
    info = pointwise.normalized(uses, infos[0], parts[0][1], parts[1], parts[2], "batch_norm")
    for statistic in parts[3:5]:  # frozen weights of their own, where the model holds them
        uses.absorb(statistic[0], Kind.ADDITION, "batch_norm", info)
    return [info, *[replace(info, results=())] * (len(op.outputs) - 1)]


def _one_hot(uses: Uses, op: Any, infos: list[Info]) -> list[Info]:
    return [replace(infos[0], results=(), weights=())]


Handler = Callable[[Uses, Any, list[Info]], list[Info]]
HANDLERS: dict[str, Handler] = {
    **dict.fromkeys(("Split", "SplitV"), _split),
    "Unpack": _unpack,
    "Slice": _slice,
    "StridedSlice": strided_slice,
    **dict.fromkeys(("ConcatV2", "Pack"), _join),
    **dict.fromkeys(("MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3"), _matmul),
    "Einsum": _einsum,
    **dict.fromkeys(("Conv2D", "Conv3D"), _convolution),
    **dict.fromkeys(("Conv2DBackpropInput", "Conv3DBackpropInputV2"), _transposed),
    "DepthwiseConv2dNative": _depthwise,
    **dict.fromkeys(("ResourceGather", "GatherV2", "GatherNd"), _gather),
    **dict.fromkeys(sorted(REDUCING), _reduce),
    **dict.fromkeys(("TopKV2", "ArgMax", "ArgMin"), _rank),
    **dict.fromkeys(sorted(NORMS), _norm),
    "OneHot": _one_hot,
}
