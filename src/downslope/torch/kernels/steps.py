"""Muon's momentum and write by Triton kernels, for the parameters whose memory they can take as it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from downslope.rules.muon import Muon
from downslope.torch.kernel import OPS
from downslope.torch.kernels.elementwise import descend, momentum

if TYPE_CHECKING:
    from downslope.torch.stacks import Item, Shape

_GRADIENTS = (torch.float32, torch.bfloat16, torch.float16)


def taken(rule: Muon, portion: Sequence[Item]) -> set[Shape]:
    """Return the shapes of matrices all of whose parameters the momentum kernel takes."""
    found = {shape[1:] for item in portion for shape in item.matrices}
    for item in portion:
        if not _fits(rule, item):
            found -= {shape[1:] for shape in item.matrices}
    return found


def _fits(rule: Muon, item: Item) -> bool:
    return (
        not rule.l2
        and item.in_place
        and item.g.is_contiguous()
        and item.momentum.is_contiguous()
        and item.g.dtype in _GRADIENTS
        and item.momentum.dtype == torch.float32
    )


def gather(
    rule: Muon, portion: Sequence[Item], t: Any, dtype: torch.dtype, ok: Tensor | None
) -> dict[Shape, Tensor]:
    """Update the momenta; return the stacks in the dtype of the iterations, divided by their norms."""
    counts: Counter[Shape] = Counter()
    for item in portion:
        ((count, fan_out, fan_in),) = item.matrices
        counts[fan_out, fan_in] += count
    like = portion[0].momentum
    stacks = {shape: like.new_empty((count, *shape), dtype=dtype) for shape, count in counts.items()}
    norms = {shape: like.new_empty((count, 1, 1)) for shape, count in counts.items()}
    mu = rule.momentum_at(OPS, like, t)
    done: Counter[Shape] = Counter()
    for item in portion:
        ((count, fan_out, fan_in),) = item.matrices
        low, high = done[fan_out, fan_in], done[fan_out, fan_in] + count
        done[fan_out, fan_in] = high
        place = stacks[fan_out, fan_in][low:high]
        found = momentum(item.g, item.momentum, place, mu=mu, nesterov=rule.nesterov, ok=ok)
        norms[fan_out, fan_in][low:high] = found
    for shape, stack in stacks.items():
        stack.div_(torch.where(norms[shape] > 0, norms[shape], 1.0))
    return stacks


def write(
    item: Item, d: Tensor, *, lr: Any, scale: float, weight_decay: float, cautious: bool, ok: Tensor | None
) -> bool:
    """Step a parameter along a direction by the kernel, or return False where it cannot."""
    if not (item.p.is_contiguous() and d.is_contiguous() and item.p.dtype in _GRADIENTS):
        return False
    if isinstance(lr, Tensor) and lr.device != item.p.device:
        lr = float(lr)  # a number of the host's
    descend(item.p, d, lr=lr, scale=scale, weight_decay=weight_decay, cautious=cautious, ok=ok)
    return True
