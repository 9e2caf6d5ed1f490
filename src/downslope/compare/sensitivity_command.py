"""`downslope compare --sensitivity`: the grid of a training or of a solve."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from downslope.compare import terminal
from downslope.compare.command import INTERRUPTED, print_json, write_grid
from downslope.compare.folder import RunFolder, as_text, plain_name, write_file
from downslope.compare.prepare import prepare
from downslope.compare.sensitivity import RATES, grid_of, run
from downslope.compare.sensitivity_solve import METHODS, RADII, STEPS, solve
from downslope.compare.sensitivity_table import show
from downslope.errors import UsageError, closest
from downslope.tasks.load import KNOWN

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

    steps = STEPS if steps is None else steps
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
