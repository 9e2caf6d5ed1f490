"""What a JAX function casts down, kept in float64 while it is checked.

As `torch_casts` for PyTorch: the function is traced, and its gradient by `jax.grad` with its own derivative
rules; the jaxpr is evaluated with float64 in the place of each narrower dtype.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

SCATTERS = {
    "scatter": jax.lax.scatter, "scatter-add": jax.lax.scatter_add, "scatter-mul": jax.lax.scatter_mul,
    "scatter-min": jax.lax.scatter_min, "scatter-max": jax.lax.scatter_max,
}  # fmt: skip
"""Operations that hold a jaxpr of the narrower dtype, and what makes them with another."""
INLINED = ("jaxpr", "call_jaxpr", "fun_jaxpr")
CALLS = (
    "pjit",
    "jit",
    "closed_call",
    "core_call",
    "checkpoint",
    "remat2",
    "custom_jvp_call",
    "custom_vjp_call",
)


class Lifted:
    """A function of a list of arrays, evaluated in float64 throughout.

    `casts` are the dtypes that it casts floating arrays down to, `held` those of arrays that it holds.

    Raises:
        TypeError: of the call, where an operation cannot be taken to float64: one that looks at bits, calls
            back to Python, or is a compiled kernel of one dtype.

    """

    def __init__(self, function: Callable[..., Any], examples: Sequence[Any], narrow: Sequence[Any]) -> None:
        self.casts, self.held = set[str](), set[str]()
        try:  # as it would run in float64
            self.closed, self.shape = jax.make_jaxpr(function, return_shape=True)(*examples)
        except Exception:  # whatever it says to float64, or what of it cannot be traced at all
            self.closed, self.shape = jax.make_jaxpr(function, return_shape=True)(*narrow)
        self.held |= {str(c.dtype) for c in self.closed.consts if _narrow(getattr(c, "dtype", None))}

    def __call__(self, *examples: Any) -> Any:
        """Return what the function returns, in float64."""
        leaves = jax.tree_util.tree_leaves(examples)
        made = self._evaluate(self.closed.jaxpr, self.closed.consts, leaves)
        return jax.tree_util.tree_unflatten(jax.tree_util.tree_structure(self.shape), made)

    def _evaluate(self, jaxpr: Any, consts: Sequence[Any], values: Sequence[Any]) -> list[Any]:
        known: dict[Any, Any] = {}

        def read(v: Any) -> Any:
            return _wide(v.val) if hasattr(v, "val") else known[v]

        known.update(zip(jaxpr.constvars, map(_wide, consts), strict=True))
        known.update(zip(jaxpr.invars, map(_wide, values), strict=True))
        for eqn in jaxpr.eqns:
            made = self._operation(eqn, [read(v) for v in eqn.invars])
            known.update(zip(eqn.outvars, made, strict=True))
        return [read(v) for v in jaxpr.outvars]

    def _operation(self, eqn: Any, values: list[Any]) -> list[Any]:
        name, params = eqn.primitive.name, eqn.params
        if name in CALLS:
            inner = next(params[k] for k in INLINED if k in params)
            return self._evaluate(getattr(inner, "jaxpr", inner), getattr(inner, "consts", ()), values)
        if name == "scan":
            return self._scan(params, values)
        if name == "while":
            return self._while(params, values)
        if name == "cond":
            branches = [self._closed(b) for b in params["branches"]]
            return list(jax.lax.switch(values[0], branches, *values[1:]))
        if name in SCATTERS:
            kept = ("dimension_numbers", "indices_are_sorted", "unique_indices", "mode")
            return [SCATTERS[name](*values, **{k: params[k] for k in kept})]
        if name == "custom_linear_solve":
            before = params["const_lengths"].matvec + params["const_lengths"].vecmat
            after = before + params["const_lengths"].solve
            right = values[sum(params["const_lengths"]) :]
            return self._closed(params["jaxprs"].solve)(*values[before:after], *right)
        if name == "convert_element_type":
            self._note(eqn.invars[0].aval.dtype, np.dtype(params["new_dtype"]))
        elif _fixed(eqn):
            raise TypeError(f"{name} keeps its dtype")
        lifted = {k: _wide_dtype(v) for k, v in params.items()}
        made = eqn.primitive.bind(*values, **lifted)
        return list(made) if eqn.primitive.multiple_results else [made]

    def _note(self, before: Any, after: Any) -> None:
        if _narrow(after) and jnp.issubdtype(before, jnp.inexact) and after.itemsize < before.itemsize:
            self.casts.add(str(after))

    def _closed(self, closed: Any) -> Callable[..., list[Any]]:
        return lambda *values: self._evaluate(closed.jaxpr, closed.consts, values)

    def _scan(self, params: Any, values: list[Any]) -> list[Any]:
        body, carried = self._closed(params["jaxpr"]), params["num_consts"] + params["num_carry"]
        consts = values[: params["num_consts"]]

        def step(carry: list[Any], row: list[Any]) -> tuple[list[Any], list[Any]]:
            made = body(*consts, *carry, *row)
            return made[: params["num_carry"]], made[params["num_carry"] :]

        last, rows = jax.lax.scan(
            step,
            values[params["num_consts"] : carried],
            values[carried:],
            params["length"],
            reverse=params["reverse"],
        )
        return [*last, *rows]

    def _while(self, params: Any, values: list[Any]) -> list[Any]:
        first, second = params["cond_nconsts"], params["cond_nconsts"] + params["body_nconsts"]
        holds, body = self._closed(params["cond_jaxpr"]), self._closed(params["body_jaxpr"])
        return list(
            jax.lax.while_loop(
                lambda carry: holds(*values[:first], *carry)[0],
                lambda carry: body(*values[first:second], *carry),
                values[second:],
            )
        )


def _narrow(dtype: Any) -> bool:
    return dtype is not None and jnp.issubdtype(dtype, jnp.inexact) and _bits(dtype) < 64


def _bits(dtype: Any) -> int:
    """Return the bits of a real number of the dtype."""
    return 8 * int(np.dtype(dtype).itemsize) // (2 if jnp.issubdtype(dtype, jnp.complexfloating) else 1)


def _wide(value: Any) -> Any:
    """Return an array in float64 (or complex128) where it is narrower; all else as it is."""
    dtype = getattr(value, "dtype", None)
    return jnp.asarray(value).astype(_wide_dtype(dtype)) if _narrow(dtype) else value


def _wide_dtype(value: Any) -> Any:
    if not isinstance(value, (np.dtype, type)) or value is bool:
        return value
    try:
        dtype = np.dtype(value)
    except TypeError:
        return value
    if not _narrow(dtype):
        return value
    return np.dtype("complex128" if jnp.issubdtype(dtype, jnp.complexfloating) else "float64")


def _fixed(eqn: Any) -> bool:
    """Whether an operation's result has a dtype of its own that no parameter tells, or depends on bits."""
    if eqn.primitive.name in ("bitcast_convert_type", "reduce_precision"):
        return True
    inner = any(hasattr(v, "eqns") or hasattr(v, "jaxpr") for v in jax.tree_util.tree_leaves(eqn.params))
    called = "callback" in eqn.primitive.name or eqn.primitive.name in ("ffi_call", "pallas_call")
    return inner or called
