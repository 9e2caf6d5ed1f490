"""Vectors of JAX: numbers are arrays, so that a loop of turns can be traced."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from downslope.ops.protocol import Array
from downslope.solvers.spaces import rotations
from downslope.solvers.spaces.arrays import Arrays, mapped

T = TypeVar("T")


class JaxSpace(Arrays):
    """One problem with numbers (), or many in lock step with numbers (B,)."""

    def __init__(self, like: Array) -> None:
        super().__init__(jnp, float(np.finfo(like.dtype).eps))
        self.dtype = like.dtype

    def full(self, like: Array, value: Any) -> Array:
        kind = bool if isinstance(value, bool) else jnp.int32 if isinstance(value, int) else self.dtype
        return jnp.full(like.shape, value, dtype=kind)

    def where(self, condition: Array, a: Any, b: Any) -> Array:
        made = jnp.where(condition, a, b)
        return made.astype(jnp.int32) if jnp.issubdtype(made.dtype, jnp.integer) else made

    def branch(self, condition: Array, then: Callable[[], T], otherwise: Callable[[], T]) -> T:
        if len(condition.shape):
            return super().branch(condition, then, otherwise)
        made: T = jax.lax.cond(condition, lambda: self.arrays(then()), lambda: self.arrays(otherwise()))
        return made

    def sum(self, a: Array, axis: int) -> Array:
        return _added(lambda i: _at(a, i, axis), a.shape[axis]) if _wide(a) else a.sum(axis)

    def dot(self, a: Array, b: Array) -> Array:
        return _added(lambda i: _at(a, i, 0) * _at(b, i, 0), a.shape[0]) if _wide(a) else a @ b

    def largest(self, a: Array) -> Array:
        if not _wide(a):
            return a.max(0)
        return repeated(a.shape[0], lambda i, most: jnp.maximum(most, _at(a, i, 0)), a[0], 1)

    def eigh(self, matrix: Array) -> tuple[Array, Array, Array]:
        if matrix.ndim > 2:
            return super().eigh(matrix)
        finite = jnp.isfinite(matrix).all()
        curvatures, basis = jnp.linalg.eigh(
            jnp.where(finite, matrix, jnp.eye(len(matrix), dtype=matrix.dtype))
        )
        return curvatures, basis, finite

    def svd(self, matrix: Array, vector: Array) -> tuple[Array, Array, Array]:
        if matrix.ndim > 2:
            return rotations.svd(self, matrix, vector) if _few(matrix) else super().svd(matrix, vector)
        finite = jnp.isfinite(matrix).all()
        left, values, right = jnp.linalg.svd(jnp.where(finite, matrix, 0.0), full_matrices=False)
        values = jnp.where(finite, values[::-1], jnp.nan)
        return values, right[::-1].T, (vector @ left)[::-1]

    def guarded(self, condition: Array, change: Callable[[Any], T], tree: T) -> T:
        if len(condition.shape):
            return super().guarded(condition, change, tree)
        return self.branch(condition, lambda: change(jnp.asarray(True)), lambda: tree)

    def reduced(self, matrix: Array, vector: Array) -> tuple[Array, Array]:
        few = matrix.ndim > 2 and _few(matrix)
        return rotations.reduced(self, matrix, vector) if few else super().reduced(matrix, vector)

    def each(self, count: int, change: Callable[[Any, T], T], tree: T) -> T:
        """Return what `change` makes of a tree, for 0, 1, … count - 1."""
        return repeated(count, change, tree)

    def at(self, a: Array, i: Any, axis: int) -> Array:
        """Return row `i`, or column where the axis is 1."""
        return _at(a, i, axis)

    def put_row(self, a: Array, i: Any, row: Array) -> Array:
        """Return an array with row `i` replaced."""
        return jax.lax.dynamic_update_index_in_dim(a, row, i, 0)

    def until(self, change: Callable[[T], tuple[Array, T]], tree: T, most: int) -> T:
        first = self.arrays(tree)

        def one(carry: tuple[Array, Array, T]) -> tuple[Array, Array, T]:
            done, made = change(carry[2])
            return carry[0] + 1, done.all(), alike(self.arrays(made), first)

        start = (jnp.int32(0), jnp.asarray(False), first)
        made: T = jax.lax.while_loop(lambda carry: (carry[0] < most) & ~carry[1], one, start)[2]
        return made

    def rows(self, stack: Array, a: Array) -> Array:
        if not _wide(a):
            return stack @ a
        return _added(lambda i: _at(stack, i, 1) * _at(a, i, 0), a.shape[0])

    def combine(self, weights: Array, stack: Array) -> Array:
        if not _wide(weights):
            return weights @ stack
        return _added(lambda i: _at(weights, i, 0) * _at(stack, i, 0), weights.shape[0])

    def gram(self, a: Array, b: Array) -> Array:
        if len(a.shape) == 2:
            return a @ b.T
        return _added(lambda i: _at(a, i, 1)[:, None] * _at(b, i, 1), a.shape[1])

    def ring_inverse(self, matrix: Array, known: Array, first: Array) -> Array:
        diagonal = self.trace(matrix)

        def column(j: Array, made: Array) -> Array:
            return self.ring_column(made, matrix, diagonal, known, first, j)

        return repeated(matrix.shape[0], column, jnp.zeros_like(matrix))

    def put(self, stack: Array, index: Array, row: Array, when: Any = True) -> Array:
        if len(index.shape):
            return super().put(stack, index, row, when)
        return stack.at[index].set(row if when is True else jnp.where(when, row, stack[index]))

    def common(self, count: Array) -> Any:
        return count.max()

    def arrays(self, tree: T) -> T:
        """Return a tree with Python's numbers as arrays, in the dtypes of the space."""

        def one(leaf: Any) -> Array:
            if isinstance(leaf, bool):
                return jnp.asarray(leaf)
            if isinstance(leaf, int):
                return jnp.asarray(leaf, jnp.int32)
            if isinstance(leaf, float):
                return jnp.asarray(leaf, self.dtype)
            kind = jnp.int32 if jnp.issubdtype(leaf.dtype, jnp.integer) else leaf.dtype
            return jax.lax.convert_element_type(leaf, kind)

        made: T = mapped(one, tree)
        return made


def _wide(a: Array) -> bool:
    """Whether an array has lanes."""
    return len(a.shape) > 1


def _few(matrix: Array) -> bool:
    """Whether a matrix has so few columns, and no fewer rows, that rotations are faster than a library."""
    return bool(matrix.shape[1] <= min(matrix.shape[0], rotations.LARGEST))


def _at(a: Array, i: Any, axis: int) -> Array:
    return jax.lax.dynamic_index_in_dim(a, i, axis, keepdims=False)


def _added(term: Callable[[Any], Array], count: int) -> Array:
    """Return the sum of terms, each as wide as the lanes.

    On CPUs, XLA's reductions over the first axis run across the lanes and are several times slower;
    written out term by term, they are fused into what follows and computed over and over.
    """
    return repeated(count, lambda i, total: total + term(i), term(0), 1)


def alike(new: Any, old: Any) -> Any:
    """Return a tree in the dtypes of another, which a loop's state has to keep."""
    return jax.tree.map(lambda a, b: jax.lax.convert_element_type(a, b.dtype), new, old)


def repeated(count: Any, change: Callable[[Any, T], T], first: T, begin: int = 0) -> T:
    """Return what `change` makes of the first, for begin, … count - 1.

    `fori_loop` becomes a `scan`, whose body is another function to compile.
    """

    def one(carry: tuple[Any, T]) -> tuple[Any, T]:
        return carry[0] + 1, change(*carry)

    made: T = jax.lax.while_loop(lambda carry: carry[0] < count, one, (jnp.int32(begin), first))[1]
    return made


def lanes(like: Array) -> JaxSpace:
    """Return the space of one problem or of problems in lock step."""
    return JaxSpace(like)


def vector(like: Array, values: Any) -> Array:
    """Return values as a vector, of the dtype of `like`."""
    return jnp.asarray(values, like.dtype)
