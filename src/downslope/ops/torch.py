"""The operations on PyTorch tensors. `ema` and `accumulate` write over their slot."""

from __future__ import annotations

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
        return a @ a.mT

    def addmm(self, c: Tensor, a: Tensor, b: Tensor, beta: float, alpha: float) -> Tensor:
        if a.ndim == 2:
            return torch.addmm(c, a, b, beta=beta, alpha=alpha)
        if a.ndim == 3:
            return torch.baddbmm(c, a, b, beta=beta, alpha=alpha)
        return beta * c + alpha * (a @ b)

    def addmm_symmetric(self, c: Tensor, a: Tensor, b: Tensor, beta: float, alpha: float) -> Tensor:
        return self.addmm(c, a, b, beta, alpha)

    def permute(self, a: Tensor, axes: tuple[int, ...]) -> Tensor:
        return a.permute(axes)

    def reshape(self, a: Tensor, shape: tuple[int, ...]) -> Tensor:
        return a.reshape(shape)

    def concat(self, parts: list[Tensor], axis: int) -> Tensor:
        return torch.cat(parts, dim=axis)

    def astype(self, a: Tensor, dtype: Any) -> Tensor:
        return a.to(dtype)
