"""A small transformer, its weights and batches, and its run in NumPy with a gradient written by hand.

Every framework builds the same model from `weights()`, trains it with its own `Muon` on
`batches()`, and compares its 50 losses with `reference()`. Matrices are (fan_out, fan_in):

    x = embed[tokens] + position
    for each block:
        h = rms(x) · gain1;   x = x + attention(h queryᵀ, h keyᵀ, h valueᵀ) outᵀ
        h = rms(x) · gain2;   x = x + silu(h upᵀ) downᵀ
    loss = mean cross-entropy of (rms(x) · gain) headᵀ with the targets

Attention is causal, with `HEADS` heads and logits divided by the root of a head's size;
rms(x) = x / sqrt(mean(x²) + 1e-6). A framework may fuse query, key and value, or transpose what it
likes: a view gives back the same matrices.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

import downslope as ds
from downslope.ops.numpy import NumpyOps
from downslope.rules import step

VOCABULARY, WIDTH, HEADS, BLOCKS, LENGTH, BATCH, STEPS = 17, 16, 2, 2, 8, 4, 50
EPS = 1e-6
OPTIONS = {"lr": 0.02, "weight_decay": 0.1, "betas": (0.9, 0.95), "eps": 1e-8}
"""What `Muon` is given in every framework, beside the model."""

HIDDEN = ("query", "key", "value", "out", "up", "down")
TOLERANCE = 1e-9
"""Losses of 50 steps agree to this: rounding of 1e-16 a step, multiplied by training itself."""

Weights = dict[str, np.ndarray]


def weights() -> Weights:
    """Return the weights before the first step, by name; those of block k begin with `k.`."""
    rng = np.random.default_rng(0)
    d = WIDTH
    made = {"embed": rng.standard_normal((VOCABULARY, d)), "position": 0.1 * rng.standard_normal((LENGTH, d))}
    shapes = dict.fromkeys(("query", "key", "value", "out"), (d, d)) | {"up": (4 * d, d), "down": (d, 4 * d)}
    for k in range(BLOCKS):
        for name, shape in shapes.items():
            made[f"{k}.{name}"] = rng.standard_normal(shape) / np.sqrt(shape[1])
        made |= {f"{k}.gain1": np.ones(d), f"{k}.gain2": np.ones(d)}
    return made | {"gain": np.ones(d), "head": rng.standard_normal((VOCABULARY, d)) / np.sqrt(d)}


def batches() -> list[tuple[np.ndarray, np.ndarray]]:
    """Return (tokens, targets) of each step, (BATCH, LENGTH) of int64: counting by a step that varies."""
    rng = np.random.default_rng(1)
    first = rng.integers(VOCABULARY, size=(STEPS, BATCH, 1))
    stride = rng.integers(1, 4, size=(STEPS, BATCH, 1))
    rows = (first + stride * np.arange(LENGTH + 1)) % VOCABULARY
    return [(row[:, :-1], row[:, 1:]) for row in rows]


def rule_of(name: str) -> str:
    """Return the rule a weight gets: "muon" or "adamw"."""
    return "muon" if name.split(".")[-1] in HIDDEN else "adamw"


def decays(name: str) -> bool:
    """Whether weight decay acts on a weight: not on gains."""
    return "gain" not in name


@cache
def reference() -> tuple[tuple[float, ...], Weights]:
    """Return the loss before each step, and the weights after the last."""
    x, w = NumpyOps(), weights()
    rules = {"muon": ds.Muon(), "adamw": ds.Adam(betas=OPTIONS["betas"], eps=OPTIONS["eps"])}  # type: ignore[arg-type]
    state = {name: rules[rule_of(name)].init(x, p) for name, p in w.items()}
    losses = []
    for t, (tokens, targets) in enumerate(batches(), start=1):
        loss, g = loss_and_gradients(w, tokens, targets)
        losses.append(loss)
        for name in w:
            d, state[name] = rules[rule_of(name)].direction(x, g[name], state[name], w[name], t)
            decay = OPTIONS["weight_decay"] if decays(name) else 0.0
            w[name] = w[name] + step(x, w[name], d, lr=OPTIONS["lr"], weight_decay=decay)  # type: ignore[arg-type]
    return tuple(losses), w


def loss_and_gradients(w: Weights, tokens: np.ndarray, targets: np.ndarray) -> tuple[float, Weights]:
    """Return the loss of a batch and its gradient, forward and backward by hand."""
    g: Weights = {}
    x, back = w["embed"][tokens] + w["position"], []
    for k in range(BLOCKS):
        y, undo1 = _attention(w, g, f"{k}.", x)
        x = x + y
        y, undo2 = _mlp(w, g, f"{k}.", x)
        x = x + y
        back += [undo1, undo2]
    h, undo = _norm(w, g, "gain", x)
    logits = h @ w["head"].T
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    chosen = np.take_along_axis(p, targets[..., None], -1)
    dlogits = (p - np.eye(VOCABULARY)[targets]) / targets.size
    g["head"] = _outer(dlogits, h)
    dx = undo(dlogits @ w["head"])
    for undo in reversed(back):
        dx = dx + undo(dx)
    g["position"] = dx.sum(0)
    g["embed"] = np.zeros_like(w["embed"])
    np.add.at(g["embed"], tokens, dx)
    return float(-np.log(chosen).mean()), g


def _outer(d: np.ndarray, h: np.ndarray) -> np.ndarray:
    return d.reshape(-1, d.shape[-1]).T @ h.reshape(-1, h.shape[-1])


def _norm(w: Weights, g: Weights, name: str, x: np.ndarray) -> tuple[np.ndarray, Any]:
    r = 1 / np.sqrt((x**2).mean(-1, keepdims=True) + EPS)

    def undo(d: np.ndarray) -> np.ndarray:
        g[name] = (d * x * r).reshape(-1, WIDTH).sum(0)
        d = d * w[name]
        return r * d - x * r**3 * (d * x).mean(-1, keepdims=True)

    return x * r * w[name], undo


def _attention(w: Weights, g: Weights, at: str, x: np.ndarray) -> tuple[np.ndarray, Any]:
    h, undo_norm = _norm(w, g, at + "gain1", x)
    q, k, v = (_heads(h @ w[at + n].T) for n in ("query", "key", "value"))  # (batch, head, place, size)
    size = WIDTH // HEADS
    hidden = np.triu(np.full((LENGTH, LENGTH), -np.inf), 1)
    s = q @ np.swapaxes(k, -2, -1) / np.sqrt(size) + hidden
    a = np.exp(s - s.max(-1, keepdims=True))
    a /= a.sum(-1, keepdims=True)
    o = _together(a @ v)

    def undo(d: np.ndarray) -> np.ndarray:
        g[at + "out"] = _outer(d, o)
        do = _heads(d @ w[at + "out"])
        da = do @ np.swapaxes(v, -2, -1)
        ds_ = a * (da - (da * a).sum(-1, keepdims=True)) / np.sqrt(size)
        parts = {"query": ds_ @ k, "key": np.swapaxes(ds_, -2, -1) @ q, "value": np.swapaxes(a, -2, -1) @ do}
        dh = np.zeros_like(h)
        for name, part in parts.items():
            flat = _together(part)
            g[at + name] = _outer(flat, h)
            dh += flat @ w[at + name]
        return undo_norm(dh)

    return o @ w[at + "out"].T, undo


def _mlp(w: Weights, g: Weights, at: str, x: np.ndarray) -> tuple[np.ndarray, Any]:
    h, undo_norm = _norm(w, g, at + "gain2", x)
    u = h @ w[at + "up"].T
    s = 1 / (1 + np.exp(-u))

    def undo(d: np.ndarray) -> np.ndarray:
        g[at + "down"] = _outer(d, u * s)
        du = d @ w[at + "down"] * s * (1 + u * (1 - s))
        g[at + "up"] = _outer(du, h)
        return undo_norm(du @ w[at + "up"])

    return (u * s) @ w[at + "down"].T, undo


def _heads(x: np.ndarray) -> np.ndarray:
    return x.reshape(*x.shape[:-1], HEADS, -1).swapaxes(-3, -2)


def _together(x: np.ndarray) -> np.ndarray:
    return x.swapaxes(-3, -2).reshape(*x.shape[:-3], x.shape[-2], -1)
