"""Measuring a training step: two kinds of windows in turns, one honest about time, one about parts."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from downslope.diagnose.profile import LayerTime, PartTime, Profile, parts_of
from downslope.diagnose.torch.clock import Clock, clock_of
from downslope.diagnose.torch.layers import OUTSIDE, Layers
from downslope.diagnose.torch.memory import memory_of
from downslope.diagnose.torch.processes import agreed, alone, exchanges
from downslope.diagnose.torch.snapshot import Snapshot
from downslope.diagnose.torch.subject import Subject, of_objects
from downslope.diagnose.torch.tape import Tape, self_times
from downslope.diagnose.torch.what_if import chosen, require_meaning, seconds_of, try_out
from downslope.errors import UsageError
from downslope.torch.regions import heard_by

ROUNDS = 15
WARM_UP = 3
LAYER_STEPS = 5

Spans = list[tuple[tuple[str, ...], float, float]]


@dataclass
class Windows:
    """What the windows of one subject found."""

    plain: list[float] = field(default_factory=list)
    """Seconds of a step in each unsynchronised window."""
    alone: list[float] = field(default_factory=list)
    """The same without the exchange between processes, where there is one."""
    composed: list[float] = field(default_factory=list)
    """Seconds of a step in each synchronised window."""
    summed: list[float] = field(default_factory=list)
    """Seconds of a step in each synchronised window, as its parts add up."""
    own: list[dict[tuple[str, ...], float]] = field(default_factory=list)
    """Seconds of each part itself, one dict a step."""
    spans: Spans = field(default_factory=list)


def profile(
    model: nn.Module,
    batch: Any,
    optimizer: torch.optim.Optimizer,
    loss: Callable[[Any, Any], Tensor] | None = None,
    *,
    batches: Iterable[Any] | None = None,
    versus: torch.optim.Optimizer | None = None,
    what_ifs: str | None = "none",
    layers: bool = True,
    memory: bool = True,
    seconds: float = 4.0,
) -> Profile:
    """Return where the time and the memory of a training step go.

    Training steps are really taken; afterwards model, optimizer, gradients and random generators are
    what they were, bit for bit. Where the model is in DistributedDataParallel every process calls this, and
    "exchange" is what a step takes longer than without the exchange of gradients.

    Args:
        model: in the mode in which it is to be measured.
        batch: what `loss` takes beside the model.
        optimizer: any torch optimizer of the model's parameters; those of `downslope.torch` tell
            the parts of their rules too.
        loss: `loss(model, batch)` returns the scalar to minimise; None where the model, called
            with the batch, returns it or an object with `.loss`.
        batches: a data loader or a list, to measure the data too; else `batch` is used again and again.
        versus: another optimizer of the same parameters, measured in turns with the first.
        what_ifs: "all", "quick" (all but "compile"), "none", or names with commas between: "dtype" (of
            Newton-Schulz), "steps" (fewer of them), "stacks" (larger ones),
            "replicas" (processes that share nothing), "compile" (of the model).
        layers: measure every module, forward and backward.
        memory: measure what the memory holds.
        seconds: about how long the windows of an optimizer are together.

    Raises:
        UsageError: an optimizer of another model or whose step needs a closure, a loss that is no scalar, an
            unknown what-if.

    >>> import torch
    >>> from downslope.torch import AdamW, profile
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    >>> x = torch.zeros(16, 4)
    >>> found = profile(model, x, AdamW(model.parameters()), lambda m, x: m(x).square().mean(), seconds=0.1)
    >>> [part.name for part in found.parts][:3]
    ['data', 'forward', 'backward']

    """
    if not 0 < seconds < math.inf:
        raise UsageError(f"seconds = {seconds}: expected a positive number")
    if layers and isinstance(model, torch.jit.ScriptModule):
        raise UsageError(
            "model is a ScriptModule, which takes no hooks: profile the module it was made from, "
            "or pass layers=False"
        )
    names = chosen(what_ifs)
    subjects = [of_objects(model, batch, optimizer, loss, batches)]
    require_meaning(subjects[0], what_ifs)
    if versus is not None:
        subjects.append(of_objects(model, batch, versus, loss, batches))
    return profile_subjects(subjects, names, layers=layers, memory=memory, seconds=seconds)


def profile_subjects(
    subjects: Sequence[Subject],
    what_ifs: Sequence[str] = (),
    *,
    layers: bool = True,
    memory: bool = True,
    seconds: float = 4.0,
    told: Callable[[str], None] = lambda _: None,
    clock: Clock | None = None,
) -> Profile:
    """Return the profile of the first subject, with that of a second one as `versus`.

    `told` is called with what is measured next.
    """
    clock = clock or clock_of(subjects[0].device)
    kept = [Snapshot(s.model, s.optimizer, s.source) for s in subjects]
    try:
        told("time")
        windows = measured(subjects, clock, seconds)
        profiles = []
        for subject, found in zip(subjects, windows, strict=True):
            made = _profile_of(subject, found)
            if layers:
                told(f"layers, {subject.label}")
                made = replace(made, layers=_layers_of(subject, clock))
            if memory:
                told(f"memory, {subject.label}")
                made = replace(made, memory=memory_of(subject))
            profiles.append(made)
        tried = []
        for name in what_ifs:
            told(f"what if: {name}")
            tried += try_out(subjects[0], (name,), clock, seconds / 2)
    finally:
        for snapshot in reversed(kept):
            snapshot.restore()
    first = replace(profiles[0], what_ifs=tuple(tried))
    if len(subjects) == 1:
        return first
    pairs = zip(windows[0].plain, windows[1].plain, strict=True)
    return replace(first, versus=profiles[1], versus_ratio=statistics.median(a / b for a, b in pairs))


def measured(subjects: Sequence[Subject], clock: Clock, seconds: float) -> list[Windows]:
    """Return what windows of both kinds find, the subjects taking turns."""
    found = [Windows() for _ in subjects]
    counts = []
    for subject in subjects:
        for _ in range(WARM_UP):
            subject.step()
        step = seconds_of(subject, clock, 1)
        counts.append(agreed(max(2, min(1000, int(seconds / (2 * ROUNDS * max(step, 1e-9)))))))
    for number in range(ROUNDS):
        for subject, windows, count in zip(subjects, found, counts, strict=True):
            # Which window goes first alternates, so that neither always finds the warmer cache.
            for kind in ("plain", "composed") if number % 2 == 0 else ("composed", "plain"):
                if kind == "plain":
                    windows.plain.append(seconds_of(subject, clock, count))
                    if exchanges(subject.model):
                        with alone(subject.model):
                            windows.alone.append(seconds_of(subject, clock, count))
                else:
                    _compose(subject, windows, clock, count)
    return found


def _compose(subject: Subject, windows: Windows, clock: Clock, steps: int) -> None:
    """Take steps with every part of them marked, the device idle at first as in the other windows."""
    tape = Tape(clock)
    clock.settle()
    with heard_by(tape.part, tape.told):
        for _ in range(steps):
            with tape.part("step"):
                subject.step(tape.part)
    spans = tape.spans()
    starts = [i for i, (path, _, _) in enumerate(spans) if len(path) == 1]
    for start, end in zip(starts, [*starts[1:], len(spans)], strict=True):
        windows.own.append(self_times(spans[start:end]))
    windows.summed.append(sum(sum(own.values()) for own in windows.own[-steps:]) / steps)
    first, last = spans[starts[0]], spans[starts[-1]]
    windows.composed.append((last[1] + last[2] - first[1]) / steps)
    after = max((start + length for _, start, length in windows.spans), default=0.0)
    windows.spans += [(path, after + start, length) for path, start, length in spans]


def _profile_of(subject: Subject, windows: Windows) -> Profile:
    whole = statistics.median(windows.plain)
    own = with_exchange(middle_half(windows.own), windows)
    parts = parts_of([(_said(path), s) for path, s in own.items()], 1e3 * whole)
    ratios = [c / p for c, p in zip(windows.composed, windows.plain, strict=True)]
    return Profile(
        name=subject.name,
        optimizer=subject.label,
        device=str(subject.device),
        threads=torch.get_num_threads(),
        parameters=sum(p.numel() for p in subject.model.parameters()),
        steps=len(windows.own),
        milliseconds=1e3 * whole,
        low=1e3 * min(windows.plain),
        high=1e3 * max(windows.plain),
        parts=tuple(sorted(parts, key=_order)),
        closure=statistics.median(c / p for c, p in zip(windows.summed, windows.plain, strict=True)),
        overhead=statistics.median(ratios) - 1,
        spans=tuple(windows.spans),
        environment={"torch": str(torch.__version__)},
    )


def middle_half(own: Sequence[dict[tuple[str, ...], float]]) -> dict[tuple[str, ...], float]:
    """Return the mean seconds of each part over the half of the steps that are neither fast nor slow.

    Unlike medians of each part, these add up to a step.
    """
    ordered = sorted(own, key=lambda parts: sum(parts.values()))
    middle = ordered[len(own) // 4 : len(own) - len(own) // 4]
    paths = dict.fromkeys(path for parts in middle for path in parts)
    return {path: statistics.fmean(parts.get(path, 0.0) for parts in middle) for path in paths}


def with_exchange(own: dict[tuple[str, ...], float], windows: Windows) -> dict[tuple[str, ...], float]:
    """Return the parts with the exchange between processes taken out of the backward pass that it is in.

    That is the time by which a step is longer than without it: what runs beside the backward pass costs
    nothing.
    """
    if not windows.alone:
        return own
    backward = ("step", "backward")
    longer = statistics.median(p - a for p, a in zip(windows.plain, windows.alone, strict=True))
    exchange = min(max(0.0, longer), own[backward])
    return {**own, backward: own[backward] - exchange, ("step", "exchange"): exchange}


def _said(path: tuple[str, ...]) -> tuple[str, ...]:
    """Return a part's path as it is shown: without the step itself, and with the optimizer's rules on top."""
    inner = path[1:]
    if inner[:1] == ("optimizer",) and len(inner) > 1:
        inner = inner[1:]
    return inner or ("between parts",)


_ORDER = ("data", "forward", "backward", "exchange", "muon")
_LAST = ("check", "optimizer", "zero_grad", "between parts")
_INNER = ("momentum", "exchange", "orthogonalise", "write")


def _order(part: PartTime) -> tuple[int, str, int, int]:
    head = part.path[0]
    place = _ORDER.index(head) if head in _ORDER else len(_ORDER) + (head in _LAST and 1 + _LAST.index(head))
    inner = part.path[1:]
    nested = _INNER.index(inner[0]) if inner and inner[0] in _INNER else len(_INNER) - 9 * (not inner)
    return place, head, nested, len(inner)


def _layers_of(subject: Subject, clock: Clock) -> tuple[LayerTime, ...]:
    """Return each module's median milliseconds over some steps."""
    taken: list[dict[str, tuple[float, float]]] = []
    for _ in range(LAYER_STEPS + 1):
        layers = Layers(clock, subject.model)
        with ExitStack() as stack:
            stack.enter_context(layers.watched())
            loss = subject.loss(subject.model, next(subject.batches))
        layers.watch_backward(loss)
        subject.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        subject.update()
        taken.append(layers.seconds())
    modules = {name or type(m).__name__: m for name, m in subject.model.named_modules()}
    found = []
    for name in taken[0]:
        forward, backward = (1e3 * statistics.median(t[name][i] for t in taken[1:]) for i in (0, 1))
        module = modules.get(name)
        count = 0 if module is None else sum(p.numel() for p in module.parameters(recurse=False))
        kind = "" if module is None else type(module).__name__
        if forward or backward or (name != OUTSIDE and count):
            found.append(LayerTime(name, kind, forward, backward, count))
    return tuple(found)
