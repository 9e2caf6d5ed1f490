"""Every rule x option in JAX against NumPy in float64, and against optax where it has the same rule."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import downslope.jax as dj
from downslope.grouping.view import MatrixView
from tests.jax.driving import cast, run, transform
from tests.parity.cases import BY_NAME, CASES, Case, assert_run, gradients, oracle, scale_of, start
from tests.parity.deviations import allowed

BASES = [case for case in CASES if not case.options]
"""Every rule with its defaults: plain, with decay, with cautious decay."""


@pytest.mark.parametrize("case", CASES, ids=str)
def test_float64_run_is_the_oracles(case: Case) -> None:
    assert_run(case, run(case, transform(case)), allowed("jax", case.name))


@pytest.mark.parametrize("name", ["sgd-nesterov", "rmsprop-everything", "adam-cautious", "muon"])
def test_eager_run_is_the_oracles(name: str) -> None:
    assert_run(BY_NAME[name], run(BY_NAME[name], transform(BY_NAME[name]), jit=False), allowed("jax", name))


@pytest.mark.parametrize("case", BASES, ids=str)
def test_float32_run_is_within_the_same_bound(case: Case) -> None:
    # Everything is computed in float32: rounding has the same places as in float64, in its own ulp.
    assert_run(case, run(case, transform(case), "float32"), allowed("jax", case.name), "float32")


@pytest.mark.parametrize("case", BASES, ids=str)
def test_bfloat16_run_is_within_8_ulp(case: Case) -> None:
    # The state is kept and the step computed in float32; a step then rounds its change and the
    # parameter to bfloat16, half an ulp each, 25 times and at random: about 5 ulp at the worst.
    assert_run(case, run(case, transform(case), "bfloat16"), 8, "bfloat16")


@pytest.mark.parametrize("name", ["sgd", "adagrad", "rmsprop", "adam", "muon"])
@pytest.mark.parametrize("option", ["decay", "cautious"])
def test_decay_exceeds_the_tolerance(name: str, option: str) -> None:
    plain, decayed = oracle(BY_NAME[name]), oracle(BY_NAME[f"{name}-{option}"])
    sizes = [np.max(np.abs(plain[-1][k] - decayed[-1][k])) / scale_of(plain, k) for k in plain[-1]]
    assert max(sizes) > 100 * 64 * 2.0**-23  # a hundred times the widest bound in float32


NATIVE = {
    "sgd": optax.sgd(0.1),
    "sgd-momentum": optax.sgd(0.1, momentum=0.9),
    "sgd-nesterov": optax.sgd(0.1, momentum=0.9, nesterov=True),
    "rmsprop": optax.rmsprop(0.1, decay=0.99, eps_in_sqrt=False),
    "rmsprop-alpha": optax.rmsprop(0.1, decay=0.8, eps_in_sqrt=False),
    "rmsprop-eps-inside": optax.rmsprop(0.1, decay=0.99, eps=1e-3),
    "adam": optax.adam(0.1),
    "adam-betas": optax.adam(0.1, b1=0.7, b2=0.95),
    "adam-eps": optax.adam(0.1, eps=1e-3),
    "adam-decay": optax.adamw(0.1, weight_decay=0.1),
    "sgd-l2": optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.1)),
}


@pytest.mark.parametrize("name", NATIVE)
def test_optax_takes_the_same_steps(name: str) -> None:
    # optax forms 1 - beta**t by subtraction: at beta2 = 0.999 and t = 1 that loses ten of 53 bits.
    ulps = 2**11 if name.startswith("adam") else 16
    assert_run(BY_NAME[name], run(BY_NAME[name], NATIVE[name]), ulps)


def difference(a: list, b: list) -> float:
    """Return the largest difference of two runs, relative to the largest parameter."""
    return max(
        float(np.max(np.abs(x[k] - y[k]))) / scale_of(b, k) for x, y in zip(a, b, strict=True) for k in x
    )


def test_what_differs_from_optax_has_the_size_the_documentation_says() -> None:
    case = BY_NAME["adagrad-accumulator"]
    # optax.adagrad adds eps inside the root, and skips coordinates whose sum is 0.
    size = difference(run(case, optax.adagrad(0.1, initial_accumulator_value=0.1, eps=1e-10)), oracle(case))
    assert 1e-12 < size < 1e-8, size
    case = BY_NAME["rmsprop-momentum"]
    # optax.rmsprop multiplies by lr before the momentum: the same steps at a constant rate.
    size = difference(
        run(case, optax.rmsprop(0.1, decay=0.99, momentum=0.9, eps_in_sqrt=False)), oracle(case)
    )
    assert size < 1e-13, size
    case = BY_NAME["adam-amsgrad"]
    # optax.amsgrad takes the maximum of the corrected moments, the rule (and PyTorch) of the uncorrected.
    size = difference(run(case, optax.amsgrad(0.1, b2=0.9)), oracle(case))
    assert 0.05 < size < 0.2, size
    case = BY_NAME["rmsprop"]
    # optax.rmsprop adds eps inside the root by default: where gradients are small, steps shrink.
    size = difference(run(case, optax.rmsprop(0.1, decay=0.99)), oracle(case))
    assert 0.05 < size < 0.2, size


def test_optax_muon_takes_the_same_first_step_and_then_corrects_the_start() -> None:
    case = BY_NAME["muon-keller5"]
    view = {"w": MatrixView(outputs=(1,), inputs=(0,))}  # (in, out), as optax takes it
    first = {"w": jnp.asarray(start(case)["wide"].T)}
    given = [{"w": jnp.asarray(g["wide"].T)} for g in gradients(case)]

    def steps(tx: optax.GradientTransformation) -> list[np.ndarray]:
        params, state, made = first, tx.init(first), []
        for grads in given:
            updates, state = tx.update(grads, state, params)
            params = optax.apply_updates(params, updates)
            made.append(np.asarray(params["w"]))
        return made

    ours = steps(dj.muon(view, 0.1, weight_decay=0.0, coefficients="keller5"))
    theirs = steps(optax.contrib.muon(0.1, consistent_rms=0.2, eps=0.0))
    sizes = [np.max(np.abs(a - b)) / np.max(np.abs(a)) for a, b in zip(ours, theirs, strict=True)]
    assert sizes[0] < 1e-14
    assert 1e-3 < max(sizes) < 1e-2
    turned = {"w": MatrixView(outputs=(0,), inputs=(1,))}
    wrong = steps(dj.muon(turned, 0.1, weight_decay=0.0, coefficients="keller5", scale="original"))
    assert np.max(np.abs(wrong[0] - ours[0])) > 1e-2  # which side is fan-out matters


def test_gradients_and_parameters_are_left_alone() -> None:
    for case in CASES:
        params, grads = cast(start(case), "float64"), cast(gradients(case)[0], "float64")
        before = jax.tree.map(np.array, (params, grads))
        tx = transform(case)
        tx.update(grads, tx.init(params), params)
        for a, b in zip(jax.tree.leaves(before), jax.tree.leaves((params, grads)), strict=True):
            np.testing.assert_array_equal(a, np.asarray(b))


@pytest.mark.parametrize("name", ["adam-amsgrad", "muon", "rmsprop-everything"])
def test_a_loop_of_ones_own_takes_jax_arrays_too(name: str) -> None:
    case = BY_NAME[name]

    @jax.jit
    def step(params: Any, grads: Any, state: Any) -> Any:
        return case.rule.step(params, grads, state, lr=case.lr)

    params, made = cast(start(case), "float64"), []
    state = case.rule.start(params)
    for grads in gradients(case):
        params, state = step(params, cast(grads, "float64"), state)
        made.append({k: np.asarray(v) for k, v in params.items()})
    assert_run(case, made, allowed("jax", name))
