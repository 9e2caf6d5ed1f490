"""What differs between two partitions of one model, so that a checkpoint's grouping can be pinned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from downslope.grouping.partition import Assignment, Partition


@dataclass(frozen=True)
class Change:
    """One parameter that two partitions treat differently; None where one of them lacks it."""

    name: str
    old: Assignment | None
    new: Assignment | None

    @property
    def what(self) -> tuple[str, ...]:
        """What differs: of shape, role, rule and view, or "added" or "removed"."""
        if self.old is None or self.new is None:
            return ("added",) if self.old is None else ("removed",)
        return tuple(k for k in _COMPARED if getattr(self.old, k) != getattr(self.new, k))

    @property
    def matters(self) -> bool:
        """Whether the optimizer would do something else; a role of the same rule does not matter."""
        return self.what != ("role",)

    def __str__(self) -> str:
        if self.old is None or self.new is None:
            sign, a = ("+", self.new) if self.old is None else ("-", self.old)
            return f"{sign} {self.name}: {a and a.role.value}, {a and a.rule}"
        parts = [f"{k} {_shown(self.old, k)} → {_shown(self.new, k)}" for k in self.what]
        return f"~ {self.name}: {', '.join(parts)}"


_COMPARED = ("shape", "role", "rule", "view")


def _shown(a: Assignment, what: str) -> Any:
    if what == "view":
        return a.view.describe(a.shape) if a.view else "none"
    value = getattr(a, what)
    return "×".join(map(str, value)) if what == "shape" else str(value)


def changes(old: Partition, new: Partition) -> Sequence[Change]:
    """Return what differs, in the order of the new partition, then what only the old one has.

    The reasons are not compared: they tell of the batch and of the depth, not of the update.
    """
    found = [Change(a.name, old.get(a.name), a) for a in new]
    found += [Change(a.name, a, None) for a in old if a.name not in new]
    return [c for c in found if c.what]
