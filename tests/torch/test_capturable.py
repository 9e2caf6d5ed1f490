"""Steps that read nothing from a device: what a CUDA graph may record, shown on a CPU.

A host that reads a value of a device waits for it. On a CPU nothing waits, but the operations are
the same: a mode raises on those that read, and another one records a step and plays it back into
the same memory, as a CUDA graph does.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from downslope.torch import SGD, AdaGrad, Adam, AdamW, Muon, RMSProp
from downslope.torch.nonfinite import Ledger

READS = ("_local_scalar_dense", "item", "is_nonzero", "nonzero", "equal", "masked_select", "_unique2")


class NoReads(TorchDispatchMode):
    """Raises on every operation whose result the host would wait for."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in READS:
            raise RuntimeError(f"the host read a value: {func}")
        return func(*args, **(kwargs or {}))


class Recording(TorchDispatchMode):
    """Records operations with the tensors that they read and wrote, to play them back."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, out))
        return out

    @torch.no_grad()
    def replay(self) -> None:
        for func, args, kwargs, out in self.calls:
            again = func(*args, **kwargs)
            for old, new in zip(tree_flatten(out)[0], tree_flatten(again)[0], strict=True):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


Make = Callable[..., torch.optim.Optimizer]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.mix = nn.Linear(6, 8), nn.Linear(8, 24)
        self.conv, self.last = nn.Conv1d(8, 8, 3, padding=1), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> Any:
        a, b, c = self.mix(self.first(x)).chunk(3, -1)
        return self.last(self.conv((a * b + c)[..., None])[..., 0])


ROWS = torch.zeros(2, 6, dtype=torch.float64)
OPTIMIZERS: dict[str, Make] = {
    "muon": lambda m, **o: Muon(m, ROWS, **o),
    "muon-variants": lambda m, **o: Muon(m, ROWS, normuon=True, momentum_warmup=4, cautious=True, **o),
    "adamw": lambda m, **o: AdamW(m.named_parameters(), weight_decay=0.1, **o),
    "adam-amsgrad": lambda m, **o: Adam(m.named_parameters(), amsgrad=True, **o),
    "sgd": lambda m, **o: SGD(m.named_parameters(), momentum=0.9, nesterov=True, **o),
    "adagrad": lambda m, **o: AdaGrad(m.named_parameters(), **o),
    "rmsprop": lambda m, **o: RMSProp(m.named_parameters(), centered=True, momentum=0.5, **o),
    "rmsprop-fused": lambda m, **o: RMSProp(m.named_parameters(), **o),
}


def start(make: Make, **options: Any) -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    model = Net().double()
    return model, make(model, **{"lr": 0.01, **options})


def fill(model: nn.Module, k: int) -> None:
    """Write the gradients of step k, from the second on into the same memory."""
    generator = torch.Generator().manual_seed(k)
    for p in model.parameters():
        g = torch.randn(p.shape, generator=generator, dtype=torch.float64)
        if p.grad is None:
            p.grad = g
        else:
            p.grad.copy_(g)


def run(make: Make, steps: int, **options: Any) -> list[torch.Tensor]:
    model, optimizer = start(make, **options)
    for k in range(steps):
        fill(model, k)
        optimizer.step()
    return [p.detach().clone() for p in model.parameters()]


def assert_same(a: Any, b: Any) -> None:
    for x, y in zip(a, b, strict=True):
        # float64, in which numbers on the device are rounded in other places than the host's; Muon's
        # polynomials lift the difference of small singular values a thousandfold
        torch.testing.assert_close(x, y, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("fused", [None, False], ids=["fused", "blocks"])
@pytest.mark.parametrize("on_nonfinite", ["raise", "skip", "ignore"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_reads_nothing(name: str, on_nonfinite: str, fused: bool | None) -> None:
    make = OPTIMIZERS[name]
    lr = torch.tensor(0.01, dtype=torch.float64)
    model, optimizer = start(make, lr=lr, capturable=True, on_nonfinite=on_nonfinite, fused=fused)
    for k in range(4):
        fill(model, k)
        with NoReads():
            optimizer.step()
    plain = run(make, 4, on_nonfinite=on_nonfinite, fused=fused)
    assert_same([p.detach() for p in model.parameters()], plain)


@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_a_step_that_reads_is_caught(name: str) -> None:
    model, optimizer = start(OPTIMIZERS[name], fused=False)  # on a CPU the host looks at gradients by default
    fill(model, 0)
    with pytest.raises(RuntimeError, match="the host read a value"), NoReads():
        optimizer.step()


@pytest.mark.parametrize("fused", [None, False], ids=["fused", "blocks"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_recorded_step_can_be_played_back(name: str, fused: bool | None) -> None:
    make, lr = OPTIMIZERS[name], torch.tensor(0.01, dtype=torch.float64)
    model, optimizer = start(make, lr=lr, capturable=True, fused=fused, on_nonfinite="skip")
    for k in range(3):  # states are made and memory is found before a graph is recorded
        fill(model, k)
        optimizer.step()
    graph = Recording()
    fill(model, 3)
    with graph:
        optimizer.step()
    for k in range(4, 7):
        fill(model, k)
        graph.replay()
    assert_same([p.detach() for p in model.parameters()], run(make, 7, fused=fused))
    before = [p.detach().clone() for p in model.parameters()]
    lr.zero_()  # a scheduler writes to the tensor: the graph reads it anew
    graph.replay()
    for p, b in zip(model.parameters(), before, strict=True):
        assert torch.equal(p, b)
    next(model.parameters()).grad[0] = torch.nan
    lr.fill_(0.01)
    graph.replay()
    assert optimizer.skipped_steps == 1
    for p, b in zip(model.parameters(), before, strict=True):
        assert torch.equal(p, b)


@pytest.mark.parametrize("fused", [None, False], ids=["fused", "blocks"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_skipped_step_leaves_no_trace(name: str, fused: bool | None) -> None:
    make = OPTIMIZERS[name]
    model, optimizer = start(make, capturable=True, on_nonfinite="skip", fused=fused)
    for k, poison in enumerate((None, torch.nan, None, torch.inf, None)):
        fill(model, k // 2)
        before = copy.deepcopy((list(model.parameters()), optimizer.state_dict()["state"]))
        if poison is not None:
            model.mix.weight.grad[3, 2] = poison
        with NoReads():
            optimizer.step()
        if poison is not None:
            assert all(torch.equal(a, b) for a, b in zip(before[0], model.parameters(), strict=True))
            for slot, old in zip(optimizer.state_dict()["state"].values(), before[1].values(), strict=True):
                assert all(torch.equal(torch.as_tensor(slot[f]), torch.as_tensor(old[f])) for f in slot)
    assert optimizer.skipped_steps == 2
    assert_same([p.detach() for p in model.parameters()], run(make, 3, fused=fused))


def fill_some(model: nn.Module, k: int) -> None:
    """Write the gradients of step k, those of some parameters only: other ones each time."""
    fill(model, k)
    for i, p in enumerate(model.parameters()):
        if k % (i % 3 + 2) == 1:
            p.grad = None


@pytest.mark.parametrize("fused", [None, False], ids=["fused", "blocks"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_parameters_count_their_own_steps(name: str, fused: bool | None) -> None:
    runs = []
    for capturable in (False, True):
        model, optimizer = start(OPTIMIZERS[name], capturable=capturable, fused=fused)
        for k in range(9):
            if k == 5:  # what is saved counts as well
                optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
            fill_some(model, k)
            optimizer.step()
        counts = [int(optimizer.state[p]["step"]) for p in model.parameters()]
        assert len(set(counts)) > 1
        runs.append(([p.detach() for p in model.parameters()], counts))
    assert runs[0][1] == runs[1][1]
    assert_same(runs[0][0], runs[1][0])


def test_a_count_is_parted_before_a_graph_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    model, optimizer = start(OPTIMIZERS["adamw"], capturable=True)
    fill(model, 0)
    optimizer.step()
    model.mix.weight.grad = None
    before = copy.deepcopy(optimizer.state_dict()["state"][0])
    monkeypatch.setattr("downslope.torch.optimizer.recording", lambda t: True)
    with pytest.raises(RuntimeError, match=r"first.weight steps in a CUDA graph without others"):
        optimizer.step()
    assert all(torch.equal(before[k], v) for k, v in optimizer.state_dict()["state"][0].items())


@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_a_bad_gradient_is_named_at_the_next_step(name: str) -> None:
    model, optimizer = start(OPTIMIZERS[name], capturable=True)
    fill(model, 0)
    optimizer.step()
    before = [p.detach().clone() for p in model.parameters()]
    model.mix.weight.grad[0, 0] = torch.nan
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    fill(model, 1)
    with pytest.raises(ValueError, match=r"the gradient of mix.weight held NaN or infinity in an earlier"):
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    optimizer.step()  # said once
    assert not torch.equal(before[0], next(model.parameters()))
    model.first.bias.grad[0] = torch.inf
    optimizer.step()
    with pytest.raises(ValueError, match=r"the gradient of first.bias held NaN or infinity"):
        optimizer.raise_if_nonfinite()
    optimizer.raise_if_nonfinite()
    assert optimizer.skipped_steps == 2


def test_groups_are_asked_for_as_each_of_them_wants() -> None:
    model, optimizer = start(OPTIMIZERS["muon"], capturable=True)
    assert len(optimizer.param_groups) > 2
    skipping = optimizer.param_groups[-1]
    skipping["on_nonfinite"] = "skip"
    for group, named in ((skipping, False), (optimizer.param_groups[0], True)):
        fill(model, 0)
        before = [p.detach().clone() for p in model.parameters()]
        group["params"][-1].grad.view(-1)[-1] = torch.nan
        optimizer.step()
        assert all(map(torch.equal, before, model.parameters()))
        if named:
            with pytest.raises(ValueError, match=group["param_names"][-1]):
                optimizer.raise_if_nonfinite()
        optimizer.raise_if_nonfinite()
    assert optimizer.skipped_steps == 2


def test_all_gradients_of_a_device_are_looked_at_together() -> None:
    """Whatever their groups: a launch is what a small look costs."""
    model, optimizer = start(OPTIMIZERS["muon"], capturable=True)
    fill(model, 0)
    with Recording() as seen:
        optimizer.step()
    assert [call[0].overloadpacket.__name__ for call in seen.calls].count("any") == 1


def test_where_gradients_come_and_go_little_is_remembered() -> None:
    params = [nn.Parameter(torch.ones(3)) for _ in range(16)]
    optimizer = AdamW([(f"p{i}", p) for i, p in enumerate(params)], capturable=True)
    generator = torch.Generator().manual_seed(0)
    for k in range(300):
        for p, has_one in zip(params, torch.rand(16, generator=generator) < 0.5, strict=True):
            p.grad = torch.ones(3) if has_one else None
        if k % 100 == 50:
            optimizer.load_state_dict(optimizer.state_dict())
        optimizer.step()
        assert len(optimizer._ledger._entries) <= 2 * len(params)
    params[3].grad = torch.full((3,), torch.nan)
    optimizer.step()
    params[3].grad = None
    with pytest.raises(ValueError, match="the gradient of p3 held NaN"):
        optimizer.step()


class LateEvent:
    """An event of a device that is a step behind: what is recorded has passed when it is asked again."""

    def __init__(self) -> None:
        self.asked = 0

    def record(self) -> None:
        self.asked = 0

    def query(self) -> bool:
        self.asked += 1
        return self.asked > 1


def several_steps(ledger: Ledger, names: dict[torch.Tensor, str]) -> None:
    for _ in range(3):
        ledger.raise_late(names.__getitem__)


def test_a_report_is_sent_though_its_parameters_step_no_more_together() -> None:
    a, b = (nn.Parameter(torch.ones(3)) for _ in range(2))
    ledger = Ledger()
    names = {a: "a", b: "b"}
    ledger.note([a, b], torch.tensor([False, False]))
    (entry,) = ledger._entries.values()
    entry.copy, entry.event, entry.on_its_way = entry.seen.clone(), LateEvent(), True
    ledger.raise_late(names.__getitem__)
    ledger.note([a, b], torch.tensor([False, True]))  # while the first report is on its way
    ledger.note([a], torch.tensor([False]))
    ledger.raise_late(names.__getitem__)
    ledger.note([a], torch.tensor([False]))
    with pytest.raises(ValueError, match="the gradient of b held NaN"):
        several_steps(ledger, names)
    ledger.raise_late(names.__getitem__)
    assert len(ledger._entries) == 1


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("turn", [(True, True), (True, False), (False, True)], ids=str)
def test_saved_states_go_on(name: str, turn: tuple[bool, bool]) -> None:
    make = OPTIMIZERS[name]
    expected = run(make, 4)
    model, optimizer = start(make, capturable=turn[0])
    for k in range(2):
        fill(model, k)
        optimizer.step()
    saved = pickle.loads(pickle.dumps((model.state_dict(), optimizer.state_dict())))
    again, resumed = start(make, capturable=turn[1])
    again.load_state_dict(saved[0])
    resumed.load_state_dict(saved[1])
    for group in resumed.param_groups:  # a state dict brings its groups' values, as in torch
        group["capturable"] = turn[1]
    for k in range(2, 4):
        fill(again, k)
        resumed.step()
    assert_same([p.detach() for p in again.parameters()], expected)
    steps = {id(slot["step"]) for slot in resumed.state.values()}
    assert not turn[1] or len(steps) == len(resumed.param_groups), (
        "parameters that were stepped alike share one count"
    )


def test_a_copy_counts_for_itself() -> None:
    model, optimizer = start(OPTIMIZERS["adamw"], capturable=True, on_nonfinite="skip")
    fill(model, 0)
    optimizer.step()
    other = copy.deepcopy(optimizer)
    model.mix.weight.grad[0, 0] = torch.nan
    optimizer.step()
    assert (optimizer.skipped_steps, other.skipped_steps) == (1, 0)
    assert copy.deepcopy(optimizer).skipped_steps == 1


def test_what_runs_is_said() -> None:
    _, muon = start(OPTIMIZERS["muon"])
    assert "plain PyTorch (nothing compiled for float64)" in repr(muon)
    _, muon = start(OPTIMIZERS["muon"], fused=False)
    assert "plain PyTorch (fused=False)" in repr(muon)


def test_capturable_is_a_choice_of_three() -> None:
    with pytest.raises(ValueError, match="capturable = 'yes': expected True, False or None"):
        start(OPTIMIZERS["adamw"], capturable="yes")


# -- on a GPU ----------------------------------------------------------------------------------

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")


def on_gpu(name: str, **options: Any) -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    model = Net().double().cuda()
    make = OPTIMIZERS[name]
    if name.startswith("muon"):
        return model, Muon(model, ROWS.cuda(), lr=0.01, **options)
    return model, make(model, lr=0.01, **options)


def fill_gpu(model: nn.Module, k: int) -> None:
    generator = torch.Generator().manual_seed(k)
    for p in model.parameters():
        g = torch.randn(p.shape, generator=generator, dtype=torch.float64).cuda()
        p.grad = g if p.grad is None else p.grad.copy_(g)


@needs_gpu
@pytest.mark.parametrize("on_nonfinite", ["raise", "skip"])
@pytest.mark.parametrize("name", ["muon", "adamw", "sgd", "adagrad", "rmsprop"])
def test_a_gpus_step_does_not_wait(name: str, on_nonfinite: str) -> None:
    model, optimizer = on_gpu(name, on_nonfinite=on_nonfinite)
    for k in range(4):
        fill_gpu(model, k)
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error" if k else "default")  # kernels are tuned in the first
        try:
            optimizer.step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    expected = run(OPTIMIZERS[name], 4)
    for p, e in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(p.detach().cpu(), e, rtol=1e-8, atol=1e-9)  # sums in another order


@needs_gpu
@pytest.mark.parametrize("name", ["muon", "adamw", "sgd"])
def test_a_cuda_graph_of_a_step(name: str) -> None:
    model, optimizer = on_gpu(name, on_nonfinite="skip")
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for k in range(3):
            fill_gpu(model, k)
            optimizer.step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        optimizer.step()
    for k in range(3, 6):
        fill_gpu(model, k)
        graph.replay()
    expected = run(OPTIMIZERS[name], 6)
    for p, e in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(p.detach().cpu(), e, rtol=1e-8, atol=1e-9)
