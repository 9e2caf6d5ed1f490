"""Muon's whole step on Triton's kernels, in the interpreter, against the step in plain PyTorch."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

from downslope.grouping.view import MatrixView
from downslope.torch import Muon
from downslope.torch.engine import Engine
from downslope.torch.kernels.ops import KernelOps

LINEAR, QKV = MatrixView((0,), (1,)), MatrixView((0,), (1,), blocks=(12, 12, 12))
UNEVEN = MatrixView((0,), (1,), blocks=(12, 6, 6))
SHAPES = [
    ((20, 12), LINEAR),
    ((20, 12), LINEAR),
    ((6, 4, 3, 3), MatrixView.of_kernel(4)),
    ((36, 16), QKV),
    ((24, 16), UNEVEN),
    ((3, 8, 20), MatrixView((1,), (2,), batch=(0,))),
    ((12, 20), MatrixView((1,), (0,))),  # another parameter of the first shape, which lies transposed
]


DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def on_kernels(self: Muon, job: Any) -> Engine:
    return Engine(KernelOps(0, smallest=1, dtypes=DTYPES), self._tables, look=False, ok=job.ok)


def run(dtype: torch.dtype = torch.float32, steps: int = 2, **options: Any) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(s, generator=generator).to(dtype)) for s, _ in SHAPES]
    options = {"ns_dtype": "float32", "coefficients": "keller5", "ns_steps": 2, **options}  # it is slow
    views = [view for _, view in SHAPES]
    optimizer = Muon([{"params": params, "views": views}], weight_decay=0.1, **{"lr": 0.05, **options})
    for _ in range(steps):
        for p in params:
            p.grad = torch.randn(p.shape, generator=generator).to(dtype)
        optimizer.step()
    return [p.detach() for p in params]


OPTIONS: list[dict[str, Any]] = [
    {},
    {"capturable": True},
    {"nesterov": False, "cautious": True},
    {"normuon": True, "scale": "spectral"},
    {"momentum_warmup": 3, "capturable": True},
    {"lr": torch.tensor(0.05), "capturable": True, "on_nonfinite": "skip"},
    {"max_stack_bytes": 4000},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_kernels_take_the_steps_of_plain_pytorch(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = run(**options)
    with monkeypatch.context() as patch:
        patch.setattr(Muon, "_engine_of", on_kernels)
        made = run(**options)
    for a, b in zip(made, plain, strict=True):
        # float32 sums in another order, of which two polynomials of slope 3.4 lift the difference
        torch.testing.assert_close(a, b, rtol=0, atol=2e-6)


def test_the_step_would_have_been_seen() -> None:
    for a, b in zip(run(steps=2), run(steps=1), strict=True):
        assert (a - b).abs().max() > 1e-3


def test_in_bfloat16_the_engines_differ_by_its_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    before, plain = run(torch.bfloat16, steps=0), run(torch.bfloat16, ns_dtype="bfloat16", lr=1.0)
    monkeypatch.setattr(Muon, "_engine_of", on_kernels)
    for a, b, start in zip(run(torch.bfloat16, ns_dtype="bfloat16", lr=1.0), plain, before, strict=True):
        assert a.dtype == torch.bfloat16
        # 2^-8 a product or a conversion (which the interpreter cuts off), a dozen of them
        assert (a.float() - b.float()).norm() < 0.05 * (b.float() - start.float()).norm()


def test_autograd_learns_that_parameters_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was saved for a backward pass is not used after a step has written over it."""
    monkeypatch.setattr(Muon, "_engine_of", on_kernels)
    p = torch.nn.Parameter(torch.ones(20, 12))
    loss = (p * p).sum()
    loss.backward(retain_graph=True)
    Muon([p], lr=0.1, ns_dtype="float32", coefficients="keller5", ns_steps=1).step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
