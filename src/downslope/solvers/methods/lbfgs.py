"""L-BFGS: curvature from the last m steps, in memory of 2 m + 1 vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from downslope.gradients.returned import is_whole
from downslope.ops.protocol import Array
from downslope.rules.checks import require
from downslope.solvers.linesearch import LineSearch
from downslope.solvers.searches.wolfe import Wolfe
from downslope.solvers.spaces.protocol import Condition, Number, Space

CURVED = 1e-12
"""A pair is kept if sᵀy is at least this share of ‖s‖ ‖y‖."""

FREE_CURVED = 1e-8
"""The same of the pairs' parts in the unknowns that no bound holds."""

TRUSTED, FORGIVING, AT_FIRST = 0.7, 0.05, 0.9
"""The diagonal's merit from which on it is used, how fast the merit follows new pairs, where it begins."""

LONGER = 4.0
"""After a first step without curvature, a step of length 1 is so many times as long."""


Dots = tuple[Number, Number, Number]
"""sᵀs, sᵀy and yᵀy of a pair."""


class Pairs(NamedTuple):
    """The last m steps s and changes of the gradient y, in a ring.

    Attributes:
        steps, changes: S and Y, (m, n, …).
        inverse: R⁻¹ (m, m, …), where R_ij = s_iᵀ y_j for pairs i no younger than j, else 0. In a ring
            its rows and columns are permuted; a slot that is empty has zeros.
        curvatures: s_iᵀ y_i (m, …).
        scales: the diagonal B, (n, …).
        scale: yᵀy / sᵀy of the last pair, the one scale for all unknowns.
        merit: how well B has foretold the pairs, from 0 to 1; 1/2 is as well as one scale for all.
        next: the slot that the next pair takes.

    """

    steps: Array
    changes: Array
    inverse: Array
    curvatures: Array
    scales: Array
    scale: Number
    merit: Number
    next: Number


@dataclass(frozen=True)
class LBFGS:
    """The direction -H g, where H is BFGS's inverse Hessian from a diagonal B⁻¹ and the last m pairs.

        H g = r + Sᵀ R⁻ᵀ (D a - Y r),    r = B⁻¹ (g - Yᵀ a),    a = R⁻¹ S g,    rows of S and Y being pairs

    D has the sᵀy. B learns the scale of each unknown: it is the diagonal of what BFGS makes of it,
    brought to the curvature of the pair first,

        B ← α B + diag(y yᵀ) / sᵀy - α diag(B s sᵀ B) / sᵀB s,    α = yᵀB⁻¹y / sᵀy.

    That costs where unknowns are alike and hang together, as in a grid: B then learns noise. Of each pair B
    is therefore first asked how near it brings s and B⁻¹y, by the cosine of their angle in its metric,

        c_B² = (sᵀy)² / (sᵀB s · yᵀB⁻¹y),    c² = (sᵀy)² / (sᵀs · yᵀy),

    and where c_B² / (c_B² + c²) has lately not been 0.7 in the mean, yᵀy / sᵀy of the last pair stands for B.

    Where bounds hold some unknowns, H is that of the other ones, from the pairs' parts in them.

    This compact form reads S and Y as matrices, twice each a step, and its inner products are two
    products of a matrix with a vector: the only communication where x is spread over devices.
    Sources: Byrd, Nocedal & Schnabel, Math. Programming 63 (1994) 129-156, theorem 2.2; Gilbert &
    Lemaréchal, Math. Programming 45 (1989) 407-435, section 4 (the diagonal).
    """

    memory: int = 10
    newton_like: ClassVar[bool] = True
    bounded: ClassVar[bool] = True

    def __post_init__(self) -> None:
        whole = is_whole(self.memory) and self.memory >= 1
        require("memory", self.memory, whole, "a whole number from 1 on")

    def init(self, space: Space, x: Array) -> Pairs:
        m, n = self.memory, space.size(x)
        return Pairs(
            space.zeros(x, m, n), space.zeros(x, m, n), space.zeros(x, m, m), space.zeros(x, m),
            0.0 * x + 1.0, space.full(space.norm_inf(x), 1.0), space.full(space.norm_inf(x), AT_FIRST),
            space.full(space.norm_inf(x), 0),
        )  # fmt: skip

    def update(
        self, space: Space, memory: Pairs, step: Array, change: Array, gradient: Array, fresh: Condition,
        when: Condition,
    ) -> Pairs:  # fmt: skip
        dots = space.dot(step, step), space.dot(step, change), space.dot(change, change)
        ss, sy, yy = dots
        curved = when & (sy > CURVED * space.sqrt(yy) * space.sqrt(ss))

        def forgotten() -> tuple[Array, Array, Number, Number]:
            # R⁻¹ = 0, and a diagonal that is the same everywhere: the next step is to be somewhat longer.
            shorter = space.divide(space.sqrt(space.divide(space.dot(gradient, gradient), ss)), LONGER)
            return (
                0.0 * memory.inverse,
                space.shift(shorter, 0.0 * step),
                shorter,
                space.full(shorter, AT_FIRST),
            )

        inverse, scales, scale, merit = space.branch(
            fresh & when, forgotten, lambda: (memory.inverse, memory.scales, memory.scale, memory.merit)
        )
        memory = Pairs(
            memory.steps, memory.changes, inverse, memory.curvatures, scales, scale, merit, memory.next
        )
        return space.guarded(curved, lambda on: self._kept(space, memory, step, change, dots, on), memory)

    def _kept(
        self, space: Space, memory: Pairs, step: Array, change: Array, dots: Dots, on: Condition
    ) -> Pairs:
        k, where, (_, sy, yy) = memory.next, space.where, dots
        steps, changes = space.put(memory.steps, k, step, on), space.put(memory.changes, k, change, on)
        # The k-th row and column leave R⁻¹ with the pair that was there; the new column follows.
        inverse = space.clear(memory.inverse, k)
        column = space.scale(space.divide(-1.0, sy), space.rows(inverse, space.rows(steps, change)))
        inverse = space.put_column(inverse, k, space.put(column, k, space.divide(1.0, sy)))
        inverse = space.pick(on, inverse, memory.inverse)
        scales, foretold = _scales(space, memory.scales, step, change, dots)
        merit = memory.merit + FORGIVING * (foretold - memory.merit)
        following = where(k + 1 == self.memory, 0, k + 1)
        return Pairs(
            steps, changes, inverse, space.put(memory.curvatures, k, sy, on),
            space.pick(on, scales, memory.scales), where(on, space.divide(yy, sy), memory.scale),
            where(on & space.finite(merit), merit, memory.merit), where(on, following, k),
        )  # fmt: skip

    def direction(self, space: Space, memory: Pairs, gradient: Array, free: Array | None = None) -> Array:
        if free is None:
            return self._product(space, memory, gradient)
        return space.branch(
            space.all(free),
            lambda: self._product(space, memory, gradient),
            lambda: self._held(space, memory, gradient, free),
        )

    def _product(self, space: Space, memory: Pairs, gradient: Array) -> Array:
        a = space.rows(memory.inverse, space.rows(memory.steps, gradient))
        r = _scaled(space, memory, gradient - space.combine(a, memory.changes))
        c = space.combine(space.rows(memory.changes, r) - memory.curvatures * a, memory.inverse)
        return space.combine(c, memory.steps) - r

    def _held(self, space: Space, memory: Pairs, gradient: Array, free: Array) -> Array:
        """Return the direction in the unknowns that are free, from the pairs' parts in them."""
        zero = 0.0 * gradient
        steps = space.select(free, memory.steps, 0.0 * memory.steps)
        changes = space.select(free, memory.changes, 0.0 * memory.changes)
        products = space.gram(steps, changes)
        lengths = space.roots(
            space.trace(space.gram(steps, steps)) * space.trace(space.gram(changes, changes))
        )
        curvatures = space.trace(products)
        # Pairs that an empty R⁻¹ has forgotten stay forgotten.
        known = (curvatures > FREE_CURVED * lengths) & (space.trace(memory.inverse) > 0)
        inverse = space.ring_inverse(products, known, memory.next)
        curvatures = space.select(known, curvatures, 0.0 * curvatures)
        part = memory._replace(steps=steps, changes=changes, inverse=inverse, curvatures=curvatures)
        return self._product(space, part, space.select(free, gradient, zero))


def _scaled(space: Space, memory: Pairs, r: Array) -> Array:
    """Return B⁻¹ r, or r on the one scale where B has not earned its use."""
    return space.branch(
        memory.merit > TRUSTED,
        lambda: r / memory.scales,
        lambda: space.scale(space.divide(1.0, memory.scale), r),
    )


def _scales(space: Space, scales: Array, step: Array, change: Array, dots: Dots) -> tuple[Array, Number]:
    """Return B after a pair, and how well it had foretold the pair, as a share.

    An entry of B that would be lost in rounding stays as it was.
    """
    ss, sy, yy = dots
    across = space.dot(change, change / scales)
    alpha = space.divide(across, sy)
    made = scales * step  # one name throughout: of large vectors few are held at a time
    along = space.dot(step, made)
    foretold = space.divide(yy, yy + across * space.divide(along, ss))
    share = space.divide(alpha, along)
    made = made * step
    made = space.scale(-share, made)
    made = scales * space.shift(alpha, made)
    made = made + change * space.scale(space.divide(1.0, sy), change)
    return space.positive(made, scales), foretold


def method(name: str, memory: int = 10, **options: Any) -> LineSearch:
    """Return L-BFGS with the search of Moré and Thuente."""
    return LineSearch(LBFGS(memory), Wolfe(1e-3, 0.9, **options))
