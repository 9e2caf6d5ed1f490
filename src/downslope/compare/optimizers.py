"""The optimizers a comparison knows: what each is called, how it is made, where it is searched.

An entry is data. `make` asks the adapter of the task's framework (`downslope.torch`, ...) for the
class that bears the entry's name, so this file serves every framework and imports none.

What is the same for all: gains and biases, the parameters of one axis, are not decayed; a gradient
that is not finite is let through, so that a run that diverges is seen to diverge.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from downslope.errors import UsageError, closest


@dataclass(frozen=True)
class Space:
    """What a trial may draw: a learning rate, log-uniform in [low, high], and a weight decay.

    Raises:
        UsageError: the range is empty or not positive, or a weight decay is negative.

    """

    lr: tuple[float, float]
    weight_decay: tuple[float, ...] = (0.0,)

    def __post_init__(self) -> None:
        low, high = self.lr
        if not (math.isfinite(low) and math.isfinite(high) and 0 < low < high):
            raise UsageError(f"learning rates from {low:g} to {high:g}: expected 0 < low < high")
        if not self.weight_decay or any(not (math.isfinite(w) and w >= 0) for w in self.weight_decay):
            raise UsageError(f"weight decays {list(self.weight_decay)}: expected numbers of at least 0")

    def to_dict(self) -> dict[str, Any]:
        """Return the space as JSON types."""
        return {"lr": list(self.lr), "weight_decay": list(self.weight_decay)}

    @classmethod
    def from_dict(cls, d: Mapping[str, Any]) -> Space:
        """Return the space that `to_dict` described."""
        return cls(tuple(d["lr"]), tuple(d["weight_decay"]))


@dataclass(frozen=True)
class Candidate:
    """An optimizer that takes part: its name, its class in the adapter, its space.

    `settings` are the hyper-parameters that are not searched. `traces` says that it wants the
    model and example inputs in place of parameters.
    """

    name: str
    label: str
    class_name: str
    space: Space
    settings: Mapping[str, Any] = field(default_factory=dict)
    traces: bool = False

    def make(
        self, framework: str, model: Any, inputs: tuple[Any, ...], lr: float, weight_decay: float
    ) -> Any:
        """Return the optimizer of a model; `inputs` are what the model is called with."""
        adapter = importlib.import_module(f"downslope.{framework}")
        cls = getattr(adapter, self.class_name)
        settings = {**self.settings, "lr": lr, "weight_decay": weight_decay, "on_nonfinite": "ignore"}
        if self.traces:
            return cls(model, *inputs, **settings)
        return cls(list(_groups(model)), **settings)

    def to_dict(self) -> dict[str, Any]:
        """Return name and space as JSON types, with the settings that are not searched."""
        settings = {k: list(v) if isinstance(v, tuple) else v for k, v in self.settings.items()}
        return {"name": self.name, "space": self.space.to_dict(), "settings": settings}


def _groups(model: Any) -> Iterable[dict[str, Any]]:
    """Yield the parameters that are decayed, and those of one axis, that are not."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    matrices = [entry for entry in named if entry[1].ndim >= 2]
    vectors = [entry for entry in named if entry[1].ndim < 2]
    if matrices:
        yield {"params": matrices}
    if vectors:
        yield {"params": vectors, "weight_decay": 0.0}


# Every range spans three decades, so that no optimizer is searched more closely than another.
# AdamW has the betas that Muon gives to the parameters it leaves to AdamW: the two differ in the
# hidden matrices alone.
_ALL = (
    Candidate(
        "sgd",
        "SGD",
        "SGD",
        Space((3e-3, 3.0), (0.0, 1e-4, 1e-3)),
        {"momentum": 0.9, "nesterov": True},
    ),
    Candidate(
        "adamw", "AdamW", "AdamW", Space((1e-4, 1e-1), (0.0, 1e-2, 1e-1)), {"betas": (0.9, 0.95), "eps": 1e-8}
    ),
    Candidate(
        "muon",
        "Muon",
        "Muon",
        Space((1e-4, 1e-1), (0.0, 1e-2, 1e-1)),
        {"momentum": 0.95, "nesterov": True, "betas": (0.9, 0.95)},
        traces=True,
    ),
    Candidate(
        "adam", "Adam", "Adam", Space((1e-4, 1e-1), (0.0, 1e-4, 1e-3)), {"betas": (0.9, 0.95), "eps": 1e-8}
    ),
    Candidate("rmsprop", "RMSProp", "RMSProp", Space((1e-4, 1e-1), (0.0, 1e-4, 1e-3)), {"alpha": 0.99}),
    Candidate("adagrad", "AdaGrad", "AdaGrad", Space((1e-3, 1.0), (0.0, 1e-4, 1e-3))),
)
CANDIDATES = {c.name: c for c in _ALL}
DEFAULT = ("sgd", "adamw", "muon")


def choose(
    names: Iterable[str],
    task_ranges: Mapping[str, tuple[float, float]],
    user_ranges: Mapping[str, tuple[float, float]],
) -> tuple[Candidate, ...]:
    """Return the candidates of these names, searched in the user's range, or the task's, or their own.

    Raises:
        UsageError: a name is unknown or stands twice, a range of the user's names an optimizer that
            does not take part, or one of the task's an optimizer that there is not.

    """
    chosen: dict[str, Candidate] = {}
    for name in names:
        if name not in CANDIDATES:
            known = ", ".join(CANDIDATES)
            raise UsageError(
                f"unknown optimizer {name!r}: expected one of {known}{closest(name, CANDIDATES)}"
            )
        if name in chosen:
            raise UsageError(f"optimizer {name!r} stands twice: name each once")
        candidate = CANDIDATES[name]
        lr = user_ranges.get(name) or task_ranges.get(name) or candidate.space.lr
        chosen[name] = replace(candidate, space=replace(candidate.space, lr=(float(lr[0]), float(lr[1]))))
    for name in task_ranges:
        if name not in CANDIDATES:
            raise UsageError(
                f"the task has a learning-rate range for {name!r}: expected one of "
                f"{', '.join(CANDIDATES)}{closest(name, CANDIDATES)}"
            )
    if not chosen:
        raise UsageError(f"no optimizer to compare: name some of {', '.join(CANDIDATES)}")
    for name in user_ranges:
        if name not in chosen:
            raise UsageError(
                f"a learning-rate range for {name!r}, which does not take part: expected one of "
                f"{', '.join(chosen)}{closest(name, chosen)}"
            )
    return tuple(chosen.values())
