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

ASKED = 8
"""Entries that are moved to see whether f is flat in each."""

STANDS = 64
"""How many half units in the last place of f are claimed for each move at least."""

SAID = (
    "f is a staircase: flat but for jumps, so that its true derivative is zero. The gradient is a surrogate, "
    "as of a straight-through estimator or a spiking neuron, and differences can neither confirm nor refute "
    "it: check the smooth function that it is the gradient of, in the place of the steps."
)


def is_flat(problem: Problem, f0: float, claimed: Vector, generator: np.random.Generator) -> bool:
    """Return whether f stays exactly what it is where single entries move in which much is claimed.

    A cast is not taken for it: an entry moves by more than the digits that bfloat16 has, or, where f sees x
    on a grid, to the next point there. Where f changes, a finer step tells a slope from a jump.
    """
    size = np.abs(problem.x)
    size = np.where(size > 0, size, float(np.median(size[size > 0])) if size.any() else 1.0)
    effect = np.abs(np.where(np.isfinite(claimed), claimed, 0.0)) * size
    asked = [int(j) for j in np.argsort(-effect)[:ASKED] if effect[j] > 0]
    coarse = problem.grid >= COARSE
    values, still = {f0}, 0

    def stays(j: int, step: float) -> bool:
        for side in (step, -step):
            near = problem.x.copy()
            near[j] += side
            values.add(value := problem.f(problem.round(near)))
            if value != f0:
                return False
        return True

    for j in asked:
        step = float(
            cell(problem.x[[j]], problem.grid)[0] if coarse else size[j] / 64 * generator.uniform(1, 2)
        )
        if stays(j, step):
            still += 1
        elif not coarse and not stays(j, step / 64):
            return False
    if not still or 2 * still < len(asked):
        return False
    values.add(problem.f(problem.round(problem.x * generator.uniform(0.5, 2, problem.size))))
    digits = max(noise.HALF[noise.coarsest(sorted(v for v in values if math.isfinite(v)))], problem.eps / 2)
    return float(effect[asked[-1]]) / 64 > STANDS * digits * abs(f0)
