"""The transforms behave as optax users expect of any: composed, transformed, sharded, donated."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import downslope.jax as dj
from downslope.grouping.view import MatrixView

KERNEL = MatrixView(outputs=(1,), inputs=(0,))
VIEWS = {"first": {"kernel": KERNEL, "bias": None}, "second": {"kernel": KERNEL, "bias": None}}

TRANSFORMS = {
    "sgd": lambda lr: dj.sgd(lr, 0.9, nesterov=True),
    "adagrad": lambda lr: dj.adagrad(lr),
    "rmsprop": lambda lr: dj.rmsprop(lr, momentum=0.9),
    "adam": lambda lr: dj.adam(lr),
    "adamw": lambda lr: dj.adamw(lr, weight_decay=0.1),
    "muon": lambda lr: dj.muon(VIEWS, lr),
}


def tree(seed: int, width: int = 8) -> Any:
    rng = np.random.default_rng(seed)
    shapes = {"kernel": (8, width), "bias": (width,)}
    return {
        layer: {name: jnp.asarray(rng.standard_normal(shape)) for name, shape in shapes.items()}
        for layer in ("first", "second")
    }


def run(tx: Any, steps: int = 3, params: Any = None) -> Any:
    params = tree(0) if params is None else params
    state = tx.init(params)
    update = jax.jit(tx.update)
    for k in range(steps):
        updates, state = update(tree(k + 1), state, params)
        params = optax.apply_updates(params, updates)
    return params


def assert_close(a: Any, b: Any, tolerance: float = 1e-12) -> None:
    # Compilers fuse and reorder: a few ulp of float64 at magnitudes near 1.
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=tolerance), a, b)


@pytest.fixture(params=TRANSFORMS)
def make(request: pytest.FixtureRequest) -> Any:
    return TRANSFORMS[request.param]


def test_chain_clips_before_the_rule(make: Any) -> None:
    tx = optax.chain(optax.clip_by_global_norm(0.5), make(0.1), optax.scale(0.5))
    params, grads = tree(0), tree(1)
    got, _ = tx.update(grads, tx.init(params), params)
    clipped = jax.tree.map(lambda g: g * 0.5 / optax.tree.norm(grads), grads)
    bare = make(0.1)
    expected, _ = bare.update(clipped, bare.init(params), params)
    assert_close(got, jax.tree.map(lambda u: 0.5 * u, expected))


def test_multi_transform_gives_each_label_its_transform() -> None:
    labels = {"first": "muon", "second": "adamw"}
    tx = optax.multi_transform({"muon": dj.muon(VIEWS, 0.1), "adamw": dj.adamw(0.1)}, labels)
    got = run(tx)
    assert_close(got["first"], run(dj.muon(VIEWS, 0.1))["first"])
    assert_close(got["second"], run(dj.adamw(0.1))["second"])
    assert (
        float(jnp.max(jnp.abs(got["second"]["kernel"] - run(dj.muon(VIEWS, 0.1))["second"]["kernel"]))) > 1e-3
    )


@pytest.mark.parametrize(
    "factory",
    [dj.sgd, dj.adagrad, dj.rmsprop, dj.adam, dj.adamw, partial(dj.muon, VIEWS)],
    ids=list(TRANSFORMS),
)
def test_inject_hyperparams_changes_the_rate_without_a_new_trace(factory: Any) -> None:
    tx, traces = optax.inject_hyperparams(factory)(lr=0.1), []

    @jax.jit
    def step(params: Any, state: Any, grads: Any) -> Any:
        traces.append(1)
        return tx.update(grads, state, params)

    params, grads = tree(0), tree(1)
    state = tx.init(params)
    whole, _ = step(params, state, grads)
    state.hyperparams["lr"] = jnp.asarray(0.05, jnp.float64)
    half, _ = step(params, state, grads)
    assert_close(half, jax.tree.map(lambda u: u / 2, whole))
    assert len(traces) == 1
    assert_close(whole, factory(0.1).update(grads, factory(0.1).init(params), params)[0])


def test_injected_momentum_and_decay_may_change_too() -> None:
    tx = optax.inject_hyperparams(dj.sgd)(lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.2)
    assert_close(run(tx), run(dj.sgd(0.1, 0.9, nesterov=True, weight_decay=0.2)))
    tx = optax.inject_hyperparams(dj.muon)(VIEWS, lr=lambda t: 0.1 / (t + 1), momentum=0.5, weight_decay=0.3)
    assert_close(run(tx), run(dj.muon(VIEWS, lambda t: 0.1 / (t + 1), momentum=0.5, weight_decay=0.3)))
    tx = optax.inject_hyperparams(dj.rmsprop)(lr=0.1, alpha=0.8, eps=1e-3, momentum=0.3, centered=True)
    assert_close(run(tx), run(dj.rmsprop(0.1, alpha=0.8, eps=1e-3, momentum=0.3, centered=True)))


def test_multi_steps_averages_gradients(make: Any) -> None:
    tx = optax.MultiSteps(make(0.1), every_k_schedule=2)
    params = tree(0)
    state, update = tx.init(params), jax.jit(tx.update)
    first, state = update(tree(1), state, params)
    assert all(not np.any(u) for u in jax.tree.leaves(first))
    got, _ = update(tree(2), state, params)
    mean = jax.tree.map(lambda a, b: (a + b) / 2, tree(1), tree(2))
    # optax divides by the count in float32: its averages are 1e-7 off, whatever the rule.
    assert_close(got, make(0.1).update(mean, make(0.1).init(params), params)[0], 1e-6)


def test_schedules_are_asked_for_the_steps_taken(make: Any) -> None:
    schedule = optax.piecewise_constant_schedule(0.1, {1: 0.5, 2: 0.5})
    params, grads = tree(0), tree(1)
    tx = make(schedule)
    state = tx.init(params)
    constant = make(0.1)
    for rate in (0.1, 0.05, 0.025):
        expected, _ = constant.update(grads, state, params)
        got, state = tx.update(grads, state, params)
        assert_close(got, jax.tree.map(lambda u, rate=rate: u * rate / 0.1, expected))


def test_vmap_over_an_ensemble(make: Any) -> None:
    tx = make(0.1)
    ensemble = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[tree(s) for s in range(3)])
    grads = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[tree(s + 10) for s in range(3)])
    state = jax.vmap(tx.init)(ensemble)
    updates, _ = jax.jit(jax.vmap(tx.update))(grads, state, ensemble)
    for k in range(3):
        alone, _ = tx.update(tree(k + 10), tx.init(tree(k)), tree(k))
        assert_close(jax.tree.map(lambda u, k=k: u[k], updates), alone)


def test_scan_over_steps(make: Any) -> None:
    tx = make(optax.cosine_decay_schedule(0.1, 10))
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[tree(k + 1) for k in range(3)])

    def body(carry: Any, grads: Any) -> Any:
        params, state = carry
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    (params, _), _ = jax.lax.scan(body, (tree(0), tx.init(tree(0))), stacked)
    assert_close(params, run(tx))


def test_gradients_averaged_over_devices_step_every_copy_alike(make: Any) -> None:
    assert jax.device_count() == 4
    tx = make(0.1)
    params, state = tree(0), tx.init(tree(0))
    grads = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[tree(s + 10) for s in range(4)])
    mean = jax.tree.map(lambda g: jnp.mean(g, 0), grads)
    expected, _ = tx.update(mean, state, params)

    def step(g: Any) -> Any:
        g = jax.lax.pmean(g, "devices")
        return tx.update(g, state, params)[0]

    for k, copy in enumerate([jax.pmap(step, "devices")(grads)] * 4):
        assert_close(jax.tree.map(lambda u, k=k: u[k], copy), expected)

    mesh = jax.make_mesh((4,), ("devices",), axis_types=(jax.sharding.AxisType.Auto,))
    mapped = jax.shard_map(
        lambda g: step(jax.tree.map(lambda a: a[0], g)),
        mesh=mesh,
        in_specs=PartitionSpec("devices"),
        out_specs=PartitionSpec(),
        check_vma=False,
    )
    assert_close(jax.jit(mapped)(grads), expected)


def test_sharded_parameters_keep_their_sharding_and_their_steps(make: Any) -> None:
    mesh = jax.make_mesh((4,), ("model",), axis_types=(jax.sharding.AxisType.Auto,))
    specs = {"kernel": PartitionSpec(None, "model"), "bias": PartitionSpec("model")}
    sharding = {layer: {k: NamedSharding(mesh, s) for k, s in specs.items()} for layer in ("first", "second")}
    tx = make(0.1)

    @jax.jit
    def step(params: Any, state: Any, grads: Any) -> Any:
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    params, grads = jax.device_put(tree(0), sharding), jax.device_put(tree(1), sharding)
    state = jax.jit(tx.init)(params)
    after, state = step(params, state, grads)
    whole, _ = step(tree(0), tx.init(tree(0)), tree(1))
    assert_close(after, whole)
    for leaf, wanted in zip(jax.tree.leaves(after), jax.tree.leaves(sharding), strict=True):
        assert leaf.sharding.is_equivalent_to(wanted, leaf.ndim), (leaf.sharding, wanted)
    for leaf in jax.tree.leaves(state):
        if leaf.ndim == 2:
            assert leaf.sharding.is_equivalent_to(sharding["first"]["kernel"], 2)


@pytest.mark.parametrize("normuon", [False, True])
def test_muon_steps_parameters_spread_over_explicit_axes(normuon: bool) -> None:
    # What `jax.make_mesh` makes by default: an array's type says how it is spread, and no product or
    # join of arrays that are spread in different ways is defined.
    mesh = jax.make_mesh((4,), ("model",), axis_types=(jax.sharding.AxisType.Explicit,))
    specs = {"first": PartitionSpec("model", None), "second": PartitionSpec(None, "model")}
    bias = NamedSharding(mesh, PartitionSpec("model"))
    sharding = {name: {"kernel": NamedSharding(mesh, s), "bias": bias} for name, s in specs.items()}
    tx = dj.muon(VIEWS, 0.1, normuon=normuon)

    def step(params: Any, grads: Any) -> Any:
        state = tx.init(params)
        for _ in range(2):
            updates, state = tx.update(grads, state, params)
            params = optax.apply_updates(params, updates)
        return params

    whole = jax.jit(step)(tree(0), tree(1))
    with jax.set_mesh(mesh):
        after = jax.jit(step)(*(jax.device_put(tree(seed), sharding) for seed in (0, 1)))
    eagerly = step(*(jax.device_put(tree(seed), sharding) for seed in (0, 1)))
    for found in (after, eagerly):
        assert_close(found, whole)
        for leaf, wanted in zip(jax.tree.leaves(found), jax.tree.leaves(sharding), strict=True):
            assert leaf.sharding.is_equivalent_to(wanted, leaf.ndim), (leaf.sharding, wanted)


def test_state_starts_where_the_parameter_is(make: Any) -> None:
    mesh = jax.make_mesh((4,), ("model",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = NamedSharding(mesh, PartitionSpec("model"))
    params = jax.tree.map(lambda p: jax.device_put(p, rows), tree(0))
    for leaf in jax.tree.leaves(make(0.1).init(params)):
        if leaf.ndim:
            assert leaf.sharding.is_equivalent_to(rows, leaf.ndim)


def test_donated_buffers_are_reused_without_a_warning(make: Any) -> None:
    tx = make(0.1)

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(params: Any, state: Any, grads: Any) -> Any:
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    params, state = tree(0), tx.init(tree(0))
    given = jax.tree.leaves((params, state))
    params, state = step(params, state, tree(1))  # a donation that cannot be used warns: an error here
    assert all(leaf.is_deleted() for leaf in given)
    assert_close(step(params, state, tree(2))[0], run(tx, 2))


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_one_trace_and_none_on_step_two(make: Any, dtype: str) -> None:
    traces = []
    tx = make(optax.linear_schedule(0.1, 0.0, 10))

    @jax.jit
    def step(params: Any, state: Any, grads: Any) -> Any:
        traces.append(1)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    params = jax.tree.map(lambda p: p.astype(dtype), tree(0))
    state = tx.init(params)
    for k in range(3):
        params, state = step(params, state, jax.tree.map(lambda g: g.astype(dtype), tree(k + 1)))
    assert len(traces) == 1
    assert {leaf.dtype.name for leaf in jax.tree.leaves(params)} == {dtype}
    wanted = "float32" if dtype == "bfloat16" else dtype
    assert {leaf.dtype.name for leaf in jax.tree.leaves(state) if leaf.ndim} == {wanted}


@pytest.mark.parametrize(
    "options", [{"scale": "original"}, {"scale": "spectral"}, {"normuon": True}], ids=str
)
def test_a_kernel_steps_alike_whichever_axis_its_outputs_are(options: dict[str, Any]) -> None:
    r = np.random.default_rng(0)
    grads = [jnp.asarray(r.standard_normal((6, 4))) for _ in range(3)]

    def stepped(view: MatrixView, turn: bool) -> Any:
        tx, w = dj.muon({"w": view}, 0.1, **options), jnp.ones((6, 4))
        params = {"w": w.T if turn else w}
        state = tx.init(params)
        for g in grads:
            updates, state = tx.update({"w": g.T if turn else g}, state, params)
            params = optax.apply_updates(params, updates)
        return params["w"].T if turn else params["w"]

    dense, flax = stepped(MatrixView((0,), (1,)), turn=False), stepped(MatrixView((1,), (0,)), turn=True)
    # float64, whose sums come in another order; scaled or evened along the other side they differ by a tenth
    np.testing.assert_allclose(flax, dense, rtol=0, atol=1e-9)


@pytest.mark.parametrize("shape", [(6, 4), (4, 6)])
def test_a_kernel_is_never_permuted_whichever_axis_its_outputs_are(shape: tuple[int, int]) -> None:
    def transposes(view: MatrixView) -> int:
        tx, p = dj.muon({"w": view}, 0.1), {"w": jnp.ones(shape)}
        return str(jax.make_jaxpr(tx.update)(p, tx.init(p), p)).count("transpose[")

    dense, flax = MatrixView((0,), (1,)), MatrixView((1,), (0,))
    assert transposes(flax) == transposes(dense)


def test_apply_if_finite_leaves_out_a_bad_gradient(make: Any) -> None:
    tx = optax.apply_if_finite(make(0.1), max_consecutive_errors=3)
    params = tree(0)
    state = tx.init(params)
    bad = jax.tree.map(lambda g: g.at[0].set(jnp.nan), tree(1))
    updates, state = tx.update(bad, state, params)
    assert all(not np.any(u) for u in jax.tree.leaves(updates))
    got, _ = tx.update(tree(1), state, params)
    assert_close(got, make(0.1).update(tree(1), make(0.1).init(params), params)[0])


def test_optax_finds_parts_of_the_state_by_name() -> None:
    params = tree(0)
    state = optax.chain(optax.clip(1.0), dj.adamw(0.1)).init(params)
    assert jax.tree.structure(optax.tree.get(state, "exp_avg_sq")) == jax.tree.structure(params)
    tx = dj.adam(0.1)
    doubled = optax.tree.map_params(tx, lambda leaf: leaf + 2.0, tx.init(params))
    assert float(doubled.rule.exp_avg["first"]["bias"][0]) == 2.0
    assert int(doubled.count) == 0
    tx = dj.muon(VIEWS, 0.1)
    doubled = optax.tree.map_params(tx, lambda leaf: leaf + 2.0, tx.init(params))
    assert float(doubled.muon.momentum_buffer["first"]["kernel"][0, 0]) == 2.0


def test_shapes_can_be_asked_for_without_arrays(make: Any) -> None:
    shapes = jax.eval_shape(make(0.1).init, tree(0))
    assert jax.tree.structure(shapes) == jax.tree.structure(make(0.1).init(tree(0)))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_state_is_made_of_shapes_alone(make: Any, dtype: str) -> None:
    rows = NamedSharding(jax.make_mesh((4,), ("model",)), PartitionSpec("model"))
    params = jax.tree.map(lambda p: jax.device_put(p.astype(dtype), rows), tree(0))
    shapes = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype, sharding=p.sharding), params)
    found, wanted = make(0.1).init(shapes), make(0.1).init(params)
    assert_close(found, wanted, 0)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert (a.dtype, a.sharding) == (b.dtype, b.sharding)


def test_what_optax_hands_on_to_every_transform_passes_by(make: Any) -> None:
    params, grads = tree(0), tree(1)
    tx = make(0.1)
    given, _ = tx.update(grads, tx.init(params), params, value=jnp.asarray(1.0))
    assert_close(given, tx.update(grads, tx.init(params), params)[0], 0)


def test_a_gradient_flows_through_a_step_from_a_zero_gradient(make: Any) -> None:
    def after(params: Any) -> Any:
        grads = jax.tree.map(lambda p: 0 * p, params)
        tx = make(0.1)
        updates, _ = tx.update(grads, tx.init(params), params)
        return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(optax.apply_updates(params, updates)))

    assert all(np.isfinite(slope).all() for slope in jax.tree.leaves(jax.grad(after)(tree(0))))


def test_a_gradient_flows_through_a_step(make: Any) -> None:
    def loss(lr: Any) -> Any:
        params, grads = tree(0), tree(1)
        tx = make(lr)
        updates, _ = tx.update(grads, tx.init(params), params)
        return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(optax.apply_updates(params, updates)))

    slope = jax.grad(loss)(jnp.asarray(0.1))
    numeric = (loss(jnp.asarray(0.1 + 1e-6)) - loss(jnp.asarray(0.1 - 1e-6))) / 2e-6
    assert abs(slope - numeric) < 1e-6 * abs(numeric)


def test_where_there_is_no_gradient_the_parameters_may_have_anything(make: Any) -> None:
    tx, params = make(0.1), tree(0)
    grads = {**tree(1), "activation": None, "frozen": None}
    whole = {**params, "activation": jnp.tanh, "frozen": [jnp.ones(2), 3]}
    updates, _ = tx.update(grads, tx.init({**params, "activation": None, "frozen": None}), whole)
    assert updates.pop("activation") is updates.pop("frozen") is None
    assert_close(updates, tx.update(tree(1), tx.init(params), params)[0], 0.0)


def test_a_complex_parameter_is_stepped_as_its_two_parts() -> None:
    def both(a: Any) -> Any:
        return {"real": a.real, "imag": a.imag}

    z, g = (jnp.asarray([1.0 + 2.0j, -0.5j]) * k for k in (1.0, 0.3 - 0.1j))
    tx, plain = optax.contrib.split_real_and_imaginary(dj.adamw(0.1)), dj.adamw(0.1)
    updates, _ = tx.update(g, tx.init(z), z)
    assert_close(both(updates), plain.update(both(g), plain.init(both(z)), both(z))[0], 0.0)


@pytest.mark.parametrize("strict", [jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise")])
@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_steps_are_the_same_where_users_forbid_themselves_to_mix(make: Any, strict: Any, dtype: str) -> None:
    params, grads = (jax.tree.map(lambda a: a.astype(dtype), tree(seed)) for seed in (0, 1))
    tx = make(0.1)
    expected, _ = tx.update(grads, tx.init(params), params)
    with strict:
        updates, _ = tx.update(grads, tx.init(params), params)
    assert_close(updates, expected, 0.0)
