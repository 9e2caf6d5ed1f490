"""Partition of a Keras model: one call is traced by the backend, and the policy reads what it showed."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import keras

from downslope.errors import UsageError, a_type, one_line
from downslope.grouping.facts import Kind, ModelFacts, ParameterFacts, Use
from downslope.grouping.flow.uses import Uses
from downslope.grouping.keras.inputs import ways
from downslope.grouping.keras.owner import owners_of
from downslope.grouping.keras.trace import follow
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
    """Say which rule each variable of a Keras model gets, and why, from one call of the model.

    The backend traces the call: TensorFlow its graph and JAX its jaxpr, which computes nothing;
    PyTorch one forward pass, on zeros where no inputs are given. The model keeps its state. Layers
    may so be written in `keras.ops` or in the backend's own functions. Functional and sequential
    models know their inputs. A subclassed one knows the shapes it was built with; pass example
    inputs (arrays, or `keras.KerasTensor`s) where that is not enough.

    Args:
        model: a built model or layer; or a `tf.Module`, followed by example inputs.
        *example_inputs: what the model takes, one batch of it.
        overrides: what to assign whatever the trace shows: {pattern, path of a layer, layer or
            predicate: rule, role, MatrixView or Assignment}.
        heads: "split" cuts the query, key and value projections of attention into a matrix a head.
        **example_kwargs: keyword arguments of the model.

    Raises:
        UsageError: no variables yet; a model that cannot be traced with these inputs; an override
            that matches nothing.

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
        raise UsageError(f"{a_type(model)} is no Keras model: pass a built model, and example inputs if any")
    if not model.variables:
        raise UsageError(
            f"{model.name} has no variables yet: build it, or call it once, then group its variables"
        )
    trained = list(model.trainable_variables)
    others = [v for v in model.non_trainable_variables if keras.backend.is_float_dtype(v.dtype)]
    variables = [*trained, *others]
    uses, depth = _followed(model, variables, example_inputs, example_kwargs)
    met = [uses.of(k) for k in range(len(variables))]
    # A statistic that is only added or scaled with is no frozen weight.
    shown = [k for k in range(len(variables)) if k < len(trained) or any(map(_weighs, met[k]))]
    variables = [variables[k] for k in shown]
    parameters = [
        ParameterFacts(name, tuple(v.shape), met[k], k < len(trained))
        for k, name, v in zip(shown, _names(variables), variables, strict=True)
    ]
    return ModelFacts(tuple(parameters), depth), variables


def _weighs(use: Use) -> bool:
    return use.kind.multiplies or use.kind is Kind.LOOKUP


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


def _followed(
    model: Any, variables: Sequence[Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[Uses, int]:
    """Return what the first way of calling the model shows that works."""
    failed = "it was never called, so that the shapes of its inputs are unknown"
    for some_args, some_kwargs in ways(model, args, kwargs):
        try:
            return follow(model, variables, some_args, some_kwargs)
        except Exception as error:  # whatever a user's model raises when it is traced
            failed = one_line(error)
    raise UsageError(
        f"{model.name} could not be traced ({failed}): pass one batch after the model, as you would call it"
    )


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
