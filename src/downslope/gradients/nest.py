"""How a tree of arrays is nested: taken apart into its leaves, and put together of others.

A node is a dict, list or tuple; None, which holds nothing; or what JAX knows as one, as a dataclass or a
module that is registered there. Everything else is a leaf.
"""

from __future__ import annotations

import copy
import sys
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from downslope.errors import UsageError, a_type

Tree: TypeAlias = Any
"""A leaf, or a node of trees."""

_OWN = (dict, OrderedDict, defaultdict, list, tuple)


@dataclass(frozen=True)
class Nest:
    """A leaf, or a node and its parts; it knows no arrays.

    Attributes:
        kind: the type of a node, or None of a leaf.
        keys: of the parts: a dict's own, else how each is written after the node, as "[0]" or ".w".
        parts: the nests in order.
        registered: how JAX puts the node together, where it is one of JAX's own.
        empty: of a dict, one of its kind.

    """

    kind: Any = None
    keys: tuple[Any, ...] = ()
    parts: tuple[Nest, ...] = ()
    registered: Any = None
    empty: Any = field(default=None, compare=False, repr=False)

    @property
    def has_registered(self) -> bool:
        """Whether there is a node that JAX alone knows."""
        return self.registered is not None or any(part.has_registered for part in self.parts)

    def made_of(self, leaves: Iterator[Any]) -> Tree:
        """Return the tree of such leaves."""
        if self.kind is None:
            return next(leaves)
        parts = [part.made_of(leaves) for part in self.parts]
        if self.registered is not None:
            return self.registered.unflatten(parts)
        if self.kind is type(None):
            return None
        if issubclass(self.kind, dict):
            made = copy.copy(self.empty)
            made.update(zip(self.keys, parts, strict=True))
            return made
        return self.kind(*parts) if hasattr(self.kind, "_fields") else self.kind(parts)

    def leaves_of(self, tree: Tree, name: str, like: str) -> list[Any]:
        """Return the leaves of a tree that is nested as this one, whatever stands in their place.

        Args:
            tree: the other.
            name: what it is called in the error.
            like: what this one is called there.

        Raises:
            UsageError: it is nested otherwise.

        """
        return list(self._leaves_of(tree, name, f"{name} is not nested as {like}"))

    def _leaves_of(self, tree: Tree, name: str, wrong: str) -> Iterator[Any]:
        if self.kind is None:
            yield tree
            return
        if self.kind is type(None):
            return
        kind, found = type(tree), _opened(tree)
        dicts = issubclass(kind, dict) and issubclass(self.kind, dict) and self.registered is None
        if found is None or not (kind is self.kind or dicts):
            expected = "a dict" if issubclass(self.kind, dict) else f"a {self.kind.__name__}"
            raise UsageError(f"{wrong}: {name} is {a_type(tree)}, expected {expected}")
        keys, parts, _ = found
        known = dict(zip(keys, parts, strict=True))
        if known.keys() != set(self.keys):
            raise UsageError(f"{wrong}: {name} has {_listed(keys)}, expected {_listed(self.keys)}")
        for key, part in zip(self.keys, self.parts, strict=True):
            yield from part._leaves_of(known[key], name + _written(key, self.kind, self.registered), wrong)


def nest_of(
    tree: Tree, name: str = "", is_leaf: Callable[[Any], bool] = lambda _: False
) -> tuple[Nest, list[tuple[str, Any]]]:
    """Return the nest of a tree and its leaves, each with where it is, as `x0['w'][0]` of the tree x0.

    >>> nest, leaves = nest_of({"w": [1, 2], "b": None}, "x0")
    >>> leaves
    [("x0['w'][0]", 1), ("x0['w'][1]", 2)]
    >>> nest.made_of(iter("ab"))
    {'w': ['a', 'b'], 'b': None}

    """
    found = None if is_leaf(tree) else _opened(tree)
    if found is None:
        return Nest(), [(name, tree)]
    keys, parts, registered = found
    made = [
        nest_of(part, name + _written(key, type(tree), registered), is_leaf)
        for key, part in zip(keys, parts, strict=True)
    ]
    nests = tuple(nest for nest, _ in made)
    empty = None
    if isinstance(tree, dict):
        empty = copy.copy(tree)
        empty.clear()
    nest = Nest(type(tree), tuple(keys), nests, registered, empty)
    return nest, [leaf for _, leaves in made for leaf in leaves]


def leaves_of(tree: Tree, is_leaf: Callable[[Any], bool] = lambda _: False) -> list[Any]:
    """Return the leaves of a tree."""
    return [leaf for _, leaf in nest_of(tree, is_leaf=is_leaf)[1]]


def _opened(tree: Tree) -> tuple[Sequence[Any], Sequence[Any], Any] | None:
    """Return keys and parts of a node, and how JAX puts it together if it does; None of a leaf."""
    named = isinstance(tree, tuple) and hasattr(tree, "_fields")
    if type(tree) not in _OWN and not named and tree is not None:
        jax = sys.modules.get("jax")
        if jax is not None and not jax.tree_util.all_leaves([tree]):
            pairs, treedef = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda part: part is not tree)
            return [jax.tree_util.keystr(path) for path, _ in pairs], [part for _, part in pairs], treedef
    if isinstance(tree, dict):
        return list(tree), list(tree.values()), None
    if isinstance(tree, (list, tuple)):
        return [f"[{i}]" for i in range(len(tree))], tree, None
    return ((), (), None) if tree is None else None


def _written(key: Any, kind: type, registered: Any) -> str:
    """Return how a part is written after its node."""
    return f"[{key!r}]" if issubclass(kind, dict) and registered is None else key


def _listed(keys: Sequence[Any]) -> str:
    return f"the parts {', '.join(map(str, keys))}" if keys else "no parts"
