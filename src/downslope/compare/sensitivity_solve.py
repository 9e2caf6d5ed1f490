"""How much a solve hangs on where it starts: the grid of `downslope compare PROBLEM --sensitivity`."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from downslope.compare.sensitivity import summary
from downslope.solvers.race.target import Target, target

RADII = (0.001, 0.01, 0.1, 1.0)
METHODS = ("l-bfgs", "bfgs", "cg", "gd")
STEPS = 2000


@dataclass(frozen=True)
class End:
    """How a solve ended; `spent` is whether its steps ran out."""

    value: float
    evaluations: int
    spent: bool


def solve(
    spec: str, methods: Sequence[str], seeds: int, seed: int, command: str, steps: int = STEPS
) -> dict[str, Any]:
    """Return the grid of a solve: how far its start is moved × in which direction.

    The start is moved by a share of max(1, ‖x₀‖) in a random direction; a cell counts the evaluations
    it takes to the lowest value that any run found. It is lost where a run ends elsewhere, and short where
    the steps ran out on the way.
    """
    given = target(spec, program=None, x0=None, n=None, framework="numpy", workers=1, timeout=60.0)
    directions = range(seed, seed + seeds)
    ends = _ends(given, methods, directions, steps)
    known = [e.value for rows in ends.values() for row in rows for e in row if math.isfinite(e.value)]
    low = min([*known, *(m.value for m in given.minima if m.value is not None)], default=math.nan)
    fields = [_field(method, ends[method], directions, low) for method in methods]
    return {
        "schema": 1,
        "kind": "sensitivity",
        "name": given.name,
        "metric": "evaluations to the lowest minimum",
        "row": "start moved by",
        "column": "direction",
        "lost": "ends elsewhere",
        "short": "out of steps",
        "steps": steps,
        "fields": fields,
        "sentence": solve_sentence(fields),
        "command": command,
        "environment": {},
        "interrupted": False,
    }


def _ends(
    given: Target, methods: Sequence[str], directions: Sequence[int], steps: int
) -> dict[str, list[list[End]]]:
    """Return how each method ends from every start, a row for each distance."""
    import numpy as np

    from downslope.solvers import Status, Stop, minimize

    start = np.asarray(given.x0, dtype=np.float64)
    size = max(1.0, float(np.linalg.norm(start)))
    ends: dict[str, list[list[End]]] = {m: [] for m in methods}
    for radius in RADII:
        for rows in ends.values():
            rows.append([])
        for direction in directions:
            way = np.random.default_rng(direction).standard_normal(start.shape)
            x0 = start + radius * size * way / np.linalg.norm(way)
            for method in methods:
                end = minimize(given.fun, x0, method=method, gradient=given.gradient, stop=Stop(steps=steps))
                if end.status is Status.INTERRUPTED:
                    raise KeyboardInterrupt
                spent = end.status in (Status.STEPS, Status.EVALUATIONS)
                ends[method][-1].append(End(float(end.value), int(end.evaluations), spent))
    return ends


def _field(
    method: str, rows: Sequence[Sequence[End]], directions: Sequence[int], low: float
) -> dict[str, Any]:
    """Return the map of one method, whose runs arrive where they end at the value `low`."""
    from downslope.solvers.race.run import close

    cells = [[float(e.evaluations) if close(e.value, low) else math.inf for e in row] for row in rows]
    short = [[e.spent and not close(e.value, low) for e in row] for row in rows]
    said = summary(RADII, cells)
    return {
        "name": method,
        "label": method,
        "rows": list(RADII),
        "columns": list(directions),
        "values": [[v if math.isfinite(v) else None for v in row] for row in cells],
        "done": [[True] * len(row) for row in rows],
        "short": short,
        **said,
        "lost": said["lost"] - sum(map(sum, short)),
    }


def solve_sentence(fields: Sequence[dict[str, Any]]) -> str:
    """Return what starts moved about do to each method: how many evaluations, and which runs did not arrive.

    >>> solve_sentence([{"label": "bfgs", "rows": [0.1, 1.0], "values": [[30, 32], [28, None]],
    ...     "done": [[True, True], [True, True]], "lost": 1, "cells": 4}])
    'From starts moved by up to 1, bfgs takes 28 to 32 evaluations (median 30; 1 of 4 ends elsewhere).'
    >>> solve_sentence([{"label": "gd", "rows": [1.0], "values": [[None, None]],
    ...     "short": [[True, True]], "lost": 0, "cells": 2}])
    'From starts moved by up to 1, gd finds no minimum (2 of 2 run out of steps).'

    """
    said = []
    for f in fields:
        known = [v for row in f["values"] for v in row if v is not None]
        counts = (f["lost"], "end", "elsewhere"), (sum(map(sum, f.get("short", ()))), "run", "out of steps")
        ends = [
            f"{count} of {f['cells']} {verb}{'s' if count == 1 else ''} {how}"
            for count, verb, how in counts
            if count
        ]
        if not known:
            said.append(f"{f['label']} finds no minimum ({'; '.join(ends)})")
            continue
        middle = "; ".join([f"median {statistics.median(known):.0f}", *ends])
        said.append(f"{f['label']} takes {min(known):.0f} to {max(known):.0f} evaluations ({middle})")
    reach = max((max(f["rows"]) for f in fields), default=0.0)
    return f"From starts moved by up to {reach:.2g}, {', '.join(said)}."
