"""Which gradients hold NaN or infinity, by one compiled pass over all of them."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from downslope.torch.native import build
from downslope.torch.native.build import BuildError, Source
from downslope.torch.native.elementwise import FLAGS, HEADER
from downslope.torch.native.memory import addresses, are_readable, in_order, sizes

_EXPONENTS = {
    torch.float32: (4, 0x7F80_0000),
    torch.float64: (8, 0x7FF0_0000_0000_0000),
    torch.bfloat16: (2, 0x7F80),
    torch.float16: (2, 0x7C00),
}
"""Bytes of a number, and the bits of its exponent, which are all set where it is not finite."""

SOURCE = Source("finite", "#include <finite.cpp>\n", ("finite.cpp", HEADER), FLAGS)


def takes(grads: Sequence[Tensor], *, known: bool = False) -> bool:
    """Whether gradients can be looked at; `known` says that compiled code reads them."""
    return _library() is not None and (known or _fit(grads))


def _fit(grads: Sequence[Tensor]) -> bool:
    dtypes = {g.dtype for g in grads}
    return len(dtypes) == 1 and dtypes <= _EXPONENTS.keys() and are_readable(grads) and in_order(grads)


def nonfinite(grads: Sequence[Tensor]) -> list[int]:
    """Return the indices of those that hold NaN or infinity; `takes` says that it can be told."""
    library, threads = _library(), torch.get_num_threads()
    assert library is not None
    bad = (ctypes.c_uint8 * len(grads))()
    where = (addresses(grads), sizes(grads), len(grads))
    many = library.nonfinite(*where, *_EXPONENTS[grads[0].dtype], threads, bad)
    return [i for i, one in enumerate(bad) if one] if many else []


@cache
def _library() -> ctypes.CDLL | None:
    try:
        found = build.load(SOURCE)
    except BuildError:
        return None
    pointer, number = ctypes.c_void_p, ctypes.c_long
    found.nonfinite.argtypes = (pointer, pointer, number, number, ctypes.c_ulonglong, number, pointer)
    found.nonfinite.restype = number
    return found
