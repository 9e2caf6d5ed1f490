"""What differs between Keras's backends: how a variable is read, a gradient made dense, a dtype named."""

from __future__ import annotations

from typing import Any

import keras

from downslope.ops import ops_for
from downslope.ops.protocol import Array, Ops

BACKEND: str = keras.backend.backend()

HALF = ("float16", "bfloat16")
"""Variables of these dtypes have float32 states and steps, rounded once when written."""


def dtype_of(variable: Any) -> str:
    """Return a dtype's plain name, "float32"."""
    return str(keras.backend.standardize_dtype(variable.dtype))


def working_dtype(variable: Any) -> str:
    """Return what a variable's states and steps are computed in."""
    dtype = dtype_of(variable)
    return "float32" if dtype in HALF else dtype


def name_of(variable: Any) -> str:
    """Return a variable's path in the model: "dense/kernel"; TensorFlow's own have a name only."""
    return str(getattr(variable, "path", None) or variable.name.partition(":")[0])


def tensor_of(variable: Any) -> Array:
    """Return the value of a variable, Keras's or TensorFlow's, as the backend's tensor."""
    value = variable.value if isinstance(variable, keras.Variable) else variable
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return tf.convert_to_tensor(value)
    return value


def dense(gradient: Any, dtype: str) -> Array:
    """Return a gradient as a dense tensor of this dtype; the rows of a sparse one are summed."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return tf.cast(tf.convert_to_tensor(gradient), dtype)
    if BACKEND == "torch" and str(gradient.dtype) == f"torch.{dtype}":
        return gradient  # the way through keras.ops.cast takes longer than a small variable's step
    if hasattr(gradient, "todense"):
        gradient = gradient.todense()
    return keras.ops.cast(gradient, dtype)


def has_shape(tensor: Array, shape: tuple[int, ...]) -> bool:
    """Whether a tensor has this shape, as far as a graph knows it."""
    if getattr(tensor.shape, "rank", 0) is None:
        return True
    found = tuple(tensor.shape)
    return len(found) == len(shape) and all(n is None or n == m for n, m in zip(found, shape, strict=True))


def operations(tensor: Array) -> Ops:
    """Return the operations on the backend's tensors."""
    if BACKEND == "jax":  # a tracer's type does not say that it belongs to JAX
        from downslope.ops.jax import JaxOps

        ops: Ops = JaxOps()
        return ops
    return ops_for(tensor)


def native_dtype(name: str) -> Any:
    """Return a dtype as the backend's own operations take it."""
    if BACKEND == "torch":
        import torch

        return getattr(torch, name)
    return name


def in_stateless_scope() -> bool:
    """Whether variables must not be written to directly."""
    from keras.src.backend.common.stateless_scope import in_stateless_scope as inside

    return bool(inside())


def in_xla() -> bool:
    """Whether TensorFlow is tracing a function that XLA will compile: assertions vanish there."""
    if BACKEND != "tensorflow":
        return False
    from tensorflow.python.framework import ops
    from tensorflow.python.ops import control_flow_util

    return bool(control_flow_util.GraphOrParentsInXlaContext(ops.get_default_graph()))
