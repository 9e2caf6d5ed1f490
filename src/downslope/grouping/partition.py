"""Which parameter gets which rule, and why: roles, assignments and the table that shows them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from downslope.errors import UsageError, one_line
from downslope.files import write_text
from downslope.grouping.view import MatrixView
from downslope.words import many


class Role(StrEnum):
    """What a parameter is to the data that passes through the model."""

    HIDDEN = "hidden"
    INPUT = "input"
    OUTPUT = "output"
    EMBEDDING = "embedding"
    VECTOR = "vector"
    ROUTER = "router"
    FROZEN = "frozen"
    UNUSED = "unused"
    UNCLEAR = "unclear"

    @property
    def rule(self) -> str:
        """The rule a parameter of this role gets: "muon", "adamw" or "none"."""
        return {"hidden": "muon", "frozen": "none"}.get(self.value, "adamw")


RULES = ("muon", "adamw", "none")


@dataclass(frozen=True)
class Assignment:
    """One parameter: its role, the rule it gets, its view as matrices, and the reason in words.

    `warning` is not empty where the facts did not settle the matter, or the user should look.
    """

    name: str
    shape: tuple[int, ...]
    role: Role
    rule: str
    view: MatrixView | None
    reason: str
    warning: str = ""

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise ValueError(f"rule = {self.rule!r} for {self.name}: expected one of {', '.join(RULES)}")
        if self.rule == "muon" and self.view is None:
            raise ValueError(
                f"{self.name} has rule 'muon' but no MatrixView: say which axes are outputs and inputs"
            )
        if self.view is not None:
            self.view.check(self.shape)

    def to_dict(self) -> dict[str, Any]:
        """Return the assignment as JSON types."""
        return {
            "name": self.name,
            "shape": list(self.shape),
            "role": self.role.value,
            "rule": self.rule,
            "view": self.view and self.view.to_dict(),
            "matrices": self.view.describe(self.shape) if self.view else "",
            "reason": self.reason,
            "warning": self.warning,
        }

    @classmethod
    def from_dict(cls, d: dict[str, Any]) -> Assignment:
        """Return the assignment that `to_dict` described."""
        view = MatrixView.from_dict(d["view"]) if d["view"] else None
        shape = tuple(d["shape"])
        return cls(d["name"], shape, Role(d["role"]), d["rule"], view, d["reason"], d.get("warning", ""))


class Partition:
    """An ordered sequence of assignments, one a parameter, that prints as a table.

    `parameters` maps each name to the model's own parameter where the partition was made from a
    model, so that an optimizer can be made from it; it is None where it was loaded, and is no part
    of what is compared or saved.
    """

    def __init__(
        self, assignments: Iterable[Assignment], parameters: Mapping[str, Any] | None = None
    ) -> None:
        self._assignments = tuple(assignments)
        self.parameters = parameters
        self._by_name = {a.name: a for a in self._assignments}
        if len(self._by_name) != len(self._assignments):
            twice = next(name for name, n in Counter(a.name for a in self._assignments).items() if n > 1)
            raise ValueError(f"a partition names each parameter once, this one {twice!r} more often")

    def __len__(self) -> int:
        return len(self._assignments)

    def __iter__(self) -> Iterator[Assignment]:
        return iter(self._assignments)

    def __getitem__(self, name: str) -> Assignment:
        return self._by_name[name]

    def get(self, name: str) -> Assignment | None:
        """Return the assignment of a parameter, or None."""
        return self._by_name.get(name)

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Partition) and self._assignments == other._assignments

    def __hash__(self) -> int:
        return hash(self._assignments)

    def __str__(self) -> str:
        """Return the table, 80 columns wide."""
        from downslope.grouping.table import plain

        return plain(self)

    def __repr__(self) -> str:
        counts = ", ".join(
            f"{sum(a.rule == r for a in self)} {r}" for r in RULES if any(a.rule == r for a in self)
        )
        return f"<Partition of {many(len(self), 'parameter')}: {counts}>"

    def __rich__(self) -> Any:
        """Return the table in the width of the terminal."""
        from downslope.grouping.table import table

        return table(self)

    def to_dict(self) -> dict[str, Any]:
        """Return the partition as JSON types."""
        return {"version": 1, "assignments": [a.to_dict() for a in self]}

    @classmethod
    def from_dict(cls, d: dict[str, Any]) -> Partition:
        """Return the partition that `to_dict` described.

        Raises:
            UsageError: it is no description of a partition, or one of a later version.

        """
        if not isinstance(d, dict) or "assignments" not in d:
            raise UsageError("no partition: expected the JSON that `downslope groups --save` writes")
        if d.get("version") != 1:
            raise UsageError(f"a partition of version {d.get('version')!r}: this release reads version 1")
        try:
            return cls([Assignment.from_dict(a) for a in d["assignments"]])
        except (LookupError, TypeError, AttributeError, ValueError) as error:
            raise UsageError(f"no partition: {one_line(error)}") from error

    def save(self, path: str | Path) -> None:
        """Write the partition to a JSON file.

        Raises:
            UsageError: it cannot be written there.

        """
        if Path(path).is_dir():
            raise UsageError(f"the partition cannot be written to {path}, a folder: give a file")
        try:
            write_text(Path(path), json.dumps(self.to_dict(), indent=1) + "\n")
        except OSError as error:
            raise UsageError(f"the partition cannot be written to {path}: {error.strerror}") from error

    @classmethod
    def load(cls, path: str | Path) -> Partition:
        """Return the partition that `save` wrote; it holds no parameters.

        Raises:
            UsageError: there is no such file, or it holds no partition.

        """
        from downslope.grouping.stored import Saved
        from downslope.shapes import DamagedError, parsed, require

        try:
            found = parsed(Path(path).read_bytes())
            if isinstance(found, dict) and found.get("version") == 1:
                require(found, Saved)
            return cls.from_dict(found)
        except OSError as error:
            raise UsageError(f"{path} cannot be read as a partition: {error.strerror}") from error
        except DamagedError as error:
            raise UsageError(f"{path}: no partition ({error}): write it anew with --save") from error
        except UsageError as error:
            raise UsageError(f"{path}: {error}") from error
