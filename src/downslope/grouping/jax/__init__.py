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
    if not callable(fun):
        raise UsageError(
            f"{type(fun).__name__} is no function: expected partition(fun, params, *batch), "
            "where fun(params, *batch) is a loss or a forward pass"
        )
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
        return fun(treedef.unflatten(params), *positional, **named)

    try:
        uses, depth = follow(call, leaves, [given[k] for k in traced])
    except Exception as error:
        shown = ", ".join(["params", *map(_brief, args), *(f"{k}={_brief(v)}" for k, v in kwargs.items())])
        raise UsageError(f"fun({shown}) cannot be traced: {one_line(error)}") from error
    found = (ParameterFacts(n, uses.shapes[k], uses.of(k)) for k, n in enumerate(names))
    return ModelFacts(tuple(found), depth)


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
