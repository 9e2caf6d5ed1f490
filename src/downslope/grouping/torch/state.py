"""Leave a model exactly as it was: buffers, attributes, random states and global switches."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn


@contextmanager
def unchanged(model: nn.Module) -> Iterator[Callable[[torch.Tensor], None]]:
    """Run what is within, then put the model back; yields what to call before a tensor is written to."""
    modules = list(model.modules())
    attributes = [_copied(m.__dict__) for m in modules]
    buffers = [(b, b.detach().clone()) for b in model.buffers()]
    held = {_key(p): p for p in model.parameters()}
    saved: dict[int, torch.Tensor] = {}

    def protect(target: torch.Tensor) -> None:
        key = _key(target)
        if key in held and key not in saved:
            saved[key] = held[key].detach().clone()

    grads = [(p, p.grad, None if p.grad is None else p.grad.clone()) for p in model.parameters()]
    try:
        with _random_states(model):
            yield protect
    finally:
        with torch.no_grad():
            for m, before in zip(modules, attributes, strict=True):
                _put_back(m.__dict__, before)
            for b, value in buffers:
                _restore(b, value)
            for key, value in saved.items():
                _restore(held[key], value)
            for p, grad, value in grads:
                p.grad = grad
                if grad is not None and value is not None:
                    grad.copy_(value)


def _key(t: torch.Tensor) -> int:
    try:
        return int(t.untyped_storage()._cdata)
    except (RuntimeError, NotImplementedError):
        return id(t)


def _restore(t: torch.Tensor, value: torch.Tensor) -> None:
    if t.shape != value.shape:
        t.resize_(value.shape)
    t.copy_(value)


def _copied(attributes: dict[str, Any]) -> dict[str, Any]:
    """Copy a module's attributes one level deep, and what it keeps in plain lists and dicts."""
    return {k: (v, v.copy() if isinstance(v, (dict, list, set)) else None) for k, v in attributes.items()}


def _put_back(attributes: dict[str, Any], before: dict[str, Any]) -> None:
    for k in set(attributes) - set(before):
        del attributes[k]
    for k, (value, content) in before.items():
        if (
            isinstance(value, dict) and list(value.items()) != list(content.items())
            if _plain(value, content)
            else False
        ):
            value.clear()
            value.update(content)
        elif isinstance(value, list) and content is not None:
            value[:] = content
        elif isinstance(value, set) and content is not None:
            value.clear()
            value.update(content)
        attributes[k] = value


def _plain(value: Any, content: Any) -> bool:
    return isinstance(value, dict) and content is not None


@contextmanager
def _random_states(model: nn.Module) -> Iterator[None]:
    devices = sorted(
        {t.device.index or 0 for t in (*model.parameters(), *model.buffers()) if t.device.type == "cuda"}
    )
    python = random.getstate()
    numpy = sys.modules.get("numpy")
    state = numpy.random.get_state() if numpy else None
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            random.setstate(python)
            if numpy:
                numpy.random.set_state(state)


@contextmanager
def plain_execution() -> Iterator[None]:
    """Switch off gradients, and what would hide weights from view: fused fast paths and compilers."""
    fast = torch.backends.mha.get_fastpath_enabled()
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)
