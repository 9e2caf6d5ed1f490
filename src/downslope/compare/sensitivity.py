"""How much the end of a training hangs on its learning rate, and on the seed or the weight decay.

A grid: every optimizer, a row for each learning rate over its whole range, a column for each seed (or
each weight decay, on one seed). It is `--sensitivity` of `downslope compare`. What is made of such a
grid, whoever filled it, is in `summary`.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from downslope.compare.plan import RunSpec
from downslope.compare.run import Record, finite
from downslope.compare.session import Observer, Session, interrupts_deferred
from downslope.compare.words import listed, more
from downslope.errors import UsageError, closest

RATES = 9
ACROSS = ("seed", "decay")
DECAYS = (0.0, 1e-3, 1e-2, 1e-1)
NEAR = 0.10
"""How far above the best a cell may end to count as good."""


@dataclass(frozen=True)
class Grid:
    """The runs of a grid: rates of each optimizer, and what the columns are."""

    across: str
    columns: tuple[float, ...]
    rates: dict[str, tuple[float, ...]]

    def specs(self, seed: int) -> list[RunSpec]:
        """Return the runs, the optimizers taking turns."""
        return [
            RunSpec("tune", name, i * len(self.columns) + j, *self._cell(column, seed, rates[i]))
            for i in range(RATES)
            for j, column in enumerate(self.columns)
            for name, rates in self.rates.items()
        ]

    def _cell(self, column: float, seed: int, lr: float) -> tuple[int, float, float]:
        return (int(column), lr, 0.0) if self.across == "seed" else (seed, lr, column)


def grid_of(session: Session, across: str, seeds: int) -> Grid:
    """Return the grid of a session's optimizers.

    Raises:
        UsageError: the columns are neither seeds nor decays, or there are fewer than two seeds.

    """
    if across not in ACROSS:
        raise UsageError(f"--across {across}: expected seed or decay{closest(across, ACROSS)}")
    if across == "seed" and seeds < 2:
        raise UsageError(f"--seeds {seeds}: a grid across seeds needs at least 2")
    first = session.plan.tuning_seed
    columns = tuple(range(first, first + seeds)) if across == "seed" else DECAYS
    rates = {
        c.name: tuple(float(lr) for lr in np.geomspace(*c.space.lr, RATES)) for c in session.plan.candidates
    }
    return Grid(across, columns, rates)


def run(session: Session, grid: Grid) -> dict[str, Any]:
    """Do the runs that are not done yet and return the result; Ctrl-C keeps what is done."""
    plan = replace(session.plan, trials=RATES * len(grid.columns) - 1)
    session = replace(session, plan=plan)
    with session.folder.locked():
        facts = None if session.folder.run_file.exists() else session.look()
        identity = {**plan.identity(), "across": grid.across, "columns": list(grid.columns)}
        start = {} if facts is None else session.describe(facts)
        opened = session.folder.open_run({**start, "identity": identity})
        session.folder.mend()
        records = session.folder.read_records()
        try:
            _work(session, grid, records)
        except KeyboardInterrupt:
            session.interrupted = True
    result = result_of(session, grid, records, opened)
    return {**result, "interrupted": session.interrupted}


def _work(session: Session, grid: Grid, records: list[Record]) -> None:
    done = {r.key for r in records}
    left = [s for s in grid.specs(session.plan.tuning_seed) if s.key not in done]
    observer: Observer = session.observer
    observer.began(session.plan, records)
    if not left:
        return
    runner = session._runner()
    try:
        while left or runner.busy:
            while left and runner.free:
                runner.submit(left.pop(0))
            record = runner.wait()
            with interrupts_deferred():
                session.folder.append(record)
                records.append(record)
            observer.ended(record)
    finally:
        runner.close()


def result_of(session: Session, grid: Grid, records: Sequence[Record], run: dict[str, Any]) -> dict[str, Any]:
    """Return the result as JSON types."""
    plan = session.plan
    ended = {r.key: r.final for r in records}
    fields = []
    for c in plan.candidates:
        rates = grid.rates[c.name]
        values = [
            [ended.get(("tune", c.name, i * len(grid.columns) + j)) for j in range(len(grid.columns))]
            for i in range(len(rates))
        ]
        cells = [[math.nan if v is None else v for v in row] for row in values]
        fields.append(
            {
                "name": c.name,
                "label": c.label,
                "rows": list(rates),
                "columns": list(grid.columns),
                "values": [[None if v is None else finite(v) for v in row] for row in values],
                "done": [[v is not None for v in row] for row in values],
                **summary(rates, cells),
            }
        )
    said = sentence(fields, "seed" if grid.across == "seed" else "weight decay")
    if len(ended) < plan.total_runs():
        said = f"Not finished ({len(ended)} of {plan.total_runs()} runs): {said}"
    return {
        "schema": 1,
        "kind": "sensitivity",
        "name": plan.task,
        "metric": session.task.metric,
        "row": "learning rate",
        "column": "seed" if grid.across == "seed" else "weight decay",
        "lost": "diverged",
        "steps": plan.steps,
        "fields": fields,
        "sentence": said,
        "command": session.command,
        "environment": run.get("environment") or {},
    }


def summary(rows: Sequence[float], values: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Return what a grid says: where it is best, how much a row or a column away costs, what was lost.

    A value that is NaN was not run; an infinite one was lost. `row_factor` is what the neighbouring
    row, the worse of the two, costs against the best one, medians over columns; `column_factor` is the
    worst column against the best one in the best row.
    """
    known = [[v for v in row if not math.isnan(v)] for row in values]
    medians = [statistics.median(row) if row else math.inf for row in known]
    lost = sum(math.isinf(v) for row in known for v in row)
    count = sum(map(len, known))
    best = min(range(len(medians)), key=medians.__getitem__)
    if not math.isfinite(medians[best]):
        return {
            "best_row": None,
            "best": None,
            "row_factor": None,
            "column_factor": None,
            "room": 0,
            "lost": lost,
            "cells": count,
        }
    around = [medians[i] for i in (best - 1, best + 1) if 0 <= i < len(medians)]
    own = known[best]
    good = [i for i, m in enumerate(medians) if m <= medians[best] + NEAR * abs(medians[best])]
    return {
        "best_row": float(rows[best]),
        "best": medians[best],
        "row_factor": _ratio(max(around), medians[best]),
        "column_factor": _ratio(max(own), min(own)),
        "room": len(good),
        "lost": lost,
        "cells": count,
    }


def _ratio(a: float, b: float) -> float | None:
    """Return how many times worse a is than b, b's size being the unit; None where no number says it."""
    if a == b:
        return 1.0
    return 1 + (a - b) / abs(b) if math.isfinite(a) and b != 0 else None


def sentence(fields: Sequence[dict[str, Any]], column: str) -> str:
    """Return the finding in a sentence: which optimizer is the most forgiving, and what moves it."""
    settled = [f for f in fields if f["best"] is not None]
    if not settled:
        return "Nothing that was tried ended well."
    of = len(settled[0]["rows"])
    most = max(f["room"] for f in settled)
    widest = [f["label"] for f in settled if f["room"] == most]
    rows = f"{most} of {of} rows end within 10 % of"
    if len(settled) == 1:
        parts = [f"{widest[0]}: {rows} its best."]
    elif len(widest) == 1:
        parts = [f"{widest[0]} is the most forgiving: {rows} its best."]
    else:
        parts = [f"{listed(widest)} are alike: {rows} their best."]
    for f in settled:
        row, other = f["row_factor"], f["column_factor"]
        said = f"{f['label']}: a row away from {f['best_row']:.2g} costs {_percent(row)}"
        parts.append(f"{said}, the worst {column} {_percent(other)}.")
    return " ".join(parts)


def _percent(ratio: float | None) -> str:
    if ratio is None:
        return "everything"
    return more(ratio).removeprefix("+").replace("× ", "a factor ")
