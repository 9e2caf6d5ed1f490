"""Orthogonalisation compiled for this CPU, within JAX: against NumPy, plain JAX, and under transforms."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import export
from jax.experimental import checkify
from jax.sharding import NamedSharding, PartitionSpec

import downslope.jax as dj
from downslope.grouping.view import MatrixView
from downslope.native import jax as polar
from downslope.native.jax import How, polars_of
from downslope.ops.numpy import NumpyOps
from downslope.rules.orthogonalize import (
    COEFFICIENT_SETS,
    RESCALED,
    coefficients_of,
    orthogonalize,
    published_range,
)

REASONS = {"float32": polar._reason(False), "bfloat16": polar._reason(True)}
DTYPES = [
    pytest.param(dtype, marks=pytest.mark.skipif(bool(why), reason=why)) for dtype, why in REASONS.items()
]
compiled = pytest.mark.skipif(bool(REASONS["float32"]), reason=REASONS["float32"])
# What rounding adds to a set's range, as in tests/torch/test_native.py.
SLACK = {"float32": 7e-3, "bfloat16": 0.05}
# Blocks have 32 rows, tiles of them 8 or 16: sizes on both sides of each, and both ways round.
SHAPES = [(1, 1), (1, 7), (7, 1), (5, 200), (200, 5), (33, 33), (63, 65), (96, 128), (130, 64)]
SPECTRA = {
    "log": lambda k: np.logspace(0, -2.5, k),
    "decay": lambda k: 1 / np.arange(1.0, k + 1),
    "flat": np.ones,
    "spike": lambda k: np.r_[1.0, np.full(k - 1, 5e-3)],
    "rank 1": lambda k: np.eye(1, k)[0],
    "condition 1e8": lambda k: np.logspace(0, -8, k),
}

KERNEL = MatrixView(outputs=(1,), inputs=(0,))
LAYERS = MatrixView(outputs=(2,), inputs=(1,), batch=(0,))
VIEWS = {"first": KERNEL, "second": KERNEL, "layers": LAYERS, "gain": None}


def random(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def tree(seed: int) -> dict[str, jax.Array]:
    shapes = {"first": (40, 96), "second": (40, 96), "layers": (4, 24, 48), "gain": (7,)}
    return {name: random(*shape, seed=10 * seed + i) for i, (name, shape) in enumerate(shapes.items())}


def stacked(seeds: Any) -> dict[str, jax.Array]:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(tree, seeds))


def stepper(tx: optax.GradientTransformation) -> Any:
    def step(params: Any, state: Any, grads: Any) -> Any:
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return step


def after(tx: optax.GradientTransformation, params: Any, grads: Any) -> Any:
    return stepper(tx)(params, tx.init(params), grads)[0]


def calls(function: Any, *args: Any) -> int:
    """Return how many calls of the compiled code a program has."""
    return jax.jit(function).lower(*args).as_text().count("custom_call @downslope_polar_")


def assert_near(done: Any, expected: Any, tolerance: float = 5e-4) -> None:
    # Entries of a step are some 0.03: sums of float32 in another order, lifted by slopes of up to 400.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=tolerance), done, expected)


@partial(jax.jit, static_argnums=(1, 2))
def polar_of(stack: jax.Array, dtype: str, name: str = "minimax") -> jax.Array:
    return polars_of([stack], How(name, None, dtype))[0]


def has(*flags: str) -> bool:
    try:
        text = Path("/proc/cpuinfo").read_text().replace("\n", " ")
    except OSError:
        return False
    return all(f" {flag} " in text for flag in flags)


@pytest.mark.skipif(not (shutil.which("g++") and has("avx2", "fma")), reason="needs g++ and AVX2")
def test_it_compiles_where_it_can() -> None:
    """What fails to compile would skip all that follows."""
    assert not REASONS["float32"]
    assert not has("avx512_bf16") or not REASONS["bfloat16"]


@compiled
def test_steps_on_a_cpu_are_taken_by_compiled_code() -> None:
    params, grads = tree(0), tree(1)
    for options, expected in (
        ({}, 2),
        ({"ns_dtype": None}, 2),
        ({"normuon": True}, 2),
        ({"fused": False}, 0),
    ):
        tx = dj.muon(VIEWS, 0.1, **options)
        assert calls(partial(after, tx), params, grads) == expected, options  # one for each shape
    wide = jax.tree.map(lambda p: p.astype(jnp.float64), params)
    assert calls(partial(after, dj.muon(VIEWS, 0.1)), wide, wide) == 0
    half = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params)
    assert calls(partial(after, dj.muon(VIEWS, 0.1)), half, half) == 2
    assert calls(partial(after, dj.muon(VIEWS, 0.1, ns_dtype="float64")), params, grads) == 0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", COEFFICIENT_SETS)
@pytest.mark.parametrize("shape", [(24, 96), (96, 24), (48, 48), (130, 70)], ids=str)
def test_singular_values_end_in_the_published_range(dtype: str, name: str, shape: tuple[int, int]) -> None:
    rng, k = np.random.default_rng(0), min(shape)
    made = []
    for spectrum in SPECTRA.values():
        u, v = (np.linalg.qr(rng.standard_normal((side, k)))[0] for side in shape)
        s = spectrum(k) / np.linalg.norm(spectrum(k))
        made.append((u, s, v, (u * s) @ v.T))
    done = np.asarray(polar_of(jnp.asarray([g for *_, g in made], jnp.float32), dtype, name), np.float64)
    low, high = published_range(name, half=dtype == "bfloat16")
    for (u, s, v, _), one in zip(made, done, strict=True):
        values = np.diagonal(u.T @ one @ v)[s >= 1e-3]
        assert low - SLACK[dtype] <= values.min()
        assert values.max() <= high + SLACK[dtype]
        assert np.linalg.svd(one, compute_uv=False).max() <= high + SLACK[dtype]


def exact_polar(g: np.ndarray, name: str, half: bool) -> np.ndarray:
    """Return what the steps make of matrices where nothing is rounded, in the plainest form."""
    x = g / np.linalg.norm(g, axis=(-2, -1), keepdims=True)
    if name in RESCALED and not half:
        x = x / np.sqrt(np.linalg.norm(x @ np.swapaxes(x, -2, -1), axis=(-2, -1), keepdims=True))
    for row in coefficients_of(name, None, half):
        x = row.of(NumpyOps(), x @ np.swapaxes(x, -2, -1), False) @ x
    return x


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", COEFFICIENT_SETS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_is_as_near_to_the_exact_result_as_plain_jax(
    dtype: str, name: str, shape: tuple[int, int]
) -> None:
    g = random(3, *shape)
    half = dtype == "bfloat16"
    unit = np.asarray(g / jnp.linalg.norm(g, axis=(-2, -1), keepdims=True))
    exact = exact_polar(np.asarray(jnp.asarray(unit, dtype), np.float64), name, half)
    plain = np.asarray(polars_of([g], How(name, None, dtype), fused=False)[0], np.float64)
    error = np.linalg.norm(np.asarray(polar_of(g, dtype, name), np.float64) - exact)
    # As in tests/torch/test_native.py: the two round in other places, so either may be off by more.
    floor = 0.1 if half else 1e-5
    assert error <= 2 * np.linalg.norm(plain - exact) + floor * np.linalg.norm(exact)
    assert exact[0].size == 1 or np.linalg.norm(exact - exact[:, ::-1, ::-1]) > 5 * floor * np.linalg.norm(
        exact
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(24, 96), (200, 40), (300, 280)], ids=str)
def test_what_is_beside_a_matrix_changes_nothing(dtype: str, shape: tuple[int, int]) -> None:
    """To the bit: alone, in a stack, in several stacks, beside NaN."""
    g = random(7, *shape).at[2, 3, 4].set(jnp.nan).at[4].set(0).at[5, 0, 0].set(jnp.inf)
    together = np.asarray(polar_of(g, dtype))
    for i in (0, 1, 3, 6):
        np.testing.assert_array_equal(polar_of(g[i : i + 1], dtype)[0], together[i])
    assert np.isnan(together[[2, 5]]).all()
    assert not together[4].any()
    parts = jax.jit(lambda *stacks: polars_of(stacks, How("minimax", None, dtype)))(g[:2], g[2:3], g[3:])
    np.testing.assert_array_equal(np.concatenate(parts), together)


@compiled
@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf, -jnp.inf])
@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (40, 7)], ids=str)
def test_what_is_not_finite_spoils_its_matrix_as_in_plain_jax(bad: float, shape: tuple[int, int]) -> None:
    g = random(2, *shape).at[0, 0, 0].set(bad)
    for done in (polar_of(g, "float32"), polars_of([g], How("minimax", None, None), fused=False)[0]):
        assert np.isnan(done[0]).all()
        assert np.isfinite(done[1]).all()


@compiled
@pytest.mark.parametrize("size", [1e-34, 1e-30, 1e30, 1e37])
def test_gradients_of_any_size_make_the_same_step(size: float) -> None:
    g = random(2, 60, 50)
    done, expected = polar_of(jnp.float32(size) * g, "float32"), polar_of(g, "float32")
    # Numbers round otherwise, and those below 1e-38 to zero, which slopes of up to 400 lift.
    assert np.linalg.norm(done - expected) < 1e-3 * np.linalg.norm(expected)


@compiled
@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 4), (2, 3, 0)], ids=str)
def test_nothing_is_made_of_nothing(shape: tuple[int, ...]) -> None:
    assert polar_of(jnp.zeros(shape, jnp.float32), "float32").shape == shape


OPTIONS: list[dict[str, Any]] = [
    {},
    {"nesterov": False, "weight_decay": 0.0},
    {"normuon": True},
    {"coefficients": "keller5", "ns_steps": 3, "scale": "spectral"},
    {"max_stack_bytes": 1},
]


@compiled
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_steps_are_those_of_plain_jax(options: dict[str, Any]) -> None:
    made = []
    for fused in (None, False):
        tx = dj.muon(VIEWS, 0.1, ns_dtype=None, fused=fused, **options)
        params, step = tree(0), jax.jit(stepper(tx))
        state = tx.init(params)
        for k in range(3):
            params, state = step(params, state, tree(k + 1))
        made.append((params, state))
    assert_near(*made, 1e-3)  # three steps, whose small singular values differ by more


@compiled
def test_a_step_is_the_oracles() -> None:
    done = polar_of(random(2, 60, 50), "float32")
    expected = orthogonalize(NumpyOps(), np.asarray(random(2, 60, 50), np.float64))
    assert np.linalg.norm(done - expected) < 1e-3 * np.linalg.norm(expected)


@compiled
@pytest.mark.parametrize("ns_dtype", [None, "auto"])
def test_an_ensemble_steps_as_its_models_do(ns_dtype: Any) -> None:
    tx = dj.muon(VIEWS, 0.1, ns_dtype=ns_dtype)
    params, grads = stacked(range(3)), stacked(range(3, 6))
    every = jax.vmap(partial(after, tx))
    assert calls(every, params, grads) == 2
    done = jax.jit(every)(params, grads)
    for k in range(3):
        alone = jax.jit(partial(after, tx))(tree(k), tree(k + 3))
        # In bfloat16 an entry that rounds the other way is a 256th off.
        near = 5e-4 if ns_dtype is None else 5e-3
        assert_near(jax.tree.map(lambda leaf, k=k: leaf[k], done), alone, near)


@compiled
def test_what_is_not_mapped_over_is_orthogonalised_once() -> None:
    some, same = random(2, 24, 3, 40), random(1, 24, 40, seed=1)
    both = jax.vmap(
        lambda a, b: polars_of([a, b], How("minimax", None, None)), in_axes=(2, None), out_axes=[0, None]
    )
    done, once = jax.jit(both)(some, same)
    np.testing.assert_array_equal(once, polar_of(same, "float32"))
    for k in range(3):
        np.testing.assert_array_equal(done[k], polar_of(some[:, :, k], "float32"))


@compiled
def test_a_loop_of_steps_is_compiled() -> None:
    tx = dj.muon(VIEWS, 0.1, ns_dtype=None)
    step, params = stepper(tx), tree(0)
    state = tx.init(params)

    def loop(params: Any, state: Any, grads: Any) -> Any:
        return jax.lax.scan(lambda carry, g: (step(*carry, g), None), (params, state), grads)[0]

    assert calls(loop, params, state, stacked(range(1, 4))) == 2
    done = jax.jit(loop)(params, state, stacked(range(1, 4)))
    for k in range(1, 4):
        params, state = jax.jit(step)(params, state, tree(k))
    assert_near(done, (params, state))


@compiled
def test_eager_steps_are_those_of_jit() -> None:
    tx, params, grads = dj.muon(VIEWS, 0.1, ns_dtype=None), tree(0), tree(1)
    expected = jax.jit(partial(after, tx))(params, grads)
    assert_near(after(tx, params, grads), expected)
    with jax.disable_jit():
        assert_near(after(tx, params, grads), expected)  # in plain JAX


@compiled
@pytest.mark.parametrize("kind", [jax.sharding.AxisType.Auto, jax.sharding.AxisType.Explicit])
def test_parameters_spread_over_devices_step_as_whole_ones(kind: Any) -> None:
    mesh = jax.make_mesh((4,), ("model",), axis_types=(kind,))
    specs = {"first": (None, "model"), "second": ("model",), "layers": ("model",), "gain": ()}
    spread = {name: NamedSharding(mesh, PartitionSpec(*spec)) for name, spec in specs.items()}
    step = partial(after, dj.muon(VIEWS, 0.1, ns_dtype=None))
    params, grads = jax.device_put(tree(0), spread), jax.device_put(tree(1), spread)
    with jax.set_mesh(mesh):
        assert calls(step, params, grads) == 2
        done = jax.jit(step)(params, grads)
    assert_near(done, jax.jit(step)(tree(0), tree(1)))
    for name, leaf in done.items():
        assert leaf.sharding.is_equivalent_to(spread[name], leaf.ndim), name


@compiled
@pytest.mark.parametrize("within", [True, False])
@pytest.mark.parametrize("kind", [jax.sharding.AxisType.Auto, jax.sharding.AxisType.Explicit])
def test_devices_share_the_matrices(kind: Any, within: bool) -> None:
    """Each takes as many, and all of them get all: to the bit what one device finds."""
    mesh = jax.make_mesh((2, 2), ("some", "other"), axis_types=(kind, kind))
    how, stacks = How("minimax", None, None), [random(3, 40, 24), random(2, 40, 24, seed=1)]
    expected = jax.jit(lambda *stacks: polars_of(stacks, how))(*stacks)

    def scanned(*stacks: jax.Array) -> Any:
        return jax.lax.scan(lambda _, each: (None, polars_of(each, how)), None, stacks)[1]

    def mapped(*stacks: jax.Array) -> Any:
        return jax.vmap(lambda *each: polars_of(each, how), in_axes=2, out_axes=2)(*stacks)

    together = [jnp.stack([s, 2 * s]) for s in stacks]
    beside = [jnp.stack([s, 2 * s], axis=2) for s in stacks]
    with jax.set_mesh(mesh) if within else nullcontext(), jax.numpy_dtype_promotion("strict"):
        for function, given, each, take in (
            (lambda *stacks: polars_of(stacks, how), stacks, 2, lambda a: a),
            (scanned, together, 2, lambda a: a[0]),
            (mapped, beside, 3, lambda a: a[:, :, 0]),
        ):
            whole = jax.device_put(given, NamedSharding(mesh, PartitionSpec()))
            made = jax.jit(function).lower(*whole).compile()
            shares = re.findall(r"= f32\[(\d+),40,24\]\S* custom-call", made.as_text())
            assert shares == [str(each)], function  # of five or ten, by four
            for done, wanted in zip(made(*whole), expected, strict=True):
                assert done.sharding.is_fully_replicated
                np.testing.assert_array_equal(take(np.asarray(done)), wanted)


@compiled
@pytest.mark.parametrize("check_vma", [True, False])
def test_devices_that_step_by_themselves(check_vma: bool) -> None:
    mesh = jax.make_mesh((4,), ("devices",), axis_types=(jax.sharding.AxisType.Auto,))
    tx, params = dj.muon(VIEWS, 0.1, ns_dtype=None), tree(0)

    def one(grads: Any) -> Any:
        step = after(tx, params, jax.tree.map(lambda g: g[0], grads))
        return jax.tree.map(lambda p: p[None], step)

    several = jax.shard_map(
        one,
        mesh=mesh,
        in_specs=PartitionSpec("devices"),
        out_specs=PartitionSpec("devices"),
        check_vma=check_vma,
    )
    done = jax.jit(several)(stacked(range(1, 5)))
    mapped = jax.pmap(lambda grads: after(tx, params, grads))(stacked(range(1, 5)))
    for k in range(4):
        expected = jax.jit(partial(after, tx))(params, tree(k + 1))
        for found in (done, mapped):
            assert_near(jax.tree.map(lambda leaf, k=k: leaf[k], found), expected)


@compiled
def test_donated_buffers_are_used() -> None:
    tx = dj.muon(VIEWS, 0.1, ns_dtype=None)
    params, state = tree(0), tx.init(tree(0))
    done, _ = jax.jit(stepper(tx), donate_argnums=(0, 1))(params, state, tree(1))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves((params, state)))
    assert_near(done, jax.jit(stepper(tx))(tree(0), tx.init(tree(0)), tree(1))[0])


@compiled
def test_programs_for_elsewhere_do_not_ask_for_the_code() -> None:
    """Exported ones may be run by another machine; for a GPU nothing is compiled."""
    step = jax.jit(partial(after, dj.muon(VIEWS, 0.1, ns_dtype=None)))
    exported = export.export(step)(tree(0), tree(1))
    assert "downslope_polar_" not in exported.mlir_module()
    loaded = export.deserialize(exported.serialize())
    assert_near(loaded.call(tree(0), tree(1)), step(tree(0), tree(1)))
    lowered = step.trace(tree(0), tree(1)).lower(lowering_platforms=("cuda",))
    assert "custom_call" not in lowered.as_text()
    both = step.trace(tree(0), tree(1)).lower(lowering_platforms=("cuda", "cpu")).as_text()
    assert "custom_call @downslope_polar_" in both


@compiled
@pytest.mark.parametrize("ns_dtype", [None, "auto"])
def test_derivatives_are_those_of_plain_jax(ns_dtype: Any) -> None:
    """Of a loss after a step, as in meta-learning: reverse, forward, twice, in a batch, recomputed."""

    def loss(tx: optax.GradientTransformation, rate: Any, w: Any) -> Any:
        return jnp.sum(after(tx, {"w": w}, {"w": random(6, 9) + rate * w})["w"] ** 2)

    kernel = {"w": KERNEL}
    few: dict[str, Any] = {"coefficients": "keller5", "ns_steps": 2, "ns_dtype": ns_dtype}
    ours, plain = (partial(loss, dj.muon(kernel, 0.1, fused=f, **few)) for f in (None, False))
    rate, w = jnp.float32(0.3), random(6, 9, seed=1)
    assert calls(ours, rate, w) == 1
    for transform in (
        lambda f: jax.value_and_grad(f, argnums=(0, 1)),
        lambda f: lambda rate, w: jax.jvp(lambda r: f(r, w), (rate,), (rate,)),
        lambda f: jax.hessian(f),
        lambda f: jax.grad(jax.checkpoint(f)),
        lambda f: lambda rate, w: jax.vmap(jax.grad(f), (0, None))(jnp.stack([rate, 2 * rate]), w),
    ):
        done, expected = (jax.jit(transform(f))(rate, w) for f in (ours, plain))
        # The same operations, fused otherwise.
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), done, expected)
        assert calls(transform(ours), rate, w) == 0


@compiled
def test_checks_reach_into_a_step() -> None:
    tx = dj.muon(VIEWS, lambda t: jnp.where(t == 3, jnp.nan, 0.1), ns_dtype=None)
    params, state = tree(0), tx.init(tree(0))
    error, (updates, _) = jax.jit(checkify.checkify(tx.update))(tree(1), state, params)
    error.throw()
    assert_near(updates, jax.jit(tx.update)(tree(1), state, params)[0])
    late = state._replace(count=state.count + 3)
    error, _ = jax.jit(checkify.checkify(tx.update))(tree(1), late, params)
    assert "the learning rate is nan at step 3" in str(error.get())


@compiled
def test_shapes_are_known_without_arrays() -> None:
    step = partial(after, dj.muon(VIEWS, 0.1))
    shapes = jax.eval_shape(step, tree(0), tree(1))
    assert jax.tree.map(lambda s: s.shape, shapes) == jax.tree.map(lambda p: p.shape, tree(0))


@compiled
def test_threads_that_step_at_once_take_the_same_steps() -> None:
    """On several devices and in programs of several calls: nobody waits for a thread that does not come."""
    shapes = [[(2, 5, 7), (1, 5, 7)], [(3, 200, 40)], [(2, 300, 280), (1, 300, 280)], [(40, 24, 96)]]
    stacks = [[random(*shape) for shape in own] for own in shapes]
    every = jax.jit(lambda stacks: [polars_of(own, How("minimax", None, None)) for own in stacks])
    expected = jax.tree.map(np.asarray, every(stacks))
    wrong: list[int] = []

    def run(k: int) -> None:
        own = jax.device_put(stacks, jax.devices()[k % 4])
        for _ in range(20):
            same = jax.tree.map(lambda a, b: np.array_equal(a, b), every(own), expected)
            wrong.extend([k] * (not all(jax.tree.leaves(same))))

    threads = [threading.Thread(target=run, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


RUN = """
import sys
import jax, jax.numpy as jnp, numpy as np
import downslope.jax as dj
from downslope.grouping.view import MatrixView
p = {"w": jnp.asarray(np.random.default_rng(0).standard_normal((48, 80)), jnp.float32)}
tx = dj.muon({"w": MatrixView((0,), (1,))}, 0.1, weight_decay=0.0)
step = jax.jit(tx.update)
updates, _ = step(p, tx.init(p), p)
values = np.linalg.svd(updates["w"], compute_uv=False) / (0.02 * 80**0.5)
assert 0.1 < values.min() < values.max() < 1.4, values
assert "torch" not in sys.modules
print(dj.engine(), step.lower(p, tx.init(p), p).as_text().count("custom_call"))
"""


def run(tmp_path: Path, **environment: str) -> str:
    env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), **environment}
    done = subprocess.run([sys.executable, "-c", RUN], capture_output=True, text=True, check=True, env=env)
    return done.stdout.strip()


def test_without_a_compiler_the_step_is_plain_and_says_why(tmp_path: Path) -> None:
    why = run(tmp_path, PATH=str(tmp_path), CXX="")
    assert why == "plain JAX (nothing compiled for this CPU: no C++ compiler, install g++) 0"
    why = run(tmp_path, CXX="false")
    assert why == "plain JAX (nothing compiled for this CPU: false fails: it says nothing) 0"
    assert not list(tmp_path.glob("**/*.so"))


@compiled
def test_code_that_xla_refuses_is_not_called(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("another version")

    found = (polar._target, polar._reason)
    for one in found:
        one.cache_clear()
    monkeypatch.setattr(jax.ffi, "register_ffi_target", refuse)
    why = "plain JAX (nothing compiled for this CPU: XLA does not take it: another version)"
    assert dj.engine() == why
    assert calls(lambda g: polars_of([g], How("minimax", None, "auto")), random(1, 3, 11)) == 0
    for one in found:
        one.cache_clear()
    monkeypatch.undo()
    assert dj.engine().startswith("orthogonalised by code compiled for this CPU")


@compiled
def test_it_is_kept_and_runs_without_threads_and_with_jaxs_own_cache(tmp_path: Path) -> None:
    said = dj.engine() + " 1"
    assert run(tmp_path) == said
    (kept,) = tmp_path.glob("downslope/*.so")
    before = kept.stat().st_mtime_ns
    for more in (
        {"XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"},
        *2
        * [
            {
                "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "jax"),
                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            }
        ],
    ):
        assert run(tmp_path, **more) == said
    assert list((tmp_path / "jax").iterdir())
    assert [kept] == list(tmp_path.glob("downslope/*.so"))
    assert kept.stat().st_mtime_ns == before


def test_what_is_asked_for_is_said() -> None:
    assert dj.engine(platform="tpu") == "plain JAX (nothing compiled for tpu)"
    assert dj.engine(ns_dtype="float64", platform="cpu") == "plain JAX (nothing compiled for float64)"
    assert dj.engine("float64", "bfloat16", platform="cpu") == "plain JAX (nothing compiled for float64)"
    for dtype, why in REASONS.items():
        said = f"plain JAX ({why})" if why else f"orthogonalised by code compiled for this CPU, in {dtype}"
        assert dj.engine("bfloat16", dtype, platform="cpu") == said
    with pytest.raises(ValueError, match="ns_dtype = 'float16': expected None or one of auto, bfloat16"):
        dj.engine(ns_dtype="float16")
    with pytest.raises(ValueError, match="fused = True: expected None or False"):
        dj.muon(VIEWS, 0.1, fused=True)
