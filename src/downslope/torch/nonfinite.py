"""Whether any gradient holds NaN or infinity, at the price of reading it once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_SMALL = 1 << 14


def nonfinite(grads: Sequence[Tensor]) -> list[int]:
    """Return the indices of the gradients that hold NaN or infinity.

    A sum is finite only if its terms are, and reads each gradient once; the converse fails where
    finite terms overflow together, so a sum that is not finite is followed by an exact look. On a
    GPU this waits for the device once a call.
    """
    by_device: dict[torch.device, list[Tensor]] = {}
    for g in grads:
        by_device.setdefault(g.device, []).append(g)
    if all(_sum(batch).isfinite() for batch in by_device.values()):
        return []
    return [i for i, g in enumerate(grads) if not bool(g.isfinite().all())]


def _sum(grads: Sequence[Tensor]) -> Tensor:
    small: dict[torch.dtype, list[Tensor]] = {}
    sums = []
    for g in grads:
        if g.numel() <= _SMALL:
            small.setdefault(g.dtype, []).append(g.reshape(-1))
        else:
            sums.append(_wide(g))
    sums += [_wide(torch.cat(batch)) for batch in small.values()]
    return torch.stack(sums).sum()


def _wide(g: Tensor) -> Tensor:
    return g.sum(dtype=torch.float32 if g.dtype == torch.float16 else None).float()
