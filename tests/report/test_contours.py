"""The picture of a race: level lines where the function has its levels, paths where the steps were."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from downslope.report import Axis, Chapter, Contours, Field, Mark, Section, Series, Trace, page


def bowl(hole: bool = False) -> Contours:
    """x² + y² over a square, with a path along the diagonal."""
    xs = np.linspace(-2, 2, 41)
    rows = [[float(x * x + y * y) for x in xs] for y in xs]
    if hole:
        rows[20][30] = float("nan")
    path = Trace(([2.0, 1.0, 0.5, 0.0],), [2.0, 1.0, 0.5, 0.0], hints=["a", "b", "c", "d"])
    out = Trace(([2.0, 9.0],), [2.0, 9.0], hints=["a", "b"])
    return Contours(
        "a bowl", Axis("x₁"), Axis("x₂"), Field((-2, 2), (-2, 2), rows),
        [Series("steepest", 0, path), Series("lost", 1, out)],
        [Mark(2, 2, "start", "start"), Mark(0, 0, "")], ((-2, 2), (-2, 2)),
    )  # fmt: skip


def html(part: Contours) -> str:
    return page([Chapter("bowl", "A bowl.", [Section("Paths", [part])])])


def numbers(d: str) -> Any:
    return np.array([float(n) for n in re.findall(r"-?[\d.]+", d.replace("h0", ""))]).reshape(-1, 2)


def test_level_lines_lie_at_their_levels(show: Any) -> None:
    part = bowl()
    opened = show(html(part))
    lines = opened.page.eval_on_selector_all(".level", "all => all.map(n => n.getAttribute('d'))")
    path = numbers(opened.page.locator(".line.path").last.get_attribute("d"))
    assert part.field is not None
    levels = part.field.levels()
    assert len(lines) == len(levels) == 16
    # The steepest path's ends, (2, 2) and (0, 0), give the scale from pixels to x and y.
    start, end = path[0], path[-1]
    for d, level in zip(lines, levels, strict=True):
        at = (numbers(d) - end) / (start - end) * 2
        # Straight pieces across cells of 0.1, and pixels to a tenth.
        assert np.abs(np.hypot(*at.T) - np.sqrt(level)).max() < 0.02
        assert len(at) > 8


def test_the_lowest_levels_are_the_closest() -> None:
    field = bowl().field
    assert field is not None
    levels = field.levels()
    assert levels == sorted(levels)
    ground = [sum(v < level for row in field.rows for v in row) for level in levels]  # type: ignore[operator]
    assert (np.diff(ground, 2)[1:-1] > -30).all()
    assert ground[0] < 10 < 1300 < ground[-1]


def test_paths_marks_and_readings(show: Any) -> None:
    opened = show(html(bowl()))
    assert opened.page.locator(".foot").count() == 6
    assert opened.page.locator(".place").count() == 2
    assert "Paths that leave the frame: lost." in opened.page.locator("main").inner_text()
    opened.page.locator(".stage").focus()
    opened.page.keyboard.press("ArrowRight")
    assert "steepest" in opened.page.locator(".tip").inner_text()
    opened.page.get_by_role("button", name="steepest").click()
    assert opened.page.locator(".line.path").count() == 1


@pytest.mark.parametrize("width", [360, 1200])
def test_a_hole_and_a_narrow_page(show: Any, width: int) -> None:
    opened = show(html(bowl(hole=True)), width=width)
    drawn = opened.page.eval_on_selector(".stage svg", "n => n.outerHTML")
    assert "NaN" not in drawn
    box = opened.page.locator(".stage svg").bounding_box()
    assert box["width"] <= width


def test_a_grid_is_asked_for() -> None:
    with pytest.raises(ValueError, match="is no grid"):
        Field((0, 1), (0, 1), [[1.0, 2.0], [1.0]])
