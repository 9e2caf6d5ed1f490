"""Muon's orthogonalisation compiled for this CPU, where Keras runs on JAX or PyTorch."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import downslope as ds
from downslope.grouping.partition import Assignment, Partition, Role
from downslope.grouping.view import MatrixView
from downslope.keras import Muon
from downslope.ops.numpy import NumpyOps
from downslope.rules import step
from tests.keras.drive import BACKEND, EVERY, stepper, tensors, values, variables

PLAIN = {"tensorflow": "plain TensorFlow", "jax": "plain JAX", "torch": "plain PyTorch"}[BACKEND]
COMPILED = "orthogonalised by code compiled for this CPU, in "
WHY = {dtype: Muon(ns_dtype=dtype).engine for dtype in ("float32", "bfloat16")}
compiled = pytest.mark.skipif(not WHY["float32"].startswith(COMPILED), reason=WHY["float32"])
on_jax = pytest.mark.skipif(BACKEND != "jax", reason="of JAX's programs")

VIEWS = {
    "dense": ((40, 96), MatrixView((1,), (0,))),
    "square": ((33, 33), MatrixView((1,), (0,))),
    "column": ((7, 1), MatrixView((1,), (0,))),
    "convolution": ((3, 3, 5, 24), MatrixView((3,), (0, 1, 2))),
    "groups": ((3, 12, 24), MatrixView((2,), (0, 1), blocks=(12, 12))),
    "experts": ((4, 24, 48), MatrixView((2,), (1,), batch=(0,))),
    "qkv": ((24, 96), MatrixView((1,), (0,), blocks=(48, 24, 24))),
    "heads": ((24, 2, 12), MatrixView((2,), (0,), batch=(1,))),
    "output": ((2, 12, 40), MatrixView((2,), (0, 1))),
}
OPTIONS: list[dict[str, Any]] = [
    {},
    {"normuon": True},
    {"nesterov": False, "momentum": 0.5, "scale": "spectral"},
    {"coefficients": "keller5", "ns_steps": 3},
    {"coefficients": "polar_express", "scale": "original", "momentum_warmup": 2},
]


def arrays(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape).astype("float32") for name, (shape, _) in VIEWS.items()}


def muon(**options: Any) -> Muon:
    rows = [Assignment(name, shape, Role.HIDDEN, "muon", view, "") for name, (shape, view) in VIEWS.items()]
    return Muon(Partition(rows), **{"learning_rate": 0.1, "ns_dtype": "float32", **options})


def run(mode: str, dtype: str = "float32", **options: Any) -> dict[str, np.ndarray]:
    """Return the parameters after three steps."""
    optimizer, params = muon(**options), variables(arrays(0), dtype)
    optimizer.build(params)
    take = stepper(optimizer, params, mode)
    for k in range(3):
        take(tensors(arrays(k + 1), dtype))
    return values(params)


def expected(**options: Any) -> dict[str, np.ndarray]:
    """Return the same of the rule in NumPy, matrix by matrix in float64."""
    x, rule, found = NumpyOps(), ds.Muon(**options), {}
    grads = [arrays(k + 1) for k in range(3)]
    for name, p in arrays(0).items():
        shape, view = VIEWS[name]
        stacks = view.split(x, p.astype(float))
        states = [rule.init(x, stack) for stack in stacks]
        for k, g in enumerate(grads, start=1):
            for i, part in enumerate(view.split(x, g[name].astype(float))):
                direction, states[i] = rule.direction(x, part, states[i], stacks[i], k)
                stacks[i] = stacks[i] + step(x, stacks[i], direction, lr=0.1, weight_decay=0.1)
        found[name] = view.join(x, stacks, shape)
    return found


def calls(optimizer: Muon, dtype: str = "float32") -> int:
    """Return how many calls of the compiled code the program of a step has."""
    import jax

    params = variables(arrays(0), dtype)
    optimizer.build(params)
    state, held = [v.value for v in optimizer.variables], [p.value for p in params]
    lowered = jax.jit(optimizer.stateless_apply).lower(state, tensors(arrays(1), dtype), held)
    return lowered.as_text().count("custom_call @downslope_polar_")


@compiled
@on_jax
def test_steps_are_taken_by_compiled_code() -> None:
    shapes = {size[1:] for shape, view in VIEWS.values() for size in view.as_laid_out().matrices(shape)}
    for dtype, options, found in (
        ("float32", {}, len(shapes)),
        ("float32", {"normuon": True, "ns_dtype": "auto"}, len(shapes)),
        ("bfloat16", {}, len(shapes)),  # whose steps are float32
        ("float32", {"fused": False}, 0),
        ("float32", {"ns_dtype": "float64"}, 0),
        ("float64", {}, 0),
    ):
        assert calls(muon(**options), dtype) == found, (dtype, options)


@compiled
@pytest.mark.skipif(BACKEND != "torch", reason="what PyTorch calls")
@pytest.mark.parametrize("fused", [None, False])
def test_compiled_code_is_not_called_where_it_is_not_wanted(
    fused: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from downslope.torch.native import polar

    called: list[int] = []
    original = polar.run
    monkeypatch.setattr(polar, "run", lambda *args: (called.append(1), original(*args))[1])
    run("eager", fused=fused)
    assert bool(called) == (fused is None)


@compiled
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_steps_are_those_of_the_oracle(options: dict[str, Any]) -> None:
    """So they are the same on every backend, and in every framework."""
    wanted, start = expected(**options), arrays(0)
    for name, done in run(EVERY, **options).items():
        # Sums of float32 in another order, lifted by slopes of up to 400, in three steps of 0.1.
        np.testing.assert_allclose(done, wanted[name], rtol=0, atol=1e-3, err_msg=name)
        assert np.abs(done - start[name]).max() > 0.03, name


@compiled
@on_jax
def test_eager_steps_are_those_of_jit() -> None:
    done, jitted = run("eager"), run("jit")
    for name in VIEWS:  # only what XLA fuses around them differs
        np.testing.assert_allclose(done[name], jitted[name], rtol=0, atol=1e-3, err_msg=name)


@pytest.mark.skipif(
    BACKEND != "tensorflow" and not WHY["bfloat16"].startswith(COMPILED), reason=WHY["bfloat16"]
)
def test_bfloat16_steps_are_near_those_of_float32() -> None:
    done, wanted = run(EVERY, ns_dtype="bfloat16"), run(EVERY)
    for name, (shape, view) in VIEWS.items():
        # Another set of polynomials: each leaves singular values in [0.9, 1.2] or so, but the smallest.
        moved = [np.linalg.norm(each[name] - arrays(0)[name]) for each in (done, wanted)]
        assert 0.8 < moved[0] / moved[1] < 1.25, (name, shape, view)
        assert np.linalg.norm(done[name] - wanted[name]) < 0.25 * moved[1], name


@pytest.mark.skipif(BACKEND != "tensorflow", reason="of TensorFlow's graphs")
def test_tensorflow_iterates_in_bfloat16_where_its_products_are_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """That is on some CPUs, and not in what XLA compiles."""
    import tensorflow as tf

    def dtypes(jit: bool, dtype: str = "float32", ns_dtype: str = "auto") -> set[str]:
        optimizer, params = muon(ns_dtype=ns_dtype), variables(arrays(0), dtype)
        optimizer.build(params)
        step = tf.function(lambda grads: optimizer.apply(grads, params), jit_compile=jit)
        graph = step.get_concrete_function(tensors(arrays(1), dtype)).graph
        products = [op for op in graph.get_operations() if "MatMul" in op.type]
        return {op.outputs[0].dtype.name for op in products}

    for fast in (True, False):
        monkeypatch.setattr("downslope.keras.polar._is_fast_in_tensorflow", lambda fast=fast: fast)
        assert dtypes(False) == {"bfloat16" if fast else "float32"}
        assert dtypes(False, "bfloat16") == dtypes(False)  # whose steps are float32
        assert dtypes(True) == dtypes(False, ns_dtype="float32") == {"float32"}
        assert dtypes(False, "float64") == {"float64"}
        assert dtypes(True, ns_dtype="bfloat16") == {"bfloat16"}
        said = "bfloat16 (with XLA in float32)" if fast else "float32"
        assert muon(ns_dtype="auto").engine == f"plain TensorFlow, in {said}"


def test_what_orthogonalises_is_said() -> None:
    optimizer, params = muon(ns_dtype="auto"), variables(arrays(0), "float64")
    before = optimizer.engine
    optimizer.build(params)
    if BACKEND == "tensorflow":
        assert before.startswith("plain TensorFlow, in ")
        assert optimizer.engine == "plain TensorFlow, in float64"  # of these variables
        assert muon().engine == muon(fused=False).engine == "plain TensorFlow, in float32"
        assert muon(ns_dtype="bfloat16").engine == "plain TensorFlow, in bfloat16"
    else:
        assert before in WHY.values()
        assert (
            optimizer.engine == muon(ns_dtype="float64").engine == f"{PLAIN} (nothing compiled for float64)"
        )
        assert muon(fused=False).engine == f"{PLAIN} (fused=False)"
    half = muon(ns_dtype="auto")
    half.build(variables(arrays(0), "bfloat16"))
    assert half.engine == before
    with pytest.raises(ValueError, match="fused = True: expected None or False"):
        Muon(fused=True)
    assert Muon.from_config(muon(fused=False).get_config()).fused is False


def network() -> keras.Model:
    init = iter(keras.initializers.GlorotUniform(seed=i) for i in range(9))
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(12, 3, activation="gelu", kernel_initializer=next(init))(inputs)
    x = layers.Conv2D(16, 3, groups=2, activation="gelu", kernel_initializer=next(init))(x)
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dense(24, "gelu", kernel_initializer=next(init))(x)
    return keras.Model(inputs, layers.Dense(4, kernel_initializer=next(init))(x))


def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((32, 8, 8, 3)).astype("float32"), rng.integers(0, 4, 32).astype("int32")


def fitted(**options: Any) -> list[np.ndarray]:
    model = network()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(Muon(learning_rate=1e-2, **options), loss)
    model.fit(*data(), batch_size=16, epochs=2, shuffle=False, verbose=0)
    return [np.array(w, "float64") for w in model.get_weights()]


def near(done: list[np.ndarray], wanted: list[np.ndarray]) -> None:
    for a, b in zip(done, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-3)  # four steps of 0.01, each entry some 0.1


@compiled
def test_fit_takes_the_steps_of_the_plain_backend() -> None:
    near(fitted(ns_dtype="float32"), fitted(ns_dtype="float32", fused=False))


@compiled
@on_jax
@pytest.mark.parametrize("spread", ["data", "model"])
def test_devices_together_take_the_steps_of_one(spread: str) -> None:
    """Batches or variables spread over the CPU's devices, as Keras's distributions do."""
    devices = keras.distribution.list_devices("cpu")
    if spread == "data":
        distribution = keras.distribution.DataParallel(devices=devices)
    else:
        mesh = keras.distribution.DeviceMesh((1, len(devices)), ("batch", "model"), devices)
        layout = keras.distribution.LayoutMap(mesh)
        layout["dense.*kernel"] = keras.distribution.TensorLayout([None, "model"])
        layout["conv.*kernel"] = keras.distribution.TensorLayout([None, None, None, "model"])
        distribution = keras.distribution.ModelParallel(layout_map=layout, batch_dim_name="batch")
    assert len(devices) > 1
    alone = fitted(ns_dtype="float32")
    keras.distribution.set_distribution(distribution)
    try:
        near(fitted(ns_dtype="float32"), alone)
    finally:
        keras.distribution.set_distribution(None)


RUN = """
import sys
sys.modules["optax"] = None  # which users of Keras may not have
import keras, numpy as np
from keras import layers
from downslope.keras import Muon
keras.utils.set_random_seed(0)
model = keras.Sequential([keras.Input((6,)), layers.Dense(16), layers.Dense(16), layers.Dense(2)])
model.compile(Muon(learning_rate=1e-2), "mse")
x = np.random.default_rng(0).standard_normal((32, 6)).astype("float32")
losses = model.fit(x, x[:, :2], epochs=4, verbose=0).history["loss"]
assert losses[-1] < losses[0], losses
print(model.optimizer.engine)
"""


def engine_in(tmp_path: Any, **environment: str) -> str:
    env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), **environment}
    done = subprocess.run([sys.executable, "-c", RUN], capture_output=True, text=True, check=True, env=env)
    return done.stdout.strip()


def test_without_a_compiler_the_backend_does_it_and_says_why(tmp_path: Any) -> None:
    why = engine_in(tmp_path, PATH=str(tmp_path), CXX="")
    if BACKEND == "tensorflow":
        assert why == Muon().engine
    else:
        assert why == f"{PLAIN} (nothing compiled for this CPU: no C++ compiler, install g++)"
    assert not list(tmp_path.glob("**/*.so"))


@compiled
def test_it_needs_no_framework_beside_the_backend(tmp_path: Any) -> None:
    assert engine_in(tmp_path) == Muon().engine
