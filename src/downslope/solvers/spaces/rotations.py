"""Decompositions of many small matrices in lock step, for JAX: operations on whole lanes.

A kernel may hold them, and not a call of LAPACK, for which a turn of a fit would leave the kernel. Matrices
are (m, n, B), vectors (m, B).
"""

from __future__ import annotations

from itertools import combinations
from typing import Any

from downslope.ops.protocol import Array

LARGEST = 8
"""Columns up to which this is faster than a library's routine, matrix by matrix."""

SWEEPS = 30
"""Rotations of all pairs of columns; four to six are usual."""


def reduced(space: Any, matrix: Array, vector: Array) -> tuple[Array, Array]:
    """Return R (n, n, B) and Qᵀ b (n, B) of A = Q R, by Householder's reflections."""
    m, n = matrix.shape[:2]
    row = space.indices(vector, m)[:, None]

    def reflected(j: Any, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        a, b = carry
        column = space.at(a, j, 1)
        column = space.select(row >= j, column, space.lib.zeros_like(column))
        largest = space.norm_inf(column)
        # Scaled, so that no square over- or underflows; NaN and infinity stay what they are, or make NaN.
        column = column / space.where(largest > 0, largest, 1.0 + 0.0 * largest)
        length = space.roots(space.dot(column, column))
        head = space.at(column, j, 0)
        away = space.where(head < 0, -length, length)
        v = column + space.select(row == j, away + 0.0 * column, space.lib.zeros_like(column))
        share = 1.0 / (length * (length + space.absolute(head)))
        share = space.where(length == 0, 0.0 * length, share)
        along = share * space.combine(v, a)
        return a - v[:, None] * along, b - v * (share * space.dot(v, b))

    a, b = space.each(n, reflected, (matrix, vector))
    column = space.indices(vector, n)
    upper = (column[:, None] <= column)[..., None]
    return space.where(upper, a[:n], space.lib.zeros_like(a[:n])), b[:n]


def svd(space: Any, matrix: Array, vector: Array) -> tuple[Array, Array, Array]:
    """Return singular values rising, right vectors in columns, and Uᵀ b, of matrices with m ≥ n.

    Rotations of pairs of columns, until all are orthogonal; the longer one is put last.

    Source: Hestenes, Inversion of matrices by biorthogonalization and related results, 1958; Demmel and
    Veselić, Jacobi's method is more accurate than QR, SIAM J. Matrix Anal. Appl. 13, 1992.
    """
    m, n = matrix.shape[:2]
    eye = space.where(space.identity(vector, n), 1.0 + 0.0 * matrix[:1, :1], 0.0 * matrix[:1, :1])
    # Columns of A and of V in rows, side by side: what turns the one turns the other.
    both = space.lib.concatenate([space.swapped(matrix), eye], 1)
    pairs = space.lib.asarray(list(combinations(range(n), 2)) or [(0, 0)], "int32")
    least = n * space.eps

    def rotated(i: Any, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        both, settled = carry
        p, q = pairs[i][0], pairs[i][1]
        x, y = space.at(both, p, 0), space.at(both, q, 0)
        a, b, c = (space.dot(u[:m], v[:m]) for u, v in ((x, x), (y, y), (x, y)))
        apart = space.absolute(c) <= least * space.roots(a) * space.roots(b)
        one = 1.0 + 0.0 * c
        zeta = (b - a) / space.where(apart, one, 2.0 * c)
        size = space.absolute(zeta) + space.roots(one + zeta * zeta)
        t = space.where(apart, 0.0 * c, space.where(zeta < 0, -1.0 / size, 1.0 / size))
        cosine = 1.0 / space.roots(one + t * t)
        sine = t * cosine
        shorter, longer = cosine * x - sine * y, sine * x + cosine * y
        swap = a > b
        both = space.put_row(both, p, space.where(swap, longer, shorter))
        return space.put_row(both, q, space.where(swap, shorter, longer)), settled & (apart | ~(c == c))

    def sweep(both: Array) -> tuple[Array, Array]:
        both, settled = space.each(n * (n - 1) // 2, rotated, (both, space.full(vector[0], True)))
        return settled, both

    both = space.until(sweep, both, SWEEPS)
    columns = both[:, :m]
    values = space.roots(space.sum(columns * columns, 1))
    along = space.rows(columns, vector)
    parts = space.where(
        values == 0, 0.0 * along, along / space.where(values == 0, 1.0 + 0.0 * values, values)
    )
    return values, space.swapped(both[:, m:]), parts
