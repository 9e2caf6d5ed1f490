"""One architecture of the zoo: how to build it, and what each of its parameters is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch

Entry = tuple[Any, tuple[Any, ...], dict[str, Any]]  # model, positional and keyword inputs
ZOO: list[Architecture] = []


@dataclass(frozen=True)
class Architecture:
    """A labelled architecture.

    `labels` maps patterns on names to roles, the first that matches counts; what has one axis
    is a vector unless it is labelled frozen or unused. `matrices` says how some parameters are seen.
    """

    name: str
    build: Callable[[], Entry]
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


def entry(name: str, labels: Mapping[str, str], matrices: Mapping[str, str] | None = None) -> Any:
    """Put an architecture into the zoo."""

    def enter(build: Callable[[], Entry]) -> Callable[[], Entry]:
        def seeded() -> Entry:
            torch.manual_seed(0)
            return build()

        ZOO.append(Architecture(name, seeded, labels, matrices or {}))
        return seeded

    return enter
