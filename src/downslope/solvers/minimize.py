"""`minimize`: a function, a starting point, and how the run ended."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from downslope.errors import UsageError
from downslope.gradients import objective as objective_of
from downslope.gradients import structure_of
from downslope.solvers import scipy_names
from downslope.solvers.bounds import bounds_of
from downslope.solvers.core import Core, Problem
from downslope.solvers.drive import bounded, driven
from downslope.solvers.engines import check_engine, rows, spread
from downslope.solvers.method import Method, Want
from downslope.solvers.methods import METHODS, SQUARES, method_of
from downslope.solvers.observe import Observer, check_alone
from downslope.solvers.result import Result, of_batch, of_one
from downslope.solvers.starts import from_many
from downslope.solvers.status import Status
from downslope.solvers.stop import Stop

SMALL = 20
"""Batches of problems with no more unknowns are solved by BFGS, where no method is named."""

ARGUMENTS = (
    "method", "args", "gradient", "hessian", "hessian_vector", "stop", "bounds", "batch", "options",
    "starts", "box", "sampler", "seed", "engine", "callback", "history", "log", "progress", "noise",
    "vectorized", "jac", "hess", "hessp", "tol",
)  # fmt: skip


def minimize(  # noqa: D417
    fun: Callable[..., Any],
    x0: Any,
    method: str | Method | tuple[Any, ...] | None = None,
    *,
    args: tuple[Any, ...] = (),
    gradient: Callable[..., Any] | str | bool | None = None,
    hessian: Callable[..., Any] | None = None,
    hessian_vector: Callable[..., Any] | None = None,
    stop: Stop | None = None,
    bounds: Any = None,
    batch: bool = False,
    starts: int = 1,
    box: Any = None,
    sampler: Callable[..., Any] | None = None,
    seed: int = 0,
    engine: str | None = None,
    options: dict[str, Any] | None = None,
    callback: Callable[..., Any] | None = None,
    history: bool | str = False,
    log: str | Path | None = None,
    progress: bool = False,
    noise: float | None = None,
    vectorized: bool = False,
    jac: Any = None,
    hess: Any = None,
    hessp: Any = None,
    tol: float | None = None,
    **unknown: Any,
) -> Result:
    """Return a local minimum of a smooth function, found by its gradient.

    Args:
        fun: takes x0's arrays (and `args`), returns one real number of x0's framework.
        x0: an array of NumPy, PyTorch, JAX or TensorFlow in float32 or float64, a nested dict, list or
            tuple of such arrays or another tree that JAX knows, plain numbers, NumPy's integers, or the
            `Result` of a run to go on with; a batch begins anew from the points of its result.
        method: "l-bfgs" (the default; "bfgs" for batches of up to 20 unknowns), "bfgs", "cg", "gd",
            "momentum", "nesterov", "newton", "newton-cg", "trust-ncg", "pattern", or a rule: "sgd", "adam",
            "adagrad", "rmsprop", "muon". SciPy's names mean what is nearest to them.
        args: further arguments of `fun` and its derivatives.
        gradient: a function; True where `fun` returns (value, gradient); None for the framework's
            automatic differentiation, and of NumPy functions differences; "forward", "central" or
            "complex" for NumPy.
        hessian: ∇²f over the flat vector, (n, n), where a method uses it.
        hessian_vector: takes (x, v, *args), returns ∇²f v.
        stop: when to stop, see `Stop`.
        bounds: (low, high), numbers or arrays as x0; or n pairs; or SciPy's `Bounds`. Every point that
            is evaluated lies within; an x0 outside is moved to the nearest point inside.
        batch: many problems at once, along the leading axis of x0; each has its own ending.
        starts: how many points to start from, x0 the first: the result is the best run's, and knows the
            distinct minima found, see `starts.StartsResult`. PyTorch and JAX run them in lock step.
        box: (low, high) in the forms of `bounds`, where the other starts are drawn from; the bounds by
            default. The points are of a scrambled Sobol' sequence.
        sampler: in place of a box: takes a count and a NumPy generator, returns points (count, n).
        seed: of the points.
        engine: "joblib", "dask" or "ray", to spread the runs of `starts`, or each round of evaluations of
            a batch, over its workers; a NumPy function and its gradient then take one problem alone.
        options: of the method, as {"memory": 20} of "l-bfgs".
        callback: called with x after each step, or with `intermediate_result` by that name; returns
            True or raises StopIteration to stop.
        history: whether the result keeps a record of each step; "points" for x as well.
        log: a file to append a JSON line to at each step.
        progress: whether to show step, value and gradient while the run goes.
        noise: standard deviation of the function's noise, where known.
        vectorized: a batch whose `fun` takes all problems at once, in PyTorch, JAX or TensorFlow too.
        jac, hess, hessp, tol: SciPy's names of gradient, hessian, hessian_vector, and of an absolute
            tolerance of the gradient; its `options` maxiter, maxfun, gtol, ftol, maxcor, disp as well.

    The best point seen is returned whatever happens: when `fun` raises (after its first evaluation), at
    Ctrl-C, at NaN. `result.status` says how the run ended, `result.message` what to try next.

    Raises:
        UsageError: an argument that does not fit, or a value of `fun` that is no number, no gradient.
        TypeError: an argument that is not known.

    >>> import numpy as np
    >>> def f(x):
    ...     return (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2
    >>> result = minimize(f, [-1.2, 1.0])
    >>> result.success, result.x.round(4)
    (True, array([1., 1.]))

    """
    if starts != 1:
        if batch:
            raise UsageError(f"starts = {starts!r} with batch=True: expected one of them")
        check_alone(f"starts={starts!r}", callback=callback, history=history, log=log, progress=progress)
        return from_many(  # type: ignore[return-value]
            minimize, fun, x0, starts, box=box, sampler=sampler, seed=seed, engine=engine, bounds=bounds,
            vectorized=vectorized, method=method, args=args, gradient=gradient, hessian=hessian,
            hessian_vector=hessian_vector, stop=stop, options=options, noise=noise, jac=jac, hess=hess,
            hessp=hessp, tol=tol, **unknown,
        )  # fmt: skip
    if engine is not None:
        check_engine(engine)
        if not (batch and isinstance(x0, np.ndarray)):
            raise UsageError(
                f"engine = {engine!r} spreads a batch or several starts of a NumPy function: expected "
                "batch=True and x0 an array (problems, n), or starts"
            )
        with spread(engine) as over:
            gradient, jac = (rows(g, over) if callable(g) else g for g in (gradient, jac))
            return minimize(
                rows(fun, over), x0, method, args=args, gradient=gradient, hessian=hessian,
                hessian_vector=hessian_vector, stop=stop, bounds=bounds, batch=True, options=options,
                callback=callback, history=history, log=log, progress=progress, noise=noise, jac=jac,
                hess=hess, hessp=hessp, tol=tol, **unknown,
            )  # fmt: skip
    began = time.perf_counter()
    if isinstance(method, tuple):  # SciPy's third argument is args
        args, named = method, None
    else:
        named = method
    scipy_names.check_unknown(unknown, ARGUMENTS)
    gradient = scipy_names.derivative("gradient", gradient, "jac", jac)
    hessian = scipy_names.hessian_of(hessian, hess)
    hessian_vector = scipy_names.derivative("hessian_vector", hessian_vector, "hessp", hessp)
    stop, rest = scipy_names.stop_of(stop, tol, {} if options is None else options)
    progress = bool(rest.pop("disp", False)) or progress
    resumed = x0 if isinstance(x0, Result) else None
    going_on = resumed is not None and resumed._solver is not None and named is None and not rest
    if resumed is not None:
        x0, named = resumed.x, named or resumed.method
    if named is None:
        named = _default(x0, batch, bounds, rest)
    if isinstance(named, str) and named.lower() in SQUARES:
        raise UsageError(
            f"method = {named!r} takes residuals: call least_squares(residuals, x0, method={named!r})"
        )
    chosen: Method = resumed._solver if resumed is not None and going_on else method_of(named, **rest)
    within = None if bounds is None else bounds_of(bounds, structure_of(x0, batch=batch)[0])
    f = objective_of(
        fun, x0, args=args, gradient=gradient, hessian=hessian, hessian_vector=hessian_vector,
        noise=noise, bounds=within, batch=batch, vectorized=vectorized,
    )  # fmt: skip
    if hasattr(chosen, "fitted"):
        chosen = chosen.fitted(f.structure)
    traced = f.structure.framework == "jax" and import_module("downslope.solvers.drivers.jax").in_trace(f)
    if batch or traced:
        where = "batch=True" if batch else "a transformation of JAX's"
        check_alone(where, callback=callback, history=history, log=log, progress=progress)
    problem, start = bounded(bounds, chosen, f)
    observer = Observer(callback, history, log, progress, f.structure.restore)
    try:
        state, error = driven(f, chosen, problem, stop, _resumed(resumed, chosen, problem, start), observer)
    finally:
        observer.close()
    name = named if isinstance(named, str) else type(chosen).__name__
    sized = None if chosen.wants == {Want.VALUE} else problem
    if traced:
        jax = import_module("downslope.solvers.drivers.jax")
        made: Result = jax.traced(f, state, sized, stop.limits(f.structure.dtype), name)
        return made
    finish = of_batch if batch else of_one
    result = finish(f, state, sized, stop.limits(f.structure.dtype), name, began, observer.records, error)
    if result.status is Status.NONFINITE and result.steps > 0 and _rate(chosen) is not None:
        far = f"The function is not finite where steps of lr = {_rate(chosen):g} lead; x is the best point."
        result = replace(result, message=f"{far} Lower it, as in options={{'lr': {_rate(chosen) / 10:g}}}.")
    return replace(result, _solver=chosen)


def _rate(method: Any) -> Any:
    """Return the learning rate of a method that takes its steps whatever the value does, None of others."""
    return getattr(method, "lr", getattr(getattr(method, "search", None), "lr", None))


def _default(x0: Any, batch: bool, bounds: Any, options: dict[str, Any]) -> str:
    """Return "l-bfgs"; of many small problems "bfgs", whose matrix is then smaller than its pairs."""
    shape: tuple[int, ...] = getattr(x0, "shape", ())
    small = batch and len(shape) == 2 and shape[-1] <= SMALL and bounds is None and not options
    return "bfgs" if small else "l-bfgs"


def _resumed(result: Result | None, method: Method, problem: Problem, start: Any) -> Any:
    """Return the state to go on with, a copy; or the start, where the last run had come to its end.

    So too where that was of another method or of other options, or led out of the bounds that now hold.
    """
    if result is None or result.state is None:
        return start
    own_end = (Status.ROUNDOFF, Status.STALLED, Status.KINK, Status.NONFINITE, Status.PRECISION)
    if not isinstance(result.status, Status) or result.status in own_end or result._solver != method:
        return start
    if problem.low is not None:
        known: Core = result.state.core
        if any(((x < problem.low) | (x > problem.high)).any() for x in (known.x, known.best_x, known.ask)):
            return start
    return copy.deepcopy(result.state)


__all__ = ["METHODS", "minimize"]
