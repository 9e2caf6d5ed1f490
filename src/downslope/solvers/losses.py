"""Robust losses: what a large residual costs.

    value   ½ s² Σ ρ(rᵢ² / s²)

with the names, formulas and the scale s of SciPy's `least_squares`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeAlias

from downslope.errors import UsageError, a_type, closest
from downslope.ops import ops_for
from downslope.ops.protocol import Array

LEAST = 0.01
"""See `reweighted`."""

Loss: TypeAlias = str | Callable[[Array], Any]
"""A name, or what returns ρ, ρ' and ρ'' of z = (r / s)², (3, m) of (m,)."""

LOSSES = ("linear", "soft_l1", "huber", "cauchy", "arctan")


def check(loss: Any, scale: Any) -> None:
    """Raise where a loss is not known, or its scale is not positive."""
    if not callable(loss) and loss not in LOSSES:
        hint = closest(loss, LOSSES) if isinstance(loss, str) else ""
        raise UsageError(f"loss = {loss!r}: expected one of {', '.join(LOSSES)}, or a function{hint}")
    if not (isinstance(scale, (int, float)) and scale > 0):
        raise UsageError(f"f_scale = {scale!r}: expected a positive number")


def rho(loss: Loss, z: Array) -> tuple[Array, Array, Array]:
    """Return ρ, ρ' and ρ'' of z = (r / s)², entry by entry.

    >>> import numpy as np
    >>> rho("soft_l1", np.array([0.0, 3.0]))
    (array([0., 2.]), array([1. , 0.5]), array([-0.5   , -0.0625]))

    """
    x = ops_for(z)
    if callable(loss):
        return _own(loss, z)
    if loss == "soft_l1":
        t = 1 + z
        root = x.sqrt(t)
        return 2 * (root - 1), 1 / root, -0.5 / (t * root)
    if loss == "huber":
        # Where z ≤ 1 the other branch is not chosen, but must not divide by zero.
        root = x.sqrt(x.maximum(z, 1.0))
        near, zero = z <= 1, 0 * z
        return (
            x.where(near, z, 2 * root - 1),
            x.where(near, zero + 1, 1 / root),
            x.where(near, zero, -0.5 / (root * root * root)),
        )
    if loss == "cauchy":
        t = 1 + z
        return _function(z, "log1p")(z), 1 / t, -1 / (t * t)
    if loss == "arctan":
        t = 1 + z * z
        return _function(z, "arctan")(z), 1 / t, -2 * z / (t * t)
    return z, 0 * z + 1, 0 * z


def total(loss: Loss, scale: float, r: Array) -> Array:
    """Return ρ(r² / s²) s², entry by entry."""
    return rho(loss, (r / scale) ** 2)[0] * scale**2


def reweighted(loss: Loss, scale: float, r: Array, jacobian: Array) -> tuple[Array, Array]:
    """Return residuals and Jacobian whose sum of squares has the loss's gradient and about its curvature.

    Source: Triggs et al., Bundle adjustment, a modern synthesis, 2000. The curvature of a residual is held
    at LEAST of its slope's weight or more: a weight of nothing would ask for residuals without limit.
    """
    x = ops_for(r)
    z = (r / scale) ** 2
    _, first, second = rho(loss, z)
    weight = x.sqrt(x.maximum(first + 2 * second * z, LEAST * first))
    return r * first / weight, jacobian * weight[..., None]


def _own(loss: Callable[[Array], Any], z: Array) -> tuple[Array, Array, Array]:
    """Return what a loss of the user's says of residuals, which it is given in one row."""
    x, shape = ops_for(z), tuple(z.shape)
    row = x.reshape(z, (-1,))
    returned = loss(row)
    parts = [returned[i] for i in range(len(returned))] if hasattr(returned, "__len__") else []
    if len(parts) != 3 or any(getattr(part, "shape", None) != row.shape for part in parts):
        found = f"the shape {tuple(returned.shape)}" if hasattr(returned, "shape") else a_type(returned)
        raise UsageError(f"loss returned {found}: expected ρ, ρ' and ρ'', the shape (3, {row.shape[0]})")
    first, second, third = (x.reshape(part, shape) for part in parts)
    return first, second, third


def _function(z: Array, name: str) -> Any:
    """Return an elementary function of the framework that z belongs to."""
    for kind in type(z).__mro__:
        root = kind.__module__.partition(".")[0]
        if root == "tensorflow":
            return getattr(sys.modules["tensorflow"].math, {"arctan": "atan"}.get(name, name))
        if root == "torch":
            return getattr(sys.modules["torch"], name)
        if root in ("jax", "jaxlib"):
            return getattr(sys.modules["jax.numpy"], name)
    return getattr(sys.modules["numpy"], name)
