"""What may be said of the runs of one optimizer: intervals, targets, sensitivity.

It is judged by the median over fresh seeds of the value its runs end with. The interval around it is
a 95 % percentile bootstrap interval. A run that diverged counts as infinite, a run that does not
reach the target as a miss; neither is left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

CONFIDENCE = 0.95
# Stands for infinity while numbers are resampled and interpolated: its square is still finite.
_HUGE = 1e150


@dataclass(frozen=True)
class Estimate:
    """A median over runs and its interval; `low` and `high` are None where one run is all there is."""

    median: float
    low: float | None
    high: float | None
    values: tuple[float, ...]


def estimate(values: Sequence[float], seed: int = 0) -> Estimate | None:
    """Return the median of the values with its bootstrap interval, or None without values.

    >>> e = estimate([1.0, 2.0, 3.0, 4.0, 5.0])
    >>> e.median, e.low, e.high
    (3.0, 1.0, 5.0)

    """
    if not values:
        return None
    data = np.asarray([v if math.isfinite(v) else _HUGE for v in values], dtype=np.float64)
    median = _back(float(np.median(data)))
    if len(data) == 1:
        return Estimate(median, None, None, tuple(values))
    if np.ptp(data) == 0:
        return Estimate(median, median, median, tuple(values))
    from scipy.stats import bootstrap

    found = bootstrap(
        (data,),
        np.median,
        confidence_level=CONFIDENCE,
        n_resamples=9999,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Estimate(median, _back(float(found.low)), _back(float(found.high)), tuple(values))


def _back(value: float) -> float:
    """Return infinity for whatever a run that diverged had a part in."""
    return value if value < _HUGE / 1e6 else math.inf


def coverage_of_range(count: int) -> float:
    """Return the chance that the true median lies between the least and the greatest of `count` runs.

    >>> coverage_of_range(5)
    0.9375

    """
    return 1 - 2 * 0.5**count


@dataclass(frozen=True)
class Reach:
    """What it took each run to reach the target: None is a miss."""

    values: tuple[float | None, ...]

    @property
    def reached(self) -> int:
        """How many runs reached it."""
        return sum(v is not None for v in self.values)

    @property
    def median(self) -> float | None:
        """The median over all runs, a miss being infinite; None where that is infinite or there is no run."""
        if not self.values:
            return None
        middle = float(np.median([_HUGE if v is None else v for v in self.values]))
        return middle if middle < _HUGE / 1e6 else None


def first_reaching(losses: Sequence[float], target: float) -> int | None:
    """Return the index of the first evaluation at or below the target."""
    return next((i for i, value in enumerate(losses) if value <= target), None)


def derive_target(
    goal: float | None, estimates: Mapping[str, Estimate], labels: Mapping[str, str]
) -> tuple[float, str] | None:
    """Return the value runs have to reach and where it comes from.

    It is the task's goal, if it has one. Otherwise it is the median with which the second-best
    optimizer ends: something more than one optimizer can do, that the best does sooner. None
    where no run ended well.
    """
    if goal is not None:
        return goal, "the goal of the task"
    ended = sorted((e.median, name) for name, e in estimates.items() if math.isfinite(e.median))
    if not ended:
        return None
    if len(ended) == 1:
        value, name = ended[0]
        return value, f"the median with which {labels[name]} ends"
    value, name = ended[1]
    return value, f"the median with which the second-best optimizer, {labels[name]}, ends"


@dataclass(frozen=True)
class Sensitivity:
    """How much the choice of the learning rate matters, from the tuning trials.

    `decades` is how much of the learning-rate axis, in powers of ten, ends within 10 % of the best
    trial, where the result is interpolated linearly between neighbouring trials; next to a trial
    that diverged nothing is counted. `edge` is "low" or "high" where the best trial has the lowest
    or highest learning rate tried, so that a better one may lie beyond.
    """

    decades: float = 0.0
    threshold: float | None = None
    low: float | None = None
    high: float | None = None
    edge: str | None = None
    ranges: list[tuple[float, float]] = field(default_factory=list)


def sensitivity(trials: Sequence[tuple[float, float]]) -> Sensitivity:
    """Return the sensitivity shown by trials of (learning rate, final value).

    >>> sensitivity([(0.001, 3.0), (0.01, 1.0), (0.1, 1.05), (1.0, math.inf)]).decades
    1.05

    """
    points = sorted(trials)
    best_value = min((v for _, v in points), default=math.inf)
    if not math.isfinite(best_value):
        return Sensitivity()
    threshold = best_value + 0.1 * abs(best_value)
    best_lr = next(lr for lr, v in points if v == best_value)
    ranges: list[tuple[float, float]] = []
    for (lr0, v0), (lr1, v1) in pairwise(points):
        inside = _below(math.log10(lr0), v0, math.log10(lr1), v1, threshold)
        if inside is not None:
            ranges.append(inside)
    decades = sum(b - a for a, b in ranges)
    edge = None
    if len(points) > 1:
        edge = {points[0][0]: "low", points[-1][0]: "high"}.get(best_lr)
    low = 10 ** min((a for a, _ in ranges), default=math.log10(best_lr))
    high = 10 ** max((b for _, b in ranges), default=math.log10(best_lr))
    return Sensitivity(round(decades, 10), threshold, low, high, edge, ranges)


def _below(x0: float, v0: float, x1: float, v1: float, threshold: float) -> tuple[float, float] | None:
    """Return the part of [x0, x1] on which the line through both points is at or below the threshold."""
    if not (math.isfinite(v0) and math.isfinite(v1)) or min(v0, v1) > threshold or x0 == x1:
        return None
    if max(v0, v1) <= threshold:
        return (x0, x1)
    crossing = x0 + (threshold - v0) / (v1 - v0) * (x1 - x0)
    return (x0, crossing) if v0 <= threshold else (crossing, x1)
