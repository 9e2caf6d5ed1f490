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
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from downslope.rules.muon import Muon
from downslope.torch.engine import Write
from downslope.torch.kernel import OPS
from downslope.torch.native.memory import are_readable, in_order, lie_apart, tell_autograd
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


def take(rule: Muon, items: Sequence[Item], t: int, how: Write, dtype: torch.dtype) -> None:
    """Take the steps of items, those of one shape and scale together."""
    alike: dict[tuple[Shape, int, float], list[tuple[Item, Sequence[int]]]] = {}
    for item in items:
        lying = item.layout.lying
        assert lying is not None
        key = lying.shape, lying.stride, scale_of(rule, item.leading)
        alike.setdefault(key, []).append((item, lying.starts))
    momentum = rule.momentum_at(OPS, items[0].momentum, t)
    for (shape, stride, scale), pairs in alike.items():
        decay = how.weight_decay / scale if scale else 0.0
        how_ = _How(momentum, 1 - momentum, rule.nesterov, float(how.lr) * scale, decay, how.cautious)
        columns, begins = _columns([item for item, _ in pairs]), [begin for _, begin in pairs]
        starts = [_addresses(column, begins) for column in columns]
        tell_autograd(chain(*columns[1:]))
        with _timed() as seconds:
            where = (*starts, stride, ctypes.byref(how_), seconds)
            run(compiled().step, where, (len(starts[0]), *shape), dtype, rule.coefficients, rule.ns_steps)


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
