"""Tensors as compiled code sees them: where their numbers lie, and how many they are."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from itertools import pairwise
from operator import attrgetter

import torch
from torch import Tensor, nn

PLAIN = {Tensor, nn.Parameter}
"""Types whose tensors are neither spread over processes nor made of others."""


def are_plain(tensors: Sequence[Tensor]) -> bool:
    """Whether the memory of tensors holds their numbers: others are made of something else, or negated."""
    return (
        set(map(type, tensors)) <= PLAIN
        and not any(map(Tensor.is_neg, tensors))
        and not any(map(Tensor._is_zerotensor, tensors))
    )


def watched() -> bool:
    """Whether something transforms what is run, or records its operations: it must see them."""
    modes: int = torch._C._len_torch_dispatch_stack()
    return modes > 0 or torch._C._functorch.peek_interpreter_stack() is not None


def are_here(tensors: Iterable[Tensor]) -> bool:
    """Whether compiled code may go to the memory of tensors: not to another device's, and unseen by torch."""
    return not watched() and all(map(attrgetter("is_cpu"), tensors))


def are_readable(tensors: Sequence[Tensor]) -> bool:
    """Whether compiled code may go to the memory of tensors, and finds their numbers there."""
    return are_here(tensors) and are_plain(tensors)


def in_order(tensors: Iterable[Tensor]) -> bool:
    """Whether the numbers of each tensor lie one after the other."""
    return all(map(Tensor.is_contiguous, tensors))


def lie_apart(params: Sequence[Tensor]) -> bool:
    """Whether no two parameters share memory: the second would have to wait for the first."""
    spans = sorted(zip(map(Tensor.data_ptr, params), map(attrgetter("nbytes"), params), strict=True))
    return all(start + size <= after for (start, size), (after, _) in pairwise(spans))


def addresses(tensors: Sequence[Tensor]) -> ctypes.Array[ctypes.c_void_p]:
    """Return where each tensor begins."""
    return (ctypes.c_void_p * len(tensors))(*map(Tensor.data_ptr, tensors))


def sizes(tensors: Sequence[Tensor]) -> ctypes.Array[ctypes.c_long]:
    """Return how many numbers each tensor has."""
    return (ctypes.c_long * len(tensors))(*map(Tensor.numel, tensors))
