"""Plain TensorFlow: `tf.Module`, `tf.Variable`, `GradientTape`, checkpoints, several devices."""

import numpy as np
import pytest

from tests.keras.drive import BACKEND

if BACKEND != "tensorflow":
    pytest.skip("plain TensorFlow needs the TensorFlow backend", allow_module_level=True)

import keras
import tensorflow as tf

from downslope.keras import AdamW, Muon, partition


class Linear(tf.Module):
    def __init__(self, n_in, n_out, seed):
        super().__init__()
        self.w = tf.Variable(tf.random.stateless_normal((n_in, n_out), (seed, 0)) * 0.3)
        self.b = tf.Variable(tf.zeros(n_out))

    @tf.function
    def __call__(self, x):
        return x @ self.w + self.b


class Net(tf.Module):
    """A table, a position table, projections in several forms, a convolution, and a head."""

    def __init__(self):
        super().__init__()
        self.table = tf.Variable(tf.random.stateless_normal((20, 8), (1, 1)))
        self.places = tf.Variable(tf.zeros((5, 8)))
        self.first = Linear(8, 12, 2)
        self.layers = [Linear(12, 12, 3), Linear(12, 12, 4)]
        self.turned = tf.Variable(tf.random.stateless_normal((16, 12), (5, 1)) * 0.3)
        self.folded = tf.Variable(tf.random.stateless_normal((16, 2, 6), (6, 1)) * 0.3)
        self.kernel = tf.Variable(tf.random.stateless_normal((3, 12, 12), (7, 1)) * 0.1)
        self.gain = tf.Variable(tf.ones(12))
        self.head = Linear(12, 3, 8)
        self.calls = tf.Variable(0, trainable=False)

    def __call__(self, ids):
        x = tf.gather(self.table, ids) + self.places
        x = tf.nn.gelu(self.first(x))
        for layer in self.layers:
            x = x + tf.nn.relu(layer(x))
        y = tf.matmul(x, self.turned, transpose_b=True)
        x = x + tf.reshape(tf.einsum("btc,chd->bthd", y, self.folded), tf.shape(x))
        x = tf.nn.conv1d(x, self.kernel, 1, "SAME") * self.gain
        return self.head(tf.reduce_mean(x, 1))


IDS = np.arange(20).reshape(4, 5).astype("int32")
LABELS = np.array([0, 1, 2, 0], "int32")


def test_a_module_is_traced():
    found = {
        a.name: (a.role.value, a.view and (a.view.outputs, a.view.inputs)) for a in partition(Net(), IDS)
    }
    assert found["table"][0] == found["places"][0] == "embedding"
    assert found["first/w"] == found["layers/0/w"] == ("hidden", ((1,), (0,)))
    assert found["turned"] == ("hidden", ((0,), (1,)))
    assert found["folded"] == ("hidden", ((1, 2), (0,)))
    assert found["kernel"] == ("hidden", ((2,), (0, 1)))
    assert found["head/w"] == ("output", ((1,), (0,)))
    assert found["gain"][0] == found["first/b"][0] == "vector"
    assert found["calls"][0] == "frozen"


def loop(optimizer, module, steps, jit=False):
    """Train as TensorFlow's guides do; return the losses and how often the step was traced."""
    traced = []

    @tf.function(jit_compile=jit)
    def step(ids, labels):
        traced.append(1)
        with tf.GradientTape() as tape:
            logits = module(ids)
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
        variables = module.trainable_variables
        optimizer.apply(tape.gradient(loss, variables), variables)
        return loss

    return [float(step(IDS, LABELS)) for _ in range(steps)], len(traced)


@pytest.mark.parametrize("jit", [False, True])
def test_a_plain_loop_trains_in_one_graph(jit):
    module = Net()
    optimizer = Muon(partition(module, IDS), learning_rate=1e-2)
    optimizer.build(module.trainable_variables)
    losses, traces = loop(optimizer, module, 8, jit)
    assert losses[-1] < 0.8 * losses[0]
    assert traces == 1


def test_the_optimizer_builds_itself_inside_a_function():
    module = Net()
    losses, traces = loop(AdamW(learning_rate=1e-2), module, 4)
    assert losses[-1] < losses[0]
    assert traces <= 2  # TensorFlow traces again once variables exist


def test_a_checkpoint_resumes(tmp_path):
    def made():
        module = Net()
        optimizer = Muon(partition(module, IDS), learning_rate=1e-2)
        optimizer.build(module.trainable_variables)
        return module, optimizer, tf.train.Checkpoint(module=module, optimizer=optimizer)

    module, optimizer, _ = made()
    whole, _ = loop(optimizer, module, 6)
    module, optimizer, checkpoint = made()
    loop(optimizer, module, 3)
    path = checkpoint.write(str(tmp_path / "ckpt"))
    module, optimizer, checkpoint = made()
    checkpoint.read(path).assert_consumed()
    rest, _ = loop(optimizer, module, 3)
    np.testing.assert_allclose(rest, whole[3:], rtol=1e-6)


def test_sparse_gradients_step_as_dense_ones():
    sparse, dense = tf.Variable(tf.ones((6, 3))), tf.Variable(tf.ones((6, 3)))
    one, two = AdamW(learning_rate=0.1), AdamW(learning_rate=0.1)
    for ids in ([1, 1, 4], [0, 1]):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.gather(sparse, ids) ** 2)
        g = tape.gradient(loss, sparse)
        assert isinstance(g, tf.IndexedSlices)
        one.apply([g], [sparse])
        two.apply([tf.convert_to_tensor(g)], [dense])
    np.testing.assert_array_equal(sparse.numpy(), dense.numpy())


def test_muon_on_loose_variables_asks_for_a_partition():
    with pytest.raises(ValueError, match=r"no Keras model owns .*pass a partition"):
        Muon().build([tf.Variable(tf.ones((3, 3)), name="loose")])


def test_a_module_that_cannot_be_traced_says_so():
    with pytest.raises(ValueError, match="Net could not be traced with 0 inputs"):
        partition(Net())
    with pytest.raises(ValueError, match="has no variables"):
        partition(tf.Module())


@pytest.mark.parametrize("kind", [AdamW, Muon], ids=lambda k: k.__name__)
def test_replicas_step_as_one(kind):
    devices = tf.config.list_logical_devices("CPU")
    if len(devices) < 2:
        pytest.skip("TensorFlow was initialised with one logical CPU before this test asked for two")
    x = np.random.default_rng(0).standard_normal((8, 6)).astype("float32")
    y = np.random.default_rng(1).standard_normal((8, 2)).astype("float32")

    def trained():
        init = iter(keras.initializers.GlorotNormal(k) for k in range(4))
        hidden = [keras.layers.Dense(8, "tanh", kernel_initializer=next(init)) for _ in range(3)]
        head = keras.layers.Dense(2, kernel_initializer=next(init))
        model = keras.Sequential([keras.Input((6,)), *hidden, head])
        model.compile(kind(learning_rate=1e-2), loss="mse")
        model.fit(x, y, batch_size=8, epochs=4, verbose=0, shuffle=False)
        return model.get_weights()

    alone = trained()
    with tf.distribute.MirroredStrategy([d.name for d in devices[:2]]).scope():
        together = trained()
    for a, b in zip(alone, together, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
