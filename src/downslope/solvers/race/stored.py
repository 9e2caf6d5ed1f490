"""The types of `race.json`, which whoever reads it holds it against."""

from __future__ import annotations

from typing import Annotated, Any, TypedDict

from downslope.shapes import DamagedError, Number, Whole, require, require_one_length, two


class Problem(TypedDict):
    """What was raced on."""

    name: str
    n: Whole
    start: str
    source: str
    lowest: Number | None
    gradient: str
    about: str


class Curve(TypedDict):
    """A run, step by step; what is null was not finite."""

    evaluations: list[Whole]
    seconds: list[Number]
    value: list[Number | None]
    gradient: list[Number | None]


class Path(TypedDict):
    """Where a run went, of two unknowns."""

    x: list[Number | None]
    y: list[Number | None]
    value: list[Number | None]


class Run(TypedDict):
    """What a method made of it."""

    method: str
    value: Number | None
    gradient: Number | None
    steps: Whole
    evaluations: Whole
    seconds: Number
    success: bool
    ending: str
    message: str
    curve: Curve
    path: Path | None


Pair = Annotated[list[Number], two]


class Picture(TypedDict):
    """A function of two unknowns."""

    frame: Annotated[list[Pair], two]
    field: list[list[Number | None]] | None
    without: str
    start: Pair
    minima: list[Pair]
    names: Annotated[list[str], two]


class Race(TypedDict):
    """`race.json`, schema 1."""

    problem: Problem
    runs: list[Run]
    lowest: Number
    first: list[str]
    tolerance: Number | None
    sentence: str
    notes: list[str]
    command: str
    where: dict[str, str]
    picture: Picture | None


def require_race(found: Any) -> None:
    """Hold a race that was read against its type; where there is a picture, every run has a path on it.

    Raises:
        DamagedError: it does not fit.

    """
    race = require(found, Race)
    picture = race["picture"]
    for i, run in enumerate(race["runs"]):
        require_one_length(run["curve"], ("evaluations", "seconds", "value", "gradient"), f"runs[{i}].curve")
        if run["path"] is not None:
            require_one_length(run["path"], ("x", "y", "value"), f"runs[{i}].path")
        elif picture is not None:
            raise DamagedError(f"runs[{i}].path is null, and there is a picture")
    field = picture and picture["field"]
    if field is not None and (len(field) < 2 or {len(row) for row in field} != {max(2, len(field[0]))}):
        raise DamagedError("picture.field are not rows of one length")
