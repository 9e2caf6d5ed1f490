"""The partition on a page: how much each rule holds, and a row a parameter, repeated layers folded."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from math import prod
from typing import Any

from downslope.report.numbers import count, counted, listed
from downslope.report.parts import Cell, Column, Note, Part, Section, Share, Shares, Table

INTEGER = re.compile(r"\d+")
COLUMNS = (
    Column("parameter", "code"),
    Column("shape", "number"),
    Column("role"),
    Column("rule", "code"),
    Column("matrices", "number", "count × fan_out×fan_in that the rule sees"),
    Column("why"),
)


def section(partition: dict[str, Any] | None, optimizer: str = "") -> Section:
    """Return the section of a partition, or one that says that there is none; `optimizer` is who made it."""
    title = "Which parameter gets which rule"
    assignments = (partition or {}).get("assignments") or []
    if not partition or not assignments:
        return Section(
            title, [Note("No partition was recorded: no optimizer of this run tells parameters apart.")]
        )
    parts: list[Part] = [_shares(assignments)]
    parts += [Note(f"{_name(a)}: {a['warning']}", "warning") for a in assignments if a.get("warning")]
    parts.append(
        Table(
            "Parameters with role, rule and reason", COLUMNS, [_row(group) for group in folded(assignments)]
        )
    )
    return Section(title, parts, f"As {optimizer or 'the optimizer'} takes the model apart, and why.")


def folded(assignments: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Return the assignments in order, those of repeated layers together.

    Two belong together where their names and reasons differ in numbers alone (a layer's index, its
    depth), and all else that the page says of them is the same.
    """
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for a in assignments:
        why = INTEGER.sub("#", str(a.get("reason") or ""))
        said = (a.get("role"), a.get("rule"), a.get("matrices"), why, a.get("warning"))
        groups[(INTEGER.sub("#", _name(a)), _shape(a), *said)].append(a)
    return list(groups.values())


def pattern(names: Sequence[str]) -> str:
    """Return the one text of texts that differ in numbers alone.

    >>> pattern(["blocks.0.mlp.weight", "blocks.1.mlp.weight", "blocks.2.mlp.weight"])
    'blocks.{0–2}.mlp.weight'
    >>> pattern(["conv.0.weight", "conv.3.weight"])
    'conv.{0, 3}.weight'
    """
    words = INTEGER.split(names[0])
    columns = zip(*(INTEGER.findall(name) for name in names), strict=True)
    return words[0] + "".join(_span(column) + word for column, word in zip(columns, words[1:], strict=True))


def _span(numbers: Iterable[str]) -> str:
    values = sorted({int(n) for n in numbers})
    if len(values) == 1:
        return str(values[0])
    if values == list(range(values[0], values[-1] + 1)):
        return f"{{{values[0]}–{values[-1]}}}" if len(values) > 2 else f"{{{values[0]}, {values[1]}}}"
    return f"{{{listed([str(v) for v in values], most=4).replace(' and ', ', ')}}}"


def _name(assignment: dict[str, Any]) -> str:
    return str(assignment.get("name") or "unnamed")


def _shape(assignment: dict[str, Any]) -> tuple[int, ...]:
    return tuple(assignment.get("shape") or ())


def _row(group: list[dict[str, Any]]) -> list[Cell]:
    a, names = group[0], [_name(a) for a in group]
    many = len(group) > 1
    count = f"×\N{NO-BREAK SPACE}{len(group)}" if many else ""
    shape = _shape(a)
    return [
        Cell(pattern(names), count, folded=tuple(names) if many else ()),
        Cell("×".join(map(str, shape)) if shape else "scalar"),
        Cell(a.get("role") or "–", role=a.get("role") or ""),
        Cell(a.get("rule") or "–", tone="strong" if a.get("rule") == "muon" else ""),
        Cell(a.get("matrices") or "–", tone="" if a.get("matrices") else "quiet"),
        Cell(pattern([str(g.get("reason") or "–") for g in group]), a.get("warning") or "", tone="quiet"),
    ]


def _shares(assignments: Sequence[dict[str, Any]]) -> Shares:
    """Return the elements of the model by role, largest first, each role with the rules it gets."""
    sizes: dict[str, int] = defaultdict(int)
    rules: dict[str, set[str]] = defaultdict(set)
    for a in assignments:
        sizes[a.get("role") or "–"] += prod(_shape(a))
        rules[a.get("role") or "–"].add(a.get("rule") or "–")
    total = sum(sizes.values()) or 1
    order = sorted(sizes, key=lambda role: -sizes[role])
    pieces = [
        Share(role, sizes[role], f"{listed(sorted(rules[role]))}, {100 * sizes[role] / total:.2g} %", role)
        for role in order
    ]
    return Shares(f"{counted(len(assignments), 'tensor')}, {count(total)} parameters, by role", pieces)
