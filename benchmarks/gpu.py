"""Muon's and AdamW's step on a GPU: against torch.optim and every peer installed, and against the floors.

    python benchmarks/gpu.py [--repeats 20] [--peers "torch.optim;timm"] [--sets "126 convolutions"]
        [--json FILE]

Three sets of shapes: the hidden matrices of GPT-2 small cut to 4 layers, 126 convolutions, 8 stacked
experts. Peers get the same matrices as (fan_out, fan_in), convolutions flattened and experts one by
one, since most take nothing else. Candidates of a table take turns in one run, timed by events on the
device; figures are medians, ratios medians of the ratios within a round. Beside each time stand:

- singular values: the least and the largest of the step itself, over the first matrix of each shape
  (random gradients: their own are well above 1e-3 of the norm);
- matmul rate: multiply-adds that our iterations need if every product were computed whole, over the
  time of the step, as a share of the measured rate of a large bfloat16 product;
- floor: these operations at that rate plus the bytes that momentum and write must move at the
  measured bandwidth.

Without a CUDA GPU it says so and exits with 2.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from muon_peers import PEERS
from timing import dump, ratio, show

import downslope.torch as dt
from downslope.grouping.view import MatrixView
from downslope.rules.orthogonalize import least_operations
from downslope.torch import kernels

Shape = tuple[int, ...]
LAYER: list[Shape] = [(2304, 768), (768, 768), (3072, 768), (768, 3072)]
SETS: dict[str, list[Shape]] = {
    "GPT-2 small, hidden matrices of 4 layers": LAYER * 4,
    "126 convolutions": [(64, 64, 3, 3)] * 40
    + [(128, 64, 3, 3)] * 20
    + [(128, 128, 3, 3)] * 40
    + [(256, 128, 1, 1)] * 26,
    "8 stacked experts": [(8, 3072, 768), (8, 768, 3072)],
}
MOVED = 4 + 8 + 8  # bytes an element: the gradient read, momentum and parameter read and written, in float32


@dataclass
class Candidate:
    """An optimizer with parameters of its own, ready to step."""

    params: list[torch.nn.Parameter]
    optimizer: torch.optim.Optimizer
    step: Callable[[], object]


def parameters(shapes: Sequence[Shape], device: str, matrices: bool = False) -> list[torch.nn.Parameter]:
    """Return parameters with gradients; `matrices` flattens convolutions and takes experts apart."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for shape in shapes:
        p, g = (torch.randn(shape, generator=generator).to(device) for _ in range(2))
        pieces = [(p, g)]
        if matrices:
            pieces = list(zip(p, g, strict=True)) if p.ndim == 3 else [(p.flatten(1), g.flatten(1))]
        for a, b in pieces:
            made.append(torch.nn.Parameter(a.clone()))
            made[-1].grad = b.clone()
    return made


def ours(shapes: Sequence[Shape], device: str, *, captured: bool = False, **options: Any) -> Candidate:
    params = parameters(shapes, device)
    views = [
        MatrixView((1,), (2,), batch=(0,)) if p.ndim == 3 else MatrixView.of_kernel(p.ndim) for p in params
    ]
    optimizer = dt.Muon([{"params": params, "views": views}], lr=1e-6, weight_decay=0.0, **options)
    return Candidate(params, optimizer, capture(optimizer) if captured else optimizer.step)


def theirs(make: Callable[[list[Any]], Any], shapes: Sequence[Shape], device: str) -> Candidate:
    params = parameters(shapes, device, matrices=True)
    optimizer = make(params)
    return Candidate(params, optimizer, optimizer.step)


def capture(optimizer: torch.optim.Optimizer) -> Callable[[], object]:
    """Return the replay of a CUDA graph of the step."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            optimizer.step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        optimizer.step()
    return graph.replay


def muon_candidates(shapes: Sequence[Shape], device: str, peers: Sequence[str]) -> dict[str, Candidate]:
    """Return what takes turns; what cannot is named, with the reason."""
    makers: dict[str, Callable[[], Candidate]] = {
        "ours": lambda: ours(shapes, device),
        "ours, Keller's 5 steps": lambda: ours(shapes, device, coefficients="keller5"),
        "ours, kernels off": lambda: ours(shapes, device, fused=False),
    }
    if device == "cuda":
        makers["ours, captured"] = lambda: ours(shapes, device, captured=True)
        makers["ours, captured, kernels off"] = lambda: ours(shapes, device, captured=True, fused=False)
    for name in peers:
        makers[name] = lambda make=PEERS[name]: theirs(make, shapes, device)  # type: ignore[misc]
    return _made(makers)


def adamw_candidates(shapes: Sequence[Shape], device: str) -> dict[str, Candidate]:
    def make(kind: Any, *, captured: bool = False, **options: Any) -> Candidate:
        params = parameters(shapes, device)
        optimizer = kind(params, lr=1e-6, weight_decay=0.1, **options)
        return Candidate(params, optimizer, capture(optimizer) if captured else optimizer.step)

    makers: dict[str, Callable[[], Candidate]] = {
        "ours": lambda: make(dt.AdamW),
        "ours, no check": lambda: make(dt.AdamW, on_nonfinite="ignore"),
        "torch, fused": lambda: make(torch.optim.AdamW, fused=True),
    }
    if device == "cuda":
        makers["ours, captured"] = lambda: make(dt.AdamW, captured=True)
        makers["torch, fused, captured"] = lambda: make(
            torch.optim.AdamW, captured=True, fused=True, capturable=True
        )
    return _made(makers)


def _made(makers: Mapping[str, Callable[[], Candidate]]) -> dict[str, Candidate]:
    made = {}
    for name, make in makers.items():
        try:
            candidate = make()
            candidate.step()
        except ImportError:
            print(f"{name}: not installed")
        except Exception as error:
            print(f"{name}: does not run here: {type(error).__name__}: {str(error).splitlines()[0]}")
        else:
            made[name] = candidate
    return made


def timed(calls: Mapping[str, Callable[[], object]], repeats: int, device: str) -> dict[str, list[float]]:
    """Return the seconds of each call, taking turns after three untimed rounds; the device's clock."""
    for _ in range(3):
        for call in calls.values():
            call()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            if device == "cuda":
                start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                torch.cuda.synchronize()
                start.record()
                call()
                end.record()
                end.synchronize()
                seconds[name].append(start.elapsed_time(end) / 1e3)
            else:
                begun = time.perf_counter()
                call()
                seconds[name].append(time.perf_counter() - begun)
    return seconds


def matmul_rate(device: str, side: int) -> float:
    """Return floating-point operations a second of a bfloat16 product of two (side, side) matrices."""
    a, b = (torch.randn(side, side, device=device).bfloat16() for _ in range(2))
    return 2 * side**3 / statistics.median(timed({"mm": lambda: a @ b}, 10, device)["mm"])


def bandwidth(device: str, size: int) -> float:
    """Return bytes a second that an in-place addition of large arrays reads and writes."""
    a, b = (torch.ones(size, device=device) for _ in range(2))
    return 12 * size / statistics.median(timed({"add": lambda: a.add_(b)}, 10, device)["add"])


def flops(shapes: Sequence[Shape]) -> float:
    """Return the floating-point operations of our iterations, every product computed whole."""
    total = 0.0
    for shape in shapes:
        count, fan_out, *rest = shape if len(shape) == 3 else (1, *shape)
        m, n = sorted((fan_out, torch.Size(rest).numel()))
        total += 2 * count * least_operations(m, n, "minimax", half=True)
    return total


def singular_values(candidate: Candidate) -> tuple[float, float]:
    """Return the least and the largest singular value of a step, of the first matrix of each shape.

    The step is taken from zero with a rate of 1, and divided by its root mean square over rank: scales
    differ between libraries, bands relative to their centre do not.
    """
    groups = candidate.optimizer.param_groups
    seen: dict[tuple[int, int], torch.Tensor] = {}
    rates = [group["lr"] for group in groups]
    before = [p.detach().clone() for p in candidate.params]
    for group in groups:
        group["lr"] = 1.0
    for p in candidate.params:
        p.detach().zero_()
    candidate.optimizer.step()
    for p, old in zip(candidate.params, before, strict=True):
        matrix = (p[0] if p.ndim == 3 else p.flatten(1)).detach().float().clone()
        seen.setdefault((matrix.shape[0], matrix.shape[1]), matrix.cpu())
        p.detach().copy_(old)
    for group, rate in zip(groups, rates, strict=True):
        group["lr"] = rate
    values = [torch.linalg.svdvals(matrix) for matrix in seen.values()]
    centred = [v / v.square().mean().sqrt() for v in values]
    return min(float(v.min()) for v in centred), max(float(v.max()) for v in centred)


def table(
    shapes: Sequence[Shape], device: str, repeats: int, peak: float, rate: float, peers: Sequence[str]
) -> tuple[list[list[str]], dict[str, Any]]:
    """Return the rows of Muon's table on one set, and the figures."""
    candidates = muon_candidates(shapes, device, peers)
    seconds = timed({name: c.step for name, c in candidates.items()}, repeats, device)
    work = flops(shapes)
    floor = work / peak + MOVED * sum(torch.Size(s).numel() for s in shapes) / rate
    rows, figures = [], {}
    for name, values in seconds.items():
        middle = statistics.median(values)
        low, high = singular_values(candidates[name])
        against = ratio(seconds, name, "torch.optim") if "torch.optim" in seconds else float("nan")
        share = work / middle / peak if name.startswith("ours") else float("nan")
        figures[name] = {"seconds": middle, "x torch": against, "singular values": [low, high]}
        rows.append(
            [
                name,
                f"{1e3 * middle:.2f}",
                f"{against:.2f}",
                f"{low:.2f} – {high:.2f}",
                f"{share:.0%}" if share == share else "",
                f"{floor / middle:.0%}",
            ]
        )
    return rows, {"floor": floor, "candidates": figures}


def report(
    device: str, sets: Mapping[str, Sequence[Shape]], repeats: int, size: int, peers: Sequence[str]
) -> dict[str, Any]:
    """Measure and print everything; `size` is the side of the large product."""
    peak, rate = matmul_rate(device, size), bandwidth(device, size * size)
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    print(
        f"{name}, torch {torch.__version__}: bfloat16 products {peak / 1e12:.1f} TFLOP/s, "
        f"memory {rate / 1e9:.0f} GB/s; {kernels.reason(torch.device(device, 0)) or 'Triton kernels'}"
    )
    results: dict[str, Any] = {"device": name, "peak": peak, "bandwidth": rate}
    for title, shapes in sets.items():
        rows, figures = table(shapes, device, repeats, peak, rate, peers)
        results[title] = {"muon": figures}
        columns = ["Muon", "ms", "x torch", "σ / rms", "of peak", "of floor"]
        show(f"{title}: floor {1e3 * figures['floor']:.2f} ms", columns, rows)
        candidates = adamw_candidates(shapes, device)
        seconds = timed({n: c.step for n, c in candidates.items()}, repeats, device)
        floor = 28 * sum(torch.Size(s).numel() for s in shapes) / rate
        lines = []
        for candidate, values in seconds.items():
            middle = statistics.median(values)
            against = ratio(seconds, candidate, "torch, fused")
            lines.append([candidate, f"{1e3 * middle:.3f}", f"{against:.2f}", f"{floor / middle:.0%}"])
            results[title].setdefault("adamw", {})[candidate] = {"seconds": middle, "x torch": against}
        show(f"AdamW: floor {1e3 * floor:.3f} ms", ["AdamW", "ms", "x torch fused", "of floor"], lines)
    return results


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument(
        "--peers", default=";".join(PEERS), help="which of them; some take a minute to compile"
    )
    parser.add_argument("--sets", default=";".join(SETS), help="which of them")
    parser.add_argument("--json")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        print(
            f"no CUDA GPU (torch {torch.__version__}): run this on a machine with one, with torch for CUDA",
            file=sys.stderr,
        )
        return 2
    sets = {name: SETS[name] for name in args.sets.split(";")}
    results = report("cuda", sets, args.repeats, 8192, [name for name in args.peers.split(";") if name])
    if args.json:
        dump(args.json, results)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
