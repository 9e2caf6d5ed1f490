"""Trust regions: steps that minimize a quadratic model within a radius, and what the radius becomes.

The model is diagonal, m(y) = bᵀy + ½ Σ λᵢ yᵢ², in the basis of its eigenvectors: an eigenvalue
decomposition of the Hessian, or a singular value decomposition of the Jacobian, makes it so once a
point, and another radius at the same point then costs O(n).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from downslope.ops.protocol import Array
from downslope.solvers.spaces.protocol import Condition, Number
from downslope.solvers.status import Status

ROUNDS = 16
"""Newton steps on the secular equation; three or four are usual."""

NEAR = 0.05
"""How near, as a share of the radius, the length of a step on the boundary is to it."""


class Step(NamedTuple):
    """A step y within the radius: its length, its multiplier μ, and what the model falls by."""

    y: Array
    length: Number
    multiplier: Number
    fall: Number


def secular(
    space: Any,
    curvatures: Array,
    slopes: Array,
    radius: Number,
    guess: Number,
    *,
    flat: float | None = None,
    follow: bool = True,
) -> Step:
    """Return the least point of m(y) = bᵀy + ½ Σ λᵢ yᵢ² with ‖y‖ ≤ radius.

    Where the minimum is not inside, y = -(Λ + μ)⁻¹ b with the μ > -λ₁ at which ‖y‖ is the radius. In
    the "hard case", b having no part along λ₁ ≤ 0, the step goes on along that eigenvector.

    Args:
        space: where the numbers live.
        curvatures: λ in rising order, (…, n).
        slopes: b, (…, n).
        radius: of the region.
        guess: a multiplier to begin with.
        flat: curvature that counts as none, as a share of the largest; the spacing of numbers by default.
        follow: whether the hard case is followed; of a sum of squares it is only a lack of data.

    Source: Moré and Sorensen, Computing a trust region step, SIAM J. Sci. Stat. Comput. 4, 1983.

    """
    least = space.first(curvatures)
    size = space.norm_inf(curvatures)
    slope = space.sqrt(space.dot(slopes, slopes))
    inside = _solved(space, curvatures, slopes, space.full(slope, 0.0))
    length = space.sqrt(space.dot(inside, inside))
    curved = least > (space.eps if flat is None else flat) * size
    fits = curved & (length <= radius * (1 + NEAR))
    if fits is True:  # on the host nothing is left to do
        return _step(space, inside, length, 0.0, curvatures, slopes)
    tiny = (space.eps if flat is None else flat) * space.maximum(size, space.divide(slope, radius))
    low = space.maximum(space.full(least, 0.0), tiny - least)
    high = low + space.divide(slope, radius)
    mu = space.minimum(space.maximum(guess, low), high)
    # Where nothing is known, no round would tell more.
    settled = fits | space.invert(space.finite(slope))

    def closer(carry: Any) -> tuple[Condition, Any]:
        mu, low, high, _, _ = carry
        y = _solved(space, curvatures, slopes, mu)
        length = space.sqrt(space.dot(y, y))
        near = space.absolute(length - radius) <= NEAR * radius
        low = space.where(length > radius, space.maximum(low, mu), low)
        high = space.where(length < radius, space.minimum(high, mu), high)
        z = _solved(space, curvatures, y, mu)  # -(Λ + μ)⁻¹ y, half the derivative of ‖y‖²
        fall = -space.dot(y, z)
        better = mu + space.divide((length - radius) * length * length, radius * fall)
        middle = space.maximum(space.sqrt(low * high), 0.001 * high)
        usable = space.finite(better) & (better > low) & (better < high)
        mu = space.where(near, mu, space.where(usable, better, middle))
        return near | settled, (mu, low, high, y, length)

    mu, low, high, y, length = space.until(closer, (mu, low, high, inside, length), ROUNDS)
    # Short of the radius at the smallest multiplier there is: the hard case.
    short = space.invert(curved) & (length < radius * (1 - NEAR)) & space.finite(length)
    rest = space.sqrt(space.maximum(radius * radius - length * length, 0.0))
    if not follow:
        rest = 0.0 * rest
    signed = space.where(short, space.where(space.first(slopes) > 0, -1.0, 1.0) * rest, 0.0 * rest)
    y = y + space.put(space.zeros(y, space.size(y)), space.full(least, 0), signed)
    y = space.pick(fits, inside, y)
    mu = space.where(fits, 0.0 * mu, mu)
    return _step(space, y, space.sqrt(space.dot(y, y)), mu, curvatures, slopes)


def _solved(space: Any, curvatures: Array, slopes: Array, mu: Number) -> Array:
    """Return -(Λ + μ)⁻¹ b, where a part of b that is zero gives zero."""
    shifted = space.shift(mu, curvatures)
    return space.select(
        slopes == 0, 0.0 * slopes, -slopes / space.select(shifted == 0, shifted + 1e-300, shifted)
    )


def _step(space: Any, y: Array, length: Number, mu: Number, curvatures: Array, slopes: Array) -> Step:
    return Step(y, length, mu, -(space.dot(slopes, y) + 0.5 * space.dot(y, curvatures * y)))


def next_radius(space: Any, radius: Number, length: Number, ratio: Number) -> Number:
    """Return the radius after a step of `length` that fell by `ratio` of what the model promised."""
    grown = space.where(ratio > 0.75, space.maximum(radius, 2.5 * length), radius)
    shrunk = space.minimum(0.25 * length, radius)
    return space.where(ratio >= 0.25, grown, shrunk)


def shortening(space: Any, rise: Number, slope: Number, finite: Condition) -> Number:
    """Return the share of a rejected step to try next, between a tenth and a half.

    It is where the parabola through both values and the slope at the step's start is least.
    """
    least = space.divide(-0.5 * slope, rise - slope)
    share = space.minimum(space.maximum(least, 0.1), 0.5)
    return space.where(finite & space.finite(least), share, 0.1)


def fall_ratio(
    space: Any, before: Number, after: Number, fall: Number, trapezoid: Number, noise: Number
) -> tuple[Number, Condition]:
    """Return what the value fell by as a share of what the model promised, and whether noise hides it.

    Where the fall is lost in the value's rounding, it is measured by the slopes at both ends of the
    step, -½ (g + g₊)ᵀ p, which is exact for a quadratic function and loses no digits.
    """
    level = 10 * space.eps * space.maximum(space.absolute(before), space.absolute(after)) + 4 * noise
    hidden = (space.absolute(before - after) <= level) & (fall <= level)
    fell = space.where(hidden, trapezoid, before - after)
    return space.divide(fell, fall), hidden


def after_trial(
    space: Any,
    tried: Any,
    out: Condition,
    accepted: Condition,
    vanished: Condition,
    hidden: Condition,
    onward: Callable[[], Any],
    shorter: Callable[[], Any],
) -> Any:
    """Return the state of a method after a trial step.

    Args:
        space: where the numbers live.
        tried: the state with what was seen at the trial point, still at the point before.
        out: whether the step leads out of the tolerance for little: then the run ends where it is.
        accepted: whether the step is taken, by `onward`.
        vanished: whether the region is too small to hold a lower point; else the trial is repeated by
            `shorter`.
        hidden: whether rounding hides what the step brings.
        onward: returns the state at the trial point.
        shorter: returns the state that asks for a shorter step.

    """
    core = tried.core._replace(accepted=space.full(tried.core.value, False))

    def stay() -> Any:
        return tried._replace(core=core._replace(promise=space.full(core.value, 0.0)))

    def ended() -> Any:
        why = space.where(hidden, int(Status.ROUNDOFF), int(Status.STALLED))
        return tried._replace(core=core._replace(ask=core.x, status=why))

    def other() -> Any:
        return space.branch(vanished, ended, shorter)

    return space.branch(out, stay, lambda: space.branch(accepted, onward, other))
