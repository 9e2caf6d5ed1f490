"""Vectors of TensorFlow: one problem with its numbers on the host, or many in lock step."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from downslope.ops.protocol import Array
from downslope.solvers.spaces.arrays import Arrays
from downslope.solvers.spaces.host import Host, NumpyHost


def _as(value: Any, dtype: Any) -> Any:
    """Return a value in a dtype; tf.cast would take a Python float through float32."""
    return tf.cast(value, dtype) if isinstance(value, tf.Tensor) else tf.constant(value, dtype)


class TensorflowHost(Host):
    """One problem; small arrays stay in TensorFlow too."""

    def __init__(self, like: Any) -> None:
        self.eps = float(np.finfo(like.dtype.as_numpy_dtype).eps)

    def dot(self, a: Array, b: Array) -> float:
        return float(tf.tensordot(a, b, 1))

    def norm_inf(self, a: Array) -> float:
        return float(tf.reduce_max(tf.abs(a)))

    def norm_one(self, a: Array) -> float:
        return float(tf.reduce_sum(tf.abs(a)))

    def scale(self, t: float, a: Array) -> Array:
        return t * a

    def axpy(self, t: float, a: Array, b: Array) -> Array:
        return b + t * a

    def clip(self, a: Array, low: Array, high: Array) -> Array:
        return tf.minimum(tf.maximum(a, low), high)

    def select(self, mask: Array, a: Array, b: Any) -> Array:
        return tf.where(mask, a, _as(b, a.dtype))

    def least(self, a: Array, b: Array) -> Array:
        return tf.minimum(a, b)

    def most(self, a: Array, b: Array) -> Array:
        return tf.maximum(a, b)

    def zeros(self, like: Array, *shape: int) -> Array:
        return tf.zeros(shape, like.dtype)

    def rows(self, stack: Array, a: Array) -> Array:
        return tf.linalg.matvec(stack, a)

    def combine(self, weights: Array, stack: Array) -> Array:
        return tf.linalg.matvec(stack, weights, transpose_a=True)

    def put(self, stack: Array, index: int, row: Any, when: bool = True) -> Array:
        if not when:
            return stack
        return tf.tensor_scatter_nd_update(stack, [[index]], _as(row, stack.dtype)[None])

    def clear(self, matrix: Array, index: int) -> Array:
        keep = tf.one_hot(index, matrix.shape[-1], on_value=0.0, off_value=1.0, dtype=matrix.dtype)
        return matrix * keep[:, None] * keep

    def put_column(self, matrix: Array, index: int, column: Array, when: bool = True) -> Array:
        return tf.transpose(self.put(tf.transpose(matrix), index, column))

    def diagonal(self, matrix: Array, value: float, when: bool = True) -> Array:
        return value * tf.eye(matrix.shape[-1], dtype=matrix.dtype)

    def symmetric(self, matrix: Array, a: Array) -> Array:
        return tf.linalg.matvec(matrix, a)

    def rank_two(self, matrix: Array, a: Array, b: Array, when: bool = True) -> Array:
        outer = a[:, None] * b
        return matrix + (outer + tf.transpose(outer))

    def shift(self, t: float, a: Array) -> Array:
        return a + t

    def first(self, a: Array) -> float:
        return float(a[0])

    def eigh(self, matrix: Array) -> tuple[Array, Array, bool]:
        if not bool(tf.reduce_all(tf.math.is_finite(matrix))):
            return matrix[0], matrix, False
        curvatures, basis = tf.linalg.eigh(matrix)
        return curvatures, basis, True

    def smallest(self, a: Array) -> float:
        return float(tf.reduce_min(a))

    def all(self, mask: Array) -> bool:
        return bool(tf.reduce_all(mask))

    def gram(self, a: Array, b: Array) -> Array:
        return a @ tf.transpose(b)

    def trace(self, matrix: Array) -> Array:
        return tf.linalg.diag_part(matrix)

    def roots(self, a: Array) -> Array:
        return tf.sqrt(a)

    def ring_inverse(self, matrix: Array, known: Array, first: int) -> Array:
        made = NumpyHost(matrix.dtype.as_numpy_dtype).ring_inverse(matrix.numpy(), known.numpy(), first)
        return tf.constant(made, matrix.dtype)


class TensorflowLanes(Arrays):
    """Problems in lock step."""

    def __init__(self, like: Any) -> None:
        super().__init__(tf, float(np.finfo(like.dtype.as_numpy_dtype).eps))
        self.dtype = like.dtype

    def full(self, like: Array, value: Any) -> Array:
        kind = tf.bool if isinstance(value, bool) else tf.int64 if isinstance(value, int) else self.dtype
        return tf.fill(like.shape, _as(value, kind))

    def where(self, condition: Array, a: Any, b: Any) -> Array:
        known = next((v.dtype for v in (a, b) if isinstance(v, tf.Tensor)), None)
        if known is None:
            known = tf.int64 if isinstance(a, int) and isinstance(b, int) else self.dtype
        return tf.where(condition, _as(a, known), _as(b, known))

    def finite(self, a: Array) -> Array:
        return tf.math.is_finite(a)

    def sqrt(self, a: Array) -> Array:
        return tf.sqrt(tf.maximum(a, tf.zeros_like(a)))

    def sum(self, a: Array, axis: int) -> Array:
        return tf.reduce_sum(a, axis)

    def largest(self, a: Array) -> Array:
        return tf.reduce_max(a, 0)

    def indices(self, like: Array, count: int) -> Array:
        return tf.range(count, dtype=tf.int64)

    def zeros(self, like: Array, *shape: int) -> Array:
        return tf.zeros((*shape, *like.shape[1:]), dtype=like.dtype)

    def all(self, mask: Array) -> Array:
        return tf.reduce_all(mask, 0)

    def holds(self, condition: Array) -> bool:
        return bool(tf.reduce_any(condition))

    def swapped(self, matrix: Array) -> Array:
        return tf.transpose(matrix, (1, 0, *range(2, len(matrix.shape))))

    def lanes_first(self, a: Array, rank: int = 1) -> Array:
        last = len(a.shape) - 1
        return tf.transpose(a, (last, *range(last))) if last >= rank else a

    def lanes_last(self, a: Array, rank: int = 1) -> Array:
        return tf.transpose(a, (*range(1, len(a.shape)), 0)) if len(a.shape) > rank else a

    def flipped(self, a: Array) -> Array:
        return tf.reverse(a, [0])

    def svd(self, matrix: Array, vector: Array) -> tuple[Array, Array, Array]:
        finite = self.finite(tf.reduce_sum(tf.abs(matrix), (0, 1)))
        safe = self.lanes_first(tf.where(finite, matrix, tf.zeros_like(matrix)), 2)
        values, left, right = tf.linalg.svd(safe)
        values = self.flipped(self.lanes_last(values)) * self.where(finite, 1.0, float("nan"))
        basis = tf.reverse(self.lanes_last(right, 2), [1])
        return values, basis, self.flipped(self.combine(vector, self.lanes_last(left, 2)))

    def positions(self, like: Array, lanes: Any) -> Array:
        return tf.constant(lanes, tf.int64)

    def scatter(self, whole: Array, at: Array, part: Array) -> Array:
        made = tf.tensor_scatter_nd_update(self.lanes_first(whole), at[:, None], self.lanes_first(part))
        return self.lanes_last(made)

    def copied(self, a: Array) -> Array:
        return a

    def take(self, a: Array, at: Array) -> Array:
        return tf.gather(a, at, axis=-1)


def host(like: Any) -> TensorflowHost:
    """Return the space of one problem."""
    return TensorflowHost(like)


def lanes(like: Any) -> TensorflowLanes:
    """Return the space of problems in lock step."""
    return TensorflowLanes(like)


def vector(like: Any, values: Any) -> Any:
    """Return values as a vector, of the dtype of `like`."""
    return tf.constant(values, like.dtype)
