"""Numbers as people read them: few digits, one alignment a column, no `e-05`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from downslope.words import many

SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
THIN = "\N{NARROW NO-BREAK SPACE}"


def finite(value: object) -> float | None:
    """Return the value as a float, or None where it is missing, not a number or not finite.

    >>> finite(3), finite(None), finite(float("inf"))
    (3.0, None, None)
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def rounded(value: object, digits: int = 5) -> float | int | None:
    """Return the value to so many significant digits, short in JSON; None where it is not finite.

    Integers are counts, and kept.

    >>> rounded(0.123456789), rounded(1200.0), rounded(1234567), rounded(float("nan"))
    (0.12346, 1200, 1234567, None)
    """
    number = finite(value)
    if number is None or isinstance(value, int):
        return None if number is None else int(number)
    short = float(f"{number:.{digits}g}")
    return int(short) if short.is_integer() and abs(short) < 1e15 else short


def number(value: object, digits: int = 3) -> str:
    """Return a number to so many significant digits; powers of ten where plain digits would not be read.

    Integers are counts, and written in full.

    >>> number(0.0412345), number(3.16e-5), number(12345.6), number(90), number(None)
    ('0.0412', '3.16×10⁻⁵', '12\u202f346', '90', '–')
    """
    v = finite(value)
    if v is None:
        return "–"
    if v == 0:
        return "0"
    if not 1e-4 <= abs(v) < 1e7:
        mantissa, exponent = f"{v:.{digits - 1}e}".split("e")
        mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
        power = f"10{str(int(exponent)).translate(SUPERSCRIPTS)}"
        return {"1": power, "-1": f"−{power}"}.get(mantissa, f"{mantissa}×{power}").replace("-", "−")
    places = 0 if isinstance(value, int) else max(0, digits - 1 - math.floor(math.log10(abs(v))))
    return f"{v:,.{places}f}".replace(",", THIN).replace("-", "−")


def plain(value: object, digits: int = 3) -> str:
    """Return `number` without zeros that say nothing: settings (lr = 0.1), not measurements.

    >>> plain(0.1), plain(100), plain(0.00316)
    ('0.1', '100', '0.00316')
    """
    text = number(value, digits)
    whole = text.isascii() and "." in text
    return text.rstrip("0").rstrip(".") if whole else text


def column(values: Iterable[object], digits: int = 3) -> list[str]:
    """Return numbers with the same count of decimals, so that a column lines up at the point.

    The smallest magnitude gets `digits` significant digits. A column that spans more than five
    decades cannot line up: each number is then written on its own.

    >>> column([0.0412, 0.31, None])
    ['0.0412', '0.3100', '–']
    >>> column([1e-9, 1.0])
    ['10⁻⁹', '1.00']
    """
    numbers = [finite(v) for v in values]
    sizes = [abs(v) for v in numbers if v]
    if sizes and (max(sizes) / min(sizes) > 1e5 or not 1e-4 <= min(sizes) < 1e7):
        return [number(v, digits) for v in numbers]
    places = max(0, digits - 1 - math.floor(math.log10(min(sizes)))) if sizes else 0
    return ["–" if v is None else f"{v:,.{places}f}".replace(",", THIN).replace("-", "−") for v in numbers]


def count(value: object) -> str:
    """Return a count in full, or in thousands, millions or billions from ten thousand on.

    >>> count(512), count(9870), count(1_048_576), count(None)
    ('512', '9\u202f870', '1.05\u202fM', '–')
    """
    v = finite(value)
    if v is None:
        return "–"
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e4, "k")):
        if abs(v) >= size:
            return f"{number(v / (size if letter != 'k' else 1e3))}{THIN}{letter}"
    return f"{v:,.0f}".replace(",", THIN)


def listed(words: Sequence[str], *, most: int = 6) -> str:
    """Return words as a list in a sentence.

    >>> listed(["sgd"]), listed(["sgd", "adamw", "muon"])
    ('sgd', 'sgd, adamw and muon')
    >>> listed(list("abcdefgh"), most=3)
    'a, b, c and 5 more'
    """
    if len(words) > most:
        return f"{', '.join(words[:most])} and {len(words) - most} more"
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def counted(n: int, noun: str) -> str:
    """Return a count in full with its noun in singular or plural.

    >>> counted(1, "seed"), counted(3, "seed"), counted(12345, "unknown")
    ('1 seed', '3 seeds', '12\u202f345 unknowns')
    """
    return many(n, noun).replace(",", THIN)
