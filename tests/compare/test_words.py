"""The sentence and the notes say what the numbers do, no more and no less."""

import math
import re
from dataclasses import replace

import pytest

from downslope.compare.judge import against_best, ranks
from downslope.compare.notes import Conditions, notes
from downslope.compare.verdict import Sensitivity, estimate, sensitivity
from downslope.compare.words import Standing, sentence


def standings(**values):
    """Return standings in order of rank, of optimizers with these final values."""
    estimates = {name: e for name, v in values.items() if (e := estimate(v))}
    place, p_values = ranks(estimates), against_best(estimates)
    made = [
        Standing(
            name=name,
            label=name.upper(),
            rank=place[name],
            final=estimates[name],
            best_lr=0.01,
            trials=8,
            trials_diverged=0,
            finals_diverged=sum(math.isinf(v) for v in values[name]),
            sensitivity=Sensitivity(),
            range=(1e-4, 1e-1),
            steps_to_target=120.0,
            p_value=p_values.get(name),
        )
        for name in place
    ]
    winners = [s.name for s in made if s.rank == 1 and math.isfinite(s.final.median)]
    return made, winners


def verdict(done=51, total=51, **values):
    made, winners = standings(**values)
    return sentence(made, winners, "validation loss (nats)", 200, done, total)


def under(**changes):
    plain = {"seeds": 9, "crews": 1, "most_jobs": 1, "on_cpu": True}
    plain |= {"seconds": 100.0, "cpu_seconds": 99.0, "no_matrices": None}
    return Conditions(**{**plain, **changes})


LOW, MIDDLE, HIGH = [1.0, 1.1, 1.2, 1.3, 1.4], [1.05, 1.25, 1.35, 1.7, 1.8], [3.0, 3.1, 3.2, 3.3, 3.4]


def test_is_best_only_where_chance_does_not_explain_it():
    said = verdict(a=LOW, b=HIGH)
    assert said.startswith("A is best: its validation loss ends at 1.20 [1.00, 1.40], below B's 3.20")
    assert "3.40] (p=0.0079), and it" in said
    assert "reaches the target in 120 of 200 steps" in said


def test_tied_where_chance_may_explain_it_and_who_is_behind():
    said = verdict(a=LOW, b=MIDDLE, c=HIGH)
    assert said.startswith("A and B are tied")
    assert said.endswith("; C is behind.")


def test_who_diverged_is_named():
    nan = [1.0, *[math.inf] * 4]
    assert verdict(a=LOW, b=MIDDLE, c=nan).endswith("]); C diverged.")
    assert verdict(a=LOW, b=HIGH, c=nan, d=nan).endswith("in 120 of 200 steps; C and D diverged.")
    assert verdict(a=LOW, c=nan).endswith("; every other optimizer diverged.")


def test_all_tied():
    assert verdict(a=LOW, b=LOW, c=MIDDLE).startswith("A, B and C are tied")


@pytest.mark.parametrize(
    ("values", "words"), [({"a": LOW}, "no other"), ({"a": LOW, "b": [math.inf] * 5}, "every other")]
)
def test_alone(values, words):
    said = verdict(**values)
    assert said.startswith("A ends at a validation loss of 1.20")
    assert words in said


def test_unfinished_is_said_first():
    assert verdict(done=20, a=LOW, b=HIGH).startswith("Not finished (20 of 51 runs): A is best")


def test_a_quiet_comparison_has_no_notes():
    assert notes(standings(a=LOW, b=HIGH)[0], under()) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seeds": 3}, "With 3 seeds .* 75%, and two optimizers that are alike .* 10%"),
        ({"crews": 2}, "different --jobs"),
        ({"cpu_seconds": 40.0}, "had a processor only 40% of the time"),
        ({"on_cpu": False, "most_jobs": 2}, "shared a device"),
        ({"no_matrices": "Muon"}, "Muon found no hidden matrix"),
    ],
)
def test_conditions_that_matter_are_noted(changes, words):
    (note,) = notes(standings(a=LOW, b=HIGH)[0], under(**changes))
    assert re.search(words, note)


def test_a_gpu_keeps_no_processor_busy_and_that_is_no_note():
    assert notes(standings(a=LOW)[0], under(on_cpu=False, cpu_seconds=10.0)) == []


@pytest.mark.parametrize(("best", "wider"), [(0, "a=1e-05:0.1"), (2, "a=0.0001:1")])
def test_the_edge_of_a_space_is_noted_with_a_wider_one(best, wider):
    values = [2.0, 2.0, 2.0]
    values[best] = 1.0
    shown = sensitivity(list(zip([1e-4, 1e-3, 1e-2], values, strict=True)))
    (note,) = notes([replace(standings(a=LOW)[0][0], sensitivity=shown)], under())
    assert f"--lr {wider}" in note


def test_a_wide_interval_that_stands_before_a_lower_median_is_explained():
    made, winners = standings(a=[1.0, 1.1, 1.2], wide=[1.1, 2.5, 2.6], narrow=[2.0, 2.1, 2.2])
    assert winners == ["a", "wide"]
    assert [s.name for s in made] == ["a", "wide", "narrow"]
    (note,) = notes(made, under())
    assert note.startswith("WIDE stands before NARROW, whose median is lower")
