"""The backward pass: which operation was the first to make NaN or infinity of finite gradients.

Nodes of autograd's graph are labelled with their modules while the forward pass builds them, and
report the largest absolute value that they give. The values are read once, when the pass ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
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
    """Collects what the nodes report, and calls `done` at the end of each backward pass."""

    def __init__(self, done: Callable[[list[Passed]], None]) -> None:
        self._done = done
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
        self._passed += [(module, operation, peak_of(t)) for t in tensors if t is not None and counts(t)]

    def _finish(self) -> None:
        self._under_way, passed, self._passed = False, self._passed, []
        peaks = read([peak for _, _, peak in passed])
        self._done([Passed(*p[:2], peak) for p, peak in zip(passed, peaks, strict=True)])
