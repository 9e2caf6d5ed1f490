"""What the optimizer keeps for each variable: how it is stepped, and the variables of its state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from downslope.grouping.view import MatrixView
from downslope.keras.backend import name_of
from downslope.ops.protocol import Array
from downslope.rules.rule import Rule, State


@dataclass(frozen=True)
class Setting:
    """How one variable is stepped."""

    rule: Rule
    weight_decay: float
    cautious: bool = False
    lr_ratio: float = 1.0
    view: MatrixView | None = None


@dataclass
class Slot:
    """One variable with its setting and the parts of its state, None where an option leaves one out."""

    variable: Any
    setting: Setting
    parts: tuple[Any, ...]

    @property
    def name(self) -> str:
        """The variable's path in the model."""
        return name_of(self.variable)

    def describe(self) -> dict[str, Any]:
        """Return what is saved of the slot beside its arrays."""
        rule = self.setting.rule
        fields: tuple[str, ...] = rule.state_type._fields  # type: ignore[attr-defined]
        present = [field for field, part in zip(fields, self.parts, strict=True) if part is not None]
        shape = [int(n) for n in self.variable.shape]
        return {"name": self.name, "shape": shape, "rule": type(rule).__name__, "state": present}


@dataclass
class Work:
    """One variable's step on the way: what goes in, then the direction and state that come out."""

    slot: Slot
    variable: Any
    g: Array
    p: Array
    state: State
    direction: Array = None
    new: State = None

    @property
    def setting(self) -> Setting:
        """How the variable is stepped."""
        return self.slot.setting


class Slots:
    """The slots in the order of the variables; not a list, which Keras and TensorFlow would track."""

    def __init__(self, slots: Sequence[Slot | None]) -> None:
        self.all = tuple(slots)

    @property
    def used(self) -> list[Slot]:
        """Those of variables that are stepped."""
        return [slot for slot in self.all if slot is not None]


class Initializers:
    """`Ops` for `Rule.init` alone: an array becomes the Keras initializer that makes it."""

    def zeros_like(self, a: Any) -> Any:
        """Return what makes zeros."""
        return keras.initializers.Zeros()

    def full_like(self, a: Any, value: float) -> Any:
        """Return what makes an array of one value; Keras's own Constant rounds to float32 on the way."""
        return lambda shape, dtype=None: keras.ops.convert_to_tensor(np.full(shape, value, dtype))
