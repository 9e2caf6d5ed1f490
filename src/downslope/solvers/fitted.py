"""What `least_squares` returns: of one fit, of a batch, and within a transformation of JAX's."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from downslope.ops.protocol import Array
from downslope.solvers import spaces
from downslope.solvers.core import Core, Limits
from downslope.solvers.result import Named, at_iterate, chosen, picked, raised, told, with_error
from downslope.solvers.squares import to_numpy
from downslope.solvers.status import Status
from downslope.words import paragraphs

ALONE = (
    " fun returns one residual for {count} parameters, and its square was made least: "
    "minimize(fun, x0) makes the value itself least."
)
"""Of a function that may be no function of residuals."""


@dataclass(frozen=True)
class LeastSquaresResult(Named):
    """What `least_squares` returns, in SciPy's names; `result["x"]` works too.

    Of a batch every array has the problems along its leading axis, and numbers are arrays (B,); message is a
    list. Within a transformation of JAX's status and success are arrays, and there are no messages.

    Attributes:
        x: the best parameters, nested as x0.
        cost: ½ Σ ρ, half the sum of squares where the loss is linear.
        fun: the residuals there, (m,).
        jac: the Jacobian there, (m, n) over the flat vector; None of a matrix-free run.
        grad: ∇cost over the flat vector, (n,).
        optimality: ‖grad‖∞, projected where there are bounds.
        offset: √(‖projection of the residuals on the range of the Jacobian‖² / ‖residuals‖²): what the
            run was to bring below `tolerance`. It has no units, and no unit of a parameter matters. Of a
            matrix-free run it is ‖grad‖∞, as of `minimize`.
        tolerance: see `offset`.
        active_mask: (n,), -1 where a parameter is at its lower bound, 1 at its upper, else 0.
        nfev, njev: residuals and Jacobians evaluated, those for differences included in `nfev`. Of a
            problem of a batch its trials and its steps, the start included, whatever the others took.
        nit: steps.
        status: a `Status`.
        success: whether x is a first-order point at the precision asked for or reached.
        message: how the run ended, and what to try next.
        method: its name.
        provenance: where the Jacobian came from.
        seconds: of the clock.
        history: a list of dicts, where it was asked for.
        error: the exception that ended the run, or None.

    """

    x: Any
    cost: Any
    fun: Array
    jac: Array | None
    grad: Array
    optimality: Any
    offset: Any
    tolerance: Any
    active_mask: Any
    nfev: Any
    njev: Any
    nit: Any
    status: Any
    success: Any
    message: Any
    method: str
    provenance: str
    seconds: float
    history: list[dict[str, Any]] = field(default_factory=list, repr=False)
    error: BaseException | None = None

    def __getitem__(self, name: str) -> Any:
        """Return an attribute, as of SciPy's results."""
        if name not in self.keys():
            raise KeyError(name)
        return getattr(self, name)

    def __str__(self) -> str:
        """Return a few lines for people."""
        if not isinstance(self.status, Status):
            solved = f"{int(self.success.sum())} of {len(self.message)} fits solved"
            return f"{solved}, {self.seconds:.3g} s{raised(self.error)}"
        return paragraphs(
            (
                self.message,
                f"  cost {self.cost:.10g}, offset {self.offset:.2e} (asked for {self.tolerance:.2e})",
                f"  {self.nit} steps, {self.nfev} residuals and {self.njev} Jacobians, "
                f"{self.seconds:.3g} s, {self.method}",
                f"  Jacobian by {self.provenance}",
            )
        )


def of_one(
    f: Any, core: Core, bounds: Any, limits: Limits, method: str, began: float,
    history: list[dict[str, Any]], error: BaseException | None, matrix_free: bool,
) -> LeastSquaresResult:  # fmt: skip
    """Return the result of one fit, from the core that its method ended with, of NumPy's vectors."""
    status = Status(int(core.status))
    nfev, njev = f.counts.values, f.counts.matrices
    at, value, g = chosen(core, status in Status.at_iterate())
    at, g = to_numpy(at), to_numpy(g)
    x = spaces.vector_like(f.x0, f.structure.framework, at)
    r, jacobian = (f.value(x), None) if matrix_free else f.value_and_jacobian(x)
    mask, size = held(np, at, g, bounds)
    message = status.message
    if error is not None:
        message = with_error(message, error)
    if math.prod(tuple(r.shape)) == 1 < at.size:
        message += ALONE.format(count=at.size)
    return LeastSquaresResult(
        f.structure.restore(x), float(value), r, jacobian, spaces.vector_like(x, f.structure.framework, g),
        float(size), float(core.size), max(limits.gradient * float(core.scale), limits.absolute), mask, nfev,
        njev, int(core.steps), status, status.success, message, method, str(f.provenance),
        time.perf_counter() - began, history, error,
    )  # fmt: skip


def of_batch(
    f: Any, core: Core, bounds: Any, limits: Limits, method: str, began: float, error: BaseException | None
) -> LeastSquaresResult:
    """Return the results of a batch, from the cores of its problems."""
    codes = to_numpy(core.status).astype(int)
    first = at_iterate(codes, core)
    x, g = picked(first, core.x, core.best_x), picked(first, core.gradient, core.best_gradient)
    r, jacobian = f.value_and_jacobian(x)
    mask, size = held(np, to_numpy(x), to_numpy(g), bounds)
    scale, steps = to_numpy(core.scale), to_numpy(core.steps)
    return LeastSquaresResult(
        f.structure.restore(x), picked(first, core.value, core.best_value), r, jacobian, g, size,
        to_numpy(core.size), np.maximum(limits.gradient * scale, limits.absolute), mask,
        to_numpy(core.evaluations), steps + 1, steps, codes, *told(codes), method,
        str(f.provenance), time.perf_counter() - began, [], error,
    )  # fmt: skip


def held(lib: Any, x: Array, g: Array, bounds: Any) -> tuple[Array, Array]:
    """Return which bounds the parameters are at, and ‖g‖∞, projected; `lib` is NumPy, or JAX's."""
    if bounds is None:
        return lib.zeros(x.shape, int), lib.max(lib.abs(g), -1)
    low, high = (lib.asarray(side, x.dtype) for side in bounds)
    mask = lib.where(x <= low, -1, lib.where(x >= high, 1, 0))
    return mask, lib.max(lib.abs(x - lib.clip(x - g, low, high)), -1)
