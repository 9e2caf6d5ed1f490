"""Parameters spread over processes: a DTensor on two of gloo."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.tensor import DTensor, Shard, distribute_tensor, init_device_mesh

import downslope as ds
from tests.processes import leave


def work(rank: int, store: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))

    def spread(a: torch.Tensor) -> Any:
        return distribute_tensor(a, mesh, [Shard(0)])

    w = spread(torch.linspace(1, 50, 400, dtype=torch.float64))
    x0 = spread(torch.ones(400, dtype=torch.float64))
    for method in ("l-bfgs", "newton-cg"):
        result = ds.minimize(lambda x: (w * torch.cosh(x - 0.3)).sum(), x0, method=method)
        assert result.success, result.message
        assert isinstance(result.x, DTensor)
        assert result.x.placements == (Shard(0),)
        assert float((result.x.full_tensor() - 0.3).abs().max()) < 1e-4
    leave()


def test_sharded_parameters_stay_sharded(tmp_path: Path) -> None:
    mp.spawn(work, args=(str(tmp_path / "store"),), nprocs=2)
