"""Partition of a tree of parameters in JAX: the function is traced once, and its jaxpr is read.

Nothing is computed: a jaxpr says exactly which axes each `dot_general` and each convolution sums
over, so Flax, Equinox, Haiku and hand-written trees are all alike, and shapes
(`jax.ShapeDtypeStruct`) do in the place of arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import GetAttrKey, keystr, tree_flatten_with_path

from downslope.errors import UsageError, a_type, one_line
from downslope.grouping.facts import ModelFacts, ParameterFacts
from downslope.grouping.flow.info import RAW
from downslope.grouping.flow.uses import Uses
from downslope.grouping.jax.walk import Walk
from downslope.grouping.overrides import Overrides, applied
from downslope.grouping.partition import Partition
from downslope.grouping.policy import assign

__all__ = ["facts", "follow", "name_of", "partition"]


def partition(
    fun: Callable[..., Any],
    params: Any,
    *args: Any,
    overrides: Overrides | None = None,
    heads: Literal["fused", "split"] = "fused",
    **kwargs: Any,
) -> Partition:
    """Say which rule each parameter of a tree gets, and why, from one trace of a function.

    Args:
        fun: a loss or a forward pass, called as `fun(params, *args, **kwargs)`; it is traced, not run.
        params: the tree of parameters that will be optimized, of arrays or `jax.ShapeDtypeStruct`s.
        *args: one batch, and whatever else the function takes.
        overrides: what to assign whatever the trace shows: {pattern, path or predicate: rule, role,
            MatrixView or Assignment}. Names are paths joined by dots, as "dense.kernel".
        heads: "split" cuts the query, key and value projections of attention into a matrix a head.
        **kwargs: further arguments of the function.

    Raises:
        UsageError: no parameters; a leaf that is not real floating; a function that cannot be traced
            with these arguments; an override that matches nothing.

    >>> def apply(params, x):
    ...     for layer in ("first", "second"):
    ...         x = jnp.tanh(x @ params[layer]["kernel"] + params[layer]["bias"])
    ...     return x @ params["head"]
    >>> layer = {"kernel": jnp.zeros((8, 8)), "bias": jnp.zeros(8)}
    >>> params = {"first": layer, "second": layer, "head": jnp.zeros((8, 4))}
    >>> p = partition(apply, params, jnp.zeros((2, 8)))
    >>> p["second.kernel"].role.value, p["second.kernel"].view.outputs, p["head"].role.value
    ('hidden', (1,), 'output')

    """
    if heads not in ("fused", "split"):
        raise UsageError(f"heads = {heads!r}: expected 'fused' or 'split'")
    found = assign(facts(fun, params, *args, **kwargs), split_heads=heads == "split")
    pairs, _ = tree_flatten_with_path(params)
    own = {name_of(path): leaf for path, leaf in pairs}
    return Partition(applied(found, overrides or {}, lambda path: None), own)


def facts(fun: Callable[..., Any], params: Any, *args: Any, **kwargs: Any) -> ModelFacts:
    """Return what one trace of a function shows of each leaf of its first argument."""
    require_function(fun)
    treedef: Any
    pairs, treedef = tree_flatten_with_path(params)
    names, leaves = [name_of(path) for path, _ in pairs], [leaf for _, leaf in pairs]
    if not leaves:
        raise UsageError("the tree has no parameters: there is nothing to group")
    for name, leaf in zip(names, leaves, strict=True):
        dtype = getattr(leaf, "dtype", None)
        if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
            what = f"{a_type(leaf)}" if dtype is None else f"of dtype {dtype}"
            raise UsageError(
                f"{name or 'params'} is {what}: expected a tree of real floating arrays, the trainable part "
                "of the model alone"
            )
    structure: Any
    given, structure = jax.tree.flatten((args, kwargs))
    traced = [k for k, v in enumerate(given) if hasattr(v, "shape") and hasattr(v, "dtype")]

    def call(params: list[Any], arrays: list[Any]) -> Any:
        values = {**dict(enumerate(given)), **dict(zip(traced, arrays, strict=True))}
        positional, named = structure.unflatten(values.values())
        returned = fun(treedef.unflatten(params), *positional, **named)
        _require_no_tree_like(returned, treedef, leaves)
        return returned

    try:
        uses, depth = follow(call, leaves, [given[k] for k in traced])
    except UsageError:
        raise
    except Exception as error:
        shown = ", ".join(["params", *map(_brief, args), *(f"{k}={_brief(v)}" for k, v in kwargs.items())])
        raise UsageError(f"fun({shown}) cannot be traced: {one_line(error)}") from error
    found = (ParameterFacts(n, uses.shapes[k], uses.of(k)) for k, n in enumerate(names))
    return ModelFacts(tuple(found), depth)


def require_function(fun: Any) -> None:
    """Raise UsageError unless this may be a function of parameters: not where it holds them itself."""
    kind = type(fun).__name__
    if not callable(fun):
        raise UsageError(
            f"{kind} is no function: expected partition(fun, params, *batch), "
            "where fun(params, *batch) is a loss or a forward pass"
        )
    modules = {base.__module__ for base in type(fun).__mro__}
    if any(name.startswith("flax.linen") for name in modules) and getattr(fun, "scope", None) is None:
        raise UsageError(
            f"{kind} is a Linen module: expected a function of its parameters, as "
            'partition(lambda p, x: model.apply({"params": p}, x), variables["params"], x)'
        )
    holder = getattr(fun, "__self__", fun)  # a model's method is no better than the model
    if isinstance(fun, jax.tree_util.Partial) or not any(map(_is_matrix, jax.tree.leaves(holder))):
        return
    kind, modules = type(holder).__name__, {base.__module__ for base in type(holder).__mro__}
    if any(name.startswith("flax.nnx") for name in modules):
        way = (
            "graph, params, rest = nnx.split(model, nnx.Param, ...); "
            "partition(lambda p, x: nnx.merge(graph, p, rest, copy=True)(x), params, x)"
        )
    elif any(name.startswith("equinox") for name in modules):
        way = (
            "params, static = eqx.partition(model, eqx.is_inexact_array); "
            "partition(lambda p, x: eqx.combine(p, static)(x), params, x)"
        )
    else:
        way = "partition(fun, params, x)"
    raise UsageError(f"{kind} holds its own parameters: expected a function of them, as {way}")


def _is_matrix(leaf: Any) -> bool:
    array = isinstance(leaf, (jax.Array, np.ndarray, jax.ShapeDtypeStruct))
    return array and jnp.issubdtype(leaf.dtype, jnp.floating) and len(leaf.shape) > 1


def _require_no_tree_like(returned: Any, treedef: Any, leaves: Sequence[Any]) -> None:
    """Raise UsageError where a function returns what is like its parameters: a gradient is no model."""
    if jax.tree_util.treedef_is_leaf(treedef):
        return

    def alike(tree: Any) -> bool:
        found, own = jax.tree.flatten(tree)
        return own == treedef and [jnp.shape(a) for a in found] == [tuple(a.shape) for a in leaves]

    if any(map(alike, jax.tree.leaves(returned, is_leaf=alike))):
        raise UsageError(
            "fun returns a tree like params, their gradient or new parameters: expected a loss or a forward "
            "pass alone; leave out jax.grad, or what else makes that tree"
        )


def follow(
    call: Callable[[list[Any], list[Any]], Any], leaves: Sequence[Any], arrays: Sequence[Any]
) -> tuple[Uses, int]:
    """Return all uses of leaves in the jaxpr of a call, and the depth of its deepest output."""
    closed = jax.make_jaxpr(call)(list(leaves), list(arrays))
    uses = Uses(tuple(leaf.shape) for leaf in leaves)
    inputs = [uses.parameter(k) for k in range(len(leaves))]
    inputs += [RAW] * (len(closed.jaxpr.invars) - len(inputs))
    return uses, uses.finish(Walk(uses).jaxpr(closed, inputs))


def name_of(path: tuple[Any, ...]) -> str:
    """Return the name of a leaf: its path joined by dots, without the `value` of a Flax NNX variable.

    >>> name_of((jax.tree_util.DictKey("dense"), GetAttrKey("kernel"), GetAttrKey("value")))
    'dense.kernel'

    """
    if len(path) > 1 and path[-1] == GetAttrKey("value"):
        path = path[:-1]
    return keystr(path, simple=True, separator=".")


def _brief(value: Any) -> str:
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{value.dtype}{list(value.shape)}"
    if isinstance(value, (int, float, str, bool, type(None))):
        return repr(value)
    return type(value).__name__
