"""Muon's matrices: gathered by shape into stacks, orthogonalised together, and written back.

Parameters are taken in portions that fit a memory budget. Of a portion, the element-wise half of
the rule runs in blocks and leaves what is to be orthogonalised in its place of a stack, in full
precision; the stack is divided by its norms and rounded once, to the dtype of the iterations; and
the steps are written in blocks. Matrices of one shape make one stack, whichever parameters they
come from, and where a parameter's memory already is its matrices nothing is copied in between.
"""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from downslope.grouping.view import MatrixView
from downslope.ops.torch import TorchOps
from downslope.rules.descent import step
from downslope.rules.muon import Muon
from downslope.rules.orthogonalize import newton_schulz
from downslope.torch.blocks import BLOCK, for_each_block
from downslope.torch.kernel import OPS, PURE, assign, write
from downslope.torch.regions import region

Shape = tuple[int, int]

_AT_ONCE = 1 << 18
"""Elements of the Gram matrices that a CPU works on at once: a megabyte of float32."""


@dataclass(frozen=True)
class Item:
    """One parameter with all that its step needs."""

    p: Tensor
    g: Tensor
    momentum: Tensor
    view: MatrixView
    row_square: Tensor | None = None

    @property
    def matrices(self) -> list[tuple[int, int, int]]:
        """(count, fan_out, fan_in) of each of its stacks."""
        return self.view.matrices(tuple(self.p.shape))

    @property
    def in_place(self) -> bool:
        """Whether its memory, in order, is one stack of its matrices."""
        view = self.view
        in_order = (*view.batch, *view.outputs, *view.inputs) == tuple(range(self.p.ndim))
        one_stack = len(self.matrices) == 1 and view.blocks_along == "outputs" and view.repeats == 1
        return in_order and one_stack and self.p.is_contiguous()


@dataclass(frozen=True)
class Engine:
    """What a step is taken with.

    Attributes:
        ops: the operations of the iterations.
        kernels: whether Triton kernels update the momenta and write the steps.
        look: whether the host may read a value, which on a device would wait for it.
        ok: a bool on the device; where it is False, nothing is written.

    """

    ops: TorchOps = OPS
    kernels: bool = False
    look: bool = True
    ok: Tensor | None = None


def step_stacks(
    rule: Muon,
    items: Sequence[Item],
    *,
    t: Any,
    lr: Any,
    weight_decay: float,
    cautious: bool,
    ns_dtype: torch.dtype | None,
    max_stack_bytes: int,
    engine: Engine = Engine(),
) -> None:
    """Take one Muon step of every item; results do not depend on how items were stacked."""
    plain = engine.ok is None and not cautious and not isinstance(lr, Tensor)
    for portion in _portions(items, max_stack_bytes):
        with region("momentum"):
            stacks, scaled = _prepared(rule, portion, t, ns_dtype, engine)
        squares = _row_squares(portion) if rule.normuon else {}
        with region("orthogonalise"):
            for shape, stack in stacks.items():
                polar = _orthogonalised(rule, stack, ns_dtype, engine, shape in scaled)
                if rule.normuon:
                    polar = _evened(rule, polar, squares[shape], engine.ok)
                stacks[shape] = polar if shape in scaled else polar.mul_(rule.scale_of(*shape))
        with region("write"):
            directions = list(zip(portion, _scatter(portion, stacks), strict=True))
            if engine.kernels:
                directions = _by_kernels(rule, directions, scaled, engine, lr, weight_decay, cautious)

            def write_step(p: Tensor, d: Tensor) -> None:
                if plain and p.dtype == d.dtype:  # the line of `step`, without its temporaries
                    p.add_(d.add_(p, alpha=weight_decay) if weight_decay else d, alpha=-lr)
                    return
                exact = p if p.dtype == torch.float64 else p.float()
                change = step(
                    OPS, exact, d.to(exact.dtype), lr=lr, weight_decay=weight_decay, cautious=cautious
                )
                write(p, exact, change, engine.ok)

            for_each_block(write_step, [(item.p, d) for item, d in directions], (True, False))


def _prepared(
    rule: Muon, portion: list[Item], t: Any, ns_dtype: torch.dtype | None, engine: Engine
) -> tuple[dict[Shape, Tensor], dict[Shape, float]]:
    """Update the momenta; return the stacks and, of those that kernels made, the scale left to apply.

    These are divided by their norms already, and in the dtype of the iterations.
    """
    if not engine.kernels:
        return _gather(rule, portion, t, engine.ok), {}
    from downslope.torch.kernels import steps

    shapes = steps.taken(rule, portion)
    fast = [item for item in portion if item.matrices[0][1:] in shapes]
    slow = [item for item in portion if item.matrices[0][1:] not in shapes]
    stacks = steps.gather(rule, fast, t, ns_dtype or fast[0].momentum.dtype, engine.ok) if fast else {}
    scaled = {shape: rule.scale_of(*shape) for shape in stacks}
    if slow:
        stacks.update(_gather(rule, slow, t, engine.ok))
    return stacks, scaled


def _by_kernels(
    rule: Muon,
    directions: list[tuple[Item, Tensor]],
    scaled: dict[Shape, float],
    engine: Engine,
    lr: Any,
    weight_decay: float,
    cautious: bool,
) -> list[tuple[Item, Tensor]]:
    """Write what kernels can; return what is left, scaled."""
    from downslope.torch.kernels import steps

    left = []
    for item, d in directions:
        scale = scaled.get(item.matrices[0][1:], 1.0)
        done = steps.write(
            item, d, lr=lr, scale=scale, weight_decay=weight_decay, cautious=cautious, ok=engine.ok
        )
        if not done:
            left.append((item, d if scale == 1 else d * scale))
    return left


def _portions(items: Sequence[Item], max_stack_bytes: int) -> Iterator[list[Item]]:
    """Cut the items, those of like matrices together, into portions within the budget."""
    portion: list[Item] = []
    size = 0
    for item in sorted((i for i in items if i.p.numel()), key=lambda item: item.matrices):
        need = 2 * item.momentum.numel() * item.momentum.element_size()
        if portion and size + need > max_stack_bytes:
            yield portion
            portion, size = [], 0
        portion.append(item)
        size += need
    if portion:
        yield portion


def _gather(rule: Muon, portion: Sequence[Item], t: Any, ok: Tensor | None) -> dict[Shape, Tensor]:
    """Update the momenta; return the stacks (count, fan_out, fan_in) to be orthogonalised."""
    stacks = _empty_stacks(portion)
    taken: Counter[Shape] = Counter()
    rows, late = [], []
    for item in portion:
        places = []
        for count, fan_out, fan_in in item.matrices:
            start = taken[fan_out, fan_in]
            taken[fan_out, fan_in] += count
            places.append(stacks[fan_out, fan_in][start : start + count])
        if item.in_place:
            out = places[0].view(item.p.shape)
        else:
            out = torch.empty_like(item.momentum)
            late.append((item, out, places))
        rows.append((item.p, item.g, item.momentum, out))

    def kernel(p: Tensor, g: Tensor, momentum: Tensor, out: Tensor) -> None:
        dtype = momentum.dtype
        ops = OPS if ok is None else PURE
        u, new = rule.momentum_of(ops, g.to(dtype), rule.state_type(momentum), p.to(dtype), t)
        out.copy_(u)
        assign(momentum, new.momentum_buffer, ok)

    for_each_block(kernel, rows, (False, False, True, True))
    for item, out, places in late:
        for place, piece in zip(places, item.view.split(OPS, out), strict=True):
            place.copy_(piece)
    return stacks


def _row_squares(portion: Sequence[Item]) -> dict[Shape, list[Tensor]]:
    """Return NorMuon's running mean squares, (count, fan_out, 1), in the order of the stacks."""
    found: dict[Shape, list[Tensor]] = {}
    for item in portion:
        assert item.row_square is not None
        pieces = item.view.split_rows(OPS, item.row_square, tuple(item.p.shape))
        for (_, fan_out, fan_in), piece in zip(item.matrices, pieces, strict=True):
            found.setdefault((fan_out, fan_in), []).append(piece)
    return found


def _evened(rule: Muon, polar: Tensor, squares: Sequence[Tensor], ok: Tensor | None) -> Tensor:
    """Return a stack with its rows evened out, and write the next mean squares to where they came from."""
    evened, new = rule.evened(OPS, polar.to(squares[0].dtype), torch.cat(list(squares)))
    for square, value in zip(squares, new.split([len(s) for s in squares]), strict=True):
        assign(square, value, ok)
    out: Tensor = evened
    return out


def _scatter(portion: Sequence[Item], stacks: dict[Shape, Tensor]) -> list[Tensor]:
    """Return each parameter's direction, in its shape."""
    taken: Counter[Shape] = Counter()
    directions = []
    for item in portion:
        pieces = []
        for count, fan_out, fan_in in item.matrices:
            start = taken[fan_out, fan_in]
            taken[fan_out, fan_in] += count
            pieces.append(stacks[fan_out, fan_in][start : start + count])
        directions.append(item.view.join(OPS, pieces, tuple(item.p.shape)))
    return directions


def _empty_stacks(portion: Sequence[Item]) -> dict[Shape, Tensor]:
    counts: Counter[Shape] = Counter()
    for item in portion:
        for count, fan_out, fan_in in item.matrices:
            counts[fan_out, fan_in] += count
    like = portion[0].momentum
    return {shape: like.new_empty((count, *shape)) for shape, count in counts.items()}


def _orthogonalised(
    rule: Muon, stack: Tensor, ns_dtype: torch.dtype | None, engine: Engine, normalised: bool
) -> Tensor:
    """Return the polar factors of a stack, on a CPU in its place.

    There a few matrices are taken at a time, so that what is made on the way takes little memory. It
    also fits the cache, but the time differed by less than the noise (126 convolutions, 2 cores).
    """
    if normalised or stack.device.type != "cpu":
        prepared = stack if normalised else _normalised(stack, ns_dtype, engine.look)
        polar: Tensor = newton_schulz(engine.ops, prepared, rule.coefficients, rule.ns_steps)
        return polar
    for part in torch.split(stack, max(1, _AT_ONCE // max(1, min(stack.shape[1:])) ** 2)):
        prepared = _normalised(part, ns_dtype, engine.look)
        part.copy_(newton_schulz(engine.ops, prepared, rule.coefficients, rule.ns_steps))
    return stack


def _normalised(stack: Tensor, dtype: torch.dtype | None, look: bool = True) -> Tensor:
    """Return each matrix divided by its Frobenius norm, rounded once; a zero matrix stays zero.

    Where the norms' squares are far from over- and underflow, which is nearly always, one pass
    finds them; asking costs nothing on a CPU, and would wait for the device on a GPU.
    """
    look = look and stack.device.type == "cpu"
    size = torch.linalg.vector_norm(stack, dim=(-2, -1), keepdim=True) if look else None
    if size is None or not bool(((size > 1e-12) & (size < 1e12)).all()):
        size = OPS.norm(stack)
        size = torch.where(size > 0, size, 1.0)
    if dtype is None or dtype == stack.dtype:
        return stack.div_(size)
    out = torch.empty_like(stack, dtype=dtype)
    if stack.device.type != "cpu":
        return torch.div(stack, size, out=out)  # one launch, cast on the way
    rows = max(1, BLOCK // stack.shape[-1])
    pieces = zip(torch.split(stack.flatten(0, 1), rows), torch.split(out.flatten(0, 1), rows), strict=True)
    norms = size.expand(-1, stack.shape[1], 1).reshape(-1, 1)
    for (source, target), norm in zip(pieces, torch.split(norms, rows), strict=True):
        target.copy_(source / norm)
    return out


def fast_dtype(p: Tensor) -> torch.dtype | None:
    """Return the dtype in which this device orthogonalises fastest, or None for the state's own.

    bfloat16 where matrix products in it are fast: GPUs from compute capability 8.0 on, CPUs with AMX,
    and with AVX-512 BF16 unless they are Intel's, whose instruction multiplies no more a cycle than
    the one for float32 does (measured: half of its rate). Never float16. float64 stays float64.
    """
    if p.dtype == torch.float64:
        return None
    if p.device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(p.device) >= (8, 0) else None
    return torch.bfloat16 if p.device.type == "cpu" and _fast_on_cpu() else None


@lru_cache
def _fast_on_cpu() -> bool:
    if torch.cpu._is_amx_tile_supported():
        return True
    return torch.cpu._is_avx512_bf16_supported() and not _is_intel()


def _is_intel() -> bool:
    try:
        return "GenuineIntel" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return "Intel" in platform.processor()
