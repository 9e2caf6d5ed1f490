"""Thousands of small fits at once, against a loop of SciPy's and against other solvers under `vmap`.

python benchmarks/fit_speed.py [decays] [peaks]

Peers that are importable are timed too: optimistix, jaxopt. Kernels are compiled beforehand; the first
call, which compiles, is shown beside.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import scipy.optimize
from timing import show

from downslope.solvers import least_squares

FITS, POINTS = 2000, 50
SHARE = 10
"""Loops take one in so many of the fits."""


@dataclass(frozen=True)
class Curves:
    """A model of three parameters with its slopes, for NumPy and JAX alike, and data with noise of 0.01."""

    name: str
    at: Any
    model: Callable[[Any, Any, Any], Any]
    slopes: Callable[[Any, Any, Any], tuple[Any, Any, Any]]
    low: tuple[float, float, float]
    high: tuple[float, float, float]
    start: tuple[float, float, float]

    def data(self) -> tuple[Any, Any]:
        """Return data (FITS, POINTS) and starts (FITS, 3)."""
        rng = np.random.default_rng(0)
        truth = rng.uniform(self.low, self.high, (FITS, 3))
        noise = 0.01 * rng.standard_normal((FITS, POINTS))
        return self.model(np, truth.T[..., None], self.at) + noise, np.tile(self.start, (FITS, 1))


def _decay(lib: Any, b: Any, t: Any) -> Any:
    return b[0] * lib.exp(-b[1] * t) + b[2]


def _decay_slopes(lib: Any, b: Any, t: Any) -> tuple[Any, Any, Any]:
    e = lib.exp(-b[1] * t)
    return e, -b[0] * t * e, 1.0 + 0.0 * e


def _peak(lib: Any, b: Any, t: Any) -> Any:
    return b[0] * lib.exp(-0.5 * ((t - b[1]) / b[2]) ** 2)


def _peak_slopes(lib: Any, b: Any, t: Any) -> tuple[Any, Any, Any]:
    z = (t - b[1]) / b[2]
    e = lib.exp(-0.5 * z**2)
    return e, b[0] * e * z / b[2], b[0] * e * z**2 / b[2]


CURVES = {
    "decays": Curves("exponential decays", np.linspace(0, 4, POINTS), _decay, _decay_slopes,
                     (1.0, 0.5, -0.5), (3.0, 2.0, 0.5), (1.0, 1.0, 0.0)),
    "peaks": Curves("Gaussian peaks", np.linspace(-5, 5, POINTS), _peak, _peak_slopes,
                    (1.0, -1.0, 0.5), (3.0, 1.0, 1.5), (2.0, 0.0, 1.0)),
}  # fmt: skip


def loops(c: Curves, y: Any, x0: Any) -> dict[str, tuple[Callable[[], Any], int]]:
    few = range(0, FITS, SHARE)

    def slopes(b: Any, i: int) -> Any:
        return np.stack(c.slopes(np, b, c.at), 1)

    def residuals(b: Any, i: int) -> Any:
        return c.model(np, b, c.at) - y[i]

    def scipys(tolerance: float) -> Any:
        options = {"ftol": tolerance, "xtol": tolerance, "gtol": tolerance}
        return [
            scipy.optimize.least_squares(residuals, x0[i], slopes, method="lm", args=(i,), **options).x
            for i in few
        ]

    def curve_fit(jac: bool) -> Any:
        return [
            scipy.optimize.curve_fit(
                lambda t, *b: c.model(np, b, t), c.at, y[i], x0[i],
                jac=(lambda t, *b: np.stack(c.slopes(np, b, t), 1)) if jac else None,
            )[0]
            for i in few
        ]  # fmt: skip

    def ours() -> Any:
        return [least_squares(residuals, x0[i], slopes, args=(i,)).x for i in few]

    return {
        "SciPy least_squares, lm, a loop": (lambda: scipys(1e-8), len(few)),
        "SciPy curve_fit, a loop": (lambda: curve_fit(True), len(few)),
        "SciPy curve_fit, a loop, differences": (lambda: curve_fit(False), len(few)),
        "least_squares, a loop": (ours, len(few)),
    }


def numpys(c: Curves, y: Any, x0: Any) -> dict[str, tuple[Callable[[], Any], int]]:
    def residuals(b: Any, y: Any) -> Any:
        return c.model(np, b.T[..., None], c.at) - y

    def slopes(b: Any, y: Any) -> Any:
        return np.stack(c.slopes(np, b.T[..., None], c.at), -1)

    def fit(jac: Any) -> Any:
        return least_squares(residuals, x0, jac, args=(y,), batch=True).x

    return {
        "least_squares, NumPy": (lambda: fit(slopes), FITS),
        "least_squares, NumPy, differences": (lambda: fit(None), FITS),
    }


def torchs(c: Curves, y: Any, x0: Any) -> dict[str, tuple[Callable[[], Any], int]]:
    import torch

    at, ty, tx = (torch.from_numpy(np.ascontiguousarray(a)) for a in (c.at, y, x0))
    return {
        "least_squares, PyTorch": (
            lambda: least_squares(lambda b, y: c.model(torch, b, at) - y, tx, args=(ty,), batch=True).x, FITS,
        )
    }  # fmt: skip


def jaxs(c: Curves, y: Any, x0: Any) -> dict[str, tuple[Callable[[], Any], int]]:
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    jy, jx = jnp.asarray(y), jnp.asarray(x0)

    def residuals(b: Any, y: Any) -> Any:
        return c.model(jnp, b, c.at) - y

    def mapped(one: Callable[[Any, Any], Any]) -> tuple[Callable[[], Any], int]:
        many = jax.jit(jax.vmap(one))
        return (lambda: jax.block_until_ready(many(jx, jy))), FITS

    made = {
        "least_squares, JAX": (lambda: least_squares(residuals, jx, args=(jy,), batch=True).x, FITS),
        "least_squares, JAX, vmap": mapped(lambda x, y: least_squares(residuals, x, args=(y,)).x),
    }
    if find_spec("optimistix"):
        import optimistix

        solver = optimistix.LevenbergMarquardt(rtol=1e-8, atol=1e-8)
        made["optimistix LevenbergMarquardt, vmap"] = mapped(
            lambda x, y: optimistix.least_squares(residuals, solver, x, y, throw=False).value
        )
    if find_spec("jaxopt"):
        import jaxopt

        jaxopts = jaxopt.LevenbergMarquardt(residuals, tol=1e-8, xtol=1e-8, gtol=1e-8)
        made["jaxopt LevenbergMarquardt, vmap"] = mapped(lambda x, y: jaxopts.run(x, y).params)
    return made


def run(name: str) -> None:
    """Microseconds a fit, by the clock and of all processors together."""
    c = CURVES[name]
    y, x0 = c.data()
    made = loops(c, y, x0) | numpys(c, y, x0)
    made |= torchs(c, y, x0) if find_spec("torch") else {}
    made |= jaxs(c, y, x0) if find_spec("jax") else {}
    found: dict[str, tuple[Any, float]] = {}
    for label, (call, _) in made.items():
        began = time.perf_counter()
        x = np.asarray(call())
        found[label] = x, time.perf_counter() - began
    best = costs(c, y, found["least_squares, NumPy"][0])
    rounds: dict[str, list[tuple[float, float]]] = {label: [] for label in made}
    for _ in range(5):  # in turns, so that other work on the machine meets all alike
        for label, (call, _) in made.items():
            began = time.perf_counter(), time.process_time()
            call()
            rounds[label].append((time.perf_counter() - began[0], time.process_time() - began[1]))
    rows: list[list[str]] = []
    base: Any = None
    for label, (_, fits) in made.items():
        clock, busy = 1e6 * np.median(rounds[label], axis=0) / fits
        base = base or (clock, busy)
        x, first = found[label]
        rank = slice(None) if fits == FITS else slice(0, FITS, SHARE)
        solved = costs(c, y[rank], x) <= best[rank] * (1 + 1e-8)
        rows.append([label, f"{clock:.1f}", f"{base[0] / clock:.1f}", f"{busy:.1f}", f"{base[1] / busy:.1f}",
                     f"{100 * solved.mean():.2f} %", f"{first:.1f}"])  # fmt: skip
    show(
        f"{FITS} {c.name} of 3 parameters, {POINTS} points each",
        ["solver", "µs a fit", "× loop", "of processors", "× loop", "solved", "first call, s"],
        rows,
    )


def costs(c: Curves, y: Any, x: Any) -> Any:
    return ((c.model(np, np.asarray(x, float).T[..., None], c.at) - y) ** 2).sum(1)


def every() -> None:
    """Fit all curves."""
    for name in CURVES:
        run(name)


if __name__ == "__main__":
    for part in sys.argv[1:] or CURVES:
        run(part)
