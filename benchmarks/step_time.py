"""The time of an optimizer's step against torch.optim's, and against the bytes it must move.

    python benchmarks/step_time.py [--repeats 15] [--rules adamw,muon] [--json FILE]

Every candidate of a row takes turns with the others in one run; the figures are medians, and the
ratios are medians of the ratios within a round. Four sets of parameters: the shapes of GPT-2 small
cut to 4 layers (67 M parameters), 126 convolutions, 8 stacked experts, and 200 small tensors (1,000 elements
each). The rule "small" is the whole step of Muon on small models, biases and ends with AdamW, against
torch's AdamW.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from muon_peers import PEERS
from timing import bandwidth, dump, interleaved, medians, ratio, show
from torch import nn

import downslope.torch as dt
from downslope.grouping.view import MatrixView
from downslope.native.tape import Kind, Multiplier, program_of

LAYER = [(2304, 768), (2304,), (768, 768), (768,), (3072, 768), (3072,), (768, 3072), (768,)] + [(768,)] * 4
SETS = {
    "gpt2-4": [(50257, 768), (1024, 768)] + LAYER * 4 + [(768,)] * 2,
    "small-200": [(1000,)] * 200,
    "gpt2-4-hidden": [shape for shape in LAYER if len(shape) == 2] * 4,
    "conv-126": [(64, 64, 3, 3)] * 40
    + [(128, 64, 3, 3)] * 20
    + [(128, 128, 3, 3)] * 40
    + [(256, 128, 1, 1)] * 26,
    "experts-8": [(8, 512, 2048)],
}
SETS["gpt2-4-conv1d"] = [shape[::-1] for shape in SETS["gpt2-4-hidden"]]
"""Kernels (in, out), as Hugging Face's GPT-2 has them: query, key and value side by side."""

Make = Callable[..., torch.optim.Optimizer]
# rule: (ours, torch's, options, bytes an element: every array read or written once, in float32)
RULES: dict[str, tuple[Make, Make, dict[str, Any], int]] = {
    "sgd": (dt.SGD, torch.optim.SGD, {"lr": 1e-6}, 12),
    # not Nesterov's: with it torch's foreach adds to the gradients themselves, which others read after it
    "sgd-momentum": (dt.SGD, torch.optim.SGD, {"lr": 1e-6, "momentum": 0.9}, 20),
    "adagrad": (dt.AdaGrad, torch.optim.Adagrad, {"lr": 1e-6}, 20),
    "rmsprop": (dt.RMSProp, torch.optim.RMSprop, {"lr": 1e-6}, 20),
    "adam": (dt.Adam, torch.optim.Adam, {"lr": 1e-6}, 28),
    "adamw": (dt.AdamW, torch.optim.AdamW, {"lr": 1e-6, "weight_decay": 0.1}, 28),
    # which no kernel of torch's does, against its plain AdamW
    "adamw-cautious": (
        partial(dt.AdamW, cautious=True),
        torch.optim.AdamW,
        {"lr": 1e-6, "weight_decay": 0.1},
        28,
    ),
}
ON_CPU = [name for name in PEERS if name not in ("dion, Triton", "gram-newton-schulz")]
"""The last one iterates in float16, which takes a CPU hundreds of times longer."""

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


def split(shapes: list[tuple[int, ...]], stacked: bool) -> list[torch.nn.Parameter]:
    """Return parameters as a rule for matrices alone wants them: flattened, experts one by one."""
    params = parameters(shapes)
    if not stacked:
        return parameters(shapes, flat=True)
    halves = [list(zip(p.detach().unbind(), p.grad.unbind(), strict=True)) for p in params]
    found = []
    for matrix, g in (pair for half in halves for pair in half):
        found.append(torch.nn.Parameter(matrix.clone()))
        found[-1].grad = g.clone()
    return found


def view_of(set_name: str, shape: tuple[int, ...]) -> MatrixView:
    """Return how a parameter of a set is seen as matrices."""
    if set_name == "experts-8":
        return MatrixView((1,), (2,), batch=(0,))
    if set_name == "gpt2-4-conv1d":
        return MatrixView((1,), (0,), blocks=(768,) * 3 if shape[1] == 2304 else ())
    return MatrixView.of_kernel(len(shape))


def our_muon(set_name: str, **options: Any) -> torch.optim.Optimizer:
    params = parameters(SETS[set_name])
    views = [view_of(set_name, tuple(p.shape)) for p in params]
    return dt.Muon([{"params": params, "rule": "muon", "views": views}], lr=1e-6, **options)


def candidates_of(
    shapes: list[tuple[int, ...]], stacked: bool, asked: list[str]
) -> dict[str, Callable[[], Any]]:
    """Return the steps of other libraries' Muon, of those that are installed and run here."""
    found: dict[str, Callable[[], Any]] = {}
    for name in asked:
        try:
            step = PEERS[name](split(shapes, stacked)).step
            step()
        except Exception as error:  # of another library, whatever it may be
            print(f"{name} is left out: {type(error).__name__}: {str(error).splitlines()[0][:60]}")
        else:
            found[name] = step
    return found


def muon(set_name: str, repeats: int, asked: list[str]) -> dict[str, list[float]]:
    candidates = {
        "ours": our_muon(set_name).step,
        "ours, plain": our_muon(set_name, fused=False).step,
        "ours, float32": our_muon(set_name, ns_dtype="float32").step,
        "ours, bfloat16": our_muon(set_name, ns_dtype="bfloat16").step,
        **candidates_of(SETS[set_name], set_name == "experts-8", asked),
    }
    return interleaved(candidates, repeats)


def small_models(depth: int, width: int, repeats: int) -> dict[str, list[float]]:
    """Return the steps of a multilayer perceptron with so many hidden matrices of a width."""

    def model() -> nn.Sequential:
        hidden = [layer for _ in range(depth) for layer in (nn.Linear(width, width), nn.Tanh())]
        made = nn.Sequential(nn.Linear(16, width), nn.Tanh(), *hidden, nn.Linear(width, 4))
        for p in made.parameters():
            p.grad = torch.randn_like(p)
        return made

    def torch_muon() -> Callable[[], Any]:
        params = list(model().parameters())
        inner = [p for p in params if p.shape == (width, width)]
        muon = torch.optim.Muon(inner, lr=1e-6)
        adamw = torch.optim.AdamW([p for p in params if p.shape != (width, width)], lr=1e-6, fused=True)
        return lambda: (muon.step(), adamw.step())

    candidates = {
        "ours": dt.Muon(model(), torch.randn(2, 16), lr=1e-6).step,
        "ours, AdamW": dt.AdamW(model().parameters(), lr=1e-6).step,
        "torch.optim.Muon and AdamW": torch_muon(),
        "torch": torch.optim.AdamW(model().parameters(), lr=1e-6).step,
        "torch fused": torch.optim.AdamW(model().parameters(), lr=1e-6, fused=True).step,
    }
    return interleaved(candidates, repeats)


def ranges(asked: list[str]) -> dict[str, str]:
    """Return where each one's step leaves singular values that lay between 1 and 0.01."""
    n = 512
    u, v = (torch.linalg.qr(torch.randn(n, n, dtype=torch.float64))[0] for _ in range(2))
    g = ((u * torch.logspace(0, -2, n, dtype=torch.float64)) @ v).float()
    makers: dict[str, Any] = {
        "ours": partial(dt.Muon, lr=1.0),
        "ours, plain": partial(dt.Muon, lr=1.0, fused=False),
        "ours, float32": partial(dt.Muon, lr=1.0, ns_dtype="float32"),
        "ours, bfloat16": partial(dt.Muon, lr=1.0, ns_dtype="bfloat16"),
    }
    found = {}
    for name, make in {**makers, **{name: PEERS[name] for name in asked}}.items():
        p = torch.nn.Parameter(torch.zeros(n, n))
        p.grad = g.clone()
        try:
            optimizer = make([p])
            for group in optimizer.param_groups:
                group.update(lr=1.0, weight_decay=0.0)
            optimizer.step()
        except Exception:  # of another library; the timing names it
            continue
        values = torch.linalg.svdvals(p.detach().double())
        typical = values.square().mean().sqrt()  # scales differ: relative to the root mean square
        found[name] = f"{values.min() / typical:.2f} – {values.max() / typical:.2f}"
    return found


def muon_floor(set_name: str, rate: float, products: float) -> float:
    """Return the seconds of the multiply-adds of the default steps in bfloat16 and of the bytes of the rule.

    Of a symmetric product half is counted.
    """
    work, elements = 0.0, 0
    for shape in SETS[set_name]:
        ((count, *sides),) = view_of(set_name, shape).matrices(shape)
        m, n = sorted(sides)
        half = {Kind.GRAM: m * n / 2, Kind.APPLY: m * n, Kind.SYMMETRIC: m * m / 2, Kind.WHOLE: m * m}
        program = program_of(m, n, "minimax", None, Multiplier.BFLOAT16).instructions
        work += count * m * sum(half[Kind(one.kind)] for one in program)
        elements += count * m * n
    return 2 * work / products + 20 * elements / rate  # reads g, m, p; writes m, p


def matmul_rate() -> float:
    """Return operations a second of the fastest product of 1024³ or 4096³, in bfloat16 or float32."""
    rates = []
    for side in (1024, 4096):
        a = torch.randn(side, side)
        half = a.bfloat16()
        seconds = medians(
            interleaved({"float32": partial(torch.mm, a, a), "bfloat16": partial(torch.mm, half, half)}, 9)
        )
        rates.append(2 * side**3 / min(seconds.values()))
    return max(rates)


def rows_of(seconds: dict[str, list[float]], floor: float | None) -> list[list[str]]:
    middle = medians(seconds)
    rows = []
    for name, value in middle.items():
        bases = [b for b in ("torch", "torch foreach", "torch fused", "torch.optim") if b in middle]
        ratios = [f"{ratio(seconds, name, base):.2f}" for base in bases]
        share = [] if floor is None else [f"{floor / value:.0%}"]
        rows.append([name, f"{1e3 * value:.2f}", *ratios, *share])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--rules", default=",".join([*RULES, "small", "muon"]))
    parser.add_argument("--peers", default=";".join(ON_CPU), help="other libraries' Muon")
    parser.add_argument("--json")
    args = parser.parse_args()
    chosen = args.rules.split(",")
    rate = bandwidth()
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, in-place add {rate / 1e9:.1f} GB/s")
    results: dict[str, Any] = {"bandwidth": rate}
    for set_name in ("gpt2-4", "conv-126", "experts-8", "small-200"):
        shapes, repeats = SETS[set_name], args.repeats * (1 if set_name == "gpt2-4" else 5)
        count = sum(torch.Size(shape).numel() for shape in shapes)
        for name in (n for n in chosen if n in RULES):
            seconds = elementwise(name, shapes, repeats)
            results[f"{set_name}/{name}"] = medians(seconds)
            floor = RULES[name][3] * count / rate
            times = [
                f"x {b}" for b in ("torch", "torch foreach", "torch fused", "torch.optim") if b in seconds
            ]
            title = f"{name} on {set_name}: {count:,} elements, floor {1e3 * floor:.2f} ms"
            show(title, ["step", "ms", *times, "of floor"], rows_of(seconds, floor))
    for depth, width in ((4, 32), (8, 64), (12, 128)) if "small" in chosen else ():
        seconds = small_models(depth, width, 10 * args.repeats)
        results[f"mlp-{depth}-{width}/small"] = medians(seconds)
        title = f"Muon and AdamW on {depth} hidden matrices of {width} x {width}"
        show(title, ["step", "ms", "x torch", "x fused"], rows_of(seconds, None))
    if "muon" in chosen:
        asked = args.peers.split(";")
        products, ends = matmul_rate(), ranges(asked)
        print(f"products: {products / 1e9:.0f} GFLOP/s")
        for set_name in ("gpt2-4-hidden", "gpt2-4-conv1d", "conv-126", "experts-8"):
            seconds = muon(set_name, max(3, args.repeats // 3), asked)
            results[f"{set_name}/muon"] = medians(seconds)
            floor = muon_floor(set_name, rate, products)
            rows = [[*row, ends[row[0]]] for row in rows_of(seconds, floor)]
            title = f"muon on {set_name}: floor {1e3 * floor:.1f} ms"
            show(title, ["step", "ms", "x torch", "of floor", "singular values / rms"], rows)
    if args.json:
        dump(args.json, results)


if __name__ == "__main__":
    main()
