"""A model in training, in PyTorch."""

from __future__ import annotations

import contextlib
import math
import random
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from downslope.compare.optimizers import Candidate
from downslope.compare.torch.faults import (
    Batches,
    as_float,
    example_inputs,
    making,
    part,
    require_module,
    require_scalar,
)
from downslope.errors import UsageError
from downslope.tasks import Task

LOOK_EVERY = 10
"""On a GPU the loss is looked at every so many steps, because looking waits for the GPU."""


class TorchTrainer:
    """A `Trainer` of a PyTorch model.

    Everything random is seeded twice: before the model is built, so that equal seeds start from
    equal parameters, and before the first step, so that dropout and the like do not depend on how
    much chance the optimizer's own making used up.
    """

    def __init__(self, task: Task, candidate: Candidate, seed: int, lr: float, weight_decay: float) -> None:
        self.task, self.candidate = task, candidate
        self.model = build(task, seed)
        self.model.train()
        self.batches = Batches(task, seed)
        inputs = example_inputs(task) if candidate.traces else ()
        with making(task, candidate):
            self.optimizer = candidate.make("torch", self.model, inputs, lr, weight_decay)
        self.base = [float(group["lr"]) for group in self.optimizer.param_groups]
        self.taken = 0
        self.look_every = LOOK_EVERY
        device = next(self.model.parameters()).device
        self.device = None if device.type == "cpu" else device
        seed_everything(seed)

    def step(self, factor: float) -> float:
        """Take one training step; see `Trainer`."""
        for group, lr in zip(self.optimizer.param_groups, self.base, strict=True):
            group["lr"] = lr * factor
        try:
            return self._step()
        except UsageError:
            # A loss that refuses NaN is how some models show that they diverged.
            if self._finite():
                raise
            return math.nan

    def _step(self) -> float:
        batch = next(self.batches)
        with part(self.task, "loss(model, batch)"):
            loss = self.task.loss(self.model, batch)
            require_scalar(self.task, loss)
        self.optimizer.zero_grad(set_to_none=True)
        with part(self.task, "the backward pass of loss(model, batch)"):
            loss.backward()
        with making(self.task, self.candidate):
            self.optimizer.step()
        self.taken += 1
        look = self.device is None or self.taken % self.look_every == 0
        return float(loss.detach()) if look else 0.0

    def _finite(self) -> bool:
        return all(bool(torch.isfinite(p).all()) for p in self.model.parameters())

    def evaluate(self) -> float:
        """Return what the task's `evaluate` says; see `Trainer`."""
        modes = [(m, m.training) for m in self.model.modules()]
        with random_state_kept(self.device):
            self.model.eval()
            try:
                with torch.no_grad(), part(self.task, "evaluate(model)"):
                    return as_float(self.task, self.task.evaluate(self.model))
            except UsageError:
                if self._finite():
                    raise
                return math.nan
            finally:
                for module, training in modes:
                    module.training = training

    def synchronize(self) -> None:
        """Wait for the device; see `Trainer`."""
        if self.device is not None:
            torch.accelerator.synchronize(self.device)


def build(task: Task, seed: int) -> nn.Module:
    """Return the task's model for a seed."""
    seed_everything(seed)
    with part(task, "build(seed)"):
        model = task.build(seed)
    require_module(task, model)
    found: nn.Module = model
    return found


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and PyTorch's generators."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - a task may draw from the global generator
    torch.manual_seed(seed)


@contextlib.contextmanager
def random_state_kept(device: torch.device | None) -> Iterator[None]:
    """Give all generators back the state they had."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    devices = [device] if device is not None and device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Let PyTorch use so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
