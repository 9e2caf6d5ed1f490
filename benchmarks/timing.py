"""Fair timing on a noisy machine: interleaved repeats, medians, ratios within one run."""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table


def interleaved(
    candidates: Mapping[str, Callable[[], object]],
    repeats: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Return the seconds of each call by a clock, the candidates taking turns after one untimed round."""
    for call in candidates.values():
        call()
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(repeats):
        for name, call in candidates.items():
            start = clock()
            call()
            seconds[name].append(clock() - start)
    return seconds


def medians(seconds: Mapping[str, list[float]]) -> dict[str, float]:
    """Return the median of each candidate's seconds."""
    return {name: statistics.median(values) for name, values in seconds.items()}


def ratio(seconds: Mapping[str, list[float]], name: str, base: str) -> float:
    """Return the median, over rounds, of a candidate's time against another's in the same round."""
    return statistics.median(b / a for a, b in zip(seconds[name], seconds[base], strict=True))


def bandwidth() -> float:
    """Return bytes a second that this machine reads and writes in an in-place addition of large arrays."""
    import torch

    a, b = torch.ones(1 << 25), torch.ones(1 << 25)
    seconds = medians(interleaved({"add": lambda: a.add_(b)}, 9))["add"]
    return 3 * 4 * a.numel() / seconds


def show(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """Print a table."""
    table = Table(title=title, title_justify="left")
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right")
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def machine() -> dict[str, Any]:
    """Return what the figures were taken on."""
    import torch

    return {"machine": platform.machine(), "threads": torch.get_num_threads(), "torch": torch.__version__}


def dump(path: str, results: dict[str, Any]) -> None:
    """Write results as JSON."""
    with open(path, "w") as file:
        json.dump({**machine(), **results}, file, indent=1)
