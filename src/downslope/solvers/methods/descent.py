"""Gradient descent and the heavy ball, with a search or with steps of a given length."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from downslope.errors import UsageError
from downslope.ops.protocol import Array
from downslope.rules.checks import require_choice, require_number
from downslope.solvers.linesearch import LineSearch
from downslope.solvers.searches.armijo import Armijo, Fixed
from downslope.solvers.searches.wolfe import Wolfe
from downslope.solvers.spaces.protocol import Condition, Space


class Nothing(NamedTuple):
    """The memory of what remembers nothing."""


@dataclass(frozen=True)
class Steepest:
    """The direction -g."""

    newton_like: ClassVar[bool] = False

    def init(self, space: Space, x: Array) -> Nothing:
        return Nothing()

    def update(
        self, space: Space, memory: Nothing, step: Array, change: Array, gradient: Array,
        fresh: Condition, when: Condition,
    ) -> Nothing:  # fmt: skip
        return memory

    def direction(self, space: Space, memory: Nothing, gradient: Array) -> Array:
        return -gradient


class Ball(NamedTuple):
    """The sum of gradients m."""

    mean: Array


@dataclass(frozen=True)
class HeavyBall:
    """The direction -m, with m ← momentum · m + g; restarted from -g where it does not descend.

    Source: Polyak, USSR Comput. Math. Math. Phys. 4 (1964) 1-17.
    """

    momentum: float = 0.9
    newton_like: ClassVar[bool] = False
    grows: ClassVar[float] = 1.1

    def __post_init__(self) -> None:
        require_number("momentum", self.momentum, 0.0, 1.0)

    def init(self, space: Space, x: Array) -> Ball:
        return Ball(space.zeros(x, space.size(x)))

    def update(
        self, space: Space, memory: Ball, step: Array, change: Array, gradient: Array, fresh: Condition,
        when: Condition,
    ) -> Ball:  # fmt: skip
        mean = space.pick(fresh, gradient - change, memory.mean)
        mean = space.axpy(space.full(space.norm_inf(mean), self.momentum), mean, gradient)
        return Ball(space.pick(when, mean, memory.mean))

    def direction(self, space: Space, memory: Ball, gradient: Array) -> Array:
        return -memory.mean


def method(
    name: str, step: str | None = None, lr: float | None = None, momentum: float | None = None
) -> LineSearch:
    """Return "gd" or "momentum", by default 0.9; `step` is "armijo", "wolfe", or "fixed" of length lr."""
    if momentum is not None and name != "momentum":
        raise UsageError(f"method {name!r} has no option 'momentum': expected method 'momentum'")
    kind = ("armijo" if lr is None else "fixed") if step is None else step
    searches: dict[str, Any] = {"armijo": Armijo(), "wolfe": Wolfe(1e-4, 0.1)}
    if kind == "fixed":
        if lr is None:
            raise UsageError("step = 'fixed' needs the length of the steps: lr=...")
        require_number("lr", lr, 0.0)
        searches["fixed"] = Fixed(lr)
    elif lr is not None:
        raise UsageError(f"lr = {lr} goes with step = 'fixed', not with {kind!r}")
    require_choice("step", kind, ("armijo", "wolfe", "fixed"))
    ball = HeavyBall(0.9 if momentum is None else momentum)
    return LineSearch(ball if name == "momentum" else Steepest(), searches[kind])
