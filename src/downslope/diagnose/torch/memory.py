"""What the memory of a training step holds: parameters, gradients, state, activations, and the peak."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from downslope.diagnose.profile import Memory
from downslope.diagnose.torch.subject import Subject

PARTS = ("data", "forward", "zero_grad", "backward", "optimizer")


def memory_of(subject: Subject) -> Memory:
    """Take two steps and return what they held.

    Activations are the tensors that the forward pass keeps for the backward pass, beyond parameters,
    buffers and the batch. The peak is what lives between steps and, on top of it, the most that a step
    holds more: counted by the allocator of a CUDA device; on a CPU, every allocation and release of one
    step recorded and added up. What else the process keeps on the device is not counted.
    """
    model, optimizer = subject.model, subject.optimizer
    parameters, buffers = list(model.parameters()), list(model.buffers())
    batch = next(subject.batches)
    fixed = {_storage(t) for t in (*parameters, *buffers, *_tensors(batch))}
    held: dict[int, int] = {}

    def keep(t: Tensor) -> Tensor:
        if _storage(t) not in fixed:
            held[_storage(t)] = t.untyped_storage().nbytes()
        return t

    optimizer.zero_grad(set_to_none=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        loss = subject.loss(model, batch)
    activations = sum(held.values())
    loss.backward()  # type: ignore[no-untyped-call]
    gradients = size_of(p.grad for p in parameters if p.grad is not None)
    subject.update()
    state = size_of(_tensors(dict(optimizer.state)))
    del loss
    optimizer.zero_grad(set_to_none=True)
    standing = size_of((*parameters, *buffers, *_tensors(dict(optimizer.state)), *_tensors(batch)))
    if subject.device.type == "cuda":
        del batch
        peak, where = _peak_on_cuda(subject)
    else:
        # The batch stays: a block from before the recording that is released in it makes torch complain.
        peak, where = _peak_on_host(subject)
    return Memory(
        parameters=size_of(parameters),
        buffers=size_of(buffers),
        gradients=gradients,
        state=state,
        activations=activations,
        peak=standing + peak,
        peak_in=where,
    )


def _peak_on_cuda(subject: Subject) -> tuple[int, str]:
    """Return the most bytes that a step holds beyond what lives between steps, and in which part."""
    before = torch.cuda.memory_allocated(subject.device)
    peaks: dict[str, int] = {}

    class Part:
        def __init__(self, name: str) -> None:
            self.name = name

        def __enter__(self) -> None:
            torch.cuda.reset_peak_memory_stats(subject.device)

        def __exit__(self, *_: object) -> None:
            peaks[self.name] = torch.cuda.max_memory_allocated(subject.device)

    subject.step(Part)
    where = max(peaks, key=lambda name: peaks[name])
    return max(0, peaks[where] - before), where


def _peak_on_host(subject: Subject) -> tuple[int, str]:
    """Return the most bytes that a step holds beyond what lives between steps, and in which part."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # else the recorder announces itself
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as recorded:
        subject.step(lambda name: torch.profiler.record_function(f"part {name}"))
    events = recorded.profiler.kineto_results.events()
    starts = sorted((e.start_ns(), e.name()[5:]) for e in events if e.name().startswith("part "))
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    now, most, when = 0, 0, 0
    for moment, change in changes:
        now += change
        if now > most:
            most, when = now, moment
    before = [name for start, name in starts if start <= when]
    return most, before[-1] if before else PARTS[0]


def size_of(tensors: Iterable[Tensor]) -> int:
    """Return the bytes of the tensors' storages, each counted once."""
    return sum({_storage(t): t.untyped_storage().nbytes() for t in tensors}.values())


def _storage(t: Tensor) -> int:
    handle: int = t.untyped_storage()._cdata
    return handle


def _tensors(value: Any) -> list[Tensor]:
    """Return the tensors in a nested value."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        return [t for v in value.values() for t in _tensors(v)]
    return [t for v in value for t in _tensors(v)] if isinstance(value, list | tuple) else []
