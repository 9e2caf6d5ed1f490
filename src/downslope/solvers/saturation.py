"""A second look at a fit: a parameter that has lost its influence, because the model is saturated in it.

Where sigmoids are saturated, or an exponential has died away, columns of the Jacobian are zero to rounding.
The offset is then within any tolerance, whatever that parameter could still bring. What tells it from a
parameter that decides nothing, and from the flat side of a hinge, is how the cost changes on the way back to
where the parameter had influence: with distance from the flat part a tail grows by powers of ten, a hinge or
a power of the distance does not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from downslope.solvers.core import ROUNDINGS, Core, Problem
from downslope.solvers.status import Status

Vector = NDArray[Any]

MOST = 8
"""Parameters looked at."""

HALVINGS = 60
"""Of the way back, in search of where the flat part begins."""

SCALES = 24
"""Distances from the flat part at which the cost is compared, each half of the one before, until rounding
would be seen."""

STEEP = 1e-3
"""At half the distance a power up to the tenth is more than this share; an exponential is less somewhere."""


def looked(
    problem: Problem, core: Core, lengths: Vector, scale: Vector, value: Callable[[Vector], float], eps: float
) -> Core:
    """Return the core, PLATEAU where a fit that ended as a success is saturated in a parameter.

    Args:
        problem: bounds; nothing is evaluated beyond them.
        core: as the run ended.
        lengths: of the columns of the Jacobian at the end, (n,).
        scale: what they were in the course of the run, (n,), or 1 where they always were zero.
        value: the cost at a point.
        eps: spacing of the dtype at 1.

    """
    if not Status(int(core.status)).success:
        return core
    asked = 0

    def at(x: Vector) -> float:
        nonlocal asked
        asked += 1
        return value(x)

    lost = np.flatnonzero(lengths <= eps * scale)[:MOST]
    try:
        with np.errstate(all="ignore"):
            saturated = any(_saturated(problem, core, int(j), at, eps) for j in lost)
    except (Exception, KeyboardInterrupt):  # the run is over: what it found is kept
        return core
    status = int(Status.PLATEAU) if saturated else core.status
    return core._replace(status=status, evaluations=core.evaluations + asked)


def _saturated(problem: Problem, core: Core, j: int, value: Callable[[Vector], float], eps: float) -> bool:
    """Return whether parameter j has influence elsewhere, from where it dies away as in a tail."""
    here, cost = float(core.x[j]), float(core.value)
    level = ROUNDINGS * eps * cost

    def change(to: float) -> float:
        x = np.array(core.x)
        x[j] = to
        return abs(value(x) - cost)

    changes = {to: change(to) for to in _elsewhere(problem, core, j)}
    changes = {to: found for to, found in changes.items() if level < found < np.inf}
    if not changes:
        return False
    most = max(changes, key=lambda to: changes[to])
    edge = _edge(lambda t: change(most + t * (here - most)) <= level)
    if edge == 0.0:
        return True
    before = changes[most]
    for k in range(1, SCALES):
        if before <= level / STEEP**2:
            break
        after = change(most + edge * (1.0 - 0.5**k) * (here - most))
        if after <= STEEP * before:
            return True
        before = after
    return False


def _elsewhere(problem: Problem, core: Core, j: int) -> set[float]:
    """Return other values of parameter j, within its bounds."""
    here = core.x[j]
    others = np.array([core.origin[j], 0.0, -here, 0.5 * here, 2.0 * here])
    if problem.low is not None and problem.high is not None:
        others = np.clip(others, problem.low[j], problem.high[j])
    return {float(to) for to in others if to != here}


def _edge(flat: Callable[[float], bool]) -> float:
    """Return where, between 0 and 1, a flat part begins that reaches to 1; 0 where it is flat all the way."""
    inside = 1.0
    for _ in range(HALVINGS):
        if not flat(0.5 * inside):
            break
        inside *= 0.5
    else:
        return 0.0
    outside = 0.5 * inside
    for _ in range(SCALES + 4):
        middle = 0.5 * (inside + outside)
        inside, outside = (middle, outside) if flat(middle) else (inside, middle)
    return outside
