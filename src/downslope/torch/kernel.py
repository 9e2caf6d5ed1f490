"""A rule applied to tensors: its state by name, and the kernel that blocks are run through."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from downslope.ops.protocol import Array, Ops
from downslope.ops.torch import TorchOps
from downslope.rules.descent import step
from downslope.rules.rule import Rule
from downslope.torch.spread import local


class PureOps(TorchOps):
    """`TorchOps` whose averages leave their slot as it was, for steps that may turn out not to count."""

    def ema(self, slot: Tensor, value: Tensor, beta: float | Tensor) -> Tensor:
        """Return the average in memory of its own."""
        return super().ema(slot.clone(), value, beta)

    def accumulate(self, slot: Tensor, value: Tensor, decay: float) -> Tensor:
        """Return the sum in memory of its own."""
        return super().accumulate(slot.clone(), value, decay)


OPS = TorchOps()
PURE = PureOps()

HALF = (torch.float16, torch.bfloat16)
"""Parameters of these dtypes have float32 states and steps, rounded once when written."""


@lru_cache
def state_fields(rule: Rule) -> tuple[str, ...]:
    """Return the names of the parts of a rule's state that its options leave in."""
    return tuple(k for k, v in rule.init(OPS, torch.empty(0))._asdict().items() if v is not None)


def in_parts(t: Tensor) -> Tensor:
    """Return a tensor as rules see it, in the same memory: complex numbers as pairs of real ones."""
    return torch.view_as_real(t) if t.is_complex() else t


def first_state(
    rule: Rule, p: Tensor, shape_of: Callable[[str, Tensor], tuple[int, ...]] | None = None
) -> dict[str, Tensor]:
    """Return the parts of a parameter's state before its first step, by name.

    `shape_of` says which shape a part has, the parameter's by default; another one starts at zero.
    """
    if p.is_complex():
        pairs = first_state(rule, torch.view_as_real(p.detach()))
        return {name: torch.view_as_complex(part) for name, part in pairs.items()}
    like = torch.empty_like(p, dtype=torch.float32) if p.dtype in HALF else p.detach()
    parts = rule.init(OPS, like)._asdict()
    made = {}
    for name in state_fields(rule):
        shape = tuple(p.shape) if shape_of is None else shape_of(name, p)
        made[name] = parts[name] if shape == tuple(p.shape) else local(like).new_zeros(shape)
    return made


def stepped(
    ops: Ops,
    rule: Rule,
    p: Array,
    g: Array,
    slots: Sequence[Array],
    t: Any,
    *,
    lr: Any,
    weight_decay: float,
    cautious: bool,
) -> tuple[Array, list[Array]]:
    """Return what to add to a parameter, and the new parts of its state, in the order of `state_fields`."""
    fields = state_fields(rule)
    empty: Any = rule.state_type(*[None] * len(rule.state_type._fields))  # type: ignore[attr-defined]
    state = empty._replace(**dict(zip(fields, slots, strict=True)))
    d, new = rule.direction(ops, g, state, p, t)
    change = step(ops, p, d, lr=lr, weight_decay=weight_decay, cautious=cautious)
    return change, [getattr(new, field) for field in fields]


def elementwise_kernel(
    rule: Rule, t: Any, lr: Any, weight_decay: float, cautious: bool, ok: Tensor | None = None
) -> Callable[..., None]:
    """Return what `for_each_block` is to call: the rule's direction and the write of its step.

    Where `ok`, a tensor of one bool, is False, nothing changes.
    """
    ops = OPS if ok is None else PURE

    def kernel(p: Tensor, g: Tensor, *slots: Tensor) -> None:
        exact = p.float() if p.dtype in HALF else p
        change, parts = stepped(
            ops, rule, exact, g.to(exact.dtype), slots, t, lr=lr, weight_decay=weight_decay, cautious=cautious
        )
        for slot, part in zip(slots, _kept(parts, slots), strict=True):
            assign(slot, part, ok)
        write(p, exact, change, ok)

    return kernel


def _kept(parts: Sequence[Tensor], slots: Sequence[Tensor]) -> list[Tensor]:
    """Return the new parts of a state, with copies of those that lie where another one is to be written."""
    return [
        part.clone() if any(part is other for other in slots if other is not slot) else part
        for part, slot in zip(parts, slots, strict=True)
    ]


def assign(slot: Tensor, value: Tensor, ok: Tensor | None = None) -> None:
    """Write a part of a state, where it is not written already and `ok` is not False."""
    if ok is not None:
        value = torch.where(ok, value, slot)
    if value is not slot:
        slot.copy_(value)


def write(p: Tensor, exact: Tensor, change: Tensor, ok: Tensor | None = None) -> None:
    """Add a step to a parameter, rounding once where it is of half precision."""
    if ok is not None:
        p.copy_(torch.where(ok, exact + change, exact))
    elif exact is p:
        p.add_(change)
    else:
        p.copy_(exact + change)
