"""Words as they go with numbers and with one another."""

from __future__ import annotations

from collections.abc import Iterable
from textwrap import fill


def many(n: int, noun: str, plural: str = "") -> str:
    """Return a count with its noun, which ends in s where there are several and nothing else is said.

    >>> many(1, "shape"), many(4096, "element"), many(2, "matrix", "matrices")
    ('1 shape', '4,096 elements', '2 matrices')

    """
    return f"{n:,} {noun if n == 1 else plural or noun + 's'}"


def listed(names: Iterable[str], most: int = 3) -> str:
    """Return names with commas between, and of many the first few.

    >>> listed(["a", "b", "c"]), listed("abcde")
    ('a, b, c', 'a, b, c and 2 more')

    """
    names = list(names)
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")


def paragraphs(lines: Iterable[str], width: int = 80) -> str:
    """Return lines that keep to a width, between words; what goes on below is set in by four.

    >>> print(paragraphs(["Converged: it is within the tolerance.", "  2 steps"], 30))
    Converged: it is within the
        tolerance.
      2 steps

    """
    return "\n".join(
        fill(line, width, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
        for line in lines
    )
