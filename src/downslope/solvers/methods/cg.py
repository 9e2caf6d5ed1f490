"""Nonlinear conjugate gradients: no memory but the last direction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from downslope.ops.protocol import Array
from downslope.rules.checks import require
from downslope.solvers.linesearch import LineSearch
from downslope.solvers.searches.wolfe import Wolfe
from downslope.solvers.spaces.protocol import Condition, Space

TRUNCATION = 0.4
"""η of Hager and Zhang: β is at least η gᵀd / ‖d‖² of the step before."""


class Last(NamedTuple):
    """The direction to take next."""

    d: Array


@dataclass(frozen=True)
class ConjugateGradient:
    """The direction -g + β d; with d the one before, s the step t d and y the change of g.

        Hager-Zhang:  β d = max(yᵀg / sᵀy - 2 ‖y‖² sᵀg / (sᵀy)², η sᵀg₋ / ‖s‖²) s
        PR+:          β d = max(yᵀg / ‖g₋‖², 0) d

    Sources: Hager & Zhang, SIAM J. Optim. 16 (2005) 170-192, and 23 (2013) 2150-2168 for the
    truncation; Polak & Ribière (1969) in the form of Gilbert & Nocedal, SIAM J. Optim. 2 (1992) 21-42.
    """

    formula: str = "hager-zhang"
    newton_like: ClassVar[bool] = False

    def __post_init__(self) -> None:
        known = ("hager-zhang", "pr+")
        require("formula", self.formula, self.formula in known, "'hager-zhang' or 'pr+'")

    def init(self, space: Space, x: Array) -> Last:
        return Last(space.zeros(x, space.size(x)))

    def update(
        self, space: Space, memory: Last, step: Array, change: Array, gradient: Array, fresh: Condition,
        when: Condition,
    ) -> Last:  # fmt: skip
        d = self._next(space, memory, step, change, gradient, fresh)
        return Last(space.pick(when, d, memory.d))

    def _next(
        self, space: Space, memory: Last, step: Array, change: Array, gradient: Array, fresh: Condition
    ) -> Array:
        if self.formula == "pr+":
            before = gradient - change
            beta = space.divide(space.dot(change, gradient), space.dot(before, before))
            beta = space.maximum(beta, space.full(beta, 0.0))
            last = space.pick(fresh, -before, memory.d)
            return space.axpy(beta, last, -gradient)
        sy, sg = space.dot(step, change), space.dot(step, gradient)
        beta = space.divide(space.dot(change, gradient), sy)
        beta = beta - 2.0 * space.divide(space.dot(change, change), sy) * space.divide(sg, sy)
        least = TRUNCATION * space.divide(sg - sy, space.dot(step, step))
        return space.axpy(space.maximum(beta, least), step, -gradient)

    def direction(self, space: Space, memory: Last, gradient: Array) -> Array:
        return memory.d


def method(name: str, formula: str = "hager-zhang", **options: Any) -> LineSearch:
    """Return conjugate gradients with an exact search."""
    return LineSearch(ConjugateGradient(formula), Wolfe(1e-3, 0.1, **options))
