"""A learning rate for a training: found by a sweep, settled by real runs, told with how sure it is.

The search knows neither model nor framework. It asks a `Bench` for two things: a *sweep*, in which
the rate grows from step to step until the loss explodes, and *runs*, short trainings with the
schedule of the real one, compressed. A sweep is cheap and off by any factor up to ten (it sees a
model that is not yet trained, at a rate that is not yet there); so it only says where to look.
Runs then decide, by successive halving (Jamieson & Talwalkar, 2016, arXiv:1502.07943): many rates
for an eighth of the training, fewer for a quarter, three to five for the whole of it. The best rate
moves with the length of the run, so the whole ones settle it where they can; where the valley is so
flat that chance decides them, the shorter ones do (`lengths`).

Rates are *scales*: one number that multiplies the learning rates of all groups, whose ratios stay.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from downslope.diagnose.lengths import estimate, noise_of, seeds_each
from downslope.diagnose.rungs import (
    ABOVE,
    BELOW,
    LONGEST,
    RUNGS,
    SHORTEST,
    SWEEP_SEEDS,
    Bench,
    Seeds,
    around,
    climbed,
    once_more,
    room_for_more,
    sweep_steps,
    window,
)
from downslope.diagnose.valley import (
    STEP,
    Run,
    confidence_of,
    edge_of,
    failing,
    medians_of,
    optimum,
    safe_range,
)
from downslope.errors import UsageError

Sweep = tuple[tuple[float, ...], tuple[float, ...]]
"""Scales, and the loss at each."""


_KEYS = ("name", "label", "steps", "value", "low", "high", "diverges", "confidence", "metric", "cost", "base")


@dataclass(frozen=True)
class Rates:
    """What a search found. Rates are those of the first group; `groups` has those of all at `value`.

    Attributes:
        value: the rate to use; None where no rate trained the model.
        low, high: between these, runs ended within 10 % of the best; None where none did, or where one failed
            at or beside the value.
        diverges: the lowest rate above the value at which a run diverged, or ended no better than it began
            in its longest runs; None if there was none.
        confidence: "high", "medium" or "low".
        reasons: why, a sentence each.
        optima: the best rate of each seed by itself, in the longest runs that all seeds had, moved as the
            value is from that of all.
        cost: how many steps the search took; `steps` is the length of the training.

    """

    name: str
    label: str
    steps: int
    value: float | None
    low: float | None
    high: float | None
    diverges: float | None
    confidence: str
    reasons: tuple[str, ...]
    optima: tuple[float, ...]
    groups: tuple[float, ...]
    runs: tuple[Run, ...]
    sweeps: tuple[Sweep, ...]
    cost: int
    base: float = 1.0
    metric: str = "loss"
    environment: dict[str, Any] = field(default_factory=dict)

    def apply(self, optimizer: Any) -> None:
        """Set the learning rates of an optimizer's groups.

        Raises:
            UsageError: no rate was found, or it has other groups.

        """
        if self.value is None:
            raise UsageError("no learning rate was found: no rate that was tried trained the model")
        if len(optimizer.param_groups) != len(self.groups):
            raise UsageError(
                f"the rates are of {len(self.groups)} groups, the optimizer has {len(optimizer.param_groups)}"
            )
        for group, lr in zip(optimizer.param_groups, self.groups, strict=True):
            group["lr"] = lr

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON types."""
        runs = [
            {
                "lr": r.scale * self.base,
                "seed": r.seed,
                "steps": r.steps,
                "final": r.final if math.isfinite(r.final) else None,
                "start": r.start if math.isfinite(r.start) else None,
                "failed": r.failed,
            }
            for r in self.runs
        ]
        sweeps = [
            {"lr": list(lrs), "loss": [v if math.isfinite(v) else None for v in losses]}
            for lrs, losses in self.sweeps
        ]
        own = {k: getattr(self, k) for k in _KEYS}
        lists = {k: list(getattr(self, k)) for k in ("reasons", "optima", "groups")}
        return {
            "schema": 1,
            "kind": "lr",
            **own,
            **lists,
            "cost_in_runs": self.cost / self.steps,
            "runs": runs,
            "sweeps": sweeps,
            "environment": dict(self.environment),
        }

    def __str__(self) -> str:
        from downslope.diagnose.rates_table import text

        return text(self)


def search(
    bench: Bench,
    *,
    name: str,
    label: str,
    steps: int,
    seeds: Seeds,
    low: float = 1e-6,
    high: float = 10.0,
    longest: int = LONGEST,
    bases: Sequence[float] = (1.0,),
    metric: str = "loss",
    told: Callable[[str], None] = lambda _: None,
) -> Rates:
    """Return the learning rate that `steps` steps of training want.

    Args:
        bench: what trains.
        name: of the training.
        label: of the optimizer.
        steps: the length of the real training.
        seeds: of the runs.
        low: where the sweep begins, as a rate of the first group.
        high: where it ends.
        longest: steps of the longest run, at most `steps` of them.
        bases: learning rates of the groups at scale 1.
        metric: what runs are judged by.
        told: is called with a line before each part.

    Raises:
        UsageError: a number out of range.

    """
    for word, count in (("steps", steps), ("longest", longest)):
        if not isinstance(count, int) or count < SHORTEST:
            raise UsageError(
                f"{word} = {count!r}: expected at least {SHORTEST}, for runs of a quarter of them"
            )
    if not 0 < low < high < math.inf:
        raise UsageError(f"learning rates from {low:g} to {high:g}: expected 0 < low < high, both finite")
    base = bases[0]
    low, high = low / base, high / base
    longest = min(longest, steps)
    sweeps: list[Sweep] = []
    length = sweep_steps(longest)
    first = seeds.quarter[0]
    for seed in range(first, first + SWEEP_SEEDS):
        told(f"sweep {len(sweeps) + 1} of {SWEEP_SEEDS}")
        losses = bench.sweep(low, high, length, seed)
        scales = [low * (high / low) ** (i / (length - 1)) for i in range(len(losses))]
        sweeps.append((tuple(scales), tuple(losses)))
    centre = math.exp(statistics.median(math.log(steepest(*sweep)) for sweep in sweeps))
    tried = [centre * STEP**k for k in range(-BELOW, ABOVE + 1)]
    runs: list[Run] = []
    found: list[Run] = []
    room = room_for_more(longest, sum(len(losses) for _, losses in sweeps), seeds)
    spared = room - room_for_more(longest, SWEEP_SEEDS * length, seeds)  # by sweeps that ended early
    for rung in RUNGS:
        length = rung.length(longest)
        own = seeds.of(rung)
        if rung.share < 1:
            scales = window(tried, medians_of(found), rung.rates) if found else tried
        else:
            scales = around(tried, runs, longest, rung.rates)
            room = (room - spared) * len(own) + spared
        found, tried = climbed(bench, scales, own, length, room, (low, high), told, rung.enough)
        room -= length * (len(found) - len(scales) * len(own))
        if rung.share == 1 and len(own) == 1:
            found += once_more(bench, found, own[-1] + 1, length, room, told)
        runs += found
    return _concluded(name, label, steps, runs, sweeps, bases, metric)


def steepest(scales: Sequence[float], losses: Sequence[float], keep: float = 0.7) -> float:
    """Return the rate at which a sweep's loss, smoothed over some steps, falls fastest.

    >>> rates = [10.0 ** (i / 10 - 4) for i in range(40)]
    >>> losses = [2.0 if lr < 1e-2 else max(1.0, 2 - 4 * i / 40) for i, lr in enumerate(rates)]
    >>> 1e-3 < steepest(rates, losses) < 1e-1
    True

    """
    mean, weight, smooth = 0.0, 0.0, []
    for loss in losses:
        if not math.isfinite(loss):
            break
        mean, weight = keep * mean + (1 - keep) * loss, keep * weight + (1 - keep)
        smooth.append(mean / weight)
    if len(smooth) < 4:
        return scales[0]
    lowest = min(range(len(smooth)), key=smooth.__getitem__)
    last = max(3, lowest + 1)
    slopes = [(smooth[i] - smooth[i - 2], i - 1) for i in range(2, min(last + 1, len(smooth)))]
    return scales[min(slopes)[1]]


def _concluded(
    name: str,
    label: str,
    steps: int,
    runs: Sequence[Run],
    sweeps: Sequence[Sweep],
    bases: Sequence[float],
    metric: str,
) -> Rates:
    """Return what the runs say."""
    last = max(r.steps for r in runs)
    known = estimate(runs)
    value = known.value if known else None
    complete = {n: _complete([r for r in runs if r.steps == n]) for n in {r.steps for r in runs}}
    seeds = set[int]().union(*complete.values())
    shared = max(n for n, of in complete.items() if of == seeds)
    own = _own([r for r in runs if r.steps == shared], value) if value else []
    too_high = failing(runs)
    failed = [scale for scale in too_high if value is not None and scale > value]
    low, high = safe_range(runs)
    if value and low and high:
        low, high = min(low, value), max(high, value)
        if any(low <= scale <= high for scale in too_high):
            low, high = None, None
    ends = [(w.steps, w.optimum) for w in known.witnesses[-2:]] if known else []
    whole = [r for r in runs if r.steps == last]
    short_of, near = edge_of(whole), edge_of(whole, _noise_of_two(runs, seeds_each(whole)))
    confidence, reasons = confidence_of(
        value, own, len(seeds), shared, ends, last / steps, edge_of(runs), short_of, near
    )
    base = bases[0]
    return Rates(
        name=name,
        label=label,
        steps=steps,
        value=None if value is None else value * base,
        low=None if low is None else low * base,
        high=None if high is None else high * base,
        diverges=min(failed) * base if failed else None,
        confidence=confidence,
        reasons=tuple(reasons),
        optima=tuple(o * base for o in own),
        groups=tuple(b * value for b in bases) if value is not None else (),
        runs=tuple(sorted(runs, key=lambda r: (r.steps, r.scale, r.seed))),
        sweeps=tuple((tuple(s * base for s in scales), losses) for scales, losses in sweeps),
        cost=sum(len(losses) for _, losses in sweeps) + sum(r.steps for r in runs),
        base=base,
        metric=metric,
    )


def _complete(runs: Sequence[Run]) -> set[int]:
    """Return the seeds on which all rates ran, and not the best once more."""
    rates = {r.scale for r in runs}
    return {seed for seed in {r.seed for r in runs} if {r.scale for r in runs if r.seed == seed} == rates}


def _noise_of_two(runs: Sequence[Run], seeds: float) -> float:
    """Return how far two medians over so many seeds of one rate differ, of the logarithms."""
    return math.sqrt(2 / seeds) * noise_of(runs)


def _own(runs: Sequence[Run], value: float) -> list[float]:
    """Return the best rate of each seed in runs of one length, as far from `value` as from that of all."""
    middle = optimum(medians_of(runs)) or value
    seeds = sorted({r.seed for r in runs})
    optima = [optimum(medians_of([r for r in runs if r.seed == seed])) for seed in seeds]
    return [o * value / middle for o in optima if o is not None]
