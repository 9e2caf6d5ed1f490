"""One problem on the host: numbers are Python's own, and `where` is an `if`.

Vectors belong to the user's framework and stay where they are. A number crosses to the host once,
where it is made; arithmetic on it then costs next to nothing, which is what a solver of small
problems spends its time on.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from scipy.linalg import blas, lapack

from downslope.ops.protocol import Array

T = TypeVar("T")


class Host(ABC):
    """What does not depend on the kind of vector."""

    eps: float

    def full(self, like: Any, value: Any) -> Any:
        return value

    def where(self, condition: bool, a: Any, b: Any) -> Any:
        return a if condition else b

    pick = where

    def branch(self, condition: bool, then: Callable[[], T], otherwise: Callable[[], T]) -> T:
        return then() if condition else otherwise()

    def guarded(self, condition: bool, change: Callable[[bool], T], tree: T) -> T:
        return change(True) if condition else tree

    def until(self, change: Callable[[T], tuple[bool, T]], tree: T, most: int) -> T:
        for _ in range(most):
            done, tree = change(tree)
            if done:
                break
        return tree

    def common(self, count: int) -> int:
        return count

    def lanes_first(self, a: Array) -> Array:
        return a

    def lanes_last(self, a: Array) -> Array:
        return a

    @abstractmethod
    def select(self, mask: Array, a: Array, b: Any) -> Array:
        """See `Space.select`."""

    def positive(self, a: Array, otherwise: Array) -> Array:
        return self.select((a > 0) & (a < math.inf), a, otherwise)

    def size(self, a: Array) -> int:
        return int(a.shape[0])

    def invert(self, condition: bool) -> bool:
        return not condition

    def holds(self, condition: bool) -> bool:
        return bool(condition)

    def finite(self, a: float) -> bool:
        return math.isfinite(a)

    def absolute(self, a: float) -> float:
        return abs(a)

    def minimum(self, a: float, b: float) -> float:
        return a if a < b else b

    def maximum(self, a: float, b: float) -> float:
        return a if a > b else b

    def sqrt(self, a: float) -> float:
        return math.sqrt(a) if a > 0 else 0.0

    def divide(self, a: float, b: float) -> float:
        if b:
            return a / b
        return math.copysign(math.inf, a) * math.copysign(1.0, b) if a else math.nan


class NumpyHost(Host):
    """Vectors of NumPy, (n,)."""

    def __init__(self, dtype: Any) -> None:
        self.dtype = np.dtype(dtype)
        self.eps = float(np.finfo(self.dtype).eps)
        self._largest = blas.idamax if self.dtype == np.float64 else blas.isamax
        double = self.dtype == np.float64
        self._symv, self._syr2 = (blas.dsymv, blas.dsyr2) if double else (blas.ssymv, blas.ssyr2)
        self._trtri = lapack.dtrtri if double else lapack.strtri
        self._sum = blas.dasum if self.dtype == np.float64 else blas.sasum

    def dot(self, a: Array, b: Array) -> float:
        return float(a.dot(b))

    def norm_inf(self, a: Array) -> float:
        return abs(float(a[self._largest(a)]))

    def norm_one(self, a: Array) -> float:
        return float(self._sum(a))

    def scale(self, t: float, a: Array) -> Array:
        return t * a

    def axpy(self, t: float, a: Array, b: Array) -> Array:
        made = t * a
        made += b
        return made

    def clip(self, a: Array, low: Array, high: Array) -> Array:
        return np.minimum(np.maximum(a, low), high)

    def select(self, mask: Array, a: Array, b: Array | float) -> Array:
        return np.where(mask, a, b)

    def positive(self, a: Array, otherwise: Array) -> Array:
        # Nearly always all of it is. Both searches stop at the first NaN.
        if a[a.argmin()] > 0 and a[a.argmax()] < math.inf:
            return a
        return super().positive(a, otherwise)

    def least(self, a: Array, b: Array) -> Array:
        return np.minimum(a, b)

    def most(self, a: Array, b: Array) -> Array:
        return np.maximum(a, b)

    def shift(self, t: float, a: Array) -> Array:
        return a + t

    def first(self, a: Array) -> float:
        return float(a[0])

    def eigh(self, matrix: Array) -> tuple[Array, Array, bool]:
        if not np.isfinite(matrix).all():
            return np.full_like(matrix[0], math.nan), matrix, False
        curvatures, basis = np.linalg.eigh(matrix)
        return curvatures, basis, True

    def svd(self, matrix: Array, vector: Array) -> tuple[Array, Array, Array]:
        if not np.isfinite(matrix).all():
            k = min(matrix.shape)
            return np.full(k, math.nan), np.full((matrix.shape[1], k), math.nan), np.full(k, math.nan)
        left, values, right = np.linalg.svd(matrix, full_matrices=False)
        return values[::-1], right[::-1].T, vector.dot(left)[::-1]

    def turned(self, axes: Array, won: Array) -> Array:
        sums = np.cumsum((won[:, None] * axes)[::-1], axis=0)[::-1]
        return np.linalg.qr(sums.T)[0].T

    def zeros(self, like: Array, *shape: int) -> Array:
        return np.zeros(shape, self.dtype)

    def rows(self, stack: Array, a: Array) -> Array:
        return stack.dot(a)

    def combine(self, weights: Array, stack: Array) -> Array:
        return weights.dot(stack)

    def put(self, stack: Array, index: int, row: Array, when: bool = True) -> Array:
        if when:
            stack[index] = row
        return stack

    def clear(self, matrix: Array, index: int) -> Array:
        matrix[index] = 0.0
        matrix[:, index] = 0.0
        return matrix

    def put_column(self, matrix: Array, index: int, column: Array, when: bool = True) -> Array:
        matrix[:, index] = column
        return matrix

    def diagonal(self, matrix: Array, value: float, when: bool = True) -> Array:
        matrix[...] = 0.0
        matrix.reshape(-1)[:: len(matrix) + 1] = value
        return matrix

    # BLAS reads by columns: its upper triangle is the lower one of a matrix that is stored by rows.
    def symmetric(self, matrix: Array, a: Array) -> Array:
        return self._symv(1.0, matrix.T, a)

    def rank_two(self, matrix: Array, a: Array, b: Array, when: bool = True) -> Array:
        self._syr2(1.0, a, b, a=matrix.T, overwrite_a=1)
        return matrix

    def smallest(self, a: Array) -> float:
        return float(a.min())

    def all(self, mask: Array) -> bool:
        return bool(mask.all())

    def gram(self, a: Array, b: Array) -> Array:
        return a.dot(b.T)

    def trace(self, matrix: Array) -> Array:
        return matrix.diagonal().copy()

    def roots(self, a: Array) -> Array:
        return np.sqrt(a)

    def ring_inverse(self, matrix: Array, known: Array, first: int) -> Array:
        order = (np.arange(len(matrix)) + first) % len(matrix)
        order = order[known[order]]
        made = np.zeros_like(matrix)
        if len(order):
            where = np.ix_(order, order)
            made[where] = self._trtri(matrix[where], lower=0)[0] * np.tri(len(order)).T
        return made
