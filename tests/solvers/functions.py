"""Functions with their gradients, and what is wrong with some of them."""

from __future__ import annotations

import numpy as np


def rosenbrock(x):
    return (100 * (x[..., 1:] - x[..., :-1] ** 2) ** 2 + (1 - x[..., :-1]) ** 2).sum(-1)


def rosenbrock_gradient(x):
    g = np.zeros_like(x)
    rise = x[..., 1:] - x[..., :-1] ** 2
    g[..., :-1] = -400 * x[..., :-1] * rise - 2 * (1 - x[..., :-1])
    g[..., 1:] += 200 * rise
    return g


def start(n: int) -> np.ndarray:
    return np.tile([-1.2, 1.0], n // 2)


def starts(count: int, n: int, seed: int = 0) -> np.ndarray:
    return start(n) + 0.1 * np.random.default_rng(seed).standard_normal((count, n))


def powell(x):
    a, b, c, d = x
    return (a + 10 * b) ** 2 + 5 * (c - d) ** 2 + (b - 2 * c) ** 4 + 10 * (a - d) ** 4


def powell_gradient(x):
    a, b, c, d = x
    p, q, r, s = 2 * (a + 10 * b), 10 * (c - d), 4 * (b - 2 * c) ** 3, 40 * (a - d) ** 3
    return np.array([p + s, 10 * p + r, q - 2 * r, -q - s])


def beale(x):
    a, b = x
    return (1.5 - a + a * b) ** 2 + (2.25 - a + a * b**2) ** 2 + (2.625 - a + a * b**3) ** 2


def beale_gradient(x):
    a, b = x
    p, q, r = 1.5 - a + a * b, 2.25 - a + a * b**2, 2.625 - a + a * b**3
    return np.array(
        [
            2 * p * (b - 1) + 2 * q * (b**2 - 1) + 2 * r * (b**3 - 1),
            2 * p * a + 4 * q * a * b + 6 * r * a * b**2,
        ]
    )


CLASSICS = {
    "rosenbrock": (rosenbrock, rosenbrock_gradient, start(2)),
    "rosenbrock-10": (rosenbrock, rosenbrock_gradient, start(10)),
    "powell": (powell, powell_gradient, np.array([3.0, -1.0, 0.0, 1.0])),
    "beale": (beale, beale_gradient, np.array([1.0, 1.0])),
}
"""Name → (f, ∇f, starting point); all have the least value 0."""
