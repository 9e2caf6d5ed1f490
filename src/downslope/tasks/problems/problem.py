"""A test problem: a smooth function with a start, what is known of its minima, and its source.

The functions of this folder take x of shape (..., n): a vector, or any batch of them. They are
written once, for NumPy, PyTorch and JAX arrays; `namespace` returns the module that x belongs to.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from downslope.errors import UsageError

Vector = NDArray[np.float64]
Function = Callable[[Any], Any]

TINY = 1e-100
"""The complex step: so small that its square is nothing beside any value."""


class Minimum(NamedTuple):
    """A known minimum: its value, a point where it is taken (None: not one, or not known), a word on it."""

    value: float
    x: tuple[float, ...] | None = None
    note: str = ""


@dataclass(frozen=True, eq=False)
class Problem:
    """A smooth function to minimize.

    Args:
        name: as it is typed: "rosenbrock", "mgh:beale".
        start: the standard start.
        residuals: r(x) of shape (..., m) where the function is a sum of squares, f = Σ rᵢ².
        function: f(x) of shape (...) where it is not.
        derivative: the gradient, written by hand; by default the complex step, exact to rounding.
        minima: what is known of its minima, the lowest first.
        bounds: one (low, high) an unknown, or None.
        frame: (low, high) of each unknown between which it is drawn, where there are two.
        source: where it is from.

    """

    name: str
    start: Vector
    residuals: Function | None = None
    function: Function | None = None
    derivative: Callable[[Vector], Vector] | None = None
    minima: tuple[Minimum, ...] = ()
    bounds: tuple[tuple[float, float], ...] | None = None
    frame: tuple[tuple[float, float], tuple[float, float]] | None = None
    source: str = ""

    def __post_init__(self) -> None:
        if (self.residuals is None) == (self.function is None):
            raise UsageError(f"problem {self.name!r}: give residuals or a function, one of the two")
        object.__setattr__(self, "start", np.array(self.start, np.float64))

    def __call__(self, x: Any) -> Any:
        """Return f at a point (n,), or at each of a batch (..., n)."""
        with _far_out():
            if self.function is not None:
                return self.function(x)
            assert self.residuals is not None
            r = self.residuals(x)
            return namespace(x).sum(r * r, -1)

    @property
    def size(self) -> int:
        """How many unknowns it has."""
        return self.start.size

    @property
    def about(self) -> str:
        """What it is, in one line."""
        return ((self.function or self.residuals).__doc__ or "").partition("\n")[0]

    @property
    def lowest(self) -> float | None:
        """The lowest value known, or None."""
        return self.minima[0].value if self.minima else None

    def gradient(self, x: Vector) -> Vector:
        """Return the gradient at a NumPy vector of float64."""
        with _far_out():
            if self.derivative is not None:
                return self.derivative(x)
            if self.function is not None:
                return np.asarray(np.imag(self.function(_stepped(x))) / TINY)
            assert self.residuals is not None
            return np.asarray(2.0 * (self.residuals(x) @ self.jacobian(x)))

    def jacobian(self, x: Vector) -> Vector:
        """Return the Jacobian (m, n) of the residuals at a NumPy vector of float64."""
        if self.residuals is None:
            raise UsageError(f"problem {self.name!r} is no sum of squares: it has no Jacobian")
        with _far_out():
            return np.asarray(np.imag(self.residuals(_stepped(x))).T / TINY)

    def value_and_gradient(self, x: Vector) -> tuple[float, Vector]:
        """Return the value and the gradient at a NumPy vector of float64."""
        return float(self(x)), self.gradient(x)

    def from_start(self, factor: float) -> Problem:
        """Return the problem from `factor` times its start; a start of zero becomes `factor` everywhere."""
        start = factor * self.start if self.start.any() else np.full_like(self.start, factor)
        return replace(self, name=f"{self.name} x{factor:g}", start=start)


def _far_out() -> Any:
    """Far from its minimum a function may overflow: that is an answer, infinity, and no warning."""
    return np.errstate(over="ignore", invalid="ignore", divide="ignore")


def _stepped(x: Vector) -> Any:
    """Return n copies of x, a complex step along each unknown in turn."""
    return x + 1j * TINY * np.eye(x.size)


def namespace(x: Any) -> Any:
    """Return the module of functions that an array belongs to: numpy, torch, jax.numpy.

    >>> namespace(np.ones(2)).__name__
    'numpy'

    """
    for kind in type(x).__mro__:
        root = kind.__module__.partition(".")[0]
        if root == "torch":
            return sys.modules["torch"]
        if root in ("jax", "jaxlib"):
            return sys.modules["jax.numpy"]
    return np


def like(x: Any, values: Any) -> Any:
    """Return data as an array of x's kind, dtype and device."""
    xp = namespace(x)
    if xp.__name__ == "torch":
        return xp.as_tensor(values, dtype=x.dtype, device=x.device)
    return xp.asarray(values, dtype=x.dtype if x.dtype.kind not in "iub" else float)


def unknowns(x: Any) -> tuple[Any, ...]:
    """Return the unknowns one by one, each of shape (..., 1): they broadcast against data."""
    return tuple(x[..., i, None] for i in range(x.shape[-1]))


def stacked(x: Any, *entries: Any) -> Any:
    """Return entries of shape (...) as one array (..., m)."""
    return namespace(x).stack(entries, -1)


def joined(x: Any, *parts: Any) -> Any:
    """Return arrays (..., mᵢ) one after the other as one array (..., Σ mᵢ)."""
    return namespace(x).concatenate(parts, -1)


def magnitude(z: Any) -> Any:
    """Return |z| so that the complex step goes through it."""
    return namespace(z).where(z < 0, -z, z)
