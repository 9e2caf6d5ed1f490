"""The time of a jitted step against Keras's own optimizers, and how orthogonal Muon's step is.

    KERAS_BACKEND=tensorflow python benchmarks/frameworks_keras.py [--repeats 15] [--graph] [--json FILE]

Both optimizers of a row take turns in one run, on the same variables and gradients: `tf.function`
with XLA on TensorFlow (without it if `--graph`, as Keras fits where there is no GPU), `jax.jit` with
donated buffers on JAX, eagerly on PyTorch. Figures are medians, ratios medians of the ratios within a
round. Orthogonality is the range of the singular values of a step whose gradient's lie between 1 and
0.01; a step that is orthogonal has them all at 1.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from timing import interleaved, medians, ratio, show

import downslope.keras as dk
from downslope.grouping.partition import Assignment, Partition, Role
from downslope.grouping.view import MatrixView

BACKEND = keras.backend.backend()
native = keras.optimizers

LAYER = [(512, 1536), (1536,), (512, 512), (512,), (512, 2048), (2048,), (2048, 512), (512,)]
SETS = {
    "transformer": [(8192, 512), *LAYER * 4],
    "small": [(1000,)] * 200,
    "hidden": [s for s in LAYER * 4 if len(s) == 2],
}


def muon(params: list[Any], **options: Any) -> dk.Muon:
    """Ours, without `fused=False` by compiled code where Keras's backend has it."""
    return dk.Muon(partition_of(params), learning_rate=1e-6, **options)


def native_muon() -> Any:
    return native.Muon(1e-6, weight_decay=0.1, adam_weight_decay=0.1)


ROWS: dict[str, tuple[str, Callable[[list[Any]], Any], Callable[[], Any]]] = {
    "sgd": (
        "transformer",
        lambda _: dk.SGD(1e-6, 0.9, nesterov=True),
        lambda: native.SGD(1e-6, 0.9, nesterov=True),
    ),
    "adagrad": ("transformer", lambda _: dk.AdaGrad(1e-6), lambda: native.Adagrad(1e-6)),
    "rmsprop": ("transformer", lambda _: dk.RMSProp(1e-6), lambda: native.RMSprop(1e-6)),
    "adamw": ("transformer", lambda _: dk.AdamW(1e-6), lambda: native.AdamW(1e-6)),
    "adamw-small": ("small", lambda _: dk.AdamW(1e-6), lambda: native.AdamW(1e-6)),
    "muon": ("hidden", lambda params: muon(params, ns_dtype="float32"), native_muon),
    "muon-plain": ("hidden", lambda params: muon(params, ns_dtype="float32", fused=False), native_muon),
    "muon-auto": ("hidden", lambda params: muon(params), native_muon),
}


def partition_of(params: list[Any]) -> Partition:
    """Every matrix is a dense kernel (in, out)."""
    view = MatrixView((1,), (0,))
    return Partition(Assignment(p.path, tuple(p.shape), Role.HIDDEN, "muon", view, "") for p in params)


def variables(shapes: list[tuple[int, ...]]) -> tuple[list[Any], list[Any]]:
    rng = np.random.default_rng(0)
    values = [rng.standard_normal(shape).astype("float32") for shape in shapes]
    params = [keras.Variable(value, name=f"p{i}") for i, value in enumerate(values)]
    return params, [keras.ops.convert_to_tensor(value[::-1].copy()) for value in values]


def stepper(
    optimizer: Any, shapes: list[tuple[int, ...]], make: Any = None, xla: bool = True
) -> tuple[Callable[[], None], list[Any]]:
    """Return a call that takes one compiled step and waits for it, and the variables that it steps."""
    params, grads = variables(shapes)
    optimizer = optimizer(params) if make else optimizer()
    optimizer.build(params)
    if BACKEND == "tensorflow":
        import tensorflow as tf

        compiled = tf.function(lambda grads: optimizer.apply(grads, params), jit_compile=xla)

        def step() -> None:
            compiled(grads)
            params[-1].value.numpy()

        return step, params
    if BACKEND == "jax":
        return _jitted(optimizer, params, grads), params

    def eager() -> None:
        optimizer.apply(grads, params)

    return eager, params


def _jitted(optimizer: Any, params: list[Any], grads: list[Any]) -> Callable[[], None]:
    import jax

    compiled = jax.jit(optimizer.stateless_apply, donate_argnums=(0, 2))
    held = {"state": [v.value for v in optimizer.variables], "values": [p.value for p in params]}

    def step() -> None:
        held["values"], held["state"] = compiled(held["state"], grads, held["values"])
        jax.block_until_ready(held["values"])
        for p, value in zip(params, held["values"], strict=True):
            p._value = value

    return step


def singular_values(make: Callable[[list[Any]], Any]) -> tuple[float, float]:
    """Return the smallest and largest singular value of one step on 512 × 512, over its scale."""
    rng, n = np.random.default_rng(0), 512
    u, v = (np.linalg.qr(rng.standard_normal((n, n)))[0] for _ in range(2))
    g = (u * np.logspace(0, -2, n)) @ v
    p = keras.Variable(np.zeros((n, n), "float32"), name="p")
    make([p]).apply([keras.ops.convert_to_tensor(g.astype("float32"))], [p])
    s = np.linalg.svd(np.array(keras.ops.convert_to_numpy(p.value)), compute_uv=False) / (0.2 * np.sqrt(n))
    return float(s.min()), float(s.max())


def main() -> None:
    """Time every row, print a table and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--rows", default=",".join(ROWS), help="rows to run, separated by commas")
    parser.add_argument("--graph", action="store_true", help="on TensorFlow: without XLA")
    parser.add_argument("--json")
    args = parser.parse_args()
    rows, results = [], {}
    for name in args.rows.split(","):
        which, ours, theirs = ROWS[name]
        mine, _ = stepper(ours, SETS[which], make=True, xla=not args.graph)
        other, _ = stepper(theirs, SETS[which], xla=not args.graph)
        seconds = interleaved({"downslope": mine, "keras": other}, args.repeats)
        middle, relative = medians(seconds), ratio(seconds, "keras", "downslope")
        results[name] = {**middle, "downslope/keras": relative}
        milliseconds = [f"{1e3 * middle[who]:.2f}" for who in ("downslope", "keras")]
        rows.append([name, *milliseconds, f"{relative:.2f}"])
    show(f"Keras on {BACKEND}, ms a step", ["rule", "downslope", "keras", "downslope / keras"], rows)
    if "muon" in results:
        lr = {"learning_rate": 1.0, "weight_decay": 0.0}
        ours = singular_values(lambda params: dk.Muon(partition_of(params), ns_dtype="float32", **lr))
        theirs = singular_values(lambda _: native.Muon(1.0, weight_decay=None, adam_weight_decay=None))
        results["singular values"] = {"downslope": ours, "keras": theirs}
        low, high = zip(ours, theirs, strict=True)
        print(f"Muon by default: {dk.Muon().engine}")
        print(
            f"singular values of a step: {low[0]:.2f} to {high[0]:.2f}; Keras's {low[1]:.2f} to {high[1]:.2f}"
        )
    if args.json:
        with open(args.json, "w") as file:
            json.dump({"backend": BACKEND, **results}, file, indent=1)


if __name__ == "__main__":
    main()
