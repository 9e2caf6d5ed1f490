"""The tools beside a training, on a CUDA GPU: what is read from events, and where the host waits."""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import downslope.torch as dt
from downslope.compare.optimizers import CANDIDATES
from downslope.diagnose.torch.clock import EventClock
from downslope.diagnose.torch.layers import Layers
from downslope.diagnose.torch.memory import memory_of
from downslope.diagnose.torch.rates import find_lr, of_task
from downslope.diagnose.torch.subject import of_objects
from downslope.diagnose.watch import Ailment, NonFiniteError
from downslope.tasks import Task
from downslope.torch import Diagnostics, profile, watch
from tests.diagnose.test_snapshot import everything, same

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")


def wide(width: int = 4096, depth: int = 4) -> nn.Sequential:
    """Return layers whose products keep a GPU busy for longer than the host needs to ask for them."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Linear(width, width, device="cuda"), nn.GELU()]
    return nn.Sequential(*layers, nn.Linear(width, 1, device="cuda"))


def mean_square(model: nn.Module, x: Tensor) -> Tensor:
    value: Tensor = model(x).square().mean()
    return value


@contextmanager
def syncs_counted() -> Iterator[list[Any]]:
    """Count the operations for which the host waited."""
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        seen: list[Any] = []
        try:
            yield seen
        finally:
            torch.cuda.set_sync_debug_mode("default")
            seen += [w for w in caught if "synchroniz" in str(w.message)]


# -- the clock


def test_stretches_between_events_are_the_work_in_them_and_add_up() -> None:
    clock, a = EventClock(torch.device("cuda")), torch.randn(4096, 4096, device="cuda")
    for _ in range(5):
        a @ a
    clock.settle()
    marks, begun = [clock.mark()], time.perf_counter()
    for count in (4, 8, 16):
        for _ in range(count):
            a @ a
        marks.append(clock.mark())
    asked = time.perf_counter() - begun
    first, second, third = (clock.seconds(*marks[i : i + 2]) for i in range(3))
    whole = clock.seconds(marks[0], marks[-1])
    assert first + second + third == pytest.approx(whole, rel=1e-3)  # events are read to half a µs
    # Products of one size take one time, but for clocks that rise and fall: a fifth is allowed.
    assert second / first == pytest.approx(2, rel=0.2)
    assert third / second == pytest.approx(2, rel=0.2)
    assert asked < 0.5 * whole, "marking waited for the device"


# -- profile


def test_the_parts_of_a_busy_gpu_add_up() -> None:
    model, x = wide(), torch.randn(4096, 4096, device="cuda")
    found = profile(model, x, dt.Muon(model, x[:1], lr=1e-4), mean_square, seconds=6)
    print(found)
    assert found.device.startswith("cuda")
    assert found.closure == pytest.approx(1, abs=0.05)
    assert abs(found.overhead) < 0.05
    shares = {"/".join(p.path): p.share for p in found.parts}
    assert sum(shares.values()) == pytest.approx(1)
    assert {"forward", "backward", "muon/momentum", "muon/orthogonalise", "muon/write"} <= shares.keys()
    # Backward makes two products for each of the forward pass, one for the first layer.
    assert 1.3 < shares["backward"] / shares["forward"] < 3
    forward = sum(layer.forward for layer in found.layers)
    backward = sum(layer.backward for layer in found.layers)
    assert forward == pytest.approx(shares["forward"] * found.milliseconds, rel=0.25)
    assert backward == pytest.approx(shares["backward"] * found.milliseconds, rel=0.25)


def test_the_parts_of_a_gpu_that_waits_for_the_host_add_up() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*[nn.Linear(32, 32) for _ in range(8)], nn.Linear(32, 1)).cuda()
    x = torch.randn(16, 32, device="cuda")
    found = profile(model, x, dt.AdamW(model.parameters()), mean_square, seconds=3, layers=False)
    print(found)
    # Here each of the marks costs the host some 5 µs of a step of about a millisecond.
    assert found.closure == pytest.approx(1, abs=0.15)


def test_a_profile_leaves_no_trace_on_the_device() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.Dropout(0.5), nn.Linear(64, 8)).cuda()
    x = torch.randn(32, 64, device="cuda")
    optimizer = dt.Muon(model, x)
    mean_square(model, x).backward()
    optimizer.step()
    before, chance = everything(model, optimizer), torch.cuda.get_rng_state()
    profile(model, x, optimizer, mean_square, seconds=0.3, what_ifs="dtype,steps")
    assert same(everything(model, optimizer), before)
    assert torch.equal(torch.cuda.get_rng_state(), chance)


def test_the_peak_is_that_of_the_step_alone() -> None:
    model, x = wide(2048, 2), torch.randn(512, 2048, device="cuda")
    subject = of_objects(model, x, dt.AdamW(model.parameters()), mean_square, None)
    memory_of(subject)  # the first call of a product takes its workspace for good
    found = memory_of(subject)
    ballast = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    beside = memory_of(subject)
    del ballast
    assert beside.peak == pytest.approx(found.peak, rel=0.01)
    standing = found.parameters + found.state + x.numel() * 4
    assert found.state == pytest.approx(2 * found.parameters, rel=0.01)
    assert standing + found.gradients <= found.peak
    assert found.peak <= standing + found.gradients + found.activations + 3 * found.parameters
    assert found.peak_in in ("backward", "optimizer")


def test_nodes_of_the_backward_pass_are_timed_on_their_stream() -> None:
    model, x = wide(4096, 3), torch.randn(8192, 4096, device="cuda")
    for _ in range(3):
        mean_square(model, x).backward()
    clock = EventClock(torch.device("cuda"))
    layers = Layers(clock, model)
    with layers.watched():
        loss = mean_square(model, x)
    layers.watch_backward(loss)
    clock.settle()
    start = clock.mark()
    loss.backward()
    whole = clock.seconds(start, clock.mark())
    seconds = layers.seconds()
    assert sum(b for _, b in seconds.values()) == pytest.approx(whole, rel=0.15)
    assert seconds["2"][1] / seconds["0"][1] == pytest.approx(2, rel=0.4)  # the first has no input gradient


# -- learning rates


def regression() -> Task:
    """Return a task on the GPU."""

    def build(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1)
        ).cuda()

    def batches(seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(seed)
        while True:
            x = torch.randn(64, 8, generator=generator).cuda()
            yield x, x[:, :1] * x[:, 1:2]

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        value: Tensor = (model(batch[0]) - batch[1]).square().mean()
        return value

    held = list(islice(batches(12345), 4))

    def evaluate(model: nn.Module) -> float:
        return float(torch.stack([loss(model, batch) for batch in held]).mean())

    return Task("regression", build, batches, loss, evaluate, steps=200)


def test_a_sweep_on_a_gpu_sees_every_loss() -> None:
    found = of_task(regression(), CANDIDATES["adamw"])
    print(found)
    assert all(loss > 0 for _, losses in found.sweeps for loss in losses)
    assert found.value is not None
    assert 3e-4 < found.value < 0.1
    assert found.low is not None
    assert found.high is not None
    assert found.low <= found.value <= found.high


def test_a_search_gives_a_model_on_a_gpu_back() -> None:
    task = regression()
    model, batches = task.build(0), list(islice(task.batches(0), 8))
    optimizer = dt.Muon(model, batches[0][0], lr=1e-3)
    for batch in batches[:3]:
        optimizer.zero_grad()
        task.loss(model, batch).backward()
        optimizer.step()
    before, chance = everything(model, optimizer), torch.cuda.get_rng_state()
    found = find_lr(model, optimizer, batches, task.loss, steps=64)
    assert found.value is not None
    assert same(everything(model, optimizer), before)
    assert torch.equal(torch.cuda.get_rng_state(), chance)


# -- diagnostics


def recorded(device: str) -> Diagnostics:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1))
    model = model.to(device)
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    diagnostics = Diagnostics(optimizer, every=5, batch_size=64, on_trouble="collect")
    for _ in range(12):
        x = torch.randn(64, 8, generator=generator).to(device)
        loss = (model(x) - x[:, :1]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        diagnostics(loss)
        optimizer.step()
    return diagnostics


def test_records_are_those_of_a_cpu() -> None:
    # Float32 sums in another order; twelve smooth steps make of it less than a thousandth.
    for here, there in zip(recorded("cuda").records, recorded("cpu").records, strict=True):
        assert here.loss == pytest.approx(there.loss, rel=1e-3)
        assert here.cosine == pytest.approx(there.cosine, abs=1e-3)
        (a,), (b,) = here.groups.values(), there.groups.values()
        assert a.gradient_norm == pytest.approx(b.gradient_norm, rel=1e-3)
        assert a.update_ratio == pytest.approx(b.update_ratio, rel=1e-3)
        assert a.sign_flips == pytest.approx(b.sign_flips, abs=0.01)
        assert a.effective_rank == pytest.approx(b.effective_rank, rel=1e-2)


def training(model: nn.Module, x: Tensor, optimizer: torch.optim.Optimizer) -> Callable[[Any], None]:
    def step(diagnostics: Diagnostics | None) -> None:
        loss = mean_square(model, x)
        optimizer.zero_grad()
        loss.backward()
        if diagnostics is not None:
            diagnostics(loss)
        optimizer.step()

    return step


def test_between_records_the_host_never_waits() -> None:
    model, x = wide(256, 2), torch.randn(64, 256, device="cuda")
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
    step = training(model, x, optimizer)
    with Diagnostics(optimizer, on_trouble="collect") as diagnostics:
        step(diagnostics)
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in range(98):
                step(diagnostics)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        for _ in range(3):
            step(diagnostics)
        assert len(diagnostics.records) == 1


def test_diagnostics_take_less_than_a_fiftieth() -> None:
    model, x = wide(2048, 4), torch.randn(2048, 2048, device="cuda")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    step = training(model, x, optimizer)
    diagnostics = Diagnostics(optimizer, on_trouble="collect")
    taken: dict[bool, list[float]] = {True: [], False: []}
    for i in range(16):
        for watched in (True, False) if i % 2 else (False, True):
            torch.cuda.synchronize()
            begun = time.perf_counter()
            for _ in range(100):
                step(diagnostics if watched else None)
            torch.cuda.synchronize()
            taken[watched].append(time.perf_counter() - begun)
    ratios = [a / b for a, b in zip(taken[True][2:], taken[False][2:], strict=True)]
    low, middle, high = (f"{q - 1:+.2%}" for q in statistics.quantiles(ratios))
    print(f"diagnostics: {middle} ({low} to {high}) of {10 * statistics.median(taken[False]):.2f} ms a step")
    assert statistics.median(ratios) < 1.02


# -- watch


class Tail(nn.Module):
    def __init__(self, last: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(4, 6), nn.ReLU())
        self.head = nn.Linear(6, 3)
        self.last = last

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.head(self.body(x)))


@pytest.mark.parametrize(
    ("last", "ailment", "operation"),
    [
        (lambda h: (h - h).log(), Ailment.FORWARD, "log"),
        (lambda h: h.abs().mul(0).sqrt(), Ailment.BACKWARD, "SqrtBackward0"),
        (lambda h: torch.where(h < 9, h, (h - h).log()), Ailment.BACKWARD, "LogBackward0"),
    ],
    ids=["log", "root", "where"],
)
def test_the_operation_is_named(last: Callable[[Tensor], Tensor], ailment: Ailment, operation: str) -> None:
    model, x = Tail(last).cuda(), torch.randn(5, 4, device="cuda")
    with watch(model, on_finding="collect") as doctor:
        model(x).sum().backward()
    assert [(f.ailment, f.operation) for f in doctor.findings] == [(ailment, operation)]


def test_a_backward_pass_on_a_gpu_raises() -> None:
    model, x = Tail(lambda h: h.abs().mul(0).sqrt()).cuda(), torch.randn(5, 4, device="cuda")
    with watch(model, on_finding="raise"), pytest.raises(NonFiniteError, match="SqrtBackward0"):
        model(x).sum().backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_watching_changes_nothing_and_waits_three_times(dtype: torch.dtype) -> None:
    gradients, waited = [], 0
    for watched in (False, True):
        model = wide(128, 4).to(dtype)
        x = torch.randn(32, 128, device="cuda", dtype=dtype, generator=torch.Generator("cuda").manual_seed(2))
        if watched:
            doctor = watch(model, on_finding="collect")
            model(x).square().mean().backward()
            model.zero_grad()
            with syncs_counted() as seen:
                model(x).square().mean().backward()
            waited = len(seen)
            assert not doctor.findings
        else:
            model(x).square().mean().backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    assert waited <= 3


# -- the command


def test_the_command_profiles_a_task_on_a_gpu(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("typer")
    import json

    from downslope.cli import run

    page = tmp_path / "page.html"
    task = "tests/diagnose/test_gpu.py:regression"
    assert run(["profile", task, "--seconds", "1", "--out", str(page), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["device"].startswith("cuda")
    assert "GPU" in page.read_text() or "cuda" in page.read_text()
