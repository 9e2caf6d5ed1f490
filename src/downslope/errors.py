"""The one kind of error that says: the input is wrong, and here is the way out.

Library code raises `UsageError` (a `ValueError`) with one line that names the value, what was
expected and what to do. The command line prints that line and exits with code 2; any other
exception is a defect of the program and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UsageError(ValueError):
    """Bad input, told in one line: what it was, what was expected, what to do."""


class MissingPackageError(UsageError):
    """A package is needed that is not installed; the line names the extra that brings it."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs {package}, which is not installed: pip install 'downslope[{extra}]'"
        )


def closest(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for the known name nearest to this one, or nothing.

    >>> closest("adamv", ["sgd", "adamw"])
    "; did you mean 'adamw'?"
    >>> closest("lion", ["sgd", "adamw"])
    ''

    """
    found = difflib.get_close_matches(name.lower(), [k.lower() for k in known], n=1, cutoff=0.55)
    return f"; did you mean {found[0]!r}?" if found else ""


def one_line(error: BaseException) -> str:
    """Return an exception as `Type: message` on one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def a_type(value: object) -> str:
    """Return what kind of object a value is, with its article.

    >>> a_type(3), a_type("3")
    ('an int', 'a str')

    """
    name = type(value).__name__
    return f"{'an' if name.startswith((*'aeioAEIO', 'nd')) else 'a'} {name}"


def whole_numbers(option: str, text: str) -> list[int]:
    """Return the whole numbers of a text with commas between.

    >>> whole_numbers("--widths", "64,128")
    [64, 128]

    Raises:
        UsageError: a part is no whole number, or there is none.

    """
    try:
        found = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        found = []
    if not found:
        raise UsageError(f"{option} {text}: expected whole numbers with commas between")
    return found
