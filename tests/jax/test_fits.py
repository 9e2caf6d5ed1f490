"""Fits within JAX's transformations and in lock step: the steps are those of the host."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import downslope as ds
from downslope.errors import UsageError
from downslope.solvers import Status
from downslope.solvers.drivers import jax as driver
from downslope.solvers.drivers.jax import queue
from downslope.solvers.spaces import rotations
from downslope.solvers.spaces.arrays import NumpyLanes
from downslope.solvers.spaces.jax import JaxSpace
from tests.solvers.test_fits import T, decays, residuals, slopes

EARLY: dict[str, Any] = {"gtol": 1e-6}
"""An offset that is met well before rounding decides who takes another step."""

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "cauchy": {"loss": "cauchy", "f_scale": 0.02},
    "bounds": {"bounds": ([0.0, 0.0, 0.0], [2.5, 1.5, 1.0])},
}

MANY = 2 * queue.LANES + 5
"""More problems than there are lanes."""


def decay(b, y):
    return b[0] * jnp.exp(-b[1] * T) + b[2] - y


def fitted(x0, y, **options):
    return ds.least_squares(lambda b: decay(b, y), x0, **EARLY, **options)


@pytest.mark.parametrize("name", OPTIONS)
def test_a_fit_within_jit_is_that_of_the_host(name):
    _, y, x0 = decays(4)
    traced = jax.jit(lambda x, y: fitted(x, y, **OPTIONS[name]))
    for i in range(4):
        mine, host = traced(jnp.array(x0[i]), y[i]), fitted(jnp.array(x0[i]), y[i], **OPTIONS[name])
        assert (int(mine.nit), int(mine.status)) == (host.nit, host.status)
        assert bool(mine.success)
        # Sums in another order, blown up by at most the condition of J, some ten.
        np.testing.assert_allclose(mine.x, host.x, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(mine.cost, host.cost, rtol=1e-10)
        np.testing.assert_allclose(mine.jac, host.jac, atol=1e-9)
        np.testing.assert_array_equal(mine.active_mask, host.active_mask)


def test_fits_are_mapped_over_what_the_residuals_know():
    _, y, x0 = decays(40)
    peer = ds.least_squares(residuals, x0, jac=slopes, args=(y,), batch=True, **EARLY)
    start = jnp.array(x0[0])  # x0 is no tracer here, the data are
    mapped = jax.jit(jax.vmap(lambda y: fitted(start, y)))(y)
    np.testing.assert_array_equal(mapped.nit, peer.nit)
    np.testing.assert_allclose(mapped.x, peer.x, rtol=1e-9, atol=1e-12)
    few = jax.vmap(lambda y: fitted(start, y).x)(y[:3])
    np.testing.assert_allclose(few, peer.x[:3], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("where", ["a queue", "gathered", "within jit"])
def test_a_batch_is_that_of_numpy(where, monkeypatch):
    if where == "gathered":
        monkeypatch.setattr(driver, "_on_one_cpu", lambda x: False)  # as on an accelerator
    _, y, x0 = decays(MANY)
    x0[7], y[11] = [1.0, -400.0, 0.0], np.nan
    with np.errstate(all="ignore"):
        peer = ds.least_squares(residuals, x0, jac=slopes, args=(y,), batch=True, **EARLY)

    def solve(x, y):
        return ds.least_squares(decay, x, args=(y,), batch=True, **EARLY)

    fit = (jax.jit(solve) if where == "within jit" else solve)(jnp.array(x0), jnp.array(y))
    np.testing.assert_array_equal(fit.status, peer.status)
    assert fit.status[7] == fit.status[11] == Status.NONFINITE
    assert int(fit.success.sum()) == MANY - 2
    np.testing.assert_array_equal(fit.nit, peer.nit)
    good = np.asarray(fit.success)
    np.testing.assert_allclose(fit.x[good], peer.x[good], rtol=1e-9, atol=1e-12)
    assert (fit.fun.shape, fit.jac.shape) == ((MANY, 50), (MANY, 50, 3))


def test_bounds_and_losses_stay_with_their_problem_and_are_compiled_once():
    truth, y, x0 = decays(MANY)
    high = truth + np.linspace(-0.05, 0.3, MANY)[:, None]
    options = {"bounds": (np.full((MANY, 3), -1.0), high), "loss": "huber", "f_scale": 0.02, **EARLY}
    peer = ds.least_squares(residuals, x0, jac=slopes, args=(y,), batch=True, **options)

    def again():
        return ds.least_squares(decay, jnp.array(x0), args=(jnp.array(y),), batch=True, **options)

    fit = again()
    assert fit.success.all()
    np.testing.assert_allclose(fit.x, peer.x, atol=1e-6)
    np.testing.assert_array_equal(fit.active_mask, peer.active_mask)
    (kept,) = (loop for loop in driver._compiled[decay].values() if loop.squares == ("huber", 0.02))
    assert kept.queue.held == queue.Held.ALL
    compiled = kept.queue.rounds._cache_size()
    again()
    assert kept.queue.rounds._cache_size() == compiled


def test_what_has_not_begun_when_time_is_up_has_its_start():
    _, y, x0 = decays(MANY)
    fit = ds.least_squares(decay, jnp.array(x0), args=(jnp.array(y),), batch=True, stop=ds.Stop(seconds=0.0))
    assert (fit.status == Status.SECONDS).all()
    np.testing.assert_array_equal(fit.x, x0)
    np.testing.assert_allclose(fit.cost, 0.5 * (residuals(x0, y) ** 2).sum(1), rtol=1e-12)
    assert np.isnan(fit.offset).all()  # it is not known yet


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8])
def test_rotations_decompose_as_lapack_does(n):
    rng = np.random.default_rng(n)
    # Columns of very different lengths, and a lane of rank one.
    a = rng.standard_normal((12, n, 30)) * 10.0 ** rng.uniform(-8, 0, (n, 30))
    a[:, :, 4] = a[:, :1, 4]
    b = rng.standard_normal((12, 30))
    space, peer = JaxSpace(jnp.zeros(1)), NumpyLanes(np.float64)
    upper, part = jax.jit(lambda a, b: rotations.reduced(space, a, b))(a, b)
    np.testing.assert_allclose(
        np.einsum("kib,kjb->ijb", upper, upper), np.einsum("kib,kjb->ijb", a, a), rtol=1e-12, atol=1e-15
    )
    np.testing.assert_allclose(
        np.einsum("kib,kb->ib", upper, part), np.einsum("kib,kb->ib", a, b), rtol=1e-10, atol=1e-14
    )
    values, basis, along = jax.jit(lambda a, b: rotations.svd(space, a, b))(upper, part)
    with np.errstate(invalid="ignore"):
        theirs, _, _ = peer.svd(np.asarray(upper), np.asarray(part))
    largest = theirs.max(0)
    # LAPACK's small values are right to the rounding of the largest.
    assert (np.abs(values - theirs) <= 1e-14 * largest).all()
    assert (np.diff(values, axis=0) >= -1e-15 * largest).all()
    np.testing.assert_allclose(
        np.einsum("ikb,jkb->ijb", basis, basis), np.eye(n)[..., None] + np.zeros(30), atol=1e-13
    )
    # A = U Σ Vᵀ, and so Aᵀ b = V Σ (Uᵀ b).
    made = np.einsum("ikb,kb->ib", basis, values * along)
    np.testing.assert_allclose(made, np.einsum("kib,kb->ib", a, b), rtol=1e-8, atol=1e-13)


def test_rotations_of_what_is_not_finite_are_not():
    a = np.ones((4, 2, 3))
    a[3, 1, 0], a[3, 0, 1] = np.nan, np.inf
    space = JaxSpace(jnp.zeros(1))
    values, *_ = rotations.svd(space, *rotations.reduced(space, jnp.array(a), jnp.ones((4, 3))))
    assert not np.isfinite(values[:, :2]).all(0).any()
    assert np.isfinite(values[:, 2]).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"linear": "cg"}, "linear='cg' with a transformation of JAX's"),
        ({"callback": print}, "callback with a transformation"),
        ({"progress": True}, "progress with a transformation"),
        ({"stop": ds.Stop(seconds=1.0)}, r"Stop\(seconds=...\) with a transformation"),
    ],
)
def test_what_needs_the_host_is_refused_within_a_transformation(options, message):
    with pytest.raises(UsageError, match=message):
        jax.jit(lambda x: ds.least_squares(lambda b: b - 1.0, x, **options).x)(jnp.zeros(2))


def test_a_batch_of_wrong_residuals():
    with pytest.raises(UsageError, match=r"shape \(2,\): expected the 6 problems along the leading axis"):
        ds.least_squares(lambda b: b[0], jnp.ones((6, 2)), batch=True, vectorized=True)


def test_residuals_that_cannot_be_traced():
    with pytest.raises(UsageError, match="fun cannot be traced by JAX"):
        ds.least_squares(lambda b: b * float(b[0]), jnp.ones(2))


def test_nothing_of_a_trace_is_kept():
    before = len(driver._compiled)
    # The residuals' closure holds a tracer of the data, and a Loop would hold the residuals.
    jax.make_jaxpr(lambda x, y: fitted(x, y).x)(jnp.ones(3), jnp.ones(50))
    assert len(driver._compiled) == before
