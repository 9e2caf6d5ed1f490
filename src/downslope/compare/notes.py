"""What a careful reader would ask about a comparison before believing its verdict."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from downslope.compare.judge import chance_apart
from downslope.compare.verdict import coverage_of_range
from downslope.compare.words import Standing, listed, number


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
    found = [note for s in standings for note in _of_optimizer(s, under.seeds)]
    return [*found, *_of_ranks(standings), *_of_seeds(under), *_of_runs(under)]


def _of_optimizer(s: Standing, seeds: int) -> Iterator[str]:
    low, high = s.range
    if s.trials and s.trials_diverged == s.trials:
        yield (
            f"{s.label}: all {s.trials} tuning trials diverged; try lower learning rates, "
            f"--lr {s.name}={low / 1000:.2g}:{low:.2g}."
        )
    elif s.sensitivity.edge is not None and s.best_lr is not None:
        if s.sensitivity.edge == "low":
            word, low = "lowest", low / 10
        else:
            word, high = "highest", high * 10
        yield (
            f"{s.label}: the best learning rate, {number(s.best_lr)}, is the {word} tried; "
            f"a better one may lie beyond: --lr {s.name}={low:.2g}:{high:.2g}."
        )
    if s.finals_diverged:
        yield f"{s.label}: {s.finals_diverged} of {seeds} final runs diverged; they count as infinite."


def _of_ranks(standings: Sequence[Standing]) -> Iterator[str]:
    """Say where one that is tied with the best stands before one that has a lower median."""
    ended = [(s, s.final.median) for s in standings if s.final is not None]
    for s, a in ended:
        for t, b in ended:
            if s.rank == 1 < t.rank and b < a:
                yield (
                    f"{s.label} stands before {t.label}, whose median is lower, because its own runs "
                    f"scatter too much to tell them from {standings[0].label}'s: more --seeds would tell."
                )


def _of_seeds(under: Conditions) -> Iterator[str]:
    if 1 < under.seeds < 5:
        chance = coverage_of_range(under.seeds)
        yield (
            f"With {under.seeds} seeds an interval is at most the range of the runs, which holds the true "
            f"median with a chance of {chance:.0%}, and two optimizers that are alike are told apart with "
            f"one of {chance_apart(under.seeds):.0%}: five or more seeds are better."
        )
    if under.seedless:
        yield (
            f"{listed(under.seedless)}: every seed gave the same run, so the interval is that of one run: "
            "build(seed) and batches(seed) should draw from their seed."
        )
    if not under.repeatable:
        yield (
            "One seed gave two different starts: build(seed) or batches(seed) draws from something else too, "
            "so the optimizers began with different models or batches, and the runs cannot be repeated."
        )


def _of_runs(under: Conditions) -> Iterator[str]:
    if under.untrained:
        yield (
            f"{listed(under.untrained)}: the final runs end no lower than they began: training does not "
            "help, or evaluate(model) returns more where the model is better, and lower is better here."
        )
    if under.crews > 1:
        yield "The runs were timed under different --jobs: compare their steps, not their seconds."
    if under.most_jobs > 1 and not under.on_cpu:
        yield "Runs shared a device: compare their steps, not their seconds, or use --jobs 1."
    if under.on_cpu and under.cpu_seconds < 0.8 * under.seconds:
        share = under.cpu_seconds / under.seconds
        yield (
            f"The runs had a processor only {share:.0%} of the time (other programs, or waiting for data): "
            "compare their steps, not their seconds."
        )
    if under.no_matrices is not None:
        yield f"{under.no_matrices} found no hidden matrix in this model: it is AdamW here."
