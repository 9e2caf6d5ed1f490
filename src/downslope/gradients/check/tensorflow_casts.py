"""What a TensorFlow function casts down, kept in float64 while it is checked.

As `jax_casts` for JAX: the function is traced, and its gradient by `tf.GradientTape` with its own derivative
rules; the operations of the graph are run one by one, with float64 in the place of each narrower dtype.

As there, the graph is made with casts left out where it holds numbers that were rounded: float64 stands for
each narrower dtype then or, where that meets tensors of float32, float32 for the dtypes of 16 bits.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import tensorflow as tf
from tensorflow.python.ops import gen_math_ops  # where tf.cast looks up the operation, at each call

from downslope.gradients.check.noise import EPS
from downslope.gradients.check.rounded import inexact, moved

CALLS = ("PartitionedCall", "StatefulPartitionedCall")
LOOPS = ("While", "StatelessWhile")
BRANCHES = ("If", "StatelessIf")
CASES = ("Case", "StatelessCase")
WRITES = ("AssignVariableOp", "AssignAddVariableOp", "AssignSubVariableOp")
FIXED = ("Bitcast", "PyFunc", "PyFuncStateless", "EagerPyFunc")
"""Operations that look at bits, or call back to Python."""


class Lifted:
    """A function of a list of tensors, run in float64 throughout.

    `casts` are the dtypes that it casts floating tensors down to, `held` those of tensors that it holds,
    `rounded` the numbers written into it that were rounded, with the eps of their dtype. Given those of the
    function as it is, `known`, it is traced with its casts to less than `wide` taken for casts to that.
    Variables in the `variables` of a call, by the identity of their handles, are read as what is said there;
    what the function writes to variables is seen by its own later reads, and by nobody else. In a `draw`,
    rounded numbers are moved by their rounding.

    Raises:
        TypeError: of the call, where an operation cannot be taken to float64.

    """

    def __init__(
        self,
        function: Callable[..., Any],
        examples: Sequence[Any],
        narrow: Sequence[Any],
        known: Mapping[float, float] | None = None,
        wide: Any = tf.float64,
    ) -> None:
        self.casts, self.held, self.rounded = set[str](), set[str](), dict[float, float]()
        if known is not None:
            with _casts_left_out(wide):
                traced = _traced(function, [[_least(a, wide) for a in of] for of in narrow])
        else:
            try:  # as it would run in float64
                traced = _traced(function, examples)
            except Exception:  # whatever it says to float64, or what of it cannot be traced at all
                traced = _traced(function, narrow)
        self.graph, self.outputs, self.structure = traced.graph, traced.outputs, traced.structured_outputs
        self.captured = {inside.name: outside for outside, inside in self.graph.captures}
        _look(self.graph, self.casts, self.held, self.rounded, known or {})
        self.held |= {_name(t) for t in self.captured.values() if _narrow(getattr(t, "dtype", None))}

    def __call__(
        self, *examples: Any, variables: Mapping[int, Any] | None = None, draw: int | None = None
    ) -> Any:
        """Return what the function returns, in float64."""
        own = [t for t in self.graph.inputs if t.name not in self.captured]
        values = dict(zip((t.name for t in own), tf.nest.flatten(examples), strict=True)) | self.captured
        rounded = {} if draw is None else {c: (eps, draw) for c, eps in self.rounded.items()}
        made = _Run(dict(variables or {}), rounded).graph(
            self.graph, [values[t.name] for t in self.graph.inputs]
        )
        return tf.nest.pack_sequence_as(self.structure, made, expand_composites=True)


class _Run:
    """One run of a graph: the variables as it sees them, rounded numbers each with eps and draw."""

    def __init__(self, variables: dict[int, Any], rounded: Mapping[float, tuple[float, int]]) -> None:
        self.variables, self.rounded = variables, rounded

    def graph(self, graph: Any, inputs: Sequence[Any]) -> list[Any]:
        """Return the outputs of a graph whose inputs are given, those that it captured at the end."""
        known = {t.name: _wide(v) for t, v in zip(graph.inputs, inputs, strict=True)}
        waiting = [op for op in graph.get_operations() if op.type != "Placeholder"]
        while waiting:
            later = []
            for op in waiting:  # in the order of making, but that the gradient of a loop adds inputs to it
                if all(t.name in known for t in op.inputs):
                    made = self._operation(op, [known[t.name] for t in op.inputs])
                    known.update(zip((t.name for t in op.outputs), made, strict=True))
                else:
                    later.append(op)
            if len(later) == len(waiting):
                raise TypeError(f"{later[0].name} waits for what nothing makes")
            waiting = later
        return [known[t.name] for t in graph.outputs]

    def _operation(self, op: Any, values: list[Any]) -> list[Any]:
        name = op.type
        if name in CALLS:
            return self._called(op, "f", values)
        if name in LOOPS:
            while bool(self.graph(_graph_of(op, op.get_attr("cond").name), values)[0]):
                values = self._called(op, "body", values)
            return values
        if name in BRANCHES:
            return self._called(op, "then_branch" if bool(values[0]) else "else_branch", values[1:])
        if name in CASES:
            names = [f.name for f in op.get_attr("branches")]
            chosen = int(values[0]) if 0 <= int(values[0]) < len(names) else -1
            return self._function(op, names[chosen], values[1:])
        if name == "ReadVariableOp":
            return [self._read(op, values[0])]
        if name in WRITES:
            self._write(op, *values)
            return []
        if name in FIXED:
            raise TypeError(f"{name} keeps its dtype")
        made = [_wide(t) for t in _computed(op, values)]
        number = _number(op) if op.type == "Const" and self.rounded else None
        if number is not None and abs(number) in self.rounded:
            made = [tf.constant(moved(number, *self.rounded[abs(number)]), tf.float64)]
        return made

    def _called(self, op: Any, which: str, values: Sequence[Any]) -> list[Any]:
        return self._function(op, op.get_attr(which).name, values)

    def _function(self, op: Any, name: str, values: Sequence[Any]) -> list[Any]:
        made = self.graph(_graph_of(op, name), values)
        return made[: len(op.outputs)]  # a gradient that was taken since has added outputs

    def _read(self, op: Any, handle: Any) -> Any:
        if id(handle) not in self.variables:
            read = tf.raw_ops.ReadVariableOp(resource=handle, dtype=op.get_attr("dtype"))
            self.variables[id(handle)] = _wide(read)
        return self.variables[id(handle)]

    def _write(self, op: Any, handle: Any, value: Any) -> None:
        if op.type != "AssignVariableOp":
            value = self._read(op, handle) + (value if op.type == "AssignAddVariableOp" else -value)
        self.variables[id(handle)] = value


@contextmanager
def _casts_left_out(least: Any) -> Iterator[None]:
    """Let this thread trace casts to less than a dtype as casts to that.

    Functions within are traced as parts of their callers: they would keep what they trace for other calls.
    """
    own, here, eager = gen_math_ops.cast, threading.get_ident(), tf.config.functions_run_eagerly()

    def cast(x: Any, DstT: Any, *others: Any, **named: Any) -> Any:
        wide = threading.get_ident() == here and _less(tf.as_dtype(DstT), least)
        return own(x, least if wide else DstT, *others, **named)

    tf.config.run_functions_eagerly(True)
    gen_math_ops.cast = cast
    try:
        yield
    finally:
        gen_math_ops.cast = own
        tf.config.run_functions_eagerly(eager)


def _traced(function: Callable[..., Any], examples: Sequence[Any]) -> Any:
    return tf.function(function, autograph=False).get_concrete_function(*examples)


def _look(
    graph: Any, casts: set[str], held: set[str], rounded: dict[float, float], known: Mapping[float, float]
) -> None:
    """Note what a graph, and what it calls, casts floating tensors down to, and which constants it has."""
    for op in graph.get_operations():
        if op.type == "Cast":
            before, after = op.inputs[0].dtype, op.outputs[0].dtype
            if _narrow(after) and _inexact(before) and after.size < before.size:
                casts.add(_name(op.outputs[0]))
        elif op.type == "Const" and _narrow(op.outputs[0].dtype) and _has_entries(op.outputs[0].shape):
            held.add(_name(op.outputs[0]))
        number = _number(op) if op.type == "Const" else None
        if number is not None and inexact(number):
            own = EPS.get(_name(op.outputs[0]), 0.0) if _narrow(op.outputs[0].dtype) else 0.0
            eps = known.get(abs(number), own)
            rounded.update({abs(number): eps} if eps else {})
        for name in _functions(op):
            _look(_graph_of(op, name), casts, held, rounded, known)


def _number(op: Any) -> float | None:
    """Return the number that a constant is, None if it is an array or no real number."""
    tensor = op.outputs[0]
    if tensor.shape.rank != 0 or not tensor.dtype.is_floating:
        return None
    return float(tf.make_ndarray(op.get_attr("value")))


def _has_entries(shape: Any) -> bool:
    """Whether a constant is an array; a lone number is not, nor is the empty shape of one."""
    return bool(shape.rank and shape.num_elements())


def _functions(op: Any) -> list[str]:
    """Return the names of the functions that an operation calls."""
    found = []
    for attribute in op.node_def.attr.values():
        found += [attribute.func.name] if attribute.HasField("func") else []
        found += [f.name for f in attribute.list.func]
    return found


def _graph_of(op: Any, name: str) -> Any:
    graph = op.graph
    while graph is not None:
        found = graph._functions.get(name)  # no public way leads from the name of a function to its graph
        if found is not None:
            return found.graph
        graph = getattr(graph, "outer_graph", None)
    raise TypeError(f"the function {name} has no graph")


def _computed(op: Any, values: list[Any]) -> list[Any]:
    """Run one operation on tensors in float64; what it makes of no floating tensor may be narrower."""
    if op.type == "Const":
        return [tf.constant(tf.make_ndarray(op.get_attr("value")), op.outputs[0].dtype)]
    raw = getattr(tf.raw_ops, op.type, None)
    if raw is None:
        raise TypeError(f"{op.type} cannot be run by itself")
    keep = not op.inputs or "Random" in op.type  # other numbers would be drawn in another dtype
    names = list(inspect.signature(raw).parameters)[:-1]  # the last is "name"
    arguments = _named(_inputs(op, values), names, [a.name for a in op.op_def.attr])
    attributes = {a.name: op.get_attr(a.name) for a in op.op_def.attr if a.name not in _inferred(op)}
    for name, value in _named(attributes, names, list(arguments)).items():
        arguments[name] = value if keep else _wide_attribute(value)
    made = raw(**arguments)
    if made is None or isinstance(made, tf.Operation):
        return []
    return list(made) if isinstance(made, (list, tuple)) else [made]


def _named(given: Mapping[str, Any], names: Sequence[str], others: Sequence[str]) -> dict[str, Any]:
    """Return what is given by the names that `tf.raw_ops` has for it: reduction_indices are its axis."""
    renamed = iter([n for n in names if n not in given and n not in others])
    return {n if n in names else next(renamed): value for n, value in given.items()}


def _inferred(op: Any) -> set[str]:
    """Return the attributes of an operation that its inputs tell."""
    arguments = op.op_def.input_arg
    return {a for i in arguments for a in (i.type_attr, i.number_attr, i.type_list_attr) if a}


def _inputs(op: Any, values: list[Any]) -> dict[str, Any]:
    """Return the inputs of an operation by name, lists of them together."""
    rest, found = iter(values), {}
    for argument in op.op_def.input_arg:
        if argument.number_attr:
            found[argument.name] = list(islice(rest, op.get_attr(argument.number_attr)))
        elif argument.type_list_attr:
            found[argument.name] = list(islice(rest, len(op.get_attr(argument.type_list_attr))))
        else:
            found[argument.name] = next(rest)
    return found


def _wide_attribute(value: Any) -> Any:
    if isinstance(value, list):
        return [_wide_attribute(v) for v in value]
    return _wide_dtype(value) if isinstance(value, tf.DType) and _narrow(value) else value


def _wide(value: Any) -> Any:
    """Return a tensor in float64 (or complex128) where it is narrower; all else as it is."""
    dtype = getattr(value, "dtype", None)
    return tf.cast(value, _wide_dtype(dtype)) if _narrow(dtype) else value


def _wide_dtype(dtype: Any) -> Any:
    return tf.complex128 if dtype.is_complex else tf.float64


def _inexact(dtype: Any) -> bool:
    return isinstance(dtype, tf.DType) and (dtype.is_floating or dtype.is_complex)


def _narrow(dtype: Any) -> bool:
    return _inexact(dtype) and dtype not in (tf.float64, tf.complex128)


def _less(dtype: Any, least: Any) -> bool:
    return bool(dtype.is_floating and dtype.size < least.size)


def _least(value: Any, least: Any) -> Any:
    return tf.cast(value, least) if _less(value.dtype, least) else value


def _name(tensor: Any) -> str:
    return str(tensor.dtype.name)
