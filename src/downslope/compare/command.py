"""`downslope compare` and `downslope report`: what the command line asks for, done and shown."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from downslope.compare import terminal
from downslope.compare.folder import RunFolder, as_text, read_bytes, write_file
from downslope.compare.prepare import cost, prepare
from downslope.compare.results import checked
from downslope.compare.storage import require_reachable
from downslope.compare.stored import require_grid
from downslope.errors import UsageError
from downslope.shapes import DamagedError, parsed

INTERRUPTED = 130
"""The exit code after Ctrl-C, as shells have it: 128 + SIGINT."""


def run_compare(task: str, *, as_json: bool, dry_run: bool, **options: Any) -> int:
    """Run a comparison, show it, write the page, and return the exit code."""
    told = Console(stderr=True, highlight=False)
    session = prepare(task, **options)
    facts = None
    for line in terminal.plan_lines(session.plan, session.jobs, session.threads):
        told.print(line, markup=False)
    session.folder.require_possible()
    if session.storage is not None:
        require_reachable(session.storage)
    begun = session.begun
    if dry_run or not begun:
        facts = session.look()
        seconds = cost(session, facts)
        whole = "for what is left" if begun else "in all"
        told.print(f"About {terminal.duration(seconds)} {whole}; Ctrl-C keeps what is done.")
        if dry_run:
            if as_json:
                print_json({"plan": session.plan.to_dict(), "jobs": session.jobs, "threads": session.threads,
                            "runs": session.plan.total_runs(), "seconds": seconds})  # fmt: skip
            return 0
    with terminal.Live(told) as live:
        session.observer = live
        result = session.run(facts)
    if as_json:
        print_json(result)
    else:
        show(result)
    page = write_page([result], session.folder.report_file)
    if not as_json:
        Console(highlight=False).print(f"\nReport: {page}", markup=False, soft_wrap=True)
    if session.interrupted:
        told.print("Stopped; what is done is kept, and the same command goes on from here.")
        return INTERRUPTED
    return 0 if result["verdict"]["winners"] else 1


def show(result: dict[str, Any]) -> None:
    """Print the verdict, the table, and what to know about it."""
    out = Console(highlight=False)
    out.print()
    out.print(result["verdict"]["sentence"], style="bold", markup=False)
    out.print()
    out.print(terminal.table(result, out.width))
    out.print(terminal.legend(result), style="dim", markup=False)
    for note in result["notes"]:
        out.print(f"Note: {note}", markup=False)


def run_report(runs: Sequence[Path], out: Path | None, *, as_json: bool) -> int:
    """Write the page of one run folder into it, or of several into one file, and say where."""
    folders = [RunFolder(path) for path in runs]
    grids = [stored_grid(folder) for folder in folders]
    if any(grids):
        if len(runs) > 1:
            raise UsageError("a grid of --sensitivity has a page of its own: give one run at a time")
        return _told(write_grid(grids[0], out or folders[0].report_file), runs, as_json=as_json)
    results = [stored_result(folder) for folder in folders]
    if len(runs) > 1 and out is None:
        raise UsageError(f"{len(runs)} runs make one page: say where with --out page.html")
    page = write_page(results, out or folders[0].report_file)
    return _told(page, runs, as_json=as_json)


def _told(page: Path, runs: Sequence[Path], *, as_json: bool) -> int:
    if as_json:
        print_json({"report": str(page), "runs": [str(path) for path in runs]})
    else:
        Console(highlight=False).print(f"Report: {page}", markup=False, soft_wrap=True)
    return 0


def stored_result(folder: RunFolder) -> dict[str, Any]:
    """Return the result of a run folder, made anew from its records.

    Raises:
        UsageError: its files are damaged.

    """
    return checked(folder, folder.read_run(), folder.read_records())


def stored_grid(folder: RunFolder) -> dict[str, Any]:
    """Return the grid of `--sensitivity` that a folder holds; empty where it holds something else.

    Raises:
        UsageError: the grid is damaged, or was not finished.

    """
    of_trainings = folder.run_file.exists()
    if of_trainings and "across" not in folder.read_run()["identity"]:
        return {}
    if not folder.result_file.exists():
        if of_trainings:
            raise UsageError(
                f"{folder.path} holds the beginning of a grid: the same command goes on from there"
            )
        return {}
    try:
        found: dict[str, Any] = parsed(read_bytes(folder.result_file))
        require_grid(found)
    except DamagedError as error:
        raise UsageError(
            f"{folder.result_file} is damaged ({error}): the same command of downslope compare makes it again"
        ) from None
    return found


def write_page(results: Sequence[dict[str, Any]], path: Path) -> Path:
    """Write the HTML page of these results."""
    from downslope.report import render

    return _written(path, render(results[0] if len(results) == 1 else list(results)))


def write_grid(found: dict[str, Any], path: Path) -> Path:
    """Write the HTML page of a grid of `--sensitivity`."""
    from downslope.report import page
    from downslope.report.sensitivity import chapter

    return _written(path, page([chapter(found)]))


def _written(path: Path, text: str) -> Path:
    write_file(path, text, "--out")
    return path


def print_json(value: dict[str, Any]) -> None:
    """Print JSON, and nothing else, on standard output."""
    sys.stdout.write(as_text(value))


def ranges(texts: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Return `{name: (low, high)}` of texts like `adamw=1e-4:1e-1`.

    >>> ranges(["adamw=1e-4:0.1"])
    {'adamw': (0.0001, 0.1)}

    Raises:
        UsageError: a text is not like that, or the second for an optimizer.

    """
    found: dict[str, tuple[float, float]] = {}
    for text in texts:
        name, _, rest = text.partition("=")
        low, _, high = rest.partition(":")
        if name.strip() in found:
            raise UsageError(f"--lr {text}: {name.strip()} has a range already; give one for each optimizer")
        try:
            found[name.strip()] = (float(low), float(high))
        except ValueError:
            raise UsageError(f"--lr {text}: expected optimizer=low:high, as in adamw=1e-4:1e-1") from None
    return found
