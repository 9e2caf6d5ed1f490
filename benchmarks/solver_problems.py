"""The problems of the solver benchmark: published sets, and ways to count what a solver asks of them."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from downslope.tasks.problems import Problem, problem
from downslope.tasks.problems.large import PROBLEMS as LARGE
from downslope.tasks.problems.mgh import PROBLEMS as MGH
from downslope.tasks.problems.nist import MODELS as NIST

EVALUATIONS = 3000
SECONDS = {1000: 5.0, 100_000: 60.0, 1_000_000: 120.0}
"""What a solver may spend on a problem; seconds of the processor, by the number of unknowns."""


class SpentError(Exception):
    """The budget is spent."""


@dataclass
class Case:
    """A problem with its derivatives; counts what is asked of it."""

    name: str
    family: str
    x0: Any
    value_and_gradient: Callable[[Any], tuple[float, Any]]
    hessian: Callable[[Any], Any]
    product: Callable[[Any, Any], Any]
    bounds: tuple[Any, Any] | None = None
    best: float | None = None
    residuals: Callable[[Any], Any] | None = None
    jacobian: Callable[[Any], Any] | None = None

    @cached_property
    def first(self) -> tuple[float, float]:
        """The value and the size of the (projected) gradient at the start."""
        f, g = self.value_and_gradient(self.x0)
        return float(f), self.size(self.x0, g)

    def size(self, x: Any, g: Any) -> float:
        """‖g‖∞, of the projected gradient where there are bounds."""
        if self.bounds is not None:
            g = x - np.clip(x - g, *self.bounds)
        return float(np.abs(g).max())

    @property
    def wanted(self) -> float:
        """The gradient at which the problem counts as solved."""
        return 1e-6 * max(1.0, self.first[1])


@dataclass
class Counter:
    """A case as a solver sees it: every evaluation counted, the best point kept, the budget kept to."""

    case: Case
    evaluations: int = 0
    products: int = 0
    hessians: int = 0
    best: tuple[float, Any] = (np.inf, None)
    began: float = field(default_factory=time.process_time)
    last: tuple[Any, tuple[float, Any]] | None = None

    @property
    def seconds(self) -> float:
        """What may be spent, of the processor's time."""
        return next(seconds for n, seconds in SECONDS.items() if self.case.x0.size <= n)

    def value_and_gradient(self, x: Any) -> tuple[float, Any]:
        """F and its gradient; the same point asked for again (f, then g) is counted once."""
        if self.last is not None and np.array_equal(self.last[0], x):
            return self.last[1]
        if self.evaluations >= EVALUATIONS or time.process_time() - self.began > self.seconds:
            raise SpentError
        self.evaluations += 1
        f, g = self.case.value_and_gradient(x)
        if f < self.best[0]:
            self.best = (f, np.array(x))
        self.last = (np.array(x), (f, g))
        return f, g

    def value(self, x: Any) -> float:
        """F alone."""
        return self.value_and_gradient(x)[0]

    def gradient(self, x: Any) -> Any:
        """G alone."""
        return self.value_and_gradient(x)[1]

    def hessian(self, x: Any) -> Any:
        """The Hessian, counted."""
        self.hessians += 1
        return self.case.hessian(x)

    def product(self, x: Any, v: Any) -> Any:
        """The Hessian times a vector, counted."""
        self.products += 1
        return self.case.product(x, v)


def of_problem(p: Problem, family: str) -> Case:
    """A case of a problem that comes along: exact gradients, Hessians by differences of them."""

    def product(x: Any, v: Any) -> Any:
        size = np.abs(v).max()
        if size == 0:
            return np.zeros_like(v)
        h = 6e-6 * max(1e-8, np.abs(x).max()) / size
        return (p.gradient(x + h * v) - p.gradient(x - h * v)) / (2 * h)

    def hessian(x: Any) -> Any:
        # Unknown by unknown: their sizes differ by orders of magnitude.
        columns = []
        for i, e in enumerate(np.eye(p.size)):
            h = 6e-6 * (abs(x[i]) or 1.0)
            columns.append((p.gradient(x + h * e) - p.gradient(x - h * e)) / (2 * h))
        made = np.array(columns)
        return (made + made.T) / 2

    squares = p.residuals is not None
    return Case(
        p.name, family, p.start, p.value_and_gradient, hessian,
        product if p.size > 100 else lambda x, v: hessian(x) @ v,
        best=p.lowest, residuals=p.residuals, jacobian=p.jacobian if squares else None,
    )  # fmt: skip


def mgh() -> Iterator[Case]:
    """Moré, Garbow and Hillstrom's 35 problems from their starts, 10 and 100 times farther out."""
    for name in MGH:
        for factor in (1, 10, 100):
            p = problem(f"mgh:{name}")
            case = of_problem(p if factor == 1 else p.from_start(factor), "mgh")
            if np.isfinite(case.first).all():  # from some starts the function overflows
                yield case


def nist() -> Iterator[Case]:
    """NIST's 27 regression sets from both starts."""
    for name in NIST:
        for start in (1, 2):
            yield of_problem(problem(f"nist:{name}:{start}"), "nist")


def large(*sizes: int) -> Iterator[Case]:
    """Eight problems of so many unknowns each."""
    for n in sizes:
        for name in LARGE:
            if name in ("chained-rosenbrock", "minimal-surface") and n > 1000:
                continue  # as many steps as unknowns, for any method
            p = problem(f"large:{name}", n=n)
            case = of_problem(p, "large")
            case.name += f" {n}"
            yield case


def sif(bounded: bool) -> Iterator[Case]:
    """CUTEst's problems of at most 100 unknowns as written in JAX by sif2jax."""
    try:
        import jax
        import sif2jax
    except ModuleNotFoundError as error:
        print(f"{error.name} is not installed: its problems are left out")
        return
    jax.config.update("jax_enable_x64", True)
    # Compiling several hundred functions takes minutes: the next run finds them here.
    jax.config.update("jax_compilation_cache_dir", str(Path("runs/solvers/jax").resolve()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    known = sif2jax.bounded_minimisation_problems if bounded else sif2jax.unconstrained_minimisation_problems
    for p in known:
        leaves = jax.tree.leaves(p.y0)
        if sum(np.size(leaf) for leaf in leaves) <= 100:
            yield _sif(p, "bounded" if bounded else "sif")


def _sif(p: Any, family: str) -> Case:
    import jax
    from jax.flatten_util import ravel_pytree

    flat, restore = ravel_pytree(jax.tree.map(lambda leaf: jax.numpy.asarray(leaf, float), p.y0))
    args = p.args

    def fun(x: Any) -> Any:
        return jax.numpy.asarray(p.objective(restore(x), args)).reshape(())

    both = jax.jit(jax.value_and_grad(fun))
    matrix = jax.jit(jax.hessian(fun))
    times = jax.jit(lambda x, v: jax.jvp(jax.grad(fun), (x,), (v,))[1])

    def value_and_gradient(x: Any) -> tuple[float, Any]:
        f, g = both(x)
        return float(f), np.array(g)

    bounds = None
    if family == "bounded":
        low, high = (np.array(ravel_pytree(jax.tree.map(jax.numpy.asarray, b))[0], float) for b in p.bounds)
        bounds = (np.broadcast_to(low, flat.shape), np.broadcast_to(high, flat.shape))
    best = p.expected_objective_value
    x0 = np.array(flat, dtype=float)
    if bounds is not None:
        x0 = np.clip(x0, *bounds)
    return Case(
        p.name, family, x0, value_and_gradient, lambda x: np.array(matrix(x)),
        lambda x, v: np.array(times(x, v)), bounds, None if best is None else float(best),
    )  # fmt: skip


def cases(family: str) -> list[Case]:
    """Return the cases of a family whose value at the start is finite."""
    made: dict[str, Callable[[], Iterator[Case]]] = {
        "mgh": mgh, "nist": nist, "sif": lambda: sif(False), "bounded": lambda: sif(True),
        "large": lambda: large(1000, 100_000), "million": lambda: large(1_000_000),
    }  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return list(made[family]())
