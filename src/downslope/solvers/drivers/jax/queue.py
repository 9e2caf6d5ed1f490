"""JAX on CPUs: a batch waits in a queue, and few lanes work it off.

A lane whose problem has ended takes the next one, so that all lanes are at work until the queue is
empty, whatever the problems take. Lanes are so few that the state of all of them lies near the
processor, and a turn of theirs is one kernel (see `kernel.py`). Each processor has a part of the batch.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from enum import IntEnum
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from downslope.ops.protocol import Array
from downslope.solvers.core import Core, Limits, Problem, begin, settle
from downslope.solvers.drivers.jax.kernel import is_small, joined, one_kernel
from downslope.solvers.drivers.lanes import Cores
from downslope.solvers.method import Evaluation, State, Want
from downslope.solvers.spaces.jax import alike, repeated
from downslope.solvers.status import Status

LANES = 64
"""Problems that one processor has under way."""

IDLE = 8
"""Lanes take new problems when one in so many has none."""

TURNS = 16
"""Turns at most between two looks at the queue."""

SECONDS = 0.05
"""The host looks at the clock, and for Ctrl-C, about so often, but not within the turns named above."""


class Held(IntEnum):
    """What the kernels hold."""

    NOTHING = 0
    METHOD = 1
    ALL = 2


class Work(NamedTuple):
    """How far a part of a batch has come.

    Attributes:
        whole: the cores of all its problems, as they began or ended, and a column that is nobody's.
        first: residuals and Jacobians of all where they begin, of a sum of squares; else none.
        state: of the lanes.
        lanes: the problem in each lane; the column that is nobody's where it has none.
        problem, arrays: bounds and arguments of the lanes.
        next: the first problem in the queue.

    """

    whole: Core
    first: tuple[Array, ...]
    state: State
    lanes: Array
    problem: Problem
    arrays: Any
    next: Array


class Queue:
    """The compiled parts of a batch: how it begins, and rounds of turns."""

    def __init__(self, loop: Any, held: Held) -> None:
        self.loop, self.method, self.space = loop, loop.method, loop.space
        self.begin = loop.kernels.compiled(self.plain_begin)
        self.held, self.rounds = held, jax.jit(self.plain_rounds)

    def compile(self, own: Any, work: Work, count: Array) -> None:
        """Compile the rounds, with as much in kernels as XLA can.

        XLA makes some operations that are plain, such as long sums, calls of a library of its own.
        """
        while True:
            try:
                self.rounds(*own, work, count, jnp.int32(0))
            except jax.errors.JaxRuntimeError:
                if self.held == Held.NOTHING:
                    raise
                self.held = Held(self.held - 1)
                self.rounds = jax.jit(lambda *given: self.plain_rounds(*given))  # jit would know the old one
            else:
                return

    def _joined(self, f: Callable[..., Any]) -> Callable[..., Any]:
        return joined(f) if self.held == Held.ALL else f

    def _kernel(self, f: Callable[..., Any]) -> Callable[..., Any]:
        return one_kernel(f) if self.held else f

    def turn(self, problem: Problem, limits: Limits, arrays: Any, state: State) -> State:
        """Return the state of the lanes after a turn."""

        def whole(problem: Problem, arrays: Any, state: State) -> State:
            return self.loop.lanes_turn(problem, limits, state, self.loop.evaluate(arrays, state))

        def apart(problem: Problem, arrays: Any, state: State) -> State:
            alone = self._kernel(lambda *given: self.loop.lanes_turn(given[0], limits, *given[1:]))
            return alone(problem, state, self.loop.evaluate(arrays, state))

        if self.held == Held.ALL and is_small(self.loop.evaluate, arrays, state):
            return one_kernel(whole, apart)(problem, arrays, state)
        return apart(problem, arrays, state)

    def plain_begin(self, problem: Problem, limits: Limits, arrays: Any, x: Array) -> Work:
        """Return all problems in the queue, and lanes without any."""
        whole, first = jax.tree.map(
            lambda a: jnp.concatenate([a, a[..., -1:]], -1), self._began(problem, limits, arrays, x)
        )
        none, width = x.shape[0], min(LANES, x.shape[0])
        few = {i: a[:width] if self._of_lanes(i) else a for i, a in arrays.items()}
        shapes = jax.eval_shape(self.loop.plain_first, _few(problem, slice(width)), limits, few, x[:width])
        state = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
        ended = jnp.full_like(state.core.status, int(Status.NONFINITE))
        state = state._replace(core=state.core._replace(status=ended))
        lanes = jnp.full((width,), none, jnp.int32)
        return Work(whole, first, state, lanes, _few(problem, slice(width)), few, jnp.int32(0))

    def _began(self, problem: Problem, limits: Limits, arrays: Any, x: Array) -> tuple[Core, Any]:
        """Return the cores of all problems where they begin, and (residuals, Jacobians) or nothing."""
        if Want.LINEARIZED not in self.method.wants:
            return self.loop.plain_first(problem, limits, arrays, x).core, ()
        # Their decompositions are left to the lanes: two would take long to compile.
        found = self.loop.linearized(arrays, x)
        core = begin(self.space, problem, self.space.lanes_last(x), found.value, found.gradient)
        core = core._replace(size=jnp.full_like(core.size, jnp.nan))
        return self.space.arrays(core), (found.residuals, found.jacobian)

    def plain_rounds(
        self, problem: Problem, limits: Limits, arrays: Any, work: Work, count: Array, rounds: Array
    ) -> Work:
        """Return the work after so many rounds; `count` says how many problems there are."""

        def going(carry: tuple[Array, Work]) -> Array:
            done, work = carry
            return (done < rounds) & unfinished(work, count)

        def one(carry: tuple[Array, Work]) -> tuple[Array, Work]:
            done, work = carry
            work = self._served(problem, limits, arrays, work, count)
            return done + 1, work._replace(state=self._turned(limits, work, count))

        return self._joined(lambda work: jax.lax.while_loop(going, one, (jnp.int32(0), work))[1])(work)  # type: ignore[no-any-return]

    def worked(self, given: Any, work: Work, rounds: int) -> Work:
        """Return the work after so many rounds, when they are done."""
        own, count = given
        made: Work = jax.tree.map(
            lambda a: a.block_until_ready(), self.rounds(*own, work, count, jnp.int32(rounds))
        )
        return made

    def _served(self, problem: Problem, limits: Limits, arrays: Any, work: Work, count: Array) -> Work:
        """Write down the problems that have ended; their lanes take those that are next."""
        none = work.whole.status.shape[0] - 1
        idle = work.state.core.status != int(Status.RUNNING)

        def exchanged(
            idle: Array, core: Core, own: Any, whole: Core, first: Any, lanes: Array, following: Array
        ) -> Any:
            width = lanes.shape[0]
            blank = (jnp.zeros(width, jnp.int32), jnp.int32(0))
            order, many = repeated(
                width, lambda i, c: (_put(c[0], i, c[1]), c[1] + _column(idle, i).astype(jnp.int32)), blank
            )

            def change(i: Array, carry: Any) -> Any:
                whole, lanes, following, begun = carry
                lane = _column(order, i)
                held = _column(lanes, lane)
                whole = jax.tree.map(lambda a, part: _put(a, _column(part, lane), held), whole, core)
                new = jnp.where(following < count, following, none)
                every = (whole.x, whole.value, whole.gradient, *first)
                begun = jax.tree.map(lambda a, b: _put(a, _column(b, new), lane), begun, every)
                return whole, _put(lanes, new, lane), jnp.minimum(following + 1, count), begun

            start = (whole, lanes, following, (core.x, core.value, core.gradient, *own))
            return repeated(many, change, start)

        whole, lanes, following, (x, *known) = self._kernel(exchanged)(
            idle, work.state.core, self._linearized(work.state), work.whole, work.first, work.lanes, work.next
        )
        arrays = {
            i: jnp.take(a, lanes, 0, mode="clip") if self._of_lanes(i) else a for i, a in arrays.items()
        }
        own = _few(problem, jnp.minimum(lanes, none - 1))

        def begun(own: Problem, state: State, x: Array, known: list[Array], new: Array) -> State:
            value, gradient, *more = known
            evaluation = Evaluation(value, None if self.method.wants == {Want.VALUE} else gradient)
            evaluation = evaluation._replace(**dict(zip(("residuals", "jacobian"), more, strict=False)))
            first = self.space.arrays(self.method.init(self.space, own, limits, x, evaluation))
            first = first._replace(core=self.space.arrays(settle(self.space, limits, first.core)))
            return jax.tree.map(lambda a, b: jnp.where(new, a, b), alike(first, state), state)

        state = self._kernel(begun)(own, work.state, x, known, idle & (lanes < none))
        return Work(whole, work.first, state, lanes, own, arrays, following)

    def _turned(self, limits: Limits, work: Work, count: Array) -> State:
        """Return the state of the lanes when enough of them are idle."""
        width = work.lanes.shape[0]
        least = jnp.where(work.next < count, width - max(width // IDLE, 1), 0)

        def going(carry: tuple[Array, State]) -> Array:
            turns, state = carry
            return (turns < TURNS) & ((state.core.status == int(Status.RUNNING)).sum() > least)

        def turn(carry: tuple[Array, State]) -> tuple[Array, State]:
            return carry[0] + 1, self.turn(work.problem, limits, work.arrays, carry[1])

        return self._joined(lambda state: jax.lax.while_loop(going, turn, (jnp.int32(0), state))[1])(
            work.state
        )

    def _linearized(self, state: State) -> tuple[Array, ...]:
        """Return residuals and Jacobians of a state, where it has them."""
        return (state.residuals, state.jacobian) if Want.LINEARIZED in self.method.wants else ()

    def _of_lanes(self, argument: int) -> bool:
        return self.loop.kernels.array_axes[argument] == 0  # type: ignore[no-any-return]


def unfinished(work: Work, count: Array) -> Array:
    """Whether a problem is in the queue or in a lane."""
    return (work.next < count) | (work.lanes < work.whole.status.shape[0] - 1).any()


def traced(queue: Queue, problem: Problem, limits: Limits, objective: Any, x: Array) -> Cores:
    """Return the cores of a batch within a transformation of JAX's."""
    arrays, count = objective.arrays, jnp.int32(x.shape[0])
    work = queue.plain_begin(problem, limits, arrays, x)
    work = queue.plain_rounds(problem, limits, arrays, work, count, jnp.int32(2**31 - 1))
    return Cores(queue.space, jax.tree.map(lambda a: a[..., :-1], work.whole))


def run(
    queue: Queue, problem: Problem, limits: Limits, objective: Any, x: Array, deadline: float | None
) -> Any:
    """Return the cores of a batch at the end, each processor having worked off a part of it."""
    size = x.shape[0]
    parts = min(_processors(), max(1, size // LANES))
    share = -(-size // parts)
    given, works = [], []
    for first in range(0, size, share):
        # The last part is filled up, so that all have one shape; what fills it up is never begun.
        at = jnp.minimum(jnp.arange(first, first + share), size - 1)
        own = _few(problem, at), limits, objective.select(at).arrays if parts > 1 else objective.arrays
        given.append((own, jnp.int32(min(share, size - first))))
        works.append(queue.begin(*own, x[at] if parts > 1 else x))
    queue.compile(given[0][0], works[0], given[0][1])  # here, so that the threads do not all do it
    end, threads, rounds = Status.RUNNING, ThreadPoolExecutor(parts), 1
    try:
        while any(unfinished(w, count) for w, (_, count) in zip(works, given, strict=True)):
            if deadline is not None and time.perf_counter() > deadline:
                end = Status.SECONDS
                break
            began = time.perf_counter()
            works = list(threads.map(queue.worked, given, works, [rounds] * len(works)))
            quick = time.perf_counter() - began < SECONDS
            rounds = 2 * rounds if quick else max(rounds // 2, 1)
    except KeyboardInterrupt:
        end = Status.INTERRUPTED
    finally:
        threads.shutdown()
    cores = [_written_down(work, end) for work in works]
    # By NumPy, which shares the memory: JAX would compile a slice and a sum of the parts, array by array.
    return Cores(queue.space, jax.tree.map(lambda *a: jnp.asarray(_side_by_side(a, size)), *cores))


def _side_by_side(parts: Any, size: int) -> Any:
    return np.concatenate([np.asarray(a)[..., :-1] for a in parts], -1)[..., :size]


def _written_down(work: Work, end: Status) -> Core:
    """Return the cores of all problems; those that have not come to their end, end for the reason given."""
    whole = work.whole
    if end != Status.RUNNING:
        whole = jax.tree.map(lambda a, part: a.at[..., work.lanes].set(part), whole, work.state.core)
        code = jnp.where(whole.status == int(Status.RUNNING), int(end), whole.status)
        whole = whole._replace(status=code)
    return whole


def _few(problem: Problem, at: Any) -> Problem:
    """Return the problem of some lanes: bounds are columns, or one for all."""
    low, high, noise = problem
    if low is None or high is None or low.shape[-1] == 1:
        return problem
    return Problem(low[..., at], high[..., at], noise)


def _column(a: Array, at: Array) -> Array:
    return jax.lax.dynamic_index_in_dim(a, at, -1, keepdims=False)


def _put(a: Array, column: Array, at: Array) -> Array:
    return jax.lax.dynamic_update_index_in_dim(a, column.astype(a.dtype), at, -1)


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
