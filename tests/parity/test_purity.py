"""Rules write to nothing that is not theirs, and read nothing that they gave away."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import downslope as ds
from downslope.rules import Rule, step
from tests.parity.cases import CASES, Case, gradients, oracle, start
from tests.parity.poison import PoisonOps


def frozen(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    for a in arrays.values():
        a.flags.writeable = False
    return arrays


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_run_on_poisoned_operations_is_the_same(case: Case) -> None:
    x, p = PoisonOps(), frozen(start(case))
    state = {name: case.rule.init(x, p[name]) for name in p}
    given = gradients(case)
    for t, (g, expected) in enumerate(zip(given, oracle(case), strict=True), start=1):
        frozen(g)
        after = {}
        for name in p:
            before = p[name].copy(), g[name].copy()
            d, state[name] = case.rule.direction(x, g[name], state[name], p[name], t)
            after[name] = p[name] + step(
                x, p[name], d, lr=case.lr, weight_decay=case.weight_decay, cautious=case.cautious
            )
            np.testing.assert_array_equal(p[name], before[0])
            np.testing.assert_array_equal(g[name], before[1])
            np.testing.assert_array_equal(after[name], expected[name])
        p = frozen({name: np.array(value) for name, value in after.items()})


def test_poison_catches_a_rule_that_reads_a_consumed_slot() -> None:
    class Careless(ds.SGD):
        def direction(self, x: Any, g: Any, state: Any, p: Any, t: Any) -> Any:
            _, after = super().direction(x, g, state, p, t)
            return g + self.momentum * state.momentum_buffer, after

    x, p = PoisonOps(), np.ones(3)
    rule: Rule = Careless(momentum=0.9)
    d, _ = rule.direction(x, p, rule.init(x, p), p, 1)
    assert np.isnan(d).all()


def test_poison_catches_a_rule_that_writes() -> None:
    g = frozen({"g": np.ones(3)})["g"]
    with pytest.raises(ValueError, match="read-only"):
        g *= 2
