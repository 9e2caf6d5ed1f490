"""One problem, turned on the host: an evaluation, a turn, until something ends the run."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from downslope.errors import UsageError
from downslope.ops.protocol import Array
from downslope.solvers.core import Core, Limits, Problem, ending, settle
from downslope.solvers.method import Evaluation, Method, State, Want
from downslope.solvers.spaces.protocol import Space
from downslope.solvers.status import Status

SECOND = frozenset({Want.PRODUCT, Want.HESSIAN})
"""What of a method's wants is of second derivatives."""


@dataclass
class Run:
    """A run as it ended.

    Attributes:
        state: the method's state; its `core.status` says how.
        error: the exception that ended it, or None.

    """

    state: State
    error: BaseException | None = None


def run(
    method: Method,
    space: Space,
    problem: Problem,
    limits: Limits,
    objective: Any,
    start: Array | State,
    *,
    seconds: float | None = None,
    watch: Callable[[Core], bool] | None = None,
) -> Run:
    """Turn a method until a criterion holds.

    Args:
        method: the state machine.
        space: where its numbers live.
        problem: bounds and noise.
        limits: when to stop.
        objective: values and derivatives, of `downslope.gradients`.
        start: a vector to start from, or the state of a run to go on with.
        seconds: of the clock, or None.
        watch: called after the first evaluation and after each step; True ends the run.

    An exception of the function at the first evaluation is raised; later ones end the run. So is a second
    derivative at the start that does not fit.

    """
    evaluate = _evaluator(objective, method, space)
    deadline = None if seconds is None else time.perf_counter() + seconds
    if hasattr(start, "core"):
        state = start._replace(core=start.core._replace(status=int(Status.RUNNING)))
    else:
        evaluation = evaluate(start, int(Want.GRADIENT), None)
        with np.errstate(all="ignore"):
            state = method.init(space, problem, limits, start, evaluation)
    try:
        with np.errstate(all="ignore"):
            state = state._replace(core=settle(space, limits, state.core))
        if watch is not None and watch(state.core):
            return Run(_ended(state, Status.CALLBACK))
        while not state.core.status:
            if deadline is not None and time.perf_counter() > deadline:
                return Run(_ended(state, Status.SECONDS))
            evaluation = evaluate(state.core.ask, getattr(state, "want", 0), getattr(state, "vector", None))
            with np.errstate(all="ignore"):
                state = method.turn(space, problem, limits, state, evaluation)
                status = ending(space, limits, state.core)
            if status:
                state = _ended(state, status)
            if watch is not None and state.core.accepted and watch(state.core):
                return Run(_ended(state, Status.CALLBACK))
    except KeyboardInterrupt:
        return Run(_ended(state, Status.INTERRUPTED))
    except Exception as error:
        at_start = state.core.evaluations == 1 and getattr(state, "want", 0) in SECOND
        if isinstance(error, UsageError) and at_start:
            raise
        return Run(_ended(state, Status.RAISED), error)
    return Run(state)


def _ended(state: State, status: int) -> State:
    return state._replace(core=state.core._replace(status=int(status)))


def _evaluator(objective: Any, method: Method, space: Space) -> Callable[[Array, int, Any], Evaluation]:
    """Return what evaluates at a point what is wanted there."""
    if hasattr(objective, "evaluate"):  # it knows itself what is wanted: sums of squares
        own: Callable[[Array, int, Any], Evaluation] = objective.evaluate
        return own
    with_gradient = objective.value_and_gradient
    if method.wants == {Want.GRADIENT}:

        def gradient_alone(x: Array, want: int, vector: Any) -> Evaluation:
            value, gradient = with_gradient(x)
            return Evaluation(float(value), gradient)

        return gradient_alone

    def evaluate(x: Array, want: int, vector: Any) -> Evaluation:
        if want == Want.PRODUCT:
            return Evaluation(product=objective.hessian_vector(x, vector))
        if want == Want.HESSIAN:
            return Evaluation(hessian=objective.hessian(x))
        if want == Want.VALUE or Want.GRADIENT not in method.wants:
            return Evaluation(float(objective.value(x)))
        value, gradient = with_gradient(x)
        return Evaluation(float(value), gradient)

    return evaluate
