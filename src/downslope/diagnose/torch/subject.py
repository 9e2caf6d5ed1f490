"""A training step in pieces, whether it comes from a task or from the user's own objects."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from inspect import signature
from itertools import repeat
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from downslope.compare.optimizers import Candidate
from downslope.compare.torch.faults import (
    Batches,
    example_inputs,
    first_batch,
    making,
    part,
    require_finite_start,
    require_module,
    require_scalar,
)
from downslope.compare.torch.trainer import build, seed_everything
from downslope.diagnose.torch.snapshot import undone
from downslope.errors import UsageError, one_line
from downslope.tasks import Task

Loss = Callable[[Any, Any], Tensor]
Part = Callable[[str], AbstractContextManager[None]]


@dataclass
class Subject:
    """A model, its optimizer, its loss and the batches it sees."""

    name: str
    label: str
    model: nn.Module
    optimizer: torch.optim.Optimizer
    loss: Loss
    batches: Iterator[Any]
    source: Any = None
    """What the batches come from, where it has generators of its own."""
    whole: dict[str, Any] = field(default_factory=dict)
    updating: Callable[[], AbstractContextManager[None]] = nullcontext
    """Surrounds the optimizer's step: of a task, what it raises there is told in a line."""

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    def step(self, part: Part = lambda _: nullcontext()) -> None:
        """Take one training step, each piece of it within `part(name)`."""
        with part("data"):
            batch = next(self.batches)
        with part("forward"):
            loss = self.loss(self.model, batch)
        with part("zero_grad"):
            self.optimizer.zero_grad(set_to_none=True)
        with part("backward"):
            loss.backward()  # type: ignore[no-untyped-call]
        with part("optimizer"):
            self.update()

    def update(self) -> None:
        """Let the optimizer take its step."""
        with self.updating():
            self.optimizer.step()


def of_task(task: Task, candidate: Candidate, seed: int = 0, lr: float | None = None) -> Subject:
    """Return the step of a task under an optimizer by name, at the middle of its learning rates.

    Raises:
        UsageError: a part of the task or the optimizer refuses, or the loss or its gradient is not finite
            before any step.

    """
    require_finite_start(task, build(task, seed).train(), first_batch(task, seed))
    model = build(task, seed).train()
    low, high = candidate.space.lr
    inputs = example_inputs(task) if candidate.traces else ()
    with making(task, candidate):
        rate = lr if lr is not None else math.sqrt(low * high)
        optimizer = candidate.make("torch", model, inputs, rate, candidate.space.weight_decay[0])
    for group in optimizer.param_groups:
        group["on_nonfinite"] = "raise"  # what the classes do by themselves
    batches = Batches(task, seed)
    seed_everything(seed)

    def loss(model: nn.Module, batch: Any) -> Tensor:
        with part(task, "loss(model, batch)"):
            value: Tensor = task.loss(model, batch)
            require_scalar(task, value)
        return value

    @contextmanager
    def updating() -> Iterator[None]:
        try:
            yield
        except (ValueError, TypeError) as error:
            raise UsageError(
                f"a step of {candidate.label} on task {task.name!r} at a learning rate of {rate:g} raised "
                f"{one_line(error)}: a lower --lr may be what it wants"
            ) from error

    return Subject(task.name, candidate.label, model, optimizer, loss, batches, updating=updating)


def require_optimizer(optimizer: Any, example: str) -> None:
    """Raise unless this is one optimizer, with an example of the call."""
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise UsageError(
            f"optimizer is of type {type(optimizer).__name__}: expected a torch.optim.Optimizer, {example}"
        )


def of_objects(
    model: nn.Module,
    batch: Any,
    optimizer: torch.optim.Optimizer,
    loss: Loss | None,
    batches: Iterable[Any] | None,
) -> Subject:
    """Return the step of the user's own model.

    Raises:
        UsageError: a model without parameters to train, an optimizer that is none, holds none of them or
            needs a closure, or a loss that is no scalar with a gradient.

    """
    unused: Any = lambda *_: 0.0  # noqa: E731
    own = model.module if isinstance(model, DistributedDataParallel) else model
    named = Task(type(own).__name__, unused, unused, unused, unused)
    require_module(named, model)
    require_optimizer(optimizer, "as in profile(model, batch, optimizer, loss)")
    _, *arguments = signature(type(optimizer).step).parameters.values()  # schedulers wrap the bound one
    needed = [
        p.name for p in arguments if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    if needed:
        raise UsageError(
            f"the step of {type(optimizer).__name__} needs a {needed[0]}, by which it evaluates the model "
            "itself: expected an optimizer whose step() takes nothing, such as SGD or AdamW"
        )
    known = {id(p) for p in model.parameters()}
    if not any(id(p) in known for group in optimizer.param_groups for p in group["params"]):
        raise UsageError(
            "the optimizer holds no parameter of this model: make it from model.parameters(), "
            "or pass the model it was made for"
        )
    call = loss or _own_loss
    try:
        with undone(model):
            value = call(model, batch)
    except UsageError:
        raise
    except Exception as error:
        how = "loss(model, batch)" if loss else "the model, called with the batch,"
        raise UsageError(
            f"{how} raised {one_line(error)}: expected a function of (model, batch) -> scalar"
        ) from error
    require_scalar(named, value)
    stream = forever(batches) if batches is not None else repeat(batch)
    return Subject(named.name, type(optimizer).__name__, model, optimizer, call, stream, batches)


def forever(batches: Iterable[Any]) -> Iterator[Any]:
    """Yield batches again and again.

    Raises:
        UsageError: there are none.

    """
    while True:
        empty = True
        for batch in batches:
            empty = False
            yield batch
        if empty:
            raise UsageError("batches are empty or used up: pass a list or a data loader")


def _own_loss(model: nn.Module, batch: Any) -> Tensor:
    """Return the loss that a model computes itself, as those of transformers do."""
    if isinstance(batch, dict):
        out = model(**batch)
    else:
        out = model(*batch) if isinstance(batch, list | tuple) else model(batch)
    found = getattr(out, "loss", out)
    if not isinstance(found, Tensor) or found.numel() != 1:
        raise UsageError(
            "the model returns no scalar loss for this batch: pass loss=, a function of (model, batch)"
        )
    return found
