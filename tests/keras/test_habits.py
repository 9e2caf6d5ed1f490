"""The optimizers do what Keras's own do: fit, save, load, schedules, clipping, averaging and the rest."""

import functools
import itertools

import keras
import numpy as np
import pytest
from keras import layers

from downslope.keras import SGD, AdaGrad, Adam, AdamW, Muon, RMSProp, partition
from tests.keras.drive import BACKEND

JIT = {"tensorflow": (False, True), "jax": (True,), "torch": (False,)}[BACKEND]
FITTED = [AdamW, Muon]  # fit compiles, which takes longer than all else here
ALL = [SGD, AdaGrad, RMSProp, Adam, AdamW, Muon]


def model(seed: int = 0) -> keras.Model:
    """A small classifier of token sequences with each kind of variable."""
    init = iter(keras.initializers.RandomNormal(stddev=0.2, seed=seed + i) for i in range(9))
    inputs = keras.Input((6,), dtype="int32")
    x = layers.Embedding(20, 16, embeddings_initializer=next(init), name="tokens")(inputs)
    x = layers.Dense(24, "tanh", kernel_initializer=next(init), name="first")(x)
    x = layers.LayerNormalization(name="norm")(x)
    x = layers.Dense(24, "tanh", kernel_initializer=next(init), name="second")(x)
    x = layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, layers.Dense(3, kernel_initializer=next(init), name="head")(x))


def data(n: int = 48):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 20, (n, 6)).astype("int32")
    return x, (x.sum(1) % 3).astype("int32")


def fitted(optimizer, *, epochs=2, jit=False, of=None, **compile_options):
    m = of or model()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    m.compile(optimizer=optimizer, loss=loss, jit_compile=jit, **compile_options)
    history = m.fit(*data(), batch_size=16, epochs=epochs, shuffle=False, verbose=0)
    return m, history.history["loss"]


def weights(m):
    return [np.array(w, dtype=np.float64) for w in m.get_weights()]


def close(a, b, rtol=2e-5, atol=2e-6):
    for x, y in zip(a, b, strict=True):
        np.testing.assert_allclose(x, y, rtol=rtol, atol=atol)


@pytest.mark.parametrize(
    ("kind", "jit"),
    [*((kind, JIT[0]) for kind in FITTED), *((kind, True) for kind in (SGD, Muon) if True in JIT[1:])],
)
def test_fit_lowers_the_loss(kind, jit):
    _, losses = fitted(kind(learning_rate=3e-2), epochs=4, jit=jit)
    assert losses[-1] < losses[0] - 0.01


@pytest.mark.skipif(BACKEND != "torch", reason="Dynamo is PyTorch's")
@pytest.mark.parametrize("kind", [SGD, Muon])
def test_a_compiled_train_step_takes_the_same_steps(kind, monkeypatch):
    import torch

    # all of torch.compile but the making of kernels, which needs a C++ compiler
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    torch.compiler.reset()
    runs = [fitted(kind(learning_rate=3e-2), epochs=3, jit=jit) for jit in (False, True)]
    assert runs[1][1][-1] < runs[1][1][0] - 0.01
    close(weights(runs[1][0]), weights(runs[0][0]))


def test_muon_finds_its_partition_when_it_is_built():
    optimizer, m = Muon(learning_rate=1e-2), model()
    m.compile(keras.optimizers.LossScaleOptimizer(optimizer))
    m.optimizer.build(m.trainable_variables)
    roles = {a.name: a.role.value for a in optimizer.partition}
    assert roles["tokens/embeddings"] == "embedding"
    assert (roles["first/kernel"], roles["second/kernel"], roles["head/kernel"]) == (
        "hidden",
        "hidden",
        "output",
    )
    assert roles["norm/gamma"] == "vector"
    assert optimizer.partition == partition(m)


def test_an_explicit_partition_steps_the_same():
    found, _ = fitted(Muon(learning_rate=1e-2))
    m = model()
    given, _ = fitted(Muon(partition(m), learning_rate=1e-2), of=m)
    close(weights(found), weights(given), rtol=0, atol=0)


@pytest.mark.parametrize("kind", [RMSProp, Muon], ids=lambda k: k.__name__)
def test_a_saved_model_goes_on_as_if_never_stopped(kind, tmp_path):
    whole, _ = fitted(kind(learning_rate=1e-2), epochs=4)
    half, _ = fitted(kind(learning_rate=1e-2), epochs=2)
    half.save(tmp_path / "model.keras")
    keras.utils.clear_session(free_memory=False)
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert type(again.optimizer) is kind
    assert again.optimizer.get_config() == half.optimizer.get_config()
    again.fit(*data(), batch_size=16, epochs=2, shuffle=False, verbose=0)
    close(weights(again), weights(whole), rtol=1e-6, atol=1e-7)


@pytest.mark.filterwarnings(
    "ignore:Skipping variable loading for optimizer 'loss_scale_optimizer'"
)  # Keras's own
@pytest.mark.parametrize("wrap", [lambda o: o, keras.optimizers.LossScaleOptimizer], ids=["bare", "scaled"])
def test_a_model_that_was_saved_before_it_was_fitted_is_loaded(wrap, tmp_path):
    m = model()
    m.compile(wrap(Muon(learning_rate=0.25)), "mse")
    m.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    found = getattr(again.optimizer, "inner_optimizer", again.optimizer)
    assert type(found) is Muon
    assert (int(found.iterations), float(found.learning_rate)) == (0, 0.25)
    close(weights(again), weights(m), rtol=0, atol=0)


@pytest.mark.parametrize("start", [AdaGrad, keras.optimizers.SGD], ids=["ours", "Keras's"])
def test_weights_of_before_the_first_step_begin_again(start, tmp_path):
    m = model()
    m.compile(start(learning_rate=0.5), "mse")
    m.save_weights(tmp_path / "start.weights.h5")
    before = weights(m)
    optimizer = AdaGrad(learning_rate=0.1, initial_accumulator_value=0.5, on_nonfinite="skip")
    m.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    m.train_on_batch(*data(16))
    m.load_weights(tmp_path / "start.weights.h5")
    close(weights(m), before, rtol=0, atol=0)
    iterations, rate, *rest = (keras.ops.convert_to_numpy(v) for v in optimizer.variables)
    assert (int(iterations), float(rate)) == (0, 0.5)
    assert {float(n) for v in rest for n in np.ravel(v)} == {0.0, 0.5}  # skipped steps, sums of squares


def test_weights_without_an_optimizer_leave_it_as_it_is(tmp_path):
    plain, (m, _) = model(seed=1), fitted(SGD(learning_rate=0.1, momentum=0.5), epochs=1)
    plain.save_weights(tmp_path / "plain.weights.h5")
    before = [keras.ops.convert_to_numpy(v).copy() for v in m.optimizer.variables]
    with pytest.warns(UserWarning, match="Skipping variable loading for optimizer"):
        m.load_weights(tmp_path / "plain.weights.h5")
    close(weights(m), weights(plain), rtol=0, atol=0)
    close([keras.ops.convert_to_numpy(v) for v in m.optimizer.variables], before, rtol=0, atol=0)


@pytest.mark.parametrize("pinned", [False, True])
def test_a_sequential_model_is_loaded_though_its_variables_change_names(pinned, tmp_path):
    """Keras puts the names of the model and of a wrapper before its variables', and may not when it loads."""
    hidden = [layers.Bidirectional(layers.GRU(4, return_sequences=True)), layers.Dense(8), layers.Dense(8)]
    m = keras.Sequential([keras.Input((3, 4)), *hidden, layers.GlobalAveragePooling1D(), layers.Dense(2)])
    m.compile(Muon(partition(m) if pinned else None), loss="mse")
    x, y = np.ones((4, 3, 4)), np.ones((4, 2))
    m.train_on_batch(x, y)
    m.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    for each in (m, again):
        each.train_on_batch(x, y)
    close(weights(m), weights(again), rtol=1e-6, atol=1e-7)
    assert [a.rule for a in again.optimizer.partition] == [a.rule for a in m.optimizer.partition]


@pytest.mark.parametrize("kind", ALL, ids=lambda k: k.__name__)
def test_a_config_makes_the_same_optimizer_again(kind):
    options = {SGD: {"momentum": 0.5, "nesterov": True}, RMSProp: {"centered": True}}.get(kind, {})
    if kind is Muon:
        options = {
            "by_role": {"embedding": {"lr_ratio": 0.5}},
            "overrides": {"*second*": "adamw"},
            "ns_steps": 4,
        }
    one = kind(learning_rate=0.25, l2=0.1, cautious=True, weight_decay=0.2, clipnorm=2.0, **options)
    config = keras.saving.serialize_keras_object(one)
    two = keras.saving.deserialize_keras_object(config)
    assert two.get_config() == one.get_config()
    assert (two.rule, two.weight_decay, two.cautious) == (one.rule, 0.2, True)
    assert kind.from_config(one.get_config()).get_config() == one.get_config()


def test_a_schedule_is_asked_at_every_step():
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([2], [0.1, 0.0])
    m = model()
    m.compile(SGD(learning_rate=schedule), loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    x, y = data(16)
    history = [weights(m)]
    for _ in range(5):
        m.train_on_batch(x, y)
        history.append(weights(m))
    moved = [
        any((a != b).any() for a, b in zip(one, two, strict=True)) for one, two in itertools.pairwise(history)
    ]
    assert moved == [True, True, True, False, False]


def manual(optimizer, p, grads):
    for g in grads:
        optimizer.apply([keras.ops.convert_to_tensor(g)], [p])
    return keras.ops.convert_to_numpy(p.value)


def variable(shape=(3, 4), name="p", dtype="float32"):
    return keras.Variable(np.random.default_rng(1).standard_normal(shape), dtype=dtype, name=name)


GRADS = [np.random.default_rng(i).standard_normal((3, 4)).astype("float32") for i in range(4)]


@pytest.mark.parametrize("how", ["clipnorm", "clipvalue", "global_clipnorm"])
def test_gradients_are_clipped_before_the_rule_sees_them(how):
    clipped = {
        "clipvalue": [np.clip(g, -0.5, 0.5) for g in GRADS],
        "clipnorm": [g * min(1, 0.5 / np.linalg.norm(g)) for g in GRADS],
        "global_clipnorm": [g * min(1, 0.5 / np.linalg.norm(g)) for g in GRADS],
    }[how]
    got = manual(SGD(learning_rate=0.1, momentum=0.9, **{how: 0.5}), variable(), GRADS)
    want = manual(SGD(learning_rate=0.1, momentum=0.9), variable(), clipped)
    unclipped = manual(SGD(learning_rate=0.1, momentum=0.9), variable(), GRADS)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    assert np.abs(got - unclipped).max() > 0.1


def test_accumulated_gradients_make_one_step_of_their_mean():
    got = manual(Adam(learning_rate=0.1, gradient_accumulation_steps=2), variable(), GRADS)
    want = manual(
        Adam(learning_rate=0.1),
        variable(),
        [(a + b) / 2 for a, b in zip(GRADS[::2], GRADS[1::2], strict=True)],
    )
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_averaged_weights_follow_the_steps():
    optimizer, p = SGD(learning_rate=0.1, use_ema=True, ema_momentum=0.5), variable()
    average = None
    for g in GRADS:
        value = manual(optimizer, p, [g])
        average = value if average is None else 0.5 * average + 0.5 * value
    optimizer.finalize_variable_values([p])
    np.testing.assert_allclose(keras.ops.convert_to_numpy(p.value), average, rtol=1e-5, atol=1e-6)


def test_a_model_with_averaged_weights_is_fitted_again():
    """On JAX `fit` hands the memory of weights and averages to XLA, which takes none twice."""
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile(SGD(learning_rate=0.1, use_ema=True, ema_momentum=0.5), "mse")
    x, y = np.ones((4, 3), "float32"), np.ones((4, 2), "float32")
    for _ in range(2):
        model.fit(x, y, batch_size=2, verbose=0)
    average = model.optimizer._model_variables_moving_average[0]
    np.testing.assert_array_equal(*map(keras.ops.convert_to_numpy, (average, model.layers[0].kernel)))


def test_variables_can_be_kept_from_decay():
    kept, decayed = variable(name="bias"), variable(name="kernel")
    optimizer = SGD(learning_rate=0.5, weight_decay=0.1)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    zero = keras.ops.zeros((3, 4))
    start = keras.ops.convert_to_numpy(kept.value)
    optimizer.apply([zero, zero], [kept, decayed])
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(kept.value), start)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(decayed.value), start * 0.95, rtol=1e-6)


def test_loss_scaling_leaves_the_steps_as_they_are():
    kind = AdamW if BACKEND == "jax" else Muon  # which XLA takes ten seconds to compile inside a condition
    plain, _ = fitted(kind(learning_rate=1e-2), epochs=2)
    scaled, _ = fitted(keras.optimizers.LossScaleOptimizer(kind(learning_rate=1e-2), initial_scale=2.0**10))
    close(weights(plain), weights(scaled), rtol=1e-4, atol=1e-5)
    assert len(scaled.optimizer.inner_optimizer.variables) > 2


@pytest.mark.parametrize(
    ("kind", "policy"), [(AdamW if BACKEND != "jax" else SGD, "mixed_float16"), (Muon, "mixed_bfloat16")]
)
def test_mixed_precision_trains(kind, policy):
    keras.config.set_dtype_policy(policy)
    try:
        m, losses = fitted(kind(learning_rate=3e-2), epochs=4)
    finally:
        keras.config.set_dtype_policy("float32")
    assert losses[-1] < losses[0]
    assert {keras.backend.standardize_dtype(v.dtype) for v in m.trainable_variables} == {"float32"}
    assert isinstance(m.optimizer, keras.optimizers.LossScaleOptimizer) == (policy == "mixed_float16")


def test_the_learning_rate_can_be_set_while_training():
    optimizer, p = SGD(learning_rate=0.5), variable()
    start = keras.ops.convert_to_numpy(p.value).copy()
    optimizer.learning_rate = 0.0
    np.testing.assert_array_equal(manual(optimizer, p, GRADS[:1]), start)
    with pytest.raises(ValueError, match="learning_rate = nan"):
        optimizer.learning_rate = float("nan")
    assert float(np.array(keras.ops.convert_to_numpy(optimizer.learning_rate.value))) == 0.0


def test_roles_have_their_own_rate_and_decay():
    m = model()
    optimizer = Muon(partition(m), by_role={"embedding": {"lr_ratio": 0.0}, "output": {"weight_decay": 0.0}})
    optimizer.build(m.trainable_variables)
    before = weights(m)
    optimizer.apply([keras.ops.ones(v.shape) for v in m.trainable_variables], m.trainable_variables)
    moved = {
        v.path: (a != b).any() for v, a, b in zip(m.trainable_variables, before, weights(m), strict=True)
    }
    assert not moved.pop("tokens/embeddings")
    assert all(moved.values())


def test_a_subclassed_model_is_traced(capsys):
    class Net(keras.Model):
        def __init__(self):
            super().__init__(name="net")
            self.head = layers.Dense(2)  # made first, called last
            self.inner = [layers.Dense(8, "relu") for _ in range(3)]

        def call(self, x):
            for layer in self.inner:
                x = layer(x)
            return self.head(keras.ops.concatenate([x, x], -1))

    m = Net()
    m(np.zeros((2, 8), "float32"))
    roles = [a.role.value for a in partition(m) if len(a.shape) == 2]
    assert roles == ["output", "input", "hidden", "hidden"]


@pytest.mark.parametrize("heads", ["fused", "split"])
def test_heads_may_be_split_and_rows_evened(heads, tmp_path):
    x = keras.Input((6, 8))
    h = layers.Dense(8)(x)
    y = layers.MultiHeadAttention(2, 4, name="mha")(h, h)
    model = keras.Model(x, layers.Dense(3)(h + y))
    optimizer = Muon(learning_rate=0.01, heads=heads, normuon=True, momentum_warmup=3)
    model.compile(optimizer, "mse", jit_compile=False)
    rng = np.random.default_rng(0)
    data = rng.standard_normal((8, 6, 8)).astype("float32"), rng.standard_normal((8, 6, 3)).astype("float32")
    model.fit(*data, batch_size=4, verbose=0)
    found = {a.name: a for a in optimizer.partition if a.rule == "muon"}
    (query,) = (a for name, a in found.items() if name.endswith("query/kernel"))
    assert query.view.matrices(query.shape) == ([(1, 8, 8)] if heads == "fused" else [(2, 4, 8)])
    rows = [tuple(v.shape) for v in optimizer.variables if v.path.endswith("row_square")]
    assert rows == [(8,)] * len(found)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert again.optimizer.get_config()["heads"] == heads
    for a, b in zip(again.optimizer.variables, optimizer.variables, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(a), keras.ops.convert_to_numpy(b))
    with pytest.raises(ValueError, match="pass no overrides or heads beside it"):
        Muon(partition(model), heads="split")
