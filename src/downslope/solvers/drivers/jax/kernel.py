"""A traced function as one kernel, for XLA on CPUs, that computes nothing twice.

XLA makes a loop over the lanes of every array that a function returns, and computes in each of these
loops all that the array depends on, unless something between is costly by itself. A turn of a method
returns some thirty arrays that depend on the same few dozen decisions, so that most of its time goes
into doing the same again. And each loop is a task of its own, which costs more than the arithmetic of
a hundred lanes. Here what is used more than once is kept, by a call that XLA may not inline, and all
loops become one function of machine code, by the attribute that XLA itself gives to calls of which it
knows that they are small. Where XLA knew the attributes no longer, the same would be computed slower.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.experimental.xla_metadata import set_xla_metadata
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, jaxpr_as_fun

AGAIN = 3
"""A value used more than once is kept if it takes more operations than these."""

LONGEST = 120
"""A value is kept if it takes more operations than these, however often it is used."""

FREE = {"broadcast_in_dim", "convert_element_type", "reshape", "slice", "squeeze", "transpose"}
"""Operations that cost nothing within another."""

CALLS = {"jit": "jaxpr", "custom_jvp_call": "call_jaxpr"}
"""Calls of functions that are written out, and where they have the function."""

PLAIN = FREE | CALLS.keys() | {
    "abs", "add", "add_any", "and", "atan2", "cbrt", "ceil", "clamp", "concatenate", "cond", "copy", "cos",
    "cosh", "div", "dynamic_slice", "dynamic_update_slice", "eq", "erf", "exp", "exp2", "expand_dims",
    "expm1", "floor", "gather", "ge", "gt", "integer_pow", "iota", "is_finite", "le", "log", "log1p",
    "logistic", "lt", "max", "min", "mul", "ne", "neg", "not", "or", "pad", "pow", "reduce_and",
    "reduce_max", "reduce_min", "reduce_or", "reduce_prod", "reduce_sum", "rem", "rev", "round", "rsqrt",
    "scan", "select_n", "sign", "sin", "sinh", "sqrt", "square", "stack", "stop_gradient", "sub", "tan",
    "tanh", "while", "xor",
}  # fmt: skip
"""Operations that a kernel may hold: those that XLA writes itself, and calls no library for."""

OPERATIONS = 500
"""A user's function of more operations than these, derivatives included, is left outside the kernel.

LLVM compiles a kernel as one function, in a time that grows faster than the operations in it.
"""

ENTRIES = 16384
"""A user's function with an array of more entries than these is left outside: 64 lanes of 256 numbers.

Work on them costs more than the tasks that a kernel saves, and several threads could share it.
"""

SUMMED = 4096
"""Sums and the like over so many entries are given to a library by XLA, which no kernel can call."""


def one_kernel(f: Callable[..., Any], otherwise: Callable[..., Any] | None = None) -> Callable[..., Any]:
    """Return a function of trees of arrays that is traced into one kernel, if it is of plain operations.

    What it computes is the same. Of other operations it is `otherwise`, or what it was.
    """

    def traced(*args: Any) -> Any:
        leaves, closed, tree = _traced(f, args)
        if not is_plain(closed.jaxpr):
            return (f if otherwise is None else otherwise)(*args)
        return jax.tree.unflatten(tree, _small(_Program(closed).run)(*leaves))

    return traced


def joined(f: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that is traced into one kernel with those within it, if it is of plain operations.

    For loops of kernels, which then hand their arrays on without XLA's tasks between them.
    """

    def traced(*args: Any) -> Any:
        leaves, closed, tree = _traced(f, args)
        run = jaxpr_as_fun(closed)
        return jax.tree.unflatten(tree, (_small(run) if is_plain(closed.jaxpr) else run)(*leaves))

    return traced


def _traced(f: Callable[..., Any], args: Any) -> tuple[list[Any], ClosedJaxpr, Any]:
    """Return the leaves of arguments, the program that makes the leaves of a result, and its tree."""
    leaves, tree = jax.tree.flatten(args)
    closed, shapes = jax.make_jaxpr(lambda *a: f(*jax.tree.unflatten(tree, a)), return_shape=True)(*leaves)
    return leaves, closed, jax.tree.structure(shapes)


def is_plain(program: Jaxpr) -> bool:
    """Whether a program has plain operations alone, within its loops and branches too."""
    for step in _steps(program):
        name = step.primitive.name
        if name not in PLAIN or (name.startswith("reduce_") and _entries(step.invars) >= SUMMED):
            return False
    return True


def is_small(f: Callable[..., Any], *args: Any) -> bool:
    """Whether a function has few operations, on arrays of few entries."""
    program = _traced(f, args)[1].jaxpr
    steps = list(_steps(program))
    arrays = [*program.invars, *program.constvars, *(a for step in steps for a in step.outvars)]
    return len(steps) <= OPERATIONS and _entries(arrays) <= ENTRIES


def _entries(arrays: list[Any]) -> int:
    """Return how many entries the largest array has."""
    return max((math.prod(a.aval.shape) for a in arrays), default=0)


def _steps(program: Jaxpr) -> Iterator[Any]:
    """Yield the operations of a program, and those within them."""
    for step in program.eqns:
        yield step
        inner = [p for given in step.params.values() for p in (given if type(given) is tuple else (given,))]
        for part in (getattr(p, "jaxpr", p) for p in inner):
            if isinstance(part, Jaxpr):
                yield from _steps(part)


def _called(f: Callable[..., Any], **more: str) -> Callable[..., Any]:
    """Return a function as a call that is not inlined."""
    nothing = dict.fromkeys(("inlineable", *more))

    def inside(*args: Any) -> Any:
        with set_xla_metadata(**nothing):  # type: ignore[no-untyped-call]
            return f(*args)

    jitted = jax.jit(inside)

    def call(*args: Any) -> Any:
        with set_xla_metadata(inlineable="false", **more):  # type: ignore[no-untyped-call]
            return jitted(*args)

    return call


_kept = _called(lambda a: a)


_all_kept = _called(lambda *arrays: arrays)


def _small(f: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function as a call that becomes one kernel.

    XLA's table of a kernel's arrays holds those that an operation takes: of an argument that none took, for
    it is not needed, XLA would not know the place, and give up the process. So one takes them all.
    """
    return _called(lambda *leaves: f(*_all_kept(*leaves)), xla_cpu_small_call="true")


class _Value:
    """A value of a program whose inner calls are written out."""


def _values(atoms: list[Any]) -> set[_Value]:
    return {a for a in atoms if isinstance(a, _Value)}


class _Program:
    """The operations of a traced function in order, without those that nothing depends on."""

    def __init__(self, closed: ClosedJaxpr) -> None:
        self.steps: list[tuple[Any, list[Any], list[_Value]]] = []
        self.values: dict[Any, Any] = {}
        self.arguments = [_Value() for _ in closed.jaxpr.invars]
        self.results = self._write_out(closed, self.arguments)
        needed, steps = _values(self.results), []
        for step, given, made in reversed(self.steps):
            if not needed.isdisjoint(made):
                steps.append((step, given, made))
                needed.update(_values(given))
        self.steps = steps[::-1]
        self.uses = Counter(g for _, given, _ in self.steps for g in _values(given))
        self.uses.update(_values(self.results))

    def _write_out(self, closed: ClosedJaxpr, arguments: list[Any]) -> list[Any]:
        program = closed.jaxpr
        names: dict[Any, Any] = dict(zip(program.invars, arguments, strict=True))
        for name, value in zip(program.constvars, closed.consts, strict=True):
            names[name] = made = _Value()
            self.values[made] = value

        def of(atom: Any) -> Any:
            return atom if isinstance(atom, Literal) else names[atom]

        for step in program.eqns:
            given = [of(a) for a in step.invars]
            if step.primitive.name in CALLS:
                results = self._write_out(step.params[CALLS[step.primitive.name]], given)
            else:
                results = [_Value() for _ in step.outvars]
                self.steps.append((step, given, results))
            names.update(zip(step.outvars, results, strict=True))
        return [of(a) for a in program.outvars]

    def run(self, *args: Any) -> list[Any]:
        """Return the results, each value computed once that is worth it."""
        values = {**self.values, **dict(zip(self.arguments, args, strict=True))}
        cost: dict[Any, int] = defaultdict(int)

        def of(value: Any) -> Any:
            return value.val if isinstance(value, Literal) else values[value]

        for step, given, results in self.steps:
            kind = step.primitive.name
            for few in _values(given) if kind == "broadcast_in_dim" else ():
                if cost[few] and 1 < values[few].size < math.prod(step.params["shape"]):
                    values[few], cost[few] = _kept(values[few]), 0
            made = step.primitive.bind(*map(of, given), **step.params)
            takes = sum(cost[g] for g in _values(given)) + (kind not in FREE)
            for result, value in zip(
                results, made if step.primitive.multiple_results else [made], strict=True
            ):
                alone = kind in ("while", "cond", "scan")
                keep = (self.uses[result] > 1 and takes > AGAIN) or takes > LONGEST
                values[result] = _kept(value) if keep and not alone and value.shape else value
                cost[result] = 0 if keep or alone else takes
        return [of(r) for r in self.results]
