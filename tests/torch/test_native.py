"""Orthogonalisation compiled for this CPU, against the singular value decomposition and plain PyTorch."""

from __future__ import annotations

import ctypes
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing._internal.two_tensor import TwoTensor

from downslope.diagnose.torch.clock import HostClock
from downslope.diagnose.torch.tape import Tape, self_times
from downslope.grouping.view import MatrixView
from downslope.native import build
from downslope.native.tape import Multiplier, program_of
from downslope.ops.torch import TorchOps
from downslope.rules.orthogonalize import (
    COEFFICIENT_SETS,
    RESCALED,
    coefficients_of,
    newton_schulz,
    published_range,
)
from downslope.torch import Muon
from downslope.torch.native import polar, steps
from downslope.torch.regions import heard_by
from tests.torch.test_orthogonalize import SPECTRA, matrix

REASONS = {dtype: polar.reason(dtype) for dtype in (torch.float32, torch.bfloat16)}
DTYPES = [
    pytest.param(dtype, id=str(dtype), marks=pytest.mark.skipif(bool(why), reason=why))
    for dtype, why in REASONS.items()
]
compiled = pytest.mark.skipif(bool(REASONS[torch.float32]), reason=REASONS[torch.float32])
# What rounding adds to a set's range. Of 300 matrices of condition 1e8 it was at most 5.6e-3 in float32, in
# plain PyTorch 4.8e-3; a set's range is between 0.19 and 0.73 wide.
SLACK = {torch.float32: 7e-3, torch.bfloat16: 0.05}
# Blocks have 32 rows, tiles of them 8 or 16: sizes on both sides of each, and both ways round.
SHAPES = [
    (1, 1),
    (1, 7),
    (7, 1),
    (5, 200),
    (200, 5),
    (24, 96),
    (33, 33),
    (63, 65),
    (65, 40),
    (96, 128),
    (130, 64),
]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def compiled_polar(g: Tensor, dtype: torch.dtype, name: str = "minimax") -> Tensor:
    done = g.clone()
    polar.orthogonalise(done, sizes_of(g), dtype, name, None)
    return done


def sizes_of(g: Tensor) -> Tensor:
    size = torch.linalg.matrix_norm(g, keepdim=True)
    return torch.where(size == 0, 1.0, size)


@pytest.fixture
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def has(flag: str) -> bool:
    try:
        return f" {flag} " in Path("/proc/cpuinfo").read_text().replace("\n", " ")
    except OSError:
        return False


@pytest.mark.skipif(not (shutil.which("g++") and has("avx2") and has("fma")), reason="needs g++ and AVX2")
def test_it_compiles_where_it_can() -> None:
    """What fails to compile would skip all that follows."""
    assert not polar.reason(torch.float32)
    assert not has("avx512_bf16") or not polar.reason(torch.bfloat16)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", COEFFICIENT_SETS)
@pytest.mark.parametrize("shape", [(24, 96), (96, 24), (48, 48), (8, 200), (130, 70)], ids=str)
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_singular_values_end_in_the_published_range(
    dtype: torch.dtype, name: str, shape: tuple[int, int], spectrum: str
) -> None:
    g, U, s, V = matrix(shape, spectrum)
    done = compiled_polar(g.float()[None], dtype, name)[0].double()
    values = (U.mT @ done @ V).diagonal()[s >= 1e-3]
    low, high = published_range(name, half=dtype == torch.bfloat16)
    assert low - SLACK[dtype] <= values.min()
    assert values.max() <= high + SLACK[dtype]
    assert torch.linalg.svdvals(done).max() <= high + SLACK[dtype]


def exact_polar(unit: Tensor, name: str, half: bool) -> Tensor:
    """Return what the steps make of matrices where nothing is rounded, in the plainest form."""
    x = unit.double()
    if name in RESCALED and not half:
        x = x / torch.linalg.matrix_norm(x @ x.mT, keepdim=True).sqrt()
    for row in coefficients_of(name, None, half):
        x = row.of(TorchOps(), x @ x.mT, False) @ x
    return x


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", COEFFICIENT_SETS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_is_as_near_to_the_exact_result_as_plain_pytorch(
    dtype: torch.dtype, name: str, shape: tuple[int, int]
) -> None:
    g = random(3, *shape)
    unit = g / torch.linalg.matrix_norm(g, keepdim=True)
    half = dtype == torch.bfloat16
    exact = exact_polar(unit.to(dtype), name, half)
    plain = newton_schulz(TorchOps(), unit.to(dtype), name).double()
    error = (compiled_polar(g, dtype, name).double() - exact).norm()
    # The two round in other places, so either may be off by more: of a single row, by what eight bits of its
    # norm make of it. Entries in other places would be off by all of themselves.
    floor = 0.1 if half else 1e-5
    assert error <= 2 * (plain - exact).norm() + floor * exact.norm()
    assert exact[0].numel() == 1 or (exact - exact.flip(-1, -2)).norm() > 5 * floor * exact.norm()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("threads", [1, 2, 5], indirect=True)
@pytest.mark.parametrize("shape", [(24, 96), (200, 40), (300, 280)], ids=str)
def test_what_is_beside_a_matrix_and_who_takes_it_changes_nothing(
    dtype: torch.dtype, threads: int, shape: tuple[int, int]
) -> None:
    """To the bit: alone on one thread, in a stack, shared by several threads, in memory with gaps."""
    g = random(7, *shape)
    g[2], g[4] = torch.nan, 0
    together = compiled_polar(g, dtype)
    torch.set_num_threads(1)
    for i in (0, 1, 3, 5, 6):
        assert torch.equal(compiled_polar(g[i : i + 1].clone(), dtype)[0], together[i])
    assert together[2].isnan().all()
    assert not together[4].any()
    torch.set_num_threads(threads)
    apart = torch.zeros(7, shape[0] + 1, shape[1] + 3)
    inside = apart[:, : shape[0], : shape[1]]
    inside.copy_(g)
    polar.orthogonalise(inside, sizes_of(g), dtype, "minimax", None)
    assert torch.equal(inside.nan_to_num(), together.nan_to_num())
    assert not apart[:, shape[0] :].any()
    assert not apart[..., shape[1] :].any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_comes_out_is_rounded_to_the_dtype_of_the_iterations(dtype: torch.dtype) -> None:
    """As processes that share the work rely on, which send it in that dtype."""
    done = compiled_polar(random(2, 40, 70), dtype)
    assert torch.equal(done, done.to(dtype).float())


PARAMETERS = {
    "convolutions": ([(8, 4, 3, 3)] * 3 + [(4, 8, 1, 1)], None),
    "experts": ([(5, 48, 16)], MatrixView((1,), (2,), batch=(0,))),
    "blocks": ([(96, 40)], MatrixView((0,), (1,), blocks=(32, 48, 16))),
    "heads": ([(96, 40)], MatrixView((0,), (1,), blocks=(32, 32, 32))),
    "lying across": ([(40, 96)] * 2, MatrixView((1,), (0,))),
    "side by side": ([(70, 105)] * 2, MatrixView((1,), (0,), blocks=(35, 35, 35))),
    "experts side by side": ([(3, 40, 96)], MatrixView((2,), (1,), batch=(0,), blocks=(48, 48))),
    "inputs in blocks": ([(40, 96)], MatrixView((0,), (1,), blocks=(32, 32, 32), blocks_along="inputs")),
    "large, left over": ([(300, 280)] * 3, None),
    "one number": ([(1, 1)] * 2, None),
}
OPTIONS: list[dict[str, Any]] = [
    {},
    {"nesterov": False, "weight_decay": 0.0},
    {"cautious": True, "weight_decay": 1.0},
    {"normuon": True},
    {"coefficients": "keller5", "ns_steps": 3, "scale": "spectral"},
    {"momentum_warmup": 3, "momentum_start": 0.2, "momentum": 0.8},
    {"lr": torch.tensor(0.1)},
]


def stepped(name: str, size: float = 1.0, **options: Any) -> tuple[list[Tensor], list[Tensor], Muon]:
    """Return parameters and their momenta after three steps, and the optimizer."""
    shapes, view = PARAMETERS[name]
    params = [torch.nn.Parameter(random(*s, seed=i)) for i, s in enumerate(shapes)]
    group: dict[str, Any] = {"params": params} if view is None else {"params": params, "view": view}
    optimizer = Muon([group], **{"lr": 0.1, "ns_dtype": "float32", **options})
    for t in range(3):
        for i, p in enumerate(params):
            p.grad = size * random(*p.shape, seed=10 * t + i)
        optimizer.step()
    return [p.detach() for p in params], [optimizer.state[p]["momentum_buffer"] for p in params], optimizer


@compiled
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("name", PARAMETERS)
def test_steps_are_those_of_plain_pytorch(name: str, options: dict[str, Any]) -> None:
    starts = [random(*s, seed=i) for i, s in enumerate(PARAMETERS[name][0])]
    done, momenta, optimizer = stepped(name, **options)
    plain, plain_momenta, other = stepped(name, **options, fused=False)
    assert "compiled for this CPU" in repr(optimizer)
    assert "compiled for this CPU" not in repr(other)
    for start, p, expected in zip(starts, done, plain, strict=True):
        # 1e-3 of a step: what rounding in another order grows to where singular values are small. `cautious`
        # asks for signs, which it turns of a few directions near zero.
        allowed = 2e-2 if options.get("cautious") else 1e-3
        assert (p - expected).norm() < allowed * (expected - start).norm()
    for m, expected in zip(momenta, plain_momenta, strict=True):
        torch.testing.assert_close(m, expected, rtol=0, atol=1e-6)  # sums of numbers up to 4, each 2^-22 off


WHOLE = {  # (count, shape as it lies), of whole compiled steps
    "convolutions": [(3, (8, 36)), (1, (4, 8))],
    "experts": [(5, (48, 16))],
    "blocks": [],  # not all equal
    "heads": [(3, (32, 40))],
    "lying across": [(2, (40, 96))],
    "side by side": [(6, (70, 35))],
    "experts side by side": [(6, (40, 48))],
    "inputs in blocks": [(3, (40, 32))],
}


@compiled
@pytest.mark.parametrize("name", WHOLE)
def test_whole_steps_are_compiled_of_equal_matrices_however_they_lie(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[Any] = []
    run = steps.run

    def noted(function: Any, where: Any, shape: tuple[int, ...], *rest: Any) -> None:
        taken.append((shape[0], shape[1:]))
        run(function, where, shape, *rest)

    monkeypatch.setattr(steps, "run", noted)
    stepped(name)
    assert taken == 3 * WHOLE[name]


@compiled
@pytest.mark.parametrize("size", [1e-38, 1e-30, 1e30, 1e37])
def test_gradients_of_any_size_make_the_same_step(size: float) -> None:
    (expected, *_), _, _ = stepped("large, left over")
    (done, *_), _, _ = stepped("large, left over", size)
    start = random(300, 280)
    assert (done - expected).norm() < 1e-3 * (expected - start).norm()


@compiled
def test_a_zero_gradient_only_decays_and_one_that_is_not_finite_touches_no_other() -> None:
    params = [torch.nn.Parameter(torch.ones(40, 50)) for _ in range(3)]
    for p, value in zip(params, (0.0, torch.inf, 1.0), strict=True):
        p.grad = torch.full_like(p, value)
    Muon(params, lr=0.1, weight_decay=0.5, on_nonfinite="ignore").step()
    torch.testing.assert_close(params[0].detach(), torch.full((40, 50), 0.95))
    assert not params[1].isfinite().any()
    assert params[2].isfinite().all()


@compiled
def test_tensors_whose_memory_is_not_their_numbers_are_stepped_too() -> None:
    g = random(8, 16)
    for grad, same in [
        (torch._neg_view(g), -g),
        (torch._efficientzerotensor(8, 16), torch.zeros(8, 16)),
        (g.mT.contiguous().mT, g),
        (g[:, :1].expand(8, 16), g[:, :1].repeat(1, 16)),
    ]:
        (done, _), (expected, _) = (once(given, ns_dtype="float32") for given in (grad, same))
        torch.testing.assert_close(done, expected, rtol=0, atol=1e-6)  # one of them in plain PyTorch


@compiled
@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float64, 1e-6), (torch.bfloat16, 2.0**-7)])
def test_parameters_of_another_precision_are_stepped_too(dtype: torch.dtype, rounding: float) -> None:
    grad, start = random(8, 16).to(dtype), random(8, 16, seed=1).to(dtype)
    (done, m), (expected, other) = (once(grad, start, ns_dtype="float32", fused=f) for f in (None, False))
    torch.testing.assert_close(done, expected, rtol=rounding, atol=1e-6)
    torch.testing.assert_close(m, other)


@compiled
def test_tensors_made_of_others_are_stepped_too() -> None:
    g, start = random(8, 16), random(8, 16, seed=1)
    both, _ = once(TwoTensor(g, g.clone()), TwoTensor(start, start.clone()), ns_dtype="float32")
    one, _ = once(g, start, ns_dtype="float32", fused=False)  # in plain PyTorch, as they are
    torch.testing.assert_close(both.a, one, rtol=0, atol=1e-6)
    assert torch.equal(both.a, both.b)


def once(grad: Tensor, start: Tensor | None = None, **options: Any) -> tuple[Tensor, Tensor]:
    """Return a parameter of ones, or what it starts from, and its momentum after a step."""
    p = torch.nn.Parameter(torch.ones(grad.shape) if start is None else start.clone())
    p.grad = grad
    optimizer = Muon([p], lr=0.1, **options)
    optimizer.step()
    return p.detach(), optimizer.state[p]["momentum_buffer"]


@compiled
def test_decay_that_goes_with_the_gradient_stays_in_it() -> None:
    momenta = []
    for fused in (None, False):
        p = torch.nn.Parameter(random(8, 16))
        p.grad = random(8, 16, seed=1)
        group = {"params": [p], "decoupled_weight_decay": False}
        optimizer = Muon([group], lr=0.1, weight_decay=3.0, fused=fused)
        optimizer.step()
        momenta.append(optimizer.state[p]["momentum_buffer"])
    torch.testing.assert_close(*momenta, rtol=0, atol=1e-6)


@compiled
def test_a_learning_rate_that_is_a_tensor_is_read() -> None:
    """And steps are taken as with a number, to the bit."""
    results = [stepped("convolutions", lr=lr)[0] for lr in (0.125, torch.tensor(0.125))]
    for number, tensor in zip(*results, strict=True):
        assert torch.equal(number, tensor)


@compiled
def test_a_compiled_program_takes_the_same_step() -> None:
    """It is built beforehand: what torch.compile makes of a program leaves the step as it is."""
    starts, grads = random(2, 40, 30), random(2, 40, 30, seed=1)
    results = []
    for compile_ in (lambda f: f, torch.compile(backend="eager")):
        params = [torch.nn.Parameter(start.clone()) for start in starts]
        for p, g in zip(params, grads, strict=True):
            p.grad = g.clone()
        optimizer = Muon(params, lr=0.1)
        compile_(lambda o=optimizer: o.step())()
        results.append(torch.stack([p.detach() for p in params]))
    assert torch.equal(*results)


@compiled
@pytest.mark.parametrize("fused", [None, False])
def test_a_cautious_step_of_zero_decays(fused: bool | None) -> None:
    p, _ = once(torch.zeros(8, 16), cautious=True, weight_decay=0.5, fused=fused)
    torch.testing.assert_close(p, torch.full((8, 16), 0.95))


@compiled
def test_the_least_gradients_are_divided_by_their_norm() -> None:
    """Which float32 cannot hold: √2 times its least number is rounded to that."""
    options: dict[str, Any] = {"momentum": 0.0, "coefficients": "keller5"}
    (done, _), (expected, _) = (once(size * torch.ones(1, 2), **options) for size in (2.0**-149, 1.0))
    torch.testing.assert_close(done, expected, rtol=0, atol=1e-6)


@compiled
def test_a_long_momentum_is_not_rounded_to_a_shorter_one() -> None:
    """1 - 0.9999 in float32 is 1e-4 but for 2e-4 of it."""
    g = random(8, 16)
    _, m = once(g, momentum=0.9999)
    torch.testing.assert_close(m, (1 - 0.9999) * g, rtol=1e-6, atol=0)


@compiled
def test_without_decay_an_infinite_entry_stays() -> None:
    start = torch.ones(8, 16)
    start[3, 5] = -torch.inf
    p, _ = once(random(8, 16), start, weight_decay=0.0)
    assert p[3, 5] == -torch.inf
    assert p.isfinite().sum() == p.numel() - 1


@compiled
def test_autograd_learns_that_parameters_changed() -> None:
    """What was saved for a backward pass is not used after a step has written over it."""
    p = torch.nn.Parameter(random(8, 16))
    loss = (p * p).sum()
    loss.backward(retain_graph=True)
    optimizer = Muon([p], lr=0.1)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@compiled
@pytest.mark.parametrize("threads", [1, 2], indirect=True)
@pytest.mark.parametrize("name", ["convolutions", "large, left over"])
def test_the_parts_of_a_step_are_told_apart(name: str, threads: int) -> None:
    least: dict[str, float] = {}  # of each part over the runs: what it takes when nothing is in its way
    expected = stepped(name)[0]
    for _ in range(8):
        tape = Tape(HostClock(torch.device("cpu")))
        with heard_by(tape.part, tape.told):
            listened, _, _ = stepped(name)
        whole = {}
        for path, start, seconds in tape.spans():  # a part comes after the whole that it lies in
            whole[path] = start, start + seconds
            low, high = whole.get(path[:-1], whole[path])
            assert low - 1e-6 <= start <= start + seconds <= high + 1e-6
        for path, seconds in self_times(tape.spans()).items():
            least[path[-1]] = min(seconds, least.get(path[-1], seconds))
        for p, q in zip(listened, expected, strict=True):
            assert torch.equal(p, q)
    assert least["orthogonalise"] > least["momentum"] > 0
    assert least["orthogonalise"] > least["write"] > 0
    assert least["muon"] >= 0  # what is left of it beside its parts: of small matrices most
    assert name == "convolutions" or least["muon"] < least["orthogonalise"]


def test_memory_is_asked_for_before_anything_is_written() -> None:
    vast = torch.ones(1).expand(1, 1 << 24, 1 << 24)
    if why := REASONS[torch.float32]:
        pytest.skip(why)
    with pytest.raises(MemoryError, match="16777216 × 16777216"):
        polar.orthogonalise(vast, torch.ones(1, 1, 1), torch.float32, "minimax", None)


@pytest.mark.parametrize(
    ("multiplier", "most"), [(Multiplier.FLOAT32, 10), (Multiplier.BFLOAT16, 5), (Multiplier.TILES, 7)]
)
@pytest.mark.parametrize("name", COEFFICIENT_SETS)
@pytest.mark.parametrize("shape", [(64, 64), (64, 512), (512, 64)], ids=str)
def test_results_share_memory(shape: tuple[int, int], name: str, multiplier: Multiplier, most: int) -> None:
    """Of 16 to 25 products no more are kept than are read again, none where it is still read."""
    program = program_of(*shape, name, None, multiplier)
    assert program.squares <= most < len(program.instructions)
    for instruction in program.instructions:
        read = {instruction.left, instruction.right, instruction.added} - {-1}
        assert not read & ({instruction.by_rows, instruction.by_columns} - {-1})


def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *flags: str) -> ctypes.CDLL:
    """Return the library as other flags make it."""
    monkeypatch.setattr(build, "FLAGS", flags)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for found in (build.made, polar.compiled):
        found.cache_clear()
    made = polar.compiled()
    for found in (build.made, polar.compiled):
        found.cache_clear()
    monkeypatch.undo()
    return made


@pytest.fixture(scope="module")
def library_for_tiles(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The library as it is for matrix units, whose instructions are functions here."""
    if why := polar.native.reason(polar.compiled, half=True):
        pytest.skip(why)
    text = "#define EMULATE_TILES\n" + polar.SOURCE.text + KEEPS
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(polar, "SOURCE", polar.SOURCE._replace(text=text))
        return built(tmp_path_factory.mktemp("tiles"), patch, *build.FLAGS)


@pytest.fixture
def emulated(library_for_tiles: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> ctypes.CDLL:
    monkeypatch.setattr(polar, "compiled", lambda: library_for_tiles)
    return library_for_tiles


# Whether a thread's tiles have the shape that they had, once somebody else has used them; none is one too.
KEEPS = """
extern "C" int keeps(int palette) {
    uint8_t before[64] = {}, now[64];
    before[0] = palette;
    if (palette) before[16] = 32, before[48] = 7, _tile_loadconfig(before);
    else _tile_release();
    { const Tiles::Unit unit; }
    _tile_storeconfig(now);
    return !memcmp(before, now, sizeof now);
}
"""


@pytest.mark.parametrize("name", COEFFICIENT_SETS)
@pytest.mark.parametrize("shape", [*SHAPES, (16, 48), (20, 70), (70, 20), (300, 280)], ids=str)
def test_products_on_matrix_units_are_those_of_vectors(
    emulated: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int], name: str
) -> None:
    """But for the order of sums, which may turn the last of eight bits where they are rounded."""
    g = random(3, *shape)
    done = compiled_polar(g, torch.bfloat16, name)
    monkeypatch.setattr(polar.native, "multiplier", lambda _, half: Multiplier.BFLOAT16)
    expected = compiled_polar(g, torch.bfloat16, name)
    assert (done - expected).norm() <= 0.02 * expected.norm()
    assert expected[0].numel() == 1 or (expected - expected.flip(-1, -2)).norm() > 0.5 * expected.norm()


@pytest.mark.parametrize("threads", [1, 3], indirect=True)
def test_tiles_hold_one_matrix(emulated: ctypes.CDLL, threads: int) -> None:
    """What is beside it, even if it is not a number, and who takes it, changes no bit."""
    g = random(7, 70, 40)
    g[2], g[4] = torch.nan, 0
    together = compiled_polar(g, torch.bfloat16)
    for i in (0, 1, 3, 5, 6):
        assert torch.equal(compiled_polar(g[i : i + 1].clone(), torch.bfloat16)[0], together[i])
    assert together[2].isnan().all()
    assert not together[4].any()


@pytest.mark.parametrize("palette", [0, 1])
def test_tiles_are_given_back_in_the_shape_that_they_had(emulated: ctypes.CDLL, palette: int) -> None:
    assert emulated.keeps(palette)


def test_a_compiler_that_knows_no_matrix_units_leaves_them_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    class Library:
        lanes, has_bfloat16, has_tiles = (lambda _: 16), (lambda _: 1), (lambda _: 0)

    monkeypatch.setattr(polar, "compiled", Library)
    why = polar.reason.__wrapped__
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert "does not know the matrix units" in why(torch.bfloat16)
    assert not why(torch.float32)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert not why(torch.bfloat16)
    assert polar.native.multiplier(polar.compiled, half=True) == Multiplier.BFLOAT16


@pytest.mark.parametrize(
    ("bfloat16", "tiles", "intel", "prefers"),
    [(0, 0, False, False), (1, 0, False, True), (1, 0, True, False), (1, 1, True, True)],
)
def test_half_precision_is_taken_where_it_is_faster(
    bfloat16: int, tiles: int, intel: bool, prefers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Library:
        lanes, has_bfloat16, has_tiles = (lambda _: 16), (lambda _: bfloat16), (lambda _: tiles)

    monkeypatch.setattr(polar.native, "is_intel", lambda: intel)
    assert polar.native.prefers_half(Library) == prefers


@compiled
@pytest.mark.parametrize("threads", [4], indirect=True)
def test_threads_of_another_openmp_library_keep_apart(
    threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As clang's, which torch's library is asked about: of each that it does not know it says 0."""
    header = tmp_path / "other.h"
    header.write_text("#include <omp.h>\n#define omp_get_thread_num() 0\n")
    other = built(tmp_path, monkeypatch, *build.FLAGS, "-include", str(header))
    g = random(400, 24, 40)
    expected = compiled_polar(g, torch.float32)
    monkeypatch.setattr(polar, "compiled", lambda: other)
    for _ in range(5):
        assert torch.equal(compiled_polar(g, torch.float32), expected)


@compiled
@pytest.mark.parametrize(
    ("machine", "needs", "lanes"),
    [("haswell", "fma", 8), ("skylake-avx512", "avx512vl", 16), ("x86-64", "fxsr", 4)],
)
def test_other_processors(
    machine: str, needs: str, lanes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same products in vectors of another length, where this processor can run them."""
    if not has(needs):
        pytest.skip(f"this processor lacks {needs}")
    flags = [f"-march={machine}" if flag == "-march=native" else flag for flag in build.FLAGS]
    library = built(tmp_path, monkeypatch, *flags)
    assert library.lanes() == lanes
    assert not library.has_bfloat16()
    for shape in SHAPES:
        g = random(2, *shape)
        sizes = torch.linalg.matrix_norm(g)
        program, squares = program_of(*shape, "minimax", None, Multiplier.FLOAT32)
        done = g.clone()
        failed = library.orthogonalise(
            done.data_ptr(), sizes.data_ptr(), shape[0] * shape[1], shape[1], 2, *shape,
            program, len(program), squares, 2, Multiplier.FLOAT32,
        )  # fmt: skip
        exact = exact_polar(g / sizes[:, None, None], "minimax", False)
        plain = newton_schulz(TorchOps(), g / sizes[:, None, None])
        assert not failed
        assert (done - exact).norm() <= 2 * (plain - exact).norm() + 1e-5 * exact.norm()
