"""A grid of runs in a terminal: a map for each optimizer, and a table."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from downslope.compare.words import more, number

SHADES = ("█", "▓", "▒", "░", "·")
STEPS = (0.05, 0.2, 0.5, 1.0)
"""Excess over the best, in the logarithm, at which a darker shade ends."""


def show(found: dict[str, Any]) -> None:
    """Print the finding, a map for each optimizer, and the table."""
    out = Console(highlight=False)
    out.print()
    out.print(found["sentence"], style="bold", markup=False)
    for field in found["fields"]:
        out.print()
        out.print(map_of(field, found))
    out.print()
    out.print(table(found))
    others = f"× {found['lost']}" + (f", … {found['short']}" if "short" in found else "")
    out.print(
        f"Maps: {SHADES[0]} within 5 % of the best, {SHADES[1]} 22 %, {SHADES[2]} 65 %, {SHADES[3]} 2.7 "
        f"times, {SHADES[4]} beyond, {others}. A row away: what the worse neighbouring row costs.",
        style="dim",
        markup=False,
    )


def map_of(field: dict[str, Any], found: dict[str, Any]) -> Table:
    """Return one optimizer's grid in shades, rows by what is varied first."""
    drawn = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="dim")
    drawn.add_column(field["label"], justify="right")
    for column in field["columns"]:
        drawn.add_column(f"{column:g}", justify="center")
    drawn.add_column("median", justify="right")
    known = [v for row in field["values"] for v in row if v is not None]
    best = min(known, default=1.0)
    for row, values, done, short in zip(
        field["rows"], field["values"], field["done"], shorts(field), strict=True
    ):
        cells = [_shade(v, best, d, s) for v, d, s in zip(values, done, short, strict=True)]
        ends = [math.inf if v is None else v for v, d in zip(values, done, strict=True) if d]
        middle = statistics.median(ends) if ends else math.nan
        word = found["short"] if 2 * sum(short) > len(ends) else found["lost"]
        said = number(middle) if math.isfinite(middle) else word if ends else "–"
        drawn.add_row(number(row, 2), *cells, said, style="bold" if row == field["best_row"] else "")
    return drawn


def shorts(field: Mapping[str, Any]) -> Sequence[Sequence[bool]]:
    """Return which runs ran out of steps: none where a run has as many as it is to have."""
    return field.get("short") or [[False] * len(row) for row in field["values"]]


def _shade(value: float | None, best: float, done: bool, short: bool) -> Text:
    if not done:
        return Text("–", style="dim")
    if value is None:
        return Text("…", style="yellow") if short else Text("×", style="red")
    excess = math.log(value / best) if value > 0 and best > 0 else value - best
    return Text(next((s for s, end in zip(SHADES, STEPS, strict=False) if excess <= end), SHADES[-1]) * 3)


def table(found: dict[str, Any]) -> Table:
    """Return one row an optimizer."""
    drawn = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    spent = [found["short"].replace(" of ", " of\n")] if "short" in found else []
    for head in (
        "",
        "best\n" + "\n".join(found["row"].rsplit(" ", 1)),
        "ends at",
        "rows\nwithin\n10 %",
        "a row\naway",
        f"worst\n{found['column']}",
        found["lost"].replace(" ", "\n"),
        *spent,
    ):
        drawn.add_column(head, justify="left" if not head else "right")
    for f in found["fields"]:
        drawn.add_row(
            f["label"],
            "–" if f["best_row"] is None else number(f["best_row"], 2),
            "–" if f["best"] is None else number(f["best"]),
            f"{f['room']} of {len(f['rows'])}",
            _times(f["row_factor"], f),
            _times(f["column_factor"], f),
            f"{f['lost']} of {f['cells']}",
            *[f"{sum(map(sum, f['short']))} of {f['cells']}" for _ in spent],
        )
    return drawn


def _times(ratio: float | None, field: dict[str, Any]) -> str:
    if ratio is None:
        return "–" if field["best"] is None else "∞"
    return more(ratio)
