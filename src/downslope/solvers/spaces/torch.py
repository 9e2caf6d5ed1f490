"""Vectors of PyTorch: one problem with its numbers on the host, or many in lock step on the device."""

from __future__ import annotations

import math
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

    def shift(self, t: float, a: Array) -> Array:
        return a + t

    def first(self, a: Array) -> float:
        return float(a[0])

    def eigh(self, matrix: Array) -> tuple[Array, Array, bool]:
        if not bool(torch.isfinite(matrix).all()):
            return torch.full_like(matrix[0], math.nan), matrix, False
        curvatures, basis = torch.linalg.eigh(matrix)
        return curvatures, basis, True

    def svd(self, matrix: Array, vector: Array) -> tuple[Array, Array, Array]:
        if not bool(torch.isfinite(matrix).all()):
            k = min(matrix.shape)
            unknown = matrix.new_full((k,), math.nan)
            return unknown, matrix.new_full((matrix.shape[1], k), math.nan), unknown
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
        return values.flip(-1), right.mT.flip(-1), (vector @ left).flip(-1)

    def turned(self, axes: Array, won: Array) -> Array:
        sums = (won[:, None] * axes).flip(0).cumsum(0).flip(0)
        return torch.linalg.qr(sums.mT)[0].mT

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

    def put_column(self, matrix: Array, index: int, column: Array, when: bool = True) -> Array:
        matrix[:, index] = column
        return matrix

    def diagonal(self, matrix: Array, value: float, when: bool = True) -> Array:
        return matrix.zero_().fill_diagonal_(value)

    def symmetric(self, matrix: Array, a: Array) -> Array:
        return matrix @ a

    def rank_two(self, matrix: Array, a: Array, b: Array, when: bool = True) -> Array:
        return matrix.addr_(a, b).addr_(b, a)

    def smallest(self, a: Array) -> float:
        return _whole(a.min())

    def all(self, mask: Array) -> bool:
        return bool(_whole(mask.all()))

    def gram(self, a: Array, b: Array) -> Array:
        return a @ b.T

    def trace(self, matrix: Array) -> Array:
        return matrix.diagonal().clone()

    def roots(self, a: Array) -> Array:
        return a.sqrt()

    def ring_inverse(self, matrix: Array, known: Array, first: int) -> Array:
        order = (torch.arange(len(matrix), device=matrix.device) + first) % len(matrix)
        order = order[known[order]]
        made = torch.zeros_like(matrix)
        if len(order):
            part = matrix[order][:, order].triu()
            eye = torch.eye(len(order), dtype=matrix.dtype, device=matrix.device)
            made[order[:, None], order] = torch.linalg.solve_triangular(part, eye, upper=True)
        return made


def _whole(number: torch.Tensor) -> float:
    return float(number.full_tensor() if isinstance(number, DTensor) else number)


class TorchLanes(Arrays):
    """Problems in lock step; nothing crosses to the host."""

    def __init__(self, like: torch.Tensor) -> None:
        super().__init__(torch, float(torch.finfo(like.dtype).eps))
        self.device = like.device
        self.near = like.device.type == "cpu"

    def full(self, like: Array, value: Any) -> Array:
        kind = (
            torch.bool if isinstance(value, bool) else torch.int64 if isinstance(value, int) else like.dtype
        )
        return torch.full(like.shape, value, dtype=kind, device=self.device)

    def largest(self, a: Array) -> Array:
        return a.amax(0)

    def indices(self, like: Array, count: int) -> Array:
        return torch.arange(count, device=self.device)

    def zeros(self, like: Array, *shape: int) -> Array:
        return torch.zeros((*shape, *like.shape[1:]), dtype=like.dtype, device=self.device)

    def positions(self, like: Array, lanes: Any) -> Array:
        return torch.as_tensor(lanes, device=self.device)

    def take(self, a: Array, at: Array) -> Array:
        return a.index_select(-1, at)

    def scatter(self, whole: Array, at: Array, part: Array) -> Array:
        return whole.index_copy_(-1, at, part)

    def copied(self, a: Array) -> Array:
        return a.clone()

    def rank_two(self, matrix: Array, a: Array, b: Array, when: Any = True) -> Array:
        if when is not True:
            a, b = torch.where(when, a, 0.0), torch.where(when, b, 0.0)
        return matrix.addcmul_(a[:, None], b).addcmul_(b[:, None], a)


def host(like: torch.Tensor) -> TorchHost:
    """Return the space of one problem."""
    return TorchHost(like)


def lanes(like: torch.Tensor) -> TorchLanes:
    """Return the space of problems in lock step."""
    return TorchLanes(like)


def vector(like: torch.Tensor, values: Any) -> torch.Tensor:
    """Return values as a vector, of the dtype and on the device of `like`."""
    return torch.as_tensor(values, dtype=like.dtype, device=like.device)
