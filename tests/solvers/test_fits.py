"""Thousands of fits in lock step: each is the fit that it would be alone, whatever becomes of the others."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import downslope as ds
from downslope.errors import UsageError
from downslope.solvers import Status

T = np.linspace(0, 4, 50)
NOISE = 0.01


def model(b: np.ndarray) -> np.ndarray:
    return b[:, :1] * np.exp(-b[:, 1:2] * T) + b[:, 2:]


def residuals(b: np.ndarray, y: np.ndarray) -> np.ndarray:
    return model(b) - y


def slopes(b: np.ndarray, y: np.ndarray) -> np.ndarray:
    e = np.exp(-b[:, 1:2] * T)
    return np.stack([e, -b[:, :1] * T * e, np.ones_like(e)], -1)


def decays(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return true parameters, data and starts of exponential decays."""
    rng = np.random.default_rng(0)
    truth = rng.uniform([1.0, 0.5, -0.5], [3.0, 2.0, 0.5], (count, 3))
    y = model(truth) + NOISE * rng.standard_normal((count, 50))
    return truth, y, np.tile([1.0, 1.0, 0.0], (count, 1))


def alone(i: int, y: np.ndarray, x0: np.ndarray, **options: Any) -> ds.LeastSquaresResult:
    return ds.least_squares(
        lambda b: residuals(b[None], y[i])[0], x0[i], jac=lambda b: slopes(b[None], y[i])[0], **options
    )


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "gauss-newton": {"method": "gauss-newton"},
    "huber": {"loss": "huber", "f_scale": 0.02},
    "cauchy": {"loss": "cauchy", "f_scale": 0.02},
    "bounds": {"bounds": ([0.0, 0.0, 0.0], [2.5, 1.5, 1.0])},
    "budget": {"max_nfev": 5},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_each_of_a_batch_is_the_fit_alone(name):
    # An offset of 1e-6 is met well before rounding decides who takes another step.
    options = {"gtol": 1e-6, **OPTIONS[name]}
    _, y, x0 = decays(60)
    every = ds.least_squares(residuals, x0, jac=slopes, args=(y,), batch=True, **options)
    assert every.success.all() == (name != "budget")
    for i in range(0, 60, 3):
        one = alone(i, y, x0, **options)
        assert (every.nit[i], every.status[i]) == (one.nit, one.status)
        # The second look at the end of a fit is counted by both; where it is asked for is up to rounding.
        assert abs(every.nfev[i] - one.nfev) <= 2
        # Sums in another order, blown up by at most the condition of J, some ten.
        np.testing.assert_allclose(every.x[i], one.x, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(every.cost[i], one.cost, rtol=1e-10)
        np.testing.assert_array_equal(every.active_mask[i], one.active_mask)
        np.testing.assert_allclose(every.fun[i], one.fun, atol=1e-10)
        np.testing.assert_allclose(every.jac[i], one.jac, atol=1e-9)
        # Near the end a gradient is a small rest of large terms.
        np.testing.assert_allclose(every.grad[i], one.grad, atol=1e-9)
        np.testing.assert_allclose(every.optimality[i], one.optimality, atol=1e-9)


def test_two_thousand_decays_are_all_recovered():
    truth, y, x0 = decays(2000)
    fit = ds.least_squares(residuals, x0, jac=slopes, args=(y,), batch=True)
    assert fit.success.all()
    # Standard deviations by the covariance s² (JᵀJ)⁻¹; of 6000 parameters none is 5 of them off.
    covariance = NOISE**2 * np.linalg.inv(np.swapaxes(fit.jac, 1, 2) @ fit.jac)
    deviations = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
    assert np.abs((fit.x - truth) / deviations).max() < 5
    assert 0.95 < np.mean((fit.x - truth) ** 2 / deviations**2) < 1.05  # and they are as large as that
    assert fit.nfev.mean() < 10  # 6.9 when this was written


def test_gaussian_peaks_by_differences():
    rng = np.random.default_rng(1)
    at = np.linspace(-5, 5, 50)
    truth = rng.uniform([1.0, -1.0, 0.5], [3.0, 1.0, 1.5], (500, 3))

    def peak(b):
        return b[:, :1] * np.exp(-0.5 * ((at - b[:, 1:2]) / b[:, 2:]) ** 2)

    y = peak(truth)
    fit = ds.least_squares(
        lambda b, y: peak(b) - y, np.tile([2.0, 0.0, 1.0], (500, 1)), args=(y,), batch=True
    )
    assert fit.success.all()
    np.testing.assert_allclose(fit.x, truth, atol=1e-7)  # exact data: to the rounding of differences
    assert "differences" in fit.provenance


@pytest.mark.parametrize("jac", [None, slopes, "cs"])
def test_a_fit_that_is_not_finite_leaves_the_others_alone(jac):
    _, y, x0 = decays(40)
    clean = ds.least_squares(residuals, x0, jac=jac, args=(y,), batch=True)
    x0[7], y[11] = [1.0, -400.0, 0.0], np.nan  # overflows, and has no data

    with np.errstate(all="ignore"):
        fit = ds.least_squares(residuals, x0, jac=jac, args=(y,), batch=True)
    assert fit.status[[7, 11]].tolist() == [Status.NONFINITE] * 2
    assert "not finite" in fit.message[7]
    others = np.setdiff1d(np.arange(40), [7, 11])
    assert fit.success[others].all()
    # A given Jacobian does not know of other problems; the step of differences is one for all.
    np.testing.assert_allclose(fit.x[others], clean.x[others], atol=1e-12 if jac is slopes else 1e-6)


def test_bounds_of_each_problem_and_differences_within_them():
    truth, y, x0 = decays(30)
    low, high = truth - [0.5, 0.1, 0.2], truth + np.linspace(-0.05, 0.3, 30)[:, None]
    seen = []

    def f(b, y, at):
        seen.append(((b >= low[at[:, 0]] - 1e-15) & (b <= high[at[:, 0]] + 1e-15)).all())
        return residuals(b, y)

    fit = ds.least_squares(f, x0, bounds=(low, high), args=(y, np.arange(30)[:, None]), batch=True)
    assert fit.success.all()
    assert all(seen)
    for i in range(0, 30, 5):
        one = alone(i, y, x0, bounds=(low[i], high[i]))
        np.testing.assert_allclose(fit.x[i], one.x, atol=1e-6)
        np.testing.assert_array_equal(fit.active_mask[i], one.active_mask)
    assert (fit.active_mask == 1).any()
    assert (fit.active_mask == 0).any()


def test_fits_that_run_off_are_no_success():
    # exp(-b) + 1 has its least value at infinity, exp(-b) + b / 10 near 2.
    tilt = np.array([[0.0], [0.1], [0.0]])
    fit = ds.least_squares(
        lambda b, tilt: np.concatenate([np.exp(-b), np.where(tilt == 0, 1.0, tilt * b)], 1),
        np.zeros((3, 1)), args=(tilt,), batch=True,
    )  # fmt: skip
    assert fit.status[[0, 2]].tolist() == [Status.LEVEL] * 2
    assert fit.success.tolist() == [False, True, False]


def test_fewer_residuals_than_unknowns():
    fit = ds.least_squares(lambda x: x.sum(1, keepdims=True) - 3.0, np.zeros((4, 5)), batch=True)
    assert fit.success.all()
    np.testing.assert_allclose(fit.x.sum(1), 3.0)


def test_a_result_in_words():
    _, y, x0 = decays(5)
    fit = ds.least_squares(residuals, x0, jac=slopes, args=(y,), batch=True, max_nfev=2)
    assert str(fit).startswith("0 of 5 fits solved")
    assert fit.message[0] == Status.EVALUATIONS.message


@pytest.mark.parametrize("kind", ["one", "all"])
def test_tensors(kind):
    torch = pytest.importorskip("torch")
    _, y, x0 = decays(40)
    t = torch.tensor(T)

    def of_one(p, y):
        return p["a"] * torch.exp(-p["rest"][0] * t) + p["rest"][1] - y

    def of_all(p, y):
        return p["a"][:, None] * torch.exp(-p["rest"][:, :1] * t) + p["rest"][:, 1:] - y

    start = {"a": torch.tensor(x0[:, 0]), "rest": torch.tensor(x0[:, 1:])}
    fit = ds.least_squares(
        of_one if kind == "one" else of_all, start, args=(torch.tensor(y),), batch=True, gtol=1e-6,
        vectorized=kind == "all",
    )  # fmt: skip
    peer = ds.least_squares(residuals, x0, jac=slopes, args=(y,), batch=True, gtol=1e-6)
    np.testing.assert_array_equal(fit.nit, peer.nit)
    np.testing.assert_allclose(np.column_stack([fit.x["a"], fit.x["rest"]]), peer.x, rtol=1e-9, atol=1e-12)
    assert (fit.fun.shape, fit.jac.shape, fit.grad.shape) == ((40, 50), (40, 50, 3), (40, 3))


def test_single_precision():
    truth, y, x0 = decays(40)
    fit = ds.least_squares(
        residuals, x0.astype(np.float32), jac=slopes, args=(y.astype(np.float32),), batch=True
    )
    assert fit.x.dtype == np.float32
    assert fit.success.all()
    np.testing.assert_allclose(fit.x, truth, atol=0.1)  # the noise of the data


@pytest.mark.parametrize(
    ("fun", "options", "message"),
    [
        (residuals, {"linear": "cg"}, "linear='cg' with batch=True: expected linear='svd'"),
        (residuals, {"callback": print}, "callback with batch=True"),
        (residuals, {"history": True}, "history with batch=True"),
        (residuals, {"method": "trust-ncg"}, "expected one of levenberg-marquardt, gauss-newton"),
        (lambda b, y: T, {}, r"shape \(50,\): expected the 6 problems along the leading axis"),
        (lambda b, y: (model(b) - y).sum(), {}, r"shape \(\): expected the 6 problems"),
        (residuals, {"jac": lambda b, y: slopes(b, y)[0]}, r"shape \(50, 3\): expected \(6, 50, 3\)"),
        (residuals, {"bounds": (np.zeros((5, 3)), np.ones((5, 3)))}, "one side is .* expected 3 numbers"),
        (lambda b, y: None, {}, "is a return missing"),
    ],
)
def test_bad_arguments(fun, options, message):
    _, y, x0 = decays(6)
    with pytest.raises(UsageError, match=message):
        ds.least_squares(fun, x0, args=(y,), batch=True, **options)


def test_a_batch_of_numbers_has_no_leading_axis():
    with pytest.raises(UsageError, match="a batch has the problems along the leading axis"):
        ds.least_squares(lambda b: b, np.array(1.0), batch=True)
    with pytest.raises(UsageError, match="batches of two lengths"):
        ds.least_squares(lambda p: p["a"], {"a": np.ones((3, 1)), "b": np.ones((4, 1))}, batch=True)


def test_differences_keep_to_the_bounds_of_their_own_problem():
    """Also when others have ended: what is left of the bounds is that of the problems that are left."""
    rng = np.random.default_rng(5)
    count = 12
    truth, y, x0 = decays(count)
    # Every other problem has ended at once, so that those left are renumbered; their rates are held.
    x0[::2] = truth[::2]
    y[::2] = model(truth[::2])
    low = np.tile([0.1, 0.1, -2.0], (count, 1))
    high = np.column_stack(
        [np.full(count, 9.0), rng.uniform(0.6, 0.9, count) * truth[:, 1], np.full(count, 2.0)]
    )
    high[::2, 1] = 50.0
    outside: list[float] = []

    def f(b, y, low, high):
        outside.append(float(np.max(np.maximum(b - high, low - b))))
        return residuals(b, y)

    x0 = np.clip(x0, low, high)
    found = ds.least_squares(f, x0, bounds=(low, high), args=(y, low, high), batch=True)
    assert found.error is None
    assert found.success.all()
    assert np.allclose(found.x[1::2, 1], high[1::2, 1])
    assert max(outside) <= 0


def test_a_single_residual_of_several_parameters_may_be_a_value_to_minimize():
    fit = ds.least_squares(lambda x: float(np.cosh(x).sum()), [0.0, 0.1])
    assert fit.success
    assert "one residual for 2 parameters" in fit.message
    assert "minimize(fun, x0)" in fit.message
    assert float(fit.provenance.rpartition(" ")[2]) < 1e-4  # where x is 1e-17, no more than elsewhere
    assert "one residual" not in ds.least_squares(lambda x: x - 1, [0.0, 0.1]).message
