"""Backtracking until the value falls enough, and steps of a length that is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from downslope.solvers.core import ROUNDINGS
from downslope.solvers.searches.wolfe import BACK_TO_FINITE, FAILED, FOUND, GOING
from downslope.solvers.spaces.protocol import Condition, Number, Space
from downslope.solvers.status import Status

UNCHANGED = 0.999
SHRINK_MOST, SHRINK_LEAST, GROW = 0.1, 0.5, 10.0


class Backtrack(NamedTuple):
    """State of a search: the trial t and its most, φ'(0), what is rounding, trials, the verdict."""

    t: Number
    last: Number
    slope0: Number
    uncertain: Number
    trials: Number
    verdict: Number
    rounded: Condition


@dataclass(frozen=True)
class Armijo:
    """Accept t where φ(t) ≤ decrease · t φ'(0); else go to the minimum of a parabola, nearer to 0.

    Source: Armijo, Pacific J. Math. 16 (1966) 1-3. Values that differ by rounding alone are taken from
    the slopes, as in `Wolfe`.
    """

    decrease: float = 1e-4
    trials: int = 60

    def start(
        self, space: Space, value: Number, slope: Number, t: Number, last: Number, noise: Number
    ) -> Backtrack:
        """Return a search that asks for the trial t."""
        uncertain = space.maximum(ROUNDINGS * space.eps * space.absolute(value), 2.0 * noise)
        zero = space.full(slope, 0)
        return Backtrack(space.minimum(t, last), last, slope, uncertain, zero, zero, space.full(slope, True))

    def step(self, space: Space, s: Backtrack, fall: Number, slope: Number, finite: Condition) -> Backtrack:
        """Return the search after the trial at `s.t`."""
        equal = space.absolute(fall) <= s.uncertain
        fall = space.where(equal, 0.5 * s.t * (s.slope0 + slope), fall)
        # A step so short that even the slope stays as it was is none, whatever rounding says: go further.
        flat = finite & equal & (slope < UNCHANGED * s.slope0)
        enough = finite & space.invert(flat) & (fall <= self.decrease * s.t * s.slope0)
        shorter = 0.5 * space.divide(s.slope0 * s.t * s.t, s.slope0 * s.t - fall)
        shorter = space.maximum(SHRINK_MOST * s.t, space.minimum(SHRINK_LEAST * s.t, shorter))
        shorter = space.where(finite, shorter, BACK_TO_FINITE * s.t)
        shorter = space.where(flat, space.minimum(GROW * s.t, s.last), shorter)
        verdict = space.where(s.trials + 1 >= self.trials, FAILED, GOING)
        return Backtrack(
            space.where(enough, s.t, shorter), s.last, s.slope0, s.uncertain, s.trials + 1,
            space.where(enough, FOUND, verdict), s.rounded & finite & equal,
        )  # fmt: skip

    def diagnosis(self, space: Space, s: Backtrack) -> Number:
        """Return the `Status` of a search along -g that found no lower point."""
        return space.where(s.rounded, int(Status.ROUNDOFF), int(Status.STALLED))


@dataclass(frozen=True)
class Fixed:
    """Steps of one length, whatever the value does, as long as it is finite."""

    lr: float

    def start(
        self, space: Space, value: Number, slope: Number, t: Number, last: Number, noise: Number
    ) -> Backtrack:
        """Return a search that asks for the trial lr."""
        zero = space.full(slope, 0)
        no = space.full(slope, False)
        return Backtrack(
            space.minimum(space.full(slope, self.lr), last),
            last,
            slope,
            space.full(slope, 0.0),
            zero,
            zero,
            no,
        )

    def step(self, space: Space, s: Backtrack, fall: Number, slope: Number, finite: Condition) -> Backtrack:
        """Return the search after its only trial."""
        return s._replace(verdict=space.where(finite, FOUND, FAILED), trials=s.trials + 1)

    def diagnosis(self, space: Space, s: Backtrack) -> Number:
        """Return the `Status` of a step that was not finite."""
        return space.full(s.t, int(Status.NONFINITE))
