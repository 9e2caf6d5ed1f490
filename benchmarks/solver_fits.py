"""Fits within bounds that hold: `least_squares` against SciPy's trf and dogbox on NIST's sets.

    python benchmarks/solver_fits.py

Every second parameter is kept a tenth away from its certified value, on either side in turn, so that
bounds hold at the solution. A run is solved where its cost is within 1e-8 of the least that any met from
the same start. Success that is claimed elsewhere is of a local minimum where the point is first-order, by
the projected gradient, and false where it is not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.optimize
from timing import show

import downslope as ds
from downslope.tasks.problems import problem
from downslope.tasks.problems.nist import MODELS, certified


def bounds_of(exact: Any) -> tuple[Any, Any]:
    """Return bounds of which every second one holds at the certified parameters."""
    low, high = np.full(exact.size, -np.inf), np.full(exact.size, np.inf)
    for i in range(0, exact.size, 2):
        away = 0.1 * abs(exact[i])
        if i % 4:
            low[i] = exact[i] + away
        else:
            high[i] = exact[i] - away
    return low, high


def solvers() -> dict[str, Callable[..., Any]]:
    def ours(r: Any, x0: Any, jac: Any, bounds: Any) -> Any:
        return ds.least_squares(r, x0, jac, bounds=bounds)

    def scipys(method: str, tolerance: float) -> Callable[..., Any]:
        def solve(r: Any, x0: Any, jac: Any, bounds: Any) -> Any:
            return scipy.optimize.least_squares(
                r, x0, jac, bounds=bounds, method=method, x_scale="jac", max_nfev=2000, ftol=tolerance,
                xtol=tolerance, gtol=tolerance,
            )  # fmt: skip

        return solve

    made = {"levenberg-marquardt": ours}
    made |= {f"SciPy {m}, 1e-15": scipys(m, 1e-15) for m in ("trf", "dogbox")}
    return made | {f"SciPy {m}, 1e-8": scipys(m, 1e-8) for m in ("trf", "dogbox")}


def first_order(p: Any, x: Any, bounds: Any) -> bool:
    """Return whether no parameter that is free to move has a part of the residuals above 1e-6 along it.

    A parameter that changes nothing when it is moved by its own size is not known to be at a minimum.
    """
    r, jacobian = p.residuals(x), p.jacobian(x)
    g, near = jacobian.T @ r, 1e-6 * np.abs(x)
    held = ((g > 0) & (x - bounds[0] <= near)) | ((g < 0) & (bounds[1] - x <= near))
    columns, size = jacobian[:, ~held], np.linalg.norm(r)
    lengths = np.linalg.norm(columns, axis=0)
    if (lengths * np.abs(x[~held]) <= 1e-15 * size).any():
        return False
    basis = np.linalg.qr(columns / lengths)[0]
    return bool(np.linalg.norm(basis.T @ r) <= 1e-6 * size)


def main() -> None:
    """Run all and print a table."""
    found: dict[str, dict[str, tuple[float, int, bool, bool]]] = {}
    for name in MODELS:
        for start in (1, 2):
            p = problem(f"nist:{name}:{start}")
            bounds = bounds_of(np.asarray(certified(name).parameters))
            # Strictly within, as trf wants it; the same start for all.
            span = 1e-3 * np.maximum(1e-3, np.abs(p.start))
            x0 = np.clip(p.start, bounds[0] + span, bounds[1] - span)
            for solver, solve in solvers().items():
                count = 0

                def residuals(x: Any, p: Any = p) -> Any:
                    nonlocal count
                    count += 1
                    return p.residuals(x)

                with np.errstate(all="ignore"):
                    try:
                        r = solve(residuals, x0, p.jacobian, bounds)
                        inside = bool((r.x >= bounds[0]).all() and (r.x <= bounds[1]).all())
                        cost = float(r.cost) if inside else np.inf
                        spent, claimed = count, bool(r.success)
                        made = cost, spent, claimed, inside and first_order(p, np.asarray(r.x), bounds)
                    except ValueError:  # SciPy, of a start whose residuals are not finite
                        made = np.inf, count, False, False
                found.setdefault(f"{name}:{start}", {})[solver] = made
    rows = []
    for solver in solvers():
        least = {n: min(run[0] for run in runs.values()) for n, runs in found.items()}
        solved = [n for n in found if found[n][solver][0] <= least[n] * (1 + 1e-8) + 1e-300]
        elsewhere = [n for n in found if found[n][solver][2] and n not in solved]
        local = sum(found[n][solver][3] for n in elsewhere)
        counts = [found[n][solver][1] for n in found]
        missed = " ".join(n for n in found if n not in solved)
        kinds = [str(len(solved)), str(local), str(len(elsewhere) - local)]
        rows.append([solver, *kinds, str(sum(counts)), f"{np.median(counts):.0f}", missed])
    columns = ["solver", "solved", "local", "false", "evals", "median", "not solved"]
    show(f"{len(found)} fits", columns, rows)


if __name__ == "__main__":
    main()
