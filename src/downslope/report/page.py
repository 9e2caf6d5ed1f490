"""Chapters become one HTML page that stands alone: styles, scripts and data inside, nothing fetched.

Everything that comes from outside is escaped: text by Jinja's autoescape, plots as JSON in a data
block in which `<`, `>` and `&` are written as code points. A content security policy lets only the
page's own script run, known by its hash, and forbids every request.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import metadata, resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from downslope.report.comparison import chapter
from downslope.report.parts import Chapter, Part
from downslope.report.result import Run, checked, colours_of

LIMIT = 500_000
"""Bytes a page stays under: it is sent around by mail and chat."""

POINTS = 24_000
"""Points that all thin curves of a page may have: about 14 bytes each."""

SCRIPTS = ("scales.js", "plot.js", "lines.js", "intervals.js", "contours.js", "page.js")


def render(results: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> str:
    """Return the page of one comparison, or of several, a chapter each.

    Args:
        results: result dicts of `downslope compare` (schema 1).

    Raises:
        TypeError: not a dict or a sequence of them.
        ValueError: no result, or a schema that this version does not read.

    """
    given = [results] if isinstance(results, Mapping) else list(results)
    if not given:
        raise ValueError("no result to report: give at least one run")
    colours = colours_of([checked(result) for result in given])
    runs, points = [Run(result, colours) for result in given], POINTS
    while True:
        html = page([chapter(run, points // len(runs)) for run in runs])
        if len(html.encode()) < LIMIT or points < 1000:
            return html
        points //= 2


def page(chapters: Sequence[Chapter]) -> str:
    """Return chapters as one self-contained HTML page."""
    script = f"(() => {{\n{''.join(asset(name) for name in SCRIPTS)}}})();"
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    title = chapters[0].name if len(chapters) == 1 else f"{len(chapters)} runs"
    html = (
        environment()
        .get_template("page.html")
        .render(
            title=f"{title} · Downslope",
            chapters=chapters,
            style=Markup(asset("page.css")),
            script=Markup(script),
            script_hash=digest,
            version=metadata.version("downslope"),
        )
    )
    return html.encode(errors="replace").decode()  # a path need not be UTF-8, a page must


@cache
def asset(name: str) -> str:
    """Return the text of a file in assets/."""
    return resources.files("downslope.report").joinpath("assets", name).read_text("utf-8")


@cache
def environment() -> Environment:
    """Return Jinja's environment: everything escaped, `draw` for parts, filters for JSON, text and names."""
    env = Environment(
        loader=PackageLoader("downslope.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.globals["draw"] = draw
    env.filters["data"] = data
    env.filters["whole"] = whole
    env.filters["name"] = name
    return env


def draw(part: Part) -> Markup:
    """Return a part as HTML."""
    return Markup(environment().get_template(part.template).render(part=part))


def whole(text: str) -> Markup:
    """Return text in which no line breaks within an option of the command line.

    >>> print(whole("more --seeds, a <b>"))
    more <span class="whole">--seeds</span>, a &lt;b&gt;

    """
    return Markup(re.sub(r"--\w[\w-]*", r'<span class="whole">\g<0></span>', str(escape(text))))


def name(text: str) -> Markup:
    """Return a name of code that breaks after its dots, slashes and underscores, where it has to.

    >>> print(name("block.0/kernel_a<b"))
    block.<wbr>0/<wbr>kernel_<wbr>a&lt;b

    """
    return Markup(re.sub(r"([./_]+)(?=\w)", r"\1<wbr>", str(escape(text))))


def data(value: object) -> Markup:
    r"""Return a value as JSON that is safe inside a script element of the page.

    >>> print(data({"name": "</script>"}))
    {"name":"\u003c/script\u003e"}
    """
    text = json.dumps(value, allow_nan=False, separators=(",", ":"), ensure_ascii=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)
