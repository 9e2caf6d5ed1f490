"""Count how often a rule of grouping sends what the labels say to Muon."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rich.table import Table


@dataclass
class Score:
    """Models and parameters of two or more axes that each rule gets right, and its mistakes."""

    models: int = 0
    matrices: int = 0
    seconds: float = 0.0
    right: dict[str, list[int]] = field(default_factory=dict)
    wrong: dict[str, list[str]] = field(default_factory=dict)

    def enter(
        self,
        model: str,
        shapes: Mapping[str, tuple[int, ...]],
        muon: set[str],
        answers: Mapping[str, set[str]],
    ) -> None:
        """Count one model: the shapes of its trained parameters, what gets Muon, and what each rule says."""
        judged = [name for name, shape in shapes.items() if len(shape) > 1]
        self.models, self.matrices = self.models + 1, self.matrices + len(judged)
        for rule, answer in answers.items():
            mistakes = [name for name in shapes if (name in answer) != (name in muon)]
            counts = self.right.setdefault(rule, [0, 0])
            counts[0] += not mistakes
            counts[1] += sum(name not in mistakes for name in judged)
            self.wrong.setdefault(rule, []).extend(f"{model}: {name} {shapes[name]}" for name in mistakes)

    def to_dict(self) -> dict[str, Any]:
        """Return the score as JSON types."""
        of = {"models": self.models, "matrices": self.matrices, "seconds": round(self.seconds, 2)}
        return {"of": of, **{r: {"models": m, "matrices": p} for r, (m, p) in self.right.items()}}


def table(title: str, scores: Mapping[str, Any]) -> Table:
    """Return the table of a score's `to_dict`."""
    t = Table("rule", "models right", "parameters right", title=title)
    of = scores["of"]
    for name, s in scores.items():
        if name != "of":
            models, matrices = s["models"], s["matrices"]
            t.add_row(
                name,
                f"{models} of {of['models']} ({models / of['models']:.0%})",
                f"{matrices} of {of['matrices']} ({matrices / of['matrices']:.1%})",
            )
    return t
