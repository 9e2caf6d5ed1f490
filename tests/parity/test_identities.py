"""What must hold between rules, whatever their numbers; on NumPy in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import downslope as ds
from downslope.grouping.view import MatrixView
from downslope.ops.numpy import NumpyOps
from downslope.rules import Rule, orthogonalize, step
from downslope.rules.orthogonalize import published_range
from tests.parity.cases import (
    BY_NAME,
    CASES,
    ULPS,
    Arrays,
    Case,
    assert_ulp,
    gradients,
    oracle,
    scale_of,
    start,
)

OPS = NumpyOps()


def run(rule: Rule, like: str, lr: float = 0.1, **decay: Any) -> list[Arrays]:
    """Return the oracle's run of a rule on the numbers of another case."""
    case = BY_NAME[like]
    p, state, history = start(case), {}, []
    state = {k: rule.init(OPS, p[k]) for k in p}
    for t, g in enumerate(gradients(case), start=1):
        p = dict(p)
        for k in p:
            d, state[k] = rule.direction(OPS, g[k], state[k], p[k], t)
            p[k] = p[k] + step(OPS, p[k], d, lr=lr, **decay)
        history.append(p)
    return history


def assert_same(a: list[Arrays], b: list[Arrays], ulps: float = ULPS) -> None:
    for x, y in zip(a, b, strict=True):
        for k in x:
            assert_ulp(x[k], y[k], ulps, scale_of(b, k), what=k)


def differ(a: list[Arrays], b: list[Arrays]) -> float:
    return max(
        float(np.max(np.abs(x[k] - y[k]))) / scale_of(b, k) for x, y in zip(a, b, strict=True) for k in x
    )


# -- special cases of one another --------------------------------------------------------------


def test_sgd_is_minus_lr_times_the_gradient() -> None:
    case = BY_NAME["sgd"]
    p = start(case)["bias"]
    for g, expected in zip(gradients(case), oracle(case), strict=True):
        p = p - 0.1 * g["bias"]
        assert_ulp(p, expected["bias"], 1, scale_of(oracle(case), "bias"))


def test_momentum_0_is_sgd() -> None:
    assert_same(run(ds.SGD(momentum=0.0), "sgd"), run(ds.SGD(), "sgd"), 0)
    tiny = run(ds.SGD(momentum=1e-300), "sgd")
    assert_same(tiny, run(ds.SGD(), "sgd"), 0)
    assert differ(run(ds.SGD(momentum=0.9), "sgd"), run(ds.SGD(), "sgd")) > 0.1


def test_nesterov_is_momentum_that_looked_ahead() -> None:
    # In terms of the point y = p - lr mu b that the gradient was meant for, Nesterov's method is
    # v' = mu v - lr g(y), y' = y + mu v' - lr g(y): the published form of Sutskever et al.
    case, mu, lr = BY_NAME["sgd-nesterov"], 0.9, 0.1
    y, v = start(case)["bias"], np.zeros(7)
    for g, expected in zip(gradients(case), oracle(case), strict=True):
        v = mu * v - lr * g["bias"]
        y = y + mu * v - lr * g["bias"]
        assert_ulp(y, expected["bias"], ULPS, scale_of(oracle(case), "bias"))


def test_adam_without_momentum_or_correction_is_rmsprop() -> None:
    adam = run(ds.Adam(betas=(0.0, 0.99), bias_correction=False, eps=1e-8), "adam")
    assert_same(adam, run(ds.RMSProp(alpha=0.99, eps=1e-8), "adam"))
    assert differ(run(ds.Adam(betas=(0.0, 0.99)), "adam"), adam) > 0.1


def test_first_step_of_adam_is_the_sign_of_the_gradient() -> None:
    rule, g = ds.Adam(eps=0.0), np.array([1e-12, -3.0, 7e8])
    d, _ = rule.direction(OPS, g, rule.init(OPS, g), g, 1)
    assert_ulp(d, np.sign(g), 4)


def test_amsgrad_is_adam_while_the_second_moment_grows() -> None:
    def steps(rule: Rule, sizes: list[float]) -> list[np.ndarray]:
        p = np.ones(3)
        state, made = rule.init(OPS, p), []
        for t, size in enumerate(sizes, start=1):
            d, state = rule.direction(OPS, np.full(3, size), state, p, t)
            made.append(d)
        return made

    growing, shrinking = [1.0, 2.0, 4.0, 8.0], [8.0, 4.0, 2.0, 1.0]
    kept, plain = ds.Adam(betas=(0.9, 0.5), amsgrad=True), ds.Adam(betas=(0.9, 0.5))
    for a, b in zip(steps(kept, growing), steps(plain, growing), strict=True):
        np.testing.assert_array_equal(a, b)
    assert np.all(steps(kept, shrinking)[-1] < 0.7 * steps(plain, shrinking)[-1])


def test_adagrad_of_constant_gradients_shrinks_with_the_root_of_time() -> None:
    rule, g = ds.AdaGrad(eps=0.0), np.array([0.3])
    state = rule.init(OPS, g)
    for t in range(1, 26):
        d, state = rule.direction(OPS, g, state, g, t)
        assert_ulp(d, [1 / np.sqrt(t)], 8)


def test_centered_rmsprop_divides_by_the_standard_deviation() -> None:
    rng = np.random.default_rng(0)
    rule, p = ds.RMSProp(alpha=0.999, centered=True, eps=0.0), np.zeros(4)
    state = rule.init(OPS, p)
    for t in range(1, 20001):
        _, state = rule.direction(OPS, rng.standard_normal(4) + 5.0, state, p, t)
    sd = np.sqrt(state.square_avg - state.grad_avg**2)
    np.testing.assert_allclose(sd, 1.0, atol=0.15)  # the average of ~2000 draws: 1/sqrt(4000) sd, 9 of them
    constant = ds.RMSProp(centered=True)
    state = constant.init(OPS, p)
    for t in range(1, 2000):  # rounding may make the variance negative: no NaN
        d, state = constant.direction(OPS, np.full(4, 0.1), state, p, t)
    assert np.isfinite(d).all()


def test_l2_is_decay_where_nothing_is_divided_by_it() -> None:
    assert_same(run(ds.SGD(l2=0.1), "sgd"), run(ds.SGD(), "sgd", weight_decay=0.1))
    assert differ(run(ds.Adam(l2=0.1), "adam"), run(ds.Adam(), "adam", weight_decay=0.1)) > 1e-3


# -- invariances -------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [c for c in CASES if c.rule.elementwise], ids=str)
def test_an_elementwise_rule_commutes_with_any_rearrangement(case: Case) -> None:
    p, state = start(case)["table"].T.reshape(-1)[::-1], None
    for t, (g, expected) in enumerate(zip(gradients(case), oracle(case), strict=True), start=1):
        state = case.rule.init(OPS, p) if state is None else state
        d, state = case.rule.direction(OPS, g["table"].T.reshape(-1)[::-1], state, p, t)
        p = p + step(OPS, p, d, lr=case.lr, weight_decay=case.weight_decay, cautious=case.cautious)
        np.testing.assert_array_equal(p[::-1].reshape(5, 3).T, expected["table"])


@pytest.mark.parametrize("case", [c for c in CASES if not c.rule.elementwise], ids=str)
def test_muon_commutes_with_transposing_the_parameter_and_its_view(case: Case) -> None:
    view = MatrixView((1,), (0,))  # of the transposed parameter, which is (fan_in, fan_out)
    p = start(case)["wide"].T
    rows = case.rule.init(OPS, view.split(OPS, p)[0]).row_square
    state = case.rule.init(OPS, p)
    for t, (g, expected) in enumerate(zip(gradients(case), oracle(case), strict=True), start=1):
        u, state = case.rule.momentum_of(OPS, g["wide"].T, state, p, t)  # type: ignore[attr-defined]
        (stack,) = view.split(OPS, u)
        d, rows = case.rule.matrix_direction(OPS, stack, rows)  # type: ignore[attr-defined]
        d = view.join(OPS, [d], p.shape)
        p = p + step(OPS, p, d, lr=case.lr, weight_decay=case.weight_decay, cautious=case.cautious)
        # A transposed operand may be summed in another order by the matrix product: see the deviations.
        assert_ulp(p.T, expected["wide"], 64, scale_of(oracle(case), "wide"))


@pytest.mark.parametrize(
    "rule", [ds.Adam(eps=0.0), ds.AdaGrad(eps=0.0), ds.RMSProp(eps=0.0), ds.Muon()], ids=str
)
@pytest.mark.parametrize("factor", [2.0**-40, 2.0**40])
def test_normalised_rules_do_not_see_the_scale_of_the_gradient(rule: Rule, factor: float) -> None:
    shape = (4, 6)
    grads = np.random.default_rng(0).standard_normal((5, *shape))
    a, b = rule.init(OPS, grads[0]), rule.init(OPS, grads[0])
    for t, g in enumerate(grads, start=1):
        d, a = rule.direction(OPS, g, a, g, t)
        e, b = rule.direction(OPS, factor * g, b, g, t)
        np.testing.assert_array_equal(d, e)  # a power of two: not one bit may differ


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 12),
    st.integers(1, 12),
    st.sampled_from(["polar_express", "keller5"]),
    st.integers(0, 2**32 - 1),
)
def test_muon_of_an_orthogonal_matrix_is_itself_within_its_band(m: int, n: int, name: str, seed: int) -> None:
    # All singular values of an orthogonal matrix are 1: after the division by the norm,
    # 1/sqrt(min(m, n)), well inside [1e-3, 1].
    q, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((max(m, n), min(m, n))))
    q = q if m >= n else q.T
    rule = ds.Muon(coefficients=name, scale="original", momentum=0.0)
    d, _ = rule.direction(OPS, q, rule.init(OPS, q), q, 1)
    low, high = published_range(name, 5)
    factor = np.sqrt(max(1.0, m / n))
    size = float(np.vdot(d, q) / np.vdot(q, q)) / factor
    assert low - 1e-12 <= size <= high + 1e-12
    # Nothing but a multiple of it. Slopes of at most 8.3 · 4.1 · 3.9 · 3.3 · 2.3 multiply rounding.
    assert_ulp(d / factor, size * q, 1000)


@pytest.mark.parametrize("scale", ["match_rms_adamw", "original", "spectral"])
@pytest.mark.parametrize("shape", [(6, 24), (24, 6), (8, 8)])
def test_scales_are_what_they_promise(scale: str, shape: tuple[int, int]) -> None:
    rule = ds.Muon(scale=scale, ns_steps=9, momentum=0.0)
    g = np.random.default_rng(0).standard_normal(shape)
    d, _ = rule.direction(OPS, g, rule.init(OPS, g), g, 1)
    out, inner = shape
    norm, rms = np.linalg.norm(d, 2), np.sqrt(np.mean(d**2))
    if scale == "match_rms_adamw":
        assert abs(rms - 0.2) < 1e-6  # sqrt(min) singular values of 0.2 sqrt(max), over out x inner entries
    elif scale == "original":
        assert abs(norm - np.sqrt(max(1.0, out / inner))) < 1e-6
    else:
        assert abs(norm - np.sqrt(out / inner)) < 1e-6


def test_matrices_of_a_stack_do_not_touch_one_another() -> None:
    stack = np.random.default_rng(0).standard_normal((3, 5, 8))
    whole = orthogonalize(OPS, stack)
    changed = stack.copy()
    changed[1] *= 1e6
    changed[2] = 0.0
    np.testing.assert_array_equal(orthogonalize(OPS, changed)[0], whole[0])
    np.testing.assert_array_equal(orthogonalize(OPS, changed)[2], 0.0)


# -- zero, decay, and the one line --------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_zero_gradient_without_penalties_gives_a_zero_step(case: Case) -> None:
    if case.rule.l2:
        return
    zero = np.zeros((3, 4))
    d, _ = case.rule.direction(OPS, zero, case.rule.init(OPS, zero), zero, 1)
    if getattr(case.rule, "eps", 1.0) > 0:
        np.testing.assert_array_equal(d, 0.0)


@pytest.mark.parametrize("name", ["sgd", "adagrad", "rmsprop", "adam", "muon"])
def test_the_effect_of_decay_exceeds_every_tolerance_in_use(name: str) -> None:
    # 64 ulp of float64 is the widest bound in float64 here, 64 ulp of float32 in float32, 8 of bfloat16.
    widest = 8 * 2.0**-7
    for option in ("decay", "cautious"):
        assert differ(oracle(BY_NAME[f"{name}-{option}"]), oracle(BY_NAME[name])) > 64 * 2.0**-23
    strong = run(BY_NAME[name].rule, name, weight_decay=1.0)
    assert differ(strong, oracle(BY_NAME[name])) > widest


@pytest.mark.parametrize("case", [c for c in CASES if c.options], ids=str)
def test_the_effect_of_every_option_exceeds_the_tolerance(case: Case) -> None:
    plain = oracle(BY_NAME[case.name.split("-")[0]])
    # AdaGrad's and Adam's eps act only where gradients are small; Muon's 9 steps against 5 least.
    assert differ(oracle(case), plain) > 1e4 * 64 * 2.0**-52


def test_decay_pulls_towards_zero_and_cautious_decay_only_with_the_step() -> None:
    p, d = np.array([1.0, -1.0, 1.0, -1.0]), np.array([0.5, 0.5, -0.5, -0.5])
    plain = step(OPS, p, d, lr=0.1, weight_decay=0.2)
    np.testing.assert_allclose(plain, -0.1 * (d + 0.2 * p), rtol=1e-15)
    careful = step(OPS, p, d, lr=0.1, weight_decay=0.2, cautious=True)
    agree = d * p >= 0
    np.testing.assert_array_equal(careful[agree], plain[agree])
    np.testing.assert_array_equal(careful[~agree], -0.1 * d[~agree])
    np.testing.assert_array_equal(
        step(OPS, p, np.zeros(4), lr=0.1, weight_decay=0.2, cautious=True), -0.1 * 0.2 * p
    )
