"""Lock step on NumPy and PyTorch: nothing that happens to one problem, or after its end, reaches another."""

from __future__ import annotations

import numpy as np
import pytest

import downslope as ds
from downslope.solvers.spaces.arrays import Arrays, NumpyLanes
from tests.solvers.functions import rosenbrock, rosenbrock_gradient, starts


@pytest.mark.parametrize("method", ["bfgs", "l-bfgs", "cg", "nesterov"])
def test_a_problem_ends_in_a_batch_where_it_ends_alone(method):
    # From the minimum to far away: they end at very different turns, and go on unheeded after.
    x0 = 1.0 + (starts(24, 4) - 1.0) * np.linspace(0.0, 2.0, 24)[:, None]
    options = {"gradient": rosenbrock_gradient, "stop": ds.Stop(evaluations=25)}
    every = ds.minimize(rosenbrock, x0, method, batch=True, **options)
    assert len(set(every.status.tolist())) > 1
    for i in range(24):
        one = ds.minimize(rosenbrock, x0[i : i + 1], method, batch=True, **options)
        # Sums of the same numbers in the same order: what differs is how NumPy's loops are vectorised.
        assert every.evaluations[i] == one.evaluations[0]
        assert every.status[i] == one.status[0]
        np.testing.assert_allclose(every.x[i], one.x[0], rtol=1e-6)


@pytest.mark.parametrize("bounds", [None, (-0.5, 2.0)])
def test_a_search_by_directions_ends_in_a_batch_where_it_ends_alone(bounds):
    def bowl(x):
        return (x[..., 0] - 1) ** 2 + 10 * (x[..., 1] + x[..., 0] ** 2) ** 2 + (x[..., 2] - 0.5) ** 2

    x0 = np.random.default_rng(0).standard_normal((9, 3))  # more problems than unknowns
    every = ds.minimize(bowl, x0, "pattern", batch=True, bounds=bounds)
    for i in range(9):
        one = ds.minimize(bowl, x0[i], "pattern", bounds=bounds)
        assert every.success[i]
        assert one.success
        # The gradient's tolerance, 1e-6 of a first one of some hundred, over curvatures of about 1.
        np.testing.assert_allclose(every.x[i], one.x, atol=1e-3)


@pytest.mark.parametrize("framework", ["numpy", "torch", "jax"])
def test_the_best_points_of_problems_come_row_by_row(framework):
    module = pytest.importorskip({"jax": "jax.numpy"}.get(framework, framework))
    array = {"numpy": np.array, "torch": getattr(module, "tensor", None)}.get(framework, np.array)
    from downslope.solvers.result import picked

    # As many problems as unknowns, so that a mistaken axis would not show as an error.
    a, b = (module.asarray(array(v)) for v in (np.zeros((2, 2)), np.ones((2, 2))))
    made = picked(np.array([True, False]), a, b)
    np.testing.assert_array_equal(np.asarray(made), [[0.0, 0.0], [1.0, 1.0]])
    made = picked(np.array([True, False]), a[0], b[0])
    np.testing.assert_array_equal(np.asarray(made), [0.0, 1.0])


@pytest.mark.parametrize("method", ["bfgs", "l-bfgs"])
def test_a_batch_goes_on_from_the_points_of_a_result(method):
    options = {"gradient": rosenbrock_gradient}
    part = ds.minimize(rosenbrock, starts(9, 4), method, batch=True, stop=ds.Stop(evaluations=9), **options)
    assert not part.success.any()
    rest = ds.minimize(rosenbrock, part, batch=True, **options)
    again = ds.minimize(rosenbrock, part.x, method, batch=True, **options)
    assert rest.method == method
    np.testing.assert_array_equal(rest.x, again.x)
    np.testing.assert_array_equal(rest.evaluations, again.evaluations)
    assert rest.success.all()


def test_points_are_not_written_over():
    x0 = starts(5, 4)
    before = x0.copy()
    ds.minimize(rosenbrock, x0, "bfgs", gradient=rosenbrock_gradient, batch=True)
    np.testing.assert_array_equal(x0, before)


def test_a_branch_that_no_lane_takes_is_not_computed():
    space = NumpyLanes(np.float64)

    def never():
        raise AssertionError("computed")

    yes = np.ones(3, bool)
    a = np.arange(3.0)
    assert space.branch(yes, lambda: a, never) is a
    assert space.branch(~yes, never, lambda: a) is a
    assert space.guarded(~yes, never, a) is a
    mixed = space.branch(np.array([True, False, True]), lambda: a, lambda: -a - 1)
    np.testing.assert_array_equal(mixed, [0.0, -2.0, 2.0])


@pytest.mark.parametrize("framework", ["numpy", "torch"])
def test_rank_two_leaves_other_lanes_alone_to_the_bit(framework):
    rng = np.random.default_rng(4)
    matrix, a, b = rng.standard_normal((3, 3, 7)), rng.standard_normal((3, 7)), rng.standard_normal((3, 7))
    a[0, 2] = np.nan
    when = np.array([True, False, False, True, True, False, True])
    plain = Arrays(np, 0.0).rank_two(matrix, a, b, when)
    if framework == "numpy":
        made = NumpyLanes(np.float64).rank_two(matrix.copy(), a, b, when)
    else:
        torch = pytest.importorskip("torch")
        from downslope.solvers.spaces.torch import TorchLanes

        given = [torch.from_numpy(v.copy()) for v in (matrix, a, b, when)]
        made = TorchLanes(given[0]).rank_two(*given).numpy()
    np.testing.assert_array_equal(made[..., ~when], matrix[..., ~when])
    np.testing.assert_allclose(made, plain, rtol=1e-15, atol=1e-15)
    np.testing.assert_allclose(
        made[..., when], (matrix + a[:, None] * b + b[:, None] * a)[..., when], atol=1e-14
    )


def test_data_that_a_function_closes_over_do_not_shrink_and_it_is_said():
    data = np.arange(1.0, 7.0)[:, None] * np.ones(3)
    # The first two have ended before the others begin.
    x0 = data + np.array([0.0, 0.0, 1.0, 2.0, 3.0, 4.0])[:, None]

    def f(x, goal):
        return ((x - goal) ** 4).sum(1)

    stopped = ds.minimize(lambda x: f(x, data), x0, batch=True)
    assert isinstance(stopped.error, ValueError)
    assert "raised ValueError" in str(stopped)
    assert "belongs in args" in str(stopped)
    told = ds.minimize(f, x0, args=(data,), batch=True)
    assert told.error is None
    assert told.success.all()
    np.testing.assert_allclose(told.x, data, atol=0.1)  # quartic: a gradient of 1e-4 is 0.03 away
