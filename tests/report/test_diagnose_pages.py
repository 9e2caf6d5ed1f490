"""The pages of a profile, a learning rate and a grid, in a real browser: complete, and drawn."""

from __future__ import annotations

from typing import Any

import pytest

from downslope.report import page, profile, rates, sensitivity
from downslope.report.heat import Heat, HeatCell, HeatRow
from downslope.report.plots import Lines


def part(path: list[str], ms: float) -> dict[str, Any]:
    return {"path": path, "milliseconds": ms, "share": ms / 10}


PROFILE: dict[str, Any] = {
    "name": "digits",
    "optimizer": "Muon",
    "device": "cpu",
    "threads": 1,
    "parameters": 101_898,
    "steps": 60,
    "milliseconds": 10.0,
    "low": 9.8,
    "high": 10.4,
    "closure": 1.01,
    "overhead": 0.004,
    "parts": [
        part(["data"], 1.0),
        part(["backward"], 3.0),
        part(["muon", "write"], 1.0),
        part(["muon"], 5.0),
    ],
    "layers": [{"name": "a<b>", "kind": "Linear", "forward": 1.0, "backward": 2.0, "parameters": 5}],
    "memory": {
        "parameters": 1 << 20,
        "buffers": 0,
        "gradients": 1 << 20,
        "state": 1 << 20,
        "activations": 1 << 22,
        "peak": 1 << 23,
        "peak_in": "backward",
    },
    "what_ifs": [
        {"name": "steps", "change": "ns_steps=3", "before": 10.0, "after": 8.0, "ratio": 0.8, "note": "n"},
        {
            "name": "compile",
            "change": "compile",
            "before": None,
            "after": None,
            "ratio": None,
            "note": "no g++",
        },
    ],
    "versus": None,
    "environment": {"command": "downslope profile digits"},
}

RATES: dict[str, Any] = {
    "rates": [
        {
            "name": "digits",
            "label": "SGD",
            "steps": 200,
            "value": 0.2,
            "low": 0.1,
            "high": 0.4,
            "diverges": 1.6,
            "confidence": "low",
            "metric": "loss",
            "cost": 1450,
            "cost_in_runs": 7.25,
            "reasons": ["Two seeds disagree."],
            "runs": [
                {
                    "lr": 0.1 * 2**i,
                    "seed": s,
                    "steps": n,
                    "final": None if i > 3 else 1 + abs(i - 1),
                    "failed": i > 3,
                }
                for i in range(5)
                for s in (0, 1)
                for n in (50, 100)
            ],
            "sweeps": [{"lr": [1e-3, 1e-2, 1e-1], "loss": [2.0, 1.5, 9.0]}],
            "environment": {},
        }
    ],
    "widths": [
        {
            "optimizer": "SGD",
            "widths": [64, 128],
            "values": [0.2, None],
            "sentence": "The best rate stays: × 1.0.",
        }
    ],
}

GRID: dict[str, Any] = {
    "name": "digits",
    "metric": "validation loss",
    "row": "learning rate",
    "column": "seed",
    "lost": "diverged",
    "steps": 200,
    "sentence": "SGD is the most forgiving: 2 of 3 rows.",
    "command": "downslope compare digits --sensitivity",
    "fields": [
        {
            "label": "SGD",
            "rows": [0.1, 0.2, 0.4],
            "columns": [0, 1],
            "values": [[0.5, 0.55], [0.4, 0.42], [None, None]],
            "done": [[True, True], [True, True], [True, False]],
            "best_row": 0.2,
            "best": 0.41,
            "row_factor": None,
            "column_factor": 1.05,
            "room": 1,
            "lost": 1,
            "cells": 5,
        }
    ],
}


def test_a_profile_has_its_bars_and_tables(show: Any) -> None:
    opened = show(page([profile.chapter(PROFILE)]))
    assert opened.page.locator(".shares .bar").count() == 2
    widths = opened.page.eval_on_selector_all(
        ".shares .bar i", "all => all.map(n => n.getBoundingClientRect().width)"
    )
    # data : backward : muon = 1 : 3 : 6
    assert widths[1] / widths[0] == pytest.approx(3, rel=0.05)
    assert widths[2] / widths[0] == pytest.approx(6, rel=0.05)
    colours = opened.page.eval_on_selector_all(
        ".shares .bar i", "all => all.map(n => getComputedStyle(n).backgroundColor)"
    )
    assert len(set(colours[:3])) == 3
    body = opened.page.locator("main").inner_text()
    assert "muon is 60" in body
    assert "a<b>" in body
    assert "no g++" in body
    assert "add up to 101.0 %" in body
    assert "Read the shares with care" not in body


def test_a_profile_of_a_busy_machine_says_so(show: Any) -> None:
    opened = show(page([profile.chapter({**PROFILE, "closure": 0.9})]))
    assert "Read the shares with care" in opened.page.locator(".notes").inner_text()


def test_a_learning_rate_has_its_curves(show: Any) -> None:
    opened = show(page([rates.chapter(RATES)]))
    assert opened.page.locator("figure.plot").count() == 3
    marks = opened.page.locator("figure.plot").nth(1)
    assert marks.locator(".stage .mark").count() == 8
    assert marks.locator(".stage .lost").count() == 2
    assert marks.locator(".stage .word", has_text="did not train").count() == 1  # which is not yet too high
    assert marks.locator(".best").count() == 2
    assert opened.page.locator(".notes").inner_text().endswith("Two seeds disagree.")


def test_a_search_in_which_nothing_trained_says_so() -> None:
    failed = {
        **RATES["rates"][0],
        **dict.fromkeys(("value", "low", "high", "diverges")),
        "runs": [{"lr": 0.1, "seed": 0, "steps": 50, "final": None, "failed": True}],
    }
    told = rates.chapter({"rates": [failed]})
    assert (told.headline, told.evidence) == (
        "Learning rate none for SGD:",
        "no rate that was tried trained the model.",
    )
    answers = told.sections[0].parts[0]
    assert [cell.text for cell in answers.rows[0][1:4]] == ["–", "–", "–"]
    assert not any(isinstance(part, Lines) for part in told.sections[1].parts), "an empty frame"
    mixed = rates.chapter({"rates": [RATES["rates"][0], failed]})
    assert mixed.headline == "Learning rate 0.2 for SGD, none for SGD;"


@pytest.mark.parametrize(("final", "scale"), [(0.5, "log"), (0.0, "linear"), (-0.5, "linear")])
def test_ends_that_a_logarithm_cannot_show_are_drawn_on_a_line(final: float, scale: str) -> None:
    run = {"lr": 0.1, "seed": 0, "steps": 50, "final": final, "failed": False}
    told = rates.chapter({"rates": [{**RATES["rates"][0], "runs": [run]}]})
    (plot,) = (part for part in told.sections[1].parts if isinstance(part, Lines))
    assert plot.y.scale == scale


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_grid_is_darkest_where_it_is_best(show: Any, scheme: str) -> None:
    opened = show(page([sensitivity.chapter(GRID)]), scheme=scheme)
    # On a dark page the best cells are the brightest.
    assert "the stronger the colour, the nearer to the best" in opened.page.locator("body").inner_text()
    cells = opened.page.locator("table.heat td")
    assert cells.count() == 6
    assert cells.nth(4).inner_text() == "×"
    assert cells.nth(5).inner_text() == "–"
    shades = opened.page.eval_on_selector_all(
        "table.heat td.cell", "all => all.map(n => getComputedStyle(n).getPropertyValue('--v'))"
    )
    values = [float(s.rstrip("%")) for s in shades]
    assert values[2] == 100  # 0.40, the best
    assert values[2] > values[3] > values[0] > values[1]
    drawn = opened.page.eval_on_selector_all(
        "table.heat td.cell", "all => all.map(n => getComputedStyle(n).backgroundColor)"
    )
    assert len(set(drawn)) == 4


def test_a_map_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="a row of 1 cells"):
        Heat("m", "r", ["a", "b"], [HeatRow("x", [HeatCell("1", 0.5)])])
    with pytest.raises(ValueError, match="level = 2"):
        Heat("m", "r", ["a"], [HeatRow("x", [HeatCell("1", 2.0)])])
