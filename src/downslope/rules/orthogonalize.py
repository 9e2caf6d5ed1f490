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
from types import MappingProxyType
from typing import Any

from downslope.rules.rule import Array, Ops, require

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
    x: Ops, g: Array, *, coefficients: str = "polar_express", steps: int = 5, dtype: Any = None
) -> Array:
    """Return an approximation of the polar factor of each matrix of a stack.

    Args:
        x: the operations of the array's framework.
        g: (..., m, n), any real floating dtype; the result has its shape and dtype.
        coefficients: "polar_express" (Amsel et al., 2025) or "keller5" (Jordan et al., 2024).
        steps: how many iterations.
        dtype: what the iterations run in, after the norm was taken in the dtype of `g`; its own by
            default.

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
    triples = coefficients_of(coefficients, steps)
    tall = g.shape[-2] > g.shape[-1]
    X = x.transpose(g) if tall else g
    size = x.norm(X)
    X = X / x.where(size > 0, size, x.full_like(size, 1.0))
    if dtype is not None:
        X = x.astype(X, dtype)
    for a, b, c in triples:
        A = x.gram(X)
        B = x.addmm_symmetric(A, A, A, b, c)  # b A + c A²
        X = x.addmm(X, B, X, a, 1.0)  # a X + B X
    if dtype is not None:
        X = x.astype(X, g.dtype)
    return x.transpose(X) if tall else X
