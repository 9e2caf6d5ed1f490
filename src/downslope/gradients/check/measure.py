"""Residuals along directions, each with the tolerance under which it means nothing.

A residual is believed only where it stands at every scale: the step with which it was found may be
blind to structure that the gradient rightly follows (a ripple, a staircase, a kink close by). So
it is measured again at the smallest step that round-off allows, and between.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from downslope.gradients.check.grid import COARSE
from downslope.gradients.check.line import Direction, Line, Slope
from downslope.gradients.check.noise import HALF, Noise
from downslope.gradients.check.problem import Indices, Problem, Vector, length

SURE = 8.0
"""Residuals of this many errors are no accident."""
SEEN = SURE + 1.5
"""What is sure to leave a residual of `SURE` errors has so many: its own error may take some away."""

SMALLEST = 1e-100
"""First steps end here: on a function without noise each line may settle at a smaller one than the last."""

IMPORTANT = 0.05
"""Entries above this share of the largest make up the gradient: without them nothing is passed."""


@dataclass
class Measured:
    """A residual with its tolerance; `rough` where the line has structure below the step used."""

    direction: Direction
    slope: Slope
    tolerance: float
    line: Line
    rough: bool = False

    @property
    def residual(self) -> float:
        """(g - ĝ)ᵀv."""
        return self.slope.residual

    @property
    def wrong(self) -> bool:
        """Whether the residual is beyond its tolerance."""
        return abs(self.residual) > self.tolerance

    @property
    def bent(self) -> bool:
        """Whether there is a kink at the point itself."""
        s = self.slope
        return abs(s.bend) > SURE * max(s.bend_error, s.error)


@dataclass
class Meter:
    """Measures residuals of a claimed gradient, which is corrected as errors are found."""

    problem: Problem
    f0: float
    noise: Noise
    claimed: Vector
    generator: np.random.Generator
    limit: int
    start: float = 0.1
    relative: float = 0.0
    """Share of an entry that is let pass: the gradient's own precision."""
    rough: list[Measured] = field(default_factory=list)

    @property
    def spent(self) -> bool:
        """Whether the evaluations allowed are used up."""
        return self.problem.evaluations >= self.limit

    @property
    def finest(self) -> float:
        """The smallest step that structure beside the point has asked for; infinite where there is none."""
        return min((one.slope.step for one in self.rough), default=math.inf)

    @property
    def on_grid(self) -> bool:
        """Whether f sees x with few digits, and its values have more."""
        return self.problem.grid >= COARSE and HALF[self.noise.dtype] < COARSE / 2

    def line(self, direction: Direction) -> Line:
        """Return the line along a direction, with the gradient as it is claimed now."""
        return Line(self.problem, self.f0, self.noise.value, direction, self.claimed[direction.at])

    def direction(self, at: Indices, weights: Vector | None = None) -> Direction:
        """Return random signs and sizes in [0.5, 1.5] on the entries `at`, times the weights.

        Sizes, since with signs alone two equal errors cancel in half of all directions.
        """
        by = self.generator.uniform(0.5, 1.5, at.size) * self.generator.choice((-1.0, 1.0), at.size)
        return Direction(at, by if weights is None else by * weights)

    def measure(
        self, direction: Direction, *, want: float = 0.0, start: float | None = None, sure: bool = False
    ) -> Measured:
        """Return the residual along a direction.

        Args:
            direction: where to.
            want: an error that is small enough; else the least that can be had.
            start: first step; by default that of the last line of this kind.
            sure: believe a residual only where it stands at every scale.

        """
        line = self.line(direction)
        first = start or self.start
        rough = False
        for _ in range(4):
            slope = line.slope(first, want, grow=not self.rough)
            found = Measured(direction, slope, self.tolerance(direction, slope), line, rough)
            if not sure or not (found.wrong or found.bent):
                break
            blind = self._blind_above(found)
            if blind is None:
                break
            rough, first = True, blind
            found.rough = True
        if start is None and math.isfinite(slope.error):
            self.start = max(slope.step, SMALLEST)
        if rough:
            self.rough.append(found)
        return found

    def correct(self, j: int, measured: float, error: float) -> None:
        """Put an entry right. From now on it carries the error with which it was measured."""
        self.claimed[j] = measured
        self.noise.gradient[j] = max(self.noise.gradient[j], error)

    def finer(self, seen: Measured) -> float | None:
        """Return a first step for a residual measured at steps that pass over structure found since.

        None where it was measured as finely, or round-off would hide it there.
        """
        step = max(4 * self.finest, 80 * self.noise.value / max(abs(seen.residual), 1e-300))
        return step if step < seen.slope.step / 4 else None

    def tolerance(self, direction: Direction, slope: Slope) -> float:
        """Return the residual that round-off and the extrapolation may make."""
        own = length(self.noise.gradient[direction.at] * direction.by)
        return SURE * (slope.error + own)

    def _blind_above(self, found: Measured) -> float | None:
        """Return a smaller first step where the residual does not stand at fine steps, else None."""
        used = found.slope.step
        r, of = (found.slope.bend, found.line.bend) if found.bent else (found.residual, found.line.central)
        fine = (80 if found.bent else 20) * self.noise.value / abs(r)
        fine = max(fine, min(self._shown(found.direction), used))
        if fine >= used / 4:
            return None
        at = found.direction.at
        last = float(np.abs(self.claimed[at]) @ np.abs(self.problem.x[at])) * self.problem.grid
        for h in (fine, math.sqrt(fine * used)):
            c = of(h)
            # What curvature adds, linear in the step for a bend and quadratic for a slope, is no structure,
            # nor what the last digits of the point take from the step.
            curved = 2 * abs(of(used) - r) * (h / used) ** (1 if found.bent else 2)
            if not math.isfinite(c) or abs(c - r) > 0.5 * abs(r) + curved + last / h:
                return math.sqrt(fine * used)
        return None

    def _shown(self, direction: Direction) -> float:
        """Return a step that the entries which make up the claimed derivative can show."""
        at, by = direction
        needed = 16 * self.problem.grid * np.abs(self.problem.x[at]) / np.maximum(np.abs(by), 1e-300)
        share = np.abs(self.claimed[at] * by)
        if not share.any():
            share = np.ones_like(share)
        order = np.argsort(needed)
        reached = np.searchsorted(np.cumsum(share[order]), 0.9 * share.sum())
        return float(needed[order[min(int(reached), order.size - 1)]])

    def moved(self, measured: Measured) -> NDArray[np.bool_]:
        """Return which entries of a direction were moved by more than their last digits."""
        at, by = measured.direction
        digits = 2 if self.on_grid else 64
        return np.abs(by) * measured.slope.step >= digits * self.problem.grid * np.abs(self.problem.x[at])
