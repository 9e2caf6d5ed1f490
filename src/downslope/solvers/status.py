"""How a run ended: one enumeration for every method, with what to try next."""

from __future__ import annotations

from enum import IntEnum


class Status(IntEnum):
    """How a run ended; `Status.GRADIENT.message` says it in words, with the remedy."""

    RUNNING = 0
    GRADIENT = 1
    VALUE = 2
    STEP = 3
    TARGET = 4
    ROUNDOFF = 5
    STALLED = 6
    KINK = 7
    NONFINITE = 8
    UNBOUNDED = 9
    STEPS = 10
    EVALUATIONS = 11
    SECONDS = 12
    INTERRUPTED = 13
    CALLBACK = 14
    RAISED = 15
    PRECISION = 16
    LEVEL = 17
    PLATEAU = 18
    SADDLE = 19

    @property
    def success(self) -> bool:
        """Whether the point is first-order at the precision asked for or reached."""
        return self in (Status.GRADIENT, Status.ROUNDOFF)

    @classmethod
    def at_iterate(cls) -> tuple[Status, ...]:
        """Return the endings that speak of the iterate, and not of the lowest value seen."""
        return (cls.GRADIENT, cls.ROUNDOFF)

    @property
    def message(self) -> str:
        """The ending in words, and what to try next."""
        return MESSAGES[self]


MESSAGES = {
    Status.RUNNING: "The run goes on.",
    Status.GRADIENT: "Converged: the gradient is within the tolerance.",
    Status.VALUE: (
        "Stopped: the value hardly changes. The gradient is not within the tolerance; "
        "leave out Stop(value=...) to go on."
    ),
    Status.STEP: (
        "Stopped: the steps are short. The gradient is not within the tolerance; "
        "leave out Stop(step=...) to go on."
    ),
    Status.TARGET: "Stopped: the target value is reached; whether a minimum is near was not asked.",
    Status.ROUNDOFF: (
        "Converged at round-off: no step that is left changes the value by more than its rounding, "
        "and the gradient is as small as this precision lets it be."
    ),
    Status.PRECISION: (
        "No progress: the value changes by no more than its rounding, but the gradient is not small. "
        "Use float64, or take a large constant out of the function."
    ),
    Status.LEVEL: (
        "No minimum: the function levels off here. The gradient is within the tolerance, but only because "
        "the function flattens out: farther on it falls still, or a lower point was passed by. "
        "Give bounds, add a penalty on the size of x, or start elsewhere."
    ),
    Status.PLATEAU: (
        "No minimum: the gradient is zero and the value does not change beside this point. "
        "The function may not depend on x here, or be saturated, underflow or be rounded to a constant. "
        "Of a fit, the columns of jac that are zero tell which parameters. "
        "Start elsewhere, or take the logarithm of what underflows."
    ),
    Status.SADDLE: (
        "No minimum: the gradient is zero where the run ended, but a lower point lies beside it, which is x. "
        "Start from there."
    ),
    Status.STALLED: (
        "No progress: the value does not fall along the negative gradient by what the gradient "
        "promises. The gradient may be wrong (ds.check_gradient tells), or the function noisy or "
        "not continuous here."
    ),
    Status.KINK: (
        "No progress: the slope jumps at this point, which may be a kink. A smooth function was "
        "expected; smooth the kink, or try method='pattern'."
    ),
    Status.NONFINITE: (
        "The function or its gradient is not finite at the starting point, or all around the best "
        "point. Start elsewhere, or give bounds that keep x where the function is defined."
    ),
    Status.UNBOUNDED: (
        "The function falls without bound along the last steps. Check its sign, or give bounds."
    ),
    Status.STEPS: "Budget spent: steps. Raise Stop(steps=...), or go on from this result.",
    Status.EVALUATIONS: "Budget spent: evaluations. Raise Stop(evaluations=...), or go on from this result.",
    Status.SECONDS: "Budget spent: seconds. Raise Stop(seconds=...), or go on from this result.",
    Status.INTERRUPTED: "Interrupted; x is the best point seen. Go on from this result.",
    Status.CALLBACK: "Stopped by the callback; x is the best point seen.",
    Status.RAISED: "The function raised an exception; x is the best point seen before.",
}
