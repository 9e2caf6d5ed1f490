"""What a rule is: a pure function from (gradient, state, parameter) to (direction, state).

A rule is a frozen dataclass of hyper-parameters with two methods. `init` makes the state of one
parameter, a NamedTuple of arrays. `direction` takes one step of that state and says which way is
*up*: the parameter then moves against it. Neither method writes to the gradient or to the
parameter, and neither knows a framework: all it does to an array goes through arithmetic
operators, `@`, and the few operations of `Ops`. The same lines therefore run on NumPy (in
float64: the oracle of the tests), PyTorch, JAX and TensorFlow.

Learning rate and decoupled weight decay are no rule's business. They enter in one line of the
whole library, in `descent`:

    step = -lr (direction + weight_decay · parameter)
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, NamedTuple, TypeAlias

from downslope.ops.protocol import Array, Ops
from downslope.rules import loop
from downslope.rules.checks import require_number

State: TypeAlias = Any
"""A NamedTuple of arrays, one type a rule; a part that an option leaves out is None."""


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
