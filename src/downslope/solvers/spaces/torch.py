"""Vectors of PyTorch: one problem with its numbers on the host, or many in lock step on the device."""

from __future__ import annotations

from typing import Any

import torch
from torch.distributed.tensor import DTensor

from downslope.ops.protocol import Array
from downslope.solvers.spaces.arrays import Arrays
from downslope.solvers.spaces.host import Host


class TorchHost(Host):
    """One problem; vectors stay on their device, a sharded one on its devices."""

    def __init__(self, like: torch.Tensor) -> None:
        self.eps = float(torch.finfo(like.dtype).eps)

    def dot(self, a: Array, b: Array) -> float:
        if isinstance(a, DTensor):
            return _whole((a * b).sum())
        return float(torch.dot(a, b))

    def norm_inf(self, a: Array) -> float:
        return _whole(a.abs().max())

    def norm_one(self, a: Array) -> float:
        return _whole(a.abs().sum())

    def scale(self, t: float, a: Array) -> Array:
        return t * a

    def axpy(self, t: float, a: Array, b: Array) -> Array:
        return torch.add(b, a, alpha=t)

    def clip(self, a: Array, low: Array, high: Array) -> Array:
        return torch.clamp(a, low, high)

    def select(self, mask: Array, a: Array, b: Any) -> Array:
        return torch.where(mask, a, b)

    def least(self, a: Array, b: Array) -> Array:
        return torch.minimum(a, b)

    def most(self, a: Array, b: Array) -> Array:
        return torch.maximum(a, b)

    def zeros(self, like: Array, *shape: int) -> Array:
        if isinstance(like, DTensor) and shape and shape[-1] == like.shape[-1]:
            row = torch.zeros_like(like)
            return row if len(shape) == 1 else torch.stack([row] * shape[0])
        device = like.to_local().device if isinstance(like, DTensor) else like.device
        return torch.zeros(shape, dtype=like.dtype, device=device)

    def rows(self, stack: Array, a: Array) -> Array:
        made = stack @ a
        return made.full_tensor() if isinstance(made, DTensor) else made

    def combine(self, weights: Array, stack: Array) -> Array:
        if isinstance(stack, DTensor):
            weights = DTensor.from_local(weights, stack.device_mesh, run_check=False)
        return weights @ stack

    def put(self, stack: Array, index: int, row: Any, when: bool = True) -> Array:
        if when:
            stack[index] = row
        return stack

    def clear(self, matrix: Array, index: int) -> Array:
        matrix[index] = 0.0
        matrix[:, index] = 0.0
        return matrix

    def put_column(self, matrix: Array, index: int, column: Array) -> Array:
        matrix[:, index] = column
        return matrix

    def diagonal(self, matrix: Array, value: float) -> Array:
        return matrix.zero_().fill_diagonal_(value)

    def symmetric(self, matrix: Array, a: Array) -> Array:
        return matrix @ a

    def rank_two(self, matrix: Array, a: Array, b: Array) -> Array:
        return matrix.addr_(a, b).addr_(b, a)


def _whole(number: torch.Tensor) -> float:
    return float(number.full_tensor() if isinstance(number, DTensor) else number)


class TorchLanes(Arrays):
    """Problems in lock step; nothing crosses to the host."""

    def __init__(self, like: torch.Tensor) -> None:
        super().__init__(torch, float(torch.finfo(like.dtype).eps))
        self.device = like.device

    def full(self, like: Array, value: Any) -> Array:
        kind = (
            torch.bool if isinstance(value, bool) else torch.int64 if isinstance(value, int) else like.dtype
        )
        return torch.full(like.shape, value, dtype=kind, device=self.device)

    def largest(self, a: Array) -> Array:
        return a.amax(-1)

    def indices(self, like: Array, count: int) -> Array:
        return torch.arange(count, device=self.device)

    def divide(self, a: Any, b: Any) -> Array:
        return torch.true_divide(a, b) if isinstance(a, torch.Tensor) else a / b

    def zeros(self, like: Array, *shape: int) -> Array:
        return torch.zeros((*like.shape[:-1], *shape), dtype=like.dtype, device=self.device)

    def rows(self, stack: Array, a: Array) -> Array:
        return torch.matmul(stack, a[..., None])[..., 0]

    def combine(self, weights: Array, stack: Array) -> Array:
        return torch.matmul(weights[..., None, :], stack)[..., 0, :]
