"""What `muon` does with each leaf of a tree: which rule, which view, whether it decays.

A plan is made from a `Partition` or from a tree of `MatrixView`s, both by name, and is laid over
a tree of parameters each time one comes along: a parameter that the plan does not know, one that
is missing, or one of another shape is an error. Frozen ones may be missing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax.tree_util import tree_flatten_with_path

from downslope.grouping.jax import name_of
from downslope.grouping.partition import Partition, Role
from downslope.grouping.view import MatrixView
from downslope.jax.leaves import in_words, is_masked


@dataclass(frozen=True)
class Item:
    """What to do with one parameter; `shape` is None where any that fits the view will do."""

    rule: str
    view: MatrixView | None
    vector: bool
    shape: tuple[int, ...] | None = None

    def decays(self, ndim: int) -> bool:
        """Whether weight decay acts: not on gains and biases."""
        return not (self.vector or (self.shape is None and ndim < 2))


def plan_of(partition: Any) -> dict[str, Item]:
    """Return what to do with each parameter, by name.

    Raises:
        TypeError: neither a `Partition` nor a tree of `MatrixView`s and None.
        ValueError: nothing in it gets Muon.

    """
    if isinstance(partition, Partition):
        plan = {a.name: Item(a.rule, a.view, a.role is Role.VECTOR, a.shape) for a in partition}
    else:
        plan = _plan_of_views(partition)
    if not any(item.rule == "muon" for item in plan.values()):
        raise ValueError(
            "no parameter gets Muon: expected at least one MatrixView, or use downslope.jax.adamw"
        )
    return plan


def _plan_of_views(tree: Any) -> dict[str, Item]:
    pairs, _ = tree_flatten_with_path(tree, is_leaf=lambda node: node is None or isinstance(node, MatrixView))
    plan = {}
    for path, view in pairs:
        if not (view is None or isinstance(view, MatrixView)):
            raise TypeError(
                f"{name_of(path) or 'partition'} has type {type(view).__name__}: expected a Partition, as "
                "downslope.jax.partition(...) returns it, or a tree like the parameters with a MatrixView "
                "for each hidden matrix and None elsewhere"
            )
        plan[name_of(path)] = Item("adamw" if view is None else "muon", view, False)
    return plan


def lay(plan: Mapping[str, Item], tree: Any) -> list[Item]:
    """Return the item of each leaf of a tree of parameters or gradients.

    Raises:
        ValueError: its parameters are not those of the plan, by name or by shape.

    """
    pairs, _ = tree_flatten_with_path(tree, is_leaf=lambda node: node is None or is_masked(node))
    nothing = [name_of(path) for path, leaf in pairs if leaf is None]  # no parameter, as the view says too
    pairs = [(path, leaf) for path, leaf in pairs if leaf is not None]
    masked = [name_of(path) for path, leaf in pairs if is_masked(leaf)]  # leaves, or whole branches
    leaves = {name_of(path): leaf for path, leaf in pairs if not is_masked(leaf)}
    if len(leaves) + len(masked) < len(pairs):
        twice = [name for name, n in Counter(name_of(path) for path, _ in pairs).items() if n > 1]
        raise ValueError(f"the tree has two parameters called {twice[0]}: rename one of them")
    if not jax.tree.leaves(tree):  # optax.tree.map_params comes with a tree that holds no arrays
        return []
    unknown = [name for name in leaves if name not in plan]
    gone = [*masked, *(name for name in nothing if name in plan and plan[name].view is None)]
    missing = [
        name
        for name, item in plan.items()
        if item.rule != "none" and name not in leaves and not _within(name, gone)
    ]
    if unknown or missing:
        parts = [f"has {in_words(unknown)}, which the partition lacks"] if unknown else []
        parts += [f"lacks {in_words(missing)}, which the partition has"] if missing else []
        frozen = ", and override what is not trained as 'frozen'" if missing else ""
        raise ValueError(
            f"the tree {', and '.join(parts)}: make the partition from the parameters that are "
            f"optimized{frozen}"
        )
    for name, leaf in leaves.items():
        _check_shape(name, plan[name], tuple(leaf.shape))
    return [plan[name] for name in leaves]


def _check_shape(name: str, item: Item, shape: tuple[int, ...]) -> None:
    if item.shape is not None and item.shape != shape:
        raise ValueError(f"{name} has shape {shape}, in the partition {item.shape}: make the partition anew")
    if item.shape is None and item.view is not None:
        try:
            item.view.check(shape)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error


def _within(name: str, branches: Sequence[str]) -> bool:
    return any(branch in ("", name) or name.startswith(branch + ".") for branch in branches)
