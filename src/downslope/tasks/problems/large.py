"""Problems of up to a million unknowns, their gradients written by hand: O(n) work and memory.

The functions take x of shape (..., n), as all of this folder; the gradients one NumPy vector.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from downslope.errors import UsageError, closest
from downslope.tasks.problems.problem import Minimum, Problem, Vector, like, namespace


class Row(NamedTuple):
    """A function, its gradient, its start, its minima by size, the usual size, a source."""

    function: Callable[[Any], Any]
    gradient: Callable[[Vector], Vector]
    start: Callable[[int], Vector]
    minima: Callable[[int], tuple[Minimum, ...]]
    n: int
    source: str


def _sum(a: Any) -> Any:
    return namespace(a).sum(a, -1)


def quadratic(x: Any) -> Any:
    """½ Σ wᵢ xᵢ², the weights from 1 to 10⁶ in equal ratios: a convex quadratic of condition 10⁶."""
    return 0.5 * _sum(like(x, _weights(x.shape[-1])) * x * x)


def _quadratic_gradient(x: Vector) -> Vector:
    return _weights(x.size) * x


def _weights(n: int) -> Vector:
    return np.logspace(0, 6, n) if n > 1 else np.ones(1)


def quartic(x: Any) -> Any:
    """Σ (xᵢ - 1)⁴ + ½ (xᵢ - 1)²/n: nearly flat at its minimum."""
    z = x - 1
    return _sum(z**4) + 0.5 * _sum(z * z) / x.shape[-1]


def _quartic_gradient(x: Vector) -> Vector:
    z = x - 1
    return np.asarray(4 * z**3 + z / x.size)


def chained_rosenbrock(x: Any) -> Any:
    """Σ 100 (xᵢ₊₁ - xᵢ²)² + (1 - xᵢ)²: one valley that bends n - 1 times."""
    a, b = x[..., :-1], x[..., 1:]
    return _sum(100 * (b - a * a) ** 2 + (1 - a) ** 2)


def _chained_rosenbrock_gradient(x: Vector) -> Vector:
    a, b = x[:-1], x[1:]
    bend = 200 * (b - a * a)
    g = np.zeros_like(x)
    g[:-1] = -2 * a * bend - 2 * (1 - a)
    g[1:] += bend
    return g


def separable_rosenbrock(x: Any) -> Any:
    """Σ 100 (x₂ᵢ - x₂ᵢ₋₁²)² + (1 - x₂ᵢ₋₁)²: Rosenbrock's function n/2 times."""
    a, b = x[..., ::2], x[..., 1::2]
    return _sum(100 * (b - a * a) ** 2 + (1 - a) ** 2)


def _separable_rosenbrock_gradient(x: Vector) -> Vector:
    a, b = x[::2], x[1::2]
    g = np.empty_like(x)
    g[1::2] = 200 * (b - a * a)
    g[::2] = -2 * a * g[1::2] - 2 * (1 - a)
    return g


def minimal_surface(x: Any) -> Any:
    """The area of a graph over the unit interval, Σ √(1 + (xᵢ₊₁ - xᵢ)²/h²) h, between 0 and 1."""
    h = 1 / (x.shape[-1] + 1)
    slope = (_right(x) - _left(x)) / h
    return _sum(namespace(x).sqrt(1 + slope * slope)) * h


def _minimal_surface_gradient(x: Vector) -> Vector:
    slope = (_right(x) - _left(x)) * (x.size + 1)
    pull = slope / np.sqrt(1 + slope * slope)
    return np.asarray(pull[:-1] - pull[1:])


def _left(x: Any) -> Any:
    return namespace(x).concatenate([0 * x[..., :1], x], -1)


def _right(x: Any) -> Any:
    return namespace(x).concatenate([x, 0 * x[..., :1] + 1], -1)


def chain(x: Any) -> Any:
    """Links of stiffness n + 1 that hang under their weight, ½ Σ (xᵢ₊₁ - xᵢ)² (n+1) + Σ (xᵢ + xᵢ⁴/4)/n."""
    n = x.shape[-1]
    zero = 0 * x[..., :1]
    ends = namespace(x).concatenate([zero, x, zero], -1)
    step = ends[..., 1:] - ends[..., :-1]
    return 0.5 * (n + 1) * _sum(step * step) + _sum(x + x**4 / 4) / n


def _chain_gradient(x: Vector) -> Vector:
    step = np.diff(x, prepend=0.0, append=0.0)
    return np.asarray(-(x.size + 1) * np.diff(step) + (1 + x**3) / x.size)


def broyden(x: Any) -> Any:
    """Σ |(3 - 2xᵢ) xᵢ - xᵢ₋₁ - xᵢ₊₁ + 1|^(7/3), Broyden's tridiagonal function as Toint bent it."""
    r = _broyden_residual(x)
    return _sum((r * r) ** (7 / 6))


def _broyden_residual(x: Any) -> Any:
    zero = 0 * x[..., :1]
    before = namespace(x).concatenate([zero, x[..., :-1]], -1)
    after = namespace(x).concatenate([x[..., 1:], zero], -1)
    return (3 - 2 * x) * x - before - after + 1


def _broyden_gradient(x: Vector) -> Vector:
    r = _broyden_residual(x)
    slope = 7 / 3 * np.sign(r) * np.abs(r) ** (4 / 3)
    g: Vector = (3 - 4 * x) * slope
    g[:-1] -= slope[1:]
    g[1:] -= slope[:-1]
    return g


def logistic(x: Any) -> Any:
    """Σ log(1 + exp(-yᵢ aᵢ(x))) + ½ 10⁻³ |x|²: a classifier on sparse rows, each of three neighbours."""
    xp = namespace(x)
    margin = like(x, _labels(x.shape[-1])) * _rows(x)
    # log(1 + exp(-z)), written so that nothing overflows and the complex step goes through.
    soft = xp.where(
        margin > 0, xp.log1p(xp.exp(-_positive(margin))), xp.log1p(xp.exp(-_positive(-margin))) - margin
    )
    return _sum(soft) + 5e-4 * _sum(x * x)


def _positive(z: Any) -> Any:
    return namespace(z).where(z > 0, z, 0 * z)


def _rows(x: Any) -> Any:
    xp = namespace(x)
    return x + 0.5 * xp.roll(x, 1, -1) - 0.25 * xp.roll(x, -1, -1)


def _labels(n: int) -> Vector:
    # A fixed sequence without pattern, the same for every size.
    return np.where((np.arange(1, n + 1) * 0.6180339887498949) % 1 < 0.5, 1.0, -1.0)


def _logistic_gradient(x: Vector) -> Vector:
    y = _labels(x.size)
    margin = y * _rows(x)
    pull = -y * np.where(margin > 0, np.exp(-_positive(margin)), 1) / (1 + np.exp(-np.abs(margin)))
    return np.asarray(pull + 0.5 * np.roll(pull, -1) - 0.25 * np.roll(pull, 1) + 1e-3 * x)


def _zero(x: float | None = None) -> Callable[[int], tuple[Minimum, ...]]:
    return lambda n: (Minimum(0.0, None if x is None or n > 1000 else (x,) * n),)


def _bent(n: int) -> Vector:
    return np.resize([-1.2, 1.0], n)


def _unknown(n: int) -> tuple[Minimum, ...]:
    return ()


TOINT = "Toint, Some numerical results using a sparse matrix updating formula, 1978"
OURS = "written for Downslope"

PROBLEMS = {
    "quadratic": Row(quadratic, _quadratic_gradient, np.ones, _zero(0.0), 1000, OURS),
    "quartic": Row(quartic, _quartic_gradient, np.zeros, _zero(1.0), 1000, OURS),
    "chained-rosenbrock": Row(
        chained_rosenbrock, _chained_rosenbrock_gradient, _bent, _zero(1.0), 100, TOINT
    ),
    "separable-rosenbrock": Row(
        separable_rosenbrock, _separable_rosenbrock_gradient, _bent, _zero(1.0), 1000, TOINT
    ),
    "minimal-surface": Row(
        minimal_surface, _minimal_surface_gradient, lambda n: np.sin(20 * np.arange(n)),
        lambda n: (Minimum(2**0.5),), 100, OURS
    ),
    "chain": Row(chain, _chain_gradient, np.zeros, _unknown, 1000, OURS),
    "broyden": Row(broyden, _broyden_gradient, lambda n: -np.ones(n), _zero(), 1000, TOINT),
    "logistic": Row(logistic, _logistic_gradient, np.zeros, _unknown, 1000, OURS),
}  # fmt: skip


def large(name: str, n: int | None = None) -> Problem:
    """Return a problem of n unknowns, or of its usual size.

    Raises:
        UsageError: no such problem, or n is too small or (for pairs) odd.

    """
    if name not in PROBLEMS:
        raise UsageError(
            f"no problem 'large:{name}': expected one of {', '.join(PROBLEMS)}{closest(name, PROBLEMS)}"
        )
    row = PROBLEMS[name]
    size = row.n if n is None else n
    if size < 3 or (name.startswith("separable") and size % 2):
        raise UsageError(f"problem 'large:{name}' does not come with {size} unknowns; it usually has {row.n}")
    return Problem(
        f"large:{name}",
        row.start(size),
        function=row.function,
        derivative=row.gradient,
        minima=row.minima(size),
        source=row.source,
    )
