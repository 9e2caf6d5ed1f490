"""Problems 1 to 20 of Moré, Garbow and Hillstrom: those of a fixed number of unknowns, and Watson's.

Each function returns the residuals r(x) of f = Σ rᵢ². J. J. Moré, B. S. Garbow and K. E. Hillstrom,
Testing unconstrained optimization software, ACM Transactions on Mathematical Software 7 (1981) 17-41.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from downslope.tasks.problems.problem import joined, like, magnitude, namespace, stacked, unknowns


def numbers(text: str) -> Any:
    """Return the numbers of a text as an array."""
    return np.array(text.split(), dtype=np.float64)


I15, I16 = np.arange(1.0, 16.0), np.arange(1.0, 17.0)


def rosenbrock(x: Any) -> Any:
    """1, Rosenbrock's function: 10 (x₂ - x₁²), 1 - x₁."""
    a, b = x[..., 0], x[..., 1]
    return stacked(x, 10 * (b - a**2), 1 - a)


def freudenstein_roth(x: Any) -> Any:
    """2, Freudenstein and Roth's function."""
    a, b = x[..., 0], x[..., 1]
    return stacked(x, -13 + a + ((5 - b) * b - 2) * b, -29 + a + ((b + 1) * b - 14) * b)


def powell_badly_scaled(x: Any) -> Any:
    """3, Powell's badly scaled function: 10⁴ x₁ x₂ - 1, exp(-x₁) + exp(-x₂) - 1.0001."""
    a, b, xp = x[..., 0], x[..., 1], namespace(x)
    return stacked(x, 1e4 * a * b - 1, xp.exp(-a) + xp.exp(-b) - 1.0001)


def brown_badly_scaled(x: Any) -> Any:
    """4, Brown's badly scaled function: x₁ - 10⁶, x₂ - 2·10⁻⁶, x₁ x₂ - 2."""
    a, b = x[..., 0], x[..., 1]
    return stacked(x, a - 1e6, b - 2e-6, a * b - 2)


def beale(x: Any) -> Any:
    """5, Beale's function: yᵢ - x₁ (1 - x₂ⁱ)."""
    a, b = x[..., 0], x[..., 1]
    return stacked(x, 1.5 - a * (1 - b), 2.25 - a * (1 - b**2), 2.625 - a * (1 - b**3))


def jennrich_sampson(x: Any) -> Any:
    """6, Jennrich and Sampson's function, m = 10: 2 + 2i - exp(i x₁) - exp(i x₂)."""
    a, b = unknowns(x)
    i, xp = like(x, np.arange(1.0, 11.0)), namespace(x)
    return 2 + 2 * i - xp.exp(i * a) - xp.exp(i * b)


def helical_valley(x: Any) -> Any:
    """7, the helical valley: 10 (x₃ - 10 θ), 10 (√(x₁² + x₂²) - 1), x₃; θ the angle in turns."""
    a, b, c, xp = x[..., 0], x[..., 1], x[..., 2], namespace(x)
    turn = xp.arctan(b / a) / (2 * math.pi)
    theta = xp.where(a < 0, turn + 0.5, turn)
    return stacked(x, 10 * (c - 10 * theta), 10 * (xp.sqrt(a * a + b * b) - 1), c)


BARD = np.array([0.14, 0.18, 0.22, 0.25, 0.29, 0.32, 0.35, 0.39, 0.37, 0.58, 0.73, 0.96, 1.34, 2.1, 4.39])


def bard(x: Any) -> Any:
    """8, Bard's function: yᵢ - x₁ - uᵢ / (vᵢ x₂ + wᵢ x₃)."""
    a, b, c = unknowns(x)
    u, v, w = (like(x, t) for t in (I15, 16 - I15, np.minimum(I15, 16 - I15)))
    return like(x, BARD) - a - u / (v * b + w * c)


GAUSSIAN = np.array([0.0009, 0.0044, 0.0175, 0.0540, 0.1295, 0.2420, 0.3521, 0.3989])


def gaussian(x: Any) -> Any:
    """9, the Gaussian: x₁ exp(-x₂ (tᵢ - x₃)² / 2) - yᵢ."""
    a, b, c = unknowns(x)
    t, y = like(x, (8 - I15) / 2), like(x, np.r_[GAUSSIAN, GAUSSIAN[-2::-1]])
    return a * namespace(x).exp(-b * (t - c) ** 2 / 2) - y


MEYER = np.array(
    [34780.0, 28610, 23650, 19630, 16370, 13720, 11540, 9744, 8261, 7030, 6005, 5147, 4427, 3820, 3307, 2872]
)


def meyer(x: Any) -> Any:
    """10, Meyer's function: x₁ exp(x₂ / (tᵢ + x₃)) - yᵢ."""
    a, b, c = unknowns(x)
    return a * namespace(x).exp(b / (like(x, 45 + 5 * I16) + c)) - like(x, MEYER)


def gulf(x: Any) -> Any:
    """11, the Gulf research and development function, m = 99: exp(-|yᵢ - x₂|^x₃ / x₁) - tᵢ.

    The paper prints m i in place of the minus sign; its collection of codes has what stands here.
    """
    a, b, c = unknowns(x)
    xp, t = namespace(x), np.arange(1.0, 100.0) / 100
    y = 25 + (-50 * np.log(t)) ** (2 / 3)
    return xp.exp(-(magnitude(like(x, y) - b) ** c) / a) - like(x, t)


def box(x: Any) -> Any:
    """12, Box's function of three unknowns, m = 10."""
    a, b, c = unknowns(x)
    xp, t = namespace(x), np.arange(1.0, 11.0) / 10
    t_, fall = like(x, t), like(x, np.exp(-t) - np.exp(-10 * t))
    return xp.exp(-t_ * a) - xp.exp(-t_ * b) - c * fall


def powell_singular(x: Any) -> Any:
    """13, Powell's singular function: its Hessian at the minimum is singular."""
    a, b, c, d = (x[..., i] for i in range(4))
    root5, root10 = math.sqrt(5), math.sqrt(10)
    return stacked(x, a + 10 * b, root5 * (c - d), (b - 2 * c) ** 2, root10 * (a - d) ** 2)


def wood(x: Any) -> Any:
    """14, Wood's function."""
    a, b, c, d = (x[..., i] for i in range(4))
    root10, root90 = math.sqrt(10), math.sqrt(90)
    ends = (root10 * (b + d - 2), (b - d) / root10)
    return stacked(x, 10 * (b - a**2), 1 - a, root90 * (d - c**2), 1 - c, *ends)


KOWALIK_Y = np.array([0.1957, 0.1947, 0.1735, 0.1600, 0.0844, 0.0627, 0.0456, 0.0342, 0.0323, 0.0235, 0.0246])
KOWALIK_U = np.array([4, 2, 1, 0.5, 0.25, 0.167, 0.125, 0.1, 0.0833, 0.0714, 0.0625])


def kowalik_osborne(x: Any) -> Any:
    """15, Kowalik and Osborne's function: yᵢ - x₁ (uᵢ² + uᵢ x₂) / (uᵢ² + uᵢ x₃ + x₄)."""
    a, b, c, d = unknowns(x)
    u = like(x, KOWALIK_U)
    return like(x, KOWALIK_Y) - a * (u * u + u * b) / (u * u + u * c + d)


def brown_dennis(x: Any) -> Any:
    """16, Brown and Dennis's function, m = 20."""
    a, b, c, d = unknowns(x)
    t = np.arange(1.0, 21.0) / 5
    first = a + like(x, t) * b - like(x, np.exp(t))
    second = c + like(x, np.sin(t)) * d - like(x, np.cos(t))
    return first**2 + second**2


OSBORNE_1 = numbers(
    """
    0.844 0.908 0.932 0.936 0.925 0.908 0.881 0.850 0.818 0.784 0.751 0.718 0.685 0.658 0.628 0.603
    0.580 0.558 0.538 0.522 0.506 0.490 0.478 0.467 0.457 0.448 0.438 0.431 0.424 0.420 0.414 0.411
    0.406
    """
)


def osborne_1(x: Any) -> Any:
    """17, Osborne's first function: yᵢ - (x₁ + x₂ exp(-tᵢ x₄) + x₃ exp(-tᵢ x₅))."""
    a, b, c, d, e = unknowns(x)
    t, xp = like(x, 10 * np.arange(33.0)), namespace(x)
    return like(x, OSBORNE_1) - (a + b * xp.exp(-t * d) + c * xp.exp(-t * e))


def biggs_exp6(x: Any) -> Any:
    """18, Biggs' function of six unknowns, m = 13."""
    a, b, c, d, e, f = unknowns(x)
    xp, t = namespace(x), np.arange(1.0, 14.0) / 10
    y = np.exp(-t) - 5 * np.exp(-10 * t) + 3 * np.exp(-4 * t)
    t_ = like(x, t)
    return c * xp.exp(-t_ * a) - d * xp.exp(-t_ * b) + f * xp.exp(-t_ * e) - like(x, y)


OSBORNE_2 = numbers(
    """
    1.366 1.191 1.112 1.013 0.991 0.885 0.831 0.847 0.786 0.725 0.746 0.679 0.608 0.655 0.616 0.606
    0.602 0.626 0.651 0.724 0.649 0.649 0.694 0.644 0.624 0.661 0.612 0.558 0.533 0.495 0.500 0.423
    0.395 0.375 0.372 0.391 0.396 0.405 0.428 0.429 0.523 0.562 0.607 0.653 0.672 0.708 0.633 0.668
    0.645 0.632 0.591 0.559 0.597 0.625 0.739 0.710 0.729 0.720 0.636 0.581 0.428 0.292 0.162 0.098
    0.054
    """
)


def osborne_2(x: Any) -> Any:
    """19, Osborne's second function: a fall and three Gaussians."""
    u, xp, t = unknowns(x), namespace(x), like(x, np.arange(65.0) / 10)
    model = u[0] * xp.exp(-t * u[4])
    for height, width, middle in ((1, 5, 8), (2, 6, 9), (3, 7, 10)):
        model = model + u[height] * xp.exp(-((t - u[middle]) ** 2) * u[width])
    return like(x, OSBORNE_2) - model


def watson(x: Any) -> Any:
    """20, Watson's function, 2 ≤ n ≤ 31: a differential equation solved by a polynomial."""
    n = x.shape[-1]
    t, j = (np.arange(1.0, 30.0) / 29)[:, None], np.arange(n)
    powers = t**j
    slopes = np.hstack([np.zeros((29, 1)), (powers[:, :-1] * j[1:])])
    equations = x @ like(x, slopes.T) - (x @ like(x, powers.T)) ** 2 - 1
    return joined(x, equations, x[..., :1], x[..., 1:2] - x[..., :1] ** 2 - 1)
