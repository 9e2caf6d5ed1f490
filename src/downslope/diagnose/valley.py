"""What runs at several rates say together: where the best rate lies, which are safe, and how sure that is."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

STEP = 2.0
"""Between neighbouring rates that are tried."""

NEAR = 1.5
"""Rates that end within this factor of the best say where the valley lies."""

FLAT = 0.06
"""How well ends follow a parabola, as a share of them: within this, and what they are above the lowest.

Valleys are parabolas near their floor alone; some end in a cliff, which would push the minimum away.
"""

SAFE = 0.10
"""How much above the best a rate may end and still be safe."""


class Outcome(NamedTuple):
    """How a run ended, and how it would have without training; `final` is infinite where it diverged."""

    final: float
    start: float


@dataclass(frozen=True)
class Run:
    """A run of some steps."""

    scale: float
    seed: int
    steps: int
    final: float
    start: float

    @property
    def failed(self) -> bool:
        """Whether it diverged, or ended no better than it began."""
        return not (math.isfinite(self.final) and self.final < self.start)


def medians_of(runs: Sequence[Run]) -> dict[float, float]:
    """Return the median over seeds of how each rate ends; a run that failed counts as infinite."""
    ends: dict[float, list[float]] = {}
    for r in runs:
        ends.setdefault(r.scale, []).append(math.inf if r.failed else r.final)
    return {scale: statistics.median(values) for scale, values in sorted(ends.items())}


def optimum(medians: Mapping[float, float]) -> float | None:
    """Return the minimum of a parabola through what rates end with, in the logarithms.

    It is fitted to the rates that end within a factor `NEAR` of the best and to the best one's
    neighbours: fitted to these alone it would follow the noise of a flat valley. The further one ends above
    the best, the less it counts; below zero, too, that is told in sizes of the best. The minimum stays within
    those that were tried, and within a step of the best rate, or half a step where the neighbour there is
    not safe. None where no rate ended well.

    >>> round(optimum({0.5: 2.0, 1.0: 1.0, 2.0: 2.0}), 3), optimum({1.0: 3.0, 2.0: 4.0})
    (1.0, 1.0)
    >>> round(optimum({0.5: -1.0, 1.0: -2.0, 2.0: -1.0}), 3)
    1.0

    """
    scales = [s for s in sorted(medians) if math.isfinite(medians[s])]
    if not scales:
        return None
    at = min(range(len(scales)), key=lambda i: medians[scales[i]])
    lowest = medians[scales[at]]
    if len(scales) < 3 or lowest == 0:
        return scales[at]
    excess = {s: (medians[s] - lowest) / abs(lowest) for s in scales}
    near = [i for i, s in enumerate(scales) if excess[s] <= NEAR - 1 or abs(i - at) <= 1]
    if len(near) < 3:
        return scales[at]
    x = np.log([scales[i] / scales[at] for i in near])
    above = np.log1p([excess[scales[i]] for i in near])
    bend, slope, _ = np.polyfit(x, above, 2, w=1 / np.hypot(FLAT, above))
    if bend <= 0:
        return scales[at]
    down, up = (
        math.log(STEP) * (1 if excess[scales[i]] <= SAFE else 0.5)
        for i in (max(0, at - 1), min(len(scales) - 1, at + 1))
    )
    shift = max(-down, min(up, -slope / (2 * bend)))
    return float(max(scales[0], min(scales[-1], scales[at] * math.exp(shift))))


def failing(runs: Sequence[Run]) -> set[float]:
    """Return the rates of which a run diverged, or one of the longest ended no better than it began.

    A shorter run that ends so had only not trained yet.

    >>> short, long = Run(1.0, 0, 8, 2.1, 2.0), Run(1.0, 0, 64, 0.5, 2.0)
    >>> failing([short]), failing([short, long]), failing([Run(1.0, 0, 8, math.inf, 2.0), long])
    ({1.0}, set(), {1.0})

    """
    reached = _reached(runs)
    return {r.scale for r in runs if r.failed and (r.steps == reached[r.scale] or not math.isfinite(r.final))}


def _reached(runs: Sequence[Run]) -> dict[float, int]:
    """Return the longest runs that each rate had."""
    reached: dict[float, int] = {}
    for r in runs:
        reached[r.scale] = max(reached.get(r.scale, 0), r.steps)
    return reached


def safe_range(runs: Sequence[Run]) -> tuple[float | None, float | None]:
    """Return the lowest and the highest of the rates around the best that end within 10 % of it.

    Each rate is judged among runs of the longest length that it reached; `failing` ones are not safe. Where
    the best is one, as it may be on several seeds, the range is around the next best within 10 % of it.
    """
    reached, too_high = _reached(runs), failing(runs)
    excess: dict[float, float] = {}
    for length in set(reached.values()):
        medians = medians_of([r for r in runs if r.steps == length])
        best = min(medians.values())
        for scale in (s for s, most in reached.items() if most == length):
            fine = math.isfinite(best) and scale not in too_high
            excess[scale] = (medians[scale] - best) / abs(best) if fine and best else math.inf
    scales = sorted(excess)
    longest = max(reached.values(), default=0)
    ends = {s: v for s, v in medians_of([r for r in runs if r.steps == longest]).items() if math.isfinite(v)}
    lowest = min(ends.values(), default=0.0)
    sound = [s for s, end in ends.items() if s not in too_high and reaches(end, lowest, SAFE)]
    if not sound:
        return None, None
    first = last = scales.index(min(sound, key=ends.__getitem__))
    while first > 0 and excess[scales[first - 1]] <= SAFE:
        first -= 1
    while last + 1 < len(scales) and excess[scales[last + 1]] <= SAFE:
        last += 1
    return _crossing(scales, excess, first, -1), _crossing(scales, excess, last, 1)


def _crossing(scales: Sequence[float], excess: Mapping[float, float], at: int, way: int) -> float:
    """Return where, from a safe rate on, the interpolated excess reaches what is safe."""
    here, beyond = float(scales[at]), at + way
    if not 0 <= beyond < len(scales) or not math.isfinite(excess[scales[beyond]]):
        return here
    e, further = max(0.0, excess[here]), excess[scales[beyond]]
    share = max(0.0, min(1.0, (SAFE - e) / (further - e)))
    return float(here * (scales[beyond] / here) ** share)


def reaches(end: float, best: float, share: float) -> bool:
    """Whether an end is above the best by no more than this share of it; infinite ones are equal."""
    return end <= best or end <= best + abs(best) * share


def edge_of(runs: Sequence[Run], noise: float = 0.0) -> str:
    """Return "highest" or "lowest" where the best of the longest runs has that rate of all tried, else "".

    With `noise`, of the logarithms, also where that rate ends above the best by no more than this.

    >>> [edge_of([Run(s, 0, 8, 1 / s, 9.0) for s in (1.0, 2.0)]), edge_of([])]
    ['highest', '']

    """
    longest = max((r.steps for r in runs), default=0)
    medians = medians_of([r for r in runs if r.steps == longest])
    if not medians or not math.isfinite(min(medians.values())):
        return ""
    tried = {r.scale for r in runs}
    if len(tried) < 2:
        return ""
    best = min(medians.values())
    ends = {
        word: medians.get(scale, math.inf)
        for word, scale in (("highest", max(tried)), ("lowest", min(tried)))
    }
    word = min(ends, key=ends.__getitem__)
    return word if reaches(ends[word], best, math.expm1(noise)) else ""


def confidence_of(
    value: float | None,
    optima: Sequence[float],
    seeds: int,
    shared: int,
    ends: Sequence[tuple[int, float]],
    share: float,
    edge: str = "",
    short_of: str = "",
    near: str = "",
) -> tuple[str, list[str]]:
    """Return how sure the value is, and why.

    Args:
        value: the rate found.
        optima: that of each seed by itself.
        seeds: how many there were.
        shared: the steps of the runs that all of them had.
        ends: the two longest lengths, and the best rate of the runs of each.
        share: the longest runs as a share of the training.
        edge: "highest" or "lowest" where the best rate is that of all that were tried.
        short_of: the same of those that the longest runs tried.
        near: the same where chance explains by how much that rate ended above the best.

    """
    if value is None:
        return "low", ["No rate that was tried ended below where it began."]
    spread = max(optima) / min(optima) if optima else math.inf
    drift = ends[0][1] / ends[-1][1]
    apart = max(spread, drift, 1 / drift)
    level = 0 if apart <= 2.01 else 1 if apart <= 4.01 else 2
    agree = f"{seeds} seeds, each by itself, agree within a factor {spread:.1f} in runs of {shared:,} steps."
    if seeds == 1:
        agree = "One seed alone: how far chance moves the rate is not known."
        level = max(level, 1)
    elif len(optima) < seeds:
        level = 2
        agree = f"Only {len(optima)} of {seeds} seeds trained at any rate in runs of {shared:,} steps."
    reasons = [agree]
    if len(ends) > 1:
        off = f"a factor {max(drift, 1 / drift):.1f} {'higher' if drift > 1 else 'lower'}"
        reasons.append(f"Runs of {ends[0][0]:,} steps put it {off} than those of {ends[1][0]:,}.")
    if edge:
        level = 2
        reasons.append(f"The best is the {edge} rate that was tried: what lies beyond it is not known.")
    elif short_of:
        level = max(level, 1)
        way = "lower" if short_of == "lowest" else "higher"
        reasons.append(f"The best of the longest runs had the {short_of} rate of theirs: it may lie {way}.")
    elif near:
        level = max(level, 1)
        way = "lower" if near == "lowest" else "higher"
        reasons.append(
            f"The {near} rate of the longest runs ended above their best by no more than chance: "
            f"it may lie {way}. More seeds of whole trainings would tell."
        )
    if share < 0.1:
        level = max(level, 1)
        reasons.append(f"The longest runs are {share:.1%} of the training: it may want a lower rate.")
    return ("high", "medium", "low")[level], reasons
