"""Plots as JSON: what is to be seen, in numbers and words; plot.js decides how it is drawn.

Three kinds serve every page. `Lines` draws series of traces over one x axis (or several to choose
from): curves, sweeps, races, slopes. `Intervals` draws one row a name: a value, an interval and the
single values behind it. `Contours` (`downslope.report.contours`) draws paths over the
level lines of a function of two unknowns. A series keeps one colour through a page by its number.

Equal lists are written once (`x` of a hundred curves is often one list of steps), and numbers to
five significant digits (thin traces: four), so that a page stays small.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from downslope.report.numbers import finite, rounded
from downslope.report.parts import Part

Scale = Literal["linear", "log"]
Values = Sequence[float | int | None]


@dataclass(frozen=True)
class Axis:
    """A label with its unit, the scale at first sight, and whether the reader may switch it to or from log.

    `name` is the word on the button where there are several axes to choose from.
    """

    label: str
    scale: Scale = "linear"
    switch: bool = False
    name: str = ""

    def spec(self) -> dict[str, Any]:
        """Return what plot.js reads."""
        return {
            "label": self.label,
            "scale": self.scale,
            "switch": self.switch,
            "name": self.name or self.label,
        }


@dataclass(frozen=True)
class Trace:
    """Points in order: one list of x for each x axis of the plot, one of y; None in y is no finite value.

    `name` says what the trace is ("seed 3"), `hints` has one text a point ("weight decay 0.01").
    """

    x: tuple[Values, ...]
    y: Values
    name: str = ""
    hints: Sequence[str] = ()

    def __post_init__(self) -> None:
        for values in self.x:
            if len(values) != len(self.y):
                raise ValueError(f"trace {self.name!r} has {len(values)} values of x for {len(self.y)} of y")
        if self.hints and len(self.hints) != len(self.y):
            raise ValueError(f"trace {self.name!r} has {len(self.hints)} hints for {len(self.y)} points")


@dataclass(frozen=True)
class Series:
    """What one key of the legend shows and hides: a main trace drawn thick, and thin ones around it.

    `best` is the index of the point of the main trace that is ringed, `span` a stretch of x that
    is drawn as a bar at the foot.
    """

    name: str
    colour: int
    main: Trace
    thin: Sequence[Trace] = ()
    best: int | None = None
    span: tuple[float, float] | None = None


@dataclass(frozen=True)
class Guide:
    """A line across the plot at a value of y, with a word: a target."""

    value: float
    label: str


@dataclass(frozen=True)
class Lines(Part):
    """Series over an x axis, or several to choose from.

    Args:
        label: what the plot shows, for those who cannot see it.
        x: the x axes; with more than one the reader chooses.
        y: the y axis.
        series: what is drawn.
        guides: lines across.
        points: marks on every point of the main traces, read one by one; else curves, read at one x.
        missing: what a None in y is: a "gap", or a mark at the "top" edge.
        missing_label: the word for it in the tooltip and at the edge: "diverged".
        span_label: what the bars at the foot mean.

    """

    template: ClassVar[str] = "plot.html"
    label: str
    x: Sequence[Axis]
    y: Axis
    series: Sequence[Series]
    guides: Sequence[Guide] = ()
    points: bool = False
    missing: Literal["gap", "top"] = "gap"
    missing_label: str = ""
    span_label: str = ""

    def spec(self) -> dict[str, Any]:
        """Return what plot.js reads."""
        lists = Lists()
        return {
            "kind": "lines",
            "label": self.label,
            "x": [axis.spec() for axis in self.x],
            "y": self.y.spec(),
            "series": [
                {
                    "name": s.name,
                    "colour": s.colour,
                    "best": s.best,
                    "span": s.span and [rounded(v) for v in s.span],
                    "main": trace_spec(s.main, lists),
                    "thin": [trace_spec(t, lists, 4) for t in s.thin],
                }
                for s in self.series
            ],
            "guides": [
                {"value": rounded(g.value), "label": g.label}
                for g in self.guides
                if finite(g.value) is not None
            ],
            "points": self.points,
            "missing": self.missing,
            "missingLabel": self.missing_label,
            "spanLabel": self.span_label,
            "lists": lists.values,
        }


@dataclass(frozen=True)
class Interval:
    """One row of `Intervals`: a value with its interval, and the values behind it by name."""

    name: str
    colour: int
    value: float | None
    low: float | None
    high: float | None
    values: Values = ()
    names: Sequence[str] = ()
    absent: str = ""
    """What is written where there is no value."""


@dataclass(frozen=True)
class Intervals(Part):
    """Rows of a value with its interval along one axis, in the order given."""

    template: ClassVar[str] = "plot.html"
    label: str
    axis: Axis
    rows: Sequence[Interval]

    def spec(self) -> dict[str, Any]:
        """Return what plot.js reads."""
        return {
            "kind": "intervals",
            "label": self.label,
            "x": [self.axis.spec()],
            "rows": [
                {
                    "name": r.name,
                    "colour": r.colour,
                    "value": rounded(r.value),
                    "low": rounded(r.low),
                    "high": rounded(r.high),
                    "values": [rounded(v) for v in r.values],
                    "names": list(r.names),
                    "absent": r.absent,
                }
                for r in self.rows
            ],
        }


class Lists:
    """Lists of numbers, each kept once and known by its index."""

    def __init__(self) -> None:
        self.values: list[list[float | int | None]] = []
        self._index: dict[tuple[float | int | None, ...], int] = {}

    def index(self, values: Values, digits: int = 5) -> int:
        """Return the index under which the values, rounded to so many digits, are kept."""
        key = tuple(rounded(v, digits) for v in values)
        if key not in self._index:
            self._index[key] = len(self.values)
            self.values.append(list(key))
        return self._index[key]


def trace_spec(trace: Trace, lists: Lists, digits: int = 5) -> dict[str, Any]:
    """Return what plot.js reads of a trace; its values go into the lists."""
    spec: dict[str, Any] = {
        "x": [lists.index(x, digits) for x in trace.x],
        "y": lists.index(trace.y, digits),
    }
    if trace.name:
        spec["name"] = trace.name
    if trace.hints:
        spec["hints"] = list(trace.hints)
    return spec
