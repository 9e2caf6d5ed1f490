"""Where gradients come from, on TensorFlow."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed")

from downslope import minimize  # noqa: E402
from downslope.errors import UsageError  # noqa: E402
from downslope.gradients import objective, residuals  # noqa: E402

POINT = {"a": np.array([1.0, 2.0]), "b": np.array(0.5)}
NEAR = 1e-12  # a few roundings


def array(values: Any) -> Any:
    return tf.constant(values)


def function(p: dict[str, Any]) -> Any:
    return tf.reduce_sum(tf.exp(p["a"]) * p["a"] ** 2) * p["b"]


def test_derivatives_are_the_formulas() -> None:
    f = objective(function, {k: array(v) for k, v in POINT.items()})
    value, g = f.value_and_gradient(f.x0)
    a, b = POINT["a"], float(POINT["b"])
    e = np.exp(a)
    H = np.diag([*(e * (a**2 + 4 * a + 2) * b), 0.0])
    H[:2, 2] = H[2, :2] = e * (a**2 + 2 * a)
    np.testing.assert_allclose(value, (e * a**2).sum() * b, rtol=NEAR)
    np.testing.assert_allclose(g, [*(e * (a**2 + 2 * a) * b), (e * a**2).sum()], rtol=NEAR)
    np.testing.assert_allclose(f.hessian(f.x0), H, rtol=NEAR, atol=NEAR)
    v = np.array([1.0, -2.0, 0.5])
    np.testing.assert_allclose(f.hessian_vector(f.x0, array(v)), H @ v, rtol=10 * NEAR)


def test_a_batch_is_its_problems() -> None:
    rng = np.random.default_rng(0)
    X, A = rng.standard_normal((4, 3)), rng.standard_normal((4, 3))

    def each(x: Any, a: Any) -> Any:
        return tf.reduce_sum((x - a) ** 4) + x[0] * x[1] * x[2]

    f = objective(each, array(X), args=(array(A),), batch=True)
    value, g = f.value_and_gradient(f.x0)
    H, v = f.hessian(f.x0), f.hessian_vector(f.x0, f.x0)
    for i in range(4):
        one = objective(each, array(X[i]), args=(array(A[i]),))
        alone = one.value_and_gradient(one.x0)
        np.testing.assert_allclose(value[i], alone[0], rtol=NEAR, atol=NEAR)
        np.testing.assert_allclose(g[i], alone[1], rtol=10 * NEAR, atol=10 * NEAR)
        np.testing.assert_allclose(H[i], one.hessian(one.x0), rtol=10 * NEAR, atol=10 * NEAR)
        np.testing.assert_allclose(v[i], np.asarray(H[i]) @ X[i], rtol=100 * NEAR, atol=100 * NEAR)
    part = f.select(np.array([3, 1]))
    np.testing.assert_allclose(part.value(part.x0), np.asarray(value)[[3, 1]], rtol=NEAR)


def test_jacobians_and_their_products() -> None:
    f = residuals(lambda p: [p["a"] * p["b"], p["a"] ** 2], {k: array(v) for k, v in POINT.items()})
    value, J = f.value_and_jacobian(f.x0)
    expected = [[0.5, 0, 1], [0, 0.5, 2], [2, 0, 0], [0, 4, 0]]
    np.testing.assert_allclose(J, expected, rtol=NEAR)
    np.testing.assert_allclose(value, [0.5, 1, 1, 4], rtol=NEAR)
    u, v = np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, -2.0, 0.5])
    np.testing.assert_allclose(f.jacobian_vector(f.x0, array(v)), expected @ v, rtol=NEAR, atol=NEAR)
    np.testing.assert_allclose(f.transposed_vector(f.x0, array(u)), u @ expected, rtol=NEAR)


@pytest.mark.parametrize(
    ("fun", "message"),
    [
        (lambda x: x, "sum or average"),
        (lambda x: tf.cast(tf.reduce_sum(x), tf.int32), "int32|int64"),
        (lambda x: None, "None: is a return missing"),
        (lambda x: float(x[0]), "no gradient comes"),
        (lambda x: 3, "an int, from which no gradient comes"),
        (lambda x: tf.stop_gradient(tf.reduce_sum(x)), "no gradient comes"),
    ],
)
def test_a_bad_value(fun: Any, message: str) -> None:
    f = objective(fun, array(np.array([1.0, 2.0])))
    with pytest.raises(UsageError, match=message):
        f.value_and_gradient(f.x0)


@pytest.mark.parametrize("value", [3, np.int64(3)])
def test_whole_numbers_are_values(value: Any) -> None:
    f = objective(lambda x: value, array(np.array([1.0, 2.0])), gradient=lambda x: 0 * x)
    assert float(f.value_and_gradient(f.x0)[0]) == 3.0


@pytest.mark.parametrize("fun", [lambda x: x[:0], lambda x: []])
def test_no_residuals(fun: Any) -> None:
    f = residuals(fun, array(np.array([1.0, 2.0])))
    with pytest.raises(UsageError, match="returned no residuals"):
        f.value_and_jacobian(f.x0)


def test_a_bad_start() -> None:
    with pytest.raises(UsageError, match=r"x0\[1\] is nan"):
        objective(function, array(np.array([1.0, np.nan])))
    with pytest.raises(UsageError, match="expected float32 or float64"):
        objective(function, array(np.array([1, 2])))
    for sparse in (tf.ragged.constant([[1.0], [2.0, 3.0]]), tf.sparse.from_dense([1.0, 0.0])):
        with pytest.raises(UsageError, match=r"x0 is a sparse or ragged .*Tensor: expected a dense one"):
            objective(function, sparse)


def test_a_function_of_all_problems_is_told_that_it_is_given_one() -> None:
    with pytest.raises(ValueError, match="Dimension") as raised:
        minimize(lambda x: tf.reduce_sum(tf.transpose(x, (1, 0))), tf.ones((3, 2)), batch=True)
    assert "vectorized=True" in raised.value.__notes__[0]
