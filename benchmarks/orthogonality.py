"""How near to orthogonal each setting of Newton-Schulz ends, and what it costs.

    python benchmarks/orthogonality.py

For every coefficient set, number of steps, form and precision: the least and the largest singular
value of the result over matrices whose singular values, from flat to condition 1000 and at least
1e-3 of the Frobenius norm, are known; and multiply-adds as a share of five standard steps, for
square matrices and for 1:4. The table is printed as Markdown, as it stands in docs/muon.md.
"""

from __future__ import annotations

import torch

from downslope.ops.torch import TorchOps
from downslope.rules.orthogonalize import coefficients_of, newton_schulz, operations, restarts_of

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


def main() -> None:
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
