"""The scoreboard of grouping on the Keras zoo of `tests/keras`: Downslope, and Keras's own rule.

Run by `benchmarks/grouping.py`. Keras's answer is that of the installed `keras.optimizers.Muon`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
sys.path.insert(0, str(Path(__file__).parent.parent))

import keras
from scoring import Score

from downslope.grouping.partition import Role
from downslope.keras import partition
from tests.keras.zoo import ZOO


def score() -> Score:
    total, theirs = Score(), keras.optimizers.Muon()
    for z in ZOO:
        model, *args = z.build()
        begun = time.perf_counter()
        found = [a for a in partition(model, *args) if a.role is not Role.FROZEN]
        total.seconds += time.perf_counter() - begun
        variables = {v.path: v for v in model.trainable_variables}
        cut = len(model.name) + 1 if all(a.name.startswith(f"{model.name}/") for a in found) else 0
        muon = {a.name for a in found if Role(z.label(a.name[cut:], a.shape)).rule == "muon"}
        answers = {
            "Downslope": {a.name for a in found if a.rule == "muon"},
            "Keras": {n for n, v in variables.items() if not theirs._should_use_adamw(v)},
        }
        total.enter(z.name, {a.name: a.shape for a in found}, muon, answers)
    return total


if __name__ == "__main__":
    found = score()
    print(json.dumps({**found.to_dict(), "wrong": found.wrong}))
