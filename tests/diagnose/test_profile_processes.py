"""The profile of a step that two processes take together."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from downslope.diagnose.torch.processes import agreed, alone, exchanges
from downslope.torch import Muon, profile
from tests.processes import leave

SLOW = 0.04


def slow(state: Any, bucket: Any) -> Any:
    """Exchange the gradients, 40 ms later."""
    time.sleep(SLOW)
    return allreduce_hook(state, bucket)


slow.__annotations__ = {"bucket": dist.GradBucket}  # torch reads them, and takes no names for types


def work(rank: int, store: str) -> None:
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    torch.set_num_threads(1)
    torch.manual_seed(0)
    layers = nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 1)
    model = DistributedDataParallel(nn.Sequential(*layers))
    model.register_comm_hook(None, slow)
    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(rank))
    optimizer = Muon(model, x, lr=1e-3)
    before = [p.detach().clone() for p in model.parameters()]
    assert exchanges(model)
    # Of themselves they would take unlike numbers of steps, and wait for each other for ever.
    found = profile(
        model, x, optimizer, lambda m, x: m(x).square().mean(), seconds=1.0 + 9 * rank, what_ifs="dtype"
    )
    assert found.name == "Sequential"
    part = {p.name: p for p in found.parts if len(p.path) == 1}
    assert list(part)[:4] == ["data", "forward", "backward", "exchange"]
    assert 0.8 * SLOW <= part["exchange"].milliseconds / 1e3 <= 0.5 * found.milliseconds / 1e3 + SLOW
    assert part["exchange"].share > 2 * part["backward"].share  # of itself a backward pass takes 2 ms
    assert sum(p.share for p in found.parts) == pytest.approx(1.0)
    assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))
    counted: list[Any] = [None, None]
    dist.all_gather_object(counted, found.steps)
    assert counted[0] == counted[1]
    leave()


def test_the_exchange_of_gradients_is_a_part_of_its_own(tmp_path: Path) -> None:
    mp.spawn(work, args=(str(tmp_path / "store"),), nprocs=2)


def test_one_process_exchanges_nothing() -> None:
    model = nn.Linear(2, 2)
    assert not exchanges(model)
    assert agreed(7) == 7
    with alone(model):
        pass
    found = profile(model, torch.ones(1, 2), torch.optim.SGD(model.parameters()), lambda m, x: m(x).sum())
    assert "exchange" not in [p.name for p in found.parts]
