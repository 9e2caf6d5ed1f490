"""What processes that hold the same parameters gain by sharing Muon's work, as under DDP.

    python benchmarks/replicas.py [--processes 2] [--repeats 9] [--json FILE]

Each process has one thread and all parameters. A step in which each orthogonalises its share and sends it to
the others takes turns with one in which each does all; the slowest process of a round counts.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from step_time import our_muon
from timing import dump, medians, ratio, show

SHAPES = ("gpt2-4-hidden", "conv-126", "experts-8")


def work(rank: int, processes: int, repeats: int, store: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}/store", rank=rank, world_size=processes)
    torch.set_num_threads(1)
    found: dict[str, dict[str, list[float]]] = {}
    for name in SHAPES:
        steps = {
            "each does all": our_muon(name, replicas=False).step,
            "shared": our_muon(name, replicas=dist.group.WORLD).step,
        }
        found[name] = {how: [] for how in steps}
        for round_ in range(repeats + 2):
            for how, step in steps.items():
                dist.barrier()
                begun = time.perf_counter()
                step()
                seconds = torch.tensor(time.perf_counter() - begun)
                dist.all_reduce(seconds, op=dist.ReduceOp.MAX)
                if round_ > 1:
                    found[name][how].append(float(seconds))
    if rank == 0:
        torch.save(found, os.path.join(store, "found.pt"))
    dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as store:
        mp.spawn(work, args=(args.processes, args.repeats, store), nprocs=args.processes)
        found: dict[str, Any] = torch.load(os.path.join(store, "found.pt"))
    rows = []
    for name, seconds in found.items():
        middle = medians(seconds)
        alone, shared = (f"{1e3 * middle[how]:.0f}" for how in ("each does all", "shared"))
        rows.append([name, alone, shared, f"{ratio(seconds, 'shared', 'each does all'):.2f}"])
    title = f"a step of Muon in each of {args.processes} processes, one thread each"
    show(title, ["parameters", "each does all, ms", "shared, ms", "times faster"], rows)
    if args.json:
        dump(args.json, found)


if __name__ == "__main__":
    main()
