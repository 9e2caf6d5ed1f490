"""When a run ends: the user's criteria."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from downslope.errors import UsageError
from downslope.solvers.core import Limits

GRADIENT = {"float64": 1e-6, "float32": 1e-4}
STEPS = 15_000
EVALUATIONS = 100_000


@dataclass(frozen=True)
class Stop:
    """When to stop; every criterion is optional, and the first to hold ends the run.

    Attributes:
        gradient: ‖g‖∞ ≤ gradient · s, where s is the largest gradient met as long as that is at most 1,
            and ‖g₀‖∞ where that is more. So f and 10⁻⁸ f end at the same point, and no run ends sooner
            than at gradient · max(1, ‖g₀‖∞). Where there are bounds, g is projected: x - P(x - g).
            1e-6 in float64, 1e-4 in float32; 0 to go on as long as the value falls. Methods that model
            the function (L-BFGS, BFGS, Newton's) go on, for at most 8 steps, until their model promises
            little more, m(0) - m(p) ≤ gradient^1.5 · (f₀ - f): 1e-9 of the fall by default. That is what
            ‖g‖ gives of itself where H is well conditioned, and costs a few steps where ‖g₀‖ makes it lax.
        gradient_absolute: ‖g‖∞ ≤ gradient_absolute, whatever the scale; SciPy's `gtol`.
        value: f falls by at most value · max(|f|, |f_before|) in two steps one after the other.
        step: ‖Δx‖∞ ≤ step · max(‖x‖∞, ‖Δx from the start‖∞) in two steps one after the other.
        target: f ≤ target.
        steps: 15000.
        evaluations: 100000, for each problem of a batch.
        seconds: of the clock.

    Only the gradient's criterion, or its like at round-off, makes a result a success, and only where a
    second look finds no tail, plateau or saddle: see `second_look`.

    """

    gradient: float | None = None
    value: float | None = None
    step: float | None = None
    steps: int | None = None
    evaluations: int | None = None
    seconds: float | None = None
    target: float | None = None
    gradient_absolute: float | None = None

    def __post_init__(self) -> None:
        for name in ("gradient", "value", "step", "seconds", "gradient_absolute"):
            given = getattr(self, name)
            if given is not None and not (_is_number(given) and 0 <= given < math.inf):
                raise UsageError(f"Stop({name}={given!r}): expected a finite number of at least 0")
        for name in ("steps", "evaluations"):
            given = getattr(self, name)
            whole = _is_number(given) and 0 <= given < math.inf and given == int(given)
            if given is not None and not whole:
                raise UsageError(f"Stop({name}={given!r}): expected a whole number of at least 0")
        if self.target is not None and not (_is_number(self.target) and not math.isnan(self.target)):
            raise UsageError(f"Stop(target={self.target!r}): expected a number")

    def limits(self, dtype: str) -> Limits:
        """Return the criteria as numbers, for vectors of a dtype."""
        gradient = GRADIENT[dtype] if self.gradient is None else float(self.gradient)
        return Limits(
            gradient=gradient,
            absolute=0.0 if self.gradient_absolute is None else float(self.gradient_absolute),
            promise=gradient**1.5,
            value=None if self.value is None else float(self.value),
            step=None if self.step is None else float(self.step),
            target=None if self.target is None else float(self.target),
            steps=STEPS if self.steps is None else int(self.steps),
            evaluations=EVALUATIONS if self.evaluations is None else int(self.evaluations),
        )


def check_stop(stop: Any) -> None:
    """Raise UsageError unless this is a `Stop` or None."""
    if not (stop is None or isinstance(stop, Stop)):
        raise UsageError(f"stop = {stop!r}: expected a Stop, as Stop(steps=100)")


def _is_number(value: Any) -> bool:
    array = hasattr(value, "shape") and not isinstance(value, np.number)
    return hasattr(value, "__float__") and not (isinstance(value, bool) or array)
