"""Where a function of one variable has a kink or a jump.

`locate` needs values only, so it serves a check of a gradient, a line search that does not get on,
and a user with a plot in mind. It follows the change of slope between neighbouring points while their
distance is halved: over a smooth stretch the change halves too, at a kink it stays, at a jump
it doubles.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Kink:
    """A point `at` which the slope jumps from `left` to `right`, known to `width`."""

    at: float
    left: float
    right: float
    width: float

    def __str__(self) -> str:
        left, right = _told_apart(self.left, self.right, 3)
        return f"a kink at t = {self.at:.6g}: slope {left} before it, {right} after it"


@dataclass(frozen=True)
class Jump:
    """A point `at` which the value jumps from `left` to `right`, known to `width`."""

    at: float
    left: float
    right: float
    width: float

    def __str__(self) -> str:
        left, right = _told_apart(self.left, self.right, 6)
        return f"a jump at t = {self.at:.6g}: from {left} to {right}"


def locate(
    phi: Callable[[float], float],
    a: float,
    b: float,
    *,
    noise: float = 0.0,
    points: int = 17,
    values: int | None = None,
    grain: float = 0.0,
) -> Kink | Jump | None:
    """Return the most pronounced kink or jump of `phi` in [a, b], or None where it is smooth.

    Args:
        phi: a function of one number.
        a: left end.
        b: right end, above `a`.
        noise: standard deviation of the round-off of `phi`; by default four units in the last place.
        points: the coarse grid that is looked at first; features closer together than its spacing
            hide one another.
        values: how often `phi` is asked at most, the grid included; the place is known less narrowly then.
            By default as often as it takes, about 200 times.
        grain: what `t` is rounded to within `phi`, as where it is added to something large.

    Raises:
        ValueError: `a` is not below `b`, fewer than 5 points, or fewer values than points.

    >>> locate(lambda t: abs(t - 0.3), 0.0, 1.0).at
    0.3
    >>> locate(lambda t: t**3, 0.0, 1.0) is None
    True

    """
    if not a < b:
        raise ValueError(f"a = {a!r}, b = {b!r}: expected a < b")
    if points < 5:
        raise ValueError(f"points = {points!r}: expected at least 5")
    if values is not None and values < points:
        raise ValueError(f"values = {values!r}: expected at least the {points} points of the grid")
    t = [a + (b - a) * k / (points - 1) for k in range(points)]
    known = {s: float(phi(s)) for s in t}
    if not all(map(math.isfinite, known.values())):
        return None
    sigma = noise or 4 * 2.0**-53 * max(map(abs, known.values()))
    suspects = _suspects([known[s] for s in t])
    share = math.inf if values is None else (values - points) / len(suspects)
    found = [_followed(phi, _around(t, i), known, sigma, len(known) + share, grain) for i in suspects]
    return max((one for one in found if one), key=_size, default=None)


def beside(
    phi: Callable[[float], float], reach: float, *, noise: float = 0.0, scales: int = 4, grain: float = 0.0
) -> Kink | Jump | None:
    """Return the kink or jump nearest to t = 0 that a search of growing stretches [-r, r] finds first.

    Args:
        phi: a function of one number, t = 0 the point in question.
        reach: the largest r; the others are smaller by 1000 each.
        noise: as for `locate`.
        scales: stretches tried.
        grain: as for `locate`.

    >>> round(beside(lambda t: abs(t - 1e-5), 1.0).at, 12)
    1e-05

    """
    for k in reversed(range(scales)):
        r = reach * 1e-3**k
        found = locate(phi, -r, 1.1 * r, noise=noise, grain=grain)
        if found is not None:
            return found
    return None


def _told_apart(left: float, right: float, digits: int) -> tuple[str, str]:
    """Return two numbers with as many digits as it takes to see that they differ."""
    while digits < 17 and f"{left:.{digits}g}" == f"{right:.{digits}g}":
        digits += 1
    return f"{left:.{digits}g}", f"{right:.{digits}g}"


def _size(one: Kink | Jump) -> tuple[bool, float]:
    return isinstance(one, Jump), abs(one.right - one.left)


def _suspects(values: list[float]) -> set[int]:
    """Return the nodes where the second and where the fourth difference is largest.

    The fourth sees a small kink on a curve that bends more everywhere.
    """
    second = [abs(a - 2 * b + c) for a, b, c in zip(values, values[1:], values[2:], strict=False)]
    signed = [a - 2 * b + c for a, b, c in zip(values, values[1:], values[2:], strict=False)]
    fourth = [abs(a - 2 * b + c) for a, b, c in zip(signed, signed[1:], signed[2:], strict=False)]
    return {second.index(max(second)) + 1, fourth.index(max(fourth)) + 2}


def _around(t: list[float], i: int) -> list[float]:
    return t[max(i - 2, 0) : i + 3]


def _followed(
    phi: Callable[[float], float],
    t: list[float],
    known: dict[float, float],
    sigma: float,
    most: float,
    grain: float,
) -> Kink | Jump | None:
    """Return what the sharpest bend among the points `t` turns out to be, with `most` values known."""
    a, b = t[0], t[-1]
    trail: list[tuple[float, float]] = []
    while True:
        width = t[1] - t[0]
        change, i = _sharpest(t, known)
        steepest = max(abs(known[v] - known[u]) for u, v in pairwise(t)) / width
        sigma = max(sigma, 4 * 2.0**-53 * max(abs(known[s]) for s in t), grain * steepest)
        # Beside a jump the change of slope is J / width; a kink must rise above the round-off of slopes.
        if change * width <= 16 * sigma or width <= 2.0**-46 * max(abs(a), abs(b), abs(b - a)):
            break
        trail.append((width, change))
        # Two intervals on either side, so that the node next to the feature has neighbours.
        low, high = max(i - 1, 0), min(i + 1, len(t) - 1)
        finer = _refined(t[low], t[high])
        if len(known) + sum(s not in known for s in finer) > most:
            break
        t = finer
        for s in t:
            if s not in known:
                known[s] = float(phi(s))
                if not math.isfinite(known[s]):
                    return None
    return _judged(trail, t, known, sigma)


def _refined(low: float, high: float) -> list[float]:
    return [low + (high - low) * k / 4 for k in range(4)] + [high]


def _sharpest(t: list[float], known: dict[float, float]) -> tuple[float, int]:
    slopes = [(known[v] - known[u]) / (v - u) for u, v in pairwise(t)]
    changes = [abs(right - left) for left, right in pairwise(slopes)]
    largest = max(changes)
    return largest, changes.index(largest) + 1


def _judged(
    trail: list[tuple[float, float]], t: list[float], known: dict[float, float], sigma: float
) -> Kink | Jump | None:
    """Return what the trail of (width, change of slope) says."""
    if len(trail) < 5:
        return None
    half = trail[len(trail) // 2 :]
    (wide, before), (narrow, after) = half[0], half[-1]
    if wide <= narrow or before <= 0 or after <= 0:
        return None
    order = math.log(after / before) / math.log(narrow / wide)
    low, high = t[0], t[-1]
    middle = (low + high) / 2
    width = high - low
    if order < -0.75:
        return Jump(middle, known[low], known[high], width)
    if order > 0.5:
        return None
    ends = sorted(known)
    reach = max(64 * width, 1e3 * sigma / after)
    left = max((s for s in ends if s <= low - reach), default=ends[0])
    right = min((s for s in ends if s >= high + reach), default=ends[-1])
    before_it = (known[low] - known[left]) / (low - left) if low > left else 0.0
    after_it = (known[right] - known[high]) / (right - high) if right > high else 0.0
    at = middle
    if before_it != after_it:  # where the two lines meet
        meet = (known[high] - known[low] + before_it * low - after_it * high) / (before_it - after_it)
        at = min(max(meet, low), high)
    return Kink(float(f"{at:.12g}") + 0.0, before_it, after_it, width)
