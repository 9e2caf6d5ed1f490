"""JAX: turns are traced into one compiled loop, of one problem or of many in lock step.

The host sees the state between two calls of the loop: after each step where somebody looks on, else
after many turns. A batch waits in a queue on CPUs (see `queue.py`); on accelerators all problems have
lanes, and are gathered into fewer as they end. Called within a
transformation of JAX's, with a tracer for x0, the whole solve is traced and nothing reaches the host.

What was compiled is kept with the user's function: a second solve from another point compiles nothing.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from downslope.errors import UsageError
from downslope.gradients.jax import Residuals
from downslope.ops.protocol import Array
from downslope.solvers.core import Limits, Problem, settle
from downslope.solvers.drivers.jax import queue
from downslope.solvers.drivers.jax.results import traced, traced_fit
from downslope.solvers.drivers.lanes import Cores, begin, evaluate, frozen
from downslope.solvers.losses import Loss
from downslope.solvers.method import Evaluation, Method, State, Want
from downslope.solvers.spaces.jax import JaxSpace, alike
from downslope.solvers.squares import Squares
from downslope.solvers.status import Status

TURNS = {"watched": 1_000_000, "timed": 64, "alone": 1_000_000, "lanes": 16}
"""Turns of one call of the loop."""

SMALLEST = 16
"""Batches are not gathered into fewer lanes than this."""

__all__ = ["JaxSpace", "Loop", "in_trace", "is_traced", "looked_at", "loop_of", "run", "traced", "traced_fit"]

_KEPT = 32
"""Functions whose compiled loops are kept; the one that was asked for longest ago is let go."""

_compiled: OrderedDict[Any, dict[Any, Loop]] = OrderedDict()


class Loop:
    """The compiled parts of a run: the first evaluation, and turns."""

    def __init__(self, method: Method, objective: Any) -> None:
        like = objective.x0
        self.method, self.kernels, self.space = method, objective.kernels, JaxSpace(like)
        self.squares = _squares_of(objective)
        # In a program of the user's, what XLA gives up at could not be compiled otherwise: f stays outside.
        held = queue.Held.METHOD if is_traced(like) else queue.Held.ALL
        self.queue = queue.Queue(self, held) if like.ndim > 1 and _on_one_cpu(like) else None
        self.first = jax.jit(self.plain_first)
        self.turns = jax.jit(self.plain_turns, static_argnames=("stop_at_step",))
        self.pair = jax.jit(lambda arrays, x: self._objective(arrays).value_and_gradient(x))
        self.smaller = jax.jit(lambda state, at: jax.tree.map(lambda a: a[..., at], state))

    def plain_first(self, problem: Problem, limits: Limits, arrays: Any, x: Array) -> State:
        """Return the state before the first turn."""
        if x.ndim > 1:
            state = begin(self.method, self.space, problem, limits, self._objective(arrays), x)
            return self.space.arrays(state)
        objective = self._objective(arrays)
        if Want.LINEARIZED in self.method.wants:
            evaluation = objective.linearized(x)
        elif Want.GRADIENT in self.method.wants:
            evaluation = Evaluation(*objective.value_and_gradient(x))
        else:
            evaluation = Evaluation(objective.value(x))
        state = self.space.arrays(self.method.init(self.space, problem, limits, x, evaluation))
        return state._replace(core=self.space.arrays(settle(self.space, limits, state.core)))

    def plain_turns(
        self, problem: Problem, limits: Limits, arrays: Any, state: State, turns: Array, stop_at_step: bool
    ) -> State:
        """Return the state after so many turns, or when all have ended, or at the next step."""

        def going(carry: tuple[Array, State]) -> Array:
            count, now = carry
            on = (count < turns) & (now.core.status == int(Status.RUNNING)).any()
            return on & ~now.core.accepted.any() | (count == 0) if stop_at_step else on

        def turn(carry: tuple[Array, State]) -> tuple[Array, State]:
            count, old = carry
            turned = self.lanes_turn if len(old.core.status.shape) else self._turned
            return count + 1, turned(problem, limits, old, self.evaluate(arrays, old))

        return jax.lax.while_loop(going, turn, (jnp.int32(0), state))[1]

    def lanes_turn(self, problem: Problem, limits: Limits, old: State, evaluation: Evaluation) -> State:
        """Return the state of many problems after a turn."""
        return frozen(self.space, self.method, self._turned(problem, limits, old, evaluation), old)

    def _turned(self, problem: Problem, limits: Limits, old: State, evaluation: Evaluation) -> State:
        new = self.method.turn(self.space, problem, limits, old, evaluation)
        new = new._replace(core=settle(self.space, limits, new.core))
        return alike(self.space.arrays(new), old)

    def evaluate(self, arrays: Any, state: State) -> Evaluation:
        """Return what is wanted; in lock step everything that the method ever wants."""
        wants, f, x = self.method.wants, self._objective(arrays), state.core.ask
        if len(state.core.status.shape):
            return evaluate(self.space, f, self.method, state)
        if Want.LINEARIZED in wants:
            # Most trials are steps: their Jacobian costs less here than the residuals a second time.
            everything: Evaluation = f.linearized(x)
            return everything
        if wants == {Want.GRADIENT}:
            return Evaluation(*f.value_and_gradient(x))
        blank = self._blank(state)

        def found(kind: Want) -> Evaluation:
            if kind == Want.VALUE:
                return blank._replace(value=f.value(x))
            if kind == Want.PRODUCT:
                return blank._replace(product=f.hessian_vector(x, state.vector))
            made = blank._replace(**dict(zip(("value", "gradient"), f.value_and_gradient(x), strict=True)))
            return made._replace(hessian=f.hessian(x)) if kind == Want.HESSIAN else made

        if len(wants) == 1:
            return found(next(iter(wants)))
        order = sorted(wants)
        at = sum((jnp.where(state.want == int(kind), i, 0) for i, kind in enumerate(order)), jnp.int32(0))
        return jax.lax.switch(at, [partial(found, kind) for kind in order])  # type: ignore[no-any-return]

    def linearized(self, arrays: Any, x: Array) -> Evaluation:
        """Return everything of sums of squares."""
        found: Evaluation = self._objective(arrays).linearized(x)
        return found

    def _objective(self, arrays: Any) -> Any:
        """Return the function as an objective, to be traced."""
        if self.squares is None:
            return _Plain(self.kernels, arrays)
        return Squares(_PlainResiduals(self.kernels, arrays), *self.squares, self.space)

    def _blank(self, state: State) -> Evaluation:
        x, wants = state.core.x, self.method.wants
        zeros = jnp.zeros_like(x)
        square = jnp.zeros((*x.shape, x.shape[-1]), x.dtype) if Want.HESSIAN in wants else None
        return Evaluation(
            jnp.zeros(x.shape[:-1], x.dtype), zeros, zeros if Want.PRODUCT in wants else None, square
        )


def _on_one_cpu(x: Array) -> bool:
    if isinstance(x, jax.core.Tracer):
        return jax.default_backend() == "cpu"
    devices = x.devices()
    return len(devices) == 1 and next(iter(devices)).platform == "cpu"


class _Plain:
    """A function's derivatives as an objective, to be traced."""

    def __init__(self, kernels: Any, arrays: Any) -> None:
        self.value = lambda x: kernels.plain_value(x, arrays)
        self.value_and_gradient = lambda x: kernels.plain_pair(x, arrays)
        self.hessian_vector = lambda x, v: kernels.plain_product(x, arrays, v)
        self.hessian = lambda x: kernels.plain_hessian(x, arrays)


class _PlainResiduals:
    """The same of residuals."""

    def __init__(self, kernels: Any, arrays: Any) -> None:
        self.value = lambda x: kernels.plain_residuals(x, arrays)
        self.value_and_jacobian = lambda x: kernels.plain_jacobian(x, arrays)


def _squares_of(objective: Any) -> tuple[Loss, float] | None:
    """Return the loss of a sum of squares and its scale; None of another function."""
    return (objective.loss, objective.scale) if isinstance(objective, Squares) else None


def loop_of(method: Method, objective: Any) -> Loop:
    """Return what is compiled for a function and a method, new or from a run before."""
    if is_traced(objective.x0):  # what its function knows may be tracers, which must not outlive the trace
        return Loop(method, objective)
    given, structure = objective.given, objective.structure
    more = tuple(None if i in objective.arrays else a for i, a in enumerate(given.args))
    key = (method, structure.parts, structure.nest, structure.dtype, structure.batch is None,
           given.gradient, given.hessian, given.hessian_vector, given.vectorized, more,
           jax.config.jax_enable_x64, _squares_of(objective),  # type: ignore[attr-defined]
           objective.x0.ndim > 1 and _on_one_cpu(objective.x0),
           tuple((i, a.shape[:1] == (structure.batch,)) for i, a in objective.arrays.items()))  # fmt: skip
    try:
        kept = _compiled.setdefault(given.fun, {})
        _compiled.move_to_end(given.fun)
        if len(_compiled) > _KEPT:
            _compiled.popitem(last=False)
        if key not in kept:
            kept[key] = Loop(method, objective)
        objective.kernels = kept[key].kernels  # what was compiled of them is kept too
        return kept[key]
    except (TypeError, ValueError):  # a function, an argument or a static part of x0 that cannot be a key
        return Loop(method, objective)


def run(
    method: Method, problem: Problem, limits: Limits, objective: Any, start: Array | State,
    seconds: float | None, observer: Any,
) -> tuple[State, BaseException | None]:  # fmt: skip
    """Return the state at the end of a run, and the exception that ended it or None."""
    loop = loop_of(method, objective)
    deadline = None if seconds is None else time.perf_counter() + seconds
    if hasattr(start, "core"):
        state = _restarted(start)
    elif isinstance(start, jax.core.Tracer):
        if loop.queue is not None:
            return queue.traced(loop.queue, problem, limits, objective, start), None
        state = loop.plain_first(problem, limits, objective.arrays, start)
        most = jnp.int32(TURNS["alone"])
        state = loop.plain_turns(problem, limits, objective.arrays, state, most, False)
        return (Cores(loop.space, state.core) if start.ndim > 1 else state), None
    elif loop.queue is not None:
        return queue.run(loop.queue, problem, limits, objective, start, deadline), None
    else:
        objective.value(start)  # says what is wrong with the function, if anything is
        state = loop.first(problem, limits, objective.arrays, start)
    if len(state.core.status.shape):
        return _Gathered(loop, problem, limits, objective, state).run(deadline), None
    return _alone(loop, problem, limits, objective, state, deadline, observer)


def is_traced(x: Array) -> bool:
    """Whether a transformation of JAX's is under way."""
    return isinstance(x, jax.core.Tracer)


def looked_at(method: Method, objective: Any) -> Callable[[Any], tuple[Any, Any]]:
    """Return value and gradient of NumPy's points, compiled, for a second look; value alone of a search."""
    loop = loop_of(method, objective)

    def evaluate(x: Any) -> tuple[Any, Any]:
        point = jnp.asarray(x, objective.x0.dtype)
        if method.wants == {Want.VALUE}:
            return np.asarray(objective.value(point)), None
        value, gradient = loop.pair(objective.arrays, point)
        return np.asarray(value), np.asarray(gradient)

    return evaluate


def in_trace(f: Any) -> bool:
    """Whether a transformation of JAX's is under way of x0, or of what the function knows besides.

    In the latter case x0 becomes a part of it too, so that whoever sees x0 knows.
    """
    if not is_traced(f.x0):
        try:
            plain = f.kernels.plain_residuals if isinstance(f, Residuals) else f.kernels.plain_value
            program = jax.make_jaxpr(plain)(f.x0, f.arrays)
        except (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError):
            f.value(f.x0)  # says what is wrong
            raise
        besides = [a for a in jax.tree.leaves((program.consts, f.arrays)) if is_traced(a)]
        if besides:
            f.x0 = jnp.where(besides[0].ravel()[:1].sum() == 0, f.x0, f.x0)
    return is_traced(f.x0)


def _alone(
    loop: Loop, problem: Problem, limits: Limits, objective: Any, state: State, deadline: float | None,
    observer: Any,
) -> tuple[State, BaseException | None]:  # fmt: skip
    watched = observer.needed
    turns = jnp.int32(TURNS["watched" if watched else "alone" if deadline is None else "timed"])
    try:
        if watched and observer(state.core):
            return _ended(state, Status.CALLBACK), None
        while int(state.core.status) == Status.RUNNING:
            if deadline is not None and time.perf_counter() > deadline:
                return _ended(state, Status.SECONDS), None
            after = loop.turns(problem, limits, objective.arrays, state, turns, stop_at_step=watched)
            state = after
            if watched and bool(state.core.accepted) and observer(state.core):
                return _ended(state, Status.CALLBACK), None
    except KeyboardInterrupt:
        return _ended(state, Status.INTERRUPTED), None
    except Exception as error:
        if isinstance(error, UsageError) and state.core.evaluations == 1:
            raise  # of a second derivative, as on the host
        return _ended(state, Status.RAISED), error
    return state, None


def _restarted(state: State) -> State:
    again = jnp.full_like(state.core.status, int(Status.RUNNING))
    return state._replace(core=state.core._replace(status=again))


def _ended(state: State, status: Status) -> State:
    core = state.core
    code = jnp.where(core.status == int(Status.RUNNING), int(status), core.status)
    return state._replace(core=core._replace(status=code))


class _Gathered:
    """A batch, gathered into fewer lanes as its problems end."""

    def __init__(self, loop: Loop, problem: Problem, limits: Limits, objective: Any, state: State) -> None:
        self.loop, self.problem, self.limits, self.whole = loop, problem, limits, objective
        self.state, self.objective, self.all = state, objective, state.core
        self.lanes = np.arange(state.core.status.shape[0])

    def run(self, deadline: float | None) -> Any:
        """Return the cores of all problems at the end."""
        turns = jnp.int32(TURNS["lanes"])
        while True:
            running = np.asarray(self.state.core.status) == int(Status.RUNNING)
            if not running.any():
                break
            if deadline is not None and time.perf_counter() > deadline:
                self.state = _ended(self.state, Status.SECONDS)
                break
            self._gather(running)
            try:
                after = self.loop.turns(
                    self.problem, self.limits, self.objective.arrays, self.state, turns, stop_at_step=False
                )
                self.state = after
            except KeyboardInterrupt:
                self.state = _ended(self.state, Status.INTERRUPTED)
                break
        self._write_down()
        return Cores(self.loop.space, self.all)

    def _gather(self, running: Any) -> None:
        """Let those that have ended leave, where half of the lanes or more have."""
        count, bucket = int(running.sum()), len(self.lanes)
        wanted = max(SMALLEST, 1 << (count - 1).bit_length())
        if wanted > bucket // 2:
            return
        self._write_down()
        # The bucket is filled up with lanes that have ended: they are frozen.
        stay = np.concatenate([np.flatnonzero(running), np.flatnonzero(~running)[: wanted - count]])
        self.lanes = self.lanes[stay]
        at = jnp.asarray(stay)
        self.state = self.loop.smaller(self.state, at)
        self.objective = self.whole.select(jnp.asarray(self.lanes))
        low, high, noise = self.problem
        if low is not None and high is not None and low.shape[-1] > 1:
            self.problem = Problem(low[..., at], high[..., at], noise)

    def _write_down(self) -> None:
        at = jnp.asarray(self.lanes)
        if self.all is not self.state.core:
            self.all = jax.tree.map(
                lambda whole, part: whole.at[..., at].set(part), self.all, self.state.core
            )
