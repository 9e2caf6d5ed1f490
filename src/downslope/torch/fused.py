"""PyTorch's fused kernels, where they are the same rule.

Each entry says for which hyper-parameters a kernel computes what the rule computes; a parity test
holds the two together. Everything else runs in blocks. Who calls a kernel tells autograd what it has written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from downslope.rules.adagrad import AdaGrad
from downslope.rules.adam import Adam
from downslope.rules.rmsprop import RMSProp
from downslope.rules.rule import Rule
from downslope.rules.sgd import SGD
from downslope.torch.kernel import HALF
from downslope.torch.native.memory import are_plain, in_order

Column = list[Tensor]
Launch = Callable[[Column, Column, list[Column], Any, Any, Tensor | None], None]
"""A call (params, grads, state columns, t, lr, bad): t and lr are numbers, or tensors of one on the
device; where the float `bad` is 1, nothing changes."""

_FOREVER = 1e9
"""A step count at which beta**t is 0 for every beta that differs from 1 by more than 1e-6, and the
bias correction of Adam's kernel is exactly 1."""

_SCRATCH = 1 << 18
"""Elements of the scratch space that stands in for a momentum nobody reads: it stays in the cache."""


def kernel_for(rule: Rule, weight_decay: float, cautious: bool) -> Launch | None:
    """Return a call of the kernel that is this rule, or None."""
    if weight_decay and (cautious or rule.l2):
        return None
    if isinstance(rule, Adam):
        return _adam(rule, weight_decay)
    if weight_decay:
        return None
    if isinstance(rule, SGD):
        return _sgd(rule)
    if isinstance(rule, AdaGrad):
        return _adagrad(rule)
    if isinstance(rule, RMSProp) and not (rule.momentum or rule.centered or rule.eps_inside_root):
        return _rmsprop(rule)
    return None


def suits(p: Tensor) -> bool:
    """Whether fused kernels are for the device and dtype of a parameter: states are not widened there."""
    return p.device.type in ("cpu", "cuda") and p.dtype not in HALF


def fits(params: Column, grads: Column | None = None, columns: Sequence[Column] = ()) -> bool:
    """Whether a fused kernel may take these: plain tensors, dense and in order.

    The parameters are of one dtype and device. Without gradients, whether it may take the parameters.
    """
    first, grads = params[0], params if grads is None else grads
    return (
        suits(first)
        and all(map(are_plain, (params, grads, *columns)))
        and all(g.dtype == first.dtype for g in grads)
        and all(map(in_order, (params, grads, *columns)))
    )


def descend(params: Column, directions: Column, *, lr: float, weight_decay: float) -> None:
    """Step parameters in one pass, `p -= lr (d + weight_decay p)`: descent of a gradient with a penalty."""
    _sgd(SGD(l2=weight_decay))(params, directions, [], None, lr, None)
    increment_version(params)


def _adam(rule: Adam, weight_decay: float) -> Launch | None:
    if not rule.bias_correction and max(rule.betas) > 1 - 1e-6:
        return None

    def launch(
        params: Column, grads: Column, columns: list[Column], t: Any, lr: Any, bad: Tensor | None
    ) -> None:
        largest = columns[2] if rule.amsgrad else []
        steps = _steps(params, t if rule.bias_correction else _FOREVER)
        kernel = torch._fused_adamw_ if weight_decay else torch._fused_adam_
        kernel(
            params,
            grads,
            columns[0],
            columns[1],
            largest,
            steps,
            lr=lr,
            beta1=rule.betas[0],
            beta2=rule.betas[1],
            weight_decay=weight_decay or rule.l2,
            eps=rule.eps,
            amsgrad=rule.amsgrad,
            maximize=False,
            found_inf=bad,
        )

    return launch


def _rmsprop(rule: RMSProp) -> Launch | None:
    """RMSProp is Adam without momentum and without correction; its kernel wants a momentum to write to."""
    if rule.alpha > 1 - 1e-6:
        return None

    def launch(
        params: Column, grads: Column, columns: list[Column], t: Any, lr: Any, bad: Tensor | None
    ) -> None:
        square = columns[0]
        if params[0].device.type == "cpu":
            room = params[0].new_zeros(min(_SCRATCH, max(p.numel() for p in params)))
            params, grads, square = (_pieces(column) for column in (params, grads, square))
            rooms = {size: room[:size] for size in {p.numel() for p in params}}
            scratch = [rooms[p.numel()] for p in params]
        else:  # tensors of one launch run side by side there
            scratch = [torch.zeros_like(p) for p in params]
        torch._fused_adam_(
            params,
            grads,
            scratch,
            square,
            [],
            _steps(params, _FOREVER),
            lr=lr,
            beta1=0.0,
            beta2=rule.alpha,
            weight_decay=rule.l2,
            eps=rule.eps,
            amsgrad=False,
            maximize=False,
            found_inf=bad,
        )

    return launch


def _pieces(column: Column) -> Column:
    """Return the tensors, the large ones cut: such a kernel sees storage, not shape."""
    pieces: Column = []
    for t in column:
        pieces += (t,) if t.numel() <= _SCRATCH else torch.split(t.view(-1), _SCRATCH)
    return pieces


def _sgd(rule: SGD) -> Launch:
    def launch(
        params: Column, grads: Column, columns: list[Column], t: Any, lr: Any, bad: Tensor | None
    ) -> None:
        torch._fused_sgd_(
            params,
            grads,
            columns[0] if rule.momentum else [],
            weight_decay=rule.l2,
            momentum=rule.momentum,
            lr=lr,
            dampening=0.0,
            nesterov=rule.nesterov,
            maximize=False,
            is_first_step=False,
            found_inf=bad,
        )

    return launch


def _adagrad(rule: AdaGrad) -> Launch:
    def launch(
        params: Column, grads: Column, columns: list[Column], t: Any, lr: Any, bad: Tensor | None
    ) -> None:
        torch._fused_adagrad_(
            params,
            grads,
            columns[0],
            _steps(params, t),
            lr=lr,
            lr_decay=0.0,
            weight_decay=rule.l2,
            eps=rule.eps,
            maximize=False,
            found_inf=bad,
        )

    return launch


def _steps(params: Column, t: Any) -> Column:
    if not isinstance(t, Tensor):
        t = torch.full((), t, dtype=torch.float32, device=params[0].device)  # filled there: nothing waits
    return [t] * len(params)
