"""Every rule as a method: what trains networks, on any function, at a learning rate that is given."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

from downslope import rules
from downslope.errors import UsageError
from downslope.gradients.structure import Structure
from downslope.ops import ops_for
from downslope.ops.protocol import Array
from downslope.rules.checks import require_number
from downslope.rules.descent import step as descend
from downslope.rules.rule import Rule
from downslope.solvers.core import Core, Limits, Problem, begin, moved, passed_by, seen
from downslope.solvers.method import Evaluation, Want
from downslope.solvers.spaces.protocol import Space
from downslope.solvers.status import Status

RULES: dict[str, type[Rule]] = {
    "sgd": rules.SGD,
    "adagrad": rules.AdaGrad,
    "rmsprop": rules.RMSProp,
    "adam": rules.Adam,
    "muon": rules.Muon,
}
LR = 0.01


class RuleState(NamedTuple):
    """State of a rule as a method: the core, and the rule's state of each part of x."""

    core: Core
    rule: Any


@dataclass(frozen=True)
class RuleMethod:
    """x ← x - lr · direction, one evaluation a step, whatever the value does.

    No step is ever taken back; the best point is kept, and the run ends at the first iterate whose
    gradient is within the tolerance.
    """

    rule: Rule
    lr: float = LR
    shapes: tuple[tuple[int, ...], ...] = ()
    wants: ClassVar[frozenset[Want]] = frozenset({Want.GRADIENT})
    bounded: ClassVar[bool] = False

    def fitted(self, structure: Structure) -> RuleMethod:
        """Return the method for x0's parts; raise UsageError where the rule needs matrices."""
        if self.rule.elementwise:
            return self
        for part in structure.parts:
            if len(part.shape) < 2:
                raise UsageError(
                    f"x0{part.where} has shape {part.shape}: {type(self.rule).__name__} takes matrices; "
                    "use method='adam', or give x0 as matrices"
                )
        return replace(self, shapes=tuple(part.shape for part in structure.parts))

    def init(
        self, space: Space, problem: Problem, limits: Limits, x: Array, evaluation: Evaluation
    ) -> RuleState:
        """Return the state that asks for the first step."""
        core = begin(space, problem, x, evaluation.value, evaluation.gradient)
        parts = self._parts(space, x)
        state = tuple(self.rule.init(ops_for(p), p) for p in parts)
        return self._stepped(space, RuleState(core, state), core)

    def turn(
        self, space: Space, problem: Problem, limits: Limits, state: RuleState, evaluation: Evaluation
    ) -> RuleState:
        """Return the state after a step, which asks for the next one."""
        value, gradient = evaluation.value, evaluation.gradient
        finite = space.finite(value) & space.finite(space.dot(gradient, gradient))
        old = state.core
        core = seen(space, old, value, gradient, finite)

        def on() -> RuleState:
            promise = passed_by(space, core.best_value, value)
            after = moved(space, problem, limits, core, old.ask, value, gradient, promise)
            return self._stepped(space, state, after)

        def ended() -> RuleState:
            why = space.full(old.status, int(Status.NONFINITE))
            return state._replace(core=core._replace(status=why, accepted=space.full(value, False)))

        return space.branch(finite, on, ended)

    def _stepped(self, space: Space, state: RuleState, core: Core) -> RuleState:
        count = space.common(core.steps) + 1
        moves, states = [], []
        pairs = zip(self._parts(space, core.x), self._parts(space, core.gradient), state.rule, strict=True)
        for p, g, old in pairs:
            x = ops_for(p)
            direction, new = self.rule.direction(x, g, old, p, count)
            moves.append(p + descend(x, p, direction, lr=self.lr))
            states.append(new)
        return RuleState(core._replace(ask=self._whole(space, moves)), tuple(states))

    def _parts(self, space: Space, x: Array) -> list[Array]:
        """Return x as the rule takes it: as it is, or as matrices (…, fan_out, fan_in)."""
        if not self.shapes:
            return [x]
        ops, at, parts = ops_for(x), 0, []
        first = space.lanes_first(x)
        for shape in self.shapes:
            size = 1
            for n in shape:
                size *= n
            parts.append(ops.reshape(first[..., at : at + size], (*first.shape[:-1], *shape)))
            at += size
        return parts

    def _whole(self, space: Space, parts: list[Array]) -> Array:
        if not self.shapes:
            return parts[0]
        ops = ops_for(parts[0])
        lead = len(parts[0].shape) - len(self.shapes[0])
        rows = [ops.reshape(p, (*p.shape[:lead], -1)) for p in parts]
        return space.lanes_last(rows[0] if len(rows) == 1 else ops.concat(rows, -1))


def method(name: str, lr: float = LR, **options: Any) -> RuleMethod:
    """Return a rule with its learning rate and hyper-parameters.

    Raises:
        UsageError: a hyper-parameter that the rule has not.

    """
    require_number("lr", lr, 0.0)
    kind = RULES[name]
    unknown = options.keys() - set(kind.hyperparameters())
    if unknown:
        known = ", ".join(kind.hyperparameters())
        raise UsageError(f"{name} has no option {sorted(unknown)[0]!r}: expected some of lr, {known}")
    return RuleMethod(kind(**options), lr)
