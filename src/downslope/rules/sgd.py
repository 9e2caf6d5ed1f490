"""Gradient descent, with momentum and Nesterov's look-ahead.

Full-batch, mini-batch and stochastic gradient descent are this one rule: they differ in which
gradient they are given.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from downslope.ops.protocol import Array, Ops
from downslope.rules.checks import require, require_number
from downslope.rules.rule import Rule, State


class SGDState(NamedTuple):
    """State of `SGD`: the momentum buffer, or None without momentum."""

    momentum_buffer: Array | None


@dataclass(frozen=True)
class SGD(Rule):
    r"""Gradient descent, optionally with momentum.

    .. math::
        b_t = \mu\, b_{t-1} + g_t, \qquad
        d_t = b_t \quad\text{or, with Nesterov,}\quad d_t = g_t + \mu\, b_t

    with :math:`b_0 = 0`; without momentum :math:`d_t = g_t`.

    Sources: Polyak, 1964 (momentum); Nesterov, 1983; the form of Nesterov's method is the one of
    Sutskever et al., 2013, with the look-ahead moved into the direction, as in PyTorch and optax.

    Args:
        momentum: :math:`\mu` in [0, 1).
        nesterov: look ahead; needs momentum > 0.
        l2: coefficient of the penalty (l2/2)‖p‖².

    Raises:
        ValueError: a hyper-parameter outside its range; Nesterov without momentum.

    >>> import numpy as np
    >>> from downslope.ops import ops_for
    >>> rule, p, g = SGD(momentum=0.9), np.array([1.0]), np.array([0.5])
    >>> x = ops_for(p)
    >>> d, state = rule.direction(x, g, rule.init(x, p), p, 1)
    >>> d, state = rule.direction(x, g, state, p, 2)
    >>> d
    array([0.95])

    """

    momentum: float = 0.0
    nesterov: bool = False

    state_type: ClassVar[type] = SGDState

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number("momentum", self.momentum, 0.0, 1.0)
        require(
            "nesterov", self.nesterov, not self.nesterov or self.momentum > 0, "momentum > 0 with Nesterov"
        )

    def init(self, x: Ops, p: Array) -> SGDState:
        return SGDState(x.zeros_like(p) if self.momentum else None)

    def direction(self, x: Ops, g: Array, state: State, p: Array, t: Any) -> tuple[Array, SGDState]:
        g = self.penalised(g, p)
        if not self.momentum:
            return g, SGDState(None)
        buffer = x.accumulate(state.momentum_buffer, g, self.momentum)
        return (g + self.momentum * buffer if self.nesterov else buffer), SGDState(buffer)
