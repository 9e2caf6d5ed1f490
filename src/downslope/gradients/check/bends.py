"""Which entries bend at the point: halved until each kink has its entry."""

from __future__ import annotations

import math

import numpy as np

from downslope.gradients.check.line import Direction
from downslope.gradients.check.measure import Measured, Meter
from downslope.gradients.check.problem import Indices, Vector

MOST = 3
"""Kinks that are named."""


class Bends:
    """Finds the entries in which the one-sided derivatives differ."""

    def __init__(self, meter: Meter) -> None:
        self.meter = meter

    def entries(self, seen: Measured) -> tuple[list[int], bool]:
        """Return entries with a kink, and whether these are all."""
        at, by = seen.direction
        found: list[int] = []
        step = seen.slope.step
        pending = [(at, by)]
        while pending:
            at, by = pending.pop()
            if len(found) == MOST or self.meter.spent:
                return found, False
            if at.size == 1:
                found.append(int(at[0]))
                continue
            halves = [(at[: at.size // 2], by[: at.size // 2]), (at[at.size // 2 :], by[at.size // 2 :])]
            bent = [half for half in halves if self._bent(*half, step)]
            if not bent:  # a kink of several entries together
                return found, False
            pending.extend(bent)
        return found, True

    def _bent(self, at: Indices, by: Vector, step: float) -> bool:
        line = self.meter.line(Direction(at, by))
        small = step / 16
        value = (16 * line.bend(small) - line.bend(step)) / 15
        return abs(value) > max(8 * 4 * line.noise(small), 0.3 * abs(line.bend(small)))

    def sides(self, j: int) -> tuple[float, float]:
        """Return the derivatives to the left and to the right of entry j."""
        line = self.meter.line(Direction(np.array([j]), np.ones(1)))
        size = max(1.0, abs(float(self.meter.problem.x[j])))
        h = max(1e-6 * size, math.sqrt(self.meter.noise.value) * 1e-2)
        claimed = float(self.meter.claimed[j])
        return claimed - line.remainder(-h) / h, claimed + line.remainder(h) / h
