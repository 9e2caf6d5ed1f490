"""Who does the runs: this process, one at a time, or several worker processes.

Both take a run with `submit` while they are `free` and give back what ended with `wait`.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Protocol

from downslope.compare.plan import Plan, RunSpec
from downslope.compare.run import Record, execute, trainer_of
from downslope.errors import UsageError
from downslope.tasks import Task

OnProgress = Callable[[RunSpec, int], None]


class Runner(Protocol):
    """Takes runs and gives back records."""

    @property
    def free(self) -> bool:
        """Whether another run can be taken now."""

    @property
    def busy(self) -> bool:
        """Whether there is a run to wait for."""

    def submit(self, spec: RunSpec) -> None:
        """Take a run."""

    def wait(self) -> Record:
        """Return the record of the next run that ends."""

    def close(self) -> None:
        """End at once; runs under way are lost."""


class InProcess:
    """Runs in this process, one after the other, with all the threads."""

    def __init__(self, task: Task, plan: Plan, threads: int, on_progress: OnProgress) -> None:
        self.task, self.plan, self.threads, self.on_progress = task, plan, threads, on_progress
        self.next: RunSpec | None = None

    @property
    def free(self) -> bool:
        """See `Runner`."""
        return self.next is None

    @property
    def busy(self) -> bool:
        """See `Runner`."""
        return self.next is not None

    def submit(self, spec: RunSpec) -> None:
        """See `Runner`."""
        self.next = spec

    def wait(self) -> Record:
        """See `Runner`."""
        from downslope.compare.torch import threads

        spec, self.next = self.next, None
        assert spec is not None
        with threads(self.threads):
            trainer = trainer_of(self.task, self.plan, spec)
            told: Callable[[int], None] = lambda steps: self.on_progress(spec, steps)  # noqa: E731
            return execute(self.plan, spec, trainer, told, threads=self.threads, jobs=1)

    def close(self) -> None:
        """See `Runner`."""


class Worker:
    """One worker process and the thread that listens to it."""

    def __init__(self, order: dict[str, Any], log: Path, heard: SimpleQueue[tuple[Worker, Any]]) -> None:
        self.log = log
        self.spec: RunSpec | None = None
        threads = str(order["threads"])
        environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        with log.open("ab") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "downslope.compare.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment,
                text=True,
                encoding="utf-8",
                bufsize=1,
            )
        threading.Thread(target=self._listen, args=(heard,), daemon=True).start()
        self.say(order)

    def _listen(self, heard: SimpleQueue[tuple[Worker, Any]]) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            heard.put((self, json.loads(line)))
        heard.put((self, None))
        self.process.stdout.close()

    def say(self, message: dict[str, Any]) -> None:
        """Send a message; a worker that is gone is noticed by the one who listens."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(message) + "\n")
            self.process.stdin.flush()

    def last_words(self) -> str:
        """Return how the process ended, and where its output is."""
        code = self.process.wait()
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        hint = "; if memory ran out, try fewer --jobs" if code == -9 else ""
        return f"{how}{hint}; its output is in {self.log}"


class Workers:
    """Runs in processes of their own, each with its share of the threads."""

    def __init__(
        self, spec: str, plan: Plan, jobs: int, threads: int, folder: Path, on_progress: OnProgress
    ) -> None:
        self.on_progress = on_progress
        self.heard: SimpleQueue[tuple[Worker, Any]] = SimpleQueue()
        order = {"task": spec, "plan": plan.to_dict(), "threads": threads, "jobs": jobs}
        self.workers = [Worker(order, folder / f"worker-{i + 1}.log", self.heard) for i in range(jobs)]

    @property
    def free(self) -> bool:
        """See `Runner`."""
        return any(w.spec is None for w in self.workers)

    @property
    def busy(self) -> bool:
        """See `Runner`."""
        return any(w.spec is not None for w in self.workers)

    def submit(self, spec: RunSpec) -> None:
        """See `Runner`."""
        worker = next(w for w in self.workers if w.spec is None)
        worker.spec = spec
        worker.say(spec.to_dict())

    def wait(self) -> Record:
        """See `Runner`.

        Raises:
            UsageError: the task went wrong in a worker, or the worker died.

        """
        while True:
            worker, message = self.heard.get()
            if message is None:
                during = f" during {worker.spec}" if worker.spec else ""
                raise UsageError(f"a worker process ended{during}: {worker.last_words()}")
            if "error" in message:
                raise UsageError(message["error"])
            if "record" in message:
                worker.spec = None
                return Record.from_dict(message["record"])
            if worker.spec is not None:
                self.on_progress(worker.spec, message["progress"])

    def close(self) -> None:
        """See `Runner`."""
        for worker in self.workers:
            worker.process.kill()
        for worker in self.workers:
            worker.process.wait()
            # Its output is left to the thread that listens: a process of the task's may still hold it.
            assert worker.process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                worker.process.stdin.close()
            if worker.log.stat().st_size == 0:
                worker.log.unlink()
