"""Trees of parameters as named leaves, what may be wrong with them, and rule states as trees.

A rule's state is kept as the rule's own NamedTuple with a tree of the parameters' structure in
each part, so that whatever maps over parameters (sharding, checkpoints, `optax.tree`) maps over
it. Where a parameter is not the rule's, the tree has `optax.MaskedNode()`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from itertools import compress
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec
from jax.tree_util import PyTreeDef, all_leaves, tree_flatten_with_path

from downslope.errors import a_type
from downslope.grouping.jax import name_of
from downslope.ops.jax import JaxOps
from downslope.ops.protocol import Array
from downslope.rules.descent import step
from downslope.rules.rule import Rule, State
from downslope.words import listed

OPS = JaxOps()


def as_optax(init: Any, update: Any) -> optax.GradientTransformation:
    """Return a transform whose `update` lets what optax hands on to all (`value=loss`) pass by."""
    return optax.with_extra_args_support(optax.GradientTransformation(_promoting(init), _promoting(update)))


def _promoting(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function in which dtypes and ranks mix, where the user's own code may be told to raise."""

    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            return function(*args, **kwargs)

    return run


def is_masked(node: Any) -> bool:
    """Whether a node stands where `optax.masked` took a parameter out."""
    return isinstance(node, optax.MaskedNode)


def named_leaves(tree: Any) -> tuple[list[str], list[Array], PyTreeDef]:
    """Return the leaves of a tree, their names (the path, joined by dots) and its structure."""
    pairs, treedef = tree_flatten_with_path(tree)
    return (
        [name_of(path) for path, _ in pairs],
        [leaf for _, leaf in pairs],
        treedef,
    )


def check_parameters(names: Sequence[str], leaves: Sequence[Any]) -> None:
    """Raise TypeError unless every leaf is an array of a real floating dtype of at least 16 bits."""
    for name, leaf in zip(names, leaves, strict=True):
        dtype = getattr(leaf, "dtype", None)
        if dtype is None or not jnp.issubdtype(dtype, jnp.floating) or dtype.itemsize < 2:
            what = a_type(leaf) if dtype is None else f"of dtype {dtype}"
            if dtype is not None and jnp.issubdtype(dtype, jnp.complexfloating):
                what += " (optax.contrib.split_real_and_imaginary steps it as two)"
            raise TypeError(
                f"{name or 'the parameter'} is {what}: expected an array of a real floating dtype of 16 "
                "bits or more. Pass the trainable part of the model alone, as "
                "`flax.nnx.state(model, flax.nnx.Param)` or "
                "`equinox.filter(model, equinox.is_inexact_array)` gives it, or mask it by optax.masked"
            )


def check_gradients(names: Sequence[str], grads: Sequence[Any], params: Sequence[Any] | None) -> None:
    """Raise unless every gradient is floating and has the shape of its parameter."""
    check_parameters([f"the gradient of {name}" for name in names], grads)
    for name, g, p in zip(names, grads, params or grads, strict=True):
        if g.shape != p.shape:
            raise ValueError(f"the gradient of {name} has shape {g.shape}, the parameter {p.shape}")


def flatten_like(treedef: PyTreeDef, tree: Any, what: str, wanted: Sequence[bool] | None = None) -> list[Any]:
    """Return the leaves of a tree, those `wanted`, that must have a given structure.

    Raises:
        ValueError: it has another.

    """
    try:
        parts = list(treedef.flatten_up_to(tree))
        parts = parts if wanted is None else list(compress(parts, wanted))
    except (ValueError, TypeError):  # whose text holds all arrays
        parts = [None]
    if not all_leaves(part for part in parts if not is_masked(part)):  # a branch stands for a leaf
        raise ValueError(
            f"{what} do not have the structure of the gradients: {_difference(treedef, tree)}; "
            "update takes (gradients, state, parameters)"
        )
    return parts


def parameters_of(updates: Any, params: Any) -> list[Any]:
    """Return the parameter of each gradient; where None stands for one, the parameters may have anything.

    So it is in Equinox, whose models hold functions beside the arrays that are trained.
    """
    grads, treedef = jax.tree.flatten(updates, is_leaf=lambda node: node is None)
    given = [g is not None for g in grads]
    return flatten_like(treedef, params, "the parameters", given)


def _difference(treedef: PyTreeDef, tree: Any) -> str:
    """Return in words where a tree departs from a structure."""
    wanted = list(named_leaves(treedef.unflatten(range(treedef.num_leaves)))[0])
    pairs, _ = tree_flatten_with_path(tree, is_leaf=is_masked)
    found = [name_of(path) for path, _ in pairs]
    parts = [
        f"{verb} {in_words(names)}"
        for verb, names in (
            ("has", [name for name in found if name not in wanted]),
            ("lacks", [name for name in wanted if name not in found]),
        )
        if names
    ]
    how = f"that {' and '.join(parts)}" if parts else "of the same names, but other kinds of nodes"
    return f"{a_type(tree)} {how}"


def in_words(names: Sequence[str]) -> str:
    """Return the first names of leaves; an array that is the whole tree has none."""
    return listed(name or "one array" for name in names)


def exact(dtype: Any) -> Any:
    """Return the dtype that steps of a parameter are computed and remembered in: float32 for 16 bits."""
    return jnp.promote_types(dtype, jnp.float32)


def in_exact(p: Any) -> Any:
    """Return what a state takes its shape, dtype and place from: a parameter or its `ShapeDtypeStruct`."""
    return p if p.dtype == exact(p.dtype) else jnp.zeros_like(p, exact(p.dtype))


def init_state(rule: Rule, leaves: Sequence[Array | None], treedef: PyTreeDef) -> State:
    """Return the state of a rule before the first step; None stands for a leaf that is not the rule's."""
    made = [None if p is None else rule.init(OPS, in_exact(p)) for p in leaves]
    return pack(rule, made, treedef)


def pack(rule: Rule, states: Sequence[State | None], treedef: PyTreeDef) -> State:
    """Return one state of trees, of one state a leaf."""
    parts: list[Any] = []
    empty: State = rule.init(OPS, jnp.zeros(1))
    for i, part in enumerate(empty):
        column = [optax.MaskedNode() if s is None else s[i] for s in states]
        parts.append(None if part is None else treedef.unflatten(column))
    return rule.state_type(*parts)


def unpack(
    rule: Rule,
    state: State,
    treedef: PyTreeDef,
    params: Sequence[Array | None],
    shapes: Mapping[str, Sequence[tuple[int, ...]]] | None = None,
) -> list[State]:
    """Return one state a leaf, of one state of trees; raise where it is another rule's or tree's.

    `shapes` has, by name, the shapes of a part that are not the parameters'.
    """
    name = type(rule).__name__
    if type(state) is not rule.state_type:
        raise TypeError(
            f"the state is {a_type(state)}, expected the {rule.state_type.__name__} that "
            f"this transform's init returns: it belongs to another rule than {name}"
        )
    columns: list[list[Any] | None] = []
    parts: State = state
    for field, part, wanted in zip(parts._fields, parts, rule.init(OPS, jnp.zeros(1)), strict=True):
        if (part is None) != (wanted is None):
            raise ValueError(
                f"the state {'lacks' if part is None else 'has'} {field}, which {name} with these options "
                f"{'needs' if part is None else 'does not keep'}: it was made with other options"
            )
        columns.append(None if part is None else flatten_like(treedef, part, f"the state's {field}"))
    rows = [rule.state_type(*(c if c is None else c[i] for c in columns)) for i in range(treedef.num_leaves)]
    for i, (row, p) in enumerate(zip(rows, params, strict=True)):
        for field, slot in zip(row._fields, row, strict=True):
            if p is None or slot is None:
                continue
            expected = shapes[field][i] if shapes and field in shapes else p.shape
            if getattr(slot, "shape", None) != expected:
                raise ValueError(
                    f"the state's {field} has {getattr(slot, 'shape', type(slot).__name__)} where the "
                    f"parameter has shape {p.shape}: it was made for other parameters"
                )
    return rows


def gathered(a: Array) -> Array:
    """Return an array that is whole on every device where its type says how it is spread.

    That is so on meshes with explicit axes only, where no product or join of pieces that are spread
    in different ways is defined. On others the compiler moves what it must.
    """
    if all(axes is None for axes in jax.typeof(a).sharding.spec):
        return a
    whole: Any = PartitionSpec  # untyped, as `reshard` is
    return _reshard(a, NamedSharding(jax.typeof(a).sharding.mesh, whole()))


def spread_like(original: Array, a: Array) -> Array:
    """Undo what `gathered` did to the original."""
    sharding = jax.typeof(original).sharding
    return a if all(axes is None for axes in sharding.spec) else _reshard(a, sharding)


def _reshard(a: Array, sharding: Any) -> Array:
    move: Any = jax.sharding.reshard
    return move(a, sharding)


def widened(g: Array, p: Array | None) -> tuple[Array, Array | None]:
    """Return a gradient and its parameter in the dtype that the step is computed in."""
    dtype = exact(g.dtype if p is None else jnp.promote_types(p.dtype, g.dtype))
    return g.astype(dtype), None if p is None else p.astype(dtype)


def kept(new: State, old: State) -> State:
    """Return a state in the dtypes that it was kept in."""
    return type(new)(*(n if n is None else n.astype(o.dtype) for n, o in zip(new, old, strict=True)))


def update_of(d: Array, g: Array, p: Array | None, lr: Any, weight_decay: Any, cautious: bool) -> Array:
    """Return what to add to a parameter, in the parameter's dtype, for a direction."""
    wide = None if p is None else p.astype(d.dtype)
    rate = jnp.asarray(lr, d.dtype) if isinstance(lr, jax.Array) else lr
    change = step(OPS, wide, d, lr=rate, weight_decay=weight_decay, cautious=cautious)
    return change.astype(g.dtype if p is None else p.dtype)
