"""Changes worth trying on a training step, each measured in turns with the step as it is."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import torch

from downslope.diagnose.profile import WhatIf
from downslope.diagnose.torch.clock import Clock
from downslope.diagnose.torch.processes import agreed
from downslope.diagnose.torch.subject import Subject
from downslope.errors import UsageError, closest, one_line
from downslope.rules.orthogonalize import coefficients_of, published_range
from downslope.torch.muon import NS_DTYPES, Muon
from downslope.torch.precision import fast_dtype
from downslope.torch.stacks import stack_bytes

NAMES = ("dtype", "steps", "stacks", "replicas", "compile")
QUICK = NAMES[:4]
"""Those that take seconds; compiling takes up to a minute."""

ROUNDS = 9


@dataclass(frozen=True)
class Change:
    """Something to try: `applied(subject)` is a context that yields the changed step's subject."""

    name: str
    change: str
    applied: Callable[[Subject], AbstractContextManager[Subject]]
    note: str = ""


def chosen(names: str | None) -> tuple[str, ...]:
    """Return the names of changes in a text like "all", "quick", "none" or "steps,compile".

    Raises:
        UsageError: there is no such change.

    """
    if names is None or names == "all":
        return NAMES
    if names == "quick":
        return QUICK
    if names == "none":
        return ()
    found = [name.strip() for name in names.split(",") if name.strip()]
    for name in found:
        if name not in NAMES:
            raise UsageError(
                f"unknown what-if {name!r}: expected all, quick, none, or some of {', '.join(NAMES)}"
                f"{closest(name, NAMES)}"
            )
    return tuple(found)


def require_meaning(subject: Subject, names: str | None) -> None:
    """Refuse a change that was asked for by its name where a step has nothing for it to change.

    Raises:
        UsageError: there is such a change.

    """
    for name in () if names in (None, "all", "quick", "none") else chosen(names):
        if _MAKERS[name](subject) is None:
            raise UsageError(
                f"what-if {name!r} changes nothing in this step of {subject.label}: it is for "
                f"{_MEANT_FOR[name]}; leave it out"
            )


def try_out(subject: Subject, names: tuple[str, ...], clock: Clock, seconds: float) -> list[WhatIf]:
    """Return what each change does to the time of a step."""
    found: list[WhatIf] = []
    for name in names:
        made = _MAKERS[name](subject)
        if made is not None:
            found.append(made if isinstance(made, WhatIf) else _measured(subject, made, clock, seconds))
    return found


def _measured(subject: Subject, change: Change, clock: Clock, seconds: float) -> WhatIf:
    try:
        with change.applied(subject) as changed:
            begun = time.perf_counter()
            changed.step()
            clock.settle()
            first = time.perf_counter() - begun
            changed.step()
            pairs = _pairs(subject, change, changed, clock, seconds)
    except Exception as error:
        return WhatIf(change.name, change.change, note=f"could not be tried: {one_line(error)[:160]}")
    before = 1e3 * statistics.median(a for a, _ in pairs)
    ratio = statistics.median(b / a for a, b in pairs)
    after = ratio * before
    note = change.note.replace("FIRST", f"{first:.0f} s")
    return WhatIf(change.name, change.change, before, after, ratio, note)


def _pairs(
    subject: Subject, change: Change, changed: Subject, clock: Clock, seconds: float
) -> list[tuple[float, float]]:
    """Return the seconds of a step as it is and changed, taking turns."""
    pairs = []
    steps = 1
    for _ in range(ROUNDS):
        after = seconds_of(changed, clock, steps)
        with _left(subject, change):
            before = seconds_of(subject, clock, steps)
        pairs.append((before, after))
        steps = agreed(max(1, min(200, int(seconds / (ROUNDS * (before + after))))))
    return pairs[1:]


@contextlib.contextmanager
def _left(subject: Subject, change: Change) -> Iterator[None]:
    """Take back what a change wrote into the optimizer and its groups, for a while."""
    optimizer, groups, own = subject.optimizer, subject.optimizer.param_groups, subject.whole
    now = [dict(group) for group in groups]
    changed = {name: getattr(optimizer, name) for name in own.get("attributes", {})}
    for group, values in zip(groups, own.get("groups", now), strict=True):
        group.update({k: v for k, v in values.items() if k != "params"})
    for name, value in own.get("attributes", {}).items():
        setattr(optimizer, name, value)
    try:
        yield
    finally:
        for group, values in zip(groups, now, strict=True):
            group.update({k: v for k, v in values.items() if k != "params"})
        for name, value in changed.items():
            setattr(optimizer, name, value)


@contextlib.contextmanager
def _with_attribute(subject: Subject, name: str, value: Any) -> Iterator[Subject]:
    """Set an attribute of the optimizer."""
    kept = getattr(subject.optimizer, name)
    subject.whole["attributes"] = {name: kept}
    setattr(subject.optimizer, name, value)
    try:
        yield subject
    finally:
        setattr(subject.optimizer, name, kept)
        del subject.whole["attributes"]


def seconds_of(subject: Subject, clock: Clock, steps: int) -> float:
    """Return the seconds of a step, from so many in a row that nothing is asked in between."""
    clock.settle()
    begun = time.perf_counter()
    for _ in range(steps):
        subject.step()
    clock.settle()
    return (time.perf_counter() - begun) / steps


@contextlib.contextmanager
def _with_groups(subject: Subject, **values: Any) -> Iterator[Subject]:
    """Set values of the groups under Muon."""
    groups = subject.optimizer.param_groups
    kept = [{key: group[key] for key in values if key in group} for group in groups]
    subject.whole["groups"] = kept
    for group in groups:
        if group.get("rule") == "muon":
            group.update(values)
    try:
        yield subject
    finally:
        for group, before in zip(groups, kept, strict=True):
            group.update(before)
        del subject.whole["groups"]


def _muon_group(subject: Subject) -> dict[str, Any] | None:
    if not isinstance(subject.optimizer, Muon):
        return None
    return next((g for g in subject.optimizer.param_groups if g["rule"] == "muon"), None)


def _dtype(subject: Subject) -> Change | None:
    group = _muon_group(subject)
    if group is None or group["params"][0].dtype == torch.float64:
        return None
    now = NS_DTYPES[group["ns_dtype"]] or fast_dtype(group["params"][0]) or torch.float32
    if now == torch.bfloat16:
        other, note = "float32", "the iterations run in bfloat16 now, and lose some three digits"
    else:
        other, note = "bfloat16", "the polar factor has some three digits less"
    return Change(
        "dtype",
        f'ns_dtype="{other}": Newton-Schulz in {other}',
        lambda s: _with_groups(s, ns_dtype=other),
        note,
    )


def _steps(subject: Subject) -> Change | None:
    group = _muon_group(subject)
    if group is None:
        return None
    half = (NS_DTYPES[group["ns_dtype"]] or fast_dtype(group["params"][0])) == torch.bfloat16
    now = group["ns_steps"] or len(coefficients_of(group["coefficients"], half=half))
    if now < 3:
        return None
    ranges = [published_range(group["coefficients"], n, half) for n in (now, now - 2)]
    (low, high), (lower, higher) = ranges
    return Change(
        "steps",
        f"ns_steps={now - 2} instead of {now}",
        lambda s: _with_groups(s, ns_steps=now - 2),
        f"singular values in {lower:.2g} – {higher:.3g} instead of {low:.2g} – {high:.3g}",
    )


def _stacks(subject: Subject) -> Change | WhatIf | None:
    group = _muon_group(subject)
    if group is None:
        return None
    optimizer = subject.optimizer
    assert isinstance(optimizer, Muon)
    params = group["params"]
    now = stack_bytes(optimizer.max_stack_bytes, params[0].device)
    needed = 2 * sum(p.numel() * max(4, p.element_size()) for p in params)
    said = f"{now / 2**20:.0f} MiB"
    if needed <= now:
        return WhatIf("stacks", "larger stacks", note=f"all matrices fit into the {said} of now")
    return Change(
        "stacks",
        f"max_stack_bytes of {4 * now / 2**20:.0f} MiB instead of {said}",
        lambda s: _with_attribute(s, "max_stack_bytes", 4 * now),
    )


def _replicas(subject: Subject) -> Change | None:
    if not isinstance(subject.optimizer, Muon) or subject.optimizer.replicas is None:
        return None
    return Change(
        "replicas",
        "replicas=False: every process orthogonalises all matrices",
        lambda s: _with_attribute(s, "replicas", None),
        f"{subject.optimizer.replicas.size()} processes share them out now, and send each other the steps",
    )


def _compile(subject: Subject) -> Change:
    @contextlib.contextmanager
    def applied(s: Subject) -> Iterator[Subject]:
        compiled = torch.compile(s.model)
        yield replace(s, loss=lambda _, batch: s.loss(compiled, batch))

    return Change("compile", "torch.compile(model)", applied, "the first step took FIRST")


_MAKERS: dict[str, Callable[[Subject], Change | WhatIf | None]] = {
    "dtype": _dtype,
    "steps": _steps,
    "stacks": _stacks,
    "replicas": _replicas,
    "compile": _compile,
}
_MEANT_FOR = {
    "dtype": "Muon's matrices, below float64",
    "steps": "Muon's matrices, of three iterations or more",
    "stacks": "Muon's matrices",
    "replicas": "Muon in several processes",
}
