"""Newton-Schulz against the singular value decomposition, and its coefficients against their recipe."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from downslope.ops.numpy import NumpyOps
from downslope.rules import orthogonalize
from downslope.rules.orthogonalize import coefficients_of, published_range

OPS = NumpyOps()
SHAPES = {
    "wide": (6, 30),
    "tall": (30, 6),
    "square": (12, 12),
    "batched": (3, 5, 8),
    "row": (1, 7),
    "deep": (2, 3, 9, 4),
}
FORMS = ("standard", "gram")


def with_spectrum(shape: tuple[int, ...], spectrum: Any, seed: int = 0) -> np.ndarray:
    """Return matrices with given singular values, in random bases."""
    rng = np.random.default_rng(seed)
    *lead, m, n = shape
    u, _ = np.linalg.qr(rng.standard_normal((*lead, m, min(m, n))))
    v, _ = np.linalg.qr(rng.standard_normal((*lead, n, min(m, n))))
    return (u * np.asarray(spectrum)) @ np.swapaxes(v, -2, -1)


def check(g: np.ndarray, coefficients: str, steps: int | None, form: str, slack: float) -> None:
    """Compare with the decomposition: same singular vectors, singular values in the published band."""
    made = orthogonalize(OPS, g, coefficients=coefficients, steps=steps, form=form).astype(np.float64)
    assert made.shape == g.shape
    exact = g.astype(np.float64)
    exact = exact / np.abs(exact).max(axis=(-2, -1), keepdims=True)
    u, s, vt = np.linalg.svd(exact, full_matrices=False)
    relative = s / np.linalg.norm(s, axis=-1, keepdims=True)
    inside = np.swapaxes(u, -2, -1) @ made @ np.swapaxes(vt, -2, -1)  # diagonal, in the same bases
    values = np.diagonal(inside, axis1=-2, axis2=-1)
    off = inside - values[..., None] * np.eye(s.shape[-1])
    # Nothing outside of the space that g spans, and no mixing of its singular vectors.
    assert np.max(np.abs(off)) < slack
    assert np.max(np.abs(made - u @ inside @ vt)) < slack
    low, high = published_range(coefficients, steps)
    counted = values[relative >= 1e-3]
    assert counted.min() >= low - slack, (counted.min(), low)
    assert counted.max() <= high + slack, (counted.max(), high)
    assert np.all(values <= high + slack)  # smaller ones grow less, never beyond the band


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("name", "steps"),
    [("minimax", None), ("minimax", 5), ("polar_express", 5), ("polar_express", 8), ("keller5", 5)],
)
@pytest.mark.parametrize("shape", SHAPES)
def test_random_matrices(shape: str, name: str, steps: int | None, form: str) -> None:
    g = np.random.default_rng(0).standard_normal(SHAPES[shape])
    check(g, name, steps, form, 1e-10)
    check(g.astype(np.float32), name, steps, form, 2e-3)  # float32: 1e-7 times slopes of up to 400


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("steps", range(1, 11))
def test_every_number_of_polar_express_steps(steps: int, form: str) -> None:
    # All the way down to 1e-3 of the norm. Rounding in R is 1e-16 against the smallest squared
    # singular value, 1e-6, and is multiplied by the same slopes: 1e-7 is what is left of 16 digits.
    spectrum = np.concatenate([[1.0], np.geomspace(0.9, 2e-3, 11)])
    check(with_spectrum((12, 40), spectrum), "polar_express", steps, form, 1e-7)


def test_more_steps_come_nearer() -> None:
    g = with_spectrum((8, 20), np.geomspace(1.0, 3e-3, 8))
    u, _, vt = np.linalg.svd(g, full_matrices=False)
    off = [np.max(np.abs(orthogonalize(OPS, g, steps=k) - u @ vt)) for k in range(1, 11)]
    assert all(b < a or b < 1e-10 for a, b in pairwise(off[2:]))
    assert off[4] < 0.16
    assert off[9] < 1e-9


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rank_deficient_and_zero(form: str, dtype: Any) -> None:
    g = with_spectrum((8, 20), [1.0, 0.5, 0.25, 0, 0, 0, 0, 0]).astype(dtype)
    made = orthogonalize(OPS, g, form=form).astype(np.float64)
    assert np.isfinite(made).all()
    u, _, vt = np.linalg.svd(g.astype(np.float64), full_matrices=False)
    low, high = published_range("polar_express", 5)
    slack = 1e-10 if dtype == np.float64 else 1e-3
    values = np.diagonal(u.T @ made @ vt.T)
    assert values[:3].min() >= low - slack
    assert values[:3].max() <= high + slack
    # What was rounding, 1e-8 or 1e-16 of the norm, has grown by the slopes at zero: below 1000 times.
    grown = 1000 * np.finfo(dtype).eps * 10
    assert np.abs(values[3:]).max() < grown
    zero = np.zeros((2, 3, 5), dtype)
    for array in (zero, -zero):
        np.testing.assert_array_equal(orthogonalize(OPS, array, form=form), 0.0)
    assert orthogonalize(OPS, np.zeros((0, 5), dtype), form=form).shape == (0, 5)
    assert orthogonalize(OPS, np.zeros((2, 5, 0), dtype), form=form).shape == (2, 5, 0)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_tiny_and_huge_matrices(form: str, dtype: Any, size: float) -> None:
    g = np.random.default_rng(0).standard_normal((4, 9))
    made = orthogonalize(OPS, (size * g).astype(dtype), form=form)
    assert made.dtype == dtype
    # 1e±30 is no power of two: the entries round differently by one part in 2**24 or 2**53, and the
    # smallest singular values are multiplied by up to 1,130, the slope at zero, in R by its square.
    np.testing.assert_allclose(
        made, orthogonalize(OPS, g.astype(dtype), form=form), atol=10_000 * np.finfo(dtype).eps
    )
    check((size * g).astype(dtype), "minimax", None, form, 1e-10 if dtype == np.float64 else 2e-3)


@settings(max_examples=60, deadline=None)
@given(
    m=st.integers(1, 10),
    n=st.integers(1, 24),
    name=st.sampled_from(["polar_express", "keller5"]),
    form=st.sampled_from(FORMS),
    smallest=st.floats(-2.4, 0.0),
    power=st.integers(-100, 100),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_spectrum_at_any_scale(
    m: int, n: int, name: str, form: str, smallest: float, power: int, seed: int
) -> None:
    spectrum = np.geomspace(1.0, 10.0**smallest, min(m, n))
    g = with_spectrum((m, n), spectrum, seed)
    made = orthogonalize(OPS, g * 2.0**power, coefficients=name, form=form)
    np.testing.assert_array_equal(made, orthogonalize(OPS, g, coefficients=name, form=form))
    check(g, name, 5, form, 1e-7)
    transposed = orthogonalize(OPS, g.T, coefficients=name, form=form)
    np.testing.assert_allclose(transposed.T, made, atol=1e-9)


def test_the_forms_agree() -> None:
    g = with_spectrum((16, 64), np.geomspace(1.0, 2e-3, 16))
    for name in ("polar_express", "keller5"):
        one, other = (orthogonalize(OPS, g, coefficients=name, form=form) for form in FORMS)
        np.testing.assert_allclose(one, other, atol=1e-8)


# -- the coefficients --------------------------------------------------------------------------


def remez(low: float, high: float) -> np.ndarray:
    """Return the odd quintic (a, b, c) nearest to 1 on [low, high]: the error alternates at four points."""
    inner = np.array([(3 * low + high) / 4, (low + 3 * high) / 4])
    error = np.inf
    for _ in range(500):
        points = np.array([low, *inner, high])
        rows = np.stack([points, points**3, points**5, [1, -1, 1, -1]], axis=1)
        a, b, c, new = np.linalg.solve(rows, np.ones(4))
        if abs(abs(new) - error) <= 1e-15:
            break
        error = abs(new)
        root = np.sqrt(9 * b**2 - 20 * a * c)
        inner = np.sqrt((-3 * b + np.array([-root, root])) / (10 * c))
    return np.array([a, b, c])


def polar_express(steps: int, low: float = 1e-3, cushion: float = 0.02407327424182761) -> list[np.ndarray]:
    """Return the table of the paper by its offline procedure (Amsel et al., 2025, Implementation 2)."""
    rows, high = [], 1.0
    for _ in range(steps):
        start = max(low, cushion * high)
        if start / high >= 1 - 5e-6:
            row = np.array([15 / 8 / high, -10 / 8 / high**3, 3 / 8 / high**5])
        else:
            row = remez(start, high)
        powers = np.array([1, 3, 5])
        at_low, at_high = row @ low**powers, row @ high**powers
        if start > low:  # recentre around 1 for the true interval
            row = row * 2 / (at_low + at_high)
        rows.append(row)
        low = row @ low**powers
        high = 2 - low
        low = min(low, high)
    return rows


def test_polar_express_is_its_recipe() -> None:
    recipe = polar_express(8)
    safety = np.array([1.01, 1.01**3, 1.01**5])
    table = coefficients_of("polar_express", 8)
    for k, (ours, theirs) in enumerate(zip(table, recipe, strict=True)):
        divided = theirs / safety if k < 7 else theirs  # the last row is the limit, and needs no room
        # The exchange of points stops when the error is stable in its last digits, which leaves ten
        # digits of the coefficients; the seventh interval is 1e-6 wide, and leaves five.
        np.testing.assert_allclose(ours, divided, rtol=1e-9 if k < 5 else 1e-4, err_msg=f"row {k + 1}")


@pytest.mark.parametrize("name", ["polar_express", "keller5"])
@pytest.mark.parametrize("steps", [1, 3, 5, 6, 9])
def test_published_ranges_are_what_the_polynomials_do(name: str, steps: int) -> None:
    s = np.geomspace(1e-3, 1.0, 200001)
    for a, b, c in coefficients_of(name, steps):
        s = s * (a + s**2 * (b + c * s**2))
    low, high = published_range(name, steps)
    # Published figures were rounded to three digits.
    assert low <= s.min() + 1e-3
    assert high >= s.max() - 1e-3
    assert abs(low - s.min()) < 2e-3
    assert abs(high - s.max()) < 2e-3


def nearest_to_one(low: float, high: float, terms: int) -> float:
    """Return the least possible error of an odd polynomial on [low, high], by linear programming."""
    x = low + (high - low) * (1 - np.cos(np.linspace(0, np.pi, 1501))) / 2
    basis = np.polynomial.chebyshev.chebvander(2 * (x / high) ** 2 - 1, terms - 1) * (x / high)[:, None]
    sides = np.vstack([np.c_[basis, -np.ones(len(x))], np.c_[-basis, -np.ones(len(x))]])
    limits = np.r_[np.ones(len(x)), -np.ones(len(x))]
    cost = np.r_[np.zeros(terms), 1.0]
    found = linprog(cost, A_ub=sides, b_ub=limits, bounds=[(None, None)] * terms + [(0, None)])
    assert found.status == 0, found.message
    return float(found.fun)


@pytest.mark.parametrize(
    ("half", "terms", "margins", "cushion", "end"),
    [
        (False, (5, 9, 9), (1.01, 1.01, 1.01), 0.0, 1.0),
        (True, (3, 5, 5, 3), (1.02, 1.02, 1.12, 1.03), 0.024, 0.92),
    ],
    ids=["wide", "half"],
)
def test_minimax_steps_are_the_nearest_to_one(
    half: bool, terms: tuple[int, ...], margins: tuple[float, ...], cushion: float, end: float
) -> None:
    """Against another optimiser: no odd polynomial of its degree does better on the interval before it.

    Those of degree 9, which are of a special form, are 4 % farther off at the most.
    """
    low, high = 1e-3, 1.0
    rows = coefficients_of("minimax", half=half)
    rows[-1] = type(rows[-1])(*(number / end for number in rows[-1])) if end != 1 else rows[-1]
    for row, count, margin in zip(rows, terms, margins, strict=True):
        first, last = max(low / margin, cushion * high), high * margin
        s = np.concatenate([np.geomspace(first, last, 40001), np.linspace(first, last, 40001)])
        error = np.abs(s * row.at(s * s) - 1).max()
        # The program sees 1,501 points of the interval, between which the error is 1e-5 larger.
        least = nearest_to_one(first, last, count)
        assert least * (1 - 2e-5) <= error <= least * (1.04 if count == 5 else 1 + 2e-5)
        low, high = min(low * row.at(low * low), 1 - error), 1 + error
    # the margins for rounding
    assert (end * low, end * high) == pytest.approx(published_range("minimax", half=half), abs=2e-2)


@pytest.mark.parametrize("name", ["minimax", "polar_express", "keller5"])
def test_steps_are_the_polynomials_that_they_say(name: str) -> None:
    """q(R) of matrices, in few products, has the eigenvalues q(y)."""
    y = np.geomspace(1e-6, 1.0, 12)
    v = np.linalg.qr(np.random.default_rng(0).standard_normal((12, 12)))[0]
    for row in [*coefficients_of(name), *coefficients_of(name, half=True)]:
        made = row.of(OPS, (v * y) @ v.T)
        np.testing.assert_allclose(v.T @ made @ v, np.diag(row.at(y)), atol=1e-12)  # numbers up to 90
