"""Batches on CPUs: the lanes work a queue off, and a turn of theirs is one kernel."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import downslope as ds
from downslope.solvers import Status
from downslope.solvers.drivers import queue
from downslope.solvers.drivers.kernel import one_kernel
from tests.solvers.functions import starts


def rosenbrock(x):
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


MANY = 3 * queue.LANES + 5
"""More problems than there are lanes, and not a multiple of them."""


@pytest.mark.parametrize("method", ["bfgs", "l-bfgs", "newton", "nesterov"])
def test_a_queue_gives_every_problem_its_own_run(method):
    # From far and near, so that they end at very different turns and lanes change their problem often.
    x0 = starts(MANY, 2) * np.linspace(0.2, 2.0, MANY)[:, None]
    every = ds.minimize(rosenbrock, jnp.array(x0), method, batch=True)
    few = range(0, MANY, 37)
    ones = [ds.minimize(rosenbrock, jnp.array(x0[i]), method) for i in few]
    for i, one in zip(few, ones, strict=True):
        # Sums are rounded otherwise in a kernel than alone, which the search blows up to a few evaluations.
        assert abs(int(every.evaluations[i]) - int(one.evaluations)) <= max(8, 0.1 * int(one.evaluations))
        assert every.status[i] == one.status
    assert every.success.all() == all(one.success for one in ones)
    g = np.asarray(jax.vmap(jax.grad(rosenbrock))(every.x))
    assert (np.abs(g).max(1) <= np.asarray(every.tolerance)).all()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_arguments_and_bounds_stay_with_their_problem(dtype):
    rng = np.random.default_rng(1)
    wanted = jnp.array(rng.uniform(-2, 2, (MANY, 3)), dtype)
    low, high = np.full((MANY, 3), -1.0), rng.uniform(0.0, 1.0, (MANY, 3))

    def distance(x, to, weights):
        return (weights * jnp.cosh(x - to)).sum()

    weights = jnp.array([1.0, 2.0, 3.0], dtype)
    found = ds.minimize(
        distance, jnp.zeros((MANY, 3), dtype), bounds=(low, high), batch=True, args=(wanted, weights)
    )
    assert found.success.all()
    # The gradient's tolerance, 1e-6 and 1e-4 of the first one, over curvatures of at least 1.
    far = 1e-2 if dtype == jnp.float32 else 1e-4
    np.testing.assert_allclose(found.x, np.clip(wanted, low, high), atol=far)


def test_functions_that_call_a_library_are_left_outside_the_kernel():
    a = jnp.array(np.random.default_rng(2).standard_normal((40, 4)))
    b = jnp.array(np.random.default_rng(3).standard_normal((MANY, 40)))

    def misfit(x, b):
        q, _ = jnp.linalg.qr(a)
        return ((a @ x - b) ** 2).sum() + 0.0 * q.sum()

    found = ds.minimize(misfit, jnp.zeros((MANY, 4)), batch=True, args=(b,))
    assert found.success.all()
    best = np.linalg.lstsq(np.asarray(a), np.asarray(b).T, rcond=None)[0].T
    np.testing.assert_allclose(found.x, best, atol=1e-5)


def test_long_sums_that_no_kernel_can_hold_are_left_outside():
    t = jnp.linspace(0.0, 1.0, 250)

    def misfit(x):
        return ((x[0] * jnp.exp(-x[1] * t) - 2.0 * jnp.exp(-t)) ** 2).sum()

    found = ds.minimize(misfit, jnp.array(starts(MANY, 2)) + 2.0, "bfgs", batch=True)
    assert found.success.all()
    np.testing.assert_allclose(found.x, [[2.0, 1.0]] * MANY, atol=1e-3)


def test_problems_that_never_began_have_their_start():
    x0 = jnp.array(starts(MANY, 4))
    cut = ds.minimize(rosenbrock, x0, "bfgs", batch=True, stop=ds.Stop(seconds=0.0))
    assert (cut.status == Status.SECONDS).all()
    np.testing.assert_array_equal(cut.x, x0)
    np.testing.assert_allclose(cut.value, jax.vmap(rosenbrock)(x0), rtol=1e-12)


def test_a_start_that_is_not_finite_spoils_no_other():
    x0 = np.abs(starts(MANY, 2)) + 1.0
    x0[7] = -1.0
    found = ds.minimize(lambda x: (x - jnp.log(x)).sum(), jnp.array(x0), "bfgs", batch=True)
    assert found.status[7] == Status.NONFINITE
    others = np.arange(MANY) != 7
    assert found.success[others].all()
    np.testing.assert_allclose(found.x[others], 1.0, atol=1e-5)


def test_a_batch_within_jit_is_that_without():
    x0 = jnp.array(starts(MANY, 4))
    plain = ds.minimize(rosenbrock, x0, "bfgs", batch=True)
    traced = jax.jit(lambda x: ds.minimize(rosenbrock, x, "bfgs", batch=True))(x0)
    assert bool(traced.success.all())
    np.testing.assert_array_equal(traced.evaluations, plain.evaluations)
    np.testing.assert_allclose(traced.x, plain.x, atol=1e-12)


def test_a_kernel_computes_what_it_is_of_and_nothing_twice():
    def decisions(a, b):
        t = jnp.where(a > b, a * b + 1.0, b - a) * jnp.where(a < 0, a, b)
        for _ in range(20):
            t = jnp.where(t > 1, t - a, t + b) * 0.5
        return {"sums": [t + i for i in range(8)], "least": jnp.minimum(t, a)}

    a, b = jnp.array(starts(2, 64))
    made = jax.jit(one_kernel(decisions))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-14), made(a, b), decisions(a, b))
    selects = [
        len(re.findall(r" select\(", f.lower(a, b).compile().as_text())) for f in (made, jax.jit(decisions))
    ]
    # Without: once for each of nine results. `where` is 22 times in the function.
    assert selects[0] <= 23 < 100 < selects[1]
