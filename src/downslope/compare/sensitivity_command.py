"""`downslope compare --sensitivity`: the grid of a training or of a solve, shown."""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from downslope.compare import terminal
from downslope.compare.command import INTERRUPTED, print_json, write_grid
from downslope.compare.folder import RunFolder, as_text, plain_name, write_file
from downslope.compare.prepare import prepare
from downslope.compare.sensitivity import RATES, grid_of, run, summary
from downslope.compare.words import more, number
from downslope.errors import UsageError, closest
from downslope.tasks.load import KNOWN

SHADES = ("█", "▓", "▒", "░", "·")
STEPS = (0.05, 0.2, 0.5, 1.0)
"""Excess over the best, in the logarithm, at which a darker shade ends."""

RADII = (0.001, 0.01, 0.1, 1.0)
METHODS = ("l-bfgs", "bfgs", "cg", "gd")
SOLVE_STEPS = 2000

WITHOUT_MEANING = ("trials", "goal", "storage")
OF_TRAININGS = ("across", "schedule", "warmup", "lr", "jobs", "threads")
"""Options of `downslope compare` that a grid has no use for, and those that a solve has none for either."""


def run_sensitivity(
    spec: str,
    *,
    across: str = "seed",
    seeds: int = 5,
    optimizers: Sequence[str] | None = None,
    as_json: bool = False,
    dry_run: bool = False,
    typed: Collection[str] = (),
    **options: Any,
) -> int:
    """Fill the grid, show it, write the page, and return the exit code; `typed` names the options given.

    Raises:
        UsageError: neither a task nor a problem, an option out of range, or one that has no meaning here.

    """
    told = Console(stderr=True, highlight=False)
    for option in WITHOUT_MEANING:
        if option in typed:
            raise UsageError(f"--{option} has no meaning with --sensitivity: leave it out")
    if is_solve(spec):
        for option in OF_TRAININGS:
            if option in typed:
                raise UsageError(
                    f"--{option} is of trainings, and {spec} is a problem to solve: leave it out"
                )
        return _run_solve(
            spec,
            methods=optimizers or METHODS,
            seeds=seeds,
            seed=options.get("seed") or 0,
            steps=options.get("steps"),
            out=options.get("out"),
            command=options.get("command", ""),
            as_json=as_json,
            dry_run=dry_run,
            told=told,
        )
    if across == "decay" and "seeds" in typed:
        raise UsageError("--seeds has no meaning with --across decay, whose runs have one seed: leave it out")
    from downslope.compare.optimizers import DEFAULT

    session = prepare(spec, optimizers=optimizers or DEFAULT, trials=RATES, seeds=1, **options)
    grid = grid_of(session, across, seeds)
    if options.get("out") is None:
        where = session.folder.path
        session.folder = RunFolder(where.with_name(f"sensitivity-{across}-{len(grid.columns)}-{where.name}"))
    session.folder.require_possible()
    count = RATES * len(grid.columns) * len(grid.rates)
    told.print(
        f"{session.plan.task}: {count} runs of {session.plan.steps} steps, {RATES} learning rates × "
        f"{len(grid.columns)} {'seeds' if across == 'seed' else 'weight decays'} of each optimizer",
        markup=False,
    )
    if dry_run:
        if as_json:
            plan = {"task": session.plan.task, "steps": session.plan.steps, "across": across}
            print_json({"plan": {**plan, "columns": list(grid.columns), "rates": grid.rates}, "runs": count})
        return 0
    with terminal.Live(told) as live:
        session.observer = live
        found = run(session, grid)
    code = _finish(found, session.folder, as_json)
    if found["interrupted"]:
        told.print("Stopped; what is done is kept, and the same command goes on from here.")
        return INTERRUPTED
    return code


def _run_solve(
    spec: str,
    *,
    methods: Sequence[str],
    seeds: int,
    seed: int,
    steps: int | None,
    out: Path | None,
    command: str,
    as_json: bool,
    dry_run: bool,
    told: Console,
) -> int:
    from downslope.solvers.methods import SQUARES, method_of

    steps = SOLVE_STEPS if steps is None else steps
    for option, value, least in (("seeds", seeds, 1), ("seed", seed, 0), ("steps", steps, 1)):
        if value < least:
            raise UsageError(f"--{option} {value}: expected at least {least}")
    for method in methods:
        method_of(method)
        if methods.count(method) > 1:
            raise UsageError(f"method {method!r} stands twice: name each once")
        if method in SQUARES:
            raise UsageError(f"{method} takes residuals, which a solve has none of: name another method")
    folder = RunFolder(Path(out or Path("runs") / f"sensitivity-{plain_name(spec)}"))
    folder.require_possible("a solve")
    told.print(
        f"{spec}: {len(RADII) * seeds * len(methods)} solves of at most {steps} steps: "
        f"{len(RADII)} distances × {seeds} directions × {len(methods)} methods"
    )
    if dry_run:
        if as_json:
            plan = {"problem": spec, "steps": steps, "methods": list(methods), "distances": list(RADII)}
            print_json({"plan": {**plan, "directions": seeds}, "runs": len(RADII) * seeds * len(methods)})
        return 0
    return _finish(solve(spec, methods, seeds, seed, command, steps), folder, as_json)


def is_solve(spec: str) -> bool:
    """Whether this names a problem to solve and no task to train.

    Raises:
        UsageError: it names neither.

    """
    if spec in KNOWN or ".py" in spec:
        return False
    from downslope.tasks.problems import NAMES, problem

    try:
        problem(spec)
    except UsageError:
        raise UsageError(
            f"{spec!r}: expected a task ({', '.join(KNOWN)}, or path.py:name) or a problem that comes along, "
            f"as rosenbrock{closest(spec, [*KNOWN, *NAMES])}"
        ) from None
    return True


def solve(
    spec: str, methods: Sequence[str], seeds: int, seed: int, command: str, steps: int = SOLVE_STEPS
) -> dict[str, Any]:
    """Return the grid of a solve: how far its start is moved × in which direction.

    The start is moved by a share of max(1, ‖x₀‖) in a random direction; a cell counts the evaluations
    it takes to the lowest value that any run found. It is lost where a run ends elsewhere, and short where
    the steps ran out on the way.
    """
    import numpy as np

    from downslope.solvers import Status, Stop, minimize
    from downslope.solvers.race.run import close
    from downslope.solvers.race.target import target

    given = target(spec, program=None, x0=None, n=None, framework="numpy", workers=1, timeout=60.0)
    start = np.asarray(given.x0, dtype=np.float64)
    size = max(1.0, float(np.linalg.norm(start)))
    ends: dict[str, list[list[tuple[float, int, bool]]]] = {m: [] for m in methods}
    for radius in RADII:
        rows: dict[str, list[tuple[float, int, bool]]] = {m: [] for m in methods}
        for s in range(seed, seed + seeds):
            way = np.random.default_rng(s).standard_normal(start.shape)
            x0 = start + radius * size * way / np.linalg.norm(way)
            for method in methods:
                end = minimize(given.fun, x0, method=method, gradient=given.gradient, stop=Stop(steps=steps))
                if end.status is Status.INTERRUPTED:
                    raise KeyboardInterrupt
                spent = end.status in (Status.STEPS, Status.EVALUATIONS)
                rows[method].append((float(end.value), int(end.evaluations), spent))
        for method in methods:
            ends[method].append(rows[method])
    known = [v for rows in ends.values() for row in rows for v, *_ in row if math.isfinite(v)]
    low = min([*known, *(m.value for m in given.minima if m.value is not None)], default=math.nan)
    fields = []
    for method in methods:
        cells = [[float(n) if close(v, low) else math.inf for v, n, _ in row] for row in ends[method]]
        short = [[spent and not close(v, low) for v, _, spent in row] for row in ends[method]]
        said = summary(RADII, cells)
        fields.append(
            {
                "name": method,
                "label": method,
                "rows": list(RADII),
                "columns": list(range(seed, seed + seeds)),
                "values": [[v if math.isfinite(v) else None for v in row] for row in cells],
                "done": [[True] * seeds for _ in RADII],
                "short": short,
                **said,
                "lost": said["lost"] - sum(map(sum, short)),
            }
        )
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


def _finish(found: dict[str, Any], folder: RunFolder, as_json: bool) -> int:
    if as_json:
        print_json(found)
    else:
        show(found)
    write_file(folder.result_file, as_text(found), "--out")
    write_grid(found, folder.report_file)
    if not as_json:
        Console(highlight=False).print(f"\nReport: {folder.report_file}", markup=False, soft_wrap=True)
    return 0 if any(f["best"] is not None for f in found["fields"]) else 1


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
