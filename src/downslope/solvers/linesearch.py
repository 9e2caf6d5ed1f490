"""A direction and a search make a method.

At every step the direction d comes from the gradient and a memory of former steps; the search tries
points x + t d, one a turn. Where it fails, the memory is cleared and -g is tried once; where that
fails too, the search says why: round-off, a kink, or a value that does not follow its gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from downslope.ops.protocol import Array
from downslope.solvers.core import Core, Limits, Problem, begin, moved, seen, tolerance
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
    bounded: ClassVar[bool] = False
    steady: ClassVar[tuple[str, ...]] = ("memory",)

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
        core = core._replace(evaluations=old.evaluations + 1)
        search = self.search.step(space, state.search, value - old.value, slope, finite)
        found = search.verdict == FOUND
        # A point within the tolerance ends the run, whatever the search still wished for.
        there = finite & (value <= old.value) & (space.norm_inf(gradient) <= tolerance(space, limits, old))
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
        state = state._replace(core=core, memory=memory, search=search)

        def another() -> LineState:
            ask = space.axpy(search.t, state.d, old.x)
            return state._replace(core=core._replace(ask=ask, accepted=space.full(slope, False)))

        return space.branch(
            took,
            lambda: self._accepted(space, problem, limits, state, x, value, gradient),
            lambda: space.branch(
                search.verdict == GOING, another, lambda: self._failed(space, problem, state)
            ),
        )

    def _accepted(
        self, space: Space, problem: Problem, limits: Limits, state: LineState, x: Array, value: Number,
        gradient: Array,
    ) -> LineState:  # fmt: skip
        """Return the state after a step: to the trial, or to the lowest point that the search saw."""
        core = moved(space, problem, limits, state.core, x, value, gradient)
        core = core._replace(accepted=space.full(value, True))
        d = self.towards.direction(space, state.memory, gradient)
        slope = space.dot(d, gradient)
        lengths = space.sqrt(space.dot(d, d)) * space.sqrt(space.dot(gradient, gradient))
        descends = space.finite(slope) & (-slope > DESCENT * lengths)

        def onward() -> LineState:
            t = space.full(slope, 1.0)
            if not self.towards.newton_like:
                t = space.minimum(space.divide(state.search.slope0, slope), 10.0) * state.search.t
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
        d = space.scale(space.full(core.value, -1.0), core.gradient)
        slope = -space.dot(core.gradient, core.gradient)
        t = space.minimum(space.full(slope, 1.0), space.divide(space.full(slope, 1.0), space.norm_one(d)))
        return self._line(space, problem, core, memory, d, slope, t, space.full(slope, True))

    def _line(
        self, space: Space, problem: Problem, core: Core, memory: Any, d: Array, slope: Number, t: Number,
        fresh: Condition,
    ) -> LineState:  # fmt: skip
        """Return the state of a search from the iterate along d."""
        search = self.search.start(space, core.value, slope, t, space.full(t, FAR), problem.noise)
        core = core._replace(ask=space.axpy(search.t, d, core.x))
        return LineState(core, memory, d, search, fresh)
