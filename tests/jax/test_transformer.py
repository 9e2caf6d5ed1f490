"""The transformer of `tests.parity`, trained in JAX: roles traced, projections fused, kernels (in, out)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import downslope.jax as dj
from tests.parity import transformer as t
from tests.parity.cases import assert_ulp


def from_reference(w: t.Weights) -> Any:
    blocks = []
    for k in range(t.BLOCKS):
        own = {n: jnp.asarray(w[f"{k}.{n}"].T) for n in ("out", "up", "down", "gain1", "gain2")}
        own["qkv"] = jnp.concatenate(
            [jnp.asarray(w[f"{k}.{n}"].T) for n in ("query", "key", "value")], axis=1
        )
        blocks.append(own)
    return {
        "blocks": blocks,
        **{n: jnp.asarray(w[n]) for n in ("embed", "position", "gain")},
        "head": jnp.asarray(w["head"].T),
    }


def to_reference(params: Any) -> t.Weights:
    w = {n: np.asarray(params[n]) for n in ("embed", "position", "gain")} | {
        "head": np.asarray(params["head"].T)
    }
    for k, block in enumerate(params["blocks"]):
        w |= {f"{k}.{n}": np.asarray(block[n].T) for n in ("out", "up", "down", "gain1", "gain2")}
        parts = np.split(np.asarray(block["qkv"].T), 3)
        w |= {f"{k}.{n}": part for n, part in zip(("query", "key", "value"), parts, strict=True)}
    return w


def rms(x: Any) -> Any:
    return x / jnp.sqrt(jnp.mean(x**2, -1, keepdims=True) + t.EPS)


def block(p: Any, x: Any) -> Any:
    q, k, v = (
        part.reshape(*x.shape[:-1], t.HEADS, -1)
        for part in jnp.split(rms(x) * p["gain1"] @ p["qkv"], 3, axis=-1)
    )
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / jnp.sqrt(t.WIDTH // t.HEADS)
    scores = jnp.where(jnp.tril(jnp.ones((t.LENGTH, t.LENGTH), bool)), scores, -jnp.inf)
    x = x + jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), v).reshape(x.shape) @ p["out"]
    return x + jax.nn.silu(rms(x) * p["gain2"] @ p["up"]) @ p["down"]


def loss(params: Any, tokens: Any, targets: Any) -> Any:
    x = params["embed"][tokens] + params["position"]
    for p in params["blocks"]:
        x = block(p, x)
    logits = rms(x) * params["gain"] @ params["head"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()


def test_losses_of_50_steps_are_the_references() -> None:
    params, batches = from_reference(t.weights()), t.batches()
    partition = dj.partition(loss, params, *batches[0])
    assert {a.name.split(".")[-1] for a in partition if a.rule == "muon"} == {"qkv", "out", "up", "down"}
    tx = dj.muon(partition, **t.OPTIONS)
    state = tx.init(params)

    @jax.jit
    def step(params: Any, state: Any, tokens: Any, targets: Any) -> Any:
        value, grads = jax.value_and_grad(loss)(params, tokens, targets)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, value

    losses = []
    for tokens, targets in batches:
        params, state, value = step(params, state, tokens, targets)
        losses.append(float(value))
    expected, after = t.reference()
    np.testing.assert_allclose(losses, expected, rtol=0, atol=t.TOLERANCE)
    for name, value in to_reference(params).items():
        assert_ulp(value, after[name], 1e-8 * 2**52, what=name)
    assert len({round(x, 6) for x in losses}) == t.STEPS  # every step moved it
