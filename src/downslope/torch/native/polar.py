"""Orthogonalisation compiled for this CPU, where a C++ compiler is at hand.

It does what `newton_schulz` does in plain PyTorch, and is held to that by tests. The code is compiled when a
step first asks for it, in three seconds, and kept in the user's cache for the next program.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from downslope.native import polar as native
from downslope.native.polar import HEADERS
from downslope.native.tape import program_of
from downslope.torch.native import build
from downslope.torch.native.build import BuildError, Source

_DTYPES = (torch.float32, torch.bfloat16)

SOURCE = Source("polar", "#include <polar_openmp.cpp>\n", ("polar_openmp.cpp", *HEADERS))


@cache
def compiled() -> ctypes.CDLL:
    """Return the library that `polar_openmp.cpp` is compiled to.

    Raises:
        BuildError: there is none.

    """
    found = build.load(SOURCE)
    pointer, number = ctypes.c_void_p, ctypes.c_long
    program = (*3 * (number,), pointer, *3 * (number,), ctypes.c_int)
    found.orthogonalise.argtypes = (pointer, pointer, number, number, *program)
    found.step.argtypes = (*3 * (pointer,), number, pointer, pointer, *program)
    return found


@cache
def reason(dtype: torch.dtype) -> str:
    """Return why nothing is compiled for this CPU that iterates in a dtype, "" where it is.

    Code that does not know a processor's matrix units (AMX) is slower in bfloat16 than torch, which does.
    """
    if dtype not in _DTYPES:
        return f"nothing compiled for {str(dtype).removeprefix('torch.')}"
    half = dtype == torch.bfloat16
    why = native.reason(compiled, half)
    if not why and half and torch.cpu._is_amx_tile_supported() and not compiled().has_tiles():
        return "the compiler does not know the matrix units that torch's products in bfloat16 run on"
    return why


def fingerprint() -> bytes:
    """Return what the last bits of a step depend on: the compiled code, torch, and the vectors that it uses.

    Nothing where nothing is compiled.
    """
    try:
        code = build.made(SOURCE).digest
    except BuildError:
        return b""
    return code + f"{torch.__version__} {torch.backends.cpu.get_cpu_capability()}".encode()


def orthogonalise(
    stack: Tensor, sizes: Tensor, dtype: torch.dtype, coefficients: str, steps: int | None
) -> None:
    """Replace each matrix of a stack, divided by its size, by what `newton_schulz` makes of it.

    Args:
        stack: (count, m, n), float32, whose rows are contiguous.
        sizes: (count, 1, 1), float32.
        dtype: what the iterations run in, one that `reason` has nothing against.
        coefficients: the set, as `newton_schulz` takes it.
        steps: how many iterations, likewise.

    Raises:
        MemoryError: the system has none for what is made on the way; nothing was changed.

    """
    sizes = sizes.contiguous()
    where = (stack.data_ptr(), sizes.data_ptr(), stack.stride(0), stack.stride(1))
    run(compiled().orthogonalise, where, tuple(stack.shape), dtype, coefficients, steps)


def run(
    function: Callable[..., int],
    where: tuple[Any, ...],
    shape: tuple[int, ...],
    dtype: torch.dtype,
    coefficients: str,
    steps: int | None,
) -> None:
    """Call a function of the library with its matrices' whereabouts and the program for their shape."""
    multiplier = native.multiplier(compiled, half=dtype == torch.bfloat16)
    program, squares = program_of(*shape[1:], coefficients, steps, multiplier)
    if function(*where, *shape, program, len(program), squares, torch.get_num_threads(), multiplier):
        raise MemoryError(f"no memory to orthogonalise matrices of {shape[1]} × {shape[2]}")
