"""One function from many starting points: all in lock step, and the minima that they found."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from downslope.errors import UsageError
from downslope.gradients import Objective, Structure, objective, structure_of
from downslope.gradients.nest import nest_of
from downslope.gradients.returned import is_whole
from downslope.solvers import spaces
from downslope.solvers.bounds import bounds_of
from downslope.solvers.engines import check_engine, spread
from downslope.solvers.result import Result, with_error
from downslope.solvers.squares import to_numpy
from downslope.solvers.status import Status

SAME = 1e-3
"""Two runs found one minimum where their points differ by at most this, of the box."""
BETWEEN = (0.25, 0.5, 0.75)
"""Or where nothing lies between them: the points on the way that are looked at."""


@dataclass(frozen=True)
class Minimum:
    """A minimum that some of the runs found.

    Attributes:
        x: the lowest of their points, nested as x0.
        value: f there.
        count: how many runs ended in it.

    """

    x: Any
    value: float
    count: int


@dataclass(frozen=True)
class StartsResult:
    """What `minimize(..., starts=64)` returns; it answers as the best run's `Result` does, and more.

    Attributes:
        best: the run with the lowest value among those that succeeded, or among all if none did.
        minima: the distinct minima of the runs that succeeded, the lowest first.
        values: what each run ended with, (starts,); NaN where the function raised at the start.
        successes: whether it succeeded, (starts,).
        points: where each began, (starts, n), flat.
        evaluations: of all runs together.
        seconds: of the clock.

    """

    best: Result
    minima: list[Minimum]
    values: NDArray[np.float64]
    successes: NDArray[np.bool_]
    points: NDArray[np.float64]
    evaluations: int
    seconds: float
    results: list[Result] = field(default_factory=list, repr=False)

    def __getattr__(self, name: str) -> Any:
        """Answer as the best run."""
        if name.startswith("__") or name == "best":
            raise AttributeError(name)
        return getattr(self.best, name)

    def __getitem__(self, name: str) -> Any:
        """Return an attribute, as of SciPy's results."""
        return getattr(self, name)

    def __str__(self) -> str:
        """Return a few lines for people."""
        lines = [
            f"{int(self.successes.sum())} of {self.successes.size} runs converged, to {len(self.minima)} "
            f"distinct minima; {self.evaluations} evaluations, {self.seconds:.3g} s"
        ]
        shown = [f"  value {m.value:.10g}, found {m.count} times" for m in self.minima[:8]]
        more = [f"  and {len(self.minima) - 8} more"] if len(self.minima) > 8 else []
        raised = [run for run in self.results if run.status is Status.RAISED]
        said = [f"  {len(raised)} raised an exception, first {raised[0].error!r}"] if raised else []
        return "\n".join(lines + shown + more + said)


def from_many(
    solve: Callable[..., Result],
    fun: Callable[..., Any],
    x0: Any,
    starts: int,
    *,
    box: Any = None,
    sampler: Callable[[int, np.random.Generator], Any] | None = None,
    seed: int = 0,
    engine: str | None = None,
    bounds: Any = None,
    vectorized: bool = False,
    **options: Any,
) -> StartsResult:
    """Minimize from `starts` points: x0 itself, and others drawn from a box or by a sampler.

    Args:
        solve: `minimize`.
        fun: the function; of NumPy it is evaluated one point at a time unless `vectorized`.
        x0: the first start, and the nesting of all.
        starts: how many, from 2 on.
        box: (low, high) as `bounds`, where to draw from; the bounds by default. Points are of a
            scrambled Sobol' sequence.
        sampler: in place of a box; takes a count and a NumPy generator, returns points (count, n), flat.
        seed: of the points.
        engine: "joblib", "dask" or "ray", to spread the runs over its workers: all there are, of joblib
            as many as `joblib.parallel_config` says.
        bounds: as of `minimize`.
        vectorized: whether `fun` takes all points at once.
        **options: of `minimize`.

    Raises:
        UsageError: no box, an infinite one, points of another shape, an unknown engine.

    """
    began = time.perf_counter()
    if not (is_whole(starts) and starts >= 2):
        raise UsageError(f"starts = {starts!r}: expected a whole number from 1 on")
    check_engine(engine)
    structure, first = structure_of(x0)
    # A tuple of two lists is (low, high), also where n = 2 and two pairs would look the same.
    if isinstance(box, tuple) and len(box) == 2:
        box = tuple(np.asarray(b, np.float64) if isinstance(b, (list, tuple)) else b for b in box)
    box_of = bounds_of(bounds if box is None else box, structure)
    points, width = _points(to_numpy(first).astype(np.float64), starts, box_of, sampler, seed)
    common = {**options, "bounds": bounds}
    alone = (structure.framework == "numpy" and not vectorized) or engine is not None
    kept = {name: options.get(name) for name in ("args", "noise")}
    plain = objective(
        (lambda *a: fun(*a)[0]) if options.get("gradient") is True or options.get("jac") is True else fun,
        x0, args=kept["args"] or (),
    )  # fmt: skip
    if alone:
        runs = _one_by_one(solve, fun, points, structure, first, engine, common)
        return _summary(runs, points, width, plain, began)
    wide = replace(structure, batch=starts)
    x = wide.restore(spaces.vector_like(first, structure.framework, points))
    batch = solve(fun, x, batch=True, vectorized=vectorized, **common)
    return _summary(_lanes(batch, wide), points, width, plain, began)


def _points(
    first: NDArray[np.float64], starts: int, box: Any, sampler: Any, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the starts (starts, n), and what is a distance along each entry."""
    n = first.size
    if sampler is not None:
        drawn = np.asarray(sampler(starts - 1, np.random.default_rng(seed)), dtype=np.float64)
        if drawn.shape != (starts - 1, n) or not np.isfinite(drawn).all():
            raise UsageError(
                f"sampler returned points of shape {drawn.shape}: expected {(starts - 1, n)}, finite"
            )
        points = np.concatenate([first[None], drawn])
        spread = points.max(axis=0) - points.min(axis=0)
        return points, np.where(spread > 0, spread, 1.0)
    if box is None or not all(np.isfinite(side).all() for side in box):
        raise UsageError(
            "starts need a finite box to draw from: give box=(low, high), finite bounds, or a sampler"
        )
    from scipy.stats import qmc

    low, high = box
    # A Sobol' sequence is balanced in powers of two; what is over is left out.
    unit = qmc.Sobol(n, scramble=True, rng=seed).random_base2(int(starts - 1).bit_length())[: starts - 1]
    drawn = low + unit * (high - low)
    return np.concatenate([first[None], drawn]), np.where(high > low, high - low, 1.0)


def _one_by_one(
    solve: Callable[..., Result], fun: Any, points: NDArray[np.float64], structure: Structure, like: Any,
    engine: str | None, options: dict[str, Any],
) -> list[Result]:  # fmt: skip
    """Run each start by itself, here or by an engine; where the function raises at all of them, it raises."""
    starts = [structure.restore(spaces.vector_like(like, structure.framework, p)) for p in points]
    if engine is None:
        runs = [_tried(solve, fun, x, options) for x in starts]
    else:
        with spread(engine) as over:
            runs = over(_alone, [(solve, fun, x, options) for x in starts])
    began = [run for run in runs if isinstance(run, Result)]
    if not began:
        raise next(run for run in runs if isinstance(run, Exception))
    return [
        _never_began(x, run, began[0]) if isinstance(run, Exception) else run
        for x, run in zip(starts, runs, strict=True)
    ]


def _tried(solve: Callable[..., Result], fun: Any, x: Any, options: dict[str, Any]) -> Result | Exception:
    """Run one start; return what the function raised at it."""
    try:
        return solve(fun, x, **options)
    except UsageError:
        raise
    except Exception as error:
        return error


def _alone(solve: Callable[..., Result], fun: Any, x: Any, options: dict[str, Any]) -> Result | Exception:
    """Run one start in another process; what the method knows stays there."""
    run = _tried(solve, fun, x, options)
    return replace(run, state=None) if isinstance(run, Result) else run


def _never_began(x: Any, error: Exception, like: Result) -> Result:
    """Return the result of a start at which the function raised; `like` is of another start."""
    nan = float("nan")
    nest, leaves = nest_of(x)
    message = with_error("The function raised an exception at this start.", error)
    return replace(
        like, x=x, value=nan, gradient=nest.made_of(nan * part for _, part in leaves), status=Status.RAISED,
        success=False, message=message, steps=0, evaluations=1, gradient_size=nan, tolerance=nan, seconds=0.0,
        history=[], error=error, state=None,
    )  # fmt: skip


def _lanes(batch: Result, structure: Structure) -> list[Result]:
    """Return the results of a batch one by one."""
    x, g = (structure.flatten(tree) for tree in (batch.x, batch.gradient))
    one = replace(structure, batch=None)
    rows = [to_numpy(a) for a in (batch.value, batch.success, batch.steps, batch.evaluations)]
    sizes = [np.broadcast_to(to_numpy(a), rows[0].shape) for a in (batch.gradient_size, batch.tolerance)]
    codes = to_numpy(batch.status)
    return [
        replace(
            batch, x=one.restore(x[i]), value=float(rows[0][i]), gradient=one.restore(g[i]),
            status=Status(int(codes[i])), success=bool(rows[1][i]), message=Status(int(codes[i])).message,
            steps=int(rows[2][i]), evaluations=int(rows[3][i]), gradient_size=float(sizes[0][i]),
            tolerance=float(sizes[1][i]), state=None,
        )
        for i in range(len(rows[0]))
    ]  # fmt: skip


def _summary(
    runs: list[Result], points: NDArray[np.float64], width: NDArray[np.float64], plain: Objective,
    began: float,
) -> StartsResult:  # fmt: skip
    values = np.array([float(r.value) for r in runs])
    successes = np.array([bool(r.success) for r in runs])
    ranked = np.where(np.isfinite(values), values, np.inf)
    order = sorted(range(len(runs)), key=lambda i: (not successes[i], ranked[i]))
    found: list[Result] = []
    counts: list[int] = []
    for i in (i for i in order if successes[i]):
        same = (k for k, known in enumerate(found) if _one_minimum(known, runs[i], width, plain))
        k = next(same, len(found))
        if k == len(found):
            found.append(runs[i])
            counts.append(0)
        counts[k] += 1
    minima = [Minimum(r.x, float(r.value), count) for r, count in zip(found, counts, strict=True)]
    total = int(sum(int(r.evaluations) for r in runs)) + plain.counts.values
    return StartsResult(
        runs[order[0]], minima, values, successes, points, total,
        time.perf_counter() - began, runs,
    )  # fmt: skip


def _one_minimum(a: Result, b: Result, width: NDArray[np.float64], plain: Objective) -> bool:
    """Whether two runs ended in one minimum: at one point, or in one flat valley with no rise between."""
    (structure, first), (_, second) = structure_of(a.x), structure_of(b.x)
    at, other = (to_numpy(v).astype(np.float64) for v in (first, second))
    if np.all(np.abs(at - other) <= SAME * width):
        return True
    slope = float(a.gradient_size) + float(b.gradient_size)
    # What small gradients explain over this distance; more apart, they are two.
    level = 2 * slope * float(np.abs(at - other).sum())
    if abs(float(a.value) - float(b.value)) > level:
        return False
    way = [spaces.vector_like(first, structure.framework, at + t * (other - at)) for t in BETWEEN]
    highest = max(float(a.value), float(b.value)) + level
    try:
        return all(float(plain.value(x)) <= highest for x in way)
    except Exception:  # nothing joins them where the function is not defined
        return False
