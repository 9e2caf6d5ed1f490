"""What a search or a profile does to a training is undone bit for bit."""

import copy
import random

import numpy as np
import pytest
import torch
from torch import nn

import downslope.torch as dt
from downslope.diagnose.torch.snapshot import Snapshot, undone


def trained(make, steps=3):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 8), nn.Linear(8, 2)
    )
    optimizer = make(model)
    for _ in range(steps):
        step(model, optimizer)
    return model, optimizer


def step(model, optimizer):
    optimizer.zero_grad()
    model(torch.randn(4, 6)).square().mean().backward()
    optimizer.step()


def everything(model, optimizer):
    state = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    gradients = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    return state, gradients, torch.get_rng_state(), random.getstate(), np.random.get_state()  # noqa: NPY002


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


MAKERS = {
    "muon": lambda m: dt.Muon(m, torch.zeros(4, 6)),
    "adamw": lambda m: dt.AdamW(m.parameters()),
    "torch adam": lambda m: torch.optim.Adam(m.parameters(), amsgrad=True),
    "torch sgd": lambda m: torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9),
}


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("steps", [0, 3])
def test_everything_is_given_back(name, steps):
    model, optimizer = trained(MAKERS[name], steps)
    before, held = everything(model, optimizer), [*model.parameters(), *model.buffers()]
    kept = Snapshot(model, optimizer)
    model.eval()
    model[0].train()
    random.random(), np.random.rand()  # noqa: NPY002
    optimizer.param_groups[0]["lr"] = 7.0
    optimizer.param_groups[0]["new"] = 1
    model.train()
    for _ in range(2):
        step(model, optimizer)
    assert not same(everything(model, optimizer), before)
    kept.restore()
    assert same(everything(model, optimizer), before)
    assert all(a is b for a, b in zip(held, [*model.parameters(), *model.buffers()], strict=True))
    assert all(m.training for m in model.modules())


@pytest.mark.parametrize("name", MAKERS)
def test_training_goes_on_as_if_nothing_had_been(name):
    undisturbed, own = trained(MAKERS[name])
    step(undisturbed, own)
    model, optimizer = trained(MAKERS[name])
    with undone(model, optimizer):
        for _ in range(3):
            step(model, optimizer)
    step(model, optimizer)
    assert same(everything(model, optimizer), everything(undisturbed, own))


def test_it_is_given_back_after_an_error():
    model, optimizer = trained(MAKERS["muon"])
    before = everything(model, optimizer)

    def fails():
        with undone(model, optimizer):
            step(model, optimizer)
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fails()
    assert same(everything(model, optimizer), before)


def test_the_order_of_a_loader_is_given_back():
    torch.manual_seed(0)
    model, optimizer = trained(MAKERS["adamw"])
    loader = torch.utils.data.DataLoader(
        list(range(64)), batch_size=8, shuffle=True, generator=torch.Generator().manual_seed(3)
    )
    first = Snapshot(model, optimizer, loader)
    order = [batch.tolist() for batch in loader]
    assert [batch.tolist() for batch in loader] != order
    first.restore()
    assert [batch.tolist() for batch in loader] == order
