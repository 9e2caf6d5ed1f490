"""The parts a page is made of.

A page is a sequence of chapters (one a run); a chapter is a headline with sections; a section is a
title with parts. A part holds what is to be seen, as plain values, and names the template that
draws it. Nothing here knows what a run is: a new kind of page is a function from its data to
chapters, with no new template, and a new kind of part is a class here with a template of its name.

Plots (`downslope.report.plots`) are parts too: they hold JSON, and plot.js draws it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal


@dataclass(frozen=True)
class Part:
    """Anything a section can hold. `template` is the file in templates/ that draws it."""

    template: ClassVar[str] = ""


@dataclass(frozen=True)
class Note(Part):
    """A sentence in its own line; `tone` "warning" marks what the reader should not miss."""

    template: ClassVar[str] = "note.html"
    text: str
    tone: Literal["quiet", "warning"] = "quiet"


@dataclass(frozen=True)
class Column:
    """A column of a `Table`: its head, what its cells are, and a longer word on what they mean."""

    head: str
    kind: Literal["text", "number", "code"] = "text"
    hint: str = ""


@dataclass(frozen=True)
class Cell:
    """One cell: the text, a quiet note after it, and what marks it.

    `series` is the number of a colour of the plots, `role` a role of a parameter: both put a mark of
    that colour before the text, and `rank` a number. `folded` holds what the text stands for, shown
    on demand.
    """

    text: str
    note: str = ""
    tone: Literal["", "quiet", "strong", "warning"] = ""
    rank: str = ""
    series: int | None = None
    role: str = ""
    folded: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table(Part):
    """Rows under heads. The first column names the row and stays in sight when a phone scrolls."""

    template: ClassVar[str] = "table.html"
    label: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    leads: Sequence[int] = ()
    """Indices of the rows that are set apart as the answer."""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(
                    f"a row of {len(row)} cells in table {self.label!r} of {len(self.columns)} columns"
                )


@dataclass(frozen=True)
class Facts(Part):
    """Names with their values under titles, as an environment or a plan."""

    template: ClassVar[str] = "facts.html"
    label: str
    groups: Sequence[tuple[str, Sequence[tuple[str, str]]]]


@dataclass(frozen=True)
class Code(Part):
    """Text to be copied: a command, a configuration."""

    template: ClassVar[str] = "code.html"
    label: str
    text: str


@dataclass(frozen=True)
class Share:
    """One piece of a whole: its name, its amount, how the amount is said, and its role's colour."""

    name: str
    amount: float
    said: str
    role: str = ""


@dataclass(frozen=True)
class Shares(Part):
    """A whole as one bar of pieces, each with its name and amount."""

    template: ClassVar[str] = "shares.html"
    label: str
    pieces: Sequence[Share]

    @property
    def total(self) -> float:
        """Sum of the amounts; 1 where there is none, so that a share is never a division by zero."""
        return sum(piece.amount for piece in self.pieces) or 1.0


@dataclass(frozen=True)
class Fold(Part):
    """Parts behind a line that opens."""

    template: ClassVar[str] = "fold.html"
    title: str
    parts: Sequence[Part]


@dataclass(frozen=True)
class Section:
    """A title, a caption that says how to read what follows, and parts. `half` shares a wide line."""

    title: str
    parts: Sequence[Part]
    caption: str = ""
    half: bool = False


@dataclass(frozen=True)
class Chapter:
    """One run, or any other answer: a headline large, what it is about, what is missing, sections.

    `evidence` follows the headline in the same size but quiet ink; `eyebrow` stands above it.
    """

    name: str
    headline: str
    sections: Sequence[Section]
    evidence: str = ""
    eyebrow: Sequence[str] = ()
    lede: str = ""
    notes: Sequence[Note] = field(default=())
