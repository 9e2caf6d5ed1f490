"""BFGS: the whole inverse Hessian, in n² numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from downslope.ops.protocol import Array
from downslope.solvers.linesearch import LineSearch
from downslope.solvers.searches.wolfe import Wolfe
from downslope.solvers.spaces.protocol import Condition, Number, Space

CURVED = 1e-14
"""H is updated if sᵀy is at least this share of ‖s‖ ‖y‖."""


class Dense(NamedTuple):
    """H (…, n, n), of which the host keeps one triangle; H g at the iterate; whether H is still empty."""

    inverse: Array
    product: Array
    fresh: Condition


@dataclass(frozen=True)
class BFGS:
    """The direction -H g, with

        H ← (I - ρ s yᵀ) H (I - ρ y sᵀ) + ρ s sᵀ = H + s wᵀ + w sᵀ,
        w = ρ ((1 + ρ yᵀH y) s / 2 - H y),    ρ = 1 / sᵀy,

    from H = (sᵀy / yᵀy) I at the first step. The update has rank two, and H y is the difference of H g
    before and after, so an iteration reads H once and updates it once: O(n²), by triangles.
    Source: Nocedal & Wright, Numerical Optimization (2006), section 6.1.
    """

    newton_like: ClassVar[bool] = True

    def init(self, space: Space, x: Array) -> Dense:
        n = x.shape[-1]
        yes = space.full(space.norm_inf(x), True)
        return Dense(space.zeros(x, n, n), space.zeros(x, n), yes)

    def update(self, space: Space, memory: Dense, step: Array, change: Array, gradient: Array) -> Dense:
        sy, yy = space.dot(step, change), space.dot(change, change)
        curved = sy > CURVED * space.sqrt(yy) * space.sqrt(space.dot(step, step))

        def first() -> tuple[Array, Array, Array]:
            gamma = space.divide(sy, yy)
            made = space.diagonal(memory.inverse, gamma)
            return made, space.scale(gamma, gradient), space.scale(gamma, change)

        def later() -> tuple[Array, Array, Array]:
            product = space.symmetric(memory.inverse, gradient)
            return memory.inverse, product, product - memory.product

        inverse, product, hy = space.branch(memory.fresh & curved, first, later)
        fresh = memory.fresh & space.invert(curved)
        return space.branch(
            curved,
            lambda: Dense(*_rank_two(space, inverse, product, hy, step, change, gradient, sy), fresh),
            lambda: Dense(inverse, product, fresh),
        )

    def direction(self, space: Space, memory: Dense, gradient: Array) -> Array:
        return -memory.product


def _rank_two(
    space: Space, inverse: Array, product: Array, hy: Array, s: Array, y: Array, g: Array, sy: Number
) -> tuple[Array, Array]:
    """Return H and H g after the update."""
    rho = space.divide(1.0, sy)
    w = space.axpy(0.5 * rho * (1.0 + rho * space.dot(y, hy)), s, space.scale(-rho, hy))
    product = space.axpy(space.dot(w, g), s, space.axpy(space.dot(s, g), w, product))
    return space.rank_two(inverse, s, w), product


def method(name: str, **options: Any) -> LineSearch:
    """Return BFGS with the search of Moré and Thuente."""
    return LineSearch(BFGS(), Wolfe(1e-3, 0.9, **options))
