"""A partition as a table: one row a kind of parameter, layers folded, warnings where they stand out."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from io import StringIO
from math import prod
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from downslope.grouping.partition import Assignment, Partition

_STYLES = {"muon": "bold green", "adamw": "cyan", "none": "dim"}
_NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")


@dataclass(frozen=True)
class Row:
    """Parameters that are one kind: the same name but for layer numbers, shape, role and reason."""

    name: str
    members: tuple[Assignment, ...]

    @property
    def count(self) -> int:
        """How many numbers the parameters hold."""
        return sum(prod(a.shape) for a in self.members)


def folded(assignments: Iterable[Assignment]) -> list[Row]:
    """Return one row a kind: `blocks.{0-11}.attn.weight`.

    Layer numbers are folded as long as shape, role, rule, view and warning agree; the depth may differ.
    """
    kinds: dict[tuple[object, ...], list[Assignment]] = {}
    for a in assignments:
        key = (
            _NUMBER.sub("#", a.name),
            a.shape,
            a.role,
            a.rule,
            a.view,
            bool(a.warning),
            _depthless(a.reason),
        )
        kinds.setdefault(key, []).append(a)
    return [Row(_name([a.name for a in group]), tuple(group)) for group in kinds.values()]


def _depthless(reason: str) -> str:
    return re.sub(r"depths? \d+( to \d+)?", "depth", reason).split("; shared with")[0]


def _name(names: list[str]) -> str:
    """Fold the numbers that differ: `a.0.b`, `a.1.b` is `a.{0-1}.b`."""
    numbers = [_NUMBER.findall(n) for n in names]
    columns = list(zip(*numbers, strict=True))
    spans = iter([_span({int(v) for v in column}) for column in columns])
    return _NUMBER.sub(lambda _: next(spans), names[0])


def _span(values: set[int]) -> str:
    """Return numbers as ranges: {0, 1, 2, 5} is `{0-2,5}`."""
    if len(values) == 1:
        return str(next(iter(values)))
    runs: list[list[int]] = []
    for v in sorted(values):
        if runs and v == runs[-1][-1] + 1:
            runs[-1].append(v)
        else:
            runs.append([v])
    steps = {b - a for a, b in zip(sorted(values), sorted(values)[1:], strict=False)}
    if len(values) > 3 and len(steps) == 1 and (step := steps.pop()) > 1:
        return f"{{{min(values)}-{max(values)}:{step}}}"
    return "{" + ",".join(str(r[0]) if len(r) == 1 else f"{r[0]}-{r[-1]}" for r in runs) + "}"


def reason_of(row: Row) -> str:
    """Return the reason of a row; where depths differ, their range."""
    depths = [int(d) for a in row.members for d in re.findall(r"depths? (\d+)(?: to \d+)?", a.reason)]
    depths += [int(d) for a in row.members for d in re.findall(r"depths \d+ to (\d+)", a.reason)]
    reason = (
        row.members[0].reason.split("; shared with")[0] if len(row.members) > 1 else row.members[0].reason
    )
    if len(set(depths)) < 2:
        return reason
    return re.sub(r"depths? \d+( to \d+)?", f"depths {min(depths)} to {max(depths)}", reason, count=1)


def shape_of(row: Row) -> str:
    """Return the shape of one member as matrices where it has a view, else as it is."""
    a = row.members[0]
    matrices = a.view.describe(a.shape) if a.view else "×".join(map(str, a.shape)) or "scalar"
    return f"{matrices}, {len(row.members)} times" if len(row.members) > 1 else matrices


def table(partition: Partition, *, reasons: bool = True) -> RenderableType:
    """Return the partition as something that rich prints."""
    t = Table(box=box.SIMPLE_HEAD, pad_edge=False, expand=False)
    t.add_column("parameter", overflow="fold", ratio=5)
    t.add_column("as matrices", overflow="fold", ratio=3)
    t.add_column("role", no_wrap=True)
    t.add_column("rule", no_wrap=True)
    if reasons:
        t.add_column("because", overflow="fold", ratio=5)
    rows = folded(partition)
    for row in rows:
        a = row.members[0]
        mark = Text("! ", "bold yellow") if a.warning else Text()
        cells: list[RenderableType] = [
            mark + Text(row.name),
            shape_of(row),
            a.role.value,
            Text(a.rule, _STYLES[a.rule]),
        ]
        t.add_row(*cells, *([reason_of(row)] if reasons else []))
    return Group(t, *_totals(partition), *_warnings(rows))


def _totals(partition: Partition) -> list[Text]:
    whole = max(sum(prod(a.shape) for a in partition), 1)
    lines = []
    for rule in ("muon", "adamw", "none"):
        own = [a for a in partition if a.rule == rule]
        if own:
            n = sum(prod(a.shape) for a in own)
            name = Text(f"{rule:<6}", _STYLES[rule])
            matrices = (
                sum(m[0] for a in own if a.view for m in a.view.matrices(a.shape)) if rule == "muon" else 0
            )
            what = f" in {matrices:,} matrices" if matrices else ""
            lines.append(name + Text(f"{len(own):>5} parameters, {n:>13,} numbers ({n / whole:.1%}){what}"))
    return lines


def _warnings(rows: list[Row]) -> list[Text]:
    return [
        Text(f"! {row.name}: {row.members[0].warning}", "bold yellow")
        for row in rows
        if row.members[0].warning
    ]


def plain(partition: Partition, width: int = 80) -> str:
    """Return the table as plain text that fits this many columns."""
    out = StringIO()
    Console(file=out, width=width, color_system=None, legacy_windows=False).print(table(partition))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())
