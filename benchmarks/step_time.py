"""The time of an optimizer's step against torch.optim's, and against the bytes it must move.

    python benchmarks/step_time.py [--repeats 15] [--rules adamw,muon] [--json FILE]

Every candidate of a row takes turns with the others in one run; the figures are medians, and the
ratios are medians of the ratios within a round. Two sets of parameters: the shapes of GPT-2 small
cut to 4 layers (67 M parameters), and 200 small tensors (1,000 elements each).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from timing import bandwidth, dump, interleaved, medians, ratio, show

import downslope.torch as dt

LAYER = [(2304, 768), (2304,), (768, 768), (768,), (3072, 768), (3072,), (768, 3072), (768,)] + [(768,)] * 4
SETS = {
    "gpt2-4": [(50257, 768), (1024, 768)] + LAYER * 4 + [(768,)] * 2,
    "small-200": [(1000,)] * 200,
    "gpt2-4-hidden": [shape for shape in LAYER if len(shape) == 2] * 4,
    "conv-126": [(64, 64, 3, 3)] * 40
    + [(128, 64, 3, 3)] * 20
    + [(128, 128, 3, 3)] * 40
    + [(256, 128, 1, 1)] * 26,
}

Make = Callable[..., torch.optim.Optimizer]
# rule: (ours, torch's, options, bytes an element: every array read or written once, in float32)
RULES: dict[str, tuple[Make, Make, dict[str, Any], int]] = {
    "sgd": (dt.SGD, torch.optim.SGD, {"lr": 1e-6}, 12),
    "sgd-momentum": (dt.SGD, torch.optim.SGD, {"lr": 1e-6, "momentum": 0.9, "nesterov": True}, 20),
    "adagrad": (dt.AdaGrad, torch.optim.Adagrad, {"lr": 1e-6}, 20),
    "rmsprop": (dt.RMSProp, torch.optim.RMSprop, {"lr": 1e-6}, 20),
    "adam": (dt.Adam, torch.optim.Adam, {"lr": 1e-6}, 28),
    "adamw": (dt.AdamW, torch.optim.AdamW, {"lr": 1e-6, "weight_decay": 0.1}, 28),
}
FUSED = ("sgd", "sgd-momentum", "adagrad", "adam", "adamw")


def parameters(shapes: list[tuple[int, ...]], flat: bool = False) -> list[torch.nn.Parameter]:
    torch.manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    if flat:
        params = [torch.nn.Parameter(p.detach().flatten(1)) for p in params]
    for p in params:
        p.grad = torch.randn_like(p)
    return params


def elementwise(name: str, shapes: list[tuple[int, ...]], repeats: int) -> dict[str, list[float]]:
    ours, theirs, options, _ = RULES[name]
    params = parameters(shapes)
    candidates = {
        "ours": ours(params, **options).step,
        "ours, no check": ours(params, **options, on_nonfinite="ignore").step,
        "ours, blocks": ours(params, **options, fused=False).step,
        "torch": theirs(params, **options).step,
        "torch foreach": theirs(params, **options, foreach=True).step,
    }
    if name in FUSED:
        candidates["torch fused"] = theirs(params, **options, fused=True).step
    return interleaved(candidates, repeats)


def muon(shapes: list[tuple[int, ...]], repeats: int) -> dict[str, list[float]]:
    candidates = {
        "ours": dt.Muon(parameters(shapes), lr=1e-6).step,
        "ours, float32": dt.Muon(parameters(shapes), lr=1e-6, ns_dtype="float32").step,
        "torch": torch.optim.Muon(parameters(shapes, flat=True), lr=1e-6).step,
    }
    return interleaved(candidates, repeats)


def rows_of(seconds: dict[str, list[float]], floor: float | None) -> list[list[str]]:
    middle = medians(seconds)
    rows = []
    for name, value in middle.items():
        bases = [b for b in ("torch", "torch foreach", "torch fused") if b in middle]
        ratios = [f"{ratio(seconds, name, base):.2f}" for base in bases]
        share = [] if floor is None else [f"{floor / value:.0%}"]
        rows.append([name, f"{1e3 * value:.2f}", *ratios, *share])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--rules", default=",".join([*RULES, "muon"]))
    parser.add_argument("--json")
    args = parser.parse_args()
    chosen = args.rules.split(",")
    rate = bandwidth()
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, in-place add {rate / 1e9:.1f} GB/s")
    results: dict[str, Any] = {"bandwidth": rate}
    for set_name in ("gpt2-4", "small-200"):
        shapes = SETS[set_name]
        count = sum(torch.Size(shape).numel() for shape in shapes)
        for name in (n for n in chosen if n in RULES):
            seconds = elementwise(name, shapes, args.repeats)
            results[f"{set_name}/{name}"] = medians(seconds)
            floor = RULES[name][3] * count / rate
            times = [f"x {b}" for b in ("torch", "torch foreach", "torch fused") if b in seconds]
            title = f"{name} on {set_name}: {count:,} elements, floor {1e3 * floor:.2f} ms"
            show(title, ["step", "ms", *times, "of floor"], rows_of(seconds, floor))
    if "muon" in chosen:
        for set_name in ("gpt2-4-hidden", "conv-126"):
            seconds = muon(SETS[set_name], max(3, args.repeats // 3))
            results[f"{set_name}/muon"] = medians(seconds)
            show(f"muon on {set_name}", ["step", "ms", "x torch"], rows_of(seconds, None))
    if args.json:
        dump(args.json, results)


if __name__ == "__main__":
    main()
