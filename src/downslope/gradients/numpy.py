"""Derivatives of NumPy functions: the user's own, differences, or the complex step."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from downslope.errors import UsageError
from downslope.gradients.complex_step import ComplexStep
from downslope.gradients.differences import Differences
from downslope.gradients.memory import free_memory, require_memory
from downslope.gradients.returned import (
    changed_argument,
    describe,
    foreign_array,
    is_whole,
    no_hessian,
    no_scalar,
    pair,
    residual_parts,
)
from downslope.gradients.source import Counts, Given, Provenance
from downslope.gradients.structure import Structure
from downslope.ops.protocol import Array

Vector = NDArray[np.floating]


def check_point(leaves: list[tuple[str, Any]]) -> None:
    """Raise where an entry of a starting point is not finite."""
    for name, leaf in leaves:
        bad = ~np.isfinite(leaf)
        if bad.any():
            at = tuple(int(i) for i in np.argwhere(bad)[0])
            entry = f"[{', '.join(map(str, at))}]" if at else ""
            raise UsageError(f"{name}{entry} is {np.asarray(leaf)[at]}: expected finite numbers")


def owned(vector: Vector) -> Vector:
    """Return a copy that is the solver's own."""
    return np.array(vector)


class _Function:
    """What scalar and vector functions share: calling the user's, counted and checked at first."""

    def __init__(self, given: Given, structure: Structure, x0: Vector, counts: Counts | None = None) -> None:
        self.given, self.structure, self.x0 = given, structure, x0
        self.counts = Counts() if counts is None else counts
        self.batch = structure.batch is not None
        self._checked = False

    def _call(self, function: Any, x: Vector) -> Any:
        """Call a function of the user's; it gets a copy, so that nothing it does to x reaches the solver."""
        point = self.structure.restore(x.copy())
        if self._checked:
            return function(point, *self.given.args)
        returned = function(point, *self.given.args)
        self._see_unchanged(point, x)
        self._checked = True
        return returned

    def _see_unchanged(self, point: Any, x: Vector) -> None:
        try:
            after = self.structure.arrays(point)
        except UsageError:
            raise changed_argument("") from None
        before = self.structure.arrays(self.structure.restore(x))
        for part, now, then in zip(self.structure.parts, after, before, strict=True):
            if not np.array_equal(now, then, equal_nan=True):
                raise changed_argument(part.where)

    def _lane_arguments(self, lanes: Any) -> tuple[Given, Structure, Vector]:
        chosen = tuple(
            a[lanes] if isinstance(a, np.ndarray) and a.shape[:1] == (self.structure.batch,) else a
            for a in self.given.args
        )
        count = len(np.arange(self.structure.batch or 0)[lanes])
        return replace(self.given, args=chosen), replace(self.structure, batch=count), self.x0[lanes]


class Objective(_Function):
    """`downslope.gradients.source.Objective` of a NumPy function."""

    def __init__(self, given: Given, structure: Structure, x0: Vector, counts: Counts | None = None) -> None:
        super().__init__(given, structure, x0, counts)
        self._own = getattr(given.fun, "value_and_gradient", None) if given.gradient is None else None
        kind = given.gradient if isinstance(given.gradient, str) else "auto"
        if self.batch and kind == "auto":
            kind = "central"  # lanes would not agree on when to change over
        self._complex = ComplexStep(self._complex_value) if kind == "complex" else None
        self._differences = Differences(self._numbers, kind, given.noise, given.bounds)

    @property
    def provenance(self) -> Provenance:
        """Where the gradient comes from."""
        if self._is_given:
            return Provenance("the gradient given")
        n = self.structure.size
        if self._complex is not None:
            return Provenance("the complex step", n)
        d = self._differences
        noise = None if d.noise is None else float(np.max(d.noise))
        calls = n if d.now == "forward" else 2 * n
        return Provenance(f"{d.now} differences", calls, noise, d.error)

    def value(self, x: Vector) -> Any:
        """f(x)."""
        self.counts.values += 1
        if self.given.gradient is True:
            return self._number(pair(self._call(self.given.fun, x), "gradient")[0])
        return self._number(self._call(self.given.fun, x))

    def value_and_gradient(self, x: Vector) -> tuple[Any, Vector]:
        """f(x) and ∇f(x)."""
        gradient = self.given.gradient
        self.counts.gradients += 1
        if gradient is True or self._own is not None:
            self.counts.values += 1
            value, made = pair(self._call(self._own or self.given.fun, x), "gradient")
            if made is not None:
                return self._number(value), self._vector(made)
            self._own = None
            return self._number(value), self._differences.derivative(x, value)
        value = self.value(x)
        if callable(gradient):
            return value, self._vector(self._call(gradient, x))
        if not np.all(np.isfinite(value)):  # no use in asking for the slope of infinity
            return value, self._differenced_lanes(x, value)
        if self._complex is not None:
            return value, self._complex.gradient(x, self._differences, value)
        return value, self._differences.derivative(x, value)

    def hessian_vector(self, x: Vector, v: Vector) -> Vector:
        """∇²f(x) v: the user's, or a difference of two gradients."""
        self.counts.products += 1
        if self.given.hessian_vector is not None:
            product = self.given.hessian_vector(
                self.structure.restore(x.copy()), self.structure.restore(v.copy()), *self.given.args
            )
            return self._vector(product, "hessian_vector")
        if self.given.hessian is not None:
            return np.asarray(np.einsum("...ij,...j->...i", self.hessian(x), v), x.dtype)
        size = np.max(np.abs(v), axis=-1, keepdims=True)
        safe = np.where(size > 0, size, 1.0)
        scale = np.maximum(np.max(np.abs(x), axis=-1, keepdims=True), 1e-8)
        h = (self._gradient_step() * scale / safe).astype(x.dtype)
        ahead, behind = self._exact_gradient(x + h * v), self._exact_gradient(x - h * v)
        product = (ahead - behind) / (2 * h)
        return np.where(size > 0, product, 0.0).astype(x.dtype)

    def hessian(self, x: Vector) -> NDArray[np.floating]:
        """∇²f(x): the user's, or differences of gradients, made symmetric."""
        self.counts.matrices += 1
        n = self.structure.size
        if self.given.hessian is not None:
            made = self._call(self.given.hessian, x)
            if hasattr(made, "toarray"):
                made = made.toarray()
            if hasattr(made, "matvec") or np.shape(made) != (*x.shape, n):
                raise no_hessian(made, (*x.shape, n))
            return np.array(made, dtype=x.dtype)
        require_memory(
            (*x.shape, n),
            self.structure.dtype,
            free_memory(),
            "a Hessian",
            "use method='newton-cg' or 'l-bfgs'",
        )
        eye = np.eye(n, dtype=x.dtype)
        columns = [self.hessian_vector(x, np.broadcast_to(eye[i], x.shape)) for i in range(n)]
        matrix = np.stack(columns, axis=-1)
        return (matrix + np.swapaxes(matrix, -2, -1)) / 2

    def anew(self, x: Vector) -> tuple[Vector, float] | None:
        """Return the gradient by differences at x and how large it may be and say nothing; None of others."""
        if self._is_given or self._complex is not None:
            return None
        return self._differences.anew(x, self._numbers(x))

    def select(self, lanes: Array) -> Objective:
        """Return the problems of some lanes."""
        made = Objective(*self._lane_arguments(lanes), self.counts)
        made._checked, made._own = self._checked, self._own
        made._differences = self._differences.select(lanes, made._numbers)
        return made

    @property
    def _is_given(self) -> bool:
        return callable(self.given.gradient) or self.given.gradient is True or self._own is not None

    def _exact_gradient(self, x: Vector) -> Vector:
        """Return the gradient for a difference of gradients: never a forward difference."""
        if callable(self.given.gradient):
            return self._vector(self._call(self.given.gradient, x))
        with self._differences.held("central"):
            return self.value_and_gradient(x)[1]

    def _gradient_step(self) -> float:
        """Return the relative step for a central difference of gradients."""
        eps = float(np.finfo(self.structure.dtype).eps)
        least = float(eps ** (1 / 3))
        error, differenced = self._differences.error, not self._is_given and self._complex is None
        return float(np.clip(error ** (1 / 3), least, 0.03)) if differenced and error is not None else least

    def _differenced_lanes(self, x: Vector, value: Any) -> Vector:
        """Return differences where the value is finite, NaN elsewhere."""
        made = np.full_like(x, math.nan)
        good = np.flatnonzero(np.isfinite(value)) if self.batch else np.zeros(0, int)
        if good.size:
            part = self.select(good)
            made[good] = part._differences.derivative(x[good], np.asarray(value)[good])
        return made

    def _numbers(self, x: Vector) -> NDArray[np.float64]:
        return np.asarray(self.value(x), dtype=np.float64)

    def _complex_value(self, z: NDArray[np.complexfloating]) -> Any:
        self.counts.values += 1
        return self.given.fun(self.structure.restore(z), *self.given.args)

    def _number(self, value: Any) -> Any:
        if type(value) is float or type(value) is np.float64:
            if not self.batch:
                return value
        elif isinstance(value, np.ndarray | np.generic) and value.dtype.kind == "f":
            if self.batch and value.shape == (self.structure.batch,):
                return value.astype(self.structure.dtype)
            if not self.batch and value.size == 1:
                return float(value.reshape(()))
        elif is_whole(value) and not self.batch:  # as `max(0, 1 - x[0])` returns
            return float(value)
        self._refuse(value)

    def _refuse(self, value: Any) -> None:
        framework = foreign_array(value)
        if framework is not None and (self.given.gradient is None):
            raise UsageError(
                f"fun returned {describe(value)} for a NumPy x0: give x0 as an array of {framework}, whose "
                "automatic differentiation then makes the gradient; or return float(...)"
            )
        expected = f"one float for each of the {self.structure.batch} problems" if self.batch else "one float"
        raise no_scalar(value, expected)

    def _vector(self, made: Any, name: str = "gradient") -> Vector:
        if type(made) is np.ndarray and made.shape == self.x0.shape and self.structure.flat:
            if made.dtype == self.x0.dtype:
                return made.copy()
            if made.dtype.kind == "f":
                return made.astype(self.x0.dtype)
        if made is None:
            raise UsageError(f"{name} returned None: is a return missing?")
        flat = self.structure.flatten(made, name, np.asarray)
        array = np.asarray(flat)
        if array.dtype.kind not in "fi":
            raise UsageError(f"{name} has dtype {array.dtype}: expected {self.structure.dtype}")
        return np.array(array, dtype=self.x0.dtype)


class Residuals(_Function):
    """`downslope.gradients.source.Residuals` of a NumPy function."""

    def __init__(self, given: Given, structure: Structure, x0: Vector, counts: Counts | None = None) -> None:
        super().__init__(given, structure, x0, counts)
        kind = given.gradient if isinstance(given.gradient, str) else "auto"
        if kind == "auto":
            # Near the answer Jᵀr cancels: forward differences then lose most of what they had.
            kind = "central"
        self._complex = ComplexStep(self._complex_value) if kind == "complex" else None
        self._differences = Differences(
            lambda x: self.value(x).astype(np.float64), kind, given.noise, given.bounds
        )
        self._last: tuple[Vector, Any] | None = None
        self._value: tuple[Vector, Vector] | None = None
        self.size: int | None = None

    @property
    def provenance(self) -> Provenance:
        """Where the Jacobian comes from."""
        if callable(self.given.gradient) or self.given.gradient is True:
            return Provenance("the Jacobian given")
        n = self.structure.size
        if self._complex is not None:
            return Provenance("the complex step", n)
        d = self._differences
        noise = None if d.noise is None else float(np.max(d.noise))
        return Provenance(f"{d.now} differences", n if d.now == "forward" else 2 * n, noise, d.error)

    def value(self, x: Vector) -> Vector:
        """r(x)."""
        if self._value is not None and self._value[0] is x:
            return self._value[1]
        self.counts.values += 1
        returned = self._call(self.given.fun, x)
        if self.given.gradient is True:
            returned = pair(returned, "jacobian")[0]
        value = self._vector(returned)
        self._value = x, value
        return value

    def value_and_jacobian(self, x: Vector) -> tuple[Vector, NDArray[np.floating]]:
        """r(x) and J(x)."""
        value, matrix = self._linearized(x)
        if not isinstance(matrix, np.ndarray):
            shape = (*value.shape, self.structure.size)
            _require_jacobian(shape, self.structure.dtype)
            matrix = matrix.toarray() if hasattr(matrix, "toarray") else matrix @ np.eye(shape[-1])
        return value, np.asarray(matrix, dtype=x.dtype)

    def jacobian_vector(self, x: Vector, v: Vector) -> Vector:
        """J(x) v: with the user's Jacobian, or a central difference along v."""
        self.counts.products += 1
        if self._has_matrix():
            matrix = self._linearized(x)[1]
            return np.asarray(matrix @ v if not self.batch else np.einsum("bij,bj->bi", matrix, v), x.dtype)
        size = np.max(np.abs(v), axis=-1, keepdims=True)
        safe = np.where(size > 0, size, 1.0)
        scale = np.maximum(np.max(np.abs(x), axis=-1, keepdims=True), 1e-8)
        h = (float(np.finfo(x.dtype).eps) ** (1 / 3) * scale / safe).astype(x.dtype)
        product = (self.value(x + h * v) - self.value(x - h * v)) / (2 * h)
        return np.where(size > 0, product, 0.0).astype(x.dtype)

    @property
    def differences(self) -> Differences | None:
        """What makes J; None where it is given, or comes of the complex step."""
        given = callable(self.given.gradient) or self.given.gradient is True
        return None if given or self._complex is not None else self._differences

    def transposed_vector(self, x: Vector, u: Vector) -> Vector:
        """J(x)ᵀ u; without automatic differentiation it takes the user's Jacobian or the dense one."""
        self.counts.products += 1
        matrix = self._linearized(x)[1]
        if self.batch:
            return np.asarray(np.einsum("bij,bi->bj", matrix, u), x.dtype)
        return np.asarray(matrix.T @ u, dtype=x.dtype)

    def select(self, lanes: Array) -> Residuals:
        """Return the problems of some lanes."""
        made = Residuals(*self._lane_arguments(lanes), self.counts)
        made._checked, made.size = self._checked, self.size
        made._differences = self._differences.select(lanes, made._numbers)
        return made

    def _numbers(self, x: Vector) -> NDArray[np.float64]:
        return self.value(x).astype(np.float64)

    def _has_matrix(self) -> bool:
        return callable(self.given.gradient) or self.given.gradient is True or self._last is not None

    def _linearized(self, x: Vector) -> tuple[Vector, Any]:
        """Return r(x) and J(x) as the user gave it; that of the last x is kept."""
        if self._last is not None and self._last[0] is x:
            kept: tuple[Vector, Any] = self._last[1]
            return kept
        self.counts.matrices += 1
        self.counts.gradients += 1
        if self.given.gradient is True:
            self.counts.values += 1
            first, second = pair(self._call(self.given.fun, x), "jacobian")
            value, matrix = self._vector(first), self._matrix(second)
        else:
            value = self.value(x)
            matrix = self._jacobian(x, value)
        shape = (*value.shape, self.structure.size)
        if not self.batch and 1 in shape and np.ndim(matrix) < 2 and np.size(matrix) == math.prod(shape):
            matrix = np.reshape(matrix, shape)  # one row or one column, as a vector
        if tuple(matrix.shape) != shape:
            raise UsageError(f"jacobian returned the shape {tuple(matrix.shape)}: expected {shape}")
        self._last = (x, (value, matrix))
        return value, matrix

    def _jacobian(self, x: Vector, value: Vector) -> Any:
        if callable(self.given.gradient):
            return self._matrix(self._call(self.given.gradient, x))
        _require_jacobian((*value.shape, self.structure.size), self.structure.dtype)
        known = np.isfinite(value).all(-1)
        if not known.all():
            return self._differenced_lanes(x, value, np.flatnonzero(known) if self.batch else [])
        if self._complex is not None:
            return self._complex.gradient(x, self._differences, value)
        return self._differences.derivative(x, value)

    def _differenced_lanes(self, x: Vector, value: Vector, known: Any) -> Vector:
        """Return differences of the problems that are known to be finite, NaN of the others."""
        made = np.full((*value.shape, self.structure.size), math.nan, x.dtype)
        if len(known):
            made[known] = self.select(known)._jacobian(x[known], value[known])
        return made

    def _complex_value(self, z: NDArray[np.complexfloating]) -> Any:
        self.counts.values += 1
        returned = self.given.fun(self.structure.restore(z), *self.given.args)
        return self._joined(returned, "fc")

    def _matrix(self, made: Any) -> Any:
        if made is None:
            raise UsageError("jacobian returned None: is a return missing?")
        if hasattr(made, "toarray") or hasattr(made, "matvec"):
            return made
        return np.array(made, dtype=self.x0.dtype)

    def _vector(self, returned: Any) -> Vector:
        vector = self._joined(returned, "fiu")  # [max(0, 1 - x[0])] holds ints
        if self.size is None:
            self.size = vector.shape[-1]
        elif vector.shape[-1] != self.size:
            raise UsageError(
                f"fun returned {vector.shape[-1]} residuals, before {self.size}: expected as many"
            )
        return vector.astype(self.x0.dtype)

    def _joined(self, returned: Any, kinds: str) -> NDArray[Any]:
        expected = "one float array, or a nested dict, list or tuple of them"
        if returned is None:
            raise UsageError(f"fun returned {describe(returned)} Expected {expected}")
        parts = residual_parts(np.asarray(returned) if _plain(returned) else returned)
        rows = []
        for part in parts:
            if foreign_array(part) is not None and self.given.gradient is None:
                raise UsageError(
                    f"fun returned {describe(part)} for a NumPy x0: give x0 as an array of "
                    f"{foreign_array(part)}, whose automatic differentiation then makes the Jacobian"
                )
            row = np.asarray(part)
            if row.dtype.kind not in kinds:
                raise UsageError(f"fun returned {describe(row)}: expected {expected}")
            if self.batch and row.shape[:1] != (self.structure.batch,):
                raise UsageError(
                    f"fun returned the shape {row.shape}: expected the {self.structure.batch} problems "
                    "along the leading axis"
                )
            rows.append(row.reshape(row.shape[0], -1) if self.batch else row.reshape(-1))
        return rows[0] if len(rows) == 1 else np.concatenate(rows, axis=-1)


def _plain(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(v, (int, float, np.number)) for v in value)


def _require_jacobian(shape: tuple[int, ...], dtype: str) -> None:
    require_memory(
        shape, dtype, free_memory(), "a Jacobian",
        "use linear='cg', which needs products only, with PyTorch, JAX or a sparse Jacobian",
    )  # fmt: skip
