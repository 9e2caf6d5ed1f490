"""What a user's task can get wrong, each told in one line that names the function at fault."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from downslope.compare.optimizers import Candidate
from downslope.errors import MissingPackageError, UsageError, one_line
from downslope.tasks import Task
from downslope.tasks.load import where


@contextlib.contextmanager
def part(task: Task, what: str) -> Iterator[None]:
    """Turn what a function of the task raises into one line that names the function and the place.

    What the function prints goes to standard error: standard output may have to be JSON.
    """
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except UsageError:
        raise
    except ModuleNotFoundError as error:
        raise MissingPackageError(error.name or str(error), "all", f"{what} of task {task.name!r}") from error
    except (Exception, SystemExit) as error:
        raise UsageError(f"{what} of task {task.name!r} raised {one_line(error)}{where(error)}") from error


@contextlib.contextmanager
def making(task: Task, candidate: Candidate) -> Iterator[None]:
    """Turn an optimizer's refusal into one line that names it."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise UsageError(
            f"{candidate.label} refuses the model of task {task.name!r}: {one_line(error)}"
        ) from error


def require_module(task: Task, model: Any) -> None:
    """Raise unless this is a model with parameters to train."""
    if not isinstance(model, nn.Module):
        got = type(model).__name__
        raise UsageError(
            f"build(seed) of task {task.name!r} returned an object of type {got}: expected a torch.nn.Module"
        )
    if not any(p.requires_grad for p in model.parameters()):
        has = "every parameter frozen" if any(True for _ in model.parameters()) else "no parameters"
        raise UsageError(f"the model of task {task.name!r} has {has}: there is nothing to train")


def require_scalar(task: Task, loss: Any) -> None:
    """Raise unless this is a scalar tensor that knows where it came from."""
    of = f"loss(model, batch) of task {task.name!r}"
    if not isinstance(loss, Tensor):
        raise UsageError(f"{of} returned an object of type {type(loss).__name__}: expected a scalar tensor")
    if loss.numel() != 1:
        raise UsageError(f"{of} returned a tensor of shape {tuple(loss.shape)}: expected a scalar tensor")
    if not loss.requires_grad:
        raise UsageError(
            f"{of} has no gradient: it must depend on parameters that require one, without detach()"
        )


def require_finite_start(task: Task, model: nn.Module, batch: Any) -> tuple[float, float]:
    """Return the loss and the norm of the gradient that a batch gives; raise unless both are finite."""
    before = "in the first step, before any optimizer has touched the model"
    with part(task, "loss(model, batch)"):
        loss = task.loss(model, batch)
        require_scalar(task, loss)
    if not bool(torch.isfinite(loss)):
        raise UsageError(
            f"loss(model, batch) of task {task.name!r} is {float(loss.detach())} {before}: "
            "look at the data and the loss"
        )
    with part(task, "the backward pass of loss(model, batch)"):
        loss.backward()
    for name, p in model.named_parameters():
        if p.grad is not None and not bool(torch.isfinite(p.grad).all()):
            raise UsageError(
                f"the gradient of {name} in task {task.name!r} holds NaN or infinity {before}: "
                "look at the loss"
            )
    norms = [float(p.grad.norm()) for p in model.parameters() if p.grad is not None]
    model.zero_grad(set_to_none=True)
    return float(loss.detach()), math.hypot(*norms)


def as_float(task: Task, value: Any) -> float:
    """Return the result of an evaluation as a float."""
    try:
        return float(value)
    except (TypeError, ValueError):
        got = type(value).__name__
        raise UsageError(
            f"evaluate(model) of task {task.name!r} returned an object of type {got}: expected a number"
        ) from None


def first_batch(task: Task, seed: int) -> Any:
    """Return the first batch of a seed."""
    with part(task, "batches(seed)"):
        try:
            return next(iter(task.batches(seed)))
        except StopIteration:
            raise UsageError(
                f"batches(seed) of task {task.name!r} is empty: expected batches without end"
            ) from None


class Batches:
    """A task's batches of a seed, as a training takes them: that they end is bad input."""

    def __init__(self, task: Task, seed: int) -> None:
        self.task, self.taken = task, 0
        with part(task, "batches(seed)"):
            self.stream = iter(task.batches(seed))

    def __iter__(self) -> Batches:
        return self

    def __next__(self) -> Any:
        with part(self.task, "batches(seed)"):
            try:
                batch = next(self.stream)
            except StopIteration:
                raise UsageError(
                    f"the batches of task {self.task.name!r} ended after {self.taken} steps: "
                    "batches(seed) must go on for as long as training does"
                ) from None
        self.taken += 1
        return batch


def example_inputs(task: Task) -> tuple[Any, ...]:
    """Return inputs on which the task's model can be traced, the same every time."""
    batch = first_batch(task, 0)
    with part(task, "example(batch)"):
        return task.inputs(batch)
