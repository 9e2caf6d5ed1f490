"""How the best rate goes with the length of the runs, carried on to the length of the training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from downslope.compare.words import number
from downslope.diagnose.valley import NEAR, Run, medians_of, optimum

DRAWS = 200
"""Of noise, by which is found how far chance moves an optimum."""

EXACT = 1e-3
"""How well a log optimum is known at best: seeds that agree to the last digit are no proof of more."""

TOLD = 1.25
"""A factor by which a rate is carried on that is worth a sentence."""

FURTHEST = 2.0
"""The factor by which the rate carried on may lie from that of the longest runs."""


@dataclass(frozen=True)
class Trend:
    """The best rate of each length of runs, and what follows for the training.

    Attributes:
        lengths, optima: of the runs, shortest first, and the best rate of each.
        factor: by which the best rate changes for each doubling of the length, as far as both a line over
            all lengths and the two longest say so.
        error: the standard error of log `factor`; infinite where chance is not known.
        carry: what the mean of the two longest lengths is multiplied by to be that of the training.

    """

    lengths: tuple[int, ...]
    optima: tuple[float, ...]
    factor: float
    error: float
    carry: float

    def sentence(self, steps: int, base: float = 1.0) -> str:
        """Return where the rate goes, with the rates of runs in units of `base`; "" where it hardly does.

        >>> Trend((15, 30), (9.5, 5.5), 0.58, 0.1, 0.46).sentence(60, 1e-3)
        'The best rate falls with the length of the run: 0.0095 at 15 steps, 0.0055 at 30; carried on to 60.'

        """
        if self.carry > 1 / TOLD:
            return ""
        (n, first), (longest, second) = list(zip(self.lengths, self.optima, strict=True))[-2:]
        seen = f"{number(first * base, 2)} at {n:,} steps, {number(second * base, 2)} at {longest:,}"
        return (
            f"The best rate falls with the length of the run: {seen}; carried on to {self.target(steps):,}."
        )

    def target(self, steps: int) -> int:
        """Return the length that the rate is carried on to: that of the training, or what is as far on."""
        return min(steps, round(self.lengths[-1] ** 2 / self.lengths[-2]))

    def safe(self, low: float, high: float, value: float) -> tuple[float, float]:
        """Return the safe range of the longest runs, carried down where the rate was.

        It holds the value, and the best rate of the longest runs.
        """
        end = self.optima[-1]
        down = min(1.0, value / end) if self.carry < 1 else 1.0
        return min(low * down, value), max(high * down, value, end if down < 1 else 0.0)


def trend_of(runs: Sequence[Run], steps: int) -> Trend | None:
    """Return how the best rate goes with the length of runs, on the way to `steps`.

    A line through the logarithms of the optima over those of the lengths, each weighted by how far the
    scatter between seeds would move it, has a slope b with a standard error e. Where the two longest
    lengths say less than the line, theirs is taken, and none where they say the opposite: a drift may end.
    The mean of the two is carried on along max(0, 1 - (e/b)²) b, the positive-part rule of James and
    Stein (1961): chance alone moves it little, a drift that is plain moves it by nearly all. It goes no more
    than from one length to the next beyond the longest, and no further from its best rate than a factor
    `FURTHEST`. With one seed chance is not known, and nothing is carried on. Nor is a rise: a rate somewhat
    too low trains, one too high may not. None where no rate trained.

    >>> from downslope.diagnose.valley import pooled
    >>> valley = lambda best, n: [Run(2.0**k, s, n, 2.0 ** (0.1 * (k - best) ** 2), 9.0)
    ...     for k in range(-3, 4) for s in (0, 1)]
    >>> trend = trend_of(valley(1, 100) + valley(0.5, 200) + valley(0, 400), 800)
    >>> [round(float(v), 3) for v in (trend.factor, pooled(valley(0.5, 200) + valley(0, 400)) * trend.carry)]
    [0.707, 0.707]

    """
    lengths = sorted({r.steps for r in runs})
    medians = [medians_of([r for r in runs if r.steps == n]) for n in lengths]
    found = [(n, m, o) for n, m in zip(lengths, medians, strict=True) if (o := optimum(m)) is not None]
    if not found:
        return None
    known = lengths[-2:]
    lengths, medians, optima = [list(column) for column in zip(*found, strict=True)]
    if len(found) < 2 or lengths[-2:] != known:
        return Trend(tuple(lengths), tuple(optima), 1.0, math.inf, 1.0)
    x, y = np.log2(lengths), np.log(optima)
    noise = _noise(runs, lengths)
    spread = np.ones(len(x))
    if noise is not None:
        seeds = [len({r.seed for r in runs if r.steps == n}) for n in lengths]
        spread = np.array([_moved(m, noise / math.sqrt(n)) for m, n in zip(medians, seeds, strict=True)])
    slope, error = _line(x, y, spread)
    late = float((y[-1] - y[-2]) / (x[-1] - x[-2]))
    slope = max(slope, late) if slope < 0 and late < 0 else 0.0
    error = math.inf if noise is None else error
    believed = max(0.0, 1 - (error / slope) ** 2) * slope if slope else 0.0
    return Trend(tuple(lengths), tuple(optima), math.exp(slope), error, _carry(x, y, believed, steps))


def _carry(x: NDArray[np.float64], y: NDArray[np.float64], slope: float, steps: int) -> float:
    """Return the factor from the mean of the two longest lengths to the training, bounded."""
    if not slope:
        return 1.0
    gap, middle, end = float(x[-1] - x[-2]), float(y[-2] + y[-1]) / 2, float(y[-1])
    ahead = min(math.log2(steps) - float(x[-1]), gap)
    value = max(end - math.log(FURTHEST), middle + (gap / 2 + ahead) * slope)
    return math.exp(value - middle)


def _noise(runs: Sequence[Run], lengths: Sequence[int]) -> float | None:
    """Return the standard deviation, from seed to seed, of how a rate ends relative to others of its length.

    Of the logarithms, among the rates that the valley is fitted to. None where no two seeds ran.
    """
    total, free = 0.0, 0
    for n in lengths:
        of = [r for r in runs if r.steps == n]
        medians = medians_of(of)
        lowest = min(medians.values())
        if lowest <= 0:
            continue
        seeds = sorted({r.seed for r in of})
        ends = {(r.scale, r.seed): r.final for r in of if not r.failed and r.final > 0}
        near = [s for s, m in medians.items() if m <= NEAR * lowest and all((s, i) in ends for i in seeds)]
        if len(seeds) < 2 or len(near) < 2:
            continue
        table = np.log([[ends[s, i] for s in near] for i in seeds])
        rest = table - table.mean(0) - table.mean(1, keepdims=True) + table.mean()
        total += float((rest**2).sum())
        free += (len(seeds) - 1) * (len(near) - 1)
    return math.sqrt(total / free) if free else None


def _moved(medians: Mapping[float, float], noise: float) -> float:
    """Return the standard deviation of log optimum where ends have so much noise in their logarithms."""
    r = np.random.default_rng(0)
    scales = list(medians)
    drawn = r.normal(scale=noise, size=(DRAWS, len(scales)))
    optima = [
        optimum({s: m * math.exp(z) for s, m, z in zip(scales, medians.values(), row, strict=True)})
        for row in drawn
    ]
    return float(np.std(np.log([o for o in optima if o is not None])))


def _line(x: NDArray[np.float64], y: NDArray[np.float64], spread: NDArray[np.float64]) -> tuple[float, float]:
    """Return the slope of a weighted line and its standard error, larger where the points are on no line."""
    weight = 1 / np.maximum(spread, EXACT) ** 2
    mean = (weight @ x) / weight.sum()
    about = weight @ (x - mean) ** 2
    slope = float(weight @ ((x - mean) * y) / about)
    rest = y - slope * (x - mean) - (weight @ y) / weight.sum()
    free = len(x) - 2
    off = float(weight @ rest**2) / free if free else 1.0
    return slope, math.sqrt(max(1.0, off) / about)
