"""A picture of a function of two unknowns: its level lines, and paths over them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from downslope.report.numbers import finite, rounded
from downslope.report.parts import Part
from downslope.report.plots import Axis, Lists, Series, Values, trace_spec


@dataclass(frozen=True)
class Field:
    """Values of a function on an even grid: rows from low to high y, each from low to high x.

    A value that is not finite leaves a hole in the level lines.
    """

    x: tuple[float, float]
    y: tuple[float, float]
    rows: Sequence[Values]

    def __post_init__(self) -> None:
        widths = {len(row) for row in self.rows}
        if len(widths) != 1 or min(widths) < 2 or len(self.rows) < 2:
            raise ValueError(
                f"a field of {len(self.rows)} rows of {sorted(widths)} values is no grid of 2×2 or more"
            )

    def levels(self, count: int = 16) -> list[float]:
        """Return values for level lines: as much ground between each two, closer towards the lowest."""
        known = (finite(v) for row in self.rows for v in row)
        values = sorted(v for v in known if v is not None)
        if not values:
            return []
        places = [((i + 1) / (count + 1)) ** 2 for i in range(count)]
        return sorted({values[round(place * (len(values) - 1))] for place in places})


@dataclass(frozen=True)
class Mark:
    """A point of a `Contours` with its name: a known minimum, the start."""

    x: float
    y: float
    name: str
    kind: Literal["minimum", "start"] = "minimum"


@dataclass(frozen=True)
class Contours(Part):
    """Paths over the level lines of a function of two unknowns.

    Args:
        label: what the plot shows, for those who cannot see it.
        x: the first unknown.
        y: the second unknown.
        field: the function's values on a grid, or None: paths alone, within `frame`.
        series: the paths; their x and y are the points in order, hints what is said of each.
        marks: points with names.
        frame: ((low, high) of x, (low, high) of y) that is shown.

    """

    template: ClassVar[str] = "plot.html"
    label: str
    x: Axis
    y: Axis
    field: Field | None
    series: Sequence[Series]
    marks: Sequence[Mark]
    frame: tuple[tuple[float, float], tuple[float, float]]

    def spec(self) -> dict[str, Any]:
        """Return what plot.js reads."""
        lists = Lists()
        field = self.field and {
            "x": list(self.field.x),
            "y": list(self.field.y),
            "rows": [[rounded(v) for v in row] for row in self.field.rows],
            "levels": [rounded(v) for v in self.field.levels()],
        }
        return {
            "kind": "contours",
            "label": self.label,
            "x": [self.x.spec()],
            "y": self.y.spec(),
            "frame": [list(side) for side in self.frame],
            "field": field,
            "series": [
                {"name": s.name, "colour": s.colour, "main": trace_spec(s.main, lists), "thin": []}
                for s in self.series
            ],
            "marks": [{"x": m.x, "y": m.y, "name": m.name, "kind": m.kind} for m in self.marks],
            "lists": lists.values,
        }
