"""Triton's kernels as compiled for a GPU; `tests/triton` runs the same ones in the interpreter."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from downslope.torch import Muon, kernels

WHY_NOT = kernels.reason(torch.device("cuda", 0)) if torch.cuda.is_available() else "no CUDA GPU here"
pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT or "kernels run here")

HALF_ULP = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}


@pytest.mark.parametrize("dtype", list(HALF_ULP), ids=str)
@pytest.mark.parametrize("shape", [(3, 200, 500), (1024, 4096), (2, 65, 20)], ids=str)
def test_symmetric_products(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    from downslope.torch.kernels.symmetric import symmetric_product

    x = torch.randn(shape, device="cuda", dtype=dtype) / shape[-1] ** 0.5
    r = symmetric_product(x, x.mT)
    exact = x.double() @ x.double().mT
    sums = shape[-1] * 2.0**-24 * (x.double().abs() @ x.double().abs().mT)
    assert ((r.double() - exact).abs() <= sums + HALF_ULP[dtype] * exact.abs()).all()
    assert torch.equal(r, r.mT)
    z = symmetric_product(r, r, r, -4.775, 2.0315)
    exact = -4.775 * r.double() + 2.0315 * r.double() @ r.double()
    size = 4.775 * r.double().abs() + 2.0315 * r.double().abs() @ r.double().abs()
    assert ((z.double() - exact).abs() <= (HALF_ULP[dtype] + shape[-2] * 2.0**-24) * size).all()


@pytest.mark.parametrize(
    "options", [{}, {"normuon": True, "cautious": True}, {"momentum_warmup": 3}], ids=str
)
def test_a_step_on_kernels_is_the_step_in_plain_pytorch(options: dict[str, Any]) -> None:
    results = []
    for fused in (None, False):
        generator = torch.Generator().manual_seed(0)
        shapes = [(512, 512)] * 12 + [(64, 32, 3, 3)] * 3 + [(512, 2048)] * 2
        params = [torch.nn.Parameter(torch.randn(s, generator=generator).cuda()) for s in shapes]
        optimizer = Muon(params, lr=0.02, ns_dtype="float32", fused=fused, **options)
        assert ("Triton kernels" in repr(optimizer)) == (fused is None)
        for _ in range(3):
            for p in params:
                p.grad = torch.randn(p.shape, generator=generator).cuda()
            optimizer.step()
        results.append([p.detach() for p in params])
    for a, b in zip(*results, strict=True):
        # float32 sums in another order, which the polynomials lift in small singular values
        assert (a - b).norm() < 1e-3 * b.norm()
