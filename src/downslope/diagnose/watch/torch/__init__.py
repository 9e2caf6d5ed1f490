"""`watch`: a PyTorch model under observation."""

from __future__ import annotations

import math
import threading
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from downslope.diagnose.watch.finding import (
    NONFINITE,
    Ailment,
    Finding,
    HealthWarning,
    NonFiniteError,
    likely_cause,
)
from downslope.diagnose.watch.origin import maker
from downslope.diagnose.watch.torch import eager
from downslope.diagnose.watch.torch.backward import Backward, Passed, leaves_of
from downslope.diagnose.watch.torch.forward import Observed, Seen, Watcher
from downslope.diagnose.watch.torch.gradients import Gradients
from downslope.errors import UsageError, a_type
from downslope.words import many

__all__ = ["Doctor", "watch"]

OnFinding = Literal["warn", "raise", "collect"]


class Here(threading.local):
    """The forward pass that is under way in a thread, and the modules that it is within."""

    def __init__(self) -> None:
        self.watcher: Watcher | None = None
        self.stack = [""]


class Hook(partial[None]):
    """A hook that is not copied: in a copy of the model, or a file of it, stands one that does nothing."""

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (nullcontext(), "__exit__")  # takes anything; loads where Downslope is not installed


class Doctor:
    """A model under observation; see `watch`.

    Attributes:
        findings: what was found, in order; each kind once a place.
        passes: forward passes watched.

    """

    def __init__(self, model: nn.Module, *, every: int, on_finding: OnFinding) -> None:
        self.findings: list[Finding] = []
        self.passes = 0
        self._model, self._every, self._on_finding = model, every, on_finding
        self._parameters = dict(model.named_parameters())
        self._said: dict[tuple[Ailment, str, str], Finding] = {}
        self._calls, self._here = 0, Here()
        self._backward = Backward(self._backward_done)
        self._gradients, self._looking = Gradients(), threading.Lock()
        self._hooks: list[Any] = []
        for name, module in model.named_modules():
            before = self._start if module is model else self._enter(name)
            after = self._end if module is model else self._leave(name)
            self._hooks += [
                module.register_forward_pre_hook(Hook(before), with_kwargs=True, prepend=True),
                module.register_forward_hook(Hook(after), always_call=True),
            ]

    def close(self) -> None:
        """Take all hooks off the model."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __str__(self) -> str:
        """One line a finding."""
        seen = many(self.passes, "pass", "passes")
        return "\n".join(map(str, self.findings)) if self.findings else f"nothing found in {seen} watched"

    def _start(self, model: nn.Module, args: Any, kwargs: Any) -> None:
        here = self._here
        self._calls += 1
        if here.watcher is not None or (self._calls - 1) % self._every:
            return
        self.passes += 1
        here.stack = [""]
        parameters = self._parameters if model is self._model else _of_replica(model)
        here.watcher = Watcher(parameters.items(), self._calls)
        here.watcher.outside([*parameters.values(), *model.buffers()], _tensors((args, kwargs)))
        if not torch.compiler.is_compiling():
            eager.begin()
        here.watcher.__enter__()  # type: ignore[no-untyped-call]

    def _end(self, model: nn.Module, args: Any, out: Any) -> None:
        here = self._here
        watcher, here.watcher = here.watcher, None
        if watcher is None:
            return
        watcher.__exit__(None, None, None)  # type: ignore[no-untyped-call]
        if not torch.compiler.is_compiling():
            eager.end()
        results = [t for t in _tensors(out) if t.is_floating_point() or t.is_complex()]
        self._backward.label(results, "", watcher.seen)
        self._backward.outputs(results, "", watcher.seen)
        watcher.seen.reached = leaves_of(results)
        watcher.use(results)
        numbers = [watcher.number(t) for t in results]
        watcher.settle()
        first = next((m for n in numbers if (m := maker(watcher.operations, n)) is not None), None)
        watcher.seen.ill = first is not None
        if first is not None:
            self._made(first, watcher)
        near = next(filter(watcher.nears_overflow, watcher.operations), None)
        if near is not None:
            self._say(Ailment.OVERFLOW, near.module, near.name, _near(near), watcher.seen)

    def _enter(self, name: str) -> Callable[..., None]:
        def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
            here = self._here
            if here.watcher is not None:
                self._backward.label(_tensors((args, kwargs)), here.stack[-1], here.watcher.seen)
                here.stack.append(name)
                here.watcher.module = name

        return enter

    def _leave(self, name: str) -> Callable[..., None]:
        def leave(module: nn.Module, args: Any, out: Any) -> None:
            here = self._here
            if here.watcher is not None and here.stack[-1] == name:
                self._backward.label(_tensors(out), name, here.watcher.seen)
                here.stack.pop()
                here.watcher.module = here.stack[-1]

        return leave

    def _made(self, number: int, watcher: Watcher) -> None:
        op = watcher.operations[number]
        what = "NaN" if math.isnan(op.peak) else "an infinity"
        if op.name:
            text = f"{op.name} in {_module(op.module)} makes {what} of finite numbers{likely_cause(op.name)}"
            return self._say(Ailment.FORWARD, op.module, op.name, text, watcher.seen)
        for name, t in [*self._parameters.items(), *self._model.named_buffers()]:
            if watcher.number(t) == number:
                text = f"{name} holds {what} before the pass: go back to a checkpoint"
                return self._say(Ailment.PARAMETER, name, "", text, watcher.seen)
        if number in watcher.inputs:
            text = f"a tensor given to {_module(op.module)} holds {what}: look at the data"
            return self._say(Ailment.INPUT, op.module, "", text, watcher.seen)
        text = (
            f"a tensor in {_module(op.module)} that is no argument of the model, and that no operation of "
            f"torch in this thread made, holds {what}: a constant, what NumPy or another thread made, or "
            "data inside of an object"
        )
        return self._say(Ailment.CONSTANT, op.module, "", text, watcher.seen)

    def _backward_done(self, loss: float, passed: list[Passed], forward: list[Seen]) -> None:
        if any(seen.ill for seen in forward):
            return None
        last = max(forward, key=lambda seen: seen.number)
        if not math.isfinite(loss):
            text = f"the loss is {'NaN' if math.isnan(loss) else 'infinite'}: it is made outside of the model"
            return self._say(Ailment.LOSS, "", "", text, last)
        first = next((p for p in passed if not math.isfinite(p.peak)), None)
        if first is not None:
            what = "NaN" if math.isnan(first.peak) else "an infinity"
            if not first.operation:
                text = f"the gradient that arrives at the model's output holds {what}: it is made by the loss"
                return self._say(Ailment.LOSS, "", "", text, last)
            text = f"{first.operation} in {_module(first.module)} makes {what} of finite gradients"
            return self._say(
                Ailment.BACKWARD, first.module, first.operation, text + likely_cause(first.operation), last
            )
        with self._looking:
            looked, last.looked = last.looked, True
            found = list(self._gradients.look(self._parameters, None if looked else last))
        for ailment, where, text in found:
            self._say(ailment, where, "", text, last)
        return None

    def _say(self, ailment: Ailment, where: str, operation: str, text: str, seen: Seen) -> None:
        finding = Finding(ailment, where, operation, text, seen.number)
        if self._said.setdefault((ailment, where, operation), finding) is not finding:
            return
        self.findings.append(finding)
        if self._on_finding == "raise" and ailment in NONFINITE:
            raise NonFiniteError(finding)
        if self._on_finding != "collect":
            warnings.warn(str(finding), HealthWarning, stacklevel=2)


def watch(model: nn.Module, *, every: int = 1, on_finding: OnFinding = "warn") -> Doctor:
    """Watch a model train, and say in one line what goes wrong and where it began.

    Found: the first module and operation, forward or backward, that makes NaN or infinity of finite
    numbers (an infinity that vanishes again, as that of an attention mask, is none); a loss that is not
    finite, once its backward pass reaches the model; values near the largest of their dtype; weight
    matrices half of whose units had no gradient in 10 backward passes; gradients a thousand times their
    recent median; gradients that vanish on their way back; parameters that no gradient reaches, and whether
    they are cut off or not used.

    A pass that is watched reads each result once more and waits for the device once forward and
    twice backward; hooks of a pass that is not are next to free. Values, gradients and the random state
    are as without it.

    Args:
        model: not compiled; a compiled model hides its operations.
        every: watch one forward pass in so many.
        on_finding: "warn" with a `HealthWarning`; "raise" a `NonFiniteError` where numbers are not finite,
            warn of the rest; "collect" silently.

    Returns:
        The `Doctor`: `print(doctor)` and `doctor.findings` say what was found, `doctor.close()` (or the
        end of a `with`) takes the hooks off.

    Raises:
        UsageError: no module, a compiled one, or one on `meta`; another option.

    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU(), torch.nn.Linear(4, 1))
    >>> with watch(model, on_finding="collect") as doctor:
    ...     (model(torch.zeros(2, 4)).log()).sum().backward()
    >>> doctor.passes
    1

    """
    if not isinstance(model, nn.Module):
        raise UsageError(f"model is {a_type(model)}: expected a torch.nn.Module")
    if hasattr(model, "_orig_mod"):
        raise UsageError("model is compiled, which hides its operations: watch it before torch.compile")
    if isinstance(model, torch.jit.ScriptModule):
        raise UsageError("model is a ScriptModule, which takes no hooks: watch the module it was made from")
    if any(p.is_meta for p in model.parameters()):
        raise UsageError("model is on the device 'meta', where nothing is computed: give it numbers first")
    if not isinstance(every, int) or every < 1:
        raise UsageError(f"every = {every!r}: expected a whole number of at least 1")
    if on_finding not in ("warn", "raise", "collect"):
        raise UsageError(f"on_finding = {on_finding!r}: expected 'warn', 'raise' or 'collect'")
    return Doctor(model, every=every, on_finding=on_finding)


def _tensors(tree: Any) -> list[Tensor]:
    found: list[Tensor] = []
    for leaf in tree_leaves(tree):
        if isinstance(leaf, Tensor):
            found.append(leaf)
        elif is_dataclass(leaf) and not isinstance(leaf, type):
            found += _tensors([getattr(leaf, f.name, None) for f in fields(leaf)])
    return found


def _of_replica(model: nn.Module) -> dict[str, Tensor]:
    """Return by name the tensors that a copy by DataParallel has in the place of parameters."""
    return {
        f"{name}.{key}".lstrip("."): tensor
        for name, module in model.named_modules()
        for key, tensor in getattr(module, "_former_parameters", module._parameters).items()
        if tensor is not None
    }


def _module(name: str) -> str:
    return name or "the model"


def _near(op: Observed) -> str:
    return (
        f"{op.name} in {_module(op.module)} reaches {op.peak:.1e}, near the largest number of its dtype: "
        "lower the learning rate, or use bfloat16 or float32 there"
    )
