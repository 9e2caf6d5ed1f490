"""Newton's method by products with the Hessian only: conjugate gradients, cut short.

Each turn is one product H d or one trial. The inner iteration stops where the gradient of the model
is small enough, at the edge of the trust region, or along a direction of negative curvature, which is
then followed. A rejected step is shortened along itself, which costs a trial and no further product.
Inner products are all that the entries of x have to do with each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from downslope.errors import UsageError
from downslope.ops.protocol import Array
from downslope.solvers.core import Core, Limits, Problem, begin, leaving, moved, seen
from downslope.solvers.method import Evaluation, Want
from downslope.solvers.spaces.protocol import Condition, Number
from downslope.solvers.status import Status
from downslope.solvers.trust import after_trial, fall_ratio, next_radius, shortening

ACCEPT = 1e-4
FLAT = 1e-14
"""Curvature below this share of the largest met counts as none."""


class TruncatedState(NamedTuple):
    """State of a truncated Newton method.

    Attributes:
        core: see `Core`.
        want: a product, or value and gradient.
        vector: d, of which the product is asked.
        z, hz: the step so far and H z.
        r: gradient of the model there, g + H z.
        rr: rᵀr.
        tolerance: of ‖r‖.
        inner: products for this step.
        curvature: largest dᵀHd / dᵀd met.
        radius: of the trust region.
        fall: what the model promises of the trial.
        cut: how often this step has been shortened.

    """

    core: Core
    want: Number
    vector: Array
    z: Array
    hz: Array
    r: Array
    rr: Number
    tolerance: Number
    inner: Number
    curvature: Number
    radius: Number
    fall: Number
    cut: Number


@dataclass(frozen=True)
class Truncated:
    """x₊ = x + z,  z from conjugate gradients on H z = -g.

    Args:
        region: whether a trust region limits z (trust-ncg), or z is as long as it comes and is
            shortened by halves until the value falls (newton-cg).
        inner: most products for a step, or None for 2 n (at most 1000).

    The inner iteration stops at ‖g + H z‖ ≤ min(½, √‖g‖/‖g₀‖) ‖g‖.

    Sources: Steihaug, SIAM J. Numer. Anal. 20 (1983) 626-637; Nash, J. Comput. Appl. Math. 124 (2000)
    45-59; Nocedal and Yuan, Combining trust region and line search techniques, 1998.

    """

    region: bool = True
    inner: int | None = None

    wants: ClassVar[frozenset[Want]] = frozenset({Want.GRADIENT, Want.PRODUCT})
    bounded: ClassVar[bool] = False
    modelled: ClassVar[bool] = True

    def init(
        self, space: Any, problem: Problem, limits: Limits, x: Array, evaluation: Evaluation
    ) -> TruncatedState:
        """Return the state that asks for the first product."""
        core = begin(space, problem, x, evaluation.value, evaluation.gradient)
        zero, vector = space.full(core.value, 0.0), 0.0 * x
        state = TruncatedState(
            core, zero, vector, vector, vector, vector, zero, zero, space.full(zero, 0), zero,
            space.full(zero, float("inf")), zero, space.full(zero, 0),
        )  # fmt: skip
        return self._begin(space, state)

    def turn(
        self, space: Any, problem: Problem, limits: Limits, state: TruncatedState, evaluation: Evaluation
    ) -> TruncatedState:
        """Return the state after a product or after a trial."""
        after: TruncatedState = space.branch(
            state.want == int(Want.PRODUCT),
            lambda: self._multiplied(space, state, evaluation.product),
            lambda: self._tried(space, problem, limits, state, evaluation.value, evaluation.gradient),
        )
        return after

    def _begin(self, space: Any, state: TruncatedState) -> TruncatedState:
        """Return the state that asks for the product with -g, the step being zero."""
        core = state.core
        g, zero = core.gradient, space.full(core.value, 0.0)
        rr = space.dot(g, g)
        size = space.sqrt(rr)
        relative = space.sqrt(space.divide(core.size, core.scale))
        wanted = space.minimum(space.full(rr, 0.5), relative) * size
        promise = space.where(rr > 0, float("inf"), zero)
        return state._replace(
            core=core._replace(ask=core.x, promise=promise), want=space.full(rr, int(Want.PRODUCT)),
            vector=-g, z=0.0 * g, hz=0.0 * g, r=g, rr=rr, tolerance=wanted, inner=space.full(rr, 0),
            fall=zero, cut=space.full(rr, 0), curvature=zero,
        )  # fmt: skip

    def _multiplied(self, space: Any, state: TruncatedState, product: Array) -> TruncatedState:
        """Return the state after H d: another inner iteration, or the trial."""
        d, z = state.vector, state.z
        core = state.core._replace(accepted=space.full(state.rr, False))
        dd, curvature = space.dot(d, d), space.dot(d, product)
        largest = space.maximum(state.curvature, space.absolute(space.divide(curvature, dd)))
        known = space.finite(curvature)
        convex = known & (curvature > FLAT * largest * dd)
        radius = space.where(
            space.finite(state.radius) | space.invert(known),
            state.radius,
            self._first_radius(space, state, dd, curvature, convex),
        )
        alpha = space.divide(state.rr, curvature)
        whole = space.axpy(space.where(convex, alpha, 0.0), d, z)
        if self.region:
            inside = convex & (space.sqrt(space.dot(whole, whole)) < radius)
            edge = self._to_edge(space, z, d, dd, radius)
        else:
            # Negative curvature is followed as far as the step has come, at first for a Cauchy step.
            inside, gone = convex, space.divide(space.dot(z, z), dd)
            edge = space.where(
                gone > 0, space.sqrt(gone), space.minimum(-alpha, space.divide(radius, space.sqrt(dd)))
            )
            edge = space.where(edge > 0, edge, space.divide(radius, space.sqrt(dd)))
        t = space.where(inside, alpha, edge)
        step, hz = space.axpy(t, d, z), space.axpy(t, product, state.hz)
        r = space.axpy(t, product, state.r)
        rr = space.dot(r, r)
        count = state.inner + 1
        most = min(2 * space.size(z), 1000) if self.inner is None else self.inner
        ended = space.invert(inside) | (space.sqrt(rr) <= state.tolerance) | (count >= most)
        new = state._replace(core=core, r=r, rr=rr, inner=count, curvature=largest, radius=radius)

        def on() -> TruncatedState:
            return new._replace(z=step, hz=hz, vector=space.axpy(space.divide(rr, state.rr), d, -r))

        def trial() -> TruncatedState:
            asked = self._trial(space, new, step, hz)
            return asked._replace(core=asked.core._replace(promise=asked.fall))

        def broken() -> TruncatedState:
            failed = core._replace(status=space.full(state.rr, int(Status.NONFINITE)))
            return state._replace(core=failed)

        following: TruncatedState = space.branch(known, lambda: space.branch(ended, trial, on), broken)
        return following

    def _trial(self, space: Any, state: TruncatedState, z: Array, hz: Array) -> TruncatedState:
        """Return the state that asks for value and gradient at x + z."""
        fall = -(space.dot(state.core.gradient, z) + 0.5 * space.dot(z, hz))
        return state._replace(
            core=state.core._replace(ask=state.core.x + z),
            want=space.full(state.rr, int(Want.GRADIENT)), z=z, hz=hz, fall=fall,
        )  # fmt: skip

    def _tried(
        self,
        space: Any,
        problem: Problem,
        limits: Limits,
        state: TruncatedState,
        value: Number,
        gradient: Array,
    ) -> TruncatedState:
        old, z = state.core, state.z
        finite = space.finite(value) & space.finite(space.dot(gradient, gradient))
        core = seen(space, old, value, gradient, finite)
        slope = space.dot(old.gradient, z)
        trapezoid = -0.5 * (slope + space.dot(gradient, z))
        ratio, hidden = fall_ratio(space, old.value, value, state.fall, trapezoid, problem.noise)
        ratio = space.where(finite, ratio, -1.0)
        length = space.sqrt(space.dot(z, z))
        accepted = ratio >= ACCEPT
        radius = next_radius(space, state.radius, length, ratio)
        vanished = (length <= space.eps * space.sqrt(space.dot(old.x, old.x))) | (length <= 1e-300)
        vanished = vanished | space.invert(space.finite(length))

        def onward() -> TruncatedState:
            after = moved(space, problem, limits, core, old.ask, value, gradient)
            return self._begin(space, state._replace(core=after, radius=radius))

        def shortened() -> TruncatedState:
            share = shortening(space, value - old.value, slope, finite)
            still = core._replace(accepted=space.full(value, False))
            cut = state._replace(core=still, radius=share * length, cut=state.cut + 1)
            return self._trial(space, cut, space.scale(share, z), space.scale(share, state.hz))

        out = leaving(space, problem, limits, old, gradient)
        tried = state._replace(core=core)
        following: TruncatedState = after_trial(
            space, tried, out, accepted, vanished, hidden, onward, shortened
        )
        return following

    def _first_radius(
        self, space: Any, state: TruncatedState, dd: Number, curvature: Number, convex: Condition
    ) -> Number:
        """Return ten Cauchy steps; where the curvature is not positive, the step to |f| below f."""
        core, size = state.core, space.sqrt(dd)
        cauchy = space.divide(dd * size, curvature)
        level = space.divide(space.absolute(core.value), size)
        span = space.maximum(space.sqrt(space.dot(core.x, core.x)), level)
        span = 0.1 * space.where(span > 0, span, 1.0)
        return space.where(convex & space.finite(cauchy), 10 * cauchy, span)

    def _to_edge(self, space: Any, z: Array, d: Array, dd: Number, radius: Number) -> Number:
        """Return the t > 0 at which ‖z + t d‖ is the radius."""
        zd, zz = space.dot(z, d), space.dot(z, z)
        rest = space.maximum(radius * radius - zz, 0.0)
        root = space.sqrt(zd * zd + dd * rest)
        # (-zd + root) / dd, written so that nothing cancels
        return space.where(zd > 0, space.divide(rest, zd + root), space.divide(root - zd, dd))


def method(name: str, inner: int | None = None) -> Truncated:
    """Return "trust-ncg" or "newton-cg".

    Raises:
        UsageError: `inner` is no whole number from 1 on.

    """
    if inner is not None and not (isinstance(inner, int) and inner >= 1):
        raise UsageError(f"inner = {inner!r}: expected a whole number of products from 1 on, or None")
    return Truncated(name != "newton-cg", inner)
