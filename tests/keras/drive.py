"""How a case is run by a Keras optimizer: eagerly, or compiled as the backend compiles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

import downslope as ds
from downslope.grouping.partition import Assignment, Partition, Role
from downslope.grouping.view import MatrixView
from downslope.keras import SGD, AdaGrad, Adam, Muon, RMSProp
from tests.parity.cases import Arrays, Case, gradients, start

BACKEND = keras.backend.backend()
MODES = {
    "tensorflow": ("eager", "function", "xla"),
    "jax": ("eager", "jit"),
    "torch": ("eager",),
}[BACKEND]
EVERY = MODES[-1]
"""The mode in which every option is run; in the others, which compile or dispatch each operation by
itself, each rule is run with its defaults and with each kind of decay."""


def modes_of(case: Case) -> tuple[str, ...]:
    if BACKEND == "jax" and isinstance(case.rule, ds.Muon):  # eagerly, JAX compiles each operation by itself
        return (EVERY,)
    if BACKEND == "torch" or not case.options:
        return MODES
    if BACKEND == "tensorflow" and isinstance(case.rule, ds.Muon):  # XLA takes seconds for each of these
        return ("eager",)
    return (EVERY,)


OPTIMIZERS = {ds.SGD: SGD, ds.AdaGrad: AdaGrad, ds.RMSProp: RMSProp, ds.Adam: Adam, ds.Muon: Muon}


def optimizer_of(case: Case, **kwargs: Any) -> Any:
    """Return the Keras optimizer of a case's rule."""
    options = {name: getattr(case.rule, name) for name in case.rule.hyperparameters()}
    if isinstance(case.rule, ds.Muon):
        options |= {
            "partition": matrices(case),
            "ns_dtype": "float64" if "float64" in keras.config.floatx() else "float32",
        }
    kind = OPTIMIZERS[type(case.rule)]
    return kind(
        learning_rate=case.lr, weight_decay=case.weight_decay, cautious=case.cautious, **options, **kwargs
    )


def matrices(case: Case) -> Partition:
    """Return a partition under which every parameter of a case is (..., fan_out, fan_in)."""
    rows = []
    for name, shape in case.shapes.items():
        n = len(shape)
        view = MatrixView((n - 2,), (n - 1,), batch=tuple(range(n - 2)))
        rows.append(Assignment(name, shape, Role.HIDDEN, "muon", view, "as the case says"))
    return Partition(rows)


def variables(arrays: Arrays, dtype: str) -> list[Any]:
    return [keras.Variable(value, dtype=dtype, name=name) for name, value in arrays.items()]


def values(variables: list[Any]) -> Arrays:
    return {
        v.name: np.array(keras.ops.convert_to_numpy(keras.ops.cast(v.value, "float64"))) for v in variables
    }


def tensors(arrays: Arrays, dtype: str) -> list[Any]:
    return [keras.ops.cast(keras.ops.convert_to_tensor(g, "float64"), dtype) for g in arrays.values()]


def run(case: Case, mode: str, dtype: str = "float64", optimizer: Any = None) -> list[Arrays]:
    """Return the parameters after each of 25 steps."""
    optimizer = optimizer or optimizer_of(case)
    params = variables(start(case, dtype), dtype)
    optimizer.build(params)
    step = stepper(optimizer, params, mode)
    history = []
    for g in gradients(case, dtype):
        step(tensors(g, dtype))
        history.append(values(params))
    return history


def stepper(optimizer: Any, params: list[Any], mode: str) -> Callable[[list[Any]], None]:
    """Return a call that takes one step with the given gradients; `traces` counts how often it was traced."""
    traces = []

    def eager(grads: list[Any]) -> None:
        traces.append(1)
        optimizer.apply(grads, params)

    if mode == "eager":
        step: Any = eager
    elif mode in ("function", "xla"):
        import tensorflow as tf

        step = tf.function(eager, jit_compile=mode == "xla")
    else:
        step = _jitted(optimizer, params, traces)

    def call(grads: list[Any]) -> None:
        step(grads)

    call.traces = traces  # type: ignore[attr-defined]
    return call


def _jitted(optimizer: Any, params: list[Any], traces: list[int]) -> Callable[[list[Any]], None]:
    import jax

    def pure(optimizer_state: list[Any], grads: list[Any], values: list[Any]) -> Any:
        traces.append(1)
        return optimizer.stateless_apply(optimizer_state, grads, values)

    compiled = jax.jit(pure, donate_argnums=(0, 2))

    def step(grads: list[Any]) -> None:
        state = [v.value for v in optimizer.variables]
        new, new_state = compiled(state, grads, [p.value for p in params])
        for v, value in [*zip(optimizer.variables, new_state, strict=True), *zip(params, new, strict=True)]:
            v.assign(value)

    return step
