"""Functions whose gradient is right: families of them, generated from a seed.

Each family is a function from a random generator to a `Case`. They are chosen to be hard for a check
by differences: ill-scaled in value or in variables, with a large constant, near a minimum, with
cancellation, with steps and kinks beside the point, saturated, stiff, large.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np


class Case(NamedTuple):
    name: str
    f: Callable[[Any], float]
    g: Callable[[Any], Any]
    x: Any


Random = np.random.Generator
FAMILIES: list[Callable[[Random], Case]] = []


def family(make: Callable[[Random], Case]) -> Callable[[Random], Case]:
    FAMILIES.append(make)
    return make


def corpus(seeds: int, first: int = 0) -> Iterator[Case]:
    """Yield every family with each of so many seeds."""
    for seed in range(first, first + seeds):
        for k, make in enumerate(FAMILIES):
            case = make(np.random.default_rng([seed, k]))
            yield case._replace(name=f"{make.__name__}-{seed}")


def size(r: Random, largest: int = 300) -> int:
    return int(np.exp(r.uniform(0, np.log(largest))))


@family
def quadratic(r: Random) -> Case:
    n = size(r)
    a = r.normal(size=(n, n))
    a, b = a @ a.T / n, r.normal(size=n)
    return Case("", lambda x: float(0.5 * x @ a @ x - b @ x), lambda x: a @ x - b, r.normal(size=n))


@family
def cubic(r: Random) -> Case:
    n = size(r)
    c = r.normal(size=(3, n))
    return Case(
        "",
        lambda x: float(np.sum(c[0] * x + c[1] * x**2 + c[2] * x**3)),
        lambda x: c[0] + 2 * c[1] * x + 3 * c[2] * x**2,
        3 * r.normal(size=n),
    )


@family
def rosenbrock(r: Random) -> Case:
    n = max(2, size(r))

    def g(x: Any) -> Any:
        out = np.zeros_like(x)
        t = x[1:] - x[:-1] ** 2
        out[:-1] += -400 * x[:-1] * t - 2 * (1 - x[:-1])
        out[1:] += 200 * t
        return out

    return Case(
        "",
        lambda x: float(np.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)),
        g,
        r.normal(size=n),
    )


@family
def waves(r: Random) -> Case:
    n = size(r)
    w = np.exp(r.uniform(-2, 3, n))
    return Case("", lambda x: float(np.sum(np.sin(w * x))), lambda x: w * np.cos(w * x), r.normal(size=n))


@family
def fast_wave(r: Random) -> Case:
    n, w = size(r, 20), 10 ** r.uniform(3, 6)
    return Case("", lambda x: float(np.sum(np.sin(w * x) / w)), lambda x: np.cos(w * x), r.normal(size=n))


@family
def ripple(r: Random) -> Case:
    """A smooth bowl with a ripple that is small in f and as large as the bowl in the gradient."""
    n, w = size(r, 50), 10 ** r.uniform(4, 6)
    return Case(
        "",
        lambda x: float(np.sum(x**2 + np.sin(w * x) / w)),
        lambda x: 2 * x + np.cos(w * x),
        r.normal(size=n),
    )


@family
def exponentials(r: Random) -> Case:
    n = size(r)
    w = r.normal(size=n) * 2
    return Case(
        "",
        lambda x: float(np.sum(np.exp(w * x)) + np.sum(np.log1p(x**2))),
        lambda x: w * np.exp(w * x) + 2 * x / (1 + x**2),
        r.normal(size=n),
    )


@family
def logarithms(r: Random) -> Case:
    """Defined for x > 0 only, the point close to the edge in places."""
    n = size(r)
    return Case(
        "",
        lambda x: float(np.sum(x * np.log(x) - np.log(x))),
        lambda x: np.log(x) + 1 - 1 / x,
        np.exp(r.normal(size=n) * 3),
    )


@family
def log_sum_exp(r: Random) -> Case:
    n = size(r)

    def f(x: Any) -> float:
        top = x.max()
        return float(top + np.log(np.sum(np.exp(x - top))))

    def g(x: Any) -> Any:
        e = np.exp(x - x.max())
        return e / e.sum()

    return Case("", f, g, r.normal(size=n) * np.exp(r.uniform(0, 3)))


@family
def norm(r: Random) -> Case:
    n = size(r)
    c = r.normal(size=n)
    return Case(
        "",
        lambda x: float(np.linalg.norm(x - c)),
        lambda x: (x - c) / np.linalg.norm(x - c),
        c + 10 ** r.uniform(-4, 4) * r.normal(size=n),
    )


@family
def p_norm(r: Random) -> Case:
    n, p = size(r), r.uniform(1.2, 6)
    return Case(
        "",
        lambda x: float(np.sum(np.abs(x) ** p)),
        lambda x: p * np.sign(x) * np.abs(x) ** (p - 1),
        r.normal(size=n),
    )


@family
def network(r: Random) -> Case:
    """A tanh network of one hidden layer, its weights the variables."""
    i, h, m = int(r.integers(2, 9)), int(r.integers(2, 17)), int(r.integers(1, 20))
    data, target = r.normal(size=(m, i)), r.normal(size=m)

    def parts(x: Any) -> tuple[Any, Any, Any, Any]:
        w, b, v = x[: h * i].reshape(h, i), x[h * i : h * i + h], x[h * i + h :]
        a = np.tanh(data @ w.T + b)
        return a, v, a @ v - target, w

    def g(x: Any) -> Any:
        a, v, e, _ = parts(x)
        back = (e[:, None] * v) * (1 - a**2) / m
        return np.concatenate([(back.T @ data).ravel(), back.sum(0), a.T @ e / m])

    return Case("", lambda x: float(0.5 * np.mean(parts(x)[2] ** 2)), g, r.normal(size=h * i + 2 * h))


@family
def relu_network(r: Random) -> Case:
    """Kinks all around the point, none at it."""
    i, h, m = int(r.integers(2, 9)), int(r.integers(2, 33)), int(r.integers(1, 20))
    data, target = r.normal(size=(m, i)), r.normal(size=m)

    def parts(x: Any) -> tuple[Any, Any, Any]:
        w, v = x[: h * i].reshape(h, i), x[h * i :]
        z = data @ w.T
        return z, v, np.maximum(z, 0) @ v - target

    def g(x: Any) -> Any:
        z, v, e = parts(x)
        back = (e[:, None] * v) * (z > 0) / m
        return np.concatenate([(back.T @ data).ravel(), np.maximum(z, 0).T @ e / m])

    return Case("", lambda x: float(0.5 * np.mean(parts(x)[2] ** 2)), g, r.normal(size=h * i + h))


@family
def softmax_regression(r: Random) -> Case:
    k, d, m = int(r.integers(2, 7)), int(r.integers(1, 12)), int(r.integers(1, 40))
    data, label = r.normal(size=(m, d)), r.integers(0, k, m)

    def scores(x: Any) -> Any:
        z = data @ x.reshape(d, k)
        return z - z.max(1, keepdims=True)

    def f(x: Any) -> float:
        z = scores(x)
        return float(np.mean(np.log(np.exp(z).sum(1)) - z[np.arange(m), label]))

    def g(x: Any) -> Any:
        p = np.exp(scores(x))
        p /= p.sum(1, keepdims=True)
        p[np.arange(m), label] -= 1
        return (data.T @ p / m).ravel()

    return Case("", f, g, r.normal(size=d * k) * np.exp(r.uniform(-1, 3)))


@family
def log_determinant(r: Random) -> Case:
    n = int(r.integers(2, 9))
    a = r.normal(size=(n, n))
    x = a @ a.T + np.eye(n) * 10 ** r.uniform(-3, 0)
    return Case(
        "",
        lambda x: float(np.linalg.slogdet(x.reshape(n, n))[1]),
        lambda x: np.linalg.inv(x.reshape(n, n)).T.ravel(),
        x.ravel(),
    )


@family
def solve(r: Random) -> Case:
    n = int(r.integers(2, 12))
    b, c = r.normal(size=(2, n))

    def g(x: Any) -> Any:
        a = x.reshape(n, n)
        return -np.outer(np.linalg.solve(a.T, c), np.linalg.solve(a, b)).ravel()

    return Case(
        "",
        lambda x: float(c @ np.linalg.solve(x.reshape(n, n), b)),
        g,
        (r.normal(size=(n, n)) + 2 * np.eye(n)).ravel(),
    )


@family
def scaled_variables(r: Random) -> Case:
    """Variables of sizes from 1e-8 to 1e8, each as important as the other."""
    n = size(r)
    s = 10.0 ** r.uniform(-8, 8, n)
    return Case(
        "",
        lambda x: float(np.sum(np.cos(x / s) + 0.1 * (x / s) ** 2)),
        lambda x: (-np.sin(x / s) + 0.2 * x / s) / s,
        s * r.normal(size=n),
    )


@family
def scaled_value(r: Random) -> Case:
    n, s = size(r), 10.0 ** r.uniform(-8, 8)
    return Case(
        "",
        lambda x: float(s * np.sum(np.exp(np.sin(x)))),
        lambda x: s * np.cos(x) * np.exp(np.sin(x)),
        r.normal(size=n),
    )


@family
def offset(r: Random) -> Case:
    n, c = size(r), 10.0 ** r.uniform(3, 10)
    return Case("", lambda x: float(c + np.sum(np.sin(x))), lambda x: np.cos(x), r.normal(size=n))


@family
def near_a_minimum(r: Random) -> Case:
    n = size(r)
    c, d = r.normal(size=n), 10.0 ** r.uniform(-9, -3)
    return Case(
        "",
        lambda x: float(np.sum((x - c) ** 2 + (x - c) ** 4)),
        lambda x: 2 * (x - c) + 4 * (x - c) ** 3,
        c + d * r.normal(size=n),
    )


@family
def stationary(r: Random) -> Case:
    """The gradient is zero, in every entry."""
    n = size(r)
    return Case("", lambda x: float(np.sum(x**4 - x**2)), lambda x: 4 * x**3 - 2 * x, np.zeros(n))


@family
def mixed_sizes(r: Random) -> Case:
    """Gradient entries over sixteen decades; the small ones drown in the round-off of the large."""
    n = size(r)
    c = 10.0 ** r.uniform(-8, 8, n)
    return Case("", lambda x: float(np.sum(c * np.sin(x))), lambda x: c * np.cos(x), r.normal(size=n))


@family
def cancelling(r: Random) -> Case:
    """Large terms that cancel, in f and in its gradient."""
    n, c = size(r, 100), 10.0 ** r.uniform(2, 6)
    return Case(
        "",
        lambda x: float(np.sum((c + np.sin(x)) ** 2 - c**2 - 2 * c * np.sin(x))),
        lambda x: 2 * (c + np.sin(x)) * np.cos(x) - 2 * c * np.cos(x),
        r.normal(size=n),
    )


@family
def plateaus(r: Random) -> Case:
    """A staircase: the gradient is zero wherever it exists."""
    n = size(r, 50)
    return Case("", lambda x: float(np.sum(np.floor(3 * x))), lambda x: np.zeros_like(x), r.normal(size=n))


@family
def staircase_bowl(r: Random) -> Case:
    n = size(r, 50)
    return Case("", lambda x: float(np.sum(np.round(4 * x) + x**2)), lambda x: 2 * x, r.normal(size=n))


@family
def absolute(r: Random) -> Case:
    """Kinks at zero, some of them very near."""
    n = size(r)
    return Case(
        "",
        lambda x: float(np.sum(np.abs(x) + 0.5 * x**2)),
        lambda x: np.sign(x) + x,
        r.normal(size=n) * 10.0 ** r.uniform(-3, 0, n),
    )


@family
def saturated(r: Random) -> Case:
    n = size(r)
    return Case(
        "",
        lambda x: float(np.sum(np.tanh(x))),
        lambda x: 1 / np.cosh(x) ** 2,
        r.normal(size=n) * r.uniform(1, 8),
    )


@family
def huber(r: Random) -> Case:
    n, d = size(r), 10.0 ** r.uniform(-3, 1)
    return Case(
        "",
        lambda x: float(np.sum(np.where(np.abs(x) <= d, 0.5 * x**2, d * (np.abs(x) - 0.5 * d)))),
        lambda x: np.clip(x, -d, d),
        r.normal(size=n),
    )


@family
def rational(r: Random) -> Case:
    """Poles on either side, some near."""
    n = size(r, 100)
    p = 1 + 10.0 ** r.uniform(-3, 1, n)
    return Case(
        "",
        lambda x: float(np.sum(1 / (p - x) + 1 / (p + x))),
        lambda x: 1 / (p - x) ** 2 - 1 / (p + x) ** 2,
        r.uniform(-1, 1, n),
    )


@family
def product(r: Random) -> Case:
    n = size(r, 40)
    return Case(
        "",
        lambda x: float(np.prod(x)),
        lambda x: np.prod(x) / x,
        r.choice((-1, 1), n) * r.uniform(0.7, 1.4, n),
    )


@family
def simulation(r: Random) -> Case:
    """A damped oscillator by explicit steps; the gradient in initial state and constants by adjoints."""
    steps, h = int(r.integers(5, 200)), 0.02

    def roll(x: Any) -> list[tuple[float, float]]:
        q, v, k, c = map(float, x)
        path = [(q, v)]
        for _ in range(steps):
            q, v = q + h * v, v - h * (k * np.sin(q) + c * v)
            path.append((float(q), float(v)))
        return path

    def f(x: Any) -> float:
        q, v = roll(x)[-1]
        return (q - 1) ** 2 + v * v

    def g(x: Any) -> Any:
        path, k, c = roll(x), float(x[2]), float(x[3])
        a, b = 2 * (path[-1][0] - 1), 2 * path[-1][1]
        gk = gc = 0.0
        for q, v in reversed(path[:-1]):
            gk -= h * np.sin(q) * b
            gc -= h * v * b
            a, b = a - h * k * np.cos(q) * b, h * a + b * (1 - h * c)
        return np.array([a, b, gk, gc])

    return Case("", f, g, np.array([*r.normal(size=2), *r.uniform(0.1, 20, 2)]))


@family
def linear(r: Random) -> Case:
    n = size(r)
    c = r.normal(size=n) * 10.0 ** r.uniform(-5, 5)
    return Case("", lambda x: float(c @ x), lambda x: c.copy(), r.normal(size=n))


@family
def constant(r: Random) -> Case:
    n, c = size(r), float(r.normal())
    return Case("", lambda x: c, lambda x: np.zeros_like(x), r.normal(size=n))


@family
def large(r: Random) -> Case:
    n = int(10 ** r.uniform(3, 5))
    c = r.normal(size=n)
    return Case(
        "",
        lambda x: float(np.mean(np.log1p(np.exp(c * x)))),
        lambda x: c / (1 + np.exp(-c * x)) / n,
        r.normal(size=n),
    )


@family
def chained(r: Random) -> Case:
    """Composed at random from sin, exp, tanh and products, each gradient by the chain rule."""
    n = size(r)
    table = {
        "sin": (np.sin, np.cos),
        "tanh": (np.tanh, lambda z: 1 - np.tanh(z) ** 2),
        "exp": (lambda z: np.exp(-(z**2)), lambda z: -2 * z * np.exp(-(z**2))),
        "root": (lambda z: np.sqrt(1 + z * z), lambda z: z / np.sqrt(1 + z * z)),
        "atan": (np.arctan, lambda z: 1 / (1 + z * z)),
    }
    names = [str(k) for k in r.choice(list(table), int(r.integers(1, 6)))]
    w = r.normal(size=(len(names), n))

    def f(x: Any) -> float:
        z = x
        for name, scale in zip(names, w, strict=True):
            z = table[name][0](scale * z)
        return float(np.sum(z) ** 2)

    def g(x: Any) -> Any:
        z, d = x, np.ones_like(x)
        for name, scale in zip(names, w, strict=True):
            d = d * table[name][1](scale * z) * scale
            z = table[name][0](scale * z)
        return 2 * np.sum(z) * d

    return Case("", f, g, r.normal(size=n))


@family
def underflowing(r: Random) -> Case:
    """Values about 1e-200."""
    n = size(r, 50)
    return Case(
        "",
        lambda x: float(1e-200 * np.sum(np.sin(x))),
        lambda x: 1e-200 * np.cos(x),
        r.normal(size=n),
    )


@family
def huge_point(r: Random) -> Case:
    """Coordinates of 1e6 and more beside which the steps lose digits."""
    n, c = size(r, 50), 10.0 ** r.uniform(4, 8)
    return Case("", lambda x: float(np.sum(np.sin(x - c))), lambda x: np.cos(x - c), c + r.normal(size=n))
