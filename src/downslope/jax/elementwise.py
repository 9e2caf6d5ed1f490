"""SGD, AdaGrad, RMSProp, Adam and AdamW as optax transforms.

Each is the rule of `downslope` in the habits of optax: `init` makes a tree of states, `update`
turns gradients into what `optax.apply_updates` adds. States of 16-bit parameters are kept, and
their steps computed, in float32.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import optax

from downslope import rules
from downslope.errors import a_type
from downslope.jax.hyper import Number, Schedule, check_rate, decay_of, make_rule, rate_at
from downslope.jax.leaves import (
    OPS,
    as_optax,
    check_gradients,
    check_parameters,
    init_state,
    kept,
    named_leaves,
    pack,
    parameters_of,
    unpack,
    update_of,
    widened,
)
from downslope.ops.protocol import Array
from downslope.rules.rule import Rule, State


class RuleState(NamedTuple):
    """State of an element-wise transform: steps taken, and the rule's state with a tree in each part."""

    count: Array
    rule: State


def sgd(
    lr: Number | Schedule,
    momentum: Number | None = None,
    nesterov: bool = False,
    *,
    weight_decay: Number = 0.0,
    decoupled_weight_decay: bool = False,
    cautious: bool = False,
) -> optax.GradientTransformation:
    r"""Gradient descent, optionally with momentum: :math:`b \leftarrow \mu b + g`, step :math:`-\eta\, b`.

    With Nesterov the step is :math:`-\eta (g + \mu b)`. The rule is `downslope.SGD`.

    Args:
        lr: learning rate :math:`\eta`, a number of at least 0 or a schedule of the step count.
        momentum: :math:`\mu` in [0, 1); None keeps no momentum.
        nesterov: look ahead; needs momentum.
        weight_decay: penalty (weight_decay/2)‖p‖²; `update` then needs the parameters.
        decoupled_weight_decay: subtract lr · weight_decay · p instead.
        cautious: decoupled decay only where it agrees with the step in sign.

    Raises:
        ValueError: a value outside its range, or a schedule that does not return a finite number.

    >>> import jax.numpy as jnp
    >>> tx = sgd(0.5)
    >>> p = jnp.array([1.0])
    >>> tx.update(2 * p, tx.init(p), p)[0].tolist()
    [-1.0]

    """
    own = {"momentum": 0.0 if momentum is None else momentum, "nesterov": nesterov}
    return _transform(rules.SGD, own, lr, weight_decay, decoupled_weight_decay, cautious)


def adagrad(
    lr: Number | Schedule,
    *,
    eps: Number = 1e-10,
    initial_accumulator_value: Number = 0.0,
    weight_decay: Number = 0.0,
    decoupled_weight_decay: bool = False,
    cautious: bool = False,
) -> optax.GradientTransformation:
    r"""AdaGrad: :math:`s \leftarrow s + g^2`, step :math:`-\eta\, g / (\sqrt{s} + \epsilon)`.

    The rule is `downslope.AdaGrad`.

    Args:
        lr: learning rate :math:`\eta`, or a schedule.
        eps: :math:`\epsilon`, outside the root (optax.adagrad: inside, by default 1e-7).
        initial_accumulator_value: :math:`s` before the first step (optax: 0.1).
        weight_decay: as in `sgd`.
        decoupled_weight_decay: as in `sgd`.
        cautious: as in `sgd`.

    Raises:
        ValueError: a value outside its range, or a schedule that does not return a finite number.

    >>> import jax.numpy as jnp
    >>> tx = adagrad(0.5, eps=0.0)
    >>> p = jnp.array([1.0])
    >>> tx.update(3 * p, tx.init(p), p)[0].tolist()
    [-0.5]

    """
    own = {"eps": eps, "initial_accumulator_value": initial_accumulator_value}
    return _transform(rules.AdaGrad, own, lr, weight_decay, decoupled_weight_decay, cautious)


def rmsprop(
    lr: Number | Schedule,
    *,
    alpha: Number = 0.99,
    eps: Number = 1e-8,
    momentum: Number | None = None,
    centered: bool = False,
    eps_inside_root: bool = False,
    weight_decay: Number = 0.0,
    decoupled_weight_decay: bool = False,
    cautious: bool = False,
) -> optax.GradientTransformation:
    r"""RMSProp: step :math:`-\eta\, g / (\sqrt{v} + \epsilon)`, :math:`v` an average of :math:`g^2`.

    The rule is `downslope.RMSProp`.

    Args:
        lr: learning rate :math:`\eta`, or a schedule.
        alpha: decay of the averages, in [0, 1) (optax: `decay`, by default 0.9).
        eps: :math:`\epsilon`.
        momentum: of the normalised gradient, in [0, 1); None keeps none.
        centered: divide by the standard deviation.
        eps_inside_root: :math:`\sqrt{v + \epsilon}` (optax's default).
        weight_decay: as in `sgd`.
        decoupled_weight_decay: as in `sgd`.
        cautious: as in `sgd`.

    Raises:
        ValueError: a value outside its range, or a schedule that does not return a finite number.

    >>> import jax.numpy as jnp
    >>> tx = rmsprop(0.5, alpha=0.75, eps=0.0)
    >>> p = jnp.array([1.0])
    >>> tx.update(3 * p, tx.init(p), p)[0].tolist()
    [-1.0]

    """
    own = {
        "alpha": alpha,
        "eps": eps,
        "momentum": 0.0 if momentum is None else momentum,
        "centered": centered,
        "eps_inside_root": eps_inside_root,
    }
    return _transform(rules.RMSProp, own, lr, weight_decay, decoupled_weight_decay, cautious)


def adam(
    lr: Number | Schedule,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: Number = 1e-8,
    *,
    amsgrad: bool = False,
    bias_correction: bool = True,
    weight_decay: Number = 0.0,
    decoupled_weight_decay: bool = False,
    cautious: bool = False,
) -> optax.GradientTransformation:
    r"""Adam: step :math:`-\eta\, \hat m / (\sqrt{\hat v} + \epsilon)`.

    The rule is `downslope.Adam`.

    Args:
        lr: learning rate :math:`\eta`, or a schedule.
        betas: decay of the two averages, each in [0, 1).
        eps: :math:`\epsilon`.
        amsgrad: keep the largest second moment.
        bias_correction: correct both averages for their start at zero.
        weight_decay: as in `sgd`.
        decoupled_weight_decay: as in `sgd`.
        cautious: as in `sgd`.

    Raises:
        ValueError: a value outside its range, or a schedule that does not return a finite number.

    >>> import jax.numpy as jnp
    >>> tx = adam(0.5, eps=0.0)
    >>> p = jnp.array([1.0])
    >>> tx.update(3 * p, tx.init(p), p)[0].round(6).tolist()
    [-0.5]

    """
    own = {"betas": betas, "eps": eps, "amsgrad": amsgrad, "bias_correction": bias_correction}
    return _transform(rules.Adam, own, lr, weight_decay, decoupled_weight_decay, cautious)


def adamw(
    lr: Number | Schedule,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: Number = 1e-8,
    weight_decay: Number = 1e-2,
    *,
    amsgrad: bool = False,
    bias_correction: bool = True,
    cautious: bool = False,
) -> optax.GradientTransformation:
    r"""AdamW: step :math:`-\eta\, (\hat m / (\sqrt{\hat v} + \epsilon) + \lambda p)`.

    The rule is `downslope.Adam` with decoupled weight decay.

    Args:
        lr: learning rate :math:`\eta`, or a schedule.
        betas: decay of the two averages, each in [0, 1).
        eps: :math:`\epsilon`.
        weight_decay: :math:`\lambda`, at least 0 (optax.adamw: by default 1e-4).
        amsgrad: keep the largest second moment.
        bias_correction: correct both averages for their start at zero.
        cautious: decay only where it agrees with the step in sign.

    Raises:
        ValueError: a value outside its range, or a schedule that does not return a finite number.

    >>> import jax.numpy as jnp
    >>> tx = adamw(0.5, eps=0.0, weight_decay=0.1)
    >>> p = jnp.array([1.0])
    >>> round(tx.update(3 * p, tx.init(p), p)[0].item(), 6)
    -0.55

    """
    own = {"betas": betas, "eps": eps, "amsgrad": amsgrad, "bias_correction": bias_correction}
    return _transform(rules.Adam, own, lr, weight_decay, True, cautious)


def _transform(
    kind: type[Rule],
    own: dict[str, Any],
    lr: Number | Schedule,
    weight_decay: Number,
    decoupled: bool,
    cautious: bool,
) -> optax.GradientTransformation:
    """Return the transform of an element-wise rule."""
    check_rate(lr)
    decay = decay_of(weight_decay)
    rule = make_rule(kind, **own) if decoupled else make_rule(kind, **own, l2=weight_decay)
    if not decoupled:
        decay = 0.0
    needs_params = bool(decay or rule.l2)

    def init(params: Any) -> RuleState:
        names, leaves, treedef = named_leaves(params)
        check_parameters(names, leaves)
        return RuleState(jnp.zeros([], jnp.int32), init_state(rule, leaves, treedef))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, RuleState]:
        names, grads, treedef = named_leaves(updates)
        if params is None and needs_params:
            raise ValueError("weight decay needs the parameters: call update(gradients, state, params)")
        leaves = None if params is None else parameters_of(updates, params)
        check_gradients(names, grads, leaves)
        rows = unpack(rule, require_state(state, RuleState).rule, treedef, grads)
        rate, t = rate_at(lr, state.count), optax.safe_increment(state.count)
        changes, states = [], []
        for g, p, old in zip(grads, leaves or [None] * len(grads), rows, strict=True):
            wide, wide_p = widened(g, p)
            d, new = rule.direction(OPS, wide, old, wide_p, t)
            changes.append(update_of(d, g, p, rate, decay, cautious))
            states.append(kept(new, old))
        return treedef.unflatten(changes), RuleState(t, pack(rule, states, treedef))

    return as_optax(init, update)


def require_state(state: Any, kind: type) -> Any:
    """Return the state; raise TypeError where it is not the kind that `init` made."""
    if not isinstance(state, kind):
        raise TypeError(
            f"the state is {a_type(state)}, expected the {kind.__name__} that this transform's "
            "init returns: it belongs to another rule or another optimizer"
        )
    return state


__all__ = ["RuleState", "adagrad", "adam", "adamw", "require_state", "rmsprop", "sgd"]
