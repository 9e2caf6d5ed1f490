"""The strong Wolfe conditions, by the safeguarded cubic steps of Moré and Thuente.

A step t along d is accepted where φ(t) = f(x + t d) - f(x) has

    φ(t) ≤ decrease · t φ'(0)        and        |φ'(t)| ≤ curvature · |φ'(0)|.

Source: Moré & Thuente, ACM TOMS 20 (1994) 286-307, in the form of MINPACK-2's `dcsrch`. It departs
from it in these points:

- Where two values differ by no more than their rounding, φ is taken from the slopes, by the trapezoid
  rule; the first condition then is Hager and Zhang's approximate one (SIAM J. Optim. 16 (2005)
  170-192): a search goes on down to where gradients, and not values, can no longer be told apart.
- A trial that is not finite is no error: the next one lies a tenth as far on, and none beyond it.
- A search that ends without a step that fulfils both conditions yields the lowest point it saw.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from downslope.gradients.returned import is_whole
from downslope.rules.checks import require
from downslope.solvers.core import ROUNDINGS
from downslope.solvers.spaces.protocol import Condition, Number, Space
from downslope.solvers.status import Status

GOING, FOUND, LOWEST, FAILED = 0, 1, 2, 3
"""Verdicts: another trial; this trial; the lowest point seen; no lower point."""

EXTRAPOLATE_LEAST, EXTRAPOLATE_MOST = 1.1, 4.0
NARROW = 0.66
BACK_TO_FINITE = 0.1
SAME = 0.1
"""A slope of at least this share of the first one has not gone to zero."""


class Search(NamedTuple):
    """State of a search; `low` is the end of the interval with the lowest value, `high` the other.

    Attributes:
        t: the trial asked for.
        slope0: φ'(0) < 0.
        uncertain: differences of values up to this one are rounding.
        low, low_fall, low_slope: t, φ and φ' at the best end.
        high, high_fall, high_slope: at the other end.
        bracketed: whether a minimum lies between the ends.
        modified: whether MT's auxiliary function is still in use.
        width, width_before: of the interval, now and a trial before.
        last: no trial goes beyond; the bound of the domain, or the nearest point that was not finite.
        trials: taken so far.
        verdict: one of the four above.
        rounded: whether no trial differed from the start by more than rounding.

    """

    t: Number
    slope0: Number
    uncertain: Number
    low: Number
    low_fall: Number
    low_slope: Number
    high: Number
    high_fall: Number
    high_slope: Number
    bracketed: Condition
    modified: Condition
    width: Number
    width_before: Number
    last: Number
    trials: Number
    verdict: Number
    rounded: Condition


@dataclass(frozen=True)
class Wolfe:
    """The search; `decrease` and `curvature` are the conditions' constants."""

    decrease: float = 1e-3
    curvature: float = 0.9
    trials: int = 20

    def __post_init__(self) -> None:
        require("trials", self.trials, is_whole(self.trials) and self.trials >= 1, "a whole number from 1 on")

    def start(
        self, space: Space, value: Number, slope: Number, t: Number, last: Number, noise: Number
    ) -> Search:
        """Return a search that asks for the trial t, with slope φ'(0), no trial beyond `last`."""
        nothing, no, yes = space.full(slope, 0.0), space.full(slope, False), space.full(slope, True)
        zero = space.full(slope, 0)
        t = space.minimum(t, last)
        uncertain = space.maximum(ROUNDINGS * space.eps * space.absolute(value), 2.0 * noise)
        return Search(
            t, slope, uncertain, nothing, nothing, slope, nothing, nothing, slope,
            no, yes, last, 2.0 * last, last, zero, zero, yes,
        )  # fmt: skip

    def step(self, space: Space, s: Search, fall: Number, slope: Number, finite: Condition) -> Search:
        """Return the search after the trial at `s.t` found φ = `fall` and φ' = `slope`."""
        return space.branch(
            finite, lambda: self._finite(space, s, fall, slope), lambda: self._not_finite(space, s)
        )

    def _finite(self, space: Space, s: Search, fall: Number, slope: Number) -> Search:
        where = space.where
        t = s.t
        equal = space.absolute(fall) <= s.uncertain
        rounded = s.rounded & equal
        by_slopes = s.low_fall + 0.5 * (t - s.low) * (s.low_slope + slope)
        fall = where(equal & (space.absolute(s.low_fall) <= s.uncertain), by_slopes, fall)
        promised = self.decrease * s.slope0
        enough = fall <= t * promised
        found = enough & (space.absolute(slope) <= -self.curvature * s.slope0)
        found = found | (enough & (t >= s.last) & (slope <= promised))
        return space.branch(
            found,
            lambda: Search(*s[:-2], space.full(t, FOUND), rounded),
            lambda: self._interval(space, s, fall, slope, enough, promised)._replace(rounded=rounded),
        )

    def _interval(
        self, space: Space, s: Search, fall: Number, slope: Number, enough: Condition, promised: Number
    ) -> Search:
        """Return the search with the trial as an end of its interval, and the next trial."""
        where, t = space.where, s.t
        modified = s.modified & space.invert(enough & (slope >= 0))

        # MT's auxiliary function φ(t) - decrease t φ'(0), while it is in use.
        shift = where(modified & (fall <= s.low_fall) & space.invert(enough), promised, 0.0 * promised)
        low, high, t_next, bracketed = _step(
            space, s, t, fall - shift * t, slope - shift, shift,
            where(s.bracketed, space.minimum(s.low, s.high), t + EXTRAPOLATE_LEAST * (t - s.low)),
            where(s.bracketed, space.maximum(s.low, s.high), t + EXTRAPOLATE_MOST * (t - s.low)),
            (t, fall, slope),
        )  # fmt: skip
        gap = space.absolute(high[0] - low[0])
        slow = bracketed & (gap >= NARROW * s.width_before)
        t_next = where(slow, low[0] + 0.5 * (high[0] - low[0]), t_next)
        width_before = where(bracketed, s.width, s.width_before)
        width = where(bracketed, gap, s.width)
        t_next = space.minimum(space.maximum(t_next, 0.0 * t_next), s.last)

        largest = space.maximum(low[0], high[0])
        narrow = bracketed & (gap <= 0.1 * largest)
        nothing_left = (t_next == t) | (bracketed & (gap <= 4.0 * space.eps * largest))
        trials = s.trials + 1
        # A value that falls on and on is followed far: only so is "without bound" found out.
        exhausted = nothing_left | (trials >= where(bracketed, self.trials, 4 * self.trials))
        lower = (low[0] > 0) & (low[1] <= low[0] * promised)
        verdict = where(exhausted, where(low[1] < 0, LOWEST, FAILED), GOING)
        verdict = where(narrow & lower, LOWEST, verdict)
        return Search(
            t_next, s.slope0, s.uncertain, *low, *high, bracketed, modified, width, width_before, s.last,
            trials, verdict, s.rounded,
        )  # fmt: skip

    def diagnosis(self, space: Space, s: Search) -> Number:
        """Return the `Status` of a search along -g that found no lower point."""
        jumps = s.bracketed & (s.high_slope > -SAME * s.slope0) & (s.low_slope < SAME * s.slope0)
        why = space.where(jumps, int(Status.KINK), int(Status.STALLED))
        return space.where(s.rounded, int(Status.ROUNDOFF), why)

    def _not_finite(self, space: Space, s: Search) -> Search:
        where = space.where
        t = s.low + BACK_TO_FINITE * (s.t - s.low)
        trials = s.trials + 1
        stuck = (trials >= 2 * self.trials) | (t == s.low) | (t == s.t)
        last = space.minimum(s.last, 0.99 * s.t)
        # An interval that reached to the far end is given up: its other end is unknown now.
        verdict = where(stuck, where(s.low_fall < 0, LOWEST, FAILED), GOING)
        return s._replace(t=t, last=last, trials=trials, verdict=verdict, width=last, width_before=2.0 * last)


def _step(
    space: Space, s: Search, t: Number, f: Number, g: Number, shift: Number, least: Number, most: Number,
    trial: tuple[Number, Number, Number],
) -> tuple[tuple[Number, Number, Number], tuple[Number, Number, Number], Number, Condition]:  # fmt: skip
    """Return the ends of the next interval, the next trial and whether a minimum is bracketed.

    f and g are of the (perhaps auxiliary) function at the trial t; `shift` makes those of the ends.
    This is MINPACK-2's `dcstep`, its four cases side by side.
    """
    where, absolute = space.where, space.absolute
    a, fa, ga = s.low, s.low_fall - shift * s.low, s.low_slope - shift
    b, fb, gb = s.high, s.high_fall - shift * s.high, s.high_slope - shift
    opposite = g * ga < 0

    # The cubic through both points, see More & Thuente, section 4; computed in a stable form.
    theta = 3.0 * space.divide(fa - f, t - a) + ga + g
    size = space.maximum(absolute(theta), space.maximum(absolute(ga), absolute(g)))
    over = space.divide(theta, size)
    root = size * space.sqrt(over * over - space.divide(ga, size) * space.divide(g, size))

    up = where(t < a, -root, root)
    cubic_1 = a + space.divide(up - ga + theta, 2.0 * up - ga + g) * (t - a)
    quadratic = a + 0.5 * space.divide(ga, space.divide(fa - f, t - a) + ga) * (t - a)
    one = where(absolute(cubic_1 - a) < absolute(quadratic - a), cubic_1, 0.5 * (cubic_1 + quadratic))

    down = where(t > a, -root, root)
    ratio = space.divide(down - g + theta, 2.0 * down - g + ga)
    cubic_2 = t + ratio * (a - t)
    secant = t + space.divide(g, g - ga) * (a - t)
    two = where(absolute(cubic_2 - t) > absolute(secant - t), cubic_2, secant)

    beyond = where(t > a, most, least)
    cubic_3 = where((ratio < 0) & (root > 0), cubic_2, beyond)
    nearer = absolute(cubic_3 - t) < absolute(secant - t)
    inside = where(nearer, cubic_3, secant)
    guard = t + NARROW * (b - t)
    inside = where(t > a, space.minimum(guard, inside), space.maximum(guard, inside))
    outside = space.maximum(least, space.minimum(most, where(nearer, secant, cubic_3)))
    three = where(s.bracketed, inside, outside)

    theta_b = 3.0 * space.divide(f - fb, b - t) + gb + g
    size_b = space.maximum(absolute(theta_b), space.maximum(absolute(gb), absolute(g)))
    over_b = space.divide(theta_b, size_b)
    root_b = size_b * space.sqrt(over_b * over_b - space.divide(gb, size_b) * space.divide(g, size_b))
    root_b = where(t > b, -root_b, root_b)
    cubic_4 = t + space.divide(root_b - g + theta_b, 2.0 * root_b - g + gb) * (b - t)
    four = where(s.bracketed, cubic_4, beyond)

    higher = f > fa
    flatter = absolute(g) <= absolute(ga)
    t_next = where(higher, one, where(opposite, two, where(flatter, three, four)))
    bracketed = s.bracketed | higher | opposite
    t_next = where(space.finite(t_next), t_next, 0.5 * (a + t))

    ends_low, ends_high = (s.low, s.low_fall, s.low_slope), (s.high, s.high_fall, s.high_slope)
    low, high = [], []
    for mine, its, new in zip(ends_low, ends_high, trial, strict=True):
        low.append(where(higher, mine, new))
        high.append(where(higher, new, where(opposite, mine, its)))
    return (low[0], low[1], low[2]), (high[0], high[1], high[2]), t_next, bracketed
