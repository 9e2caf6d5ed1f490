"""One run: train a model with one optimizer and one seed, and watch it with the clock stopped.

What belongs to a framework, making the model, a step, an evaluation, is behind `Trainer`; this
file holds what is the same in all of them: the schedule, the clock, the curve, and what to do
when a run diverges, which is a result and no failure.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Protocol

from downslope.compare import stored
from downslope.compare.plan import Plan, RunSpec
from downslope.errors import UsageError
from downslope.shapes import DamagedError, require, require_one_length
from downslope.tasks import Task


class Trainer(Protocol):
    """A model in training."""

    def step(self, factor: float) -> float:
        """Take one training step at `factor` times the learning rate; return the batch's loss before it."""

    def evaluate(self) -> float:
        """Return what the task's `evaluate` says, leaving no trace in the training that follows."""

    def synchronize(self) -> None:
        """Wait until the device has done what it was given, so that the clock can be read."""


@dataclass(frozen=True)
class Curve:
    """A run's evaluations: after which step, after how many seconds of training, with what result."""

    steps: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Record:
    """What is kept of a run that ended. `final` is infinite where the run diverged."""

    kind: str
    optimizer: str
    index: int
    seed: int
    lr: float
    weight_decay: float
    final: float
    diverged: bool
    steps: int
    seconds: float
    cpu_seconds: float
    seconds_per_step: float
    threads: int
    jobs: int
    curve: Curve

    @property
    def key(self) -> tuple[str, str, int]:
        """The key of the `RunSpec` this came of."""
        return (self.kind, self.optimizer, self.index)

    def to_dict(self) -> dict[str, Any]:
        """Return the record as JSON types, numbers that are not finite as None."""
        own = {f.name: getattr(self, f.name) for f in fields(self)}
        own["final"] = finite(self.final)
        curve = self.curve
        own["curve"] = {
            "steps": curve.steps,
            "seconds": curve.seconds,
            "loss": [finite(v) for v in curve.loss],
        }
        return own

    @classmethod
    def from_dict(cls, d: Mapping[str, Any]) -> Record:
        """Return the record that `to_dict` described.

        Raises:
            DamagedError: it is no such record.

        """
        held = require(d, stored.Record)
        c = held["curve"]
        require_one_length(c, ("steps", "seconds", "loss"), "curve")
        if not c["loss"]:
            raise DamagedError("curve.loss is empty")
        curve = Curve(c["steps"], [float(v) for v in c["seconds"]], [*map(infinite, c["loss"])])
        values = {f.name: d[f.name] for f in fields(cls)}
        return cls(**{**values, "final": infinite(held["final"]), "curve": curve})


def finite(value: float) -> float | None:
    """Return a number as JSON can hold it: None where it is not finite."""
    return float(value) if math.isfinite(value) else None


def infinite(value: float | None) -> float:
    """Return a number that JSON held: infinity where it was None."""
    return math.inf if value is None else float(value)


class Stopwatch:
    """A clock that runs while training and stands still while evaluating.

    It also counts the processor's time. Where that is less than the time that passed, the run had
    to wait for other programs.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self.cpu_seconds = 0.0
        self._since = (0.0, 0.0)

    def start(self) -> None:
        """Let it run."""
        self._since = (time.perf_counter(), time.process_time())

    def stop(self) -> None:
        """Let it stand."""
        self.seconds += time.perf_counter() - self._since[0]
        self.cpu_seconds += time.process_time() - self._since[1]


def execute(
    plan: Plan,
    spec: RunSpec,
    trainer: Trainer,
    progress: Callable[[int], None],
    *,
    threads: int,
    jobs: int,
) -> Record:
    """Train to the end or to divergence, and return what is worth keeping.

    `progress` is called with the steps done, several times a second.
    """
    clock = Stopwatch()
    curve = Curve()
    marks = plan.evaluations(spec.kind)
    durations: list[float] = []
    done, diverged, told = 0, False, time.perf_counter()
    for mark in marks:
        clock.start()
        while done < mark and not diverged:
            begun = time.perf_counter()
            diverged = not math.isfinite(trainer.step(plan.factor(done)))
            durations.append(time.perf_counter() - begun)
            done += 1
            if begun - told > 0.2:
                told = begun
                progress(done)
        trainer.synchronize()
        clock.stop()
        value = math.inf if diverged else trainer.evaluate()
        diverged = not math.isfinite(value)
        curve.steps.append(done)
        curve.seconds.append(clock.seconds)
        curve.loss.append(math.inf if diverged else value)
        if diverged:
            break
    progress(plan.steps)
    return Record(
        kind=spec.kind,
        optimizer=spec.optimizer,
        index=spec.index,
        seed=spec.seed,
        lr=spec.lr,
        weight_decay=spec.weight_decay,
        final=curve.loss[-1],
        diverged=diverged,
        steps=done,
        seconds=clock.seconds,
        cpu_seconds=clock.cpu_seconds,
        seconds_per_step=statistics.median(durations) if durations else 0.0,
        threads=threads,
        jobs=jobs,
        curve=curve,
    )


def trainer_of(task: Task, plan: Plan, spec: RunSpec) -> Trainer:
    """Return a trainer for a run, from the module that bears the name of the task's framework.

    Raises:
        UsageError: the task's functions or the optimizer refuse.

    """
    candidate = next(c for c in plan.candidates if c.name == spec.optimizer)
    if task.framework == "torch":
        from downslope.compare.torch import TorchTrainer

        return TorchTrainer(task, candidate, spec.seed, spec.lr, spec.weight_decay)
    raise UsageError(f"framework = {task.framework!r} in task {task.name!r}: expected 'torch'")
