"""Triton's kernels as compiled for a GPU; `tests/triton` runs the same ones in the interpreter."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from downslope.torch import Muon, kernels

WHY_NOT = kernels.reason(torch.device("cuda", 0)) if torch.cuda.is_available() else "no CUDA GPU here"
pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT or "kernels run here")

HALF_ULP = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}


@pytest.mark.parametrize(  # each is tuned, which takes seconds
    ("shape", "dtype"), [((1024, 4096), torch.bfloat16), ((3, 65, 500), torch.float16)], ids=str
)
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


def small_model(**options: Any) -> tuple[list[torch.nn.Parameter], Muon]:
    generator = torch.Generator().manual_seed(1)
    shapes = [(64, 128), (128, 64), (48, 100), (16, 3, 3, 3), (256, 256)]
    params = [torch.nn.Parameter(torch.randn(s, generator=generator).cuda()) for s in shapes]
    for p in params:
        p.grad = torch.randn(p.shape, generator=generator).cuda()
    groups = [{"params": params}, {"params": [torch.nn.Parameter(torch.ones(64).cuda())], "rule": "adamw"}]
    groups[1]["params"][0].grad = torch.ones(64).cuda()
    return params, Muon(groups, lr=0.02, **options)


@pytest.mark.parametrize("fused", [None, False])
def test_a_step_waits_for_nothing(fused: bool | None) -> None:
    params, optimizer = small_model(fused=fused, momentum_warmup=5)
    optimizer.step()  # compiles
    before = params[0].detach().clone()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            optimizer.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert not torch.equal(before, params[0])


@pytest.mark.parametrize("fused", [None, False])
def test_a_recorded_step_takes_the_steps_of_an_ordinary_one(fused: bool | None) -> None:
    results = []
    for recorded in (False, True):
        params, optimizer = small_model(fused=fused)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                optimizer.step()
        torch.cuda.current_stream().wait_stream(side)
        step: Any = optimizer.step
        if recorded:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                optimizer.step()  # recorded, not taken
            step = graph.replay
        for i in range(3):
            for p in params:
                p.grad.mul_(-1 - i)  # the graph reads what lies in the same memory then
            step()
        results.append([p.detach().clone() for p in params])
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


def test_a_gradient_with_a_nan_leaves_everything_as_it_was() -> None:
    params, optimizer = small_model(on_nonfinite="raise")
    optimizer.step()
    before = [p.detach().clone() for p in params]
    params[2].grad[5, 6] = torch.nan
    optimizer.step()
    for p, old in zip(params, before, strict=True):
        assert torch.equal(p, old)
    with pytest.raises(ValueError, match=r"parameter 2 of shape \(48, 100\) in group 0 held NaN"):
        optimizer.raise_if_nonfinite()


def test_shapes_that_share_a_stack_take_the_steps_that_they_take_alone() -> None:
    params, optimizer = small_model()
    alone = [torch.nn.Parameter(p.detach().clone()) for p in params]
    before = [p.detach().clone() for p in params]
    optimizer.step()
    for p, single, old in zip(params, alone, before, strict=True):
        single.grad = p.grad
        Muon([single], lr=0.02).step()
        # the same sums in bfloat16 in other orders, which a dozen products lift
        assert (p - single).norm() < 0.03 * (single - old).norm()
