"""Muon's variants against restatements of their papers that share no line with the rule."""

from __future__ import annotations

import numpy as np
import pytest

import downslope as ds
from downslope.grouping.view import MatrixView
from downslope.ops.numpy import NumpyOps
from tests.parity.cases import BY_NAME, assert_ulp, gradients

OPS = NumpyOps()


def polar(u: np.ndarray) -> np.ndarray:
    """Return the polar factor from the singular value decomposition, not from any iteration."""
    left, _, right = np.linalg.svd(u, full_matrices=False)
    return np.asarray(left @ right)


def normuon(grads: list[np.ndarray], beta1: float, beta2: float) -> list[np.ndarray]:
    """Return the directions of NorMuon, row by row as its paper's Algorithm 1 has it, with Nesterov.

    The published step is 0.2 √(mn) Ô / ‖Ô‖_F; the factor is the norm of 0.2 √max(m, n) polar(u), for
    ‖polar(u)‖_F = √min(m, n).
    """
    m, n = grads[0].shape
    momentum, v, made = np.zeros((m, n)), np.zeros(m), []
    for g in grads:
        momentum = beta1 * momentum + (1 - beta1) * g
        o = polar((1 - beta1) * g + beta1 * momentum)
        even = np.empty_like(o)
        for i in range(m):
            v[i] = beta2 * v[i] + (1 - beta2) * sum(o[i, j] ** 2 for j in range(n)) / n
            even[i] = o[i] / np.sqrt(v[i])
        made.append(0.2 * np.sqrt(m * n) * even / np.linalg.norm(even))
    return made


@pytest.mark.parametrize("name", ["wide", "tall", "square"])
@pytest.mark.parametrize("beta", [0.95, 0.5])
def test_normuon_is_the_papers(name: str, beta: float) -> None:
    rule = ds.Muon(normuon=True, normuon_beta=beta, ns_steps=12)  # twelve steps end at the polar factor
    case = BY_NAME["muon"]
    grads = [g[name] for g in gradients(case)]
    state = rule.init(OPS, grads[0])
    plain, plain_state, effect = ds.Muon(ns_steps=12), ds.Muon().init(OPS, grads[0]), 0.0
    for t, (g, expected) in enumerate(zip(grads, normuon(grads, 0.95, beta), strict=True), start=1):
        d, state = rule.direction(OPS, g, state, g, t)
        # the rule's 1e-10 beside √v, which is about 0.1 here and smaller in small rows
        np.testing.assert_allclose(d, expected, rtol=0, atol=1e-8 * np.abs(expected).max())
        e, plain_state = plain.direction(OPS, g, plain_state, g, t)
        np.testing.assert_allclose(np.linalg.norm(d), np.linalg.norm(e), rtol=1e-12)
        effect = max(effect, float(np.abs(d - e).max() / np.abs(e).max()))
    # A wide orthogonal matrix has rows of one length already: there is nothing to even out.
    assert effect > 0.01 if name == "tall" else effect < 1e-8


def test_normuon_of_a_row_that_is_always_zero() -> None:
    rule = ds.Muon(normuon=True)
    g = np.random.default_rng(0).standard_normal((5, 3))
    g[2] = 0.0
    d, _ = rule.direction(OPS, g, rule.init(OPS, g), g, 1)
    assert np.isfinite(d).all()
    np.testing.assert_array_equal(d[2], 0.0)
    zero, _ = rule.direction(OPS, 0 * g, rule.init(OPS, g), g, 1)
    np.testing.assert_array_equal(zero, 0.0)


def test_the_warm_up_is_momentum_by_a_schedule() -> None:
    rule = ds.Muon(momentum=0.9, momentum_warmup=4, momentum_start=0.5)
    grads = [g["wide"] for g in gradients(BY_NAME["muon"])]
    state, mean = rule.init(OPS, grads[0]), np.zeros(grads[0].shape)
    for t, (g, mu) in enumerate(zip(grads, [0.5, 0.6, 0.7, 0.8, 0.9, 0.9, 0.9], strict=False), start=1):
        mean = mu * mean + (1 - mu) * g
        u, state = rule.momentum_of(OPS, g, state, g, t)
        assert_ulp(u, (1 - mu) * g + mu * mean, 8)
        assert_ulp(state.momentum_buffer, mean, 8)


@pytest.mark.parametrize(
    ("view", "shape"),
    [
        (MatrixView((1,), (0,)), (6, 4)),
        (MatrixView((0,), (1,), blocks=(4, 2, 2)), (8, 3)),
        (MatrixView((0,), (1,), blocks=(2, 2, 2), repeats=2), (12, 3)),
        (MatrixView((0,), (1,), blocks=(2, 4), blocks_along="inputs"), (5, 6)),
        (MatrixView((2,), (1,), batch=(0,)), (2, 3, 4)),
        (MatrixView((0,), (1, 2, 3)), (4, 2, 3, 3)),
    ],
    ids=str,
)
def test_one_number_a_row_goes_with_the_matrices_of_a_view(view: MatrixView, shape: tuple[int, ...]) -> None:
    a = np.random.default_rng(1).standard_normal(shape)
    stacks = view.split(OPS, a)
    firsts = [s[..., :1] for s in stacks]
    rows = view.join_rows(OPS, firsts)
    assert rows.shape == (view.rows(shape),)
    for again, first in zip(view.split_rows(OPS, rows, shape), firsts, strict=True):
        np.testing.assert_array_equal(again, first)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"normuon": 1}, "normuon = 1: expected True or False"),
        ({"normuon_beta": 1.0}, r"normuon_beta = 1.0: expected a number in \[0, 1\)"),
        ({"momentum_warmup": -1}, "momentum_warmup = -1: expected a whole number of at least 0"),
        ({"momentum_warmup": 2.5}, "momentum_warmup = 2.5: expected a whole number"),
        ({"momentum_start": 1.5}, r"momentum_start = 1.5: expected a number in \[0, 1\)"),
    ],
)
def test_bad_options(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ds.Muon(**options)
