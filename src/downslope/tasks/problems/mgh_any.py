"""Problems 21 to 35 of Moré, Garbow and Hillstrom: those of any number of unknowns.

Each function returns the residuals r(x) of f = Σ rᵢ². J. J. Moré, B. S. Garbow and K. E. Hillstrom,
Testing unconstrained optimization software, ACM Transactions on Mathematical Software 7 (1981) 17-41.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from downslope.tasks.problems.problem import joined, like, namespace

A = math.sqrt(1e-5)


def count(n: int) -> Any:
    """Return 1, 2, …, n."""
    return np.arange(1.0, n + 1)


def total(x: Any) -> Any:
    """Return the sum over the last axis, which is kept with length 1."""
    return namespace(x).sum(x, -1)[..., None]


def moved(x: Any, by: int) -> Any:
    """Return x with xᵢ₊ₖ in place i, k = `by`, and zeros where there is none."""
    zeros = 0 * x[..., : abs(by)]
    return joined(x, x[..., by:], zeros) if by > 0 else joined(x, zeros, x[..., :by])


def extended_rosenbrock(x: Any) -> Any:
    """21, Rosenbrock's function, n/2 times."""
    odd, even = x[..., ::2], x[..., 1::2]
    return joined(x, 10 * (even - odd**2), 1 - odd)


def extended_powell_singular(x: Any) -> Any:
    """22, Powell's singular function, n/4 times."""
    a, b, c, d = (x[..., i::4] for i in range(4))
    parts = (a + 10 * b, math.sqrt(5) * (c - d), (b - 2 * c) ** 2, math.sqrt(10) * (a - d) ** 2)
    return joined(x, *parts)


def penalty_1(x: Any) -> Any:
    """23, the first penalty function: √10⁻⁵ (xᵢ - 1), Σ xⱼ² - 1/4."""
    return joined(x, A * (x - 1), total(x * x) - 0.25)


def penalty_2(x: Any) -> Any:
    """24, the second penalty function."""
    n, xp = x.shape[-1], namespace(x)
    i, e = count(n), xp.exp(x / 10)
    y = like(x, np.exp(i[1:] / 10) + np.exp(i[:-1] / 10))
    weighted = total(like(x, n + 1 - i) * x * x) - 1
    parts = (x[..., :1] - 0.2, A * (e[..., 1:] + e[..., :-1] - y), A * (e[..., 1:] - math.exp(-0.1)))
    return joined(x, *parts, weighted)


def variably_dimensioned(x: Any) -> Any:
    """25, the variably dimensioned function: xᵢ - 1, s, s²; s = Σ j (xⱼ - 1)."""
    s = total(like(x, count(x.shape[-1])) * (x - 1))
    return joined(x, x - 1, s, s * s)


def trigonometric(x: Any) -> Any:
    """26, the trigonometric function: n - Σ cos xⱼ + i (1 - cos xᵢ) - sin xᵢ."""
    n, xp = x.shape[-1], namespace(x)
    return n - total(xp.cos(x)) + like(x, count(n)) * (1 - xp.cos(x)) - xp.sin(x)


def brown_almost_linear(x: Any) -> Any:
    """27, Brown's almost linear function: xᵢ + Σ xⱼ - (n + 1), and Π xⱼ - 1 as the last."""
    n = x.shape[-1]
    linear = x[..., :-1] + total(x) - (n + 1)
    return joined(x, linear, namespace(x).prod(x, -1)[..., None] - 1)


def discrete_boundary(x: Any) -> Any:
    """28, a boundary value problem by differences."""
    h = 1 / (x.shape[-1] + 1)
    t = like(x, h * count(x.shape[-1]))
    return 2 * x - moved(x, -1) - moved(x, 1) + h * h * (x + t + 1) ** 3 / 2


def discrete_integral(x: Any) -> Any:
    """29, an integral equation by quadrature."""
    n = x.shape[-1]
    h = 1 / (n + 1)
    t = h * count(n)
    lower = np.tril(np.outer(1 - t, t))
    upper = np.triu(np.outer(t, 1 - t), 1)
    return x + h / 2 * (x + like(x, t) + 1) ** 3 @ like(x, (lower + upper).T)


def broyden_tridiagonal(x: Any) -> Any:
    """30, Broyden's tridiagonal function: (3 - 2xᵢ) xᵢ - xᵢ₋₁ - 2xᵢ₊₁ + 1."""
    return (3 - 2 * x) * x - moved(x, -1) - 2 * moved(x, 1) + 1


def broyden_banded(x: Any) -> Any:
    """31, Broyden's banded function: xᵢ (2 + 5xᵢ²) + 1 - Σ xⱼ (1 + xⱼ), j from i - 5 to i + 1 but i."""
    term = x * (1 + x)
    n = x.shape[-1]
    near = moved(term, 1) if n > 1 else 0 * x
    for k in range(1, min(5, n - 1) + 1):
        near = near + moved(term, -k)
    return x * (2 + 5 * x * x) + 1 - near


def linear_full_rank(x: Any, m: int) -> Any:
    """32, a linear function of full rank: xᵢ - 2/m Σ xⱼ - 1, and -2/m Σ xⱼ - 1 from n + 1 to m."""
    shared = -2 / m * total(x) - 1
    rest = [shared + 0 * like(x, np.zeros(m - x.shape[-1]))] if m > x.shape[-1] else []
    return joined(x, x + shared, *rest)


def linear_rank_1(x: Any, m: int) -> Any:
    """33, a linear function of rank 1: i Σ j xⱼ - 1."""
    return like(x, count(m)) * total(like(x, count(x.shape[-1])) * x) - 1


def linear_rank_1_zeros(x: Any, m: int) -> Any:
    """34, a linear function of rank 1, its first and last columns and rows zero."""
    n = x.shape[-1]
    weights = np.r_[0.0, count(n)[1:-1], 0.0]
    rows = np.r_[0.0, np.arange(1.0, m - 1), 0.0]
    return like(x, rows) * total(like(x, weights) * x) - 1


def chebyquad(x: Any) -> Any:
    """35, Chebyquad: the mean of a shifted Chebyshev polynomial at the points, less its integral."""
    n, z = x.shape[-1], 2 * x - 1
    before, now = 1 + 0 * x, z
    found = []
    for i in range(1, n + 1):
        integral = -1 / (i * i - 1) if i % 2 == 0 else 0.0
        found.append(total(now) / n - integral)
        before, now = now, 2 * z * now - before
    return joined(x, *found)
