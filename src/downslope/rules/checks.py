"""Hyper-parameters out of range: one error that names the value and what was expected."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

from downslope.errors import a_type


def require(name: str, value: Any, ok: bool, expected: str) -> None:
    """Raise ValueError naming the hyper-parameter, its value and what was expected, unless `ok`."""
    if not ok:
        raise ValueError(f"{name} = {shown(value)}: expected {expected}")


def shown(value: Any) -> str:
    """Return a value as it is written, or what kind of object it is where that takes more than a line.

    >>> shown(0.5), shown([0.5] * 1000)
    ('0.5', 'a list')

    """
    text = repr(value)
    return text if len(text) <= 80 and "\n" not in text else a_type(value)


def require_number(
    name: str, value: Any, low: float, high: float = math.inf, *, open_high: bool = True
) -> None:
    """Raise unless `value` is a finite real number in [low, high), or [low, high] if not `open_high`."""
    closing = ")" if open_high else "]"
    expected = f"a number in [{low:g}, {high:g}{closing}"
    try:
        number = math.nan if isinstance(value, (str, bytes, bool)) else float(value)  # text from YAML
    except (TypeError, ValueError):
        number = math.nan
    inside = low <= number < high if open_high else low <= number <= high
    require(name, value, inside, expected)


def require_choice(name: str, value: Any, choices: Collection[str]) -> None:
    """Raise unless `value` is one of the choices, which are texts; a list cannot even be looked up."""
    require(name, value, isinstance(value, str) and value in choices, "one of " + ", ".join(choices))


def require_betas(name: str, value: Any, count: int) -> None:
    """Raise unless `value` is a sequence of `count` numbers in [0, 1)."""
    ok = isinstance(value, (tuple, list)) and len(value) == count
    require(name, value, ok, f"{count} numbers in [0, 1)")
    for i, beta in enumerate(value):
        require_number(f"{name}[{i}]", beta, 0.0, 1.0)
