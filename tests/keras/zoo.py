"""Architectures in Keras (functional, sequential, subclassed), with a label for every variable.

`build` returns what `downslope.keras.partition` takes: a model, and example inputs where it does
not know its own. The same models run on every backend.
"""

# ruff: noqa: E501
from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from tests.labelled import Architecture

ZOO: list[Architecture] = []
Built = tuple[Any, ...]
IDS = np.arange(14).reshape(2, 7) % 40
D = layers.Dense


def entry(name: str, labels: Mapping[str, str], matrices: Mapping[str, str] | None = None) -> Any:
    """Put an architecture into the zoo; names are taken without the model's own."""

    def enter(build: Callable[[], Built]) -> Callable[[], Built]:
        ZOO.append(Architecture(name, build, labels, matrices or {}))
        return build

    return enter


def ids(n: int = 7) -> Any:
    return keras.Input((n,), dtype="int32")


# -- language ----------------------------------------------------------------------------------


@keras.saving.register_keras_serializable()
class Places(layers.Layer):
    """A table of positions, added to the data."""

    def build(self, shape):
        self.table = self.add_weight(shape=shape[1:], name="table")

    def call(self, x):
        return x + self.table


def causal(x, name: str, d: int = 32):
    h = layers.LayerNormalization()(x)
    x = x + layers.MultiHeadAttention(4, d // 4, name=f"{name}_attn")(h, h, use_causal_mask=True)
    h = D(4 * d, "gelu", name=f"{name}_up")(layers.LayerNormalization()(x))
    return x + D(d, name=f"{name}_down")(h)


@entry(
    "GPT with a tied head (functional)",
    {"*tok/embeddings": "embedding", "*table": "embedding", "*bias": "vector", "*kernel": "hidden"},
    {"a_attn/query/kernel": "32×32", "a_attn/attention_output/kernel": "32×32", "b_up/kernel": "128×32"},
)
def gpt() -> Built:
    tokens, table = ids(), layers.ReversibleEmbedding(40, 32, name="tok")
    x = causal(causal(Places(name="places")(table(tokens)), "a"), "b")
    return (keras.Model(tokens, table(layers.LayerNormalization()(x), reverse=True)),)


class TiedByHand(keras.Model):
    """The head is the table, transposed by hand."""

    def __init__(self):
        super().__init__()
        self.embed, self.mid = layers.Embedding(40, 16, name="embed"), D(16, "relu", name="mid")

    def call(self, x):
        return ops.matmul(self.mid(self.embed(x)), ops.transpose(self.embed.embeddings))


@entry("Head tied by hand (subclassed)", {"*embeddings": "embedding", "*kernel": "hidden"})
def tied_by_hand() -> Built:
    model = TiedByHand()
    model(IDS)
    return model, IDS


class LlamaBlock(layers.Layer):
    def __init__(self, d: int = 32, **kwargs):
        super().__init__(**kwargs)
        self.norm1, self.norm2 = layers.RMSNormalization(), layers.RMSNormalization()
        self.qkv = D(d + 2 * 16, use_bias=False, name="qkv")
        self.out = D(d, use_bias=False, name="out")
        self.gate_up, self.down = D(6 * d, use_bias=False, name="gate_up"), D(d, use_bias=False, name="down")

    def rotated(self, x):
        angle = ops.cast(ops.arange(x.shape[1]), x.dtype)[:, None, None] * 0.1 ** ops.arange(
            4, dtype="float32"
        )
        a, b = x[..., :4], x[..., 4:]
        return ops.concatenate(
            [a * ops.cos(angle) - b * ops.sin(angle), b * ops.cos(angle) + a * ops.sin(angle)], -1
        )

    def call(self, x):
        _, t, d = x.shape
        q, k, v = ops.split(self.qkv(self.norm1(x)), [d, d + 16], -1)
        q = ops.reshape(q, (-1, t, 4, 8))
        k, v = (ops.repeat(ops.reshape(u, (-1, t, 2, 8)), 2, 2) for u in (k, v))
        a = ops.softmax(ops.einsum("bqhd,bkhd->bhqk", self.rotated(q), self.rotated(k)))
        x = x + self.out(ops.reshape(ops.einsum("bhqk,bkhd->bqhd", a, v), (-1, t, d)))
        h = self.gate_up(self.norm2(x))
        gate, up = h[..., : 3 * d], h[..., 3 * d :]
        return x + self.down(ops.silu(gate) * up)


@entry(
    "Llama with fused, grouped-query projections (a layer of one's own)",
    {"*embeddings": "embedding", "*head/kernel": "output", "*kernel": "hidden"},
    {"block0/qkv/kernel": "32×32 + 2 × 16×32", "block1/gate_up/kernel": "2 × 96×32"},
)
def llama() -> Built:
    blocks = [LlamaBlock(name=f"block{k}") for k in range(2)]
    table, head = layers.Embedding(40, 32), D(40, use_bias=False, name="head")
    return (keras.Sequential([ids(), table, *blocks, layers.RMSNormalization(), head]),)


@entry(
    "BERT with token types, grouped-query attention (functional)",
    {
        "*embeddings": "embedding",
        "*table": "embedding",
        "*bias": "vector",
        "*classifier/kernel": "output",
        "*kernel": "hidden",
    },
    {"attn0/query/kernel": "32×32", "attn0/key/kernel": "16×32"},
)
def bert() -> Built:
    tokens, types = ids(), ids()
    x = layers.Embedding(40, 32)(tokens) + layers.Embedding(2, 32)(types)
    x = layers.LayerNormalization()(Places(name="places")(x))
    for k in range(2):
        x = layers.LayerNormalization()(x + layers.GroupQueryAttention(8, 4, 2, name=f"attn{k}")(x, x))
        x = layers.LayerNormalization()(x + D(32, name=f"down{k}")(D(64, "gelu", name=f"up{k}")(x)))
    out = D(3, "softmax", name="classifier")(D(32, "tanh", name="pooler")(x[:, 0]))
    return (keras.Model([tokens, types], out),)


RNN = {"*embeddings": "embedding", "*bias": "vector", "*head/kernel": "output", "*kernel": "hidden"}


@entry(
    "LSTM language model (sequential)",
    RNN,
    {"lstm/lstm_cell/kernel": "4 × 24×16", "lstm/lstm_cell/recurrent_kernel": "4 × 24×24"},
)
def lstm() -> Built:
    rnn = [layers.LSTM(24, return_sequences=True), layers.LSTM(24, return_sequences=True)]
    return (keras.Sequential([ids(), layers.Embedding(40, 16), *rnn, D(40, name="head")]),)


@entry(
    "Bidirectional GRU tagger (sequential)", RNN,
    {"bidirectional/forward_gru/gru_cell/kernel": "3 × 12×16", "bidirectional/backward_gru/gru_cell/recurrent_kernel": "3 × 12×12"},
)  # fmt: skip
def gru() -> Built:
    rnn = layers.Bidirectional(layers.GRU(12, return_sequences=True))
    mid = layers.TimeDistributed(D(16, "relu", name="mid"))
    return (keras.Sequential([ids(), layers.Embedding(40, 16), rnn, mid, D(9, "softmax", name="head")]),)


class Experts(layers.Layer):
    """Two of four gated experts for each token."""

    def build(self, shape):
        d = shape[-1]
        self.router = self.add_weight(shape=(d, 4), name="router")
        self.up = self.add_weight(shape=(4, d, 64), name="up")
        self.down = self.add_weight(shape=(4, 32, d), name="down")

    def call(self, x):
        best, which = ops.top_k(ops.softmax(ops.matmul(x, self.router)), 2)
        gates = ops.sum(ops.one_hot(which, 4) * ops.expand_dims(best, -1), -2)
        gate, up = ops.split(ops.einsum("btd,edf->btef", x, self.up), 2, -1)
        return x + ops.einsum(
            "bted,bte->btd", ops.einsum("btef,efd->bted", ops.silu(gate) * up, self.down), gates
        )


@entry(
    "Mixture of stacked, gated experts (a layer of one's own)",
    {
        "*embeddings": "embedding",
        "*router": "router",
        "*head/kernel": "output",
        "*up": "hidden",
        "*down": "hidden",
    },
    {"moe/up": "8 × 32×16", "moe/down": "4 × 16×32"},
)
def moe() -> Built:
    return (keras.Sequential([ids(), layers.Embedding(40, 16), Experts(name="moe"), D(40, name="head")]),)


# -- images ------------------------------------------------------------------------------------


class Token(layers.Layer):
    """A class token, put before the patches."""

    def build(self, shape):
        self.token = self.add_weight(shape=(1, 1, shape[-1]), name="token")

    def call(self, x):
        return ops.concatenate([ops.tile(self.token, (ops.shape(x)[0], 1, 1)), x], 1)


@entry(
    "ViT (functional)",
    {"*patch/kernel": "input", "*token": "embedding", "*table": "embedding", "*bias": "vector", "*head/kernel": "output",
     "*kernel": "hidden"},
)  # fmt: skip
def vit() -> Built:
    image = keras.Input((16, 16, 3))
    x = layers.Reshape((16, 32))(layers.Conv2D(32, 4, 4, name="patch")(image))
    x = Places(name="places")(Token(name="cls")(x))
    for k in range(2):
        h = layers.LayerNormalization()(x)
        x = x + layers.MultiHeadAttention(4, 8, name=f"attn{k}")(h, h)
        x = x + D(32, name=f"down{k}")(D(64, "gelu", name=f"up{k}")(layers.LayerNormalization()(x)))
    return (keras.Model(image, D(10, name="head")(x[:, 0])),)


APPLICATION = {"*epthwise*kernel": "vector", "*_dw*": "vector", "Conv1/kernel": "input", "conv1_conv/kernel": "input",
               "stem_conv/kernel": "input", "predictions/kernel": "output", "*kernel": "hidden"}  # fmt: skip


@entry("MobileNetV2 (keras.applications)", APPLICATION, {"block_1_expand/kernel": "48×8"})
def mobilenet() -> Built:
    return (keras.applications.MobileNetV2((32, 32, 3), alpha=0.35, weights=None, classes=10),)


@entry("MobileNetV3 (keras.applications)", {"conv/kernel": "input", "logits/kernel": "output", **APPLICATION})
def mobilenet3() -> Built:
    return (
        keras.applications.MobileNetV3Small(
            (32, 32, 3), alpha=0.35, minimalistic=False, weights=None, classes=10
        ),
    )


@entry(
    "ResNet (functional)",
    {"*stem/kernel": "input", "*head/kernel": "output", "*kernel": "hidden"},
    {"a1/kernel": "24×144"},
)
def resnet() -> Built:
    image = keras.Input((16, 16, 3))
    norm = lambda x: layers.BatchNormalization()(x)  # noqa: E731
    x = layers.MaxPooling2D()(
        ops.relu(norm(layers.Conv2D(16, 7, 2, "same", use_bias=False, name="stem")(image)))
    )
    for k, width in enumerate((16, 24)):
        h = ops.relu(norm(layers.Conv2D(width, 3, k + 1, "same", name=f"a{k}")(x)))
        h = norm(layers.Conv2D(width, 3, padding="same", name=f"b{k}")(h))
        x = ops.relu(h + (layers.Conv2D(width, 1, 2, name="project")(x) if k else x))
    return (keras.Model(image, D(10, name="head")(layers.GlobalAveragePooling2D()(x))),)


@entry(
    "Separable convolutions with squeeze and excitation (functional)",
    {"*stem/kernel": "input", "*depthwise_kernel": "vector", "*head/kernel": "output", "*kernel": "hidden"},
    {
        "sep/pointwise_kernel": "24×16",
        "squeeze/kernel": "4×24",
        "excite/kernel": "24×4",
        "groups/kernel": "2 × 12×108",
    },
)
def separable() -> Built:
    image = keras.Input((16, 16, 3))
    x = layers.SeparableConv2D(24, 3, name="sep")(
        layers.Conv2D(16, 3, 2, activation="relu", name="stem")(image)
    )
    s = layers.GlobalAveragePooling2D(keepdims=True)(x)
    s = layers.Conv2D(24, 1, activation="sigmoid", name="excite")(
        layers.Conv2D(4, 1, activation="relu", name="squeeze")(s)
    )
    x = layers.Conv2D(24, 3, groups=2, name="groups")(x * s)
    return (keras.Model(image, D(10, name="head")(layers.Flatten()(x))),)


@entry("MLP-Mixer (functional)", {"*patch/kernel": "input", "*head/kernel": "output", "*kernel": "hidden"})
def mixer() -> Built:
    image = keras.Input((16, 16, 3))
    x = layers.Reshape((16, 24))(layers.Conv2D(24, 4, 4, name="patch")(image))
    h = layers.Permute((2, 1))(layers.LayerNormalization()(x))
    x = x + layers.Permute((2, 1))(D(16, name="token_down")(D(32, "gelu", name="token_up")(h)))
    x = x + D(24, name="down")(D(48, "gelu", name="up")(layers.LayerNormalization()(x)))
    return (keras.Model(image, D(10, name="head")(layers.GlobalAveragePooling1D()(x))),)


class Waves(layers.Layer):
    def call(self, t):
        w = ops.expand_dims(t, -1) * ops.exp(-ops.arange(8, dtype="float32"))
        return ops.concatenate([ops.cos(w), ops.sin(w)], -1)


@entry(
    "Diffusion UNet (functional)",
    {"*time1/kernel": "input", "*stem/kernel": "input", "*head/kernel": "output", "*kernel": "hidden"},
    {"grow/kernel": "16×96", "up_conv1/kernel": "16×288"},  # time1 reads sines of the raw time
)
def unet() -> Built:
    image, time = keras.Input((16, 16, 3)), keras.Input(())
    t = D(32, name="time2")(D(32, "silu", name="time1")(Waves()(time)))

    def block(x, out, name):
        h = layers.Conv2D(out, 3, padding="same", name=f"{name}_conv1")(
            ops.silu(layers.GroupNormalization(4)(x))
        )
        h = h + D(out, name=f"{name}_time")(ops.silu(t))[:, None, None]
        h = layers.Conv2D(out, 3, padding="same", name=f"{name}_conv2")(
            ops.silu(layers.GroupNormalization(4)(h))
        )
        return h + (x if x.shape[-1] == out else layers.Conv2D(out, 1, name=f"{name}_skip")(x))

    a = block(layers.Conv2D(16, 3, padding="same", name="stem")(image), 16, "down")
    h = block(layers.Conv2D(24, 3, 2, "same", name="shrink")(a), 24, "mid")
    h = layers.Concatenate()([a, layers.Conv2DTranspose(16, 2, 2, name="grow")(h)])
    return (keras.Model([image, time], layers.Conv2D(3, 3, padding="same", name="head")(block(h, 16, "up"))),)


class DiTBlock(layers.Layer):
    def __init__(self, d: int = 32, **kwargs):
        super().__init__(**kwargs)
        self.mod, self.qkv, self.proj = D(6 * d, name="mod"), D(3 * d, name="qkv"), D(d, name="proj")
        self.up, self.down = D(4 * d, "gelu", name="up"), D(d, name="down")
        self.norm = layers.LayerNormalization(center=False, scale=False)

    def call(self, x, c):
        s1, g1, a1, s2, g2, a2 = ops.split(self.mod(ops.silu(c))[:, None], 6, -1)
        _, t, d = x.shape
        qkv = ops.reshape(self.qkv(self.norm(x) * (1 + g1) + s1), (-1, t, 3, 4, d // 4))
        h = ops.dot_product_attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2])
        x = x + a1 * self.proj(ops.reshape(h, (-1, t, d)))
        return x + a2 * self.down(self.up(self.norm(x) * (1 + g2) + s2))


@entry(
    "DiT (functional, with a layer of one's own)",
    {"*patch/kernel": "input", "*table": "embedding", "*embeddings": "embedding", "*time1/kernel": "input",
     "*final/kernel": "output", "*kernel": "hidden"},
    {"block0/mod/kernel": "6 × 32×32", "block1/qkv/kernel": "3 × 32×32"},
)  # fmt: skip
def dit() -> Built:
    image, time, label = keras.Input((16, 16, 3)), keras.Input(()), keras.Input((), dtype="int32")
    x = Places(name="places")(layers.Reshape((16, 32))(layers.Conv2D(32, 4, 4, name="patch")(image)))
    c = D(32, name="time2")(D(32, "silu", name="time1")(Waves()(time))) + layers.Embedding(10, 32)(label)
    for k in range(2):
        x = DiTBlock(name=f"block{k}")(x, c)
    return (keras.Model([image, time, label], D(48, name="final")(x)),)


class Vae(keras.Model):
    def __init__(self):
        super().__init__()
        self.a, self.b = (
            layers.Conv2D(16, 3, 2, "same", activation="relu", name="a"),
            layers.Conv2D(24, 3, 2, "same", name="b"),
        )
        self.mean, self.spread = D(8, name="mean"), D(8, name="spread")
        self.grow, self.noise = D(384, "relu", name="grow"), keras.random.SeedGenerator(0)
        self.c = layers.Conv2DTranspose(16, 2, 2, activation="relu", name="c")
        self.d = layers.Conv2DTranspose(3, 2, 2, name="d")

    def call(self, x):
        h = ops.reshape(ops.relu(self.b(self.a(x))), (-1, 384))
        mean, spread = self.mean(h), self.spread(h)
        z = mean + ops.exp(spread / 2) * keras.random.normal(ops.shape(mean), seed=self.noise)
        return {
            "image": self.d(self.c(ops.reshape(self.grow(z), (-1, 4, 4, 24)))),
            "mean": mean,
            "spread": spread,
        }


@entry(
    "Variational autoencoder (subclassed, returns a dict)",
    {"a/kernel": "input", "d/kernel": "output", "*kernel": "hidden"},  # the decoder reads mean and spread
    {"c/kernel": "16×96"},
)
def vae() -> Built:
    model, x = Vae(), np.zeros((2, 16, 16, 3), "float32")
    model(x)
    return model, x


# -- points, graphs, tables, agents ------------------------------------------------------------


@entry(
    "Actor and critic (functional)",
    {"*a/kernel": "input", "*policy/kernel": "output", "*value/kernel": "output", "*kernel": "hidden"},
)
def actor_critic() -> Built:
    x = keras.Input((16,))
    h = D(32, "tanh", name="b")(D(32, "tanh", name="a")(x))
    return (keras.Model(x, [D(5, "softmax", name="policy")(h), D(1, name="value")(D(32, name="c")(h))]),)


@entry(
    "Recommender with tables (functional)",
    {"*embeddings": "embedding", "*bottom/kernel": "input", "*score/kernel": "output", "*kernel": "hidden"},
)
def recommender() -> Built:
    user, item = keras.Input((), dtype="int32", name="user"), keras.Input((), dtype="int32", name="item")
    features = keras.Input((16,), name="features")
    product = layers.Dot(1)([layers.Embedding(40, 16)(user), layers.Embedding(60, 16)(item)])
    deep = [
        layers.Embedding(40, 16)(user),
        layers.Embedding(60, 16)(item),
        D(16, "relu", name="bottom")(features),
    ]
    h = D(24, "relu", name="b")(D(32, "relu", name="a")(layers.Concatenate()(deep)))
    return (
        keras.Model(
            {"user": user, "item": item, "features": features}, ops.sigmoid(product + D(1, name="score")(h))
        ),
    )


@entry(
    "Tabular MLP (sequential)",
    {"*one/kernel": "input", "*four/kernel": "output", "*kernel": "hidden"},
)
def tabular() -> Built:
    mid = [
        layers.BatchNormalization(),
        layers.Dropout(0.1),
        D(24, "relu", name="two"),
        D(24, "relu", name="three"),
    ]
    return (
        keras.Sequential(
            [keras.Input((16,)), layers.Normalization(), D(24, "relu", name="one"), *mid, D(2, name="four")]
        ),
    )


@entry(
    "NeRF (functional)",
    {"*a/kernel": "input", "*color/kernel": "output", "*density/kernel": "output", "*kernel": "hidden"},
)  # skip and view read raw coordinates beside hidden features
def nerf() -> Built:
    place, direction = keras.Input((5, 3)), keras.Input((5, 3))
    x = layers.Concatenate()([place, *(f(2.0**k * place) for k in range(3) for f in (ops.sin, ops.cos))])
    h = D(32, "relu", name="b")(D(32, "relu", name="a")(x))
    h = D(32, "relu", name="skip")(layers.Concatenate()([h, x]))
    c = D(16, "relu", name="view")(layers.Concatenate()([D(32, name="feature")(h), direction]))
    return (
        keras.Model([place, direction], [D(3, "sigmoid", name="color")(c), D(1, "relu", name="density")(h)]),
    )


@entry(
    "PointNet (functional)",
    {"*a/kernel": "input", "*head/kernel": "output", "*kernel": "hidden"},
)
def pointnet() -> Built:
    points = keras.Input((20, 3))
    h = layers.GlobalMaxPooling1D()(
        layers.Conv1D(48, 1, activation="relu", name="b")(
            layers.Conv1D(24, 1, activation="relu", name="a")(points)
        )
    )
    return (keras.Model(points, D(10, name="head")(D(32, "relu", name="c")(h))),)


class GraphConvolution(layers.Layer):
    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], self.units), name="kernel")
        self.gain = self.add_weight(shape=(self.units,), name="gain")

    def call(self, x, adjacency):
        return self.gain * ops.relu(ops.matmul(adjacency, ops.matmul(x, self.kernel)))


@entry(
    "Graph convolution (functional, with a layer of one's own)",
    {"one/kernel": "input", "head/kernel": "output", "*kernel": "hidden"},
)
def graph() -> Built:
    nodes, adjacency = keras.Input((6, 16)), keras.Input((6, 6))
    h = GraphConvolution(24, name="two")(GraphConvolution(24, name="one")(nodes, adjacency), adjacency)
    return (keras.Model([nodes, adjacency], D(3, name="head")(layers.GlobalAveragePooling1D()(h))),)


@entry(
    "ConvLSTM, a frozen stem and LoRA (sequential)",
    {
        "*stem/kernel": "frozen",
        "*stem/bias": "frozen",
        "fc/kernel": "frozen",
        "fc/lora*": "hidden",
        "head/kernel": "output",
        "*kernel": "hidden",
    },
    {"fc/lora_kernel_a": "4×288", "fc/lora_kernel_b": "16×4"},
)
def convlstm() -> Built:
    stem, fc = layers.TimeDistributed(layers.Conv2D(8, 3, name="stem")), D(16, "relu", name="fc")
    rnn, head = layers.ConvLSTM2D(8, 3, padding="same"), D(4, name="head")
    model = keras.Sequential([keras.Input((3, 8, 8, 2)), stem, rnn, layers.Flatten(), fc, head])
    stem.trainable = False
    fc.enable_lora(4)
    return (model,)
