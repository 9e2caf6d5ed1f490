"""Functions of two unknowns that are known by their pictures: valleys, several minima, a kink, waves."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from downslope.tasks.problems.problem import Minimum, Problem, namespace

TAU = 2 * math.pi


def _two(x: Any) -> tuple[Any, Any, Any]:
    return x[..., 0], x[..., 1], namespace(x)


def rosenbrock(x: Any) -> Any:
    """100 (y - x²)² + (1 - x)²: a valley bent like a banana."""
    a, b, _ = _two(x)
    return 100 * (b - a**2) ** 2 + (1 - a) ** 2


def himmelblau(x: Any) -> Any:
    """(x² + y - 11)² + (x + y² - 7)²: four minima of the same value."""
    a, b, _ = _two(x)
    return (a**2 + b - 11) ** 2 + (a + b**2 - 7) ** 2


def beale(x: Any) -> Any:
    """Σ (cᵢ - x (1 - yⁱ))² with c = 1.5, 2.25, 2.625: flat far out, with a valley that runs away."""
    a, b, _ = _two(x)
    return (1.5 - a * (1 - b)) ** 2 + (2.25 - a * (1 - b**2)) ** 2 + (2.625 - a * (1 - b**3)) ** 2


def booth(x: Any) -> Any:
    """(x + 2y - 7)² + (2x + y - 5)²: a quadratic, its condition 9."""
    a, b, _ = _two(x)
    return (a + 2 * b - 7) ** 2 + (2 * a + b - 5) ** 2


def matyas(x: Any) -> Any:
    """0.26 (x² + y²) - 0.48 x y: a long quadratic, its condition 25."""
    a, b, _ = _two(x)
    return 0.26 * (a**2 + b**2) - 0.48 * a * b


def ackley(x: Any) -> Any:
    """-20 exp(-0.2 √(½(x² + y²))) - exp(½(cos 2πx + cos 2πy)) + 20 + e: waves in a funnel, a cusp at 0."""
    a, b, xp = _two(x)
    funnel = -20 * xp.exp(-0.2 * xp.sqrt(0.5 * (a**2 + b**2)))
    return funnel - xp.exp(0.5 * (xp.cos(TAU * a) + xp.cos(TAU * b))) + 20 + math.e


def rastrigin(x: Any) -> Any:
    """20 + x² + y² - 10 (cos 2πx + cos 2πy): a grid of minima."""
    a, b, xp = _two(x)
    return 20 + a**2 + b**2 - 10 * (xp.cos(TAU * a) + xp.cos(TAU * b))


def three_hump_camel(x: Any) -> Any:
    """2x² - 1.05x⁴ + x⁶/6 + xy + y²: three minima in a row."""
    a, b, _ = _two(x)
    return 2 * a**2 - 1.05 * a**4 + a**6 / 6 + a * b + b**2


def six_hump_camel(x: Any) -> Any:
    """(4 - 2.1x² + x⁴/3) x² + xy + (4y² - 4) y²: six minima, two of them lowest."""
    a, b, _ = _two(x)
    return (4 - 2.1 * a**2 + a**4 / 3) * a**2 + a * b + (4 * b**2 - 4) * b**2


def goldstein_price(x: Any) -> Any:
    """A polynomial of degree 8 that runs from 3 to a million in a small square; four minima."""
    a, b, _ = _two(x)
    first = 1 + (a + b + 1) ** 2 * (19 - 14 * a + 3 * a**2 - 14 * b + 6 * a * b + 3 * b**2)
    second = 30 + (2 * a - 3 * b) ** 2 * (18 - 32 * a + 12 * a**2 + 48 * b - 36 * a * b + 27 * b**2)
    return first * second


def branin(x: Any) -> Any:
    """(y - 5.1x²/4π² + 5x/π - 6)² + 10 (1 - 1/8π) cos x + 10: three minima of the same value."""
    a, b, xp = _two(x)
    valley = b - 5.1 / (4 * math.pi**2) * a**2 + 5 / math.pi * a - 6
    return valley**2 + 10 * (1 - 1 / (8 * math.pi)) * xp.cos(a) + 10


def levy_13(x: Any) -> Any:
    """sin² 3πx + (x - 1)² (1 + sin² 3πy) + (y - 1)² (1 + sin² 2πy): ridges in a bowl."""
    a, b, xp = _two(x)
    pi = math.pi
    bowl = (a - 1) ** 2 * (1 + xp.sin(3 * pi * b) ** 2) + (b - 1) ** 2 * (1 + xp.sin(2 * pi * b) ** 2)
    return xp.sin(3 * pi * a) ** 2 + bowl


def easom(x: Any) -> Any:
    """-cos x cos y exp(-(x - π)² - (y - π)²): one narrow hole in a plain."""
    a, b, xp = _two(x)
    return -xp.cos(a) * xp.cos(b) * xp.exp(-((a - math.pi) ** 2) - (b - math.pi) ** 2)


def mccormick(x: Any) -> Any:
    """sin(x + y) + (x - y)² - 1.5x + 2.5y + 1: a row of minima, each lower than the last."""
    a, b, xp = _two(x)
    return xp.sin(a + b) + (a - b) ** 2 - 1.5 * a + 2.5 * b + 1


def saddle(x: Any) -> Any:
    """½x² + ¼y⁴ - ½y²: a saddle at 0 on the way to two minima."""
    a, b, _ = _two(x)
    return 0.5 * a**2 + 0.25 * b**4 - 0.5 * b**2


def _problem(
    function: Any, start: tuple[float, float], frame: tuple[float, float, float, float], *minima: Minimum
) -> Problem:
    name = function.__name__.replace("_", "-")
    low, high = (frame[0], frame[1]), (frame[2], frame[3])
    return Problem(
        name, np.array(start, np.float64), function=function, minima=minima, frame=(low, high), source=SOURCE
    )


SOURCE = "Jamil and Yang, A literature survey of benchmark functions for global optimization, 2013"

CLASSICS = {
    problem.name: problem
    for problem in (
        _problem(rosenbrock, (-1.2, 1), (-1.8, 1.8, -0.8, 2.4), Minimum(0, (1, 1))),
        _problem(
            himmelblau, (0, -1), (-5, 5, -5, 5),
            Minimum(0, (3, 2)), Minimum(0, (-2.805118086952745, 3.131312518250573)),
            Minimum(0, (-3.779310253377747, -3.283185991286170)),
            Minimum(0, (3.584428340330492, -1.848126526964404)),
        ),
        _problem(beale, (1, 1), (-1, 4.5, -2, 2), Minimum(0, (3, 0.5))),
        _problem(booth, (-4, -6), (-8, 8, -8, 8), Minimum(0, (1, 3))),
        _problem(matyas, (-8, 6), (-10, 10, -10, 10), Minimum(0, (0, 0))),
        _problem(ackley, (1.2, 0.8), (-3, 3, -3, 3), Minimum(0, (0, 0), "a cusp")),
        _problem(rastrigin, (1.3, -0.7), (-3, 3, -3, 3), Minimum(0, (0, 0))),
        _problem(three_hump_camel, (1.2, 1.5), (-2.5, 2.5, -2.5, 2.5), Minimum(0, (0, 0))),
        _problem(
            six_hump_camel, (1.5, 0.8), (-2.2, 2.2, -1.3, 1.3),
            Minimum(-1.031628453489877, (0.08984201368301331, -0.7126564032704135)),
            Minimum(-1.031628453489877, (-0.08984201368301331, 0.7126564032704135)),
        ),
        _problem(goldstein_price, (0.5, 0.3), (-2, 2, -2, 2), Minimum(3, (0, -1))),
        _problem(
            branin, (3, 9), (-5, 10, 0, 15),
            Minimum(0.39788735772973816, (math.pi, 2.275)),
            Minimum(0.39788735772973816, (-math.pi, 12.275)),
            Minimum(0.39788735772973816, (3 * math.pi, 2.475)),
        ),
        _problem(levy_13, (-2.5, 3.4), (-4, 4, -4, 4), Minimum(0, (1, 1))),
        _problem(easom, (2, 2.2), (0, 6, 0, 6), Minimum(-1, (math.pi, math.pi))),
        _problem(
            mccormick, (2, 3), (-1.5, 4, -3, 4),
            Minimum(-1.9132229549810367, (-0.5471975511965976, -1.5471975511965976), "of the frame"),
        ),
        _problem(
            saddle, (1.2, 1e-3), (-1.6, 1.6, -1.6, 1.6), Minimum(-0.25, (0, 1)), Minimum(-0.25, (0, -1))
        ),
    )
}  # fmt: skip
