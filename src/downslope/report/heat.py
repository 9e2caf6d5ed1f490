"""A grid of values as a heat map: a table whose cells are shaded, so that it is read as well as seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from downslope.report.parts import Part


@dataclass(frozen=True)
class HeatCell:
    """One cell: the text, the shade from 0 to 1 (None where nothing was reached), and a title."""

    text: str
    level: float | None
    title: str = ""


@dataclass(frozen=True)
class HeatRow:
    """A row: its name and its cells."""

    name: str
    cells: Sequence[HeatCell]


@dataclass(frozen=True)
class Heat(Part):
    """Rows by columns; `corner` says what the rows' names are, `leads` which rows are set apart."""

    template: ClassVar[str] = "heat.html"
    label: str
    corner: str
    columns: Sequence[str]
    rows: Sequence[HeatRow]
    leads: Sequence[int] = ()

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row.cells) != len(self.columns):
                raise ValueError(
                    f"a row of {len(row.cells)} cells in map {self.label!r} of {len(self.columns)} columns"
                )
            for cell in row.cells:
                if cell.level is not None and not 0 <= cell.level <= 1:
                    raise ValueError(f"level = {cell.level} in map {self.label!r}: expected 0 to 1, or None")
