"""What the iterations of an orthogonalisation run in."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from downslope.native.polar import is_intel


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
    return torch.cpu._is_avx512_bf16_supported() and not is_intel()
