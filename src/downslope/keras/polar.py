"""What orthogonalises Muon's matrices on each of Keras's backends, and in which dtype.

On JAX it is code compiled for the CPU where a program runs on one, on PyTorch likewise within a step of its
own (`torch_step`). On TensorFlow it is TensorFlow alone: a call back into Python could neither be compiled by
XLA nor be saved with a graph. Its own products of bfloat16 are as fast.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from itertools import accumulate

import keras

from downslope.keras.backend import BACKEND, dtype_of, in_xla, native_dtype, operations
from downslope.native.polar import has_fast_bfloat16
from downslope.ops.protocol import Array
from downslope.rules import Muon, orthogonalize

NS_DTYPES = ("auto", "bfloat16", "float32", "float64")


def polars_of(stacks: Sequence[Array], rule: Muon, ns_dtype: str, fused: bool | None) -> Sequence[Array]:
    """Return the polar factors of stacks (count, m, n) of matrices of one shape and dtype."""
    dtype = _iterates_in(dtype_of(stacks[0]), ns_dtype)
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
        found = _iterates_in(dtype, ns_dtype)
        if ns_dtype == "auto" and found == "bfloat16" and not _on_accelerator():
            return "plain TensorFlow, in bfloat16 (with XLA in float32)"
        return f"plain TensorFlow, in {dtype if found == 'auto' else found}"
    if BACKEND == "jax":
        from downslope.native import jax as native

        return "plain JAX (fused=False)" if fused is False else native.engine(dtype, ns_dtype)
    from downslope.keras import torch_step

    return torch_step.engine_of(keras.ops.zeros((), dtype), ns_dtype, fused)


def _iterates_in(dtype: str, ns_dtype: str) -> str:
    """Return what the iterations of matrices of a dtype run in; "auto" is their own, or as JAX finds best."""
    if ns_dtype != "auto" or dtype == "float64":
        return ns_dtype
    fast = _on_accelerator() or (BACKEND == "tensorflow" and not in_xla() and _is_fast_in_tensorflow())
    return "bfloat16" if fast else "auto"


@cache
def _is_fast_in_tensorflow() -> bool:
    """Whether TensorFlow multiplies bfloat16 faster than float32 on this CPU: by oneDNN, which XLA is not."""
    off = os.environ.get("TF_ENABLE_ONEDNN_OPTS", "").lower() in ("0", "false")
    return not off and has_fast_bfloat16()


def _on_accelerator() -> bool:
    if BACKEND == "jax":
        import jax

        return jax.default_backend() != "cpu"
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return bool(tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("TPU"))
    return False
