"""Functions on which a solver is tempted to say that it succeeded, and what would be true of each.

Each is written for one point in NumPy; derivatives are by hand. `lowest` is the least value of a local
minimum that may be reached from the start, or None where there is no minimum: no success is true then.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tests.solvers.functions import rosenbrock, rosenbrock_gradient


@dataclass(frozen=True)
class Hostile:
    """A function, its derivatives, where to start, and the value of its minimum."""

    f: Callable[[Any], float]
    gradient: Callable[[Any], Any]
    hessian: Callable[[Any], Any]
    start: tuple[float, ...]
    lowest: float | None
    dtype: str = "float64"

    def honest(self, x: Any) -> bool:
        """Whether success at x would be true: a ten-thousandth of the fall from the start is left."""
        if self.lowest is None:
            return False
        first = float(self.f(np.array(self.start, self.dtype)))
        share = 1e-4 if self.dtype == "float64" else 1e-2
        return float(self.f(x)) - self.lowest <= share * max(first - self.lowest, 0.0) + 1e-300


def _along(f: Any, slope: Any, bend: Any, start: float, lowest: float | None) -> Hostile:
    """A function of one unknown."""
    return Hostile(
        lambda x: float(f(x[0])),
        lambda x: np.array([slope(x[0])], x.dtype),
        lambda x: np.array([[bend(x[0])]], x.dtype),
        (start,),
        lowest,
    )


def _sigmoid(t: Any) -> Any:
    return 1 / (1 + np.exp(-t))


TAILS = {
    "exp": _along(lambda x: np.exp(-x), lambda x: -np.exp(-x), lambda x: np.exp(-x), 0.0, None),
    "exp above a constant": _along(
        lambda x: 5 + np.exp(-x), lambda x: -np.exp(-x), lambda x: np.exp(-x), 0.0, None
    ),
    "softplus": _along(
        lambda x: np.logaddexp(0, -x),
        lambda x: -_sigmoid(-x),
        lambda x: _sigmoid(x) * _sigmoid(-x),
        -3.0,
        None,
    ),
    "sigmoid": _along(
        _sigmoid,
        lambda x: _sigmoid(x) * _sigmoid(-x),
        lambda x: _sigmoid(x) * _sigmoid(-x) * (1 - 2 * _sigmoid(x)),
        2.0,
        None,
    ),
    "1 / x": _along(lambda x: 1 / x, lambda x: -1 / x**2, lambda x: 2 / x**3, 1.0, None),
    "1 / √x": _along(lambda x: x**-0.5, lambda x: -0.5 * x**-1.5, lambda x: 0.75 * x**-2.5, 1.0, None),
    "1 / (1 + x²)": _along(
        lambda x: 1 / (1 + x * x),
        lambda x: -2 * x / (1 + x * x) ** 2,
        lambda x: (6 * x * x - 2) / (1 + x * x) ** 3,
        1.0,
        None,
    ),
    "bump": _along(
        lambda x: np.exp(-x * x),
        lambda x: -2 * x * np.exp(-x * x),
        lambda x: (4 * x * x - 2) * np.exp(-x * x),
        0.5,
        None,
    ),
    "arctangent": _along(
        lambda x: -np.arctan(x), lambda x: -1 / (1 + x * x), lambda x: 2 * x / (1 + x * x) ** 2, 0.3, None
    ),
    "hyperbola": _along(
        lambda x: 1 / (np.sqrt(x * x + 1) + x),
        lambda x: x / np.sqrt(x * x + 1) - 1,
        lambda x: (x * x + 1) ** -1.5,
        0.0,
        None,
    ),
    "x exp(-x)": _along(
        lambda x: x * np.exp(-x), lambda x: (1 - x) * np.exp(-x), lambda x: (x - 2) * np.exp(-x), 3.0, None
    ),
    "exp beside a parabola": Hostile(
        lambda x: float(np.exp(-x[0]) + 100 * (x[1] - 3) ** 2),
        lambda x: np.array([-np.exp(-x[0]), 200 * (x[1] - 3)]),
        lambda x: np.diag([np.exp(-x[0]), 200.0]),
        (0.0, 0.0),
        None,
    ),
    "exp along a curved valley": Hostile(
        lambda x: float(np.exp(-x[0]) + 5 * (x[1] - x[0] ** 2 / 10) ** 2),
        lambda x: np.array(
            [-np.exp(-x[0]) - 2 * x[0] * (x[1] - x[0] ** 2 / 10), 10 * (x[1] - x[0] ** 2 / 10)]
        ),
        lambda x: np.array([[np.exp(-x[0]) - 2 * x[1] + 0.6 * x[0] ** 2, -2 * x[0]], [-2 * x[0], 10.0]]),
        (-1.0, 1.0),
        None,
    ),
}

_A = np.array([[1.0, 2.0], [2.0, -1.0], [0.5, 1.5], [-1.0, 3.0]])
TAILS["separable logistic regression"] = Hostile(
    lambda x: float(np.logaddexp(0, -(_A @ x)).sum()),
    lambda x: -_A.T @ _sigmoid(-(_A @ x)),
    lambda x: (_A.T * (_sigmoid(_A @ x) * _sigmoid(-(_A @ x)))) @ _A,
    (0.0, 0.0),
    None,
)


def _well(x: Any) -> float:
    return -float(np.exp(-(x @ x)))


def _well_gradient(x: Any) -> Any:
    return 2 * x * np.exp(-(x @ x))


def _well_hessian(x: Any) -> Any:
    return 2 * np.exp(-(x @ x)) * (np.eye(x.size) - 2 * np.outer(x, x))


def _zero(x: Any) -> Any:
    return np.zeros_like(x)


def _none(x: Any) -> Any:
    return np.zeros((x.size, x.size))


STATIONARY = {
    "constant": Hostile(lambda x: 1.5, _zero, _none, (1.0, 2.0), None),
    "underflow": Hostile(_well, _well_gradient, _well_hessian, (30.0, 30.0), -1.0),
    "staircase": Hostile(lambda x: float(np.floor(4 * x).sum()), _zero, _none, (0.3, 0.6), None),
    "gradient forgotten": Hostile(lambda x: float(x @ x), _zero, _none, (0.3, 0.6), 0.0),
    "saddle": Hostile(
        lambda x: float(x[0] ** 2 - x[1] ** 2 + x[1] ** 4),
        lambda x: np.array([2 * x[0], 4 * x[1] ** 3 - 2 * x[1]]),
        lambda x: np.diag([2.0, 12 * x[1] ** 2 - 2]),
        (0.0, 0.0),
        -0.25,
    ),
    "saddle, turned": Hostile(
        lambda x: float(x[0] * x[1] + (x @ x) ** 2),
        lambda x: x[::-1] + 4 * (x @ x) * x,
        lambda x: np.array([[0.0, 1.0], [1.0, 0.0]]) + 4 * (x @ x) * np.eye(2) + 8 * np.outer(x, x),
        (0.0, 0.0),
        -0.0625,
    ),
    "monkey saddle": Hostile(
        lambda x: float(x[0] ** 3 - 3 * x[0] * x[1] ** 2 + (x @ x) ** 2),
        lambda x: np.array([3 * x[0] ** 2 - 3 * x[1] ** 2, -6 * x[0] * x[1]]) + 4 * (x @ x) * x,
        lambda x: (
            np.array([[6 * x[0], -6 * x[1]], [-6 * x[1], -6 * x[0]]])
            + 4 * (x @ x) * np.eye(2)
            + 8 * np.outer(x, x)
        ),
        (0.0, 0.0),
        -27 / 256,
    ),
    "top of a double well": _along(
        lambda x: (x * x - 1) ** 2, lambda x: 4 * x * (x * x - 1), lambda x: 12 * x * x - 4, 0.0, 0.0
    ),
    "top of a wave": _along(np.cos, lambda x: -np.sin(x), lambda x: -np.cos(x), 0.0, -1.0),
}

UNBOUNDED = {
    "linear": Hostile(lambda x: float(x.sum()), np.ones_like, _none, (1.0, 2.0), None),
    "concave": Hostile(
        lambda x: -float(x @ x), lambda x: -2 * x, lambda x: -2 * np.eye(x.size), (1.0, 2.0), None
    ),
    "cubic": _along(lambda x: x**3, lambda x: 3 * x * x, lambda x: 6 * x, -1.0, None),
    "-exp": _along(lambda x: -np.exp(x), lambda x: -np.exp(x), lambda x: -np.exp(x), 0.0, None),
    "logarithm": _along(np.log, lambda x: 1 / x, lambda x: -1 / x**2, 2.0, None),
    "-logarithm": _along(lambda x: -np.log(x), lambda x: -1 / x, lambda x: 1 / x**2, 2.0, None),
    "-√x": _along(lambda x: -np.sqrt(x), lambda x: -0.5 / np.sqrt(x), lambda x: 0.25 * x**-1.5, 2.0, None),
    "log log": _along(
        lambda x: -np.log(np.log(x)),
        lambda x: -1 / (x * np.log(x)),
        lambda x: (np.log(x) + 1) / (x * np.log(x)) ** 2,
        3.0,
        None,
    ),
}

KINKS = {
    "|x|": Hostile(lambda x: float(np.abs(x).sum()), np.sign, _none, (1.3, -0.7), 0.0),
    "two slopes": _along(lambda x: max(x, -2 * x), lambda x: 1.0 if x > 0 else -2.0, lambda x: 0.0, 1.3, 0.0),
    "largest": Hostile(
        lambda x: float(np.abs(x).max()),
        lambda x: np.sign(x) * (np.abs(x) == np.abs(x).max()),
        _none,
        (1.3, -0.7),
        0.0,
    ),
    "√|x|": _along(
        lambda x: np.sqrt(abs(x)),
        lambda x: 0.5 * np.sign(x) / np.sqrt(abs(x)),
        lambda x: -0.25 * abs(x) ** -1.5,
        1.3,
        0.0,
    ),
    "kinked valley": Hostile(
        lambda x: float(10 * abs(x[1] - x[0] ** 2) + (1 - x[0]) ** 2),
        lambda x: np.array(
            [-20 * x[0] * np.sign(x[1] - x[0] ** 2) - 2 * (1 - x[0]), 10 * np.sign(x[1] - x[0] ** 2)]
        ),
        lambda x: np.diag([2.0 - 20 * np.sign(x[1] - x[0] ** 2), 0.0]),
        (-1.2, 1.0),
        0.0,
    ),
    "jump": _along(lambda x: x * x + (x > 0.5), lambda x: 2 * x, lambda x: 2.0, 3.0, 0.0),
    "cliff": _along(lambda x: x * x + 5.0 * (x < 0.5), lambda x: 2 * x, lambda x: 2.0, 3.0, 5.0),
    "wrong sign": Hostile(
        rosenbrock, lambda x: -rosenbrock_gradient(x), lambda x: -np.eye(x.size), (-1.2, 1.0), 0.0
    ),
    "gradient with a part missing": Hostile(
        lambda x: float((x[0] - 1) ** 2 + (x[1] - x[0]) ** 2),
        lambda x: np.array([2 * (x[0] - 1), 2 * (x[1] - x[0])]),
        lambda x: 2 * np.eye(2),
        (5.0, -4.0),
        0.0,
    ),
}


def _rosenbrock_hessian(x: Any) -> Any:
    a, b = x
    return np.array([[1200 * a * a - 400 * b + 2, -400 * a], [-400 * a, 200.0]])


ROSENBROCK = Hostile(rosenbrock, rosenbrock_gradient, _rosenbrock_hessian, (-1.2, 1.0), 0.0)


def scaled(case: Hostile, of_value: float, of_x: float = 1.0) -> Hostile:
    """The same function in other units."""
    return replace(
        case,
        f=lambda x: of_value * case.f(x / of_x),
        gradient=lambda x: of_value / of_x * case.gradient(x / of_x),
        hessian=lambda x: of_value / of_x**2 * case.hessian(x / of_x),
        start=tuple(of_x * s for s in case.start),
        lowest=None if case.lowest is None else of_value * case.lowest,
    )


def _flat(power: int) -> Hostile:
    return Hostile(
        lambda x: float((x**power).sum()),
        lambda x: power * x ** (power - 1),
        lambda x: np.diag(power * (power - 1) * x ** (power - 2)),
        (1.0, 0.9),
        0.0,
    )


def _noisy(level: float) -> Hostile:
    """Rosenbrock's function with a deterministic noise of one size."""
    return replace(
        ROSENBROCK, f=lambda x: rosenbrock(x) + level * float(np.sin(1e9 * x.sum())), lowest=-level
    )


def _single(case: Hostile) -> Hostile:
    return replace(
        case,
        f=lambda x: np.float32(case.f(x)),
        gradient=lambda x: np.asarray(case.gradient(x), np.float32),
        dtype="float32",
    )


SCALED = {
    **{f"rosenbrock × {s:g}": scaled(ROSENBROCK, s) for s in (1e-12, 1e12)},
    **{f"rosenbrock of x × {s:g}": scaled(ROSENBROCK, 1.0, s) for s in (1e-6, 1e6)},
    **{f"exp × {s:g}": scaled(TAILS["exp"], s) for s in (1e-12, 1e12)},
    **{f"exp of x × {s:g}": scaled(TAILS["exp"], 1.0, s) for s in (1e-6, 1e6)},
    "well": Hostile(_well, _well_gradient, _well_hessian, (6.0, 6.0), -1.0),
    "well, from near": Hostile(_well, _well_gradient, _well_hessian, (1.5, -1.0), -1.0),
    **{f"x^{p}": _flat(p) for p in (4, 8, 20)},
    "large constant": replace(ROSENBROCK, f=lambda x: 1e12 + rosenbrock(x), lowest=1e12),
    "hinge": _along(
        lambda x: max(0.0, 1 - x) ** 2, lambda x: -2 * max(0.0, 1 - x), lambda x: 2.0 * (x < 1), -3.0, 0.0
    ),
    "barrier": _along(
        lambda x: x - np.log(x) if x > 0 else np.nan, lambda x: 1 - 1 / x, lambda x: 1 / x**2, 50.0, 1.0
    ),
    "wall": _along(lambda x: x * x if abs(x) < 9 else np.inf, lambda x: 2 * x, lambda x: 2.0, 8.9, 0.0),
    "island": _along(lambda x: -x if x < 2 else np.nan, lambda x: -1.0, lambda x: 0.0, 0.5, None),
    "noisy, 1e-6": _noisy(1e-6),
    "noisy, 1e-2": _noisy(1e-2),
    "rosenbrock, float32": _single(ROSENBROCK),
    "noisy, float32": _single(_noisy(1e-4)),
    "exp, float32": _single(TAILS["exp"]),
    "1 / x, float32": _single(TAILS["1 / x"]),
}

CORPUS = {**TAILS, **STATIONARY, **UNBOUNDED, **KINKS, **SCALED}
