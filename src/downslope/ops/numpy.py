"""The operations on NumPy arrays: the reference that every other framework is held against."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from downslope.ops.protocol import Array, bias_correction, combine, ramp, unit


class NumpyOps:
    """`Ops` on `numpy.ndarray`; every operation is pure."""

    def zeros_like(self, a: Array) -> Array:
        return np.zeros_like(a)

    def full_like(self, a: Array, value: float) -> Array:
        return np.full_like(a, value)

    def sqrt(self, a: Array) -> Array:
        return np.sqrt(a)

    def square(self, a: Array) -> Array:
        return np.square(a)

    def maximum(self, a: Array, b: Array | float) -> Array:
        return np.maximum(a, b)

    def where(self, condition: Array, a: Array | float, b: Array | float) -> Array:
        return np.where(condition, a, b)

    def ema(self, slot: Array, value: Array, beta: float) -> Array:
        return beta * slot + (1 - beta) * value

    def accumulate(self, slot: Array, value: Array, decay: float) -> Array:
        return decay * slot + value

    def lerp(self, a: Array, b: Array, weight: float) -> Array:
        return a + weight * (b - a)

    def debias(self, a: Array, beta: float, t: Any) -> Array:
        return a / bias_correction(beta, t)

    def ramp(self, like: Array, t: Any, steps: int) -> Any:
        return ramp(t, steps)

    def row_rms(self, a: Array) -> Array:
        return self.norm(a[..., None, :])[..., 0] / math.sqrt(max(1, a.shape[-1]))

    def norm(self, a: Array) -> Array:
        if a.size == 0:
            return np.zeros((*a.shape[:-2], 1, 1), a.dtype)
        largest = np.max(np.abs(a), axis=(-2, -1), keepdims=True)
        safe = np.where(largest > 0, largest, np.ones_like(largest))
        return largest * np.sqrt(np.sum(np.square(a / safe), axis=(-2, -1), keepdims=True))

    def transpose(self, a: Array) -> Array:
        return np.swapaxes(a, -2, -1)

    def gram(self, a: Array) -> Array:
        return a @ np.swapaxes(a, -2, -1)

    def mm(self, a: Array, b: Array) -> Array:
        return a @ b

    def addmm(self, c: Array, a: Array, b: Array, beta: float, alpha: float) -> Array:
        return beta * c + alpha * (a @ b)

    def mm_symmetric(self, a: Array, b: Array) -> Array:
        return a @ b

    def congruent(self, r: Array, z: Array) -> Array:
        return self.mm(self.mm(r, z), z)

    def addmm_symmetric(self, c: Array, a: Array, b: Array, beta: float, alpha: float) -> Array:
        return self.addmm(c, a, b, beta, alpha)

    def unit(self, r: Array) -> tuple[Array, Array]:
        return unit(self, r)

    def combine(self, *terms: tuple[float, Array]) -> Array:
        return combine(*terms)

    def add_identity(self, a: Array, value: float) -> Array:
        return a + value * np.eye(a.shape[-1], dtype=a.dtype)

    def permute(self, a: Array, axes: tuple[int, ...]) -> Array:
        return np.transpose(a, axes)

    def reshape(self, a: Array, shape: tuple[int, ...]) -> Array:
        return np.reshape(a, shape)

    def concat(self, parts: list[Array], axis: int) -> Array:
        return np.concatenate(parts, axis=axis)

    def astype(self, a: Array, dtype: Any) -> Array:
        return np.asarray(a).astype(dtype, copy=False)
