"""The scoreboard of grouping on the Flax and Equinox zoo of `tests/jax`: Downslope, and optax's default.

Run by `benchmarks/grouping.py`. Optax's answer is read from the state that `optax.contrib.muon` makes.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"
sys.path.insert(0, str(Path(__file__).parent.parent))

import jax
import optax
from scoring import Score

from downslope.grouping.jax import name_of
from downslope.grouping.partition import Role
from downslope.jax import partition
from tests.jax.zoo import ZOO


def optax_rule(params: Any) -> set[str]:
    """Return what `optax.contrib.muon` keeps a momentum of Muon for."""
    state = jax.eval_shape(optax.contrib.muon(1e-3).init, params)
    momentum = state.inner_states["muon"].inner_state[0].mu
    return {name_of(path) for path, _ in jax.tree_util.tree_flatten_with_path(momentum)[0]}


def score() -> Score:
    total = Score()
    for z in ZOO:
        fun, params, *args = z.build()
        begun = time.perf_counter()
        found = partition(fun, params, *args)
        total.seconds += time.perf_counter() - begun
        muon = {a.name for a in found if Role(z.label(a.name, a.shape)).rule == "muon"}
        mine = {a.name for a in found if a.rule == "muon"}
        answers = {"Downslope": mine, "optax, default": optax_rule(params)}
        total.enter(z.name, {a.name: a.shape for a in found}, muon, answers)
    return total


if __name__ == "__main__":
    found = score()
    print(json.dumps({**found.to_dict(), "wrong": found.wrong}))
