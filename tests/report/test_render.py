"""What the page says, and what it is made of: no browser needed."""

from __future__ import annotations

import base64
import copy
import hashlib
import html as html_module
import json
import math
import re
from itertools import combinations
from typing import Any

import numpy as np
import pytest

from downslope.report import (
    LIMIT,
    Axis,
    Cell,
    Chapter,
    Column,
    Lines,
    Section,
    Series,
    Table,
    Trace,
    page,
    render,
)
from downslope.report.curves import median_trace
from downslope.report.page import asset
from downslope.report.partition import folded, pattern
from tests.report.sample import sample


def text_of(html: str) -> str:
    """Return what the page says, tags and data taken away."""
    bare = re.sub(r"<(script|style)\b.*?</\1>|<wbr>", "", html, flags=re.DOTALL)
    return " ".join(html_module.unescape(re.sub(r"<[^>]+>", " ", bare)).split())


def test_the_page_holds_verdict_ranking_setup_and_command() -> None:
    result = sample()
    text = text_of(render(result)).replace("\N{NO-BREAK SPACE}", " ")
    assert result["verdict"]["sentence"] in text
    best = result["optimizers"][0]
    assert f"{best['final']['median']:.4f}" in text
    assert f"{best['final']['low']:.4f} – {best['final']['high']:.4f}" in text
    assert result["command"] in text
    assert "blocks.{0–11}.mlp.weight" in text
    assert "CPU any" in text


def test_a_miss_is_shown_as_a_miss() -> None:
    result = sample()
    result["optimizers"][1]["steps_to_target"] = {"median": None, "reached": 2, "of": 5, "values": []}
    result["optimizers"][2]["steps_to_target"] = {"median": 95.5, "reached": 3, "of": 5, "values": []}
    text = text_of(render(result))
    assert "missed 2/5" in text
    assert "95.5 3/5" in text


def test_the_page_asks_for_nothing() -> None:
    html = render(sample())
    assert "default-src 'none'" in html
    script = re.search(r"<script>(.*?)</script>", html, re.DOTALL)
    assert script
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in html
    assert not re.search(r"""\b(src|href)=["'](?!#|data:)""", html)
    assert "@import" not in html
    assert not re.search(r"url\((?!#)", html)


def test_the_same_result_gives_the_same_page() -> None:
    assert render(sample()) == render(sample())


def test_data_blocks_are_json_and_cannot_be_left() -> None:
    result = sample()
    result["optimizers"][0]["label"] = "</script><!--<script>&amp;\u2028x"
    blocks = re.findall(r'<script type="application/json">(.*?)</script>', render(result), re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        assert not set(block) & set("<>&\u2028")
        names = [s["name"] for s in json.loads(block).get("series") or json.loads(block)["rows"]]
        assert names[0] == result["optimizers"][0]["label"]


def test_equal_lists_are_written_once() -> None:
    block = re.search(r'<script type="application/json">(.*?)</script>', render(sample()), re.DOTALL)
    assert block
    lists = json.loads(block[1])["lists"]
    # Three optimizers of five seeds and a median: seconds and losses of each, and steps once for all.
    assert len(lists) == 3 * 6 * 2 + 1
    assert sum(values == list(range(0, 201, 10)) for values in lists) == 1


def test_numbers_that_are_not_finite_become_null() -> None:
    result = sample()
    result["optimizers"][0]["curves"][0]["loss"][3] = math.nan
    result["optimizers"][0]["final"]["values"][0] = math.inf
    page_but_script = re.sub(r"<script>.*?</script>", "", render(result), flags=re.DOTALL)
    assert "NaN" not in page_but_script
    assert "Infinity" not in page_but_script


def test_any_size_of_run_stays_under_the_limit() -> None:
    result = sample(optimizers=10, seeds=10, points=1000, trials=24)
    html = render([result, result])
    assert len(html.encode()) < LIMIT
    assert "Curves are thinned from 1000 to" in html


def small() -> dict[str, Any]:
    return sample(optimizers=2, seeds=2, points=5, trials=3)


def paths(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the way to every value of a result but single numbers of curves."""
    if isinstance(value, dict):
        own = [(*at, k) for k in value]
        inner = [p for k, v in value.items() if k not in ("curves", "values") for p in paths(v, (*at, k))]
        return own + inner
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return paths(value[0], (*at, 0))
    return []


@pytest.mark.parametrize("way", paths(small()), ids=lambda way: ".".join(map(str, way)))
def test_every_part_may_be_missing(way: tuple[Any, ...]) -> None:
    result = small()
    holder: Any = result
    for key in way[:-1]:
        holder = holder[key]
    holder[way[-1]] = None
    if way == ("schema",):
        with pytest.raises(ValueError, match="schema = None"):
            render(result)
        return
    assert "<h1" in render(result)
    del holder[way[-1]]
    assert "<h1" in render(result)


def test_bad_input_is_named() -> None:
    with pytest.raises(TypeError, match="got str"):
        render(["run"])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="schema = 7"):
        render({"schema": 7})
    with pytest.raises(ValueError, match="at least one run"):
        render([])


def test_render_leaves_the_result_alone() -> None:
    result = sample()
    before = copy.deepcopy(result)
    render(result)
    assert result == before


def curve(losses: list[float | None], steps: list[int] | None = None) -> dict[str, Any]:
    steps = steps or list(range(len(losses)))
    return {"seed": 1, "steps": steps, "seconds": [0.5 * s for s in steps], "loss": losses}


def test_the_median_counts_a_diverged_seed_as_infinite() -> None:
    lost, short = curve([3.0, None, None]), curve([4.0])
    both = median_trace([curve([1.0, 2.0, 3.0]), curve([2.0, 3.0, 4.0]), lost], keep=10)
    assert both.y == [2.0, 3.0, 4.0]
    assert median_trace([curve([1.0, 2.0, 3.0]), lost, short], keep=10).y == [3.0, None, None]
    assert both.x == ([0, 1, 2], [0.0, 0.5, 1.0])


def test_the_median_is_numpys() -> None:
    rng = np.random.default_rng(0)
    losses = rng.lognormal(size=(6, 30))
    trace = median_trace([curve(row.tolist()) for row in losses], keep=1000)
    assert trace.y == np.median(losses, axis=0).tolist()
    thin = median_trace([curve(row.tolist()) for row in losses], keep=7)
    assert thin.x[0][0] == 0
    assert thin.x[0][-1] == 29
    assert thin.y == [trace.y[step] for step in thin.x[0]]


def test_only_what_is_the_same_is_folded() -> None:
    rows = sample()["partition"]["assignments"]
    assert [len(group) for group in folded(rows)] == [1, 12, 12, 1]
    for i, row in enumerate(rows):
        row["reason"] += f" at depth {i} of 26"
    assert [len(group) for group in folded(rows)] == [1, 12, 12, 1]
    rows[1]["reason"] = "told apart"
    assert [len(group) for group in folded(rows)] == [1, 1, 12, 11, 1]
    assert pattern(["a.1.b.2", "a.2.b.2", "a.4.b.2"]) == "a.{1, 2, 4}.b.2"
    assert sum(len(group) for group in folded(rows)) == len(rows)


def test_parts_make_other_pages_too() -> None:
    sweep = Lines(
        "loss against learning rate",
        x=[Axis("learning rate", "log")],
        y=Axis("loss", switch=True),
        series=[Series("seed 1", 0, Trace(([0.01, 0.1, 1.0],), [1.0, 0.5, None]))],
    )
    table = Table("Rates", [Column("rate", "number")], [[Cell("0.1")]])
    html = page([Chapter("sweep", "0.1 is safe.", [Section("Sweep", [sweep, table])])])
    assert "0.1 is safe." in text_of(html)
    with pytest.raises(ValueError, match="2 cells"):
        Table("Rates", [Column("rate")], [[Cell("0.1"), Cell("0.2")]])
    with pytest.raises(ValueError, match="2 values of x for 1 of y"):
        Trace(([1.0, 2.0],), [1.0], "short")


# Colours -------------------------------------------------------------------------------------

# What people see who lack one kind of cone (Machado, Oliveira and Fernandes, 2009, severity 1.0),
# as matrices on linear RGB.
SIGHTS = {
    "all": np.eye(3),
    "no red": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "no green": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.01182, 0.04294, 0.968881],
        ]
    ),
    "no blue": np.array(
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.3039],
        ]
    ),
}


def palette(theme: int) -> dict[str, np.ndarray]:
    """Return the page's colours as linear RGB; theme 0 is light, 1 dark."""
    found = re.findall(r"--([\w-]+): light-dark\((#\w{6}), (#\w{6})\);", asset("page.css"))
    return {name: linear(pair[theme]) for name, *pair in found}


def linear(colour: str) -> np.ndarray:
    c = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def contrast(a: np.ndarray, b: np.ndarray) -> float:
    """Return the contrast ratio of WCAG 2."""
    low, high = sorted(float(c @ [0.2126, 0.7152, 0.0722]) + 0.05 for c in (a, b))
    return high / low


def oklab(rgb: np.ndarray) -> np.ndarray:
    """Return linear RGB in Oklab (Ottosson, 2020), where distance is difference to the eye."""
    to_cones = np.array(
        [
            [0.4122214708, 0.5363325363, 0.0514459929],
            [0.2119034982, 0.6806995451, 0.1073969566],
            [0.0883024619, 0.2817188376, 0.6299787005],
        ]
    )
    to_lab = np.array(
        [
            [0.2104542553, 0.7936177850, -0.0040720468],
            [1.9779984951, -2.4285922050, 0.4505937099],
            [0.0259040371, 0.7827717662, -0.8086757660],
        ]
    )
    return to_lab @ np.cbrt(np.clip(to_cones @ rgb, 0, None))


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_text_and_lines_stand_out(theme: int) -> None:
    colours = palette(theme)
    for name in ("ink", "quiet", "accent", "warning"):
        assert contrast(colours[name], colours["paper"]) >= 4.5, name
    assert contrast(colours["ink"], colours["raised"]) >= 4.5
    for name in (f"s{i}" for i in range(8)):
        assert contrast(colours[name], colours["paper"]) >= 3, name


@pytest.mark.parametrize("sight", SIGHTS)
@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_series_are_told_apart_by_every_eye(theme: int, sight: str) -> None:
    seen = [oklab(np.clip(SIGHTS[sight] @ palette(theme)[f"s{i}"], 0, 1)) for i in range(8)]
    for (i, a), (j, b) in combinations(enumerate(seen), 2):
        # 0.02 is just noticeable side by side; red against green of equal lightness fails this.
        assert np.linalg.norm(a - b) > (0.1 if max(i, j) < 4 else 0.08), (i, j)


def test_red_and_green_of_one_lightness_fail_that_test() -> None:
    red, green = linear("#c05040"), linear("#7a7a30")
    matrix = SIGHTS["no green"]
    assert np.linalg.norm(oklab(red) - oklab(green)) > 0.1
    assert np.linalg.norm(oklab(matrix @ red) - oklab(np.clip(matrix @ green, 0, 1))) < 0.08
