"""What the compiled orthogonalisations of all adapters have in common."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Callable
from pathlib import Path

from downslope.native.build import BuildError
from downslope.native.tape import Multiplier

HEADERS = ("polar.h", "products.h", "sources.h", "tiles.h", "tiles_emulated.h")

_LANES = 8
"""Numbers in a vector from which on the products here have been found faster than a framework's."""


def reason(library: Callable[[], ctypes.CDLL], half: bool) -> str:
    """Return why nothing is compiled for this CPU that iterates in bfloat16 if `half`, else in float32.

    Nothing where it is.
    """
    try:
        found = library()
    except BuildError as error:
        return f"nothing compiled for this CPU: {error}"
    if found.lanes() < _LANES:
        return "nothing compiled for this CPU: it has no vectors of 8 numbers, as AVX2 has"
    if half and not found.has_bfloat16():
        return "nothing compiled for this CPU: it does not multiply bfloat16"
    return ""


def multiplier(library: Callable[[], ctypes.CDLL], half: bool) -> Multiplier:
    """Return what multiplies in bfloat16 if `half`, else in float32."""
    if not half:
        return Multiplier.FLOAT32
    return Multiplier.TILES if library().has_tiles() else Multiplier.BFLOAT16


def prefers_half(library: Callable[[], ctypes.CDLL]) -> bool:
    """Whether the compiled iterations are faster in bfloat16 than in float32."""
    if reason(library, half=True):
        return False
    return multiplier(library, half=True) == Multiplier.TILES or not is_intel()


def is_intel() -> bool:
    """Whether the processor is Intel's, whose bfloat16 (but for matrix units) is no faster than float32."""
    try:
        return "GenuineIntel" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return "Intel" in platform.processor()


def has_fast_bfloat16() -> bool:
    """Whether the processor says that it multiplies bfloat16, and faster than float32."""
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return False
    return "amx_bf16" in flags or ("avx512_bf16" in flags and not is_intel())
