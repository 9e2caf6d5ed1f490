"""A direction and a search make a method.

At every step the direction d comes from the gradient and a memory of former steps; the search tries
points x + t d, one a turn. Where it fails, the memory is cleared and -g is tried once; where that
fails too, the search says why: round-off, a kink, or a value that does not follow its gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from downslope.ops.protocol import Array
from downslope.solvers.core import (
    Core,
    Limits,
    Problem,
    begin,
    moved,
    passed_by,
    projected_size,
    seen,
    tolerance,
)
from downslope.solvers.method import Direction, Evaluation, Want
from downslope.solvers.searches.wolfe import FOUND, GOING, LOWEST
from downslope.solvers.spaces.protocol import Condition, Number, Space
from downslope.solvers.status import Status

DESCENT = 1e-12
"""A direction descends if -gᵀd is at least this share of ‖g‖ ‖d‖."""

FAR = 1e35
"""No step is longer than this, in units of d."""


class LineState(NamedTuple):
    """State of a method that searches along lines.

    Attributes:
        core: see `Core`.
        memory: what the direction remembers.
        d: the direction of the search under way.
        search: its state.
        fresh: whether d is -g; what the memory holds is then forgotten at the next step.

    """

    core: Core
    memory: Any
    d: Array
    search: Any
    fresh: Condition


@dataclass(frozen=True)
class LineSearch:
    """The method of a direction and a search."""

    towards: Direction
    search: Any
    wants: ClassVar[frozenset[Want]] = frozenset({Want.GRADIENT})
    steady: ClassVar[tuple[str, ...]] = ("memory",)

    @property
    def bounded(self) -> bool:
        """Whether the direction can be held to the unknowns that are free to move."""
        return getattr(self.towards, "bounded", False)

    @property
    def modelled(self) -> bool:
        """Whether a step of length 1 is that of a model."""
        return self.towards.newton_like

    def init(
        self, space: Space, problem: Problem, limits: Limits, x: Array, evaluation: Evaluation
    ) -> LineState:
        """Return the state that asks for the first trial along -g."""
        core = begin(space, problem, x, evaluation.value, evaluation.gradient)
        memory = self.towards.init(space, x)
        return self._steepest(space, problem, core, memory)

    def turn(
        self, space: Space, problem: Problem, limits: Limits, state: LineState, evaluation: Evaluation
    ) -> LineState:
        """Return the state after one more trial."""
        value, gradient = evaluation.value, evaluation.gradient
        slope = space.dot(gradient, state.d)
        finite = space.finite(value) & space.finite(slope)
        old = state.core
        core = seen(space, old, value, gradient, finite)
        search = self.search.step(space, state.search, value - old.value, slope, finite)
        found = search.verdict == FOUND
        # A point within the tolerance ends the search, whatever it still wished for, unless it began there:
        # what is promised then is more than a point nearby can show.
        asked = tolerance(space, limits, old)
        there = (
            finite
            & (value <= old.value)
            & (old.size > asked)
            & (projected_size(space, problem, old.ask, gradient) <= asked)
        )
        found = found | there
        took = found | ((search.verdict == LOWEST) & (core.best_value < old.value))
        x = space.pick(found, old.ask, core.best_x)
        value = space.where(found, value, core.best_value)
        gradient = space.pick(found, gradient, core.best_gradient)
        # A memory is large: in lock step it is changed in place, so that no branch below carries two.
        memory = space.guarded(
            took & (old.status == int(Status.RUNNING)),
            lambda on: self.towards.update(
                space, state.memory, x - old.x, gradient - old.gradient, gradient, state.fresh, on
            ),
            state.memory,
        )
        state = LineState(core, memory, state.d, search, state.fresh)

        def another() -> LineState:
            ask = inside(space, problem, space.axpy(search.t, state.d, old.x))
            return state._replace(core=core._replace(ask=ask, accepted=space.full(slope, False)))

        return space.branch(
            took,
            lambda: self._accepted(space, problem, limits, state, x, value, gradient, took),
            # Where a step was taken it makes no difference: so no lane fails where none has failed.
            lambda: space.branch(
                took | (search.verdict == GOING), another, lambda: self._failed(space, problem, state)
            ),
        )

    def _accepted(
        self, space: Space, problem: Problem, limits: Limits, state: LineState, x: Array, value: Number,
        gradient: Array, took: Condition,
    ) -> LineState:  # fmt: skip
        """Return the state after a step: to the trial, or to the lowest point that the search saw."""
        promise = passed_by(space, state.core.best_value, value)
        core = moved(space, problem, limits, state.core, x, value, gradient, promise)
        if problem.low is None:
            d = self.towards.direction(space, state.memory, gradient)
        else:
            free = free_to_move(space, problem, x, gradient)
            d = self.towards.direction(space, state.memory, gradient, free)  # type: ignore[call-arg]
            d = inside(space, problem, x + d) - x
        slope = space.dot(d, gradient)
        lengths = space.sqrt(space.dot(d, d)) * space.sqrt(space.dot(gradient, gradient))
        if self.modelled:
            core = core._replace(promise=space.maximum(promise, _promised(space, core, slope)))
        descends = (space.finite(slope) & (-slope > DESCENT * lengths)) | space.invert(took)

        def onward() -> LineState:
            t = space.full(slope, 1.0)
            if not self.towards.newton_like:
                grown = getattr(self.towards, "grows", None)
                share = space.divide(state.search.slope0, slope) if grown is None else t * grown
                t = space.minimum(share, 10.0) * state.search.t
            return self._line(space, problem, core, state.memory, d, slope, t, space.full(slope, False))

        return space.branch(descends, onward, lambda: self._steepest(space, problem, core, state.memory))

    def _failed(self, space: Space, problem: Problem, state: LineState) -> LineState:
        """Return the state after a search that found no lower point: along -g, or at the end."""
        core = state.core._replace(accepted=space.full(state.core.value, False))

        def give_up() -> LineState:
            why = self.search.diagnosis(space, state.search)
            return state._replace(core=core._replace(ask=core.x, status=why))

        return space.branch(state.fresh, give_up, lambda: self._steepest(space, problem, core, state.memory))

    def _steepest(self, space: Space, problem: Problem, core: Core, memory: Any) -> LineState:
        """Return the state of a search along -g, whatever the memory holds."""
        g = core.gradient
        if problem.low is not None:
            g = space.select(free_to_move(space, problem, core.x, g), g, 0.0 * g)
        one = space.full(core.value, 1.0)
        t = space.minimum(one, space.divide(one, space.sqrt(space.dot(g, g))))
        d = -g
        if problem.low is not None:
            d, t = inside(space, problem, space.axpy(t, d, core.x)) - core.x, one
        slope = space.dot(core.gradient, d)
        return self._line(space, problem, core, memory, d, slope, t, space.full(slope, True))

    def _line(
        self, space: Space, problem: Problem, core: Core, memory: Any, d: Array, slope: Number, t: Number,
        fresh: Condition,
    ) -> LineState:  # fmt: skip
        """Return the state of a search from the iterate along d."""
        last = space.full(t, FAR)
        if problem.low is not None:
            last = space.minimum(reach(space, problem, core.x, d), last)
        search = self.search.start(space, core.value, slope, t, last, problem.noise)
        core = core._replace(ask=inside(space, problem, space.axpy(search.t, d, core.x)))
        return LineState(core, memory, d, search, fresh)


def _promised(space: Space, core: Core, slope: Number) -> Number:
    """Return the fall that a model promises, ½ gᵀH g; infinite where it knows a first step from far alone."""
    first = (core.steps == 1) & (core.scale > 1.0)
    return space.where(first, float("inf"), -0.5 * slope)


def inside(space: Space, problem: Problem, x: Array) -> Array:
    """Return the point within the bounds that is nearest to x."""
    return x if problem.low is None else space.clip(x, problem.low, problem.high)


def free_to_move(space: Space, problem: Problem, x: Array, gradient: Array) -> Array:
    """Return which unknowns are not held at a bound by the gradient."""
    held = ((x <= problem.low) & (gradient > 0)) | ((x >= problem.high) & (gradient < 0))
    return ~held


def reach(space: Space, problem: Problem, x: Array, d: Array) -> Number:
    """Return how far one may go along d, at least 1: x + d is known to be within the bounds."""
    towards = space.select(d > 0, problem.high - x, problem.low - x)
    moves = d != 0
    ratio = space.select(moves, towards, 0.0 * d + FAR) / space.select(moves, d, 0.0 * d + 1.0)
    return space.maximum(space.smallest(ratio), space.full(space.norm_inf(d), 1.0))
