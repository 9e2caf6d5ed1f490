"""Numbers as arrays: of no axis in a jitted loop, of one axis, a number for each problem, in lock step.

The problems of a batch lie along the last axis: vectors are (n, B), numbers (B,), stacks (k, n, B). A
number times a vector is then plain broadcasting, sums run over the first axis, and every operation is
as long as the batch is wide. What a framework does differently is in the file that bears its name.
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

    near: bool = False
    """Whether it costs next to nothing to ask whether a condition holds anywhere."""

    def __init__(self, lib: Any, eps: float) -> None:
        self.lib, self.eps = lib, eps

    def full(self, like: Array, value: Any) -> Array:
        dtype = bool if isinstance(value, bool) else np.int64 if isinstance(value, int) else like.dtype
        return self.lib.full(like.shape, value, dtype=dtype)

    def where(self, condition: Array, a: Any, b: Any) -> Array:
        return self.lib.where(condition, a, b)

    def pick(self, condition: Array, a: Array, b: Array) -> Array:
        return self.where(condition, a, b)

    def branch(self, condition: Array, then: Callable[[], T], otherwise: Callable[[], T]) -> T:
        def chosen(a: Any, b: Any) -> Any:
            return a if a is b else self.where(condition, a, b)

        if self.near and not self.holds(condition):
            return otherwise()
        if self.near and bool(condition.all()):
            return then()
        made: T = mapped(chosen, then(), otherwise())
        return made

    def guarded(self, condition: Array, change: Callable[[Any], T], tree: T) -> T:
        return tree if self.near and not self.holds(condition) else change(condition)

    def until(self, change: Callable[[T], tuple[Array, T]], tree: T, most: int) -> T:
        for _ in range(most):
            done, tree = change(tree)
            if self.near and bool(done.all()):
                break
        return tree

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
        """Return the largest entry along the first axis."""
        return a.max(0)

    def indices(self, like: Array, count: int) -> Array:
        """Return 0, 1, … count - 1."""
        return self.lib.arange(count)

    def size(self, a: Array) -> int:
        return int(a.shape[0])

    def dot(self, a: Array, b: Array) -> Array:
        return self.sum(a * b, 0)

    def norm_inf(self, a: Array) -> Array:
        return self.largest(self.lib.abs(a))

    def norm_one(self, a: Array) -> Array:
        return self.sum(self.lib.abs(a), 0)

    def scale(self, t: Array, a: Array) -> Array:
        return t * a

    def axpy(self, t: Array, a: Array, b: Array) -> Array:
        return b + t * a

    def clip(self, a: Array, low: Array, high: Array) -> Array:
        return self.least(self.most(a, low), high)

    def select(self, mask: Array, a: Array, b: Any) -> Array:
        return self.where(mask, a, b)

    def positive(self, a: Array, otherwise: Array) -> Array:
        return self.select((a > 0) & (a < float("inf")), a, otherwise)

    def least(self, a: Array, b: Array) -> Array:
        return self.lib.minimum(a, b)

    def most(self, a: Array, b: Array) -> Array:
        return self.lib.maximum(a, b)

    def shift(self, t: Array, a: Array) -> Array:
        return a + t

    def first(self, a: Array) -> Array:
        return a[0]

    def turned(self, axes: Array, won: Array) -> Array:
        parts = self.lanes_first(self.swapped(won[:, None] * axes), 2)
        sums = self.lib.flip(self.lib.cumsum(self.lib.flip(parts, (-1,)), -1), (-1,))
        return self.swapped(self.lanes_last(self.lib.linalg.qr(sums)[0], 2))

    def zeros(self, like: Array, *shape: int) -> Array:
        return self.lib.zeros((*shape, *like.shape[1:]), dtype=like.dtype)

    def rows(self, stack: Array, a: Array) -> Array:
        return self.sum(stack * a, 1)

    def combine(self, weights: Array, stack: Array) -> Array:
        return self.sum(weights[:, None] * stack, 0)

    def one_hot(self, index: Array, count: int) -> Array:
        """Return (count, …), true at the index."""
        lead = (None,) * len(index.shape)
        return self.indices(index, count)[(slice(None), *lead)] == index

    def put(self, stack: Array, index: Array, row: Array, when: Any = True) -> Array:
        here = self.one_hot(index, stack.shape[0])
        if when is not True:
            here = here & when
        rest = len(stack.shape) - len(index.shape) - 1
        return self.where(here[(slice(None), *(None,) * rest)], row, stack)

    def clear(self, matrix: Array, index: Array) -> Array:
        here = self.one_hot(index, matrix.shape[0])
        return self.where(here[:, None] | here, self.lib.zeros_like(matrix), matrix)

    def put_column(self, matrix: Array, index: Array, column: Array, when: Any = True) -> Array:
        here = self.one_hot(index, matrix.shape[0])
        if when is not True:
            here = here & when
        return self.where(here, column[:, None], matrix)

    def identity(self, like: Array, n: int) -> Array:
        """Return whether row is column, (n, n) and an axis of length 1 for the lanes."""
        lead = (None,) * (len(like.shape) - 1)
        i = self.indices(like, n)
        return (i[:, None] == i)[(..., *lead)]

    def diagonal(self, matrix: Array, value: Array, when: Any = True) -> Array:
        made = self.where(self.identity(matrix[0], matrix.shape[0]), value, self.lib.zeros_like(matrix))
        return made if when is True else self.where(when, made, matrix)

    def symmetric(self, matrix: Array, a: Array) -> Array:
        return self.rows(matrix, a)

    def rank_two(self, matrix: Array, a: Array, b: Array, when: Any = True) -> Array:
        if when is not True:
            zero = self.lib.zeros_like(a)
            a, b = self.where(when, a, zero), self.where(when, b, zero)
        return matrix + (a[:, None] * b + b[:, None] * a)

    def eigh(self, matrix: Array) -> tuple[Array, Array, Array]:
        finite = self.finite(self.sum(self.sum(self.lib.abs(matrix), 0), 0))
        safe = self.where(
            finite, matrix, self.where(self.identity(matrix[0], matrix.shape[0]), 1.0, 0.0 * finite)
        )
        curvatures, basis = self.lib.linalg.eigh(self.lanes_first(safe, 2))
        return self.lanes_last(curvatures), self.lanes_last(basis, 2), finite

    def smallest(self, a: Array) -> Array:
        return -self.largest(-a)

    def all(self, mask: Array) -> Array:
        return mask.all(0)

    def holds(self, condition: Array) -> bool:
        return bool(condition.any())

    def gram(self, a: Array, b: Array) -> Array:
        return self.lib.einsum("kn...,ln...->kl...", a, b)

    def trace(self, matrix: Array) -> Array:
        here = self.identity(matrix[0], matrix.shape[0])
        return self.sum(self.where(here, matrix, self.lib.zeros_like(matrix)), 1)

    def roots(self, a: Array) -> Array:
        return self.lib.sqrt(a)

    def ring_inverse(self, matrix: Array, known: Array, first: Array) -> Array:
        m = matrix.shape[0]
        made = self.lib.zeros_like(matrix)
        diagonal = self.trace(matrix)
        for j in range(m):
            made = self.ring_column(made, matrix, diagonal, known, first, j)
        return made

    def ring_column(
        self, made: Array, matrix: Array, diagonal: Array, known: Array, first: Array, j: Any
    ) -> Array:
        """Return R⁻¹ with the column of the j-th oldest slot."""
        m = matrix.shape[0]
        k = first + j
        k = self.where(k >= m, k - m, k)
        here = self.one_hot(k, m) & known
        zero = self.lib.zeros_like(diagonal)
        own = self.sum(self.where(here, diagonal, zero), 0)
        column = self.sum(self.where(here, matrix, self.lib.zeros_like(matrix)), 1)
        scale = self.where(own > 0, 1.0 / own, 0.0 * diagonal[0])
        column = self.where(here, 1.0 + zero, zero) * scale - scale * self.rows(made, column)
        return self.put_column(made, k, column, own > 0)

    def svd(self, matrix: Array, vector: Array) -> tuple[Array, Array, Array]:
        finite = self.finite(self.sum(self.sum(self.lib.abs(matrix), 0), 0))
        safe = self.lanes_first(self.where(finite, matrix, self.lib.zeros_like(matrix)), 2)
        left, values, right = self.lib.linalg.svd(safe, full_matrices=False)
        nothing = self.where(finite, 1.0, 0.0 * finite / 0.0)
        values = self.flipped(self.lanes_last(values)) * nothing
        basis = self.swapped(self.flipped(self.lanes_last(right, 2)))
        return values, basis, self.flipped(self.combine(vector, self.lanes_last(left, 2)))

    def reduced(self, matrix: Array, vector: Array) -> tuple[Array, Array]:
        """Return R (n, n, …) and Qᵀ `vector` (n, …) of a matrix A = Q R (m, n, …), m ≥ n."""
        q, upper = self.lib.linalg.qr(self.lanes_first(matrix, 2))
        return self.lanes_last(upper, 2), self.combine(vector, self.lanes_last(q, 2))

    def flipped(self, a: Array) -> Array:
        """Return the first axis reversed."""
        return self.lib.flip(a, (0,))

    def swapped(self, matrix: Array) -> Array:
        """Return the first two axes exchanged."""
        return matrix.swapaxes(0, 1)

    def lanes_first(self, a: Array, rank: int = 1) -> Array:
        """Return (n, B) as (B, n), and (n, k, B), of rank 2, as (B, n, k); as it is without lanes."""
        return self.lib.moveaxis(a, -1, 0) if len(a.shape) > rank else a

    def lanes_last(self, a: Array, rank: int = 1) -> Array:
        """Return (B, n) as (n, B), and (B, n, k), of rank 2, as (n, k, B); as it is without lanes."""
        return self.lib.moveaxis(a, 0, -1) if len(a.shape) > rank else a

    def common(self, count: Array) -> Any:
        return int(count.max())

    def positions(self, like: Array, lanes: Any) -> Array:
        """Return NumPy's indices of problems as an array to index with."""
        return lanes

    def take(self, a: Array, at: Array) -> Array:
        """Return the lanes `at`."""
        return a[..., at]

    def scatter(self, whole: Array, at: Array, part: Array) -> Array:
        """Return `whole` with the lanes `at` replaced; may write over it."""
        whole[..., at] = part
        return whole

    def copied(self, a: Array) -> Array:
        """Return a copy, which `scatter` may write over."""
        return a.copy()


class NumpyLanes(Arrays):
    """Problems in lock step on NumPy."""

    near = True

    def __init__(self, dtype: Any) -> None:
        super().__init__(np, float(np.finfo(dtype).eps))

    def rows(self, stack: Array, a: Array) -> Array:
        return np.einsum("kn...,n...->k...", stack, a)

    def combine(self, weights: Array, stack: Array) -> Array:
        return np.einsum("k...,kn...->n...", weights, stack)

    def rank_two(self, matrix: Array, a: Array, b: Array, when: Any = True) -> Array:
        if when is not True:
            a, b = np.where(when, a, 0.0), np.where(when, b, 0.0)
        made = np.empty_like(a)
        for i in range(len(matrix)):  # a row at a time stays near the processor
            matrix[i] += np.multiply(a[i], b, out=made)
            matrix[i] += np.multiply(b[i], a, out=made)
        return matrix
