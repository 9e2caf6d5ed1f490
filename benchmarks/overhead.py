"""What `Diagnostics` and `watch` cost a training: `python benchmarks/overhead.py [--repeats 7]`.

Each candidate trains the same small transformer for a hundred steps a round; the ratio is the median
over interleaved rounds. Since a machine's noise is larger than what `Diagnostics` costs, the time spent in
its call and in the optimizer's hook at the default cadence is also measured, as a share of a whole training
from its first step on and of the time from one record to the next, on models of several sizes (`--own`
measures that alone).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

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


class Share(NamedTuple):
    """What Diagnostics took of a training: from each record to the next, and of all of it up to each."""

    each: list[float]
    total: list[float]
    records: int
    apart: list[int]


def own_share(model: nn.Module, x: torch.Tensor, seconds: float) -> Share:
    """Train for so long, from the first step on, and return the shares of the time that Diagnostics took."""
    optimizer = AdamW(model.parameters(), lr=1e-4)
    diagnostics, each, total = Clocked(optimizer, on_trouble="collect"), [], []
    records, start = diagnostics.records, time.perf_counter()
    begun, spent = start, 0.0
    while time.perf_counter() - start < seconds:
        known = len(records)
        optimizer.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        diagnostics(loss)
        optimizer.step()
        if len(records) > known:
            now = time.perf_counter()
            each.append((diagnostics.spent - spent) / (now - begun))
            total.append(diagnostics.spent / (now - start))
            begun, spent = now, diagnostics.spent
    total.append(diagnostics.spent / (time.perf_counter() - start))
    return Share(each, total, len(records), [b.step - a.step for a, b in pairwise(records)])


def own_shares(seconds: float) -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(128, 4, 512, dropout=0.0, batch_first=True, norm_first=True)
    subjects = {
        "MLP 8-64-64-1": (
            nn.Sequential(nn.Linear(8, 64), nn.GELU(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 1)),
            torch.randn(32, 8),
        ),
        "MLP 512-512-512-1": (
            nn.Sequential(nn.Linear(512, 512), nn.GELU(), nn.Linear(512, 512), nn.GELU(), nn.Linear(512, 1)),
            torch.randn(128, 512),
        ),
        "transformer": (
            nn.TransformerEncoder(layer, 3, enable_nested_tensor=False),
            torch.randn(16, 64, 128),
        ),
    }
    rows = []
    for name, (model, x) in subjects.items():
        share = own_share(model, x, seconds)
        later = share.total[len(share.total) // 2 :]
        apart = f"{min(share.apart)} – {max(share.apart)}" if share.apart else "–"
        rows.append(
            [
                name,
                f"{100 * share.total[-1]:.2f} %",
                f"{100 * max(later):.2f} %",
                f"{100 * statistics.median(share.each):.2f} %" if share.each else "–",
                f"{share.records}",
                apart,
            ]
        )
    title = f"Diagnostics' own share of a training of {seconds:g} s, from its first step on"
    head = ["", "of all", "2nd half", "interval", "records", "apart"]
    show(title, head, rows)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--repeats", type=int, default=7)
    arguments.add_argument("--own", action="store_true", help="only what Diagnostics itself takes")
    arguments.add_argument("--seconds", type=float, default=30.0, help="of each training of that part")
    args = arguments.parse_args()
    repeats = args.repeats
    own_shares(args.seconds)
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
