"""A check as one HTML page: the verdict, the wrong entries, Taylor slopes, what was covered."""

from __future__ import annotations

import math

from downslope.gradients.check.result import GradientReport, Taylor, Verdict
from downslope.gradients.check.terminal import cells
from downslope.gradients.check.words import short
from downslope.report import (
    Axis,
    Cell,
    Chapter,
    Code,
    Column,
    Facts,
    Lines,
    Note,
    Section,
    Series,
    Table,
    Trace,
    page,
)

CAPTION = (
    "What is left of f(x + h v) after f(x) + h ĝᵀv, along a random direction v and along wrong entries. A "
    "right gradient leaves h²: two decades down for one to the left. A wrong one leaves h. The flat part to "
    "the left is round-off."
)


def page_of(report: GradientReport, name: str, command: str = "") -> str:
    """Return the page of one report."""
    claim, evidence = report.headline, ""
    if report.verdict is Verdict.FAIL and ":" in claim:
        claim, _, evidence = claim.partition(": ")
        claim += ":"
    chapter = Chapter(
        name=name,
        headline=claim,
        evidence=evidence,
        eyebrow=[
            name,
            report.verdict.value,
            f"{report.evaluations:,} evaluations",
            f"{short(report.seconds)} s",
        ],
        notes=[Note(said, "warning") for said in report.reasons],
        sections=[s for s in (_findings(report), _taylor(report), _covered(report, command)) if s],
    )
    return page([chapter])


def _findings(report: GradientReport) -> Section | None:
    if not report.findings:
        return None
    columns = [
        Column("entry", "code"),
        Column("claimed", "number"),
        Column("measured", "number"),
        Column("±", "number", "estimated error of what was measured"),
        Column("ratio", "number", "claimed over measured"),
        Column("what it may be"),
    ]
    rows = []
    for f in report.findings:
        said = "; ".join(part for part in (f.where if f.entries > 1 else "", f.hint) if part)
        rows.append(
            [
                Cell(f.name, tone="strong"),
                *map(Cell, cells(f)),
                Cell(said or "–", tone="" if said else "quiet"),
            ]
        )
    parts: list[Table | Note] = [Table("Wrong entries", columns, rows)]
    if not report.complete:
        parts.append(Note("More entries may be wrong than are listed.", "warning"))
    return Section("Wrong entries", parts)


def _taylor(report: GradientReport) -> Section | None:
    if not report.taylor:
        return None
    series = [Series(_label(t), i, _trace(t.steps, t.remainders)) for i, t in enumerate(report.taylor)]
    series += _slopes(report.taylor[0], len(series))
    plot = Lines(
        "Taylor remainder against step, for each direction",
        x=[Axis("step h", "log")],
        y=Axis("remainder", "log"),
        series=series,
    )
    return Section("Taylor slopes", [plot], CAPTION)


def _label(t: Taylor) -> str:
    return t.name if t.slope is None else f"{t.name}, slope {t.slope:.2f}"


def _trace(steps: tuple[float, ...], values: tuple[float, ...]) -> Trace:
    pairs = sorted((h, v) for h, v in zip(steps, values, strict=True) if v > 0 and math.isfinite(v))
    return Trace(([h for h, _ in pairs],), [v for _, v in pairs])


def _slopes(t: Taylor, first: int) -> list[Series]:
    """Return lines of order 1 and 2 through the remainder at the largest step, to compare with."""
    finite = [(h, r) for h, r in zip(t.steps, t.remainders, strict=True) if r > 0 and math.isfinite(r)]
    if not finite:
        return []
    top, value = max(finite)
    floor = max(t.noise / 10, 1e-300)
    made = []
    for order, word in ((1, "h: wrong"), (2, "h²: right")):
        drawn = [value * (h / top) ** order for h in t.steps]
        kept = tuple(v if v >= floor else math.nan for v in drawn)
        made.append(Series(word, first + order - 1, _trace(t.steps, kept)))
    return made


def _covered(report: GradientReport, command: str) -> Section:
    facts = [("evaluations", f"{report.evaluations:,}"), ("seconds", short(report.seconds))]
    parts: list[Note | Facts | Code] = []
    if report.coverage is not None:
        text = str(report.coverage)
        parts.append(Note(f"{text[:1].upper()}{text[1:]}."))
        facts += [
            ("entries", f"{report.coverage.entries:,}"),
            ("directions", str(report.coverage.directions)),
        ]
    parts += [Note(f"{note[:1].upper()}{note[1:]}.") for note in report.notes]
    parts.append(Facts("What it took", [("What it took", facts)]))
    if command:
        parts.append(Code("Command", command))
    return Section("What was covered", parts)
