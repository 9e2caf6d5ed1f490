"""Steps that several processes take together: the same number in each, with and without their exchange."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel


def exchanges(model: nn.Module) -> bool:
    """Whether the backward pass averages the gradients over processes (DistributedDataParallel)."""
    return isinstance(model, DistributedDataParallel) and dist.get_world_size(model.process_group) > 1


def alone(model: nn.Module) -> AbstractContextManager[Any]:
    """Return the context in which the model's gradients stay each process's own."""
    return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()


def agreed(number: int) -> int:
    """Return the number that the first process has: who takes more steps than the others waits for ever."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return number
    said = [number]
    dist.broadcast_object_list(said, src=0)
    return said[0]
