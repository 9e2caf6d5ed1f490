"""Endings of compiled solves are looked at once more, as those of other solves are."""

import pytest

import downslope as ds
from downslope.solvers import Status


def test_a_compiled_solve_is_looked_at():
    jax = pytest.importorskip("jax")
    jnp = jax.numpy
    with jax.enable_x64(True):

        def tail(x):
            return jnp.exp(-x[0]) + jnp.exp(-x[1])

        x0 = jnp.array([0.5, 0.0])
        assert ds.minimize(tail, x0, "newton").status is Status.LEVEL
        # One compilation serves both: what is traced is looked at by the same lines as what is not.
        solve = jax.jit(
            lambda x, weight: ds.minimize(lambda p, w: tail(p) + w * (p @ p), x, "cg", args=(weight,))
        )
        level = solve(x0, 0.0)
        assert int(level.status) == Status.LEVEL
        assert not bool(level.success)
        assert bool(solve(x0, 1.0).success)
        many = ds.minimize(tail, jnp.stack([x0, x0 + 1]), "cg", batch=True)
        assert not many.success.any()
