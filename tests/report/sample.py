"""Results of comparisons as `downslope compare` writes them, made up but consistent, of any size."""

from __future__ import annotations

from typing import Any

import numpy as np

NAMES = ("muon", "adamw", "sgd", "adam", "rmsprop", "adagrad", "nesterov", "amsgrad", "centered", "signum")
LABELS = {"muon": "Muon + AdamW", "adamw": "AdamW", "sgd": "SGD (momentum 0.9)"}


def sample(optimizers: int = 3, seeds: int = 5, points: int = 21, trials: int = 8) -> dict[str, Any]:
    """Return a complete result with so many optimizers, best first."""
    names = NAMES[:optimizers]
    planned = [{"name": n, "space": {"lr": [1e-4, 1.0], "weight_decay": [0.0, 0.01, 0.1]}} for n in names]
    ranked = [_optimizer(name, i, seeds, points, trials) for i, name in enumerate(names)]
    steps = 10 * (points - 1)
    return {
        "schema": 1,
        "command": "downslope compare digits --trials 8 --seeds 5",
        "created": "2026-03-01T09:05:00+00:00",
        "task": {
            "name": "digits",
            "description": "A small ConvNet on handwritten digits",
            "metric": "validation loss (nats)",
            "steps": steps,
            "goal": None,
            "parameters": 101_898,
        },
        "plan": {
            "trials": trials,
            "seeds": list(range(1, seeds + 1)),
            "steps": steps,
            "schedule": "linear",
            "warmup": 20,
            "optimizers": planned,
            "jobs": 2,
            "threads": 1,
        },
        "environment": {
            "downslope": "0.1.0",
            "python": "3.11.7",
            "torch": "2.13.0",
            "cpu": "any",
            "cores": 2,
        },
        "verdict": {
            "sentence": f"{ranked[0]['label']} is best: its loss ends at 0.02 [0.01, 0.03].",
            "winners": [names[0]],
            "tied": False,
            "complete": True,
        },
        "target": {"value": 0.1, "origin": "set in the task"},
        "notes": [],
        "optimizers": ranked,
        "partition": {"optimizer": "muon", "assignments": _assignments(12)},
    }


def _optimizer(name: str, rank: int, seeds: int, points: int, trials: int) -> dict[str, Any]:
    rng = np.random.default_rng(rank)
    steps = 10 * np.arange(points)
    floor = 0.02 * 1.5**rank
    curves = []
    for seed in range(1, seeds + 1):
        noise = rng.normal(scale=0.15, size=points)
        loss = floor + 2.3 * np.exp(-steps / (0.12 * steps[-1]) + noise) * rng.lognormal(sigma=0.1)
        seconds = 0.0127 * steps * (1 + 0.1 * rank) * rng.uniform(0.95, 1.05)
        curves.append(
            {"seed": seed, "steps": steps.tolist(), "seconds": seconds.tolist(), "loss": loss.tolist()}
        )
    finals = [curve["loss"][-1] for curve in curves]
    reached = [
        next((s for s, v in zip(c["steps"], c["loss"], strict=True) if v <= 0.1), None) for c in curves
    ]
    times = [None if r is None else 0.0127 * r for r in reached]
    best = 0.02 * 3.0 ** (rank % 3)
    return {
        "name": name,
        "label": LABELS.get(name, name),
        "rank": rank + 1,
        "best": {"lr": best, "weight_decay": 0.01},
        "final": {
            "median": float(np.median(finals)),
            "low": min(finals),
            "high": max(finals),
            "values": finals,
        },
        "steps_to_target": _to_target(reached),
        "seconds_to_target": _to_target(times),
        "seconds_per_step": 0.0127 * (1 + 0.1 * rank),
        "trials": [_trial(best, lr, floor, i) for i, lr in enumerate(np.geomspace(1e-4, 1.0, trials))],
        "curves": curves,
        "sensitivity": {"low": best / 2, "high": best * 2, "threshold": 1.1 * floor, "at_edge": False},
    }


def _to_target(values: list[Any]) -> dict[str, Any]:
    known = sorted(v for v in values if v is not None)
    half = len(values) // 2
    median = known[half] if len(known) > half else None
    return {"median": median, "reached": len(known), "of": len(values), "values": values}


def _trial(best: float, lr: float, floor: float, i: int) -> dict[str, Any]:
    diverged = bool(lr > 10 * best)
    final = None if diverged else float(floor * (1 + np.log10(lr / best) ** 2))
    decay = (0.0, 0.01, 0.1)[i % 3]
    return {"lr": float(lr), "weight_decay": decay, "final": final, "diverged": diverged, "seconds": 2.5}


def _assignments(layers: int) -> list[dict[str, Any]]:
    rows = [("embed.weight", [1000, 64], "embedding", "adamw", "", "looked up by index")]
    for i in range(layers):
        rows.append(
            (
                f"blocks.{i}.mlp.weight",
                [64, 64],
                "hidden",
                "muon",
                "64×64",
                "linear map between hidden layers",
            )
        )
        rows.append((f"blocks.{i}.norm.weight", [64], "vector", "adamw", "", "one axis: no matrix"))
    rows.append(("head.weight", [10, 64], "output", "adamw", "", "linear map whose result is the output"))
    keys = ("name", "shape", "role", "rule", "matrices", "reason")
    return [dict(zip(keys, row, strict=True), view=None, warning="") for row in rows]
