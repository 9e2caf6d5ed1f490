"""Triton's kernels in its interpreter, on a CPU, against float64 and against plain PyTorch."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

from downslope.rules.orthogonalize import newton_schulz
from downslope.torch.kernel import OPS
from downslope.torch.kernels import elementwise, symmetric
from downslope.torch.kernels.ops import KernelOps

ROUNDING = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10}
"""The error of one conversion: half an ulp of float32, a whole one where the interpreter cuts off."""
DTYPES = list(ROUNDING)
SIZES = [(2, 40, 70), (33, 33), (1, 16, 100), (3, 65, 20), (2, 2, 1, 7), (17, 1)]
EVERYWHERE = KernelOps(multiprocessors=-1)  # any product pays


def random(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def assert_near(actual: torch.Tensor, a: torch.Tensor, b: torch.Tensor, expected: torch.Tensor) -> None:
    """Sums in float32 of k terms round k times at most, then the result rounds once to its dtype."""
    dtype, k = actual.dtype, a.shape[-1]
    sums = k * 2.0**-24 * (a.double().abs() @ b.double().abs())
    assert actual.dtype == a.dtype
    assert ((actual.double() - expected).abs() <= sums + 2 * ROUNDING[dtype] * expected.abs() + 1e-30).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SIZES, ids=str)
def test_a_gram_matrix(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = random(*shape, dtype=dtype)
    made = symmetric.symmetric_product(x, x.mT)
    assert_near(made, x, x.mT, x.double() @ x.double().mT)
    assert torch.equal(made, made.mT)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_polynomial_of_a_gram_matrix(dtype: torch.dtype) -> None:
    x = random(2, 40, 30)
    r = (x @ x.mT / 30).to(dtype)
    r = torch.tril(r) + torch.tril(r, -1).mT
    made = symmetric.symmetric_product(r, r, r, -4.775, 2.0315)
    exact = -4.775 * r.double() + 2.0315 * (r.double() @ r.double())
    # the sum's rounding is relative to its terms, which may cancel: to |β C| + |α| |A| |B|
    assert_near(made, 3 * r.abs(), r.abs() + 2, exact)


def test_transposed_views_are_read_as_they_are() -> None:
    x = random(3, 20, 40)
    tall = x.mT.contiguous()
    assert torch.equal(symmetric.symmetric_product(tall.mT, tall), symmetric.symmetric_product(x, x.mT))
    a = random(2, 24, 24)
    assert torch.equal(
        symmetric.symmetric_product(x[:, ::2], x[:, ::2].mT),
        symmetric.symmetric_product(x[:, ::2].contiguous(), x[:, ::2].contiguous().mT),
    )
    s = a + a.mT
    turned = s.mT  # symmetric, with exchanged strides
    assert torch.equal(
        symmetric.symmetric_product(s, s, turned, 0.5), symmetric.symmetric_product(s, s, s, 0.5)
    )


def test_only_one_triangle_is_computed() -> None:
    """Of a product that is not symmetric, the kernel must return the lower triangle, mirrored by tiles."""
    a, b = random(40, 24), random(24, 40, seed=1)
    made, whole = symmetric.symmetric_product(a, b), a @ b
    tiles = torch.arange(40) // 32  # the interpreter's tiles have 32 rows
    below = tiles[:, None] >= tiles[None, :]
    torch.testing.assert_close(made[below], whole[below], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(made[~below], whole.mT[~below], rtol=1e-5, atol=1e-5)
    assert (whole - whole.mT).abs()[~below].min() > 1e-4, "a wrong mirror would not have been seen"


@pytest.mark.parametrize("form", ["standard", "gram"])
@pytest.mark.parametrize("shape", [(2, 24, 40), (1, 40, 24), (3, 20, 20)], ids=str)
def test_newton_schulz_on_the_kernels(form: str, shape: tuple[int, ...]) -> None:
    x = random(*shape)
    x = x / torch.linalg.matrix_norm(x, keepdim=True)
    made = newton_schulz(EVERYWHERE, x, "keller5", 3, form)
    plain = newton_schulz(OPS, x, "keller5", 3, form)
    # both sum in float32, in other orders; three polynomials of slope 3.4, one after the other,
    # lift the difference of small singular values forty times
    torch.testing.assert_close(made, plain, rtol=0, atol=1e-4)


def test_where_the_kernel_pays() -> None:
    ops = KernelOps(multiprocessors=132)
    meta: dict[str, Any] = {"device": "meta"}
    assert ops._pays(torch.empty(1, 4096, 4096, dtype=torch.bfloat16, **meta))
    assert ops._pays(torch.empty(16, 512, 512, dtype=torch.bfloat16, **meta))
    assert not ops._pays(torch.empty(1, 1024, 1024, dtype=torch.bfloat16, **meta)), "64 tiles, one wave"
    assert not ops._pays(torch.empty(1, 4096, 4096, dtype=torch.float64, **meta))
    assert not ops._pays(torch.empty(1 << 17, 512, 512, dtype=torch.bfloat16, **meta)), (
        "more than a grid takes"
    )
    x = random(2, 5, 9, dtype=torch.float64)
    assert torch.equal(EVERYWHERE.gram(x), x @ x.mT)


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_momentum_in_one_pass(nesterov: bool, dtype: torch.dtype) -> None:
    g, m = random(3, 25, 60, dtype=dtype), random(3, 25, 60, seed=1)
    mean = 0.95 * m.double() + (1 - 0.95) * g.double()
    expected = (1 - 0.95) * g.double() + 0.95 * mean if nesterov else mean
    for out in (torch.float32, torch.bfloat16):
        slot, u = m.clone(), torch.empty(3, 25, 60, dtype=out)
        norms = elementwise.momentum(g, slot, u, mu=0.95, nesterov=nesterov)
        # a few roundings in float32, one to the dtype of the iterations
        torch.testing.assert_close(slot.double(), mean, rtol=4e-7, atol=4e-7)
        torch.testing.assert_close(u.double(), expected, rtol=4e-7 + 1.01 * ROUNDING[out], atol=4e-7)
        torch.testing.assert_close(norms[:, 0, 0], expected.flatten(1).norm(dim=1), rtol=1e-6, atol=0)


def test_momentum_of_a_warm_up_lies_on_the_device() -> None:
    g, m = random(1, 8, 8), random(1, 8, 8, seed=1)
    slots, outs = [m.clone(), m.clone()], [torch.empty(1, 8, 8), torch.empty(1, 8, 8)]
    elementwise.momentum(g, slots[0], outs[0], mu=0.875, nesterov=True)
    elementwise.momentum(g, slots[1], outs[1], mu=torch.tensor(0.875), nesterov=True)
    assert torch.equal(slots[0], slots[1])
    assert torch.equal(outs[0], outs[1])


@pytest.mark.parametrize("size", [1e-30, 1e30, 0.0])
def test_norms_neither_over_nor_underflow(size: float) -> None:
    g = random(2, 10, 7)
    u = torch.empty(2, 10, 7, dtype=torch.bfloat16)
    norms = elementwise.momentum(g * size, torch.zeros(2, 10, 7), u, mu=0.0, nesterov=False)
    expected = (g.double() * size).flatten(1).norm(dim=1)
    torch.testing.assert_close(norms[:, 0, 0], expected, rtol=1e-6, atol=0)


def test_a_masked_step_writes_nothing() -> None:
    g, m, p = random(1, 6, 6), random(1, 6, 6, seed=1), random(6, 6, seed=2)
    g[0, 0, 0] = torch.nan
    slot, after, no, yes = m.clone(), p.clone(), torch.tensor(False), torch.tensor(True)
    u = torch.empty(1, 6, 6)
    elementwise.momentum(g, slot, u, mu=0.9, nesterov=True, ok=no)
    elementwise.descend(after, u, lr=0.1, scale=2.0, weight_decay=0.1, cautious=False, ok=no)
    assert torch.equal(slot, m)
    assert torch.equal(after, p)
    g = g.nan_to_num()
    elementwise.momentum(g, slot, u, mu=0.9, nesterov=True, ok=yes)
    elementwise.descend(after, u, lr=0.1, scale=2.0, weight_decay=0.1, cautious=False, ok=yes)
    assert not torch.equal(slot, m)
    assert not torch.equal(after, p)


@pytest.mark.parametrize("cautious", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_descend_in_one_pass(cautious: bool, dtype: torch.dtype) -> None:
    p, d = random(37, 41, dtype=dtype), random(37, 41, dtype=torch.bfloat16, seed=1)
    direction, old = 3.0 * d.double(), p.double()
    pull = 0.1 * old
    if cautious:
        pull = torch.where(direction * old >= 0, pull, 0.0)
    expected = old - 0.01 * (direction + pull)
    for lr in (0.01, torch.tensor(0.01)):
        made = p.clone()
        elementwise.descend(made, d, lr=lr, scale=3.0, weight_decay=0.1, cautious=cautious)
        torch.testing.assert_close(made.double(), expected, rtol=4e-7 + 1.01 * ROUNDING[dtype], atol=4e-7)
    assert (expected - old).abs().max() > 0.01, "the step would not have been seen"
