"""What the iterations of an orthogonalisation run in."""

from __future__ import annotations

import math
import platform
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from downslope.rules.muon import Muon
from downslope.rules.orthogonalize import least_operations

_AVX512 = 2.3
"""Multiply-adds a second of AVX-512 BF16 to those of float32, measured on an AMD EPYC: 400 to 175 GFLOP/s for
768 rows, 370 to 150 for 40 matrices of 128."""


class Precision(NamedTuple):
    """A dtype, and where it pays.

    Attributes:
        dtype: what iterations run in; None is the precision of the momenta.
        speed: how many times faster than float32 its products are.

    """

    dtype: torch.dtype | None
    speed: float = math.inf

    def at(self, rule: Muon, shape: tuple[int, int]) -> torch.dtype | None:
        """Return the dtype for matrices of a shape: half precision takes more steps, or steps more costly."""
        if self.dtype is None or self.speed == math.inf:
            return self.dtype
        m, n = sorted(shape)
        half, wide = (
            least_operations(m, n, rule.coefficients, rule.ns_steps, narrow) for narrow in (True, False)
        )
        return self.dtype if half < self.speed * wide else None


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


def precision_on(p: Tensor) -> Precision:
    """Return what to iterate in for a parameter, of its own choice."""
    plain = p.device.type == "cpu" and not torch.cpu._is_amx_tile_supported()
    return Precision(fast_dtype(p), _AVX512 if plain else math.inf)


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
