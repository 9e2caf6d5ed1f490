"""The test problems: their gradients, starts, minima and certified values, on every kind of array."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.optimize import least_squares

from downslope.errors import UsageError
from downslope.tasks.problems import NAMES, problem
from downslope.tasks.problems.mgh import PROBLEMS, mgh
from downslope.tasks.problems.nist import MODELS, certified, nist

SMALL = {name: problem(name, n=30 if name.startswith("large") else None) for name in NAMES}

# From the paper's section on test functions: f at the standard start, worked out there or in the codes
# that follow it (MINPACK's tests print √f).
AT_START = {
    "rosenbrock": 24.2, "freudenstein-roth": 400.5, "beale": 14.203125, "helical-valley": 2500.0,
    "powell-singular": 215.0, "wood": 19192.0, "bard": 41.681698, "brown-dennis": 7926693.3,
    "kowalik-osborne": 5.313173e-3, "osborne-1": 0.8790263, "osborne-2": 2.0934199, "biggs-exp6": 0.779070075,
    "gaussian": 3.888107e-6, "jennrich-sampson": 4171.306161, "box": 1031.153810, "watson": 30.0,
    "powell-badly-scaled": 1.13526172, "meyer": 1.693608e9,
}  # fmt: skip


def near(name: str, seed: int = 0) -> Any:
    """Return a point near the start of a problem, nowhere special."""
    p = SMALL[name]
    rng = np.random.default_rng(seed)
    free = p.start == 0
    return p.start * (1 + 0.01 * rng.normal(size=p.size)) + 0.01 * free * rng.normal(size=p.size)


@pytest.mark.parametrize("name", NAMES)
def test_the_gradient_is_that_of_richardsons_differences(name: str) -> None:
    p, x = SMALL[name], near(name)
    g = p.gradient(x)
    h = 1e-4 * np.where(np.abs(x) > 0, np.abs(x), 1e-2)

    def central(i: int, h: float) -> float:
        e = h * np.eye(p.size)[i]
        return (p(x + e) - p(x - e)) / (2 * h)

    found = np.array([(4 * central(i, s / 2) - central(i, s)) / 3 for i, s in enumerate(h)])
    # Rounding of f, over the step, is what such a difference cannot see; 1e-6 is what truncation leaves.
    blind = 100 * np.finfo(float).eps * abs(p(x)) / h
    assert (np.abs(g - found) <= 1e-6 * np.abs(g).max() + blind).all()
    # And the test sees a slip of a thousandth in the largest entry.
    i = np.abs(g).argmax()
    if abs(g[i]) * 1e-3 > blind[i]:
        assert abs(1.001 * g[i] - found[i]) > 1e-6 * abs(g[i]) + blind[i]


@pytest.mark.parametrize("name", NAMES)
def test_torch_has_the_same_values_and_gradients(name: str) -> None:
    import torch

    p, x = SMALL[name], near(name)
    t = torch.tensor(x, requires_grad=True)
    value = p(t)
    (g,) = torch.autograd.grad(value, t)
    np.testing.assert_allclose(value.item(), p(x), rtol=1e-11, atol=1e-14)
    exact = p.gradient(x)
    np.testing.assert_allclose(g.numpy(), exact, rtol=1e-8, atol=1e-10 * np.abs(exact).max())


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_is_its_rows(name: str) -> None:
    p = SMALL[name]
    rows = np.stack([near(name, seed) for seed in range(4)])
    np.testing.assert_allclose(p(rows), [p(row) for row in rows], rtol=1e-11)


@pytest.mark.parametrize("name", NAMES)
def test_minima_are_minima(name: str) -> None:
    p = SMALL[name]
    for minimum in p.minima:
        if minimum.x is None or minimum.note == "a cusp":
            continue
        x = np.array(minimum.x)
        # Minima of zero residuals are known to the digits of their parameters.
        scale = abs(p(p.start))
        assert p(x) == pytest.approx(minimum.value, rel=1e-9, abs=1e-16 * scale)
        for seed in range(20):
            step = np.random.default_rng(seed).normal(size=p.size) * 1e-3 * np.maximum(np.abs(x), 1e-3)
            assert p(x + step) > p(x) * (1 - 1e-9)


@pytest.mark.parametrize("name", AT_START)
def test_values_at_the_start_are_the_published_ones(name: str) -> None:
    p = mgh(name)
    assert p(p.start) == pytest.approx(AT_START[name], rel=1e-6)


def test_there_are_as_many_as_were_published() -> None:
    assert len(PROBLEMS) == 35
    assert len(MODELS) == 27


@pytest.mark.parametrize("name", PROBLEMS)
def test_values_of_the_paper_are_reached_from_its_start(name: str) -> None:
    p = mgh(name)
    assert p.residuals is not None
    found = least_squares(
        p.residuals, p.start, p.jacobian, method="lm", xtol=1e-15, ftol=1e-15, gtol=1e-15, max_nfev=5000
    )
    values = [minimum.value for minimum in p.minima]
    assert min(abs(2 * found.cost - v) for v in values) <= 1e-10 * max(1.0, *values), (found.cost, values)


@pytest.mark.parametrize("name", [n for n, row in PROBLEMS.items() if row.sizes(7) or row.sizes(8)])
def test_free_sizes(name: str) -> None:
    for n in (4, 12, 20):
        assert mgh(name, n).gradient(mgh(name, n).start).shape == (n,)


@pytest.mark.parametrize("name", MODELS)
def test_certified_parameters_give_certified_sums_and_deviations(name: str) -> None:
    p, c = nist(name), certified(name)
    if name == "lanczos1":
        # Its certified sum, 1.4e-25, asks for more digits than the eleven of its parameters.
        assert p(c.parameters) < 1e-20
    else:
        assert p(c.parameters) == pytest.approx(c.rss, rel=1e-9)
    jacobian = p.jacobian(c.parameters)
    m, n = jacobian.shape
    size = np.linalg.norm(jacobian, axis=0)
    inverse = np.linalg.inv((jacobian / size).T @ (jacobian / size)) / np.outer(size, size)
    np.testing.assert_allclose(np.sqrt(np.diag(inverse) * c.rss / (m - n)), c.deviations, rtol=1e-6)
    assert (nist(name, 2).start != p.start).any()


def test_a_wrong_number_in_the_data_would_be_seen() -> None:
    p, c = nist("thurber"), certified("thurber")
    assert p.residuals is not None
    r = p.residuals(c.parameters)
    r[5] += 1e-3  # the data have three decimals
    assert float(r @ r) != pytest.approx(c.rss, rel=1e-9)


def test_starts_may_be_scaled() -> None:
    assert mgh("beale").from_start(10).start.tolist() == [10, 10]
    assert mgh("watson").from_start(100).start.tolist() == [100] * 9
    assert mgh("beale").from_start(10).name == "mgh:beale x10"


def test_far_out_is_infinite_and_no_warning() -> None:
    p = mgh("jennrich-sampson").from_start(1000)
    assert p(p.start) == np.inf
    p.gradient(p.start)


@pytest.mark.parametrize(
    ("name", "n", "words"),
    [
        ("rosenbrok", None, "did you mean 'rosenbrock'"),
        ("mgh:beal", None, "did you mean 'beale'"),
        ("nist:thurbr", None, "did you mean 'thurber'"),
        ("nist:thurber:3", None, "nist:thurber:1 or nist:thurber:2"),
        ("cutest:x", None, "families are mgh, nist and large"),
        ("large:quart", None, "did you mean 'quartic'"),
        ("mgh:wood", 5, "does not come with 5 unknowns; it usually has 4"),
        ("mgh:watson", 32, "does not come with 32 unknowns"),
        ("rosenbrock", 3, "has 2 unknowns, not 3"),
        ("large:separable-rosenbrock", 7, "does not come with 7"),
    ],
)
def test_bad_names_are_told(name: str, n: int | None, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        problem(name, n=n)
