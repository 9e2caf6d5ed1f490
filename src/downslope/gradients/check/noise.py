"""How much of a function's value is round-off, and of a gradient: measured, not assumed.

Function: values at equally spaced points so close that the smooth part vanishes in high differences;
what is left is noise (Moré and Wild, Estimating computational noise, SIAM J. Sci. Comput. 33, 2011).
Gradient: how far it moves when the point moves by its last digit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from downslope.gradients.check.problem import Problem, Vector, length

STEPS = (-3, -2, -1, 1, 2, 3)
SPACINGS = (1e-11, 1e-9, 1e-6, 1e-4, 1e-2)
HALF = {"float64": 2.0**-53, "float32": 2.0**-24, "bfloat16": 2.0**-8, "float16": 2.0**-11}


@dataclass(frozen=True)
class Noise:
    """The round-off of one value, of each gradient entry, and what the arithmetic looks like."""

    value: float
    gradient: Vector
    dtype: str
    """The coarsest dtype whose grid all values seen lie on."""


def of_value(problem: Problem, f0: float, claimed: Vector, signs: Vector) -> tuple[float, str]:
    """Return the standard deviation of a value's round-off at the point, and the dtype of the values.

    Each coordinate moves in proportion to itself, so that none leaves its own scale. What the claimed
    gradient says of the steps as they were rounded is taken off.
    """
    size = np.abs(problem.x)
    typical = float(np.median(size[size > 0])) if np.any(size > 0) else 1.0
    by = signs * np.where(size > 0, size, typical)
    found: list[float] = []
    seen: set[float] = set()
    dtype = "float64"
    for spacing in SPACINGS:
        if spacing < 8 * problem.eps:
            continue  # steps that the parameters cannot show
        values, smooth = [], []
        for k in STEPS:
            near = problem.round(problem.x + k * spacing * by)
            values.append(problem.f(near))
            smooth.append(float(claimed @ (near - problem.x)))
        if not all(map(math.isfinite, values)):
            continue
        values.insert(len(STEPS) // 2, f0)
        smooth.insert(len(STEPS) // 2, 0.0)
        seen.update(values)
        dtype = coarsest(sorted(seen))
        moved = len(set(values)) > 2
        found.append(deviation([v - s for v, s in zip(values, smooth, strict=True)]) if moved else 0.0)
        if moved and (found[-1] <= 64 * HALF[dtype] * abs(f0) or len([s for s in found if s > 0]) > 1):
            break
    least = min((s for s in found if s > 0), default=0.0)
    floor = HALF[dtype] * abs(f0) / 2
    return max(least, floor, problem.eps * abs(f0) / 8, 1e-320), dtype


def deviation(values: list[float]) -> float:
    """Return the noise of equally spaced values from their third to fifth differences.

    >>> deviation([k**2 + 1e-8 * (-1) ** k for k in range(7)]) > 1e-9
    True

    """
    row = np.asarray(values)
    found = []
    for k in range(1, 6):
        row = np.diff(row)
        if k >= 3:
            share = math.factorial(k) ** 2 / math.factorial(2 * k)
            found.append(math.sqrt(share / row.size) * length(row))
    return float(np.median(found))


def coarsest(values: list[float]) -> str:
    """Return the coarsest dtype that holds all the values.

    >>> coarsest([0.1, 0.2, 0.7]), coarsest([float(np.float32(v)) for v in (0.1, 0.2, 0.7)])
    ('float64', 'float32')

    """
    array = np.asarray(values, dtype=np.float64)
    with np.errstate(over="ignore", under="ignore"):
        single = array.astype(np.float32)
    if not np.array_equal(single.astype(np.float64), array):
        return "float64"
    bits = single.view(np.uint32)
    if np.all(bits & 0xFFFF == 0):
        return "bfloat16"
    return "float32"


def of_gradient(problem: Problem, claimed: Vector, generator: np.random.Generator) -> Vector:
    """Return how far each gradient entry moves when the point moves by a unit in its last place.

    Two such moves; the larger is kept. Beside it stands the rounding of the entry itself.
    """
    moved = np.zeros_like(claimed)
    for _ in range(2):
        kick = generator.choice((-1.0, 1.0), problem.size) * 2 * problem.eps
        near = problem.round(problem.x * (1 + kick))
        moved = np.maximum(moved, np.abs(problem.g(near) - claimed))
    finite = np.where(np.isfinite(moved), moved, 0.0)
    return np.maximum(finite, 4 * problem.eps * np.abs(np.where(np.isfinite(claimed), claimed, 0.0)))
