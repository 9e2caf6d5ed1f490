"""Methods run one after the other on one problem: a dict that the table, the page and JSON are made of."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import metadata
from types import SimpleNamespace
from typing import Any

import numpy as np

from downslope.errors import UsageError
from downslope.gradients.nest import leaves_of
from downslope.report.numbers import counted, listed, number
from downslope.report.race import kept
from downslope.solvers import Status, Stop, minimize
from downslope.solvers.methods import SQUARES
from downslope.solvers.race.target import Target
from downslope.tasks.problems import Problem

SCHEMA = 1

WORDS = {
    Status.GRADIENT: "converged",
    Status.ROUNDOFF: "converged at round-off",
    Status.VALUE: "value hardly changes",
    Status.STEP: "steps are short",
    Status.TARGET: "target reached",
    Status.STALLED: "no progress",
    Status.KINK: "kink",
    Status.NONFINITE: "not finite",
    Status.UNBOUNDED: "falls without bound",
    Status.STEPS: "out of steps",
    Status.EVALUATIONS: "out of evaluations",
    Status.SECONDS: "out of time",
    Status.INTERRUPTED: "interrupted",
    Status.RAISED: "raised an exception",
    Status.PRECISION: "out of precision",
}
"""A word or two for a table; `Status.message` says it in full."""

POINTS = 1000
"""Steps of a run that are kept, the first ones densest; the counts are those of all."""

SHOWN = 12
"""Unknowns whose values are kept in the result; of more, only how many there are."""


def race(
    given: Target,
    methods: Sequence[str],
    stop: Stop,
    *,
    options: dict[str, dict[str, Any]],
    bounds: Any = None,
    command: str = "",
    progress: bool = False,
    began: Callable[[str], None] = lambda method: None,
) -> dict[str, Any]:
    """Return what each method made of a problem, those that arrived first in front.

    Args:
        given: the problem.
        methods: names of methods.
        stop: when each ends.
        options: of each method, by name.
        bounds: as `minimize` takes them.
        command: how this can be had again.
        progress: whether to show how each run goes.
        began: called with each method's name before it runs.

    """
    runs, results = [], []
    for method in methods:
        began(method)
        result, seconds = _timed(given, method, stop, options.get(method, {}), bounds, progress)
        results.append(result)
        runs.append(_run(method, result, seconds))
        if result.status is Status.INTERRUPTED:
            break
    low = _lowest(given, runs)
    runs.sort(key=lambda r: _rank(r, low))
    first = _first(runs, low)
    return {
        "schema": SCHEMA,
        "kind": "race",
        "problem": _problem(given, results[0]),
        "runs": runs,
        "lowest": low,
        "first": first,
        "tolerance": next((float(r.tolerance) for r in results if r.tolerance is not None), None),
        "sentence": sentence(runs, first, low),
        "notes": notes(runs, low),
        "command": command,
        "where": _where(),
    }


def _timed(
    given: Target, method: str, stop: Stop, options: dict[str, Any], bounds: Any, progress: bool
) -> tuple[Any, float]:
    size = sum(math.prod(np.shape(leaf)) for leaf in leaves_of(given.x0))
    start = time.perf_counter()
    if method in SQUARES:
        found = _squares(given, method, stop, options, bounds, size == 2)
        return found, time.perf_counter() - start
    result = minimize(
        given.fun, given.x0, method, gradient=given.gradient, stop=stop, bounds=bounds,
        options=options or None, history="points" if size == 2 else True, progress=progress,
    )  # fmt: skip
    return result, time.perf_counter() - start


def _squares(
    given: Target, method: str, stop: Stop, options: dict[str, Any], bounds: Any, points: bool
) -> Any:
    """Return the result of a method for sums of squares, in the terms of others: Σ rᵢ², not half of it."""
    from downslope.solvers.least_squares import least_squares

    problem = given.fun
    assert isinstance(problem, Problem)
    assert problem.residuals is not None
    half = replace(stop, target=None if stop.target is None else stop.target / 2)
    found = least_squares(
        problem.residuals, given.x0, problem.jacobian, bounds, method, stop=half,
        history="points" if points else True, options=options,
    )  # fmt: skip
    history = [{**h, "value": 2 * h["value"], "gradient": 2 * h["gradient"]} for h in found.history]
    return SimpleNamespace(
        x=found.x, value=2 * found.cost, gradient_size=2 * found.optimality, status=found.status,
        success=found.success, message=found.message, steps=found.nit, evaluations=found.nfev,
        tolerance=None, provenance=found.provenance, history=history, error=found.error,
    )  # fmt: skip


def check(given: Target, methods: Sequence[str]) -> None:
    """Raise `UsageError` where a method is for sums of squares, and the problem is none."""
    squares = isinstance(given.fun, Problem) and given.fun.residuals is not None
    for method in methods:
        if method in SQUARES and not squares:
            raise UsageError(
                f"{method} is for sums of squares, and {given.name} is not known as one: take an mgh or nist "
                "problem, or call downslope.least_squares with the residuals"
            )


def _run(method: str, result: Any, seconds: float) -> dict[str, Any]:
    """Return one run as plain values."""
    history = [result.history[i] for i in kept(len(result.history), POINTS)]
    curve = {k: [h[k] for h in history] for k in ("evaluations", "seconds")}
    curve |= {k: [_finite(h[k]) for h in history] for k in ("value", "gradient")}
    points = [numbers_of(h["x"]) for h in history if "x" in h]
    x = numbers_of(result.x)
    return {
        "method": method,
        "value": _finite(result.value),
        "gradient": _finite(result.gradient_size),
        "steps": int(result.steps),
        "evaluations": int(result.evaluations),
        "seconds": seconds,
        "success": bool(result.success),
        "status": result.status.name.lower(),
        "ending": WORDS.get(result.status, result.status.name.lower()),
        "message": result.message if result.error is None else f"{result.message} ({result.error})",
        "x": [_finite(v) for v in x] if len(x) <= SHOWN else None,
        "curve": curve,
        "path": {"x": [p[0] for p in points], "y": [p[1] for p in points], "value": curve["value"]}
        if points
        else None,
    }  # fmt: skip


def _problem(given: Target, result: Any) -> dict[str, Any]:
    x0 = numbers_of(given.x0)
    known = given.minima[0].value if given.minima else None
    few = ", ".join(f"{v:.6g}" for v in x0[:SHOWN])
    return {
        "name": given.name,
        "n": len(x0),
        "start": few if len(x0) <= SHOWN else f"{few}, … ({len(x0)} numbers)",
        "source": given.source,
        "lowest": known,
        "gradient": result.provenance,
        "about": given.about,
    }


def _lowest(given: Target, runs: Sequence[dict[str, Any]]) -> float:
    """Return the lowest value that is known or was met."""
    met = [v for r in runs for v in (r["value"], *r["curve"]["value"]) if v is not None]
    met += [given.minima[0].value] if given.minima else []
    return min(met, default=0.0)


def close(value: float | None, low: float) -> bool:
    """Whether a value is the lowest, but for digits that do not matter."""
    return value is not None and value - low <= 1e-6 * max(1.0, abs(low))


def _rank(run: dict[str, Any], low: float) -> tuple[Any, ...]:
    """Return what runs are ordered by: converged to the lowest, converged elsewhere, not converged."""
    kind = 0 if run["success"] and close(run["value"], low) else 1 if run["success"] else 2
    value = math.inf if run["value"] is None else run["value"]
    return (kind, run["evaluations"], run["seconds"]) if kind == 0 else (kind, value, run["evaluations"])


def _first(runs: Sequence[dict[str, Any]], low: float) -> list[str]:
    arrived = [r for r in runs if r["success"] and close(r["value"], low)]
    return [r["method"] for r in arrived if r["evaluations"] == arrived[0]["evaluations"]]


def sentence(runs: Sequence[dict[str, Any]], first: Sequence[str], low: float) -> str:
    """Return who won, and against what."""
    if not first:
        best = min(runs, key=lambda r: math.inf if r["value"] is None else r["value"])
        return f"No method converges: the lowest value, {number(best['value'], 4)}, is from {best['method']}."
    winner = next(r for r in runs if r["method"] == first[0])
    others = [r for r in runs if r["success"] and close(r["value"], low) and r["method"] not in first]
    cost = counted(winner["evaluations"], "evaluation")
    verb = "are" if len(first) > 1 else "is"
    if len(runs) == 1:
        return f"{winner['method']} converges: {cost} to the value {number(winner['value'], 4)}."
    if not others:
        alone = "only they do" if len(first) > 1 else "no other method converges to the lowest value"
        return f"{listed(first)} {verb} first: {cost}; {alone}."
    return f"{listed(first)} {verb} first: {cost}, {others[0]['method']} {others[0]['evaluations']}."


def notes(runs: Sequence[dict[str, Any]], low: float) -> list[str]:
    """Return what should not be missed."""
    elsewhere = [r["method"] for r in runs if r["success"] and not close(r["value"], low)]
    if not elsewhere:
        return []
    return [
        f"Converged above the lowest value: {listed(elsewhere)}. Another minimum, or a tolerance too wide "
        "for this problem (--gradient)."
    ]


def numbers_of(tree: Any) -> list[float]:
    """Return all numbers of an array or a nested structure of arrays."""
    found: list[float] = []
    for leaf in leaves_of(tree):
        plain = leaf.detach().cpu() if hasattr(leaf, "detach") else leaf
        found += [float(v) for v in np.asarray(plain).reshape(-1)]
    return found


def _finite(value: Any) -> float | None:
    v = float(value)
    return v if math.isfinite(v) else None


def _where() -> dict[str, str]:
    return {
        "Downslope": metadata.version("downslope"),
        "Python": platform.python_version(),
        "NumPy": np.__version__,
        "machine": platform.machine(),
    }
