"""The picture of a race with two unknowns: its frame, and the function's values on a grid."""

from __future__ import annotations

import contextlib
import io
import time
from typing import Any

import numpy as np

from downslope.report.numbers import rounded
from downslope.solvers.race.run import numbers_of
from downslope.solvers.race.target import Target

GRID = (120, 84)
PATIENCE = 10.0
"""Seconds that the values of the grid may take; else paths are drawn without level lines."""


def picture(given: Target, race: dict[str, Any]) -> dict[str, Any] | None:
    """Return what `downslope.report.race` draws; None where there are not two unknowns."""
    start = numbers_of(given.x0)
    if len(start) != 2 or race["runs"][0]["path"] is None:
        return None
    frame = given.frame or frame_of(race, start)
    field, without = values(given, frame)
    return {
        "frame": [list(side) for side in frame],
        "field": field,
        "without": without,
        "start": start,
        "minima": [list(m.x) for m in given.minima if m.x is not None],
        "names": ["x₁", "x₂"],
    }


def frame_of(race: dict[str, Any], start: list[float]) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return what is shown: start, ends, and the paths but for their far excursions."""
    ends = [start] + [r["x"] for r in race["runs"] if r["x"] and None not in r["x"]]
    sides = []
    for axis, name in enumerate(("x", "y")):
        own = [np.quantile(r["path"][name], (0.05, 0.95)) for r in race["runs"] if r["path"]["x"]]
        most = np.array([end[axis] for end in ends] + [v for pair in own for v in pair])
        most = most[np.isfinite(most)]
        low, high = float(most.min()), float(most.max())
        room = 0.2 * (high - low) or 0.5 * max(abs(low), 1e-3)
        sides.append((low - room, high + room))
    return sides[0], sides[1]


def values(given: Target, frame: Any) -> tuple[list[list[float | None]] | None, str]:
    """Return the function's values on a grid over the frame, or None and why not."""
    (x0, x1), (y0, y1) = frame
    xs, ys = np.linspace(x0, x1, GRID[0]), np.linspace(y0, y1, GRID[1])
    points = np.stack(np.meshgrid(xs, ys), -1)
    if given.vectorized:
        found = np.asarray(given.fun(points), float)
    else:
        found = np.empty(points.shape[:2])
        began, late = time.perf_counter(), "Without level lines: the function takes too long for a picture."
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # what it prints a thousand times nobody reads
                for done, at in enumerate(np.ndindex(found.shape)):
                    found[at] = _one(given, points[at])
                    spent = time.perf_counter() - began
                    # The first point alone tells little: a program may have been started for it.
                    if spent > PATIENCE or (done == 20 and spent / done * found.size > PATIENCE):
                        return None, late
        except KeyboardInterrupt:  # the race is over, and would be lost
            return None, "Without level lines: interrupted."
    return [[rounded(v, 6) for v in row] for row in found.tolist()], ""


def _one(given: Target, point: Any) -> float:
    """Return the value at a point, whatever the function takes and returns; NaN where it raises."""
    try:
        found = given.fun(_like(given.x0, point))
    except Exception:
        return float("nan")
    found = found[0] if isinstance(found, tuple) else found
    return float(found.detach() if hasattr(found, "detach") else found)


def _like(x0: Any, point: Any) -> Any:
    """Return a point as x0 is: an array of its framework, dtype and shape, or a list."""
    if isinstance(x0, (list, tuple)):
        return type(x0)(float(v) for v in point)
    if hasattr(x0, "new_tensor"):
        return x0.new_tensor(point).reshape(x0.shape)
    if type(x0).__module__.startswith("tensorflow"):
        import tensorflow

        return tensorflow.constant(point.reshape(x0.shape), x0.dtype)
    return np.asarray(point, x0.dtype).reshape(x0.shape)
