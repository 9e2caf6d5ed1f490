"""Learning-rate searches against the best rate of a grid: how far off, how often, at what cost.

    python benchmarks/lr.py digits [--optimizers sgd,adamw,muon] [--repeats 5] [--steps N]
        [--width N] [--grid-seeds 7] [--first-seed 0] [--whole-seeds 1] [--optuna]

The grid is 13 rates, a factor 2 apart, full trainings with the schedule of `downslope compare`. All of
them run on a first seed; those that keep at least 85 % of the best one's descent run on the other seeds too.
Its best rate is the minimum of a parabola through the logarithms of the medians, over the lowest and two
neighbours on each side: a single lowest median of a flat valley is chance. Both are shown, and the 90 %
interval of the minimum over resampled seeds. Costs are told as shares of 13 rates on 3 seeds, whatever
was run. Against it, on other seeds:

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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from timing import dump, show

from downslope.compare.optimizers import CANDIDATES
from downslope.compare.torch.trainer import TorchTrainer
from downslope.diagnose.torch.rates import TaskBench, of_task, schedule_of
from downslope.tasks import Task, load

GRID = {"sgd": (2**-9, 13), "adamw": (2**-13, 13), "muon": (2**-12, 13)}
GRID_SEED = 100
COST_SEEDS = 3
"""Seeds of the grid that costs are compared with: fewer than it has, so that the comparison is hard."""


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


def outcome(task: Task, name: str, lr: float, seed: int, steps: int, kept: Kept) -> tuple[float, float]:
    """Return what a full training ends with (infinite where it diverged), and what it began with."""
    bench = TaskBench(task, CANDIDATES[name], 0.0, schedule_of("linear", 0.1))
    value, start = kept.get(
        ["training", task.name, name, lr, seed, steps],
        lambda: [v if math.isfinite(v) else None for v in bench.run(lr, seed, steps)],
    )
    return (math.inf if value is None else value), start


@dataclass
class Grid:
    """Rates with their medians, which of them ran on every seed, and every seed's ends of those."""

    curve: dict[float, float]
    full: list[float]
    ends: NDArray[np.float64]
    """(seeds, rates in `full`)"""

    @property
    def lowest(self) -> float:
        """The rate with the lowest median."""
        return min(self.full, key=lambda lr: self.curve[lr])

    @property
    def best(self) -> float:
        """The minimum of the parabola."""
        return valley_floor(self.full, np.median(self.ends, axis=0))

    def interval(self) -> tuple[float, float]:
        """Return the 90 % interval of `best` over resampled seeds."""
        r = np.random.default_rng(0)
        count = len(self.ends)
        drawn = [
            valley_floor(self.full, np.median(self.ends[r.integers(count, size=count)], axis=0))
            for _ in range(1000)
        ]
        low, high = np.quantile(drawn, (0.05, 0.95))
        return float(low), float(high)


def valley_floor(rates: list[float], medians: NDArray[np.float64]) -> float:
    """Return the minimum of a parabola, in the logarithms, through the lowest and two on each side of it."""
    at = int(np.argmin(medians))
    near = [i for i in range(max(0, at - 2), min(len(rates), at + 3)) if math.isfinite(medians[i])]
    if len(near) < 3:
        return rates[at]
    x = np.log([rates[i] for i in near])
    bend, slope, _ = np.polyfit(x - x.mean(), np.log(medians[near]), 2)
    if bend <= 0:
        return rates[at]
    return float(np.exp(np.clip(x.mean() - slope / (2 * bend), x[0], x[-1])))


KEPT_DESCENT = 0.85


def grid(task: Task, name: str, steps: int, seeds: int, kept: Kept) -> Grid:
    low, count = GRID[name]
    rates = [low * 2**i for i in range(count)]
    first = {lr: outcome(task, name, lr, GRID_SEED, steps, kept) for lr in rates}
    lowest = min(end for end, _ in first.values())
    full = [lr for lr, (end, start) in first.items() if start - end >= KEPT_DESCENT * (start - lowest)]
    ends = np.array(
        [
            [outcome(task, name, lr, seed, steps, kept)[0] for lr in full]
            for seed in range(GRID_SEED, GRID_SEED + seeds)
        ]
    )
    curve = {lr: end for lr, (end, _) in first.items()}
    curve |= dict(zip(full, map(float, np.median(ends, axis=0)), strict=True))
    return Grid(curve, full, ends)


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
        return min(1e9, outcome(task, name, lr, seed, steps, kept)[0])

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
    parser.add_argument("--first-seed", type=int, default=0, help="of the searches; 50 gives five others")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--width", type=int, help="of the task's model")
    parser.add_argument("--grid-seeds", type=int, default=7)
    parser.add_argument("--whole-seeds", type=int, default=1, help="of whole trainings in ours")
    parser.add_argument("--optuna", action="store_true")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--cache", default="lr-benchmark.jsonl")
    parser.add_argument("--json")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    task, kept, results = load(args.task), Kept(args.cache), {}
    if args.width:
        task = task.at_width(args.width)
    steps = args.steps or task.steps
    for name in args.optimizers.split(","):
        found: dict[str, list[tuple[float, float]]] = {"ours": [], "steepest": [], "valley": []}
        for seed in range(args.first_seed, args.first_seed + 10 * args.repeats, 10):
            lr, cost = kept.get(
                ["ours", task.name, name, seed, steps, *([args.whole_seeds] if args.whole_seeds > 1 else [])],
                lambda name=name, seed=seed: (lambda r: (r.value, r.cost / steps))(
                    of_task(task, CANDIDATES[name], steps=steps, seed=seed, whole_seeds=args.whole_seeds)
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
        known = grid(task, name, steps, args.grid_seeds, kept)
        curve, best = known.curve, known.best
        rows = []
        for method, pairs in found.items():
            off = [max(lr / best, best / lr) for lr, _ in pairs]
            excess = [loss_at(curve, lr) / curve[known.lowest] - 1 for lr, _ in pairs]
            share = statistics.median(cost for _, cost in pairs) / (len(curve) * COST_SEEDS)
            rates = ", ".join(f"{lr:.2g}" for lr, _ in pairs)
            within = sum(o <= 2 for o in off)
            strict = sum(max(lr / known.lowest, known.lowest / lr) <= 2 for lr, _ in pairs)
            rows.append(
                [
                    method,
                    rates,
                    f"{max(off):.1f}",
                    f"{within}/{len(off)}",
                    f"{strict}/{len(off)}",
                    f"{max(excess):+.0%}",
                    f"{share:.1%}",
                ]
            )
            results[f"{task.name}/{name}/{method}"] = {
                "rates": [lr for lr, _ in pairs],
                "off": off,
                "share": share,
            }
        low, high = known.interval()
        results[f"{task.name}/{name}/grid"] = {
            "medians": curve,
            "on_every_seed": known.full,
            "seeds": args.grid_seeds,
            "best": best,
            "interval": [low, high],
            "lowest": known.lowest,
        }
        title = (
            f"{task.name}, {name}, {steps} steps: the grid's best is {best:.2g} ({low:.2g} to {high:.2g}); "
        )
        title += f"its lowest median at {known.lowest:.2g} ({curve[known.lowest]:.3f})"
        head = [
            "method",
            "rates",
            "worst factor",
            "within 2",
            "of the lowest",
            "worst loss",
            "of the grid's cost",
        ]
        show(title, head, rows)
    if args.json:
        dump(args.json, results)


if __name__ == "__main__":
    main()
