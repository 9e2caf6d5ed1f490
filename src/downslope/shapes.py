"""What is read from a file of JSON, held against the shape in which it was written.

A shape is a value that says what fits:

    str, bool, int, float     that type; a float may be a whole number, and no number is infinite or NaN
    None                      null
    (shape, shape)            either
    {"a", "b"}                one of these texts
    [shape]                   a list of it, and Exactly(2, shape) one of so many
    {str: shape}              an object with any names
    {"name": shape}           an object with these names, and perhaps others; "name?" may be missing
    Positive(int)             above 0, and so for float
    Columns(name=[shape])     lists of one length
    Rows(shape)               lists of one length, two of two at least

So damage is told once, where a file is read, by the entry that it is in, and what comes after need not ask.
"""

from __future__ import annotations

import json
import math
import sys
from dataclasses import dataclass
from typing import Any, TypeAlias

Shape: TypeAlias = Any


class DamagedError(ValueError):
    """What was read is not what was written: the entry, what stands there, what was expected."""


@dataclass(frozen=True)
class Positive:
    """A number above 0."""

    kind: type


@dataclass(frozen=True)
class Exactly:
    """A list of so many."""

    count: int
    shape: Shape


class Columns(dict[str, Shape]):
    """Lists that belong together, entry by entry."""


@dataclass(frozen=True)
class Rows:
    """A list of rows, each as long as the others: two of two at least."""

    shape: Shape


LARGEST = 2**63
"""Whole numbers that count something are below this."""


def parsed(text: str | bytes) -> Any:
    """Return what a text of JSON says.

    Raises:
        DamagedError: it is no JSON; NaN and Infinity are none either.

    """

    def refuse(word: str) -> None:
        raise DamagedError(f"{word} is no JSON")

    try:
        return json.loads(text, parse_constant=refuse)
    except DamagedError:
        raise
    except json.JSONDecodeError as error:
        raise DamagedError(f"line {error.lineno} is no JSON: {error.msg}") from None
    except RecursionError:
        raise DamagedError("it is nested too deep") from None
    except ValueError as error:  # bytes that are no UTF-8, a number of thousands of digits
        raise DamagedError(str(error).partition(";")[0]) from None


def require(value: Any, shape: Shape, entry: str = "") -> None:
    """Hold a value against a shape.

    Raises:
        DamagedError: it does not fit; `entry` is where the value stands.

    >>> require({"runs": [{"x": 1.5}, {"x": "1"}]}, {"runs": [{"x": float}]})
    Traceback (most recent call last):
    downslope.shapes.DamagedError: runs[1].x is "1": expected a number

    """
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            raise _wrong(value, shape, entry)
        if str in shape:
            for name, one in value.items():
                require(one, shape[str], _inside(entry, name))
            return
        for key, one in shape.items():
            name = key.removesuffix("?")
            if name in value:
                require(value[name], one, _inside(entry, name))
            elif name == key:
                raise DamagedError(f"{_inside(entry, name)} is missing")
        if isinstance(shape, Columns) and len({len(value[name]) for name in shape}) > 1:
            raise DamagedError(f"{entry}: {', '.join(shape)} are not of one length")
    elif isinstance(shape, (list, Exactly)):
        if not isinstance(value, list) or (isinstance(shape, Exactly) and len(value) != shape.count):
            raise _wrong(value, shape, entry)
        for i, one in enumerate(value):
            require(one, shape[0] if isinstance(shape, list) else shape.shape, f"{entry}[{i}]")
    elif isinstance(shape, Rows):
        require(value, [[shape.shape]], entry)
        if len(value) < 2 or {len(row) for row in value} != {max(2, len(value[0]))}:
            raise DamagedError(f"{entry} are not rows of one length")
    elif isinstance(shape, tuple):
        inside = [one for one in shape if _holds(one) is not None and isinstance(value, _holds(one))]
        if inside:
            require(value, inside[0], entry)
        elif not any(_fits(value, one) for one in shape):
            raise _wrong(value, shape, entry)
    elif not _fits(value, shape):
        raise _wrong(value, shape, entry)


def _holds(shape: Shape) -> Any:
    """Return what a shape with shapes inside is of; None where there are none inside."""
    return dict if isinstance(shape, dict) else list if isinstance(shape, (list, Exactly, Rows)) else None


def _fits(value: Any, shape: Shape) -> bool:
    if isinstance(shape, Positive):
        return _fits(value, shape.kind) and value > 0
    if isinstance(shape, (set, frozenset)):
        return isinstance(value, str) and value in shape
    if shape is None:
        return value is None
    if not isinstance(shape, type):
        return False
    if shape in (int, float):
        if shape is float and isinstance(value, float):
            return math.isfinite(value)
        largest = LARGEST if shape is int else sys.float_info.max
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) < largest
    return isinstance(value, shape)


def _wrong(value: Any, shape: Shape, entry: str) -> DamagedError:
    shown = json.dumps(value, ensure_ascii=False)
    shown = shown if len(shown) <= 40 else f"{shown[:37]}…"
    return DamagedError(f"{entry or 'the whole'} is {shown}: expected {_said(shape)}")


def _said(shape: Shape) -> str:
    """Return a shape in words.

    >>> _said((float, None)), _said(Positive(int)), _said({"tune", "final"})
    ('a number or null', 'a positive whole number', 'final or tune')

    """
    if isinstance(shape, tuple):
        return " or ".join(map(_said, shape))
    if isinstance(shape, Positive):
        return "a positive " + _said(shape.kind).removeprefix("a ")
    if isinstance(shape, (set, frozenset)):
        names = sorted(shape)
        return " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))
    if isinstance(shape, Exactly):
        return f"a list of {shape.count}"
    if _holds(shape) is list:
        return "a list"
    if _holds(shape) is dict or shape is dict:
        return "an object"
    words = {str: "a text", bool: "true or false", int: "a whole number", float: "a number", None: "null"}
    return words[shape]


def _inside(entry: str, name: str) -> str:
    return f"{entry}.{name}" if entry else name
