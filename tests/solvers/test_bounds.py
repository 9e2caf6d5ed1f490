"""Bounds: every point asked for lies within, and the active set is the right one."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize

import downslope as ds
from downslope.errors import UsageError
from downslope.solvers import Status, Stop
from tests.solvers.functions import rosenbrock, rosenbrock_gradient, start, starts


def quadratic(n: int, seed: int):
    rng = np.random.default_rng(seed)
    a = rng.standard_normal((n, n))
    a = a @ a.T / n + 1e-3 * np.eye(n)
    b = rng.standard_normal(n)
    return (lambda x: 0.5 * x @ a @ x - b @ x), (lambda x: a @ x - b), rng.standard_normal(n)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("n", [3, 20, 80])
def test_the_solution_fulfils_the_conditions_of_optimality(n, seed):
    f, gradient, x0 = quadratic(n, seed)
    low, high = np.full(n, -0.3), np.full(n, 0.3)
    points = []

    def watched(x):
        points.append(x.copy())
        return f(x)

    result = ds.minimize(watched, x0, gradient=gradient, bounds=(low, high), stop=Stop(gradient=1e-9))
    assert result.success, result.message
    assert all((low <= p).all() and (p <= high).all() for p in points)
    g, x = gradient(result.x), result.x
    small = 1e-7 * np.abs(gradient(np.clip(x0, low, high))).max()
    assert (g[x == low] >= -small).all()
    assert (g[x == high] <= small).all()
    assert (np.abs(g[(x > low) & (x < high)]) <= small).all()
    assert ((x == low) | (x == high)).sum() >= n // 4  # bounds do decide here
    peer = optimize.minimize(
        f, np.clip(x0, low, high), jac=gradient, method="L-BFGS-B", bounds=optimize.Bounds(low, high),
        options={"ftol": 0, "gtol": 1e-9},
    )  # fmt: skip
    assert result.value == pytest.approx(peer.fun, rel=1e-9)


def test_rosenbrock_within_bounds_is_peer_level():
    high = np.where(np.arange(10) % 3 == 0, 0.8, 3.0)
    result = ds.minimize(rosenbrock, start(10), gradient=rosenbrock_gradient, bounds=(-1.5, high))
    assert result.success
    assert result.value == pytest.approx(6.001016395, rel=1e-6)  # SciPy's L-BFGS-B, 53 evaluations
    assert result.evaluations < 110


def test_a_batch_has_the_bounds_of_all_or_of_each():
    x0 = starts(6, 4)
    common = ds.minimize(rosenbrock, x0, gradient=rosenbrock_gradient, bounds=(-2.0, 0.5), batch=True)
    assert common.success.all()
    highs = np.linspace(0.4, 0.9, 6)[:, None] * np.ones(4)
    each = ds.minimize(rosenbrock, x0, gradient=rosenbrock_gradient, bounds=(-2.0, highs), batch=True)
    for lane in range(6):
        for result, high in ((common, 0.5), (each, highs[lane])):
            one = ds.minimize(rosenbrock, x0[lane], gradient=rosenbrock_gradient, bounds=(-2.0, high))
            assert result.value[lane] == pytest.approx(one.value, rel=1e-6)
            assert (result.x[lane] <= high).all()


@pytest.mark.parametrize(
    "bounds",
    [
        ([-2.0, -2.0], [0.5, None]),
        [(-2, 0.5), (-2, None)],
        optimize.Bounds([-2, -2], [0.5, np.inf]),
        [(-2.0, 0.5), (-2.0, np.inf)],
    ],
    ids=["sides", "pairs", "scipy", "infinite"],
)
def test_bounds_are_understood_in_each_form(bounds):
    result = ds.minimize(rosenbrock, [-1.2, 1.0], gradient=rosenbrock_gradient, bounds=bounds)
    np.testing.assert_allclose(result.x, [0.5, 0.25], atol=1e-7)


@pytest.mark.parametrize(
    ("low", "high"),
    [
        ({"a": np.array([-2.0, -2.0]), "b": -1.0}, {"a": np.array([0.5, 2.0]), "b": 1}),
        ({"a": -2.0, "b": None}, {"a": [0.5, 2.0], "b": np.float64(1.0)}),
    ],
)
def test_a_nested_bound_may_be_a_number(low, high):
    """Where x0 is {"a": array, "b": 0.5}, the bound of "b" is a number as well."""
    x0 = {"a": np.array([-1.2, 1.0]), "b": 0.5}
    result = ds.minimize(lambda p: rosenbrock(p["a"]) + float((p["b"] - 2) ** 2), x0, bounds=(low, high))
    np.testing.assert_allclose(result.x["a"], [0.5, 0.25], atol=1e-4)
    assert result.x["b"] == 1
    with pytest.raises(UsageError, match="bounds is not nested as x0"):
        ds.minimize(lambda p: float(p["b"] ** 2), x0, bounds=({"a": 0.0, "c": 0.0}, None))
    with pytest.raises(UsageError, match=r"bounds\['a'\] has shape \(3,\)"):
        ds.minimize(lambda p: float(p["b"] ** 2), x0, bounds=({"a": [0.0] * 3, "b": 0.0}, None))


def test_fixed_unknowns_stay():
    result = ds.minimize(
        rosenbrock, start(4), gradient=rosenbrock_gradient, bounds=([0.7, -9, -9, -9], [0.7, 9, 9, 9])
    )
    assert result.success
    assert result.x[0] == 0.7


def test_a_bound_ahead_is_the_end_of_a_tail():
    """exp(-x) has a minimum where x is bounded: what levels off on the way to it is no tail."""
    result = ds.minimize(
        lambda x: float(np.exp(-x[0])), [0.0], gradient=lambda x: -np.exp(-x), bounds=(0.0, 30.0)
    )
    assert result.success
    far = ds.minimize(
        lambda x: float(np.exp(-x[0])), [0.0], gradient=lambda x: -np.exp(-x), bounds=(0.0, 1e9)
    )
    assert far.status is Status.LEVEL


def test_bad_bounds_are_named():
    for bounds, words in (
        (([1.0, 0.0], [0.0, 1.0]), r"x0\[0\] cross: 1 > 0"),
        ((0.0, np.nan), "upper bound of x0"),
        ((1.0, 2.0, 3.0), "expected"),
        (([0.0, 0.0, 0.0], 1.0), "expected"),
    ):
        with pytest.raises(UsageError, match=words):
            ds.minimize(rosenbrock, [0.5, 0.5], gradient=rosenbrock_gradient, bounds=bounds)
    with pytest.raises(UsageError, match="keeps to no bounds"):
        ds.minimize(rosenbrock, [0.5, 0.5], "cg", gradient=rosenbrock_gradient, bounds=(0.0, 1.0))


@pytest.mark.parametrize("pair", [(np.inf, np.inf), (-np.inf, -np.inf)])
def test_bounds_that_leave_no_number_are_told(pair):
    with pytest.raises(UsageError, match=r"bounds of x0\[1\] leave no number"):
        ds.minimize(lambda x: x @ x, [1.0, 2.0], bounds=[(0, 1), pair])


@pytest.mark.parametrize("x0", [[1.0, 1.0], [-1.0, 0.5], [0.5, 3.0], [1.0, 3.0]], ids=str)
def test_the_complex_step_is_tested_within_the_bounds(x0):
    """A difference that is cut off at a bound says half of the slope, and had it refused."""

    def f(x):
        return np.exp(x[0]) + x[0] ** 2 + np.cos(x[1])

    def residuals(x):
        return np.array([np.exp(x[0]) - x[1], x[0] ** 2 + np.sin(x[1]), x[0] * x[1] - 2])

    held = ([-1.0, x0[1]], [1.0, x0[1]])
    assert ds.minimize(f, x0, jac="complex", bounds=held).success
    bounds = ([-1.0, 0.5], [1.0, 3.0])
    for solve, fun, broken in (
        (ds.minimize, f, lambda x: abs(x[0] - 3) + x[1]),
        (ds.least_squares, residuals, lambda x: np.array([abs(x[0] - 3), x[1]])),
    ):
        made, exact = (solve(fun, x0, jac=jac, bounds=bounds) for jac in ("complex", "central"))
        assert made.success
        np.testing.assert_allclose(made.x, exact.x, atol=1e-5)
        with pytest.raises(UsageError, match="not analytic"):
            solve(broken, x0, jac="complex", bounds=bounds)


@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("kind", ["auto", "forward", "central"])
def test_differences_stay_within_the_bounds_too(kind, batch):
    low, high = np.array([0.0, 0.0, 0.25]), np.array([1.0, np.inf, 0.25])

    def f(x):
        assert (x >= low).all()
        assert (x <= high).all()
        return (np.sqrt(x[..., 0]) - 2 * np.sqrt(1 - x[..., 0]) + (x[..., 1] - 2) ** 2 + x[..., 2]) ** 2

    x0 = np.array([[0.5, 0.0, 3.0], [0.3, 1.0, 0.0]]) if batch else np.array([0.5, 0.0, 3.0])
    result = ds.minimize(f, x0, "l-bfgs", gradient=kind, bounds=(low, high), batch=batch)
    assert np.all(result.value < 1e-8)
    assert np.all(result.x[..., 2] == 0.25)


def test_a_parameter_that_bounds_hold_leaves_the_others_free():
    fit = ds.least_squares(lambda x: x - 1, [0.0, 0.0], bounds=([0, 0], [0, 5]))
    assert fit.success
    np.testing.assert_allclose(fit.x, [0, 1], atol=1e-8)
    assert fit.active_mask.tolist() == [-1, 0]
