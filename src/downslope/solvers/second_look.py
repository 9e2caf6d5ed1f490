"""A second look at what ended within the tolerance: a tail that levels off is no minimum.

The gradient of exp(-x), of 1/x or of a saturated sigmoid falls below any tolerance on the way to
infinity. What tells such a point from a minimum is the step that the method would take next: at a minimum
it is short beside the way that was come, and ten and a hundred times as far the value is higher. Where it
is not short, the farther point is asked for, and where it is lower the nearer one.

Where the gradient is exactly zero there is no such step. Two points a little beside tell a saddle and a
maximum, where the function curves down, from a plateau, where it stays as it is. That may be a set of
minima, or a tail that underflow has made flat: the way back tells.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from downslope.ops.protocol import Array
from downslope.solvers.core import ROUNDINGS, Core, Limits, Problem, passed_by, projected_size, tolerance
from downslope.solvers.method import Method, Want
from downslope.solvers.spaces.protocol import Condition, Number
from downslope.solvers.status import Status

Evaluate: TypeAlias = Callable[[Array], tuple[Number, Array | None]]
"""Value and gradient at a point, of each problem of a space; None of a method without gradients."""

SHORT, LONG = 0.003, 0.05
"""A next step of less than SHORT of the way from the start is that of a run that converges. Where a method
has no model of the function, its step says where to look but not how far, and is LONG of the way."""

MUCH = 20.0
"""A run that is to converge promises less than so many times `Limits.promise`."""

HALVINGS = 60
"""Of the way back to the start, in search of where a plateau begins."""

STAIR = 1e-5
"""Two flat regions whose values differ by a larger share are stairs, and no rounding, in float32 neither."""

NEAR, FAR = 10.0, 100.0
"""How many such steps ahead the two points lie: near the minimum of |x|ᵖ, FAR is past it if p ≤ FAR."""


class Doubt(NamedTuple):
    """What is uncertain in what a function and its gradient return.

    Attributes:
        noise: of the value, beyond its rounding, a standard deviation.
        slope: whether a gradient of zero is one of differences, which may have missed a slope.

    """

    noise: Number = 0.0
    slope: bool = False


def doubt_of(f: Any, method: Method) -> Doubt:
    """Return what differences know to be uncertain; of a fit the noise is of residuals, not of the value."""
    known = f.provenance
    noise = known.noise if known.noise is not None and Want.LINEARIZED not in method.wants else 0.0
    return Doubt(noise, known.error is not None)


class _RefusedError(Exception):
    """The function could not be evaluated at a point beyond the end of a run."""


def suspects(space: Any, limits: Limits, core: Core, modelled: bool) -> tuple[Condition, Condition]:
    """Return which problems may have ended in a tail, and which where the gradient is exactly zero."""
    ended = (core.status == int(Status.GRADIENT)) & (core.evaluations + 4 <= limits.evaluations)
    ahead, way = space.norm_inf(core.ask - core.x), space.norm_inf(core.x - core.origin)
    tail = ended & (core.steps > 0) & (core.size > 0)
    if modelled:
        promised = -0.5 * space.dot(core.gradient, core.ask - core.x)
        much = promised >= MUCH * limits.promise * (core.first - core.value)
        far = (ahead >= SHORT * way) & (much | (core.polished > 0))
        tail = tail & (far | (ahead == 0) | space.invert(space.finite(ahead)))
    still = ended & (space.dot(core.gradient, core.gradient) == 0)
    return tail & space.invert(still), still


def nothing_suspect(space: Any, method: Any, limits: Limits, core: Core) -> bool:
    """Return whether there is nothing to look at."""
    with np.errstate(all="ignore"):
        tail, still = suspects(space, limits, core, getattr(method, "modelled", False))
    return not space.holds(tail) and not space.holds(still)


def along(
    space: Any, problem: Problem, limits: Limits, core: Core, evaluate: Evaluate, suspect: Condition,
    modelled: bool, traced: bool,
) -> Core:  # fmt: skip
    """Return the core, LEVEL where the function levels off ahead of the point that a run ended at.

    Ahead is where the next step would lead, and of a method without a model where the whole way has led.
    """
    step, way = core.ask - core.x, core.x - core.origin
    length, least = space.norm_inf(step), LONG * space.norm_inf(way)
    none = space.invert((length > 0) & space.finite(length))  # a method that gave up asks for nothing
    step = space.pick(none, -core.gradient, step)
    longer = space.maximum(1.0, space.divide(least, space.norm_inf(step)))
    step = space.scale(space.where(none, longer, 1.0) if modelled else longer, step)
    # Of a fit the gradient is not what the tolerance is of.
    here = projected_size(space, problem, core.x, core.gradient)
    asked_size, asked, left = (
        space.maximum(tolerance(space, limits, core), here),
        0 * core.evaluations,
        suspect,
    )
    level = ROUNDINGS * space.eps

    def at(times: float, heading: Array) -> tuple[Number, Number, Condition]:
        straight = space.axpy(space.full(core.value, times), heading, core.x)
        x = _within(space, problem, straight)
        value, gradient = evaluate(x)
        no_higher = space.finite(value) & (value <= core.value + level * space.absolute(core.value))
        no_higher = no_higher & (space.norm_inf(x - straight) == 0)  # no bound ends the tail
        if gradient is None:
            return value, 0.0 * core.value, no_higher
        small = projected_size(space, problem, x, gradient) <= asked_size
        return value, space.dot(gradient, heading), no_higher & small

    for heading in (step,) if modelled else (step, LONG * way):
        far, _, suspicious = at(FAR, heading)
        asked, suspicious = asked + space.where(left, 1, 0), left & suspicious
        if not (traced or space.holds(suspicious)):
            continue
        near, slope, small = at(NEAR, heading)
        asked = asked + space.where(suspicious, 1, 0)
        rounding = level * space.absolute(near)
        # Exactly flat from here on is the edge of a set of minima, as of a sum of hinges.
        falls = (far <= near + rounding) & ((slope < 0) | ((slope == 0) & (far < near - rounding)))
        left = left & space.invert(suspicious & small & falls)
    tail = suspect & space.invert(left)
    return core._replace(
        status=space.where(tail, int(Status.LEVEL), core.status), evaluations=core.evaluations + asked,
        best_x=space.pick(tail, core.x, core.best_x),
        best_value=space.where(tail, core.value, core.best_value),
        best_gradient=space.pick(tail, core.gradient, core.best_gradient),
    )  # fmt: skip


def beside(
    space: Any,
    problem: Problem,
    core: Core,
    evaluate: Evaluate,
    suspect: Condition,
    ways: tuple[Array, Array],
    doubt: Doubt,
    traced: bool,
) -> tuple[Core, Condition]:
    """Return the core, SADDLE where the function falls beside a point without slope, and where it is flat.

    From a start that is a saddle, as all zeros often are, both ways may lead up: the slope at the second
    leads on to where the function falls, as far as the way was long.
    """
    size = space.maximum(space.norm_inf(core.x), space.norm_inf(core.x - core.origin))
    length = space.eps**0.25 * space.where(size > 0, size, 1.0)
    level = ROUNDINGS * space.maximum(space.eps * space.absolute(core.value), doubt.noise)
    flat, asked = suspect, space.where(suspect, 2, 0)
    best = core.best_x, core.best_value, core.best_gradient
    lowest = core.x, core.value
    x, gradient = core.x, None

    def look(
        x: Array, asking: Condition, best: tuple[Array, Number, Array], lowest: tuple[Array, Number]
    ) -> tuple[Any, ...]:
        found, gradient = evaluate(x)
        here = asking & space.finite(found) & (found < core.value - level)
        least = here & (found < lowest[1])
        lowest = space.pick(least, x, lowest[0]), space.where(least, found, lowest[1])
        here = here & (found < best[1])
        kept = best[2] if gradient is None else space.pick(here, gradient, best[2])
        best = space.pick(here, x, best[0]), space.where(here, found, best[1]), kept
        return found, gradient, best, lowest

    for way in ways:
        x = _within(space, problem, space.axpy(length, way + 0.0 * core.x, core.x))
        found, gradient, best, lowest = look(x, suspect, best, lowest)
        moved = space.norm_inf(x - core.x) > 0  # bounds may hold all of it
        flat = flat & moved & _same(space, core, found, gradient)
    if gradient is not None:
        higher = space.invert(lowest[1] < core.value)
        climbing = suspect & (core.steps == 0) & higher & space.invert(flat)
        if traced or space.holds(climbing):
            share = space.divide(space.norm_inf(x - core.x), space.norm_inf(gradient))
            down = _within(space, problem, space.axpy(-share, gradient, x))
            _, _, best, lowest = look(down, climbing, best, lowest)
            asked = asked + space.where(climbing, 1, 0)
    status, lower = core.status, suspect & (lowest[1] < core.value)
    if traced or space.holds(lower):
        bent, sloping, known = _bent(space, problem, core, evaluate, lowest, level)
        if not doubt.slope:  # else it is one that differences did not see
            bent = bent | space.invert(known)
            status = space.where(lower & sloping, int(Status.STALLED), status)
        status = space.where(lower & bent, int(Status.SADDLE), status)
        asked = asked + space.where(lower, 2, 0)
    best_x, best_value, best_gradient = best
    return core._replace(
        status=status, evaluations=core.evaluations + asked,
        best_x=best_x, best_value=best_value, best_gradient=best_gradient,
    ), flat  # fmt: skip


def _bent(
    space: Any, problem: Problem, core: Core, evaluate: Evaluate, lower: tuple[Array, Number], level: Number
) -> tuple[Condition, Condition, Condition]:
    """Return whether the way to a lower point curves down, whether it is a slope, and whether one can tell.

    Three points of a line tell curvature from a slope, however small, that differences did not see.
    """
    way = lower[0] - core.x

    def at(times: float) -> tuple[Number, Condition]:
        straight = space.axpy(space.full(core.value, times), way, core.x)
        x = _within(space, problem, straight)
        value, _ = evaluate(x)
        return value, (space.norm_inf(x - straight) == 0) & space.finite(value)

    (beyond, there), (behind, back) = at(2.0), at(-1.0)
    first, second, third = behind - core.value, core.value - lower[1], lower[1] - beyond
    bent = (there & (second - third < -2.0 * level)) | (back & (first - second < -2.0 * level))
    return bent, there & back & (first > level) & (third > level), there | back


def edge(space: Any, core: Core, evaluate: Evaluate, suspect: Condition) -> Core:
    """Return the core, PLATEAU where the flat region around its point is no set of minima.

    The way from the start is halved until it leads out of the region, then three times more. Half way to
    the edge a sum of hinges or a power of x is well above its minimum; a tail that rounding or underflow
    made flat has levelled off long before. Beyond the edge of a minimum the function slopes; where it is flat
    there too, with another value, both are stairs.
    """
    one = space.full(core.value, 1.0)
    inside, outside, going, asked = one, 0.0 * one, suspect, 0 * core.evaluations
    stairs = core.value != core.value

    def at(t: Number) -> tuple[Number, Condition, Condition]:
        found, gradient = evaluate(space.axpy(t, core.x - core.origin, core.origin))
        larger = space.maximum(space.absolute(found), space.absolute(core.value))
        stair = space.finite(found) & (space.absolute(found - core.value) > STAIR * larger)
        stair = stair & (core.value != core.value if gradient is None else space.dot(gradient, gradient) == 0)
        return found, _same(space, core, found, gradient), stair

    for _ in range(HALVINGS):
        if not space.holds(going):
            break
        asked = asked + space.where(going, 1, 0)
        _, same, stair = at(0.5 * inside)
        stairs = space.where(going & space.invert(same), stair, stairs)
        outside = space.where(going & space.invert(same), 0.5 * inside, outside)
        inside = space.where(going & same, 0.5 * inside, inside)
        going = going & same
    for _ in range(3):
        middle = 0.5 * (inside + outside)
        _, same, stair = at(middle)
        stairs = space.where(same, stairs, stair)
        inside, outside = space.where(same, middle, inside), space.where(same, outside, middle)
    found, _, _ = at(0.5 * inside)
    level = (
        going
        | stairs
        | (found - core.value <= space.sqrt(space.full(one, 100 * space.eps)) * (core.first - core.value))
    )
    asked = asked + space.where(suspect, 4, 0)
    status = space.where(suspect & level, int(Status.PLATEAU), core.status)
    return core._replace(status=status, evaluations=core.evaluations + asked)


def _same(space: Any, core: Core, value: Number, gradient: Array | None) -> Condition:
    """Return whether value and gradient are those of a plateau that the point lies on."""
    equal = value == core.value
    return equal if gradient is None else equal & (space.dot(gradient, gradient) == 0)


def _within(space: Any, problem: Problem, x: Array) -> Array:
    return x if problem.low is None else space.clip(x, problem.low, problem.high)


def looked(
    space: Any, method: Any, problem: Problem, limits: Limits, core: Core, evaluate: Evaluate, ways: Any,
    doubt: Doubt, *, traced: bool,
) -> Core:  # fmt: skip
    """Return the core after a second look at it; nothing is evaluated where nothing is suspect.

    Args:
        space: of the core's numbers; its vectors are (n,) or (n, B).
        method: `modelled`, if it has that, says whether the steps it asks for are those of a model.
        problem: bounds.
        limits: of the run.
        core: as the run ended.
        evaluate: value and gradient at a point.
        ways: called for two directions, for a look beside the start.
        doubt: about values and gradients.
        traced: whether numbers are not known yet, within a transformation of JAX's.

    """
    modelled: bool = getattr(method, "modelled", False)
    if not modelled:
        core = _passed(space, limits, core)
    tail, still = suspects(space, limits, core, modelled)

    def ahead() -> Core:
        return along(space, problem, limits, core, evaluate, tail, modelled, traced)

    def around() -> Core:
        made, flat = beside(space, problem, core, evaluate, still, ways(), doubt, traced)
        at_start = flat & (core.steps == 0)
        made = made._replace(status=space.where(at_start, int(Status.PLATEAU), made.status))
        flat = flat & space.invert(at_start)
        return made if traced or not space.holds(flat) else edge(space, made, evaluate, flat)

    if traced:
        after = space.branch(tail, ahead, lambda: core)
        # No problem is in both.
        return space.branch(still, around, lambda: after)  # type: ignore[no-any-return]
    if space.holds(tail):
        core = ahead()
    return around() if space.holds(still) else core


def after(
    space: Any, method: Any, problem: Problem, limits: Limits, core: Core, evaluate: Evaluate,
    lifted: Callable[[Any], Array], doubt: Doubt, *, traced: bool = False,
) -> Core:  # fmt: skip
    """Return `looked`, or the core as it is where the function raises or Ctrl-C is pressed: the run is over.

    `lifted` makes vectors of the space of NumPy's.
    """

    def asked(x: Array) -> tuple[Number, Array | None]:
        try:
            return evaluate(x)
        except (Exception, KeyboardInterrupt) as error:
            raise _RefusedError from error

    def ways() -> tuple[Array, Array]:
        count = np.arange(1, space.size(core.x) + 1)
        return lifted(np.cos(count)), lifted(np.sin(count))

    try:
        with np.errstate(all="ignore"):
            return looked(space, method, problem, limits, core, asked, ways, doubt, traced=traced)
    except _RefusedError:
        return core


def _passed(space: Any, limits: Limits, core: Core) -> Core:
    """Return the core, LEVEL where a method that goes on at any price ended higher than it once was."""
    much = passed_by(space, core.best_value, core.value) > limits.promise * (core.first - core.best_value)
    ended = core.status == int(Status.GRADIENT)
    return core._replace(status=space.where(ended & much, int(Status.LEVEL), core.status))
