"""Newton-Schulz on PyTorch: both forms, every set and dtype, against the singular value decomposition."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from itertools import accumulate

import pytest
import torch

from downslope.grouping.view import MatrixView
from downslope.ops import torch as torch_ops
from downslope.ops.torch import TorchOps
from downslope.rules.orthogonalize import (
    COEFFICIENT_SETS,
    newton_schulz,
    orthogonalize,
    published_range,
)
from downslope.torch import Muon
from downslope.torch import stacks as stacks_module

X = TorchOps()
SHAPES = {"wide": (24, 96), "tall": (96, 24), "square": (48, 48), "long": (8, 200)}
SPECTRA = {
    "log": lambda k: torch.logspace(0, -2.5, k, dtype=torch.float64),
    "decay": lambda k: 1 / torch.arange(1, k + 1, dtype=torch.float64),
    "flat": lambda k: torch.ones(k, dtype=torch.float64),
    "spike": lambda k: torch.cat(
        [torch.ones(1, dtype=torch.float64), torch.full((k - 1,), 5e-3, dtype=torch.float64)]
    ),
    "rank 1": lambda k: torch.eye(1, k, dtype=torch.float64)[0],
    "condition 1e8": lambda k: torch.logspace(0, -8, k, dtype=torch.float64),
}
# What rounding adds to a set's range. float32: 1e-3. bfloat16 has 8 bits, and ten to twenty products
# follow one another: 0.05.
SLACK = {torch.float64: 1e-9, torch.float32: 2e-3, torch.bfloat16: 0.05}


def matrix(
    shape: tuple[int, int], spectrum: str
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return U diag(s) Vᵀ of Frobenius norm 1, and its factors."""
    generator = torch.Generator().manual_seed(0)
    m, n = shape
    k = min(shape)
    U = torch.linalg.qr(torch.randn(m, k, generator=generator, dtype=torch.float64))[0]
    V = torch.linalg.qr(torch.randn(n, k, generator=generator, dtype=torch.float64))[0]
    s = SPECTRA[spectrum](k)
    s = s / s.norm()
    return U @ torch.diag(s) @ V.mT, U, s, V


@pytest.mark.parametrize("dtype", SLACK, ids=str)
@pytest.mark.parametrize("form", ["standard", "gram"])
@pytest.mark.parametrize("name", COEFFICIENT_SETS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_singular_values_end_in_the_published_range(
    dtype: torch.dtype, form: str, name: str, shape: tuple[int, int], spectrum: str
) -> None:
    g, U, s, V = matrix(shape, spectrum)
    done = orthogonalize(
        X, g.to(torch.promote_types(dtype, torch.float32)), coefficients=name, dtype=dtype, form=form
    )
    inside = U.mT @ done.double() @ V
    kept = s >= 1e-3
    low, high = published_range(name, half=dtype == torch.bfloat16)
    slack = SLACK[dtype]
    values = inside.diagonal()[kept]
    assert low - slack <= values.min()
    assert values.max() <= high + slack
    # nothing grows that was not there: rounding is lifted by the slope at zero, but never past the range
    assert torch.linalg.svdvals(done.double()).max() <= high + slack
    if spectrum not in ("condition 1e8", "rank 1") and dtype != torch.bfloat16:
        off = inside - torch.diag(inside.diagonal())
        assert off.norm() <= slack * values.norm(), "the singular vectors moved"


def of_low_rank(m: int, n: int) -> dict[str, torch.Tensor]:
    """Return gradients of one example, of a few, of inputs that take few values.

    Their products, rounded, are far from symmetric in few directions.
    """
    generator = torch.Generator().manual_seed(9)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    def chosen(count: int, *values: float) -> torch.Tensor:
        return torch.tensor(values)[torch.randint(len(values), (count,), generator=generator)]

    k = min(m, n)
    U, V = (torch.linalg.qr(drawn(side, k))[0] for side in (m, n))
    above = torch.full((k,), 1e-3)
    above[0] = 1.0
    return {
        "rank 1": drawn(m, 1) @ drawn(1, n),
        "rank 3": drawn(m, 3) @ drawn(3, n),
        "ones": torch.ones(m, n),
        "few values": torch.outer(chosen(m, 1.0, 0.3), chosen(n, 1.0, 2.0)),
        "halves": torch.outer(1 - 1.7 * (torch.arange(m) < m // 3), 1 - 1.7 * (torch.arange(n) < n // 2)),
        "one above": U * above @ V.mT,
        "falling": U / torch.arange(1, k + 1) ** 2 @ V.mT,
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", COEFFICIENT_SETS)
@pytest.mark.parametrize("shape", [(96, 256), (256, 96), (128, 128), (512, 1024)], ids=str)
def test_mirrored_products_make_nothing_of_a_low_rank(
    shape: tuple[int, int], name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With R Z mirrored in blocks, in place of whole, up to 1e13 is left in bfloat16 and 38 in float32."""
    if min(shape) < 512:
        monkeypatch.setattr(torch_ops, "_LARGE_FROM", 1)
        monkeypatch.setattr(torch_ops, "_stripes", lambda rows, inner: 3)
    high = published_range(name, half=dtype == torch.bfloat16)[1]
    for kind, g in of_low_rank(*shape).items():
        done = orthogonalize(X, g, coefficients=name, dtype=dtype)
        # In bfloat16 rounding is lifted beside the range, by as much as the range's upper end.
        slack = 0.02 if dtype == torch.float32 else 0.1
        assert torch.linalg.matrix_norm(done.double(), 2) < high + slack, kind


def test_a_step_on_the_gradient_of_one_example_is_a_step() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        *(torch.nn.Linear(64, 512), torch.nn.ReLU(), torch.nn.Linear(512, 1024), torch.nn.ReLU()),
        *(torch.nn.Linear(1024, 512), torch.nn.ReLU(), torch.nn.Linear(512, 10)),
    )
    x = torch.randn(1, 64)
    optimizer = Muon(model, x, lr=1e-3, weight_decay=0.0, scale="original", ns_dtype="bfloat16")
    for name in ("2.weight", "4.weight"):
        weight = dict(model.named_parameters())[name]
        before = weight.detach().clone()
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), torch.tensor([3])).backward()
        optimizer.step()
        change = torch.linalg.matrix_norm((weight - before).double(), 2) / 1e-3
        scale = max(1.0, weight.shape[0] / weight.shape[1]) ** 0.5
        assert 0.6 < change / scale < 1.3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("form", ["standard", "gram"])
def test_members_of_a_stack_do_not_touch(dtype: torch.dtype, form: str) -> None:
    g = torch.randn(3, 8, 24, generator=torch.Generator().manual_seed(1))
    poisoned = g.clone()
    poisoned[1, 0, 0] = torch.nan
    clean = orthogonalize(X, g, dtype=dtype, form=form)
    done = orthogonalize(X, poisoned, dtype=dtype, form=form)
    assert done[1].isnan().all()
    assert torch.equal(done[[0, 2]], clean[[0, 2]])


@pytest.mark.parametrize("m", [384, 500, 511, 512, 700, 801])
def test_mirrored_products_equal_plain_ones(m: int) -> None:
    a = torch.randn(2, m, 40, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    gram = X.gram(a)
    # sums of 40 terms in another order
    torch.testing.assert_close(gram, a @ a.mT, rtol=1e-13, atol=1e-13)
    done = X.addmm_symmetric(gram, gram, gram, 0.5, 2.0)
    torch.testing.assert_close(done, 0.5 * gram + 2.0 * (gram @ gram), rtol=1e-12, atol=1e-9)
    torch.testing.assert_close(X.mm_symmetric(gram, gram), gram @ gram, rtol=1e-12, atol=1e-9)
    torch.testing.assert_close(X.mm(gram, a), gram @ a, rtol=1e-12, atol=1e-9)
    torch.testing.assert_close(
        X.addmm(a, gram, a, 0.5, 2.0), 0.5 * a + 2.0 * (gram @ a), rtol=1e-12, atol=1e-9
    )
    wide = torch.randn(m, 2 * m, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    torch.testing.assert_close(X.gram(wide), wide @ wide.mT, rtol=1e-12, atol=1e-10)
    if m >= 512:  # below, so short a product is computed whole
        far = slice(3 * m // 4, m), slice(0, m // 4)
        assert torch.equal(done[:, far[0], far[1]], done[:, far[1], far[0]].mT), "nothing was mirrored"


@pytest.mark.parametrize("m", [128, 512, 768])
def test_symmetric_products_that_add_round_once(m: int) -> None:
    """Steps of degree 9 cancel: rounded before something is added, a product leaves too little."""
    generator = torch.Generator().manual_seed(6)
    a = torch.randn(m, m, generator=generator) / m**0.5
    a = (a + a.mT).bfloat16()
    done = X.addmm_symmetric(a, a, a, -3.4, 0.85).double()
    exact = -3.4 * a.double() + 0.85 * (a.double() @ a.double())
    bound = 1.02 * 2**-8 * exact.abs() + 1e-5  # half a unit in the last of 8 bits, and what float32 adds up
    assert ((done - exact).abs() <= bound).all()
    twice = (a @ a).mul_(0.85).add_(a, alpha=-3.4).double()
    assert ((twice - exact).abs() > bound).any(), "the bound tells rounding once from rounding more often"


@pytest.mark.parametrize(("name", "steps"), [("polar_express", 9), ("minimax", 5)])
def test_no_drift_over_many_steps(name: str, steps: int) -> None:
    """2,000 orthogonalisations, each of the one before: 10,000 steps and more keep a matrix where it is."""
    q = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(3)))[0]
    done = q.clone()
    for _ in range(2_000):
        done = newton_schulz(X, done / done.norm(), name, steps)
    # the iteration corrects the singular values in every step, so only the vectors may wander, by rounding
    assert (done @ done.mT - torch.eye(6)).abs().max() < 1e-6
    assert (done - q).abs().max() < 1e-3


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_stacks_normalise_as_the_rule_does(dtype: str) -> None:
    """The adapter's own normalisation, for extremes and for ordinary values, against the rule's."""
    generator = torch.Generator().manual_seed(4)
    for size in (0.0, 1e-30, 1e-12, 1.0, 1e30):
        g = torch.randn(5, 12, 30, generator=generator) * size
        chosen = getattr(torch, dtype)
        expected = orthogonalize(X, g, dtype=chosen)
        prepared = stacks_module._normalised(g.clone(), chosen)
        done = newton_schulz(X, prepared).float()
        # float32: up to 3e-7 of the division by the norm, which here is left out, times a slope of 1,130
        torch.testing.assert_close(done, expected, rtol=1e-2, atol=2e-2 if dtype == "bfloat16" else 4e-4)
        assert done.isfinite().all()


@pytest.mark.parametrize("odd", [0.0, float("nan"), 1e-30, 1e30], ids=str)
@pytest.mark.parametrize("max_stack_bytes", [None, 2 * 2 * 64 * 96 * 4], ids=["all", "two at a time"])
def test_matrices_of_a_stack_do_not_touch_each_other(odd: float, max_stack_bytes: int | None) -> None:
    """What one gradient is changes nothing for the others, to the bit."""
    generator = torch.Generator().manual_seed(8)
    grads = torch.randn(6, 64, 96, generator=generator)

    def stepped(g: torch.Tensor, **options: int | None) -> list[torch.Tensor]:
        params = [torch.nn.Parameter(torch.ones(64, 96)) for _ in g]
        for p, own in zip(params, g, strict=True):
            p.grad = own
        Muon(params, lr=0.1, ns_dtype="float32", on_nonfinite="ignore", **options).step()
        return [p.detach() for p in params]

    expected = stepped(grads)
    with_odd = grads.clone()
    with_odd[2] = odd if odd == 0 or odd != odd else grads[2] * odd
    found = stepped(with_odd, max_stack_bytes=max_stack_bytes)
    for i in (0, 1, 3, 4, 5):
        assert torch.equal(found[i], expected[i])


def test_portions_stay_in_their_budget() -> None:
    """The largest stack that is gathered at a time fits max_stack_bytes."""
    params = [torch.nn.Parameter(torch.randn(64, 64)) for _ in range(16)]
    for p in params:
        p.grad = torch.randn_like(p)
    seen = []
    original = stacks_module._gather

    def watched(rule, portion, *rest):  # type: ignore[no-untyped-def]
        seen.append(len(portion))
        return original(rule, portion, *rest)

    stacks_module._gather = watched  # type: ignore[assignment]
    try:
        Muon(params, max_stack_bytes=4 * 2 * 64 * 64 * 4, fused=False).step()
    finally:
        stacks_module._gather = original
    assert seen == [4, 4, 4, 4]


@pytest.mark.parametrize(
    "view", [MatrixView((1,), (2,), batch=(0,)), MatrixView((2,), (1,), batch=(0,), blocks=(16, 8))], ids=str
)
def test_a_stack_of_experts_is_cut_to_the_budget(view: MatrixView, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three experts at a time, of eight, take the steps that all take together, to the bit."""
    generator = torch.Generator().manual_seed(8)
    start, g = (torch.randn(8, 16, 24, generator=generator) for _ in range(2))
    seen = []
    original = stacks_module._orthogonalised

    def watched(rule, stack, *rest):  # type: ignore[no-untyped-def]
        seen.append(len(stack))
        return original(rule, stack, *rest)

    monkeypatch.setattr(stacks_module, "_orthogonalised", watched)

    def stepped(**options: int) -> torch.Tensor:
        p = torch.nn.Parameter(start.clone())
        optimizer = Muon([{"params": [p], "view": view}], lr=0.1, fused=False, **options)
        for _ in range(2):
            p.grad = g.clone()
            optimizer.step()
        return p.detach()

    whole = stepped()
    (each,) = {many // 8 for many in seen}
    seen.clear()
    assert torch.equal(stepped(max_stack_bytes=3 * 2 * 16 * 24 * 4), whole)
    assert sorted(set(seen)) == [2 * each, 3 * each]


CUTS = {
    "experts": ((8, 16, 24), MatrixView((1,), (2,), batch=(0,))),
    "experts, batch inside": ((16, 8, 24), MatrixView((0,), (2,), batch=(1,))),
    "experts, batch last": ((16, 24, 8), MatrixView((0,), (1,), batch=(2,))),
    "two batch axes": ((2, 6, 16, 24), MatrixView((2,), (3,), batch=(1, 0))),
    "experts of blocks": ((4, 24, 16), MatrixView((1,), (2,), batch=(0,), blocks=(8, 16))),
    "experts of equal blocks": ((4, 24, 16), MatrixView((1,), (2,), batch=(0,), blocks=(8,) * 3)),
    "fused projection": ((48, 16), MatrixView((0,), (1,), blocks=(16,) * 3)),
    "uneven projection": ((64, 16), MatrixView((0,), (1,), blocks=(32, 16, 16))),
    "blocks of inputs": ((16, 48), MatrixView((0,), (1,), blocks=(16,) * 3, blocks_along="inputs")),
    "interleaved": ((96, 16), MatrixView((0,), (1,), blocks=(16, 8, 8), repeats=3)),
    "interleaved inputs": (
        (2, 16, 96),
        MatrixView((1,), (2,), batch=(0,), blocks=(16, 8, 8), blocks_along="inputs", repeats=3),
    ),
    "grouped convolution": ((64, 4, 3, 3), MatrixView((0,), (1, 2, 3), blocks=(8,) * 8)),
    "blocks along two axes": ((6, 4, 16), MatrixView((0, 1), (2,), blocks=(8, 8, 4, 4))),
    "blocks across an axis": ((6, 4, 16), MatrixView((0, 1), (2,), blocks=(6,) * 4)),
}


@pytest.mark.parametrize("normuon", [False, True], ids=["muon", "normuon"])
@pytest.mark.parametrize("capturable", [False, True], ids=["host", "capturable"])
@pytest.mark.parametrize("name", CUTS)
def test_a_parameter_of_many_matrices_is_cut_to_the_budget(
    name: str, capturable: bool, normuon: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One matrix at a time, or a few, take the steps that all take together, to the bit."""
    shape, view = CUTS[name]
    generator = torch.Generator().manual_seed(8)
    start, g = (torch.randn(shape, generator=generator) for _ in range(2))
    largest = max(m * n for _, m, n in view.matrices(shape))
    seen = []
    original = stacks_module._gather

    def watched(rule, portion, *rest):  # type: ignore[no-untyped-def]
        seen.append(sum(item.p.numel() for item in portion))
        return original(rule, portion, *rest)

    monkeypatch.setattr(stacks_module, "_gather", watched)

    def stepped(many: int) -> list[torch.Tensor]:
        p = torch.nn.Parameter(start.clone())
        options = {"normuon": normuon, "capturable": capturable, "max_stack_bytes": many * 2 * 4 * largest}
        optimizer = Muon([{"params": [p], "view": view}], lr=0.1, weight_decay=0.1, fused=False, **options)
        for k in range(2):
            p.grad = g.clone() * (k + 1)
            optimizer.step()
        return [p.detach(), *(v for k, v in sorted(optimizer.state[p].items()) if k != "step")]

    whole = stepped(100)
    for many in (1, 2):
        seen.clear()
        for found, expected in zip(stepped(many), whole, strict=True):
            assert torch.equal(found, expected)
        if name != "blocks across an axis":  # whose matrices are no parts of the array
            assert max(seen) <= many * largest


WIDE = {
    "experts": ((1024, 64, 64), MatrixView((1,), (2,), batch=(0,)), {}),
    "normuon": ((1024, 64, 64), MatrixView((1,), (2,), batch=(0,)), {"normuon": True}),
    "experts, batch inside": ((64, 1024, 64), MatrixView((0,), (2,), batch=(1,)), {}),
    "blocks": ((65536, 64), MatrixView((0,), (1,), blocks=(64,) * 1024), {}),
    "interleaved": ((65536, 64), MatrixView((0,), (1,), blocks=(1,) * 1024, repeats=64), {}),
    "capturable": ((64, 1024, 64), MatrixView((0,), (2,), batch=(1,)), {"capturable": True}),
}


@pytest.mark.parametrize("fused", [None, False])
@pytest.mark.parametrize("name", WIDE)
def test_a_parameter_of_many_matrices_takes_little_memory(name: str, fused: bool | None) -> None:
    """Within a budget of 1 MiB, of 16 MiB of parameters: what blocks and iterations take comes on top."""
    shape, view, options = WIDE[name]
    p = torch.nn.Parameter(torch.ones(shape))
    optimizer = Muon([{"params": [p], "view": view}], max_stack_bytes=1 << 20, fused=fused, **options)
    p.grad = torch.ones(shape)
    optimizer.step()
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as seen:
        optimizer.step()
    taken = [e.nbytes() for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]
    assert taken or fused is None  # what is compiled takes its memory elsewhere
    assert max(accumulate(taken), default=0) <= 8 << 20


def test_matrices_that_lie_the_other_way_keep_their_own_stack() -> None:
    """On a CPU, where copying a large one across takes longer than launches; small ones are turned."""
    counts = {(768, 3072): 1, (3072, 768): 1, (8, 24): 1, (24, 8): 1}
    of = stacks_module._shared_of
    spare, turn = stacks_module._SPARE["cpu"], stacks_module._TURN["cpu"]
    found = of(tuple(counts.items()), "minimax", None, True, spare, turn)
    assert found[768, 3072] != found[3072, 768]
    assert found[8, 24] == found[24, 8]
    free = of(tuple(counts.items()), "minimax", None, True, spare, 0.0)
    assert free[768, 3072] == free[3072, 768], "it is the copy that keeps them apart"


MEASURE = """
import re, sys, torch
from pathlib import Path
from downslope.torch import Muon

def kilobytes(name):
    return int(re.search(name + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

params = [torch.nn.Parameter(torch.randn(256, 4096)) for _ in range(40)]
for p in params:
    p.grad = torch.randn_like(p)
options = {"max_stack_bytes": int(sys.argv[1]), "fused": False} if len(sys.argv) > 1 else {}
optimizer = Muon(params, **options)
optimizer.step()
Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
before = kilobytes("VmRSS")
optimizer.step()
print((kilobytes("VmHWM") - before) * 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of a process from /proc")
def test_a_step_takes_little_memory() -> None:
    """At most 10 % of the parameters or 64 MiB, whichever is more; of 168 MB here."""

    def peak(*arguments: str) -> int:
        command = [sys.executable, "-c", MEASURE, *arguments]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    assert peak() <= 64 << 20
    assert peak(str(1 << 24)) <= 64 << 20, "also where nothing is compiled"
    assert peak(str(1 << 40)) > 2 * (64 << 20), "the budget is what keeps it small"


FAULTS = """
import sys, torch
from resource import RUSAGE_SELF, getrusage
from downslope.torch import muon

if sys.argv[1] == "without":
    muon.keep_freed_memory = lambda: None
params = [torch.nn.Parameter(torch.randn(128, 128, 3, 3)) for _ in range(40)]
for p in params:
    p.grad = torch.randn_like(p)
muon.polar.reason = lambda dtype: "stacks are what this is about"
optimizer, faults = muon.Muon(params), []
for _ in range(20):
    before = getrusage(RUSAGE_SELF).ru_minflt
    optimizer.step()
    faults.append(getrusage(RUSAGE_SELF).ru_minflt - before)
print(sorted(faults[5:])[7])  # the first steps touch what stays from then on
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="is about glibc's allocator")
def test_a_step_takes_its_memory_from_what_is_mapped_already() -> None:
    """A stack of 8 MiB that the system maps anew takes 2,000 page faults, as long as a tenth of the step."""

    def faults(how: str) -> int:
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
        command = [sys.executable, "-c", FAULTS, how]
        return int(subprocess.run(command, capture_output=True, text=True, check=True, env=clean).stdout)

    assert faults("with") < 100
    assert faults("without") > 1000


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_shapes_that_share_a_stack_take_the_steps_that_they_take_alone(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Padding with zeros and transposing changes no singular value."""
    monkeypatch.setitem(stacks_module._SPARE, "cpu", 1e12)
    generator = torch.Generator().manual_seed(5)
    shapes = [(20, 30), (30, 10), (8, 8), (20, 2, 3, 3), (12, 30)]
    start = [torch.randn(s, generator=generator, dtype=dtype) for s in shapes]
    grads = [torch.randn(s, generator=generator, dtype=dtype) for s in shapes]
    seen = []
    original = stacks_module._orthogonalised

    def watched(rule, stack, *rest):  # type: ignore[no-untyped-def]
        seen.append(tuple(stack.shape))
        return original(rule, stack, *rest)

    monkeypatch.setattr(stacks_module, "_orthogonalised", watched)

    def stepped(chosen: list[int]) -> list[torch.Tensor]:
        params = [torch.nn.Parameter(start[i].clone()) for i in chosen]
        optimizer = Muon(params, lr=0.1, ns_dtype=str(dtype).removeprefix("torch."), fused=False)
        for _ in range(2):
            for i, p in zip(chosen, params, strict=True):
                p.grad = grads[i].clone()
            optimizer.step()
        return [p.detach() for p in params]

    together = stepped([0, 1, 2, 3, 4])
    assert seen == [(5, 20, 30)] * 2
    for i, p in enumerate(together):
        alone = stepped([i])[0]
        # sums in another order, which three polynomials lift by their slopes, 1,130 together
        slack = 1e-9 if dtype == torch.float64 else 1e-3
        assert (p - alone).norm() <= slack * (alone - start[i]).norm()
