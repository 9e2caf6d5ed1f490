"""Muon: momentum, made orthogonal, and scaled so that one learning rate serves every shape."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

from downslope.ops.protocol import Array, Ops
from downslope.rules.checks import require, require_number
from downslope.rules.orthogonalize import coefficients_of, orthogonalize
from downslope.rules.rule import Rule, State

SCALES: Mapping[str, Callable[[int, int], float]] = MappingProxyType(
    {
        "match_rms_adamw": lambda fan_out, fan_in: 0.2 * math.sqrt(max(fan_out, fan_in)),
        "original": lambda fan_out, fan_in: math.sqrt(max(1.0, fan_out / fan_in)),
        "spectral": lambda fan_out, fan_in: math.sqrt(fan_out / fan_in),
    }
)
"""What the orthogonal matrix is multiplied by, of (fan_out, fan_in)."""


class MuonState(NamedTuple):
    """State of `Muon`: the running mean of the gradient."""

    momentum_buffer: Array


@dataclass(frozen=True)
class Muon(Rule):
    r"""Momentum orthogonalised by Newton-Schulz, for matrices (..., fan_out, fan_in).

    .. math::
        m_t = \mu\, m_{t-1} + (1-\mu)\, g_t, \qquad
        u_t = m_t \quad\text{or, with Nesterov,}\quad u_t = (1-\mu)\, g_t + \mu\, m_t, \qquad
        d_t = s\, \mathrm{polar}(u_t)

    The scale :math:`s` is :math:`0.2\sqrt{\max(n_{out}, n_{in})}` ("match_rms_adamw": the step has
    the root mean square of AdamW's, so both can share a learning rate),
    :math:`\sqrt{\max(1, n_{out}/n_{in})}` ("original") or :math:`\sqrt{n_{out}/n_{in}}`
    ("spectral"). A gradient multiplied by a positive number gives the same direction; a zero
    gradient gives a zero one.

    Sources: Jordan et al., 2024 (kellerjordan.github.io/posts/muon); match_rms_adamw: Liu et al.,
    2025, arXiv:2502.16982; spectral: Bernstein & Newhouse, 2024, arXiv:2409.20325.

    Args:
        momentum: :math:`\mu` in [0, 1).
        nesterov: look ahead.
        coefficients: "polar_express" or "keller5", see `orthogonalize`.
        ns_steps: how many Newton-Schulz iterations.
        scale: "match_rms_adamw", "original" or "spectral".
        l2: coefficient of the penalty (l2/2)‖p‖².

    Raises:
        ValueError: a hyper-parameter outside its range.

    >>> import numpy as np
    >>> from downslope.ops import ops_for
    >>> rule, p = Muon(scale="original", ns_steps=9), np.zeros((2, 2))
    >>> x, g = ops_for(p), np.array([[5.0, 0.0], [0.0, 1.0]])
    >>> d, state = rule.direction(x, g, rule.init(x, p), p, 1)
    >>> np.abs(d - np.eye(2)).max() < 1e-9
    np.True_

    """

    momentum: float = 0.95
    nesterov: bool = True
    coefficients: str = "polar_express"
    ns_steps: int = 5
    scale: str = "match_rms_adamw"

    state_type: ClassVar[type] = MuonState
    elementwise: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number("momentum", self.momentum, 0.0, 1.0)
        coefficients_of(self.coefficients, self.ns_steps)
        require("scale", self.scale, self.scale in SCALES, "one of " + ", ".join(SCALES))

    def init(self, x: Ops, p: Array) -> MuonState:
        return MuonState(x.zeros_like(p))

    def direction(self, x: Ops, g: Array, state: State, p: Array, t: Any) -> tuple[Array, MuonState]:
        u, state = self.momentum_of(x, g, state, p)
        return self.matrix_direction(x, u), state

    def momentum_of(self, x: Ops, g: Array, state: State, p: Array) -> tuple[Array, MuonState]:
        """Return what is to be orthogonalised and the next state: the element-wise half."""
        g = self.penalised(g, p)
        mean = x.ema(state.momentum_buffer, g, self.momentum)
        return (x.lerp(g, mean, self.momentum) if self.nesterov else mean), MuonState(mean)

    def matrix_direction(self, x: Ops, u: Array, dtype: Any = None) -> Array:
        """Return the scaled polar factors of a stack (..., fan_out, fan_in): the matrix half.

        `dtype` is what the iterations run in, the stack's own by default.
        """
        polar = orthogonalize(x, u, coefficients=self.coefficients, steps=self.ns_steps, dtype=dtype)
        return self.scale_of(u.shape[-2], u.shape[-1]) * polar

    def scale_of(self, fan_out: int, fan_in: int) -> float:
        """Return what the polar factor of a (fan_out, fan_in) matrix is multiplied by."""
        return float(SCALES[self.scale](fan_out, fan_in))
