"""How near to orthogonal each setting of Newton-Schulz ends, and what it costs.

    python benchmarks/orthogonality.py [--hard]

For every coefficient set, number of steps, form and precision: the least and the largest singular
value of the result over matrices whose singular values, from flat to condition 1000 and at least
1e-3 of the Frobenius norm, are known; and multiply-adds as a share of five standard steps, for
square matrices and for 1:4. The table is printed as Markdown, as it stands in docs/muon.md.

With --hard: what bfloat16 leaves of 3,360 matrices of 30 spectra, down to condition 1e8, in random bases,
permutations, and bases with a column of nearly equal entries, whose rounding errors all point one way; with
products as they are, with symmetric ones computed by halves, as plain PyTorch does from 512 rows on, and by
what is compiled for a CPU, in the form that costs less.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import torch

from downslope.ops import torch as torch_ops
from downslope.ops.torch import TorchOps
from downslope.rules.orthogonalize import coefficients_of, newton_schulz, operations, restarts_of
from downslope.torch.native import polar as native

SETTINGS = [
    ("keller5", 5),
    ("polar_express", 5),
    ("polar_express", 6),
    ("polar_express", 8),
    ("minimax", 3),
    ("minimax", 4),
]
SHAPES = [(64, 64), (64, 256), (128, 512)]
STANDARD = coefficients_of("keller5")
X = TorchOps()


def spectra(k: int) -> list[torch.Tensor]:
    """Return singular values, each set of Frobenius norm 1 and none below 1e-3."""
    half = torch.cat([torch.ones(k // 2), torch.full((k - k // 2,), 2e-3)])
    spike = torch.cat([torch.ones(1), torch.full((k - 1,), 5e-3)])
    found = [
        torch.ones(k),
        torch.logspace(0, -1.5, k),
        torch.logspace(0, -2.5, k),
        1 / torch.arange(1.0, k + 1),
        half,
        spike,
    ]
    return [(s / s.norm()).double() for s in found]


def extremes(name: str, steps: int, form: str, dtype: torch.dtype) -> tuple[float, float]:
    """Return the least and the largest singular value that a setting leaves."""
    low, high = float("inf"), 0.0
    generator = torch.Generator().manual_seed(0)
    for m, n in SHAPES:
        U = torch.linalg.qr(torch.randn(m, m, generator=generator, dtype=torch.float64))[0]
        V = torch.linalg.qr(torch.randn(n, m, generator=generator, dtype=torch.float64))[0]
        for s in spectra(m):
            kept = s >= 1e-3
            done = newton_schulz(X, ((U * s) @ V.mT).to(dtype), name, steps, form).double()
            along = (U.mT @ done @ V).diagonal()[kept]
            low, high = min(low, float(along.min())), max(high, float(along.max()))
    return low, high


def cost(form: str, name: str, steps: int, dtype: torch.dtype, aspect: int) -> float:
    """Return multiply-adds as a share of five standard steps."""
    half = dtype == torch.bfloat16
    restarts = restarts_of(name, steps, half) if form == "gram" else None
    return operations(1, aspect, coefficients_of(name, steps, half), restarts) / operations(
        1, aspect, STANDARD
    )


def hard_spectra(k: int, generator: torch.Generator) -> list[torch.Tensor]:
    """Return singular values of Frobenius norm 1, some of them zero or far below 1e-3."""
    found = [torch.ones(k), torch.logspace(0, -8, k), torch.eye(k)[0], (torch.arange(k) < k // 8).float()]
    found += [torch.logspace(0, -p, k) for p in (0.5, 1, 1.5, 2, 2.5, 3)]
    found += [torch.arange(1.0, k + 1) ** -p for p in (0.5, 1, 2)]
    for many, levels in (
        (k // 2, (2e-3, 5e-3, 2e-2, 0.1)),
        (1, (1.2e-3, 2e-3, 5e-3, 2e-2, 0.1)),
        (2, (2e-3, 2e-2)),
        (8, (0.05, 0.3)),
    ):
        found += [torch.where(torch.arange(k) < many, 1.0, level) for level in levels]
    found += [torch.linalg.svdvals(torch.randn(k, n, generator=generator)) for n in (k, 4 * k)]
    found += [torch.rand(k, generator=generator), (2 * torch.randn(k, generator=generator)).exp()]
    return [(s / s.norm()).double() for s in found]


def bases(m: int, n: int, generator: torch.Generator) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return pairs of orthonormal columns, (m, k) and (n, k): random, permuted, and with equal entries."""
    k = min(m, n)

    def random(rows: int, shift: float = 0.0) -> torch.Tensor:
        made = torch.randn(rows, k, generator=generator, dtype=torch.float64) + shift
        return torch.linalg.qr(made)[0]

    def permuted(rows: int) -> torch.Tensor:
        return torch.eye(rows, dtype=torch.float64)[torch.randperm(rows, generator=generator)][:, :k]

    near = 0.1 * torch.randn(m, k, generator=generator, dtype=torch.float64) / m**0.5
    identity = torch.linalg.qr(torch.eye(m, k, dtype=torch.float64) + near)[0]
    return [
        (random(m), random(n)),
        (permuted(m), permuted(n)),
        (identity, random(n, 1.0)),
        (random(m), random(n, 1.0)),
    ]


def hard() -> None:
    """Print where sets leave the singular values of hard matrices, and the largest of all, in bfloat16."""
    shapes = [(24, 96), (96, 24), (16, 16), (12, 40), (48, 64), (160, 256), (64, 64), (128, 512)] * 2
    shapes += [(24, 32), (8, 64), (32, 48)] * 4
    print("| set | form | products | singular values, bfloat16 |")
    print("|---|---|---|---|")
    rows = torch_ops._LARGE_FROM, torch_ops._stripes
    for name in ("minimax", "keller5", "polar_express"):
        for form in ("gram", "standard"):
            for products in ("whole", "by halves"):
                if products == "by halves":
                    torch_ops._LARGE_FROM, torch_ops._stripes = 1, lambda m, _: max(1, m // 16)
                low, high = hard_extremes(shapes, partial(iterated, name=name, form=form))
                torch_ops._LARGE_FROM, torch_ops._stripes = rows
                print(f"| {name} | {form} | {products} | {low:.3f} – {high:.3f} |", flush=True)
        if why := native.reason(torch.bfloat16):
            print(f"| {name} | | compiled | {why} |")
        else:
            low, high = hard_extremes(shapes, partial(compiled, name=name))
            print(f"| {name} | cheaper | compiled | {low:.3f} – {high:.3f} |", flush=True)


def iterated(g: torch.Tensor, name: str, form: str) -> torch.Tensor:
    return newton_schulz(X, (g / g.norm()).bfloat16(), name, form=form)


def compiled(g: torch.Tensor, name: str) -> torch.Tensor:
    done = g[None].clone()
    native.orthogonalise(done, g.norm().reshape(1, 1, 1), torch.bfloat16, name, None)
    return done[0]


def hard_extremes(
    shapes: list[tuple[int, int]], polar: Callable[[torch.Tensor], torch.Tensor]
) -> tuple[float, float]:
    """Return the least singular value that is left of those that count, and the largest of all."""
    low, high = float("inf"), 0.0
    generator = torch.Generator().manual_seed(0)
    for m, n in shapes:
        for s in hard_spectra(min(m, n), generator):
            for U, V in bases(m, n, generator):
                done = polar(((U * s) @ V.mT).float()).double()
                along = (U.mT @ done @ V).diagonal()[s >= 1e-3]
                low = min(low, float(along.min()))
                high = max(high, float(torch.linalg.matrix_norm(done, 2)))
    return low, high


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hard", action="store_true")
    if parser.parse_args().hard:
        hard()
        return
    print("| set | steps | form | precision | singular values | cost 1:1 | cost 1:4 |")
    print("|---|---|---|---|---|---|---|")
    for name, steps in SETTINGS:
        for form in ("standard", "gram"):
            for dtype in (torch.float64, torch.float32, torch.bfloat16):
                half = dtype == torch.bfloat16
                if name == "minimax" and half and steps != 4:
                    continue  # four steps there
                low, high = extremes(name, steps, form, dtype)
                shares = " | ".join(f"{cost(form, name, steps, dtype, aspect):.2f}" for aspect in (1, 4))
                precision = str(dtype).removeprefix("torch.")
                print(f"| {name} | {steps} | {form} | {precision} | {low:.3f} – {high:.3f} | {shares} |")


if __name__ == "__main__":
    main()
