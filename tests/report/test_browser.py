"""The page in a real browser, from a file: plots are drawn, read and switched; nothing is fetched."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from downslope.report import LIMIT, Chapter, Section, page, render
from downslope.report.heat import Heat, HeatCell, HeatRow
from tests.report.sample import sample

CURVES, SENSITIVITY, FINALS = 0, 1, 2


def plot(opened: Any, index: int) -> Any:
    return opened.page.locator("figure.plot").nth(index)


def drawn(opened: Any) -> str:
    """Return all that the plots hold, as text."""
    return "".join(
        opened.page.eval_on_selector_all("figure.plot .stage svg", "all => all.map(n => n.outerHTML)")
    )


def drawing(opened: Any, index: int) -> str:
    return plot(opened, index).locator("svg g.series .line.main").first.get_attribute("d")


def tip(opened: Any, index: int) -> str:
    return plot(opened, index).locator(".tip").inner_text()


def test_every_plot_is_drawn(show: Any) -> None:
    opened = show(render(sample()))
    assert opened.page.locator("figure.plot").count() == 3
    # Three optimizers of five seeds each, and their medians.
    assert plot(opened, CURVES).locator(".stage .line.thin").count() == 15
    assert plot(opened, CURVES).locator(".stage .line.main").count() == 3
    # Eight trials each: every one is a mark, or a cross where it diverged.
    marks = plot(opened, SENSITIVITY).locator(".stage .mark, .stage .lost")
    assert marks.count() == 24
    assert plot(opened, SENSITIVITY).locator(".stage .lost").count() > 0
    assert plot(opened, SENSITIVITY).locator(".best").count() == 3
    assert plot(opened, FINALS).locator(".bar").count() == 3
    assert plot(opened, FINALS).locator(".seed").count() == 15
    for lines in (".line.main", ".line.thin", ".mark", ".span"):
        extents = opened.page.eval_on_selector_all(
            f".stage {lines}", "nodes => nodes.map(n => n.getBBox()).map(b => Math.max(b.width, b.height))"
        )
        assert extents
        assert min(extents) > 1
    assert "NaN" not in drawn(opened)


def test_diverged_trials_stand_at_the_top_edge(show: Any) -> None:
    opened = show(render(sample()))
    top = plot(opened, SENSITIVITY).locator(".lost").first.bounding_box()
    for mark in plot(opened, SENSITIVITY).locator(".stage .mark").all():
        assert mark.bounding_box()["y"] > top["y"]


def overlap(a: dict[str, float], b: dict[str, float]) -> bool:
    return all(
        a[at] < b[at] + b[size] and b[at] < a[at] + a[size] for at, size in (("x", "width"), ("y", "height"))
    )


def test_what_diverged_is_named_beside_its_marks(show: Any) -> None:
    result = sample()
    for optimizer in result["optimizers"]:
        for trial in optimizer["trials"]:
            trial.update(final=None, diverged=True)
    result["optimizers"][0]["final"].update(median=None, high=None)
    result["optimizers"][0]["final"]["values"][:3] = [None] * 3
    opened = show(render(result))
    for index, marks, word in ((SENSITIVITY, ".lost", "diverged"), (FINALS, ".bar, .seed", "diverged")):
        name = plot(opened, index).locator(".word", has_text=word).bounding_box()
        found = [mark.bounding_box() for mark in plot(opened, index).locator(marks).all()]
        assert found
        assert not any(overlap(name, box) for box in found)


def test_curves_lie_where_the_data_says(show: Any) -> None:
    result = sample(optimizers=1, seeds=1)
    opened = show(render(result))
    numbers = [float(n) for n in re.findall(r"[-\d.]+", drawing(opened, CURVES).replace("h0", ""))]
    y = np.array(numbers[1::2])
    loss = np.array(result["optimizers"][0]["curves"][0]["loss"])
    # On the log scale of first sight a pixel is linear in log loss; half a pixel of a plot 300 high.
    fit = np.polyfit(np.log(loss), y, 1)
    assert np.abs(np.polyval(fit, np.log(loss)) - y).max() < 0.5
    assert fit[0] < 0


def test_log_and_x_switches_redraw(show: Any) -> None:
    opened = show(render(sample()))
    before = drawing(opened, CURVES)
    log = plot(opened, CURVES).get_by_role("button", name="Logarithmic y axis")
    assert log.get_attribute("aria-pressed") == "true"
    log.click()
    assert log.get_attribute("aria-pressed") == "false"
    linear = drawing(opened, CURVES)
    assert linear != before
    plot(opened, CURVES).get_by_role("button", name="seconds of training").click()
    assert drawing(opened, CURVES) != linear
    assert "seconds of training" in plot(opened, CURVES).locator("svg").last.text_content()
    log.click()
    plot(opened, CURVES).get_by_role("button", name="steps").click()
    assert drawing(opened, CURVES) == before


def test_hover_reads_the_median_at_the_step(show: Any) -> None:
    result = sample()
    opened = show(render(result))
    stage = plot(opened, CURVES).locator(".stage")
    stage.scroll_into_view_if_needed()
    box = plot(opened, CURVES).locator(".axis .base").bounding_box()
    # Step 100 of 200 is the middle of the axis.
    opened.page.mouse.move(box["x"] + box["width"] / 2, box["y"] - 80)
    said = tip(opened, CURVES)
    assert said.startswith("100 steps")
    for optimizer in result["optimizers"]:
        at = np.median([curve["loss"][10] for curve in optimizer["curves"]])
        name = optimizer["label"].partition(" (")[0]
        shown = re.search(rf"\n{re.escape(name)}\n([\d.]+)", said)
        assert shown, said
        # Four significant digits are shown.
        assert float(shown[1]) == pytest.approx(at, rel=1e-3)
    assert plot(opened, CURVES).locator(".cursor circle").count() == 3
    opened.page.mouse.move(5, 5)
    assert plot(opened, CURVES).locator(".tip").is_hidden()


def test_hover_reads_one_trial(show: Any) -> None:
    result = sample()
    opened = show(render(result))
    best = plot(opened, SENSITIVITY).locator("g.series .best").first
    best.scroll_into_view_if_needed()
    box = best.bounding_box()
    opened.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    said = tip(opened, SENSITIVITY)
    assert "best" in said
    named = next(o for o in result["optimizers"] if said.startswith(o["label"].partition(" (")[0]))
    trial = min((t for t in named["trials"] if not t["diverged"]), key=lambda t: t["final"])
    value, rate = (float(n) for n in re.findall(r"\n([\d.]+)", said)[:2])
    assert value == pytest.approx(trial["final"], rel=1e-3)
    assert rate == pytest.approx(trial["lr"], rel=1e-2)


def test_keys_read_a_plot_aloud(show: Any) -> None:
    opened = show(render(sample()))
    stage = plot(opened, CURVES).locator(".stage")
    stage.focus()
    for key in ("ArrowRight", "ArrowRight", "End", "ArrowLeft"):
        stage.press(key)
    assert plot(opened, CURVES).locator("[aria-live]").inner_text().startswith("190 steps")
    stage.press("Escape")
    assert plot(opened, CURVES).locator(".tip").is_hidden()


def test_the_legend_hides_a_series_in_every_plot(show: Any) -> None:
    opened = show(render(sample()))
    key = plot(opened, CURVES).get_by_role("button", name="SGD")
    key.click()
    assert key.get_attribute("aria-pressed") == "false"
    assert plot(opened, CURVES).locator("g.series[data-name=SGD]").count() == 0
    assert plot(opened, CURVES).locator("g.series").count() == 2
    assert plot(opened, SENSITIVITY).locator("g.series[data-name=SGD]").count() == 0
    assert plot(opened, FINALS).locator("g.interval.off").count() == 1
    plot(opened, CURVES).get_by_role("button", name="show all").click()
    assert plot(opened, CURVES).locator("g.series").count() == 3
    key.click(modifiers=["Shift"])
    assert plot(opened, CURVES).locator("g.series").count() == 1


def test_dark_and_light(show: Any) -> None:
    def colours(opened: Any) -> tuple[str, str]:
        read = "selector => getComputedStyle(document.querySelector(selector))"
        paper = opened.page.evaluate(f"({read})('body').backgroundColor")
        return paper, opened.page.evaluate(f"({read})('.stage .line.main').stroke")

    light, dark = (show(render(sample()), scheme=scheme) for scheme in ("light", "dark"))
    assert colours(light)[0] != colours(dark)[0]
    assert colours(light)[1] != colours(dark)[1]
    asked = colours(dark)
    light.page.get_by_role("button", name="Switch to dark colours").click()
    assert colours(light) == asked
    light.page.emulate_media(media="print")
    assert colours(light)[0] != asked[0]


def test_the_command_can_be_copied(show: Any) -> None:
    result = sample()
    opened = show(render(result))
    opened.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    opened.page.get_by_role("button", name="Copy: Command").click()
    opened.page.get_by_text("Copied").wait_for()
    assert opened.page.evaluate("navigator.clipboard.readText()") == result["command"]


def test_nothing_foreign_runs(show: Any) -> None:
    evil = "</script><script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"
    result = sample()
    result["task"]["name"] = result["task"]["description"] = result["task"]["metric"] = evil
    result["command"] = result["verdict"]["sentence"] = result["target"]["origin"] = evil
    result["notes"] = [evil]
    result["environment"][evil] = evil
    result["optimizers"][0]["label"] = evil
    result["partition"]["assignments"][0].update(name=evil, reason=evil, role=f'"{evil}', warning=evil)
    opened = show(render(result))
    assert opened.page.title() != "taken"
    assert opened.page.locator("img").count() == 0
    assert opened.page.locator("h1").inner_text().startswith("</script>")
    assert plot(opened, CURVES).locator(".stage .line.main").count() == 3
    assert opened.page.get_by_role("button", name=evil).count() == 2  # in the legends of two plots


def test_a_large_run_stays_small_and_quick(show: Any) -> None:
    html = render(sample(optimizers=10, seeds=10, points=200, trials=24))
    assert len(html.encode()) < LIMIT
    opened = show(html)
    assert plot(opened, CURVES).locator(".stage .line.thin").count() == 100
    assert opened.page.locator(".legend").first.get_by_role("button", name="signum").is_visible()


@pytest.mark.parametrize("width", [390, 768, 1600])
def test_no_page_is_wider_than_the_window(show: Any, width: int) -> None:
    result = sample()
    result["partition"]["assignments"][0]["name"] = "a.very.long.name." * 20
    result["command"] = "downslope compare " + "x" * 400
    result["task"]["name"] = "a_long_name_" * 20
    opened = show(render([result, sample(10)]), width=width)
    for fold in opened.page.locator("details.fold > summary").all():
        fold.click()
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= width


def with_long_names(count: int) -> dict[str, Any]:
    """Return a run of so many optimizers and parameters with long names that differ at their ends."""
    result = sample(10)
    result["optimizers"] = [
        {**result["optimizers"][i % 10], "name": f"long_name_of_an_optimizer_{i:02d}", "rank": i + 1,
         "label": f"LongNameThatSomebodyGaveToAnOptimizerNumber{i:02d} (momentum 0.9, nesterov, decoupled)"}
        for i in range(count)
    ]  # fmt: skip
    assignment = result["partition"]["assignments"][0]
    names = [
        f"model.backbone.stages.{chr(97 + i % 26) * (5 + i // 26)}.attention.projection_out"
        for i in range(count)
    ]
    result["partition"]["assignments"] = [
        {**assignment, "name": f"{name}.{name}", "reason": f"contracted over axis 1, {name[-20:]} " * 2}
        for name in names
    ]
    return result


@pytest.mark.parametrize("width", [390, 1200])
def test_long_names_break_and_leave_the_window_as_wide_as_it_is(show: Any, width: int) -> None:
    opened = show(render(with_long_names(30)), width=width)
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
    for name in opened.page.locator(".interval .name").all():
        left = name.evaluate(
            "e => e.getBoundingClientRect().left - e.closest('svg').getBoundingClientRect().left"
        )
        assert left >= 0
    first = opened.page.locator(".interval .name").first
    assert re.fullmatch(r"LongName.*….*umber00", first.text_content())
    rows = opened.page.locator("tbody th.code").all()
    assert len(rows) == 30
    # No column is squeezed to a word a line: 90 letters take 8 lines on a phone, and 3 in a wide window.
    assert max(row.bounding_box()["height"] for row in rows) < (200 if width == 390 else 120)


def test_on_paper_nothing_is_cut_off(show: Any) -> None:
    """A4 less its margins is 687 pixels wide."""
    opened = show(render(with_long_names(30)), width=687)
    opened.page.emulate_media(media="print")
    opened.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert opened.page.locator("details:not([open])").count() == 0
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= 687
    wide = "[...document.querySelectorAll('.scroll')].filter(s => s.scrollWidth > s.clientWidth).length"
    assert opened.page.evaluate(wide) == 0
    for stage in opened.page.locator(".stage svg").all():
        assert stage.bounding_box()["height"] <= 800  # it fits on a page, below its title


def test_a_wide_map_fits_on_paper(show: Any) -> None:
    cells = [HeatCell("1.83×10¹⁴", 0.5)] * 30
    heat = Heat("30 seeds", "rate", [str(i) for i in range(30)], [HeatRow("0.003", cells)] * 9)
    opened = show(page([Chapter("grid", "A grid", [Section("Map", [heat])])]), width=687)
    assert opened.page.locator(".scroll").evaluate("s => s.scrollWidth - s.clientWidth") > 0
    opened.page.emulate_media(media="print")
    assert opened.page.locator(".scroll").evaluate("s => s.scrollWidth - s.clientWidth") <= 0


def interrupted() -> dict[str, Any]:
    """Return a run in which only one optimizer has trials, and nothing has a final run."""
    result = sample()
    result["verdict"].update(
        sentence="Not finished, 3 of 39 runs have ended; so far nothing.", complete=False
    )
    for i, optimizer in enumerate(result["optimizers"]):
        optimizer["trials"] = optimizer["trials"][: 3 if i == 0 else 0]
        optimizer.update(curves=[], best=None, seconds_per_step=None, sensitivity={"low": None, "high": None})
        optimizer["final"] = {"median": None, "low": None, "high": None, "values": []}
        for key in ("steps_to_target", "seconds_to_target"):
            optimizer[key] = {"median": None, "reached": 0, "of": 0, "values": []}
    result.update(target=None, partition=None)
    return result


def diverged() -> dict[str, Any]:
    """Return a run in which every trial and every seed of every optimizer diverged."""
    result = sample()
    result["verdict"].update(sentence="No optimizer trained this model: every run diverged.", winners=[])
    for optimizer in result["optimizers"]:
        for trial in optimizer["trials"]:
            trial.update(final=None, diverged=True)
        for curve in optimizer["curves"]:
            curve["loss"][3:] = [None] * (len(curve["loss"]) - 3)
        optimizer["final"].update(median=None, low=None, high=None, values=[None] * 5)
    return result


def half_diverged() -> dict[str, Any]:
    """Return a run in which two of the five seeds of the best diverged from the first evaluation."""
    result = sample(optimizers=1)
    for curve in result["optimizers"][0]["curves"][:2]:
        curve["loss"] = [None] * len(curve["loss"])
    result["optimizers"][0]["final"].update(high=None)
    result["optimizers"][0]["final"]["values"][:2] = [None, None]
    return result


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (
            interrupted(),
            ["not complete", "no result", "No curves yet", "No partition was recorded", "No target"],
        ),
        (diverged(), ["every run diverged", "× ends a curve that diverged"]),
        (half_diverged(), ["– ∞", "diverged"]),
        ({"schema": 1}, ["No verdict yet", "No optimizer has a result yet", "The command was not recorded"]),
    ],
    ids=["interrupted", "diverged", "half diverged", "empty"],
)
def test_what_is_missing_is_said(show: Any, result: dict[str, Any], words: list[str]) -> None:
    opened = show(render(result))
    text = opened.page.locator("main").inner_text()
    for word in words:
        assert word in text
    assert "NaN" not in drawn(opened)
    for stage in opened.page.locator(".stage").all():
        assert stage.locator("svg").count() == 1
        stage.hover()


def test_values_that_a_log_scale_cannot_show_are_counted(show: Any) -> None:
    result = sample()
    result["optimizers"][0]["curves"][0]["loss"][5] = -1.0
    opened = show(render(result))
    assert "1 are not drawn" in plot(opened, CURVES).inner_text()


def test_far_outliers_leave_the_frame_and_that_is_said(show: Any) -> None:
    result = sample()
    result["optimizers"][2]["curves"][0]["loss"][3] = 1e30
    opened = show(render(result))
    assert "leave the frame" in plot(opened, CURVES).inner_text()


def test_a_trial_far_above_the_others_stays_in_sight(show: Any) -> None:
    result = sample()
    trials = result["optimizers"][0]["trials"]
    trials[0]["final"] = 1e12
    crosses = sum(t["diverged"] for o in result["optimizers"] for t in o["trials"])
    opened = show(render(result))
    frame = plot(opened, SENSITIVITY).locator(".stage svg").bounding_box()
    lost = [mark.bounding_box() for mark in plot(opened, SENSITIVITY).locator(".stage .lost").all()]
    assert len(lost) == crosses + 1
    assert all(frame["y"] <= box["y"] < frame["y"] + 100 for box in lost)


def test_several_runs_have_their_own_switches(show: Any) -> None:
    opened = show(render([sample(), sample(2)]))
    assert opened.page.locator("nav li").count() == 2
    assert opened.page.locator("article").count() == 2
    plot(opened, CURVES).get_by_role("button", name="AdamW", exact=True).click()
    assert plot(opened, 0).locator("g.series").count() == 2
    assert plot(opened, 3).locator("g.series").count() == 2  # the second run's two: none hidden
    swatch = "article:nth-of-type({}) .legend svg"
    colours = [opened.page.locator(swatch.format(n)).first.get_attribute("class") for n in (1, 2)]
    assert colours[0] == colours[1]
