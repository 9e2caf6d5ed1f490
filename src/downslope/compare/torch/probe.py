"""A first look at a task in PyTorch."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch

from downslope.compare.optimizers import Candidate
from downslope.compare.probe import Facts
from downslope.compare.torch.faults import example_inputs, first_batch, making, require_finite_start
from downslope.compare.torch.trainer import TorchTrainer, build
from downslope.errors import UsageError
from downslope.tasks import Task

ROUNDING = 1e-3
"""How far sums over a batch differ on a GPU that adds in no fixed order, as a share, in bfloat16 too."""


def probe(task: Task, candidates: Sequence[Candidate], seed: int, steps: int) -> Facts:
    """Try every part of a task, and return what the plan and the report need to know.

    Raises:
        UsageError: a part raises or has the wrong type; the loss, its gradient or the evaluation is
            not finite before any optimizer has touched the model; an optimizer refuses the model.

    """
    first, again = (
        require_finite_start(task, build(task, seed).train(), first_batch(task, seed)) for _ in range(2)
    )
    trainers = [TorchTrainer(task, c, seed, c.space.lr[0], c.space.weight_decay[0]) for c in candidates]
    begun = time.perf_counter()
    value = trainers[0].evaluate()
    evaluation_seconds = time.perf_counter() - begun
    if not math.isfinite(value):
        raise UsageError(
            f"evaluate(model) of task {task.name!r} is {value} for a new model: expected a finite number"
        )
    parameters = list(trainers[0].model.parameters())
    return Facts(
        parameters=sum(p.numel() for p in parameters),
        step_seconds=sum(seconds_of_a_step(t, steps) for t in trainers) / len(trainers),
        evaluation_seconds=evaluation_seconds,
        partition=partition_of(task, candidates, seed),
        framework_version=str(torch.__version__),
        device=str(parameters[0].device),
        repeatable=all(math.isclose(a, b, rel_tol=ROUNDING) for a, b in zip(first, again, strict=True)),
    )


def seconds_of_a_step(trainer: TorchTrainer, most: int, budget: float = 0.3) -> float:
    """Return the median time of a few steps, the first left out where there are several."""
    taken: list[float] = []
    while len(taken) < min(4, most) or (sum(taken) < budget and len(taken) < min(50, most)):
        begun = time.perf_counter()
        trainer.step(0.0)
        trainer.synchronize()
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken[1:] or taken)


def partition_of(task: Task, candidates: Sequence[Candidate], seed: int) -> dict[str, Any] | None:
    """Return, for the report, how the first candidate that traces the model parts its parameters."""
    tracing = next((c for c in candidates if c.traces), None)
    if tracing is None:
        return None
    from downslope.torch import partition

    with making(task, tracing):
        found = partition(build(task, seed), *example_inputs(task))
    return {"optimizer": tracing.name, "assignments": found.to_dict()["assignments"]}
