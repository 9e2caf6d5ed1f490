"""What solvers cost beside the function: overhead, batches, dense updates, memory.

python benchmarks/solver_speed.py [overhead] [batch] [dense] [memory] [fits]
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import sys
import time
import tracemalloc
import warnings
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

import fit_speed
import numpy as np
import scipy.optimize
from timing import interleaved, medians, ratio, show

from downslope.solvers import Stop, minimize
from downslope.tasks.problems import problem

LANES, UNKNOWNS = 4096, 10


class Rosenbrock:
    """Rosenbrock's function n/2 times, as a user would write it in NumPy; its calls are counted."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, x: Any) -> tuple[float, Any]:
        """Return the value and the gradient."""
        self.calls += 1
        a, b = x[::2], x[1::2]
        r = b - a * a
        g = np.empty_like(x)
        g[1::2] = 200 * r
        g[::2] = -2 * a * g[1::2] - 2 * (1 - a)
        return float(100 * (r @ r) + (1 - a) @ (1 - a)), g


def overhead() -> None:
    """Microseconds of the processor that a solver adds to an evaluation of a small NumPy function."""
    rows = []
    for n in (2, 10, 100):
        fun, x0 = Rosenbrock(), np.tile([-1.2, 1.0], n // 2)
        candidates: dict[str, Callable[[], object]] = {
            m: partial(minimize, fun, x0, m, gradient=True) for m in ("l-bfgs", "bfgs", "cg")
        }
        candidates |= {
            f"SciPy {m}": partial(scipy.optimize.minimize, fun, x0, jac=True, method=m)
            for m in ("BFGS", "L-BFGS-B", "CG")
        }
        used = {}
        for label, call in candidates.items():
            fun.calls = 0
            call()
            used[label] = fun.calls
        timed = {"f": repeated(partial(fun, x0), 200)} | {k: repeated(c, 3) for k, c in candidates.items()}
        seconds = interleaved(timed, 50, time.process_time)
        own = np.array(seconds["f"]) / 200
        each = {k: np.array(seconds[k]) / 3 / used[k] - own for k in used}
        for k, v in each.items():
            share = np.median(v / each["SciPy BFGS"])  # of one round, whatever else the machine does then
            rows.append([str(n), k, str(used[k]), f"{1e6 * np.median(v):.1f}", f"{share:.2f}"])
    show("overhead of an evaluation", ["n", "solver", "evaluations", "µs each", "to SciPy BFGS"], rows)


def repeated(call: Callable[[], object], times: int) -> Callable[[], object]:
    def several() -> None:
        for _ in range(times):
            call()

    return several


def starts() -> Any:
    return np.random.default_rng(0).uniform(-2, 2, (LANES, UNKNOWNS))


def solved(x: Any) -> float:
    """The share of rows at which the gradient is 1e-6 of the first or less."""
    g = np.array([ROSENBROCK.gradient(row) for row in np.asarray(x, float)])
    g0 = np.array([ROSENBROCK.gradient(row) for row in starts()])
    return float((np.abs(g).max(1) <= 1e-6 * np.maximum(1, np.abs(g0).max(1)) * (1 + 1e-9)).mean())


ROSENBROCK = problem("large:chained-rosenbrock", n=UNKNOWNS)


def vectorized(x: Any) -> tuple[Any, Any]:
    a, b = x[:, :-1], x[:, 1:]
    bend = 200 * (b - a * a)
    g = np.zeros_like(x)
    g[:, :-1] = -2 * a * bend - 2 * (1 - a)
    g[:, 1:] += bend
    return (bend * bend).sum(1) / 400 + ((1 - a) ** 2).sum(1), g


def batch() -> None:
    """Microseconds a problem: 4096 problems of ten unknowns, each from a start of its own.

    By the clock, and of all processors together, which says the same on a machine with other work.
    """
    x0 = starts()
    made: dict[str, tuple[Callable[[], Any], int]] = {}

    def loop() -> Any:
        found = [
            scipy.optimize.minimize(ROSENBROCK.value_and_gradient, row, jac=True, method="L-BFGS-B",
                                    options={"ftol": 0, "gtol": 1e-6, "maxiter": 5000, "maxfun": 5000}).x
            for row in x0[: LANES // 16]
        ]  # fmt: skip
        return np.array(found)

    made["SciPy L-BFGS-B, a loop"] = (loop, LANES // 16)
    for method in ("l-bfgs", "bfgs"):
        made[f"{method}, NumPy"] = (
            lambda method=method: minimize(vectorized, x0, method, gradient=True, batch=True).x, LANES,
        )  # fmt: skip
    if find_spec("torch"):
        import torch

        tx = torch.from_numpy(x0)
        for method in ("l-bfgs", "bfgs"):
            made[f"{method}, PyTorch"] = (
                lambda method=method: minimize(ROSENBROCK, tx, method, batch=True).x, LANES,
            )  # fmt: skip
    if find_spec("jax"):
        made |= _jax(x0)
    rows: list[list[str]] = []
    base: Any = None
    for name, (call, lanes) in made.items():
        try:
            began = time.perf_counter()
            x = call()
            first = time.perf_counter() - began
        except Exception as error:
            rows.append([name, f"{type(error).__name__}: {error}"[:60], *[""] * 5])
            continue
        each = []
        for _ in range(5):
            began = time.perf_counter(), time.process_time()
            np.asarray(call())
            each.append((time.perf_counter() - began[0], time.process_time() - began[1]))
        micro, busy = 1e6 * np.median(each, axis=0) / lanes
        base = base or (micro, busy)
        share = solved(x) if lanes == LANES else solved(np.vstack([x, x0[lanes:]])) * LANES / lanes
        rows.append([name, f"{micro:.1f}", f"{base[0] / micro:.0f}", f"{busy:.1f}", f"{base[1] / busy:.0f}",
                     f"{100 * share:.2f} %", f"{first:.1f}"])  # fmt: skip
    show(
        f"{LANES} problems of {UNKNOWNS} unknowns",
        ["solver", "µs a problem", "× loop", "of processors", "× loop", "solved", "first call, s"],
        rows,
    )


def _jax(x0: Any) -> dict[str, tuple[Callable[[], Any], int]]:
    import jax

    jax.config.update("jax_enable_x64", True)
    jx = jax.numpy.asarray(x0)
    made: dict[str, tuple[Callable[[], Any], int]] = {}
    for method in ("l-bfgs", "bfgs"):
        made[f"{method}, JAX"] = (
            lambda method=method: minimize(ROSENBROCK, jx, method, batch=True).x, LANES,
        )  # fmt: skip
    if find_spec("optimistix"):
        import optimistix

        def peer(solver: Any) -> Callable[[], Any]:
            def one(x: Any) -> Any:
                def fun(y: Any, _: Any) -> Any:
                    return ROSENBROCK(y)

                return optimistix.minimise(fun, solver, x, throw=False, max_steps=4096).value

            many = jax.jit(jax.vmap(one))
            return lambda: jax.block_until_ready(many(jx))

        for name in ("BFGS", "LBFGS"):
            made[f"optimistix {name}, vmap"] = (peer(getattr(optimistix, name)(rtol=1e-9, atol=1e-9)), LANES)
    return made


def dense() -> None:
    """Milliseconds a step of BFGS at 2000 unknowns."""
    p = problem("large:quadratic", n=2000)
    steps = 12

    def ours() -> None:
        minimize(p.value_and_gradient, p.start, "bfgs", gradient=True, stop=Stop(gradient=0.0, steps=steps))

    def scipys() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            scipy.optimize.minimize(
                p.value_and_gradient,
                p.start,
                jac=True,
                method="BFGS",
                options={"maxiter": steps, "gtol": 0.0},
            )

    seconds = interleaved({"bfgs": ours, "SciPy BFGS": scipys}, 3)
    rows = [[name, f"{1e3 * v / steps:.1f}"] for name, v in medians(seconds).items()]
    show(f"BFGS at n = 2000: {ratio(seconds, 'bfgs', 'SciPy BFGS'):.1f} x", ["solver", "ms a step"], rows)


def memory() -> None:
    """Peak memory of l-bfgs at a million unknowns against (2m + 6) n numbers."""
    n, m = 1_000_000, 10
    p = problem("large:quartic", n=n)
    floor = 8 * (2 * m + 6) * n
    options = {"maxiter": 15, "gtol": 0, "ftol": 0}
    fifteen = Stop(gradient=0.0, steps=15)
    runs = {
        "l-bfgs": lambda: minimize(p.value_and_gradient, p.start, "l-bfgs", gradient=True, stop=fifteen),
        "SciPy L-BFGS-B": lambda: scipy.optimize.minimize(
            p.value_and_gradient, p.start, jac=True, method="L-BFGS-B", options=options
        ),
    }
    rows = []
    for name, run in runs.items():
        tracemalloc.start()
        run()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        rows.append([name, f"{peak / 2**20:.0f}", f"{peak / floor:.2f}"])
    show("memory at n = 10⁶", ["solver", "MiB", "of (2m + 6) n"], rows)


PARTS = {"overhead": overhead, "batch": batch, "dense": dense, "memory": memory, "fits": fit_speed.every}

if __name__ == "__main__":
    for part in sys.argv[1:] or PARTS:
        PARTS[part]()
