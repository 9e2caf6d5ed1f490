"""Linear systems A x = b with a symmetric positive definite A, by products with A alone."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from downslope.errors import UsageError, a_type
from downslope.gradients import Structure, structure_of
from downslope.ops.protocol import Array
from downslope.solvers import spaces

SYMMETRIC = 1e-8
"""How far from symmetric a matrix may be, of its largest entry, in float64; 1e-4 in float32."""


class LinearStatus(IntEnum):
    """How a solve ended; `.message` says it in words."""

    CONVERGED = 1
    STEPS = 2
    INDEFINITE = 3
    PRECONDITIONER = 4
    ROUNDOFF = 5
    NONFINITE = 6

    @property
    def message(self) -> str:
        """The ending in words, and what to try next."""
        return {
            1: "Converged: the residual is within the tolerance.",
            2: "Budget spent: steps. Raise steps, or give a preconditioner.",
            3: "A is not positive definite: a direction d with dᵀA d ≤ 0 was met. The x is the best before; "
            "for an indefinite A use MINRES, for a minimum downslope.minimize.",
            4: "The preconditioner is not positive definite: rᵀM r ≤ 0 was met.",
            5: "The residual falls no further: this is as near as the precision and the condition of A let "
            "it be. Use float64, or a preconditioner.",
            6: "A product with A or the preconditioner is not finite.",
        }[int(self)]


@dataclass(frozen=True)
class LinearResult:
    """What `conjugate_gradient` returns.

    Attributes:
        x: the solution, nested as b.
        residual: ‖b - A x‖ / ‖b‖, computed anew at the end.
        steps: steps taken.
        products: products with A.
        status, success, message: how it ended.
        seconds: of the clock.

    """

    x: Any
    residual: float
    steps: int
    products: int
    status: LinearStatus
    success: bool
    message: str
    seconds: float


def conjugate_gradient(
    A: Any,
    b: Any,
    x0: Any = None,
    *,
    preconditioner: Any = None,
    tolerance: float | None = None,
    steps: int | None = None,
    callback: Callable[[Any], Any] | None = None,
) -> LinearResult:
    """Solve A x = b for a symmetric positive definite A.

    Args:
        A: a matrix (n, n) as an array of b's framework, a SciPy sparse matrix or a `LinearOperator`; or
            a function that takes arrays as b and returns A times them.
        b: an array, or a nested dict, list or tuple of arrays of one framework, float32 or float64.
        x0: where to start, nested as b; zero by default.
        preconditioner: M ≈ A⁻¹, symmetric positive definite, in the forms of A.
        tolerance: ends the solve at ‖b - A x‖ ≤ tolerance · ‖b‖; 1e-8 in float64, 1e-5 in float32.
        steps: most steps; 10 n by default.
        callback: called with x after each step; True stops.

    Raises:
        UsageError: an argument that does not fit; a matrix that is not symmetric.

    The residual that the recurrence carries drifts from b - A x. Where it is within the tolerance the
    true one is computed, and the method starts anew from x if that is not.

    Source: Hestenes and Stiefel, Methods of conjugate gradients for solving linear systems, 1952.

    >>> import numpy as np
    >>> A, b = np.array([[4.0, 1.0], [1.0, 3.0]]), np.array([1.0, 2.0])
    >>> result = conjugate_gradient(A, b)
    >>> result.success, result.x.round(6), result.products
    (True, array([0.090909, 0.636364]), 4)

    """
    began = time.perf_counter()
    structure, right = structure_of(b, name="b")
    single = structure.dtype == "float32"
    tolerance = (1e-5 if single else 1e-8) if tolerance is None else tolerance
    if not tolerance >= 0:
        raise UsageError(f"tolerance = {tolerance!r}: expected a number of at least 0")
    steps = 10 * structure.size if steps is None else steps
    if not (isinstance(steps, int) and steps >= 0):
        raise UsageError(f"steps = {steps!r}: expected a whole number of at least 0")
    a = _operator("A", A, structure, right)
    m = None if preconditioner is None else _operator("preconditioner", preconditioner, structure, right)
    start = 0.0 * right if x0 is None else _start(x0, structure)
    solve = _Solve(a, m, right, structure, float(tolerance), steps, callback)
    x, status = solve.run(start)
    return LinearResult(
        structure.restore(x), solve.residual, solve.steps, solve.products, status,
        status == LinearStatus.CONVERGED, status.message, time.perf_counter() - began,
    )  # fmt: skip


class _Solve:
    def __init__(
        self, a: Callable[[Array], Array], m: Callable[[Array], Array] | None, b: Array,
        structure: Structure, tolerance: float, most: int, callback: Callable[[Any], Any] | None,
    ) -> None:  # fmt: skip
        self.a, self.m, self.b, self.structure = a, m, b, structure
        self.most, self.callback = most, callback
        self.space = spaces.space_of(b, structure.framework, "lanes")
        self.size = self._norm(b)
        self.goal = tolerance * self.size
        self.steps = self.products = 0
        self.residual = 0.0

    def run(self, x: Array) -> tuple[Array, LinearStatus]:
        """Return the solution, and how the solve ended."""
        best, last = x, float("inf")
        while True:
            r = self.b - self._product(x)
            true = self._norm(r)
            if true < last:
                best, self.residual = x, true / self.size if self.size else true
            if not true < float("inf"):
                return best, LinearStatus.NONFINITE
            if true <= self.goal:
                return best, LinearStatus.CONVERGED
            if self.steps >= self.most:
                return best, LinearStatus.STEPS
            if not true < 0.5 * last:
                return best, LinearStatus.ROUNDOFF
            last = true
            x, ended = self._sweep(x, r)
            if ended is not None:
                final = self._norm(self.b - self._product(x))
                self.residual = final / self.size if self.size else final
                return x, ended

    def _sweep(self, x: Array, r: Array) -> tuple[Array, LinearStatus | None]:
        """Return x where the recurrence's residual is within the tolerance, or an ending."""
        z = r if self.m is None else self.m(r)
        d, rz = z, self._dot(r, z)
        while self.steps < self.most:
            if not rz > 0:
                return x, LinearStatus.PRECONDITIONER if rz <= 0 else LinearStatus.NONFINITE
            product = self._product(d)
            curvature = self._dot(d, product)
            if not curvature > 0:
                return x, LinearStatus.INDEFINITE if curvature <= 0 else LinearStatus.NONFINITE
            x = x + (rz / curvature) * d
            r = r - (rz / curvature) * product
            self.steps += 1
            if self.callback is not None and self.callback(self.structure.restore(x)) is True:
                return x, LinearStatus.STEPS
            if self._norm(r) <= 0.9 * self.goal:
                return x, None
            z = r if self.m is None else self.m(r)
            rz, before = self._dot(r, z), rz
            d = z + (rz / before) * d
        return x, None

    def _product(self, x: Array) -> Array:
        self.products += 1
        return self.a(x)

    def _dot(self, u: Array, v: Array) -> float:
        return float(self.space.dot(u, v))

    def _norm(self, u: Array) -> float:
        return math.sqrt(self._dot(u, u))


def _start(x0: Any, structure: Structure) -> Array:
    given, start = structure_of(x0)
    if (given.parts, given.framework, given.dtype) != (structure.parts, structure.framework, structure.dtype):
        raise UsageError("x0 is not as b: expected arrays of the same nesting, shapes, dtype, framework")
    return start


def _operator(name: str, given: Any, structure: Structure, b: Array) -> Callable[[Array], Array]:
    """Return products of flat vectors, from a matrix or a function of the user's arrays."""
    n = structure.size
    shape = getattr(given, "shape", None)
    if shape is not None and len(shape) == 2:
        if tuple(shape) != (n, n):
            raise UsageError(f"{name} has shape {tuple(shape)}, b has {n} entries: expected ({n}, {n})")
        if hasattr(given, "dtype") and not hasattr(given, "matvec"):
            _check_symmetric(name, given, structure.dtype)
        if structure.framework == "tensorflow":
            return lambda v: (given @ v[:, None])[:, 0]
        return lambda v: given @ v
    if not callable(given):
        raise UsageError(f"{name} is {a_type(given)}: expected a matrix ({n}, {n}) or a function")

    def product(v: Array) -> Array:
        return structure.flatten(given(structure.restore(v)), name)

    return product


def _check_symmetric(name: str, matrix: Any, dtype: str) -> None:
    transposed = matrix.T if hasattr(matrix, "T") else matrix.swapaxes(0, 1)
    off, size = abs(matrix - transposed), abs(matrix)
    if float(off.max()) > (1e-4 if dtype == "float32" else SYMMETRIC) * float(size.max()):
        raise UsageError(f"{name} is not symmetric: expected Aᵀ = A; for another A solve AᵀA x = Aᵀb")
