"""Learning-rate searches against the best rate of a grid: how far off, how often, at what cost.

    python benchmarks/lr.py digits [--optimizers sgd,adamw,muon] [--repeats 5] [--steps N]
        [--grid-seeds 3] [--grid-every 1] [--optuna]

The grid is 13 rates, a factor 2 apart, on some seeds each, full trainings with the schedule of
`downslope compare`; its best is the rate with the lowest median. Against it, on other seeds:

* ours: `downslope lr`;
* steepest and valley: what Lightning's `lr_find` and fastai's suggest, restated from their
  documentation: 100 steps, from 1e-8 to 1 and from 1e-7 to 10, the loss smoothed with 0.98, ended at 4
  times its lowest; the steepest point of it, or a point half down its longest valley;
* Optuna (TPE, with --optuna): as many full trainings as ours took the time of, the best one's rate.

Runs are kept in --cache, so that an interrupted benchmark goes on.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timing import dump, show

from downslope.compare.optimizers import CANDIDATES
from downslope.compare.torch.trainer import TorchTrainer
from downslope.diagnose.torch.rates import TaskBench, of_task, schedule_of
from downslope.tasks import Task, load

GRID = {"sgd": (2**-9, 13), "adamw": (2**-13, 13), "muon": (2**-12, 13)}
GRID_SEED = 100


class Kept:
    """Results by key, one a line of a file."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        self.known: dict[str, Any] = dict(json.loads(line) for line in lines)

    def get(self, key: list[Any], make: Any) -> Any:
        """Return the result of a key, made where it is not known yet."""
        name = json.dumps(key)
        if name not in self.known:
            self.known[name] = make()
            with self.path.open("a") as file:
                file.write(json.dumps([name, self.known[name]]) + "\n")
        return self.known[name]


def final(task: Task, name: str, lr: float, seed: int, steps: int, kept: Kept) -> float:
    bench = TaskBench(task, CANDIDATES[name], 0.0, schedule_of("linear", 0.1))
    value = kept.get(
        ["run", task.name, name, lr, seed, steps],
        lambda: v if math.isfinite(v := bench.run(lr, seed, steps).final) else None,
    )
    return math.inf if value is None else value


def grid(task: Task, name: str, steps: int, seeds: int, every: int, kept: Kept) -> dict[float, float]:
    low, count = GRID[name]
    rates = [low * 2**i for i in range(0, count, every)]
    return {
        lr: statistics.median(
            final(task, name, lr, seed, steps, kept) for seed in range(GRID_SEED, GRID_SEED + seeds)
        )
        for lr in rates
    }


def range_test(task: Task, name: str, seed: int, low: float, high: float) -> tuple[list[float], list[float]]:
    """Return rates and smoothed losses of the range test of Smith (2017), as Lightning describes it."""
    trainer = TorchTrainer(task, CANDIDATES[name], seed, 1.0, 0.0)
    rates, losses, mean, best = [], [], 0.0, math.inf
    for i in range(100):
        lr = low * (high / low) ** (i / 99)
        loss = trainer.step(lr)
        if not math.isfinite(loss):
            break
        mean = 0.98 * mean + 0.02 * loss
        smooth = mean / (1 - 0.98 ** (i + 1))
        rates.append(lr)
        losses.append(smooth)
        if i > 1 and smooth > 4 * best:
            break
        best = min(best, smooth)
    return rates, losses


def steepest(rates: list[float], losses: list[float]) -> float:
    """Return the rate at the steepest descent, the first 10 points and the last left out."""
    return rates[10 + int(np.argmin(np.gradient(np.array(losses[10:-1]))))]


def valley(rates: list[float], losses: list[float]) -> float:
    """Return the rate half down the longest falling subsequence, the first tenth and the last 5 left out."""
    rates, losses = rates[10:-5], losses[10:-5]
    length = [1] * len(losses)
    for i in range(len(losses)):
        for j in range(i):
            if losses[j] > losses[i]:
                length[i] = max(length[i], length[j] + 1)
    end = int(np.argmax(length))
    start = max(0, end - length[end])
    third = (end - start) / 3
    return rates[start + int(third) + int(third / 2)]


def optuna_best(task: Task, name: str, seed: int, steps: int, trials: int, kept: Kept) -> float:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    low, count = GRID[name]
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))

    def objective(trial: Any) -> float:
        lr = trial.suggest_float("lr", low, low * 2 ** (count - 1), log=True)
        return min(1e9, final(task, name, lr, seed, steps, kept))

    study.optimize(objective, n_trials=trials)
    return float(study.best_params["lr"])


def loss_at(curve: dict[float, float], lr: float) -> float:
    """Return the grid's median at a rate, interpolated in the logarithms; infinite outside of it."""
    finite = {r: v for r, v in curve.items() if math.isfinite(v)}
    if not min(finite) <= lr <= max(finite):
        return math.inf
    return float(np.exp(np.interp(math.log(lr), np.log(list(finite)), np.log(list(finite.values())))))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("task")
    parser.add_argument("--optimizers", default="sgd,adamw,muon")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--grid-seeds", type=int, default=3)
    parser.add_argument("--grid-every", type=int, default=1, help="2 takes every second rate of the grid")
    parser.add_argument("--optuna", action="store_true")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--cache", default="lr-benchmark.jsonl")
    parser.add_argument("--json")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    task, kept, results = load(args.task), Kept(args.cache), {}
    steps = args.steps or task.steps
    for name in args.optimizers.split(","):
        found: dict[str, list[tuple[float, float]]] = {"ours": [], "steepest": [], "valley": []}
        for seed in range(0, 10 * args.repeats, 10):
            lr, cost = kept.get(
                ["ours", task.name, name, seed, steps],
                lambda name=name, seed=seed: (lambda r: (r.value, r.cost / steps))(
                    of_task(task, CANDIDATES[name], steps=steps, seed=seed)
                ),
            )
            found["ours"].append((lr, cost))
            for method, pick, low, high in (
                ("steepest", steepest, 1e-8, 1.0),
                ("valley", valley, 1e-7, 10.0),
            ):
                sweep = kept.get(
                    ["sweep", task.name, name, seed, low, high],
                    lambda name=name, seed=seed, low=low, high=high: range_test(task, name, seed, low, high),
                )
                found[method].append((pick(*sweep), 100 / steps))
            if args.optuna:
                trials = round(cost)
                lr = optuna_best(task, name, seed, steps, trials, kept)
                found.setdefault("optuna", []).append((lr, trials))
        curve = grid(task, name, steps, args.grid_seeds, args.grid_every, kept)
        best = min(curve, key=lambda lr: curve[lr])
        rows = []
        for method, pairs in found.items():
            off = [max(lr / best, best / lr) for lr, _ in pairs]
            excess = [loss_at(curve, lr) / curve[best] - 1 for lr, _ in pairs]
            share = statistics.median(cost for _, cost in pairs) / (len(curve) * args.grid_seeds)
            rates = ", ".join(f"{lr:.2g}" for lr, _ in pairs)
            within = sum(o <= 2 for o in off)
            rows.append(
                [
                    method,
                    rates,
                    f"{max(off):.1f}",
                    f"{within}/{len(off)}",
                    f"{max(excess):+.0%}",
                    f"{share:.1%}",
                ]
            )
            results[f"{task.name}/{name}/{method}"] = {
                "rates": [lr for lr, _ in pairs],
                "off": off,
                "share": share,
            }
        near = ", ".join(f"{lr:.2g}" for lr in curve if curve[lr] <= 1.05 * curve[best])
        title = f"{task.name}, {name}, {steps} steps: the grid's best is {best:.2g} ({curve[best]:.3f}); "
        title += f"within 5 %: {near}"
        show(title, ["method", "rates", "worst factor", "within 2", "worst loss", "of the grid's cost"], rows)
    if args.json:
        dump(args.json, results)


if __name__ == "__main__":
    main()
