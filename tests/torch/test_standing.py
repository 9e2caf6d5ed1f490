"""A step that takes over the work of the one before does what one does that looks at everything anew."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from downslope.torch import SGD, AdamW, Muon
from downslope.torch.native.polar import reason
from downslope.torch.optimizer import RuleOptimizer
from downslope.torch.standing import Standing

Change = Callable[[nn.Module, RuleOptimizer], Any]


class Never(Standing):
    """Takes nothing over."""

    def again(self, *_: Any) -> None:
        return None


class Counting(Standing):
    """Counts the steps that are taken over."""

    count = 0

    def again(self, *arguments: Any) -> Any:
        found = super().again(*arguments)
        self.count += found is not None
        return found


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 16),
        nn.Tanh(),
        nn.Linear(16, 16),
        nn.Tanh(),
        nn.Linear(16, 16),
        nn.Tanh(),
        nn.Linear(16, 3),
    )


MAKERS: dict[str, Callable[[nn.Module], RuleOptimizer]] = {
    "sgd": lambda m: SGD(m.parameters(), lr=0.1),
    "momentum": lambda m: SGD(m.parameters(), lr=0.1, momentum=0.9),
    "adamw": lambda m: AdamW([{"params": list(m[0].parameters())}, {"params": list(m[2:].parameters())}]),
    "muon": lambda m: Muon(m, torch.zeros(2, 6), lr=0.01),
    "normuon": lambda m: Muon(m, torch.zeros(2, 6), lr=0.01, normuon=True),
    "adamw, as on a device": lambda m: AdamW(m.parameters(), capturable=True),
    "muon, as on a device": lambda m: Muon(m, torch.zeros(2, 6), lr=0.01, capturable=True),
}
each = pytest.mark.parametrize("name", MAKERS)


def backward(m: nn.Module, k: int) -> None:
    generator = torch.Generator().manual_seed(k)
    p = next(m.parameters())
    m(torch.randn(8, 6, generator=generator).to(p.dtype)).square().mean().backward()


def trained(name: str, steps: int = 2) -> tuple[nn.Module, RuleOptimizer]:
    m = model()
    optimizer = MAKERS[name](m)
    for k in range(steps):
        optimizer.zero_grad()
        backward(m, k)
        optimizer.step()
    return m, optimizer


def tensors(m: nn.Module, optimizer: RuleOptimizer) -> Iterator[Any]:
    for p in m.parameters():
        yield p.detach()
        yield from optimizer.state[p].values()


def pair(name: str) -> list[tuple[nn.Module, RuleOptimizer]]:
    """Return a model that is stepped by what was taken over, and one by looking anew."""
    both = [(m, MAKERS[name](m)) for m in (model(), model())]
    both[0][1]._standing, both[1][1]._standing = Counting(), Never()
    return both


def alike(both: list[tuple[nn.Module, RuleOptimizer]]) -> bool:
    pairs = zip(tensors(*both[0]), tensors(*both[1]), strict=True)
    return all(torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in pairs)


@each
def test_a_step_takes_over_what_did_not_change(name: str) -> None:
    both = pair(name)
    for k in range(5):
        for m, optimizer in both:
            optimizer.zero_grad()
            backward(m, k)
            optimizer.step()
        assert alike(both)
    assert both[0][1]._standing.count == 4


@pytest.mark.skipif(bool(reason(torch.float32)), reason="nothing compiled")
@pytest.mark.parametrize("name", ["sgd", "momentum", "adamw", "muon"])
def test_compiled_code_knows_the_tensors_of_every_job(name: str) -> None:
    _, optimizer = trained(name, 1)
    assert [job.known is not None for job in optimizer._standing._jobs] == [True] * len(
        optimizer._standing._jobs
    )


def first(m: nn.Module) -> nn.Parameter:
    return m[2].weight  # type: ignore[index,no-any-return]


def options(**new: Any) -> Change:
    def change(_: nn.Module, optimizer: RuleOptimizer) -> None:
        for group in optimizer.param_groups:
            group.update(new)

    return change


def last_group(**new: Any) -> Change:
    return lambda _, optimizer: optimizer.param_groups[-1].update(new)


def data(new: Callable[[Tensor], Tensor]) -> Change:
    """Change the memory of a parameter; the gradient is left as it was."""

    def change(m: nn.Module, _: RuleOptimizer) -> None:
        first(m).data = new(first(m).data)

    return change


def gradient(new: Callable[[Tensor], Tensor | None]) -> Change:
    def change(m: nn.Module, _: RuleOptimizer) -> None:
        p = first(m)
        assert p.grad is not None
        p.grad = new(p.grad)

    return change


def gaps(t: Tensor) -> Tensor:
    wide = t.new_zeros(*t.shape[:-1], 2 * t.shape[-1])
    wide[..., ::2] = t
    return wide[..., ::2]


def transposed(t: Tensor) -> Tensor:
    return t.T.contiguous().T


def in_place_transposed(m: nn.Module, _: RuleOptimizer) -> None:
    """Leave the memory where it is, which holds a square matrix, and read it the other way."""
    first(m).data = first(m).data.T


def other_state(m: nn.Module, optimizer: RuleOptimizer) -> None:
    for field, value in optimizer.state[first(m)].items():
        if isinstance(value, Tensor):
            optimizer.state[first(m)][field] = value * 2


def moved_state(m: nn.Module, optimizer: RuleOptimizer) -> None:
    for value in optimizer.state[first(m)].values():
        if isinstance(value, Tensor):
            value.data = value.data * 2


def count(step: int | Tensor, of: slice) -> Change:
    def change(m: nn.Module, optimizer: RuleOptimizer) -> None:
        for p in list(m.parameters())[of]:
            optimizer.state[p]["step"] = step.clone() if isinstance(step, Tensor) else step

    return change


def one_count(m: nn.Module, optimizer: RuleOptimizer) -> None:
    one = torch.tensor(7.0)
    for slot in optimizer.state.values():
        slot["step"] = one


def other_key(m: nn.Module, optimizer: RuleOptimizer) -> None:
    optimizer.state[nn.Parameter(torch.ones(2))] = optimizer.state.pop(list(optimizer.state)[-1])


def other_dtype(m: nn.Module, _: RuleOptimizer) -> None:
    g = first(m).grad
    assert g is not None
    g.data = g.data.double()


def reloaded(_: nn.Module, optimizer: RuleOptimizer) -> None:
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))


def new_parameter(_: nn.Module, optimizer: RuleOptimizer) -> None:
    p = nn.Parameter(torch.ones(3, 3))
    p.grad = torch.ones(3, 3)
    named = "param_names" in optimizer.param_groups[0]
    rule = "adamw" if isinstance(optimizer, Muon) else optimizer.param_groups[0]["rule"]
    optimizer.add_param_group({"params": [("new", p) if named else p], "rule": rule})


def one_less(m: nn.Module, optimizer: RuleOptimizer) -> None:
    """Take a parameter out of its group, whose gradient stays."""
    for group in optimizer.param_groups:
        group["params"] = [p for p in group["params"] if p is not first(m)]


def order_changed(_: nn.Module, optimizer: RuleOptimizer) -> None:
    optimizer.param_groups.reverse()


CHANGES: dict[str, Change] = {
    "rate": options(lr=0.3),
    "rate of a group": last_group(lr=0.3),
    "rate as a tensor": options(lr=torch.tensor(0.3)),
    "decay": options(weight_decay=0.5),
    "decay of a group": last_group(weight_decay=0.5),
    "momentum": options(momentum=0.5),
    "betas": options(betas=(0.5, 0.6)),
    "amsgrad": options(amsgrad=True),
    "nesterov": options(nesterov=False),
    "scale": options(scale="spectral"),
    "normuon": options(normuon=True),
    "iterations": options(ns_steps=2),
    "float64": options(ns_dtype="float64"),
    "cautious": options(cautious=True),
    "blocks": options(fused=False),
    "capturable": options(capturable=True),
    "memory": data(lambda t: t * 2),
    "order of memory": data(transposed),
    "order alone": in_place_transposed,
    "gaps": data(gaps),
    "no gradient": gradient(lambda g: None),
    "order of the gradient": gradient(transposed),
    "gaps in the gradient": gradient(gaps),
    "opposites": gradient(lambda g: torch._neg_view(-g)),
    "zeros": gradient(lambda g: torch._efficientzerotensor(*g.shape)),
    "another state": other_state,
    "its memory": moved_state,
    "no state": lambda m, optimizer: optimizer.state.pop(first(m)),
    "no states": lambda m, optimizer: optimizer.state.clear(),
    "counts": count(50, slice(None)),
    "a count": count(50, slice(1)),
    "count as a tensor": lambda m, optimizer: optimizer.state[first(m)].update(step=torch.tensor(7.0)),
    "counts as tensors": count(torch.tensor(7.0), slice(None)),
    "one count for all": one_count,
    "state of another": other_key,
    "dtype of the gradient": other_dtype,
    "loaded": reloaded,
    "one more": new_parameter,
    "one less": one_less,
    "order of groups": order_changed,
}


@each
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_noticed(name: str, change: str) -> None:
    """Bitwise: engines are chosen as if nothing had been kept."""
    both = pair(name)
    for k in range(6):
        for m, optimizer in both:
            optimizer.zero_grad()
            backward(m, k)
            if k == 3:
                CHANGES[change](m, optimizer)
            optimizer.step()
        assert alike(both), k


@each
def test_changes_are_seen_in_what_a_step_does(name: str) -> None:
    """Most of them change the result, without which the comparison above would say little."""
    seen = set()
    for change in CHANGES:
        both = pair(name)
        for k in range(4):
            for i, (m, optimizer) in enumerate(both):
                optimizer.zero_grad()
                backward(m, k)
                if k == 3 and i == 0:
                    CHANGES[change](m, optimizer)
                optimizer.step()
        if not all(
            torch.equal(*ps) for ps in zip(both[0][0].parameters(), both[1][0].parameters(), strict=True)
        ):
            seen.add(change)
    assert seen >= {"rate", "rate of a group", "decay", "memory", "no gradient", "zeros", "one less"}


@each
def test_a_gradient_that_comes_and_goes(name: str) -> None:
    both = pair(name)
    for k in range(8):
        for m, optimizer in both:
            optimizer.zero_grad()
            backward(m, k)
            if k in (1, 2, 5):
                first(m).grad = None
            optimizer.step()
        assert alike(both), k


@each
def test_what_is_wrong_raises_as_ever(name: str) -> None:
    m, optimizer = trained(name)
    before = [p.clone() for p in m.parameters()]
    optimizer.zero_grad()
    backward(m, 2)
    good = first(m).grad
    assert good is not None
    first(m).grad = good.clone().fill_(torch.nan)
    if "device" in name:
        optimizer.step()
        with pytest.raises(ValueError, match="in an earlier step"):
            optimizer.raise_if_nonfinite()
    else:
        with pytest.raises(ValueError, match="infinity: nothing was changed"):
            optimizer.step()
    first(m).grad = good.to_sparse()
    with pytest.raises(ValueError, match="sparse"):
        optimizer.step()
    first(m).grad = good.clone()
    first(m).grad.data = torch.ones(3)  # type: ignore[union-attr]
    with pytest.raises(ValueError, match=r"has shape \(3,\)"):
        optimizer.step()
    first(m).grad = good
    options(lr=-1.0)(m, optimizer)
    with pytest.raises(ValueError, match="lr = -1"):
        optimizer.step()
    options(lr=0.1)(m, optimizer)
    if resized := [v for v in optimizer.state[first(m)].values() if isinstance(v, Tensor)]:
        shape = resized[0].shape
        resized[0].resize_(4, 4)
        with pytest.raises(ValueError, match="was resized"):
            optimizer.step()
        resized[0].resize_(shape)
    assert all(map(torch.equal, before, m.parameters()))
    optimizer.step()
    assert not any(map(torch.equal, before, m.parameters()))


@each
def test_what_watches_operations_sees_the_step(name: str) -> None:
    class Watch(TorchDispatchMode):
        seen = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.seen += bool(func._schema.is_mutable)
            return func(*args, **(kwargs or {}))

    _, optimizer = trained(name)
    optimizer._standing.__class__ = Counting
    with Watch() as watch:
        optimizer.step()
    assert watch.seen
    assert not optimizer._standing.count, "all is looked at anew"
    assert not optimizer._standing._jobs, "and nothing is left to the next step"


def test_tensors_without_memory_are_looked_at_anew() -> None:
    p = nn.Parameter(torch.ones(3, device="meta"))
    p.grad = torch.ones(3, device="meta")
    optimizer = AdamW([p])
    optimizer.step()
    assert not optimizer._standing._jobs


@pytest.mark.parametrize("make", [AdamW, SGD])
def test_gradients_may_come_in_another_order_than_parameters(make: Callable[..., RuleOptimizer]) -> None:
    """A step of both in one other order is compiled, too, but not of one in each."""
    torch.manual_seed(0)
    start = torch.randn(4, 3, 5, 5).to(memory_format=torch.channels_last)
    both = [nn.Parameter(start.clone(memory_format=torch.preserve_format)) for _ in range(2)]
    optimizers = [make([p], lr=0.1) for p in both]
    optimizers[1]._standing = Never()
    for k in range(6):
        g = torch.randn(4, 3, 5, 5)
        for p, optimizer in zip(both, optimizers, strict=True):
            p.grad = g.clone() if k > 2 else g.to(memory_format=torch.channels_last)
            optimizer.step()
        assert torch.equal(*both), k


@pytest.mark.skipif(bool(reason(torch.float32)), reason="nothing compiled")
@pytest.mark.parametrize("name", ["sgd", "momentum", "adamw", "muon"])
def test_an_odd_first_gradient_does_not_slow_the_rest(name: str) -> None:
    m = model()
    optimizer = MAKERS[name](m)
    for p in m.parameters():
        p.grad = torch.ones(()).expand(p.shape)
    optimizer.step()
    assert all(job.known is not None for job in optimizer._standing._jobs)


def test_where_a_parameter_may_be_spread_all_is_looked_at() -> None:
    """Also where it has no gradient: the other processes wait to hear of this one's step."""

    class Other(nn.Parameter):
        pass

    for resting, stands in ((nn.Parameter(torch.ones(3)), True), (Other(torch.ones(3)), False)):
        p = nn.Parameter(torch.ones(3))
        p.grad = torch.ones(3)
        optimizer = AdamW([p, resting])
        optimizer.step()
        assert bool(optimizer._standing._jobs) == stands


@each
def test_gradients_are_not_kept(name: str) -> None:
    m = model()
    optimizer = MAKERS[name](m)
    for k in range(3):
        backward(m, k)
        optimizer.step()
        kept = weakref.ref(first(m).grad)
        optimizer.zero_grad()
        gc.collect()
        assert kept() is None


@each
def test_autograd_hears_of_what_is_written(name: str) -> None:
    m = model()
    optimizer = MAKERS[name](m)
    for k in range(3):
        optimizer.zero_grad()
        backward(m, k)
        versions = [p._version for p in m.parameters()]
        optimizer.step()
        assert all(p._version > v for p, v in zip(m.parameters(), versions, strict=True))


@each
def test_a_copy_takes_nothing_over(name: str) -> None:
    m, optimizer = trained(name)
    before = [p.clone() for p in m.parameters()]
    other, its = copy.deepcopy((m, optimizer))
    backward(other, 5)
    its.step()
    assert all(map(torch.equal, before, m.parameters()))
    assert not any(map(torch.equal, before, other.parameters()))
