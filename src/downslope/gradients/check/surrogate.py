"""Steps with a gradient by design: straight-through estimators, quantisers, spiking neurons.

Such an f is flat but for jumps, and automatic differentiation gives zero for a step: where it gives more,
a derivative rule of the user's, or a detach(), has put a surrogate in its place.
"""

from __future__ import annotations

import math

import numpy as np

from downslope.gradients.check import noise
from downslope.gradients.check.grid import COARSE, cell
from downslope.gradients.check.problem import Problem, Vector
from downslope.gradients.check.result import Reason

ASKED = 8
"""Entries that are moved to see whether f is flat in each."""

MOVED = 1 / 64
"""By what share of its size an entry is moved: more than bfloat16's digits."""

ROOM = 4096
"""Half units in the last place of the largest number seen that round-off may be, where much has cancelled."""

SAID = (
    "f is a staircase: flat but for jumps, so that its true derivative is zero. The gradient is a surrogate, "
    "as of a straight-through estimator or a spiking neuron, and differences can neither confirm nor refute "
    "it: check the smooth function that it is the gradient of, in the place of the steps."
)

HIDDEN = (
    "Round-off hides the gradient: f stays exactly 0 beside the point, and what is claimed is less than the "
    "round-off of what may have cancelled in it. Check at a point where f is larger."
)


def look(problem: Problem, f0: float, claimed: Vector, generator: np.random.Generator) -> Reason | None:
    """Return JUMP where f stays exactly what it is while single entries move in which much is claimed.

    ROUND_OFF where it stays 0, as a loss that has fallen below its own round-off, and nothing claimed stands
    out of that; None where f moves.

    A cast is not taken for it: an entry moves by more than the digits that bfloat16 has, or, where f sees x
    on a grid, to the next point there. Where f changes, a finer step tells a slope from a jump. Nor is a
    plateau: where f has another value, it must be flat as well. Much is what stands out of the round-off of
    the largest number seen.
    """
    x, size = problem.x, _sizes(problem.x)
    effect = np.abs(np.where(np.isfinite(claimed), claimed, 0.0)) * size
    asked = [int(j) for j in np.argsort(-effect)[:ASKED] if effect[j] > 0]
    coarse = problem.grid >= COARSE
    values = {f0}

    def stays(point: Vector, value: float, j: int, step: float) -> bool:
        for side in (step, -step):
            near = point.copy()
            near[j] += side
            values.add(beside := problem.f(problem.round(near)))
            if beside != value:
                return False
        return True

    def flat_at(point: Vector, value: float) -> bool:
        still = 0
        for j in asked:
            step = float(
                cell(point[[j]], problem.grid)[0] if coarse else size[j] * MOVED * generator.uniform(1, 2)
            )
            if stays(point, value, j, step):
                still += 1
            elif not coarse and not stays(point, value, j, step / 64):
                return False
        return still > 0 and 2 * still >= len(asked)

    if not flat_at(x, f0):
        return None
    plateau = False
    for elsewhere, value in _elsewhere(problem, generator):
        values.add(value)
        plateau = plateau or (value != f0 and not flat_at(elsewhere, value))
    seen = sorted(v for v in values if math.isfinite(v))
    enough = _round_off(problem, seen, noise.coarsest(seen))
    if not plateau and effect[asked[-1]] > enough:
        return Reason.JUMP
    if f0 != 0 or effect[asked[0]] > enough:
        return None
    by = size * MOVED * generator.uniform(-1, 1, problem.size)  # also in what nothing is claimed of
    still = all(problem.f(problem.round(x + way)) == 0 for way in (by, -by))
    return Reason.ROUND_OFF if still else None


def stand_out(problem: Problem, f0: float, height: float, dtype: str, generator: np.random.Generator) -> bool:
    """Return whether steps of f are higher than the round-off of what may have cancelled in it."""
    values = [f0, *(value for _, value in _elsewhere(problem, generator))]
    return height > _round_off(problem, values, dtype)


def _elsewhere(problem: Problem, generator: np.random.Generator) -> list[tuple[Vector, float]]:
    """Return two points far from x, and f there where it is finite: with the signs of x, and with others."""
    factors = generator.uniform(0.5, 2, problem.size), generator.standard_normal(problem.size)
    points = [problem.round(problem.x * by) for by in factors]
    return [(p, value) for p in points if math.isfinite(value := problem.f(p))]


def _round_off(problem: Problem, values: list[float], dtype: str) -> float:
    """Return what round-off may be of the numbers that f is made of: its values and x, as far as is known."""
    largest = max(*map(abs, values), float(np.max(_sizes(problem.x))))
    return ROOM * max(noise.HALF[dtype], problem.eps / 2) * largest


def _sizes(x: Vector) -> Vector:
    size = np.abs(x)
    return np.where(size > 0, size, float(np.median(size[size > 0])) if size.any() else 1.0)
