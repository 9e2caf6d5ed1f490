"""The step of an element-wise rule, by the first engine that takes it.

These are code compiled for this CPU, torch's fused kernels, and blocks that stay in the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain, compress

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from downslope.rules.rule import Rule
from downslope.torch import fused
from downslope.torch.blocks import for_each_block
from downslope.torch.engine import Write, counted
from downslope.torch.kernel import elementwise_kernel
from downslope.torch.native import elementwise, memory

Columns = Sequence[list[Tensor]]
"""Parameters of one dtype and device, their gradients, and the parts of the rule's state."""


def step_elementwise(
    rule: Rule,
    columns: Columns,
    t: int | Tensor,
    how: Write,
    ok: Tensor | None = None,
    known: elementwise.Known | None = None,
) -> None:
    """Take a step.

    Args:
        rule: an element-wise one.
        columns: what it is taken of; parameters and states are written.
        t: the number of the step, from 1; a tensor on the device where the host must not wait for it.
        how: the rate and the decay; with `fused` false, in blocks.
        ok: a tensor of one bool; where it is False, nothing changes.
        known: what `known_of` said of the same columns a step ago.

    """
    if known is not None and how.fused:
        step = elementwise.step_of(rule, columns[0][0].dtype, int(t), how)
        if not isinstance(step, str):
            elementwise.take(step, columns[1], known)
            return
    for engine in (_compiled, _fused) if how.fused else ():
        if columns[0]:
            columns = engine(rule, columns, t, how, ok)
    if columns[0]:
        kernel = elementwise_kernel(rule, t, how.lr, how.weight_decay, how.cautious, ok)
        written = (True, False) + (True,) * (len(columns) - 2)
        for_each_block(kernel, list(zip(*columns, strict=True)), written)


def _compiled(rule: Rule, columns: Columns, t: int | Tensor, how: Write, ok: Tensor | None) -> Columns:
    """Step what compiled code takes; return the rest."""
    first = columns[0][0]
    if first.device.type != "cpu" or isinstance(t, Tensor) or ok is not None:
        return columns
    step = elementwise.step_of(rule, first.dtype, t, how)
    if isinstance(step, str):
        return columns
    taken, rest = _parted(columns, elementwise.fits)
    if not memory.lie_apart(taken[0]):
        return columns
    if taken[0]:
        elementwise.take(step, taken[1], elementwise.known_of(taken[0], taken[2:]))
    return rest


def known_of(columns: Columns) -> elementwise.Known | None:
    """Return what compiled code may know of columns in the next step, None where it does not take them."""
    params, _, *states = columns
    takes = params[0].device.type == "cpu" and elementwise.fits(columns) and memory.lie_apart(params)
    in_order = all(map(memory.in_order, columns))  # not in another, which the next gradients may not have
    return elementwise.known_of(params, states) if takes and in_order else None


def _fused(rule: Rule, columns: Columns, t: int | Tensor, how: Write, ok: Tensor | None) -> Columns:
    """Step what torch's fused kernel takes; return the rest."""
    launch = fused.kernel_for(rule, how.weight_decay, how.cautious)
    if launch is None or not fused.suits(columns[0][0]):
        return columns
    taken, rest = _parted(columns, lambda some: fused.fits(some[0], some[1], some[2:]))
    if taken[0]:
        bad = None if ok is None else torch.logical_not(ok, out=torch.empty_like(ok, dtype=torch.float32))
        lr = how.lr if isinstance(t, Tensor) else float(how.lr)
        launch(taken[0], taken[1], list(taken[2:]), t, lr, bad)
        increment_version(chain(taken[0], *taken[2:]))
    return rest


def _parted(columns: Columns, fits: Callable[[Columns], bool]) -> tuple[Columns, Columns]:
    """Return the rows that an engine takes, and the others."""
    nothing: Columns = [[] for _ in columns]
    if fits(columns):
        return columns, nothing
    found = [fits([[t] for t in row]) for row in zip(*columns, strict=True)]
    others = [not one for one in found]
    return [list(compress(column, found)) for column in columns], [
        list(compress(column, others)) for column in columns
    ]


def engines_of(rule: Rule, params: Sequence[Tensor], how: Write, *, capturable: bool) -> str:
    """Return in words what steps parameters; where it is not the fastest engine, why."""
    words = counted([_engine_of(rule, p, how, capturable) for p in params])
    return ", ".join(words or ["nothing to step"])


def _engine_of(rule: Rule, p: Tensor, how: Write, capturable: bool) -> str:
    if not how.fused:
        return "cache-sized blocks (fused=False)"
    why = ""
    if p.device.type == "cpu":
        why = "capturable" if capturable else elementwise.reason(rule, p.dtype, how)
        if not why and elementwise.fits([[p]]):
            return "code compiled for this CPU"
    because = f" ({why})" if why else ""
    if fused.kernel_for(rule, how.weight_decay, how.cautious) and fused.fits([p]):
        return f"torch's fused kernel{because}"
    return f"cache-sized blocks{because}"
