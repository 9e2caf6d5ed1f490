"""Muon's momentum and write, and the look for NaN, by Triton kernels: one launch for tensors alike.

The kernels take parameters whose memory is, in order, one stack of their matrices; the others are left
to plain PyTorch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from downslope.rules.muon import Muon
from downslope.rules.orthogonalize import newton_schulz
from downslope.torch.engine import Engine, Write
from downslope.torch.kernel import OPS
from downslope.torch.kernels import elementwise
from downslope.torch.kernels.tables import Row, Tables
from downslope.torch.normuon import evened
from downslope.torch.places import Item, Layout, Place, Shape, lay, padded
from downslope.torch.regions import region

_FLOATS = (torch.float32, torch.bfloat16, torch.float16)


def taken(rule: Muon, items: Sequence[Item]) -> list[Item]:
    """Return the items whose step the kernels take."""
    return [item for item in items if takes(rule, item.p, item.layout) and _fits(item)]


def takes(rule: Muon, p: Tensor, layout: Layout) -> bool:
    """Whether the kernels take the steps of a parameter, if its gradient is a plain one."""
    return (
        not rule.l2
        and layout.in_order
        and type(p) in (Tensor, torch.nn.Parameter)
        and p.is_contiguous()
        and p.dtype in _FLOATS
    )


def _fits(item: Item) -> bool:
    g, momentum = item.g, item.momentum
    return (
        type(g) is Tensor
        and g.is_contiguous()
        and momentum.is_contiguous()
        and g.dtype in _FLOATS
        and momentum.dtype == torch.float32
    )


def take(
    rule: Muon,
    portion: list[Item],
    stacks: Mapping[Shape, Shape],
    t: Any,
    how: Write,
    dtype: torch.dtype,
    engine: Engine,
) -> None:
    """Take the step of a portion: momenta, stacks, directions, write."""
    assert engine.tables is not None
    # The kernels write to addresses, of which autograd would not learn.
    increment_version([t for item in portion for t in (item.momentum, item.p)])
    places, counts = lay(portion, stacks)
    with region("momentum"):
        made = _gather(rule, portion, places, counts, t, dtype, engine)
    with region("orthogonalise"):
        for shape, stack in made.items():
            polar = newton_schulz(engine.ops, stack, rule.coefficients, rule.ns_steps)
            made[shape] = evened(rule, polar, portion, shape, engine.ok) if rule.normuon else polar
    with region("write"):
        for place, parameters, items in _alike(portion, places, "p"):
            table, aligned = _table(engine.tables, [(item.p,) for item in items], place)
            elementwise.descend(
                table,
                place.of(made[place.stack]),
                dtype=parameters,
                lr=_rate(how.lr, table.device),
                scale=rule.scale_of(*place.shape),
                weight_decay=how.weight_decay,
                cautious=how.cautious,
                aligned=aligned,
                ok=engine.ok,
            )


def _gather(
    rule: Muon,
    portion: Sequence[Item],
    places: Sequence[Sequence[Place]],
    counts: Mapping[Shape, int],
    t: Any,
    dtype: torch.dtype,
    engine: Engine,
) -> dict[Shape, Tensor]:
    """Update the momenta; return the stacks in the dtype of the iterations, divided by their norms."""
    assert engine.tables is not None
    like, with_zeros = portion[0].momentum, padded(places)
    tiles = dict.fromkeys(counts, 1)
    for (place,) in places:
        tiles[place.stack] = max(tiles[place.stack], elementwise.tiles_of(*place.shape))
    stacks, squares = {}, {}
    for shape, count in counts.items():
        fill = like.new_zeros if shape in with_zeros else like.new_empty
        stacks[shape] = fill((count, *shape), dtype=dtype)
        squares[shape] = like.new_zeros((count, tiles[shape]), dtype=torch.float64)
    mu = rule.momentum_at(OPS, like, t)
    for place, gradients, items in _alike(portion, places, "g"):
        table, aligned = _table(engine.tables, [(item.g, item.momentum) for item in items], place)
        elementwise.momentum(
            table,
            place.of(stacks[place.stack]),
            squares[place.stack][place.start : place.start + place.many],
            dtype=gradients,
            mu=mu,
            nesterov=rule.nesterov,
            aligned=aligned,
            ok=engine.ok,
        )
    for shape, stack in stacks.items():
        elementwise.normalise(stack, squares[shape])
    return stacks


def _alike(
    portion: Sequence[Item], places: Sequence[Sequence[Place]], which: str
) -> list[tuple[Place, torch.dtype, list[Item]]]:
    """Return the runs of items that one launch takes: neighbours in a stack, of one shape and dtype."""
    runs: list[tuple[Place, torch.dtype, list[Item]]] = []
    for item, (place,) in zip(portion, places, strict=True):
        dtype = getattr(item, which).dtype
        last, before, items = runs[-1] if runs else (place, None, [])
        # What stands in a stack stands there without gaps.
        if before == dtype and last.stack == place.stack and last.shape == place.shape:
            runs[-1] = (last._replace(many=last.many + place.many), dtype, [*items, item])
        else:
            runs.append((place, dtype, [item]))
    return runs


def _rate(lr: Any, device: torch.device) -> Any:
    """Return the learning rate as a kernel takes it: a number, or a tensor on the device."""
    return float(lr) if isinstance(lr, Tensor) and lr.device != device else lr


def _table(tables: Tables, tensors: Sequence[tuple[Tensor, ...]], place: Place) -> tuple[Tensor, bool]:
    """Return the addresses of each matrix of some tensors side by side, and whether all are aligned."""
    size = place.shape[0] * place.shape[1]
    starts = [t.data_ptr() for columns in tensors for t in columns]
    counts = [columns[0].numel() // size for columns in tensors]
    widths = [t.element_size() for t in tensors[0]]
    aligned = place.shape[1] % 16 == 0 and not any(start % 16 for start in starts)

    def rows() -> list[Row]:
        made: list[Row] = []
        for columns, count in zip(tensors, counts, strict=True):
            addresses = [(t.data_ptr(), size * width) for t, width in zip(columns, widths, strict=True)]
            made += [tuple(start + i * step for start, step in addresses) for i in range(count)]
        return made

    # All that decides the rows: memory that was given back may hold another tensor in the next step.
    return tables.named((size, *widths, *counts, *starts), tensors[0][0].device, rows), aligned


def flags(grads: Sequence[Tensor], tables: Tables) -> Tensor | None:
    """Return one bool a gradient, whether it holds NaN or infinity, or None where the kernel cannot tell."""
    dtype = grads[0].dtype
    if dtype not in _FLOATS:
        return None
    if not all(type(g) is Tensor and g.dtype == dtype and g.is_contiguous() for g in grads):
        return None
    starts, sizes = [g.data_ptr() for g in grads], [g.numel() for g in grads]
    if not any(sizes):
        return grads[0].new_zeros(len(grads), dtype=torch.bool)
    # The element size tells this kind of table from the others, which begin with a matrix's elements.
    name = (-grads[0].element_size(), *sizes, *starts)
    table = tables.named(name, grads[0].device, lambda: _pieces(grads))
    return elementwise.nonfinite(table, len(grads), dtype, not any(start % 16 for start in starts))


def _pieces(tensors: Sequence[Tensor]) -> list[Row]:
    """Return the address, the size and the index of the tensor of each piece of at most `CHUNK` elements."""
    step = elementwise.CHUNK
    return [
        (t.data_ptr() + start * t.element_size(), min(step, t.numel() - start), i)
        for i, t in enumerate(tensors)
        for start in range(0, t.numel(), step)
    ]
