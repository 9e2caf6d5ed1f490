"""Muon on hidden matrices and AdamW on everything else, as one optax transform.

Of a parameter that Muon steps, the momentum is element-wise and stays in the parameter's shape.
What it leaves is seen through the parameter's view as matrices; those of one shape, whichever
parameters they come from, make one stack and are orthogonalised together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax

from downslope import rules
from downslope.jax.elementwise import require_state
from downslope.jax.hyper import Number, Schedule, check_rate, decay_of, is_array, make_rule, rate_at
from downslope.jax.leaves import (
    OPS,
    as_optax,
    check_gradients,
    check_parameters,
    exact,
    gathered,
    in_exact,
    init_state,
    kept,
    named_leaves,
    pack,
    parameters_of,
    spread_like,
    unpack,
    update_of,
    widened,
)
from downslope.jax.plan import Item, lay, plan_of
from downslope.native.jax import How, dtype_named, polars_of
from downslope.ops.protocol import Array
from downslope.rules.checks import require


class MuonState(NamedTuple):
    """State of `muon`: steps taken, and the state of each rule with a tree in each part."""

    count: Array
    muon: rules.muon.MuonState
    adamw: rules.adam.AdamState


def muon(
    partition: Any,
    lr: Number | Schedule,
    *,
    weight_decay: Number = 0.1,
    momentum: Number = 0.95,
    nesterov: bool = True,
    coefficients: str = "minimax",
    ns_steps: int | None = None,
    scale: str = "match_rms_adamw",
    normuon: bool = False,
    normuon_beta: Number = 0.95,
    momentum_warmup: int | None = None,
    momentum_start: Number = 0.85,
    ns_dtype: Any = "auto",
    betas: tuple[float, float] = (0.9, 0.95),
    eps: Number = 1e-8,
    cautious: bool = False,
    max_stack_bytes: int | None = None,
    fused: bool | None = None,
) -> optax.GradientTransformation:
    r"""Muon on hidden matrices and AdamW on everything else, under one learning rate.

    .. math::
        m \leftarrow \mu m + (1-\mu) g, \qquad
        p \leftarrow p - \eta\, (s\, \mathrm{polar}((1-\mu) g + \mu m) + \lambda p)

    With the default scale :math:`s = 0.2\sqrt{\max(n_{out}, n_{in})}` a step has the size of
    AdamW's, so one :math:`\eta` and one schedule serve both. Gains and biases are not decayed.
    The rules are `downslope.Muon` and `downslope.Adam`.

    Sources: Jordan et al., 2024; Liu et al., 2025, arXiv:2502.16982; NorMuon: Li et al., 2025,
    arXiv:2510.05491.

    Args:
        partition: what `downslope.jax.partition` returns; or a tree like the parameters with a
            `MatrixView` for each matrix that Muon steps and None elsewhere.
        lr: learning rate :math:`\eta`, a number of at least 0 or a schedule of the step count.
        weight_decay: :math:`\lambda`, at least 0, decoupled; where it is not 0, `update` needs the
            parameters.
        momentum: Muon's :math:`\mu` in [0, 1).
        nesterov: orthogonalise the look-ahead instead of the momentum.
        coefficients: "minimax", "polar_express" or "keller5".
        ns_steps: how many Newton-Schulz iterations; None is as many as the set is made for.
        scale: "match_rms_adamw", "original" or "spectral".
        normuon: even out the rows of each step by their running mean square (NorMuon).
        normuon_beta: decay of that mean, in [0, 1).
        momentum_warmup: over how many steps :math:`\mu` grows from `momentum_start`; None is none.
        momentum_start: in [0, 1).
        ns_dtype: what the iterations run in: float32, bfloat16 or float64, a dtype or its name; None is
            the parameter's own, at least float32; "auto" is bfloat16 on CPUs for which code is compiled and
            that multiply it fast, and the parameter's own elsewhere. bfloat16 is enough for training, and
            faster on GPUs and TPUs.
        betas: AdamW's.
        eps: AdamW's.
        cautious: decay only where it agrees with the step in sign.
        max_stack_bytes: size up to which matrices are gathered into one stack; None is 256 MiB.
        fused: None uses code compiled for the CPU, where a program runs on one; False never.
            `downslope.jax.engine` tells which it is.

    Raises:
        ValueError: a value outside its range; nothing that gets Muon; from `init` and `update`,
            a tree that is not the partition's.
        TypeError: neither a partition nor a tree of views; a leaf that is not real floating.

    >>> import jax.numpy as jnp
    >>> from downslope.grouping.view import MatrixView
    >>> params = {"kernel": jnp.zeros((2, 3)), "bias": jnp.zeros(3)}  # a kernel is (in, out) in Flax
    >>> tx = muon({"kernel": MatrixView(outputs=(1,), inputs=(0,)), "bias": None}, lr=0.1, weight_decay=0.0)
    >>> grads = {"kernel": jnp.eye(2, 3), "bias": jnp.ones(3)}
    >>> updates, state = tx.update(grads, tx.init(params))
    >>> [round(u, 6) for u in updates["bias"].tolist()]
    [-0.1, -0.1, -0.1]

    """
    fixed = {
        "ns_steps": ns_steps,
        "max_stack_bytes": max_stack_bytes,
        "normuon": normuon,
        "momentum_warmup": momentum_warmup,
        "ns_dtype": ns_dtype,
        "fused": fused,
    }
    for name, value in fixed.items():
        if is_array(value):
            raise TypeError(
                f"{name} is an array, but decides what is traced: expected a Python int "
                f"(optax.inject_hyperparams(muon, static_args={name!r}))"
            )
    limit = 1 << 28 if max_stack_bytes is None else max_stack_bytes
    require("max_stack_bytes", max_stack_bytes, limit > 0, "a positive number of bytes")
    check_rate(lr)
    require("fused", fused, fused is None or fused is False, "None or False")
    how = How(coefficients, ns_steps, dtype_named(ns_dtype))
    plan = plan_of(partition)
    own = {"momentum": momentum, "nesterov": nesterov, "coefficients": coefficients, "scale": scale}
    own |= {"ns_steps": ns_steps, "normuon": normuon, "normuon_beta": normuon_beta}
    own |= {"momentum_warmup": momentum_warmup or 0, "momentum_start": momentum_start}
    matrix_rule = make_rule(rules.Muon, **own)
    adam_rule = make_rule(rules.Adam, betas=betas, eps=eps)
    decay = decay_of(weight_decay)

    transform = _Muon(plan, matrix_rule, adam_rule, lr, decay, cautious, how, fused, limit)
    return as_optax(transform.init, transform.update)


@dataclass(frozen=True)
class _Muon:
    """The transform: what to do with each leaf, and the two rules."""

    plan: Any
    matrix_rule: rules.Muon
    adam_rule: rules.Adam
    lr: Number | Schedule
    decay: Any
    cautious: bool
    how: How
    fused: bool | None
    limit: int

    def init(self, params: Any) -> MuonState:
        """Return the state before the first step."""
        names, leaves, treedef = named_leaves(params)
        check_parameters(names, leaves)
        items = lay(self.plan, params)
        kinds = [item.rule for item in items]
        started = [start_of(self.matrix_rule, *row) for row in zip(items, leaves, strict=True)]
        return MuonState(
            jnp.zeros([], jnp.int32),
            pack(self.matrix_rule, started, treedef),
            init_state(self.adam_rule, only("adamw", kinds, leaves), treedef),
        )

    def update(self, updates: Any, state: Any, params: Any = None) -> tuple[Any, MuonState]:
        """Return the changes of the parameters and the next state."""
        names, grads, treedef = named_leaves(updates)
        if params is None and self.decay:
            raise ValueError("weight decay needs the parameters: call update(gradients, state, params)")
        leaves = [None] * len(grads) if params is None else parameters_of(updates, params)
        check_gradients(names, grads, None if params is None else leaves)
        items = lay(self.plan, updates)
        kinds = [item.rule for item in items]
        require_state(state, MuonState)
        shapes = {"row_square": [rows_of(*row) for row in zip(items, grads, strict=True)]}
        old = unpack(self.matrix_rule, state.muon, treedef, only("muon", kinds, grads), shapes)
        old_adam = unpack(self.adam_rule, state.adamw, treedef, only("adamw", kinds, grads))
        t = optax.safe_increment(state.count)
        stepped = {"muon": old, "adamw": old_adam}
        directions, new = self._directions(items, grads, leaves, stepped, t)
        changes = self._changes(items, grads, leaves, directions, rate_at(self.lr, state.count))
        return treedef.unflatten(changes), MuonState(
            t,
            pack(self.matrix_rule, only("muon", kinds, new), treedef),
            pack(self.adam_rule, only("adamw", kinds, new), treedef),
        )

    def _directions(
        self,
        items: Sequence[Item],
        grads: Sequence[Array],
        leaves: Sequence[Any],
        old: Mapping[str, Sequence[Any]],
        t: Array,
    ) -> tuple[dict[int, Array], list[Any]]:
        """Return the direction of each leaf that a rule steps, and the states after it."""
        new: list[Any] = [None] * len(grads)
        directions: dict[int, Array] = {}
        to_orthogonalize: dict[int, Array] = {}
        for i, (item, g, p) in enumerate(zip(items, grads, leaves, strict=True)):
            wide, wide_p = widened(g, p)
            if item.rule == "muon":
                before = old["muon"][i]
                to_orthogonalize[i], made = self.matrix_rule.momentum_of(OPS, wide, before, wide_p, t)
                new[i] = kept(made, before)
            elif item.rule == "adamw":
                before = old["adamw"][i]
                directions[i], averages = self.adam_rule.direction(OPS, wide, before, wide_p, t)
                new[i] = kept(averages, before)
        views = {i: items[i].view for i in to_orthogonalize}
        even = self.matrix_rule.normuon
        row_squares = {i: new[i].row_square for i in to_orthogonalize} if even else {}
        polars = partial(polars_of, how=self.how, fused=self.fused)
        directions |= orthogonal(self.matrix_rule, to_orthogonalize, views, row_squares, polars, self.limit)
        for i, row_square in row_squares.items():
            new[i] = new[i]._replace(row_square=row_square)
        return directions, new

    def _changes(
        self,
        items: Sequence[Item],
        grads: Sequence[Array],
        leaves: Sequence[Any],
        directions: dict[int, Array],
        rate: Any,
    ) -> list[Array]:
        """Return what is added to each leaf; nothing to what no rule steps."""
        changes = [jnp.zeros_like(g) for g in grads]
        for i, direction in directions.items():
            decay = self.decay if items[i].decays(grads[i].ndim) else 0.0
            changes[i] = update_of(direction, grads[i], leaves[i], rate, decay, self.cautious)
        return changes


def rows_of(item: Item, leaf: Array) -> tuple[int, ...]:
    """Return the shape of NorMuon's state of a leaf: one number a row of its matrices."""
    return () if item.rule != "muon" or item.view is None else (item.view.rows(leaf.shape),)


def start_of(rule: rules.Muon, item: Item, p: Array) -> Any:
    """Return the state of a leaf before the first step; None where another rule steps it."""
    if item.rule != "muon":
        return None
    dtype = exact(p.dtype)
    # Not by `rule.init`, which cuts a column out of the parameter: one spread over devices may refuse.
    row_square = jnp.zeros(rows_of(item, p), dtype) if rule.normuon else None
    return rule.state_type(OPS.zeros_like(in_exact(p)), row_square)


def only(rule: str, kinds: Sequence[str], values: Sequence[Any]) -> list[Any]:
    """Return the values of one rule's leaves, and None for the others."""
    return [value if kind == rule else None for kind, value in zip(kinds, values, strict=True)]


def orthogonal(
    rule: Any,
    updates: dict[int, Array],
    views: dict[int, Any],
    row_squares: dict[int, Array],
    polars: Callable[[list[Array]], Sequence[Array]],
    max_stack_bytes: int,
) -> dict[int, Array]:
    """Return the direction of each parameter in its shape, orthogonalised in stacks of equal matrices.

    Flax's kernels, whose outputs are the last axis, are reshaped and never permuted. The values of
    `row_squares`, empty without NorMuon, are replaced by the next ones; `polars` orthogonalises stacks.
    """
    laid = {i: view.as_laid_out() for i, view in views.items()}
    pieces = {i: laid[i].split(OPS, gathered(u)) for i, u in updates.items()}
    squares = {i: views[i].split_rows(OPS, r, updates[i].shape) for i, r in row_squares.items()}
    alike: dict[tuple[Any, ...], list[tuple[int, int]]] = {}
    for i, stacks in pieces.items():
        for j, stack in enumerate(stacks):
            alike.setdefault((*stack.shape[1:], stack.dtype), []).append((i, j))
    for places in alike.values():
        for portion in _portions(places, pieces, max_stack_bytes):
            done = polars([pieces[i][j] for i, j in portion])
            for (i, j), own in zip(portion, done, strict=True):
                rows = squares[i][j] if squares else None
                pieces[i][j], rows = rule.scaled(OPS, own, rows, turned=laid[i] is not views[i])
                if squares:
                    squares[i][j] = rows
    row_squares.update({i: views[i].join_rows(OPS, stacks) for i, stacks in squares.items()})
    return {
        i: spread_like(updates[i], laid[i].join(OPS, stacks, updates[i].shape))
        for i, stacks in pieces.items()
    }


def _portions(
    places: Sequence[tuple[int, int]], pieces: dict[int, list[Array]], limit: int
) -> Iterator[list[tuple[int, int]]]:
    """Cut equal matrices into portions of at most `limit` bytes, or of one parameter."""
    portion: list[tuple[int, int]] = []
    size = 0
    for i, j in places:
        need = pieces[i][j].nbytes
        if portion and size + need > limit:
            yield portion
            portion, size = [], 0
        portion.append((i, j))
        size += need
    if portion:
        yield portion


__all__ = ["MuonState", "muon"]
