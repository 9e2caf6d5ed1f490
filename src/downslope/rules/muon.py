"""Muon: momentum, made orthogonal, and scaled so that one learning rate serves every shape."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

from downslope.ops.protocol import Array, Ops
from downslope.rules.checks import require, require_choice, require_number
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


_EPS = 1e-10
"""Added to the root of a row's mean square: a row that was always zero stays zero."""


class MuonState(NamedTuple):
    """State of `Muon`: the running mean of the gradient; with NorMuon, that of the rows' mean squares.

    `row_square` is None without NorMuon, else of shape (..., fan_out, 1).
    """

    momentum_buffer: Array
    row_square: Array | None = None


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

    *NorMuon* divides each row i of :math:`O = \mathrm{polar}(u_t)`, that is each neuron's part, by the
    root of the running mean of its mean square, and gives the matrix its Frobenius norm back:

    .. math::
        v_i \leftarrow \beta v_i + (1-\beta)\, \mathrm{mean}_j\, O_{ij}^2, \qquad
        \hat O_{ij} = O_{ij} / (\sqrt{v_i} + 10^{-10}), \qquad
        d_t = s\, \frac{\|O\|_F}{\|\hat O\|_F}\, \hat O

    The *momentum warm-up* lets :math:`\mu` grow from `momentum_start` linearly over the first
    `momentum_warmup` steps: :math:`\mu_t = \mu_0 + (\mu - \mu_0) \min(1, (t-1)/n)`.

    Sources: Jordan et al., 2024 (kellerjordan.github.io/posts/muon); match_rms_adamw: Liu et al.,
    2025, arXiv:2502.16982; spectral: Bernstein & Newhouse, 2024, arXiv:2409.20325; NorMuon: Li et al.,
    2025, arXiv:2510.05491; the warm-up is the one of the modded-nanogpt speed runs (Jordan et al., 2024).

    Args:
        momentum: :math:`\mu` in [0, 1).
        nesterov: look ahead.
        coefficients: "minimax", "polar_express" or "keller5", see `orthogonalize`.
        ns_steps: how many Newton-Schulz iterations; None is as many as the set is made for.
        scale: "match_rms_adamw", "original" or "spectral".
        normuon: even out the rows, as above; one more number a row is remembered.
        normuon_beta: :math:`\beta` in [0, 1).
        momentum_warmup: how many steps :math:`\mu` grows for; 0 is none.
        momentum_start: :math:`\mu_0` in [0, 1), where the warm-up begins.
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
    coefficients: str = "minimax"
    ns_steps: int | None = None
    scale: str = "match_rms_adamw"
    normuon: bool = False
    normuon_beta: float = 0.95
    momentum_warmup: int = 0
    momentum_start: float = 0.85

    state_type: ClassVar[type] = MuonState
    elementwise: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number("momentum", self.momentum, 0.0, 1.0)
        coefficients_of(self.coefficients, self.ns_steps)
        require_choice("scale", self.scale, SCALES)
        require("normuon", self.normuon, isinstance(self.normuon, bool), "True or False")
        require_number("normuon_beta", self.normuon_beta, 0.0, 1.0)
        n = self.momentum_warmup
        whole = isinstance(n, int) and not isinstance(n, bool) and n >= 0
        require("momentum_warmup", n, whole, "a whole number of at least 0")
        require_number("momentum_start", self.momentum_start, 0.0, 1.0)

    def init(self, x: Ops, p: Array) -> MuonState:
        return MuonState(x.zeros_like(p), x.zeros_like(p[..., :1]) if self.normuon else None)

    def direction(self, x: Ops, g: Array, state: State, p: Array, t: Any) -> tuple[Array, MuonState]:
        u, state = self.momentum_of(x, g, state, p, t)
        d, row_square = self.matrix_direction(x, u, state.row_square)
        return d, MuonState(state.momentum_buffer, row_square)

    def momentum_of(self, x: Ops, g: Array, state: State, p: Array, t: Any) -> tuple[Array, MuonState]:
        """Return what is to be orthogonalised and the next state: the element-wise half."""
        g, momentum = self.penalised(g, p), self.momentum_at(x, g, t)
        mean = x.ema(state.momentum_buffer, g, momentum)
        return (x.lerp(g, mean, momentum) if self.nesterov else mean), MuonState(mean, state.row_square)

    def momentum_at(self, x: Ops, like: Array, t: Any) -> Any:
        """Return the momentum of step t: a number, or an array of one in the dtype of `like`."""
        if not self.momentum_warmup:
            return self.momentum
        share = x.ramp(like, t, self.momentum_warmup)
        return self.momentum * share + self.momentum_start * (1 - share)

    def matrix_direction(
        self, x: Ops, u: Array, row_square: Array | None = None
    ) -> tuple[Array, Array | None]:
        """Return the direction of a stack (..., fan_out, fan_in), and the next `row_square`."""
        polar = orthogonalize(x, u, coefficients=self.coefficients, steps=self.ns_steps)
        return self.scaled(x, polar, row_square)

    def scaled(
        self, x: Ops, polar: Array, row_square: Array | None = None, turned: bool = False
    ) -> tuple[Array, Array | None]:
        """Return polar factors scaled, and the next `row_square`; each lies transposed if `turned`."""
        if row_square is not None:
            upright, row_square = self.evened(x, x.transpose(polar) if turned else polar, row_square)
            polar = x.transpose(upright) if turned else upright
        fan_out, fan_in = polar.shape[-2:][:: -1 if turned else 1]
        return self.scale_of(fan_out, fan_in) * polar, row_square

    def evened(self, x: Ops, polar: Array, row_square: Array) -> tuple[Array, Array]:
        """Return polar factors with NorMuon's even rows, and the next `row_square`."""
        rms = x.row_rms(polar)
        row_square = x.ema(row_square, x.square(rms), self.normuon_beta)
        factor = 1 / (x.sqrt(row_square) + _EPS)
        before, after = x.norm(rms), x.norm(rms * factor)  # of the matrices, but for the same √fan_in
        return polar * (factor * (before / x.where(after > 0, after, x.full_like(after, 1.0)))), row_square

    def scale_of(self, fan_out: int, fan_in: int) -> float:
        """Return what the polar factor of a (fan_out, fan_in) matrix is multiplied by."""
        return float(SCALES[self.scale](fan_out, fan_in))
