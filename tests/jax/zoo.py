"""Architectures in Flax (Linen and NNX), Equinox and plain JAX, with a label for every parameter.

Only shapes are made, no arrays: `build` returns (function, parameters, *inputs), as
`downslope.jax.partition` takes them.
"""

# ruff: noqa: E501
from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx

from tests.labelled import Architecture

ZOO: list[Architecture] = []
Built = tuple[Any, ...]
KEY = jax.random.key(0)
IDS = jax.ShapeDtypeStruct((2, 7), jnp.int32)
ONE = jax.ShapeDtypeStruct((2,), jnp.int32)
X = jax.ShapeDtypeStruct((2, 16), jnp.float32)
IMAGE = jax.ShapeDtypeStruct((2, 16, 16, 3), jnp.float32)
TIME = jax.ShapeDtypeStruct((2,), jnp.float32)


def entry(name: str, labels: Mapping[str, str], matrices: Mapping[str, str] | None = None) -> Any:
    """Put an architecture into the zoo."""

    def enter(build: Callable[[], Built]) -> Callable[[], Built]:
        ZOO.append(Architecture(name, build, labels, matrices or {}))
        return build

    return enter


def zeros(tree: Any) -> Any:
    """Return arrays for shapes; what is no array of numbers, as a key of the generator, is made anew."""
    return jax.tree.map(
        lambda s: KEY if jnp.issubdtype(s.dtype, jax.dtypes.prng_key) else jnp.zeros(s.shape, s.dtype), tree
    )


def linen(model: nn.Module, *args: Any, **kwargs: Any) -> Built:
    """Return a Linen model as a function of its parameters; its statistics are constants."""
    variables = jax.eval_shape(lambda *a: model.init(KEY, *a, **kwargs), *args)
    rest = zeros({k: v for k, v in variables.items() if k != "params"})
    return lambda p, *a: model.apply({"params": p, **rest}, *a, **kwargs), variables["params"], *args


def from_nnx(make: Callable[[nnx.Rngs], Any], *args: Any) -> Built:
    """Return an NNX model as a function of its parameters."""
    graph, params, rest = nnx.split(nnx.eval_shape(lambda: make(nnx.Rngs(0))), nnx.Param, ...)
    rest = zeros(rest)
    return lambda p, *a: nnx.merge(graph, p, rest, copy=True)(*a), params, *args


def equinox(make: Callable[[Any], Any], *args: Any) -> Built:
    """Return an Equinox model, which takes one example, as a function of its parameters and a batch."""
    model = eqx.filter_eval_shape(make, KEY)
    params, rest = eqx.partition(model, lambda v: isinstance(v, jax.ShapeDtypeStruct))
    params = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, jnp.float32), params)
    return lambda p, *a: jax.vmap(eqx.combine(p, rest))(*a), params, *args


# -- language ----------------------------------------------------------------------------------


class GPTBlock(nnx.Module):
    def __init__(self, d: int, rngs: nnx.Rngs) -> None:
        self.ln1, self.ln2 = nnx.LayerNorm(d, rngs=rngs), nnx.LayerNorm(d, rngs=rngs)
        self.attn = nnx.MultiHeadAttention(4, d, decode=False, rngs=rngs)
        self.up, self.down = nnx.Linear(d, 4 * d, rngs=rngs), nnx.Linear(4 * d, d, rngs=rngs)

    def __call__(self, x):
        x = x + self.attn(self.ln1(x), mask=nnx.make_causal_mask(x[..., 0]))
        return x + self.down(nnx.gelu(self.up(self.ln2(x))))


class GPT(nnx.Module):
    def __init__(self, rngs: nnx.Rngs, d: int = 32) -> None:
        self.tok, self.pos = nnx.Embed(50, d, rngs=rngs), nnx.Embed(7, d, rngs=rngs)
        self.blocks = nnx.List([GPTBlock(d, rngs) for _ in range(2)])
        self.norm = nnx.LayerNorm(d, rngs=rngs)

    def __call__(self, ids):
        x = self.tok(ids) + self.pos(jnp.arange(ids.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.tok.attend(self.norm(x))


@entry(
    "GPT with a tied head (NNX)",
    {"tok.*": "embedding", "pos.*": "embedding", "*.bias": "vector", "*.kernel": "hidden"},
    {
        "blocks.0.attn.query.kernel": "32×32",
        "blocks.1.up.kernel": "128×32",
        "blocks.1.attn.out.kernel": "32×32",
    },
)
def gpt() -> Built:
    return from_nnx(GPT, IDS)


def rotated(x):
    """Rotary embedding: the two halves of each head are turned by an angle."""
    half = x.shape[-1] // 2
    angle = jnp.arange(x.shape[1])[:, None, None] * 0.1 ** jnp.arange(half)
    a, b = x[..., :half], x[..., half:]
    return jnp.concatenate(
        [a * jnp.cos(angle) - b * jnp.sin(angle), b * jnp.cos(angle) + a * jnp.sin(angle)], -1
    )


class LlamaBlock(nn.Module):
    @nn.compact
    def __call__(self, x):
        n, t, d = x.shape
        h = nn.RMSNorm(name="norm1")(x)
        q, k, v = jnp.split(nn.Dense(d + 2 * 16, use_bias=False, name="qkv")(h), [d, d + 16], -1)
        q, k, v = q.reshape(n, t, 4, 8), k.reshape(n, t, 2, 8), v.reshape(n, t, 2, 8)
        q, k, v = rotated(q), jnp.repeat(rotated(k), 2, 2), jnp.repeat(v, 2, 2)
        a = nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k) + jnp.triu(jnp.full((t, t), -1e9), 1))
        h = jnp.einsum("bhqk,bkhd->bqhd", a, v).reshape(n, t, d)
        x = x + nn.Dense(d, use_bias=False, name="out")(h)
        gate, up = jnp.split(
            nn.Dense(6 * d, use_bias=False, name="gate_up")(nn.RMSNorm(name="norm2")(x)), 2, -1
        )
        return x + nn.Dense(d, use_bias=False, name="down")(nn.silu(gate) * up)


class Llama(nn.Module):
    @nn.compact
    def __call__(self, ids):
        x = nn.Embed(50, 32, name="embed")(ids)
        for k in range(2):
            x = LlamaBlock(name=f"block{k}")(x)
        return nn.Dense(50, use_bias=False, name="head")(nn.RMSNorm(name="norm")(x))


@entry(
    "Llama with fused, grouped-query projections (Linen)",
    {"embed.*": "embedding", "head.kernel": "output", "*.kernel": "hidden"},
    {
        "block0.qkv.kernel": "32×32 + 2 × 16×32",
        "block1.gate_up.kernel": "2 × 96×32",
        "block1.down.kernel": "32×96",
    },
)
def llama() -> Built:
    return linen(Llama(), IDS)


class Bert(nn.Module):
    @nn.compact
    def __call__(self, ids, types):
        x = nn.Embed(50, 32, name="word")(ids) + nn.Embed(2, 32, name="type")(types)
        x = nn.LayerNorm()(x + nn.Embed(16, 32, name="place")(jnp.arange(ids.shape[1])))
        for k in range(2):
            x = nn.LayerNorm()(x + nn.MultiHeadDotProductAttention(4, name=f"attn{k}")(x, x))
            h = nn.Dense(64, name=f"up{k}")(x)
            x = nn.LayerNorm()(x + nn.Dense(32, name=f"down{k}")(nn.gelu(h)))
        return nn.Dense(3, name="classifier")(jnp.tanh(nn.Dense(32, name="pooler")(x[:, 0])))


@entry(
    "BERT with token types (Linen)",
    {"word.*": "embedding", "type.*": "embedding", "place.*": "embedding", "classifier.kernel": "output",
     "*.bias": "vector", "*.kernel": "hidden"},
    {"attn0.value.kernel": "32×32", "attn1.out.kernel": "32×32"},
)  # fmt: skip
def bert() -> Built:
    return linen(Bert(), IDS, IDS)


class ScannedBlock(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        h = nn.LayerNorm(name="norm")(x)
        x = x + nn.MultiHeadDotProductAttention(4, name="attn")(h)
        return x + nn.Dense(32, name="down")(nn.gelu(nn.Dense(96, name="up")(x))), None


class Scanned(nn.Module):
    @nn.compact
    def __call__(self, ids):
        x = nn.Embed(50, 32, name="embed")(ids)
        stack = nn.scan(
            nn.remat(ScannedBlock), variable_axes={"params": 0}, split_rngs={"params": True}, length=3
        )
        return nn.Dense(50, name="head")(stack(name="layers")(x, None)[0])


@entry(
    "Transformer of scanned, rematerialised layers (Linen)",
    {
        "embed.*": "embedding",
        "head.kernel": "output",
        "*.bias": "vector",
        "*.scale": "vector",
        "layers.*": "hidden",
    },
    {
        "layers.attn.query.kernel": "3 × 32×32",
        "layers.up.kernel": "3 × 96×32",
        "layers.attn.out.kernel": "3 × 32×32",
    },
)
def scanned() -> Built:
    return linen(Scanned(), IDS)


class Seq2Seq(nn.Module):
    """An encoder and a decoder with cross-attention; one table for both and for the head."""

    @nn.compact
    def __call__(self, source, target):
        table = nn.Embed(50, 32, name="table")
        memory, y = table(source), table(target)
        memory = memory + nn.MultiHeadDotProductAttention(4, name="encoder_attn")(memory)
        memory = memory + nn.Dense(32, name="encoder_mlp")(nn.relu(memory))
        y = y + nn.MultiHeadDotProductAttention(4, name="decoder_attn")(y, mask=nn.make_causal_mask(target))
        y = y + nn.MultiHeadDotProductAttention(4, name="cross")(y, memory)
        return table.attend(y + nn.Dense(32, name="decoder_mlp")(nn.relu(y)))


@entry(
    "Encoder and decoder with cross-attention (Linen)",
    {"table.*": "embedding", "*.bias": "vector", "*.kernel": "hidden"},
)
def seq2seq() -> Built:
    return linen(Seq2Seq(), IDS, IDS)


class Recurrent(nn.Module):
    cell: type[nn.Module]

    @nn.compact
    def __call__(self, ids):
        x = nn.Embed(50, 16, name="embed")(ids)
        for k in range(2):
            x = nn.RNN(self.cell(24, name=f"cell{k}"))(x)
        return nn.Dense(50, name="head")(x)


RNN = {"embed.*": "embedding", "head.kernel": "output", "cell*.kernel": "hidden"}


@entry("LSTM language model (Linen)", RNN, {"cell0.ii.kernel": "24×16", "cell1.hf.kernel": "24×24"})
def lstm() -> Built:
    return linen(Recurrent(nn.LSTMCell), IDS)


@entry("LSTM language model, optimized cell (Linen)", RNN)
def optimized_lstm() -> Built:
    return linen(Recurrent(nn.OptimizedLSTMCell), IDS)


class Gru(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.embed = nnx.Embed(50, 16, rngs=rngs)
        self.rnn = nnx.RNN(nnx.GRUCell(16, 24, rngs=rngs))
        self.head = nnx.Linear(24, 50, rngs=rngs)

    def __call__(self, ids):
        return self.head(self.rnn(self.embed(ids)))


@entry(
    "GRU language model (NNX)",
    {"embed.*": "embedding", "head.kernel": "output", "rnn.*": "hidden"},
    {"rnn.cell.dense_i.kernel": "3 × 24×16", "rnn.cell.dense_h.kernel": "3 × 24×24"},
)  # the gates lie side by side
def gru() -> Built:
    return from_nnx(Gru, IDS)


class MoE(nnx.Module):
    """Two of four experts for each token, all of them computed, gates from a router."""

    def __init__(self, rngs: nnx.Rngs, d: int = 16, experts: int = 4) -> None:
        self.embed, self.head = nnx.Embed(50, d, rngs=rngs), nnx.Linear(d, 50, rngs=rngs)
        self.router = nnx.Linear(d, experts, use_bias=False, rngs=rngs)
        self.up, self.down = nnx.Param(jnp.zeros((experts, d, 64))), nnx.Param(jnp.zeros((experts, 32, d)))

    def __call__(self, ids):
        x = self.embed(ids)
        best, which = jax.lax.top_k(nnx.softmax(self.router(x)), 2)
        gates = jnp.sum(jax.nn.one_hot(which, 4) * best[..., None], -2)
        gate, up = jnp.split(jnp.einsum("btd,edf->btef", x, self.up[...]), 2, -1)
        y = jnp.einsum("btef,efd->bted", nnx.silu(gate) * up, self.down[...])
        return self.head(x + jnp.einsum("bted,bte->btd", y, gates))


MOE = {
    "embed.*": "embedding",
    "head.kernel": "output",
    "router.kernel": "router",
    "up": "hidden",
    "down": "hidden",
}


@entry("Mixture of stacked, gated experts (NNX)", MOE, {"up": "8 × 32×16", "down": "4 × 16×32"})
def moe() -> Built:
    return from_nnx(MoE, IDS)


class Dispatched(nn.Module):
    """Experts with a capacity: tokens are sent by one-hot masks, as in Switch and GShard."""

    @nn.compact
    def __call__(self, ids):
        x = nn.Embed(50, 16, name="embed")(ids).reshape(-1, 16)
        probability = nn.softmax(nn.Dense(4, use_bias=False, name="router")(x))
        mask = jax.nn.one_hot(jnp.argmax(probability, -1), 4)
        place = jax.nn.one_hot((jnp.cumsum(mask, 0) * mask - 1).max(-1).astype(int), 8)
        dispatch = mask[..., None] * place[:, None]
        up = self.param("up", nn.initializers.normal(), (4, 16, 32))
        down = self.param("down", nn.initializers.normal(), (4, 32, 16))
        h = nn.relu(jnp.einsum("tec,td,edf->ecf", dispatch, x, up))
        y = jnp.einsum("ecf,efd->ecd", h, down)
        combine = dispatch * (probability * mask).sum(-1)[:, None, None]
        return nn.Dense(50, name="head")(x + jnp.einsum("tec,ecd->td", combine, y))


@entry(
    "Switch layer with capacity and one-hot dispatch (Linen)", MOE, {"up": "4 × 32×16", "down": "4 × 16×32"}
)
def dispatched() -> Built:
    return linen(Dispatched(), IDS)


# -- images ------------------------------------------------------------------------------------


class ViT(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Conv(32, (4, 4), (4, 4), name="patch")(x).reshape(x.shape[0], -1, 32)
        token = self.param("cls", nn.initializers.zeros, (1, 1, 32))
        x = jnp.concatenate([jnp.tile(token, (x.shape[0], 1, 1)), x], 1)
        x = x + self.param("place", nn.initializers.normal(), (1, 17, 32))
        for k in range(2):
            h = nn.LayerNorm()(x)
            x = x + nn.MultiHeadDotProductAttention(4, name=f"attn{k}")(h, h)
            x = x + nn.Dense(32, name=f"down{k}")(nn.gelu(nn.Dense(64, name=f"up{k}")(nn.LayerNorm()(x))))
        return nn.Dense(10, name="head")(nn.LayerNorm()(x)[:, 0])


@entry(
    "ViT (Linen)",
    {"patch.kernel": "input", "cls": "embedding", "place": "embedding", "head.kernel": "output", "*.bias": "vector",
     "*.kernel": "hidden"},
)  # fmt: skip
def vit() -> Built:
    return linen(ViT(), IMAGE)


class ResNet(nn.Module):
    @nn.compact
    def __call__(self, x):
        norm = lambda x: nn.BatchNorm(use_running_average=True)(x)  # noqa: E731
        x = nn.relu(norm(nn.Conv(16, (7, 7), (2, 2), use_bias=False, name="stem")(x)))
        x = nn.max_pool(x, (3, 3), (2, 2), "SAME")
        for k, width in enumerate((16, 24)):
            h = nn.relu(norm(nn.Conv(width, (3, 3), (k + 1, k + 1), name=f"a{k}")(x)))
            h = norm(nn.Conv(width, (3, 3), name=f"b{k}")(h))
            x = nn.relu(h + (nn.Conv(width, (1, 1), (2, 2), name="project")(x) if k else x))
        return nn.Dense(10, name="head")(x.mean((1, 2)))


@entry(
    "ResNet (Linen)",
    {"stem.*": "input", "head.kernel": "output", "*.kernel": "hidden"},
    {"a1.kernel": "24×144"},
)
def resnet() -> Built:
    return linen(ResNet(), IMAGE)


class ConvNeXt(nnx.Module):
    class Block(nnx.Module):
        def __init__(self, d: int, rngs: nnx.Rngs) -> None:
            self.depthwise = nnx.Conv(d, d, (7, 7), feature_group_count=d, rngs=rngs)
            self.norm = nnx.LayerNorm(d, rngs=rngs)
            self.up, self.down = nnx.Linear(d, 4 * d, rngs=rngs), nnx.Linear(4 * d, d, rngs=rngs)
            self.scale = nnx.Param(jnp.zeros(d))

        def __call__(self, x):
            return x + self.scale[...] * self.down(nnx.gelu(self.up(self.norm(self.depthwise(x)))))

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.stem = nnx.Conv(3, 16, (4, 4), (4, 4), rngs=rngs)
        self.one, self.two = self.Block(16, rngs), self.Block(24, rngs)
        self.shrink, self.head = nnx.Conv(16, 24, (2, 2), (2, 2), rngs=rngs), nnx.Linear(24, 10, rngs=rngs)

    def __call__(self, x):
        return self.head(self.two(self.shrink(self.one(self.stem(x)))).mean((1, 2)))


@entry(
    "ConvNeXt (NNX)",
    {"stem.kernel": "input", "*.depthwise.kernel": "vector", "head.kernel": "output", "*.kernel": "hidden"},
    {"shrink.kernel": "24×64", "one.up.kernel": "64×16"},
)
def convnext() -> Built:
    return from_nnx(ConvNeXt, IMAGE)


class MBConv(nn.Module):
    out: int

    @nn.compact
    def __call__(self, x):
        wide = 4 * x.shape[-1]
        h = nn.silu(nn.GroupNorm(4)(nn.Conv(wide, (1, 1), name="expand")(x)))
        h = nn.silu(nn.Conv(wide, (3, 3), feature_group_count=wide, name="depthwise")(h))
        s = nn.silu(nn.Conv(8, (1, 1), name="squeeze")(h.mean((1, 2), keepdims=True)))
        h = nn.Conv(self.out, (1, 1), name="project")(h * nn.sigmoid(nn.Conv(wide, (1, 1), name="excite")(s)))
        return x + h if self.out == x.shape[-1] else h


class EfficientNet(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.silu(nn.Conv(16, (3, 3), (2, 2), name="stem")(x))
        x = MBConv(24, name="one")(MBConv(16, name="zero")(x))
        x = nn.silu(nn.Conv(48, (1, 1), name="last")(x)).mean((1, 2))
        return nn.Dense(10, name="head")(x)


@entry(
    "EfficientNet with squeeze and excitation (Linen)",
    {"stem.kernel": "input", "*.depthwise.kernel": "vector", "head.kernel": "output", "*.kernel": "hidden"},
    {"one.squeeze.kernel": "8×64", "one.excite.kernel": "64×8"},
)
def efficientnet() -> Built:
    return linen(EfficientNet(), IMAGE)


class Mixer(nnx.Module):
    def __init__(self, rngs: nnx.Rngs, d: int = 24) -> None:
        self.patch = nnx.Conv(3, d, (4, 4), (4, 4), rngs=rngs)
        self.tokens = nnx.List([nnx.Linear(16, 32, rngs=rngs), nnx.Linear(32, 16, rngs=rngs)])
        self.channels = nnx.List([nnx.Linear(d, 48, rngs=rngs), nnx.Linear(48, d, rngs=rngs)])
        self.norm, self.head = nnx.LayerNorm(d, rngs=rngs), nnx.Linear(d, 10, rngs=rngs)

    def __call__(self, x):
        x = self.patch(x).reshape(x.shape[0], 16, -1)
        up, down = self.tokens
        x = x + jnp.swapaxes(down(nnx.gelu(up(jnp.swapaxes(self.norm(x), 1, 2)))), 1, 2)
        up, down = self.channels
        return self.head((x + down(nnx.gelu(up(x)))).mean(1))


@entry("MLP-Mixer (NNX)", {"patch.*": "input", "head.kernel": "output", "*.kernel": "hidden"})
def mixer() -> Built:
    return from_nnx(Mixer, IMAGE)


def waves(t, n: int = 16):
    w = t[:, None] * jnp.exp(-jnp.arange(n // 2))
    return jnp.concatenate([jnp.cos(w), jnp.sin(w)], -1)


class UNetBlock(nn.Module):
    out: int

    @nn.compact
    def __call__(self, x, t):
        h = nn.Conv(self.out, (3, 3), name="conv1")(nn.silu(nn.GroupNorm(4)(x)))
        h = h + nn.Dense(self.out, name="time")(nn.silu(t))[:, None, None]
        h = nn.Conv(self.out, (3, 3), name="conv2")(nn.silu(nn.GroupNorm(4)(h)))
        return h + (x if x.shape[-1] == self.out else nn.Conv(self.out, (1, 1), name="skip")(x))


class UNet(nn.Module):
    @nn.compact
    def __call__(self, x, t):
        t = nn.Dense(32, name="time2")(nn.silu(nn.Dense(32, name="time1")(waves(t))))
        x = nn.Conv(16, (3, 3), name="stem")(x)
        a = UNetBlock(16, name="down")(x, t)
        h = UNetBlock(24, name="mid")(nn.Conv(24, (3, 3), (2, 2), name="shrink")(a), t)
        b = nn.ConvTranspose(16, (2, 2), (2, 2), name="grow")(h)
        h = UNetBlock(16, name="up")(jnp.concatenate([a, b], -1), t)
        return nn.Conv(3, (3, 3), name="head")(nn.silu(nn.GroupNorm(4)(h)))


@entry(
    "Diffusion UNet (Linen)",
    {"time1.kernel": "input", "stem.kernel": "input", "head.kernel": "output", "*.kernel": "hidden"},
    # time1 reads sines of the raw time
    {"grow.kernel": "16×96", "up.conv1.kernel": "16×288", "mid.time.kernel": "24×32"},
)
def unet() -> Built:
    return linen(UNet(), IMAGE, TIME)


class DiTBlock(nnx.Module):
    def __init__(self, d: int, rngs: nnx.Rngs) -> None:
        self.mod, self.qkv = nnx.Linear(d, 6 * d, rngs=rngs), nnx.Linear(d, 3 * d, rngs=rngs)
        self.proj = nnx.Linear(d, d, rngs=rngs)
        self.up, self.down = nnx.Linear(d, 4 * d, rngs=rngs), nnx.Linear(4 * d, d, rngs=rngs)
        self.norm = nnx.LayerNorm(d, use_bias=False, use_scale=False, rngs=rngs)

    def __call__(self, x, c):
        s1, g1, a1, s2, g2, a2 = jnp.split(self.mod(nnx.silu(c))[:, None], 6, -1)
        h = self.norm(x) * (1 + g1) + s1
        q, k, v = jnp.moveaxis(self.qkv(h).reshape(*x.shape[:2], 3, 4, -1), 2, 0)
        x = x + a1 * self.proj(nnx.dot_product_attention(q, k, v).reshape(x.shape))
        return x + a2 * self.down(nnx.gelu(self.up(self.norm(x) * (1 + g2) + s2)))


class DiT(nnx.Module):
    def __init__(self, rngs: nnx.Rngs, d: int = 32) -> None:
        self.patch, self.place = nnx.Conv(3, d, (4, 4), (4, 4), rngs=rngs), nnx.Param(jnp.zeros((1, 16, d)))
        self.time1, self.time2 = nnx.Linear(16, d, rngs=rngs), nnx.Linear(d, d, rngs=rngs)
        self.label = nnx.Embed(10, d, rngs=rngs)
        self.blocks = nnx.List([DiTBlock(d, rngs) for _ in range(2)])
        self.mod, self.final = nnx.Linear(d, 2 * d, rngs=rngs), nnx.Linear(d, 48, rngs=rngs)

    def __call__(self, x, t, y):
        x = self.patch(x).reshape(x.shape[0], 16, -1) + self.place[...]
        c = self.time2(nnx.silu(self.time1(waves(t)))) + self.label(y)
        for block in self.blocks:
            x = block(x, c)
        s, g = jnp.split(self.mod(nnx.silu(c))[:, None], 2, -1)
        return self.final(x * (1 + g) + s)


@entry(
    "DiT (NNX)",
    {"patch.kernel": "input", "place": "embedding", "label.*": "embedding", "time1.kernel": "input",
     "final.kernel": "output", "*.kernel": "hidden"},
    {"blocks.0.mod.kernel": "6 × 32×32", "blocks.0.qkv.kernel": "3 × 32×32", "mod.kernel": "2 × 32×32"},
)  # fmt: skip
def dit() -> Built:
    return from_nnx(DiT, IMAGE, TIME, ONE)


class Vae(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.a, self.b = (
            nnx.Conv(3, 16, (3, 3), (2, 2), rngs=rngs),
            nnx.Conv(16, 24, (3, 3), (2, 2), rngs=rngs),
        )
        self.mean, self.spread = nnx.Linear(384, 8, rngs=rngs), nnx.Linear(384, 8, rngs=rngs)
        self.grow = nnx.Linear(8, 384, rngs=rngs)
        self.c = nnx.ConvTranspose(24, 16, (2, 2), (2, 2), rngs=rngs)
        self.d = nnx.ConvTranspose(16, 3, (2, 2), (2, 2), rngs=rngs)

    def __call__(self, x):
        h = nnx.relu(self.b(nnx.relu(self.a(x)))).reshape(x.shape[0], -1)
        mean, spread = self.mean(h), self.spread(h)
        z = mean + jnp.exp(spread / 2) * jax.random.normal(KEY, mean.shape)
        return self.d(nnx.relu(self.c(nnx.relu(self.grow(z)).reshape(-1, 4, 4, 24)))), mean, spread


@entry(
    "Variational autoencoder (NNX)",
    {"a.kernel": "input", "d.kernel": "output", "*.kernel": "hidden"},
    # mean and spread leave the model too, but the decoder reads them
    {"c.kernel": "16×96", "b.kernel": "24×144"},
)
def vae() -> Built:
    return from_nnx(Vae, IMAGE)


class Critic(nn.Module):
    """A discriminator with spectral normalisation and one with weight normalisation, in turn."""

    @nn.compact
    def __call__(self, x):
        x = nn.leaky_relu(nn.SpectralNorm(nn.Conv(16, (3, 3), (2, 2), name="stem"))(x, update_stats=False))
        x = nn.leaky_relu(nn.SpectralNorm(nn.Conv(24, (3, 3), (2, 2), name="mid"))(x, update_stats=False))
        x = nn.leaky_relu(nn.WeightNorm(nn.Dense(32, name="fc"))(x.reshape(x.shape[0], -1)))
        return nn.Dense(1, name="score")(x)


@entry(
    "Discriminator with spectral and weight norm (Linen)",
    {"*stem.kernel": "input", "*score.kernel": "output", "*kernel/scale": "vector", "*.kernel": "hidden"},
)
def critic() -> Built:
    return linen(Critic(), IMAGE)


class ConvNet(eqx.Module):
    """Channels first, one image at a time."""

    stem: eqx.nn.Conv2d
    mid: eqx.nn.Conv2d
    up: eqx.nn.ConvTranspose2d
    fc: eqx.nn.Linear

    def __init__(self, key) -> None:
        self.stem, self.mid = (
            eqx.nn.Conv2d(3, 16, 3, 2, 1, key=key),
            eqx.nn.Conv2d(16, 24, 3, groups=2, key=key),
        )
        self.up, self.fc = eqx.nn.ConvTranspose2d(24, 12, 2, 2, key=key), eqx.nn.Linear(12, 10, key=key)

    def __call__(self, x):
        x = jax.nn.relu(self.mid(jax.nn.relu(self.stem(jnp.moveaxis(x, -1, 0)))))
        return self.fc(jax.nn.relu(self.up(x)).mean((1, 2)))


@entry(
    "Convolutions, channels first (Equinox)",
    {"*.bias": "vector", "stem.weight": "input", "fc.weight": "output", "*.weight": "hidden"},
    {"mid.weight": "2 × 12×72", "up.weight": "12×96"},
)
def convnet() -> Built:
    return equinox(ConvNet, IMAGE)


# -- points, graphs, tables, agents ------------------------------------------------------------


class ActorCritic(nn.Module):
    @nn.compact
    def __call__(self, x):
        h = jnp.tanh(nn.Dense(32, name="b")(jnp.tanh(nn.Dense(32, name="a")(x))))
        return nn.softmax(nn.Dense(5, name="policy")(h)), nn.Dense(1, name="value")(nn.Dense(32, name="c")(h))


@entry(
    "Actor and critic (Linen)",
    {"a.kernel": "input", "policy.kernel": "output", "value.kernel": "output", "*.kernel": "hidden"},
)
def actor_critic() -> Built:
    return linen(ActorCritic(), X)


class NeRF(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.a, self.b = nnx.Linear(27, 32, rngs=rngs), nnx.Linear(32, 32, rngs=rngs)
        self.skip, self.density = nnx.Linear(32 + 27, 32, rngs=rngs), nnx.Linear(32, 1, rngs=rngs)
        self.feature, self.view = nnx.Linear(32, 32, rngs=rngs), nnx.Linear(32 + 3, 16, rngs=rngs)
        self.color = nnx.Linear(16, 3, rngs=rngs)

    def __call__(self, x, direction):
        x = jnp.concatenate([x, *(f(2.0**k * x) for k in range(4) for f in (jnp.sin, jnp.cos))], -1)
        h = nnx.relu(self.b(nnx.relu(self.a(x))))
        h = nnx.relu(self.skip(jnp.concatenate([h, x], -1)))
        c = nnx.relu(self.view(jnp.concatenate([self.feature(h), direction], -1)))
        return nnx.sigmoid(self.color(c)), nnx.relu(self.density(h))


@entry(
    "NeRF (NNX)",
    {"a.kernel": "input", "color.kernel": "output", "density.kernel": "output", "*.kernel": "hidden"},
    # skip and view read raw coordinates beside hidden features
)
def nerf() -> Built:
    return from_nnx(
        NeRF, jax.ShapeDtypeStruct((2, 5, 3), jnp.float32), jax.ShapeDtypeStruct((2, 5, 3), jnp.float32)
    )


class Recommender(nn.Module):
    """Factorisation by a dot product of two tables, beside a deep part that reads tables and features."""

    @nn.compact
    def __call__(self, user, item, features):
        tables = {
            n: nn.Embed(s, 16, name=n)
            for n, s in (("user", 40), ("item", 60), ("user_deep", 40), ("item_deep", 60))
        }
        product = jnp.sum(tables["user"](user) * tables["item"](item), -1, keepdims=True)
        bottom = nn.relu(nn.Dense(16, name="bottom")(features))
        x = jnp.concatenate([tables["user_deep"](user), tables["item_deep"](item), bottom], -1)
        x = nn.relu(nn.Dense(32, name="a")(x))
        return nn.sigmoid(product + nn.Dense(1, name="score")(nn.relu(nn.Dense(24, name="b")(x))))


@entry(
    "Recommender with tables (Linen)",
    {
        "user*": "embedding",
        "item*": "embedding",
        "bottom.kernel": "input",
        "score.kernel": "output",
        "*.kernel": "hidden",
    },
)
def recommender() -> Built:
    return linen(Recommender(), ONE, ONE, X)


@entry(
    "Tabular MLP (Equinox)",
    {"layers.0.weight": "input", "layers.3.weight": "output", "*.weight": "hidden"},
    {"layers.1.weight": "24×24"},
)
def tabular() -> Built:
    return equinox(lambda key: eqx.nn.MLP(16, 4, 24, 3, key=key), X)


class EqxBlock(eqx.Module):
    attention: eqx.nn.MultiheadAttention
    up: eqx.nn.Linear
    down: eqx.nn.Linear
    norm: eqx.nn.LayerNorm
    embed: eqx.nn.Embedding
    cell: eqx.nn.LSTMCell
    head: eqx.nn.Linear

    def __init__(self, key) -> None:
        self.attention = eqx.nn.MultiheadAttention(4, 32, key=key)
        self.up, self.down = eqx.nn.Linear(32, 64, key=key), eqx.nn.Linear(64, 32, key=key)
        self.norm, self.embed = eqx.nn.LayerNorm(32), eqx.nn.Embedding(50, 32, key=key)
        self.cell, self.head = eqx.nn.LSTMCell(32, 24, key=key), eqx.nn.Linear(24, 50, key=key)

    def __call__(self, ids):
        x = jax.vmap(self.embed)(ids)
        x = x + self.attention(*[jax.vmap(self.norm)(x)] * 3)
        x = x + jax.vmap(lambda h: self.down(jax.nn.gelu(self.up(h))))(x)
        state, _ = jax.lax.scan(lambda s, h: (self.cell(h, s), None), (jnp.zeros(24), jnp.zeros(24)), x)
        return self.head(state[0])


@entry(
    "Attention, then an LSTM cell in a scan (Equinox)",
    {"embed.*": "embedding", "head.weight": "output", "*.weight*": "hidden"},
    {"cell.weight_ih": "4 × 24×32", "cell.weight_hh": "4 × 24×24", "attention.query_proj.weight": "32×32"},
)
def attention_then_lstm() -> Built:
    return equinox(EqxBlock, IDS)


class PointNet(nn.Module):
    """Points are turned by a matrix that a small network makes; features are pooled over the points."""

    @nn.compact
    def __call__(self, x):
        t = nn.relu(nn.Dense(24, name="turn2")(nn.relu(nn.Dense(16, name="turn1")(x)))).max(1)
        x = x @ nn.Dense(9, name="turn3")(t).reshape(-1, 3, 3)
        x = nn.relu(nn.Dense(48, name="b")(nn.relu(nn.Dense(24, name="a")(x)))).max(1)
        return nn.Dense(10, name="head")(nn.relu(nn.Dense(32, name="c")(x)))


@entry(
    "PointNet (Linen)",
    # a reads the points as they were turned by a learned matrix of learned features: three numbers a point
    {"turn1.kernel": "input", "a.kernel": "vector", "head.kernel": "output", "*.kernel": "hidden"},
)
def pointnet() -> Built:
    return linen(PointNet(), jax.ShapeDtypeStruct((2, 20, 3), jnp.float32))


class MessagePassing(nn.Module):
    """Messages along edges from both ends and the edge's features, summed where they arrive."""

    @nn.compact
    def __call__(self, nodes, edges, senders, receivers):
        x, e = nn.Dense(24, name="nodes")(nodes), nn.Dense(24, name="edges")(edges)
        for k in range(2):
            m = jnp.concatenate([x[senders], x[receivers], e], -1)
            m = nn.relu(nn.Dense(24, name=f"message{k}")(m))
            x = nn.relu(
                nn.Dense(24, name=f"update{k}")(
                    jnp.concatenate([x, jax.ops.segment_sum(m, receivers, 6)], -1)
                )
            )
        return nn.Dense(3, name="head")(x.mean(0))


@entry(
    "Message passing on a graph (Linen)",
    {"nodes.kernel": "input", "edges.kernel": "input", "head.kernel": "output", "*.kernel": "hidden"},
)
def graph() -> Built:
    edge = jax.ShapeDtypeStruct((9,), jnp.int32)
    return linen(
        MessagePassing(),
        jax.ShapeDtypeStruct((6, 16), jnp.float32),
        jax.ShapeDtypeStruct((9, 5), jnp.float32),
        edge,
        edge,
    )


class Lora(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.first = nnx.Linear(16, 24, rngs=rngs)
        self.mid = nnx.LoRALinear(24, 24, lora_rank=4, rngs=rngs)
        self.head = nnx.Linear(24, 5, rngs=rngs)

    def __call__(self, x):
        return self.head(nnx.relu(self.mid(nnx.relu(self.first(x)))))


@entry(
    "LoRA (NNX)",
    {"first.kernel": "input", "head.kernel": "output", "mid.*": "hidden"},
    {"mid.lora.lora_a": "4×24", "mid.lora.lora_b": "24×4"},
)
def lora() -> Built:
    return from_nnx(Lora, X)
