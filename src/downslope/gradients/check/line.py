"""The function along one line through the point: what is left of it beside the claimed gradient.

Along x + t v the residual of the central difference,

    c(h) = (f(x⁺) - f(x⁻) - ĝᵀ(x⁺ - x⁻)) / 2h,    x± = x ± h v as the function receives them,

tends to (g - ĝ)ᵀv. Taking the claimed part off before the limit keeps its digits, and using the
points as they were rounded makes it true in float32 too.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from downslope.gradients.check.extrapolate import Limit, limit
from downslope.gradients.check.problem import Indices, Problem, Vector, length
from downslope.gradients.check.result import Taylor

MOST = 20
"""Steps tried along one line at most."""


class Direction(NamedTuple):
    """A direction that is zero outside `at`."""

    at: Indices
    by: Vector


class Slope(NamedTuple):
    """The residual derivative along a direction, its error, the step it needed, and the bend at the point.

    `bend` is the difference of the two one-sided derivatives, zero where f is smooth.
    """

    residual: float
    error: float
    step: float
    bend: float
    bend_error: float


class Line:
    """Values of f along a direction, each computed once."""

    def __init__(
        self,
        problem: Problem,
        f0: float,
        sigma: float,
        direction: Direction,
        claimed: Vector,
        values: dict[float, float] | None = None,
    ) -> None:
        self.problem = problem
        self.f0 = f0
        self.sigma = sigma
        self.direction = direction
        self.claimed = claimed
        whole = direction.at.size == problem.size
        self._where: slice | Indices = slice(None) if whole else direction.at
        self._values = {} if values is None else values
        self._taken: dict[float, float] = {}
        self._summed = 2.0**-52 * length(claimed * direction.by)
        size = np.abs(problem.x[direction.at]) / np.maximum(np.abs(direction.by), 1e-300)
        self._last = problem.grid * float(np.max(size, initial=0.0))  # step of the last digits of the point
        self.scale = abs(float(claimed @ direction.by))

    def with_claimed(self, claimed: Vector) -> Line:
        """Return the line with another claimed gradient in its entries, and the values that are known."""
        return Line(self.problem, self.f0, self.sigma, self.direction, claimed, self._values)

    def at(self, t: float) -> tuple[float, float]:
        """Return f(x + t v) as it was rounded, and what the claimed gradient says of the way there."""
        if t not in self._taken:
            where = self.problem.x.copy()
            where[self._where] += t * self.direction.by
            where = self.problem.round(where)
            if t not in self._values:
                self._values[t] = self.problem.f(where)
            way = where[self._where] - self.problem.x[self._where]
            self._taken[t] = float(self.claimed @ way)
        return self._values[t], self._taken[t]

    def central(self, h: float) -> float:
        """Return c(h)."""
        (above, up), (below, down) = self.at(h), self.at(-h)
        return (above - below - (up - down)) / (2 * h)

    def bend(self, h: float) -> float:
        """Return the right difference less the left one at step h."""
        (above, up), (below, down) = self.at(h), self.at(-h)
        return (above - self.f0 + (below - self.f0) - (up + down)) / h

    def remainder(self, h: float) -> float:
        """Return f(x + h v) - f(x) - h ĝᵀv."""
        value, way = self.at(h)
        return value - self.f0 - way

    def noise(self, h: float) -> float:
        """Return the round-off of c(h), one standard deviation."""
        largest = max(abs(self.at(h)[0]), abs(self.at(-h)[0]), 1e-300)
        grown = self.sigma * max(1.0, largest / max(abs(self.f0), 1e-300)) if self.f0 else self.sigma
        own = max(min(grown, 1e3 * self.sigma), 2.0**-54 * largest)
        return own / (math.sqrt(2) * h) + self._summed

    def slope(self, start: float, want: float = 0.0, *, grow: bool = True) -> Slope:
        """Return the residual derivative: steps fall from `start` until the error is least, or as wanted.

        Args:
            start: the first step; smaller ones follow.
            want: an error that is small enough.
            grow: try larger steps where round-off rules even at the first.

        """
        steps = self._falling(start, want)
        if not steps:
            return Slope(math.nan, math.inf, start, 0.0, math.inf)
        best = self._limit(steps)
        for _ in range(6 if grow else 0):
            if best.first > 0 or best.noise * 4 < best.error or best.error <= want:
                break
            larger = steps[0] * 4
            if not math.isfinite(self.central(larger)):
                break
            wider = self._limit([larger, *steps])
            if wider.error >= best.error:
                break
            steps, best = [larger, *steps], wider
        return Slope(best.value, best.error, steps[best.first], *self._bend(steps[best.first :]))

    def _falling(self, start: float, want: float) -> list[float]:
        steps: list[float] = []
        h = start
        for _ in range(MOST):
            c = self.central(h)
            if not math.isfinite(c):
                h, steps = h / 8, []
                continue
            steps.append(h)
            found = self._limit(steps)
            noise = self.noise(h)
            if len(steps) > 1:
                late = len(steps) - 1 - found.last >= 2
                settled = noise > 0.3 * found.error or found.error < 1e-3 * (self.scale + abs(found.value))
                if found.error <= want or noise > found.error or (late and settled):
                    break
            moving = len(steps) > 1 and abs(c - self.central(steps[-2]))
            h /= 8 if len(steps) > 1 and moving > 0.03 * (self.scale + abs(c)) else 2
        return steps

    def _limit(self, steps: list[float]) -> Limit:
        return limit(steps, [self.central(h) for h in steps], [self.noise(h) for h in steps])

    def _bend(self, steps: list[float]) -> tuple[float, float]:
        """Return the bend at step zero and its error: linear in h where f is smooth, so extrapolated once."""
        found = []
        for large, small in pairwise(steps):
            ratio = large / small
            value = (ratio * self.bend(small) - self.bend(large)) / (ratio - 1)
            # Both sides end at points that were rounded, with what the claimed gradient does not take off.
            rounded = abs(self.central(small)) * self._last / small
            found.append((value, 4 * (self.noise(small) + rounded) * ratio / (ratio - 1)))
        if len(found) < 2:
            return 0.0, math.inf
        pairs = [(b, abs(b - a) + max(n, m)) for (a, n), (b, m) in pairwise(found)]
        return min(pairs, key=lambda pair: pair[1])

    def taylor(self, name: str) -> Taylor:
        """Return the remainders at falling steps, and their order in h where they are above round-off."""
        top = max((t for t in self._values if t > 0), default=0.1)
        steps = [top / 4**k for k in range(14)]
        remainders = [abs(self.remainder(h)) for h in steps]
        floor = [8 * self.sigma + 2.0**-50 * self.scale * h for h in steps]
        rows = zip(steps, remainders, floor, strict=True)
        seen = [(h, r) for h, r, f in rows if math.isfinite(r) and r > 4 * f][-4:]
        slope = None
        if len(seen) >= 3:
            logs = np.log([[h, r] for h, r in seen])
            slope = float(np.polyfit(logs[:, 0], logs[:, 1], 1)[0])
        return Taylor(name, tuple(steps), tuple(remainders), self.sigma, slope)
