"""Parameters spread over processes take the steps that they would take in one: any mesh, any placement."""

from __future__ import annotations

import copy
import json
import re
import sys
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import (
    DeviceMesh,
    DTensor,
    Replicate,
    Shard,
    distribute_tensor,
    init_device_mesh,
)
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

from downslope.diagnose.torch.clock import HostClock
from downslope.diagnose.torch.tape import Tape
from downslope.grouping.view import MatrixView
from downslope.rules.muon import Muon as Rule
from downslope.torch import SGD, AdaGrad, Adam, AdamW, Muon, RMSProp, partition, profile
from downslope.torch import replicas as replicas_module
from downslope.torch import stacks as stacks_module
from downslope.torch.exchange import Part, owners_of, placed
from downslope.torch.native import polar
from downslope.torch.places import Item, layout_of
from downslope.torch.regions import heard_by
from downslope.torch.spread import gradient_of
from tests.processes import leave

PROCESSES = 4
STEPS = 4
CLOSE = 1e-12
"""In float64: sums of the iterations in another order where stacks differ, 1e-14 a step."""

Case = Callable[[int, Path], Any]
CASES: dict[str, Case] = {}

PLACEMENTS: dict[str, tuple[tuple[int, ...], list[Any]]] = {
    "rows": ((4,), [Shard(0)]),
    "columns": ((4,), [Shard(1)]),
    "whole": ((4,), [Replicate()]),
    "replicas of rows": ((2, 2), [Replicate(), Shard(0)]),
    "rows and columns": ((2, 2), [Shard(0), Shard(1)]),
    "rows of rows": ((2, 2), [Shard(0), Shard(0)]),
    "columns of replicas": ((2, 2), [Shard(1), Replicate()]),
}
VIEWS = {
    (10, 7): MatrixView((0,), (1,)),
    (7, 10): MatrixView((0,), (1,)),
    (3, 5): MatrixView((0,), (1,)),  # fewer rows than processes
    (12, 6): MatrixView((0,), (1,), blocks=(4, 4, 4)),  # Q, K and V
    (9, 6): MatrixView((0,), (1,), blocks=(6, 3)),  # of two shapes, with scales of their own
    (5, 4, 3, 3): MatrixView.of_kernel(4),
    (6, 8, 4): MatrixView((1,), (2,), batch=(0,)),  # experts
    (4, 8, 6): MatrixView((2,), (1,), batch=(0,)),
}


def case(function: Case) -> Case:
    CASES[function.__name__] = function
    return function


def words(optimizer: torch.optim.Optimizer) -> str:
    """Return what an optimizer says of itself, on one line."""
    return " ".join(repr(optimizer).split())


def arrays(seed: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    r = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=r, dtype=dtype) for shape in VIEWS]


def trained(make: Callable[[list[nn.Parameter]], Any], spread: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """Return parameters after some steps on given gradients."""
    params = [nn.Parameter(spread(a)) for a in arrays(0)]
    optimizer = make(params)
    for k in range(STEPS):
        for p, g in zip(params, arrays(1 + k), strict=True):
            p.grad = spread(g)
        optimizer.step()
    return [p.detach().full_tensor() if isinstance(p.detach(), DTensor) else p.detach() for p in params]


def mesh_of(shape: tuple[int, ...]) -> DeviceMesh:
    return init_device_mesh("cpu", shape, mesh_dim_names=tuple("ab"[: len(shape)]))


def apart(make: Callable[[list[nn.Parameter]], Any], name: str) -> float:
    """Return how far the parameters end from those of one process."""
    shape, placements = PLACEMENTS[name]
    mesh = mesh_of(shape)
    found = trained(make, lambda a: distribute_tensor(a, mesh, placements))
    alone = trained(make, lambda a: a.clone())
    return max(float((a - b).abs().max()) for a, b in zip(found, alone, strict=True))


def muon(**options: Any) -> Callable[[list[nn.Parameter]], Any]:
    return lambda params: Muon([{"params": params, "views": list(VIEWS.values())}], lr=0.1, **options)


@case
def every_placement(rank: int, folder: Path) -> Any:
    return {name: apart(muon(), name) for name in PLACEMENTS}


@case
def variants(rank: int, folder: Path) -> Any:
    options: dict[str, dict[str, Any]] = {
        "normuon": {"normuon": True},
        "cautious": {"cautious": True},
        "heavy ball": {"nesterov": False},
        "spectral": {"scale": "spectral", "momentum_warmup": 3},
        "many portions": {"max_stack_bytes": 1},
    }
    names = ("rows", "rows and columns")
    return {f"{key}, {name}": apart(muon(**value), name) for key, value in options.items() for name in names}


@case
def elementwise(rank: int, folder: Path) -> Any:
    rules: dict[str, Any] = {
        "sgd": lambda p: SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
        "adagrad": lambda p: AdaGrad(p, lr=0.1),
        "rmsprop": lambda p: RMSProp(p, lr=0.1),
        "adam": lambda p: Adam(p, lr=0.1, amsgrad=True),
        "adamw": lambda p: AdamW(p, lr=0.1, weight_decay=0.1, cautious=True),
    }
    return {
        f"{key}, {name}": apart(make, name)
        for key, make in rules.items()
        for name in ("rows", "columns", "rows and columns")
    }


@case
def parts_by_themselves(rank: int, folder: Path) -> Any:
    """What a rule that does not ask where the rest is would do."""
    mesh = mesh_of((4,))
    (a,), (g,) = ([x[0]] for x in (arrays(0), arrays(1)))
    whole, part = (
        nn.Parameter(a.clone()),
        nn.Parameter(distribute_tensor(a, mesh, [Shard(0)]).to_local().clone()),
    )
    whole.grad, part.grad = g.clone(), distribute_tensor(g, mesh, [Shard(0)]).to_local()
    for p in (whole, part):
        if p.numel():
            Muon([p], lr=0.1).step()
    off = (distribute_tensor(whole.detach(), mesh, [Shard(0)]).to_local() - part.detach()).abs()
    return float(off.max()) if off.numel() else None


@case
def experts_stay(rank: int, folder: Path) -> Any:
    """Whole matrices are not sent anywhere; cut ones are, and rows that are remembered."""
    mesh, view = mesh_of((4,)), MatrixView((1,), (2,), batch=(0,))
    kinds = {}
    for name, placements, square in (
        ("experts", [Shard(0)], None),
        ("rows", [Shard(1)], None),
        ("remembered", [Shard(0)], torch.zeros(48)),
    ):
        p = distribute_tensor(torch.zeros(6, 8, 4), mesh, placements)
        made = placed(p, p.to_local(), p.to_local(), view, square)
        kinds[name] = type(made).__name__
    assert {Item.__name__, Part.__name__} == set(kinds.values())
    return kinds


@case
def owners(rank: int, folder: Path) -> Any:
    """Eight equal matrices and a larger one, for four processes."""
    mesh, view = mesh_of((4,)), MatrixView((0,), (1,))
    shapes = [(8, 12)] * 8 + [(16, 24)]
    spread = [distribute_tensor(torch.zeros(shape), mesh, [Shard(0)]) for shape in shapes]
    parts = [placed(p, p.to_local(), p.to_local(), view) for p in spread]
    assert all(isinstance(part, Part) for part in parts)
    return owners_of(Rule(), [part.item.layout for part in parts], PROCESSES, None)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(6, 10), nn.Tanh(), nn.Linear(10, 9), nn.Tanh(), nn.Linear(9, 3))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.inner(x)
        return y


def net() -> Net:
    torch.manual_seed(0)
    return Net().double()


def inputs() -> Tensor:
    return torch.randn(8, 6, generator=torch.Generator().manual_seed(7), dtype=torch.float64)


def sharded(mesh: DeviceMesh, model: nn.Module) -> nn.Module:
    for layer in model.inner:
        if isinstance(layer, nn.Linear):
            fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)  # type: ignore[no-any-return]


def trained_net(
    model: nn.Module, optimizer: Any, mine: Callable[[Tensor], Tensor], steps: int = STEPS
) -> dict[str, Tensor]:
    for _ in range(steps):
        optimizer.zero_grad()
        model(mine(inputs())).square().mean().backward()
        optimizer.step()
    found = {}
    for name, p in model.named_parameters():
        full = p.detach().full_tensor() if isinstance(p.detach(), DTensor) else p.detach()
        found[name.removeprefix("module.")] = full.clone()
    return found


def nets_apart(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    return max(float((a[name] - b[name]).abs().max()) for name in b)


@case
def models(rank: int, folder: Path) -> Any:
    """Each process has its own quarter of the batch, or all of it where it has a part of the layers."""
    x = inputs()
    alone = net()
    expected = trained_net(alone, Muon(alone, x, lr=0.1), lambda x: x)
    found = {}

    def quarter(x: Tensor) -> Tensor:
        return x[2 * rank : 2 * rank + 2]

    ddp = net()
    optimizer = Muon(ddp, x, lr=0.1)
    found["ddp"] = nets_apart(trained_net(DistributedDataParallel(ddp), optimizer, quarter), expected)
    assert "shared out" not in words(optimizer)

    ddp = DistributedDataParallel(net())
    optimizer = Muon(ddp, x, lr=0.1)
    assert "shared out over 4 processes" in words(optimizer)
    assert "shared out over 4 processes" in words(Muon(torch.compile(ddp), x, lr=0.1))
    found["ddp, shared"] = nets_apart(trained_net(ddp, optimizer, quarter), expected)
    assert "shared out" not in words(Muon(ddp, x, lr=0.1, replicas=False))

    fsdp = sharded(mesh_of((4,)), net())
    found["fsdp"] = nets_apart(trained_net(fsdp, Muon(fsdp, x, lr=0.1), quarter), expected)

    seen = partition(net(), x)  # before it is cut
    mesh = mesh_of((2, 2))
    both = parallelize_module(net(), mesh["b"], {"inner.0": ColwiseParallel(), "inner.2": RowwiseParallel()})
    half = slice(4 * (rank // 2), 4 * (rank // 2) + 4)
    for model in (both, sharded(mesh["a"], both)):
        assert partition(model, x) == seen
    optimizer = Muon(both, lr=0.1, partition=seen)
    found["fsdp and tp"] = nets_apart(trained_net(both, optimizer, lambda x: x[half]), expected)
    return found


@case
def a_bad_gradient_is_everybodys(rank: int, folder: Path) -> Any:
    """NaN in the part of one process: all raise, or all leave the step out, and nothing has changed."""
    mesh = mesh_of((4,))
    found: dict[str, Any] = {}
    for way in ("raise", "skip"):
        params = [nn.Parameter(distribute_tensor(a, mesh, [Shard(0)])) for a in arrays(0)[:2]]
        optimizer = Muon(params, lr=0.1, on_nonfinite=way)
        for p, g in zip(params, arrays(1)[:2], strict=True):
            p.grad = distribute_tensor(g, mesh, [Shard(0)])
        if rank == 1:
            params[1].grad.to_local()[0, 0] = torch.nan
        try:
            optimizer.step()
        except ValueError as error:
            found["said"] = str(error)
        found[way] = all(
            torch.equal(p.detach().full_tensor(), a) for p, a in zip(params, arrays(0)[:2], strict=True)
        )
        found["skipped"] = optimizer.skipped_steps
    every: list[Any] = [None] * PROCESSES
    dist.all_gather_object(every, found)
    return every


@case
def a_bad_gradient_is_reported_to_everybody(rank: int, folder: Path) -> Any:
    """Where the host hears of it later, every process raises, and in the same step."""
    mesh = mesh_of((4,))
    said = {}
    for way in ("raise", "skip"):
        p = nn.Parameter(distribute_tensor(arrays(0)[0], mesh, [Shard(0)]))
        optimizer = Muon([("w", p)], lr=0.1, capturable=True, on_nonfinite=way)
        said[way] = ["", "", ""]
        for k in range(3):
            p.grad = distribute_tensor(arrays(1)[0], mesh, [Shard(0)])
            if (rank, k) == (1, 1):
                p.grad.to_local()[0, 0] = torch.nan
            try:
                optimizer.step()
            except ValueError as error:
                said[way][k] = str(error)
    every: list[Any] = [None] * PROCESSES
    dist.all_gather_object(every, said)
    return every


@case
def gradients_of_a_parameter(rank: int, folder: Path) -> Any:
    """Placed otherwise they are moved; one that is not spread is refused."""
    mesh = mesh_of((4,))
    a, g = arrays(0)[0], arrays(1)[0]
    p = distribute_tensor(a, mesh, [Shard(0)])
    mine = distribute_tensor(g, mesh, [Shard(0)]).to_local()
    right = [
        torch.equal(gradient_of(p, distribute_tensor(g, mesh, [how])), mine)
        for how in (Shard(0), Shard(1), Replicate())
    ]
    said = []
    for parameter, gradient in ((p, g), (a, distribute_tensor(g, mesh, [Shard(0)]))):
        with pytest.raises(ValueError, match="is not: expected both") as caught:
            gradient_of(parameter, gradient)
        said.append(str(caught.value))
    return {"right": all(right), "said": said, "shown": words(Muon([nn.Parameter(p)], lr=0.1))}


@case
def checkpoints(rank: int, folder: Path) -> Any:
    """Saved by all processes and read by as many in another arrangement, the training goes on the same."""
    x = inputs()

    def make(mesh: DeviceMesh) -> tuple[nn.Module, Any]:
        model = sharded(mesh, net())
        return model, Muon(model, x, lr=0.1, normuon=True)

    model, optimizer = make(mesh_of((4,)))
    trained_net(model, optimizer, lambda x: x, steps=2)
    state = {"model": model.state_dict(), "optimizer": get_optimizer_state_dict(model, optimizer)}
    dcp.save(state, checkpoint_id=folder / "saved")
    expected = trained_net(model, optimizer, lambda x: x, steps=2)

    again, other = make(mesh_of((2, 2)))
    trained_net(again, other, lambda x: -x, steps=1)  # so that there is a state to load into
    state = {"model": again.state_dict(), "optimizer": get_optimizer_state_dict(again, other)}
    dcp.load(state, checkpoint_id=folder / "saved")
    again.load_state_dict(state["model"])
    set_optimizer_state_dict(again, other, state["optimizer"])
    return nets_apart(trained_net(again, other, lambda x: x, steps=2), expected)


def alike_everywhere(tensors: list[Tensor]) -> bool:
    """Whether every process has the same numbers, to the last bit."""
    every: list[Any] = [None] * PROCESSES
    dist.all_gather_object(every, [t.tolist() for t in tensors])
    return all(one == every[0] for one in every)


@case
def replicas(rank: int, folder: Path) -> Any:
    """Processes that hold the same: as far from one process, and whether they stay the same."""
    options: dict[str, dict[str, Any]] = {
        "plain": {},
        "normuon": {"normuon": True},
        "cautious": {"cautious": True},
        "on the device": {"capturable": True, "on_nonfinite": "skip"},
        "experts apart, many portions": {"max_stack_bytes": 300},
        "blocks apart": {"max_stack_bytes": 300, "scale": "spectral"},
        "gathered": {"normuon": True},
    }
    found = {}
    for name, option in options.items():
        made: list[Muon] = []

        def make(params: list[nn.Parameter], made: list[Muon] = made, option: Any = option) -> Muon:
            made.append(muon(replicas=dist.group.WORLD, **option)(params))
            return made[0]

        with pytest.MonkeyPatch.context() as patch:
            if name == "gathered":  # as on GPUs
                patch.setattr(replicas_module, "_ONE_BY_ONE", ())
            shared = trained(make, lambda a: a.clone())
        alone = trained(muon(**option), lambda a: a.clone())
        found[name] = max(float((a - b).abs().max()) for a, b in zip(shared, alone, strict=True))
        states = [v for state in made[0].state.values() for v in state.values() if isinstance(v, Tensor)]
        assert len(states) >= len(VIEWS)
        assert alike_everywhere([*shared, *states])
    return found


@case
def replicas_in_half_precision(rank: int, folder: Path) -> Any:
    """How many elements of what size were sent, and whether full precision would give the same."""
    one_scale = [shape for shape in VIEWS if shape != (9, 6)]

    def stepped(shapes: list[tuple[int, ...]]) -> tuple[list[Tensor], int]:
        values, grads = (
            [a for a in arrays(seed, torch.float32) if tuple(a.shape) in shapes] for seed in (0, 1)
        )
        params = [nn.Parameter(a) for a in values]
        group = {"params": params, "views": [VIEWS[shape] for shape in shapes]}
        optimizer = Muon([group], lr=0.1, scale="spectral", ns_dtype="bfloat16", replicas=dist.group.WORLD)
        for p, g in zip(params, grads, strict=True):
            p.grad = g
        sent = []
        original = replicas_module._Sent.to_all

        def counted(self: Any) -> list[Tensor]:
            sent.append(sum(self.widths) * self.rows.element_size())
            return original(self)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(replicas_module._Sent, "to_all", counted)
            patch.setattr(replicas_module, "LEAST", 0)
            optimizer.step()
        assert alike_everywhere([p.detach() for p in params])
        return [p.detach() for p in params], sum(sent)

    half, fewer = stepped(one_scale)
    _, mixed = stepped(list(VIEWS))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replicas_module, "_wire", lambda rule, item, dtype: item.momentum.dtype)
        full, more = stepped(one_scale)
    g = torch.zeros(4, 4)
    remembering = Item(g, g, g, MatrixView((0,), (1,)), layout_of(MatrixView((0,), (1,)), (4, 4)))
    assert replicas_module._wire(Rule(), remembering, torch.bfloat16) == torch.bfloat16
    assert replicas_module._wire(Rule(normuon=True), remembering, torch.bfloat16) == torch.float32
    same = all(torch.equal(a, b) for a, b in zip(half, full, strict=True))
    return {"same": same, "fewer": fewer, "mixed": mixed, "more": more}


@case
def replicas_at_home(rank: int, folder: Path) -> Any:
    """How many numbers were sent, and how far the steps are from those of one process."""
    own = polar.fingerprint()
    ways: dict[str, Any] = {
        "alike": lambda: own,
        "another": lambda: own + b"of another" * (rank == 1),
        "nothing": lambda: b"",
    }
    found: dict[str, Any] = {}

    def stepped(**options: Any) -> list[Tensor]:
        r = torch.Generator().manual_seed(0)
        params = [nn.Parameter(torch.randn(shape, generator=r)) for shape in ((8, 16), (300, 320), (64, 6))]
        optimizer = Muon(params, lr=0.1, ns_dtype="float32", **options)
        for _ in range(2):
            for p in params:
                p.grad = torch.randn(p.shape, generator=r)
            optimizer.step()
        return [p.detach() for p in params]

    original = replicas_module._Sent.to_all
    for name, fingerprint in ways.items():
        sent: list[int] = []

        def counted(self: Any, sent: list[int] = sent) -> list[Tensor]:
            sent.append(sum(self.widths))
            return original(self)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(replicas_module._Sent, "to_all", counted)
            patch.setattr(polar, "fingerprint", fingerprint)
            if name == "nothing":
                patch.setattr(polar, "reason", lambda dtype: "no compiler")
            shared = stepped(replicas=dist.group.WORLD)
        assert alike_everywhere(shared)
        alone = stepped(replicas=False)
        off = max(float((a - b).abs().max()) for a, b in zip(shared, alone, strict=True))
        found[name] = {"sent": sum(sent), "off": off}
    return found


@case
def replicas_share_the_work(rank: int, folder: Path) -> Any:
    """How many matrices this process orthogonalises, shared and alone, and what a profiler hears."""
    counts: list[int] = []
    original = stacks_module.newton_schulz

    def counted(x: Any, stack: Tensor, *rest: Any) -> Tensor:
        counts.append(len(stack))
        return original(x, stack, *rest)

    def of(**options: Any) -> tuple[int, list[str]]:
        params = [nn.Parameter(a) for a in arrays(0)]
        optimizer = muon(**options)(params)
        for p, g in zip(params, arrays(1), strict=True):
            p.grad = g
        counts.clear()
        tape = Tape(HostClock(torch.device("cpu")))
        with heard_by(tape.part):
            optimizer.step()
        return sum(counts), sorted({path[-1] for path, _, _ in tape.spans()})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stacks_module, "newton_schulz", counted)
        shared, heard = of(replicas=dist.group.WORLD)
        alone, _ = of(replicas=False)
    optimizer = muon(replicas=dist.group.WORLD)([nn.Parameter(a) for a in arrays(0)])
    copied = copy.deepcopy(optimizer)
    return {
        "shared": shared,
        "alone": alone,
        "heard": heard,
        "said": words(optimizer),
        "copied": words(copied),
    }


@case
def replicas_that_are_none(rank: int, folder: Path) -> Any:
    """One process has NaN in a gradient, or none at all, that the others have: all hear of it at once."""
    said: dict[str, str] = {}
    for name, way in (("NaN", "raise"), ("NaN", "skip"), ("missing", "raise")):
        params = [nn.Parameter(a) for a in arrays(0)]
        optimizer = muon(replicas=dist.group.WORLD, on_nonfinite=way)(params)
        for p, g in zip(params, arrays(1), strict=True):
            p.grad = g
        if rank == 1 and name == "NaN":
            params[1].grad[0, 0] = torch.nan  # type: ignore[index]
        elif rank == 1:
            params[1].grad = None
        try:
            optimizer.step()
            said[f"{name}, {way}"] = f"{optimizer.skipped_steps} left out"
        except ValueError as error:
            said[f"{name}, {way}"] = str(error)
        assert all(torch.equal(p, a) for p, a in zip(params, arrays(0), strict=True))
        assert not optimizer.state
    return said


def kilobytes(name: str) -> int:
    found = re.search(name + r":\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1])


@case
def memory_of_replicas(rank: int, folder: Path) -> Any:
    """How many bytes a second step takes at its peak."""
    if sys.platform != "linux":
        return 0
    params = [nn.Parameter(torch.ones(256, 4096)) for _ in range(16)]
    for p in params:
        p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(1))
    optimizer = Muon(params, ns_dtype="float32", ns_steps=1, replicas=dist.group.WORLD)
    optimizer.step()
    dist.barrier()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = kilobytes("VmRSS")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replicas_module, "LEAST", 0)
        optimizer.step()
    return (kilobytes("VmHWM") - before) * 1024


@case
def what_if_replicas_did_not_share(rank: int, folder: Path) -> Any:
    """Every process tries it, together, and goes on as before."""
    model = DistributedDataParallel(net())
    optimizer = Muon(model, inputs(), lr=0.1)
    before = [p.detach().clone() for p in model.parameters()]
    found = profile(
        model,
        inputs(),
        optimizer,
        lambda m, x: m(x).square().mean(),
        what_ifs="replicas",
        layers=False,
        memory=False,
        seconds=0.1,
    )
    assert optimizer.replicas is dist.group.WORLD
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
    (tried,) = found.what_ifs
    return {"change": tried.change, "note": tried.note, "ratio": tried.ratio}


@case
def what_a_profiler_hears(rank: int, folder: Path) -> Any:
    mesh = mesh_of((4,))
    p = nn.Parameter(distribute_tensor(arrays(0)[0], mesh, [Shard(0)]))
    p.grad = distribute_tensor(arrays(1)[0], mesh, [Shard(0)])
    optimizer = Muon([p], lr=0.1)
    tape = Tape(HostClock(torch.device("cpu")))
    with heard_by(tape.part):
        optimizer.step()
    return sorted({path[-1] for path, _, _ in tape.spans()})


def work(rank: int, folder: str, store: str) -> None:
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=PROCESSES, timeout=timedelta(seconds=60)
    )
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    for name, function in CASES.items():
        try:
            found[name] = function(rank, Path(folder))
        except Exception:
            found["failed"] = f"{name}: {traceback.format_exc()}"
            break  # the others may be somewhere else now
        finally:
            (Path(folder) / f"{rank}.json").write_text(json.dumps(found))
    leave()


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("spread")
    mp.spawn(work, args=(str(folder), str(folder / "store")), nprocs=PROCESSES)
    all_of_them = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(PROCESSES)]
    failures = [one.pop("failed") for one in all_of_them if "failed" in one]
    # Where one fails the others hear that it is gone.
    assert not failures, "\n".join(sorted(failures, key=lambda text: "closed by peer" in text))
    return {name: [one[name] for one in all_of_them] for name in CASES}


@pytest.mark.parametrize("name", ["every_placement", "variants", "elementwise", "models", "replicas"])
def test_steps_are_those_of_one_process(found: dict[str, Any], name: str) -> None:
    for one in found[name]:
        assert max(one.values()) < CLOSE, one


def test_what_is_sent_between_replicas_was_rounded_already(found: dict[str, Any]) -> None:
    """A direction of two scales is none of those: it is sent in float32."""
    blocks = 9 * 6
    others = sum(a.numel() for a in arrays(0)) - blocks
    for one in found["replicas_in_half_precision"]:
        assert one["same"]
        assert one["fewer"] == 2 * others
        assert one["more"] == 4 * others
        assert one["mixed"] == one["fewer"] + 4 * blocks


def test_small_matrices_stay_at_home_where_all_step_alike(found: dict[str, Any]) -> None:
    """Where one has other code the last bits would differ, and with time the parameters."""
    every = 8 * 16 + 300 * 320 + 64 * 6
    few = 300 * 320 if not polar.reason(torch.float32) else every
    for one in found["replicas_at_home"]:
        assert {name: seen["sent"] // 2 for name, seen in one.items()} == {
            "alike": few,
            "another": every,
            "nothing": every,
        }
        assert all(seen["off"] < 1e-4 for seen in one.values()), "of 0.1, in float32 by other code"


@pytest.mark.parametrize(
    ("shape", "processes", "sent"),
    [((64, 576), 8, False), ((128, 128), 2, False), ((128, 128), 4, True), ((768, 768), 2, True)],
)
def test_what_spares_the_others_much_is_sent(shape: tuple[int, int], processes: int, sent: bool) -> None:
    """128 × 128 take 1,792 operations an element, of which two processes spare each other half, four more."""
    item = Item(*3 * (torch.zeros(shape),), MatrixView((0,), (1,)), layout_of(MatrixView((0,), (1,)), shape))
    assert replicas_module._is_sent(Rule(), item, processes, torch.bfloat16) == sent


def test_replicas_share_the_work(found: dict[str, Any]) -> None:
    shares = [one["shared"] for one in found["replicas_share_the_work"]]
    whole = {one["alone"] for one in found["replicas_share_the_work"]}
    assert {sum(shares)} == whole
    assert max(shares) < sum(shares) / 2
    for one in found["replicas_share_the_work"]:
        assert {"momentum", "exchange", "orthogonalise", "write"} <= set(one["heard"])
        assert "shared out over 4 processes" in one["said"]
        assert "shared out" not in one["copied"]


def test_a_shared_step_takes_little_memory(found: dict[str, Any]) -> None:
    assert max(found["memory_of_replicas"]) <= 64 << 20


def test_replicas_that_differ_stop_every_process(found: dict[str, Any]) -> None:
    for rank, one in enumerate(found["replicas_that_are_none"]):
        whose = "parameter 1 of shape (7, 10) in group 0" if rank == 1 else "a parameter, in another process,"
        assert f"the gradient of {whose} holds NaN or infinity: nothing was changed" in one["NaN, raise"]
        assert one["NaN, skip"] == "1 left out"
        assert "have gradients of different parameters" in one["missing, raise"]


def test_a_profile_tries_replicas_that_share_nothing(found: dict[str, Any]) -> None:
    for one in found["what_if_replicas_did_not_share"]:
        assert one["change"] == "replicas=False: every process orthogonalises all matrices"
        assert one["note"] == "4 processes share them out now, and send each other the steps"
        assert one["ratio"] > 0


def test_replicas_are_a_process_group() -> None:
    with pytest.raises(TypeError, match="replicas = 4: expected a process group"):
        Muon([nn.Parameter(torch.ones(4, 4))], replicas=4)  # type: ignore[arg-type]


def test_steps_of_the_parts_by_themselves_are_others(found: dict[str, Any]) -> None:
    """So the tolerance tells them apart."""
    assert max(off for off in found["parts_by_themselves"] if off is not None) > 1e-3


def test_matrices_that_a_process_has_whole_stay_there(found: dict[str, Any]) -> None:
    expected = {"experts": "Item", "rows": "Part", "remembered": "Part"}
    assert found["experts_stay"] == [expected] * PROCESSES


def test_the_work_is_shared_out_alike_on_every_process(found: dict[str, Any]) -> None:
    """The large matrix costs as much as eight of the others: its owner has no other."""
    first, *others = found["owners"]
    assert all(one == first for one in others)
    counts = sorted(first.count(rank) for rank in range(PROCESSES))
    assert counts == [1, 2, 3, 3]
    assert first.count(first[-1]) == 1


def test_a_bad_gradient_stops_every_process(found: dict[str, Any]) -> None:
    for rank, one in enumerate(found["a_bad_gradient_is_everybodys"][0]):
        assert one["raise"] is one["skip"] is True
        assert one["skipped"] == 1
        assert "holds NaN or infinity: nothing was changed" in one["said"]
        assert ("parameter 1 of shape (7, 10)" if rank == 1 else "in another process") in one["said"]


def test_a_bad_gradient_is_reported_to_every_process(found: dict[str, Any]) -> None:
    for rank, said in enumerate(found["a_bad_gradient_is_reported_to_everybody"][0]):
        name = "w" if rank == 1 else "a parameter, in another process,"
        assert said["raise"][:2] == ["", ""]
        assert said["raise"][2].startswith(f"the gradient of {name} held NaN or infinity in an earlier step")
        assert said["skip"] == ["", "", ""]


def test_gradients_are_placed_as_their_parameters(found: dict[str, Any]) -> None:
    for one in found["gradients_of_a_parameter"]:
        assert one["right"]
        assert (
            "a parameter of shape (10, 7) is spread over processes and its gradient is not" in one["said"][0]
        )
        assert (
            "a gradient of shape (10, 7) is spread over processes and its parameter is not" in one["said"][1]
        )
        assert "1 parameter spread over processes" in one["shown"]


def test_a_checkpoint_is_read_by_another_arrangement(found: dict[str, Any]) -> None:
    assert max(found["checkpoints"]) < CLOSE


def test_the_exchange_is_a_part_of_the_rule(found: dict[str, Any]) -> None:
    for heard in found["what_a_profiler_hears"]:
        assert {"momentum", "exchange", "orthogonalise", "write"} <= set(heard)
