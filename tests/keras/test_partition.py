"""Roles and views of Keras models: from known layers, from `keras.ops`, inside layers of the user's own."""

import warnings

import keras
import numpy as np
import pytest
from keras import layers, ops

from downslope.grouping.view import MatrixView
from downslope.keras import Muon, partition


def seen(model, *args, **kwargs):
    """Return the role and the matrices of each variable, by the end of its path."""
    return {
        "/".join(a.name.split("/")[-2:]): (a.role.value, a.view.matrices(a.shape) if a.view else None)
        for a in partition(model, *args, **kwargs)
    }


def sequence(*parts, width=8):
    return keras.Sequential(
        [keras.Input((6, width)), layers.Dense(width, name="start"), *parts, layers.Dense(3, name="end")]
    )


def test_first_and_last_of_a_sequential_model():
    found = seen(sequence(layers.Dense(12, name="middle")))
    assert found["start/kernel"] == ("input", [(1, 8, 8)])
    assert found["middle/kernel"] == ("hidden", [(1, 12, 8)])
    assert found["end/kernel"] == ("output", [(1, 3, 12)])
    assert {found[f"{n}/bias"] for n in ("start", "middle", "end")} == {("vector", None)}


@pytest.mark.parametrize(
    ("layer", "variable", "role", "matrices"),
    [
        (layers.Conv1D(10, 3, name="x"), "x/kernel", "hidden", [(1, 10, 24)]),
        (layers.Conv1D(8, 3, groups=2, name="x"), "x/kernel", "hidden", [(2, 4, 12)]),
        (layers.Conv1DTranspose(10, 3, name="x"), "x/kernel", "hidden", [(1, 10, 24)]),
        (layers.DepthwiseConv1D(3, name="x"), "x/kernel", "vector", [(8, 1, 3)]),
        (layers.SeparableConv1D(10, 3, name="x"), "x/depthwise_kernel", "vector", [(8, 1, 3)]),
        (layers.SeparableConv1D(10, 3, name="x"), "x/pointwise_kernel", "hidden", [(1, 10, 8)]),
        (
            layers.EinsumDense("abc,cde->abde", (None, 2, 5), bias_axes="de", name="x"),
            "x/kernel",
            "hidden",
            [(1, 10, 8)],
        ),
        (
            layers.EinsumDense("abc,cde->abde", (None, 2, 5), bias_axes="de", name="x"),
            "x/bias",
            "vector",
            None,
        ),
        (layers.EinsumDense("abc,bcd->abd", (6, 4), name="x"), "x/kernel", "hidden", [(6, 4, 8)]),
        (layers.LSTM(5, return_sequences=True, name="x"), "lstm_cell/kernel", "hidden", [(4, 5, 8)]),
        (
            layers.LSTM(5, return_sequences=True, name="x"),
            "lstm_cell/recurrent_kernel",
            "hidden",
            [(4, 5, 5)],
        ),
        (layers.GRU(5, return_sequences=True, name="x"), "gru_cell/recurrent_kernel", "hidden", [(3, 5, 5)]),
        (
            layers.SimpleRNN(5, return_sequences=True, name="x"),
            "simple_rnn_cell/kernel",
            "hidden",
            [(1, 5, 8)],
        ),
        (
            layers.Bidirectional(layers.GRU(5, return_sequences=True), name="x"),
            "gru_cell/kernel",
            "hidden",
            [(3, 5, 8)],
        ),
        (layers.TimeDistributed(layers.Dense(7), name="x"), "dense/kernel", "hidden", [(1, 7, 8)]),
        (layers.LayerNormalization(name="x"), "x/gamma", "vector", None),
        (layers.BatchNormalization(name="x"), "x/beta", "vector", None),
        (layers.PReLU(name="x"), "x/alpha", "vector", None),
        (sequence(layers.Dense(8, name="x")), "x/kernel", "hidden", [(1, 8, 8)]),
    ],
    ids=lambda v: getattr(v, "name", v) and type(v).__name__ if isinstance(v, keras.Layer) else str(v),
)
def test_kernels_of_known_layers(layer, variable, role, matrices):
    found = seen(sequence(layer))[variable]
    assert found[0] == role
    assert matrices is None or found[1] == matrices


@pytest.mark.parametrize("heads", ["fused", "split"])
def test_attention(heads):
    x = keras.Input((6, 8))
    h = layers.Dense(8)(x)
    y = layers.MultiHeadAttention(2, 4, name="mha")(h, h, use_causal_mask=True)
    found = seen(keras.Model(x, layers.Dense(3)(h + y)), heads=heads)
    matrices = [(1, 8, 8)] if heads == "fused" else [(2, 4, 8)]
    for name in ("query", "key", "value"):
        assert found[f"{name}/kernel"] == ("hidden", matrices)
        assert found[f"{name}/bias"][0] == "vector"
    assert found["attention_output/kernel"] == ("hidden", [(1, 8, 8)])


def test_a_table_is_an_embedding_and_what_follows_it_is_hidden():
    found = seen(
        keras.Sequential(
            [
                keras.Input((5,), dtype="int32"),
                layers.Embedding(9, 8),
                layers.Dense(8, name="x"),
                layers.Dense(9, name="y"),
            ]
        )
    )
    assert found["embedding/embeddings"][0] == "embedding"
    assert found["x/kernel"][0] == "hidden"
    assert found["y/kernel"][0] == "output"


def test_a_tied_head_is_an_embedding():
    table = layers.ReversibleEmbedding(9, 8)
    tokens = keras.Input((5,), dtype="int32")
    model = keras.Model(tokens, table(layers.Dense(8, name="x")(table(tokens)), reverse=True))
    found = seen(model)
    assert found["reversible_embedding/embeddings"][0] == "embedding"
    assert found["x/kernel"][0] == "hidden"


def test_branches_and_a_shared_layer():
    a, b = keras.Input((8,)), keras.Input((8,))
    shared = layers.Dense(8, name="shared")
    late = layers.Dense(8, name="late")(layers.Dense(8, name="early")(a))
    model = keras.Model(
        [a, b], [layers.Dense(2, name="one")(shared(late)), layers.Dense(2, name="two")(shared(b))]
    )
    found = {name: role for name, (role, _) in seen(model).items()}
    assert found["early/kernel"] == "input"
    assert found["late/kernel"] == found["shared/kernel"] == "hidden"
    assert found["one/kernel"] == found["two/kernel"] == "output"


def test_fused_projections_are_cut_as_their_results_are():
    x = keras.Input((6, 8))
    q, k, v = ops.split(layers.Dense(24, name="qkv")(layers.Dense(8)(x)), 3, axis=-1)
    both = layers.Dense(20, name="gated")(q * k + v)
    model = keras.Model(x, layers.Dense(3)(both[..., :10] * ops.sigmoid(both[..., 10:])))
    found = seen(model)
    assert found["qkv/kernel"] == ("hidden", [(3, 8, 8)])
    assert found["gated/kernel"] == ("hidden", [(2, 10, 8)])


def test_projections_are_cut_behind_a_causal_filter_of_each_channel():
    tokens = keras.Input((6,), dtype="int32")
    x = layers.Embedding(50, 16)(tokens)
    rest = layers.Conv1D(32, 4, groups=32, padding="causal")(layers.Dense(32, name="project")(x))
    value, key, query = ops.split(ops.silu(rest), [16, 24], -1)
    x = x + ops.matmul(ops.matmul(query, ops.transpose(key, (0, 2, 1))), value)
    found = seen(keras.Model(tokens, layers.Dense(50)(x)))
    assert found["project/kernel"] == ("hidden", [(1, 16, 16), (2, 8, 16)])


def test_projections_are_cut_behind_a_normalisation_of_groups():
    x = keras.Input((6, 8))
    both = layers.GroupNormalization(4)(layers.Dense(40, name="both")(layers.Dense(16, "relu")(x)))
    a, b = ops.split(both, [14], -1)
    found = seen(keras.Model(x, layers.Dense(3)(layers.Dense(26)(ops.tanh(a)) * ops.sigmoid(b))))
    assert found["both/kernel"] == ("hidden", [(1, 14, 16), (1, 26, 16)])


class Own(layers.Layer):
    """Weights of every kind, met by `keras.ops`."""

    def build(self, shape):
        n = shape[-1]
        made = {
            "w": (n, n),
            "turned": (n, 6),
            "stack": (2, n, n),
            "table": (5, n),
            "places": (6, n),
            "gain": (n,),
            "spare": (n, n),
        }
        for name, size in made.items():
            setattr(self, name, self.add_weight(shape=size, name=name))

    def call(self, x):
        x = ops.matmul(x, self.w) * self.gain + self.places
        x = x + ops.pad(ops.tensordot(x, self.turned, 1), [(0, 0), (0, 0), (0, 2)])
        both = ops.stack([x, x], 1)
        x = x + ops.sum(ops.einsum("beti,eio->beto", both, self.stack), 1)
        picked = ops.argmax(x, -1) % 5
        return x + ops.take(self.table, picked, axis=0)


def test_a_users_own_layer_is_followed_through_keras_ops():
    found = {
        name.split("/")[-1]: value
        for name, value in seen(sequence(Own(name="own"))).items()
        if name.startswith("own/")
    }
    assert found["w"] == ("hidden", [(1, 8, 8)])
    assert found["turned"] == ("hidden", [(1, 6, 8)])
    assert found["stack"] == ("hidden", [(2, 8, 8)])
    assert found["table"][0] == found["places"][0] == "embedding"
    assert found["gain"][0] == "vector"
    assert found["spare"][0] == "unused"


def test_a_router_is_told_from_an_expert():
    class Experts(layers.Layer):
        def build(self, shape):
            self.router = self.add_weight(shape=(shape[-1], 6), name="router")
            self.up = self.add_weight(shape=(6, shape[-1], 12), name="up")
            self.down = self.add_weight(shape=(6, 12, shape[-1]), name="down")

        def call(self, x):
            best, which = ops.top_k(ops.matmul(x, self.router), 2)
            gate = ops.sum(ops.one_hot(which, 6) * ops.expand_dims(best, -1), -2)
            x = ops.expand_dims(x, 1) * ops.ones((1, 6, 1, 1))
            h = ops.relu(ops.einsum("beti,eio->beto", x, self.up))
            y = ops.einsum("beto,eoi->beti", h, self.down)
            return ops.einsum("beti,bte->bti", y, gate)

    found = {k.split("/")[-1]: v for k, v in seen(sequence(Experts(name="moe"))).items()}
    assert found["router"][0] == "router"
    assert found["up"] == ("hidden", [(6, 12, 8)])
    assert found["down"] == ("hidden", [(6, 8, 12)])


def test_what_gathers_whole_rows_of_a_result_makes_no_router_of_it():
    x = keras.Input((6, 8))
    hidden = layers.Dense(16, "relu")(x)
    channels = ops.transpose(layers.Dense(16, name="values")(hidden), (0, 2, 1))
    places = ops.argsort(layers.Dense(1, name="score")(hidden)[..., 0], axis=1)[:, None, :3]
    rows = ops.take_along_axis(channels, ops.repeat(places, 16, 1), axis=-1)
    rows = layers.Dense(16, "relu")(ops.transpose(rows, (0, 2, 1)))
    found = seen(keras.Model(x, layers.Dense(3)(rows)))
    assert found["values/kernel"] == ("hidden", [(1, 16, 16)])
    assert found["score/kernel"][0] == "router"


def test_a_model_in_a_model_is_followed():
    inner = keras.Sequential(
        [keras.Input((8,)), layers.Dense(8, name="a"), layers.Dense(8, name="b")], name="inner"
    )
    x = keras.Input((8,))
    found = seen(keras.Model(x, layers.Dense(3, name="end")(inner(layers.Dense(8, name="start")(x)))))
    roles = {name.split("/")[0]: role for name, (role, _) in found.items() if name.endswith("kernel")}
    assert roles == {"start": "input", "a": "hidden", "b": "hidden", "end": "output"}


def test_frozen_layers_are_named_and_left():
    middle = layers.Dense(8, name="middle")
    model = sequence(middle)
    middle.trainable = False
    assert seen(model)["middle/kernel"][0] == "frozen"
    optimizer = Muon()
    optimizer.build(model.trainable_variables)
    optimizer.apply([ops.ones(v.shape) for v in model.trainable_variables])
    assert "middle" not in " ".join(v.path for v in optimizer.variables)


def test_lora_factors_are_hidden_and_their_kernel_frozen():
    middle = layers.Dense(8, name="middle")
    model = sequence(middle)
    middle.enable_lora(4)
    found = seen(model)
    assert found["middle/kernel"][0] == "frozen"
    assert found["middle/lora_kernel_a"] == ("hidden", [(1, 4, 8)])
    assert found["middle/lora_kernel_b"] == ("hidden", [(1, 8, 4)])


def test_a_lora_factor_narrower_than_its_convolution_has_groups_is_one_matrix():
    middle = layers.Conv1D(40, 3, groups=5, padding="same", name="middle")
    model = sequence(middle, width=40)
    middle.enable_lora(4)
    found = seen(model)
    assert found["middle/lora_kernel_a"] == ("hidden", [(1, 4, 24)])
    assert found["middle/lora_kernel_b"] == ("hidden", [(5, 8, 4)])


class OfTheBackend(layers.Layer):
    """Written for arrays: it meets no symbolic tensors, and its weight comes first."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.one, self.two = layers.Dense(8, name="one"), layers.Dense(8, name="two")

    def build(self, shape):
        self.one.build(shape), self.two.build(shape)
        self.own = self.add_weight(shape=(8, 8), name="own")
        self.gain = self.add_weight(shape=(8,), name="gain")

    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape, x.dtype)

    def call(self, x):
        if isinstance(x, keras.KerasTensor):
            raise TypeError("arrays only")
        turned = ops.convert_to_tensor(self.own)  # the backend's own tensor, and its own operators
        return self.gain * ((self.one(x) + 0 * self.two(x)) @ ops.transpose(turned))


def test_a_layer_of_the_backends_own_operations_is_followed():
    found = seen(sequence(OfTheBackend(name="foreign")))
    assert found["one/kernel"][0] == found["two/kernel"][0] == found["foreign/own"][0] == "hidden"
    assert found["foreign/gain"][0] == "vector"
    assert found["end/kernel"][0] == "output"


def test_a_model_that_cannot_be_traced_says_so_and_what_to_do():
    class Odd(keras.Model):
        def __init__(self):
            super().__init__(name="odd")
            self.inner = layers.Dense(2)

        def call(self, x, scale=None):
            return self.inner(x) * scale["by"]

    model = Odd()
    model(np.zeros((2, 8), "float32"), scale={"by": 2.0})
    with pytest.raises(ValueError, match=r"odd could not be traced \(TypeError: .*pass one batch"):
        partition(model)
    assert seen(model, np.zeros((2, 8), "float32"), scale={"by": 2.0})["dense/kernel"][0] == "output"


def test_a_subclassed_model_needs_no_data():
    class Net(keras.Model):
        def __init__(self):
            super().__init__(name="net")
            self.last = layers.Dense(2, name="last")  # made first, called last
            self.inner = [layers.Dense(8, "relu", name=f"inner{k}") for k in range(3)]

        def call(self, x, mask=None):
            for layer in self.inner:
                x = layer(x)
            return self.last(ops.concatenate([x, x], -1))

    model = Net()
    with pytest.raises(ValueError, match="has no variables yet"):
        partition(model)
    model(np.zeros((2, 8), "float32"))
    expected = {
        "last/kernel": "output",
        "inner0/kernel": "input",
        "inner1/kernel": "hidden",
        "inner2/kernel": "hidden",
    }
    for args in ((), (np.zeros((3, 8), "float32"),), (keras.KerasTensor((3, 8)),)):
        assert {k: r for k, (r, _) in seen(model, *args).items() if k.endswith("kernel")} == expected
    model.compile(Muon(), loss="mse")
    model.train_on_batch(np.zeros((2, 8)), np.zeros((2, 2)))
    assert model.optimizer.partition == partition(model)


def test_tracing_leaves_the_model_as_it_was(tmp_path):
    model = sequence(layers.Dense(8, name="middle"), Own(name="own"))
    nodes = [(len(layer._inbound_nodes), len(layer._outbound_nodes)) for layer in model.layers]
    config, weights = model.get_config(), model.get_weights()
    partition(model)
    assert nodes == [(len(layer._inbound_nodes), len(layer._outbound_nodes)) for layer in model.layers]
    assert model.get_config() == config
    assert all((a == b).all() for a, b in zip(model.get_weights(), weights, strict=True))


def test_overrides_name_a_layer_its_path_a_pattern_or_a_view():
    model = sequence(layers.Dense(8, name="middle"), layers.Dense(8, name="more"))
    assert (
        partition(model, overrides={model.get_layer("middle"): "adamw"})[f"{model.name}/middle/kernel"].rule
        == "adamw"
    )
    assert (
        partition(model, overrides={f"{model.name}/middle": "none"})[f"{model.name}/middle/bias"].rule
        == "none"
    )
    found = partition(model, overrides={"*/more/kernel": MatrixView((0,), (1,)), "*/end/kernel": "muon"})
    assert found[f"{model.name}/more/kernel"].view == MatrixView((0,), (1,))
    assert found[f"{model.name}/end/kernel"].rule == "muon"


def test_the_table_prints_and_goes_through_json():
    found = partition(sequence(layers.Dense(8, name="middle")))
    assert "hidden" in str(found)
    assert type(found).from_dict(found.to_dict()) == found
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Muon(found.to_dict())
