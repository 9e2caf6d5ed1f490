"""A rule on a whole tree of parameters, in a loop that the user writes.

    state = rule.start(params)
    for batch in batches:
        params, state = rule.step(params, gradients(params, batch), state, lr=1e-2)

Parameters may be one array, or a nested dict, list or tuple of arrays of any framework that
`downslope.ops` knows. Nothing is written to: a step returns new parameters and a new state.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeAlias

from downslope.errors import a_type
from downslope.ops import ops_for
from downslope.ops.protocol import Array
from downslope.rules.checks import require_number
from downslope.rules.descent import step

Tree: TypeAlias = Any
"""An array, or a dict, list or tuple of trees."""


class LoopState(NamedTuple):
    """State of a loop: steps taken, and the rule's state of each parameter in the parameters' nesting."""

    t: int
    states: Tree


def start(rule: Any, params: Tree) -> LoopState:
    """Return the state before the first step; raise where a parameter does not fit."""
    for name, p in named(params):
        _check_parameter(rule, name, p)
    return LoopState(0, mapped(lambda _, p: rule.init(ops_for(p), p), params))


def advance(
    rule: Any,
    params: Tree,
    gradients: Tree,
    state: LoopState,
    *,
    lr: Any,
    weight_decay: float,
    cautious: bool,
) -> tuple[Tree, LoopState]:
    """Return parameters and state after one step; raise where something does not fit."""
    if not isinstance(state, LoopState):
        raise TypeError(f"state is {a_type(state)}: expected what start(params) or the last step returned")
    if isinstance(lr, (int, float)):
        require_number("lr", lr, 0.0)
    require_number("weight_decay", weight_decay, 0.0)
    for name, p in named(params):
        _check_parameter(rule, name, p)
    mapped(lambda name, *row: _check_row(rule, name, *row), params, gradients, state.states)
    t = state.t + 1

    def one(_: str, p: Array, g: Array, old: Any) -> tuple[Array, Any]:
        x = ops_for(p)
        d, new = rule.direction(x, g, old, p, t)
        return p + step(x, p, d, lr=lr, weight_decay=weight_decay, cautious=cautious), new

    both = mapped(one, params, gradients, state.states)
    after = mapped(lambda _, p, pair: pair[0], params, both)
    return after, LoopState(t, mapped(lambda _, p, pair: pair[1], params, both))


def named(tree: Tree, name: str = "") -> Iterator[tuple[str, Array]]:
    """Yield each array of a tree with its name, the keys joined by dots."""
    if not _is_branch(tree):
        yield name, tree
        return
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        yield from named(value, f"{name}.{key}" if name else str(key))


def mapped(f: Callable[..., Any], tree: Tree, *others: Tree, name: str = "") -> Tree:
    """Return `f(name, leaf, ...)` in the nesting of the first tree; raise where another's differs."""
    if not _is_branch(tree):
        return f(name, tree, *others)
    keys = list(tree) if isinstance(tree, dict) else range(len(tree))
    for other in others:
        if isinstance(tree, dict):
            same = isinstance(other, dict) and other.keys() == tree.keys()
        else:
            same = type(other) is type(tree) and len(other) == len(tree)
        if not same:
            found = sorted(map(str, other)) if isinstance(other, dict) else a_type(other)
            raise ValueError(
                f"{name or 'the tree'} has the parts {sorted(map(str, keys))} in the parameters, "
                f"in the gradients or the state {found}"
            )
    parts = [
        mapped(f, tree[k], *(o[k] for o in others), name=f"{name}.{k}" if name else str(k)) for k in keys
    ]
    if isinstance(tree, dict):
        made = {} if type(tree) is dict else copy.copy(tree)
        made.update(zip(keys, parts, strict=True))
        return made
    return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)


def _is_branch(tree: Tree) -> bool:
    return isinstance(tree, (dict, list, tuple))


def _check_parameter(rule: Any, name: str, p: Array) -> None:
    shown = name or "the parameter"
    ops_for(p)
    if "float" not in str(p.dtype):
        raise TypeError(f"{shown} has dtype {p.dtype}: expected a real floating dtype")
    if not rule.elementwise and len(p.shape) < 2:
        raise ValueError(
            f"{shown} has shape {tuple(p.shape)}: {type(rule).__name__} takes matrices "
            "(..., fan_out, fan_in); give vectors to another rule, as Adam"
        )


def _check_row(rule: Any, name: str, p: Array, g: Array, state: Any) -> None:
    if getattr(g, "shape", None) != p.shape:
        found = getattr(g, "shape", type(g).__name__)
        raise ValueError(
            f"the gradient of {name or 'the parameter'} has shape {found}, the parameter {p.shape}"
        )
    if type(state) is not rule.state_type:
        raise TypeError(
            f"the state of {name or 'the parameter'} is {a_type(state)}, expected "
            f"{rule.state_type.__name__}: it belongs to another rule than {type(rule).__name__}"
        )
