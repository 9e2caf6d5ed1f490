"""The element-wise parts of Muon's step, each in one pass over memory and one launch for many tensors.

`momentum` reads gradients and momenta, writes momenta and what is to be orthogonalised, already in the
dtype of the iterations, and sums its squares on the way: 14 bytes an element in float32 and bfloat16,
where the operations one by one move about 50. `normalise` divides by the norms: 4 bytes. `descend` reads
directions and parameters and writes parameters, with decay: 10 bytes. `nonfinite` reads gradients.

Tensors are named by their addresses, in a table on the device with one row a matrix (`tables`). A grid
has one axis, of which a GPU takes 2³¹ programs: another one holds no more than 65,535 matrices or tiles.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator,misc"
from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

_ROWS, _COLUMNS = 32, 64
_BLOCK = _ROWS * _COLUMNS

CHUNK = 1 << 15
"""Elements of a gradient that one program of `nonfinite` reads."""

_TYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}


@triton.jit
def _at(address, offsets, DTYPE: tl.constexpr, ALIGNED: tl.constexpr):
    """Return pointers to elements of an array at an address."""
    pointers = address.to(tl.pointer_type(DTYPE)) + offsets
    # the compiler knows nothing of an address; with 16 bytes at a time memory is read at its full rate
    if ALIGNED:
        pointers = tl.multiple_of(pointers, 16 if len(offsets.shape) == 1 else [16, 16])
    return pointers


@triton.jit
def _tile(fan_out, fan_in, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Return this program's matrix and tile of it, the tile's rows and columns, and which exist."""
    across = tl.cdiv(fan_in, COLUMNS)
    tiles = tl.cdiv(fan_out, ROWS) * across
    matrix, tile = (tl.program_id(0) // tiles).to(tl.int64), tl.program_id(0) % tiles
    rows = (tile // across * ROWS + tl.arange(0, ROWS))[:, None]
    columns = (tile % across * COLUMNS + tl.arange(0, COLUMNS))[None, :]
    return matrix, tile, rows, columns, (rows < fan_out) & (columns < fan_in)


@triton.jit
def _momentum(
    table, u, squares, mu, ok, fan_out, fan_in, u_matrix, u_row, u_column, tiles, keep, take,
    DTYPE: tl.constexpr, NESTEROV: tl.constexpr, WARMING: tl.constexpr, MASKED: tl.constexpr,
    ALIGNED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    matrix, tile, rows, columns, mask = _tile(fan_out, fan_in, ROWS, COLUMNS)
    g = _at(tl.load(table + 2 * matrix), rows * fan_in + columns, DTYPE, ALIGNED)
    slot = _at(tl.load(table + 2 * matrix + 1), rows * fan_in + columns, tl.float32, ALIGNED)
    if WARMING:
        keep = tl.load(mu).to(tl.float32)
        take = 1 - keep
    old = tl.load(slot, mask=mask, other=0.0)
    gradient = tl.load(g, mask=mask, other=0.0).to(tl.float32)
    new = old * keep + gradient * take
    ahead = gradient + keep * (new - gradient) if NESTEROV else new
    if MASKED:
        new = tl.where(tl.load(ok), new, old)
    tl.store(slot, new, mask=mask)
    at = u + matrix * u_matrix + rows * u_row + columns * u_column
    tl.store(at, ahead.to(u.dtype.element_ty), mask=mask)
    wide = ahead.to(tl.float64)  # whose squares neither over- nor underflow
    tl.store(squares + matrix * tiles + tile, tl.sum(tl.sum(wide * wide, axis=1), axis=0))


def tiles_of(fan_out: int, fan_in: int) -> int:
    """Return how many tiles a matrix has: sums of squares that `momentum` writes for it."""
    return -(-fan_out // _ROWS) * -(-fan_in // _COLUMNS)


def momentum(
    table: Tensor,
    u: Tensor,
    squares: Tensor,
    *,
    dtype: torch.dtype,
    mu: Any,
    nesterov: bool,
    aligned: bool = False,
    ok: Tensor | None = None,
) -> None:
    r"""Update momenta, write what is to be orthogonalised, and the sums of its squares.

    :math:`m \leftarrow \mu m + (1-\mu) g`, and :math:`u = (1-\mu) g + \mu m` with Nesterov, else m.

    Args:
        table: (count, 2), the addresses of each matrix of gradients and of momenta, contiguous; the
            momenta, in float32, are written.
        u: (count, fan_out, fan_in) of any strides, in the dtype of the iterations; written.
        squares: (count, at least `tiles_of` it), float64: the sums of squares, before rounding, of the
            tiles of each matrix; written.
        dtype: of the gradients.
        mu: a number, or a tensor of one on the device.
        nesterov: look ahead.
        aligned: whether all addresses are multiples of 16 bytes and fan_in of 16.
        ok: a tensor of one bool; where it is False, m stays as it was.

    """
    count, fan_out, fan_in = u.shape
    warming = isinstance(mu, Tensor)
    keep, take = (0.0, 0.0) if warming else (mu, 1 - mu)
    with torch.cuda.device_of(u):
        _momentum[(tiles_of(fan_out, fan_in) * count,)](
            table, u, squares, mu if warming else squares, table if ok is None else ok, fan_out, fan_in,
            *u.stride(), squares.shape[1], keep, take, DTYPE=_TYPES[dtype], NESTEROV=nesterov,
            WARMING=warming, MASKED=ok is not None, ALIGNED=aligned, ROWS=_ROWS, COLUMNS=_COLUMNS,
        )  # fmt: skip


@triton.jit
def _normalise(u, squares, size, tiles, BLOCK: tl.constexpr):
    blocks = tl.cdiv(size, BLOCK)
    matrix, tile = (tl.program_id(0) // blocks).to(tl.int64), tl.program_id(0) % blocks
    within = tl.arange(0, BLOCK)
    parts = tl.zeros((BLOCK,), dtype=tl.float64)
    for first in range(0, tiles, BLOCK):
        parts += tl.load(squares + matrix * tiles + first + within, mask=first + within < tiles, other=0.0)
    norm = tl.sqrt(tl.sum(parts, axis=0))
    # in two factors, each of which float32 holds even where the norm is 1e-40
    half = tl.sqrt(1 / tl.where(norm > 0, norm, 1.0)).to(tl.float32)
    at = u + matrix * size + tile * BLOCK + within
    mask = tile * BLOCK + within < size
    value = tl.load(at, mask=mask, other=0.0).to(tl.float32)
    tl.store(at, (value * half * half).to(u.dtype.element_ty), mask=mask)


def normalise(u: Tensor, squares: Tensor) -> None:
    """Divide matrices by their norms, the roots of the sums of `squares`; zero stays zero.

    Args:
        u: (count, fan_out, fan_in), contiguous; written.
        squares: (count, tiles), float64, as `momentum` writes them.

    """
    count, tiles = squares.shape
    size = u[0].numel()
    with torch.cuda.device_of(u):
        _normalise[(-(-size // _BLOCK) * count,)](u, squares, size, tiles, BLOCK=_BLOCK)


@triton.jit
def _descend(
    table, d, lr, ok, fan_out, fan_in, d_matrix, d_row, d_column, rate, scale, decay,
    DTYPE: tl.constexpr, RATE_ON_DEVICE: tl.constexpr, CAUTIOUS: tl.constexpr, MASKED: tl.constexpr,
    ALIGNED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    matrix, _, rows, columns, mask = _tile(fan_out, fan_in, ROWS, COLUMNS)
    p = _at(tl.load(table + matrix), rows * fan_in + columns, DTYPE, ALIGNED)
    if RATE_ON_DEVICE:
        rate = tl.load(lr).to(tl.float32)
    old = tl.load(p, mask=mask, other=0.0).to(tl.float32)
    at = d + matrix * d_matrix + rows * d_row + columns * d_column
    direction = tl.load(at, mask=mask, other=0.0).to(tl.float32) * scale
    pull = decay * old
    if CAUTIOUS:
        pull = tl.where(direction * old >= 0, pull, 0.0)
    new = old - rate * (direction + pull)
    if MASKED:
        new = tl.where(tl.load(ok), new, old)
    tl.store(p, new.to(DTYPE), mask=mask)


def descend(
    table: Tensor,
    d: Tensor,
    *,
    dtype: torch.dtype,
    lr: Any,
    scale: float,
    weight_decay: float,
    cautious: bool,
    aligned: bool = False,
    ok: Tensor | None = None,
) -> None:
    """Step parameters: `p -= lr (scale · d + weight_decay · p)`, in float32 and rounded once.

    Args:
        table: (count, 1), the address of each matrix of parameters, contiguous; they are written.
        d: (count, fan_out, fan_in) of any strides, in float32, bfloat16 or float16.
        dtype: of the parameters, one of these three.
        lr: a number, or a tensor of one on the device.
        scale: what `d` is multiplied by.
        weight_decay: of the step, decoupled.
        cautious: decay only where it agrees with `d` in sign.
        aligned: as in `momentum`.
        ok: a tensor of one bool; where it is False, p stays as it was.

    """
    count, fan_out, fan_in = d.shape
    on_device = isinstance(lr, Tensor)
    with torch.cuda.device_of(d):
        _descend[(tiles_of(fan_out, fan_in) * count,)](
            table, d, lr if on_device else d, d if ok is None else ok, fan_out, fan_in, *d.stride(),
            0.0 if on_device else lr, scale, weight_decay,
            DTYPE=_TYPES[dtype], RATE_ON_DEVICE=on_device, CAUTIOUS=cautious and weight_decay > 0,
            MASKED=ok is not None, ALIGNED=aligned, ROWS=_ROWS, COLUMNS=_COLUMNS,
        )  # fmt: skip


@triton.jit
def _is_bad(value):
    """Return 1 where a number is NaN or infinite: then no comparison holds, or it is beyond every bound."""
    return 1 - (tl.abs(value) < float("inf")).to(tl.int32)


@triton.jit
def _nonfinite(
    table, flags, DTYPE: tl.constexpr, ALIGNED: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr
):
    row = table + 3 * tl.program_id(0).to(tl.int64)
    address, size, tensor = tl.load(row), tl.load(row + 1), tl.load(row + 2)
    within = tl.arange(0, BLOCK)
    bad = tl.zeros((BLOCK,), dtype=tl.int32)
    if size == CHUNK:  # without a mask memory is read at its full rate
        for start in range(0, CHUNK, BLOCK):
            value = tl.load(_at(address, start + within, DTYPE, ALIGNED)).to(tl.float32)
            bad |= _is_bad(value)
    else:
        for first in range(0, size.to(tl.int32), BLOCK):
            rest = tl.load(_at(address, first + within, DTYPE, False), mask=first + within < size, other=0.0)
            bad |= _is_bad(rest.to(tl.float32))
    if tl.max(bad, axis=0) > 0:
        tl.store(flags + tensor, True)


def nonfinite(table: Tensor, count: int, dtype: torch.dtype, aligned: bool = False) -> Tensor:
    """Return one bool a tensor: whether it holds NaN or infinity.

    Args:
        table: (pieces, 3), int64: the address of a piece of at most `CHUNK` elements, how many it has, and
            the index of the tensor that it belongs to.
        count: of tensors.
        dtype: of the tensors.
        aligned: whether all addresses are multiples of 16 bytes.

    """
    flags = torch.zeros(count, dtype=torch.bool, device=table.device)
    with torch.cuda.device_of(flags):
        _nonfinite[(len(table),)](
            table, flags, DTYPE=_TYPES[dtype], ALIGNED=aligned, CHUNK=CHUNK, BLOCK=_BLOCK
        )
    return flags
