"""Partition of a plain `tf.Module`: its graph is traced once, and the policy reads what it shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import tensorflow as tf

from downslope.errors import UsageError, one_line
from downslope.grouping.facts import ModelFacts, ParameterFacts
from downslope.grouping.flow.info import RAW
from downslope.grouping.flow.uses import Uses
from downslope.grouping.overrides import Overrides, applied
from downslope.grouping.partition import Partition
from downslope.grouping.policy import assign
from downslope.grouping.tensorflow.walk import Walk

__all__ = ["follow", "named_variables", "partition"]


def partition(
    module: Any,
    *example_inputs: Any,
    overrides: Overrides | None = None,
    heads: Literal["fused", "split"] = "fused",
    **example_kwargs: Any,
) -> Partition:
    """Say which rule each variable of a `tf.Module` gets, and why, from the graph of one call.

    Args:
        module: called as `module(*example_inputs, **example_kwargs)`; nothing is computed.
        *example_inputs: tensors, arrays or `tf.TensorSpec`s.
        overrides: as in `downslope.keras.partition`.
        heads: likewise.
        **example_kwargs: keyword arguments of the module.

    Raises:
        UsageError: a module without variables, or that cannot be traced with these inputs; an
            override that matches nothing.

    """
    named = named_variables(module)
    if not named:
        raise UsageError(f"{type(module).__name__} has no variables: there is nothing to group")
    try:
        uses, depth = follow(module, list(named.values()), example_inputs, example_kwargs)
    except Exception as error:
        n = len(example_inputs) + len(example_kwargs)
        raise UsageError(
            f"{type(module).__name__} could not be traced with {n} inputs: {one_line(error)}"
        ) from error
    parameters = tuple(
        ParameterFacts(name, tuple(v.shape), uses.of(k), v.trainable)
        for k, (name, v) in enumerate(named.items())
    )
    found = assign(ModelFacts(parameters, depth), split_heads=heads == "split")
    return Partition(applied(found, overrides or {}, lambda _: None), named)


def named_variables(module: Any) -> dict[str, Any]:
    """Return the variables of a module by the path of attributes that leads to each."""
    paths = module._flatten(
        predicate=lambda v: isinstance(v, tf.Variable), with_path=True, expand_composites=False
    )
    return {"/".join(str(part) for part in path): v for path, v in paths}


def follow(
    call: Callable[..., Any], variables: Sequence[Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Uses, int]:
    """Return all uses of variables in the graph of a call, and the depth of the deepest output."""
    concrete = tf.function(lambda *a, **k: call(*a, **k)).get_concrete_function(*args, **kwargs)
    graph = concrete.graph
    uses = Uses(tuple(v.shape) for v in variables)
    numbers = {id(own.handle): k for k, v in enumerate(variables) for own in getattr(v, "values", (v,))}
    walk = Walk(uses)
    captured = set()
    for outside, inside in graph.captures:
        captured.add(inside.name)
        if id(outside) in numbers:
            walk.known[inside.name] = uses.parameter(numbers[id(outside)])
    walk.known.update({t.name: RAW for t in graph.inputs if t.name not in captured})
    walk.graph(graph)
    return uses, uses.finish([walk.get(t) for t in graph.outputs])
