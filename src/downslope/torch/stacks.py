"""Muon's matrices: gathered into stacks, orthogonalised together, and written back.

Parameters are taken in portions that fit a memory budget. Of a portion, the element-wise half of
the rule runs in blocks and leaves what is to be orthogonalised in its place of a stack, in full
precision; the stack is divided by its norms and rounded once, to the dtype of the iterations; and
the steps are written (`writing`). `places` says which matrices make one stack; where a parameter's
memory already is its matrices nothing is copied in between. Triton kernels do the same in fewer passes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, lru_cache, partial
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.linalg import vector_norm

from downslope.rules.muon import Muon
from downslope.rules.orthogonalize import least_operations, newton_schulz
from downslope.torch.blocks import for_each_block
from downslope.torch.engine import Engine, Write
from downslope.torch.kernel import OPS, PURE, assign
from downslope.torch.native import steps as native_steps
from downslope.torch.native.memory import are_here
from downslope.torch.native.polar import orthogonalise
from downslope.torch.normuon import evened
from downslope.torch.places import Item, Place, Shape, cut, lay, padded, shared, within
from downslope.torch.regions import region
from downslope.torch.writing import scale_of, written

_AT_ONCE = 1 << 18
"""Elements of the Gram matrices that a CPU works on at once: a megabyte of float32."""

_SPARE = {"cpu": 2e7}
_SPARE_ELSEWHERE = 5e10
"""Multiply-adds that take as long as the launches of a stack: 0.1 ms on two cores and on an H200."""

_TURN = {"cpu": 1.4e3}
"""Multiply-adds that take as long as copying an element to where it lies transposed, and back: 7 ns on two
cores, as long as a hundred elements take in order. Elsewhere it is left out: there launches cost more."""


_STACK_BYTES = {"cpu": 1 << 24}
"""On a CPU what stays in reach of the caches, elsewhere what its launches are small beside."""

_FREED = 31 << 20
"""Bytes: below the 32 MiB up to which glibc takes a hint."""


def stack_bytes(asked: int | None, device: torch.device) -> int:
    """Return the memory that gathering matrices may take at a time, in bytes."""
    return _STACK_BYTES.get(device.type, 1 << 29) if asked is None else asked


@cache
def keep_freed_memory() -> None:
    """Free one block of 31 MiB, untouched, by which glibc learns to keep up to twice as much.

    Until a program has freed such a block itself, as a training with larger activations does, every stack is
    memory that the system has to clear and map anew: 8,000 to 40,000 page faults a step, a fifth of the time
    of 126 convolutions.
    """
    torch.empty(_FREED, dtype=torch.uint8, device="cpu")


def step_stacks(
    rule: Muon,
    items: Sequence[Item],
    *,
    t: Any,
    how: Write,
    dtype: torch.dtype | None,
    max_stack_bytes: int,
    engine: Engine | None = None,
) -> None:
    """Take one Muon step of every item; how items were cut into portions changes nothing but rounding."""
    engine = engine or Engine()
    items = [item for item in items if item.p.numel()]
    fast: list[Item] = []
    if engine.tables is not None:
        from downslope.torch.kernels import steps

        fast = steps.taken(rule, items)
        for portion, stacks in _portions(rule, fast, dtype, max_stack_bytes):
            steps.take(rule, portion, stacks, t, how, dtype or torch.float32, engine)
    if engine.native and native_steps.takes(rule, t):
        fast = native_steps.taken(items)
        if fast:
            stretches = native_steps.stretches(rule, fast)
            native_steps.take(rule, stretches, [item.g for item in fast], t, how, dtype or torch.float32)
    kept = set(map(id, fast))
    slow = [part for item in items if id(item) not in kept for part in cut(item, max_stack_bytes)]
    for portion, stacks in _portions(rule, slow, dtype, max_stack_bytes):
        _take(rule, portion, stacks, t, how, dtype, engine)


def _take(
    rule: Muon,
    portion: list[Item],
    stacks: Mapping[Shape, Shape],
    t: Any,
    how: Write,
    dtype: torch.dtype | None,
    engine: Engine,
) -> None:
    """Take the step of a portion in plain PyTorch."""
    places, counts = lay(portion, stacks)
    with region("momentum"):
        made = _gather(rule, portion, places, counts, t, engine.ok)
    with region("orthogonalise"):
        _orthogonalise(rule, portion, made, dtype, engine)
    with region("write"):
        directions = _directions(rule, portion, places, made)
        written(
            rule,
            [(item.p, item.leading, d) for item, d in zip(portion, directions, strict=True)],
            how,
            engine.ok,
        )


def directions_of(
    rule: Muon, items: Sequence[Item], dtype: torch.dtype | None, max_stack_bytes: int, engine: Engine
) -> list[Tensor]:
    """Return each item's direction, but for its scale; its `momentum` is what is to be orthogonalised."""
    found: dict[int, Tensor] = {}
    for portion, stacks in _portions(rule, items, dtype, max_stack_bytes):
        places, counts = lay(portion, stacks)
        made = _empty(portion, places, counts)
        _fill(made, [(item, item.momentum, own) for item, own in zip(portion, places, strict=True)])
        _orthogonalise(rule, portion, made, dtype, engine)
        directions = _directions(rule, portion, places, made)
        found |= {id(item): d for item, d in zip(portion, directions, strict=True)}
    return [found[id(item)] for item in items]


def _directions(
    rule: Muon, portion: Sequence[Item], places: Sequence[Sequence[Place]], made: Mapping[Shape, Tensor]
) -> list[Tensor]:
    """Return the directions of a portion from its stacks, in the shapes of the parameters."""
    directions = []
    for item, own in zip(portion, places, strict=True):
        pieces = [place.of(made[place.stack]) for place in own]
        scale = scale_of(rule, item.leading)
        for piece, place in zip(pieces, own, strict=True):
            other = rule.scale_of(*place.shape)
            if other != scale:
                piece.mul_(other / scale)
        if item.in_place and pieces[0].is_contiguous():
            directions.append(pieces[0].view(item.p.shape))
        else:
            directions.append(item.view.join(OPS, pieces, tuple(item.p.shape)))
    return directions


def _portions(
    rule: Muon, items: Sequence[Item], ns_dtype: torch.dtype | None, max_stack_bytes: int
) -> Iterator[tuple[list[Item], Mapping[Shape, Shape]]]:
    """Cut the items, those of one stack together, into portions within the budget.

    Which shapes share a stack is decided over all of them, so that it does not depend on the budget.
    """
    stacks = _shared(rule, items, ns_dtype)
    places = {item.layout: [(stacks[m, n], (m, n), count) for count, m, n in item.matrices] for item in items}

    def size_of(item: Item) -> int:
        elements = sum(count * stacks[m, n][0] * stacks[m, n][1] for count, m, n in item.matrices)
        return 2 * elements * item.momentum.element_size()

    for portion in within(sorted(items, key=lambda item: places[item.layout]), max_stack_bytes, size_of):
        yield portion, stacks


def _shared(rule: Muon, items: Sequence[Item], ns_dtype: torch.dtype | None) -> Mapping[Shape, Shape]:
    """Return the shape of the stack of each shape of matrices."""
    counts: Counter[Shape] = Counter()
    for item in items:
        for count, fan_out, fan_in in item.matrices:
            counts[fan_out, fan_in] += count
    if len(counts) < 2 or rule.normuon:  # whose rows are those of each shape
        return {shape: shape for shape in counts}
    half = ns_dtype in (torch.bfloat16, torch.float16)
    device = items[0].p.device.type
    spare, turn = _SPARE.get(device, _SPARE_ELSEWHERE), _TURN.get(device, 0.0)
    return _shared_of(tuple(counts.items()), rule.coefficients, rule.ns_steps, half, spare, turn)


@lru_cache
def _shared_of(
    counts: tuple[tuple[Shape, int], ...],
    coefficients: str,
    steps: int | None,
    half: bool,
    spare: float,
    turn: float,
) -> Mapping[Shape, Shape]:
    work = partial(least_operations, name=coefficients, steps=steps, half=half)
    return MappingProxyType(shared(dict(counts), work, spare, turn))


def _gather(
    rule: Muon,
    portion: Sequence[Item],
    places: Sequence[Sequence[Place]],
    counts: Mapping[Shape, int],
    t: Any,
    ok: Tensor | None,
) -> dict[Shape, Tensor]:
    """Update the momenta; return the stacks to be orthogonalised, in the precision of the momenta."""
    stacks = _empty(portion, places, counts)
    rows, late = [], []
    for item, own in zip(portion, places, strict=True):
        first = own[0].of(stacks[own[0].stack])
        if item.in_place and first.is_contiguous():
            out = first.view(item.p.shape)
        else:
            out = torch.empty_like(item.momentum)
            late.append((item, out, own))
        rows.append((item.p, item.g, item.momentum, out))
    update_momenta(rule, rows, t, ok)
    _fill(stacks, late)
    return stacks


def update_momenta(
    rule: Muon, rows: Sequence[tuple[Tensor, Tensor, Tensor, Tensor]], t: Any, ok: Tensor | None
) -> None:
    """Update the momenta of rows (p, g, momentum, out); write to `out` what is to be orthogonalised."""
    plain = ok is None and not rule.l2 and rule.nesterov

    def kernel(p: Tensor, g: Tensor, momentum: Tensor, out: Tensor) -> None:
        dtype = momentum.dtype
        if plain and g.dtype == dtype:  # the lines of `momentum_of`, without a copy
            mu = rule.momentum_at(OPS, g, t)
            torch.lerp(g, OPS.ema(momentum, g, mu), mu, out=out)
            return
        ops = OPS if ok is None else PURE
        u, new = rule.momentum_of(ops, g.to(dtype), rule.state_type(momentum), p.to(dtype), t)
        out.copy_(u)
        assign(momentum, new.momentum_buffer, ok)

    for_each_block(kernel, rows, (False, False, True, True))


def _empty(
    portion: Sequence[Item], places: Sequence[Sequence[Place]], counts: Mapping[Shape, int]
) -> dict[Shape, Tensor]:
    """Return the stacks of a portion, zero where not all of it is a matrix."""
    with_zeros, like = padded(places), portion[0].momentum
    return {
        shape: (like.new_zeros if shape in with_zeros else like.new_empty)((count, *shape))
        for shape, count in counts.items()
    }


def _fill(stacks: Mapping[Shape, Tensor], rows: Sequence[tuple[Item, Tensor, Sequence[Place]]]) -> None:
    """Copy arrays of the items' shapes to their places."""
    for item, array, own in rows:
        for place, piece in zip(own, item.view.split(OPS, array), strict=True):
            place.of(stacks[place.stack]).copy_(piece)


def _orthogonalise(
    rule: Muon, portion: Sequence[Item], made: dict[Shape, Tensor], dtype: torch.dtype | None, engine: Engine
) -> None:
    """Replace the stacks by their polar factors."""
    for shape, stack in made.items():
        polar = _orthogonalised(rule, stack, dtype, engine)
        made[shape] = evened(rule, polar, portion, shape, engine.ok) if rule.normuon else polar


def _orthogonalised(rule: Muon, stack: Tensor, ns_dtype: torch.dtype | None, engine: Engine) -> Tensor:
    """Return the polar factors of a stack, on a CPU in its place.

    In plain PyTorch there a few matrices are taken at a time, so that what is made on the way takes little
    memory. It also fits the cache, but the time differed by less than the noise (126 convolutions, 2 cores).
    """
    if engine.native and type(stack) is Tensor and stack.dtype == torch.float32 and are_here([stack]):
        orthogonalise(stack, _sizes(stack), ns_dtype or stack.dtype, rule.coefficients, rule.ns_steps)
        return stack
    if stack.device.type != "cpu":
        prepared = _normalised(stack, ns_dtype, engine.look)
        polar: Tensor = newton_schulz(engine.ops, prepared, rule.coefficients, rule.ns_steps)
        return polar
    for part in torch.split(stack, max(1, _AT_ONCE // max(1, min(stack.shape[1:])) ** 2)):
        prepared = _normalised(part, ns_dtype, engine.look)
        part.copy_(newton_schulz(engine.ops, prepared, rule.coefficients, rule.ns_steps))
    return stack


def _normalised(stack: Tensor, dtype: torch.dtype | None, look: bool = True) -> Tensor:
    """Return each matrix divided by its Frobenius norm, rounded once; a zero matrix stays zero."""
    size = _sizes(stack, look)
    if dtype is None or dtype == stack.dtype:
        return stack.div_(size)
    return torch.div(stack, size, out=torch.empty_like(stack, dtype=dtype))  # cast on the way


def _sizes(stack: Tensor, look: bool = True) -> Tensor:
    """Return the Frobenius norm of each matrix, 1 of zero.

    Where the norms' squares are far from over- and underflow, which is nearly always, one pass
    finds them, row by row, since one number is found on one core; asking costs nothing on a CPU, and
    would wait for the device on a GPU. Each matrix is looked at by itself: what is beside it in the stack
    decides nothing.
    """
    if not look or stack.device.type != "cpu":
        size = OPS.norm(stack)
        return torch.where(size > 0, size, 1.0)
    size = _norms(stack)
    rest = ((size > 1e-12) & (size < 1e12)).logical_not_().flatten()
    if bool(rest.any()):
        size[rest] = _far_norms(stack[rest])
    return size


def _norms(stack: Tensor) -> Tensor:
    """Return the norm of each matrix, its squares unscaled."""
    size: Tensor = vector_norm(vector_norm(stack, dim=-1, keepdim=True), dim=-2, keepdim=True)
    return size


def _far_norms(stack: Tensor) -> Tensor:
    """Return the norm of each matrix, however large or small, 1 of zero; a power of two scales exactly."""
    largest = stack.abs().amax(dim=(-2, -1), keepdim=True)
    scale = torch.where(largest > 0, torch.ldexp(torch.ones_like(largest), largest.frexp().exponent - 1), 1.0)
    size = scale * _norms(stack / scale)
    return torch.where(size == 0, 1.0, size)
