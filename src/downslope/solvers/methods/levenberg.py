"""Sums of squares: the Levenberg-Marquardt method, and Gauss and Newton's without its damping."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from downslope.errors import UsageError
from downslope.ops.protocol import Array
from downslope.rules.checks import require_number
from downslope.solvers.core import Core, Limits, Problem, begin, moved
from downslope.solvers.method import Evaluation, Want
from downslope.solvers.spaces.protocol import Condition, Number
from downslope.solvers.status import Status
from downslope.solvers.trust import secular

ACCEPT = 1e-4
FORGET = 0.9
"""What is left of a scale after a step on which the column has become shorter."""
ROUNDS = 4
"""How often a step that meets bounds is solved again with those unknowns held at them."""
COARSE = 0.99e-6
"""The offset at which an ending at round-off still counts as a success."""
CUTS = 40
"""Rejections in a row after which no lower point is expected."""
PROPORTION = 16.0
"""A value that is off the model by less than so many times the model's fall may tell of a wrong Jacobian."""


class LevenbergState(NamedTuple):
    """State of the method; k is the smaller of the numbers of residuals and unknowns, or more.

    Attributes:
        core: see `Core`; `core.size` is the offset, √(‖projection of r on the range of J‖² / ‖r‖²).
        want: residuals and Jacobian at the iterate, or the value at a trial.
        residuals, jacobian: (…, k) and (…, k, n), or ones with the same inner products.
        scale: D, a running maximum of the lengths of the columns.
        values, basis, parts: singular values and right vectors of J D⁻¹, and r along its left vectors.
        radius: ‖D p‖ is kept within.
        shrink: what the radius is divided by if the next step is rejected.
        multiplier: of the last subproblem.
        step, length, fall: p, ‖D p‖, and what the model promises.
        noise: the most that a trial very near was off the model.
        cut: rejections in a row.
        hidden: whether the last step's fall was lost in rounding.

    """

    core: Core
    want: Number
    residuals: Array
    jacobian: Array
    scale: Array
    values: Array
    basis: Array
    parts: Array
    radius: Number
    shrink: Number
    multiplier: Number
    step: Array
    length: Number
    fall: Number
    noise: Number
    cut: Number
    hidden: Condition


@dataclass(frozen=True)
class Levenberg:
    """x₊ = x + p,  p the least point of ½ ‖r + J p‖² with ‖D p‖ ≤ Δ.

    D is a running maximum of the lengths of the columns of J, so that no unit of an unknown matters; it
    forgets a tenth a step, so that one bad point does not rule the run. The subproblem is solved by
    singular values of J D⁻¹, not by normal equations. With ρ the share of the promised fall that came:
    Δ₊ = Δ / max(⅓, 1 - (2ρ - 1)³) after a step, and Δ / 2, / 4, / 8 … after rejections.

    Attributes:
        first: the first radius, as a multiple of ‖D x₀‖.
        damped: False for Gauss-Newton: p is the least point itself, halved until the value falls.

    Sources: Moré, The Levenberg-Marquardt algorithm, 1978 (scaling, trust region); Nielsen, Damping
    parameter in Marquardt's method, IMM-REP-1999-05 (the radius).

    """

    first: float = 1.0
    damped: bool = True

    wants: ClassVar[frozenset[Want]] = frozenset({Want.LINEARIZED, Want.VALUE})
    bounded: ClassVar[bool] = True
    modelled: ClassVar[bool] = True

    def init(
        self, space: Any, problem: Problem, limits: Limits, x: Array, evaluation: Evaluation
    ) -> LevenbergState:
        """Return the state that asks for the first trial."""
        core = begin(space, problem, x, evaluation.value, evaluation.gradient)
        known = core.status == int(Status.RUNNING)
        one = space.full(core.value, 1.0)
        core = core._replace(scale=one)
        lengths = self._lengths(space, evaluation.jacobian)
        scale = space.select(lengths > 0, lengths, 0.0 * lengths + 1.0)
        scaled = scale * x
        size = space.sqrt(space.dot(scaled, scaled))
        radius = self.first * space.where(size > 0, size, 1.0)
        want, zero = space.full(one, int(Want.VALUE)), 0 * one
        r, jacobian = evaluation.residuals, evaluation.jacobian
        state = LevenbergState(
            core, want, r, jacobian, scale, *self._decomposed(space, jacobian, scale, r), radius, 2 * one,
            zero, 0.0 * x, zero, zero, zero, space.full(one, 0), space.full(one, False),
        )  # fmt: skip
        core = core._replace(size=space.where(known, self._offset(space, problem, state), core.size))
        return self._trial(space, problem, state._replace(core=core))

    def turn(
        self, space: Any, problem: Problem, limits: Limits, state: LevenbergState, evaluation: Evaluation
    ) -> LevenbergState:
        """Return the state after a trial, after a linearisation, or after both where both are known."""
        tried: LevenbergState = space.branch(
            state.want == int(Want.VALUE), lambda: self._tried(space, state, evaluation.value), lambda: state
        )
        there = tried
        if evaluation.jacobian is not None:
            # A trial that spends the budget is the last that is looked at.
            there = space.branch(
                (tried.want == int(Want.LINEARIZED)) & (tried.core.evaluations < limits.evaluations),
                lambda: self._linearized(space, problem, limits, tried, evaluation),
                lambda: tried,
            )
        onward = there.core.accepted | (there.core.status == int(Status.RUNNING))
        following: LevenbergState = space.branch(
            onward & (there.want == int(Want.VALUE)),
            lambda: self._trial(space, problem, there),
            lambda: there,
        )
        return following

    def _linearized(
        self, space: Any, problem: Problem, limits: Limits, state: LevenbergState, evaluation: Evaluation
    ) -> LevenbergState:
        """Return the state after a step to the point asked for."""
        old, gradient = state.core, evaluation.gradient
        lengths = self._lengths(space, evaluation.jacobian)
        known = space.finite(evaluation.value) & space.finite(space.dot(lengths, lengths))
        known = known & space.finite(space.dot(gradient, gradient))

        def onward() -> LevenbergState:
            core = moved(space, problem, limits, old, old.ask, evaluation.value, gradient)
            core = core._replace(
                best_x=old.ask, best_value=evaluation.value, best_gradient=gradient,
                scale=old.scale,
            )  # fmt: skip
            scale = space.most(lengths, FORGET * state.scale)
            values, basis, parts = self._decomposed(space, evaluation.jacobian, scale, evaluation.residuals)
            made = state._replace(
                core=core, residuals=evaluation.residuals, jacobian=evaluation.jacobian, scale=scale,
                values=values, basis=basis, parts=parts, cut=space.full(state.cut, 0), noise=0 * state.noise,
                want=space.full(state.cut, int(Want.VALUE)),
            )  # fmt: skip
            offset = self._offset(space, problem, made)
            # Where rounding hides the fall, only a smaller offset is progress.
            at_end = state.hidden & (offset > 0.5 * old.size)
            # Where a step was cut until nothing shows of it, much may be left.
            why = space.where(
                self._rounded(space, state, state.noise), int(Status.ROUNDOFF), int(Status.STALLED)
            )
            status = space.where(at_end, why, core.status)
            return made._replace(core=core._replace(size=offset, status=status))

        def back() -> LevenbergState:
            return self._rejected(space, state, space.full(state.radius, float("nan")))

        following: LevenbergState = space.branch(known, onward, back)
        return following

    def _tried(self, space: Any, state: LevenbergState, value: Number) -> LevenbergState:
        """Return the state after the value at a trial: the Jacobian is wanted there, or a shorter step."""
        old = state.core
        core = old._replace(evaluations=old.evaluations + 1, accepted=space.full(value, False))
        level = 10 * space.eps * old.value
        hidden = (space.absolute(old.value - value) <= level) & (state.fall <= level)
        ratio = space.divide(old.value - value, state.fall)
        ratio = space.where(space.finite(value) & space.finite(ratio), ratio, -1.0)
        accepted = (ratio >= ACCEPT) | hidden
        bend = 2 * space.minimum(ratio, 1.0) - 1
        grown = space.divide(state.radius, space.maximum(1 - bend * bend * bend, 1 / 3))
        new = state._replace(core=core)

        def onward() -> LevenbergState:
            return new._replace(
                want=space.full(value, int(Want.LINEARIZED)), hidden=hidden,
                radius=space.where(hidden, state.radius, grown), shrink=space.full(ratio, 2.0),
            )  # fmt: skip

        following: LevenbergState = space.branch(accepted, onward, lambda: self._rejected(space, new, value))
        return following

    def _rejected(self, space: Any, state: LevenbergState, value: Number) -> LevenbergState:
        """Return the state with a smaller region, or the end where nothing is left of it."""
        core = state.core
        radius = space.divide(space.minimum(state.radius, state.length), state.shrink)
        radius = space.where(space.finite(value), radius, 0.1 * radius)
        scaled = state.scale * core.x
        size = space.sqrt(space.dot(scaled, scaled))
        vanished = (state.cut >= CUTS) | (radius <= 0.01 * space.eps * size) | (radius <= 1e-300)
        # After three cuts a step is a 64th of the first. What it is off the model is noise, unless the
        # Jacobian is wrong: that is off in proportion to the step. Where noise is as large as what the whole
        # step promised, no lower point can be told.
        gap = space.absolute(core.value - value - state.fall)
        near = (state.cut >= 3) & (gap > PROPORTION * state.fall) | (state.length <= 16 * space.eps * size)
        noise = space.where(near & space.finite(gap), space.maximum(state.noise, gap), state.noise)
        again = state._replace(
            want=space.full(state.cut, int(Want.VALUE)), radius=radius, shrink=2 * state.shrink,
            cut=state.cut + 1, noise=noise,
        )  # fmt: skip

        def ended() -> LevenbergState:
            rounded = self._rounded(space, state, noise)
            why = space.where(rounded, int(Status.ROUNDOFF), int(Status.STALLED))
            # The offset of residuals that are nothing but noise says nothing: it counts as coarse.
            size = space.where(rounded, space.minimum(core.size, COARSE), core.size)
            return again._replace(core=core._replace(ask=core.x, status=why, size=size))

        following: LevenbergState = space.branch(vanished, ended, lambda: again)
        return following

    def _rounded(self, space: Any, state: LevenbergState, noise: Number) -> Condition:
        """Return whether what the whole step promises is lost in rounding or in noise.

        An offset promises its square as a share of the value, whatever a short step does: one that counts as
        a success is near enough.
        """
        little = max(100 * space.eps, COARSE**2)
        whole = state.core.size * state.core.size * state.core.value
        return whole <= space.maximum(little * state.core.value, 10 * noise)

    def _trial(self, space: Any, problem: Problem, state: LevenbergState) -> LevenbergState:
        """Return the state that asks for the value at the model's least point, within the bounds."""
        core, jacobian = state.core, state.jacobian
        if problem.low is None:
            known = state.values, state.basis, state.parts
            step, multiplier = self._solved(space, state, known, state.radius)
            ask = core.x + step
        else:
            step, multiplier = self._within(space, problem, state)
            ask = space.clip(core.x + step, problem.low, problem.high)
            step = ask - core.x
        along = space.rows(jacobian, step)
        fall = -(space.dot(state.residuals, along) + 0.5 * space.dot(along, along))
        scaled = state.scale * step
        length = space.sqrt(space.dot(scaled, scaled))
        return state._replace(
            core=core._replace(ask=ask), want=space.full(fall, int(Want.VALUE)), multiplier=multiplier,
            step=step, length=length, fall=fall,
        )  # fmt: skip

    def _solved(
        self, space: Any, state: LevenbergState, decomposed: tuple[Array, Array, Array], radius: Number
    ) -> tuple[Array, Number]:
        """Return the least point of ½ ‖r + J p‖² with ‖D p‖ ≤ Δ, and its multiplier."""
        values, basis, parts = decomposed
        # Of many least points the one nearest: rounding is no reason to go along a way that changes nothing.
        kept = self._kept(space, values, basis.shape[0])
        if self.damped:
            found = secular(
                space, values * values, space.select(kept, values * parts, 0.0 * parts), radius,
                state.multiplier, flat=space.eps * space.eps, follow=False,
            )  # fmt: skip
            return space.rows(basis, found.y) / state.scale, found.multiplier
        y = space.select(kept, -parts / space.select(kept, values, 0.0 * values + 1.0), 0.0 * values)
        length = space.sqrt(space.dot(y, y))
        shorter = space.where(state.cut > 0, space.minimum(space.divide(radius, length), 1.0), 1.0)
        return space.rows(basis, space.scale(shorter, y)) / state.scale, state.multiplier

    def _within(self, space: Any, problem: Problem, state: LevenbergState) -> tuple[Array, Number]:
        """Return a step within bounds: what it takes across them is held there, the rest solved anew."""
        core, jacobian = state.core, state.jacobian
        down, up = problem.low - core.x, problem.high - core.x
        g = core.gradient
        free = ~(((g > 0) & (down >= 0)) | ((g < 0) & (up <= 0)))

        def solved(carry: Any) -> tuple[Condition, Any]:
            free, held, _, _ = carry
            columns = space.select(free, 1.0 + 0.0 * g, 0.0 * g)
            rest = state.residuals + space.rows(jacobian, held)
            gone = state.scale * held
            radius = space.sqrt(space.maximum(state.radius * state.radius - space.dot(gone, gone), 0.0))
            radius = space.maximum(radius, 0.1 * state.radius)
            known = self._decomposed(space, jacobian * columns, state.scale, rest)
            step, multiplier = self._solved(space, state, known, radius)
            step = step * columns + held
            crossing = (step < down) | (step > up)
            held = space.select(crossing, space.clip(step, down, up), held)
            return space.all(~crossing), (free & ~crossing, held, step, multiplier)

        start = (free, 0.0 * g, 0.0 * g, state.multiplier)
        _, _, step, multiplier = space.until(solved, start, ROUNDS)
        return step, multiplier

    def _offset(self, space: Any, problem: Problem, state: LevenbergState) -> Number:
        """Return how much of r lies in the range of J, of the unknowns that are free to move.

        Source: Bates and Watts, A relative offset orthogonality convergence criterion for nonlinear
        least squares, Technometrics 23, 1981.
        """
        values, parts = state.values, state.parts
        if problem.low is not None:
            g, x = state.core.gradient, state.core.x
            fixed = ((g > 0) & (x <= problem.low)) | ((g < 0) & (x >= problem.high))
            free = state.jacobian * space.select(fixed, 0.0 * g, 0.0 * g + 1.0)
            values, _, parts = self._decomposed(space, free, state.scale, state.residuals)
        kept = self._kept(space, values, space.size(state.core.x))
        inside = space.select(kept, parts, 0.0 * parts)
        size = 2 * state.core.value
        offset = space.sqrt(space.divide(space.dot(inside, inside), size))
        return space.where(size > 0, offset, 0.0 * size)

    def _decomposed(
        self, space: Any, jacobian: Array, scale: Array, residuals: Array
    ) -> tuple[Array, Array, Array]:
        """Return singular values and right vectors of J D⁻¹, and r along the left ones."""
        found: tuple[Array, Array, Array] = space.svd(jacobian / scale, residuals)
        return found

    def _kept(self, space: Any, values: Array, n: int) -> Array:
        """Return which singular values are more than rounding."""
        least = space.eps * n * space.norm_inf(values)
        return values > space.shift(least, 0.0 * values)

    def _lengths(self, space: Any, jacobian: Array) -> Array:
        """Return the lengths of the columns, (…, n)."""
        ones = 0.0 * jacobian[:, 0] + 1.0
        squares: Array = space.combine(ones, jacobian * jacobian)
        return squares**0.5


def method(name: str, first: float = 1.0) -> Levenberg:
    """Return "levenberg-marquardt" or "gauss-newton".

    Raises:
        UsageError: `first` is not positive.

    """
    require_number("first", first, 0.0)
    if first == 0:
        raise UsageError(f"first = {first!r}: expected a positive multiple of ‖D x₀‖")
    return Levenberg(first, name != "gauss-newton")
