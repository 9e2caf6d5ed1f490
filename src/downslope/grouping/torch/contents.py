"""What stands in a container, as Python's own methods give and take it: a subclass may refuse that."""

from __future__ import annotations

from collections import OrderedDict, deque
from operator import is_
from typing import Any, NamedTuple

CONTAINERS = (dict, list, set, deque, tuple)


class Contents(NamedTuple):
    """What stood in a container: the keys of a dict, and the values.

    Of many plain numbers, tuples are what the garbage collector looks through once only.
    """

    kind: Any
    names: tuple[Any, ...]
    inside: tuple[Any, ...]


def contents_of(container: Any) -> Contents:
    """Return what stands in a container."""
    kind: Any = type(container)
    if kind not in CONTAINERS:
        kind = next(k for k in (OrderedDict, *CONTAINERS) if isinstance(container, k))
    return _read(kind, container)


def refill(container: Any, before: Contents) -> None:
    """Make a container hold what it held; one that still does is not touched."""
    kind, names, inside = before
    now = _read(kind, container)
    if all(len(a) == len(b) and all(map(is_, a, b)) for a, b in zip(now[1:], before[1:], strict=True)):
        return
    kind.clear(container)
    if issubclass(kind, dict):
        kind.update(container, dict(zip(names, inside, strict=True)))
    else:
        (set.update if kind is set else kind.extend)(container, inside)


def _read(kind: Any, container: Any) -> Contents:
    found = tuple(kind.__iter__(container))
    if issubclass(kind, dict):
        return Contents(kind, found, tuple(kind.values(container)))
    return Contents(kind, (), found)
