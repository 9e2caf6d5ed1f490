"""Adam: momentum divided by a running root mean square, both corrected for their start at zero.

AdamW is this rule with decoupled weight decay, which is not the rule's business but `step`'s.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from downslope.ops.protocol import Array, Ops
from downslope.rules.checks import require_betas, require_number
from downslope.rules.rule import Rule, State


class AdamState(NamedTuple):
    """State of `Adam`; `max_exp_avg_sq` is None without AMSGrad."""

    exp_avg: Array
    exp_avg_sq: Array
    max_exp_avg_sq: Array | None


@dataclass(frozen=True)
class Adam(Rule):
    r"""Adam; with `amsgrad`, the denominator never shrinks.

    .. math::
        m_t = \beta_1 m_{t-1} + (1-\beta_1) g_t, \qquad
        v_t = \beta_2 v_{t-1} + (1-\beta_2) g_t^2, \qquad
        d_t = \frac{m_t / (1-\beta_1^t)}{\sqrt{v_t / (1-\beta_2^t)} + \epsilon}

    AMSGrad puts :math:`\max_{s \le t} v_s` in the place of :math:`v_t`, before the correction, as
    PyTorch does (the paper has no correction).

    Sources: Kingma & Ba, 2015, arXiv:1412.6980; AMSGrad: Reddi, Kale & Kumar, 2018,
    arXiv:1904.09237; decoupled decay: Loshchilov & Hutter, 2019, arXiv:1711.05101.

    Args:
        betas: :math:`(\beta_1, \beta_2)`, each in [0, 1).
        eps: :math:`\epsilon`, added outside the root.
        amsgrad: keep the running maximum of :math:`v_t`.
        bias_correction: divide by :math:`1-\beta^t`; without it and with :math:`\beta_1 = 0`
            this is RMSProp.
        l2: coefficient of the penalty (l2/2)‖p‖².

    Raises:
        ValueError: a hyper-parameter outside its range.

    >>> import numpy as np
    >>> from downslope.ops import ops_for
    >>> rule, p, g = Adam(eps=0.0), np.array([1.0]), np.array([-7.0])
    >>> x = ops_for(p)
    >>> d, state = rule.direction(x, g, rule.init(x, p), p, 1)
    >>> d.round(12)
    array([-1.])

    """

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    amsgrad: bool = False
    bias_correction: bool = True

    state_type: ClassVar[type] = AdamState

    def __post_init__(self) -> None:
        super().__post_init__()
        require_betas("betas", self.betas, 2)
        require_number("eps", self.eps, 0.0)

    def init(self, x: Ops, p: Array) -> AdamState:
        return AdamState(x.zeros_like(p), x.zeros_like(p), x.zeros_like(p) if self.amsgrad else None)

    def direction(self, x: Ops, g: Array, state: State, p: Array, t: Any) -> tuple[Array, AdamState]:
        g = self.penalised(g, p)
        beta1, beta2 = self.betas
        mean = x.ema(state.exp_avg, g, beta1)
        square = x.ema(state.exp_avg_sq, x.square(g), beta2)
        largest = x.maximum(state.max_exp_avg_sq, square) if self.amsgrad else None
        scale = square if largest is None else largest
        if self.bias_correction:
            d = x.debias(mean, beta1, t) / (x.sqrt(x.debias(scale, beta2, t)) + self.eps)
        else:
            d = mean / (x.sqrt(scale) + self.eps)
        return d, AdamState(mean, square, largest)
