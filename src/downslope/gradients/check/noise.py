"""How much of a function's value is round-off, and of a gradient: measured, not assumed.

Function: values at equally spaced points so close that the smooth part vanishes in high differences;
what is left is noise (Moré and Wild, Estimating computational noise, SIAM J. Sci. Comput. 33, 2011).
Gradient: how far it moves when the point moves by its last digit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from downslope.gradients.check import stairs
from downslope.gradients.check.grid import COARSE, cell
from downslope.gradients.check.problem import Problem, Vector, length

STEPS = (-3, -2, -1, 1, 2, 3)
SPACINGS = (1e-11, 1e-9, 1e-6, 1e-4, 1e-2)
WILD = 0.25
"""The share of itself that an entry moves by between neighbouring points of a grid too coarse for it."""

SHOWN = 4
"""How many times half a unit at 1 the least difference of rounded values is at most: up to two units."""

EPS = {"float64": 2.0**-52, "float32": 2.0**-23, "bfloat16": 2.0**-7, "float16": 2.0**-10}
HALF = {dtype: eps / 2 for dtype, eps in EPS.items()}


@dataclass(frozen=True)
class Noise:
    """The round-off of one value, of each gradient entry, and what the arithmetic looks like."""

    value: float
    gradient: Vector
    dtype: str
    """The coarsest dtype whose grid all values seen lie on."""
    stairs: float = 0.0
    """Height of the steps that values were rounded to; 0 where f is no staircase."""
    by_design: bool = False
    """Whether f has these steps by design, with a gradient that automatic differentiation gives them."""


def of_value(problem: Problem, f0: float, claimed: Vector, signs: Vector) -> tuple[float, str, float]:
    """Return the standard deviation of a value's round-off at the point, the dtype of the values, and stairs.

    Each coordinate moves in proportion to itself, so that none leaves its own scale. What the claimed
    gradient says of the steps as they were rounded is taken off.
    """
    if problem.grid >= COARSE:
        return *_of_value_on_grid(problem, f0, claimed, signs), 0.0
    size = np.abs(problem.x)
    typical = float(np.median(size[size > 0])) if np.any(size > 0) else 1.0
    by = signs * np.where(size > 0, size, typical)

    def beside(t: float) -> tuple[float, float]:
        near = problem.round(problem.x + t * by)
        return problem.f(near), float(claimed @ (near - problem.x))

    found: list[tuple[float, float, list[float]]] = []
    seen: set[float] = set()
    dtype, step, flat, far = "float64", 0.0, 0.0, 0.0
    for spacing in SPACINGS:
        if spacing < 8 * problem.grid:
            continue  # steps that the parameters cannot show
        pairs = [beside(k * spacing) for k in STEPS]
        pairs.insert(len(STEPS) // 2, (f0, 0.0))
        values = [value for value, _ in pairs]
        if not all(map(math.isfinite, values)):
            continue
        seen.update(values)
        dtype = coarsest(sorted(seen))
        far = max(far, float(np.ptp([way for _, way in pairs])))
        moved = len(set(values)) > 2
        flat = max(flat, stairs.flat(values, [way for _, way in pairs]))
        # Points that meet the steps of a rounded term evenly show no noise, but the steps.
        step = max(step, quantum(values) if moved else 0.0)
        row = [value - way for value, way in pairs]
        noise = deviation(row) if moved else 0.0
        if noise > 0:
            found.append((noise, spacing, row))
        if moved and (noise <= 64 * HALF[dtype] * abs(f0) or len(found) > 1):
            break
    if len(seen) == 1 and (not claimed.any() or far > 4 * EPS[dtype] * abs(f0)):
        # One value says nothing of its digits. It stays where it is, as is claimed; or where what is claimed
        # would have moved it by several of its steps.
        dtype = "float64"
    step = step if step > 8 * HALF[dtype] * abs(f0) else 0.0  # coarser than the rounding of f itself
    ulp = HALF["float64" if len(seen) == 1 else dtype] * abs(f0)  # one value may have any dtype
    high = stairs.height(beside, f0, max(SPACINGS[0], 8 * problem.grid)) if flat > stairs.ULPS * ulp else 0.0
    high = high if high > 64 * ulp else 0.0  # else the steps of f's own arithmetic
    floor = max(HALF[dtype] * abs(f0) / 2, max(step, high) / math.sqrt(12), problem.eps * abs(f0) / 8, 1e-320)
    return max(_of_rows(beside, found, problem.grid), floor), dtype, high


def _of_rows(
    beside: Callable[[float], tuple[float, float]], found: list[tuple[float, float, list[float]]], grid: float
) -> float:
    """Return the noise of rows of (noise, spacing, values less what was claimed), the finer first.

    The finer one may lie between two steps of a rounded term and show none of them; the coarser one may
    show a ripple that is no noise. What is noise jumps, however close two points are; a ripple does not.
    """
    if len(found) < 2:
        return found[0][0] if found else 0.0
    (fine, near, beside_it), (coarse, spacing, row) = found[:2]
    if not coarse > 2 * fine:
        return max(fine, coarse)
    trend = float(np.median(np.diff(beside_it))) / near  # between two jumps
    bends = np.abs(np.diff(row) - trend * spacing)
    k = int(np.argmax(bends))
    left, right = ((i - len(STEPS) // 2) * spacing for i in (k, k + 1))
    low, high = row[k] - trend * left, row[k + 1] - trend * right
    while right - left > max(near / 4, 8 * grid):
        middle = (left + right) / 2
        value, way = beside(middle)
        between = value - way - trend * middle
        if abs(between - low) > abs(high - between):
            right, high = middle, between
        else:
            left, low = middle, between
        if not abs(high - low) > 0.2 * coarse:
            return fine
    smooth = float(bends[k]) * (right - left) / spacing
    return coarse if abs(high - low) > 8 * smooth else fine


def _of_value_on_grid(problem: Problem, f0: float, claimed: Vector, signs: Vector) -> tuple[float, str]:
    """Return the same where x has few digits: points are whole steps of its grid apart.

    The steps are large, and what curvature is left in the differences counts as noise.
    """
    by = signs * cell(problem.x, problem.grid)
    found: list[float] = []
    seen = {f0}
    for spacing in (1, 2):
        values = [f0 if k == 0 else problem.f(problem.x + k * spacing * by) for k in range(-3, 4)]
        if all(map(math.isfinite, values)):
            seen.update(values)
            smooth = [k * spacing * float(claimed @ by) for k in range(-3, 4)]
            found.append(deviation([v - s for v, s in zip(values, smooth, strict=True)]))
    dtype = coarsest(sorted(seen))
    least = min((s for s in found if s > 0), default=0.0)
    return max(least, HALF[dtype] * abs(f0) / 2, 1e-320), dtype


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


def quantum(values: list[float]) -> float:
    """Return the largest power of two that all differences of values are multiples of, 0 where none differ.

    >>> quantum([0.5, 2.0, 3.25, 3.25])
    0.25

    """
    apart = np.diff(np.asarray(values, dtype=np.float64))
    mantissa, exponent = np.frexp(apart[apart != 0])
    whole = np.ldexp(mantissa, 53).astype(np.int64)
    lowest = np.ldexp((whole & -whole).astype(np.float64), exponent - 53)
    return float(np.min(lowest, initial=math.inf)) if lowest.size else 0.0


def coarsest(values: list[float]) -> str:
    """Return the coarsest dtype that holds all the values, in order, and whose steps show where they differ.

    >>> coarsest([0.1, 0.2, 0.7]), coarsest([float(np.float32(0.1) + k * 2.0**-27) for k in range(3)])
    ('float64', 'float32')
    >>> coarsest([1.0, 2.0, 3.0]), coarsest([1.0, 1 + 2.0**-7])  # counts, and neighbours in bfloat16
    ('float64', 'bfloat16')

    """
    array = np.asarray([v for v in values if v], dtype=np.float64)
    if not array.size:  # zero has no digits
        return "float64"
    with np.errstate(over="ignore", under="ignore"):
        single = array.astype(np.float32)
    if not np.array_equal(single.astype(np.float64), array):
        return "float64"
    apart = np.diff(np.asarray(values, dtype=np.float64))
    least = float(apart[apart > 0].min(initial=math.inf)) / float(np.abs(array).max())
    holds = {"bfloat16": bool(np.all(single.view(np.uint32) & 0xFFFF == 0)), "float32": True}
    for dtype, held in holds.items():
        if held and (least == math.inf or least <= SHOWN * HALF[dtype]):
            return dtype
    return "float64"


def of_gradient(
    problem: Problem, claimed: Vector, generator: np.random.Generator, dtype: str = "float64"
) -> Vector:
    """Return how far each gradient entry moves when the point moves by a unit in its last place.

    Two such moves; the larger is kept. Beside it stands the rounding of the entry itself. On a coarse
    grid a smooth gradient moves too: where the values of f (of `dtype`) are finer, only entries count
    that are another at the next point.
    """
    moved = np.zeros_like(claimed)
    for _ in range(2):
        kick = generator.choice((-1.0, 1.0), problem.size) * 2 * problem.grid
        near = problem.round(problem.x * (1 + kick))
        moved = np.maximum(moved, np.abs(problem.g(near) - claimed))
    finite = np.where(np.isfinite(moved), moved, 0.0)
    size = np.abs(np.where(np.isfinite(claimed), claimed, 0.0))
    if problem.grid >= COARSE and HALF[dtype] < COARSE / 2:
        return np.where(finite > WILD * size, finite, 0.0)
    return np.maximum(finite, 4 * problem.eps * size)


def of_coarse_gradient(claimed: Vector, own: Vector, dtype: str, grid: str) -> Vector:
    """Return the round-off of a gradient below float64.

    Args:
        claimed: the gradient.
        own: how far it moves with the last digits of x.
        dtype: of the values of f; where these are coarse, they bound what can be seen at all.
        grid: the dtype to which f casts its argument, or "". The rest is then as coarse: an entry's own
            rounding, and a quarter of the largest one's, since terms of that size may have cancelled.

    """
    size = np.abs(np.where(np.isfinite(claimed), claimed, 0.0))
    made: Vector = np.maximum(own, 8 * HALF[dtype] * size)
    if grid in ("bfloat16", "float16"):
        made = np.maximum(made, HALF[grid] * (size + float(np.max(size, initial=0.0)) / 4))
    return made
