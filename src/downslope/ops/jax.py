"""The operations on JAX arrays and tracers; every operation is pure."""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp

from downslope.ops.protocol import Array, bias_correction, combine, ramp, unit


class JaxOps:
    """`Ops` on `jax.Array`, inside or outside of a transformation."""

    def zeros_like(self, a: Array) -> Array:
        return jnp.zeros_like(a)

    def full_like(self, a: Array, value: float) -> Array:
        return jnp.full_like(a, value)

    def sqrt(self, a: Array) -> Array:
        zero = a == 0  # the root of 0 has no derivative; a step that starts there is to have one
        return jnp.where(zero, a, jnp.sqrt(jnp.where(zero, jnp.ones_like(a), a)))

    def square(self, a: Array) -> Array:
        return jnp.square(a)

    def maximum(self, a: Array, b: Array | float) -> Array:
        return jnp.maximum(a, b)

    def where(self, condition: Array, a: Array | float, b: Array | float) -> Array:
        return jnp.where(condition, a, b)

    def ema(self, slot: Array, value: Array, beta: float) -> Array:
        return beta * slot + (1 - beta) * value

    def accumulate(self, slot: Array, value: Array, decay: float) -> Array:
        return decay * slot + value

    def lerp(self, a: Array, b: Array, weight: float) -> Array:
        return a + weight * (b - a)

    def debias(self, a: Array, beta: float, t: Any) -> Array:
        if isinstance(t, int):
            return a / bias_correction(beta, t)
        if beta == 0:
            return a
        # The correction is one number: it is computed at least in float32 and rounded once.
        wide = jnp.asarray(t, jnp.promote_types(a.dtype, jnp.float32))
        return a / (-jnp.expm1(wide * math.log(beta))).astype(a.dtype)

    def ramp(self, like: Array, t: Any, steps: int) -> Any:
        if isinstance(t, int):
            return ramp(t, steps)
        wide = jnp.asarray(t, jnp.promote_types(like.dtype, jnp.float32))
        return jnp.minimum((wide - 1) / steps, 1).astype(like.dtype)

    def row_rms(self, a: Array) -> Array:
        return self.norm(a[..., None, :])[..., 0] / math.sqrt(max(1, a.shape[-1]))

    def norm(self, a: Array) -> Array:
        largest = jnp.max(jnp.abs(a), axis=(-2, -1), keepdims=True, initial=0)
        safe = jnp.where(largest > 0, largest, jnp.ones_like(largest))
        return largest * self.sqrt(jnp.sum(jnp.square(a / safe), axis=(-2, -1), keepdims=True))

    def transpose(self, a: Array) -> Array:
        return jnp.swapaxes(a, -2, -1)

    def gram(self, a: Array) -> Array:
        return a @ jnp.swapaxes(a, -2, -1)

    def mm(self, a: Array, b: Array) -> Array:
        return a @ b

    def addmm(self, c: Array, a: Array, b: Array, beta: float, alpha: float) -> Array:
        return beta * c + alpha * (a @ b)

    def mm_symmetric(self, a: Array, b: Array) -> Array:
        return a @ b

    def congruent(self, r: Array, z: Array) -> Array:
        return self.mm(self.mm(r, z), z)

    def addmm_symmetric(self, c: Array, a: Array, b: Array, beta: float, alpha: float) -> Array:
        return self.addmm(c, a, b, beta, alpha)

    def unit(self, r: Array) -> tuple[Array, Array]:
        return unit(self, r)

    def combine(self, *terms: tuple[float, Array]) -> Array:
        return combine(*terms)

    def add_identity(self, a: Array, value: float) -> Array:
        return a + value * jnp.eye(a.shape[-1], dtype=a.dtype)

    def permute(self, a: Array, axes: tuple[int, ...]) -> Array:
        return jnp.transpose(a, axes)

    def reshape(self, a: Array, shape: tuple[int, ...]) -> Array:
        return jnp.reshape(a, shape)

    def concat(self, parts: list[Array], axis: int) -> Array:
        return jnp.concatenate(parts, axis=axis)

    def astype(self, a: Array, dtype: Any) -> Array:
        return a.astype(dtype)
