"""Kinks and jumps on a line: where they are, and nothing where there are none."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable

import numpy as np
import pytest

from downslope.gradients import objective
from downslope.gradients.kinks import Jump, Kink, beside, locate
from downslope.solvers import minimize
from downslope.solvers.result import _broken


@pytest.mark.parametrize(
    ("phi", "at", "left", "right"),
    [
        (lambda t: abs(t - 0.3), 0.3, -1, 1),
        (
            lambda t: math.exp(t) + max(0.0, t - 0.1234567),
            0.1234567,
            math.exp(0.1234567),
            1 + math.exp(0.1234567),
        ),
        (lambda t: 1e6 + abs(t - 0.3), 0.3, -1, 1),
        (lambda t: max(t, 2 * t - 0.5), 0.5, 1, 2),
    ],
)
def test_a_kink(phi: Callable[[float], float], at: float, left: float, right: float) -> None:
    found = locate(phi, -0.9, 1.0)
    assert isinstance(found, Kink)
    assert found.at == pytest.approx(at, abs=1e-4)
    assert (found.left, found.right) == pytest.approx((left, right), rel=0.02)


def test_a_jump() -> None:
    found = locate(lambda t: math.floor(3 * t) + t * t, 0.1, 0.6)
    assert isinstance(found, Jump)
    assert found.at == pytest.approx(1 / 3, abs=1e-9)
    assert found.right - found.left == pytest.approx(1, abs=1e-6)
    assert "a jump at t = 0.333" in str(found)


@pytest.mark.parametrize(
    "phi",
    [
        lambda t: t**3,
        lambda t: max(t, 0.0) ** 2,
        lambda t: math.sin(30 * t),
        lambda t: math.exp(-((t / 0.01) ** 2)),
        lambda t: 5.0,
        lambda t: 2 * t,
        lambda t: math.nan,
        lambda t: 1e8 + math.sin(t),
    ],
)
def test_nothing_where_it_is_smooth(phi: Callable[[float], float]) -> None:
    assert locate(phi, -1.0, 1.1) is None


@pytest.mark.parametrize(
    "phi", [lambda t: abs(t - 0.3), lambda t: float(t > 0.3), lambda t: math.floor(9 * t) + abs(t)]
)
@pytest.mark.parametrize("values", [40, 60, 100])
def test_no_more_values_than_are_allowed(phi: Callable[[float], float], values: int) -> None:
    asked: list[float] = []

    def counted(t: float) -> float:
        asked.append(t)
        return phi(t)

    found = locate(counted, -0.9, 1.0, values=values)
    assert len(asked) <= values
    assert found is not None
    assert type(found) is type(locate(phi, -0.9, 1.0))


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="expected a < b"):
        locate(abs, 1.0, 0.0)
    with pytest.raises(ValueError, match="at least 5"):
        locate(abs, 0.0, 1.0, points=3)
    with pytest.raises(ValueError, match="at least the 17 points"):
        locate(abs, 0.0, 1.0, values=16)


def test_the_nearest_is_found_across_scales() -> None:
    found = beside(lambda t: abs(t - 1e-5) + 100 * (t > 0.4), 1.0)
    assert isinstance(found, Kink)
    assert found.at == pytest.approx(1e-5, abs=1e-9)
    assert beside(math.sin, 1.0) is None


def test_minimize_says_where_the_kink_is() -> None:
    def f(x: np.ndarray) -> float:
        return float(max(abs(x[0] - 1), 2 * abs(x[1])))

    def g(x: np.ndarray) -> np.ndarray:
        first = abs(x[0] - 1) > 2 * abs(x[1])
        return np.array([np.sign(x[0] - 1), 0.0] if first else [0.0, 2 * np.sign(x[1])])

    result = minimize(f, np.array([3.0, 0.7]), gradient=g)
    assert not result.success
    assert "there is a kink at t = " in result.message
    assert "smooth it, or try method='pattern'" in result.message


def test_minimize_says_what_to_do_about_a_jump() -> None:
    result = minimize(lambda x: (x**2).sum() + 3 * (x[0] < 0.5), np.array([1.3, 1.1]))
    assert not result.success
    assert "there is a jump at t = " in result.message
    assert "keep to one side of it by bounds, or try method='pattern'" in result.message


def _noisy_bowl(x: np.ndarray) -> float:
    return float(((x - 1) ** 2).sum()) + 1e-8 * (zlib.crc32(x.tobytes()) / 2**31 - 1)


@pytest.mark.parametrize("method", ["cg", "gd", "pattern"])
def test_noise_is_no_jump(method: str) -> None:
    """Values that scatter by 1e-8 jump everywhere, and nowhere in particular."""
    result = minimize(_noisy_bowl, np.zeros(2), method)
    assert not result.success
    assert " at t = " not in result.message
    noisy = "the function is noisy", "the noise of the function"  # seen along a line, or in differences
    assert any(words in result.message for words in noisy)


def test_what_rounds_x_is_no_jump_of_a_continuous_function() -> None:
    """Nesterov's nested kinks: near 1e-10 the points x + t d are rounded, and the values are stairs."""
    x0 = np.random.default_rng(0).normal(size=5) + 1.3
    result = minimize(lambda x: 0.25 * abs(x[0] - 1) + np.abs(x[1:] - 2 * np.abs(x[:-1]) + 1).sum(), x0)
    assert not result.success
    assert "a jump at" not in result.message


def test_what_rounds_a_large_x_is_no_jump_of_a_steep_function() -> None:
    """A net whose weights nearly cancel, where differences stall: 0.16 on it is 1e5 times as steep."""
    t = np.linspace(-1, 1, 20)

    def net(x: np.ndarray) -> float:
        return float(((np.tanh(np.outer(t, x[:2]) + 0.1) @ x[2:] - np.sin(3 * t)) ** 2).mean())

    x = np.array([1.79295412, 1.8280905, -103.18343627, 103.21703968])
    g = np.array([2.19975565e-05, 1.65542206e-05, 1.23288452e-05, 1.23025943e-05])
    told = _broken(objective(net, x), x, g, "l-bfgs", 1e-5)
    assert "the function is noisy" in told
    assert " at t = " not in told


def test_the_pattern_search_does_not_send_to_itself() -> None:
    assert "try method='pattern'" not in minimize(_noisy_bowl, np.zeros(2), "pattern").message


def test_two_sides_are_told_with_digits_that_differ() -> None:
    assert str(Jump(0.0, 2.0, 2.0 + 1e-9, 1e-12)) == "a jump at t = 0: from 2 to 2.000000001"
