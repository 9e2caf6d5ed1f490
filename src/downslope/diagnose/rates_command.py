"""`downslope lr TASK`: a learning rate, with a safe range."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from downslope.compare.command import print_json
from downslope.compare.folder import plain_name, require_writable, write_file
from downslope.compare.optimizers import Candidate, choose
from downslope.compare.plan import require_seed
from downslope.compare.session import cores, cpu_name
from downslope.diagnose.rates import Rates
from downslope.diagnose.rungs import (
    LONGEST,
    SHORTEST,
    SWEEP_SEEDS,
    Seeds,
    planned,
    room_for_more,
    seeds_of,
    sweep_steps,
)
from downslope.diagnose.widths import WidthCheck, check
from downslope.errors import UsageError
from downslope.tasks import Task, load


def run_lr(
    spec: str,
    *,
    optimizers: Sequence[str],
    steps: int | None = None,
    seeds: int = 2,
    whole_seeds: int = 1,
    seed: int = 0,
    schedule: str = "linear",
    warmup: float = 0.1,
    weight_decay: float = 0.0,
    longest: int = LONGEST,
    widths: Sequence[int] = (),
    threads: int | None = None,
    out: Path | None = None,
    command: str = "",
    as_json: bool = False,
    dry_run: bool = False,
) -> int:
    """Search learning rates of a task, show them, write the page, and return the exit code.

    Raises:
        UsageError: no such task or optimizer, a number out of range, a task without widths.

    """
    task = load(spec)
    candidates = choose(optimizers, task.learning_rates, {})
    tasks = at_widths(task, widths)
    threads = cores() if threads is None else threads
    if not 1 <= threads <= cores():
        raise UsageError(f"--threads {threads}: expected 1 to {cores()}, the cores of this machine")
    for option, count in (("--seeds", seeds), ("--whole-seeds", whole_seeds)):
        if count < 1:
            raise UsageError(f"{option} {count}: expected at least 1")
    require_seed(seed, "--seed")
    if not 0 <= weight_decay < math.inf:
        raise UsageError(f"--weight-decay {weight_decay:g}: expected a number of at least 0")
    if not 0 <= warmup < 1:
        raise UsageError(f"--warmup {warmup:g}: expected a share of the training, at least 0 and below 1")
    length = task.steps if steps is None else steps
    for option, value in (("--steps", length), ("--longest", longest)):
        if value < SHORTEST:
            raise UsageError(f"{option} {value}: expected at least {SHORTEST}, for runs of a quarter of them")
    from downslope.diagnose.torch.rates import schedule_of

    schedule_of(schedule, warmup)  # a dry run refuses what the search would
    page = out or Path("runs") / f"lr-{plain_name(task.name)}.html"
    require_writable(page, "--out")
    told = Console(stderr=True, highlight=False)
    told.print(plan_line(length, longest, seeds_of(seed, seeds, whole_seeds), len(tasks) * len(candidates)))
    if dry_run:
        if as_json:
            plan = {
                "task": task.name,
                "steps": length,
                "longest": longest,
                "seeds": seeds,
                "whole_seeds": whole_seeds,
                "schedule": schedule,
                "optimizers": [c.name for c in candidates],
                "widths": list(widths),
            }
            print_json({"plan": plan})
        return 0
    searched = _search(
        tasks,
        candidates,
        threads,
        told,
        steps=steps,
        seeds=seeds,
        whole_seeds=whole_seeds,
        seed=seed,
        schedule=schedule,
        warmup=warmup,
        weight_decay=weight_decay,
        longest=longest,
    )
    environment = {"cpu": cpu_name(), "threads": threads, "command": command}
    found = [[replace(r, environment=environment) for r in one] for one in searched]
    checks = [check(widths, one) for one in found] if widths else []
    if as_json:
        print_json(as_dict(found, checks))
    else:
        _show(found, checks)
    _write_page(page, found, checks)
    if not as_json:
        Console(highlight=False).print(f"Report: {page}", markup=False, soft_wrap=True)
    return 0 if all(r.value is not None for one in found for r in one) else 1


def plan_line(steps: int, longest: int, seeds: Seeds, searches: int) -> str:
    """Return what a search takes, in steps.

    >>> plan_line(200, 1000, seeds_of(0, 2, 1), 1)
    '1 search of 1,335 to 1,939 steps, as much as 6.7 to 9.7 trainings of 200 steps'
    >>> plan_line(2000, 2000, seeds_of(0, 2, 2), 1)  # 3 to 7 more than the 6.1 to 9.7 with one seed
    '1 search of 18,135 to 32,665 steps, as much as 9.1 to 16.3 trainings of 2000 steps'

    """
    longest = min(longest, steps)
    sweeps = SWEEP_SEEDS * sweep_steps(longest)
    least = sweeps + planned(longest, seeds)
    most = least + room_for_more(longest, sweeps, seeds) * len(seeds.whole)
    word = "search" if searches == 1 else "searches"
    as_much = f"as much as {least / steps:.1f} to {most / steps:.1f} trainings of {steps} steps"
    return f"{searches} {word} of {least:,} to {most:,} steps, {as_much}"


def at_widths(task: Task, widths: Sequence[int]) -> list[Task]:
    """Return the task, or the task at each of the widths.

    Raises:
        UsageError: a width that is none, fewer than two of them, or a task without widths.

    """
    if not widths:
        return [task]
    if task.at_width is None:
        raise UsageError(
            f"task {task.name!r} has no widths: give it at_width=, a function of a width that returns a task"
        )
    if len(set(widths)) < 2 or min(widths) < 1:
        raise UsageError(
            f"--widths {','.join(map(str, widths))}: expected two or more different numbers above 0"
        )
    return [task.at_width(width) for width in widths]


def as_dict(found: Sequence[Sequence[Rates]], checks: Sequence[WidthCheck]) -> dict[str, Any]:
    """Return everything as JSON types."""
    return {
        "schema": 1,
        "kind": "lr",
        "rates": [r.to_dict() for one in found for r in one],
        "widths": [
            {"optimizer": one[0].label, **c.to_dict()} for one, c in zip(found, checks, strict=bool(checks))
        ],
    }


def _search(
    tasks: Sequence[Task], candidates: Sequence[Candidate], threads: int, told: Console, **options: Any
) -> list[list[Rates]]:
    """Return one list an optimizer, with one result a task."""
    from downslope.compare.torch import threads as with_threads
    from downslope.diagnose.torch.rates import of_task

    with with_threads(threads), told.status("…") as status:

        def say(who: str) -> Callable[[str], None]:
            if told.is_terminal:
                return lambda what: status.update(f"{who}: {what}")
            told.print(f"Searching: {who}")
            return lambda _: None

        return [
            [of_task(t, c, told=say(f"{t.name} with {c.label}"), **options) for t in tasks]
            for c in candidates
        ]


def _write_page(page: Path, found: Sequence[Sequence[Rates]], checks: Sequence[WidthCheck]) -> None:
    from downslope.report import page as html_page
    from downslope.report.rates import chapter

    write_file(page, html_page([chapter(as_dict(found, checks))]), "--out")


def _show(found: Sequence[Sequence[Rates]], checks: Sequence[WidthCheck]) -> None:
    from downslope.diagnose.rates_table import headline, shown, widths_table

    out = Console(highlight=False)
    for i, one in enumerate(found):
        if checks:
            out.print(f"{one[0].label}:", style="bold")
            for r in one:
                out.print(headline(r), markup=False)
            out.print(widths_table(checks[i]))
        else:
            out.print(shown(one[0]))
        out.print()
