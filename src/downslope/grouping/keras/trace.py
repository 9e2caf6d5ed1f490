"""One call of a Keras model, traced by the backend that it runs on.

Variables keep their values and no state is written: the call runs in a `StatelessScope`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import tree

from downslope.grouping.flow.uses import Uses

Traced = tuple[Uses, int]


def follow(model: Any, variables: Sequence[Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Traced:
    """Return all uses of variables in `model(*args, **kwargs)`, and the depth of the deepest output.

    Inputs are arrays, `keras.KerasTensor`s, or anything else as it is.
    """
    backend = keras.backend.backend()
    if backend not in _BACKENDS:
        raise NotImplementedError(f"Keras runs on {backend}: expected {', '.join(_BACKENDS)}")
    return _BACKENDS[backend](model, variables, args, kwargs)


def _is_array(value: Any) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype")


def _shape_and_dtype(value: Any) -> tuple[tuple[int, ...], str]:
    return tuple(value.shape), keras.backend.standardize_dtype(value.dtype)


def _on_tensorflow(
    model: Any, variables: Sequence[Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Traced:
    import tensorflow as tf

    from downslope.grouping import tensorflow

    def spec(value: Any) -> Any:
        return tf.TensorSpec(*_shape_and_dtype(value)) if _is_array(value) else value

    def call(*args: Any, **kwargs: Any) -> Any:
        with keras.StatelessScope():
            return model(*args, **kwargs)

    args, kwargs = tree.map_structure(spec, (args, kwargs))
    with tf.init_scope():  # outside the graph that a training step may be making
        return tensorflow.follow(call, [v._value for v in variables], args, kwargs)


def _on_jax(model: Any, variables: Sequence[Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Traced:
    import jax

    from downslope.grouping.jax import follow as follow_jaxpr

    def shaped(value: Any) -> Any:
        return jax.ShapeDtypeStruct(*_shape_and_dtype(value))  # type: ignore[no-untyped-call]

    given = tree.flatten((args, kwargs))
    traced = [k for k, v in enumerate(given) if _is_array(v)]

    def call(leaves: list[Any], arrays: list[Any]) -> Any:
        values = {**dict(enumerate(given)), **dict(zip(traced, arrays, strict=True))}
        some_args, some_kwargs = tree.pack_sequence_as((args, kwargs), list(values.values()))
        with keras.StatelessScope(state_mapping=list(zip(variables, leaves, strict=True))):
            out = model(*some_args, **some_kwargs)
        return [t for t in tree.flatten(out) if _is_array(t)]

    return follow_jaxpr(call, [shaped(v) for v in variables], [shaped(given[k]) for k in traced])


def _on_torch(model: Any, variables: Sequence[Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Traced:
    from downslope.grouping.torch import follow as follow_calls

    def tensor(value: Any) -> Any:
        if isinstance(value, keras.KerasTensor):
            return keras.ops.zeros(*_shape_and_dtype(value))
        return keras.ops.convert_to_tensor(value) if _is_array(value) else value

    args, kwargs = tree.map_structure(tensor, (args, kwargs))
    others = [v for v in model.variables if all(v is not mine for mine in variables)]
    with keras.StatelessScope():
        own, constants = [v.value for v in variables], [v.value for v in others]
        return follow_calls(model, own, constants, args, kwargs)


_BACKENDS: dict[str, Callable[[Any, Sequence[Any], tuple[Any, ...], dict[str, Any]], Traced]] = {
    "tensorflow": _on_tensorflow,
    "jax": _on_jax,
    "torch": _on_torch,
}
