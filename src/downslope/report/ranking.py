"""The tables of a comparison: the ranking, and the numbers behind the plots."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from downslope.report.numbers import column, finite, number, plain
from downslope.report.parts import Cell, Column, Fold, Note, Section, Table
from downslope.report.result import Run, absent, finals_of, interval, name_of, seeds_of, trials_of

CAPTION = "Lower is better. Every optimizer had the same number of tuning trials, steps and batches."


def section(run: Run) -> Section:
    """Return the ranked table with the sentence on its target."""
    if not run.ranked:
        return Section("Ranking", [Note("No optimizer has a result yet.")])
    aimed = run.target is not None
    decays = any((o.get("best") or {}).get("weight_decay") is not None for o in run.ranked)
    columns = [
        Column("optimizer"),
        Column(f"final {run.quantity}", "number", "median over the fresh seeds"),
        Column("interval", "number", "bootstrap interval"),
        *([Column("steps to target", "number"), Column("seconds to target", "number")] if aimed else []),
        Column("best lr", "number"),
        *([Column("weight decay", "number")] if decays else []),
        Column("ms a step", "number", "training alone: evaluation is not timed"),
    ]
    finals = column([(o.get("final") or {}).get(k) for o in run.ranked for k in ("median", "low", "high")])
    times = column([_milliseconds(o) for o in run.ranked])
    rows = []
    for i, o in enumerate(run.ranked):
        best = o.get("best") or {}
        rows.append(
            [
                Cell(run.short(o), _rest(run, o), rank=str(o.get("rank") or ""), series=run.colour(o)),
                *_final(o, *finals[3 * i : 3 * i + 3]),
                *(
                    [_reached(o.get("steps_to_target"), whole=True), _reached(o.get("seconds_to_target"))]
                    if aimed
                    else []
                ),
                Cell(plain(best.get("lr"))),
                *([Cell(plain(best.get("weight_decay")))] if decays else []),
                Cell(times[i]),
            ]
        )
    table = Table("Optimizers by rank", columns, rows, leads=_winners(run))
    return Section("Ranking", [table, Note(_target(run))], CAPTION)


def seeds(run: Run) -> Fold:
    """Return the final value of every seed, for reading, copying and screen readers."""
    finals = {run.short(o): dict(zip(seeds_of(run, o), finals_of(o), strict=True)) for o in run.ranked}
    names = list(dict.fromkeys(seed for values in finals.values() for seed in values))
    texts = iter(column([v for values in finals.values() for v in values.values()]))
    rows = []
    for o in run.ranked:
        own = {seed: next(texts) for seed in finals[run.short(o)]}
        cells = [_value(own[seed]) if seed in own else Cell("–", tone="quiet") for seed in names]
        rows.append([Cell(run.short(o), series=run.colour(o)), *cells])
    heads = [Column("optimizer"), *(Column(name, "number") for name in names)]
    return Fold("The value of every seed", [Table("Final values by seed", heads, rows)])


def trials(run: Run) -> Fold:
    """Return every tuning trial, for reading, copying and screen readers."""
    trials = [(o, t) for o in run.ranked for t in trials_of(o)]
    heads = ("lr", "weight decay", f"final {run.quantity}", "seconds")
    finals = column([None if t.get("diverged") else t.get("final") for _, t in trials])
    seconds = column([t.get("seconds") for _, t in trials])
    rows = [
        [
            Cell(run.short(o), series=run.colour(o)),
            Cell(plain(t.get("lr"))),
            Cell(plain(t.get("weight_decay"))),
            _value(final),
            Cell(time),
        ]
        for (o, t), final, time in zip(trials, finals, seconds, strict=True)
    ]
    columns = [Column("optimizer"), *(Column(head, "number") for head in heads)]
    return Fold(f"Every tuning trial ({len(trials)})", [Table("Tuning trials", columns, rows)])


def _rest(run: Run, optimizer: Mapping[str, Any]) -> str:
    """Return what the short name leaves out."""
    return name_of(optimizer).removeprefix(run.short(optimizer)).strip(" ()")


def _final(optimizer: Mapping[str, Any], median: str, low: str, high: str) -> list[Cell]:
    """Return the cells of the final value and of its interval."""
    between = Cell(interval(low, high), tone="quiet")
    if median != "–":
        return [Cell(median, tone="strong"), between]
    word = absent(optimizer)
    return [Cell(word, tone="warning" if word == "diverged" else "quiet"), between]


def _reached(to: dict[str, Any] | None, *, whole: bool = False) -> Cell:
    """Return the cell of a way to the target: its median, and on how many seeds it got there."""
    if not to or not to.get("of"):
        return Cell("–", tone="quiet")
    said = f"{to.get('reached') or 0}/{to['of']}"
    median = finite(to.get("median"))
    if median is None:
        return Cell("missed", said, tone="warning")
    return Cell(number(int(median) if whole and median.is_integer() else median), said)


def _value(text: str) -> Cell:
    return Cell("diverged", tone="warning") if text == "–" else Cell(text)


def _milliseconds(optimizer: Mapping[str, Any]) -> float | None:
    seconds = finite(optimizer.get("seconds_per_step"))
    return None if seconds is None else 1e3 * seconds


def _winners(run: Run) -> tuple[int, ...]:
    winners = run.verdict.get("winners") or []
    return tuple(i for i, o in enumerate(run.ranked) if o.get("name") in winners)


def _target(run: Run) -> str:
    if run.target is None:
        return "No target was set, so there is no time to target."
    origin = (run.result.get("target") or {}).get("origin")
    meant = f"Target: {run.quantity} {plain(run.target, 4)}{f', {origin}' if origin else ''}."
    return f"{meant} Beside each median, on how many seeds it was reached; a miss counts as infinite."
