"""What tells a task that is an object from another of its name: the code of its functions."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from types import CodeType, FunctionType, MethodType
from typing import Any

PLAIN = (bool, int, float, complex, str, bytes, type(None))


def fingerprint(functions: Iterable[Any]) -> str:
    """Return sixteen hexadecimal digits of functions: their code and the plain values they hold.

    That is their defaults, what they enclose, and the functions, classes and plain values of their module
    that they name, and so on; of other objects, as arrays and models, the type alone.

    >>> def task(width):
    ...     return [lambda seed: width]
    >>> fingerprint(task(1)) == fingerprint(task(1)), fingerprint(task(1)) == fingerprint(task(2))
    (True, False)

    """
    seen: dict[int, Any] = {}
    text = "\n".join(_told(f, seen) for f in functions)
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]


def _told(value: Any, seen: dict[int, Any]) -> str:
    if isinstance(value, PLAIN):
        return repr(value)
    if id(value) in seen:
        return type(value).__name__
    seen[id(value)] = value  # kept, so that no other value gets its number
    told = functools.partial(_told, seen=seen)
    if isinstance(value, tuple | list):
        return f"({','.join(map(told, value))})"
    if isinstance(value, set | frozenset):
        return f"{{{','.join(sorted(map(told, value)))}}}"
    if isinstance(value, dict):
        return f"{{{','.join(f'{told(k)}:{told(v)}' for k, v in value.items())}}}"
    if isinstance(value, CodeType):
        return f"{value.co_code.hex()} {value.co_names} {told(value.co_consts)}"
    if isinstance(value, FunctionType):
        cells = [c.cell_contents for c in value.__closure__ or () if _filled(c)]
        named = [value.__globals__[n] for n in _names(value.__code__) if n in value.__globals__]
        beside = [
            v for v in named if isinstance(v, PLAIN) or getattr(v, "__module__", "") == value.__module__
        ]
        return f"{told(value.__code__)} {told((value.__defaults__, value.__kwdefaults__, cells, beside))}"
    if isinstance(value, type):
        own = vars(value).values()
        return f"{value.__name__} {told([v for v in own if isinstance(v, (FunctionType, *PLAIN))])}"
    if isinstance(value, functools.partial):
        return told((value.func, value.args, value.keywords))
    if isinstance(value, MethodType):
        return told((value.__func__, value.__self__))
    if is_dataclass(value) and not isinstance(value, type):
        return told((type(value).__name__, [getattr(value, f.name) for f in fields(value)]))
    return f"{type(value).__name__} {told(vars(type(value)).get('__call__'))}"


def _names(code: CodeType) -> list[str]:
    """Return the names that code looks up, also in the functions that it makes."""
    inner = [n for c in code.co_consts if isinstance(c, CodeType) for n in _names(c)]
    return [*code.co_names, *inner]


def _filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018 - an empty one raises
    except ValueError:
        return False
    return True
