"""What a rule is: a pure function from (gradient, state, parameter) to (direction, state).

A rule is a frozen dataclass of hyper-parameters with two methods. `init` makes the state of one
parameter, a NamedTuple of arrays. `direction` takes one step of that state and says which way is
*up*: the parameter then moves against it. Neither method writes to the gradient or to the
parameter, and neither knows a framework: all it does to an array goes through arithmetic
operators, `@`, and the few operations of `Ops`. The same lines therefore run on NumPy (in
float64: the oracle of the tests), PyTorch, JAX and TensorFlow.

Learning rate and decoupled weight decay are no rule's business. They enter in one line of the
whole library, in `step` below:

    step = -lr (direction + weight_decay · parameter)
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, NamedTuple, Protocol, TypeAlias

Array: TypeAlias = Any
"""An array of whichever framework the user came with."""

State: TypeAlias = Any
"""A NamedTuple of arrays, one type a rule; a part that an option leaves out is None."""


class Ops(Protocol):
    """The operations a rule may use on an array, beside arithmetic and `@`.

    Every operation is pure but two: `ema` and `accumulate` may consume (reuse, write over) their
    slot, so a rule must not read the old slot again.
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
        """`beta · slot + (1 - beta) · value`; may consume `slot`."""

    def accumulate(self, slot: Array, value: Array, decay: float) -> Array:
        """`decay · slot + value`; may consume `slot`."""

    def lerp(self, a: Array, b: Array, weight: float) -> Array:
        """`a + weight · (b - a)`, pure."""

    def debias(self, a: Array, beta: float, t: Any) -> Array:
        """`a / (1 - beta**t)`: undoes the pull towards zero of an average that started there."""

    def norm(self, a: Array) -> Array:
        """Frobenius norm over the last two axes, kept; neither over- nor underflows on the way."""

    def transpose(self, a: Array) -> Array:
        """The last two axes exchanged."""

    def gram(self, a: Array) -> Array:
        """`a @ aᵀ`; symmetric, so half of it may be a mirror image of the other."""

    def addmm(self, c: Array, a: Array, b: Array, beta: float, alpha: float) -> Array:
        """`beta · c + alpha · (a @ b)`."""

    def addmm_symmetric(self, c: Array, a: Array, b: Array, beta: float, alpha: float) -> Array:
        """`addmm` where c and a @ b are known to be symmetric: half may be mirrored."""

    def permute(self, a: Array, axes: tuple[int, ...]) -> Array:
        """Axes in the given order."""

    def reshape(self, a: Array, shape: tuple[int, ...]) -> Array:
        """The same elements in row-major order in another shape."""

    def concat(self, parts: list[Array], axis: int) -> Array:
        """Arrays joined along an axis."""

    def astype(self, a: Array, dtype: Any) -> Array:
        """The same values in another dtype."""


class NoState(NamedTuple):
    """The state of a rule that remembers nothing."""


@dataclass(frozen=True)
class Rule:
    """A rule's hyper-parameters, checked on construction, and its two methods.

    Attributes:
        l2: coefficient of the penalty (l2/2)‖p‖², whose gradient joins the gradient ("coupled"
            weight decay). Decoupled weight decay is not here but in `step`.

    """

    state_type: ClassVar[type] = NoState
    """The NamedTuple that `init` returns."""

    elementwise: ClassVar[bool] = True
    """Whether each element's direction depends on that element alone; otherwise the rule takes
    matrices of shape (..., fan_out, fan_in)."""

    l2: float = field(default=0.0, kw_only=True)

    def __post_init__(self) -> None:
        require_number("l2", self.l2, 0.0)

    def init(self, x: Ops, p: Array) -> State:
        """Return the state before the first step of parameter `p`."""
        raise NotImplementedError

    def direction(self, x: Ops, g: Array, state: State, p: Array, t: Any) -> tuple[Array, State]:
        """Return the direction of ascent and the next state; `t` counts steps from 1."""
        raise NotImplementedError

    def start(self, params: Any) -> Any:
        """Return the state of a loop before its first step, see `step`.

        Raises:
            TypeError: a parameter that is no array of a real floating dtype.
            ValueError: a parameter that is no matrix, where the rule needs one.

        """
        from downslope.rules import loop  # it needs `ops`, which needs this module

        return loop.start(self, params)

    def step(
        self,
        params: Any,
        gradients: Any,
        state: Any,
        *,
        lr: Any,
        weight_decay: float = 0.0,
        cautious: bool = False,
    ) -> tuple[Any, Any]:
        """Return parameters and state after one step; nothing is written to the parameters or gradients.

        Args:
            params: an array, or a nested dict, list or tuple of arrays of one framework.
            gradients: the same of gradients.
            state: what `start`, or the step before, returned; it may be consumed.
            lr: learning rate, at least 0.
            weight_decay: decoupled, at least 0.
            cautious: decay only where it agrees with the step in sign.

        Raises:
            TypeError: a state of another rule; a parameter that is no floating array.
            ValueError: gradients whose parts or shapes are not the parameters'; a value out of range.

        >>> import numpy as np
        >>> from downslope import SGD
        >>> rule, params = SGD(), {"w": np.array([2.0])}
        >>> state = rule.start(params)
        >>> for _ in range(3):
        ...     gradients = {"w": 2 * params["w"]}  # of w²
        ...     params, state = rule.step(params, gradients, state, lr=0.25)
        >>> params
        {'w': array([0.25])}

        """
        from downslope.rules import loop

        return loop.advance(
            self, params, gradients, state, lr=lr, weight_decay=weight_decay, cautious=cautious
        )

    def penalised(self, g: Array, p: Array) -> Array:
        """Return the gradient of the loss plus (l2/2)‖p‖²."""
        return g + self.l2 * p if self.l2 else g

    @classmethod
    def hyperparameters(cls) -> tuple[str, ...]:
        """Return the names of this rule's hyper-parameters."""
        return tuple(f.name for f in fields(cls))


def step(
    x: Ops, p: Array, direction: Array, *, lr: Any, weight_decay: float = 0.0, cautious: bool = False
) -> Array:
    """Return what to add to a parameter: -lr (direction + weight_decay · p).

    This is the only line of the library that knows the learning rate and decoupled weight decay
    (Loshchilov & Hutter, 2019, arXiv:1711.05101). With `cautious`, decay acts only where it pulls
    the same way as the direction, that is where direction · p >= 0 (Chen et al., 2025,
    arXiv:2510.12402).
    """
    if weight_decay:
        decay = weight_decay * p
        if cautious:
            decay = x.where(direction * p >= 0, decay, x.zeros_like(decay))
        direction = direction + decay
    return -lr * direction


def bias_correction(beta: float, t: int) -> float:
    """Return 1 - beta**t without cancellation (1.3e-5 off at t = 1 in float32 if written plainly)."""
    return 1.0 if beta == 0 else -math.expm1(t * math.log(beta))


def require(name: str, value: Any, ok: bool, expected: str) -> None:
    """Raise ValueError naming the hyper-parameter, its value and what was expected, unless `ok`."""
    if not ok:
        raise ValueError(f"{name} = {value!r}: expected {expected}")


def require_number(
    name: str, value: Any, low: float, high: float = math.inf, *, open_high: bool = True
) -> None:
    """Raise unless `value` is a finite real number in [low, high), or [low, high] if not `open_high`."""
    closing = ")" if open_high else "]"
    expected = f"a number in [{low:g}, {high:g}{closing}"
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    inside = low <= number < high if open_high else low <= number <= high
    require(name, value, inside, expected)


def require_betas(name: str, value: Any, count: int) -> None:
    """Raise unless `value` is a sequence of `count` numbers in [0, 1)."""
    ok = isinstance(value, (tuple, list)) and len(value) == count
    require(name, value, ok, f"{count} numbers in [0, 1)")
    for i, beta in enumerate(value):
        require_number(f"{name}[{i}]", beta, 0.0, 1.0)
