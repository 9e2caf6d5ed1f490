"""minimize on JAX: the steps of NumPy, compiled once, traced whole, and in lock step."""

from __future__ import annotations

import gc
import weakref
from collections import OrderedDict

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import downslope as ds
from downslope.solvers import Status
from downslope.solvers.drivers import jax as driver
from tests.solvers.functions import rosenbrock as f_numpy
from tests.solvers.functions import rosenbrock_gradient, start, starts


def rosenbrock(x):
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


@pytest.mark.parametrize("method", ["l-bfgs", "bfgs", "cg", "nesterov", "adam"])
def test_steps_are_those_of_numpy(method):
    # 25 steps: before differences in the order of sums, of some 1e-16, are blown up by the search.
    stop = ds.Stop(steps=25, gradient=1e-12)
    mine = ds.minimize(rosenbrock, jnp.array(start(6)), method, stop=stop)
    peer = ds.minimize(f_numpy, start(6), method, gradient=rosenbrock_gradient, stop=stop)
    assert (int(mine.evaluations), int(mine.steps)) == (peer.evaluations, peer.steps)
    np.testing.assert_allclose(mine.x, peer.x, rtol=1e-6)


@pytest.mark.parametrize("method", ["newton", "trust-ncg"])
def test_second_derivatives_are_jaxs_own(method):
    result = ds.minimize(rosenbrock, jnp.array(start(4)), method)
    assert result.success
    assert int(result.evaluations) < 60


def test_lanes_are_gathered_and_are_the_single_problems(monkeypatch):
    monkeypatch.setattr(driver, "_on_one_cpu", lambda x: False)  # as on an accelerator
    x0 = jnp.array(starts(70, 4))
    x0 = x0.at[::2].set(1 + 1e-3 * x0[::2])  # half of them end at once
    every = ds.minimize(rosenbrock, x0, "bfgs", batch=True)
    assert every.success.all()
    for lane in (0, 1, 33, 69):
        one = ds.minimize(rosenbrock, x0[lane], "bfgs")
        assert abs(int(every.evaluations[lane]) - int(one.evaluations)) <= 6
        np.testing.assert_allclose(every.x[lane], one.x, atol=1e-3)


def test_the_whole_solve_jits_and_vmaps():
    x0 = jnp.array(starts(3, 4))
    plain = ds.minimize(rosenbrock, x0[0], "bfgs")
    traced = jax.jit(lambda x: ds.minimize(rosenbrock, x, "bfgs"))(x0[0])
    np.testing.assert_allclose(traced.x, plain.x, atol=1e-6)
    assert bool(traced.success)
    assert int(traced.status) == Status.GRADIENT
    mapped = jax.vmap(lambda x: ds.minimize(rosenbrock, x, "bfgs").x)(x0)
    np.testing.assert_allclose(mapped, 1.0, atol=1e-2)


def test_a_second_solve_compiles_nothing():
    def compiled():
        return [loop.turns._cache_size() for loop in driver._compiled[rosenbrock].values()]

    ds.minimize(rosenbrock, jnp.array(start(4)), "cg")
    before = compiled()
    ds.minimize(rosenbrock, 0.9 * jnp.array(start(4)), "cg")
    assert compiled() == before


def test_onlookers_see_each_step():
    seen = []
    result = ds.minimize(
        rosenbrock, jnp.array(start(4)), "bfgs", callback=lambda x: seen.append(x), history=True
    )
    assert len(seen) + 1 == len(result.history) == int(result.steps) + 1
    assert result.history[-1]["value"] == float(result.value)


def test_bounds_alone_and_in_lock_step():
    peer = ds.minimize(f_numpy, start(4), gradient=rosenbrock_gradient, bounds=(-2.0, 0.5))
    one = ds.minimize(rosenbrock, jnp.array(start(4)), bounds=(-2.0, 0.5))
    every = ds.minimize(rosenbrock, jnp.array(starts(3, 4)), bounds=(-2.0, 0.5), batch=True)
    assert every.success.all()
    np.testing.assert_allclose(one.x, peer.x, atol=1e-6)
    np.testing.assert_allclose(every.x[0], peer.x, atol=1e-5)


def test_a_budget_spent_is_gone_on_from():
    x0 = jnp.array(start(4))
    whole = ds.minimize(rosenbrock, x0, "bfgs")
    part = ds.minimize(rosenbrock, x0, "bfgs", stop=ds.Stop(evaluations=9))
    assert part.status is Status.EVALUATIONS
    np.testing.assert_array_equal(ds.minimize(rosenbrock, part).x, whole.x)


def test_what_is_compiled_is_let_go_of(monkeypatch):
    """Of functions made anew for every call, the last few alone are kept, and what they hold."""
    monkeypatch.setattr(driver, "_KEPT", 2)
    monkeypatch.setattr(driver, "_compiled", OrderedDict())
    alive = []
    for shift in range(4):

        def f(x, shift=shift):
            return ((x - shift) ** 2).sum()

        assert ds.minimize(f, jnp.zeros(2), "gd").success
        alive.append(weakref.ref(f))
    del f
    gc.collect()
    assert [ref() is not None for ref in alive] == [False, False, True, True]


@pytest.mark.parametrize(
    "around", [jax.vmap, lambda solve: lambda ds_: jnp.stack([jax.jit(solve)(d) for d in ds_])]
)
def test_what_the_function_knows_may_be_traced_alone(around):
    """x0 is known, and what is minimised is not."""
    goals = jnp.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    found = around(lambda goal: ds.minimize(lambda x: ((x - goal) ** 2).sum(), jnp.zeros(3)).x)(goals)
    np.testing.assert_allclose(found, goals, atol=1e-6)
