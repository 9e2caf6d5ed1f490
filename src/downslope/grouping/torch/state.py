"""Leave a model exactly as it was: tensors, attributes, gradients, random states, global switches."""

from __future__ import annotations

import random
import sys
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from downslope.grouping.torch.contents import contents_of, refill

Protect = Callable[[torch.Tensor], None]

FSDP_HOOKS = ("_state_dict_pre_hooks", "_load_state_dict_pre_hooks")
"""Where `fully_shard` registers, once, in the first forward pass, that a model's state is one of shards."""

_REFILLED = (dict, list, set)


@contextmanager
def unchanged(model: nn.Module) -> Iterator[Protect]:
    """Run what is within, then put the model back; yields what to call before a tensor is written to.

    Buffers are copied beforehand. Parameters and plain tensors, which a forward pass hardly ever
    writes to, are copied when that happens, so that they cost no memory.
    """
    attributes = [(m.__dict__, _copied(m.__dict__)) for m in model.modules()]
    copies = {_key(b): (b, b.detach().clone()) for b in model.buffers()}
    held = {_key(t): t for t in (*model.parameters(), *_plain_tensors(model))}
    grads = [(p, p.grad) for p in model.parameters() if p.is_leaf]
    held |= {_key(g): g for _, g in grads if g is not None}

    def protect(target: torch.Tensor) -> None:
        key = _key(target)
        if key in held and key not in copies:
            copies[key] = (held[key], held[key].detach().clone())

    sharded: list[Any] = [m for m in model.modules() if hasattr(m, "reshard") and hasattr(m, "unshard")]
    with _random_states(model):
        try:
            yield protect
        finally:
            for m in sharded:
                m.reshard()  # give up what was gathered
            for current, before in attributes:
                _put_back(current, before, left=FSDP_HOOKS if sharded else ())
            with torch.no_grad():
                for t, value in copies.values():
                    if t.shape != value.shape:
                        t.resize_(value.shape)
                    t.copy_(value)
            for p, grad in grads:
                p.grad = grad


def _key(t: torch.Tensor) -> int:
    try:
        return int(t.untyped_storage()._cdata)
    except (RuntimeError, NotImplementedError):
        return id(t)


def _plain_tensors(model: nn.Module) -> Iterator[torch.Tensor]:
    for m in model.modules():
        for value in m.__dict__.values():
            if isinstance(value, torch.Tensor):
                yield value


def _copied(attributes: dict[str, Any]) -> dict[str, Any]:
    """Return a module's attributes, and the content of those that are lists, dicts or sets."""
    return {k: (v, contents_of(v) if isinstance(v, _REFILLED) else None) for k, v in attributes.items()}


def _put_back(attributes: dict[str, Any], before: dict[str, Any], left: Collection[str]) -> None:
    for k in set(attributes) - set(before):
        del attributes[k]
    for k, (value, content) in before.items():
        if k in left:
            continue
        if content is not None:
            refill(value, content)
        attributes[k] = value


@contextmanager
def _random_states(model: nn.Module) -> Iterator[None]:
    tensors = (*model.parameters(), *model.buffers())
    devices = sorted({t.device.index or 0 for t in tensors if t.device.type == "cuda"})
    python, numpy = random.getstate(), sys.modules.get("numpy")
    state = numpy.random.get_state() if numpy else None
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            random.setstate(python)
            if numpy:
                numpy.random.set_state(state)


@contextmanager
def plain_execution(gradients: bool = False) -> Iterator[None]:
    """Switch off gradients, unless asked for, and what would hide weights: fused fast paths and compilers."""
    fast = torch.backends.mha.get_fastpath_enabled()
    with ExitStack() as stack:
        stack.enter_context(torch.enable_grad() if gradients else torch.no_grad())
        if "torch._dynamo" in sys.modules:  # else nothing is compiled, and its import takes seconds
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(warnings.catch_warnings())
        # True here, and no fault of the model's: this pass runs without gradients.
        warnings.filterwarnings("ignore", message="None of the inputs have requires_grad")
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)
