"""The time of a jitted step against optax's, and how orthogonal Muon's update is.

    python benchmarks/frameworks_jax.py [--repeats 15] [--json FILE]

Parameters are those of a transformer of 4 blocks, kernels (in, out) as in Flax. Candidates of a
row take turns in one run; the figures are medians, the ratios medians of ratios within a round.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from timing import interleaved, medians, ratio, show

import downslope.jax as dj
from downslope.grouping.view import MatrixView

BLOCKS = 4
KERNEL = MatrixView(outputs=(1,), inputs=(0,))
LR = 1e-6

ELEMENTWISE = {
    "sgd, momentum": (dj.sgd(LR, 0.9), optax.sgd(LR, momentum=0.9)),
    "adagrad": (dj.adagrad(LR), optax.adagrad(LR)),
    "rmsprop": (dj.rmsprop(LR), optax.rmsprop(LR)),
    "adam": (dj.adam(LR), optax.adam(LR)),
    "adamw": (dj.adamw(LR), optax.adamw(LR)),
}


def tree(width: int, seed: int) -> Any:
    rng = np.random.default_rng(seed)
    shapes = {
        "qkv": (width, 3 * width),
        "out": (width, width),
        "up": (width, 4 * width),
        "down": (4 * width, width),
    }
    shapes |= {"gain1": (width,), "gain2": (width,)}
    return [
        {name: jnp.asarray(rng.standard_normal(shape), jnp.float32) for name, shape in shapes.items()}
        for _ in range(BLOCKS)
    ]


def stepper(tx: optax.GradientTransformation, params: Any, grads: Any) -> Callable[[], Any]:
    """Return a call that takes one jitted step from the same place each time."""
    state = tx.init(params)

    @jax.jit
    def step(params: Any, state: Any, grads: Any) -> Any:
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return lambda: jax.block_until_ready(step(params, state, grads))


def elementwise(width: int, repeats: int) -> dict[str, dict[str, float]]:
    params, grads, found = tree(width, 0), tree(width, 1), {}
    for name, (ours, theirs) in ELEMENTWISE.items():
        seconds = interleaved(
            {"ours": stepper(ours, params, grads), "optax": stepper(theirs, params, grads)}, repeats
        )
        found[name] = {**medians(seconds), "ratio": ratio(seconds, "optax", "ours")}
    return found


def muon(width: int, repeats: int) -> dict[str, dict[str, float]]:
    params, grads = tree(width, 0), tree(width, 1)
    views = jax.tree.map(lambda p: KERNEL if p.ndim == 2 else None, params)
    makers = {
        "ours": dj.muon(views, LR),
        "ours, float32": dj.muon(views, LR, ns_dtype=None),
        "ours, keller5, float32": dj.muon(views, LR, ns_dtype=None, coefficients="keller5"),
        "ours, plain JAX, float32": dj.muon(views, LR, ns_dtype=None, fused=False),
        "optax": optax.contrib.muon(LR, consistent_rms=0.2),
    }
    seconds = interleaved({name: stepper(tx, params, grads) for name, tx in makers.items()}, repeats)
    return {
        name: {
            "seconds": medians(seconds)[name],
            "faster": ratio(seconds, name, "optax"),
            **spread(tx, params, grads),
        }
        for name, tx in makers.items()
    }


def spread(tx: optax.GradientTransformation, params: Any, grads: Any) -> dict[str, float]:
    """Return the smallest and largest singular value of the updates, where all should be 1."""
    zero = jax.tree.map(jnp.zeros_like, params)  # no decay
    updates, _ = jax.jit(tx.update)(grads, tx.init(zero), zero)
    values = []
    for block in updates:
        for update in block.values():
            if update.ndim == 2:
                scale = LR * 0.2 * np.sqrt(max(update.shape))
                values.append(np.linalg.svd(np.asarray(update, np.float64) / scale, compute_uv=False))
    flat = np.concatenate(values)
    return {"smallest": float(flat.min()), "largest": float(flat.max())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--json")
    args = parser.parse_args()
    count = sum(p.size for p in jax.tree.leaves(tree(args.width, 0))) / 1e6
    plain, matrices = elementwise(args.width, 3 * args.repeats), muon(args.width, args.repeats)
    show(
        f"JAX {jax.__version__}, {count:.1f} M parameters, element by element",
        ["rule", "ours ms", "optax ms", "ours / optax"],
        [
            [n, f"{1e3 * r['ours']:.2f}", f"{1e3 * r['optax']:.2f}", f"{r['ratio']:.2f}"]
            for n, r in plain.items()
        ],
    )
    show(
        f"Muon, {dj.engine()}",
        ["", "ms", "faster than optax", "singular values"],
        [
            [
                n,
                f"{1e3 * r['seconds']:.0f}",
                f"{r['faster']:.2f}",
                f"{r['smallest']:.3f} to {r['largest']:.3f}",
            ]
            for n, r in matrices.items()
        ],
    )
    if args.json:
        with open(args.json, "w") as file:
            json.dump(
                {"jax": jax.__version__, "width": args.width, "elementwise": plain, "muon": matrices}, file
            )


if __name__ == "__main__":
    main()
