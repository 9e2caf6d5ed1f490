"""What a run found and how it ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from downslope.gradients import Objective
from downslope.gradients.kinks import Kink, beside
from downslope.gradients.noise import estimate_noise
from downslope.solvers import spaces
from downslope.solvers.core import POLISH, Core, Limits, Problem, coarse, projected_size, tolerance
from downslope.solvers.observe import BY_CALLBACK
from downslope.solvers.spaces.arrays import NumpyLanes
from downslope.solvers.spaces.host import NumpyHost
from downslope.solvers.squares import to_numpy
from downslope.solvers.status import Status
from downslope.words import paragraphs

SCIPY = {"fun": "value", "jac": "gradient", "nit": "steps", "nfev": "evaluations", "njev": "evaluations"}
"""SciPy's names."""


WITHIN = (
    "No progress: the gradient, {size:.2g}, is no larger than what the noise of the function may make of its "
    "differences or hide, {doubt:.2g}. The noise may be digits that cancel within the function, or a loose "
    "inner tolerance. Give gradient=, or lower it."
)
"""Of a run by differences that did not get on."""


STEEP = (
    " That is relative to a steep start, though: the method still promises a fall of {left:.2g}. "
    "To go on, minimize(f, result.x)."
)
"""Of a run that has converged beside a large gradient at the start alone."""


class Named:
    """A dataclass whose fields are listed by name, as SciPy's results are."""

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names."""
        return iter(self.keys())

    def keys(self) -> list[str]:
        """Return the names of what there is."""
        return [f.name for f in fields(self) if not f.name.startswith("_")]  # type: ignore[arg-type]


@dataclass(frozen=True)
class Result(Named):
    """What `minimize` returns; `result["x"]` and SciPy's `fun, jac, nit, nfev, njev` work too.

    Of a batch, x and gradient are (B, …), value, status, success, steps and evaluations arrays (B,),
    and message is a list.

    Attributes:
        x: the best point, nested as x0.
        value: f there.
        gradient: ∇f there, nested as x0.
        status: a `Status`.
        success: whether x is a first-order point at the precision asked for or reached.
        message: how the run ended, and what to try next.
        steps: steps taken.
        evaluations: points at which value and gradient were evaluated.
        gradient_size: ‖∇f‖∞ there, projected where there are bounds.
        tolerance: what `gradient_size` was to be within.
        seconds: of the clock.
        method: its name.
        provenance: where the gradient came from.
        history: a list of dicts, where it was asked for.
        error: the exception that ended the run, or None.
        state: what the method knows at the end; `minimize(f, result)` goes on from it.

    """

    x: Any
    value: Any
    gradient: Any
    status: Any
    success: Any
    message: Any
    steps: Any
    evaluations: Any
    gradient_size: Any
    tolerance: Any
    seconds: float
    method: str
    provenance: str
    history: Any = field(default_factory=list, repr=False)
    error: BaseException | None = None
    state: Any = field(default=None, repr=False)
    _solver: Any = field(default=None, repr=False)  # the method, with its options, whose state it is

    def __getattr__(self, name: str) -> Any:
        """Answer to SciPy's names."""
        if name in SCIPY:
            return getattr(self, SCIPY[name])
        raise AttributeError(f"a Result has no {name!r}: it has {', '.join(self.keys())}")

    def __getitem__(self, name: str) -> Any:
        """Return an attribute, as of SciPy's results."""
        try:
            return getattr(self, name)
        except AttributeError as error:
            raise KeyError(name) from error

    def __contains__(self, name: object) -> bool:
        """Whether `result[name]` exists."""
        return isinstance(name, str) and (name in SCIPY or name in self.keys())

    def __str__(self) -> str:
        """Return a few lines for people."""
        if not isinstance(self.status, Status):
            solved = f"{int(self.success.sum())} of {len(self.message)} problems solved"
            return f"{solved}, {self.seconds:.3g} s{raised(self.error)}"
        return paragraphs(
            (
                f"{self.message}",
                f"  value {self.value:.10g}, gradient {self.gradient_size:.2e}, "
                f"to be within {self.tolerance:.2e}",
                f"  {self.steps} steps, {self.evaluations} evaluations, {self.seconds:.3g} s, {self.method}",
                f"  gradient by {self.provenance}",
            )
        )


def raised(error: BaseException | None) -> str:
    """Return lines on the exception that ended a batch and its likely cause, "" without one."""
    if error is None:
        return ""
    likely = "what f knows of each problem belongs in args, which shrink as problems end"
    return f"\n  raised {type(error).__name__}: {error}\n  {likely}"


def with_error(message: str, error: BaseException) -> str:
    """Return the message of a run with the exception that ended it, which may be the callback's."""
    if BY_CALLBACK in getattr(error, "__notes__", ()):
        message = message.replace("The function", "The callback", 1)
    return f"{message} {type(error).__name__}: {error}"


def of_one(
    f: Objective, state: Any, problem: Problem | None, limits: Limits, method: str, began: float,
    history: list[dict[str, Any]], error: BaseException | None,
) -> Result:  # fmt: skip
    """Return the result of one problem, from the state that its method ended in.

    `problem` is None where the method knows the gradient of its iterate alone.
    """
    core: Core = state.core
    status = Status(int(core.status))
    x, value, g = chosen(core, status in Status.at_iterate())
    seconds = (time.perf_counter() - began) / max(int(core.evaluations), 1)
    stuck = error is None and status in (Status.KINK, Status.STALLED)
    # Differences that a run got stuck by may be of a step and a noise that were learned elsewhere.
    anew = _anew(f, x, seconds) if stuck and problem is not None else None
    if anew is not None:
        g = anew[0]
    size = core.size
    if problem is not None and (x is not core.x or anew is not None):
        framework = f.structure.framework
        space = spaces.space_of(f.x0, framework, "lanes" if framework == "jax" else "host")
        size = projected_size(space, problem, x, g)
    if anew is not None and size <= anew[1]:
        hidden = size <= coarse(NumpyHost(np.dtype(f.structure.dtype)), core)
        status = Status.ROUNDOFF if hidden else Status.STALLED
    restore = f.structure.restore
    message = status.message
    if error is not None:
        message = with_error(message, error)
    elif anew is not None and size <= anew[1]:
        message = status.message if status.success else WITHIN.format(size=float(size), doubt=anew[1])
    elif stuck:
        if method == "pattern":
            message = message.replace(", or try method='pattern'", "")
        message += _broken(f, x, g, method, seconds)
    elif status is Status.GRADIENT and core.polished >= POLISH:
        left = float(core.promise)
        if limits.promise * float(core.first - core.value) < left < float("inf"):
            message += STEEP.format(left=left)
    return Result(
        restore(x), value, restore(g), status, status.success, message, core.steps, core.evaluations,
        size, tolerance(NumpyHost(np.float64), limits, core), time.perf_counter() - began, method,
        str(f.provenance), history, error, state,
    )  # fmt: skip


def _anew(f: Objective, x: Any, seconds: float) -> tuple[Any, float] | None:
    """Return the gradient by differences at x and up to which size it says nothing; None if it takes long."""
    if not hasattr(f, "anew") or (4 * f.structure.size + 60) * seconds > 2.0:
        return None
    try:
        known: tuple[Any, float] | None = f.anew(x)
    except Exception:  # the run is over: what f says beside its best point must not end it again
        return None
    return known if known is not None and known[1] > 0 and np.isfinite(known[0]).all() else None


def _broken(f: Objective, x: Any, g: Any, method: str, seconds: float) -> str:
    """Return where f has a kink or a jump along the negative gradient, and what to do; or that it is noisy.

    Nothing where that takes long.
    """
    size, length = (float((v * v).sum()) ** 0.5 for v in (g, x))
    if not 0 < size < float("inf") or 500 * seconds > 2.0:
        return ""
    reach = max(1.0, length)

    def phi(t: float) -> float:
        return float(f.value(x - (t / size) * g))

    try:
        noise = _scatter(phi, reach)
        # Where x is large and t small, what t changes is mostly how x is rounded.
        grain = float(np.finfo(f.structure.dtype).eps) * length
        found = beside(phi, reach, noise=max(noise, grain * size), grain=grain)
        level = 64 * float(np.finfo(f.structure.dtype).eps) * abs(phi(0.0))
    except Exception:  # the run is over: what f says beside its best point must not end it again
        return ""
    if found is None:
        return f" Values scatter by {noise:.1e} beside it: the function is noisy." if noise > level else ""
    other = "" if method == "pattern" else ", or try method='pattern'"
    do = "smooth it" if isinstance(found, Kink) else "keep to one side of it by bounds"
    return f" Along the negative gradient, at distance t, there is {found}: {do}{other}."


def _scatter(phi: Callable[[float], float], reach: float) -> float:
    """Return the standard deviation of phi's noise: the middle of three places, since a jump is at one."""
    at = np.array([-0.01, 1e-5, 0.02]) * reach
    values = lambda t: np.asarray(phi(float(t[0])))  # noqa: E731
    return float(np.median([estimate_noise(values, t, np.full(1, reach)) for t in at[:, None]]))


def chosen(core: Core, iterate: bool) -> tuple[Any, Any, Any]:
    """Return x, value and gradient of the iterate, or of the best point seen."""
    if iterate or not core.best_value < core.value:
        return core.x, core.value, core.gradient
    return core.best_x, core.best_value, core.best_gradient


def of_batch(
    f: Objective, state: Any, problem: Problem | None, limits: Limits, method: str, began: float,
    history: list[dict[str, Any]], error: BaseException | None,
) -> Result:  # fmt: skip
    """Return the results of the problems of a batch; see `of_one`."""
    core: Core = state.core
    codes = to_numpy(core.status).astype(int)
    restore = f.structure.restore
    iterate = at_iterate(codes, core)
    x, g = (picked(iterate, a, b) for a, b in ((core.x, core.best_x), (core.gradient, core.best_gradient)))
    value = picked(iterate, core.value, core.best_value)
    size = to_numpy(core.size)
    if problem is not None and not iterate.all():
        sides = Problem(*(None if side is None else to_numpy(side) for side in problem[:2]))
        space = NumpyLanes(np.dtype(f.structure.dtype))
        size = np.where(iterate, size, projected_size(space, sides, to_numpy(x).T, to_numpy(g).T))
    asked = np.maximum(limits.gradient * to_numpy(core.scale), limits.absolute)
    return Result(
        restore(x), value, restore(g), codes, *told(codes), to_numpy(core.steps), to_numpy(core.evaluations),
        size, asked, time.perf_counter() - began, method, str(f.provenance), history, error,
        state,
    )  # fmt: skip


def told(codes: Any) -> tuple[Any, list[str]]:
    """Return what statuses, as numbers, say of each problem: whether it is solved, and the message."""
    messages = {int(s): s.message for s in Status}
    return np.isin(codes, [int(s) for s in Status if s.success]), [messages[c] for c in codes.tolist()]


def at_iterate(codes: Any, core: Core) -> Any:
    """Return whether the iterate of each problem is its result, and not the best point seen; NumPy's."""
    at = np.isin(codes, [int(s) for s in Status.at_iterate()])
    return at | ~(to_numpy(core.best_value) < to_numpy(core.value))


def picked(first: Any, a: Any, b: Any) -> Any:
    """Return the rows of `a` where `first` holds (a NumPy array), else those of `b`."""
    if isinstance(a, np.ndarray):
        return np.where(first.reshape(first.shape + (1,) * (a.ndim - 1)), a, b)
    if first.all():
        return a
    from downslope.solvers.spaces import space_of

    framework = type(a).__module__.partition(".")[0]
    framework = {"jaxlib": "jax"}.get(framework, framework)
    space = space_of(a, framework, "lanes")
    from downslope.solvers.spaces import vector_like

    ones = vector_like(a, framework, first.astype(float).reshape(first.shape + (1,) * (len(a.shape) - 1)))
    return space.pick(ones > 0.5, a, b)
