"""Triton kernels of Muon's step, and on which devices they run.

Each kernel does what lines of plain PyTorch do elsewhere in this package, and is held to them by a
test in Triton's interpreter, which runs on a CPU. Triton is imported only where its kernels run.
"""

from __future__ import annotations

import os
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from downslope.torch.kernels.ops import KernelOps


def interpreted() -> bool:
    """Whether Triton runs kernels in its interpreter, as tests on a CPU ask for."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def available(device: torch.device) -> bool:
    """Whether the kernels run on this device; `reason` says why not."""
    return not reason(device)


@cache
def reason(device: torch.device) -> str:
    """Return why the kernels do not run on this device, "" where they do.

    They need Triton, and an NVIDIA GPU of compute capability 8.0 (Ampere) or an AMD Instinct with
    matrix cores: these multiply bfloat16 fast, which Triton's products are compiled to.
    """
    if device.type != "cuda":
        return f"no Triton kernels on {device.type}"
    if find_spec("triton") is None:
        return "no Triton kernels: pip install triton"
    properties = torch.cuda.get_device_properties(device)
    if torch.version.hip is not None:
        name = properties.gcnArchName.partition(":")[0]
        return "" if name.startswith("gfx9") and name >= "gfx908" else f"no Triton kernels on {name}"
    capability = (properties.major, properties.minor)
    return "" if capability >= (8, 0) else f"no Triton kernels below compute capability 8.0 ({capability})"


@cache
def ops_on(device: torch.device) -> KernelOps:
    """Return the operations whose symmetric products are Triton kernels, for a device that has them."""
    from downslope.torch.kernels.ops import KernelOps

    return KernelOps(torch.cuda.get_device_properties(device).multi_processor_count)
