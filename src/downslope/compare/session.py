"""A comparison from its plan to its result: what is left to do, who does it, and what is kept.

The session knows the order of things and nothing of terminals: whoever wants to watch passes an
`Observer`. Interrupting it loses the runs under way and nothing else; doing it again goes on.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import platform
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from downslope import __version__
from downslope.compare.folder import RunFolder, write_json
from downslope.compare.plan import Plan, RunSpec
from downslope.compare.probe import Facts, probe
from downslope.compare.results import build, checked, final_runs
from downslope.compare.run import Record
from downslope.compare.runners import InProcess, Runner, Workers
from downslope.compare.storage import Studies
from downslope.errors import UsageError
from downslope.tasks import Task


class Observer(Protocol):
    """Whoever watches a comparison."""

    def began(self, plan: Plan, done: Sequence[Record]) -> None:
        """The runs begin; some may have been done before."""

    def progressed(self, spec: RunSpec, steps: int) -> None:
        """A run has taken so many steps."""

    def ended(self, record: Record) -> None:
        """A run ended and is kept."""


class Silent:
    """An observer that looks away."""

    def began(self, plan: Plan, done: Sequence[Record]) -> None:
        """See `Observer`."""

    def progressed(self, spec: RunSpec, steps: int) -> None:
        """See `Observer`."""

    def ended(self, record: Record) -> None:
        """See `Observer`."""


@dataclass
class Session:
    """One comparison in one run folder.

    Args:
        task: the task, loaded.
        spec: what `downslope.tasks.load` was given; worker processes load the task from it.
        plan: what is run.
        folder: where it is kept.
        jobs: how many runs at a time; 1 runs in this process.
        threads: threads of each run.
        storage: URL of the database of Optuna studies; None is `study.db` in the folder.
        command: the command line, for the result.

    """

    task: Task
    spec: str
    plan: Plan
    folder: RunFolder
    jobs: int
    threads: int
    storage: str | None = None
    command: str = ""
    observer: Observer = field(default_factory=Silent)
    interrupted: bool = False

    def run(self, facts: Facts | None = None) -> dict[str, Any]:
        """Do what is left to do and return the result, which is in the folder too.

        `facts` are those of `look`, which is called if they are wanted and not given. After Ctrl-C
        the result is that of the runs that ended, and `interrupted` is true.

        Raises:
            UsageError: the folder belongs to another comparison or process, the storage does not
                open, or the task breaks in the middle of a run. What ended before is kept.

        """
        with self.folder.locked():
            begun = self.begun
            run = self._open(facts)
            self.folder.mend()
            records = self.folder.read_records()
            if begun:
                checked(self.folder, run, records)  # damage is told before the work that is left
            studies = self._studies()
            for record in studies.exchange(records):
                self.folder.append(record)
                records.append(record)
            try:
                self._work(records, studies)
            except KeyboardInterrupt:
                self.interrupted = True
            run |= {"jobs": self.jobs, "threads": self.threads}
            result = build(run, records)
            write_json(self.folder.result_file, result)
            return result

    @property
    def begun(self) -> bool:
        """Whether the folder holds a start of this comparison.

        Raises:
            UsageError: it holds another one.

        """
        if not self.folder.run_file.exists():
            return False
        self.folder.open_run({"identity": self.plan.identity()})
        return True

    def look(self) -> Facts:
        """Try every part of the task once; see `downslope.compare.probe`."""
        return probe(self.task, self.plan.candidates, self.plan.tuning_seed, self.plan.steps, self.threads)

    def _open(self, facts: Facts | None) -> dict[str, Any]:
        if self.begun:
            return self.folder.read_run()
        return self.folder.open_run(self.describe(facts or self.look()))

    def _studies(self) -> Studies:
        return Studies(self.storage or (self.folder.path / "study.db").resolve(), self.plan)

    def _work(self, records: list[Record], studies: Studies) -> None:
        self.observer.began(self.plan, records)
        left = missing(self.plan.tuning_runs(), records)
        if not left and not missing(final_runs(self.plan, records), records):
            return
        runner = self._runner()
        try:
            self._drain(runner, left, records, studies)
            self._drain(runner, missing(final_runs(self.plan, records), records), records, studies)
        finally:
            runner.close()

    def _drain(self, runner: Runner, left: deque[RunSpec], records: list[Record], studies: Studies) -> None:
        """Have every run done and kept."""
        while left or runner.busy:
            while left and runner.free:
                runner.submit(left.popleft())
            record = runner.wait()
            with interrupts_deferred():
                self.folder.append(record)
                records.append(record)
                studies.add(record)
            self.observer.ended(record)

    def _runner(self) -> Runner:
        if self.jobs == 1:
            return InProcess(self.task, self.plan, self.threads, self.observer.progressed)
        return Workers(
            self.spec, self.plan, self.jobs, self.threads, self.folder.path, self.observer.progressed
        )

    def describe(self, facts: Facts) -> dict[str, Any]:
        """Return what `run.json` holds."""
        task = self.task
        return {
            "schema": 1,
            "identity": self.plan.identity(),
            "plan": self.plan.to_dict(),
            "command": self.command,
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "task": {
                "name": task.name,
                "description": task.description,
                "metric": task.metric,
                "steps": self.plan.steps,
                "goal": self.plan.goal,
                "parameters": facts.parameters,
            },
            "environment": environment(facts),
            "partition": facts.partition,
            "repeatable": facts.repeatable,
            "jobs": self.jobs,
            "threads": self.threads,
        }


@contextlib.contextmanager
def interrupts_deferred() -> Iterator[None]:
    """Let Ctrl-C wait until a record is kept everywhere or nowhere."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pressed: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: pressed.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed:
        raise KeyboardInterrupt


def missing(specs: Iterable[RunSpec], records: Sequence[Record]) -> deque[RunSpec]:
    """Return the runs that have no record."""
    done = {(*r.key, r.lr, r.weight_decay) for r in records}
    return deque(s for s in specs if (*s.key, s.lr, s.weight_decay) not in done)


def environment(facts: Facts) -> dict[str, Any]:
    """Return where the runs take place."""
    return {
        "downslope": __version__,
        "python": platform.python_version(),
        "torch": facts.framework_version,
        "platform": platform.platform(),
        "cpu": cpu_name(),
        "cores": cores(),
        "device": facts.device,
    }


def cpu_name() -> str:
    """Return the processor's name as the system tells it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


MOST_JOBS = 4


def share(jobs: int | None, threads: int | None, runs: int) -> tuple[int, int]:
    """Return how many runs at a time and how many threads for each, so that no core serves two.

    Raises:
        UsageError: a number is below 1, or together they ask for more cores than there are.

    """
    available = cores()
    for name, value in (("jobs", jobs), ("threads", threads)):
        if value is not None and value < 1:
            raise UsageError(f"{name} = {value}: expected a whole number above 0")
    if jobs is None:
        jobs = max(1, min(available // (threads or 1), MOST_JOBS, runs))
    if threads is None:
        threads = max(1, available // jobs)
    if jobs > available:
        raise UsageError(
            f"jobs = {jobs}: this machine has {available} cores, and runs that share one cannot be timed; "
            f"expected at most {available}"
        )
    if jobs * threads > available:
        raise UsageError(
            f"{jobs} jobs of {threads} threads need {jobs * threads} cores and this machine has {available}: "
            "expected jobs × threads within that"
        )
    return jobs, threads
