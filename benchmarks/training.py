"""Whether the polynomials of Muon change what a training reaches.

    python benchmarks/training.py [--task digits] [--seeds 5] [--steps 300] [--ns-dtype bfloat16]

Trains a task with each coefficient set from the same starts on the same batches, and prints the
evaluation at the end: the mean over seeds, and the mean of the differences from "polar_express"
within a seed with its 95 % interval (Student's t).
"""

from __future__ import annotations

import argparse
import itertools
import statistics

import torch
from scipy import stats
from timing import show

import downslope.torch as dt
from downslope.rules.orthogonalize import COEFFICIENT_SETS
from downslope.tasks.load import load


def train(name: str, coefficients: str, seed: int, steps: int, lr: float, ns_dtype: str) -> float:
    """Return the evaluation after training with a rate that falls linearly to 0."""
    task = load(name)
    torch.manual_seed(seed)
    model = task.build(seed)
    batches = iter(task.batches(seed))
    first = next(batches)
    partition = dt.partition(model, first[0] if isinstance(first, tuple | list) else first)
    optimizer = dt.Muon(model, partition=partition, lr=lr, coefficients=coefficients, ns_dtype=ns_dtype)
    for step, batch in enumerate(itertools.islice(itertools.chain([first], batches), steps)):
        for group in optimizer.param_groups:
            group["lr"] = lr * (1 - step / steps)
        optimizer.zero_grad()
        task.loss(model, batch).backward()
        optimizer.step()
    with torch.no_grad():
        return float(task.evaluate(model))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", default="digits")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--lr", type=float, default=1e-2)
    parser.add_argument("--ns-dtype", default="float32", help="what the iterations run in")
    args = parser.parse_args()
    ends = {
        name: [train(args.task, name, seed, args.steps, args.lr, args.ns_dtype) for seed in range(args.seeds)]
        for name in COEFFICIENT_SETS
    }
    rows = []
    for name, found in ends.items():
        differences = [a - b for a, b in zip(found, ends["polar_express"], strict=True)]
        error = statistics.stdev(differences) / len(differences) ** 0.5
        half = stats.t.ppf(0.975, len(differences) - 1) * error
        mean = statistics.mean(differences)
        rows.append([name, f"{statistics.mean(found):.4f}", f"{mean:+.4f} ± {half:.4f}"])
    title = f"{args.task}: {args.steps} steps, lr {args.lr:g}, {args.seeds} seeds, {args.ns_dtype}"
    show(title, ["set", "evaluation", "minus polar_express's"], rows)


if __name__ == "__main__":
    main()
