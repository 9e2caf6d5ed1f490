"""What a method may do with its numbers and vectors, so that the same lines run everywhere.

| space | vectors | numbers and conditions |
|---|---|---|
| on the host, one problem | arrays (n,) | Python floats, ints and bools; `where` is an `if` |
| in a jitted loop, one problem | arrays (n,) | arrays () |
| in lock step, B problems | arrays (n, B) | arrays (B,) |

Numbers take `+ - *` and comparisons, conditions `&` and `|`; everything else goes through the space.
The problems of a batch lie along the last axis, so that a number times a vector is broadcasting. "Small"
arrays, (k, …) or (k, k, …), hold what a method knows of k directions; they are arrays in every space.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias, TypeVar

from downslope.ops.protocol import Array

Number: TypeAlias = Any
"""A float or an int of each problem, see above."""

Condition: TypeAlias = Any
"""A truth value of each problem."""

T = TypeVar("T")


class Space(Protocol):
    """The operations; every one is pure unless it says that it may write over its first argument."""

    eps: float
    """Spacing of the vectors' dtype at 1."""

    def full(self, like: Number, value: float | int | bool) -> Number:
        """The same float, whole number or truth value for each problem of the number `like`."""

    def where(self, condition: Condition, a: Number, b: Number) -> Number:
        """`a` where the condition holds, else `b`; of numbers. Both are already computed."""

    def pick(self, condition: Condition, a: Array, b: Array) -> Array:
        """The same of vectors or small arrays: whole rows are chosen."""

    def branch(self, condition: Condition, then: Callable[[], T], otherwise: Callable[[], T]) -> T:
        """`then()` where the condition holds, else `otherwise()`: trees of one structure.

        On the host and in a jitted loop one side alone is computed, in lock step both.
        """

    def guarded(self, condition: Condition, change: Callable[[Condition], T], tree: T) -> T:
        """`change(condition)` where the condition holds, else `tree`; for what is large.

        In lock step `change` is called in any case, and leaves alone what its condition does not hold
        for: `put` and its like take it as `when`. Nothing is then chosen afterwards, array by array.
        """

    def until(self, change: Callable[[T], tuple[Condition, T]], tree: T, most: int) -> T:
        """The tree after `change`, again and again until its condition holds, or `most` times.

        In lock step all are changed until it holds for all: a change after it holds must change nothing.
        """

    def invert(self, condition: Condition) -> Condition:
        """Whether the condition does not hold."""

    def finite(self, a: Number) -> Condition:
        """Whether a number is neither NaN nor infinite."""

    def absolute(self, a: Number) -> Number:
        """|a|."""

    def minimum(self, a: Number, b: Number) -> Number:
        """The smaller number."""

    def maximum(self, a: Number, b: Number) -> Number:
        """The larger number."""

    def sqrt(self, a: Number) -> Number:
        """√a, and 0 of a negative number."""

    def divide(self, a: Number, b: Number) -> Number:
        """The ratio a / b; infinite or NaN where b is 0, without an error."""

    def size(self, a: Array) -> int:
        """Entries of a vector, n."""

    def dot(self, a: Array, b: Array) -> Number:
        """Inner product of vectors; not finite where an entry of either is not."""

    def norm_inf(self, a: Array) -> Number:
        """Largest entry in size."""

    def norm_one(self, a: Array) -> Number:
        """Sum of the sizes of the entries."""

    def scale(self, t: Number, a: Array) -> Array:
        """The vector t a."""

    def axpy(self, t: Number, a: Array, b: Array) -> Array:
        """The vector b + t a."""

    def clip(self, a: Array, low: Array, high: Array) -> Array:
        """Entries of a vector moved into [low, high]."""

    def select(self, mask: Array, a: Array, b: Array | float) -> Array:
        """Entry by entry, `a` where the mask holds, else `b`."""

    def positive(self, a: Array, otherwise: Array) -> Array:
        """Entry by entry, `a` where it is positive and finite, else `otherwise`."""

    def least(self, a: Array, b: Array) -> Array:
        """Entry by entry, the smaller."""

    def most(self, a: Array, b: Array) -> Array:
        """Entry by entry, the larger."""

    def shift(self, t: Number, a: Array) -> Array:
        """A vector or small array with t added to every entry."""

    def first(self, a: Array) -> Number:
        """Its first entry, as a number."""

    def eigh(self, matrix: Array) -> tuple[Array, Array, Condition]:
        """Eigenvalues (n, …) rising, eigenvectors (n, n, …) in columns, and whether the matrix is finite.

        Of a symmetric matrix, by its lower half; without an error where it is not finite.
        """

    def svd(self, matrix: Array, vector: Array) -> tuple[Array, Array, Array]:
        """Singular values (k, …) rising, right vectors (n, k, …) in columns, and Uᵀ `vector` (k, …).

        Of a matrix (m, n, …), k = min(m, n); not finite where the matrix is not, without an error.
        """

    def turned(self, axes: Array, won: Array) -> Array:
        """Orthonormal rows (…, n, n): the first along Σ wᵢ aᵢ, the k-th in the span of the sums from k on."""

    def zeros(self, like: Array, *shape: int) -> Array:
        """Zeros (*shape, …): a small array, or a stack of vectors, for each problem of the vector `like`."""

    def rows(self, stack: Array, a: Array) -> Array:
        """The inner products (k, …) of k rows (k, n, …) with a vector (n, …)."""

    def combine(self, weights: Array, stack: Array) -> Array:
        """The sum (n, …) of k rows (k, n, …), weighted (k, …)."""

    def put(self, stack: Array, index: Number, row: Array, when: Condition = True) -> Array:
        """The stack with row `index` replaced where `when` holds; may write over the stack."""

    def clear(self, matrix: Array, index: Number) -> Array:
        """A small matrix (k, k, …) with row and column `index` zero; may write over it."""

    def put_column(self, matrix: Array, index: Number, column: Array, when: Condition = True) -> Array:
        """A small matrix with column `index` replaced; may write over it."""

    def diagonal(self, matrix: Array, value: Number, when: Condition = True) -> Array:
        """The matrix value · I, of the shape of `matrix` (n, n, …); may write over it."""

    def symmetric(self, matrix: Array, a: Array) -> Array:
        """A symmetric matrix (n, n, …) times a vector; the host keeps its lower triangle alone."""

    def rank_two(self, matrix: Array, a: Array, b: Array, when: Condition = True) -> Array:
        """The symmetric matrix + a bᵀ + b aᵀ; may write over the matrix."""

    def smallest(self, a: Array) -> Number:
        """Smallest entry of a vector."""

    def all(self, mask: Array) -> Condition:
        """Whether a mask holds for every entry."""

    def holds(self, condition: Condition) -> bool:
        """Whether a condition holds for any problem."""

    def gram(self, a: Array, b: Array) -> Array:
        """A small matrix (k, k, …): the inner products of the rows of two stacks (k, n, …)."""

    def trace(self, matrix: Array) -> Array:
        """The diagonal (k, …) of a small matrix."""

    def roots(self, a: Array) -> Array:
        """Square roots of the entries of a small array."""

    def ring_inverse(self, matrix: Array, known: Array, first: Number) -> Array:
        """R⁻¹ of the part of a small matrix, in a ring, where the row is no younger than the column.

        Slot `first` is the oldest. Slots that are not `known` have zeros.
        """

    def common(self, count: Number) -> Any:
        """A count that is the same for all problems that still run, as one number."""

    def lanes_first(self, a: Array) -> Array:
        """The vectors (n, B) as (B, n); (n,) as it is."""

    def lanes_last(self, a: Array) -> Array:
        """The vectors (B, n) as (n, B); (n,) as it is."""
