"""Numbers that were rounded to few digits before anybody saw them, and how much hangs on their rounding.

A derivative rule that runs in bfloat16 has 2/√π as 1.125. Run in float64 with that number, it is off by
0.3 %, though it is right in bfloat16. Most such numbers are seen before they are rounded (`jax_casts`,
`tensorflow_casts`). What the others stood for nobody knows: they are moved by as much as they may have been
rounded, and a gradient is called wrong only where it is farther off than that moves it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

BITS = 3
"""Numbers of so few binary digits (3, 0.75) are taken for exact: of rounded ones, 1 in 32 has so few."""

COARSE = 1e-4
"""Numbers of dtypes with a larger eps are moved. float32's rounding is less than what a check lets pass."""

DRAWS = 6
"""Each moves every number to one end of its rounding. The true ones lie between the ends, so that the
largest change of so many draws is seldom exceeded."""


def coarse(rounded: Mapping[float, float]) -> dict[float, float]:
    """Return the numbers that were rounded to 16 bits, of those with the eps of their dtypes."""
    return {number: eps for number, eps in rounded.items() if eps > COARSE}


def inexact(number: float) -> bool:
    """Return whether a number may be the rounding of another one.

    >>> inexact(1.125), inexact(-0.75), inexact(float("inf"))
    (True, False, False)

    """
    mantissa, _ = math.frexp(number)
    return math.isfinite(number) and math.ldexp(mantissa, BITS) % 1 != 0


def moved(number: float, eps: float, draw: int) -> float:
    """Return a number of a dtype of this eps at one end of its rounding, the same one in all of a draw.

    >>> abs(moved(1.125, 2.0**-7, 0) - 1.125) == 2.0**-8
    True

    """
    _, exponent = math.frexp(number)
    place = int(np.float64(abs(number)).view(np.uint64))
    sign = float(np.random.default_rng([draw, place]).choice((-1.0, 1.0)))
    return number + sign * math.copysign(math.ldexp(eps, exponent - 2), number)
