"""Words as they go with numbers."""

from __future__ import annotations


def many(n: int, noun: str, plural: str = "") -> str:
    """Return a count with its noun, which ends in s where there are several and nothing else is said.

    >>> many(1, "shape"), many(4096, "element"), many(2, "matrix", "matrices")
    ('1 shape', '4,096 elements', '2 matrices')

    """
    return f"{n:,} {noun if n == 1 else plural or noun + 's'}"
