"""What `Diagnostics` and `watch` cost a training: `python benchmarks/overhead.py [--repeats 7]`.

Each candidate trains the same small transformer for a hundred steps a round; the ratio is the median
over interleaved rounds. Since a machine's noise is larger than what `Diagnostics` costs, the time spent in
its call and in the optimizer's hook at the default cadence is also measured, as a share of the time from one
record to the next, on models of several sizes (`--own` measures that alone).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from timing import interleaved, medians, ratio, show
from torch import nn

from downslope.diagnose.cadence import EVERY
from downslope.torch import AdamW, Diagnostics, watch


def trainer(dress: Callable[[nn.Module, torch.optim.Optimizer], Callable[[torch.Tensor], None]], steps: int):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(128, 4, 512, dropout=0.0, batch_first=True, norm_first=True)
    model = nn.Sequential(nn.TransformerEncoder(layer, 3, enable_nested_tensor=False), nn.Linear(128, 64))
    optimizer = AdamW(model.parameters(), lr=1e-3)
    x, y = torch.randn(16, 64, 128), torch.randint(64, (16 * 64,))
    look = dress(model, optimizer)

    def run() -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x).flatten(0, 1), y)
            loss.backward()
            look(loss)
            optimizer.step()

    return run


def watched(every: int):
    def dress(model: nn.Module, optimizer: torch.optim.Optimizer) -> Callable[[torch.Tensor], None]:
        watch(model, every=every, on_finding="collect")
        return lambda loss: None

    return dress


class Clocked(Diagnostics):
    """Diagnostics that know how much time they took."""

    spent = 0.0

    def __call__(self, loss: torch.Tensor | float) -> None:
        """See `Diagnostics`."""
        begun = time.perf_counter()
        super().__call__(loss)
        self.spent += time.perf_counter() - begun

    def _stepped(self, *args: Any) -> None:
        begun = time.perf_counter()
        super()._stepped(*args)
        self.spent += time.perf_counter() - begun


WARM_UP = 3
"""Records that are not counted: the interval finds its length."""


def own_share(model: nn.Module, x: torch.Tensor, repeats: int) -> tuple[list[float], list[int]]:
    """Return the share of the time that Diagnostics took from one record to the next, and the steps."""
    optimizer = AdamW(model.parameters(), lr=1e-4)
    diagnostics, shares = Clocked(optimizer, on_trouble="collect"), []
    begun, records = time.perf_counter(), diagnostics.records
    while len(records) < WARM_UP + repeats:
        known = len(records)
        optimizer.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        diagnostics(loss)
        optimizer.step()
        if len(records) > known:
            now = time.perf_counter()
            shares.append(diagnostics.spent / (now - begun))
            begun, diagnostics.spent = now, 0.0
    steps = [b.step - a.step for a, b in pairwise(records)]
    return shares[WARM_UP:], steps[WARM_UP - 1 :]


def own_shares(repeats: int) -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(128, 4, 512, dropout=0.0, batch_first=True, norm_first=True)
    subjects = {
        "MLP 8-64-64-1, batch 32": (
            nn.Sequential(nn.Linear(8, 64), nn.GELU(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 1)),
            torch.randn(32, 8),
        ),
        "MLP 512-512-512-1, batch 128": (
            nn.Sequential(nn.Linear(512, 512), nn.GELU(), nn.Linear(512, 512), nn.GELU(), nn.Linear(512, 1)),
            torch.randn(128, 512),
        ),
        "transformer, 3 layers of 128": (
            nn.TransformerEncoder(layer, 3, enable_nested_tensor=False),
            torch.randn(16, 64, 128),
        ),
    }
    rows = []
    for name, (model, x) in subjects.items():
        shares, steps = own_share(model, x, repeats)
        middle, low, high = statistics.median(shares), min(shares), max(shares)
        apart = f"{min(steps)} – {max(steps)}"
        rows.append([name, f"{100 * middle:.2f} %", f"{100 * low:.2f} – {100 * high:.2f} %", apart])
    title = f"Diagnostics' own share of a training, from record to record, {repeats} of them"
    show(title, ["", "median", "lowest – highest", "steps apart"], rows)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--repeats", type=int, default=7)
    arguments.add_argument("--own", action="store_true")
    args = arguments.parse_args()
    repeats = args.repeats
    own_shares(repeats)
    if args.own:
        return
    candidates = {
        "plain": trainer(lambda model, optimizer: lambda loss: None, EVERY),
        f"Diagnostics, every {EVERY} steps": trainer(
            lambda model, optimizer: Diagnostics(optimizer, every=EVERY, on_trouble="collect"), EVERY
        ),
        f"watch, every {EVERY} passes": trainer(watched(EVERY), EVERY),
        "watch, every pass": trainer(watched(1), EVERY),
    }
    seconds = interleaved(candidates, repeats)
    middle = medians(seconds)
    rows = [
        [name, f"{1e3 * middle[name] / EVERY:.2f}", f"{100 * (1 / ratio(seconds, name, 'plain') - 1):+.1f} %"]
        for name in candidates
    ]
    show(f"A training step, medians of {repeats} rounds of {EVERY}", ["", "ms a step", "overhead"], rows)


if __name__ == "__main__":
    main()
