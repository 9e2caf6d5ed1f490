"""The operations on TensorFlow tensors; every one is pure, traces, and compiles with XLA."""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

from downslope.ops.protocol import Array, combine, ramp, unit


class TensorflowOps:
    """`Ops` on `tf.Tensor`, eager or symbolic; a `tf.Variable` is read where it is given."""

    def zeros_like(self, a: Array) -> Array:
        return tf.zeros_like(a)

    def full_like(self, a: Array, value: float) -> Array:
        return tf.fill(tf.shape(a), tf.constant(value, a.dtype))

    def sqrt(self, a: Array) -> Array:
        return tf.sqrt(a)

    def square(self, a: Array) -> Array:
        return tf.square(a)

    def maximum(self, a: Array, b: Array | float) -> Array:
        return tf.maximum(a, b)

    def where(self, condition: Array, a: Array | float, b: Array | float) -> Array:
        return tf.where(condition, a, b)

    def ema(self, slot: Array, value: Array, beta: float) -> Array:
        return beta * slot + (1 - beta) * value

    def accumulate(self, slot: Array, value: Array, decay: float) -> Array:
        return slot + value if decay == 1 else decay * slot + value

    def lerp(self, a: Array, b: Array, weight: float) -> Array:
        return a + weight * (b - a)

    def debias(self, a: Array, beta: float, t: Any) -> Array:
        if beta == 0:
            return a
        # The scalar is computed in float64 whatever `a` is: float32 would lose a digit at t = 1.
        correction = -tf.math.expm1(tf.cast(t, tf.float64) * math.log(beta))
        return a / tf.cast(correction, a.dtype)

    def ramp(self, like: Array, t: Any, steps: int) -> Any:
        if isinstance(t, int):
            return ramp(t, steps)
        return tf.cast(tf.minimum((tf.cast(t, tf.float64) - 1) / steps, 1), like.dtype)

    def row_rms(self, a: Array) -> Array:
        return self.norm(a[..., None, :])[..., 0] / math.sqrt(max(1, a.shape[-1]))

    def norm(self, a: Array) -> Array:
        if 0 in a.shape:
            return tf.zeros((*a.shape[:-2], 1, 1), a.dtype)
        largest = tf.reduce_max(tf.abs(a), axis=(-2, -1), keepdims=True)
        safe = tf.where(largest > 0, largest, tf.ones_like(largest))
        return largest * tf.sqrt(tf.reduce_sum(tf.square(a / safe), axis=(-2, -1), keepdims=True))

    def transpose(self, a: Array) -> Array:
        return tf.linalg.matrix_transpose(a)

    def gram(self, a: Array) -> Array:
        return tf.matmul(a, a, transpose_b=True)

    def mm(self, a: Array, b: Array) -> Array:
        return tf.matmul(a, b)

    def addmm(self, c: Array, a: Array, b: Array, beta: float, alpha: float) -> Array:
        product = tf.matmul(a, b)
        return (c if beta == 1 else beta * c) + (product if alpha == 1 else alpha * product)

    def mm_symmetric(self, a: Array, b: Array) -> Array:
        return tf.matmul(a, b)

    def congruent(self, r: Array, z: Array) -> Array:
        return self.mm(self.mm(r, z), z)

    def addmm_symmetric(self, c: Array, a: Array, b: Array, beta: float, alpha: float) -> Array:
        return self.addmm(c, a, b, beta, alpha)

    def unit(self, r: Array) -> tuple[Array, Array]:
        return unit(self, r)

    def combine(self, *terms: tuple[float, Array]) -> Array:
        return combine(*terms)

    def add_identity(self, a: Array, value: float) -> Array:
        return a + value * tf.eye(a.shape[-1], dtype=a.dtype)

    def permute(self, a: Array, axes: tuple[int, ...]) -> Array:
        return a if axes == tuple(range(len(axes))) else tf.transpose(a, axes)

    def reshape(self, a: Array, shape: tuple[int, ...]) -> Array:
        return tf.reshape(a, shape)

    def concat(self, parts: list[Array], axis: int) -> Array:
        return tf.concat(parts, axis=axis)

    def astype(self, a: Array, dtype: Any) -> Array:
        return tf.cast(a, dtype)
