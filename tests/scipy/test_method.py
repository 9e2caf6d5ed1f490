"""Rules as methods of `scipy.optimize.minimize`."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize, rosen, rosen_der

import downslope as ds
from downslope.scipy import method
from tests.parity.cases import BY_NAME, Case, assert_ulp, gradients, oracle, scale_of, start

A = np.diag([1.0, 4.0, 9.0])
B = np.array([1.0, -2.0, 3.0])


def quadratic(x: np.ndarray) -> float:
    return float(0.5 * x @ A @ x - B @ x)


def slope(x: np.ndarray) -> np.ndarray:
    return A @ x - B


SOLUTION = np.linalg.solve(A, B)


@pytest.mark.parametrize(
    ("name", "lr", "options"),
    [
        ("sgd", 0.1, {}),
        ("sgd", 0.05, {"momentum": 0.9, "nesterov": True}),
        ("adagrad", 0.5, {}),
        ("rmsprop", lambda t: 0.1 / (1 + t), {}),
        ("adam", 0.05, {}),
        ("adamw", 0.05, {"weight_decay": 0.0}),
    ],
)
def test_every_rule_solves_a_quadratic(name: str, lr: Any, options: dict[str, Any]) -> None:
    result = minimize(
        quadratic,
        [0.0, 0.0, 0.0],
        jac=slope,
        method=method(name, lr, **options),
        tol=1e-6,
        options={"maxiter": 5000},
    )
    assert result.success, result
    assert result.status == 0
    np.testing.assert_allclose(result.x, SOLUTION, atol=1e-5)  # the gradient is within 1e-6, A at least 1
    assert np.max(np.abs(result.jac)) <= 1e-6
    assert result.fun == quadratic(result.x)
    assert result.nfev == result.njev == result.nit + 1


def test_muon_solves_for_a_matrix() -> None:
    target = np.random.default_rng(0).standard_normal((4, 3))

    def f(x: np.ndarray) -> tuple[float, np.ndarray]:
        off = x - target.ravel()
        return 0.5 * off @ off, off

    muon = method("muon", lambda t: 0.5 * 0.97**t, shape=(4, 3), scale="original", momentum=0.5)
    result = minimize(f, np.zeros(12), jac=True, method=muon, options={"maxiter": 400}, tol=1e-4)
    assert result.fun < 1e-3 * f(np.zeros(12))[0]


@pytest.mark.parametrize(
    "name", ["sgd-nesterov", "adam-amsgrad", "rmsprop-everything", "adagrad-decay", "adam-cautious"]
)
def test_steps_are_the_oracles(name: str) -> None:
    case: Case = BY_NAME[name]
    given = iter(gradients(case))
    seen: list[np.ndarray] = []
    by = method(case.rule, case.lr, weight_decay=case.weight_decay, cautious=case.cautious)
    minimize(
        lambda x: (0.0, next(given, {"bias": np.zeros(7)})["bias"]),
        start(case)["bias"],
        jac=True,
        method=by,
        callback=lambda x: seen.append(x),
        options={"maxiter": 25},
    )
    expected = [arrays["bias"] for arrays in oracle(case)]
    for t, (a, e) in enumerate(zip(seen, expected, strict=True), start=1):
        assert_ulp(a, e, 0, scale_of(oracle(case), "bias"), what=f"{name} at step {t}")  # the very same lines


def test_forward_differences_and_arguments() -> None:
    result = minimize(
        lambda x, a: float(((x - a) ** 2).sum()),
        [0.0, 0.0],
        args=(2.0,),
        method=method("adam", 0.1),
        tol=1e-3,
    )
    assert result.success
    np.testing.assert_allclose(result.x, 2.0, atol=1e-3)
    assert result.nfev == 4 * (result.nit + 1)  # the value, and again with each of two coordinates moved


def test_both_forms_of_callback_and_stopping_by_it() -> None:
    points: list[Any] = []

    def watch(intermediate_result: Any) -> None:
        points.append(intermediate_result)
        if len(points) == 3:
            raise StopIteration

    result = minimize(rosen, [0.0, 0.0], jac=rosen_der, method=method("adam", 0.01), callback=watch)
    assert (result.status, result.nit, result.success) == (99, 3, False)
    assert points[-1].fun == rosen(points[-1].x)
    xs: list[np.ndarray] = []
    minimize(
        rosen,
        [0.0, 0.0],
        jac=rosen_der,
        method=method("adam", 0.01),
        callback=xs.append,
        options={"maxiter": 4},
    )
    assert len(xs) == 4
    xs[0][:] = np.nan  # a copy: the run does not see it


def test_the_end_by_maxiter_is_the_best_point_and_says_so() -> None:
    result = minimize(
        quadratic, [5.0, 5.0, 5.0], jac=slope, method=method("sgd", 0.22), options={"maxiter": 7}
    )
    assert result.status == 1
    assert not result.success
    assert "Raise maxiter" in result.message
    values: list[float] = [quadratic(np.full(3, 5.0))]
    minimize(
        quadratic,
        [5.0, 5.0, 5.0],
        jac=slope,
        method=method("sgd", 0.22),
        options={"maxiter": 7},
        callback=lambda x: values.append(quadratic(x)),
    )
    assert result.fun == min(values)
    none = minimize(quadratic, [5.0, 5.0, 5.0], jac=slope, method=method("sgd", 0.1), options={"maxiter": 0})
    assert none.nit == 0
    np.testing.assert_array_equal(none.x, 5.0)


def test_divergence_ends_with_the_best_point() -> None:
    with np.errstate(over="ignore"):
        result = minimize(
            quadratic, np.ones(3), jac=slope, method=method("sgd", 5.0), options={"maxiter": 10000}
        )
    assert result.status == 2
    assert "Lower lr" in result.message
    assert np.isfinite(result.x).all()
    assert result.fun == quadratic(np.ones(3))
    nan = minimize(lambda x: float("nan"), [1.0], jac=lambda x: x, method=method("sgd", 0.1))
    assert nan.status == 2
    assert nan.nit == 0


def test_x0_and_gradients_are_left_alone() -> None:
    x0, g = np.ones(3), np.ones(3)
    for array in (x0, g):
        array.flags.writeable = False
    minimize(lambda x: (0.0, g), x0, jac=True, method=method("adam", 0.1), options={"maxiter": 3})
    np.testing.assert_array_equal(x0, 1.0)
    kept = np.ones(3)

    def vandal(x: np.ndarray) -> float:
        x[:] = 7.0
        return 0.0

    result = minimize(
        vandal, kept, jac=lambda x: np.ones(3), method=method("sgd", 0.0), options={"maxiter": 2}
    )
    np.testing.assert_array_equal(result.x, 1.0)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: method("adamv", 0.1), ValueError, "rule = 'adamv': expected one of .*did you mean"),
        (lambda: method("adam", -0.1), ValueError, r"lr = -0.1: expected a number in \[0, inf\)"),
        (lambda: method("adam", float("nan")), ValueError, "lr = nan"),
        (
            lambda: method("adam", 0.1, momentum=0.9),
            TypeError,
            "adam has no hyper-parameter 'momentum': expected some of",
        ),
        (lambda: method(ds.Adam(), 0.1, eps=0.1), TypeError, "'eps' goes into the rule itself"),
        (lambda: method("muon", 0.1), ValueError, r"shape = None: expected \(fan_out, fan_in\)"),
        (
            lambda: run(method("muon", 0.1, shape=(2, 2))),
            ValueError,
            r"shape = \(2, 2\) has 4 entries: x0 has 3",
        ),
        (lambda: run(method("adam", 0.1), bounds=[(0, 1)] * 3), ValueError, "neither bounds nor constraints"),
        (lambda: run(method("adam", 0.1), hess=lambda x: A), ValueError, "uses no Hessian"),
        (lambda: run(method("adam", 0.1), options={"gtol": 1}), TypeError, "unknown option 'gtol'"),
        (lambda: run(method("adam", 0.1), options={"maxiter": -1}), ValueError, "maxiter = -1"),
        (lambda: run(method("adam", 0.1), tol=-1.0), ValueError, "tol = -1.0"),
        (
            lambda: run(method("adam", 0.1), jac=lambda x: x[:2]),
            ValueError,
            r"the gradient has shape \(2,\), x \(3,\)",
        ),
        (
            lambda: run(method("adam", lambda t: float("nan"))),
            ValueError,
            "schedule of the learning rate returned nan at step 0",
        ),
    ],
)
def test_bad_input(call: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call()


def run(by: Any, **options: Any) -> Any:
    return minimize(quadratic, np.ones(3), method=by, **{"jac": slope, **options})


def test_no_framework_is_loaded() -> None:
    code = "import sys, downslope.scipy; print({'torch', 'jax', 'tensorflow', 'keras'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
