"""The backward pass: which operation was the first to make NaN or infinity of finite gradients.

Nodes of autograd's graph are labelled with their modules while the forward pass builds them, and
report the largest absolute value that they give. The values are read once, when the pass ends.
The loss is looked at when the first of them reports, since only the pass that it begins knows of it.

Several passes may be under way: each node belongs to a task of the engine, whatever thread runs it.
"""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from downslope.diagnose.watch.torch.forward import Seen, counts, peak_of, read

_LABEL = "downslope.module"


@dataclass(frozen=True)
class Passed:
    """What one node of the graph gave, in the order of the pass.

    Attributes:
        module: the module that it belongs to.
        operation: autograd's name of it; "" is the gradient as it arrives at the model's output.
        peak: the largest absolute value.

    """

    module: str
    operation: str
    peak: float


@dataclass(eq=False)
class _Pass:
    """A backward pass under way: the losses, what passed, and the forward passes that it goes through."""

    losses: list[Tensor] = field(default_factory=list)
    passed: list[tuple[str, str, Tensor]] = field(default_factory=list)
    forward: dict[int, Seen] = field(default_factory=dict)


class Backward:
    """Collects what the nodes report, and calls `done` at the end of each backward pass.

    It is given the largest absolute value of the loss, 0 where there is none, what passed, and what was
    seen of the forward passes.
    """

    def __init__(self, done: Callable[[float, list[Passed], list[Seen]], None]) -> None:
        self._done = done
        self._tasks: dict[int, _Pass] = {}
        self._threads: dict[int, tuple[_Pass, int]] = {}

    def label(self, tensors: Iterable[Tensor], module: str, seen: Seen) -> None:
        """Label the nodes that `tensors` were made by, back to those that have a label already."""
        waiting = [t.grad_fn for t in tensors]
        while waiting:
            node = waiting.pop()
            labels: Any = node and node.metadata  # a dict, though its stub says a method
            if node is None or _LABEL in labels:
                continue
            labels[_LABEL] = module
            if node.name() != "torch::autograd::AccumulateGrad":
                node.register_hook(self._reporter(module, node.name(), seen))
            waiting += [following for following, _ in node.next_functions]

    def outputs(self, tensors: Iterable[Tensor], module: str, seen: Seen) -> None:
        """Let the model's outputs report the gradient that arrives from the loss."""
        for node in {t.grad_fn for t in tensors if t.grad_fn is not None}:
            node.register_prehook(lambda given: self._report(module, "", given, seen))

    def _reporter(self, module: str, operation: str, seen: Seen) -> Callable[[Any, Any], None]:
        return lambda gave, given: self._report(module, operation, gave, seen)

    def _report(self, module: str, operation: str, tensors: Iterable[Tensor | None], seen: Seen) -> None:
        under_way = self._under_way()
        under_way.forward[seen.number] = seen
        under_way.passed += [(module, operation, peak_of(t)) for t in tensors if t is not None and counts(t)]

    def _under_way(self) -> _Pass:
        """Return the pass that is at work in this thread, which is that of the loss also in a checkpoint."""
        task, thread = torch._C._current_graph_task_id(), threading.get_ident()
        here, depth = self._threads.get(thread, (None, 0))
        known = self._tasks.get(task)
        if known is not None and known is here:
            return known
        deep = len(_engine_calls(sys._getframe()))
        if known is None and here is not None and deep > depth:  # within an operation of the pass here
            self._tasks[task] = here
            return here
        if known is None:
            if len(_all_engine_calls()) <= 1:  # what else is here has failed
                self._tasks.clear()
                self._threads.clear()
            new = _Pass()
            known = self._tasks.setdefault(task, new)
            if known is new:
                torch.autograd.Variable._execution_engine.queue_callback(partial(self._finish, new))
                new.losses = [peak_of(t.detach()) for t in _begun_at() if t.numel() == 1 and counts(t)]
        self._threads[thread] = known, deep
        return known

    def _finish(self, ended: _Pass) -> None:
        for task in [task for task, p in list(self._tasks.items()) if p is ended]:
            self._tasks.pop(task, None)
        for thread in [thread for thread, (p, _) in list(self._threads.items()) if p is ended]:
            self._threads.pop(thread, None)
        peaks = read([*ended.losses, *(peak for _, _, peak in ended.passed)])
        loss = next((p for p in peaks[: len(ended.losses)] if not math.isfinite(p)), 0.0)
        passed = zip(ended.passed, peaks[len(ended.losses) :], strict=True)
        self._done(loss, [Passed(*p[:2], peak) for p, peak in passed], [*ended.forward.values()])


def leaves_of(tensors: Iterable[Tensor]) -> frozenset[int]:
    """Return the `id` of each leaf that autograd's graph leads to from these tensors."""
    waiting = [t.grad_fn for t in tensors if t.grad_fn is not None]
    seen, found = set(waiting), set[int]()
    while waiting:
        node = waiting.pop()
        found.add(id(getattr(node, "variable", None)))
        following = {n for n, _ in node.next_functions if n is not None} - seen
        seen |= following
        waiting += following
    return frozenset(found)


def _begun_at() -> list[Tensor]:
    """Return the tensors that the backward pass under way began at, [] where they cannot be told.

    Autograd tells its hooks nothing of them. They are read off the call that waits for the engine: of this
    thread, or of the only one that has one, where the hooks are called in a thread of the device.
    """
    calls = _engine_calls(sys._getframe())[-1:] or _all_engine_calls()
    roots = calls[0].f_locals.get("t_outputs", ()) if len(calls) == 1 else ()
    return [t for t in roots if isinstance(t, Tensor)]


def _all_engine_calls() -> list[FrameType]:
    """Return of each thread that waits for the engine its outermost call."""
    return [calls[-1] for frame in sys._current_frames().values() if (calls := _engine_calls(frame))]


def _engine_calls(frame: FrameType | None) -> list[FrameType]:
    """Return the calls of the engine around a frame; in a checkpoint's pass, the last is that of the loss."""
    function, found = getattr(torch.autograd.graph, "_engine_run_backward", None), list[FrameType]()
    while frame is not None and function is not None:
        if frame.f_code is function.__code__:
            found.append(frame)
        frame = frame.f_back
    return found
