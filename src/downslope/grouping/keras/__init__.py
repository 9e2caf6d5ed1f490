"""Partition of a Keras model: its graph is followed symbolically, and the policy reads what it showed."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import keras
from keras import tree

from downslope.errors import UsageError, one_line
from downslope.grouping.facts import ModelFacts, ParameterFacts
from downslope.grouping.keras.owner import owners_of
from downslope.grouping.keras.trace import Trace
from downslope.grouping.overrides import Overrides, applied
from downslope.grouping.partition import Partition
from downslope.grouping.policy import assign

__all__ = ["facts", "partition", "partition_of_variables"]


def partition(
    model: Any,
    *example_inputs: Any,
    overrides: Overrides | None = None,
    heads: Literal["fused", "split"] = "fused",
    **example_kwargs: Any,
) -> Partition:
    """Say which rule each variable of a Keras model gets, and why, from the model's graph.

    Nothing is computed: the model is called on symbolic tensors. Functional and sequential models
    know their inputs. A subclassed one knows the shapes it was built with; pass example inputs
    (arrays, or `keras.KerasTensor`s) where that is not enough.

    Args:
        model: a built model or layer; or a `tf.Module`, followed by example inputs.
        *example_inputs: what the model takes; only shapes and dtypes are read.
        overrides: what to assign whatever the trace shows: {pattern, path of a layer, layer or
            predicate: rule, role, MatrixView or Assignment}.
        heads: "split" cuts the query, key and value projections of attention into a matrix a head.
        **example_kwargs: keyword arguments of the model.

    Raises:
        UsageError: no variables yet, or an override that matches nothing.

    Warns:
        UserWarning: the model or a layer in it uses functions that are not Keras's, so that its
            parts were taken in the order in which they were made.

    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(32, "relu"),
    ...                           keras.layers.Dense(32, "relu"), keras.layers.Dense(4)])
    >>> [a.role.value for a in partition(model) if len(a.shape) == 2]
    ['input', 'hidden', 'output']

    """
    if _is_tensorflow_module(model):
        from downslope.grouping import tensorflow

        return tensorflow.partition(
            model, *example_inputs, overrides=overrides, heads=heads, **example_kwargs
        )
    if heads not in ("fused", "split"):
        raise UsageError(f"heads = {heads!r}: expected 'fused' or 'split'")
    found, variables = facts(model, *example_inputs, **example_kwargs)
    assigned = assign(found, split_heads=heads == "split")
    named = {p.name: v for p, v in zip(found.parameters, variables, strict=True)}
    return Partition(applied(assigned, _by_pattern(overrides or {}, named), lambda _: None), named)


def partition_of_variables(
    variables: Sequence[Any],
    *,
    overrides: Overrides | None = None,
    heads: Literal["fused", "split"] = "fused",
    optimizer: Any = None,
) -> Partition:
    """Say which rule each of these variables gets: the living models that own them are traced.

    Raises:
        UsageError: no model owns one of the variables.

    """
    parts, named = [], {}
    for owner, own in owners_of(variables, optimizer):
        found, theirs = facts(owner)
        for a, v in zip(assign(found, split_heads=heads == "split"), theirs, strict=True):
            if any(v is mine for mine in own):
                parts.append(a)
                named[a.name] = v
    return Partition(applied(parts, _by_pattern(overrides or {}, named), lambda _: None), named)


def facts(model: Any, *example_inputs: Any, **example_kwargs: Any) -> tuple[ModelFacts, list[Any]]:
    """Return what the model's graph shows of each variable, and the variables in the same order."""
    if not isinstance(model, keras.Layer):
        raise UsageError(
            f"a {type(model).__name__} is no Keras model: pass a built model, and example inputs if any"
        )
    if not model.variables:
        raise UsageError(
            f"{model.name} has no variables yet: build it, or call it once, then group its variables"
        )
    trace = _followed(model, example_inputs, example_kwargs)
    if trace.unseen:
        names = ", ".join(f"{name} ({why})" for name, why in trace.unseen[:3])
        warnings.warn(
            f"could not follow the data inside {names}: its layers were taken in the order in "
            "which they were made. Write it with keras.ops, or check the partition and pass overrides",
            stacklevel=3,
        )
    trained = list(model.trainable_variables)
    frozen = [
        v for v in model.non_trainable_variables if any(u.kind.multiplies or u.inputs for u in trace.of(v))
    ]
    parameters = [
        ParameterFacts(name, tuple(v.shape), trace.of(v), any(v is t for t in trained))
        for name, v in zip(_names([*trained, *frozen]), [*trained, *frozen], strict=True)
    ]
    return ModelFacts(tuple(parameters), trace.depth), [*trained, *frozen]


def _is_tensorflow_module(model: Any) -> bool:
    if isinstance(model, keras.Layer) or "tensorflow" not in sys.modules:
        return False
    import tensorflow as tf

    return isinstance(model, tf.Module)


def _names(variables: Sequence[Any]) -> list[str]:
    """Return the variables' paths; where two are the same, the later ones are numbered."""
    seen: dict[str, int] = {}
    names = []
    for v in variables:
        seen[v.path] = seen.get(v.path, 0) + 1
        names.append(v.path if seen[v.path] == 1 else f"{v.path}#{seen[v.path]}")
    return names


def _followed(model: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Trace:
    """Return the trace of the first way of calling the model that works."""
    failed = "it was never called, so that the shapes of its inputs are unknown"
    for some_args, some_kwargs in _ways(model, args, kwargs):
        trace = Trace()
        try:
            trace.model(model, some_args, some_kwargs)
        except Exception as error:  # whatever a user's model raises when it meets a symbolic tensor
            failed = one_line(error)
        else:
            return trace
    trace = Trace()
    trace.in_order(model)
    trace.unseen = [(model.name, failed)]
    return trace


def _ways(
    model: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    """Return ways of calling a model symbolically, the most faithful first."""
    if args or kwargs:
        return [(tree.map_structure(_like, args), tree.map_structure(_like, dict(kwargs)))]
    if getattr(model, "inputs", None):
        given = model.inputs[0] if isinstance(model, keras.Sequential) else model.input
        return [
            ((tree.map_structure(lambda t, n=n: _tensor(t.shape, t.dtype, n), given),), {})
            for n in (None, 64)
        ]
    config = model.get_build_config() or {}
    ways: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    for dtype in (keras.config.floatx(), "int32"):
        for n in (None, 64):
            if shape := config.get("input_shape"):
                ways.append(((_of_shapes(shape, dtype, n),), {}))
            elif shapes := config.get("shapes_dict"):
                named = {k.removesuffix("_shape"): _of_shapes(s, dtype, n) for k, s in shapes.items()}
                ways.append(((), named))
    return ways


def _like(value: Any) -> Any:
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return keras.KerasTensor(tuple(value.shape), keras.backend.standardize_dtype(value.dtype))
    return value


def _tensor(shape: Sequence[int | None], dtype: str, unknown: int | None) -> Any:
    """Return a symbolic tensor with a batch of two and, for any other unknown axis, `unknown`."""
    sizes = [2 if axis == 0 and n is None else unknown if n is None else n for axis, n in enumerate(shape)]
    return keras.KerasTensor(tuple(sizes), dtype)


def _of_shapes(shape: Any, dtype: str, unknown: int | None) -> Any:
    if isinstance(shape, Mapping):
        return {k: _of_shapes(s, dtype, unknown) for k, s in shape.items()}
    if all(n is None or isinstance(n, int) for n in shape):
        return _tensor(shape, dtype, unknown)
    return type(shape)(_of_shapes(s, dtype, unknown) for s in shape)


def _by_pattern(overrides: Overrides, named: Mapping[str, Any]) -> list[tuple[Any, Any]]:
    """Return overrides whose keys are patterns on names: a layer, or the path of one, means all in it."""
    pairs = []
    for key, value in overrides.items() if isinstance(overrides, Mapping) else overrides:
        if isinstance(key, keras.Layer):
            inside = {id(v) for v in key.variables}
            pairs += [(name, value) for name, v in named.items() if id(v) in inside] or [(key.name, value)]
        elif isinstance(key, str) and any(name.startswith(f"{key}/") for name in named):
            pairs.append((f"{key}/*", value))
        else:
            pairs.append((key, value))
    return pairs
