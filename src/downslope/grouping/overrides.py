"""Overrides: what the user says of a parameter stands, whatever the trace showed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

from downslope.errors import UsageError
from downslope.grouping.partition import RULES, Assignment, Role
from downslope.grouping.view import MatrixView

Key = Any  # a pattern, a module path, a module, or a predicate on an Assignment
Value = str | Role | MatrixView | Assignment
Overrides = Mapping[Key, Value] | Sequence[tuple[Key, Value]]


def applied(
    found: Sequence[Assignment], overrides: Overrides, module_named: Callable[[str], Any]
) -> list[Assignment]:
    """Return the assignments with the overrides applied; the last that matches wins.

    A key is a pattern on names (`"*.gate.weight"`), the path of a module (`"head"` means all its
    parameters), or a predicate that takes an `Assignment`. A value is a rule ("muon", "adamw",
    "none"), a role, a `MatrixView` (Muon with that view), or a whole `Assignment`.

    Raises:
        UsageError: a key that matches no parameter, or a value that is none of these.

    """
    result = list(found)
    pairs = overrides.items() if isinstance(overrides, Mapping) else overrides
    for key, value in pairs:
        hits = [k for k, a in enumerate(result) if _matches(key, a)]
        if not hits:
            raise UsageError(_nothing(key, [a.name for a in found], module_named))
        for k in hits:
            result[k] = _override(result[k], key, value)
    return result


def _matches(key: Key, a: Assignment) -> bool:
    if callable(key):
        return bool(key(a))
    if not isinstance(key, str):
        raise UsageError(
            f"override {key!r}: expected a pattern, the path of a module, or a function of an Assignment"
        )
    return fnmatchcase(a.name, key) or a.name.startswith(f"{key}.")


def _override(a: Assignment, key: Key, value: Value) -> Assignment:
    said = (
        f"override {key!r}"
        if isinstance(key, str)
        else f"override by {getattr(key, '__name__', 'a function')}"
    )
    if isinstance(value, Assignment):
        return replace(value, name=a.name, shape=a.shape)
    if isinstance(value, MatrixView):
        return replace(
            a,
            role=Role.HIDDEN,
            rule="muon",
            view=value,
            reason=f"{said}: {value.describe(a.shape)}",
            warning="",
        )
    if isinstance(value, str) and value in RULES:
        if value == "muon" and a.view is None:
            raise UsageError(
                f"override {key!r}: 'muon' needs matrices, and {a.name} {a.shape} is used as none: "
                "pass a MatrixView instead"
            )
        return replace(a, rule=value, reason=f"{said}; {a.reason}", warning="")
    if isinstance(value, str) and value in {r.value for r in Role}:
        role = Role(value)
        if role.rule == "muon" and a.view is None:
            raise UsageError(
                f"override {key!r}: role 'hidden' needs matrices: pass a MatrixView for {a.name} {a.shape}"
            )
        return replace(a, role=role, rule=role.rule, reason=f"{said}; {a.reason}", warning="")
    expected = f"a rule ({', '.join(RULES)}), a role ({', '.join(Role)}), a MatrixView or an Assignment"
    raise UsageError(f"override {key!r}: {value!r} is none of {expected}")


def _nothing(key: Key, names: Sequence[str], module_named: Callable[[str], Any]) -> str:
    if not isinstance(key, str):
        return f"override by {getattr(key, '__name__', 'a function')} matches no parameter"
    if module_named(key) is not None:
        return f"override {key!r}: that module has no parameters"
    paths = {".".join(name.split(".")[:k]) for name in names for k in range(1, name.count(".") + 1)}
    close = get_close_matches(key, [*names, *sorted(paths)], n=3, cutoff=0.3)
    near = f": the closest are {', '.join(map(repr, close))}" if close else ""
    return f"override {key!r} matches no parameter{near}"
