"""The backward pass: which operation was the first to make NaN or infinity of finite gradients.

Nodes of autograd's graph are labelled with their modules while the forward pass builds them, and
report the largest absolute value that they give. The values are read once, when the pass ends.
The loss is looked at when the first of them reports, since only the pass that it begins knows of it.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from downslope.diagnose.watch.torch.forward import counts, peak_of, read

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


class Backward:
    """Collects what the nodes report, and calls `done` at the end of each backward pass.

    It is given the largest absolute value of the loss, 0 where there is none, and what passed.
    """

    def __init__(self, done: Callable[[float, list[Passed]], None]) -> None:
        self._done = done
        self._losses: list[Tensor] = []
        self._passed: list[tuple[str, str, Tensor]] = []
        self._under_way = False

    def label(self, tensors: Iterable[Tensor], module: str) -> None:
        """Label the nodes that `tensors` were made by, back to those that have a label already."""
        waiting = [t.grad_fn for t in tensors]
        while waiting:
            node = waiting.pop()
            labels: Any = node and node.metadata  # a dict, though its stub says a method
            if node is None or _LABEL in labels:
                continue
            labels[_LABEL] = module
            if node.name() != "torch::autograd::AccumulateGrad":
                node.register_hook(self._reporter(module, node.name()))
            waiting += [following for following, _ in node.next_functions]

    def outputs(self, tensors: Iterable[Tensor], module: str) -> None:
        """Let the model's outputs report the gradient that arrives from the loss."""
        for node in {t.grad_fn for t in tensors if t.grad_fn is not None}:
            node.register_prehook(lambda given: self._report(module, "", given))

    def _reporter(self, module: str, operation: str) -> Callable[[Any, Any], None]:
        return lambda gave, given: self._report(module, operation, gave)

    def _report(self, module: str, operation: str, tensors: Iterable[Tensor | None]) -> None:
        if not self._under_way:
            self._under_way = True
            torch.autograd.Variable._execution_engine.queue_callback(self._finish)
            self._losses = [peak_of(t.detach()) for t in _begun_at() if t.numel() == 1 and counts(t)]
        self._passed += [(module, operation, peak_of(t)) for t in tensors if t is not None and counts(t)]

    def _finish(self) -> None:
        self._under_way, passed, self._passed = False, self._passed, []
        losses, self._losses = self._losses, []
        peaks = read([*losses, *(peak for _, _, peak in passed)])
        loss = next((p for p in peaks[: len(losses)] if not math.isfinite(p)), 0.0)
        self._done(loss, [Passed(*p[:2], peak) for p, peak in zip(passed, peaks[len(losses) :], strict=True)])


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
    call = _engine_call(sys._getframe())
    if call is None:
        calls = [c for frame in sys._current_frames().values() if (c := _engine_call(frame)) is not None]
        call = calls[0] if len(calls) == 1 else None
    roots = () if call is None else call.f_locals.get("t_outputs", ())
    return [t for t in roots if isinstance(t, Tensor)]


def _engine_call(frame: FrameType | None) -> FrameType | None:
    """Return the outermost call of the engine: of a checkpoint's pass within a pass, that of the loss."""
    function, found = getattr(torch.autograd.graph, "_engine_run_backward", None), None
    while frame is not None and function is not None:
        found = frame if frame.f_code is function.__code__ else found
        frame = frame.f_back
    return found
