"""Bad input raises one clear error, before anything has changed."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.experimental import checkify

import downslope.jax as dj
from downslope.grouping.partition import Assignment, Partition, Role
from downslope.grouping.view import MatrixView

KERNEL = MatrixView(outputs=(1,), inputs=(0,))
PARAMS = {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}
VIEWS = {"kernel": KERNEL, "bias": None}
PARTITION = Partition(
    [
        Assignment("kernel", (2, 3), Role.HIDDEN, "muon", KERNEL, "a test"),
        Assignment("bias", (3,), Role.VECTOR, "adamw", None, "a test"),
    ]
)


def tx_of(partition: Any = PARTITION) -> optax.GradientTransformation:
    return dj.muon(partition, 0.1)


@pytest.mark.parametrize("partition", [PARTITION, VIEWS], ids=["partition", "views"])
def test_a_tree_that_is_not_the_partitions(partition: Any) -> None:
    tx = tx_of(partition)
    with pytest.raises(ValueError, match=r"has more, which the partition lacks"):
        tx.init({**PARAMS, "more": jnp.ones(2)})
    with pytest.raises(ValueError, match=r"lacks bias, which the partition has"):
        tx.init({"kernel": PARAMS["kernel"]})
    with pytest.raises(ValueError, match=r"kernel.*shape \(2, 3, 1\)"):
        tx.init({**PARAMS, "kernel": jnp.ones((2, 3, 1))})
    state = tx.init(PARAMS)
    with pytest.raises(ValueError, match=r"lacks bias"):
        tx.update({"kernel": PARAMS["kernel"]}, state, {"kernel": PARAMS["kernel"]})


def test_none_may_stand_in_the_parameters_where_it_stands_in_the_views() -> None:
    # as in what Equinox's filters leave of a model
    params, tx = {**PARAMS, "activation": None}, tx_of({**VIEWS, "activation": None})
    updates, _ = tx.update(params, tx.init(params), params)
    assert updates["activation"] is None
    assert updates["bias"].any()
    with pytest.raises(ValueError, match="lacks kernel, which the partition has"):
        tx.init({**params, "kernel": None})


def test_two_parameters_of_one_name_are_named() -> None:
    params = {"a.b": jnp.ones((2, 3)), "a": {"b": jnp.ones((2, 3))}}
    with pytest.raises(ValueError, match=r"two parameters called a\.b: rename one of them"):
        tx_of({"a.b": KERNEL, "a": {"b": KERNEL}}).init(params)
    with pytest.raises(ValueError, match=r"each parameter once, this one 'a\.b' more often"):
        dj.partition(lambda p, x: x @ p["a.b"] @ p["a"]["b"].T, params, jnp.ones((1, 2)))


def test_betas_may_be_arrays_that_can_be_read() -> None:
    tx = dj.adam(0.1, betas=(jnp.asarray(0.5), 0.75))
    updates, _ = jax.jit(tx.update)(PARAMS, tx.init(PARAMS), PARAMS)
    plain = dj.adam(0.1, betas=(0.5, 0.75))
    assert jnp.array_equal(updates["bias"], plain.update(PARAMS, plain.init(PARAMS), PARAMS)[0]["bias"])
    with pytest.raises(TypeError, match=r"betas\[0\] is traced: expected a Python float"):
        jax.vmap(lambda b: dj.adam(0.1, betas=(b, 0.9)).init(PARAMS))(jnp.asarray([0.5, 0.9]))


def test_structures_that_differ_from_the_gradients() -> None:
    tx = dj.adam(0.1)
    state = tx.init(PARAMS)
    with pytest.raises(ValueError, match="the state's exp_avg do not have the structure of the gradients"):
        tx.update({"kernel": PARAMS["kernel"]}, state)
    with pytest.raises(ValueError, match="the parameters do not have the structure of the gradients"):
        tx.update(PARAMS, state, [1.0, 2.0])
    for given, words in (
        ({**PARAMS, "bias": None}, "a dict that lacks bias"),
        (state, "a RuleState that has count, .*; update takes .gradients, state, parameters"),
        (jax.tree.map(lambda p: [p], PARAMS), "a dict that has .* and lacks"),
    ):
        with pytest.raises(ValueError, match=words) as raised:
            tx.update(PARAMS, state, given)
        assert len(str(raised.value)) < 300  # a line, without the arrays
    with pytest.raises(ValueError, match=r"the gradient of bias has shape \(4,\), the parameter \(3,\)"):
        tx.update({**PARAMS, "bias": jnp.ones(4)}, state, PARAMS)
    wider = {**PARAMS, "bias": jnp.ones(4)}
    with pytest.raises(
        ValueError, match=r"the state's exp_avg has \(3,\) where the parameter has shape \(4,\)"
    ):
        tx.update(wider, state, wider)


@pytest.mark.parametrize(
    ("leaf", "words"),
    [
        (jnp.arange(3), "of dtype int32|of dtype int64"),
        (jnp.ones(3, jnp.complex64), r"of dtype complex64 \(optax\.contrib\.split_real_and_imaginary"),
        (np.ones(3, bool), "of dtype bool"),
        (jnp.ones(3, jnp.float8_e4m3fn), "of dtype float8_e4m3fn"),
        (3.0, "a float"),
        (jnp.tanh, "expected an array of a real floating dtype"),
    ],
)
def test_a_leaf_that_is_not_floating(leaf: Any, words: str) -> None:
    for tx in (dj.adam(0.1), tx_of()):
        with pytest.raises(TypeError, match=f"bias is .*({words})"):
            tx.init({**PARAMS, "bias": leaf})
    with pytest.raises(TypeError, match="the gradient of bias"):
        dj.sgd(0.1).update({**PARAMS, "bias": leaf}, dj.sgd(0.1).init(PARAMS), PARAMS)


def test_a_schedule_that_returns_nan() -> None:
    for bad in (
        lambda t: jnp.nan * t,
        lambda t: jnp.log(t),
        lambda t: 0.1 - t,
        lambda t: jnp.ones(2),
        optax.linear_schedule(0.1, jnp.inf, 50),
    ):
        with pytest.raises(ValueError, match=r"the schedule of the learning rate returned .* at step \d+"):
            dj.adam(bad)
        with pytest.raises(ValueError, match="the schedule"):
            dj.muon(PARTITION, bad)


def late(t: Any) -> Any:
    """NaN at step 3, where no probe looks."""
    return jnp.where(t == 3, jnp.nan, 0.1)


def test_a_schedule_that_turns_nan_later() -> None:
    tx = dj.adam(late)
    state = tx.init(PARAMS)
    for _ in range(3):
        _, state = tx.update(PARAMS, state, PARAMS)
    with pytest.raises(ValueError, match="returned nan at step 3"):
        tx.update(PARAMS, state, PARAMS)
    _, unchanged = dj.adam(0.1).update(PARAMS, state, PARAMS)  # the state is as good as before
    assert int(unchanged.count) == 4
    checked = jax.jit(checkify.checkify(tx.update))
    error, _ = checked(PARAMS, state, PARAMS)
    assert "the learning rate is nan at step 3" in str(error.get())
    updates, _ = jax.jit(tx.update)(PARAMS, state, PARAMS)
    assert all(np.isnan(u).all() for u in jax.tree.leaves(updates))  # unchecked, it does not hide


def test_a_rate_that_rounding_leaves_below_zero_ends_a_schedule() -> None:
    schedule = jax.jit(optax.linear_schedule(1e-3, 0.0, 10))
    assert -1e-10 < schedule(10) < 0  # compiled, 1 - 10/10 is no zero
    tx = dj.adam(schedule)
    state = tx.init(PARAMS)
    checked = jax.jit(checkify.checkify(tx.update))
    for _ in range(11):
        error, (_, state) = checked(PARAMS, state, PARAMS)
        error.throw()
    updates, _ = tx.update(PARAMS, state, PARAMS)  # compiled nowhere but in the schedule
    assert all(np.abs(u).max() < 1e-10 for u in jax.tree.leaves(updates))
    with pytest.raises(ValueError, match=r"returned -2\.4"):
        dj.adam(lambda k: 1e-3 * (1 - k / 1000))


def test_state_of_another_rule() -> None:
    adam, sgd, muon = dj.adam(0.1), dj.sgd(0.1, 0.9), tx_of()
    with pytest.raises(TypeError, match="the state is a SGDState, expected the AdamState"):
        adam.update(PARAMS, sgd.init(PARAMS), PARAMS)
    with pytest.raises(TypeError, match=r"the state is a MuonState, expected the RuleState"):
        adam.update(PARAMS, muon.init(PARAMS), PARAMS)
    with pytest.raises(TypeError, match=r"the state is a RuleState, expected the MuonState"):
        muon.update(PARAMS, adam.init(PARAMS), PARAMS)
    with pytest.raises(TypeError, match=r"expected the RuleState"):
        adam.update(PARAMS, optax.adam(0.1).init(PARAMS), PARAMS)
    with pytest.raises(
        ValueError, match="the state lacks momentum_buffer, which SGD with these options needs"
    ):
        sgd.update(PARAMS, dj.sgd(0.1).init(PARAMS), PARAMS)
    with pytest.raises(ValueError, match=r"the state has max_exp_avg_sq, which Adam .* does not keep"):
        adam.update(PARAMS, dj.adam(0.1, amsgrad=True).init(PARAMS), PARAMS)


def test_decay_without_parameters() -> None:
    for tx in (dj.adamw(0.1), dj.sgd(0.1, weight_decay=0.1), tx_of()):
        with pytest.raises(
            ValueError, match=r"weight decay needs the parameters: call update\(gradients, state, params\)"
        ):
            tx.update(PARAMS, tx.init(PARAMS))
    dj.adam(0.1).update(PARAMS, dj.adam(0.1).init(PARAMS))  # without decay they are not needed


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: dj.sgd(-1.0), r"lr = -1.0: expected a number in \[0, inf\)"),
        (lambda: dj.sgd(jnp.asarray(jnp.nan)), "lr = "),
        (lambda: dj.sgd("1e-3"), r"lr = '1e-3': expected a number"),  # what YAML makes of 1e-3
        (lambda: dj.adamw(0.1, eps="1e-8"), "eps = '1e-8': expected a number"),
        (lambda: dj.adamw(True), "lr = True: expected a number"),
        (lambda: dj.adamw({"w": jnp.ones((9, 9))}), "lr = a dict: expected a number"),
        (lambda: dj.sgd(0.1, nesterov=True), "momentum > 0 with Nesterov"),
        (lambda: dj.adam(0.1, betas=(0.9, 1.0)), r"betas\[1\] = 1.0"),
        (lambda: dj.adamw(0.1, weight_decay=-1.0), "weight_decay = -1.0"),
        (lambda: dj.rmsprop(0.1, alpha=jnp.asarray(2.0)), "alpha = 2.0"),
        (lambda: dj.muon(VIEWS, 0.1, ns_steps=0), "ns_steps = 0"),
        (lambda: dj.muon(VIEWS, 0.1, scale="none"), "scale = 'none'"),
        (lambda: dj.muon(VIEWS, 0.1, max_stack_bytes=0), "max_stack_bytes = 0"),
        *(
            (
                lambda dtype=dtype: dj.muon(VIEWS, 0.1, ns_dtype=dtype),
                "ns_dtype = .*: expected None or one of auto, bfloat16, float32, float64",
            )
            for dtype in (jnp.int32, jnp.float16, "foo", 3)
        ),
        (lambda: dj.muon({"kernel": None}, 0.1), "no parameter gets Muon"),
    ],
)
def test_hyperparameters_outside_their_range(make: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


def test_a_partition_of_the_wrong_type() -> None:
    with pytest.raises(TypeError, match="bias has type ArrayImpl: expected a Partition"):
        dj.muon(PARAMS, 0.1)
    with pytest.raises(TypeError, match="ns_steps is an array, but decides what is traced"):
        optax.inject_hyperparams(dj.muon)(VIEWS, lr=0.1, ns_steps=5).init(PARAMS)
    tx = optax.inject_hyperparams(dj.muon, static_args="ns_steps")(VIEWS, lr=0.1, ns_steps=6)
    tx.update(PARAMS, tx.init(PARAMS), PARAMS)


def test_a_dtype_and_its_name_are_the_same() -> None:
    made = []
    for dtype in ("bfloat16", jnp.bfloat16, jnp.dtype("bfloat16")):
        tx = dj.muon(VIEWS, 0.1, ns_dtype=dtype)
        made.append(tx.update(PARAMS, tx.init(PARAMS), PARAMS)[0]["kernel"])
    assert made[0].any()
    assert all(jnp.array_equal(u, made[0]) for u in made)
    make = optax.inject_hyperparams(dj.muon, static_args="ns_dtype")
    assert jnp.array_equal(make(VIEWS, lr=0.1, ns_dtype=jnp.bfloat16).init(PARAMS).hyperparams["lr"], 0.1)


def test_extremes_do_no_harm() -> None:
    for size in (0.0, 1e-300, 1e300):
        grads = {"kernel": jnp.full((2, 3), size), "bias": jnp.full(3, size)}
        tx = tx_of()
        updates, _ = tx.update(grads, tx.init(PARAMS), PARAMS)
        assert np.isfinite(updates["kernel"]).all(), size
    empty = {"kernel": jnp.ones((0, 3)), "bias": jnp.ones(0)}
    for tx in (dj.adamw(0.1), tx_of(VIEWS)):
        updates, _ = tx.update(empty, tx.init(empty), empty)
        assert updates["kernel"].shape == (0, 3)
    assert dj.adam(0.1).update({}, dj.adam(0.1).init({}))[0] == {}


def test_import_error_names_the_extra() -> None:
    for missing in ("jax", "optax"):
        code = f"import sys; sys.modules[{missing!r}] = None; import downslope.jax"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode != 0
        assert done.stderr.strip().endswith(
            "ImportError: downslope.jax needs JAX and optax: pip install 'downslope[jax]'"
        )


def test_the_core_loads_no_jax() -> None:
    code = "import sys, downslope, downslope.ops, downslope.grouping.partition; print('jax' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "False"
