"""`minimize`: a function, a starting point, and how the run ended."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from downslope.gradients import objective as objective_of
from downslope.solvers.core import Problem, tolerance
from downslope.solvers.drivers import host
from downslope.solvers.method import Method
from downslope.solvers.methods import method_of
from downslope.solvers.result import Result
from downslope.solvers.spaces.host import NumpyHost
from downslope.solvers.status import Status
from downslope.solvers.stop import Stop


def minimize(
    fun: Callable[..., Any],
    x0: Any,
    method: str | Method = "l-bfgs",
    *,
    args: tuple[Any, ...] = (),
    gradient: Any = None,
    stop: Stop | None = None,
) -> Result:
    """Return a point where a smooth function is least, near where it started."""
    began = time.perf_counter()
    stop = Stop() if stop is None else stop
    chosen = method_of(method)
    f = objective_of(fun, x0, args=args, gradient=gradient)
    space, limits = NumpyHost(f.structure.dtype), stop.limits(f.structure.dtype)
    run = host.run(chosen, space, Problem(), limits, f, f.x0, seconds=stop.seconds)
    core = run.state.core
    status = Status(core.status)
    iterate = status in (Status.GRADIENT, Status.ROUNDOFF) or core.value <= core.best_value
    x, value, g = (
        (core.x, core.value, core.gradient) if iterate else (core.best_x, core.best_value, core.best_gradient)
    )
    return Result(
        f.structure.restore(x), value, f.structure.restore(g), status, status.success, status.message,
        core.steps, core.evaluations, core.size, tolerance(space, limits, core),
        time.perf_counter() - began, str(method), str(f.provenance), error=run.error, state=run.state,
    )  # fmt: skip
