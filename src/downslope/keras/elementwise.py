"""The element-wise rules as Keras optimizers: SGD, AdaGrad, RMSProp, Adam and AdamW."""

from __future__ import annotations

from typing import Any

import keras

from downslope import rules
from downslope.keras.optimizer import RuleOptimizer

_register = keras.saving.register_keras_serializable(package="downslope")


@_register
class SGD(RuleOptimizer):
    r"""Gradient descent on Keras variables, with momentum and Nesterov's look-ahead.

    The rule is `downslope.SGD`:  :math:`b \leftarrow \mu b + g`,
    :math:`p \leftarrow p - \eta\,(b + \lambda p)`  (with Nesterov :math:`g + \mu b` for :math:`b`).
    `keras.optimizers.SGD` multiplies :math:`\eta` into the momentum instead; the two are the same as
    long as the learning rate is constant.

    Args:
        learning_rate: :math:`\eta`: a number of at least 0, a `LearningRateSchedule` or a callable.
        momentum: :math:`\mu` in [0, 1).
        nesterov: look ahead; needs momentum.
        l2: coefficient of the penalty (l2/2)‖p‖².
        weight_decay: :math:`\lambda`, at least 0, decoupled, as everywhere in Keras.
        cautious: decay only where it agrees with the step in sign.
        on_nonfinite: "raise", "skip" or "ignore" when a gradient holds NaN or infinity.
        **kwargs: `name`, `clipnorm`, `clipvalue`, `global_clipnorm`, `use_ema`, `ema_momentum`,
            `ema_overwrite_frequency`, `loss_scale_factor` and `gradient_accumulation_steps`, as in
            every Keras optimizer.

    Raises:
        ValueError: a value outside its range; a schedule that returns one.

    >>> import keras
    >>> p = keras.Variable([1.0])
    >>> SGD(learning_rate=0.5).apply([2 * p.value], [p])
    >>> round(float(keras.ops.stop_gradient(p.value)[0]), 4)
    0.0

    """

    def __init__(
        self,
        learning_rate: Any = 1e-3,
        momentum: float = 0.0,
        *,
        nesterov: bool = False,
        l2: float = 0.0,
        weight_decay: float = 0.0,
        cautious: bool = False,
        on_nonfinite: str = "ignore",
        **kwargs: Any,
    ) -> None:
        rule = rules.SGD(momentum=momentum, nesterov=nesterov, l2=l2)
        own: dict[str, Any] = {
            "weight_decay": weight_decay,
            "cautious": cautious,
            "on_nonfinite": on_nonfinite,
        }
        super().__init__(rule, learning_rate, **own, **kwargs)


@_register
class AdaGrad(RuleOptimizer):
    r"""AdaGrad on Keras variables.

    The rule is `downslope.AdaGrad`:  :math:`s \leftarrow s + g^2`,
    :math:`p \leftarrow p - \eta\,(g / (\sqrt{s} + \epsilon) + \lambda p)`. `keras.optimizers.Adagrad`
    has :math:`\epsilon` inside the root and starts :math:`s` at 0.1.

    Args:
        learning_rate: :math:`\eta`, as in `SGD`.
        initial_accumulator_value: where :math:`s` starts.
        eps: :math:`\epsilon`.
        l2, weight_decay, cautious, on_nonfinite, **kwargs: as in `SGD`.

    Raises:
        ValueError: a value outside its range; a schedule that returns one.

    >>> import keras
    >>> p = keras.Variable([1.0])
    >>> AdaGrad(learning_rate=0.5).apply([3 * p.value], [p])
    >>> round(float(keras.ops.stop_gradient(p.value)[0]), 4)
    0.5

    """

    def __init__(
        self,
        learning_rate: Any = 1e-2,
        *,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        l2: float = 0.0,
        weight_decay: float = 0.0,
        cautious: bool = False,
        on_nonfinite: str = "ignore",
        **kwargs: Any,
    ) -> None:
        rule = rules.AdaGrad(eps=eps, initial_accumulator_value=initial_accumulator_value, l2=l2)
        own: dict[str, Any] = {
            "weight_decay": weight_decay,
            "cautious": cautious,
            "on_nonfinite": on_nonfinite,
        }
        super().__init__(rule, learning_rate, **own, **kwargs)


@_register
class RMSProp(RuleOptimizer):
    r"""RMSProp on Keras variables, optionally centred and with momentum.

    The rule is `downslope.RMSProp`:  :math:`v \leftarrow \alpha v + (1-\alpha) g^2`,
    :math:`p \leftarrow p - \eta\,(g / (\sqrt{v} + \epsilon) + \lambda p)`. `eps_inside_root=True`,
    `alpha=0.9` and `eps=1e-7` make it `keras.optimizers.RMSprop`.

    Args:
        learning_rate: :math:`\eta`, as in `SGD`.
        alpha: decay of the average, in [0, 1).
        eps: :math:`\epsilon`.
        momentum: in [0, 1).
        centered: divide by the standard deviation.
        eps_inside_root: :math:`\sqrt{v + \epsilon}`, as Keras has it.
        l2, weight_decay, cautious, on_nonfinite, **kwargs: as in `SGD`.

    Raises:
        ValueError: a value outside its range; a schedule that returns one.

    >>> import keras
    >>> p = keras.Variable([1.0])
    >>> RMSProp(learning_rate=0.5, alpha=0.75, eps=0.0).apply([3 * p.value], [p])
    >>> round(float(keras.ops.stop_gradient(p.value)[0]), 4)
    0.0

    """

    def __init__(
        self,
        learning_rate: Any = 1e-2,
        *,
        alpha: float = 0.99,
        eps: float = 1e-8,
        momentum: float = 0.0,
        centered: bool = False,
        eps_inside_root: bool = False,
        l2: float = 0.0,
        weight_decay: float = 0.0,
        cautious: bool = False,
        on_nonfinite: str = "ignore",
        **kwargs: Any,
    ) -> None:
        rule = rules.RMSProp(
            alpha=alpha, eps=eps, momentum=momentum, centered=centered, eps_inside_root=eps_inside_root, l2=l2
        )
        own: dict[str, Any] = {
            "weight_decay": weight_decay,
            "cautious": cautious,
            "on_nonfinite": on_nonfinite,
        }
        super().__init__(rule, learning_rate, **own, **kwargs)


@_register
class Adam(RuleOptimizer):
    r"""Adam on Keras variables.

    The rule is `downslope.Adam`:
    :math:`p \leftarrow p - \eta\,(\hat m / (\sqrt{\hat v} + \epsilon) + \lambda p)`.
    `keras.optimizers.Adam` adds :math:`\epsilon` to the uncorrected root, which makes its
    :math:`\epsilon` larger by :math:`1/\sqrt{1-\beta_2^t}`, and has 1e-7 for it.

    Args:
        learning_rate: :math:`\eta`, as in `SGD`.
        betas: decay of the two averages, each in [0, 1).
        eps: :math:`\epsilon`.
        amsgrad: keep the largest second moment.
        bias_correction: correct both averages for their start at zero.
        l2, weight_decay, cautious, on_nonfinite, **kwargs: as in `SGD`.

    Raises:
        ValueError: a value outside its range; a schedule that returns one.

    >>> import keras
    >>> p = keras.Variable([1.0])
    >>> Adam(learning_rate=0.5, eps=0.0).apply([3 * p.value], [p])
    >>> round(float(keras.ops.stop_gradient(p.value)[0]), 4)
    0.5

    """

    def __init__(
        self,
        learning_rate: Any = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        *,
        amsgrad: bool = False,
        bias_correction: bool = True,
        l2: float = 0.0,
        weight_decay: float = 0.0,
        cautious: bool = False,
        on_nonfinite: str = "ignore",
        **kwargs: Any,
    ) -> None:
        rule = rules.Adam(
            betas=tuple(betas),  # type: ignore[arg-type]  # a saved model brings a list
            eps=eps,
            amsgrad=amsgrad,
            bias_correction=bias_correction,
            l2=l2,
        )
        own: dict[str, Any] = {
            "weight_decay": weight_decay,
            "cautious": cautious,
            "on_nonfinite": on_nonfinite,
        }
        super().__init__(rule, learning_rate, **own, **kwargs)


@_register
class AdamW(Adam):
    r"""AdamW on Keras variables: `Adam` with weight decay from the start.

    Args:
        learning_rate: :math:`\eta`, as in `SGD`.
        betas: decay of the two averages, each in [0, 1).
        eps: :math:`\epsilon`.
        weight_decay: :math:`\lambda`, at least 0.
        **kwargs: as in `Adam`.

    Raises:
        ValueError: a value outside its range; a schedule that returns one.

    >>> import keras
    >>> p = keras.Variable([1.0])
    >>> AdamW(learning_rate=0.5, weight_decay=0.1, eps=0.0).apply([3 * p.value], [p])
    >>> round(float(keras.ops.stop_gradient(p.value)[0]), 4)
    0.45

    """

    def __init__(
        self,
        learning_rate: Any = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, betas, eps, weight_decay=weight_decay, **kwargs)
