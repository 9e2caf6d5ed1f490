"""Searching a learning rate in PyTorch: for a task, or for the user's own model and optimizer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from downslope.compare.optimizers import Candidate
from downslope.compare.plan import SCHEDULES
from downslope.compare.torch.trainer import TorchTrainer, random_state_kept, seed_everything
from downslope.diagnose.rates import Rates, search
from downslope.diagnose.rungs import LONGEST, seeds_of
from downslope.diagnose.torch.batches import Ahead, Replay, begun, lasting
from downslope.diagnose.torch.snapshot import Snapshot
from downslope.diagnose.torch.subject import forever, of_objects, require_optimizer
from downslope.diagnose.valley import Outcome
from downslope.errors import UsageError, closest
from downslope.tasks import Task

Schedule = Callable[[float], float]
Factors = Callable[[int], list[float]]
"""From the length of a training to what the learning rate is multiplied with at each step."""
FIRST = 8
"""Batches on which the model is judged before it is trained."""

EXPLODED = 4.0
"""How many times its lowest, smoothed, the loss of a sweep may reach before the sweep ends."""


def schedule_of(schedule: str | Schedule, warmup: float) -> Factors:
    """Return the factors of a schedule, those of `downslope compare` where it is known by name.

    A function is asked at the middle of each step, so that no step has the factor 0 of the end.

    Raises:
        UsageError: no such schedule, or a warm-up outside [0, 1).

    """
    if not 0 <= warmup < 1:
        raise UsageError(f"warmup = {warmup}: expected a share of the training, at least 0 and below 1")
    if callable(schedule):
        return lambda steps: [schedule((i + 0.5) / steps) for i in range(steps)]
    if schedule not in (*SCHEDULES, "constant"):
        raise UsageError(
            f"unknown schedule {schedule!r}: expected linear, cosine, constant, or a function of the share "
            f"of the training that is over{closest(schedule, [*SCHEDULES, 'constant'])}"
        )

    def factors(steps: int) -> list[float]:
        rising = int(warmup * steps)
        grown = [(i + 1) / rising for i in range(rising)]
        left = [(steps - i) / (steps - rising) for i in range(rising, steps)]
        if schedule == "constant":
            left = [1.0] * len(left)
        elif schedule == "cosine":
            left = [0.5 * (1 - math.cos(math.pi * x)) for x in left]
        return grown + left

    return factors


class TaskBench:
    """Trains a task from the start, its model drawn anew from each seed."""

    def __init__(self, task: Task, candidate: Candidate, weight_decay: float, schedule: Factors) -> None:
        self.task, self.candidate, self.schedule = task, candidate, schedule
        self.weight_decay = weight_decay
        self.starts: dict[int, float] = {}

    def sweep(self, low: float, high: float, steps: int, seed: int) -> list[float]:
        """See `Bench`."""
        trainer = TorchTrainer(self.task, self.candidate, seed, 1.0, self.weight_decay)
        trainer.look_every = 1  # a sweep is made of the losses of all its steps, on a GPU too
        return grown(lambda scale, _: trainer.step(scale), low, high, steps)

    def run(self, scale: float, seed: int, steps: int) -> Outcome:
        """See `Bench`."""
        trainer = TorchTrainer(self.task, self.candidate, seed, scale, self.weight_decay)
        if seed not in self.starts:
            self.starts[seed] = trainer.evaluate()
        start = self.starts[seed]
        for factor in self.schedule(steps):
            if not math.isfinite(trainer.step(factor)):
                return Outcome(math.inf, start)
        value = trainer.evaluate()
        return Outcome(value if math.isfinite(value) else math.inf, start)


class ObjectBench:
    """Trains the user's own model, from where it is now, and puts everything back after each run."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        batches: Any,
        loss: Callable[[Any, Any], Tensor],
        evaluate: Callable[[Any], float] | None,
        schedule: Factors,
    ) -> None:
        self.model, self.optimizer, self.batches, self.loss = model, optimizer, batches, loss
        self.evaluate, self.schedule = evaluate, schedule
        self.bases = [float(group["lr"]) for group in optimizer.param_groups]
        self.kept = Snapshot(model, optimizer, batches)
        self.starts: dict[int, float] = {}

    def sweep(self, low: float, high: float, steps: int, seed: int) -> list[float]:
        """See `Bench`."""
        try:
            stream = self._stream(seed)
            return grown(lambda scale, _: self._step(stream, scale), low, high, steps)
        finally:
            self.kept.restore()

    def run(self, scale: float, seed: int, steps: int) -> Outcome:
        """See `Bench`."""
        losses: list[float] = []
        if seed not in self.starts:
            self.starts[seed] = self._start(seed)
        start = self.starts[seed]
        try:
            stream = self._stream(seed)
            for factor in self.schedule(steps):
                losses.append(self._step(stream, scale * factor))
                if not math.isfinite(losses[-1]):
                    return Outcome(math.inf, start)
            value = self._judged(losses)
            return Outcome(value if math.isfinite(value) else math.inf, start)
        finally:
            self.kept.restore()

    def _start(self, seed: int) -> float:
        """Return what a run would end with that does not train."""
        try:
            stream = self._stream(seed)
            with torch.no_grad():
                losses = [float(self.loss(self.model, batch)) for batch in islice(stream, FIRST)]
            return self._judged(losses)
        finally:
            self.kept.restore()

    def _stream(self, seed: int) -> Iterator[Any]:
        seed_everything(seed)
        return lasting(begun(self.batches, seed)) if callable(self.batches) else forever(self.batches)

    def _step(self, stream: Iterator[Any], scale: float) -> float:
        for group, base in zip(self.optimizer.param_groups, self.bases, strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(base * scale)
            else:
                group["lr"] = base * scale
        loss = self.loss(self.model, next(stream))
        value = float(loss.detach())
        if not math.isfinite(value):
            return value
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if not _finite([p.grad for p in self.model.parameters() if p.grad is not None]):
            return math.nan
        self.optimizer.step()
        return value

    def _judged(self, losses: list[float]) -> float:
        """Return what `evaluate` says, or the mean loss of the last tenth of the steps."""
        if self.evaluate is None:
            last = losses[-max(3, len(losses) // 10) :]
            return sum(last) / len(last)
        with random_state_kept(None), torch.no_grad():
            self.model.eval()
            value: Any = self.evaluate(self.model)
        try:
            return float(value)
        except (TypeError, ValueError):
            said = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"{value!r}"
            raise UsageError(
                f"evaluate(model) returned {said}: expected one number, lower is better"
            ) from None


def _finite(gradients: list[Tensor]) -> bool:
    """Return whether all numbers are finite, waiting once for each device."""
    flags: dict[torch.device, list[Tensor]] = {}
    for g in gradients:
        flags.setdefault(g.device, []).append(torch.isfinite(g).all())
    return all(bool(torch.stack(here).all()) for here in flags.values())


def grown(step: Callable[[float, int], float], low: float, high: float, steps: int) -> list[float]:
    """Return the losses while the rate grows, up to where they have exploded."""
    losses: list[float] = []
    lowest, mean = math.inf, 0.0
    for i in range(steps):
        loss = step(low * (high / low) ** (i / (steps - 1)), i)
        losses.append(loss)
        mean = loss if i == 0 else 0.7 * mean + 0.3 * loss
        lowest = min(lowest, mean)
        if not math.isfinite(loss) or mean > EXPLODED * abs(lowest):
            break
    return losses


def find_lr(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Any,
    loss: Callable[[Any, Any], Tensor] | None = None,
    *,
    steps: int,
    evaluate: Callable[[Any], float] | None = None,
    seeds: int = 2,
    whole_seeds: int = 1,
    seed: int = 0,
    schedule: str | Schedule = "linear",
    warmup: float = 0.1,
    low: float = 1e-6,
    high: float = 10.0,
    longest: int = LONGEST,
    told: Callable[[str], None] = lambda _: None,
) -> Rates:
    """Return a learning rate for a training, with a safe range and how sure it is.

    A sweep on three seeds says where to look; runs with the real schedule decide, by successive
    halving. All groups are scaled together, so that the ratios of their learning rates stay. The model
    is trained on the way; afterwards model, optimizer, gradients, random generators and the position in
    the data are what they were, bit for bit.

    Args:
        model: in training mode, as it is when the training begins (or goes on).
        optimizer: any torch optimizer of it.
        batches: a list or a data loader; or a function of a seed that returns an iterator; or an
            iterator wrapped in `Replay`.
        loss: `loss(model, batch)` returns the scalar to minimise; None where the model, called with
            the batch, returns it or an object with `.loss`.
        steps: the length of the training.
        evaluate: `evaluate(model)` returns what a run is judged by, lower is better; by default the
            mean loss over its last tenth.
        seeds: how many seeds the runs of a quarter of the length have; shorter ones take the first.
        whole_seeds: how many the whole trainings have: more where chance decides between rates. Each
            costs as much as three to seven trainings.
        seed: the first of them.
        schedule: "linear", "cosine" (to zero), "constant", or a function from the share of the
            training that is over to a factor.
        warmup: share of the training in which the rate grows.
        low: where the sweep begins, as a learning rate of the first group.
        high: where it ends.
        longest: steps of the longest runs; at most `steps` are taken.
        told: is called with a line before each part of the search.

    Raises:
        UsageError: a value out of range, a one-shot iterator, batches that end, an optimizer of another
            model or whose step needs a closure, a first group whose learning rate is 0, a loss that is no
            scalar.

    """
    if isinstance(batches, Replay):
        batches = Ahead(batches)
    elif not callable(batches) and hasattr(batches, "__next__"):
        raise UsageError(
            "batches is an iterator, which the search would use up: pass a list, a data loader, a function "
            "of a seed that returns an iterator, or downslope.torch.Replay(batches)"
        )
    require_optimizer(optimizer, "as in find_lr(model, optimizer, batches, loss, steps=1000)")
    own = seeds_of(seed, seeds, whole_seeds)
    factor = schedule_of(schedule, warmup)
    kept = Snapshot(model, optimizer, batches)
    try:
        first = next(begun(batches, seed), None)
        if first is None:
            raise UsageError("batches are empty: pass a list or a data loader with at least one batch")
        kept.restore()
        subject = of_objects(model, first, optimizer, loss, None)
        bench = ObjectBench(model, optimizer, batches, subject.loss, evaluate, factor)
        if not bench.bases[0] > 0:
            raise UsageError(
                f"the first group's learning rate is {bench.bases[0]:g}: expected a positive number, "
                "to which those of the other groups are in proportion"
            )
        return search(
            bench,
            name=subject.name,
            label=subject.label,
            steps=steps,
            seeds=own,
            low=low,
            high=high,
            longest=longest,
            bases=bench.bases,
            metric="loss" if evaluate is None else "evaluation",
            told=told,
        )
    finally:
        kept.restore()


def of_task(
    task: Task,
    candidate: Candidate,
    *,
    steps: int | None = None,
    seeds: int = 2,
    whole_seeds: int = 1,
    seed: int = 0,
    weight_decay: float = 0.0,
    schedule: str | Schedule = "linear",
    warmup: float = 0.1,
    longest: int = LONGEST,
    told: Callable[[str], None] = lambda _: None,
) -> Rates:
    """Return the learning rate of a task under an optimizer by name; see `find_lr`."""
    return search(
        TaskBench(task, candidate, weight_decay, schedule_of(schedule, warmup)),
        name=task.name,
        label=candidate.label,
        steps=task.steps if steps is None else steps,
        seeds=seeds_of(seed, seeds, whole_seeds),
        longest=longest,
        metric=task.metric,
        told=told,
    )
