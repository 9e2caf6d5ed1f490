"""What `Diagnostics` and `watch` cost a training: `python benchmarks/overhead.py [--repeats 7]`.

Each candidate trains the same small transformer for as many steps as the default cadence; the ratio is
the median over interleaved rounds.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from timing import interleaved, medians, ratio, show
from torch import nn

from downslope.diagnose.torch.health import EVERY
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


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--repeats", type=int, default=7)
    repeats = arguments.parse_args().repeats
    candidates = {
        "plain": trainer(lambda model, optimizer: lambda loss: None, EVERY),
        f"Diagnostics, every {EVERY} steps": trainer(
            lambda model, optimizer: Diagnostics(optimizer, on_trouble="collect"), EVERY
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
