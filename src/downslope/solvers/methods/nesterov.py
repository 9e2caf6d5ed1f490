"""Nesterov's accelerated gradient, with backtracking and restarts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from downslope.ops.protocol import Array
from downslope.solvers.core import ROUNDINGS, Core, Limits, Problem, begin, moved, passed_by, seen
from downslope.solvers.method import Evaluation, Want
from downslope.solvers.spaces.protocol import Condition, Number, Space
from downslope.solvers.status import Status

RELAX = 0.8
"""The estimate of the Lipschitz constant falls by this factor at each step, to follow the function."""

TRIALS = 60


class NesterovState(NamedTuple):
    """State of the accelerated gradient.

    Attributes:
        core: see `Core`.
        ahead: whether the point asked for is y, else it is the trial y - ∇f(y) / L.
        y, value, gradient: the point ahead, and f and ∇f there.
        momentum: θ.
        lipschitz: L.
        trials: of the step under way.
        plain: whether y is x, after a restart.

    """

    core: Core
    ahead: Condition
    y: Array
    value: Number
    gradient: Array
    momentum: Number
    lipschitz: Number
    trials: Number
    plain: Condition


@dataclass(frozen=True)
class Nesterov:
    """x₊ = y - ∇f(y) / L,   y₊ = x₊ + (θ - 1) / θ₊ (x₊ - x),   θ₊ = (1 + √(1 + 4 θ²)) / 2.

    L is doubled until f(x₊) ≤ f(y) - ‖∇f(y)‖² / 2L. The momentum is dropped where it points uphill,
    ∇f(y)ᵀ(x₊ - x) > 0, or where f would rise. A step costs two evaluations, at y and at x₊.

    Sources: Nesterov, Soviet Math. Dokl. 27 (1983) 372-376; Beck & Teboulle, SIAM J. Imaging Sci. 2 (2009)
    183-202 for the backtracking; O'Donoghue & Candès, Found. Comput. Math. 15 (2015) 715-732 for the
    restart.
    """

    wants: ClassVar[frozenset[Want]] = frozenset({Want.GRADIENT})
    bounded: ClassVar[bool] = False

    def init(
        self, space: Space, problem: Problem, limits: Limits, x: Array, evaluation: Evaluation
    ) -> NesterovState:
        """Return the state that asks for the first trial, of a step no longer than 1."""
        value, gradient = evaluation.value, evaluation.gradient
        core = begin(space, problem, x, value, gradient)
        one = space.full(value, 1.0)
        lipschitz = space.maximum(one, space.sqrt(space.dot(gradient, gradient)))
        no, yes, zero = space.full(value, False), space.full(value, True), space.full(value, 0)
        return self._trial(
            space, NesterovState(core, no, x, value, gradient, one, lipschitz, zero, yes), core
        )

    def turn(
        self, space: Space, problem: Problem, limits: Limits, state: NesterovState, evaluation: Evaluation
    ) -> NesterovState:
        """Return the state after the evaluation of y or of a trial."""
        value, gradient = evaluation.value, evaluation.gradient
        finite = space.finite(value) & space.finite(space.dot(gradient, gradient))
        core = seen(space, state.core, value, gradient, finite)
        core = core._replace(accepted=space.full(value, False))

        def looked() -> NesterovState:
            there = state._replace(value=value, gradient=gradient, trials=space.full(state.trials, 0))
            return space.branch(
                finite,
                lambda: self._trial(space, there, core),
                lambda: self._restart(space, state, core),
            )

        def tried() -> NesterovState:
            return self._tried(space, problem, limits, state, core, value, gradient, finite)

        return space.branch(state.ahead, looked, tried)

    def _tried(
        self, space: Space, problem: Problem, limits: Limits, state: NesterovState, core: Core,
        value: Number, gradient: Array, finite: Condition,
    ) -> NesterovState:  # fmt: skip
        """Return the state after a trial: a step, a shorter trial, a restart or the end."""
        square = space.dot(state.gradient, state.gradient)
        promised = space.divide(0.5 * square, state.lipschitz)
        fall = value - state.value
        equal = space.absolute(fall) <= space.maximum(
            ROUNDINGS * space.eps * space.absolute(value), 2.0 * problem.noise
        )
        # By the slopes, where values differ by rounding alone: the curvature along the step is within L.
        along = space.dot(gradient, state.gradient)
        enough = finite & space.where(equal, along >= 0, fall <= -promised)
        uphill = finite & (value - core.value > ROUNDINGS * space.eps * space.absolute(core.value))
        worn = state.trials + 1 >= TRIALS

        def longer() -> NesterovState:
            doubled = state._replace(lipschitz=2.0 * state.lipschitz, trials=state.trials + 1)
            return space.branch(worn, gone, lambda: self._trial(space, doubled, core))

        def gone() -> NesterovState:
            why = space.where(equal, int(Status.ROUNDOFF), int(Status.STALLED))
            ended = state._replace(core=core._replace(status=why, ask=core.x))
            return space.branch(state.plain, lambda: ended, lambda: self._restart(space, state, core))

        def step() -> NesterovState:
            return self._step(space, problem, limits, state, core, value, gradient)

        def on() -> NesterovState:
            return space.branch(
                uphill & space.invert(state.plain), lambda: self._restart(space, state, core), step
            )

        return space.branch(enough, on, longer)

    def _step(
        self, space: Space, problem: Problem, limits: Limits, state: NesterovState, core: Core,
        value: Number, gradient: Array,
    ) -> NesterovState:  # fmt: skip
        """Return the state after a step to the trial: ahead of it, or at it where momentum is dropped."""
        x, step = core.ask, core.ask - core.x
        against = space.dot(state.gradient, step) > 0
        promise = passed_by(space, core.best_value, value)
        after = moved(space, problem, limits, core, x, value, gradient, promise)
        theta = 0.5 * (1.0 + space.sqrt(1.0 + 4.0 * state.momentum * state.momentum))
        y = space.axpy(space.divide(state.momentum - 1.0, theta), step, x)
        lipschitz = RELAX * state.lipschitz
        forward = state._replace(
            core=after._replace(ask=y), ahead=space.full(value, True), y=y, momentum=theta,
            lipschitz=lipschitz, plain=space.full(value, False),
        )  # fmt: skip
        return space.branch(
            against,
            lambda: self._restart(space, state._replace(lipschitz=lipschitz), after),
            lambda: forward,
        )

    def _restart(self, space: Space, state: NesterovState, core: Core) -> NesterovState:
        """Return the state that asks for a trial from the iterate itself, whose gradient is known."""
        value = core.value
        plain = state._replace(
            y=core.x, value=value, gradient=core.gradient, momentum=space.full(value, 1.0),
            trials=space.full(state.trials, 0), plain=space.full(value, True),
        )  # fmt: skip
        return self._trial(space, plain, core)

    def _trial(self, space: Space, state: NesterovState, core: Core) -> NesterovState:
        """Return the state that asks for y - ∇f(y) / L."""
        ask = space.axpy(space.divide(-1.0, state.lipschitz), state.gradient, state.y)
        return state._replace(core=core._replace(ask=ask), ahead=space.full(core.value, False))


def method(name: str, **options: Any) -> Nesterov:
    """Return the accelerated gradient."""
    return Nesterov(**options)
