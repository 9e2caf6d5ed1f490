"""The shapes of what a run folder holds; whoever reads a file there holds it against its shape."""

from __future__ import annotations

from typing import Any

from downslope.compare.optimizers import CANDIDATES
from downslope.shapes import Columns, DamagedError, Exactly, Positive, require

_NAME = frozenset(CANDIDATES)
_MAYBE = (float, None)

RUN = {
    "identity": dict,
    "plan": {
        "task": str,
        "fingerprint": str,
        "candidates": [
            {"name": _NAME, "space": {"lr": Exactly(2, Positive(float)), "weight_decay": [float]}}
        ],
        "trials": int,
        "seeds": [int],
        "tuning_seed": int,
        "steps": int,
        "schedule": str,
        "warmup": int,
        "goal": _MAYBE,
    },
    "command": str,
    "created": str,
    "task": {"name": str, "metric": str, "description?": str, "steps?": int, "parameters?": int},
    "environment": {"device": str},
    "partition": (
        {
            "optimizer": _NAME,
            "assignments": [
                {
                    "name": str,
                    "rule": str,
                    "role": str,
                    "shape": [int],
                    "matrices": str,
                    "reason": str,
                    "warning": str,
                }
            ],
        },
        None,
    ),
    "repeatable?": bool,
    "jobs": Positive(int),
    "threads": Positive(int),
}
"""Of `run.json`, schema 1; the ranges of a plan's numbers are told by `Plan`."""

RECORD = {
    "kind": {"tune", "final"},
    "optimizer": _NAME,
    "index": int,
    "seed": int,
    "lr": Positive(float),
    "weight_decay": float,
    "final": _MAYBE,
    "diverged": bool,
    "steps": int,
    "seconds": float,
    "cpu_seconds": float,
    "seconds_per_step": float,
    "threads": Positive(int),
    "jobs": Positive(int),
    "curve": Columns(steps=[int], seconds=[float], loss=[_MAYBE]),
}
"""Of a line of `trials.jsonl`; a number that is null was infinite."""

GRID = {
    "kind": {"sensitivity"},
    "name": str,
    "metric": str,
    "row": str,
    "column": str,
    "lost": str,
    "short?": str,
    "steps": int,
    "sentence": str,
    "command": str,
    "environment": dict,
    "fields": [
        {
            "name": str,
            "label": str,
            "rows": [float],
            "columns": [float],
            "values": [[_MAYBE]],
            "done": [[bool]],
            "short?": [[bool]],
            "best_row": _MAYBE,
            "best": _MAYBE,
            "row_factor": _MAYBE,
            "column_factor": _MAYBE,
            "room": int,
            "lost": int,
            "cells": int,
        }
    ],
}
"""Of `result.json` where it holds a grid of `--sensitivity`."""


def require_grid(found: Any) -> None:
    """Hold a grid against its shape, and its maps against their rows and columns.

    Raises:
        DamagedError: it does not fit.

    """
    require(found, GRID)
    for i, field in enumerate(found["fields"]):
        for name in {"values", "done", "short"} & field.keys():
            rows, columns = len(field["rows"]), len(field["columns"])
            if [len(row) for row in field[name]] != [columns] * rows:
                raise DamagedError(f"fields[{i}].{name} has not {rows} rows of {columns}")
        if ("short" in field) != ("short" in found):
            raise DamagedError(f"fields[{i}].short and short belong together, and one is missing")
