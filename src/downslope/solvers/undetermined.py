"""A second look at fits by differences: ways that the Jacobian's own error makes look like slopes.

Where the residuals do not determine all parameters, as of A exp(B (t - c)), columns of the Jacobian are
combinations of others. What differences leave of such a combination is their error: it has some direction,
in which some of the residuals lie, so that the offset is large, and a fall is promised that never comes.

So the slope along each such way is measured by a difference of its own, whose steps are long where those of
the columns are short. It takes the place of what the columns say; or nothing does, where it is no larger
than its error. What is left of the offset decides.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from downslope.gradients.numpy import Residuals
from downslope.solvers import losses
from downslope.solvers.core import Core
from downslope.solvers.status import Status

Vector = NDArray[Any]

FAILED = (Status.PRECISION, Status.STALLED)
CERTAIN = 2.0
"""A slope counts that is so many times its error; of its product with the residuals, what is more counts."""


def looked(
    residuals: Any, loss: tuple[losses.Loss, float], bounds: tuple[Vector, Vector] | None, core: Core,
    coarse: float,
) -> Core:  # fmt: skip
    """Return the core of a fit, ROUNDOFF where only errors of differences kept the offset from being small.

    Args:
        residuals: of the function; those of other frameworks than NumPy are never of differences.
        loss: its name and scale.
        bounds: (low, high), or None.
        core: as the run ended, problems first where it is of a batch.
        coarse: the offset at which an ending at round-off is a success.

    """
    if not isinstance(residuals, Residuals) or residuals.differences is None:
        return core
    alone = residuals.structure.batch is None
    status, size, evaluations = (np.array(a) for a in (core.status, core.size, core.evaluations))
    for lane in np.argwhere(np.isin(status, FAILED)):
        i = tuple(lane)  # () of a single fit
        own = residuals if alone else residuals.select(lane)
        x, g = core.x[i], core.gradient[i]
        free = np.ones(x.shape, bool)
        if bounds is not None:
            low, high = (np.broadcast_to(side, core.x.shape)[i] for side in bounds)
            free = ~(((g > 0) & (x <= low)) | ((g < 0) & (x >= high)))
        before = residuals.counts.values
        try:
            with np.errstate(all="ignore"):
                left = offset(own, loss, x if alone else x[None], free)
        except KeyboardInterrupt:  # the run is over: what it found is kept
            break
        except Exception:
            continue
        evaluations[i] += residuals.counts.values - before
        if left <= coarse:
            status[i], size[i] = int(Status.ROUNDOFF), left
    if alone:
        return core._replace(status=int(status), size=float(size), evaluations=int(evaluations))
    return core._replace(status=status, size=size, evaluations=evaluations)


def offset(residuals: Residuals, loss: tuple[losses.Loss, float], x: Vector, free: Vector) -> float:
    """Return how much of a fit's residuals lies in the range of J, of the slopes that are known."""
    assert residuals.differences is not None
    again = residuals.differences.afresh()

    def weighted(columns: Vector) -> tuple[Vector, Vector]:
        return (r, columns) if loss[0] == "linear" else losses.reweighted(*loss, r, columns)

    def alone(array: Vector, axes: int) -> Vector:
        return array.reshape(array.shape[-axes:])

    r, jacobian = (alone(a, axes) for axes, a in enumerate(residuals.value_and_jacobian(x), 1))
    lengths = np.linalg.norm(jacobian, axis=0)
    scale = np.where(lengths > 0, lengths, 1.0)
    of_loss, whole = weighted(np.where(free, jacobian, 0.0) / scale)
    _, values, right = np.linalg.svd(whole, full_matrices=False)
    known, inside = np.zeros((r.size, 0)), 0.0
    for way in np.where(free, right / scale, 0.0)[values > 0]:  # the steepest first
        found = again.along(x, r.reshape(x.shape[:-1] + r.shape), way)
        slope, error = (weighted(alone(a, 1)[:, None])[1][:, 0] for a in found)
        for _ in range(2):  # a weak way is never quite without a part of the steep ones
            slope = slope - known @ (known.T @ slope)
        size = float(np.linalg.norm(slope))
        if size > CERTAIN * np.linalg.norm(error):
            doubt = CERTAIN * float(np.linalg.norm(of_loss * error))
            inside += (max(abs(float(of_loss @ slope)) - doubt, 0.0) / size) ** 2
            known = np.column_stack([known, slope / size])
    return float(np.sqrt(inside) / np.linalg.norm(of_loss))
