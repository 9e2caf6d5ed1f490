"""How a parameter is seen as a stack of (fan_out, fan_in) matrices.

A `MatrixView` sorts the axes of a parameter into outputs, inputs and batch, and may cut the
outputs (or the inputs) into blocks that are matrices of their own: Q, K and V of one fused
projection, the groups of a grouped convolution. Linear, convolution, stacked experts and
transposed kernels are then one case.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from math import prod
from typing import Any, Literal

from downslope.ops.protocol import Array, Ops


@dataclass(frozen=True)
class MatrixView:
    """Which axes of a parameter are outputs, inputs and batch, and where it is cut into blocks.

    Args:
        outputs: axes whose product is fan_out.
        inputs: axes whose product is fan_in.
        batch: axes along which matrices are stacked (experts, heads).
        blocks: sizes of consecutive blocks of the flattened outputs (or inputs), each a matrix of
            its own; empty means one block.
        blocks_along: "outputs" or "inputs": which side the blocks cut.
        repeats: how often the pattern of blocks comes one after the other along that side; each
            matrix then gathers its block of every repeat (Q, K and V interleaved by head).

    >>> conv = MatrixView.of_kernel(4)
    >>> conv.matrices((64, 32, 3, 3))
    [(1, 64, 288)]
    >>> MatrixView((0,), (1,), blocks=(768,) * 3).matrices((2304, 768))
    [(3, 768, 768)]
    >>> MatrixView((2,), (1,), batch=(0,)).matrices((8, 64, 256))
    [(8, 256, 64)]
    >>> MatrixView((0,), (1,), blocks=(64,) * 3, repeats=12).matrices((2304, 768))
    [(3, 768, 768)]

    """

    outputs: tuple[int, ...]
    inputs: tuple[int, ...]
    batch: tuple[int, ...] = ()
    blocks: tuple[int, ...] = field(default=())
    blocks_along: Literal["outputs", "inputs"] = "outputs"
    repeats: int = 1

    @classmethod
    def of_kernel(cls, ndim: int) -> MatrixView:
        """Return the view of a Linear or Conv weight, (out, in, ...): all but the first axis are inputs."""
        return cls((0,), tuple(range(1, ndim)))

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise ValueError unless the view fits an array of this shape."""
        axes = sorted((*self.outputs, *self.inputs, *self.batch))
        if axes != list(range(len(shape))) or not self.outputs or not self.inputs:
            raise ValueError(
                f"{self} does not fit shape {tuple(shape)}: every axis must stand once in "
                "outputs, inputs or batch, and outputs and inputs must not be empty"
            )
        side = self._sides(shape)[1 if self.blocks_along == "outputs" else 2]
        if self.blocks and (sum(self.blocks) * self.repeats != side or min(self.blocks) < 1):
            times = f" {self.repeats} times" if self.repeats > 1 else ""
            raise ValueError(
                f"{self} does not fit shape {tuple(shape)}: blocks must add up to {side} "
                f"{self.blocks_along}{times}"
            )

    def matrices(self, shape: tuple[int, ...]) -> list[tuple[int, int, int]]:
        """Return (count, fan_out, fan_in) of each stack of equal matrices, in order of the blocks."""
        self.check(shape)
        count, fan_out, fan_in = self._sides(shape)
        if self.blocks_along == "outputs":
            return [(count * n, size, fan_in) for n, size in self._runs(fan_out)]
        return [(count * n, fan_out, size) for n, size in self._runs(fan_in)]

    def split(self, x: Ops, a: Array) -> list[Array]:
        """Return the stacks (count, fan_out, fan_in) of an array, without a copy where strides allow."""
        count, fan_out, fan_in = self._sides(a.shape)
        whole = x.reshape(x.permute(a, self._order), (count, fan_out, fan_in))
        if len(self.blocks) < 2:
            return [whole]
        r, stacks = self.repeats, []
        side = fan_out if self.blocks_along == "outputs" else fan_in
        for (low, high), (n, size) in self._places(side):
            if self.blocks_along == "outputs":
                part = whole if r == 1 else x.reshape(whole, (count, r, fan_out // r, fan_in))
                if r == 1:
                    stacks.append(x.reshape(part[:, low:high, :], (count * n, size, fan_in)))
                    continue
                part = x.reshape(part[:, :, low:high, :], (count, r, n, size // r, fan_in))
                stacks.append(x.reshape(x.permute(part, (0, 2, 1, 3, 4)), (count * n, size, fan_in)))
            else:
                part = x.reshape(whole, (count, fan_out, r, fan_in // r))[:, :, :, low:high]
                part = x.reshape(part, (count, fan_out, r, n, size // r))
                stacks.append(x.reshape(x.permute(part, (0, 3, 1, 2, 4)), (count * n, fan_out, size)))
        return stacks

    def join(self, x: Ops, stacks: list[Array], shape: tuple[int, ...]) -> Array:
        """Return the array of this shape whose `split` is `stacks`."""
        count, fan_out, fan_in = self._sides(shape)
        if len(stacks) == 1 and len(self.blocks) < 2:
            whole = x.reshape(stacks[0], (count, fan_out, fan_in))
        elif self.blocks_along == "outputs":
            whole = self._join_outputs(x, stacks, count, fan_out, fan_in)
        else:
            whole = self._join_inputs(x, stacks, count, fan_out, fan_in)
        order = self._order
        inverse = tuple(order.index(axis) for axis in range(len(shape)))
        return x.permute(x.reshape(whole, tuple(shape[axis] for axis in order)), inverse)

    def rows(self, shape: tuple[int, ...]) -> int:
        """Return how many rows all matrices of an array of this shape have together."""
        return sum(count * fan_out for count, fan_out, _ in self.matrices(shape))

    def split_rows(self, x: Ops, rows: Array, shape: tuple[int, ...]) -> list[Array]:
        """Return one number a row, (rows,), as the stacks (count, fan_out, 1) that `split` goes with."""
        stacks, low = [], 0
        for count, fan_out, _ in self.matrices(shape):
            stacks.append(x.reshape(rows[low : low + count * fan_out], (count, fan_out, 1)))
            low += count * fan_out
        return stacks

    def join_rows(self, x: Ops, stacks: list[Array]) -> Array:
        """Return the (rows,) whose `split_rows` is `stacks`."""
        flat = [x.reshape(s, (-1,)) for s in stacks]
        return flat[0] if len(flat) == 1 else x.concat(flat, 0)

    def _join_outputs(self, x: Ops, stacks: list[Array], count: int, fan_out: int, fan_in: int) -> Array:
        r, parts = self.repeats, []
        if r == 1:
            parts = [x.reshape(s, (count, -1, fan_in)) for s in stacks]
            return parts[0] if len(parts) == 1 else x.concat(parts, 1)
        for s, (n, size) in zip(stacks, self._runs(fan_out), strict=True):
            part = x.permute(x.reshape(s, (count, n, r, size // r, fan_in)), (0, 2, 1, 3, 4))
            parts.append(x.reshape(part, (count, r, n * size // r, fan_in)))
        return parts[0] if len(parts) == 1 else x.concat(parts, 2)

    def _join_inputs(self, x: Ops, stacks: list[Array], count: int, fan_out: int, fan_in: int) -> Array:
        r, parts = self.repeats, []
        for s, (n, size) in zip(stacks, self._runs(fan_in), strict=True):
            part = x.permute(x.reshape(s, (count, n, fan_out, r, size // r)), (0, 2, 3, 1, 4))
            parts.append(x.reshape(part, (count, fan_out, r, n * size // r)))
        return parts[0] if len(parts) == 1 else x.concat(parts, 3)

    def transposed(self) -> MatrixView:
        """Return the view whose matrices are these transposed."""
        along: Literal["outputs", "inputs"] = "inputs" if self.blocks_along == "outputs" else "outputs"
        return MatrixView(self.inputs, self.outputs, self.batch, self.blocks, along, self.repeats)

    def as_laid_out(self) -> MatrixView:
        """Return the transposed view where a contiguous array lies so, and else this one.

        Since polar(Gᵀ) = polar(G)ᵀ, kernels whose outputs are the last axis need not be permuted.

        >>> MatrixView((1,), (0,)).as_laid_out().matrices((64, 256))
        [(1, 64, 256)]

        """
        turned = self.transposed()
        return turned if turned.in_order else self

    @property
    def in_order(self) -> bool:
        """Whether the axes stand in the array as batch, outputs, inputs: then nothing need be permuted."""
        return self._order == tuple(range(len(self._order)))

    def describe(self, shape: tuple[int, ...]) -> str:
        """Return the matrices in words: `3 × 768×768`."""
        return " + ".join(f"{n} × {o}×{i}" if n > 1 else f"{o}×{i}" for n, o, i in self.matrices(shape))

    def to_dict(self) -> dict[str, Any]:
        """Return the view as JSON types."""
        return {
            "outputs": list(self.outputs),
            "inputs": list(self.inputs),
            "batch": list(self.batch),
            "blocks": list(self.blocks),
            "blocks_along": self.blocks_along,
            "repeats": self.repeats,
        }

    @classmethod
    def from_dict(cls, d: dict[str, Any]) -> MatrixView:
        """Return the view that `to_dict` described."""
        outputs, inputs, batch, blocks = (tuple(d[k]) for k in ("outputs", "inputs", "batch", "blocks"))
        return cls(outputs, inputs, batch, blocks, d["blocks_along"], d.get("repeats", 1))

    @property
    def _order(self) -> tuple[int, ...]:
        return (*self.batch, *self.outputs, *self.inputs)

    def _sides(self, shape: tuple[int, ...]) -> tuple[int, int, int]:
        count, fan_out, fan_in = (
            prod(shape[a] for a in axes) for axes in (self.batch, self.outputs, self.inputs)
        )
        return count, fan_out, fan_in

    def _runs(self, side: int) -> list[tuple[int, int]]:
        """Return (how many, size) of each run of consecutive equal blocks, all repeats taken together."""
        runs: list[tuple[int, int]] = []
        for size in [b * self.repeats for b in self.blocks] or [side]:
            if runs and runs[-1][1] == size:
                runs[-1] = (runs[-1][0] + 1, size)
            else:
                runs.append((1, size))
        return runs

    def _places(self, side: int) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
        """Yield (low, high) within one repeat, and (how many, size), of each run of blocks."""
        runs = self._runs(side)
        bounds = pairwise(accumulate((n * size // self.repeats for n, size in runs), initial=0))
        return zip(bounds, runs, strict=True)
