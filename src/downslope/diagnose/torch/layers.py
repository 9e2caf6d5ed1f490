"""How long each layer takes, forward and backward.

Forward, hooks mark when a module begins and ends. Backward, the graph is walked before it is run:
every node of it has a sequence number from the moment it was made, which says in which module that
was, and hooks on the node mark when it runs. Nothing is put into the graph, so in-place operations
and modules called several times are measured as they are.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from downslope.diagnose.torch.clock import Clock

OUTSIDE = "(outside the modules)"


@dataclass
class Layers:
    """Marks of one step's forward and backward pass."""

    clock: Clock
    model: nn.Module
    forward_marks: list[tuple[str, Any, Any]] = field(default_factory=list)
    """(module, start, end) of each stretch in which it was the innermost one."""
    backward_marks: list[tuple[str, str, Any, Any]] = field(default_factory=list)
    """(module, operation, start, end) of each node of the graph."""
    made: list[tuple[int, str]] = field(default_factory=list)
    """From which sequence number on nodes belong to which module."""

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Mark every forward pass of the model in this context."""
        inside: list[str] = []
        since: list[Any] = [None]

        def change(name: str | None) -> None:
            now = self.clock.mark()
            if inside:
                self.forward_marks.append((inside[-1], since[0], now))
            if name is None:
                inside.pop()
            else:
                inside.append(name)
            since[0] = now
            self.made.append((torch._C._autograd._get_sequence_nr(), inside[-1] if inside else OUTSIDE))

        handles = []
        for name, module in self.model.named_modules():
            said = name or type(module).__name__
            handles.append(module.register_forward_pre_hook(_enter(change, said)))
            handles.append(module.register_forward_hook(_leave(change), always_call=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def watch_backward(self, loss: Tensor) -> None:
        """Mark every node of a loss's graph when it runs."""
        owners = {
            id(p): name or type(module).__name__
            for name, module in self.model.named_modules()
            for p in module.parameters(recurse=False)
        }
        numbers = [number for number, _ in self.made]
        for node in nodes_of(loss):
            variable = getattr(node, "variable", None)
            if variable is not None:
                module = owners.get(id(variable), OUTSIDE)
            else:
                at = bisect_right(numbers, node._sequence_nr()) - 1
                module = self.made[at][1] if at >= 0 else OUTSIDE
            self._hook(node, module)

    def _hook(self, node: Any, module: str) -> None:
        started: list[Any] = []
        operation = node.name().removesuffix("Backward0").rpartition("::")[2]

        def before(_: Any) -> None:
            started.append(self.clock.mark())

        def after(*_: Any) -> None:
            now = self.clock.mark()
            self.backward_marks.append((module, operation, started.pop() if started else now, now))

        node.register_prehook(before)
        node.register_hook(after)

    def seconds(self) -> dict[str, tuple[float, float]]:
        """Return (forward, backward) seconds of each module itself, without the modules inside it."""
        found = {name or type(m).__name__: [0.0, 0.0] for name, m in self.model.named_modules()}
        found[OUTSIDE] = [0.0, 0.0]
        for module, start, end in self.forward_marks:
            found[module][0] += self.clock.seconds(start, end)
        for module, _, start, end in self.backward_marks:
            found[module][1] += self.clock.seconds(start, end)
        return {name: (pair[0], pair[1]) for name, pair in found.items()}


def _enter(change: Callable[[str | None], None], name: str) -> Callable[..., None]:
    return lambda *_: change(name)


def _leave(change: Callable[[str | None], None]) -> Callable[..., None]:
    return lambda *_: change(None)


def nodes_of(loss: Tensor) -> list[Any]:
    """Return every node of the graph that the backward pass of a tensor runs through."""
    seen: dict[Any, None] = {}
    waiting = [loss.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen[node] = None
        waiting += [following for following, _ in node.next_functions]
    return list(seen)
