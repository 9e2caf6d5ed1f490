"""Roles and views read from a jaxpr, against labels written down by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

import downslope.jax as dj
from downslope.cli import run
from downslope.errors import UsageError
from downslope.grouping.partition import Partition
from downslope.grouping.view import MatrixView


def roles(p: Partition) -> dict[str, str]:
    return {a.name: a.role.value for a in p}


def matrices(p: Partition) -> dict[str, list[tuple[int, int, int]]]:
    return {a.name: a.view.matrices(a.shape) for a in p if a.rule == "muon"}


def zeros(**shapes: tuple[int, ...]) -> dict[str, jax.Array]:
    return {name: jnp.zeros(shape) for name, shape in shapes.items()}


X = jnp.ones((2, 8))
KEY = jax.random.key(0)
TOKENS = jnp.zeros((2, 6), jnp.int32)


def test_linen_convolutions_of_every_kind() -> None:
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x: Any) -> Any:
            x = nn.relu(nn.Conv(16, (3, 3), name="stem")(x))
            x = nn.relu(nn.BatchNorm(use_running_average=False, name="norm")(x))
            x = nn.Conv(32, (3, 3), feature_group_count=2, name="grouped")(x)
            x = nn.Conv(32, (3, 3), feature_group_count=32, name="depthwise")(nn.relu(x))
            x = nn.Conv(24, (1, 1), name="pointwise")(x)
            x = nn.ConvTranspose(20, (2, 2), strides=(2, 2), name="up")(x)
            return nn.Dense(10, name="head")(nn.relu(nn.Dense(64, name="fc")(x.mean((1, 2)))))

    model, x = Net(), jnp.ones((2, 8, 8, 3))
    variables = model.init(jax.random.key(0), x)
    params, stats = variables["params"], variables["batch_stats"]

    def loss(params: Any, x: Any, y: Any) -> Any:
        logits, _ = model.apply({"params": params, "batch_stats": stats}, x, mutable=["batch_stats"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    p = dj.partition(loss, params, x, jnp.zeros(2, int))
    found = roles(p)
    assert {n: r for n, r in found.items() if n.endswith("kernel")} == {
        "stem.kernel": "input",
        "grouped.kernel": "hidden",
        "depthwise.kernel": "vector",
        "pointwise.kernel": "hidden",
        "up.kernel": "hidden",
        "fc.kernel": "hidden",
        "head.kernel": "output",
    }
    assert {r for n, r in found.items() if not n.endswith("kernel")} == {"vector"}
    assert matrices(p) == {
        "grouped.kernel": [(2, 16, 72)],
        "pointwise.kernel": [(1, 24, 32)],
        "up.kernel": [(1, 20, 96)],
        "fc.kernel": [(1, 64, 20)],
    }


class Block(nnx.Module):
    def __init__(self, width: int, rngs: nnx.Rngs) -> None:
        self.norm = nnx.RMSNorm(width, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(4, width, decode=False, rngs=rngs)
        self.up, self.down = nnx.Linear(width, 4 * width, rngs=rngs), nnx.Linear(4 * width, width, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        x = x + self.attention(self.norm(x), mask=nnx.make_causal_mask(x[..., 0]))
        return x + self.down(nnx.gelu(self.up(self.norm(x))))


class Language(nnx.Module):
    def __init__(self, rngs: nnx.Rngs, tied: bool = False) -> None:
        self.embed, self.position = nnx.Embed(50, 32, rngs=rngs), nnx.Param(jnp.zeros((6, 32)))
        self.blocks = nnx.List([Block(32, rngs) for _ in range(2)])
        self.dropout = nnx.Dropout(0.1, rngs=rngs)
        self.head = None if tied else nnx.Linear(32, 50, rngs=rngs)

    def __call__(self, tokens: Any) -> Any:
        x = self.dropout(self.embed(tokens) + self.position[...])
        for block in self.blocks:
            x = block(x)
        return self.head(x) if self.head else self.embed.attend(x)


@pytest.mark.parametrize("tied", [False, True])
def test_nnx_language_model(tied: bool) -> None:
    graph, params, rest = nnx.split(Language(nnx.Rngs(0), tied), nnx.Param, ...)
    p = dj.partition(lambda p, t: nnx.merge(graph, p, rest, copy=True)(t), params, TOKENS)
    found = roles(p)
    assert found["embed.embedding"] == found["position"] == "embedding"
    assert tied or found["head.kernel"] == "output"
    hidden = {f"blocks.{k}.{n}.kernel" for k in (0, 1) for n in ("up", "down")}
    hidden |= {f"blocks.{k}.attention.{n}.kernel" for k in (0, 1) for n in ("query", "key", "value", "out")}
    assert {n for n, r in found.items() if r == "hidden"} == hidden
    others = found.keys() - hidden - {"embed.embedding", "position", "head.kernel"}
    assert {found[n] for n in others} == {"vector"}
    assert p["blocks.0.attention.query.kernel"].view == MatrixView((1, 2), (0,))
    assert p["blocks.0.attention.out.kernel"].view == MatrixView((2,), (0, 1))
    split = dj.partition(lambda p, t: nnx.merge(graph, p, rest, copy=True)(t), params, TOKENS, heads="split")
    assert split["blocks.1.attention.key.kernel"].view.matrices((32, 4, 8)) == [(4, 8, 32)]
    assert split["blocks.1.up.kernel"].view.matrices((32, 128)) == [(1, 128, 32)]

    tx = dj.muon(p, 1e-2)
    optimizer = nnx.Optimizer(model := nnx.merge(graph, params, rest), tx, wrt=nnx.Param)

    @nnx.jit
    def step(model: Any, optimizer: Any) -> Any:
        def loss(model: Any) -> Any:
            return optax.softmax_cross_entropy_with_integer_labels(model(TOKENS), TOKENS).mean()

        value, grads = nnx.value_and_grad(loss)(model)
        optimizer.update(model, grads)
        return value

    losses = [step(model, optimizer) for _ in range(5)]
    assert losses[-1] < losses[0]


def test_equinox_trains_by_its_own_idiom() -> None:
    model = eqx.nn.MLP(8, 4, 16, 3, key=jax.random.key(0))
    params, static = eqx.partition(model, eqx.is_inexact_array)
    p = dj.partition(lambda p, x: jax.vmap(eqx.combine(p, static))(x), params, X)
    assert [roles(p)[f"layers.{k}.weight"] for k in range(4)] == ["input", "hidden", "hidden", "output"]
    assert p["layers.1.weight"].view == MatrixView((0,), (1,))
    tx = dj.muon(p, 0.01)
    state = tx.init(eqx.filter(model, eqx.is_inexact_array))

    @eqx.filter_jit
    def step(model: Any, state: Any) -> Any:
        value, grads = eqx.filter_value_and_grad(lambda m: jnp.mean((jax.vmap(m)(X) - 1) ** 2))(model)
        updates, state = tx.update(grads, state, eqx.filter(model, eqx.is_inexact_array))
        return eqx.apply_updates(model, updates), state, value

    losses = []
    for _ in range(5):
        model, state, value = step(model, state)
        losses.append(value)
    assert losses[-1] < losses[0]


def attention(p: Any, x: Any, heads: int = 2) -> Any:
    """Self-attention with a fused (in, 3·out) projection."""
    q, k, v = (part.reshape(*x.shape[:-1], heads, -1) for part in jnp.split(x @ p["qkv"], 3, axis=-1))
    weights = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k))
    return jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(x.shape) @ p["out"]


def test_fused_projections_are_cut_where_their_result_is() -> None:
    params = zeros(table=(50, 16), qkv=(16, 48), out=(16, 16), gate_up=(16, 64), down=(32, 16), head=(16, 50))

    def model(p: Any, tokens: Any) -> Any:
        x = p["table"][tokens]
        x = x + attention(p, x)
        gate, up = jnp.split(x @ p["gate_up"], 2, axis=-1)
        return (x + (jax.nn.silu(gate) * up) @ p["down"]) @ p["head"]

    p = dj.partition(model, params, TOKENS)
    assert roles(p) == {
        **dict.fromkeys(("qkv", "out", "gate_up", "down"), "hidden"),
        "table": "embedding",
        "head": "output",
    }
    assert matrices(p)["qkv"] == [(3, 16, 16)]
    assert matrices(p)["gate_up"] == [(2, 32, 16)]
    assert matrices(p)["down"] == [(1, 16, 32)]


def test_layers_stacked_for_a_scan_are_matrices_of_their_own() -> None:
    params = {
        **zeros(first=(8, 16), head=(16, 4)),
        "layers": zeros(kernel=(5, 16, 16), bias=(5, 16), gain=(5, 16)),
    }

    def model(p: Any, x: Any) -> Any:
        def layer(x: Any, p: Any) -> Any:
            return x + jnp.tanh((x * p["gain"]) @ p["kernel"] + p["bias"]), None

        x, _ = jax.lax.scan(jax.checkpoint(layer), x @ p["first"], p["layers"])
        return x @ p["head"]

    p = dj.partition(model, params, X)
    assert roles(p) == {
        "first": "input",
        "head": "output",
        "layers.kernel": "hidden",
        "layers.bias": "vector",
        "layers.gain": "vector",
    }
    assert p["layers.kernel"].view == MatrixView((2,), (1,), (0,))
    first = dj.partition(
        lambda p, x: jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, p)[0], jnp.zeros((3, 8, 8)), X
    )
    assert [a.role.value for a in first] == ["hidden"]  # raw data reaches only the first of them


def test_experts_and_their_router() -> None:
    params = zeros(embed=(50, 16), router=(16, 4), up=(4, 16, 32), down=(4, 32, 16), head=(16, 50))

    def dense(p: Any, tokens: Any) -> Any:
        x = p["embed"][tokens]
        values, places = jax.lax.top_k(jax.nn.softmax(x @ p["router"]), 2)
        gates = jnp.sum(jax.nn.one_hot(places, 4) * values[..., None], -2)
        hidden = jax.nn.relu(jnp.einsum("btd,edf->btef", x, p["up"]))
        return jnp.einsum("btef,efd,bte->btd", hidden, p["down"], gates) @ p["head"]

    def fetched(p: Any, tokens: Any) -> Any:
        x = p["embed"][tokens]
        best = jnp.argmax(x @ p["router"], -1)
        hidden = jax.nn.relu(jnp.einsum("btd,btdf->btf", x, p["up"][best]))
        return jnp.einsum("btf,btfd->btd", hidden, p["down"][best]) @ p["head"]

    def gated(p: Any, tokens: Any) -> Any:
        x = p["embed"][tokens]
        _, places = jax.lax.top_k(x @ p["router"], 1)
        gate, up = jnp.split(jnp.einsum("btd,edf->ebtf", x, p["up"]), 2, -1)
        hidden, gates = jax.nn.silu(gate) * up, jax.nn.one_hot(places[..., 0], 4)
        return jnp.einsum("ebtf,efd,bte->btd", hidden, p["down"], gates) @ p["head"]

    for model in (dense, fetched, gated):
        own = params if model is not gated else {**params, "up": jnp.zeros((4, 16, 64))}
        p = dj.partition(model, own, TOKENS)
        assert roles(p) == {
            "embed": "embedding",
            "router": "router",
            "up": "hidden",
            "down": "hidden",
            "head": "output",
        }, model
        up = [(8 if model is gated else 4, 32, 16)]  # the gate and what it lets through, for each expert
        assert matrices(p) == {"up": up, "down": [(4, 16, 32)]}, model


def test_experts_of_a_grouped_product() -> None:
    def model(p: Any, ids: Any) -> Any:
        x = p["table"][ids].reshape(-1, 16)
        gates, chosen = jax.lax.top_k(jax.nn.softmax(x @ p["router"]), 2)
        order = jnp.argsort(chosen.reshape(-1))
        sizes = jnp.bincount(chosen.reshape(-1), length=4)
        rows = jnp.repeat(x, 2, axis=0)[order]
        h = jax.nn.gelu(jax.lax.ragged_dot(rows, p["up"], sizes))
        made = jax.lax.ragged_dot(h, p["down"], sizes)
        back = jnp.zeros_like(made).at[order].set(made).reshape(-1, 2, 16)
        return (back * gates[..., None]).sum(1) @ p["head"]

    shapes = {"table": (50, 16), "router": (16, 4), "up": (4, 16, 32), "down": (4, 32, 16), "head": (16, 9)}
    p = dj.partition(model, zeros(**shapes), TOKENS)
    assert roles(p) == {
        "down": "hidden", "head": "output", "router": "router", "table": "embedding", "up": "hidden"
    }  # fmt: skip
    assert matrices(p) == {"up": [(4, 32, 16)], "down": [(4, 16, 32)]}
    assert p["up"].view == MatrixView((2,), (1,), (0,))


@pytest.mark.parametrize("tiled", [True, False])
def test_weights_gathered_from_devices_are_the_weights(tiled: bool) -> None:
    def whole(w: Any) -> Any:
        gathered = jax.lax.all_gather(w, "i", tiled=tiled)
        return gathered if tiled else gathered.reshape(-1, *w.shape[1:])

    def model(p: Any, x: Any) -> Any:
        p = jax.tree.map(whole, p)
        q, k, v = jnp.split(x @ p["stem"] @ p["qkv"], 3, axis=-1)
        q, k = jax.lax.optimization_barrier((q, k))
        return jax.nn.softmax(q @ k.T) @ v @ p["head"]

    mesh = jax.make_mesh((4,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.sharding.PartitionSpec("i")
    run = jax.shard_map(model, mesh=mesh, in_specs=(spread, spread), out_specs=spread)
    p = dj.partition(run, zeros(stem=(8, 16), qkv=(16, 48), head=(16, 4)), jnp.ones((4, 8)))
    assert roles(p) == {"stem": "input", "qkv": "hidden", "head": "output"}
    assert p["qkv"].view == MatrixView((1,), (0,), blocks=(16, 16, 16))


def test_recurrence() -> None:
    class Net(nn.Module):
        @nn.compact
        def __call__(self, tokens: Any) -> Any:
            x = nn.Embed(50, 16, name="embed")(tokens)
            return nn.Dense(50, name="head")(nn.RNN(nn.GRUCell(16), name="rnn")(x))

    model = Net()
    params = model.init(jax.random.key(0), TOKENS)["params"]
    found = roles(dj.partition(lambda p, t: model.apply({"params": p}, t), params, TOKENS))
    assert found["embed.embedding"] == "embedding"
    assert found["head.kernel"] == "output"
    cell = [r for n, r in found.items() if "GRUCell" in n and n.endswith("kernel")]
    assert len(cell) == 6
    assert set(cell) == {"hidden"}


def test_patches_a_class_token_and_positions() -> None:
    params = zeros(patch=(4, 4, 3, 16), token=(1, 1, 16), position=(1, 5, 16), mix=(16, 16), head=(16, 10))

    def model(p: Any, x: Any) -> Any:
        x = jax.lax.conv_general_dilated(
            x, p["patch"], (4, 4), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        x = x.reshape(x.shape[0], -1, 16)
        x = jnp.concatenate([jnp.broadcast_to(p["token"], (x.shape[0], 1, 16)), x], 1) + p["position"]
        return jnp.tanh(x @ p["mix"])[:, 0] @ p["head"]

    found = roles(dj.partition(model, params, jnp.ones((2, 8, 8, 3))))
    assert found == {
        "patch": "input",
        "token": "embedding",
        "position": "embedding",
        "mix": "hidden",
        "head": "output",
    }


def test_penalties_low_rank_factors_branches_and_names() -> None:
    params = {
        **zeros(first=(8, 16), base=(16, 16), a=(16, 4), b=(4, 16), head=(16, 2)),
        "unused": jnp.zeros((3, 3)),
    }

    def loss(p: Any, x: Any, *, train: bool) -> Any:
        h = jnp.tanh(x @ p["first"])
        h = jax.lax.cond(jnp.sum(x) > 0, lambda h: jnp.tanh(h @ (p["base"] + p["a"] @ p["b"])), jnp.tanh, h)
        penalty = sum(jnp.sum(w**2) for w in (p["first"], p["base"], p["head"])) if train else 0.0
        return jnp.mean((h @ p["head"]) ** 2) + 1e-4 * penalty

    p = dj.partition(loss, params, X, train=True)
    assert roles(p) == {
        **dict.fromkeys(("base", "a", "b"), "hidden"),
        "first": "input",
        "head": "output",
        "unused": "unused",
    }
    assert "not used on this batch" in p["unused"].warning
    assert matrices(p) == {"base": [(1, 16, 16)], "a": [(1, 4, 16)], "b": [(1, 16, 4)]}


class Tuned(nnx.Module):
    """A model whose low-rank factors alone are trained."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.stem = nnx.Linear(8, 16, rngs=rngs)
        self.mix = nnx.LoRALinear(16, 16, lora_rank=4, rngs=rngs)
        self.head = nnx.Linear(16, 3, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return self.head(nnx.relu(self.mix(nnx.relu(self.stem(x)))))


def test_what_is_trained_may_be_part_of_what_was_traced() -> None:
    model = Tuned(nnx.Rngs(0))
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    p = dj.partition(
        lambda p, x: nnx.merge(graph, p, rest, copy=True)(x),
        params,
        X,
        overrides={lambda a: "lora" not in a.name: "frozen"},
    )
    assert {a.name: a.rule for a in p if a.rule != "none"} == {
        "mix.lora.lora_a": "muon",
        "mix.lora.lora_b": "muon",
    }
    optimizer = nnx.Optimizer(model, dj.muon(p, 0.1), wrt=nnx.LoRAParam)
    factors = nnx.DiffState(0, nnx.LoRAParam)
    before = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    for _ in range(2):  # the second factor starts at zero
        optimizer.update(model, nnx.grad(lambda m: (m(X) ** 2).mean(), argnums=factors)(model))
    after = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), before, after)
    assert moved["mix"]["lora"] == {"lora_a": True, "lora_b": True}
    assert not any(jax.tree.leaves({**moved, "mix": moved["mix"]["kernel"]}))
    with pytest.raises(ValueError, match=r"lacks mix\.lora\.lora_b, which the partition has"):
        dj.muon(p, 0.1).init({"mix": {"lora": {"lora_a": params["mix"]["lora"]["lora_a"]}}})


def test_a_learned_vector_that_is_read_stands_for_data() -> None:
    def hyper(p: Any, x: Any) -> Any:
        x = x @ p["first"]
        for k in range(3):  # the weights of each layer are made from a latent of its own
            made = jax.nn.relu(p["latent"][k] @ p["up"]) @ p["wide"]
            x = jax.nn.relu(x @ made.reshape(16, 16))
        return x @ p["last"]

    params = zeros(latent=(3, 8), up=(8, 32), wide=(32, 256), first=(8, 16), last=(16, 4))
    found = roles(dj.partition(hyper, params, X))
    assert found == {
        "latent": "embedding",
        "up": "hidden",
        "wide": "hidden",
        "first": "input",
        "last": "output",
    }


def test_a_penalty_is_no_use_of_a_weight() -> None:
    def loss(p: Any, x: Any) -> Any:
        y = jnp.tanh(jnp.tanh(x @ p["a"]) @ p["b"]) @ p["c"]
        return jnp.mean(y**2) + sum(jnp.linalg.norm(w) for w in p.values()) + jnp.abs(p["b"]).max()

    found = roles(dj.partition(loss, zeros(a=(8, 16), b=(16, 16), c=(16, 4)), X))
    assert found == {"a": "input", "b": "hidden", "c": "output"}


def test_queries_keys_and_values_interleaved_by_head() -> None:
    def model(p: Any, tokens: Any) -> Any:
        x = p["table"][tokens]
        qkv = (x @ p["qkv"]).reshape(*x.shape[:2], 2, 3, 8)
        q, k, v = qkv[..., 0, :], qkv[..., 1, :], qkv[..., 2, :]
        weights = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k))
        return (x + jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(x.shape) @ p["out"]) @ p["head"]

    p = dj.partition(model, zeros(table=(50, 16), qkv=(16, 48), out=(16, 16), head=(16, 50)), TOKENS)
    assert p["qkv"].view == MatrixView((1,), (0,), blocks=(8, 8, 8), repeats=2)


def test_queries_keys_and_values_fused_along_an_axis_of_their_own() -> None:
    def model(p: Any, tokens: Any) -> Any:
        x = p["table"][tokens]
        q, k, v = jnp.moveaxis(jnp.einsum("btd,dchk->btchk", x, p["qkv"]), 2, 0)
        weights = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k))
        return (x + jnp.einsum("bhqk,bkhd,hdf->bqf", weights, v, p["out"])) @ p["head"]

    shapes = {"table": (50, 16), "qkv": (16, 3, 2, 8), "out": (2, 8, 16), "head": (16, 50)}
    p = dj.partition(model, zeros(**shapes), TOKENS)
    assert p["qkv"].view.matrices((16, 3, 2, 8)) == [(3, 16, 16)]


def by_halves(x: Any) -> Any:
    first, second = jnp.split(x, 2, -1)
    return jnp.stack((-second, first), -2).reshape(x.shape)


def by_pairs(x: Any) -> Any:
    return jnp.stack((-x[..., 1::2], x[..., ::2]), -1).reshape(x.shape)


@pytest.mark.parametrize("turned", [by_halves, by_pairs])
def test_halves_that_a_rotary_embedding_puts_back_are_no_projections(turned: Any) -> None:
    def model(p: Any, tokens: Any) -> Any:
        x = p["table"][tokens]
        angles = jnp.arange(6.0)[:, None, None] * jnp.ones(8)
        q, k, v = (jnp.einsum("btd,dhk->bthk", x, p[name]) for name in "qkv")
        q, k = (y * jnp.cos(angles) + turned(y) * jnp.sin(angles) for y in (q, k))
        weights = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k))
        return (x + jnp.einsum("bhqk,bkhd,hdf->bqf", weights, v, p["out"])) @ p["head"]

    shapes = dict.fromkeys("qkv", (16, 2, 8))
    p = dj.partition(model, zeros(table=(50, 16), out=(2, 8, 16), head=(16, 50), **shapes), TOKENS)
    assert [p[name].view.matrices((16, 2, 8)) for name in "qkv"] == [[(1, 16, 16)]] * 3


def test_a_weight_that_is_repeated_is_a_matrix() -> None:
    def model(p: Any, x: Any) -> Any:
        x = jnp.tanh(x @ p["first"])
        return jnp.tanh(jnp.concatenate((x, x), -1) @ jnp.tile(p["w"], (2, 1))) @ p["head"]

    p = dj.partition(model, zeros(first=(8, 16), w=(16, 24), head=(24, 4)), X)
    assert p["w"].view == MatrixView((1,), (0,))
    assert p["w"].role.value == "hidden"


@pytest.mark.parametrize(
    "place", [lambda x: checkpoint_name(x, "qkv"), jax.device_put], ids=["name", "device"]
)
def test_a_result_that_is_named_or_placed_is_itself(place: Any) -> None:
    def model(p: Any, tokens: Any) -> Any:
        x = p["table"][tokens]
        q, k, v = jnp.split(place(x @ p["qkv"]), 3, -1)
        q, k = (jnp.concatenate((-y[..., 8:], y[..., :8]), -1) for y in (q, k))
        return (x + jax.nn.softmax(q @ jnp.swapaxes(k, 1, 2)) @ v @ p["out"]) @ p["head"]

    p = dj.partition(model, zeros(table=(50, 16), qkv=(16, 48), out=(16, 16), head=(16, 50)), TOKENS)
    assert p["qkv"].view == MatrixView((1,), (0,), blocks=(16, 16, 16))


def test_projections_are_cut_where_their_result_is_unstacked() -> None:
    def model(p: Any, tokens: Any) -> Any:
        x = p["table"][tokens]
        q, k, v = jnp.unstack((x @ p["qkv"]).reshape(*x.shape[:2], 3, 16), axis=2)
        return (x + jax.nn.softmax(q @ jnp.swapaxes(k, 1, 2)) @ v @ p["out"]) @ p["head"]

    p = dj.partition(model, zeros(table=(50, 16), qkv=(16, 48), out=(16, 16), head=(16, 50)), TOKENS)
    assert p["qkv"].view == MatrixView((1,), (0,), blocks=(16, 16, 16))


def test_a_kernel_of_which_a_part_is_used_is_seen_in_the_groups_of_that_part() -> None:
    def model(p: Any, tokens: Any) -> Any:
        x = p["table"][tokens]
        rest = jax.lax.conv_general_dilated(
            x, p["filter"][:16], (1,), "SAME", dimension_numbers=("NWC", "OIW", "NWC"), feature_group_count=4
        )
        return jnp.tanh(rest) @ p["head"]

    p = dj.partition(model, zeros(table=(50, 16), filter=(24, 4, 3), head=(16, 50)), TOKENS)
    assert p["filter"].view.matrices((24, 4, 3)) == [(6, 4, 12)]


def test_a_codebook_that_ranks_its_own_rows_is_an_embedding() -> None:
    def model(p: Any, x: Any) -> Any:
        h = jnp.tanh(x @ p["first"]) @ p["code"]
        nearest = jnp.argmax(2 * h @ p["book"].T - jnp.sum(p["book"] ** 2, 1), -1)
        h = h + jax.lax.stop_gradient(p["book"][nearest] - h)
        return jnp.tanh(h @ p["decode"]) @ p["head"]

    shapes = {"first": (8, 16), "code": (16, 12), "book": (20, 12), "decode": (12, 16), "head": (16, 8)}
    found = roles(dj.partition(model, zeros(**shapes), X))
    assert found["book"] == "embedding"
    assert found["code"] == found["decode"] == "hidden"


def by_places(x: Any) -> Any:
    groups = jnp.swapaxes(x, 1, 2).reshape(len(x), 8, -1)
    return jnp.swapaxes((groups / groups.std(-1, keepdims=True)).reshape(len(x), x.shape[2], -1), 1, 2)


def by_channels(x: Any) -> Any:
    return nn.GroupNorm(8, use_bias=False, use_scale=False).apply({}, x)


@pytest.mark.parametrize("normed", [by_places, by_channels])
def test_projections_are_cut_behind_a_normalisation_of_groups(normed: Any) -> None:
    def model(p: Any, tokens: Any) -> Any:
        x = p["table"][tokens]
        q, k, v = jnp.split(normed(x @ p["qkv"]), (12, 24), -1)
        return (x + jax.nn.softmax(q @ jnp.swapaxes(k, 1, 2)) @ v) @ p["head"]

    p = dj.partition(model, zeros(table=(50, 16), qkv=(16, 40), head=(16, 50)), TOKENS)
    assert p["qkv"].view == MatrixView((1,), (0,), blocks=(12, 12, 16))


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
def test_a_depthwise_convolution_leaves_a_projection_the_parts_that_it_is_cut_into(padding: str) -> None:
    def model(p: Any, tokens: Any) -> Any:
        x = p["table"][tokens]
        rest = x @ p["project"] if padding == "SAME" else jnp.pad(x @ p["project"], [(0, 0), (3, 0), (0, 0)])
        rest = jax.lax.conv_general_dilated(
            rest, p["filter"], (1,), padding, dimension_numbers=("NWC", "WIO", "NWC"), feature_group_count=32
        )
        value, key, query = jnp.split(jax.nn.silu(rest), (16, 24), axis=-1)
        return (x + query @ jnp.swapaxes(key, 1, 2) @ value) @ p["head"]

    p = dj.partition(model, zeros(table=(50, 16), project=(16, 32), filter=(4, 1, 32), head=(16, 50)), TOKENS)
    assert p["project"].view.blocks == (16, 8, 8)
    assert roles(p)["filter"] == "vector"


@pytest.mark.parametrize("wrap", [nnx.jit, eqx.filter_jit, jax.checkpoint, jax.tree_util.Partial, None])
def test_a_function_may_be_wrapped_or_a_method(wrap: Any) -> None:
    model = nn.Sequential([nn.Dense(16), nn.relu, nn.Dense(16), nn.relu, nn.Dense(4)])
    fun = model.apply if wrap is None else wrap(lambda p, x: model.apply(p, x))
    p = dj.partition(fun, model.init(KEY, X), X)
    assert [a.role.value for a in p if len(a.shape) == 2] == ["input", "hidden", "output"]


def test_shapes_do_in_the_place_of_arrays() -> None:
    params = {"first": jnp.zeros((8, 16)), "mid": jnp.zeros((16, 16)), "head": jnp.zeros((16, 2))}

    def model(p: Any, x: Any) -> Any:
        return jnp.tanh(jnp.tanh(x @ p["first"]) @ p["mid"]) @ p["head"]

    shapes = jax.eval_shape(lambda: params)
    assert dj.partition(model, shapes, jax.ShapeDtypeStruct((2, 8), jnp.float32)) == dj.partition(
        model, params, X
    )
    assert dj.partition(jax.jit(model), params, X) == dj.partition(model, params, X)


def test_a_loaded_partition_steps_as_the_traced_one() -> None:
    params = {
        k: jnp.asarray(np.random.default_rng(0).standard_normal(s))
        for k, s in {"a": (8, 8), "b": (8, 8), "c": (8, 2)}.items()
    }
    p = dj.partition(lambda p, x: jnp.tanh(jnp.tanh(x @ p["a"]) @ p["b"]) @ p["c"], params, X)
    loaded = Partition.from_dict(p.to_dict())
    one, two = dj.muon(p, 0.1), dj.muon(loaded, 0.1)
    a, _ = one.update(params, one.init(params), params)
    b, _ = two.update(params, two.init(params), params)
    jax.tree.map(np.testing.assert_array_equal, a, b)
    frozen = dj.muon(
        dj.partition(
            lambda p, x: jnp.tanh(jnp.tanh(x @ p["a"]) @ p["b"]) @ p["c"], params, X, overrides={"a": "none"}
        ),
        0.1,
    )
    updates, _ = frozen.update(params, frozen.init(params), params)
    assert not np.any(updates["a"])
    assert np.any(updates["c"])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: dj.partition(lambda p, x: x @ p, jnp.ones((3, 2)), X),
            r"fun\(params, float\d+\[2, 8\]\) cannot be traced: TypeError",
        ),
        (lambda: dj.partition(lambda p: p, {}), "the tree has no parameters"),
        (
            lambda: dj.partition(lambda p: p["n"], {"n": jnp.arange(3)}),
            r"n is of dtype int\d+: expected a tree of real floating",
        ),
        (lambda: dj.partition({"w": X}, X), "dict is no function: expected partition"),
        (lambda: dj.partition(lambda p: p, X, heads="all"), "heads = 'all'"),
        (
            lambda: dj.partition(nnx.Linear(8, 4, rngs=nnx.Rngs(0)), X),
            r"Linear holds its own parameters: expected a function of them, as .*nnx\.split",
        ),
        (
            lambda: dj.partition(eqx.nn.MLP(8, 4, 8, 1, key=KEY), X[0]),
            r"MLP holds its own parameters: expected a function of them, as .*eqx\.partition",
        ),
        (
            lambda: dj.partition(eqx.nn.MLP(8, 4, 8, 1, key=KEY).__call__, X[0]),
            r"MLP holds its own parameters: .*eqx\.partition",
        ),
        (lambda: dj.partition(nn.Dense(4), {"kernel": X}, X), r"Dense is a Linen module: .*model\.apply"),
        (
            lambda: dj.partition(jax.value_and_grad(lambda p, x: (x @ p["w"]).sum()), {"w": X.T}, X),
            r"fun returns a tree like params, .*leave out jax\.grad",
        ),
        (
            lambda: dj.partition(lambda p: p["w"], {"w": X}, overrides={"v": "adamw"}),
            "override 'v' matches no parameter",
        ),
    ],
)
def test_bad_input(call: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        call()


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("nnx.Linear(8, 4, rngs=nnx.Rngs(0))", "nnx.split"),
        ("eqx.nn.MLP(8, 4, 8, 1, key=key)", "eqx.partition"),
    ],
)
@pytest.mark.parametrize("inputs", ["", ", jnp.ones(8)"])
def test_the_command_asks_for_a_function_of_the_parameters(
    model: str, words: str, inputs: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "net.py").write_text(
        "import jax, jax.numpy as jnp, equinox as eqx\nfrom flax import nnx\n"
        f"key = jax.random.key(0)\nmodel = {model}{inputs}\n"
    )
    assert run(["groups", f"{tmp_path}/net.py:model"]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert words in error
