"""Operations that spoil what they consume, so that a rule which reads it again is caught."""

from __future__ import annotations

from typing import Any

import numpy as np

from downslope.ops.numpy import NumpyOps


class PoisonOps(NumpyOps):
    """NumPy's operations; a consumed slot is filled with NaN, and whatever they return is read-only.

    Read-only results stand for frameworks whose arrays cannot be written to: a rule that writes
    to anything raises.
    """

    def ema(self, slot: Any, value: Any, beta: float) -> Any:
        return self._consumed(slot, super().ema(slot, value, beta))

    def accumulate(self, slot: Any, value: Any, decay: float) -> Any:
        return self._consumed(slot, super().accumulate(slot, value, decay))

    def _consumed(self, slot: Any, result: Any) -> Any:
        made = np.array(result)
        slot.flags.writeable = True
        slot[...] = np.nan
        made.flags.writeable = False
        return made

    def zeros_like(self, a: Any) -> Any:
        return _own(super().zeros_like(a))

    def full_like(self, a: Any, value: float) -> Any:
        return _own(super().full_like(a, value))

    def maximum(self, a: Any, b: Any) -> Any:
        return _own(super().maximum(a, b))


def _own(a: Any) -> Any:
    made = np.array(a)
    made.flags.writeable = False
    return made
