"""A first look at a task before anything is run: whether it works, and what it will cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from downslope.compare.optimizers import Candidate
from downslope.errors import MissingPackageError
from downslope.tasks import Task


@dataclass(frozen=True)
class Facts:
    """What one try of a task tells: sizes, times in seconds, and how its parameters are parted.

    `repeatable` is whether a seed twice gave the same model and the same first batch.
    """

    parameters: int
    step_seconds: float
    evaluation_seconds: float
    partition: dict[str, Any] | None
    framework_version: str
    device: str
    repeatable: bool = True


def probe(task: Task, candidates: Sequence[Candidate], seed: int, steps: int, threads: int) -> Facts:
    """Try every part of a task with every optimizer; see `downslope.compare.torch.probe`.

    At most `steps` batches are drawn: a task need not have more.

    Raises:
        UsageError: a part of the task is broken.

    """
    try:
        from downslope.compare import torch as backend
    except ModuleNotFoundError as error:
        raise MissingPackageError(error.name or "torch", "torch", f"task {task.name!r}") from None
    with backend.threads(threads):
        return backend.probe(task, candidates, seed, steps)
