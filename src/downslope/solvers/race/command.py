"""`downslope minimize`: what the command line asks for, done and shown."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from downslope.compare.folder import (
    RunFolder,
    as_text,
    plain_name,
    read_bytes,
    require_writable,
    write_file,
)
from downslope.compare.stored import Schema
from downslope.errors import UsageError
from downslope.report import page
from downslope.report.numbers import number
from downslope.report.race import chapter
from downslope.shapes import DamagedError, parsed, require
from downslope.solvers import Stop
from downslope.solvers.methods import method_of
from downslope.solvers.race.picture import picture
from downslope.solvers.race.run import SCHEMA, check, race
from downslope.solvers.race.stored import require_race
from downslope.solvers.race.target import target, vector

FILE = "race.json"


def run_minimize(
    what: str | None,
    *,
    method: str,
    racers: str | None,
    stop: dict[str, Any],
    options: list[str],
    bounds: str | None,
    out: Path | None,
    command: str,
    as_json: bool,
    **given: Any,
) -> int:
    """Solve a problem with one method, or race several, show what came of it, and return the exit code."""
    told = Console(stderr=True, highlight=False)
    if racers is None and "," in method:
        raise UsageError(f"--method {method}: expected one method; --race {method} runs several")
    methods = [name.strip() for name in (method if racers is None else racers).split(",")]
    methods = [name for name in methods if name]
    if not methods:
        option = "method" if racers is None else "race"
        raise UsageError(f"--{option} names no method: expected names with commas between")
    own = _options(options, methods)
    for name in methods:
        method_of(name, **own.get(name, {}))
    twice = next((name for name in methods if methods.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"method {twice!r} stands twice in --race: name each once")
    until = _stop(stop)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_printed_aside())  # what the user's function prints
        asked = target(what, **given)
        stack.callback(asked.close)
        check(asked, methods)
        wanted = racers is not None or out is not None
        at = _page_of(asked.name, out) if wanted else None
        found = race(
            asked, methods, until, options=own, bounds=_bounds(bounds), command=command,
            progress=told.is_terminal and len(methods) == 1,
            began=lambda name: told.print(f"{name} …", style="dim") if len(methods) > 1 else None,
        )  # fmt: skip
        if wanted:
            found["picture"] = picture(asked, found)
    if as_json:
        sys.stdout.write(as_text(found))
    else:
        show(found, raced=racers is not None)
    if at is not None:
        _write(found, at, whole=at != out)
        if not as_json:
            Console(highlight=False).print(f"\nReport: {at}", markup=False, soft_wrap=True)
    interrupted = any(r["status"] == "interrupted" for r in found["runs"])
    return 130 if interrupted else 0 if any(r["success"] for r in found["runs"]) else 1


@contextlib.contextmanager
def _printed_aside() -> Iterator[None]:
    """Send what is printed to standard error, by compiled code too, which knows nothing of `sys.stdout`."""
    sys.stdout.flush()
    with contextlib.ExitStack() as stack, contextlib.redirect_stdout(sys.stderr):
        with contextlib.suppress(OSError):  # one of them is closed
            kept = os.dup(1)
            stack.callback(os.close, kept)
            os.dup2(2, 1)
            stack.callback(os.dup2, kept, 1)
        with contextlib.suppress(
            OSError, TypeError, AttributeError
        ):  # what C still holds back; not on Windows
            stack.callback(ctypes.CDLL(None).fflush, None)
        yield


def show(found: dict[str, Any], *, raced: bool) -> None:
    """Print what was found."""
    out = Console(highlight=False)
    out.print()
    if raced:
        out.print(found["sentence"], style="bold", markup=False)
        out.print()
        out.print(table(found))
        out.print(_legend(found), style="dim", markup=False)
    else:
        _one(out, found["runs"][0], found)
    for note in found["notes"] if raced else []:
        out.print(f"Note: {note}", markup=False)
    for run in found["runs"] if raced else []:
        if run["status"] in ("raised", "nonfinite", "kink", "stalled", "unbounded"):
            out.print(f"{run['method']}: {run['message']}", markup=False)


def _one(out: Console, run: dict[str, Any], found: dict[str, Any]) -> None:
    out.print(run["message"], style="bold", markup=False)
    facts = [
        ("value", f"{run['value']:.12g}" if run["value"] is not None else "not finite"),
        ("gradient", number(run["gradient"], 3) + _asked(found)),
        ("steps", f"{run['steps']}, {run['evaluations']} evaluations, {run['seconds']:.3g} s"),
        ("method", f"{run['method']}; gradient: {found['problem']['gradient']}"),
    ]
    if run["x"] is not None:
        facts.insert(0, ("x", ", ".join("nan" if v is None else f"{v:.10g}" for v in run["x"])))
    shown = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for name, value in facts:
        shown.add_row(Text(name, style="dim"), Text(value))
    out.print()
    out.print(shown)


def table(found: dict[str, Any]) -> Table:
    """Return the table of a race; it fits 80 columns."""
    shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for header in ("method", "value", "gradient", "evals", "seconds", "ending"):
        shown.add_column(
            header, justify="left" if header in ("method", "ending") else "right", overflow="fold"
        )
    for run in found["runs"]:
        shown.add_row(
            run["method"], number(run["value"], 6), number(run["gradient"], 2), str(run["evaluations"]),
            number(run["seconds"], 2), run["ending"],
            style="bold" if run["method"] in found["first"] else "",
        )  # fmt: skip
    return shown


def _legend(found: dict[str, Any]) -> str:
    return (
        f"Evaluations: of the function with its gradient. Gradient: its largest entry{_asked(found)}. "
        f"In the order of arrival at the lowest value, "
        f"{number(found['lowest'], 6)}."
    )


def _asked(found: dict[str, Any]) -> str:
    return "" if found["tolerance"] is None else f", asked for {number(found['tolerance'], 2)}"


def _page_of(name: str, out: Path | None) -> Path:
    """Return where the page goes: to an .html file that was asked for, else into a folder.

    Raises:
        UsageError: nothing can be written there.

    """
    if out is not None and out.suffix == ".html":
        require_writable(out, "--out")
        return out
    folder = out or Path("runs") / f"race-{plain_name(name)}"
    RunFolder(folder).require_possible("a race")
    return folder / "report.html"


def _write(found: dict[str, Any], at: Path, *, whole: bool) -> None:
    """Write the page, and where `whole` race.json beside it, from which the page can be made again."""
    if whole:
        write_file(at.with_name(FILE), as_text(found), "--out")
    write_file(at, page([chapter(found)]), "--out")


def run_report(folders: list[Path], out: Path | None, *, as_json: bool) -> int:
    """Write the page of one race into its folder, or of several into one file, and say where."""
    if len(folders) > 1 and out is None:
        raise UsageError(f"{len(folders)} races make one page: say where with --out page.html")
    chapters = []
    for folder in folders:
        try:
            found = parsed(read_bytes(folder / FILE))
            schema = require(found, Schema)["schema"]
            if schema != SCHEMA:
                raise UsageError(f"{folder / FILE} has schema {schema}: this version reads {SCHEMA}")
            require_race(found)
        except DamagedError as error:
            raise UsageError(f"{folder / FILE} is damaged ({error}): run the race again") from None
        chapters.append(chapter(found))
    at = out or folders[0] / "report.html"
    write_file(at, page(chapters), "--out")
    if as_json:
        sys.stdout.write(json.dumps({"report": str(at), "runs": [str(f) for f in folders]}, indent=1) + "\n")
    else:
        Console(highlight=False).print(f"Report: {at}", markup=False, soft_wrap=True)
    return 0


def _options(texts: list[str], methods: list[str]) -> dict[str, dict[str, Any]]:
    """Return the options of each method: `lr=0.1` is for all, `adam.lr=0.1` for one.

    >>> _options(["adam.lr=0.1"], ["adam", "cg"])
    {'adam': {'lr': 0.1}}
    >>> _options(["adam.lr=0.1", "lr=1"], ["adam", "gd"])  # what is for one counts, wherever it stands
    {'adam': {'lr': 0.1}, 'gd': {'lr': 1}}

    """
    given: dict[tuple[str, str], Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        method, dot, option = name.strip().rpartition(".")
        if not equals or not option:
            raise UsageError(
                f"--option {text}: expected option=value or method.option=value, as in adam.lr=0.1"
            )
        if dot and method not in methods:
            raise UsageError(f"--option {text}: {method!r} is not run; methods are {', '.join(methods)}")
        try:
            meant = json.loads(value)
        except ValueError:
            meant = value
        if (method, option) in given:
            raise UsageError(f"--option {text}: {name.strip()} stands twice; give it once")
        given[method, option] = meant
    found: dict[str, dict[str, Any]] = {}
    for (method, option), meant in sorted(given.items(), key=lambda one: one[0][0] != ""):
        for name in [method] if method else methods:
            found.setdefault(name, {})[option] = meant
    return found


def _stop(given: dict[str, Any]) -> Stop:
    """Return when to stop; an error says the option, and not what the library calls it."""
    for name, value in given.items():
        try:
            Stop(**{name: value})
        except UsageError as error:
            raise UsageError(f"--{name} {value:g}: {str(error).partition('): ')[2]}") from None
    return Stop(**given)


def _bounds(text: str | None) -> Any:
    """Return bounds as (low, high) an unknown: `0:1,:5,-1:` with nothing for no bound."""
    if text is None:
        return None
    pairs = []
    for word in text.split(","):
        low, colon, high = word.partition(":")
        if not colon:
            raise UsageError(f"--bounds {text!r}: {word!r} is no pair; expected low:high, as in 0:1,:5,-1:")
        sides = (low.strip(), high.strip())
        pairs.append(tuple(float(vector(side, "--bounds")[0]) if side else None for side in sides))
    return pairs
