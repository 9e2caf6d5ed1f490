"""From a problem to the state that its method ended in, whatever the framework, one problem or a batch."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np

from downslope.errors import UsageError
from downslope.solvers import spaces
from downslope.solvers.bounds import bounds_of
from downslope.solvers.core import Core, Limits, Problem
from downslope.solvers.drivers import host, lanes
from downslope.solvers.method import Method, Want
from downslope.solvers.observe import Observer
from downslope.solvers.second_look import after, doubt_of, nothing_suspect
from downslope.solvers.spaces.arrays import NumpyLanes
from downslope.solvers.spaces.host import Host
from downslope.solvers.stop import Stop


def driven(
    f: Any, method: Method, problem: Problem, stop: Stop, start: Any, observer: Observer
) -> tuple[Any, BaseException | None]:
    """Return the state at the end, and the exception that ended the run or None.

    Args:
        f: an `Objective` of `downslope.gradients`, or `squares.Squares`.
        method: the state machine.
        problem: bounds, in the vectors' framework; of a batch in columns.
        stop: when to stop.
        start: x0, or the state of a run to go on with.
        observer: looks on where there is one problem.

    """
    structure = f.structure
    limits = stop.limits(structure.dtype)
    if structure.framework == "jax":
        jax = import_module("downslope.solvers.drivers.jax")
        state, error = jax.run(method, problem, limits, f, start, stop.seconds, observer)
        if jax.is_traced(f.x0):
            return _looked(f, method, problem, limits, state, jax.JaxSpace(f.x0), traced=True), error
        return _looked_by_numpy(f, method, problem, limits, state, jax.looked_at(method, f)), error
    space: Any = spaces.space_of(f.x0, structure.framework, "host" if structure.batch is None else "lanes")
    if structure.batch is None:
        watch = observer if observer.needed else None
        run = host.run(method, space, problem, limits, f, start, seconds=stop.seconds, watch=watch)
    else:
        run = lanes.run(method, space, problem, limits, f, start, seconds=stop.seconds)
    return _looked(f, method, problem, limits, run.state, space), run.error


def looking(method: Method, limits: Limits) -> Limits:
    """Return what a second look goes by."""
    # An offset says nothing of the fall: every step that is not short is looked along.
    return limits._replace(promise=0.0) if Want.LINEARIZED in method.wants else limits


def _looked(
    f: Any, method: Method, problem: Problem, limits: Limits, state: Any, space: Any, traced: bool = False
) -> Any:
    """Return the state at the end after a second look at what ended within the tolerance."""
    alone, limits = f.structure.batch is None, looking(method, limits)

    def lifted(vector: Any) -> Any:
        return spaces.vector_like(f.x0, f.structure.framework, vector if alone else vector[:, None])

    def evaluate(x: Any) -> tuple[Any, Any]:
        point = space.lanes_first(x)
        if method.wants == {Want.VALUE}:
            return f.value(point), None
        value, gradient = f.value_and_gradient(point)
        return (float(value) if isinstance(space, Host) else value), space.lanes_last(gradient)

    core = state.core if alone else _turned(space.lanes_last, state.core)
    core = after(space, method, problem, limits, core, evaluate, lifted, doubt_of(f, method), traced=traced)
    if alone:
        return state._replace(core=core)
    state.core = _turned(space.lanes_first, core)
    return state


def _looked_by_numpy(
    f: Any, method: Method, problem: Problem, limits: Limits, state: Any,
    value_and_gradient: Callable[[Any], tuple[Any, Any]],
) -> Any:  # fmt: skip
    """Return the same of JAX's arrays: its operations, one by one, would each be compiled."""
    alone, limits = f.structure.batch is None, looking(method, limits)
    known = Core(*(np.asarray(a if alone or a.ndim < 2 else a.T) for a in state.core))
    space = NumpyLanes(known.x.dtype)
    if nothing_suspect(space, method, limits, known):
        return state
    low, high = (None if side is None else np.asarray(side) for side in problem[:2])
    own = Problem(low, high, problem.noise)

    def evaluate(x: Any) -> tuple[Any, Any]:
        value, gradient = value_and_gradient(space.lanes_first(x))
        return value, None if gradient is None else space.lanes_last(gradient)

    def lifted(vector: Any) -> Any:
        return np.asarray(vector if alone else vector[:, None], known.x.dtype)

    core = after(space, method, own, limits, known, evaluate, lifted, doubt_of(f, method))
    back = (spaces.vector_like(a, "jax", space.lanes_first(b)) for a, b in zip(state.core, core, strict=True))
    if alone:
        return state._replace(core=Core(*back))
    state.core = Core(*back)
    return state


def _turned(turn: Callable[[Any], Any], core: Core) -> Core:
    """Return the core of a batch with its vectors turned, problems first or last."""
    return Core(*(turn(a) if len(a.shape) > 1 else a for a in core))


def bounded(bounds: Any, method: Method, f: Any) -> tuple[Problem, Any]:
    """Return the problem with its bounds in the vectors' framework, and the start within them.

    Raises:
        UsageError: bounds that do not fit, or a method that keeps to none.

    """
    found = bounds_of(bounds, f.structure)
    if found is None:
        return Problem(), f.x0
    if not method.bounded:
        raise UsageError(
            "this method keeps to no bounds: expected method='l-bfgs' or 'pattern'; of sums of squares, "
            "downslope.least_squares"
        )
    framework, batch = f.structure.framework, f.structure.batch
    low, high = (spaces.vector_like(f.x0, framework, side) for side in found)
    start = spaces.clipped(f.x0, framework, low, high)
    if batch is None:
        return Problem(low, high), start
    columns = (spaces.vector_like(f.x0, framework, np.atleast_2d(side).T) for side in found)
    return Problem(*columns), start
