"""optimistix as a peer: its solvers run whole in JAX and call the same functions back.

It has no criterion on the gradient: a run ends where neither x nor f changes any more, relative to each
and to 1, by the tolerance given here.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np
from solver_problems import EVALUATIONS, Case, Counter, SpentError

TOLERANCE, STEPS = 1e-10, 100_000

_asked: list[Counter] = []
"""The counter of the run that is under way: the compiled solvers are shared by all problems of a size."""


def peers(family: str) -> dict[str, Peer]:
    """Return optimistix' solvers for a family, none where it is not installed."""
    if not find_spec("optimistix") or family == "bounded":
        return {}
    if family == "nist":
        return {"optimistix LM": Peer("LevenbergMarquardt"), "optimistix dogleg": Peer("Dogleg")}
    made = {"optimistix BFGS": Peer("BFGS"), "optimistix L-BFGS": Peer("LBFGS")}
    return made | {"optimistix CG": Peer("NonlinearCG")}


@dataclass
class Peer:
    """One of optimistix' methods as this benchmark runs them."""

    method: str

    def compile(self, case: Case) -> None:
        """Compile it for the problem's size, so that the clock does not count that."""
        with suppress(Exception):
            self(Counter(case, evaluations=EVALUATIONS))

    def __call__(self, counter: Counter) -> tuple[Any, bool]:
        """Run it; return where it ended and whether it says that it succeeded."""
        import jax
        import optimistix

        jax.config.update("jax_enable_x64", True)
        case, count = counter.case, None
        if self.method in ("LevenbergMarquardt", "Dogleg"):
            assert case.residuals is not None
            count = case.residuals(case.x0).size
        made = getattr(optimistix, self.method)(rtol=TOLERANCE, atol=TOLERANCE)
        _asked[:] = [counter]
        found = _run(count)(made, jax.numpy.asarray(case.x0))
        return np.asarray(found.value), bool(found.result == optimistix.RESULTS.successful)


@cache
def _run(count: int | None) -> Callable[[Any, Any], Any]:
    """Return a compiled fit of so many residuals, or minimisation."""
    import equinox
    import optimistix

    fun = _value() if count is None else _residuals(count)
    find = optimistix.minimise if count is None else optimistix.least_squares
    return equinox.filter_jit(lambda made, x0: find(fun, made, x0, throw=False, max_steps=STEPS))  # type: ignore[no-any-return]


def _value() -> Callable[[Any, Any], Any]:
    """Return the function in JAX, its gradient with it: one evaluation of value and gradient each."""
    import jax

    def ask(x: Any) -> tuple[Any, Any]:
        f, g = _asked[0].value_and_gradient(np.asarray(x, float))
        return np.float64(f), np.asarray(g, float)

    @jax.custom_jvp
    def fun(x: Any) -> Any:
        return both(x)[0]

    def both(x: Any) -> tuple[Any, Any]:
        shapes = jax.ShapeDtypeStruct((), float), jax.ShapeDtypeStruct(x.shape, float)
        return jax.pure_callback(ask, shapes, x)  # type: ignore[no-any-return]

    @fun.defjvp
    def _(primals: tuple[Any], tangents: tuple[Any]) -> tuple[Any, Any]:
        f, g = both(*primals)
        return f, jax.numpy.dot(g, tangents[0])

    return lambda x, args: fun(x)


def _residuals(count: int) -> Callable[[Any, Any], Any]:
    """Return the residuals in JAX, their Jacobian with them."""
    import jax

    def ask(x: Any) -> tuple[Any, Any]:
        counter, x = _asked[0], np.asarray(x, float)
        if counter.evaluations >= EVALUATIONS:
            raise SpentError
        counter.evaluations += 1
        assert counter.case.residuals is not None
        assert counter.case.jacobian is not None
        return counter.case.residuals(x), counter.case.jacobian(x)

    @jax.custom_jvp
    def fun(x: Any) -> Any:
        return both(x)[0]

    def both(x: Any) -> tuple[Any, Any]:
        shapes = jax.ShapeDtypeStruct((count,), float), jax.ShapeDtypeStruct((count, x.size), float)
        return jax.pure_callback(ask, shapes, x)  # type: ignore[no-any-return]

    @fun.defjvp
    def _(primals: tuple[Any], tangents: tuple[Any]) -> tuple[Any, Any]:
        r, J = both(*primals)
        return r, J @ tangents[0]

    return lambda x, args: fun(x)
