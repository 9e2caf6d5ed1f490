"""What a method is: a state machine that makes one evaluation a turn.

    state = method.init(space, problem, limits, x, evaluation at x)
    while running:
        state = method.turn(space, problem, limits, state, evaluation at state.core.ask)

The whole state is a NamedTuple of arrays and numbers whose first field is `core`. There is no loop
inside `turn`: a line search that needs another trial says so by what it asks for next. Every decision
is `space.where`, `space.pick` or `space.branch`, so the same lines run one problem on the host, a
jitted loop, or thousands of problems in lock step (see `spaces/protocol.py`).

How to add a method, in one file `methods/NAME.py`, and a line in `methods/__init__.py`:

- **A direction** (how the gradient becomes a direction of descent, such as `lbfgs.py`): a frozen
  dataclass with `init`, `update` and `direction`; see `Direction`. `linesearch.py` adds the search.
- **Anything else** (a trust region, a rule): a frozen dataclass with `wants`, `init` and `turn`; see
  `Method`. `core.begin` makes the core, `core.seen` notes and counts a trial, `core.moved` ends a
  step; the driver applies `Stop`.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, ClassVar, NamedTuple, Protocol, TypeAlias

from downslope.ops.protocol import Array
from downslope.solvers.core import Limits, Problem
from downslope.solvers.spaces.protocol import Condition, Number, Space

State: TypeAlias = Any
"""A NamedTuple of arrays whose first field is `core`."""


class Want(IntEnum):
    """What is evaluated at the point asked for."""

    GRADIENT = 0
    """Value and gradient."""
    VALUE = 1
    """The value alone."""
    PRODUCT = 2
    """The Hessian at the point, times `state.vector`."""
    HESSIAN = 3
    """The Hessian alone; the method has the value and the gradient at the point."""
    LINEARIZED = 4
    """Of a sum of squares: value, gradient, residuals and Jacobian. In a jitted loop and in lock step it is
    what a method gets in every turn, whatever else it wants."""


class Evaluation(NamedTuple):
    """What was found at the point asked for; None where a method never wants it."""

    value: Number = None
    gradient: Array = None
    product: Array = None
    hessian: Array = None
    residuals: Array = None
    jacobian: Array = None


class Method(Protocol):
    """A method; its attributes are options, its state is arrays."""

    wants: ClassVar[frozenset[Want]]
    """What it may want; where that is more than one thing, `state.want` says which, turn by turn."""

    bounded: ClassVar[bool]
    """Whether it keeps to bounds."""

    # modelled: ClassVar[bool], optional: whether the steps that it asks for are those of a model of the
    # function, short where a minimum is near; a second look at an ending counts on it.

    # steady: ClassVar[tuple[str, ...]], optional: the parts of its state that `turn` leaves alone where
    # a problem of a batch has ended; a driver freezes all others.

    def init(self, space: Space, problem: Problem, limits: Limits, x: Array, evaluation: Evaluation) -> State:
        """Return the first state, which asks for the second evaluation; the first was at `x`.

        The first evaluation is the value and the gradient, or what else the method always wants.
        """

    def turn(
        self, space: Space, problem: Problem, limits: Limits, state: State, evaluation: Evaluation
    ) -> State:
        """Return the state after an evaluation of the point that `state` asked for."""


class Direction(Protocol):
    """How the gradient becomes a direction of descent; `linesearch.LineSearch` makes it a method."""

    newton_like: ClassVar[bool]
    """Whether a step of length 1 along the direction is the natural one."""

    def init(self, space: Space, x: Array) -> Any:
        """Return an empty memory."""

    def update(
        self, space: Space, memory: Any, step: Array, change: Array, gradient: Array, fresh: Condition,
        when: Condition,
    ) -> Any:  # fmt: skip
        """Return the memory after a step Δx that changed the gradient by Δg, to `gradient`.

        Where `fresh`, the step was along -g, and what was remembered before it is to be forgotten. In
        lock step the memory stays as it is where `when` does not hold; elsewhere it always holds.
        """

    def direction(self, space: Space, memory: Any, gradient: Array, /) -> Array:
        """Return a direction; where it does not descend, -g is taken and the memory forgotten.

        A direction whose `bounded` is True takes `free`, which says of each entry whether no bound holds it.
        """
