"""One architecture of a zoo: how to build it, and what each of its parameters is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any


@dataclass(frozen=True)
class Architecture:
    """A labelled architecture.

    `labels` maps patterns on names to roles, the first that matches counts; what has one axis
    is a vector unless it is labelled frozen or unused. `matrices` says how some parameters are seen.
    `build` returns what the framework's `partition` takes.
    """

    name: str
    build: Callable[[], Any]
    labels: Mapping[str, str]
    matrices: Mapping[str, str]

    def label(self, name: str, shape: tuple[int, ...]) -> str:
        """Return the role written down for a parameter."""
        found = next((role for pattern, role in self.labels.items() if fnmatchcase(name, pattern)), None)
        if len(shape) < 2 and found not in ("frozen", "unused"):
            return "vector"
        if found is None:
            raise LookupError(f"{self.name}: no label for {name} {shape}")
        return found


def differences(architecture: Architecture, found: Any) -> dict[str, tuple[str, str]]:
    """Return what was found and what is written down, for each parameter and view where they differ."""
    wrong = {}
    for a in found:
        if a.role.value != (label := architecture.label(a.name, a.shape)):
            wrong[a.name] = (a.role.value, label)
        if a.rule != a.role.rule or (a.rule == "muon" and a.view is None):
            wrong[a.name] = (a.rule, a.role.rule)
    for name, matrices in architecture.matrices.items():
        if (seen := found[name].to_dict()["matrices"]) != matrices:
            wrong[f"{name} as matrices"] = (seen, matrices)
    return wrong
