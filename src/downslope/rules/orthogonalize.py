r"""The nearest orthogonal matrix, by matrix products alone: Newton-Schulz iterations.

With the singular value decomposition :math:`G = U S V^T`, Muon steps along the polar factor
:math:`U V^T`. An odd polynomial of X acts on the singular values and leaves the singular vectors
alone, so a few steps of

.. math::
    X \leftarrow a X + (b A + c A^2) X, \qquad A = X X^T

with well-chosen (a, b, c) bring every singular value in [1e-3, 1] near 1. A coefficient set is a
list of such triples. `published_range` is where a set promises to leave the singular values.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from types import MappingProxyType
from typing import Any

from downslope.ops.protocol import Array, Ops
from downslope.rules.checks import require

Triple = tuple[float, float, float]

_KELLER: Triple = (3.4445, -4.7750, 2.0315)

# Amsel, Persson, Musco & Gower, 2025 (arXiv:2505.16932), lower bound 1e-3, cushion 0.024.
_POLAR_EXPRESS: tuple[Triple, ...] = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
)
_POLAR_EXPRESS_LIMIT: Triple = (1.875, -1.25, 0.375)
_SAFETY = 1.01  # room for rounding: each row acts on a matrix that may be 1 % larger than it should


def _keller5(steps: int) -> list[Triple]:
    return [_KELLER] * steps


def _polar_express(steps: int) -> list[Triple]:
    safe = [(a / _SAFETY, b / _SAFETY**3, c / _SAFETY**5) for a, b, c in _POLAR_EXPRESS[:steps]]
    return safe + [_POLAR_EXPRESS_LIMIT] * (steps - len(safe))


_SETS = MappingProxyType({"keller5": _keller5, "polar_express": _polar_express})

COEFFICIENT_SETS: tuple[str, ...] = tuple(_SETS)
"""Names of the coefficient sets."""

_RANGES: Mapping[tuple[str, int], tuple[float, float]] = MappingProxyType(
    {
        ("keller5", 5): (0.471, 1.202),
        ("polar_express", 5): (0.846, 1.124),
        ("polar_express", 6): (0.994, 1.0015),
    }
)


def coefficients_of(name: str, steps: int) -> list[Triple]:
    """Return the (a, b, c) of each step of a set.

    Raises:
        ValueError: an unknown set, or a number of steps that is not a positive integer.

    >>> coefficients_of("keller5", 1)
    [(3.4445, -4.775, 2.0315)]

    """
    require("coefficients", name, name in _SETS, "one of " + ", ".join(_SETS))
    whole = isinstance(steps, int) and not isinstance(steps, bool) and steps >= 1
    require("ns_steps", steps, whole, "a whole number of at least 1")
    return _SETS[name](steps)


def published_range(name: str, steps: int) -> tuple[float, float]:
    """Return where the set leaves a singular value that was at least 1e-3 of the norm.

    The figures that were published, where they were; otherwise what the polynomials do to a fine
    grid over [1e-3, 1].
    """
    triples = coefficients_of(name, steps)
    if (name, steps) in _RANGES:
        return _RANGES[name, steps]
    values = [10 ** (-3 * i / 20000) for i in range(20001)]
    for a, b, c in triples:
        values = [v * (a + v * v * (b + c * v * v)) for v in values]
    return min(values), max(values)


def orthogonalize(
    x: Ops,
    g: Array,
    *,
    coefficients: str = "polar_express",
    steps: int = 5,
    dtype: Any = None,
    form: str = "auto",
) -> Array:
    """Return an approximation of the polar factor of each matrix of a stack.

    Args:
        x: the operations of the array's framework.
        g: (..., m, n), any real floating dtype; the result has its shape and dtype.
        coefficients: "polar_express" (Amsel et al., 2025) or "keller5" (Jordan et al., 2024).
        steps: how many iterations.
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
    >>> np.round(orthogonalize(ops_for(g), g, steps=8), 6) + 0.0
    array([[ 1.,  0.,  0.],
           [ 0., -1.,  0.]])

    """
    size = x.norm(g)
    X = g / x.where(size > 0, size, x.full_like(size, 1.0))
    if dtype is None:
        return newton_schulz(x, X, coefficients, steps, form)
    return x.astype(newton_schulz(x, x.astype(X, dtype), coefficients, steps, form), g.dtype)


def newton_schulz(
    x: Ops, X: Array, coefficients: str = "polar_express", steps: int = 5, form: str = "auto"
) -> Array:
    r"""Return what the iterations make of matrices (..., m, n) of Frobenius norm at most 1.

    The *standard* form multiplies the whole matrix in every step. The *Gram* form works on
    :math:`R = X X^T`, which is min(m, n) squared: since every step multiplies X by a polynomial of
    R, it multiplies those polynomials together as :math:`Q` and applies :math:`Q X` at the end.
    Rounding in R makes eigenvalues that X does not have, which grow from step to step; so now and
    then Q is applied and R computed afresh (a *restart*, see `restarts_of`). "auto" takes the form
    with fewer operations, counted by `operations`.

    Source of the Gram form: Dao-AILab, Gram Newton-Schulz, 2026. Here the identity's share of Q is
    kept apart as a number, so that it never rounds.
    """
    require("form", form, form in ("auto", "standard", "gram"), "one of auto, standard, gram")
    triples = coefficients_of(coefficients, steps)
    restarts = restarts_of(coefficients, steps, half="16" in str(X.dtype))
    m, n = X.shape[-2], X.shape[-1]
    tall = m > n
    if tall:
        X, m, n = x.transpose(X), n, m
    if form == "auto":
        form = "gram" if operations(m, n, steps, restarts) < operations(m, n, steps) else "standard"
    X = _gram(x, X, triples, restarts) if form == "gram" else _standard(x, X, triples)
    return x.transpose(X) if tall else X


def operations(m: int, n: int, steps: int, restarts: list[int] | None = None) -> float:
    """Return the multiply-adds of m × n iterations (m <= n), in the Gram form if `restarts` are given."""
    if restarts is None:
        return steps * (2 * m * m * n + m**3)
    lengths = [b - a for a, b in pairwise([0, *restarts, steps])]
    return sum(2 * m * m * n + (4 * length - 3) * m**3 for length in lengths)


def restarts_of(name: str, steps: int, half: bool) -> list[int]:
    """Return the steps after which the Gram form computes R afresh.

    Found by experiment over spectra from flat to condition 1e8, as the fewest that keep singular
    values in the set's range: within 2e-3 in float32, and 0.04 in half precision, where the steep
    first polynomials of Polar Express leave no room to join any of the first three.
    """
    if not half:
        return list(range(1, steps, 4))
    first = {"keller5": [], "polar_express": [1, 2]}[name]
    return [*(k for k in first if k < steps), *range(3, steps, 2)]


def _standard(x: Ops, X: Array, triples: list[Triple]) -> Array:
    for a, b, c in triples:
        A = x.gram(X)
        B = x.addmm_symmetric(A, A, A, b, c)  # b A + c A²
        X = x.addmm(X, B, X, a, 1.0)  # a X + B X
    return X


def _gram(x: Ops, X: Array, triples: list[Triple], restarts: list[int]) -> Array:
    ends = {*restarts, len(triples)}
    R = x.gram(X)
    Q, q = None, 1.0  # the product of the steps since the last restart is q I + Q
    for k, (a, b, c) in enumerate(triples, start=1):
        Z = x.addmm_symmetric(R, R, R, b, c)  # this step multiplies by a I + Z
        Q = Z if Q is None else x.addmm_symmetric(a * Q + q * Z, Q, Z, 1.0, 1.0)
        q *= a
        if k not in ends:
            RZ = x.addmm_symmetric(R, R, Z, a, 1.0)
            R = x.addmm_symmetric(RZ, Z, RZ, a, 1.0)  # (a I + Z) R (a I + Z)
            continue
        X = x.addmm(X, Q, X, q, 1.0)
        if k < len(triples):
            R, Q, q = x.gram(X), None, 1.0
    return X
