"""What a JAX function casts down, kept in float64 while it is checked.

As `torch_casts` for PyTorch: the function is traced, and its gradient by `jax.grad` with its own derivative
rules; the jaxpr is evaluated with float64 in the place of each narrower dtype.

Numbers that a function or a rule writes into its jaxpr, 2/√π in the derivative of erf, are rounded to the
dtype of what they meet. So the jaxpr is made with casts left out, where the function takes that: then they
meet float64. What is rounded all the same can be moved by its rounding, to see how much hangs on it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core.primitives import convert_element_type_p

from downslope.gradients.check.noise import EPS
from downslope.gradients.check.rounded import inexact, moved

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

    `casts` are the dtypes that it casts floating arrays down to, `held` those of arrays that it holds,
    `rounded` the numbers written into it that were rounded, with the eps of their dtype. Given those of the
    function as it is, `known`, it is traced with its casts left out; in a `draw`, such numbers are moved by
    their rounding.

    Raises:
        TypeError: of the call, where an operation cannot be taken to float64: one that looks at bits, calls
            back to Python, or is a compiled kernel of one dtype.

    """

    def __init__(
        self,
        function: Callable[..., Any],
        examples: Sequence[Any],
        narrow: Sequence[Any],
        *,
        known: Mapping[float, float] | None = None,
        draw: int | None = None,
    ) -> None:
        self.casts, self.held, self.rounded = set[str](), set[str](), dict[float, float]()
        self.known, self.draw = known or {}, draw
        made = jax.make_jaxpr(function, return_shape=True)
        if known is not None:
            with _casts_left_out():
                self.closed, self.shape = made(*examples)
            return
        try:  # as it would run in float64
            self.closed, self.shape = made(*examples)
        except Exception:  # whatever it says to float64, or what of it cannot be traced at all
            self.closed, self.shape = made(*narrow)
        self.held |= {str(c.dtype) for c in self.closed.consts if _narrow(getattr(c, "dtype", None))}

    def __call__(self, *examples: Any) -> Any:
        """Return what the function returns, in float64."""
        leaves = jax.tree_util.tree_leaves(examples)
        made = self._evaluate(self.closed.jaxpr, self.closed.consts, leaves)
        return jax.tree_util.tree_unflatten(jax.tree_util.tree_structure(self.shape), made)

    def _evaluate(self, jaxpr: Any, consts: Sequence[Any], values: Sequence[Any]) -> list[Any]:
        known: dict[Any, Any] = {}

        def read(v: Any) -> Any:
            return self._number(v.val) if hasattr(v, "val") else known[v]

        known.update(zip(jaxpr.constvars, map(self._number, consts), strict=True))
        known.update(zip(jaxpr.invars, map(_wide, values), strict=True))
        for eqn in jaxpr.eqns:
            made = self._operation(eqn, [read(v) for v in eqn.invars])
            known.update(zip(eqn.outvars, made, strict=True))
        return [read(v) for v in jaxpr.outvars]

    def _number(self, value: Any) -> Any:
        """Return a number or an array that stands in the jaxpr."""
        dtype = getattr(value, "dtype", None)
        real = (_narrow(dtype) or dtype == np.float64) and not _is_complex(dtype)
        if np.ndim(value) or not real or isinstance(value, jax.core.Tracer):
            return _wide(value)
        number = float(value)
        eps = EPS.get(str(dtype), 0.0) if _narrow(dtype) else self.known.get(abs(number), 0.0)
        if eps and inexact(number):
            self.rounded[abs(number)] = eps
            number = number if self.draw is None else moved(number, eps, self.draw)
        return jnp.asarray(number)

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


@contextmanager
def _casts_left_out() -> Iterator[None]:
    """Let this thread trace casts to narrower dtypes as casts to float64.

    What JAX keeps of functions that it traced is kept under the precision of products, among others: that of
    this block is another one, so that it is nobody else's. In float64 it means nothing.
    """
    own, here = convert_element_type_p.bind, threading.get_ident()

    def bind(*values: Any, **params: Any) -> Any:
        if threading.get_ident() == here:
            params["new_dtype"] = _wide_dtype(params["new_dtype"])
        return own(*values, **params)

    before = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
    with jax.default_matmul_precision("high" if before != "high" else "tensorfloat32"):
        convert_element_type_p.bind = bind
        try:
            yield
        finally:
            del convert_element_type_p.bind


def _narrow(dtype: Any) -> bool:
    return dtype is not None and jnp.issubdtype(dtype, jnp.inexact) and _bits(dtype) < 64


def _bits(dtype: Any) -> int:
    """Return the bits of a real number of the dtype."""
    return 8 * int(np.dtype(dtype).itemsize) // (2 if _is_complex(dtype) else 1)


def _is_complex(dtype: Any) -> bool:
    return bool(jnp.issubdtype(dtype, jnp.complexfloating))


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
    return np.dtype("complex128" if _is_complex(dtype) else "float64")


def _fixed(eqn: Any) -> bool:
    """Whether an operation's result has a dtype of its own that no parameter tells, or depends on bits."""
    if eqn.primitive.name in ("bitcast_convert_type", "reduce_precision"):
        return True
    inner = any(hasattr(v, "eqns") or hasattr(v, "jaxpr") for v in jax.tree_util.tree_leaves(eqn.params))
    called = "callback" in eqn.primitive.name or eqn.primitive.name in ("ffi_call", "pallas_call")
    return inner or called
