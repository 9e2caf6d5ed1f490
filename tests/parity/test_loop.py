"""Rules in a plain loop over a dict of NumPy arrays."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from typing import Any

import numpy as np
import pytest

import downslope as ds
from tests.parity.cases import CASES, Case, gradients, oracle, start

ADAM = ds.Adam()
PARAMS = {"w": np.ones((2, 3)), "b": [np.ones(3), np.float64(1.0)]}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_loop_takes_the_oracles_steps_and_writes_to_nothing(case: Case) -> None:
    params = start(case)
    state = case.rule.start(params)
    for g, expected in zip(gradients(case), oracle(case), strict=True):
        for array in (*params.values(), *g.values()):
            np.asarray(array).flags.writeable = False
        params, state = case.rule.step(
            params, g, state, lr=case.lr, weight_decay=case.weight_decay, cautious=case.cautious
        )
        for name in params:
            np.testing.assert_array_equal(params[name], expected[name])


def test_any_nesting_and_one_array() -> None:
    pair = namedtuple("pair", "left right")
    params = {"layers": [pair(np.ones(2), np.ones((2, 2))), (np.ones(1),)], "empty": {}}
    state = ADAM.start(params)
    after, state = ADAM.step(params, params, state, lr=0.5)
    assert isinstance(after["layers"][0], pair)
    assert isinstance(after["layers"][1], tuple)
    assert after["empty"] == {}
    np.testing.assert_allclose(after["layers"][0].right, 0.5)
    assert state.t == 1
    one, _ = ADAM.step(np.ones(3), np.ones(3), ADAM.start(np.ones(3)), lr=0.5)
    np.testing.assert_allclose(one, 0.5)


def test_least_squares_as_the_documentation_has_it() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((64, 3))
    y = x @ [1.0, -2.0, 0.5] + 0.25
    params = {"w": np.zeros(3), "b": np.zeros(())}
    rule = ds.Adam()
    state = rule.start(params)
    for _ in range(1500):
        error = x @ params["w"] + params["b"] - y
        grads = {"w": x.T @ error / len(x), "b": error.mean()}
        params, state = rule.step(params, grads, state, lr=0.01)
    np.testing.assert_allclose(params["w"], [1.0, -2.0, 0.5], atol=1e-6)
    np.testing.assert_allclose(params["b"], 0.25, atol=1e-6)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: ds.Muon().start(PARAMS), ValueError, r"b.0 has shape \(3,\): Muon takes matrices"),
        (lambda: ADAM.start({"n": np.arange(3)}), TypeError, "n has dtype int64: expected a real floating"),
        (lambda: ADAM.start({"n": "three"}), TypeError, "no operations for str"),
        (
            lambda: go(grads={"w": np.ones((2, 3))}),
            ValueError,
            r"the tree has the parts \['b', 'w'\] in the parameters",
        ),
        (
            lambda: go(grads={**PARAMS, "w": np.ones((3, 2))}),
            ValueError,
            r"gradient of w has shape \(3, 2\), the parameter \(2, 3\)",
        ),
        (lambda: go(grads={**PARAMS, "b": [np.ones(3)]}), ValueError, r"b has the parts \['0', '1'\]"),
        (
            lambda: go(state=ds.SGD().start(PARAMS)),
            TypeError,
            "the state of w is a SGDState, expected AdamState",
        ),
        (lambda: go(state=None), TypeError, "state is a NoneType: expected what start"),
        (lambda: go(lr=-1.0), ValueError, "lr = -1.0"),
        (lambda: go(lr=float("nan")), ValueError, "lr = nan"),
        (lambda: go(weight_decay=-1.0), ValueError, "weight_decay = -1.0"),
    ],
)
def test_bad_input(call: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call()


def go(grads: Any = PARAMS, state: Any = ..., lr: float = 0.1, weight_decay: float = 0.0) -> Any:
    state = ADAM.start(PARAMS) if state is ... else state
    return ADAM.step(PARAMS, grads, state, lr=lr, weight_decay=weight_decay)


def test_an_ordered_dict_stays_one_and_takes_gradients_in_any_dict() -> None:
    params: Any = OrderedDict(w=np.ones(2), b=np.zeros(1))
    state = ADAM.start(params)
    for _ in range(2):
        params, state = ADAM.step(params, {"b": np.ones(1), "w": np.ones(2)}, state, lr=0.1)
    assert type(params) is OrderedDict
    assert list(params) == ["w", "b"]
