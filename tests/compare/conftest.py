"""What the tests of comparisons share."""

from pathlib import Path

import pytest

from downslope.compare.optimizers import choose
from downslope.compare.plan import Plan

TINY = Path(__file__).with_name("tiny.py")


@pytest.fixture(autouse=True)
def _runs_go_to_a_folder_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def make_plan():
    """Make a plan, with everything small unless said otherwise."""

    def make(optimizers=("sgd", "adamw"), **changes):
        values = {
            "task": "regression",
            "fingerprint": "",
            "candidates": choose(optimizers, {}, {}),
            "trials": 3,
            "seeds": (1, 2),
            "tuning_seed": 0,
            "steps": 12,
            "schedule": "linear",
            "warmup": 2,
            "goal": None,
        }
        return Plan(**{**values, **changes})

    return make
