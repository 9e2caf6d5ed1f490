"""Whether any gradient holds NaN or infinity, at the price of reading it once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_SMALL = 1 << 14


def nonfinite(grads: Sequence[Tensor]) -> list[int]:
    """Return the indices of the gradients, all of one dtype and device, that hold NaN or infinity.

    A sum is finite only if its terms are, and reads each gradient once; the converse fails where
    finite terms overflow together, so a sum that is not finite is followed by an exact look. On a
    GPU this waits for the device once a call.
    """
    small = [g for g in grads if g.numel() <= _SMALL]
    sums = [_wide(g) for g in grads if g.numel() > _SMALL]
    if small:
        sums.append(_wide(torch._C._nn.flatten_dense_tensors(small)))
    if bool(torch.stack(sums).sum().isfinite()):
        return []
    return [i for i, g in enumerate(grads) if not bool(g.isfinite().all())]


def _wide(g: Tensor) -> Tensor:
    return g.sum(dtype=torch.float32 if g.dtype == torch.float16 else None)
