"""Search by directions: for functions that have no gradient, or one that is not to be had.

Values on both sides of the start tell the slopes there. Then Rosenbrock's rotating axes: a step along
an axis that leads lower is taken and doubled, one that does not is halved and turned around. When every
axis has won and lost, the axes are turned so that the first points along all that was won. Where the
steps have become short, values on both sides of the point tell the gradient and the curvatures along
the axes: the run ends there if the gradient is small, or jumps to the least point of the parabolas.

Source: Rosenbrock, An automatic method for finding the greatest or least value of a function, Computer
Journal 3 (1960) 175-184.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from downslope.errors import UsageError
from downslope.ops.protocol import Array
from downslope.rules.checks import require_number
from downslope.solvers.core import Core, Limits, Problem, begin, projected_size
from downslope.solvers.method import Evaluation, Want
from downslope.solvers.spaces.protocol import Condition, Number
from downslope.solvers.status import Status

SEARCH, BEFORE, BEHIND, JUMP = range(4)
"""What a trial is: a step of the search, a value on either side of the point, the parabolas' least point."""

FINER = 0.01
"""How much finer the steps are at the next look at the gradient, after one that did not end the run."""


class PatternState(NamedTuple):
    """State of the search; "axis" counts, h, won and lost are by axis, (…, n).

    Attributes:
        core: see `Core`; its gradient is zero until the first look.
        axes: directions in rows.
        h: the next step along each.
        won: what was won along each since the axes were turned.
        has_won, has_lost: 1 where there was a step that was taken, and one after it that was not.
        axis: the one whose turn it is.
        phase: SEARCH, BEFORE, BEHIND or JUMP.
        fine: steps at which the gradient is looked at.
        before: the value before the point, while the one behind is asked.
        slopes, bends: f' and f'' along the axes at the last look.
        bend: the largest bend of the look before.

    """

    core: Core
    axes: Array
    h: Array
    won: Array
    has_won: Array
    has_lost: Array
    axis: Number
    phase: Number
    fine: Number
    before: Number
    slopes: Array
    bends: Array
    bend: Number


@dataclass(frozen=True)
class Pattern:
    """Rosenbrock's rotating axes, with a look at the gradient at the end.

    Attributes:
        step: the first step, as a share of the largest entry of x₀ (of 1, where x₀ is zero).

    With bounds, axes stay those of the unknowns, so that a direction along a bound is always there.

    """

    step: float = 0.1

    wants: ClassVar[frozenset[Want]] = frozenset({Want.VALUE})
    bounded: ClassVar[bool] = True

    def init(
        self, space: Any, problem: Problem, limits: Limits, x: Array, evaluation: Evaluation
    ) -> PatternState:
        """Return the state that asks for the first value beside the start."""
        n, none = space.size(x), 0.0 * x
        core = begin(space, problem, x, evaluation.value, none)
        one = space.full(core.value, 1.0)
        core = core._replace(size=space.full(one, float("inf")), scale=one)
        axes = space.diagonal(space.zeros(x, n, n), one)
        size = self._size(space, x)
        h = space.scale(self.step * size, none + 1.0)
        fine = space.eps ** (1 / 3) * size
        state = PatternState(
            core, axes, h, none, none, none, space.full(one, 0), space.full(one, BEFORE), fine, 0 * one,
            none, none, 0 * one,
        )  # fmt: skip
        return self._ask(space, problem, state)

    def turn(
        self, space: Any, problem: Problem, limits: Limits, state: PatternState, evaluation: Evaluation
    ) -> PatternState:
        """Return the state after a value."""
        old, value = state.core, evaluation.value
        known = space.finite(value) & space.finite(space.norm_inf(old.ask))
        lower = known & (value < old.value)
        better = known & (value < old.best_value)
        core = old._replace(
            evaluations=old.evaluations + 1, accepted=space.full(value, False),
            best_x=space.pick(better, old.ask, old.best_x),
            best_value=space.where(better, value, old.best_value),
        )  # fmt: skip
        new = state._replace(core=core)
        after: PatternState = space.branch(
            state.phase == SEARCH,
            lambda: self._searched(space, problem, new, value, lower),
            lambda: space.branch(
                state.phase == JUMP,
                lambda: self._jumped(space, problem, new, value, lower),
                lambda: self._looked(space, problem, limits, new, value),
            ),
        )
        return after

    def _size(self, space: Any, x: Array) -> Number:
        size = space.norm_inf(x)
        return space.where(size > 0, size, 1.0)

    def _here(self, space: Any, state: PatternState) -> Array:
        """Return 1 at the axis whose turn it is, else 0."""
        like = state.h
        one = space.full(state.core.value, 1.0)
        return space.put(0.0 * like, state.axis, one)

    def _ask(self, space: Any, problem: Problem, state: PatternState) -> PatternState:
        """Return the state that asks for the trial of its phase."""
        core, here = state.core, self._here(space, state)
        fine = space.scale(state.fine, here)
        along = space.pick(state.phase == SEARCH, state.h * here, fine)
        along = space.pick(state.phase == BEHIND, -fine, along)
        curved = state.bends > 0
        least = space.select(
            curved, -state.slopes / space.select(curved, state.bends, 1.0 + fine), 0.0 * fine
        )
        along = space.pick(state.phase == JUMP, least, along)
        ask = core.x + space.combine(along, state.axes)
        if problem.low is not None:
            ask = space.clip(ask, problem.low, problem.high)
        return state._replace(core=core._replace(ask=ask))

    def _moved(self, space: Any, core: Core, value: Number) -> Core:
        return core._replace(
            x=core.ask, value=value, steps=core.steps + 1, accepted=space.full(value, True),
            size=space.full(value, float("inf")),
        )  # fmt: skip

    def _searched(
        self, space: Any, problem: Problem, state: PatternState, value: Number, lower: Condition
    ) -> PatternState:
        """Return the state after a step along an axis: the next axis, turned axes, or a look."""
        here, n = self._here(space, state), space.size(state.h)
        taken = state.h * here
        core = space.branch(lower, lambda: self._moved(space, state.core, value), lambda: state.core)
        factor = space.where(lower, 1.0, -1.5) + 0.0 * value  # h doubles, or becomes -h / 2
        h = state.h + space.scale(factor, taken)
        won = space.pick(lower, state.won + taken, state.won)
        has_won = space.pick(lower, space.most(state.has_won, here), state.has_won)
        lost = space.pick(lower, 0.0 * here, here * state.has_won)
        axis = space.where(state.axis + 1 == n, 0, state.axis + 1)
        new = state._replace(
            core=core, h=h, won=won, has_won=has_won, has_lost=space.most(state.has_lost, lost), axis=axis
        )
        round_over = axis == 0
        every = -space.norm_inf(1.0 - new.has_lost) >= 0.0
        short = space.norm_inf(h) <= state.fine

        def look() -> PatternState:
            first = space.full(value, BEFORE)
            return self._ask(space, problem, new._replace(phase=first, axis=space.full(state.axis, 0)))

        def onward() -> PatternState:
            return space.branch(  # type: ignore[no-any-return]
                round_over & every,
                lambda: self._ask(space, problem, self._turned(space, problem, new)),
                lambda: self._ask(space, problem, new),
            )

        following: PatternState = space.branch(round_over & short, look, onward)
        return following

    def _turned(self, space: Any, problem: Problem, state: PatternState) -> PatternState:
        """Return the state with axes along what was won: all of it, all but the first axis, and so on."""
        none = 0.0 * state.h
        axes = state.axes if problem.low is not None else space.turned(state.axes, state.won)
        return state._replace(axes=axes, won=none, has_won=none, has_lost=none)

    def _looked(
        self, space: Any, problem: Problem, limits: Limits, state: PatternState, value: Number
    ) -> PatternState:
        """Return the state after a value on one side of the point."""
        core, here, n = state.core, self._here(space, state), space.size(state.h)
        slope = space.divide(state.before - value, 2 * state.fine)
        bend = space.divide(state.before + value - 2 * core.value, state.fine * state.fine)
        both = state._replace(
            slopes=state.slopes * (1.0 - here) + space.scale(slope, here),
            bends=state.bends * (1.0 - here) + space.scale(bend, here),
        )
        last = state.axis + 1 == n

        def behind() -> PatternState:
            return self._ask(space, problem, state._replace(before=value, phase=space.full(value, BEHIND)))

        def next_axis() -> PatternState:
            moved_on = both._replace(axis=state.axis + 1, phase=space.full(value, BEFORE))
            return self._ask(space, problem, moved_on)

        def done() -> PatternState:
            gradient = space.combine(both.slopes, state.axes)
            size = projected_size(space, problem, core.x, gradient)
            known = space.finite(size)
            at_start = (core.steps == 0) & known
            seen = core._replace(
                gradient=gradient, size=space.where(known, size, core.size), best_gradient=gradient,
                scale=space.where(at_start, space.maximum(core.scale, size), core.scale),
            )  # fmt: skip
            jump = both._replace(core=seen, phase=space.full(value, JUMP), axis=space.full(state.axis, 0))
            return self._ask(space, problem, jump)

        following: PatternState = space.branch(
            state.phase == BEFORE, behind, lambda: space.branch(last, done, next_axis)
        )
        return following

    def _jumped(
        self, space: Any, problem: Problem, state: PatternState, value: Number, lower: Condition
    ) -> PatternState:
        """Return the state after the jump: a search from there, or a finer one from here, or the end."""
        core, none = state.core, 0.0 * state.h
        size = self._size(space, core.x)
        far = space.norm_inf(core.ask - core.x)
        at_start = core.steps == 0
        fine = space.where(lower | at_start, state.fine, FINER * state.fine)
        # Slopes lose digits as steps become finer: no use in a look that would see nothing but rounding.
        rounding = space.eps * space.absolute(core.value)
        finest = (fine < space.eps * size) | (rounding >= fine * core.size)
        finest = finest & space.invert(lower | at_start)
        start = space.where(lower, space.maximum(far, 10 * state.fine), state.fine)
        start = space.where(at_start, self.step * size, start)
        search = state._replace(
            core=space.branch(lower, lambda: self._moved(space, core, value), lambda: core),
            h=space.scale(start, none + 1.0), won=none, has_won=none, has_lost=none, fine=fine,
            phase=space.full(value, SEARCH), axis=space.full(state.axis, 0),
            bend=space.norm_inf(state.bends),
        )  # fmt: skip

        def ended() -> PatternState:
            bend = space.norm_inf(state.bends)
            seen = bend * state.fine * state.fine > 100 * rounding
            kink = seen & (state.bend > 0) & (bend > 10 * state.bend)
            why = space.where(kink, int(Status.KINK), int(Status.ROUNDOFF))
            return state._replace(core=core._replace(status=why, ask=core.x))

        following: PatternState = space.branch(finest, ended, lambda: self._ask(space, problem, search))
        return following


def method(name: str, step: float = 0.1) -> Pattern:
    """Return the search.

    Raises:
        UsageError: `step` is not positive.

    """
    require_number("step", step, 0.0)
    if step == 0:
        raise UsageError(f"step = {step!r}: expected a positive share of the largest entry of x0")
    return Pattern(step)
