"""Run a jaxpr and keep of every operation whether it gave NaN or infinity.

A code of 0 is finite, 1 an infinity, 2 a NaN. Calls are run in place; the bodies of loops and
branches are regions of their own, whose codes come back a row a turn.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend import source_info_util
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, jaxpr_as_fun

from downslope.diagnose.watch.jax import arguments
from downslope.diagnose.watch.origin import Operation, maker

source_info_util.register_exclusion(
    arguments.__file__
)  # it calls the function, and is no line of the program

PEAKS = (0.0, math.inf, math.nan)
CALLS = (
    "jit",
    "pjit",
    "closed_call",
    "core_call",
    "custom_jvp_call",
    "custom_vjp_call",
    "checkpoint",
    "remat2",
)

Found = tuple[str, str, str, bool]
"""Primitive ("" for a value from outside), name stack, line of the program, whether NaN."""


@dataclass
class Region:
    """A jaxpr's operations in order, and where each stands in the program."""

    operations: list[Operation] = field(default_factory=list)
    places: list[tuple[str, str]] = field(default_factory=list)
    inner: dict[int, list[Region]] = field(default_factory=dict)
    results: list[int] = field(default_factory=list)
    codes: list[Any] = field(default_factory=list)

    def add(
        self, name: str, sources: Sequence[int], values: Sequence[Any], eqn: Any = None, stack: str = ""
    ) -> int:
        """Take note of an operation and of what it gave; return its number."""
        self.operations.append(Operation(stack, name, tuple(sources)))
        self.places.append((stack, _line(eqn) if eqn is not None else ""))
        self.codes.append(_code(values))
        return len(self.operations) - 1

    def packed(self) -> Any:
        """Return the codes as one vector, with those of inner regions beside."""
        own = [c if not isinstance(c, tuple) else c[0] for c in self.codes]
        rows = {str(i): c[1] for i, c in enumerate(self.codes) if isinstance(c, tuple)}
        return (jnp.stack(own) if own else jnp.zeros(0, jnp.int8)), rows

    def first(self, packed: Any) -> Found | None:
        """Return the first operation that made NaN or infinity on the way to a result, by its codes."""
        codes, rows = packed
        for op, code in zip(self.operations, codes.tolist(), strict=True):
            op.peak = PEAKS[code]
        made = (maker(self.operations, r) for r in self.results)
        number = next((m for m in made if m is not None), None)
        if number is None:
            return None
        op = self.operations[number]
        for region, turns in zip(self.inner.get(number, []), rows.get(str(number), []), strict=True):
            for turn in range(len(turns[0])):
                found = region.first(jax.tree.map(lambda a, turn=turn: a[turn], turns))
                if found is not None and found[0]:
                    return found
        return op.name, *self.places[number], math.isnan(op.peak)


def interpret(
    jaxpr: Jaxpr, consts: Sequence[Any], args: Sequence[Any], outer: str = ""
) -> tuple[Region, list[Any], Any]:
    """Return the region, the outputs and the codes of a jaxpr on `args`."""
    region = Region()
    given = [(v, region.add("", (), [v])) for v in args]
    made = _run(region, jaxpr, consts, given, outer)
    region.results = [number for _, number in made]
    return region, [value for value, _ in made], region.packed()


def _run(
    region: Region, jaxpr: Any, consts: Sequence[Any], args: Sequence[tuple[Any, int]], outer: str
) -> list[Any]:
    known: dict[Any, tuple[Any, int]] = {
        v: (c, region.add("", (), [c])) for v, c in zip(jaxpr.constvars, consts, strict=True)
    }
    known.update(zip(jaxpr.invars, args, strict=True))

    def get(v: Any) -> tuple[Any, int]:
        return (v.val, region.add("literal", (), [v.val])) if isinstance(v, Literal) else known[v]

    for eqn in jaxpr.eqns:  # their name stacks begin anew in each body
        given = [get(v) for v in eqn.invars]
        name, stack = eqn.primitive.name, "/".join(filter(None, [outer, str(eqn.source_info.name_stack)]))
        if (body := _called(eqn)) is not None:
            made = _run(region, body.jaxpr, body.consts, given, stack)
        else:
            values, inner, rows = _apply(eqn, [value for value, _ in given], stack)
            number = region.add(name, [n for _, n in given], values, eqn, stack)
            if inner:
                region.inner[number] = inner
                region.codes[number] = region.codes[number], rows
            made = [(value, number) for value in values]
        known.update(zip(eqn.outvars, made, strict=True))
    return [get(v) for v in jaxpr.outvars]


def _apply(eqn: Any, args: list[Any], stack: str) -> tuple[list[Any], list[Region], list[Any]]:
    """Return the outputs of an equation, with its inner regions and their codes, a row a turn."""
    special = {"scan": _scan, "while": _while, "cond": _cond}.get(eqn.primitive.name)
    if special is not None:
        return special(eqn.params, args, stack)
    params = eqn.primitive.get_bind_params(eqn.params)
    parts, params = params if isinstance(params, tuple) else ((), params)  # JAX before 0.9
    out = eqn.primitive.bind(*parts, *args, **params)
    return (list(out) if eqn.primitive.multiple_results else [out]), [], []


def _scan(p: Any, args: list[Any], stack: str) -> tuple[list[Any], list[Region], list[Any]]:
    consts, carry = args[: p["num_consts"]], args[p["num_consts"] : p["num_consts"] + p["num_carry"]]
    regions: list[Region] = []

    def turn(carry: Any, x: Any) -> Any:
        region, out, codes = interpret(p["jaxpr"].jaxpr, p["jaxpr"].consts, [*consts, *carry, *x], stack)
        regions.append(region)
        return tuple(out[: p["num_carry"]]), (tuple(out[p["num_carry"] :]), codes)

    xs = tuple(args[p["num_consts"] + p["num_carry"] :])
    last, (ys, rows) = lax.scan(turn, tuple(carry), xs, length=p["length"], reverse=p["reverse"])
    if p["reverse"]:
        rows = jax.tree.map(lambda a: jnp.flip(a, 0), rows)
    return [*last, *ys], regions[-1:], [rows]


def _while(p: Any, args: list[Any], stack: str) -> tuple[list[Any], list[Region], list[Any]]:
    """Keep the codes of the first turn in which anything is not finite."""
    own, rest = args[: p["cond_nconsts"]], args[p["cond_nconsts"] :]
    consts, carry = rest[: p["body_nconsts"]], rest[p["body_nconsts"] :]
    regions: list[Region] = []

    def body(carry: Any) -> Any:
        region, out, codes = interpret(
            p["body_jaxpr"].jaxpr, p["body_jaxpr"].consts, [*consts, *carry], stack
        )
        regions.append(region)
        return tuple(out), codes

    kept = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(body, tuple(carry))[1])
    test = p["cond_jaxpr"]

    def goes_on(state: Any) -> Any:
        return jaxpr_as_fun(test)(*own, *state[0])[0]

    def turn(state: Any) -> Any:
        out, codes = body(state[0])
        found = sum(jnp.sum(a) for a in jax.tree.leaves(state[1])) > 0
        return out, jax.tree.map(lambda old, new: jnp.where(found, old, new), state[1], codes)

    last, kept = lax.while_loop(goes_on, turn, (tuple(carry), kept))
    return list(last), regions[-1:], [jax.tree.map(lambda a: a[None], kept)]


def _cond(p: Any, args: list[Any], stack: str) -> tuple[list[Any], list[Region], list[Any]]:
    """Give every branch a place for the codes of all; those not taken are all finite."""
    index, *operands = args
    regions: dict[int, Region] = {}

    def branch(i: int) -> Any:
        def run(*operands: Any) -> Any:
            region, out, codes = interpret(p["branches"][i].jaxpr, p["branches"][i].consts, operands, stack)
            regions[i] = region
            return tuple(out), codes

        return run

    shapes = [jax.eval_shape(branch(i), *operands)[1] for i in range(len(p["branches"]))]
    empty = [jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shape) for shape in shapes]

    def filled(i: int) -> Any:
        def run(*operands: Any) -> Any:
            out, codes = branch(i)(*operands)
            return out, [*empty[:i], codes, *empty[i + 1 :]]

        return run

    out, codes = lax.switch(index, [filled(i) for i in range(len(shapes))], *operands)
    rows = [jax.tree.map(lambda a: a[None], c) for c in codes]
    return list(out), [regions[i] for i in range(len(shapes))], rows


def _called(eqn: Any) -> ClosedJaxpr | None:
    if eqn.primitive.name not in CALLS:
        return None
    inner = next(eqn.params[k] for k in ("jaxpr", "call_jaxpr", "fun_jaxpr") if k in eqn.params)
    return inner if isinstance(inner, ClosedJaxpr) else ClosedJaxpr(inner, ())


def _code(values: Sequence[Any]) -> Any:
    codes = [
        jnp.max(jnp.where(jnp.isnan(v), 2, jnp.where(jnp.isinf(v), 1, 0)), initial=0)
        for v in values
        if jnp.issubdtype(jnp.result_type(v), jnp.inexact)
    ]
    return jnp.max(jnp.stack(codes)).astype(jnp.int8) if codes else jnp.int8(0)


def _line(eqn: Any) -> str:
    summary = source_info_util.summarize(eqn.source_info)
    path, _, rest = summary.partition(":")
    return f"{os.path.basename(path)}:{rest}" if rest else ""
