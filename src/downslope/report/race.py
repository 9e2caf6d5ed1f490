"""A race of methods on one problem as a chapter: who arrives first, the curves, the paths.

`chapter(race)` reads the dict that `downslope minimize --race --json` prints (schema 1, kind "race").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from downslope.report.contours import Contours, Field, Mark
from downslope.report.numbers import counted, finite, number
from downslope.report.parts import Cell, Chapter, Code, Column, Facts, Fold, Note, Part, Section, Table
from downslope.report.plots import Axis, Guide, Lines, Scale, Series, Trace

KEEP = 400
"""Points of a curve on the page."""


def chapter(race: Mapping[str, Any]) -> Chapter:
    """Return the chapter of a race."""
    problem, runs = race["problem"], race["runs"]
    headline, _, evidence = str(race["sentence"]).partition(": ")
    return Chapter(
        name=str(problem["name"]),
        headline=f"{headline}:" if evidence else headline,
        evidence=evidence,
        eyebrow=[
            str(problem["name"]), counted(problem["n"], "unknown"), counted(len(runs), "method"),
            f"gradient: {problem['gradient']}",
        ],
        lede=str(problem.get("about") or ""),
        notes=[Note(text, "warning") for text in race.get("notes") or []],
        sections=[
            _table(race), *_paths(race), _curves(race, "value"), _curves(race, "gradient"), _setup(race),
        ],
    )  # fmt: skip


def _table(race: Mapping[str, Any]) -> Section:
    columns = [
        Column("method", "code"), Column("value", "number"), Column("gradient", "number", "‖g‖∞"),
        Column("evaluations", "number", "of the function, with its gradient"),
        Column("seconds", "number"), Column("ending"),
    ]  # fmt: skip
    rows = [
        [
            Cell(r["method"], series=i),
            Cell(number(r["value"], 6)),
            Cell(number(r["gradient"], 2)),
            Cell(number(r["evaluations"])),
            Cell(number(r["seconds"], 2)),
            Cell(r["ending"], tone="" if r["success"] else "warning"),
        ]
        for i, r in enumerate(race["runs"])
    ]
    leads = [i for i, r in enumerate(race["runs"]) if r["method"] in race["first"]]
    messages = [(r["method"], r["message"]) for r in race["runs"]]
    said = Fold("How each ended, in full", [Facts("Endings", [("", messages)])])
    return Section(
        "Arrival",
        [Table("Methods in the order of their arrival", columns, rows, leads), said],
        "In the order of arrival: converged to the lowest value with the fewest evaluations first.",
    )


def _curves(race: Mapping[str, Any], what: str) -> Section:
    floor = race["lowest"] if what == "value" else 0.0
    series = []
    for i, r in enumerate(race["runs"]):
        curve = r["curve"]
        at = kept(len(curve["evaluations"]), KEEP)
        y = [_above(curve[what][k], floor) for k in at]
        x = tuple([curve[name][k] for k in at] for name in ("evaluations", "seconds"))
        series.append(Series(r["method"], i, Trace(x, y)))
    if what == "value":
        title = "Value above the lowest" if floor else "Value"
        label = f"f − {number(floor, 6)}" if floor else "f"
        caption = (
            "The value of each step above the lowest that is known or was met. A log scale has no place for "
            "what is not above it."
        )
        guides: list[Guide] = []
    else:
        title, label = "Gradient", "‖g‖∞"
        caption = "The largest entry of the gradient at each step. The run ends when it is small enough."
        wanted = finite(race.get("tolerance"))
        guides = [Guide(wanted, f"asked for, {number(wanted, 2)}")] if wanted else []
    plot = Lines(
        f"{title} of each method",
        x=[Axis(name, _scale(series, i), switch=True) for i, name in enumerate(("evaluations", "seconds"))],
        y=Axis(label, "log", switch=True),
        series=series,
        guides=guides,
    )
    return Section(title, [plot], caption, half=True)


def _scale(series: Sequence[Series], axis: int) -> Scale:
    """Return "log" where one method takes many times as long as another."""
    ends = [s.main.x[axis][-1] or 0 for s in series if s.main.x[axis]]
    return "log" if ends and max(ends) > 20 * min(ends) else "linear"


def _above(value: Any, floor: float) -> float | None:
    v = finite(value)
    if v is None:
        return None
    # A value at the lowest, or below it by rounding, ends the curve: log has no place for it.
    return v - floor if v - floor > 0 else 0.0


def kept(count: int, most: int) -> list[int]:
    """Return indices of at most so many points: dense at first, the last kept.

    >>> kept(5, 10), kept(1000, 5)
    ([0, 1, 2, 3, 4], [0, 6, 32, 178, 999])
    """
    if count <= most:
        return list(range(count))
    dense = [round((count - 1) ** (i / (most - 1))) for i in range(most)]
    return sorted({0, *dense[1:]})


def _paths(race: Mapping[str, Any]) -> list[Section]:
    drawn = race.get("picture")
    if not drawn:
        return []
    series = []
    for i, r in enumerate(race["runs"]):
        path = r["path"]
        at = kept(len(path["x"]), KEEP)
        hints = [f"step {k}, f = {number(path['value'][k], 4)}" for k in at]
        xs, ys = ([finite(path[axis][k]) for k in at] for axis in ("x", "y"))
        series.append(
            Series(r["method"], i, Trace(([0.0 if v is None else v for v in xs],), ys, hints=hints))
        )
    field = drawn.get("field")
    marks = [Mark(drawn["start"][0], drawn["start"][1], "start", "start")] + [
        Mark(x, y, "") for x, y in drawn["minima"]
    ]
    names = drawn["names"]
    plot = Contours(
        "Paths of the methods over the level lines of the function",
        Axis(names[0]), Axis(names[1]),
        Field(tuple(drawn["frame"][0]), tuple(drawn["frame"][1]), field) if field else None,
        series, marks, (tuple(drawn["frame"][0]), tuple(drawn["frame"][1])),
    )  # fmt: skip
    parts: list[Part] = [plot]
    if drawn.get("without"):
        parts.append(Note(drawn["without"]))
    caption = (
        "Each path goes from step to step and ends at the mark. Level lines: as much ground between each "
        "two, closer towards the lowest. Black dots: known minima."
    )
    return [Section("Paths", parts, caption)]


def _setup(race: Mapping[str, Any]) -> Section:
    problem = race["problem"]
    facts: list[tuple[str, Sequence[tuple[str, str]]]] = [
        ("Problem", [
            ("name", str(problem["name"])), ("unknowns", str(problem["n"])),
            ("start", problem["start"]), ("source", str(problem.get("source") or "–")),
            ("lowest value known", number(problem.get("lowest"), 8)),
        ]),
        ("Where", [(name, str(value)) for name, value in race["where"].items()]),
    ]  # fmt: skip
    return Section("Set-up", [Facts("Set-up", facts), Code("Command", race["command"])])
