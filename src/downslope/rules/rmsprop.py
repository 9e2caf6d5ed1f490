"""RMSProp: each coordinate divided by a running root mean square of its gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from downslope.ops.protocol import Array, Ops
from downslope.rules.checks import require_number
from downslope.rules.rule import Rule, State


class RMSPropState(NamedTuple):
    """State of `RMSProp`; `grad_avg` is None unless centred, `momentum_buffer` without momentum."""

    square_avg: Array
    grad_avg: Array | None
    momentum_buffer: Array | None


@dataclass(frozen=True)
class RMSProp(Rule):
    r"""RMSProp, optionally centred and with momentum.

    .. math::
        v_t = \alpha v_{t-1} + (1-\alpha) g_t^2, \qquad
        u_t = \frac{g_t}{\sqrt{v_t} + \epsilon}, \qquad
        d_t = u_t \quad\text{or}\quad d_t = b_t = \mu\, b_{t-1} + u_t

    Centred, :math:`v_t` is replaced under the root by the variance
    :math:`\max(v_t - m_t^2, 0)` with :math:`m_t = \alpha m_{t-1} + (1-\alpha) g_t`; the maximum
    guards against rounding, which makes NaN of a constant gradient elsewhere. PyTorch adds
    :math:`\epsilon` outside the root, Keras and TensorFlow inside: `eps_inside_root` chooses.

    Sources: Tieleman & Hinton, 2012 (lecture 6.5); centred: Graves, 2013, arXiv:1308.0850.

    Args:
        alpha: decay of the averages, in [0, 1).
        eps: :math:`\epsilon`.
        momentum: :math:`\mu` in [0, 1).
        centered: divide by the standard deviation instead of the root mean square.
        eps_inside_root: :math:`\sqrt{v_t + \epsilon}` instead of :math:`\sqrt{v_t} + \epsilon`.
        l2: coefficient of the penalty (l2/2)‖p‖².

    Raises:
        ValueError: a hyper-parameter outside its range.

    >>> import numpy as np
    >>> from downslope.ops import ops_for
    >>> rule, p, g = RMSProp(alpha=0.75, eps=0.0), np.array([1.0]), np.array([3.0])
    >>> x = ops_for(p)
    >>> d, state = rule.direction(x, g, rule.init(x, p), p, 1)
    >>> d, state.square_avg
    (array([2.]), array([2.25]))

    """

    alpha: float = 0.99
    eps: float = 1e-8
    momentum: float = 0.0
    centered: bool = False
    eps_inside_root: bool = False

    state_type: ClassVar[type] = RMSPropState

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number("alpha", self.alpha, 0.0, 1.0)
        require_number("eps", self.eps, 0.0)
        require_number("momentum", self.momentum, 0.0, 1.0)

    def init(self, x: Ops, p: Array) -> RMSPropState:
        return RMSPropState(
            x.zeros_like(p),
            x.zeros_like(p) if self.centered else None,
            x.zeros_like(p) if self.momentum else None,
        )

    def direction(self, x: Ops, g: Array, state: State, p: Array, t: Any) -> tuple[Array, RMSPropState]:
        g = self.penalised(g, p)
        square = x.ema(state.square_avg, x.square(g), self.alpha)
        mean = x.ema(state.grad_avg, g, self.alpha) if self.centered else None
        variance = x.maximum(square - x.square(mean), 0.0) if self.centered else square
        root = x.sqrt(variance + self.eps) if self.eps_inside_root else x.sqrt(variance) + self.eps
        d = g / root
        buffer = x.accumulate(state.momentum_buffer, d, self.momentum) if self.momentum else None
        return (d if buffer is None else buffer), RMSPropState(square, mean, buffer)
