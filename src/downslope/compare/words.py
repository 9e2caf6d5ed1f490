"""The verdict in one sentence, and the notes a careful reader would ask for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from downslope.compare.judge import chance_apart
from downslope.compare.verdict import Estimate, Sensitivity, coverage_of_range


@dataclass(frozen=True)
class Standing:
    """Where an optimizer stands: what sentence and notes are made of. `p_value` is against the best."""

    name: str
    label: str
    rank: int
    final: Estimate | None
    best_lr: float | None
    trials: int
    trials_diverged: int
    finals_diverged: int
    sensitivity: Sensitivity
    range: tuple[float, float]
    steps_to_target: float | None = None
    p_value: float | None = None


def number(value: float, digits: int = 3) -> str:
    """Return a number with so many significant digits, as short as that allows.

    >>> number(0.15034), number(0.00054), number(12345.6), number(0.0), number(float("inf"))
    ('0.150', '5.40e-4', '1.23e4', '0', 'diverged')

    """
    if not math.isfinite(value):
        return "diverged"
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 10**digits:
        return f"{value:#.{digits}g}".removesuffix(".")
    mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
    return f"{mantissa}e{int(exponent)}"


def more(ratio: float) -> str:
    """Return how much worse something is.

    >>> more(4.32), more(108.46)
    ('+332 %', '× 108')

    """
    return f"+{100 * (ratio - 1):.0f} %" if ratio < 10 else f"× {ratio:.0f}"


def interval(e: Estimate) -> str:
    """Return an estimate as `0.150 [0.140, 0.160]`."""
    if e.low is None or e.high is None:
        return number(e.median)
    low, high = (number(v) if math.isfinite(v) else "∞" for v in (e.low, e.high))
    return f"{number(e.median)} [{low}, {high}]"


def listed(names: Sequence[str]) -> str:
    """Return names as `a, b and c`; of no names, nothing."""
    return "".join(names) if len(names) < 2 else f"{', '.join(names[:-1])} and {names[-1]}"


def quantity(metric: str) -> str:
    """Return a metric without its unit.

    >>> quantity("validation loss (nats)")
    'validation loss'

    """
    return metric.split(" (")[0]


def sentence(
    standings: Sequence[Standing], winners: Sequence[str], metric: str, steps: int, done: int, total: int
) -> str:
    """Return the verdict; `standings` are in order of rank, `done` of `total` runs have ended."""
    ended = [s for s in standings if s.final is not None and math.isfinite(s.final.median)]
    what = quantity(metric)
    if done < total:
        said = _judged(ended, winners, what, steps, diverged=False) if ended else _tuning_only(standings)
        return f"Not finished ({done} of {total} runs): {said}"
    if not ended:
        return "Every run diverged: no optimizer trained this model; try lower learning rates with --lr."
    said = _judged(ended, winners, what, steps, diverged=len(ended) < len(standings))
    lost = [s.label for s in standings if s not in ended]
    if len(ended) > 1 and lost:
        return f"{said.removesuffix('.')}; {listed(lost)} diverged."
    return said


def _judged(ended: Sequence[Standing], winners: Sequence[str], what: str, steps: int, diverged: bool) -> str:
    first = ended[0]
    own = _interval_of(first)
    if len(ended) == 1:
        alone = "every other optimizer diverged" if diverged else "there is no other to compare it with"
        return f"{first.label} ends at a {what} of {own}; {alone}."
    others = [s for s in ended if s.name not in winners]
    tied = [s for s in ended if s.name in winners]
    if first.final is not None and first.final.low is None:
        rest = listed([f"{s.label} at {_interval_of(s)}" for s in ended[1:]])
        return (
            f"Nothing is settled by one seed: {first.label} ends with the lowest {what}, {own}, {rest}; "
            "more --seeds give intervals."
        )
    if len(tied) > 1:
        values = ", ".join(_interval_of(s) for s in tied)
        names, verb = listed([s.label for s in others]), "is" if len(others) == 1 else "are"
        behind = f"; {names} {verb} behind" if others else ""
        tie = f"{listed([s.label for s in tied])} are tied: the difference in their {what} may be chance"
        return f"{tie} ({values}){behind}."
    second = others[0]
    sooner = ""
    if first.steps_to_target is not None and first.steps_to_target < steps:
        sooner = f", and it reaches the target in {first.steps_to_target:.0f} of {steps} steps"
    return (
        f"{first.label} is best: its {what} ends at {own}, below {second.label}'s {_interval_of(second)}"
        f"{_chance(second)}{sooner}."
    )


def _interval_of(s: Standing) -> str:
    assert s.final is not None
    return interval(s.final)


def _chance(s: Standing) -> str:
    """Return how probable it is that chance puts as much between an optimizer's runs and the best one's."""
    return "" if s.p_value is None else f" (p={number(s.p_value, 2)})"


def _tuning_only(standings: Sequence[Standing]) -> str:
    tried = [s for s in standings if s.best_lr is not None]
    if not tried:
        return "No trial has ended."
    best = listed([f"{number(s.best_lr)} for {s.label}" for s in tried if s.best_lr is not None])
    return f"No final run has ended; the best learning rates are {best}."


def _wide_before_low(standings: Sequence[Standing]) -> list[tuple[Standing, Standing]]:
    """Return pairs of an optimizer tied with the best and one behind that has a lower median."""
    ended = [(s, s.final.median) for s in standings if s.final is not None]
    return [(s, t) for s, a in ended if s.rank == 1 for t, b in ended if t.rank > 1 and b < a]


@dataclass(frozen=True)
class Conditions:
    """Under which conditions the runs took place.

    `crews` counts the settings of jobs and threads, `seedless` names whose seeds all gave the same run,
    `untrained` whose runs end no lower than they began; `repeatable` is whether a seed twice gave the same.
    """

    seeds: int
    crews: int
    most_jobs: int
    seconds: float
    cpu_seconds: float
    on_cpu: bool
    no_matrices: str | None
    seedless: Sequence[str] = ()
    untrained: Sequence[str] = ()
    repeatable: bool = True


def notes(standings: Sequence[Standing], under: Conditions) -> list[str]:
    """Return what a reader must know to judge the verdict."""
    seeds = under.seeds
    found = []
    for s in standings:
        if s.trials and s.trials_diverged == s.trials:
            low, high = s.range
            found.append(
                f"{s.label}: all {s.trials} tuning trials diverged; try lower learning rates, "
                f"--lr {s.name}={low / 1000:.2g}:{low:.2g}."
            )
        elif s.sensitivity.edge is not None and s.best_lr is not None:
            low, high = s.range
            if s.sensitivity.edge == "low":
                word, low = "lowest", low / 10
            else:
                word, high = "highest", high * 10
            found.append(
                f"{s.label}: the best learning rate, {number(s.best_lr)}, is the {word} tried; "
                f"a better one may lie beyond: --lr {s.name}={low:.2g}:{high:.2g}."
            )
        if s.finals_diverged:
            found.append(
                f"{s.label}: {s.finals_diverged} of {seeds} final runs diverged; they count as infinite."
            )
    for s, t in _wide_before_low(standings):
        found.append(
            f"{s.label} stands before {t.label}, whose median is lower, because its own runs scatter too "
            f"much to tell them from {standings[0].label}'s: more --seeds would tell."
        )
    if 1 < seeds < 5:
        chance = coverage_of_range(seeds)
        found.append(
            f"With {seeds} seeds an interval is at most the range of the runs, which holds the true "
            f"median with a chance of {chance:.0%}, and two optimizers that are alike lie apart with one "
            f"of {chance_apart(seeds):.0%}: five or more seeds are better."
        )
    if under.seedless:
        found.append(
            f"{listed(under.seedless)}: every seed gave the same run, so the interval is that of one run: "
            "build(seed) and batches(seed) should draw from their seed."
        )
    if not under.repeatable:
        found.append(
            "One seed gave two different starts: build(seed) or batches(seed) draws from something else too, "
            "so the optimizers began with different models or batches, and the runs cannot be repeated."
        )
    if under.untrained:
        found.append(
            f"{listed(under.untrained)}: the final runs end no lower than they began: training does not "
            "help, or evaluate(model) returns more where the model is better, and lower is better here."
        )
    if under.crews > 1:
        found.append("The runs were timed under different --jobs: compare their steps, not their seconds.")
    if under.most_jobs > 1 and not under.on_cpu:
        found.append("Runs shared a device: compare their steps, not their seconds, or use --jobs 1.")
    if under.on_cpu and under.cpu_seconds < 0.8 * under.seconds:
        share = under.cpu_seconds / under.seconds
        found.append(
            f"The runs had a processor only {share:.0%} of the time (other programs, or waiting for data): "
            "compare their steps, not their seconds."
        )
    if under.no_matrices is not None:
        found.append(f"{under.no_matrices} found no hidden matrix in this model: it is AdamW here.")
    return found
