"""A learning rate as it looks in a terminal of 80 columns."""

from __future__ import annotations

import math
import statistics
from io import StringIO

from downslope.compare.words import number
from downslope.diagnose.rates import Rates
from downslope.diagnose.widths import WidthCheck
from downslope.drawing import Console, Group, RenderableType, Table, Text

BAR = 24
SHADES = "█▓▒"
"""Of bars, from those of the longest runs on: bars of two lengths say nothing of each other."""


def text(found: Rates, width: int = 80) -> str:
    """Return the result as plain text."""
    console = Console(file=StringIO(), width=width, highlight=False)
    console.print(shown(found))
    return str(console.file.getvalue()).rstrip()  # type: ignore[attr-defined]


def headline(found: Rates) -> str:
    """Return the answer in a sentence."""
    who = f"{found.name} with {found.label}"
    if found.value is None:
        return f"{who}: no learning rate that was tried trained the model"
    where = (
        f", safe from {number(found.low, 2)} to {number(found.high, 2)}" if found.low and found.high else ""
    )
    ends = f", too high from {number(found.diverges, 2)}" if found.diverges else ""
    return f"{who}: lr {number(found.value, 2)}{where}{ends}; confidence {found.confidence}"


def shown(found: Rates) -> RenderableType:
    """Return everything a terminal shows of a search."""
    pieces: list[RenderableType] = [Text(headline(found), style="bold"), Text(), runs_table(found), Text()]
    if len(found.groups) > 1 and len(set(found.groups)) > 1:
        pieces.append(Text(f"Of each group: {', '.join(number(lr, 3) for lr in found.groups)}."))
    cost = f"The search took {found.cost:,} steps, as much as {found.cost / found.steps:.1f} trainings."
    pieces.append(Text(" ".join([*found.reasons, cost]), style="dim"))
    return Group(*pieces)


def runs_table(found: Rates) -> Table:
    """Return one row a rate: how the runs of each length ended, and a bar of the longest that it had."""
    lengths = sorted({r.steps for r in found.runs})
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("lr", justify="right")
    for length in lengths:
        table.add_column(f"{length} steps", justify="right")
    table.add_column("above the best as long")
    ends: dict[tuple[float, int], list[float]] = {}
    for r in found.runs:
        ends.setdefault((r.scale, r.steps), []).append(math.inf if r.failed else r.final)
    medians = {key: statistics.median(values) for key, values in ends.items()}
    best = {n: min((v for (_, m), v in medians.items() if m == n), default=math.inf) for n in lengths}
    for scale in sorted({r.scale for r in found.runs}):
        cells, bar = [], ""
        for length, shade in zip(lengths, SHADES[len(lengths) - 1 :: -1], strict=True):
            value = medians.get((scale, length))
            cells.append("" if value is None else number(value) if math.isfinite(value) else "fails")
            if value is not None:
                bar = _bar(value, best[length], shade)
        lr = scale * found.base
        safe = found.low is not None and found.high is not None and found.low <= lr <= found.high
        table.add_row(number(lr, 2), *cells, Text(bar), style="bold" if safe else "")
    return table


def _bar(value: float, best: float, shade: str) -> str:
    """Return how far a value lies above the best of its length, in twice as far a bar for each factor."""
    if not math.isfinite(value) or best <= 0:
        return ""
    return "▏" + shade * min(BAR, round(BAR * math.log2(value / best) / 3)) if value > best else "▏ best"


def widths_table(check: WidthCheck) -> RenderableType:
    """Return the verdict on widths with the rate at each."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("width", justify="right")
    table.add_column("lr", justify="right")
    for width, value in zip(check.widths, check.values, strict=True):
        table.add_row(str(width), "–" if value is None else number(value, 2))
    return Group(Text(check.sentence(), style="bold"), table)
