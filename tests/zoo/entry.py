"""How an architecture enters the zoo."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from tests.labelled import Architecture

Entry = tuple[Any, tuple[Any, ...], dict[str, Any]]  # model, positional and keyword inputs
ZOO: list[Architecture] = []


def entry(name: str, labels: Mapping[str, str], matrices: Mapping[str, str] | None = None) -> Any:
    """Put an architecture into the zoo."""

    def enter(build: Callable[[], Entry]) -> Callable[[], Entry]:
        def seeded() -> Entry:
            torch.manual_seed(0)
            return build()

        ZOO.append(Architecture(name, seeded, labels, matrices or {}))
        return seeded

    return enter
