"""Which rates run for how long: rungs of successive halving, and the rates that are added at an edge."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple, Protocol

from downslope.diagnose.lengths import estimate
from downslope.diagnose.valley import NEAR, STEP, Outcome, Run, medians_of, reaches
from downslope.errors import UsageError

SWEEP_SEEDS = 3
MOST_STEPS, FEWEST_STEPS = 45, 20
"""Of a sweep: half the longest run, within these."""

BELOW, ABOVE = 4, 3
"""Rates tried at first below and above the one that the sweep points to."""


class Rung(NamedTuple):
    """Runs of a `share` of the longest: of so many rates, or `enough` where there is room, on which seeds."""

    share: float
    rates: int
    on: Literal["first", "quarter", "whole"]
    enough: int = 0

    def length(self, longest: int) -> int:
        """Return the steps of its runs."""
        return max(2, round(longest * self.share))


RUNGS = (
    Rung(1 / 8, BELOW + 1 + ABOVE, "first"),
    Rung(1 / 4, 4, "quarter"),
    Rung(1, 3, "whole", enough=5),  # three may lie on a slope, and not about the valley
)

MOST, EXTRA = 9.7, 2.0
"""Where the best rate lies at the edge, or rates are not enough, others are added, until all takes so many
times the longest run.

That is less than a quarter of a grid of 13 rates on three seeds. With two seeds the rungs take 6 times its
steps, and the sweeps 1.5 at most. With more seeds twice its steps may still be added, of whole trainings
on each of their seeds.
"""

LONGEST = 2000
"""Steps of the longest run, unless asked for more: a rate is not worth a training."""

SHORTEST = 4
"""Steps that a training, and the longest run, has at least."""


class Seeds(NamedTuple):
    """Of the runs of a quarter of the length, and of the whole ones; the shortest have the first of them."""

    quarter: Sequence[int]
    whole: Sequence[int]

    def of(self, rung: Rung) -> Sequence[int]:
        """Return those of a rung."""
        return {"first": self.quarter[:1], "quarter": self.quarter, "whole": self.whole}[rung.on]


def seeds_of(first: int, quarter: int, whole: int) -> Seeds:
    """Return so many seeds each, from the first on.

    Raises:
        UsageError: either is no whole number of at least 1.

    """
    for word, count in (("seeds", quarter), ("whole_seeds", whole)):
        if not isinstance(count, int) or count < 1:
            raise UsageError(f"{word} = {count!r}: expected a whole number of at least 1")
    return Seeds(range(first, first + quarter), range(first, first + whole))


def planned(longest: int, seeds: Seeds) -> int:
    """Return the steps that the rungs take where no rate is added."""
    return sum(r.rates * len(seeds.of(r)) * r.length(longest) for r in RUNGS)


def room_for_more(longest: int, sweeps: int, seeds: Seeds) -> int:
    """Return the steps that rates at an edge may take, beside those of the sweeps and what is planned.

    That many for whole trainings on one seed; for those on several, each of their seeds has as many, but for
    what sweeps that ended early have spared: it is there once.
    """
    taken = sweeps + planned(longest, seeds._replace(whole=seeds.whole[:1]))
    return math.floor(max(EXTRA * longest, MOST * longest - taken))


def sweep_steps(longest: int) -> int:
    """Return the steps of a sweep."""
    return max(FEWEST_STEPS, min(MOST_STEPS, longest // 2))


class Bench(Protocol):
    """Trains."""

    def sweep(self, low: float, high: float, steps: int, seed: int) -> list[float]:
        """Return the loss of each batch while the scale grows from low to high, until it explodes."""

    def run(self, scale: float, seed: int, steps: int) -> Outcome:
        """Train with the real schedule, in so many steps."""


def climbed(
    bench: Bench,
    scales: Sequence[float],
    seeds: Sequence[int],
    length: int,
    room: float,
    within: tuple[float, float],
    told: Callable[[str], None],
    enough: int = 0,
) -> tuple[list[Run], list[float]]:
    """Run every rate on every seed, and where the best is at the edge further ones, in `room` steps.

    Until there are `enough`, also beyond the edge that ends lower, where it ends within `NEAR` of the best.
    """
    waiting, runs, planned = sorted(scales), [], len(scales) * len(seeds)
    tried = list(waiting)
    while waiting:
        for i, scale in enumerate(waiting):
            told(f"runs of {length} steps, rate {i + 1} of {len(waiting)}")
            runs += [Run(scale, seed, length, *bench.run(scale, seed, length)) for seed in seeds]
        if length * (len(runs) + len(seeds) - planned) > room:
            break
        waiting = _beyond(medians_of(runs), within, enough)
        tried = sorted([*tried, *waiting])
    return runs, tried


def once_more(
    bench: Bench, runs: Sequence[Run], seed: int, length: int, room: float, told: Callable[[str], None]
) -> list[Run]:
    """Run the best rate on another seed, if `room` has the steps: the lowest of noisy ends is a lucky one."""
    medians = medians_of(runs)
    best = min(medians, key=lambda scale: (medians[scale], scale))
    if length > room or not math.isfinite(medians[best]):
        return []
    told(f"a run of {length} steps, the best rate once more")
    return [Run(best, seed, length, *bench.run(best, seed, length))]


def _beyond(medians: Mapping[float, float], within: tuple[float, float], enough: int) -> list[float]:
    """Return the rate that is to be added next, if any: see `climbed`."""
    first, last, best = min(medians), max(medians), min(medians.values())
    edges = [(medians[first], first / STEP)]
    if math.isfinite(best):  # else all of them are too high
        edges.append((medians[last], last * STEP))
    share = NEAR - 1 if len(medians) < enough else 0.0
    for end, beyond in sorted(edges):
        if within[0] <= beyond <= within[1] and reaches(end, best, share):
            return [beyond]
    return []


def around(scales: Sequence[float], runs: Sequence[Run], longest: int, count: int) -> list[float]:
    """Return so many rates about the best for runs of `longest` steps, or the lowest where none trained."""
    known = estimate(runs, longest)
    at = min(scales, key=lambda s: abs(math.log(s / known.value))) if known else scales[0]
    return [at * STEP**k for k in range(-(count // 2), count - count // 2)]


def window(scales: Sequence[float], medians: Mapping[float, float], count: int) -> list[float]:
    """Return the best rate with its better neighbours, so many in all."""
    first = last = min(range(len(scales)), key=lambda i: (medians[scales[i]], i))
    while last - first + 1 < min(count, len(scales)):
        below = medians[scales[first - 1]] if first > 0 else math.inf
        above = medians[scales[last + 1]] if last + 1 < len(scales) else math.inf
        if first > 0 and (below <= above or last + 1 >= len(scales)):
            first -= 1
        else:
            last += 1
    return list(scales[first : last + 1])
