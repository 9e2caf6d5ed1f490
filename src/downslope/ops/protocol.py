"""What the operations on an array are, whichever framework it comes from."""

from __future__ import annotations

import math
from typing import Any, Protocol, TypeAlias

Array: TypeAlias = Any
"""An array of whichever framework the user came with."""


class Ops(Protocol):
    """The operations a rule may use on an array, beside arithmetic and `@`.

    Every operation is pure but three: `ema` and `accumulate` may consume (reuse, write over) their
    slot, and `add_identity` its matrices, so a rule must not read the old ones again.
    """

    def zeros_like(self, a: Array) -> Array:
        """Zeros of the shape, dtype and device of `a`."""

    def full_like(self, a: Array, value: float) -> Array:
        """`value` everywhere, in the shape, dtype and device of `a`."""

    def sqrt(self, a: Array) -> Array:
        """Element-wise square root."""

    def square(self, a: Array) -> Array:
        """Element-wise square."""

    def maximum(self, a: Array, b: Array | float) -> Array:
        """Element-wise maximum."""

    def where(self, condition: Array, a: Array | float, b: Array | float) -> Array:
        """Element-wise choice: `a` where the condition holds, else `b`."""

    def ema(self, slot: Array, value: Array, beta: float) -> Array:
        """`beta · slot + (1 - beta) · value`; may consume `slot`. `beta` may be an array of one number."""

    def accumulate(self, slot: Array, value: Array, decay: float) -> Array:
        """`decay · slot + value`; may consume `slot`."""

    def lerp(self, a: Array, b: Array, weight: float) -> Array:
        """`a + weight · (b - a)`, pure."""

    def debias(self, a: Array, beta: float, t: Any) -> Array:
        """`a / (1 - beta**t)`: undoes the pull towards zero of an average that started there."""

    def ramp(self, like: Array, t: Any, steps: int) -> Any:
        """`min(1, (t - 1) / steps)`: 0 at the first step, a number that `like` can be multiplied by."""

    def row_rms(self, a: Array) -> Array:
        """Root mean square along the last axis, kept; neither over- nor underflows on the way."""

    def norm(self, a: Array) -> Array:
        """Frobenius norm over the last two axes, kept; neither over- nor underflows on the way."""

    def transpose(self, a: Array) -> Array:
        """The last two axes exchanged."""

    def gram(self, a: Array) -> Array:
        """`a @ aᵀ`; symmetric, so half of it may be a mirror image of the other."""

    def mm(self, a: Array, b: Array) -> Array:
        """`a @ b`."""

    def addmm(self, c: Array, a: Array, b: Array, beta: float, alpha: float) -> Array:
        """`beta · c + alpha · (a @ b)`."""

    def mm_symmetric(self, a: Array, b: Array) -> Array:
        """`a @ b` where of these very numbers it is symmetric but for rounding: half may be mirrored."""

    def congruent(self, r: Array, z: Array) -> Array:
        """`z @ r @ z`, all symmetric, which commute but for rounding: half of the result may be mirrored."""

    def addmm_symmetric(self, c: Array, a: Array, b: Array, beta: float, alpha: float) -> Array:
        """`beta · c + alpha · (a @ b)`, where both are symmetric in that sense."""

    def unit(self, r: Array) -> tuple[Array, Array]:
        """A Gram matrix divided by its norm, zero left as it is, and what its factor is multiplied by."""

    def combine(self, *terms: tuple[float, Array]) -> Array:
        """The sum of number · array, of two or more."""

    def add_identity(self, a: Array, value: float) -> Array:
        """`a` + value · I, of square matrices; may consume `a`."""

    def permute(self, a: Array, axes: tuple[int, ...]) -> Array:
        """Axes in the given order."""

    def reshape(self, a: Array, shape: tuple[int, ...]) -> Array:
        """The same elements in row-major order in another shape."""

    def concat(self, parts: list[Array], axis: int) -> Array:
        """Arrays joined along an axis."""

    def astype(self, a: Array, dtype: Any) -> Array:
        """The same values in another dtype."""


def combine(*terms: tuple[float, Array]) -> Array:
    """Return the sum of number · array."""
    total = None
    for number, array in terms:
        term = array if number == 1 else number * array
        total = term if total is None else total + term
    return total


def unit(x: Ops, r: Array) -> tuple[Array, Array]:
    """Return r / ‖r‖ and 1 / √‖r‖, with 1 for the norm of zero."""
    size = x.norm(r)
    scale = 1 / x.sqrt(x.where(size > 0, size, x.full_like(size, 1.0)))
    return r * (scale * scale), scale


def ramp(t: int, steps: int) -> float:
    """Return min(1, (t - 1) / steps)."""
    return min(1.0, (t - 1) / steps)


def bias_correction(beta: float, t: int) -> float:
    """Return 1 - beta**t without cancellation (1.3e-5 off at t = 1 in float32 if written plainly)."""
    return 1.0 if beta == 0 else -math.expm1(t * math.log(beta))
