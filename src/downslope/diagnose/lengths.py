"""Where the best rate of the training lies, by runs of several lengths that each know it only so well."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from downslope.diagnose.valley import NEAR, STEP, Run, medians_of, optimum

DRAWS = 200
"""Of noise, by which is found how far chance moves an optimum."""

NOISE = 0.05
"""Of the logarithm of an end, where one seed alone ran: what trainings of some hundred steps have."""

SHAPE = 0.05
"""How well a log optimum is known at best: no valley is a parabola, and rates are a factor 2 apart."""

FALL, DRIFT = 0.85, 0.35
"""By what factor the best rate changes each time that runs get twice as long, and the error of its logarithm.

In `benchmarks/lr.py`, from a quarter to the whole length: 0.63 to 1.0 on `digits` and on 60 steps of `text`,
but 1.6 to 2 for SGD on 300 steps of `text`. For language models it is 0.8 (Bjorck et al., 2024,
arXiv:2409.19913).
"""

NEARBY = 6
"""Runs shorter than the longest by more than this only said where to look: they foretell too little."""


@dataclass(frozen=True)
class Witness:
    """The best rate of the runs of one length, what it says of the longest, and with which weight."""

    steps: int
    optimum: float
    foretold: float
    weight: float


@dataclass(frozen=True)
class Estimate:
    """The best rate of the longest runs, and what each length said, shortest first."""

    value: float
    witnesses: tuple[Witness, ...]


def estimate(runs: Sequence[Run], longest: int | None = None) -> Estimate | None:
    """Return the best rate of runs of `longest` steps (None: of the longest there are).

    Each length that is not far below foretells it: from d doublings below, its optimum times FALL**d. The
    variance of the logarithm is e² + SHAPE² + (DRIFT d)², where e is how far the scatter between seeds would
    move the optimum. What they foretell is averaged in the logarithms, weighted by the inverses of the
    variances (Cochran, 1937). So the longest runs decide where their ends differ by more than chance, and
    where the valley is so flat that they cannot, the shorter and sharper ones do. None where no rate of the
    longest runs trained.

    >>> valley = lambda best, n: [Run(2.0**k, s, n, 2.0 ** (0.1 * (k - best) ** 2), 9.0)
    ...     for k in range(-3, 4) for s in (0, 1)]
    >>> [round(estimate(valley(best, 100) + valley(0, 400)).value, 3) for best in (0, 1, 2)]
    [0.998, 1.002, 1.005]

    """
    longest = longest or max(r.steps for r in runs)
    lengths = sorted({r.steps for r in runs if r.steps * NEARBY > longest})
    noise = noise_of(runs)
    witnesses = []
    for n in lengths:
        of = [r for r in runs if r.steps == n]
        medians = medians_of(of)
        best = optimum(medians)
        if best is None:
            continue
        error = _error(medians, noise / math.sqrt(seeds_each(of)))
        doublings = math.log2(longest / n)
        variance = error**2 + SHAPE**2 + (DRIFT * doublings) ** 2
        witnesses.append(Witness(n, best, best * FALL**doublings, 1 / variance))
    if not witnesses or witnesses[-1].steps != lengths[-1]:
        return None
    weight = sum(w.weight for w in witnesses)
    value = math.exp(sum(w.weight * math.log(w.foretold) for w in witnesses) / weight)
    return Estimate(value, tuple(witnesses))


def noise_of(runs: Sequence[Run]) -> float:
    """Return the standard deviation, from seed to seed, of how a rate ends relative to others of its length.

    Of the logarithms, among the rates that the valley is fitted to. `NOISE` where no two seeds ran.
    """
    total, free = 0.0, 0
    for n in {r.steps for r in runs}:
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
    return math.sqrt(total / free) if free else NOISE


def seeds_each(runs: Sequence[Run]) -> float:
    """Return on how many seeds a rate ran, the mean over rates."""
    return len(runs) / len({r.scale for r in runs})


def _error(medians: Mapping[float, float], noise: float) -> float:
    """Return the standard error of log optimum where ends have so much noise in their logarithms.

    It is half a step at least where fewer than three rates trained, through which no parabola goes; and a
    step more where the best has the highest or the lowest of the rates, which may be their best by chance.
    """
    r = np.random.default_rng(0)
    scales = list(medians)
    drawn = r.normal(scale=noise, size=(DRAWS, len(scales)))
    optima = [
        optimum({s: m * math.exp(z) for s, m, z in zip(scales, medians.values(), row, strict=True)})
        for row in drawn
    ]
    spread = float(np.std(np.log([o for o in optima if o is not None])))
    trained = sum(math.isfinite(v) for v in medians.values())
    if trained < 3:
        spread = max(spread, math.log(STEP) / 2)
    best = min(medians, key=lambda scale: medians[scale])
    return math.hypot(spread, math.log(STEP)) if best in (min(scales), max(scales)) else spread
