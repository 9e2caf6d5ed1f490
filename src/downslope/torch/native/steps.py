"""Muon's whole step compiled for this CPU: momentum, orthogonalisation and write, matrix after matrix.

Each is read from memory once and written once, where a stack is gone over five times. Taken are contiguous
parameters of which all matrices are equal, and their rows or their columns in one piece, as of every kernel
and of queries, keys and values side by side; the others are left to plain PyTorch.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from downslope.rules.muon import Muon
from downslope.torch.engine import Write
from downslope.torch.kernel import OPS
from downslope.torch.native.memory import are_readable, in_order, lie_apart
from downslope.torch.native.polar import compiled, run
from downslope.torch.places import Item, Shape
from downslope.torch.regions import heard, told
from downslope.torch.writing import scale_of

_PARTS = ("momentum", "orthogonalise", "write")


class _How(ctypes.Structure):
    """How parameters are stepped, as `sources.h` reads it."""

    _fields_ = (
        ("momentum", ctypes.c_float),
        ("fresh", ctypes.c_float),
        ("nesterov", ctypes.c_int32),
        ("rate", ctypes.c_float),
        ("decay", ctypes.c_float),
        ("cautious", ctypes.c_int32),
    )


def takes(rule: Muon, t: Any) -> bool:
    """Whether steps of a rule are compiled as a whole."""
    return not (rule.l2 or rule.normuon or isinstance(t, Tensor))


def taken(items: Sequence[Item]) -> list[Item]:
    """Return the items that whole steps are taken of."""
    found = [item for item in items if item.layout.lying]
    found = found if _fit(found) else [item for item in found if _fit([item])]
    return found if lie_apart([item.p for item in found]) else []


def _fit(items: Sequence[Item]) -> bool:
    """Whether compiled code may step items; all are looked at together, which takes a sixth of the time."""
    return all(
        are_readable(column) and in_order(column) and {t.dtype for t in column} == {torch.float32}
        for column in _columns(items)
    )


def _columns(items: Sequence[Item]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Return the gradients, momenta and parameters of items."""
    return [i.g for i in items], [i.momentum for i in items], [i.p for i in items]


class Stretch(NamedTuple):
    """Matrices of one shape and scale, of several items, and what a step needs of them that stays the same.

    Attributes:
        shape: of each as it lies.
        stride: numbers from one row to the next.
        scale: of their steps.
        rows: the items by their places among all.
        begins: of each item, where its matrices begin, in numbers.
        momenta: where those of the momenta begin.
        params: where those of the parameters do.
        written: both, of which autograd would not learn that they are written to at their addresses.

    """

    shape: Shape
    stride: int
    scale: float
    rows: list[int]
    begins: list[Sequence[int]]
    momenta: ctypes.Array[ctypes.c_void_p]
    params: ctypes.Array[ctypes.c_void_p]
    written: list[Tensor]


def stretches(rule: Muon, items: Sequence[Item]) -> list[Stretch]:
    """Return the stretches that items of `taken` make."""
    alike: dict[tuple[Shape, int, float], list[tuple[int, Sequence[int]]]] = {}
    for i, item in enumerate(items):
        lying = item.layout.lying
        assert lying is not None
        key = lying.shape, lying.stride, scale_of(rule, item.leading)
        alike.setdefault(key, []).append((i, lying.starts))
    found = []
    for key, pairs in alike.items():
        rows, begins = map(list, zip(*pairs, strict=True))
        _, momenta, params = _columns([items[i] for i in rows])
        where = (_addresses(momenta, begins), _addresses(params, begins))
        found.append(Stretch(*key, rows, begins, *where, [*momenta, *params]))
    return found


def take(
    rule: Muon, some: Sequence[Stretch], grads: Sequence[Tensor], t: int, how: Write, dtype: torch.dtype
) -> None:
    """Take the steps of stretches; `grads` are of all items."""
    momentum = rule.momentum_at(OPS, grads[0], t)
    for one in some:
        decay = how.weight_decay / one.scale if one.scale else 0.0
        how_ = _How(momentum, 1 - momentum, rule.nesterov, float(how.lr) * one.scale, decay, how.cautious)
        starts = (_addresses([grads[i] for i in one.rows], one.begins), one.momenta, one.params)
        increment_version(one.written)
        with _timed() as seconds:
            where = (*starts, one.stride, ctypes.byref(how_), seconds)
            shape = (len(one.params), *one.shape)
            run(compiled().step, where, shape, dtype, rule.coefficients, rule.ns_steps)


@contextmanager
def _timed() -> Iterator[ctypes.Array[ctypes.c_double] | None]:
    """Give memory for the parts of each thread's time, and tell how the time that passed was spent."""
    if not heard():
        yield None
        return
    seconds = (ctypes.c_double * (len(_PARTS) * torch.get_num_threads()))()
    start = time.perf_counter()
    yield seconds
    passed, spent = time.perf_counter() - start, sum(seconds)
    told({name: passed * sum(seconds[i :: len(_PARTS)]) / spent for i, name in enumerate(_PARTS)})


def _addresses(tensors: Sequence[Tensor], begins: Sequence[Sequence[int]]) -> ctypes.Array[ctypes.c_void_p]:
    """Return where each matrix of some tensors begins."""
    starts = [t.data_ptr() + 4 * i for t, own in zip(tensors, begins, strict=True) for i in own]
    return (ctypes.c_void_p * len(starts))(*starts)
