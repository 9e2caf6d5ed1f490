"""The arguments of a watched call: which are traced, and which stay as they are."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import jax
import numpy as np

from downslope.errors import UsageError, a_type

_SCALARS = (bool, int, float, complex, np.generic)


class Arguments:
    """The leaves of a call's arguments, by their places.

    Attributes:
        tree: their structure.
        leaves: in order.

    """

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.leaves, self.tree = jax.tree.flatten((args, kwargs))
        self._types = [_type(leaf) for leaf in self.leaves]

    @cached_property
    def strange(self) -> frozenset[int]:
        """What cannot be traced: strings, functions and the like."""
        return frozenset(i for i, t in enumerate(self._types) if t is None)

    @cached_property
    def scalars(self) -> tuple[int, ...]:
        """What can be traced, though the function may want its value."""
        return tuple(
            i for i, v in enumerate(self.leaves) if isinstance(v, _SCALARS) and i not in self.strange
        )

    def key(self, kept: frozenset[int]) -> Any:
        """Return what a call with the same jaxpr has in common with this one."""
        return self.tree, tuple(
            _value(v) if i in kept else t
            for i, (v, t) in enumerate(zip(self.leaves, self._types, strict=True))
        )

    def traced(self, kept: frozenset[int]) -> list[Any]:
        """Return the leaves without those that stay as they are."""
        return [v for i, v in enumerate(self.leaves) if i not in kept]

    def jaxpr(self, fun: Callable[..., Any], kept: frozenset[int]) -> Any:
        """Return the jaxpr of `fun` as a function of the traced leaves, and the shape of its results."""

        def of_traced(*traced: Any) -> Any:
            rest = iter(traced)
            leaves = [v if i in kept else next(rest) for i, v in enumerate(self.leaves)]
            args, kwargs = jax.tree.unflatten(self.tree, leaves)
            return fun(*args, **kwargs)

        return jax.make_jaxpr(of_traced, return_shape=True)(*self.traced(kept))

    def wanted(self, fun: Callable[..., Any]) -> frozenset[int]:
        """Return the scalars that must stay as they are for `fun` to be traced.

        As few as may be, since it is compiled for each of their values.

        Raises:
            Exception: what `fun` raises of its own, with all of them as they are.

        """
        everything = self.strange.union(self.scalars)
        self.jaxpr(fun, everything)

        def least(kept: frozenset[int], doubtful: tuple[int, ...]) -> frozenset[int]:
            half = len(doubtful) // 2
            for part in (doubtful[:half], doubtful[half:]):
                try:
                    self.jaxpr(fun, kept.difference(part))
                    kept = kept.difference(part)
                except Exception:  # of whatever kind where a value is wanted
                    kept = least(kept, part) if len(part) > 1 else kept
            return kept

        return least(everything, self.scalars).difference(self.strange)


def _type(leaf: Any) -> Any:
    """Return the type of what can be traced, None for what cannot."""
    try:
        return jax.typeof(leaf), getattr(leaf, "weak_type", False)
    except TypeError:
        return None


def _value(leaf: Any) -> tuple[type, Any]:
    """Return the key of a leaf that stays as it is."""
    try:
        hash(leaf)
    except TypeError:
        raise UsageError(
            f"an argument is {a_type(leaf)}, neither an array nor hashable: let the function close over it"
        ) from None
    return type(leaf), leaf
