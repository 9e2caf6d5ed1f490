"""What is read from a file of JSON, held against the type in which it was written.

The types are TypedDicts, which allow other names too. So damage is told once, where a file is read, by the
entry that it is in, and what comes after need not ask.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, TypeVar, cast

import msgspec

T = TypeVar("T")
Whole = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
Count = Annotated[int, msgspec.Meta(gt=0, le=2**63 - 1)]
Number = Annotated[float, msgspec.Meta(ge=-sys.float_info.max, le=sys.float_info.max)]
Positive = Annotated[float, msgspec.Meta(gt=0, le=sys.float_info.max)]
two = msgspec.Meta(min_length=2, max_length=2)


class DamagedError(ValueError):
    """What was read is not what was written: the entry, and what was expected."""


def one_of(names: Iterable[str]) -> msgspec.Meta:
    """Return what a text is annotated with that is one of these; errors of a Literal do not name them."""
    return msgspec.Meta(pattern=rf"\A({'|'.join(sorted(names))})\Z")


def parsed(text: str | bytes) -> Any:
    """Return what a text of JSON says.

    Raises:
        DamagedError: it is no JSON; NaN and Infinity are none either.

    """

    def refuse(word: str) -> None:
        raise DamagedError(f"{word} is no JSON")

    try:  # by the standard library: msgspec.json takes no paths that are no UTF-8
        return json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise DamagedError(str(error).partition(";")[0]) from None


def require(value: Any, kind: type[T]) -> T:
    """Return a value that was parsed, as it is, if it is of a type.

    Raises:
        DamagedError: it is not.

    >>> from typing import TypedDict
    >>> Run = TypedDict("Run", {"x": float})
    >>> require({"runs": [{"x": 1.5}, {"x": "1"}]}, TypedDict("Race", {"runs": list[Run]}))
    Traceback (most recent call last):
    downslope.shapes.DamagedError: runs[1].x: expected `float`, got `str`

    """
    try:
        msgspec.convert(value, kind)
    except (msgspec.ValidationError, UnicodeEncodeError) as error:  # a name that is no UTF-8
        said, _, entry = str(error).partition(" - at `$")
        if names := re.search(r"`str` matching regex '\\\\A\((.*)\)\\\\Z'", said):
            said = f"Expected one of {names[1].replace('|', ', ')}"
        where = f"{entry.strip('.`')}: " if entry else ""
        raise DamagedError(f"{where}{said[0].lower()}{said[1:]}") from None
    return cast(T, value)


def require_one_length(lists: Mapping[str, Any], names: Iterable[str], entry: str) -> None:
    """Hold lists that belong together, entry by entry, against each other."""
    if len({len(lists[name]) for name in names}) > 1:
        raise DamagedError(f"{entry}: {', '.join(names)} are not of one length")
