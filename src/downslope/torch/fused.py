"""PyTorch's fused kernels, where they are the same rule.

Each entry says for which hyper-parameters a kernel computes what the rule computes; a parity test
holds the two together. Everything else runs in blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from downslope.rules.adagrad import AdaGrad
from downslope.rules.adam import Adam
from downslope.rules.rule import Rule, State
from downslope.rules.sgd import SGD

_DEVICES = ("cpu", "cuda")

Launch = Callable[[list[Tensor], list[Tensor], list[State], float, float], None]


def kernel_for(rule: Rule, weight_decay: float, cautious: bool) -> Launch | None:
    """Return a call (params, grads, states, t, lr) of the fused kernel that is this rule, or None."""
    if weight_decay and (cautious or rule.l2):
        return None
    if isinstance(rule, Adam) and rule.bias_correction:
        return _adam(rule, weight_decay)
    if weight_decay:
        return None
    if isinstance(rule, SGD):
        return _sgd(rule)
    if isinstance(rule, AdaGrad):
        return _adagrad(rule)
    return None


def fits(row: Sequence[Tensor]) -> bool:
    """Whether a fused kernel may take a row (parameter, gradient, *state): plain, dense, of one dtype."""
    first = row[0]
    return first.device.type in _DEVICES and all(
        t.dtype == first.dtype and t.device == first.device and t.is_contiguous() and type(t.data) is Tensor
        for t in row
    )


def _steps(params: list[Tensor], t: float) -> list[Tensor]:
    return [torch.tensor(t, dtype=torch.float32, device=params[0].device)] * len(params)


def _adam(rule: Adam, weight_decay: float) -> Launch:
    kernel: Any = torch._fused_adamw_ if weight_decay else torch._fused_adam_

    def launch(params: list[Tensor], grads: list[Tensor], states: list[State], t: float, lr: float) -> None:
        kernel(
            params,
            grads,
            [s.exp_avg for s in states],
            [s.exp_avg_sq for s in states],
            [s.max_exp_avg_sq for s in states] if rule.amsgrad else [],
            _steps(params, t),
            lr=lr,
            beta1=rule.betas[0],
            beta2=rule.betas[1],
            weight_decay=weight_decay or rule.l2,
            eps=rule.eps,
            amsgrad=rule.amsgrad,
            maximize=False,
        )

    return launch


def _sgd(rule: SGD) -> Launch:
    def launch(params: list[Tensor], grads: list[Tensor], states: list[State], t: float, lr: float) -> None:
        torch._fused_sgd_(
            params,
            grads,
            [s.momentum_buffer for s in states] if rule.momentum else [],
            weight_decay=rule.l2,
            momentum=rule.momentum,
            lr=lr,
            dampening=0.0,
            nesterov=rule.nesterov,
            maximize=False,
            is_first_step=False,
        )

    return launch


def _adagrad(rule: AdaGrad) -> Launch:
    def launch(params: list[Tensor], grads: list[Tensor], states: list[State], t: float, lr: float) -> None:
        torch._fused_adagrad_(
            params,
            grads,
            [s.sum for s in states],
            _steps(params, t),
            lr=lr,
            lr_decay=0.0,
            weight_decay=rule.l2,
            eps=rule.eps,
            maximize=False,
        )

    return launch
