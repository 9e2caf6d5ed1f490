"""How often a learning-rate search is off by more than a factor 2, where one training differs from the next.

    python benchmarks/lr_simulated.py [--searches 400] [--noise 1.0]

Trainings are drawn about the ends of SGD on `text` in `benchmarks/lr.py`, by their length: single ones differ
by 3.3 % at 300 steps, by 1.5 and 1 % at 75 and 38, and those of one seed share 2 % more; beyond 0.16, where
some fail, up to 9 % come on top. `--noise` multiplies all that. The search is that of `downslope lr`, which
takes no notice that nothing is trained.

A search is off where it ends more than a factor 2 from the minimum of a parabola through the medians (0.070),
or from 0.10, between that and the lowest of them.
"""

from __future__ import annotations

import argparse
import math

import numpy as np
from rich.console import Console
from rich.table import Table

from downslope.diagnose.rates import search
from downslope.diagnose.rungs import seeds_of
from downslope.diagnose.valley import Outcome

STEPS, START, CLIFF = 300, 5.55, 0.4
ENDS = {
    300: {
        0.0078: 2.75,
        0.0156: 2.55,
        0.031: 2.41,
        0.062: 2.31,
        0.088: 2.30,
        0.125: 2.25,
        0.18: 2.36,
        0.25: 2.81,
    },
    75: {0.0048: 3.45, 0.0097: 3.30, 0.0193: 3.15, 0.0386: 3.07, 0.077: 3.11, 0.155: 3.30, 0.25: 3.38},
    38: {
        0.0012: 4.57,
        0.0024: 4.12,
        0.0048: 3.73,
        0.0097: 3.49,
        0.0193: 3.34,
        0.0386: 3.27,
        0.077: 3.28,
        0.155: 3.38,
    },
}
"""Medians by length and rate."""

NOISE = {300: 0.033, 75: 0.015, 38: 0.01}
BEST = (0.070, 0.10)


class Simulated:
    """Trainings that are drawn."""

    def __init__(self, seed: int, noise: float) -> None:
        self.random = np.random.default_rng(seed)
        self.noise = noise
        self.of_seed: dict[tuple[int, int], float] = {}

    def sweep(self, low: float, high: float, steps: int, seed: int) -> list[float]:
        """Return losses that fall fastest about 0.06, and explode."""
        centre = 0.06 * math.exp(0.5 * self.random.normal())
        scales = [low * (high / low) ** (i / (steps - 1)) for i in range(steps)]
        return [START - 2 / (1 + (centre / s) ** 2) for s in scales if s < 8 * centre]

    def run(self, scale: float, seed: int, steps: int) -> Outcome:
        """Return how a training ends."""
        ends = ENDS[steps]
        if scale > CLIFF:
            return Outcome(math.inf, START)
        end = float(np.interp(math.log(scale), np.log(list(ends)), np.log(list(ends.values()))))
        shared = self.of_seed.setdefault((seed, steps), 0.02 * self.random.normal())
        further = 0.09 * min(1.0, max(0.0, scale - 0.16) / 0.06) if steps == STEPS else 0.0
        drawn = shared + NOISE[steps] * self.random.normal() + further * self.random.normal()
        return Outcome(math.exp(end + self.noise * drawn), START)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--searches", type=int, default=400)
    parser.add_argument("--noise", type=float, default=1.0)
    args = parser.parse_args()
    table = Table(title=f"Of {args.searches} searches")
    for head in (
        "seeds of whole trainings",
        *(f"off by more than 2 of {b:.2g}, %" for b in BEST),
        "median",
        "cost",
    ):
        table.add_column(head, justify="right")
    for whole in (1, 2, 3):
        found = [
            search(Simulated(i, args.noise), name="", label="", steps=STEPS, seeds=seeds_of(0, 2, whole))
            for i in range(args.searches)
        ]
        values = np.array([f.value for f in found], dtype=float)
        off = [np.mean(np.abs(np.log2(values / best)) > 1) for best in BEST]
        cost = np.mean([f.cost for f in found]) / STEPS
        table.add_row(str(whole), *(f"{100 * o:.1f}" for o in off), f"{np.median(values):.2g}", f"{cost:.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
