r"""The nearest orthogonal matrix, by matrix products alone: Newton-Schulz iterations.

With the singular value decomposition :math:`G = U S V^T`, Muon steps along the polar factor
:math:`U V^T`. An odd polynomial of X acts on the singular values and leaves the singular vectors
alone, so a few steps of

.. math::
    X \leftarrow q(R)\, X, \qquad R = X X^T

with well-chosen polynomials q bring every singular value in [1e-3, 1] near 1. `polynomials` holds the
sets; `published_range` is where a set promises to leave the singular values.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

from downslope.ops.protocol import Array, Ops
from downslope.rules.checks import require
from downslope.rules.polynomials import COEFFICIENT_SETS, Step, coefficients_of, published_range

__all__ = [
    "COEFFICIENT_SETS",
    "RESCALED",
    "coefficients_of",
    "least_operations",
    "newton_schulz",
    "operations",
    "orthogonalize",
    "published_range",
    "restarts_of",
]


RESCALED = ("minimax",)
"""Sets that scale matrices themselves, by a nearer bound than their Frobenius norm."""


def orthogonalize(
    x: Ops,
    g: Array,
    *,
    coefficients: str = "minimax",
    steps: int | None = None,
    dtype: Any = None,
    form: str = "auto",
) -> Array:
    """Return an approximation of the polar factor of each matrix of a stack.

    Args:
        x: the operations of the array's framework.
        g: (..., m, n), any real floating dtype; the result has its shape and dtype.
        coefficients: "minimax" (degrees 9, 17, 17; in half precision 5, 9, 9, 5), "polar_express"
            (Amsel et al., 2025) or "keller5" (Jordan et al., 2024).
        steps: how many iterations; None is as many as the set is made for: 3 (in half precision 4), 5 and 5.
        dtype: what the iterations run in, after the norm was taken in the dtype of `g`; its own by
            default.
        form: "standard", "gram", or "auto": whichever needs fewer operations, see `newton_schulz`.

    The result shares the singular vectors of `g`, and its singular values lie in
    `published_range` wherever they were at least 1e-3 of the Frobenius norm. It does not change
    when `g` is multiplied by a positive number; a zero matrix stays zero. Matrices of a stack do
    not touch one another.

    >>> import numpy as np
    >>> from downslope.ops import ops_for
    >>> g = np.array([[3.0, 0.0, 0.0], [0.0, -4.0, 0.0]])
    >>> np.round(orthogonalize(ops_for(g), g, steps=5), 6) + 0.0
    array([[ 1.,  0.,  0.],
           [ 0., -1.,  0.]])

    """
    size = x.norm(g)
    X = g / x.where(size > 0, size, x.full_like(size, 1.0))
    if dtype is None:
        return newton_schulz(x, X, coefficients, steps, form)
    return x.astype(newton_schulz(x, x.astype(X, dtype), coefficients, steps, form), g.dtype)


def newton_schulz(
    x: Ops, X: Array, coefficients: str = "minimax", steps: int | None = None, form: str = "auto"
) -> Array:
    r"""Return what the iterations make of matrices (..., m, n) of Frobenius norm 1, or zero.

    The first product, :math:`R = X X^T`, also gives a nearer bound on the largest singular value,
    :math:`\sqrt{\lVert R \rVert_F}`, the Schatten 4-norm of X: up to :math:`m^{1/4}` times smaller than
    the Frobenius norm. "minimax" scales by it, but for half precision, so that more of a matrix lies where
    the steps bring it near 1, and takes matrices of any norm between 1e-4 and 1e4. The published sets keep
    the norm that they were published with.

    The *standard* form multiplies the whole matrix in every step. The *Gram* form works on R, which
    is min(m, n) squared: since every step multiplies X by a polynomial of R, it multiplies those
    polynomials together as :math:`Q` and applies :math:`Q X` at the end. Rounding in R makes
    eigenvalues that X does not have, which grow from step to step; so now and then Q is applied and
    R computed afresh (a *restart*, see `restarts_of`). "auto" takes the form with fewer operations,
    counted by `operations`.

    Source of the Gram form: Dao-AILab, Gram Newton-Schulz, 2026.
    """
    require("form", form, form in ("auto", "standard", "gram"), "one of auto, standard, gram")
    half = "16" in str(X.dtype)
    rows = coefficients_of(coefficients, steps, half)
    restarts = restarts_of(coefficients, len(rows), half)
    m, n = sorted(X.shape[-2:])
    if form == "auto":
        form = "gram" if operations(m, n, rows, restarts) < operations(m, n, rows) else "standard"
    cuts = restarts if form == "gram" else range(1, len(rows))
    return _iterate(x, X, rows, cuts, half, rescale=coefficients in RESCALED and not half)


def operations(m: int, n: int, rows: Sequence[Step], restarts: Sequence[int] | None = None) -> float:
    """Return the multiply-adds of m × n iterations (m <= n), in the Gram form if `restarts` are given."""
    cuts = range(1, len(rows)) if restarts is None else restarts
    inner = sum(row.products for row in rows)
    for low, high in pairwise([0, *cuts, len(rows)]):
        inner += 3 * (high - low - 1)  # R and the product of the steps, carried from step to step
    return (len(cuts) + 1) * 2 * m * m * n + inner * m**3


@lru_cache(maxsize=4096)
def least_operations(m: int, n: int, name: str, steps: int | None = None, half: bool = False) -> float:
    """Return the multiply-adds of `newton_schulz` for an m × n matrix (m <= n), in its cheaper form."""
    rows = coefficients_of(name, steps, half)
    return min(operations(m, n, rows), operations(m, n, rows, restarts_of(name, len(rows), half)))


def restarts_of(name: str, steps: int, half: bool) -> list[int]:
    """Return the steps after which the Gram form computes R afresh.

    Found by experiment over spectra from flat to condition 1e8, as the fewest that keep singular
    values in the set's range: within 0.02 in float32, and 0.04 in half precision, where the steep first
    polynomials of the published sets leave no room to join them. `benchmarks/orthogonality.py --hard` shows
    what harder matrices do there.
    """
    if half and name == "minimax":
        return list(range(2, steps, 2))
    if half:
        return [k for k in ((1, 3) if name == "keller5" else range(1, 4)) if k < steps] + list(
            range(5, steps, 2)
        )
    return list(range(3, steps, 4)) if name == "minimax" else list(range(1, steps, 4))


def _iterate(x: Ops, X: Array, rows: Sequence[Step], cuts: Sequence[int], half: bool, rescale: bool) -> Array:
    """Take the steps, X multiplied after each of `cuts` and after the last: after all, the standard form.

    A tall X is multiplied from the right, by polynomials of its columns' products: nothing is transposed.

    Of exact numbers every product here is symmetric, since polynomials of R commute; of rounded ones R Z is
    not. Mirrored, it would give a matrix of low rank eigenvalues beside its range, as large as the rounding,
    which the next steps blow up; whole, the error stays within the range. So R Z is computed whole. Z (R Z),
    symmetric but for the rounding of R Z, is mirrored in half precision alone, where that rounding is like
    chance; otherwise nothing is from then on.
    """
    tall = X.shape[-2] > X.shape[-1]
    R, scale = _gram(x, X, tall), None
    if rescale:
        R, scale = x.unit(R)
    Q = None  # the product of the steps since X was multiplied
    symmetric = True  # whether R is, to the last digit
    for k, row in enumerate(rows, start=1):
        Z = row.of(x, R, symmetric)
        Q = Z if Q is None else x.mm(Q, Z)
        if k < len(rows) and k not in cuts:
            R, symmetric = (x.congruent(R, Z) if half else x.mm(x.mm(R, Z), Z)), half
            continue
        if scale is not None:
            Q, scale = Q * scale, None
        X, Q = x.mm(X, Q) if tall else x.mm(Q, X), None
        if k < len(rows):
            R, symmetric = _gram(x, X, tall), True
    return X


def _gram(x: Ops, X: Array, tall: bool) -> Array:
    return x.gram(x.transpose(X) if tall else X)
