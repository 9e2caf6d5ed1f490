"""One HTML page that shows what was found: opened from a file, sent by mail, printed.

The design, from outside in:

- `render(result)` turns the result dict of a comparison, or several, into a page.
- `comparison.chapter` decides what is said of a run and in which order; `ranking`, `curves`,
  `partition` and `setup` fill the sections. Only these five know a result.
- `parts` and `plots` are what any page is built from: tables, facts, code, shares, line plots,
  interval plots, as plain values. `page` turns chapters of them into HTML.
- `templates/` has one file a part; `assets/` has the style sheet and the scripts. A plot is JSON;
  `plot.js` gives it frame, legend, switches and crosshair; `lines.js`, `intervals.js` and
  `contours.js` draw it.

A page for something else (a learning-rate sweep, a profile) is a function from its data to
`Chapter`s, handed to `page`.
"""

from downslope.report.contours import Contours, Field, Mark
from downslope.report.page import LIMIT, page, render
from downslope.report.parts import (
    Cell,
    Chapter,
    Code,
    Column,
    Facts,
    Fold,
    Note,
    Section,
    Share,
    Shares,
    Table,
)
from downslope.report.plots import Axis, Guide, Interval, Intervals, Lines, Series, Trace

__all__ = [
    "LIMIT",
    "Axis",
    "Cell",
    "Chapter",
    "Code",
    "Column",
    "Contours",
    "Facts",
    "Field",
    "Fold",
    "Guide",
    "Interval",
    "Intervals",
    "Lines",
    "Mark",
    "Note",
    "Section",
    "Series",
    "Share",
    "Shares",
    "Table",
    "Trace",
    "page",
    "render",
]
