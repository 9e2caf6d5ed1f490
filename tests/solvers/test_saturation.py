"""Fits that end where the model is saturated in a parameter are no success; flat sides of other kinds are."""

from __future__ import annotations

import numpy as np
import pytest

import downslope as ds
from downslope.solvers import Status
from downslope.tasks.problems.nist import certified, nist

T = np.linspace(0, 10, 41)


def sigmoid(b: np.ndarray) -> np.ndarray:
    return b[0] / (1 + np.exp(-b[1] * (T - b[2])))


def peak(b: np.ndarray) -> np.ndarray:
    return b[0] * np.exp(-(((T - b[1]) / b[2]) ** 2)) + b[3]


def decays(b: np.ndarray) -> np.ndarray:
    return b[0] * np.exp(-b[1] * T) + b[2] * np.exp(-b[3] * T) + b[4]


SATURATED = {
    "before all data from the start": (sigmoid, [3.0, 2.0, 5.0], [1.2, 62.0, -9.0]),
    "a step between two data": (sigmoid, [3.0, 2.0, 5.0], [1.1, 79.0, 8.8]),
    "after all data": (sigmoid, [3.0, 2.0, 5.0], [4.1, -39.9, 9.4]),
    "a peak off the data": (peak, [3.0, 5.0, 1.0, 0.2], [0.3, 16.0, 0.9, 0.0]),
    "a decay over before the second point": (decays, [3.0, 0.3, 2.0, 2.0, 0.2], [2.3, 29.0, -7.2, 27.0, 0.0]),
}  # fmt: skip


@pytest.mark.parametrize("name", SATURATED)
def test_a_model_that_is_saturated_is_no_success(name: str) -> None:
    """Columns of J are zero to rounding there, and the offset within any tolerance."""
    model, truth, start = SATURATED[name]
    y = model(np.array(truth))
    with np.errstate(all="ignore"):
        fit = ds.least_squares(lambda b: model(b) - y, start)
        right = ds.least_squares(lambda b: model(b) - y, np.array(truth) * 1.1)
    assert (np.linalg.norm(fit.jac, axis=0) < 1e-12).any(), "nothing is saturated"
    assert fit.cost > 0.1
    assert fit.status is Status.PLATEAU, str(fit)
    assert right.success
    np.testing.assert_allclose(right.x, truth, rtol=1e-6)


def test_a_regression_of_nist_that_loses_a_rate() -> None:
    """MGH17 with bounds: a rate of 7.6 leaves nothing of e⁻⁷⁶, where 0.022 is right."""
    p, exact = nist("mgh17", 1), np.asarray(certified("mgh17").parameters)
    low, high = np.full(5, -np.inf), np.full(5, np.inf)
    high[[0, 4]], low[2] = exact[[0, 4]] - 0.1 * np.abs(exact[[0, 4]]), exact[2] + 0.1 * abs(exact[2])
    with np.errstate(all="ignore"):
        fit = ds.least_squares(p.residuals, np.clip(p.start, low, high), p.jacobian, bounds=(low, high))
    assert fit.status is Status.PLATEAU
    assert fit.cost > 0.01


FLAT = {
    "a parameter that decides nothing": lambda b: np.array([b[0] - 1, 0 * b[1]]),
    "a rate without an amplitude": lambda b: np.append(max(b[0], 0.0) * np.exp(-b[1] * T), b[0] + 1),
    "a hinge": lambda b: np.array([b[0] - 1, max(0.0, b[1] - 3)]),
    "a hinge squared": lambda b: np.array([b[0] - 1, max(0.0, b[1] - 3) ** 2, 0.1]),
    "a hinge to the fourth": lambda b: np.array([b[0] - 1, max(0.0, b[1] - 3) ** 4, 0.1]),
    "many hinges": lambda b: np.append(np.maximum(0.0, b[1] - T), b[0] - 1),
}


@pytest.mark.parametrize("name", FLAT)
def test_a_flat_side_that_is_no_tail_stays_a_success(name: str) -> None:
    for start in ([4.0, -1.0], [4.0, 9.0], [2.0, 2.0]):
        fit = ds.least_squares(FLAT[name], start)
        assert fit.success, (start, str(fit), fit.x)


def test_a_look_that_is_cut_short_leaves_the_fit() -> None:
    """The run is over by then: an exception farther off loses nothing of it."""
    model, truth, start = SATURATED["before all data from the start"]
    y = model(np.array(truth))

    def residuals(b: np.ndarray) -> np.ndarray:
        if b[1] == 0:
            raise OverflowError
        return model(b) - y

    with np.errstate(all="ignore"):
        fit = ds.least_squares(residuals, start)
    assert fit.success
    assert fit.error is None
