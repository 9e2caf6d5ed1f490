"""The operations on PyTorch tensors. `ema` and `accumulate` write over their slot."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from downslope.rules.rule import bias_correction


class TorchOps:
    """`Ops` on `torch.Tensor`; run it under `torch.no_grad`."""

    def zeros_like(self, a: Tensor) -> Tensor:
        return torch.zeros_like(a)

    def full_like(self, a: Tensor, value: float) -> Tensor:
        return torch.full_like(a, value)

    def sqrt(self, a: Tensor) -> Tensor:
        return a.sqrt()

    def square(self, a: Tensor) -> Tensor:
        return a * a

    def maximum(self, a: Tensor, b: Tensor | float) -> Tensor:
        return torch.maximum(a, b) if isinstance(b, Tensor) else a.clamp(min=b)

    def where(self, condition: Tensor, a: Tensor | float, b: Tensor | float) -> Tensor:
        return torch.where(condition, a, b)

    def ema(self, slot: Tensor, value: Tensor, beta: float) -> Tensor:
        return slot.mul_(beta).add_(value, alpha=1 - beta)

    def accumulate(self, slot: Tensor, value: Tensor, decay: float) -> Tensor:
        return (slot if decay == 1 else slot.mul_(decay)).add_(value)

    def lerp(self, a: Tensor, b: Tensor, weight: float) -> Tensor:
        return torch.lerp(a, b, weight)

    def debias(self, a: Tensor, beta: float, t: Any) -> Tensor:
        if isinstance(t, Tensor):
            return a if beta == 0 else a / -torch.expm1(t * torch.tensor(beta, dtype=torch.float64).log())
        return a / bias_correction(beta, t)

    def norm(self, a: Tensor) -> Tensor:
        if a.numel() == 0:
            return a.new_zeros((*a.shape[:-2], 1, 1))
        largest = a.abs().amax(dim=(-2, -1), keepdim=True)
        safe = torch.where(largest > 0, largest, 1.0)
        return largest * torch.linalg.vector_norm(a / safe, dim=(-2, -1), keepdim=True)

    def transpose(self, a: Tensor) -> Tensor:
        return a.mT

    def gram(self, a: Tensor) -> Tensor:
        return _mirrored(_multiply, a, a.mT) if _worth_mirroring(a) else a @ a.mT

    def addmm(self, c: Tensor, a: Tensor, b: Tensor, beta: float, alpha: float) -> Tensor:
        if a.ndim == 2:
            return torch.addmm(c, a, b, beta=beta, alpha=alpha)
        if a.ndim == 3:
            return torch.baddbmm(c, a, b, beta=beta, alpha=alpha)
        return beta * c + alpha * (a @ b)

    def addmm_symmetric(self, c: Tensor, a: Tensor, b: Tensor, beta: float, alpha: float) -> Tensor:
        if not _worth_mirroring(a):
            return self.addmm(c, a, b, beta, alpha)
        return _mirrored(partial(_multiply_add, beta=beta, alpha=alpha), a, b, c)

    def permute(self, a: Tensor, axes: tuple[int, ...]) -> Tensor:
        return a.permute(axes)

    def reshape(self, a: Tensor, shape: tuple[int, ...]) -> Tensor:
        return a.reshape(shape)

    def concat(self, parts: list[Tensor], axis: int) -> Tensor:
        return torch.cat(parts, dim=axis)

    def astype(self, a: Tensor, dtype: Any) -> Tensor:
        return a.to(dtype)


_STRIPES = 4
"""Stripes that a symmetric product is cut into: 10 of 16 blocks are computed, 6 are mirrored."""

_MIRROR_FROM = 384
"""Rows from which mirroring pays on a CPU: below, the blocks are too small to run at full speed."""


def _worth_mirroring(a: Tensor) -> bool:
    return a.device.type == "cpu" and a.shape[-2] >= _MIRROR_FROM


def _mirrored(block: Callable[..., Tensor], a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    """Return a symmetric product of which only the blocks on and below the diagonal are computed.

    Matrices of a stack are taken one at a time: they are large, and a batched product would copy
    its strided blocks.
    """
    m = a.shape[-2]
    out = a.new_empty((*a.shape[:-1], m))
    edges = [m * i // _STRIPES for i in range(_STRIPES + 1)]
    stacked = [t.reshape(-1, *t.shape[-2:]) for t in (out, a, b, *([] if c is None else [c]))]
    for target, left, right, *added in zip(*stacked, strict=True):
        for low, high in pairwise(edges):
            operands = [left[low:high], right[:, :high], *(t[low:high, :high] for t in added)]
            computed = block(*operands)
            target[low:high, :high] = computed
            target[:low, low:high] = computed[:, :low].mT
    return out


def _multiply(a: Tensor, b: Tensor) -> Tensor:
    return a @ b


def _multiply_add(a: Tensor, b: Tensor, c: Tensor, *, beta: float, alpha: float) -> Tensor:
    return torch.addmm(c, a, b, beta=beta, alpha=alpha)
