"""Numbers as arrays: of no axis in a jitted loop, of one axis, a number for each problem, in lock step.

Vectors are (…, n), numbers (…), small arrays (…, k) and (…, k, k), with the same leading axis. What
a framework does differently is in the file that bears its name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from downslope.ops.protocol import Array

T = TypeVar("T")


def mapped(f: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """Return `f` of the leaves of trees of tuples, NamedTuples and None."""
    if tree is None:
        return None
    if isinstance(tree, tuple):
        parts = [mapped(f, *row) for row in zip(tree, *others, strict=True)]
        return type(tree)(*parts) if hasattr(tree, "_fields") else tuple(parts)
    return f(tree, *others)


class Arrays:
    """What all frameworks share, by operators and the few functions below."""

    eps: float

    def __init__(self, lib: Any, eps: float) -> None:
        self.lib, self.eps = lib, eps

    def full(self, like: Array, value: Any) -> Array:
        dtype = bool if isinstance(value, bool) else np.int64 if isinstance(value, int) else like.dtype
        return self.lib.full(like.shape, value, dtype=dtype)

    def where(self, condition: Array, a: Any, b: Any) -> Array:
        return self.lib.where(condition, a, b)

    def pick(self, condition: Array, a: Array, b: Array) -> Array:
        return self.where(_spread(condition, a), a, b)

    def branch(self, condition: Array, then: Callable[[], T], otherwise: Callable[[], T]) -> T:
        def chosen(a: Any, b: Any) -> Any:
            if a is b:
                return a
            return self.where(_spread(condition, a if hasattr(a, "shape") else b), a, b)

        made: T = mapped(chosen, then(), otherwise())
        return made

    def invert(self, condition: Array) -> Array:
        return ~condition

    def finite(self, a: Array) -> Array:
        return self.lib.isfinite(a)

    def absolute(self, a: Array) -> Array:
        return self.lib.abs(a)

    def minimum(self, a: Any, b: Any) -> Array:
        return self.where(a < b, a, b)

    def maximum(self, a: Any, b: Any) -> Array:
        return self.where(a > b, a, b)

    def sqrt(self, a: Array) -> Array:
        return self.lib.sqrt(self.where(a > 0, a, 0.0))

    def divide(self, a: Any, b: Any) -> Array:
        return a / b

    def sum(self, a: Array, axis: int) -> Array:
        return a.sum(axis)

    def largest(self, a: Array) -> Array:
        """Return the largest entry along the last axis."""
        return a.max(-1)

    def indices(self, like: Array, count: int) -> Array:
        """Return 0, 1, … count - 1."""
        return self.lib.arange(count)

    def dot(self, a: Array, b: Array) -> Array:
        return self.sum(a * b, -1)

    def norm_inf(self, a: Array) -> Array:
        return self.largest(self.lib.abs(a))

    def norm_one(self, a: Array) -> Array:
        return self.sum(self.lib.abs(a), -1)

    def scale(self, t: Array, a: Array) -> Array:
        return t[..., None] * a

    def axpy(self, t: Array, a: Array, b: Array) -> Array:
        return b + t[..., None] * a

    def clip(self, a: Array, low: Array, high: Array) -> Array:
        return self.least(self.most(a, low), high)

    def select(self, mask: Array, a: Array, b: Any) -> Array:
        return self.where(mask, a, b)

    def least(self, a: Array, b: Array) -> Array:
        return self.lib.minimum(a, b)

    def most(self, a: Array, b: Array) -> Array:
        return self.lib.maximum(a, b)

    def zeros(self, like: Array, *shape: int) -> Array:
        return self.lib.zeros((*like.shape[:-1], *shape), dtype=like.dtype)

    def rows(self, stack: Array, a: Array) -> Array:
        return self.sum(stack * a[..., None, :], -1)

    def combine(self, weights: Array, stack: Array) -> Array:
        return self.sum(weights[..., None] * stack, -2)

    def one_hot(self, index: Array, like: Array, count: int) -> Array:
        """Return (…, count), true at the index."""
        return self.indices(like, count) == index[..., None]

    def put(self, stack: Array, index: Array, row: Array, when: Any = True) -> Array:
        axis = len(index.shape)
        here = self.one_hot(index, stack, stack.shape[axis])
        if when is not True:
            here = here & when[..., None]
        rest = len(stack.shape) - axis - 1
        return self.where(here[(..., *(None,) * rest)], row[(..., None, *(slice(None),) * rest)], stack)

    def clear(self, matrix: Array, index: Array) -> Array:
        here = self.one_hot(index, matrix, matrix.shape[-1])
        return self.where(here[..., None] | here[..., None, :], 0.0, matrix)

    def put_column(self, matrix: Array, index: Array, column: Array) -> Array:
        here = self.one_hot(index, matrix, matrix.shape[-1])
        return self.where(here[..., None, :], column[..., None], matrix)

    def diagonal(self, matrix: Array, value: Array) -> Array:
        n = matrix.shape[-1]
        here = self.indices(matrix, n)[:, None] == self.indices(matrix, n)
        return self.where(here, value[..., None, None], self.lib.zeros_like(matrix))

    def symmetric(self, matrix: Array, a: Array) -> Array:
        return self.rows(matrix, a)

    def rank_two(self, matrix: Array, a: Array, b: Array) -> Array:
        outer = a[..., :, None] * b[..., None, :]
        return matrix + (outer + self.transpose(outer))

    def transpose(self, matrix: Array) -> Array:
        """Return the last two axes exchanged."""
        return matrix.swapaxes(-2, -1)


class NumpyLanes(Arrays):
    """Problems in lock step on NumPy."""

    def __init__(self, dtype: Any) -> None:
        super().__init__(np, float(np.finfo(dtype).eps))

    def rows(self, stack: Array, a: Array) -> Array:
        return np.matmul(stack, a[..., None])[..., 0]

    def combine(self, weights: Array, stack: Array) -> Array:
        return np.matmul(weights[..., None, :], stack)[..., 0, :]


def _spread(condition: Array, like: Array) -> Array:
    """Return the condition with axes appended, to choose among whole rows of `like`."""
    extra = len(like.shape) - len(condition.shape)
    return condition[(..., *(None,) * extra)] if extra > 0 else condition
