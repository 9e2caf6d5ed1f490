"""The small transformer, trained by a Keras optimizer in float64, has the reference's losses.

On TensorFlow it is compiled with XLA and trained by `train_on_batch`. On JAX and PyTorch Keras's own
operations give float32 results to float64 arguments (`keras.ops.matmul` among them), so that there
the model's arithmetic and the loss are the backend's own, in a loop written by hand, as users of
those backends write them; the layers, the variables and the optimizer are Keras's all the same.
"""

import keras
import numpy as np
import pytest
from keras import layers

from downslope.keras import Muon
from tests.keras.drive import BACKEND
from tests.parity.transformer import (
    BLOCKS,
    EPS,
    HEADS,
    HIDDEN,
    LENGTH,
    OPTIONS,
    TOLERANCE,
    VOCABULARY,
    WIDTH,
    batches,
    reference,
    rule_of,
    weights,
)

if BACKEND == "jax":
    from jax.nn import log_softmax, silu, softmax
    from jax.numpy import mean, take
elif BACKEND == "torch":
    import torch
    from torch.nn.functional import log_softmax, silu, softmax

    mean = torch.mean

    def take(table, ids, axis):
        return table[ids]
else:
    from keras.ops import log_softmax, mean, silu, softmax, take

FUTURE = np.triu(np.full((LENGTH, LENGTH), -1e30), 1)


def value(variable):
    """A variable as Keras records it on TensorFlow, as the backend's array elsewhere."""
    return variable if BACKEND == "tensorflow" else keras.ops.convert_to_tensor(variable)


class Dense(layers.Dense):
    def __init__(self, units, name):
        super().__init__(units, use_bias=False, name=name)

    def call(self, x):
        return x @ value(self.kernel)


class Norm(layers.Layer):
    """rms(x) · gain."""

    def build(self, shape):
        self.gain = self.add_weight(shape=(WIDTH,), initializer="ones", name="scale")

    def call(self, x):
        return x * (mean(x**2, -1, keepdims=True) + EPS) ** -0.5 * value(self.gain)


class Block(layers.Layer):
    def __init__(self, name):
        super().__init__(name=name)
        for part in HIDDEN:
            setattr(self, part, Dense(4 * WIDTH if part == "up" else WIDTH, name=part))
        self.gain1, self.gain2 = Norm(name="gain1"), Norm(name="gain2")

    def build(self, shape):
        for part in (*HIDDEN, "gain1", "gain2"):
            getattr(self, part).build((*shape[:-1], 4 * WIDTH if part == "down" else WIDTH))

    def call(self, x):
        h = self.gain1(x)
        q, k, v = (split(dense(h)) for dense in (self.query, self.key, self.value))
        scores = q @ turn(k, (0, 1, 3, 2)) / (WIDTH // HEADS) ** 0.5
        mixed = softmax(scores + constant(FUTURE), -1) @ v
        x = x + self.out(join(mixed))
        return x + self.down(silu(self.up(self.gain2(x))))


def constant(array):
    return keras.ops.convert_to_tensor(array, dtype="float64")


def turn(x, axes):
    if BACKEND == "torch":
        return x.permute(axes)
    return x.transpose(axes) if BACKEND == "jax" else keras.ops.transpose(x, axes)


def shaped(x, shape):
    return keras.ops.reshape(x, shape) if BACKEND == "tensorflow" else x.reshape(shape)


def split(x):
    return turn(shaped(x, (-1, LENGTH, HEADS, WIDTH // HEADS)), (0, 2, 1, 3))


def join(x):
    return shaped(turn(x, (0, 2, 1, 3)), (-1, LENGTH, WIDTH))


class Transformer(keras.Model):
    def __init__(self):
        super().__init__(name="transformer")
        self.embed = layers.Embedding(VOCABULARY, WIDTH, name="embed")
        self.blocks = [Block(name=str(k)) for k in range(BLOCKS)]
        self.gain = Norm(name="gain")
        self.head = Dense(VOCABULARY, name="head")

    def build(self, shape):
        self.position = self.add_weight(shape=(LENGTH, WIDTH), name="position")
        self.embed.build(shape)
        for part in (*self.blocks, self.gain, self.head):
            part.build((None, LENGTH, WIDTH))

    def call(self, tokens):
        x = take(value(self.embed.embeddings), tokens, axis=0) + value(self.position)
        for block in self.blocks:
            x = block(x)
        return self.head(self.gain(x))


def cross_entropy(targets, logits):
    if BACKEND == "tensorflow":
        chosen = keras.ops.one_hot(targets, VOCABULARY, dtype="float64")
        return -mean(keras.ops.sum(chosen * log_softmax(logits), -1))
    chosen = constant(np.eye(VOCABULARY)[targets])
    return -(chosen * log_softmax(logits, -1)).sum(-1).mean()


def named(model):
    """Return the model's variables under the names of the reference."""
    own = ("transformer", "kernel", "embeddings", "scale")
    return {".".join(p for p in v.path.split("/") if p not in own): v for v in model.trainable_variables}


def by_train_on_batch(model, optimizer):
    model.compile(optimizer, loss=cross_entropy, jit_compile=True)
    for tokens, targets in batches():
        model.reset_metrics()
        yield model.train_on_batch(tokens.astype("int32"), targets.astype("int32"))


def by_jax(model, optimizer):
    import jax

    def loss_of(values, tokens, chosen):
        logits, _ = model.stateless_call(values, [], tokens)
        return -(chosen * log_softmax(logits, -1)).sum(-1).mean()

    @jax.jit
    def step(values, state, tokens, chosen):
        loss, grads = jax.value_and_grad(loss_of)(values, tokens, chosen)
        return loss, *optimizer.stateless_apply(state, grads, values)

    values = [v.value for v in model.trainable_variables]
    state = [v.value for v in optimizer.variables]
    for tokens, targets in batches():
        loss, values, state = step(values, state, tokens, np.eye(VOCABULARY)[targets])
        yield loss
    for v, new in zip(model.trainable_variables, values, strict=True):
        v.assign(new)


def by_torch(model, optimizer):
    for tokens, targets in batches():
        model.zero_grad()
        loss = cross_entropy(targets, model(torch.tensor(tokens)))
        loss.backward()
        optimizer.apply([v.value.grad for v in model.trainable_variables], model.trainable_variables)
        yield loss.detach()


LOOPS = {"tensorflow": by_train_on_batch, "jax": by_jax, "torch": by_torch}


@pytest.mark.filterwarnings("ignore:could not follow the data inside transformer")
def test_fifty_steps_have_the_losses_of_the_reference():
    keras.config.set_floatx("float64")
    model = Transformer()
    model.build((None, LENGTH))
    mine = named(model)
    assert set(mine) == set(weights())
    for name, array in weights().items():
        mine[name].assign(array.T if mine[name].path.endswith("kernel") else array)
    options = {k: v for k, v in OPTIONS.items() if k != "lr"}
    optimizer = Muon(learning_rate=OPTIONS["lr"], ns_dtype="float64", **options)
    optimizer.build(model.trainable_variables)
    rules = {name: optimizer.partition[v.path].rule for name, v in mine.items()}
    assert rules == {name: rule_of(name) for name in weights()}  # found by tracing, never told
    losses = [float(loss) for loss in LOOPS[BACKEND](model, optimizer)]
    expected, after = reference()
    np.testing.assert_allclose(losses, expected, rtol=0, atol=TOLERANCE)
    for name, v in mine.items():
        array = np.array(keras.ops.convert_to_numpy(v.value))
        array = array.T if v.path.endswith("kernel") else array
        np.testing.assert_allclose(array, after[name], rtol=0, atol=TOLERANCE, err_msg=name)
