"""Values rounded to few digits before anybody saw them: printed with %g, quantised, read from a table.

Such an f is a staircase: it is flat but for jumps, and its own derivative is zero. What a claimed gradient
is right or wrong of is the function that was rounded, so that the height of a step is round-off, and only
differences over many steps tell.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

ULPS = 1024
"""So many half units in the last place of f are claimed between two equal values: no accident."""

WIDEST = 64.0
"""How far a jump is looked for, as a share of the point."""

HALVINGS = 8
"""A jump keeps its height while the interval around it is halved so often; a slope loses half each time."""

SHARP = 64
"""How many times what is claimed across it a jump is high at least."""

Beside = Callable[[float], tuple[float, float]]
"""Value and what the claimed gradient says of the way there, at a place on a line through the point."""


def flat(values: Sequence[float], ways: Sequence[float]) -> float:
    """Return the most that is claimed to lie between two neighbours that are equal; 0 where none are.

    >>> flat([1.0, 1.0, 2.0], [0.0, 0.5, 1.0])
    0.5

    """
    pairs = zip(values, values[1:], ways, ways[1:], strict=False)
    return max((abs(v - u) for a, b, u, v in pairs if a == b), default=0.0)


def height(beside: Beside, f0: float, spacing: float) -> float:
    """Return the height of the steps nearest to the point on a line, the larger of both sides; 0 for none.

    Args:
        beside: f and what is claimed, along a line.
        f0: f at the point, t = 0.
        spacing: the distance of the first point looked at.

    >>> height(lambda t: (float(f"{t + 0.12344:.3g}"), t), 0.123, 1e-6)
    0.001
    >>> height(lambda t: (max(t - 0.1, 0.0), t), 0.0, 1e-6)  # flat and then a slope is no staircase
    0.0

    """
    found = [_first(beside, f0, side * spacing) for side in (1, -1)]
    return float(f"{max(found):.6g}")


def _first(beside: Beside, f0: float, step: float) -> float:
    """Return the height of the first jump on one side, 0 where f leaves its value in another way."""
    low, high = 0.0, step
    while (value := beside(high)[0]) == f0:
        low, high = high, 4 * high
        if abs(high) > WIDEST:
            return 0.0
    same = 0  # halvings of the interval in which the value behind it stayed what it was
    while same < HALVINGS and abs(high - low) > 2.0**-50 * abs(high):
        if not math.isfinite(value):
            return 0.0
        middle = (low + high) / 2
        between = beside(middle)[0]
        if between == f0:
            low = middle
        else:
            same = same if between == value else -1
            high, value = middle, between
        same += 1
    across = abs(beside(high)[1] - beside(low)[1])
    if same < HALVINGS or not abs(value - f0) > SHARP * across:
        return 0.0
    behind = beside(high + SHARP / 8 * (high - low))[0]  # flat there too
    return abs(value - f0) if behind == value else 0.0
