"""AdaGrad: each coordinate divided by the root of all its squared gradients so far."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from downslope.ops.protocol import Array, Ops
from downslope.rules.checks import require_number
from downslope.rules.rule import Rule, State


class AdaGradState(NamedTuple):
    """State of `AdaGrad`: the sum of squared gradients."""

    sum: Array


@dataclass(frozen=True)
class AdaGrad(Rule):
    r"""AdaGrad, in its diagonal form.

    .. math::
        s_t = s_{t-1} + g_t^2, \qquad d_t = \frac{g_t}{\sqrt{s_t} + \epsilon}

    Source: Duchi, Hazan & Singer, 2011 (JMLR 12).

    Args:
        eps: :math:`\epsilon`, added outside the root.
        initial_accumulator_value: :math:`s_0`.
        l2: coefficient of the penalty (l2/2)‖p‖².

    Raises:
        ValueError: a hyper-parameter outside its range.

    >>> import numpy as np
    >>> from downslope.ops import ops_for
    >>> rule, p, g = AdaGrad(eps=0.0), np.array([1.0]), np.array([3.0])
    >>> x = ops_for(p)
    >>> d, state = rule.direction(x, g, rule.init(x, p), p, 1)
    >>> d, state.sum
    (array([1.]), array([9.]))

    """

    eps: float = 1e-10
    initial_accumulator_value: float = 0.0

    state_type: ClassVar[type] = AdaGradState

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number("eps", self.eps, 0.0)
        require_number("initial_accumulator_value", self.initial_accumulator_value, 0.0)

    def init(self, x: Ops, p: Array) -> AdaGradState:
        return AdaGradState(x.full_like(p, self.initial_accumulator_value))

    def direction(self, x: Ops, g: Array, state: State, p: Array, t: Any) -> tuple[Array, AdaGradState]:
        g = self.penalised(g, p)
        total = x.accumulate(state.sum, x.square(g), 1.0)
        return g / (x.sqrt(total) + self.eps), AdaGradState(total)
