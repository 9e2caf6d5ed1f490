"""Many problems in lock step: an evaluation of all, a turn of all, until each has come to its end.

A problem that has ended is written down and goes on unheeded, where it can be seen at once that it has
ended; on accelerators it is frozen, and nothing crosses to the host for some turns. Every few turns those
that have ended leave, so that the rest goes on in smaller arrays.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from downslope.errors import UsageError
from downslope.ops.protocol import Array
from downslope.solvers.core import Core, Limits, Problem, settle
from downslope.solvers.drivers.host import SECOND, Run
from downslope.solvers.method import Evaluation, Method, State, Want
from downslope.solvers.spaces.arrays import Arrays, mapped
from downslope.solvers.status import Status

LOOK = 8
"""Turns between two looks at who has ended."""

WORTH = 0.75
"""Arrays are made smaller when no more than this share of their problems still runs."""


def run(
    method: Method,
    space: Arrays,
    problem: Problem,
    limits: Limits,
    objective: Any,
    start: Array | State,
    *,
    seconds: float | None = None,
) -> Run:
    """Turn a method on all problems; see `host.run`. The state returned is that of all problems."""
    deadline = None if seconds is None else time.perf_counter() + seconds
    with np.errstate(all="ignore"):
        state = begin(method, space, problem, limits, objective, start)
        lanes = Lanes(space, problem, objective, state)
        turns = 0
        try:
            while lanes.count:
                evaluation = evaluate(space, lanes.objective, method, lanes.state)
                lanes.turn(method, limits, evaluation)
                turns += 1
                if turns % LOOK == 0:
                    lanes.compact()
                    if deadline is not None and time.perf_counter() > deadline:
                        return Run(lanes.finished(Status.SECONDS))
        except KeyboardInterrupt:
            return Run(lanes.finished(Status.INTERRUPTED))
        except Exception as error:
            if isinstance(error, UsageError) and turns == 0 and SECOND & method.wants:
                raise
            return Run(lanes.finished(Status.RAISED), error)
    return Run(lanes.finished(Status.RUNNING))


def begin(
    method: Method, space: Arrays, problem: Problem, limits: Limits, objective: Any, start: Array | State
) -> State:
    """Return the state before the first turn."""
    if hasattr(start, "core"):
        again = space.full(start.core.status, int(Status.RUNNING))
        return start._replace(core=start.core._replace(status=again))
    if Want.LINEARIZED in method.wants:
        first = objective.linearized(start)
    elif Want.GRADIENT in method.wants:
        value, gradient = objective.value_and_gradient(start)
        first = Evaluation(value, space.lanes_last(gradient))
    else:
        first = Evaluation(objective.value(start))
    state = method.init(space, problem, limits, space.lanes_last(start), first)
    return state._replace(core=settle(space, limits, state.core))


def evaluate(space: Arrays, objective: Any, method: Method, state: State) -> Evaluation:
    """Return everything that the method ever wants, at the point that each problem asks for."""
    x, wants = space.lanes_first(state.core.ask), method.wants
    if Want.LINEARIZED in wants:
        everything: Evaluation = objective.linearized(x)
        return everything
    gradient = product = hessian = None
    if Want.GRADIENT in wants:
        value, gradient = objective.value_and_gradient(x)
        gradient = space.lanes_last(gradient)
    else:
        value = objective.value(x)
    if Want.PRODUCT in wants:
        product = space.lanes_last(objective.hessian_vector(x, space.lanes_first(state.vector)))
    if Want.HESSIAN in wants:
        hessian = space.lanes_last(objective.hessian(x))
    return Evaluation(value, gradient, product, hessian)


def frozen(space: Arrays, method: Method, new: State, old: State) -> State:
    """Return the new state where a problem was still running, else the old one."""
    kept = {name: getattr(new, name) for name in getattr(method, "steady", ())}
    running = old.core.status == int(Status.RUNNING)
    return space.branch(running, lambda: new, lambda: old._replace(**kept))


class Lanes:
    """The problems that still run, and the cores of those that have ended."""

    def __init__(self, space: Arrays, problem: Problem, objective: Any, state: State) -> None:
        self.space, self.problem, self.whole, self.objective = space, problem, objective, objective
        self.state, self.all = state, mapped(space.copied, state.core)
        self.lanes = np.arange(state.core.status.shape[0])
        self.ended = np.zeros(len(self.lanes), bool)
        self.count = len(self.lanes)
        self.compact()

    def turn(self, method: Method, limits: Limits, evaluation: Evaluation) -> None:
        """Take one turn of all; those that have ended stay as they are, or are written down as they were."""
        old = self.state
        new = method.turn(self.space, self.problem, limits, old, evaluation)
        new = new._replace(core=settle(self.space, limits, new.core))
        if self.space.near:
            self.state = new
            self._note()
        else:
            self.state = frozen(self.space, method, new, old)

    def compact(self) -> None:
        """Let those that have ended leave, where it is worth it."""
        self._note()
        if self.count > WORTH * len(self.lanes) or not self.count:
            return
        stay = np.flatnonzero(~self.ended)
        self.lanes, self.ended = self.lanes[stay], self.ended[stay]
        taken = self.space.positions(self.all.status, stay)
        self.state = mapped(lambda a: self.space.take(a, taken), self.state)
        self.objective = self.whole.select(self.space.positions(self.all.status, self.lanes))
        low, high, noise = self.problem
        if low is not None and high is not None and low.shape[-1] > 1:
            self.problem = Problem(self.space.take(low, taken), self.space.take(high, taken), noise)

    def finished(self, status: Status) -> Any:
        """Return the cores of all, those that still run ending for the reason given."""
        core = self.state.core
        running = core.status == int(Status.RUNNING)
        code = self.space.full(core.status, int(status))
        self._write_down(
            np.flatnonzero(~self.ended), core._replace(status=self.space.where(running, code, core.status))
        )
        return Cores(self.space, self.all)

    def _note(self) -> None:
        """Write down the problems that have ended since the last time."""
        new = (np.asarray(_host(self.state.core.status)) != int(Status.RUNNING)) & ~self.ended
        if new.any():
            self._write_down(np.flatnonzero(new), self.state.core)
            self.ended = self.ended | new
            self.count = len(self.ended) - int(self.ended.sum())

    def _write_down(self, some: Any, core: Core) -> None:
        at = self.space.positions(self.all.status, self.lanes[some])
        some = self.space.positions(self.all.status, some)
        self.all = mapped(
            lambda whole, part: self.space.scatter(whole, at, self.space.take(part, some)), self.all, core
        )


class Cores:
    """What is left of a batch at the end: the cores, the problems along the first axis again."""

    def __init__(self, space: Arrays, core: Core) -> None:
        self.core = mapped(lambda a: space.lanes_first(a) if len(a.shape) > 1 else a, core)


def _host(a: Any) -> Any:
    return a.cpu() if hasattr(a, "cpu") else a
