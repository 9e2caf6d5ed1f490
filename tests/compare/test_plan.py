"""Every optimizer gets the same budget, and a plan is the same whenever it is made."""

import json
import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from downslope.compare.optimizers import CANDIDATES, Space, choose
from downslope.compare.plan import Plan, differences, fresh_seeds, points
from downslope.errors import UsageError


def test_every_optimizer_gets_the_same_number_of_trials_and_the_same_width_of_space(make_plan):
    plan = make_plan(tuple(CANDIDATES), trials=5)
    runs = plan.tuning_runs()
    assert {c: sum(r.optimizer == c for r in runs) for c in CANDIDATES} == dict.fromkeys(CANDIDATES, 5)
    widths = {c.name: math.log10(c.space.lr[1] / c.space.lr[0]) for c in plan.candidates}
    assert widths == pytest.approx(dict.fromkeys(CANDIDATES, 3.0))
    assert {r.seed for r in runs} == {plan.tuning_seed}


def test_optimizers_take_turns(make_plan):
    assert [r.optimizer for r in make_plan().tuning_runs()] == ["sgd", "adamw"] * 3


def test_all_spaces_are_searched_at_the_same_places(make_plan):
    runs = make_plan(("sgd", "adamw"), trials=8).tuning_runs()
    where = {}
    for r in runs:
        low, high = CANDIDATES[r.optimizer].space.lr
        where.setdefault(r.optimizer, []).append(math.log(r.lr / low) / math.log(high / low))
    assert where["sgd"] == pytest.approx(where["adamw"])


def test_points_fill_the_space_more_evenly_than_chance():
    space = Space((1e-4, 1e-1), (0.0, 0.1))
    drawn = points(space, 16, seed=3)
    places = sorted(math.log(lr / 1e-4) / math.log(1e3) for lr, _ in drawn)
    # A scrambled Sobol' sequence puts one of 16 points into each sixteenth; chance does so with P = 1e-6.
    assert [math.floor(16 * p) for p in places] == list(range(16))
    assert {wd for _, wd in drawn} == {0.0, 0.1}
    assert all(1e-4 <= lr <= 1e-1 for lr, _ in drawn)


def test_points_are_the_same_every_time_differ_by_seed_and_extend():
    space = Space((1e-4, 1e-1), (0.0, 0.1))
    eight = points(space, 8, seed=0)
    points.cache_clear()
    assert points(space, 8, seed=0) == eight
    assert points(space, 12, seed=0)[:8] == eight
    assert points(space, 8, seed=1) != eight


def test_plan_survives_json(make_plan):
    plan = make_plan(tuple(CANDIDATES))
    again = Plan.from_dict(json.loads(json.dumps(plan.to_dict())))
    assert again == plan
    assert again.tuning_runs() == plan.tuning_runs()
    assert json.loads(json.dumps(plan.identity())) == plan.identity()


@pytest.mark.parametrize(
    "change",
    [
        {"trials": 4},
        {"steps": 13},
        {"seeds": (1, 3)},
        {"schedule": "cosine"},
        {"goal": 0.1},
        {"fingerprint": "x"},
    ],
)
def test_whatever_decides_the_results_is_in_the_digest(make_plan, change):
    plan, other = make_plan(), make_plan(**change)
    assert plan.digest() == make_plan().digest() != other.digest()
    assert len(differences(plan.identity(), other.identity())) == 1


def test_schedule_rises_then_falls_towards_zero(make_plan):
    for schedule in ("linear", "cosine"):
        factors = [make_plan(schedule=schedule, steps=100, warmup=10).factor(i) for i in range(100)]
        assert factors[:10] == pytest.approx(np.arange(1, 11) / 10)
        assert max(factors) == factors[10] == 1
        assert all(a > b for a, b in pairwise(factors[10:]))
        assert 0 < factors[-1] < 0.02
    middle = [make_plan(schedule=s, steps=101, warmup=1).factor(51) for s in ("linear", "cosine")]
    assert middle == pytest.approx([0.5, 0.5])
    quarter = make_plan(schedule="cosine", steps=101, warmup=1).factor(26)
    assert quarter == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))


def test_no_warmup_starts_at_the_full_rate(make_plan):
    assert make_plan(warmup=0).factor(0) == 1


def test_final_runs_are_evaluated_at_both_ends_and_trials_at_the_last_step(make_plan):
    for steps in (1, 7, 200, 333):
        marks = make_plan(steps=steps, warmup=0).evaluations("final")
        assert (marks[0], marks[-1]) == (0, steps)
        assert len(marks) <= 22
    assert make_plan().evaluations("tune") == [12]


def test_final_seeds_are_not_the_tuning_seed():
    assert fresh_seeds(3, 7) == (8, 9, 10)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"trials": 0}, "trials = 0"),
        ({"trials": -2}, "trials = -2"),
        ({"steps": 0}, "steps = 0"),
        ({"seeds": ()}, "seeds = 0"),
        ({"warmup": 12}, "warmup = 12"),
        ({"schedule": "cosin"}, "did you mean 'cosine'"),
    ],
)
def test_bad_numbers_are_named(make_plan, change, words):
    with pytest.raises(UsageError, match=words):
        make_plan(**change)


@pytest.mark.parametrize(
    ("names", "ranges", "words"),
    [
        (["adamv"], {}, "unknown optimizer 'adamv'.*did you mean 'adam"),
        (["sgd", "sgd"], {}, "'sgd' stands twice"),
        ([], {}, "no optimizer to compare"),
        (["sgd"], {"muon": (1e-3, 1e-1)}, "'muon', which does not take part"),
        (["sgd"], {"sgd": (1e-1, 1e-3)}, "0.1 to 0.001: expected 0 < low < high"),
        (["sgd"], {"sgd": (-1.0, 1e-3)}, "-1 to 0.001"),
        (["sgd"], {"sgd": (1e-3, math.nan)}, "0.001 to nan"),
    ],
)
def test_bad_optimizers_and_ranges_are_named(names, ranges, words):
    with pytest.raises(UsageError, match=words):
        choose(names, {}, ranges)


def test_a_range_of_the_tasks_for_no_optimizer_is_named():
    with pytest.raises(UsageError, match=r"range for 'adamv'.*did you mean 'adam"):
        choose(["sgd"], {"adamv": (1e-3, 1.0)}, {})


def test_the_users_range_goes_before_the_tasks_and_the_tasks_before_the_optimizers_own():
    task, user = {"sgd": (1.0, 2.0), "adamw": (1.0, 2.0)}, {"sgd": (3.0, 4.0)}
    chosen = {c.name: c.space.lr for c in choose(["sgd", "adamw", "muon"], task, user)}
    assert chosen == {"sgd": (3.0, 4.0), "adamw": (1.0, 2.0), "muon": CANDIDATES["muon"].space.lr}


def test_negative_weight_decay_is_refused():
    with pytest.raises(UsageError, match="weight decays"):
        replace(CANDIDATES["sgd"].space, weight_decay=(-0.1,))
