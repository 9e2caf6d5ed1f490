"""Partition of a plain `tf.Module`: its graph is traced once, and the policy reads what it shows.

Every variable is followed from where the graph reads it, through transposes and reshapes, to the
products, convolutions and gathers that it meets the data in; their attributes say which axes are
summed over.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import tensorflow as tf

from downslope.errors import UsageError, one_line
from downslope.grouping.facts import Kind, ModelFacts, ParameterFacts
from downslope.grouping.labels import Dims, axes_of, of_shape, regroup
from downslope.grouping.met import Info, Meeting, Record, merged
from downslope.grouping.overrides import Overrides, applied
from downslope.grouping.partition import Partition
from downslope.grouping.policy import assign

_SAME = ("Identity", "Cast", "ReadVariableOp", "StopGradient", "Snapshot")
_ADD = ("Add", "AddV2", "Sub", "BiasAdd", "Maximum", "Minimum")
_SCALE = ("Mul", "RealDiv", "Pow", "Rsqrt")
_NORMS = ("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3")
_JOIN = ("ConcatV2", "Pack")
_RANK = ("TopKV2", "ArgMax", "ArgMin")
_CALLS = ("PartitionedCall", "StatefulPartitionedCall")


@dataclass(frozen=True)
class Weight:
    """A tensor made from a variable alone: where the variable's axes lie in it."""

    variable: Any
    dims: Dims


@dataclass
class _Walk:
    """What is known of every tensor of a graph: weights, data, or neither (a constant)."""

    record: Record
    weights: dict[str, Weight] = field(default_factory=dict)
    infos: dict[str, Info] = field(default_factory=dict)


def partition(
    module: Any,
    *example_inputs: Any,
    overrides: Overrides | None = None,
    heads: Literal["fused", "split"] = "fused",
    **example_kwargs: Any,
) -> Partition:
    """Say which rule each variable of a `tf.Module` gets, and why, from the graph of one call.

    Args:
        module: called as `module(*example_inputs, **example_kwargs)`; nothing is computed.
        *example_inputs: tensors, arrays or `tf.TensorSpec`s.
        overrides: as in `downslope.keras.partition`.
        heads: likewise.
        **example_kwargs: keyword arguments of the module.

    Raises:
        UsageError: a module without variables, or that cannot be traced with these inputs; an
            override that matches nothing.

    """
    named = named_variables(module)
    if not named:
        raise UsageError(f"{type(module).__name__} has no variables: there is nothing to group")
    record = _traced(module, named, example_inputs, example_kwargs)
    parameters = tuple(
        ParameterFacts(name, tuple(v.shape), record.of(v), v.trainable) for name, v in named.items()
    )
    found = assign(ModelFacts(parameters, record.depth), split_heads=heads == "split")
    return Partition(applied(found, overrides or {}, lambda _: None), named)


def named_variables(module: Any) -> dict[str, Any]:
    """Return the variables of a module by the path of attributes that leads to each."""
    paths = module._flatten(
        predicate=lambda v: isinstance(v, tf.Variable), with_path=True, expand_composites=False
    )
    return {"/".join(str(part) for part in path): v for path, v in paths}


def _traced(module: Any, named: Mapping[str, Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Record:
    try:
        concrete = tf.function(lambda *a, **k: module(*a, **k)).get_concrete_function(*args, **kwargs)
    except Exception as error:
        n = len(args) + len(kwargs)
        raise UsageError(
            f"{type(module).__name__} could not be traced with {n} inputs: {one_line(error)}"
        ) from error
    handles = {id(v.handle): v for v in named.values()}
    record, weights, infos = Record(), {}, {}
    for outside, inside in concrete.graph.captures:
        if id(outside) in handles:
            v = handles[id(outside)]
            weights[inside.name] = Weight(v, of_shape(v.shape))
    for t in tf.nest.flatten(concrete.structured_input_signature, expand_composites=True):
        if isinstance(t, tf.TensorSpec):
            infos[f"{t.name}:0"] = Info()
    captured = {inside.name for _, inside in concrete.graph.captures}
    infos |= {t.name: Info() for t in concrete.graph.inputs if t.name not in captured}
    walk = _Walk(record, weights, infos)
    _follow(walk, concrete.graph)
    record.finish([walk.infos[t.name] for t in concrete.graph.outputs if t.name in walk.infos])
    return record


def _follow(walk: _Walk, graph: Any) -> None:
    """Go through a graph's operations in the order in which they were made."""
    for op in graph.get_operations():
        if op.type == "Placeholder" or not op.outputs:
            continue
        if op.type in _CALLS:
            _call(walk, graph, op)
            continue
        for output, known in zip(op.outputs, _known(walk, op), strict=False):
            if isinstance(known, Weight):
                walk.weights[output.name] = known
            elif known is not None:
                walk.infos[output.name] = known


def _call(walk: _Walk, graph: Any, op: Any) -> None:
    """Follow a function that the graph calls."""
    name = op.get_attr("f").name
    inner = graph._get_function(name).graph
    own = _Walk(walk.record)
    for outside, inside in zip(op.inputs, inner.inputs, strict=True):
        if outside.name in walk.weights:
            own.weights[inside.name] = walk.weights[outside.name]
        elif outside.name in walk.infos:
            own.infos[inside.name] = walk.infos[outside.name]
    _follow(own, inner)
    for outside, inside in zip(op.outputs, inner.outputs, strict=False):
        if inside.name in own.weights:
            walk.weights[outside.name] = own.weights[inside.name]
        elif inside.name in own.infos:
            walk.infos[outside.name] = own.infos[inside.name]


def _known(walk: _Walk, op: Any) -> list[Weight | Info | None]:
    """Return what is known of the results of an operation."""
    weights = [walk.weights.get(t.name) for t in op.inputs]
    infos = [walk.infos.get(t.name) for t in op.inputs]
    data = [i for i in infos if i is not None]
    n = len(op.outputs)
    if not data and op.type != "ResourceGather":
        moved = _moved(op, weights[0]) if weights and weights[0] else None
        return [moved] * n
    found = [
        meeting
        for k, w in enumerate(weights)
        if w is not None and (meeting := _meeting(op, k, w, infos)) is not None
    ]
    walk.record.routes(data)
    info = walk.record.meet(found, merged(data))
    if op.type in _RANK:
        info = Info(info.depth, info.writers, info.choices | info.writers)
    return [info] * n


def _moved(op: Any, w: Weight) -> Weight | None:
    """Return a weight after an operation that only rearranges it; None where its axes are lost."""
    if op.type in _SAME:
        return w
    shape = tuple(op.outputs[0].shape)
    if op.type == "Transpose":
        order = tf.get_static_value(op.inputs[1])
        return None if order is None else Weight(w.variable, tuple(w.dims[k] for k in order))
    if op.type in ("Reshape", "ExpandDims", "Squeeze") and None not in shape:
        return Weight(w.variable, regroup(w.dims, shape))
    if op.type in (*_ADD, *_SCALE, "Neg", "Square", "Sqrt") and shape == tuple(op.inputs[0].shape):
        return w
    return None


def _meeting(op: Any, position: int, w: Weight, infos: list[Info | None]) -> Meeting | None:
    """Return how a weight among the inputs of an operation meets the data."""
    kind = op.type
    if kind in ("MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3"):
        return _product(op, position, w)
    if kind == "Einsum":
        return _einsum(op, position, w)
    if kind in _CONVOLUTIONS and position == 1:
        return _CONVOLUTIONS[kind](w)
    if kind in ("ResourceGather", "GatherV2", "ResourceGatherNd", "GatherNd") and position == 0:
        rows = _axes(w, [0])
        return Meeting(w.variable, Kind.LOOKUP, "lookup", _rest(w, rows), rows)
    everything = tuple(range(len(w.variable.shape)))
    if kind in _ADD:
        return Meeting(w.variable, Kind.ADDITION, "addition", everything)
    if kind in _SCALE:
        return Meeting(w.variable, Kind.SCALING, "scale", everything)
    if kind in _NORMS:
        return Meeting(
            w.variable, Kind.SCALING if position == 1 else Kind.ADDITION, "normalization", everything
        )
    if kind in _JOIN:
        return Meeting(w.variable, Kind.JOIN, "join", everything)
    if kind in ("ReadVariableOp", "Shape", "VariableShape"):
        return None
    return Meeting(w.variable, Kind.UNKNOWN, kind, everything)


def _axes(w: Weight, places: list[int]) -> tuple[int, ...]:
    return tuple(sorted(axes_of([w.dims[k] for k in places])))


def _rest(w: Weight, taken: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(axis for axis in range(len(w.variable.shape)) if axis not in taken)


def _contracted(w: Weight, summed: list[int], beside: list[int], operation: str) -> Meeting:
    inputs = _axes(w, summed)
    batch = tuple(axis for axis in _axes(w, beside) if axis not in inputs)
    outputs = tuple(axis for axis in _rest(w, inputs) if axis not in batch)
    head = 0
    if len(outputs) > 1:
        head = 1
        for axis in outputs[1:]:
            head *= w.variable.shape[axis]
    return Meeting(w.variable, Kind.CONTRACTION, operation, outputs, inputs, batch, head=head)


def _product(op: Any, position: int, w: Weight) -> Meeting:
    names = ("transpose_a", "transpose_b") if op.type == "MatMul" else ("adj_x", "adj_y")
    swapped = op.get_attr(names[position])
    n = len(w.dims)
    last = (position == 0) != swapped  # the summed axis is the last of a, the one before it of b
    other = len(op.inputs[1 - position].shape)
    return _contracted(w, [n - 1 if last else n - 2], list(range(n - 2)) if other > 2 else [], "product")


def _einsum(op: Any, position: int, w: Weight) -> Meeting:
    left, kept = op.get_attr("equation").decode().replace("...", "").split("->")
    terms = left.split(",")
    own, others = terms[position], "".join(t for k, t in enumerate(terms) if k != position)
    summed = [k for k, letter in enumerate(own) if letter not in kept]
    beside = [k for k, letter in enumerate(own) if letter in kept and letter in others]
    return _contracted(w, summed, beside, "einsum")


def _convolution(w: Weight) -> Meeting:
    outputs = _axes(w, [len(w.dims) - 1])
    return Meeting(w.variable, Kind.CONVOLUTION, "convolution", outputs, _rest(w, outputs))


def _transposed(w: Weight) -> Meeting:
    outputs = _axes(w, [len(w.dims) - 2])
    return Meeting(w.variable, Kind.CONVOLUTION, "transposed convolution", outputs, _rest(w, outputs))


def _depthwise(w: Weight) -> Meeting:
    n = len(w.dims)
    outputs, channels = _axes(w, [n - 1]), _axes(w, [n - 2])
    inputs = tuple(axis for axis in _rest(w, outputs) if axis not in channels)
    return Meeting(w.variable, Kind.CONVOLUTION, "depthwise convolution", outputs, inputs, channels)


_CONVOLUTIONS: dict[str, Callable[[Weight], Meeting]] = {
    "Conv2D": _convolution,
    "Conv3D": _convolution,
    "Conv2DBackpropInput": _transposed,
    "Conv3DBackpropInputV2": _transposed,
    "DepthwiseConv2dNative": _depthwise,
}
