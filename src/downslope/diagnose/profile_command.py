"""`downslope profile TASK`: where a training step's time and memory go."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from downslope.compare.command import print_json
from downslope.compare.folder import plain_name, require_writable, write_file
from downslope.compare.optimizers import choose
from downslope.compare.session import cores, cpu_name
from downslope.diagnose.profile import Profile
from downslope.errors import UsageError
from downslope.tasks import Task, load


def run_profile(
    spec: str,
    *,
    optimizer: str = "muon",
    versus: str | None = None,
    what_ifs: str = "quick",
    lr: float | None = None,
    threads: int | None = None,
    seconds: float = 4.0,
    seed: int = 0,
    out: Path | None = None,
    trace: Path | None = None,
    command: str = "",
    as_json: bool = False,
) -> int:
    """Measure a task's step, show it, write what was asked for, and return the exit code.

    Raises:
        UsageError: no such task, optimizer or what-if; a number out of range; a file that cannot
            be written.

    """
    task = load(spec)
    names = [optimizer, *([versus] if versus else [])]
    if versus == optimizer:
        raise UsageError(f"--vs {versus} is the optimizer itself: name another one")
    if not 0 < seconds < math.inf:
        raise UsageError(f"--seconds {seconds:g}: expected a positive number")
    threads = cores() if threads is None else threads
    if not 1 <= threads <= cores():
        raise UsageError(f"--threads {threads}: expected 1 to {cores()}, the cores of this machine")
    if lr is not None and not 0 < lr < math.inf:
        raise UsageError(f"--lr {lr:g}: expected a positive number")
    page = out or Path("runs") / f"profile-{plain_name(task.name)}-{optimizer}.html"
    require_writable(page, "--out")
    if trace is not None:
        require_writable(trace, "--trace")
    told = Console(stderr=True, highlight=False)
    found = _measure(task, names, what_ifs, lr, threads, seconds, seed, told)
    found = replace(found, environment={**found.environment, "cpu": cpu_name(), "command": command})
    console = Console(highlight=False)
    if as_json:
        print_json(found.to_dict())
    else:
        from downslope.diagnose.profile_table import shown

        console.print(shown(found))
    _write(page, found)
    if trace is not None:
        write_file(trace, found.trace(), "--trace")
    if not as_json:
        console.print(f"\nReport: {page}", markup=False, soft_wrap=True)
        if trace is not None:
            console.print(f"Trace: {trace} (ui.perfetto.dev opens it)", markup=False, soft_wrap=True)
    return 0


def _measure(
    task: Task,
    names: list[str],
    what_ifs: str,
    lr: float | None,
    threads: int,
    seconds: float,
    seed: int,
    told: Console,
) -> Profile:
    from downslope.compare.torch import threads as with_threads
    from downslope.diagnose.torch.profile import profile_subjects
    from downslope.diagnose.torch.subject import of_task
    from downslope.diagnose.torch.what_if import chosen, require_meaning

    changes = chosen(what_ifs)
    candidates = choose(names, task.learning_rates, {})
    with with_threads(threads), _progress(told) as say:
        subjects = [of_task(task, c, seed, lr) for c in candidates]
        require_meaning(subjects[0], what_ifs)
        return profile_subjects(subjects, changes, seconds=seconds, told=say)


@contextlib.contextmanager
def _progress(told: Console) -> Iterator[_Say]:
    """Show what is measured, while it is."""
    with told.status("…") as status:
        yield _Say(told, status)


class _Say:
    """Says what is measured next: in place in a terminal, a line each elsewhere."""

    def __init__(self, told: Console, status: object) -> None:
        self.told, self.status = told, status

    def __call__(self, what: str) -> None:
        line = f"Measuring {what}" + (" (compiling takes a while)" if what.endswith("compile") else "")
        if self.told.is_terminal:
            self.status.update(line)  # type: ignore[attr-defined]
        else:
            self.told.print(line)


def _write(page: Path, found: Profile) -> None:
    from downslope.report import page as html_page
    from downslope.report.profile import chapter

    write_file(page, html_page([chapter(found.to_dict())]), "--out")
