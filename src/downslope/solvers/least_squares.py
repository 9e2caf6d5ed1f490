"""`least_squares`: residuals, a starting point, and the parameters that fit best."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from downslope.errors import UsageError, a_type, closest
from downslope.gradients import residuals as residuals_of
from downslope.gradients import structure_of
from downslope.solvers import losses, saturation, scipy_names, second_look, spaces, undetermined
from downslope.solvers.bounds import bounds_of
from downslope.solvers.core import Problem
from downslope.solvers.drive import bounded, driven, looking
from downslope.solvers.drivers import host
from downslope.solvers.fitted import LeastSquaresResult, of_batch, of_one
from downslope.solvers.method import Want
from downslope.solvers.methods import SQUARES, method_of
from downslope.solvers.methods.levenberg import COARSE
from downslope.solvers.observe import Observer, check_alone
from downslope.solvers.squares import Dense, OnHost, Products, Squares
from downslope.solvers.stop import Stop, check_stop

METHODS = SQUARES
SCIPY = {"lm": METHODS[0], "trf": METHODS[0], "dogbox": METHODS[0], "dogleg": METHODS[0]}
OFFSET = {"float64": 1e-8, "float32": 1e-4}
"""Default of `Stop.gradient` here."""


def least_squares(
    fun: Callable[..., Any],
    x0: Any,
    jac: Callable[..., Any] | str | bool | None = None,
    bounds: Any = None,
    method: str = "levenberg-marquardt",
    ftol: float | None = None,
    xtol: float | None = None,
    gtol: float | None = None,
    x_scale: Any = None,
    loss: losses.Loss = "linear",
    f_scale: float = 1.0,
    diff_step: Any = None,
    tr_solver: str | None = None,
    tr_options: Any = None,
    jac_sparsity: Any = None,
    max_nfev: int | None = None,
    verbose: int = 0,
    args: tuple[Any, ...] = (),
    kwargs: dict[str, Any] | None = None,
    callback: Callable[..., Any] | None = None,
    workers: Any = None,
    *,
    batch: bool = False,
    vectorized: bool = False,
    jacobian: Callable[..., Any] | str | bool | None = None,
    stop: Stop | None = None,
    linear: str = "svd",
    history: bool | str = False,
    log: str | Path | None = None,
    progress: bool = False,
    noise: float | None = None,
    options: dict[str, Any] | None = None,
) -> LeastSquaresResult:
    """Return the x that makes ½ Σ ρ(rᵢ(x)²) least; the arguments are SciPy's, and some of ours.

    Args:
        fun: takes x0's arrays (and `args`, `kwargs`), returns the residuals: an array, or a nested dict,
            list or tuple of arrays, of x0's framework.
        x0: an array of NumPy, PyTorch, JAX or TensorFlow in float32 or float64, a nested dict, list or
            tuple of such arrays or another tree that JAX knows, or plain numbers.
        jac: a function that returns (m, n) over the flat vector, as an array or a SciPy sparse
            matrix or `LinearOperator`; True where `fun` returns (residuals, Jacobian); None for the
            framework's automatic differentiation, and of NumPy functions differences; "forward"
            ("2-point"), "central" ("3-point") or "complex" ("cs") for NumPy.
        jacobian: another name of `jac`.
        bounds: (low, high), each a number, None or arrays as x0; or SciPy's `Bounds`.
        method: "levenberg-marquardt" or "gauss-newton"; SciPy's "trf", "dogbox" and "lm" mean the first.
        ftol: the run has converged where the model promises a relative fall of the cost of at most
            this: an offset of √ftol.
        xtol: stop where two steps are shorter than this share of x; no success by itself.
        gtol: the run has converged at an offset of gtol, the cosine between the residuals and the
            range of the Jacobian, as in MINPACK.
        x_scale: accepted; the method does not depend on the units of the parameters.
        loss: "linear", "soft_l1", "huber", "cauchy" or "arctan"; or a function that takes z = (r / s)², (m,),
            and returns ρ, ρ' and ρ'' of each, (3, m).
        f_scale: residuals up to about this size count as inliers, of a robust loss.
        diff_step: accepted; steps of differences follow the noise of the function.
        tr_solver: "exact", or "lsmr" for `linear="cg"`.
        tr_options: accepted; there are none.
        jac_sparsity: refused; a Jacobian may be sparse, or be used by products.
        max_nfev: most evaluations of the residuals; those for differences do not count.
        verbose: 2 shows the run, as `progress` does.
        args: further arguments of `fun` and the Jacobian.
        kwargs: further arguments by name.
        callback: called with x after each step, or with `intermediate_result` by that name; returns
            True or raises StopIteration to stop.
        workers: accepted; nothing is spread.
        batch: many fits at once, along the leading axis of x0; each has its own ending. An array in `args`
            whose leading axis is as long has a row for each. A NumPy function takes all of them and returns
            residuals (B, m) and Jacobians (B, m, n); others are written for one.
        vectorized: a batch whose `fun` takes all problems at once, in PyTorch, JAX or TensorFlow too.
        stop: when to stop, in place of ftol, xtol, gtol and max_nfev; its `gradient` is the offset, 1e-8
            in float64 and 1e-4 in float32.
        linear: "svd" for the dense Jacobian, or "cg" for products with it alone: many parameters.
        history: whether the result keeps a record of each step; "points" for x as well.
        log: a file to append a JSON line to at each step.
        progress: whether to show step, cost and offset while the run goes.
        noise: standard deviation of the residuals' noise, where known, for differences.
        options: of the method: {"first": 1.0}, the first radius as a multiple of ‖D x₀‖.

    Within `jax.jit` and `jax.vmap` the whole fit is traced, whether x0 or what `fun` knows is a tracer.

    Raises:
        UsageError: an argument that does not fit, or returned values that are no residuals; a Jacobian
            larger than the memory, with its size; of a batch or within a transformation of JAX's,
            `linear="cg"` and onlookers.

    >>> import numpy as np
    >>> t = np.linspace(0, 4, 9)
    >>> y = 2.5 * np.exp(-1.3 * t)
    >>> result = least_squares(lambda b: b[0] * np.exp(-b[1] * t) - y, [1.0, 1.0])
    >>> result.success, result.x.round(6)
    (True, array([2.5, 1.3]))

    Three fits at once, each to data of its own:

    >>> rates = np.array([[0.7], [1.3], [2.0]])
    >>> def misfit(b, y):
    ...     return b[:, :1] * np.exp(-b[:, 1:] * t) - y
    >>> result = least_squares(misfit, np.ones((3, 2)), args=(2.5 * np.exp(-rates * t),), batch=True)
    >>> result.success.all(), result.x[:, 1].round(6)
    (np.True_, array([0.7, 1.3, 2. ]))

    """
    began = time.perf_counter()
    chosen = _method_name(method)
    if jac is not None and jacobian is not None:
        raise UsageError("jac and jacobian are the same: expected one of them")
    if jac_sparsity is not None:
        raise UsageError(
            "jac_sparsity is not used: expected jac as a function that returns a sparse matrix, "
            "and linear='cg'"
        )
    if linear not in ("svd", "cg"):
        raise UsageError(f"linear = {linear!r}: expected 'svd' or 'cg'")
    matrix_free = linear == "cg" or tr_solver == "lsmr"
    if hasattr(fun, "value_and_gradient"):
        raise UsageError(
            f"fun is {a_type(fun)}, which returns one value: expected a function that returns residuals; "
            "minimize(fun, x0) makes a value least"
        )
    losses.check(loss, f_scale)
    scipy_names.check_options(options or {})
    derivative = jac if jacobian is None else jacobian
    if kwargs:
        fun = partial(fun, **kwargs)
        derivative = partial(derivative, **kwargs) if callable(derivative) else derivative
    structure, _ = structure_of(x0, batch=batch)
    found = bounds_of(_scipys_bounds(bounds), structure)
    if found is not None and matrix_free:
        raise UsageError("bounds need the dense Jacobian: expected linear='svd'")
    f = residuals_of(
        fun, x0, args=args, jacobian=derivative, noise=noise, bounds=found, batch=batch, vectorized=vectorized
    )
    criteria = _stop(stop, ftol, xtol, gtol, max_nfev, f.structure.dtype)
    traced = structure.framework == "jax" and import_module("downslope.solvers.drivers.jax").in_trace(f)
    if batch or traced:
        where = "batch=True" if batch else "a transformation of JAX's"
        check_alone(where, callback=callback, history=history, log=log, progress=progress or verbose >= 2)
        _check_many(where, matrix_free, criteria.seconds is not None and traced)
        return _in_arrays(f, chosen, found, criteria, loss, float(f_scale), options or {}, began)
    observer = Observer(callback, history, log, progress or verbose >= 2, _restorer(f, matrix_free))
    try:
        run = _run(f, chosen, found, criteria, observer, matrix_free, loss, float(f_scale), options or {})
    finally:
        observer.close()
    name = f"{chosen}, matrix-free" if matrix_free else chosen
    limits = criteria.limits(structure.dtype)
    return of_one(f, run.state.core, found, limits, name, began, observer.records, run.error, matrix_free)


def _run(
    f: Any, method: str, bounds: Any, stop: Stop, observer: Observer, matrix_free: bool, loss: losses.Loss,
    scale: float, options: dict[str, Any],
) -> host.Run:  # fmt: skip
    """Turn the method on the host: dense with NumPy's vectors, matrix-free with the framework's."""
    limits = stop.limits(f.structure.dtype)
    watch = observer if observer.needed else None
    if matrix_free:
        own = f.structure.framework in ("numpy", "torch")
        squares: Any = Products(f, loss, scale) if own else OnHost(Products(f, loss, scale))
        space = spaces.space_of(squares.x0, f.structure.framework if own else "numpy", "host")
        chosen: Any = method_of("trust-ncg", **options)
        start = squares.x0
        return host.run(chosen, space, Problem(), limits, squares, start, seconds=stop.seconds, watch=watch)
    dense = Dense(f, loss, scale)
    space = spaces.space_of(dense.x0, "numpy", "host")
    problem, start = Problem(), dense.x0
    if bounds is not None:
        low, high = (np.asarray(side, start.dtype) for side in bounds)
        problem, start = Problem(low, high), np.clip(start, low, high)
    chosen = method_of(method, **options)
    run = host.run(chosen, space, problem, limits, dense, start, seconds=stop.seconds, watch=watch)

    def evaluate(x: Any) -> tuple[Any, Any]:
        found = dense.evaluate(x, int(Want.LINEARIZED), None)
        return found.value, found.gradient

    look = looking(chosen, limits)
    doubt = second_look.doubt_of(f, chosen)
    core = second_look.after(space, chosen, problem, look, run.state.core, evaluate, lambda n: n, doubt)
    lengths = np.linalg.norm(run.state.jacobian, axis=0)

    def cost(x: Any) -> float:
        return float(dense.evaluate(x, int(Want.VALUE), None).value)

    core = undetermined.looked(f, (loss, scale), bounds, core, COARSE)
    core = saturation.looked(problem, core, lengths, run.state.scale, cost, space.eps)
    return host.Run(run.state._replace(core=core), run.error)


def _in_arrays(
    f: Any, method: str, bounds: Any, stop: Stop, loss: losses.Loss, scale: float, options: dict[str, Any],
    began: float,
) -> LeastSquaresResult:  # fmt: skip
    """Return the result of fits in lock step, or of one within a transformation of JAX's."""
    structure = f.structure
    squares = Squares(f, loss, scale, spaces.space_of(f.x0, structure.framework, "lanes"))
    chosen, limits = method_of(method, **options), stop.limits(structure.dtype)
    problem, start = bounded(bounds, chosen, squares)
    nobody = Observer(None, False, None, False, structure.restore)
    state, error = driven(squares, chosen, problem, stop, start, nobody)
    if structure.framework == "jax":
        jax = import_module("downslope.solvers.drivers.jax")
        if jax.is_traced(f.x0):
            made: LeastSquaresResult = jax.traced_fit(f, state, bounds, limits, method)
            return made
    core = undetermined.looked(f, (loss, scale), bounds, state.core, COARSE)
    return of_batch(f, core, bounds, limits, method, began, error)


def _check_many(where: str, matrix_free: bool, timed: bool) -> None:
    """Raise where something is asked for that a single fit on the host has alone."""
    if matrix_free:
        raise UsageError(f"linear='cg' with {where}: expected linear='svd', the dense Jacobian")
    if timed:
        raise UsageError(f"Stop(seconds=...) with {where}: a compiled program sees no clock; use steps=")


def _stop(
    stop: Stop | None,
    ftol: float | None,
    xtol: float | None,
    gtol: float | None,
    most: int | None,
    dtype: str,
) -> Stop:
    """Return the criteria of SciPy's arguments, or those given with the default of the offset."""
    check_stop(stop)
    given = [name for name, v in (("ftol", ftol), ("xtol", xtol), ("gtol", gtol), ("max_nfev", most)) if v]
    if stop is not None:
        if given:
            raise UsageError(f"stop and {given[0]} both say when to stop: expected one; use stop=Stop(...)")
        if stop.gradient is not None or stop.gradient_absolute is not None:
            return stop
        return Stop(**{**_fields(stop), "gradient": OFFSET[dtype]})
    offsets = [v for v in (gtol, None if ftol is None else float(ftol) ** 0.5) if v]
    return Stop(gradient=max(offsets) if offsets else OFFSET[dtype], step=xtol or None, evaluations=most)


def _fields(stop: Stop) -> dict[str, Any]:
    return {f.name: getattr(stop, f.name) for f in fields(stop)}


def _method_name(method: Any) -> str:
    known = SCIPY.get(str(method).lower(), str(method).lower())
    if known not in METHODS:
        every = (*METHODS, *SCIPY)
        raise UsageError(f"method = {method!r}: expected one of {', '.join(every)}{closest(known, every)}")
    return known


def _scipys_bounds(bounds: Any) -> Any:
    """Return bounds as (low, high); SciPy's two arrays are no pairs of numbers, also where n = 2."""
    if isinstance(bounds, (tuple, list)) and len(bounds) == 2 and not hasattr(bounds, "lb"):
        return tuple(np.asarray(b, np.float64) if isinstance(b, (list, tuple)) else b for b in bounds)
    return bounds


def _restorer(f: Any, matrix_free: bool) -> Callable[[Any], Any]:
    def restore(x: Any) -> Any:
        vector = x if type(x) is type(f.x0) else spaces.vector_like(f.x0, f.structure.framework, x)
        return f.structure.restore(vector)

    return restore
