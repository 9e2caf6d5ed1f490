"""The element-wise rules as PyTorch optimizers: SGD, AdaGrad, RMSProp, Adam and AdamW."""

from __future__ import annotations

from typing import Any, Unpack

from torch import Tensor

from downslope.torch.groups import OfTorch, common_defaults
from downslope.torch.optimizer import RuleOptimizer


class SGD(RuleOptimizer):
    r"""Gradient descent on `torch` parameters, with momentum and Nesterov's look-ahead.

    The rule is `downslope.SGD`:  :math:`b \leftarrow \mu b + g`,  :math:`p \leftarrow p - \eta\, b`
    (with Nesterov :math:`p - \eta (g + \mu b)`).

    Args:
        params: parameters, named parameters or groups, as every torch optimizer takes.
        lr: learning rate :math:`\eta`, at least 0.
        momentum: :math:`\mu` in [0, 1).
        nesterov: look ahead; needs momentum.
        weight_decay: penalty (weight_decay/2)‖p‖², as in `torch.optim.SGD`.
        decoupled_weight_decay: subtract lr · weight_decay · p instead.
        cautious: decoupled decay only where it agrees with the step in sign.
        on_nonfinite: "raise", "skip" or "ignore" when a gradient holds NaN or infinity.
        fused: None uses code compiled for the CPU, or torch's fused kernel where it is this rule; False
            neither.
        capturable: whether a step reads nothing from the device, so that a CUDA graph can record it;
            None: everywhere but on a CPU.
        foreach: as in `torch.optim`; it changes nothing, as tensors are always stepped together.
        maximize, differentiable, dampening: as in `torch.optim`; only False and 0 are taken.

    Raises:
        ValueError: a value outside its range.
        TypeError: a parameter that is not real floating.

    >>> import torch
    >>> p = torch.nn.Parameter(torch.tensor([1.0]))
    >>> optimizer = SGD([p], lr=0.5)
    >>> (p**2).sum().backward()
    >>> optimizer.step()
    >>> p.item()
    0.0

    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        momentum: float = 0.0,
        *,
        nesterov: bool = False,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        decoupled_weight_decay: bool = False,
        cautious: bool = False,
        on_nonfinite: str = "raise",
        fused: bool | None = None,
        capturable: bool | None = None,
        **of_torch: Unpack[OfTorch],
    ) -> None:
        defaults = common_defaults(
            "sgd",
            lr,
            weight_decay,
            decoupled=decoupled_weight_decay,
            cautious=cautious,
            on_nonfinite=on_nonfinite,
            fused=fused,
            capturable=capturable,
            of_torch=of_torch,
        )
        own = {"momentum": momentum, "nesterov": nesterov, "dampening": dampening}
        super().__init__(params, {**defaults, **own})


class AdaGrad(RuleOptimizer):
    r"""AdaGrad on `torch` parameters.

    The rule is `downslope.AdaGrad`:  :math:`s \leftarrow s + g^2`,
    :math:`p \leftarrow p - \eta\, g / (\sqrt{s} + \epsilon)`.

    Args:
        params: parameters, named parameters or groups.
        lr: learning rate :math:`\eta`, at least 0.
        lr_decay: as in `torch.optim.Adagrad`; only 0 is taken.
        initial_accumulator_value: where :math:`s` starts.
        eps: :math:`\epsilon`.
        weight_decay: penalty (weight_decay/2)‖p‖², as in `torch.optim.Adagrad`.
        decoupled_weight_decay, cautious, on_nonfinite, fused, capturable: as in `SGD`, and what is of
            `torch.optim` alone.

    Raises:
        ValueError: a value outside its range.
        TypeError: a parameter that is not real floating.

    >>> import torch
    >>> p = torch.nn.Parameter(torch.tensor([1.0]))
    >>> optimizer = AdaGrad([p], lr=0.5)
    >>> (3 * p).sum().backward()
    >>> optimizer.step()
    >>> p.item()
    0.5

    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-2,
        *,
        lr_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        weight_decay: float = 0.0,
        decoupled_weight_decay: bool = False,
        cautious: bool = False,
        on_nonfinite: str = "raise",
        fused: bool | None = None,
        capturable: bool | None = None,
        **of_torch: Unpack[OfTorch],
    ) -> None:
        defaults = common_defaults(
            "adagrad",
            lr,
            weight_decay,
            decoupled=decoupled_weight_decay,
            cautious=cautious,
            on_nonfinite=on_nonfinite,
            fused=fused,
            capturable=capturable,
            of_torch=of_torch,
        )
        own = {"lr_decay": lr_decay, "initial_accumulator_value": initial_accumulator_value, "eps": eps}
        super().__init__(params, {**defaults, **own})


class RMSProp(RuleOptimizer):
    r"""RMSProp on `torch` parameters, optionally centred and with momentum.

    The rule is `downslope.RMSProp`:  :math:`v \leftarrow \alpha v + (1-\alpha) g^2`,
    :math:`p \leftarrow p - \eta\, g / (\sqrt{v} + \epsilon)`.

    Args:
        params: parameters, named parameters or groups.
        lr: learning rate :math:`\eta`, at least 0.
        alpha: decay of the average, in [0, 1).
        eps: :math:`\epsilon`.
        momentum: in [0, 1).
        centered: divide by the standard deviation.
        eps_inside_root: :math:`\sqrt{v + \epsilon}`, as Keras has it.
        weight_decay: penalty (weight_decay/2)‖p‖², as in `torch.optim.RMSprop`.
        decoupled_weight_decay, cautious, on_nonfinite, fused, capturable: as in `SGD`, and what is of
            `torch.optim` alone.

    Raises:
        ValueError: a value outside its range.
        TypeError: a parameter that is not real floating.

    >>> import torch
    >>> p = torch.nn.Parameter(torch.tensor([1.0]))
    >>> optimizer = RMSProp([p], lr=0.5, alpha=0.75, eps=0.0)
    >>> (3 * p).sum().backward()
    >>> optimizer.step()
    >>> p.item()
    0.0

    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-2,
        *,
        alpha: float = 0.99,
        eps: float = 1e-8,
        momentum: float = 0.0,
        centered: bool = False,
        eps_inside_root: bool = False,
        weight_decay: float = 0.0,
        decoupled_weight_decay: bool = False,
        cautious: bool = False,
        on_nonfinite: str = "raise",
        fused: bool | None = None,
        capturable: bool | None = None,
        **of_torch: Unpack[OfTorch],
    ) -> None:
        defaults = common_defaults(
            "rmsprop",
            lr,
            weight_decay,
            decoupled=decoupled_weight_decay,
            cautious=cautious,
            on_nonfinite=on_nonfinite,
            fused=fused,
            capturable=capturable,
            of_torch=of_torch,
        )
        own = {
            "alpha": alpha,
            "eps": eps,
            "momentum": momentum,
            "centered": centered,
            "eps_inside_root": eps_inside_root,
        }
        super().__init__(params, {**defaults, **own})


class Adam(RuleOptimizer):
    r"""Adam on `torch` parameters.

    The rule is `downslope.Adam`:
    :math:`p \leftarrow p - \eta\, \hat m / (\sqrt{\hat v} + \epsilon)`.

    Args:
        params: parameters, named parameters or groups.
        lr: learning rate :math:`\eta`, at least 0.
        betas: decay of the two averages, each in [0, 1).
        eps: :math:`\epsilon`.
        weight_decay: penalty (weight_decay/2)‖p‖², as in `torch.optim.Adam`; `AdamW` decouples it.
        amsgrad: keep the largest second moment.
        bias_correction: correct both averages for their start at zero.
        decoupled_weight_decay, cautious, on_nonfinite, fused, capturable: as in `SGD`, and what is of
            `torch.optim` alone.

    Raises:
        ValueError: a value outside its range.
        TypeError: a parameter that is not real floating.

    >>> import torch
    >>> p = torch.nn.Parameter(torch.tensor([1.0]))
    >>> optimizer = Adam([p], lr=0.5, eps=0.0)
    >>> (3 * p).sum().backward()
    >>> optimizer.step()
    >>> round(p.item(), 6)
    0.5

    """

    _name = "adam"

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        bias_correction: bool = True,
        decoupled_weight_decay: bool = False,
        cautious: bool = False,
        on_nonfinite: str = "raise",
        fused: bool | None = None,
        capturable: bool | None = None,
        **of_torch: Unpack[OfTorch],
    ) -> None:
        defaults = common_defaults(
            self._name,
            lr,
            weight_decay,
            decoupled=decoupled_weight_decay,
            cautious=cautious,
            on_nonfinite=on_nonfinite,
            fused=fused,
            capturable=capturable,
            of_torch=of_torch,
        )
        own = {"betas": betas, "eps": eps, "amsgrad": amsgrad, "bias_correction": bias_correction}
        super().__init__(params, {**defaults, **own})


class AdamW(Adam):
    r"""AdamW on `torch` parameters: Adam with decoupled weight decay.

    The rule is `downslope.Adam`:
    :math:`p \leftarrow p - \eta\, (\hat m / (\sqrt{\hat v} + \epsilon) + \lambda p)`.

    Args:
        params: parameters, named parameters or groups.
        lr: learning rate :math:`\eta`, at least 0.
        betas: decay of the two averages, each in [0, 1).
        eps: :math:`\epsilon`.
        weight_decay: :math:`\lambda`, at least 0.
        amsgrad: keep the largest second moment.
        bias_correction: correct both averages for their start at zero.
        cautious, on_nonfinite, fused, capturable: as in `SGD`, and what is of
            `torch.optim` alone.

    Raises:
        ValueError: a value outside its range.
        TypeError: a parameter that is not real floating.

    >>> import torch
    >>> p = torch.nn.Parameter(torch.tensor([1.0]))
    >>> optimizer = AdamW([p], lr=0.5, weight_decay=0.1, eps=0.0)
    >>> (3 * p).sum().backward()
    >>> optimizer.step()
    >>> round(p.item(), 6)
    0.45

    """

    _name = "adamw"

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        bias_correction: bool = True,
        cautious: bool = False,
        on_nonfinite: str = "raise",
        fused: bool | None = None,
        capturable: bool | None = None,
        **of_torch: Unpack[OfTorch],
    ) -> None:
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            bias_correction=bias_correction,
            decoupled_weight_decay=True,
            cautious=cautious,
            on_nonfinite=on_nonfinite,
            fused=fused,
            capturable=capturable,
            **of_torch,
        )
