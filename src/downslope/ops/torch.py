"""The operations on PyTorch tensors. `ema` and `accumulate` write over their slot."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from downslope.ops.protocol import bias_correction, ramp, unit


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

    def ema(self, slot: Tensor, value: Tensor, beta: float | Tensor) -> Tensor:
        return slot.lerp_(value, 1 - beta)  # one pass over the slot, where a product and a sum are two

    def accumulate(self, slot: Tensor, value: Tensor, decay: float) -> Tensor:
        return (slot if decay == 1 else slot.mul_(decay)).add_(value)

    def lerp(self, a: Tensor, b: Tensor, weight: float | Tensor) -> Tensor:
        return torch.lerp(a, b, weight)

    def debias(self, a: Tensor, beta: float, t: Any) -> Tensor:
        if isinstance(t, Tensor):
            return a if beta == 0 else a / -torch.expm1(t.double() * math.log(beta))
        return a / bias_correction(beta, t)

    def ramp(self, like: Tensor, t: Any, steps: int) -> Any:
        if not isinstance(t, Tensor):
            return ramp(t, steps)
        return ((t.double() - 1) / steps).clamp(max=1).to(like.dtype)

    def row_rms(self, a: Tensor) -> Tensor:
        return self.norm(a.unsqueeze(-2)).squeeze(-1) / math.sqrt(max(1, a.shape[-1]))

    def norm(self, a: Tensor) -> Tensor:
        if a.numel() == 0:
            return a.new_zeros((*a.shape[:-2], 1, 1))
        largest = a.abs().amax(dim=(-2, -1), keepdim=True)
        safe = torch.where(largest > 0, largest, 1.0)
        scaled: Tensor = torch.linalg.vector_norm(a / safe, dim=(-2, -1), keepdim=True)
        return largest * scaled

    def transpose(self, a: Tensor) -> Tensor:
        return a.mT

    def gram(self, a: Tensor) -> Tensor:
        return _mirrored(a, a.mT) if _is_large(a) else torch.matmul(a, a.mT)

    def mm(self, a: Tensor, b: Tensor) -> Tensor:
        return _one_at_a_time(torch.mm, a, b) if _is_large(a) and _is_large(b) else torch.matmul(a, b)

    def addmm(self, c: Tensor, a: Tensor, b: Tensor, beta: float, alpha: float) -> Tensor:
        if _is_large(a):
            return _one_at_a_time(partial(torch.addmm, beta=beta, alpha=alpha), c, a, b)
        if a.ndim == 2:
            return torch.addmm(c, a, b, beta=beta, alpha=alpha)
        if a.ndim == 3:
            return torch.baddbmm(c, a, b, beta=beta, alpha=alpha)
        return beta * c + alpha * (a @ b)

    def mm_symmetric(self, a: Tensor, b: Tensor) -> Tensor:
        return _mirrored(a, b) if _is_large(a) else torch.matmul(a, b)

    def congruent(self, r: Tensor, z: Tensor) -> Tensor:
        once = self.mm(r, z)
        return self.mm_symmetric(z, once) if self._mirrors(r) else self.mm(once, z)

    def addmm_symmetric(self, c: Tensor, a: Tensor, b: Tensor, beta: float, alpha: float) -> Tensor:
        return _mirrored(a, b, c, beta, alpha) if _is_large(a) else self.addmm(c, a, b, beta, alpha)

    def _mirrors(self, a: Tensor) -> bool:
        """Whether half of a symmetric product is a mirror image."""
        return _is_large(a)

    def unit(self, r: Tensor) -> tuple[Tensor, Tensor]:
        return unit(self, r)

    def combine(self, *terms: tuple[float, Tensor]) -> Tensor:
        (first, array), (second, other), *rest = terms
        total = torch.add(array if first == 1 else array * first, other, alpha=second)
        for number, more in rest:
            total.add_(more, alpha=number)
        return total

    def add_identity(self, a: Tensor, value: float) -> Tensor:
        a.diagonal(dim1=-2, dim2=-1).add_(value)
        return a

    def permute(self, a: Tensor, axes: tuple[int, ...]) -> Tensor:
        return a.permute(axes)

    def reshape(self, a: Tensor, shape: tuple[int, ...]) -> Tensor:
        return a.reshape(shape)

    def concat(self, parts: list[Tensor], axis: int) -> Tensor:
        return torch.cat(parts, dim=axis)

    def astype(self, a: Tensor, dtype: Any) -> Tensor:
        return a.to(dtype)


_LARGE_FROM = 384
"""Rows from which a CPU takes the matrices of a stack one at a time: a batched product brings
nothing more, and is slower where an operand is transposed."""


def _stripes(rows: int, inner: int) -> int:
    """Return how many stripes a symmetric product is cut into, a small one of few terms into none.

    Of k stripes (k + 1) / 2k of the product is computed; narrow ones run at a lower rate, each costs 11 µs.
    Measured on two cores of an AMD EPYC, in bfloat16 and float32; those of 192 columns in bfloat16.
    """
    if rows >= 768:
        return rows // (192 if inner >= 2 * rows else 256)
    return 2 if rows >= 512 or inner >= 2 * rows else 1


def _is_large(a: Tensor) -> bool:
    return a.device.type == "cpu" and a.shape[-2] >= _LARGE_FROM


def _one_at_a_time(product: Callable[..., Tensor], *operands: Tensor) -> Tensor:
    """Return the product of each matrix of a stack, of the shape of its last two operands' product."""
    if operands[0].ndim == 2:
        return product(*operands)
    flat = [t.reshape(-1, *t.shape[-2:]) for t in operands]
    rows, columns = operands[-2].shape[-2], operands[-1].shape[-1]
    out = operands[0].new_empty((flat[0].shape[0], rows, columns))
    for i, matrices in enumerate(zip(*flat, strict=True)):
        product(*matrices, out=out[i])
    return out.view(*operands[0].shape[:-2], rows, columns)


def _mirrored(a: Tensor, b: Tensor, c: Tensor | None = None, beta: float = 1.0, alpha: float = 1.0) -> Tensor:
    """Return beta c + alpha a b, symmetric: only the blocks on and below the diagonal are computed."""
    m, inner = a.shape[-2:]
    count = _stripes(m, inner)
    unit = 32 if m >= 32 * count else 1  # whole vectors
    edges = [*(m * i // count // unit * unit for i in range(count)), m]

    def product(*operands: Tensor, out: Tensor | None = None) -> Tensor:
        *added, left, right = operands
        out = left.new_empty((m, m)) if out is None else out
        for low, high in pairwise(edges):
            block, rest = out[low:, low:high], (left[low:], right[:, low:high])
            if not added:
                torch.mm(*rest, out=block)
            else:  # rounds once; after a product alone, multiplying and adding round twice more
                torch.addmm(added[0][low:, low:high], *rest, beta=beta, alpha=alpha, out=block)
            if high < m:
                out[low:high, high:] = block[high - low :].mT
        return out

    return _one_at_a_time(product, *(() if c is None else (c,)), a, b)
