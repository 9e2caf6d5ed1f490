"""A grid of runs as a chapter: a heat map an optimizer, and what a step to either side costs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from downslope.report.heat import Heat, HeatCell, HeatRow
from downslope.report.numbers import number, plain
from downslope.report.parts import Cell, Chapter, Code, Column, Facts, Part, Section, Table
from downslope.report.setup import said

FULL = 1.0
"""Excess over the best, in the logarithm, at which a cell has no shade left: 2.7 times the best."""


def chapter(found: Mapping[str, Any]) -> Chapter:
    """Return the chapter of a grid, a dict as `downslope compare --sensitivity --json` prints it."""
    claim, _, rest = str(found["sentence"]).partition(": ")
    fields: Sequence[Mapping[str, Any]] = found["fields"]
    return Chapter(
        name=f"{found['name']}, sensitivity",
        headline=f"{claim}:" if rest else claim,
        evidence=rest,
        eyebrow=[
            str(found["name"]),
            "sensitivity",
            f"{found['row']} × {found['column']}",
            f"{found['steps']} steps",
        ],
        sections=[_table(found), *(_map(f, found) for f in fields), _setup(found)],
    )


def _map(field: Mapping[str, Any], found: Mapping[str, Any]) -> Section:
    known = [v for row in field["values"] for v in row if v is not None]
    best = min(known, default=1.0)
    rows = []
    shorts = field.get("short") or [[False] * len(row) for row in field["values"]]
    for name, values, done, short in zip(field["rows"], field["values"], field["done"], shorts, strict=True):
        ways = [
            found["short"] if s else found["lost"] if d else "not run"
            for d, s in zip(done, short, strict=True)
        ]
        cells = [
            _cell(v, best, way, f"{found['row']} {plain(name)}, {found['column']} {plain(c)}", found)
            for v, way, c in zip(values, ways, field["columns"], strict=True)
        ]
        rows.append(HeatRow(plain(name, 2), cells))
    leads = [i for i, r in enumerate(field["rows"]) if r == field["best_row"]]
    heat = Heat(
        f"{found['metric']} of {field['label']}",
        f"{found['row']} \\ {found['column']}",
        [plain(c) for c in field["columns"]],
        rows,
        leads,
    )
    caption = f"{found['metric']}; the stronger the colour, the nearer to the best. × {found['lost']}"
    caption += f", … {found['short']}." if "short" in found else "."
    return Section(str(field["label"]), [heat], caption[:1].upper() + caption[1:], half=True)


def _cell(value: float | None, best: float, way: str, title: str, found: Mapping[str, Any]) -> HeatCell:
    if value is None:
        mark = "…" if way == found.get("short") else "×" if way == found["lost"] else "–"
        return HeatCell(mark, None, f"{title}: {way}")
    excess = math.log(value / best) if value > 0 and best > 0 else value - best
    return HeatCell(number(value), 1 - min(1.0, max(0.0, excess) / FULL), f"{title}: {number(value, 4)}")


def _table(found: Mapping[str, Any]) -> Section:
    spent = [Column(str(found["short"]), "number")] if "short" in found else []
    rows = [
        [
            Cell(str(f["label"]), series=i),
            Cell(plain(f["best_row"], 2)),
            Cell(number(f["best"]), tone="strong"),
            Cell(f"{f['room']} of {len(f['rows'])}"),
            Cell(_more(f["row_factor"], f)),
            Cell(_more(f["column_factor"], f)),
            Cell(f"{f['lost']} of {f['cells']}"),
            *[Cell(f"{sum(map(sum, f['short']))} of {f['cells']}") for _ in spent],
        ]
        for i, f in enumerate(found["fields"])
    ]
    heads = [
        Column("optimizer"),
        Column(f"best {found['row']}", "number"),
        Column("ends at", "number", "median over the columns"),
        Column("rows within 10 %", "number"),
        Column("a row away", "number", "what the worse neighbouring row costs"),
        Column(f"worst {found['column']}", "number", "against the best one, in the best row"),
        Column(str(found["lost"]), "number"),
        *spent,
    ]
    caption = "What moves the end of a run: the row of the maps below, or the column."
    return Section("How sensitive", [Table("Sensitivity by optimizer", heads, rows)], caption)


def _more(ratio: float | None, field: Mapping[str, Any]) -> str:
    if ratio is None:
        return "–" if field["best"] is None else "∞"
    return f"+{100 * (ratio - 1):.0f} %" if ratio < 10 else f"× {ratio:.0f}"


def _setup(found: Mapping[str, Any]) -> Section:
    parts: list[Part] = [Code("Command", str(found["command"]))] if found.get("command") else []
    if found.get("environment"):
        parts.append(Facts("How it was run", [("Environment", said(found["environment"]))]))
    return Section("How it was run", parts)
