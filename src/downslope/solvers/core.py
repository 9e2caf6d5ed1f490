"""The part of a state that every method has: the iterate, the best point, counts and the ending."""

from __future__ import annotations

from typing import NamedTuple

from downslope.ops.protocol import Array
from downslope.solvers.spaces.protocol import Condition, Number, Space
from downslope.solvers.status import Status

ROUNDINGS = 10.0
"""Values that differ by so many spacings of the dtype may differ by rounding alone."""

RUNNING, GRADIENT, VALUE, STEP, TARGET, ROUNDOFF, NONFINITE, UNBOUNDED, STEPS, EVALUATIONS, PRECISION = (
    int(status)
    for status in (
        Status.RUNNING, Status.GRADIENT, Status.VALUE, Status.STEP, Status.TARGET, Status.ROUNDOFF,
        Status.NONFINITE, Status.UNBOUNDED, Status.STEPS, Status.EVALUATIONS, Status.PRECISION,
    )
)  # fmt: skip
"""As numbers once: they are compared with at every evaluation."""

POLISH = 8
"""After so many steps the gradient alone decides, whatever is still promised."""


class Problem(NamedTuple):
    """What stays the same in a run.

    Attributes:
        low, high: bounds, vectors or None; every point asked for lies within.
        noise: what the value is uncertain by beyond its rounding, a standard deviation.

    """

    low: Array | None = None
    high: Array | None = None
    noise: Number = 0.0


class Limits(NamedTuple):
    """What `Stop` asks for, in numbers; None of a criterion that is off.

    Attributes:
        promise: what may be left to fall, as a share of the fall so far, where the gradient is within
            the tolerance.

    """

    gradient: Number
    absolute: Number
    promise: Number
    value: Number | None
    step: Number | None
    target: Number | None
    steps: Number
    evaluations: Number


class Core(NamedTuple):
    """The part of a state that every method has, and all that a driver knows of it.

    Attributes:
        ask: the point to evaluate next.
        x, value, gradient: the iterate.
        best_x, best_value, best_gradient: the lowest value seen, the gradient there being finite.
        size: ‖g‖∞ of the iterate, projected where there are bounds.
        scale: what `Stop.gradient` is relative to.
        origin: where the run began.
        first: the value there.
        promise: what the method's model says that the value will still fall by; infinite where that is
            not known yet. Of a method whose values may rise, what the lowest one seen is lower by; else 0.
        steps, evaluations: counts.
        polished: how many steps were taken since the gradient was within the tolerance first.
        small_falls, short_steps: how many steps in a row were small, by `Stop.value` and `Stop.step`.
        accepted: whether the last turn ended a step.
        status: a `Status`, as a number.

    """

    ask: Array
    x: Array
    value: Number
    gradient: Array
    best_x: Array
    best_value: Number
    best_gradient: Array
    size: Number
    scale: Number
    origin: Array
    first: Number
    promise: Number
    steps: Number
    evaluations: Number
    polished: Number
    small_falls: Number
    short_steps: Number
    accepted: Condition
    status: Number


def begin(space: Space, problem: Problem, x: Array, value: Number, gradient: Array) -> Core:
    """Return the core after the first evaluation; its status is NONFINITE where that is not finite."""
    size = projected_size(space, problem, x, gradient)
    known = space.finite(value) & space.finite(space.dot(gradient, gradient))
    zero = space.full(size, 0)
    status = space.where(known, int(Status.RUNNING), int(Status.NONFINITE))
    return Core(
        x, x, value, gradient, x, value, gradient, size, size, x, value, space.full(size, 0.0),
        zero, zero + 1, zero, zero, zero, known, status,
    )  # fmt: skip


def passed_by(space: Space, best: Number, value: Number) -> Number:
    """Return by how much the lowest value seen is lower than the iterate's, beyond rounding."""
    return space.maximum(value - best - ROUNDINGS * space.eps * space.absolute(best), 0.0)


def leaving(space: Space, problem: Problem, limits: Limits, core: Core, gradient: Array) -> Condition:
    """Return whether a step from within the tolerance leads out of it, and was promised to win little."""
    asked = tolerance(space, limits, core)
    little = core.promise <= limits.gradient * (core.first - core.value)
    return (core.size <= asked) & (projected_size(space, problem, core.ask, gradient) > asked) & little


def projected_size(space: Space, problem: Problem, x: Array, gradient: Array) -> Number:
    """Return ‖x - P(x - g)‖∞, which is ‖g‖∞ where nothing bounds x."""
    if problem.low is None:
        return space.norm_inf(gradient)
    # Taken apart by side, so that x - (x - g) does not round a small gradient away.
    down = space.select(gradient > 0, space.least(gradient, x - problem.low), gradient)
    return space.norm_inf(space.select(down < 0, space.most(down, x - problem.high), down))


def tolerance(space: Space, limits: Limits, core: Core) -> Number:
    """Return the size of the gradient within which a run has converged."""
    return space.maximum(limits.gradient * core.scale, limits.absolute)


def seen(space: Space, core: Core, value: Number, gradient: Array, finite: Condition) -> Core:
    """Return the core with the evaluation counted, and the point just evaluated as the best, where it is."""
    better = finite & (value < core.best_value)
    return core._replace(
        best_x=space.pick(better, core.ask, core.best_x),
        best_value=space.where(better, value, core.best_value),
        best_gradient=space.pick(better, gradient, core.best_gradient),
        evaluations=core.evaluations + 1,
    )


def moved(
    space: Space, problem: Problem, limits: Limits, core: Core, x: Array, value: Number, gradient: Array,
    promise: Number | None = None,
) -> Core:  # fmt: skip
    """Return the core after a step to `x`; `ask` is left for the method to set, and a promise not given."""
    size = projected_size(space, problem, x, gradient)
    polishing = (core.size <= tolerance(space, limits, core)) | (core.polished > 0)
    falls = shorts = core.small_falls
    if limits.value is not None:
        fall, of = core.value - value, space.maximum(space.absolute(core.value), space.absolute(value))
        falls = space.where(fall <= limits.value * of, core.small_falls + 1, 0)
    if limits.step is not None:
        far = space.maximum(space.norm_inf(x), space.norm_inf(x - core.origin))
        short = space.norm_inf(x - core.x) <= limits.step * far
        shorts = space.where(short, core.short_steps + 1, 0)
    return core._replace(
        x=x, value=value, gradient=gradient, size=size,
        scale=space.maximum(core.scale, space.minimum(size, 1.0)),
        steps=core.steps + 1, polished=space.where(polishing, core.polished + 1, 0),
        small_falls=falls, short_steps=shorts, accepted=space.full(value, True),
        promise=core.promise if promise is None else promise,
    )  # fmt: skip


def settle(space: Space, limits: Limits, core: Core) -> Core:
    """Return the core with its status, where a criterion of `Stop` now holds."""
    return core._replace(status=ending(space, limits, core))


def ending(space: Space, limits: Limits, core: Core) -> Number:
    """Return the status of a core by the criteria of `Stop`.

    A run has converged where the gradient is within the tolerance and no more than a small share of the
    fall is still promised. So has one that its method gives up, where the gradient is within the tolerance.
    """
    where = space.where
    running = core.status == RUNNING
    within = core.size <= tolerance(space, limits, core)
    share = limits.promise * space.maximum(core.first - core.best_value, 0.0)
    level = space.eps * space.absolute(core.best_value)
    near = core.promise <= space.maximum(share, level)
    near = near | ((core.size <= limits.absolute) & (limits.absolute > 0)) | (core.polished >= POLISH)
    status = where(running & (core.evaluations >= limits.evaluations), EVALUATIONS, core.status)
    status = where(running & (core.steps >= limits.steps), STEPS, status)
    if limits.step is not None:
        status = where(running & (core.short_steps >= 2), STEP, status)
    if limits.value is not None:
        status = where(running & (core.small_falls >= 2), VALUE, status)
    if limits.target is not None:
        status = where(core.best_value <= limits.target, TARGET, status)
    status = where(core.best_value < -1.0 / space.eps**2, UNBOUNDED, status)
    rough = core.size > coarse(space, core)
    status = where((core.status == ROUNDOFF) & rough, PRECISION, status)
    own = space.invert(running) & (core.status != NONFINITE)
    there = within & ((running & near) | own)
    return where(there, GRADIENT, status)


def coarse(space: Space, core: Core) -> Number:
    """Return the gradient up to which an ending at round-off is a success, a share of max(1, ‖g₀‖∞)."""
    share = 1e-6 if space.eps < 1e-10 else 5e-3
    return share * space.maximum(core.scale, space.full(core.size, 1.0))
