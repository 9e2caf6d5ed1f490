"""What orthogonalises Muon's matrices on each of Keras's backends.

On JAX it is code compiled for the CPU where a program runs on one, on PyTorch likewise within a step of its
own (`torch_step`), on TensorFlow the backend's own products.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import keras

from downslope.keras.backend import BACKEND, native_dtype, operations
from downslope.ops.protocol import Array
from downslope.rules import Muon, orthogonalize

NS_DTYPES = ("auto", "bfloat16", "float32", "float64")


def polars_of(stacks: Sequence[Array], rule: Muon, ns_dtype: str, fused: bool | None) -> Sequence[Array]:
    """Return the polar factors of stacks (count, m, n) of matrices of one shape and dtype."""
    dtype = "bfloat16" if ns_dtype == "auto" and _on_accelerator() else ns_dtype
    if BACKEND == "jax":
        from downslope.native import jax as native

        how = native.How(rule.coefficients, rule.ns_steps, dtype)
        polars: Sequence[Array] = native.polars_of(stacks, how, fused)
        return polars
    x = operations(stacks[0])
    done = orthogonalize(
        x,
        stacks[0] if len(stacks) == 1 else x.concat(list(stacks), 0),
        coefficients=rule.coefficients,
        steps=rule.ns_steps,
        dtype=None if dtype == "auto" else native_dtype(dtype),
    )
    if len(stacks) == 1:
        return [done]
    ends = list(accumulate(stack.shape[0] for stack in stacks))
    return [done[end - stack.shape[0] : end] for end, stack in zip(ends, stacks, strict=True)]


def engine_of(dtype: str, ns_dtype: str, fused: bool | None) -> str:
    """Return in words what orthogonalises matrices of a dtype, and why where it is no compiled code."""
    if BACKEND == "tensorflow":
        return "plain TensorFlow (nothing compiled for it)"
    if BACKEND == "jax":
        from downslope.native import jax as native

        return "plain JAX (fused=False)" if fused is False else native.engine(dtype, ns_dtype)
    from downslope.keras import torch_step

    return torch_step.engine_of(keras.ops.zeros((), dtype), ns_dtype, fused)


def _on_accelerator() -> bool:
    if BACKEND == "jax":
        import jax

        return jax.default_backend() != "cpu"
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return bool(tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("TPU"))
    return False
