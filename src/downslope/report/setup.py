"""What a run was made of: command, plan, search spaces and environment, so that it can be repeated."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from downslope.report.numbers import finite, plain
from downslope.report.parts import Cell, Code, Column, Facts, Fold, Note, Part, Section, Table
from downslope.report.result import Run

WORDS = {
    "cpu": "CPU",
    "python": "Python",
    "torch": "PyTorch",
    "downslope": "Downslope",
    "trials": "trials each",
}


def section(run: Run) -> Section:
    """Return command, search spaces, plan and environment, and all of it as JSON to copy."""
    command = run.result.get("command")
    parts: list[Part] = [Code("Command", str(command)) if command else Note("The command was not recorded.")]
    spaces = [o for o in run.plan.get("optimizers") or [] if o.get("space")]
    if spaces:
        parts.append(_spaces(spaces))
    task = {k: v for k, v in run.task.items() if k != "description"}
    plan = {k: v for k, v in run.plan.items() if k != "optimizers"}
    environment = dict(run.result.get("environment") or {})
    if run.result.get("created"):
        environment = {"created": _date(str(run.result["created"])), **environment}
    facts = [("Task", task), ("Plan", plan), ("Environment", environment)]
    parts.append(Facts("How it was run", [(title, said(values)) for title, values in facts if values]))
    chosen = {
        k: run.result[k]
        for k in ("command", "created", "task", "plan", "target", "environment")
        if k in run.result
    }
    text = json.dumps(chosen, indent=2, ensure_ascii=False, default=str)
    parts.append(Fold("The configuration as JSON", [Code("Configuration", text)]))
    return Section("How it was run", parts)


def said(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return names and values as words, whatever they are.

    >>> said({"seeds": [1, 2], "goal": None, "warmup_steps": 0.05})
    [('seeds', '1, 2'), ('goal', 'none'), ('warmup steps', '0.05')]
    """
    return [(WORDS.get(name, name.replace("_", " ")), _word(value)) for name, value in values.items()]


def _word(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return plain(value, 6)
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        pairs = {k: f"({_word(v)})" if isinstance(v, list | tuple) else _word(v) for k, v in value.items()}
        return ", ".join(f"{k} {v}" for k, v in pairs.items())
    return ", ".join(_word(v) for v in value) if isinstance(value, Iterable) else str(value)


def _date(iso: str) -> str:
    """Return an ISO date as people write it, or as it came.

    >>> _date("2026-03-01T09:05:00+00:00"), _date("yesterday")
    ('1 March 2026, 09:05 UTC', 'yesterday')
    """
    try:
        date = datetime.fromisoformat(iso)
    except ValueError:
        return iso
    return f"{date.day} {date:%B %Y, %H:%M} {date.tzname() or ''}".strip()


def _spaces(optimizers: list[dict[str, Any]]) -> Table:
    """Return the declared search spaces, a row an optimizer and a column a hyper-parameter."""
    names = list(dict.fromkeys(name for o in optimizers for name in o["space"]))
    fixed = any(o.get("settings") for o in optimizers)
    columns = [Column("search space"), *(Column(name.replace("_", " "), "number") for name in names)]
    columns += [Column("fixed")] if fixed else []
    rows = []
    for o in optimizers:
        cells = [Cell(_range(o["space"].get(name), between=name == "lr")) for name in names]
        settings = Cell(_word(o.get("settings") or {}) or "–", tone="quiet")
        rows.append([Cell(str(o.get("name"))), *cells, *([settings] if fixed else [])])
    return Table("Search spaces", columns, rows)


def _range(space: Any, *, between: bool) -> str:
    """Return what was searched in words: from low to high, choices, or one fixed value."""
    if space is None:
        return "–"
    if not isinstance(space, list):
        return _word(space)
    words = [plain(v) if finite(v) is not None else str(v) for v in space]
    return " – ".join(words) if between and len(words) == 2 else ", ".join(words)
