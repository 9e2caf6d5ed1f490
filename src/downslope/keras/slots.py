"""What the optimizer keeps for each variable: how it is stepped, and the variables of its state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import keras
import numpy as np

from downslope.grouping.view import MatrixView
from downslope.keras.backend import dtype_of, name_of, working_dtype
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
    """One variable with its setting and the parts of its state, None where an option leaves one out.

    `working` is what its step is computed in, wider than its own dtype if that is `half` a word;
    `shared` is what variables must have in common to be stepped together.
    """

    variable: Any
    setting: Setting
    parts: tuple[Any, ...]
    working: str = field(init=False)
    half: bool = field(init=False)
    shared: Setting = field(init=False)

    def __post_init__(self) -> None:
        self.working = working_dtype(self.variable)  # asked for at every step, which is slow to find out
        self.half = self.working != dtype_of(self.variable)
        self.shared = replace(self.setting, view=None)

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
    """One variable's step on the way: what goes in, then the direction and state that come out.

    `value` is the variable's own tensor, `p` the same in the dtype that the step is computed in.
    """

    slot: Slot
    variable: Any
    g: Array
    value: Array
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
