"""Derivatives of JAX functions by automatic differentiation, compiled once.

Each derivative is one pure function of x and the further arguments, under `jax.jit`: called on the
host it runs compiled, called within another transformation it is traced into that. A function
written for one problem is vectorised by `jax.vmap`; everything below sees a function of all problems,
whose gradient is that of the sum of the values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from downslope.errors import UsageError
from downslope.gradients.memory import free_memory, require_memory
from downslope.gradients.returned import (
    describe,
    is_whole,
    no_hessian,
    no_scalar,
    of_one_problem,
    pair,
    residual_parts,
)
from downslope.gradients.source import Counts, Given, Provenance
from downslope.gradients.structure import Structure

AUTOMATIC = Provenance("JAX's automatic differentiation")
GIVEN = Provenance("the derivative given")


def check_point(leaves: list[tuple[str, Any]]) -> None:
    """Raise where the parts of a starting point are on two devices, or an entry is not finite."""
    if any(isinstance(leaf, jax.core.Tracer) for _, leaf in leaves):
        return
    devices = {tuple(sorted(map(str, leaf.devices()))): name for name, leaf in leaves}
    if len(devices) > 1:
        shown = ", ".join(f"{name} is on {' and '.join(device)}" for device, name in devices.items())
        raise UsageError(f"x0 is on two devices ({shown}): expected one; move it with jax.device_put")
    for name, leaf in leaves:
        with jax.ensure_compile_time_eval():  # known here, also while something else is being traced
            finite = bool(jnp.isfinite(leaf).all())
        if not finite:
            at = tuple(int(i) for i in np.argwhere(~np.isfinite(np.asarray(leaf)))[0])
            entry = f"[{', '.join(map(str, at))}]" if at else ""
            raise UsageError(f"{name}{entry} is {float(leaf[at])}: expected finite numbers")


def owned(vector: Any) -> Any:
    """Return the vector: nothing writes to an array of JAX."""
    return vector


class _Kernels:
    """The compiled derivatives of one function, shared by all selections of its lanes.

    Every method takes x (n,) or (B, n) and the array arguments as a dict.
    """

    def __init__(self, given: Given, structure: Structure) -> None:
        self.given = given
        self.batch = structure.batch is not None
        self.mapped = self.batch and not given.vectorized
        self.one = replace(structure, batch=None)
        self.array_axes = {
            i: 0 if self.batch and a.shape[:1] == (structure.batch,) else None
            for i, a in enumerate(given.args)
            if isinstance(a, (jax.Array, np.ndarray))
        }
        self.is_given = callable(given.gradient) or given.gradient is True

    def arrays(self, args: tuple[Any, ...]) -> dict[int, Any]:
        return {i: args[i] for i in self.array_axes}

    def call(self, function: Callable[..., Any], x: Any, arrays: dict[int, Any], *more: Any) -> Any:
        """Call a function of the user's with x's arrays and further vectors, for all problems."""

        def single(x: Any, arrays: dict[int, Any], *more: Any) -> Any:
            args = [arrays.get(i, a) for i, a in enumerate(self.given.args)]
            made = function(*(self.one.restore(v) for v in (x, *more)), *args)
            return self._arrays(made)

        if not self.mapped:
            return single(x, arrays, *more)
        with of_one_problem():
            return jax.vmap(single, (0, self.array_axes, *[0] * len(more)))(x, arrays, *more)

    def _arrays(self, made: Any) -> Any:
        if made is None:
            raise UsageError(f"fun returned {describe(made)}")
        return made

    def _scalar(self, value: Any, x: Any) -> Any:
        shape = x.shape[:-1]
        expected = f"a floating array of shape {shape}" if self.batch else "one floating number, a 0-d array"
        dtype = getattr(value, "dtype", None)
        if isinstance(value, float) or is_whole(value):
            value = jnp.asarray(value, x.dtype)
        elif dtype is None or not jnp.issubdtype(dtype, jnp.floating):
            raise no_scalar(value, expected)
        if value.shape != shape and not (not self.batch and value.size == 1):
            raise no_scalar(value, expected)
        return value.reshape(shape).astype(x.dtype)

    def _flat(self, tree: Any, x: Any, name: str) -> Any:
        structure = replace(self.one, batch=x.shape[0]) if self.batch else self.one
        return structure.flatten(tree, name).astype(x.dtype)

    def residual_row(self, returned: Any, x: Any) -> Any:
        expected = "a floating array, or a nested dict, list or tuple of them"
        parts, rows = residual_parts(returned), []
        for part in parts:
            dtype = getattr(part, "dtype", None)
            if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
                raise UsageError(f"fun returned {describe(part)}: expected {expected}")
            if self.batch and part.shape[:1] != x.shape[:1]:
                raise UsageError(
                    f"fun returned the shape {part.shape}: expected the {x.shape[0]} problems along the "
                    "leading axis"
                )
            rows.append(part.reshape((*x.shape[:-1], -1)))
        return jnp.concatenate(rows, axis=-1).astype(x.dtype)

    def plain_value(self, x: Any, arrays: Any) -> Any:
        made = self.call(self.given.fun, x, arrays)
        return self._scalar(pair(made, "gradient")[0] if self.given.gradient is True else made, x)

    def plain_pair(self, x: Any, arrays: Any) -> tuple[Any, Any]:
        if self.given.gradient is True:
            value, made = pair(self.call(self.given.fun, x, arrays), "gradient")
            return self._scalar(value, x), self._flat(made, x, "gradient")
        if callable(self.given.gradient):
            made = self.call(self.given.gradient, x, arrays)
            return self.plain_value(x, arrays), self._flat(made, x, "gradient")

        def total(x: Any) -> Any:
            value = self.plain_value(x, arrays)
            return value.sum(), value

        (_, value), gradient = jax.value_and_grad(total, has_aux=True)(x)
        return value, gradient

    def plain_product(self, x: Any, arrays: Any, v: Any) -> Any:
        if self.given.hessian_vector is not None:
            return self._flat(self.call(self.given.hessian_vector, x, arrays, v), x, "hessian_vector")
        if self.given.hessian is not None:
            return jnp.einsum("...ij,...j->...i", self.plain_hessian(x, arrays), v)
        return jax.jvp(lambda p: self.plain_pair(p, arrays)[1], (x,), (v,))[1]

    def plain_hessian(self, x: Any, arrays: Any) -> Any:
        n = x.shape[-1]
        if self.given.hessian is not None:
            made = self.call(self.given.hessian, x, arrays)
            if getattr(made, "shape", None) != (*x.shape, n):
                raise no_hessian(made, (*x.shape, n))
            return made.astype(x.dtype)
        _, pushed = jax.linearize(lambda p: self.plain_pair(p, arrays)[1], x)
        rows = jax.vmap(lambda seed: pushed(jnp.broadcast_to(seed, x.shape)), out_axes=-2)(
            jnp.eye(n, dtype=x.dtype)
        )
        return (rows + jnp.swapaxes(rows, -2, -1)) / 2

    def plain_residuals(self, x: Any, arrays: Any) -> Any:
        made = self.call(self.given.fun, x, arrays)
        return self.residual_row(pair(made, "jacobian")[0] if self.given.gradient is True else made, x)

    def plain_jacobian(self, x: Any, arrays: Any) -> tuple[Any, Any]:
        n = x.shape[-1]
        if self.is_given:
            return self._given_jacobian(x, arrays)
        value, pushed = jax.linearize(lambda p: self.plain_residuals(p, arrays), x)
        if value.shape[-1] >= n:
            seeds = jnp.eye(n, dtype=x.dtype)
            return value, jax.vmap(lambda s: pushed(jnp.broadcast_to(s, x.shape)), out_axes=-1)(seeds)
        pulled = jax.vjp(lambda p: self.plain_residuals(p, arrays), x)[1]
        seeds = jnp.eye(value.shape[-1], dtype=x.dtype)
        rows = jax.vmap(lambda s: pulled(jnp.broadcast_to(s, value.shape))[0], out_axes=-2)(seeds)
        return value, rows

    def plain_jv(self, x: Any, arrays: Any, v: Any) -> Any:
        if self.is_given:
            return jnp.einsum("...ij,...j->...i", self._given_jacobian(x, arrays)[1], v)
        return jax.jvp(lambda p: self.plain_residuals(p, arrays), (x,), (v,))[1]

    def plain_jtv(self, x: Any, arrays: Any, u: Any) -> Any:
        if self.is_given:
            return jnp.einsum("...ij,...i->...j", self._given_jacobian(x, arrays)[1], u)
        return jax.vjp(lambda p: self.plain_residuals(p, arrays), x)[1](u)[0]

    def _given_jacobian(self, x: Any, arrays: Any) -> tuple[Any, Any]:
        if self.given.gradient is True:
            first, made = pair(self.call(self.given.fun, x, arrays), "jacobian")
            value = self.residual_row(first, x)
        else:
            value, made = self.plain_residuals(x, arrays), self.call(self.given.gradient, x, arrays)
        shape = (*value.shape, x.shape[-1])
        if getattr(made, "shape", None) != shape:
            raise UsageError(f"jacobian returned {describe(made)}: expected an array of shape {shape}")
        return value, made.astype(x.dtype)

    def compiled(self, plain: Callable[..., Any]) -> Callable[..., Any]:
        jitted = jax.jit(plain)

        def run(*args: Any) -> Any:
            try:
                return jitted(*args)
            except (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError) as error:
                raise UsageError(
                    "fun cannot be traced by JAX, it makes a Python or NumPy number of x (float(), if, np.…)"
                    ": use jax.numpy, jnp.where and jax.lax"
                ) from error

        return run

    @cached_property
    def value(self) -> Callable[..., Any]:
        return self.compiled(self.plain_value)

    @cached_property
    def pair(self) -> Callable[..., Any]:
        return self.compiled(self.plain_pair)

    @cached_property
    def product(self) -> Callable[..., Any]:
        return self.compiled(self.plain_product)

    @cached_property
    def hessian(self) -> Callable[..., Any]:
        return self.compiled(self.plain_hessian)

    @cached_property
    def residuals(self) -> Callable[..., Any]:
        return self.compiled(self.plain_residuals)

    @cached_property
    def jacobian(self) -> Callable[..., Any]:
        return self.compiled(self.plain_jacobian)

    @cached_property
    def jv(self) -> Callable[..., Any]:
        return self.compiled(self.plain_jv)

    @cached_property
    def jtv(self) -> Callable[..., Any]:
        return self.compiled(self.plain_jtv)


class _Function:
    """What scalar and vector functions share: the kernels, and the arguments of these lanes."""

    def __init__(
        self,
        given: Given,
        structure: Structure,
        x0: Any,
        counts: Counts | None = None,
        kernels: _Kernels | None = None,
    ) -> None:
        if isinstance(given.gradient, str) and given.gradient != "auto":
            raise UsageError(
                f"gradient = {given.gradient!r} is for NumPy functions: JAX differentiates this one itself; "
                "leave gradient out"
            )
        self.given, self.structure, self.x0 = given, structure, x0
        self.counts = Counts() if counts is None else counts
        self.kernels = _Kernels(given, structure) if kernels is None else kernels
        self.arrays = self.kernels.arrays(given.args)

    @property
    def provenance(self) -> Provenance:
        """Where the derivative comes from."""
        return GIVEN if self.kernels.is_given else AUTOMATIC

    def _of_lanes(self, lanes: Any) -> tuple[Any, ...]:
        axes = self.kernels.array_axes
        args = tuple(a[lanes] if axes.get(i) == 0 else a for i, a in enumerate(self.given.args))
        x0 = self.x0[lanes]
        structure = replace(self.structure, batch=x0.shape[0])
        return replace(self.given, args=args), structure, x0, self.counts, self.kernels


class Objective(_Function):
    """`downslope.gradients.source.Objective` of a JAX function."""

    def value(self, x: Any) -> Any:
        """f(x)."""
        self.counts.values += 1
        return self.kernels.value(x, self.arrays)

    def value_and_gradient(self, x: Any) -> tuple[Any, Any]:
        """f(x) and ∇f(x)."""
        self.counts.values += 1
        self.counts.gradients += 1
        made: tuple[Any, Any] = self.kernels.pair(x, self.arrays)
        return made

    def hessian_vector(self, x: Any, v: Any) -> Any:
        """∇²f(x) v, forward over reverse."""
        self.counts.products += 1
        return self.kernels.product(x, self.arrays, v)

    def hessian(self, x: Any) -> Any:
        """∇²f(x), symmetric."""
        self.counts.matrices += 1
        shape = (*x.shape, self.structure.size)
        remedy = "use method='newton-cg' or 'l-bfgs'"
        require_memory(shape, self.structure.dtype, _free(x), "a Hessian", remedy)
        return self.kernels.hessian(x, self.arrays)

    def select(self, lanes: Any) -> Objective:
        """Return the problems of some lanes; what was compiled is kept."""
        return Objective(*self._of_lanes(lanes))


class Residuals(_Function):
    """`downslope.gradients.source.Residuals` of a JAX function."""

    def value(self, x: Any) -> Any:
        """r(x)."""
        self.counts.values += 1
        return self.kernels.residuals(x, self.arrays)

    def value_and_jacobian(self, x: Any) -> tuple[Any, Any]:
        """r(x) and J(x), by columns where there are no fewer residuals than unknowns."""
        self.counts.values += 1
        self.counts.gradients += 1
        self.counts.matrices += 1
        m = jax.eval_shape(self.kernels.plain_residuals, x, self.arrays).shape[-1]
        shape, remedy = (*x.shape[:-1], m, x.shape[-1]), "use linear='cg', which needs products with it only"
        require_memory(shape, self.structure.dtype, _free(x), "a Jacobian", remedy)
        made: tuple[Any, Any] = self.kernels.jacobian(x, self.arrays)
        return made

    def jacobian_vector(self, x: Any, v: Any) -> Any:
        """J(x) v."""
        self.counts.products += 1
        return self.kernels.jv(x, self.arrays, v)

    def transposed_vector(self, x: Any, u: Any) -> Any:
        """J(x)ᵀ u."""
        self.counts.products += 1
        return self.kernels.jtv(x, self.arrays, u)

    def select(self, lanes: Any) -> Residuals:
        """Return the problems of some lanes; what was compiled is kept."""
        return Residuals(*self._of_lanes(lanes))


def _free(x: Any) -> int | None:
    if isinstance(x, jax.core.Tracer):
        return None
    device = next(iter(x.devices()))
    if device.platform == "cpu":
        return free_memory()
    told = device.memory_stats() or {}
    return told["bytes_limit"] - told["bytes_in_use"] if "bytes_limit" in told else None
