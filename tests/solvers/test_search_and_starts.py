"""Search by directions, linear conjugate gradients, many starts."""

from __future__ import annotations

import joblib
import numpy as np
import pytest
import scipy.sparse
import torch

import downslope as ds
from downslope.errors import UsageError
from downslope.solvers import Status
from downslope.solvers.linear import LinearStatus
from downslope.tasks.problems import problem


@pytest.mark.parametrize(
    "name", ["mgh:rosenbrock", "mgh:beale", "mgh:helical-valley", "mgh:wood", "mgh:chebyquad"]
)
def test_the_search_needs_no_gradient(name):
    p = problem(name)
    r = ds.minimize(lambda x: float(p(x)), p.start, method="pattern")
    assert r.success
    # The gradient that the search tells by differences is the true one, and within the tolerance.
    assert np.max(np.abs(p.gradient(r.x))) <= 2e-6 * max(1.0, np.max(np.abs(p.gradient(p.start))))


def test_the_search_finds_a_kink():
    r = ds.minimize(lambda x: float(abs(x[0] - 1) + 2 * abs(x[1] + 3)), [5.0, 4.0], method="pattern")
    np.testing.assert_allclose(r.x, [1.0, -3.0], atol=1e-4)


def test_the_search_keeps_to_bounds():
    r = ds.minimize(lambda x: float((x[0] - 3) ** 2 + (x[1] + 1) ** 2), [0.5, 0.5], method="pattern",
                    bounds=[(0, 1), (0, 2)])  # fmt: skip
    assert r.success
    np.testing.assert_allclose(r.x, [1.0, 0.0], atol=1e-12)


N = 200
LAPLACE = scipy.sparse.diags_array(
    [-np.ones(N - 1), np.linspace(2.1, 40, N), -np.ones(N - 1)], offsets=[-1, 0, 1]
).tocsr()
RIGHT = np.random.default_rng(0).standard_normal(N)


@pytest.mark.parametrize("form", ["sparse", "dense", "function", "torch"])
def test_conjugate_gradients_solve(form):
    dense = LAPLACE.toarray()
    A, b = {
        "sparse": (LAPLACE, RIGHT), "dense": (dense, RIGHT), "function": (lambda v: LAPLACE @ v, RIGHT),
        "torch": (torch.tensor(dense), torch.tensor(RIGHT)),
    }[form]  # fmt: skip
    r = ds.conjugate_gradient(A, b)
    assert r.success
    assert np.linalg.norm(dense @ np.asarray(r.x) - RIGHT) <= 1e-8 * np.linalg.norm(RIGHT)
    d = LAPLACE.diagonal() if form != "torch" else torch.tensor(LAPLACE.diagonal())
    better = ds.conjugate_gradient(A, b, preconditioner=lambda v: v / d)
    assert better.success
    assert better.steps < 0.5 * r.steps


def test_conjugate_gradients_end_in_n_steps():
    rng = np.random.default_rng(1)
    Q = np.linalg.qr(rng.standard_normal((12, 12)))[0]
    A = Q @ np.diag([1.0] * 4 + [2.0] * 4 + [5.0] * 4) @ Q.T
    r = ds.conjugate_gradient((A + A.T) / 2, rng.standard_normal(12))
    assert r.steps == 3  # as many as there are eigenvalues


def test_conjugate_gradients_say_what_is_wrong():
    assert ds.conjugate_gradient(np.diag([1.0, -1.0]), np.ones(2)).status is LinearStatus.INDEFINITE
    worse = ds.conjugate_gradient(np.eye(2), np.array([1.0, 2.0]), preconditioner=lambda v: -v)
    assert worse.status is LinearStatus.PRECONDITIONER
    nan = ds.conjugate_gradient(lambda v: v * np.nan, np.ones(2), x0=np.ones(2))
    assert nan.status is LinearStatus.NONFINITE
    assert ds.conjugate_gradient(LAPLACE, RIGHT, steps=3).status is LinearStatus.STEPS
    with pytest.raises(UsageError, match="not symmetric"):
        ds.conjugate_gradient(np.array([[1.0, 2.0], [0.0, 1.0]]), np.ones(2))
    with pytest.raises(UsageError, match=r"A has shape \(3, 3\), b has 2"):
        ds.conjugate_gradient(np.eye(3), np.ones(2))
    with pytest.raises(UsageError, match=r"b\[1\] is nan"):
        ds.conjugate_gradient(np.eye(2), np.array([1.0, np.nan]))


def rastrigin(x):
    lib = torch if isinstance(x, torch.Tensor) else np
    return (x**2).sum() + 20 - 10 * lib.cos(2 * np.pi * x).sum()


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_starts_find_the_distinct_minima(kind):
    x0 = [1.3, -0.7] if kind == "numpy" else torch.tensor([1.3, -0.7], dtype=torch.float64)
    r = ds.minimize(rastrigin, x0, starts=64, box=([-1.4, -1.4], [1.4, 1.4]))
    inside = [m for m in r.minima if np.max(np.abs(np.asarray(m.x))) < 1.4]
    assert len(inside) == 9  # a grid of three by three
    assert float(r.value) < 1e-9
    assert sum(m.count for m in r.minima) == r.successes.sum() > 60
    assert "distinct minima" in str(r)
    np.testing.assert_array_equal(r.points[0], [1.3, -0.7])


def test_one_flat_minimum_is_one():
    r = ds.minimize(lambda x: float(np.sum((x - 1) ** 4)), [3.0, 4.0], starts=8, box=(-5, 5))
    assert np.ptp([float(np.asarray(run.x)[0]) for run in r.results]) > 1e-3  # they end apart
    assert len(r.minima) == 1


def test_starts_from_a_sampler_and_by_seed():
    def f(x):
        return float(np.sum(np.cos(x)))

    def draw(count, rng):
        return rng.normal(size=(count, 1))

    one, again = (ds.minimize(f, [0.1], starts=5, sampler=draw, seed=7) for _ in range(2))
    np.testing.assert_array_equal(one.points, again.points)
    assert np.ptp(ds.minimize(f, [0.1], starts=5, sampler=draw, seed=8).points - one.points) > 0


def test_starts_spread_over_workers():
    with joblib.parallel_config(backend="threading", n_jobs=2):
        spread = ds.minimize(rastrigin, [1.3, -0.7], starts=8, box=(-2, 2), engine="joblib")
    alone = ds.minimize(rastrigin, [1.3, -0.7], starts=8, box=(-2, 2))
    np.testing.assert_array_equal(spread.values, alone.values)


@pytest.mark.parametrize("engine", [None, "joblib"])
@pytest.mark.parametrize("first", [0.5, 3.0])
def test_a_start_at_which_the_function_raises_leaves_the_others_alone(engine, first):
    def f(x):
        if x[0] > 2:
            raise RuntimeError("no mesh")
        return float(np.sum((x - 1) ** 2))

    with joblib.parallel_config(backend="threading", n_jobs=2):
        r = ds.minimize(f, [first, 0.0], starts=16, box=(-4, 4), engine=engine)
    raised = r.points[:, 0] > 2
    assert 0 < raised.sum() < 16
    np.testing.assert_array_equal(r.successes, ~raised)
    np.testing.assert_array_equal(np.isnan(r.values), raised)
    assert r.success
    assert len(r.minima) == 1
    one = r.results[int(np.flatnonzero(raised)[0])]
    assert one.status is Status.RAISED
    assert "at this start. RuntimeError: no mesh" in one.message
    np.testing.assert_array_equal(one.x, r.points[raised][0])
    assert f"{raised.sum()} raised an exception, first RuntimeError('no mesh')" in str(r)


def test_what_the_function_raises_at_every_start_is_raised():
    def f(x):
        raise RuntimeError("no mesh")

    with pytest.raises(RuntimeError, match="no mesh"):
        ds.minimize(f, [0.0], starts=4, box=(-4, 4))
    with pytest.raises(UsageError, match="fun returned None"):
        ds.minimize(lambda x: None if x[0] > 2 else x @ x, [0.0], starts=8, box=(-4, 4))


def test_two_minima_with_no_function_between_them_are_two():
    def f(x):
        if abs(x[0]) < 1:
            raise RuntimeError("no mesh")
        return float((abs(x[0]) - 2) ** 2)

    r = ds.minimize(f, [3.0], starts=4, sampler=lambda n, rng: np.array([[-3.0], [-2.5], [2.5]]))
    assert [m.count for m in r.minima] == [2, 2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"starts": 0, "box": (0, 1)}, "starts = 0"),
        ({"starts": 4}, "finite box"),
        ({"starts": 4, "box": (0, np.inf)}, "finite box"),
        ({"starts": 4, "sampler": lambda n, g: np.zeros((n, 3))}, r"shape \(3, 3\): expected \(3, 2\)"),
        ({"starts": 4, "box": (0, 1), "engine": "spark"}, "engine = 'spark'"),
        ({"starts": 4, "box": (0, 1), "batch": True}, "expected one of them"),
    ],
)
def test_bad_starts(options, message):
    with pytest.raises(UsageError, match=message):
        ds.minimize(rastrigin, [1.3, -0.7], **options)
