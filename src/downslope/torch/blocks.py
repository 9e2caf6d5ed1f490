"""Element-wise work in cache-sized blocks.

A rule of nine array operations run eagerly on a large tensor fetches it from memory nine times.
Run on a block that stays in the cache it fetches it once, so no compiler is needed to come near
the bytes that must move. Small tensors have the opposite trouble, the fixed cost of each
operation, and are gathered into a block of their own. The block is a compromise between the two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from downslope.torch.native.memory import are_readable, lie_apart

BLOCK = 1 << 17
"""Elements a block: half a megabyte of float32, so that a rule's operands share a core's cache."""

GATHERED = 1 << 13
"""Elements up to which tensors are gathered: above, a kernel's fixed cost is less than the copies'."""

_DEVICE_BLOCK = 1 << 26

Kernel = Callable[..., None]
Row = tuple[Tensor, ...]


def for_each_block(kernel: Kernel, rows: Sequence[Row], written: Sequence[bool], block: int = BLOCK) -> None:
    """Call `kernel` on flat blocks that together cover every row once.

    Args:
        kernel: takes as many 1-D tensors as a row has; writes in place to those marked.
        rows: one a parameter: tensors of one shape, the first of which decides the memory layout.
        written: for each tensor of a row, whether the kernel writes to it. The others are read only,
            and never written to here either.
        block: how many elements a call is given of a large row, up to half more.

    """
    if rows and rows[0][0].device.type != "cpu":  # there a launch costs more than what its caches save
        block = max(block, _DEVICE_BLOCK)
    pack: list[Row] = []
    packed = 0
    for row in rows:
        size = row[0].numel()
        if size == 0:
            continue
        if size > min(GATHERED, block):
            _large(kernel, row, written, block)
            continue
        if packed + size > block:
            _small(kernel, pack, written)
            pack, packed = [], 0
        pack.append(row)
        packed += size
    if pack:
        _small(kernel, pack, written)


def _large(kernel: Kernel, row: Row, written: Sequence[bool], block: int) -> None:
    """Split one row into equal blocks; one that must be staged, along its axes, so that copies stay small."""
    count = max(1, round(row[0].numel() / block))
    if count > 1 and not all(t.is_contiguous() for t in row):
        order = _order(row[0])
        if not all(t.permute(order).is_contiguous() for t in row):
            axis = next(a for a in order if row[0].shape[a] > 1)
            size = -(-row[0].shape[axis] // min(count, row[0].shape[axis]))
            for parts in zip(*(torch.split(t, size, axis) for t in row), strict=True):
                _large(kernel, parts, written, block)
            return
    flat, unstage = _flatten(row, written)
    if count == 1:
        kernel(*flat)
    else:
        size = -(-flat[0].numel() // count)
        for parts in zip(*(torch.split(f, size) for f in flat), strict=True):
            kernel(*parts)
    unstage()


def _small(kernel: Kernel, pack: Sequence[Row], written: Sequence[bool]) -> None:
    """Gather rows into one block, and scatter what was written; rows of one memory go one after the other."""
    first = [row[0] for row in pack]
    if len(pack) == 1 or (are_readable(first) and not lie_apart(first)):  # one row is its own block
        for row in pack:
            _large(kernel, row, written, BLOCK)
        return
    columns = [list(column) for column in zip(*pack, strict=True)]
    unstages = []
    if not all(t.is_contiguous() for column in columns for t in column):
        staged = [_flatten(row, written) for row in pack]
        columns = [list(column) for column in zip(*(flat for flat, _ in staged), strict=True)]
        unstages = [unstage for _, unstage in staged]
    blocks = [torch._C._nn.flatten_dense_tensors(column) for column in columns]
    kernel(*blocks)
    for column, gathered, is_written in zip(columns, blocks, written, strict=True):
        if is_written:
            torch._foreach_copy_(column, torch._C._nn.unflatten_dense_tensors(gathered, column))
    for unstage in unstages:
        unstage()


def _nothing() -> None:
    pass


def _order(first: Tensor) -> list[int]:
    """Return the axes from the outermost to the innermost, as they are where there are overlaps or gaps."""
    order = sorted(range(first.ndim), key=lambda axis: (-first.stride()[axis], axis))
    return order if first.permute(order).is_contiguous() else list(range(first.ndim))


def is_dense(t: Tensor) -> bool:
    """Whether a tensor's entries lie one after the other, in whichever order of its axes."""
    return t.permute(_order(t)).is_contiguous()


def _flatten(row: Row, written: Sequence[bool]) -> tuple[list[Tensor], Callable[[], None]]:
    """Return 1-D views of a row in one element order, and what to call once they were written.

    A tensor whose layout differs from the first one's is copied into that layout, and copied back
    if it is written.
    """
    if all(t.is_contiguous() for t in row):
        return [t.view(-1) for t in row], _nothing
    order = _order(row[0])
    flat, back = [], []
    for t, is_written in zip(row, written, strict=True):
        ordered = t.permute(order)
        if ordered.is_contiguous():
            flat.append(ordered.view(-1))
        else:
            copy = ordered.contiguous()
            flat.append(copy.view(-1))
            if is_written:
                back.append((ordered, copy))

    def unstage() -> None:
        for destination, copy in back:
            destination.copy_(copy)

    return flat, unstage
