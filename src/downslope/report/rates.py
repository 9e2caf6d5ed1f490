"""A search for a learning rate as a chapter: the answer, the runs behind it, the sweeps, the widths."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from downslope.report.numbers import column, number, plain
from downslope.report.parts import Cell, Chapter, Code, Column, Facts, Fold, Note, Part, Section, Table
from downslope.report.plots import Axis, Lines, Series, Trace

Found = Mapping[str, Any]


def chapter(result: Mapping[str, Any]) -> Chapter:
    """Return the chapter of a search, a dict as `downslope lr --json` prints it."""
    rates: list[Found] = result["rates"]
    checks: list[Found] = result.get("widths") or []
    headline, evidence = _headline(rates, checks)
    sections = [_answers(rates)]
    if checks:
        sections.append(_widths(checks))
    sections += [_runs(r) for r in rates]
    sections += [_sweeps(rates), _setup(rates)]
    return Chapter(
        name=f"{rates[0]['name']}, learning rate",
        headline=headline,
        evidence=evidence,
        eyebrow=[str(rates[0]["name"]), "learning rate", f"{rates[0]['steps']} steps"],
        notes=[_note(r) for r in rates if r["confidence"] == "low"],
        sections=sections,
    )


def _headline(rates: Sequence[Found], checks: Sequence[Found]) -> tuple[str, str]:
    if checks:
        return str(checks[0]["sentence"]).partition(":")[0] + ":", " ".join(
            f"{c['optimizer']}: {str(c['sentence']).partition(': ')[2]}" for c in checks
        )
    said = [f"{plain(r['value'], 2) if r['value'] else 'none'} for {r['label']}" for r in rates]
    joined = ", ".join(said)
    if not any(r["value"] for r in rates):
        return f"Learning rate {joined}:", "no rate that was tried trained the model."
    sure = ", ".join(dict.fromkeys(r["confidence"] for r in rates))
    return f"Learning rate {joined};", f"confidence {sure}."


def _note(r: Found) -> Note:
    return Note(f"{r['name']} with {r['label']}: {' '.join(r['reasons'])}", "warning")


def _answers(rates: Sequence[Found]) -> Section:
    rows = [
        [
            Cell(str(r["label"]), str(r["name"]), series=i),
            Cell(plain(r["value"], 3), tone="strong"),
            Cell(f"{plain(r['low'], 2)} – {plain(r['high'], 2)}" if r["low"] else "–"),
            Cell(plain(r["diverges"], 2)),
            Cell(str(r["confidence"])),
            Cell(" ".join(r["reasons"]), tone="quiet"),
        ]
        for i, r in enumerate(rates)
    ]
    heads = [
        Column("optimizer"),
        Column("learning rate", "number"),
        Column("safe", "number", "runs end within 10 % of the best"),
        Column("too high from", "number", "a run diverged, or its longest ended no better than it began"),
        Column("confidence"),
        Column("why"),
    ]
    caption = "Runs with the schedule of the real training decide; the sweep only says where to look."
    return Section("The rate", [Table("Learning rates", heads, rows)], caption)


def medians(found: Found) -> dict[int, dict[float, float | None]]:
    """Return, for each length of runs, the median over seeds at each rate; None where a run failed."""
    ends: dict[int, dict[float, list[float]]] = {}
    for run in found["runs"]:
        value = math.inf if run["failed"] or run["final"] is None else run["final"]
        ends.setdefault(run["steps"], {}).setdefault(run["lr"], []).append(value)
    return {
        steps: {lr: (m if math.isfinite(m := median(v)) else None) for lr, v in sorted(by.items())}
        for steps, by in sorted(ends.items())
    }


def _runs(found: Found) -> Section:
    series = []
    for i, (steps, by) in enumerate(medians(found).items()):
        lrs, values = list(by), list(by.values())
        known = [(v, j) for j, v in enumerate(values) if v is not None]
        best = min(known)[1] if known else None
        span = (found["low"], found["high"]) if i == len(medians(found)) - 1 and found["low"] else None
        series.append(Series(f"{steps} steps", i, Trace((lrs,), values), best=best, span=span))
    ends = [v for s in series for v in s.main.y if v is not None]
    plot = Lines(
        f"how runs of {found['label']} ended at each learning rate",
        x=[Axis("learning rate", "log")],
        y=Axis(f"final {found['metric']}", "log" if min(ends, default=0) > 0 else "linear", switch=True),
        series=series,
        points=True,
        missing="top",
        missing_label="did not train",
        span_label="safe",
    )
    table = _runs_table(found)
    caption = (
        f"{found['name']} with {found['label']}: {len(found['runs'])} runs, the median over seeds at each "
        f"rate. The search took {found['cost']} steps, as much as {found['cost_in_runs']:.1f} trainings."
    )
    parts = [plot, table] if ends else [table]
    return Section(f"Runs of {found['label']}, {found['name']}", parts, caption, half=True)


def _runs_table(found: Found) -> Fold:
    finals = column([None if r["failed"] else r["final"] for r in found["runs"]])
    rows = [
        [Cell(str(r["steps"])), Cell(plain(r["lr"], 3)), Cell(str(r["seed"])), Cell(f)]
        for r, f in zip(found["runs"], finals, strict=True)
    ]
    heads = [Column(h, "number") for h in ("steps", "lr", "seed", "ends at")]
    return Fold(f"Every run ({len(rows)})", [Table("Runs", heads, rows)])


def _sweeps(rates: Sequence[Found]) -> Section:
    series = []
    for i, r in enumerate(rates):
        traces = [
            Trace((s["lr"][: len(s["loss"])],), s["loss"], f"sweep {j + 1}")
            for j, s in enumerate(r["sweeps"])
        ]
        series.append(Series(f"{r['label']}, {r['name']}", i, traces[0], traces[1:]))
    plot = Lines(
        "the loss of each batch while the learning rate grows",
        x=[Axis("learning rate", "log")],
        y=Axis("loss of the batch", switch=True),
        series=series,
    )
    caption = "The loss of each batch while the learning rate grows from step to step, until it explodes."
    return Section("Sweeps", [plot], caption)


def _widths(checks: Sequence[Found]) -> Section:
    series = [
        Series(str(c["optimizer"]), i, Trace((c["widths"],), c["values"])) for i, c in enumerate(checks)
    ]
    plot = Lines(
        "the best learning rate at each width",
        x=[Axis("width", "log")],
        y=Axis("learning rate", "log", switch=True),
        series=series,
        points=True,
    )
    notes: list[Part] = [Note(f"{c['optimizer']}: {c['sentence']}") for c in checks]
    caption = (
        "A line through the best rates of every seed, in the logarithms. The rate stays where the interval "
        "lies within a factor 1.41 of 1, and moves where it leaves 1 out."
    )
    return Section("Does it move with the width?", [plot, *notes], caption)


def _setup(rates: Sequence[Found]) -> Section:
    environment = dict(rates[0].get("environment") or {})
    command = environment.pop("command", "")
    parts: list[Part] = [Code("Command", command)] if command else []
    facts = [(k, str(v)) for k, v in environment.items()]
    steps = [(f"{r['name']}, {r['label']}", f"{number(r['cost'])} steps") for r in rates]
    parts.append(Facts("How it was found", [("Environment", facts), ("Cost", steps)]))
    return Section("How it was found", parts)
