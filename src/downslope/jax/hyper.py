"""Hyper-parameters in JAX: Python numbers are fixed, arrays may change from step to step.

`optax.inject_hyperparams` hands a transform arrays where the user wrote numbers. Whether a rule
keeps a momentum must be known before anything is traced, so an array counts as present whatever
its value; Python numbers are checked, and so are arrays whose value can be read.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import checkify

from downslope.ops.protocol import Array
from downslope.rules.checks import require_number
from downslope.rules.rule import Rule

Number: TypeAlias = float | Array
Schedule: TypeAlias = Callable[[Array], Array]
R = TypeVar("R", bound=Rule)

_PROBES = np.concatenate([[0], 2 ** np.arange(21)]).astype(np.int32)
"""Steps at which a schedule is tried when a transform is made: 0, 1, 2, 4, …, 2**20."""

_ROUNDING = 1e-7
"""How far below 0 rounding may leave a rate that ends there, as XLA does: float32, rates up to 1."""


class Dynamic:
    """A number known only as an array; it takes part in arithmetic in the dtype of its partner."""

    __array_priority__ = 1000

    def __init__(self, value: Array) -> None:
        self.value = value

    def __bool__(self) -> bool:
        return True

    def __jax_array__(self) -> Array:
        return jnp.asarray(self.value)

    def __mul__(self, other: Array) -> Array:
        return self._like(other) * other

    def __add__(self, other: Array) -> Array:
        return self._like(other) + other

    def __rsub__(self, other: float) -> Dynamic:
        return Dynamic(other - self.value)

    __rmul__ = __mul__
    __radd__ = __add__

    def _like(self, other: Array) -> Array:
        return jnp.asarray(self.value, other.dtype)


def is_array(value: Any) -> bool:
    """Whether a hyper-parameter came as an array."""
    return isinstance(value, (jax.Array, np.ndarray))


def readable(value: Any) -> bool:
    """Whether the value of a number can be looked at now."""
    return not isinstance(value, jax.core.Tracer)


def make_rule(kind: type[R], **options: Any) -> R:
    """Return a rule, some of whose numbers may be arrays.

    Raises:
        ValueError: a number outside its range, as far as it can be read.

    """
    options = {name: _fixed(name, value) for name, value in options.items()}
    dynamic = {name: value for name, value in options.items() if is_array(value)}
    # 0.5 is in the range of every number: it stands in where a traced one cannot be checked.
    fixed = {name: float(value) if readable(value) else 0.5 for name, value in dynamic.items()}
    rule = kind(**{**options, **fixed})
    for name, value in dynamic.items():
        object.__setattr__(rule, name, Dynamic(value))
    return rule


def _fixed(name: str, value: Any) -> Any:
    """Return several numbers, as betas are, as Python's; anything else as it is."""
    if not isinstance(value, (tuple, list)):
        return value
    for i, one in enumerate(value):
        if not readable(one):
            raise TypeError(
                f"{name}[{i}] is traced: expected a Python float. It decides what the step computes, "
                "and cannot change from step to step"
            )
    return tuple(float(one) if is_array(one) and one.ndim == 0 else one for one in value)


def decay_of(weight_decay: Number) -> Any:
    """Return a weight decay that `step` can use; raise ValueError where it is out of range."""
    if readable(weight_decay):
        require_number("weight_decay", weight_decay, 0.0)
    return Dynamic(weight_decay) if is_array(weight_decay) else weight_decay


def check_rate(lr: Number | Schedule) -> None:
    """Raise ValueError unless the learning rate is one, or a schedule that returns one at each step tried."""
    if not callable(lr):
        if readable(lr):
            require_number("lr", lr, 0.0)
        return
    with jax.ensure_compile_time_eval():
        for count, value in zip(_PROBES, _tried(lr), strict=False):
            _require_rate(value, int(count))


def rate_at(lr: Number | Schedule, count: Array) -> Any:
    """Return the learning rate of the step after `count` others.

    Outside of a transformation a schedule's NaN, infinity or negative value raises ValueError; in
    one, `jax.experimental.checkify` reports it.
    """
    if not callable(lr):
        return lr
    value = lr(count)
    if readable(value):
        _require_rate(value, int(count) if readable(count) else None)
        return value
    ok = jnp.isfinite(value) & (value >= -_ROUNDING)
    checkify.debug_check(ok, "the learning rate is {lr} at step {count}", lr=value, count=count)
    return value


def _tried(lr: Schedule) -> Any:
    first = lr(jnp.asarray(_PROBES[0]))
    try:
        return [first, *np.asarray(jax.vmap(lr)(_PROBES[1:]))]
    except Exception:  # a schedule need not be one that vmap can take
        return [first]


def _require_rate(value: Any, count: int | None) -> None:
    array = np.asarray(value)
    number = float(array) if array.ndim == 0 else math.nan
    if not (math.isfinite(number) and number >= -_ROUNDING):
        where = "" if count is None else f" at step {count}"
        raise ValueError(
            f"the schedule of the learning rate returned {array.tolist()!r}{where}: "
            "expected a finite number of at least 0; nothing was changed"
        )
