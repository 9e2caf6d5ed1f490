"""Everything a training step changes, kept and given back bit for bit."""

from __future__ import annotations

import contextlib
import copy
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from downslope.diagnose.torch.held import Held, alike, write


class Snapshot:
    """A model, an optimizer, their gradients and all random generators as they are now.

    `restore` writes into the tensors that are there, so that whoever holds a parameter, a buffer or
    a state still holds it afterwards. A state that did not exist is taken away again.

    Args:
        model: parameters, buffers, gradients and attributes of all its modules.
        optimizer: its states and the values of its groups; None where there is none yet.
        batches: a data loader whose generators are kept too.

    """

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer | None = None, batches: Any = None
    ) -> None:
        self.model, self.optimizer = model, optimizer
        tensors = {id(t): t for t in (*model.parameters(), *model.buffers())}
        if optimizer is not None:
            tensors |= {id(p): p for group in optimizer.param_groups for p in group["params"]}
        self.tensors = [(t, t.detach().clone()) for t in tensors.values()]
        self.gradients = [(t, t.grad, None if t.grad is None else t.grad.clone()) for t, _ in self.tensors]
        self.held = Held(model, tensors.values())
        if optimizer is not None:
            self.states = {p: (state, _kept(state)) for p, state in optimizer.state.items()}
            self.groups = [
                {k: _kept(v) for k, v in group.items() if k != "params"} for group in optimizer.param_groups
            ]
            self.own = {k: v for k, v in vars(optimizer).items() if isinstance(v, bool | int | float)}
        self.generators = [(g, g.get_state()) for g in _generators(batches)]
        self.python, self.numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
        self.cpu = torch.get_rng_state()
        self.cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []

    def restore(self) -> None:
        """Make everything what it was."""
        with torch.no_grad():
            for tensor, value in self.tensors:
                write(tensor, value)
            for tensor, gradient, before in self.gradients:
                if gradient is not None and before is not None:
                    gradient.copy_(before)
                tensor.grad = gradient
            self._restore_optimizer()
        self.held.restore()
        for generator, state in self.generators:
            generator.set_state(state)
        random.setstate(self.python)
        np.random.set_state(self.numpy)  # noqa: NPY002
        torch.set_rng_state(self.cpu)
        if self.cuda:
            torch.cuda.set_rng_state_all(self.cuda)

    def _restore_optimizer(self) -> None:
        if self.optimizer is None:
            return
        for p in [p for p in self.optimizer.state if p not in self.states]:
            del self.optimizer.state[p]
        for p, (state, kept) in self.states.items():
            _give_back(state, kept)
            self.optimizer.state[p] = state
        for group, values in zip(self.optimizer.param_groups, self.groups, strict=True):
            _give_back(group, {**values, "params": group["params"]})
        vars(self.optimizer).update(self.own)


@contextlib.contextmanager
def undone(
    model: nn.Module, optimizer: torch.optim.Optimizer | None = None, batches: Any = None
) -> Iterator[None]:
    """Undo whatever happens to a model and its optimizer in this context."""
    kept = Snapshot(model, optimizer, batches)
    try:
        yield
    finally:
        kept.restore()


def _kept(value: Any) -> Any:
    """Return a copy that shares no tensor with the value."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {k: _kept(v) for k, v in value.items()}
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return type(value)(_kept(v) for v in value)
    return copy.deepcopy(value)


def _give_back(place: dict[Any, Any], kept: dict[Any, Any]) -> None:
    """Make a dict what it was, writing into tensors that still fit."""
    for key in [key for key in place if key not in kept]:
        del place[key]
    for key, value in kept.items():
        now = place.get(key)
        if isinstance(value, Tensor) and isinstance(now, Tensor) and alike(now, value):
            now.copy_(value)
        elif isinstance(value, dict) and isinstance(now, dict):
            _give_back(now, value)
        else:
            place[key] = _kept(value) if key != "params" else value


def _generators(batches: Any) -> list[torch.Generator]:
    """Return the generators that a data loader draws from."""
    sampler = getattr(batches, "sampler", None)
    inner = getattr(getattr(batches, "batch_sampler", None), "sampler", None)
    found = [getattr(owner, "generator", None) for owner in (batches, sampler, inner)]
    return list({id(g): g for g in found if isinstance(g, torch.Generator)}.values())
