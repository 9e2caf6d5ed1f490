"""How often `downslope compare` finds a worse optimizer to be behind, and equal ones.

    python benchmarks/verdict.py [--draws 1000]

Final values are drawn from normal distributions of standard deviation 1. Of `k` optimizers all but the last
are equal; it is worse by a shift. Beside the rule of `downslope.compare.judge` stands what intervals alone
would say: behind is who has an interval apart from that of the lowest median.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import numpy as np
from rich.console import Console
from rich.table import Table

from downslope.compare.judge import ranks
from downslope.compare.verdict import Estimate, estimate

SEEDS, OPTIMIZERS, SHIFTS = (3, 5, 9), (2, 3, 6), (0.0, 1.0, 2.0)


def by_intervals(estimates: dict[str, Estimate]) -> set[str]:
    """Return who has an interval apart from the best one's."""
    best = min(estimates.values(), key=lambda e: e.median)
    return {
        n for n, e in estimates.items() if e.low is not None and best.high is not None and e.low > best.high
    }


def by_ranks(estimates: dict[str, Estimate]) -> set[str]:
    """Return who is behind by the rule."""
    return {name for name, rank in ranks(estimates).items() if rank > 1}


def shares(seeds: int, k: int, shift: float, draws: int) -> Iterator[float]:
    """Yield by each rule how often the last of k is behind, or without a shift any of them."""
    rng = np.random.default_rng([seeds, k, int(shift)])
    runs = rng.normal(size=(draws, k, seeds))
    runs[:, -1] += shift
    found = [{str(i): e for i, v in enumerate(draw) if (e := estimate(v.tolist()))} for draw in runs]
    for rule in (by_ranks, by_intervals):
        behind = [rule(one) for one in found]
        yield float(np.mean([(str(k - 1) in names) if shift else bool(names) for names in behind]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=1000)
    args = parser.parse_args()
    table = Table(title="Called behind, % (by intervals that lie apart)")
    for head in ("seeds", "optimizers", "of equal ones any", "1 deviation worse", "2 deviations worse"):
        table.add_column(head, justify="right")
    for seeds in SEEDS:
        for k in OPTIMIZERS:
            cells = (shares(seeds, k, shift, args.draws) for shift in SHIFTS)
            table.add_row(str(seeds), str(k), *(f"{100 * a:.0f} ({100 * b:.0f})" for a, b in cells))
    Console().print(table)


if __name__ == "__main__":
    main()
