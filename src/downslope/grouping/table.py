"""A partition as a table: one row a kind of parameter, layers folded, warnings where they stand out."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from io import StringIO
from math import prod
from typing import TYPE_CHECKING

from downslope.drawing import Console, ConsoleOptions, RenderResult, Table, Text, box
from downslope.grouping.partition import Assignment, Role
from downslope.words import many

if TYPE_CHECKING:
    from downslope.grouping.partition import Partition

_STYLES = {"muon": "bold green", "adamw": "cyan", "none": "dim"}
_NUMBER = re.compile(r"(?<![^./_])\d+(?![^./])")
"""A layer's number, as PyTorch (`layers.3.w`), Flax (`Dense_3.kernel`) and Keras (`dense_3/kernel`) count."""


@dataclass(frozen=True)
class Row:
    """Parameters that are one kind: the same name but for layer numbers, shape, role and reason."""

    name: str
    members: tuple[Assignment, ...]


def folded(assignments: Iterable[Assignment], *, every: bool = True) -> list[Row]:
    """Return one row a kind: `blocks.{0-11}.attn.weight`.

    Layer numbers are folded as long as shape, role, rule, view and warning agree; the depth may
    differ. Unless `every`, biases and gains are gathered into one row for each last part of a name.
    """
    kinds: dict[tuple[object, ...], list[Assignment]] = {}
    for a in assignments:
        same = (a.role, a.rule, a.warning, _depthless(a.reason))
        plain = a.role is Role.VECTOR and len(a.shape) < 2 and not a.warning and not every
        exact = (_last(a.name),) if plain else (_NUMBER.sub("#", a.name), a.shape, a.view)
        kinds.setdefault((*exact, *same), []).append(a)
    return [Row(_name([a.name for a in group]), tuple(group)) for group in kinds.values()]


def _last(name: str) -> str:
    return re.split("[./]", name)[-1]


def _depthless(reason: str) -> str:
    return re.sub(r"depths? \d+( to \d+)?", "depth", reason).split("; shared with")[0]


def _name(names: list[str]) -> str:
    """Fold the numbers that differ: `a.0.b`, `a.1.b` is `a.{0-1}.b`; other names keep their last part."""
    if len({_NUMBER.sub("#", n) for n in names}) > 1:
        stroke = not any("." in n for n in names) and any("/" in n for n in names)
        return f"*{'/' if stroke else '.'}{_last(names[0])}"
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
    shapes = {m.shape for m in row.members}
    if len(shapes) > 1:
        sizes = sorted(prod(shape) for shape in shapes)
        return f"{sizes[0]} to {sizes[-1]}"
    return a.view.describe(a.shape) if a.view else "×".join(map(str, a.shape)) or "scalar"


def _broken(name: str, width: int) -> str:
    """Break a long name after its dots and strokes; parts that are too long, between their words."""
    parts = re.findall(r"[^./]+[./]?|[./]", name)
    lines = [""]
    for part in parts:
        for piece in [part] if len(part) < width else re.findall("[A-Z][^A-Z_]*_*|[^A-Z_]+_*|_+", part):
            if lines[-1] and len(lines[-1]) + len(piece) > width:
                lines.append(" ")
            lines[-1] += piece
    return "\n".join(lines)


@dataclass(frozen=True)
class PartitionTable:
    """A partition as something that rich prints, in the width that there is."""

    partition: Partition
    every: bool = False

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        rows = folded(self.partition, every=self.every)
        yield _grid(rows, options.max_width)
        yield from _totals(self.partition)
        yield from _warnings(rows)


def _grid(rows: list[Row], width: int) -> Table:
    names = [("! " if row.members[0].warning else "") + row.name for row in rows]
    matrices = [shape_of(row) for row in rows]
    left = width - 9 - 5 - 14  # beside the role, the rule, and the space around five columns
    wide = min(max(map(len, matrices), default=11), max(left // 4, 11))
    name = min(max(map(len, [*names, "parameter"])), max((left - wide) // 2, 9))
    t = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    t.add_column("parameter", width=name, overflow="fold")
    t.add_column("as matrices", width=max(wide, 11), overflow="fold")
    t.add_column("role", width=9)
    t.add_column("rule", width=5)
    t.add_column("because", width=max(left - name - max(wide, 11), 12), overflow="fold")
    for row, label, shape in zip(rows, names, matrices, strict=True):
        a = row.members[0]
        alike = f" ({len(row.members)} of them)" if row.name.startswith(("*.", "*/")) else ""
        t.add_row(
            Text(_broken(label, name), "bold yellow" if a.warning else ""),
            shape,
            a.role.value,
            Text(a.rule, _STYLES[a.rule]),
            Text(reason_of(row) + alike),
        )
    return t


def table(partition: Partition, *, every: bool = False) -> PartitionTable:
    """Return the partition as something that rich prints."""
    return PartitionTable(partition, every)


def _totals(partition: Partition) -> list[Text]:
    whole = max(sum(prod(a.shape) for a in partition), 1)
    lines = []
    for rule in ("muon", "adamw", "none"):
        own = [a for a in partition if a.rule == rule]
        if own:  # how many, how large, and in how many matrices
            n = sum(prod(a.shape) for a in own)
            name = Text(f"{rule:<6}", _STYLES[rule])
            matrices = (
                sum(m[0] for a in own if a.view for m in a.view.matrices(a.shape)) if rule == "muon" else 0
            )
            what = f" in {many(matrices, 'matrix', 'matrices')}" if matrices else ""
            parameters, numbers = many(len(own), "parameter"), many(n, "number")
            lines.append(name + Text(f"{parameters:>16}, {numbers:>21} ({n / whole:.1%}){what}"))
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
