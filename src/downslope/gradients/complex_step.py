"""The complex step: Im f(x + i h) / h, a derivative without cancellation.

The step can be so small that its square vanishes beside x, whatever the scale of x. It is right only for
functions that are analytic in complex arithmetic: `abs`, `max` of parts, conjugates and casts to real
make it wrong without a sign. It is therefore held against a difference along one direction before it
is used, and again whenever the function has changed a hundredfold.

Source: Squire and Trapp, Using complex variables to estimate derivatives of real functions, SIAM
Review 40, 1998.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from downslope.errors import UsageError
from downslope.gradients.differences import Differences

Vector = NDArray[np.floating]

STEP = 1e-30
"""Of the scale of an entry: its square is far below every rounding error, in complex64 too."""


class ComplexStep:
    """The complex step of a function of numbers (...) or vectors (..., m) at points (..., n)."""

    def __init__(self, function: Callable[[NDArray[np.complexfloating]], Any]) -> None:
        self.function = function
        self._seen_size: float | None = None

    def gradient(self, x: Vector, by: Differences, value: Any) -> Vector:
        """Return the gradient (..., n) or Jacobian (..., m, n) at x.

        Args:
            x: the point, (..., n).
            by: differences of the same function, that the complex step is held against.
            value: the function there.

        Raises:
            UsageError: the function takes no complex argument, or its complex step is not its slope.

        """
        size = float(np.max(np.abs(value), initial=0.0))
        self._verify(x, by, value, size)
        n, columns = x.shape[-1], []
        for i in range(n):
            h = STEP * np.where(x[..., i] != 0, np.abs(x[..., i]), 1.0)
            columns.append(self._slope(x, np.eye(n)[i] * np.asarray(h)[..., None], h))
        made: Vector = np.stack(columns, axis=-1).astype(x.dtype)
        return made

    def _slope(self, x: Vector, step: Any, h: Any) -> NDArray[np.float64]:
        wide = np.complex128 if x.dtype == np.float64 else np.complex64
        try:
            made = np.asarray(self.function((x + 1j * step).astype(wide)))
        except (TypeError, np.exceptions.ComplexWarning) as error:
            raise UsageError(
                f"fun takes no complex argument, which the complex step needs: {error}; use 'central'"
            ) from None
        if made.dtype.kind != "c":
            raise UsageError(
                f"fun returned {made.dtype} for a complex argument, so it has cast to real: use 'central'"
            )
        h = np.asarray(h)
        slope: NDArray[np.float64] = made.imag.astype(np.float64) / (
            h[..., None] if made.ndim == x.ndim and h.ndim else h
        )
        return slope

    def _verify(self, x: Vector, by: Differences, value: Any, size: float) -> None:
        known = self._seen_size
        if known is not None and 0.01 <= (size + 1e-300) / (known + 1e-300) <= 100:
            return
        slope, error = by.along(x, value)
        direction = by.direction(x)
        made = self._slope(x, STEP * direction, np.full(x.shape[:-1], STEP))
        off = np.abs(made - slope)
        allowed = 10 * error + 1e-4 * np.maximum(np.abs(slope), np.abs(made))
        if not np.all(off <= allowed):
            worst = np.unravel_index(int(np.argmax(off - allowed)), np.shape(off))
            raise UsageError(
                f"the complex step gives the slope {np.asarray(made)[worst]:.6g} along a direction where "
                f"differences give {np.asarray(slope)[worst]:.6g} ± {np.asarray(error)[worst]:.1g}: fun is "
                "not analytic in complex arithmetic (abs, a conjugate, a cast to real); use 'central'"
            )
        self._seen_size = size
