r"""Symmetric products of which one triangle is computed: :math:`X X^T` and :math:`\beta C + \alpha A B`.

One kernel does both. A program computes one tile on or below the diagonal and stores it twice, the
second time mirrored, so that n (n + 1) / 2 of n² tiles are multiplied. Sums are kept in float32 and
rounded once; operands may be transposed views, and sizes need not be multiples of a tile.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator,misc"
from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from downslope.torch.kernels import interpreted

TILE = 128
"""The larger of the tiles' sides, by which the work of a product is counted."""


def _configurations() -> list[Any]:
    if interpreted():
        return [triton.Config({"BLOCK": 32, "BLOCK_K": 32})]
    # From what keeps a Hopper or Ampere multiprocessor's matrix units fed: 64 kB of operands in
    # flight, four stages where they fit; small tiles where the matrices are few and small.
    sizes = [(128, 64, 8, 3), (128, 64, 4, 4), (128, 32, 4, 4), (128, 128, 8, 2), (64, 64, 4, 4)]
    return [
        triton.Config({"BLOCK": block, "BLOCK_K": inner}, num_warps=warps, num_stages=stages)
        for block, inner, warps, stages in sizes
    ]


@triton.autotune(configs=_configurations(), key=["m", "k", "HAS_C"])
@triton.jit
def _kernel(
    a, b, c, out,
    m, k,
    a_matrix, a_row, a_inner,
    b_matrix, b_inner, b_column,
    c_matrix, c_row, c_column,
    beta, alpha,
    HAS_C: tl.constexpr, WIDEN: tl.constexpr,
    BLOCK: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    place = tl.program_id(0)  # of the tile, the triangle's rows one after the other
    i = ((tl.sqrt(8.0 * place + 1.0) - 1.0) * 0.5).to(tl.int32)
    i = tl.where(i * (i + 1) // 2 > place, i - 1, i)  # where the root was rounded across a row
    i = tl.where((i + 1) * (i + 2) // 2 <= place, i + 1, i)
    j = place - i * (i + 1) // 2
    matrix = tl.program_id(1).to(tl.int64)

    rows = (i * BLOCK + tl.arange(0, BLOCK)).to(tl.int64)
    columns = (j * BLOCK + tl.arange(0, BLOCK)).to(tl.int64)
    inner = tl.arange(0, BLOCK_K).to(tl.int64)
    a_tile = a + matrix * a_matrix + rows[:, None] * a_row + inner[None, :] * a_inner
    b_tile = b + matrix * b_matrix + inner[:, None] * b_inner + columns[None, :] * b_column
    total = tl.zeros((BLOCK, BLOCK), dtype=tl.float32)
    for start in range(0, k, BLOCK_K):
        left = k - start
        x = tl.load(a_tile, mask=(rows[:, None] < m) & (inner[None, :] < left), other=0.0)
        y = tl.load(b_tile, mask=(inner[:, None] < left) & (columns[None, :] < m), other=0.0)
        if WIDEN:  # the interpreter cannot multiply bfloat16; its products are exact in float32
            x, y = x.to(tl.float32), y.to(tl.float32)
        total = tl.dot(x, y, total, input_precision="ieee")
        a_tile += BLOCK_K * a_inner
        b_tile += BLOCK_K * b_inner

    total *= alpha
    inside = (rows[:, None] < m) & (columns[None, :] < m)
    if HAS_C:
        added = c + matrix * c_matrix + rows[:, None] * c_row + columns[None, :] * c_column
        total += beta * tl.load(added, mask=inside, other=0.0).to(tl.float32)
    done = total.to(out.dtype.element_ty)
    if i == j:  # two sums of the same terms are not always added up alike
        done = tl.where(rows[:, None] >= columns[None, :], done, tl.trans(done))
    first = out + matrix * m * m
    tl.store(first + rows[:, None] * m + columns[None, :], done, mask=inside)
    if i != j:
        mirrored = (columns[:, None] < m) & (rows[None, :] < m)
        tl.store(first + columns[:, None] * m + rows[None, :], tl.trans(done), mask=mirrored)


def symmetric_product(
    a: Tensor, b: Tensor, c: Tensor | None = None, beta: float = 0.0, alpha: float = 1.0
) -> Tensor:
    """Return `beta · c + alpha · (a @ b)`, known to be symmetric, in one kernel.

    Args:
        a: (..., m, k) in bfloat16, float16 or float32; any strides.
        b: (..., k, m), of the same dtype.
        c: (..., m, m), symmetric.
        beta: what `c` is multiplied by.
        alpha: what the product is multiplied by.

    """
    m, k = a.shape[-2:]
    flat = [t.reshape(-1, *t.shape[-2:]) for t in (a, b, *(() if c is None else (c,)))]
    added = flat[-1]  # without c it is not read
    out = a.new_empty((len(flat[0]), m, m))

    def grid(meta: dict[str, int]) -> tuple[int, int]:
        side = triton.cdiv(m, meta["BLOCK"])
        return side * (side + 1) // 2, len(out)

    with torch.cuda.device_of(a):
        _kernel[grid](
            flat[0], flat[1], added, out, m, k,
            *flat[0].stride(), *flat[1].stride(), *added.stride(), beta, alpha,
            HAS_C=c is not None, WIDEN=interpreted(),
        )  # fmt: skip
    return out.view(*a.shape[:-2], m, m)
