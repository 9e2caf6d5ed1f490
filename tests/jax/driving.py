"""How a case of `tests.parity` is driven in JAX."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import downslope.jax as dj
from downslope.grouping.view import MatrixView
from tests.parity.cases import Arrays, Case, gradients, start

FACTORIES = {"SGD": dj.sgd, "AdaGrad": dj.adagrad, "RMSProp": dj.rmsprop, "Adam": dj.adam}


def transform(case: Case, **more: Any) -> optax.GradientTransformation:
    """Return the transform of a case."""
    options = {**case.options, **more}
    l2 = options.pop("l2", 0.0)
    if type(case.rule).__name__ == "Muon":
        views = {
            name: MatrixView((len(s) - 2,), (len(s) - 1,), tuple(range(len(s) - 2)))
            for name, s in case.shapes.items()
        }
        decay = {"weight_decay": case.weight_decay, "cautious": case.cautious}
        muon = dj.muon(views, case.lr, **{"ns_dtype": None, **decay, **options})
        return optax.chain(optax.add_decayed_weights(l2), muon) if l2 else muon
    if l2:
        return FACTORIES[type(case.rule).__name__](case.lr, weight_decay=l2, **options)
    decay = {"weight_decay": case.weight_decay, "decoupled_weight_decay": True, "cautious": case.cautious}
    return FACTORIES[type(case.rule).__name__](case.lr, **decay, **options)


def cast(arrays: Arrays, dtype: Any) -> dict[str, jax.Array]:
    return {name: jnp.asarray(value, dtype) for name, value in arrays.items()}


def run(
    case: Case, tx: optax.GradientTransformation, dtype: Any = "float64", *, jit: bool = True
) -> list[Arrays]:
    """Return the parameters after each step of a case."""

    def step(params: Any, state: Any, grads: Any) -> tuple[Any, Any]:
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    advance = jax.jit(step) if jit else step
    params, history = cast(start(case, dtype), dtype), []
    state = tx.init(params)
    for grads in gradients(case, dtype):
        params, state = advance(params, state, cast(grads, dtype))
        history.append({name: np.asarray(value.astype(jnp.float64)) for name, value in params.items()})
    return history
