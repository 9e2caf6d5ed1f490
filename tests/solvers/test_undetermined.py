"""Fits by differences that do not determine all parameters end as those with exact Jacobians do."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import downslope as ds
from downslope.gradients import residuals as residuals_of
from downslope.gradients.differences import Differences
from downslope.solvers import losses, undetermined

T = np.linspace(0, 3, 40)

MODELS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], list[float]]] = {
    "a shift beside an amplitude": (lambda b: b[0] * np.exp(b[1] * (T - b[2])), [1.0, 0.5, 0.2]),
    "a product": (lambda b: b[0] * b[1] * T + b[2], [1.0, 2.0, 0.3]),
    "a rate twice": (lambda b: b[0] * np.exp(-(b[1] + b[2]) * T) + b[3], [2.0, 0.4, 0.5, 0.2]),
    "a norm beside an amplitude": (
        lambda b: b[0] / b[3] * np.exp(-0.5 * ((T - b[1]) / b[2]) ** 2),
        [2.0, 1.5, 0.4, 1.0],
    ),
}
"""Of each one combination of the parameters is not determined."""


def data(name: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    model, truth = MODELS[name]
    rng = np.random.default_rng(seed)
    y = model(np.array(truth)) + 0.05 * rng.normal(size=T.size)
    return y, np.array(truth) * np.exp(0.4 * rng.normal(size=len(truth)))


@pytest.mark.parametrize("scale", [1.0, 1e3])
@pytest.mark.parametrize("loss", ["linear", "soft_l1"])
@pytest.mark.parametrize("name", MODELS)
def test_a_minimum_is_no_lack_of_progress(name: str, loss: str, scale: float) -> None:
    """Three of four ended as "no progress", at the minimum: what differences leave of J v = 0 has a slope."""
    model, _ = MODELS[name]
    for seed in range(6):
        y, start = data(name, seed)

        def residuals(b: np.ndarray, y: np.ndarray = y) -> np.ndarray:
            return scale * (model(b) - y)

        with np.errstate(all="ignore"):
            exact = ds.least_squares(residuals, start, "cs", loss=loss, f_scale=scale)
            fit = ds.least_squares(residuals, start, loss=loss, f_scale=scale)
        assert exact.success
        assert fit.success, str(fit)
        assert fit.cost == pytest.approx(exact.cost, rel=1e-9)
        assert fit.offset <= 1e-6


@pytest.mark.parametrize("name", MODELS)
def test_so_of_each_problem_of_a_batch(name: str) -> None:
    model, _ = MODELS[name]
    ys, starts = (np.array(made) for made in zip(*(data(name, s) for s in range(12)), strict=True))
    fit = ds.least_squares(lambda b, y: np.array([model(p) for p in b]) - y, starts, args=(ys,), batch=True)
    assert fit.success.all(), fit.message
    for i in range(12):
        alone = ds.least_squares(lambda b, i=i: model(b) - ys[i], starts[i], "cs")
        assert fit.cost[i] == pytest.approx(alone.cost, rel=1e-9)


def test_so_beside_a_bound() -> None:
    model, _ = MODELS["a shift beside an amplitude"]
    for seed in range(6):
        y, start = data("a shift beside an amplitude", seed)
        low = np.array([1e-3, 0.0, 0.9 * start[2]])
        fit = ds.least_squares(lambda b, y=y: model(b) - y, start, bounds=(low, np.inf))
        assert fit.success, str(fit)
        assert (fit.x >= low).all()


def test_so_where_a_bound_leaves_no_room_and_differences_are_coarse() -> None:
    """Counts that grow: the shift ends close to its bound, and slopes are known to a few digits only."""
    t = np.arange(150) * 0.1
    for seed in range(8):
        y = np.random.default_rng(seed).poisson(0.03 * np.exp(0.57 * t)).astype(float)

        def residuals(b: np.ndarray, y: np.ndarray = y) -> np.ndarray:
            return b[0] * np.exp(b[1] * (t - b[2])) - y

        bounds = ([0.01, 0.0, 0.0], [np.inf, 10.0, 20.9])
        fit = ds.least_squares(residuals, [0.01, 1.0, 5.0], bounds=bounds)
        exact = ds.least_squares(residuals, [0.01, 1.0, 5.0], "cs", bounds=bounds)
        assert fit.success, str(fit)
        assert fit.cost == pytest.approx(exact.cost, rel=1e-9)


@pytest.mark.parametrize(("room", "most"), [(1e-7, 1e-3), (1e-12, 1.0)])
def test_a_slope_along_a_way_is_measured_within_the_bounds(room: float, most: float) -> None:
    """Where next to nothing is left, by next to no step, which its error says; cut off, it would be half."""
    x = np.array([1 - room, 0.5])
    by = Differences(np.exp, "central", bounds=(np.zeros(2), np.ones(2)))
    slope, error = by.along(x, np.exp(x), np.ones(2))
    assert np.max(error) < most
    assert (np.abs(slope - np.exp(x)) <= 3 * error).all()


def test_a_jump_that_steps_end_at_is_no_success() -> None:
    """Differences across it make the steps short: what a short one promises is little, whatever is left."""
    for seed in range(4):
        y, _ = data("a shift beside an amplitude", seed)
        fit = ds.least_squares(
            lambda b, y=y: b[0] * np.exp(b[1] * T) - y + 5.0 * (b[1] > 0.42), [0.7, 0.35], "central"
        )
        assert not fit.success, str(fit)
        assert fit.offset > 0.1


@pytest.mark.parametrize("loss", ["linear", "cauchy"])
@pytest.mark.parametrize("name", MODELS)
def test_a_slope_that_is_there_is_not_overlooked(name: str, loss: str) -> None:
    """Off the minimum the look finds the offset of the exact Jacobian, of which one singular value is 0."""
    model, _ = MODELS[name]
    for seed in range(12):
        y, x = data(name, seed)

        def residuals(b: np.ndarray, y: np.ndarray = y) -> np.ndarray:
            return model(b) - y

        r, jacobian = residuals_of(residuals, x, jacobian="complex").value_and_jacobian(x)
        free = np.ones(x.size, bool)
        free[seed % 2] = seed % 3 > 0
        if loss != "linear":
            r, jacobian = losses.reweighted(loss, 0.3, r, jacobian)
        left, values, _ = np.linalg.svd(jacobian[:, free] / np.linalg.norm(jacobian[:, free], axis=0))
        inside = left[:, : values.size][:, values > 1e-12 * values[0]].T @ r
        expected = np.linalg.norm(inside) / np.linalg.norm(r)
        assert expected > 1e-3
        found = undetermined.offset(residuals_of(residuals, x), (loss, 0.3), x, free)
        # Differences are good to nine digits, of a weak combination to three.
        assert found == pytest.approx(expected, rel=1e-3)
