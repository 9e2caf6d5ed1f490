"""Whether the best learning rate moves with the width of the model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from downslope.diagnose.rates import Rates

CONFIDENCE = 0.95
STAYS = math.sqrt(2)
"""A rate that changes by less than this factor from one width to its double needs no new search."""


@dataclass(frozen=True)
class WidthCheck:
    """How the best rate changes with width: by `factor` for each doubling, within [low, high].

    `verdict` is "stays" where the interval lies within a factor √2 of 1, "moves" where it leaves 1
    out, and "unclear" otherwise.
    """

    widths: tuple[int, ...]
    values: tuple[float | None, ...]
    factor: float | None
    low: float | None
    high: float | None
    verdict: str

    def sentence(self) -> str:
        """Return the verdict in words.

        >>> WidthCheck((64, 128), (0.1, 0.1), 1.0, 0.9, 1.1, "stays").sentence()
        'The best rate stays: × 1.00 for each doubling of the width, 95 % interval 0.90 – 1.10.'

        """
        if self.factor is None:
            return "The best rate cannot be compared: too few widths have one."
        word = {"stays": "stays", "moves": "moves", "unclear": "may stay or move"}[self.verdict]
        interval = (
            "" if self.low is None else f", {CONFIDENCE:.0%} interval {self.low:.2f} – {self.high:.2f}"
        ).replace("%", " %")
        return f"The best rate {word}: × {self.factor:.2f} for each doubling of the width{interval}."

    def to_dict(self) -> dict[str, Any]:
        """Return the check as JSON types."""
        return {
            "widths": list(self.widths),
            "values": list(self.values),
            "factor_per_doubling": self.factor,
            "low": self.low,
            "high": self.high,
            "verdict": self.verdict,
            "sentence": self.sentence(),
        }


def check(widths: Sequence[int], found: Sequence[Rates]) -> WidthCheck:
    """Return how the best rates of every seed go with width, by a line through their logarithms."""
    points = [(math.log2(w), math.log2(o)) for w, r in zip(widths, found, strict=True) for o in r.optima]
    values = tuple(r.value for r in found)
    if len({x for x, _ in points}) < 2:
        return WidthCheck(tuple(widths), values, None, None, None, "unclear")
    x, y = (np.array(column) for column in zip(*points, strict=True))
    slope, intercept = np.polyfit(x, y, 1)
    factor = float(2**slope)
    if len(points) < 4:
        return WidthCheck(tuple(widths), values, factor, None, None, "unclear")
    from scipy.stats import t

    # A rate is known to a fraction of the step between those that were tried, however well seeds agree.
    rest = y - slope * x - intercept
    variance = max(float(rest @ rest) / (len(y) - 2), (1 / 4) ** 2)
    error = math.sqrt(variance / float(((x - x.mean()) ** 2).sum()))
    reach = float(t.ppf(0.5 + CONFIDENCE / 2, len(y) - 2)) * error
    low, high = float(2 ** (slope - reach)), float(2 ** (slope + reach))
    crosses = "unclear" if low <= 1 <= high else "moves"
    verdict = "stays" if low >= 1 / STAYS and high <= STAYS else crosses
    return WidthCheck(tuple(widths), values, factor, low, high, verdict)
