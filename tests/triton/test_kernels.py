"""Triton's kernels in its interpreter, on a CPU, against float64 and against plain PyTorch."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

from downslope.grouping.view import MatrixView
from downslope.rules.muon import Muon
from downslope.rules.orthogonalize import newton_schulz
from downslope.torch.kernel import OPS
from downslope.torch.kernels import elementwise, steps, symmetric
from downslope.torch.kernels import ops as ops_module
from downslope.torch.kernels.ops import KernelOps
from downslope.torch.kernels.tables import Tables
from downslope.torch.places import Item, layout_of

ROUNDING = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10}
"""The error of one conversion: half an ulp of float32, a whole one where the interpreter cuts off."""
DTYPES = list(ROUNDING)
SIZES = [(2, 40, 70), (33, 33), (1, 16, 100), (3, 65, 20), (2, 2, 1, 7), (17, 1)]
EVERYWHERE = KernelOps(multiprocessors=0, smallest=1, dtypes=tuple(DTYPES))  # any product pays


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
    """Of a product that is not symmetric, the kernel must return the lower triangle, mirrored."""
    a, b = random(40, 24), random(24, 40, seed=1)  # two tiles of 32 rows, one of them whole
    made, whole = symmetric.symmetric_product(a, b), a @ b
    torch.testing.assert_close(made, torch.tril(whole) + torch.tril(whole, -1).mT, rtol=1e-5, atol=1e-5)
    above = torch.ones(40, 40, dtype=torch.bool).triu(1)
    assert (whole - whole.mT).abs()[above].min() > 1e-4, "a wrong mirror would not have been seen"


@pytest.mark.parametrize("form", ["standard", "gram"])
@pytest.mark.parametrize("shape", [(2, 24, 40), (1, 40, 24), (3, 20, 20)], ids=str)
def test_newton_schulz_on_the_kernels(
    form: str, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    x = random(*shape)
    x = x / torch.linalg.matrix_norm(x, keepdim=True)
    products: list[Any] = []
    real = symmetric.symmetric_product
    monkeypatch.setattr(ops_module, "symmetric_product", lambda *a: products.append(a) or real(*a))
    made = newton_schulz(EVERYWHERE, x, "keller5", 3, form)
    assert len(products) >= 4, "the kernel was not asked"
    plain = newton_schulz(OPS, x, "keller5", 3, form)
    # both sum in float32, in other orders; three polynomials of slope 3.4, one after the other,
    # lift the difference of small singular values forty times
    torch.testing.assert_close(made, plain, rtol=0, atol=1e-4)


def test_nothing_is_made_of_a_low_rank() -> None:
    """Were products mirrored of matrices that commute but for rounding, 1e11 would be left."""
    for rows in (torch.ones(96), torch.tensor([1.0, 0.3, 2.0]).repeat(32), random(96)):
        g = torch.outer(rows, random(256, seed=1))
        made = newton_schulz(EVERYWHERE, (g / g.norm()).bfloat16())
        assert torch.linalg.matrix_norm(made.double(), 2) < 1.3


def test_where_the_kernel_pays() -> None:
    ops = KernelOps(multiprocessors=132)
    meta: dict[str, Any] = {"device": "meta"}
    assert ops._pays(torch.empty(1, 4096, 4096, dtype=torch.bfloat16, **meta))
    assert ops._pays(torch.empty(16, 1024, 1024, dtype=torch.bfloat16, **meta))
    assert not ops._pays(torch.empty(64, 512, 512, dtype=torch.bfloat16, **meta)), "cuBLAS is faster"
    assert not ops._pays(torch.empty(1, 4096, 4096, dtype=torch.float32, **meta)), "and in float32"
    assert not ops._pays(torch.empty(1, 1024, 1024, dtype=torch.bfloat16, **meta)), "64 tiles, one wave"
    assert not ops._pays(torch.empty(1, 4096, 4096, dtype=torch.float64, **meta))
    assert not ops._pays(torch.empty(1 << 17, 512, 512, dtype=torch.bfloat16, **meta)), (
        "more than a grid takes"
    )
    x = random(2, 5, 9, dtype=torch.float64)
    assert torch.equal(EVERYWHERE.gram(x), x @ x.mT)


def addresses(*columns: torch.Tensor) -> torch.Tensor:
    """Return the table of matrices (count, m, n) side by side."""
    rows = zip(*([matrix.data_ptr() for matrix in column] for column in columns), strict=True)
    return torch.tensor(list(rows), dtype=torch.int64)


def momentum(g: torch.Tensor, slot: torch.Tensor, u: torch.Tensor, **options: Any) -> torch.Tensor:
    """Run the kernel, and return the norms."""
    squares = torch.zeros(len(u), elementwise.tiles_of(*u.shape[1:]) + 1, dtype=torch.float64)
    elementwise.momentum(addresses(g, slot), u, squares, dtype=g.dtype, **options)
    return squares.sum(1).sqrt()


def descend(p: torch.Tensor, d: torch.Tensor, **options: Any) -> None:
    stacks = (t[None] if t.ndim == 2 else t for t in (p, d))
    p, d = stacks
    elementwise.descend(addresses(p), d, dtype=p.dtype, **options)


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_momentum_in_one_pass(nesterov: bool, dtype: torch.dtype) -> None:
    g, m = random(3, 25, 60, dtype=dtype), random(3, 25, 60, seed=1)
    mean = 0.95 * m.double() + (1 - 0.95) * g.double()
    expected = (1 - 0.95) * g.double() + 0.95 * mean if nesterov else mean
    for out in (torch.float32, torch.bfloat16):
        slot, u = m.clone(), torch.empty(3, 25, 60, dtype=out)
        norms = momentum(g, slot, u, mu=0.95, nesterov=nesterov)
        # a few roundings in float32, one to the dtype of the iterations
        torch.testing.assert_close(slot.double(), mean, rtol=4e-7, atol=4e-7)
        torch.testing.assert_close(u.double(), expected, rtol=4e-7 + 1.01 * ROUNDING[out], atol=4e-7)
        torch.testing.assert_close(norms, expected.flatten(1).norm(dim=1), rtol=1e-6, atol=0)


def test_aligned_memory_is_read_as_any_other() -> None:
    g, m = random(2, 64, 80), random(2, 64, 80, seed=1)
    slots, outs = [m.clone(), m.clone()], [torch.empty(2, 64, 80), torch.empty(2, 64, 80)]
    for slot, out, aligned in zip(slots, outs, (False, True), strict=True):
        momentum(g, slot, out, mu=0.9, nesterov=True, aligned=aligned)
    assert torch.equal(*slots)
    assert torch.equal(*outs)


def test_a_place_may_be_padded_and_transposed() -> None:
    """What joins a stack of another shape is written into its part of it, and read from there."""
    g, p, stack = random(2, 40, 70), random(2, 40, 70, seed=2), torch.zeros(3, 90, 50)
    part = stack[1:].mT[:, :40, :70]
    norms = momentum(g, torch.zeros(2, 40, 70), part, mu=0.0, nesterov=False)
    assert torch.equal(part, g)
    assert stack.count_nonzero() == g.count_nonzero()
    torch.testing.assert_close(norms, g.double().flatten(1).norm(dim=1), rtol=1e-6, atol=0)
    made = p.clone()
    descend(made, part, lr=1.0, scale=1.0, weight_decay=0.0, cautious=False)
    assert torch.equal(made, p - g)


def test_momentum_of_a_warm_up_lies_on_the_device() -> None:
    g, m = random(1, 8, 8), random(1, 8, 8, seed=1)
    slots, outs = [m.clone(), m.clone()], [torch.empty(1, 8, 8), torch.empty(1, 8, 8)]
    momentum(g, slots[0], outs[0], mu=0.875, nesterov=True)
    momentum(g, slots[1], outs[1], mu=torch.tensor(0.875), nesterov=True)
    assert torch.equal(slots[0], slots[1])
    assert torch.equal(outs[0], outs[1])


@pytest.mark.parametrize("size", [1e-30, 1e30, 0.0])
def test_norms_neither_over_nor_underflow(size: float) -> None:
    g = random(2, 50, 70)
    u = torch.empty(2, 50, 70)
    scaled, slot = g * size, torch.zeros(2, 50, 70)  # an address keeps nothing alive
    squares = torch.zeros(2, elementwise.tiles_of(50, 70), dtype=torch.float64)
    elementwise.momentum(addresses(scaled, slot), u, squares, dtype=g.dtype, mu=0.0, nesterov=False)
    assert squares.shape == (2, 4), "one tile alone would hide a sum that is not taken"
    expected = (g.double() * size).flatten(1).norm(dim=1)
    torch.testing.assert_close(squares.sum(1).sqrt(), expected, rtol=1e-6, atol=0)
    elementwise.normalise(u, squares)
    exact = g.double() / g.double().flatten(1).norm(dim=1)[:, None, None] if size else torch.zeros(2, 50, 70)
    # 1e-30 of float32 is rounded once, the two factors and the products a few times
    torch.testing.assert_close(u.double(), exact.double(), rtol=1e-6, atol=0)


def test_a_masked_step_writes_nothing() -> None:
    g, m, p = random(1, 6, 6), random(1, 6, 6, seed=1), random(6, 6, seed=2)
    g[0, 0, 0] = torch.nan
    slot, after, no, yes = m.clone(), p.clone(), torch.tensor(False), torch.tensor(True)
    u = torch.empty(1, 6, 6)
    momentum(g, slot, u, mu=0.9, nesterov=True, ok=no)
    descend(after, u, lr=0.1, scale=2.0, weight_decay=0.1, cautious=False, ok=no)
    assert torch.equal(slot, m)
    assert torch.equal(after, p)
    g = g.nan_to_num()
    momentum(g, slot, u, mu=0.9, nesterov=True, ok=yes)
    descend(after, u, lr=0.1, scale=2.0, weight_decay=0.1, cautious=False, ok=yes)
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
        descend(made, d, lr=lr, scale=3.0, weight_decay=0.1, cautious=cautious)
        torch.testing.assert_close(made.double(), expected, rtol=4e-7 + 1.01 * ROUNDING[dtype], atol=4e-7)
    assert (expected - old).abs().max() > 0.01, "the step would not have been seen"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_what_is_not_finite_is_found(dtype: torch.dtype) -> None:
    sizes = [1, 7, elementwise.CHUNK, elementwise.CHUNK + 3, 2 * elementwise.CHUNK]
    grads = [random(size, dtype=dtype, seed=size) for size in sizes]
    grads[0].fill_(torch.finfo(dtype).max)  # finite all the same
    block = elementwise._BLOCK
    places = [(1, 6), *((i, at) for i in (2, 3, 4) for at in (0, 5, block - 1, block, 3 * block + 1, -1))]
    values = (torch.nan, torch.inf, -torch.inf)
    for i, where, value in ((*place, value) for place in places for value in values):
        kept = grads[i][where].clone()
        grads[i][where] = value
        found = steps.flags(grads, Tables())
        assert found is not None
        assert found.tolist() == [j == i for j in range(5)]
        grads[i][where] = kept
    assert steps.flags([grads[0][::1], grads[4][::2]], Tables()) is None, "gaps are left to PyTorch"


def test_what_lies_at_an_address_may_change() -> None:
    """Memory given back after a step may hold another gradient in the next: longer, or of another dtype."""
    memory, tables = torch.zeros(4096), Tables()
    memory[100] = torch.nan

    def found(g: torch.Tensor) -> list[bool]:
        flags = steps.flags([g], tables)
        assert flags is not None
        return [bool(flag) for flag in flags]

    assert found(memory[:64]) == [False]
    assert found(memory[:4096]) == [True]
    assert found(memory[:64]) == [False], "what lies behind it is not its own"
    half = memory.view(torch.bfloat16)  # of twice as many elements in as many bytes
    assert found(half[:100]) == [False]
    assert found(half[:4096]) == [True]
    assert found(memory[:0]) == [False]


class Sharded(torch.Tensor):
    """Stands for a tensor that is not one piece of memory."""


def test_tensors_without_an_address_of_their_own_are_left_to_pytorch() -> None:
    g = torch.zeros(4, 4)
    assert steps.flags([g], Tables()) is not None
    assert steps.flags([g.as_subclass(Sharded)], Tables()) is None
    view = MatrixView((0,), (1,))
    plain = Item(torch.nn.Parameter(torch.zeros(4, 4)), g, torch.zeros(4, 4), view, layout_of(view, (4, 4)))
    assert steps.taken(Muon(), [plain]) == [plain]
    sharded = Item(plain.p, g.as_subclass(Sharded), plain.momentum, view, plain.layout)
    assert steps.taken(Muon(), [sharded]) == []


def test_tables_are_made_once_for_each_name() -> None:
    tables, cpu = Tables(), torch.device("cpu")
    one = tables.named((8, 1, 2), cpu, lambda: [(1, 2), (9, 10)])
    assert one.tolist() == [[1, 2], [9, 10]]
    assert tables.named((8, 1, 2), cpu, lambda: [(0, 0)]) is one
    for other in ((8, 1, 3), (4, 1, 2)):
        assert tables.named(other, cpu, lambda: [(5, 6)]).tolist() == [[5, 6]]
    for i in range(100):
        tables.named((8, i), cpu, lambda i=i: [(i,)])
    assert tables.named((8, 1, 2), cpu, lambda: [(1, 2), (9, 10)]) is not one, "old ones are forgotten"
