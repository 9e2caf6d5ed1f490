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

LONGER = 4.0
"""After a first step without curvature, a step of length 1 is so many times as long."""


class Dense(NamedTuple):
    """H (n, n, …), of which the host keeps one triangle, and H g at the iterate."""

    inverse: Array
    product: Array


@dataclass(frozen=True)
class BFGS:
    """The direction -H g, H being updated at each step.

        H ← (I - ρ s yᵀ) H (I - ρ y sᵀ) + ρ s sᵀ = H + s wᵀ + w sᵀ,
        w = ρ ((1 + ρ yᵀH y) s / 2 - H y),    ρ = 1 / sᵀy,

    from H = (sᵀy / yᵀy) I at the first step. The update has rank two, and H y is the difference of H g
    before and after, so an iteration reads H once and updates it once: O(n²), by triangles.
    Source: Nocedal & Wright, Numerical Optimization (2006), section 6.1.
    """

    newton_like: ClassVar[bool] = True

    def init(self, space: Space, x: Array) -> Dense:
        n = space.size(x)
        return Dense(space.zeros(x, n, n), space.zeros(x, n))

    def update(
        self, space: Space, memory: Dense, step: Array, change: Array, gradient: Array, fresh: Condition,
        when: Condition,
    ) -> Dense:  # fmt: skip
        ss, sy, yy = space.dot(step, step), space.dot(step, change), space.dot(change, change)
        curved = when & (sy > CURVED * space.sqrt(yy) * space.sqrt(ss))
        longer = LONGER * space.sqrt(space.divide(ss, space.dot(gradient, gradient)))
        gamma = space.where(curved, space.divide(sy, yy), longer)

        inverse = memory.inverse  # that of a first step is not read: in lock step it would be written before

        def first(on: Condition) -> Dense:
            diagonal = space.diagonal(memory.inverse, gamma, on)
            return Dense(diagonal, space.pick(on, space.scale(gamma, gradient - change), memory.product))

        memory = space.guarded(fresh & when, first, memory)
        product = space.branch(
            fresh & when,
            lambda: space.scale(gamma, gradient),
            lambda: space.symmetric(inverse, gradient),
        )
        before = memory.product
        memory = Dense(memory.inverse, space.pick(when, product, before))
        return space.guarded(
            curved,
            lambda on: _rank_two(space, memory, product - before, step, change, gradient, sy, on),
            memory,
        )

    def direction(self, space: Space, memory: Dense, gradient: Array) -> Array:
        return -memory.product


def _rank_two(
    space: Space, memory: Dense, hy: Array, s: Array, y: Array, g: Array, sy: Number, on: Condition
) -> Dense:
    """Return H and H g after the update."""
    rho = space.divide(1.0, sy)
    w = space.axpy(0.5 * rho * (1.0 + rho * space.dot(y, hy)), s, space.scale(-rho, hy))
    product = space.axpy(space.dot(w, g), s, space.axpy(space.dot(s, g), w, memory.product))
    return Dense(space.rank_two(memory.inverse, s, w, on), space.pick(on, product, memory.product))


def method(name: str, **options: Any) -> LineSearch:
    """Return BFGS with the search of Moré and Thuente."""
    return LineSearch(BFGS(), Wolfe(1e-3, 0.9, **options))
