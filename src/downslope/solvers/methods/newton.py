"""Newton's method with the whole Hessian, in a trust region whose subproblem is solved exactly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from downslope.ops.protocol import Array
from downslope.solvers.core import Core, Limits, Problem, begin, leaving, moved, seen
from downslope.solvers.method import Evaluation, Want
from downslope.solvers.spaces.protocol import Number
from downslope.solvers.status import Status
from downslope.solvers.trust import after_trial, fall_ratio, next_radius, secular, shortening

ACCEPT = 1e-4
"""A step counts if the value falls by at least this share of what the model promised."""


class NewtonState(NamedTuple):
    """State of Newton's method.

    Attributes:
        core: see `Core`.
        want: what is asked for: the Hessian at the iterate, or value and gradient at a trial.
        curvatures, basis: eigenvalues in rising order, and eigenvectors in columns, of the Hessian.
        slopes: the gradient in that basis.
        radius: of the trust region; infinite before the first step.
        multiplier: of the last subproblem.
        step: of the trial.
        length, fall: of the trial's step, and what the model promises.

    """

    core: Core
    want: Number
    curvatures: Array
    basis: Array
    slopes: Array
    radius: Number
    multiplier: Number
    step: Array
    length: Number
    fall: Number


@dataclass(frozen=True)
class Newton:
    """x₊ = x + p,  p the least point of gᵀp + ½ pᵀHp with ‖p‖ ≤ Δ.

    The subproblem is solved in the eigenvectors of H, so that negative curvature is followed and
    singular Hessians do no harm; a rejected step costs no second decomposition. The first radius is
    ten times the length of the Cauchy step; there is no absolute length anywhere.

    Source: Moré and Sorensen, SIAM J. Sci. Stat. Comput. 4 (1983) 553-572.
    """

    wants: ClassVar[frozenset[Want]] = frozenset({Want.GRADIENT, Want.HESSIAN})
    bounded: ClassVar[bool] = False
    modelled: ClassVar[bool] = True

    def init(
        self, space: Any, problem: Problem, limits: Limits, x: Array, evaluation: Evaluation
    ) -> NewtonState:
        """Return the state that asks for the Hessian at the start."""
        core = begin(space, problem, x, evaluation.value, evaluation.gradient)
        core = core._replace(promise=space.full(core.value, float("inf")))
        n = space.size(x)
        zero, vector = space.full(core.value, 0.0), space.zeros(x, n)
        return NewtonState(
            core, space.full(core.value, int(Want.HESSIAN)), vector, space.zeros(x, n, n), vector,
            space.full(core.value, float("inf")), zero, vector, zero, zero,
        )  # fmt: skip

    def turn(
        self, space: Any, problem: Problem, limits: Limits, state: NewtonState, evaluation: Evaluation
    ) -> NewtonState:
        """Return the state after a Hessian or after a trial."""
        after: NewtonState = space.branch(
            state.want == int(Want.HESSIAN),
            lambda: self._curved(space, problem, state, evaluation),
            lambda: self._tried(space, problem, limits, state, evaluation),
        )
        return after

    def _curved(
        self, space: Any, problem: Problem, state: NewtonState, evaluation: Evaluation
    ) -> NewtonState:
        core = state.core
        curvatures, basis, known = space.eigh(evaluation.hessian)
        slopes = space.combine(core.gradient, basis)
        core = core._replace(
            accepted=space.full(core.value, False),
            status=space.where(known, core.status, int(Status.NONFINITE)),
        )
        radius = space.where(
            space.finite(state.radius), state.radius, self._first_radius(space, core, curvatures, slopes)
        )
        new = state._replace(core=core, curvatures=curvatures, basis=basis, slopes=slopes, radius=radius)
        new = self._trial(space, new)
        return new._replace(core=new.core._replace(promise=new.fall))

    def _first_radius(self, space: Any, core: Core, curvatures: Array, slopes: Array) -> Number:
        """Return ten Cauchy steps; where the curvature is not positive, the step to |f| below f."""
        slope = space.sqrt(space.dot(slopes, slopes))
        curvature = space.dot(slopes, curvatures * slopes)
        cauchy = space.divide(slope * slope * slope, space.absolute(curvature))
        level = space.where(slope > 0, space.divide(space.absolute(core.value), slope), 0.0)
        span = space.maximum(space.sqrt(space.dot(core.x, core.x)), level)
        span = space.where(span > 0, span, 1.0)
        usable = (curvature > 0) & space.finite(cauchy)
        return space.where(usable, 10 * cauchy, 0.1 * span)

    def _trial(self, space: Any, state: NewtonState) -> NewtonState:
        """Return the state that asks for value and gradient at the model's least point."""
        core = state.core
        found = secular(space, state.curvatures, state.slopes, state.radius, state.multiplier)
        step = space.rows(state.basis, found.y)
        return state._replace(
            core=core._replace(ask=core.x + step),
            want=space.full(core.value, int(Want.GRADIENT)),
            multiplier=found.multiplier, step=step, length=found.length, fall=found.fall,
        )  # fmt: skip

    def _tried(
        self, space: Any, problem: Problem, limits: Limits, state: NewtonState, evaluation: Evaluation
    ) -> NewtonState:
        old, value, gradient = state.core, evaluation.value, evaluation.gradient
        finite = space.finite(value) & space.finite(space.dot(gradient, gradient))
        core = seen(space, old, value, gradient, finite)
        slope = space.dot(old.gradient, state.step)
        trapezoid = -0.5 * (slope + space.dot(gradient, state.step))
        ratio, hidden = fall_ratio(space, old.value, value, state.fall, trapezoid, problem.noise)
        ratio = space.where(finite, ratio, -1.0)
        share = shortening(space, value - old.value, slope, finite)
        radius = next_radius(space, state.radius, state.length, ratio)
        radius = space.where(ratio < ACCEPT, share * state.length, radius)
        # A region so small that x + p is x holds no lower point.
        size = space.sqrt(space.dot(old.x, old.x))
        vanished = (radius <= space.eps * size) | space.invert(state.fall > 0) | (radius <= 1e-300)
        accepted = ratio >= ACCEPT

        def onward() -> NewtonState:
            unknown = space.full(value, float("inf"))  # until the Hessian is known
            after = moved(space, problem, limits, core, old.ask, value, gradient, unknown)
            return state._replace(core=after, want=space.full(value, int(Want.HESSIAN)), radius=radius)

        def again() -> NewtonState:
            return self._trial(
                space,
                state._replace(core=core._replace(accepted=space.full(value, False)), radius=radius),
            )

        out = leaving(space, problem, limits, old, gradient)
        tried = state._replace(core=core, radius=radius)
        following: NewtonState = after_trial(space, tried, out, accepted, vanished, hidden, onward, again)
        return following


def method(name: str) -> Newton:
    """Return Newton's method."""
    return Newton()
