"""The element-wise halves of Muon's step, each in one pass over memory.

`momentum` reads the gradient and the momentum, writes the momentum and what is to be orthogonalised,
already in the dtype of the iterations, and sums its squares on the way: 14 bytes an element in
float32 and bfloat16, where the operations one by one move about 50. `descend` reads the direction
and the parameter and writes the parameter, with decay: 10 bytes.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator,misc"
from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 1024


@triton.jit
def _momentum(
    g, slot, u, squares, mu, ok, size, tiles, keep, take,
    NESTEROV: tl.constexpr, WARMING: tl.constexpr, MASKED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    tile, matrix = tl.program_id(0), tl.program_id(1).to(tl.int64)
    within = tile * BLOCK + tl.arange(0, BLOCK)
    mask = within < size
    at = matrix * size + within
    if WARMING:
        keep = tl.load(mu).to(tl.float32)
        take = 1 - keep
    old = tl.load(slot + at, mask=mask, other=0.0)
    gradient = tl.load(g + at, mask=mask, other=0.0).to(tl.float32)
    new = old * keep + gradient * take
    ahead = gradient + keep * (new - gradient) if NESTEROV else new
    if MASKED:
        new = tl.where(tl.load(ok), new, old)
    tl.store(slot + at, new, mask=mask)
    tl.store(u + at, ahead.to(u.dtype.element_ty), mask=mask)
    wide = ahead.to(tl.float64)  # whose squares neither over- nor underflow
    tl.store(squares + matrix * tiles + tile, tl.sum(wide * wide, axis=0))


def momentum(
    g: Tensor, slot: Tensor, u: Tensor, *, mu: Any, nesterov: bool, ok: Tensor | None = None
) -> Tensor:
    r"""Update a momentum, write what is to be orthogonalised, and return its norms.

    :math:`m \leftarrow \mu m + (1-\mu) g`, and :math:`u = (1-\mu) g + \mu m` with Nesterov, else m.

    Args:
        g: gradient, of as many elements as `u`, contiguous.
        slot: m, float32; written.
        u: (count, fan_out, fan_in), contiguous, in the dtype of the iterations; written.
        mu: a number, or a tensor of one on the device.
        nesterov: look ahead.
        ok: a tensor of one bool; where it is False, m stays as it was.

    Returns:
        The Frobenius norm of each matrix of `u` before it was rounded: (count, 1, 1), float64.

    """
    count, size = len(u), u[0].numel()
    tiles = triton.cdiv(size, _BLOCK)
    squares = u.new_empty((count, tiles), dtype=torch.float64)
    warming = isinstance(mu, Tensor)
    keep, take = (0.0, 0.0) if warming else (mu, 1 - mu)
    with torch.cuda.device_of(u):
        _momentum[(tiles, count)](
            g, slot, u, squares, mu if warming else slot, slot if ok is None else ok, size, tiles, keep, take,
            NESTEROV=nesterov, WARMING=warming, MASKED=ok is not None, BLOCK=_BLOCK,
        )  # fmt: skip
    return squares.sum(1).sqrt_().view(-1, 1, 1)


@triton.jit
def _descend(
    p, d, lr, ok, size, rate, scale, decay,
    RATE_ON_DEVICE: tl.constexpr, CAUTIOUS: tl.constexpr, MASKED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = at < size
    if RATE_ON_DEVICE:
        rate = tl.load(lr).to(tl.float32)
    old = tl.load(p + at, mask=mask, other=0.0).to(tl.float32)
    direction = tl.load(d + at, mask=mask, other=0.0).to(tl.float32) * scale
    pull = decay * old
    if CAUTIOUS:
        pull = tl.where(direction * old >= 0, pull, 0.0)
    new = old - rate * (direction + pull)
    if MASKED:
        new = tl.where(tl.load(ok), new, old)
    tl.store(p + at, new.to(p.dtype.element_ty), mask=mask)


def descend(
    p: Tensor,
    d: Tensor,
    *,
    lr: Any,
    scale: float,
    weight_decay: float,
    cautious: bool,
    ok: Tensor | None = None,
) -> None:
    """Step a parameter: `p -= lr (scale · d + weight_decay · p)`, in float32 and rounded once.

    Args:
        p: contiguous, in float32, bfloat16 or float16; written.
        d: of as many elements in the same order, in any of these dtypes.
        lr: a number, or a tensor of one on the device.
        scale: what `d` is multiplied by.
        weight_decay: of the step, decoupled.
        cautious: decay only where it agrees with `d` in sign.
        ok: a tensor of one bool; where it is False, p stays as it was.

    """
    size = p.numel()
    on_device = isinstance(lr, Tensor)
    with torch.cuda.device_of(p):
        _descend[(triton.cdiv(size, _BLOCK),)](
            p, d, lr if on_device else p, p if ok is None else ok, size,
            0.0 if on_device else lr, scale, weight_decay,
            RATE_ON_DEVICE=on_device, CAUTIOUS=cautious and weight_decay > 0, MASKED=ok is not None,
            BLOCK=_BLOCK,
        )  # fmt: skip
