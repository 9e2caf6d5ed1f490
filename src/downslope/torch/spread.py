"""Tensors that are spread over processes (`DTensor`): what this process has of them.

An element-wise rule needs nothing of the other processes: it steps the local parts. `exchange` is for those
rules that need whole matrices.
"""

from __future__ import annotations

from collections.abc import Iterable
from zlib import crc32

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor


def local(t: Tensor) -> Tensor:
    """Return what this process has of a tensor, in the same memory: all of one that is not spread."""
    return t.to_local() if isinstance(t, DTensor) else t


def gradient_of(p: Tensor, g: Tensor) -> Tensor:
    """Return the part of a gradient that goes with this process's part of the parameter.

    Raises:
        ValueError: one of the two is spread over processes, the other is not.

    """
    if isinstance(p, DTensor) != isinstance(g, DTensor):
        which, other = ("parameter", "gradient") if isinstance(p, DTensor) else ("gradient", "parameter")
        raise ValueError(
            f"a {which} of shape {tuple(p.shape)} is spread over processes and its {other} is not: expected "
            "both as DTensors, as fully_shard, parallelize_module and distribute_tensor leave them"
        )
    if isinstance(p, DTensor) and isinstance(g, DTensor) and g.placements != p.placements:
        g = g.redistribute(p.device_mesh, p.placements)
    return local(g)


def groups_of(params: Iterable[Tensor]) -> list[dist.ProcessGroup]:
    """Return the groups of processes that parameters are spread over: of each mesh one for each axis."""
    meshes = dict.fromkeys(p.device_mesh for p in params if isinstance(p, DTensor))
    return [mesh.get_group(axis) for mesh in meshes for axis in range(mesh.ndim)]


def most(number: Tensor, groups: Iterable[dist.ProcessGroup]) -> Tensor:
    """Return the largest of whole numbers, each of any process of the groups."""
    found = number.to(torch.int32)
    for group in groups:
        dist.all_reduce(found, op=dist.ReduceOp.MAX, group=group)
    return found


def agree(about: bytes, group: dist.ProcessGroup) -> bool:
    """Whether all processes of a group, which ask together, say the same."""
    seen = crc32(about) >> 1  # of 31 bits, so that it may be negated
    largest, least = most(torch.tensor([seen, -seen]), [group]).tolist()
    return bool(largest == -least)
