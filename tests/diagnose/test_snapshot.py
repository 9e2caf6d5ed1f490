"""What a search or a profile does to a training is undone bit for bit."""

import copy
import queue
import random
import threading
import time
import weakref
from collections import Counter, OrderedDict, defaultdict, deque

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


class Meter:
    def __init__(self):
        self.total, self.seen, self.recent = 0.0, torch.zeros(2), deque(maxlen=2)


class Holding(nn.Linear):
    """A module that keeps what it sees in every way but a buffer; one that it has is replaced."""

    def __init__(self):
        super().__init__(6, 2)
        self.mean, self.scale, self.count, self.name = torch.zeros(6), torch.ones(6), 0, "new"
        self.array, self.history, self.sizes = np.zeros(3), [torch.zeros(1)], {"a": [1, 2], "b": {3}}
        self.recent, self.pair, self.cache = deque([1.0], maxlen=2), (torch.zeros(2), [0]), None
        self.tables, self.meter = defaultdict(list), Meter()
        self.aside = [nn.Linear(6, 2)]
        self.draw = random.Random(1)
        self.generator = torch.Generator().manual_seed(1)
        self.numpy = np.random.default_rng(1)
        self.register_buffer("moving", torch.zeros(6))

    def forward(self, x):
        seen = x.detach().mean(0)
        self.mean.add_(seen)  # in place
        self.scale = 0.9 * self.scale + seen  # another tensor
        self.moving = 0.9 * self.moving + seen
        self.count += 1
        self.name = f"pass {self.count}"
        self.array += self.count
        self.history[0].add_(1)
        self.history.append(seen)
        self.sizes["a"].append(self.count)
        self.sizes["b"].add(self.count)
        self.sizes["c"] = self.count
        self.recent.append(float(self.count))
        self.pair[0].add_(1)
        self.pair[1][0] += 1
        self.cache = seen if self.cache is None else self.cache
        self.later = self.count
        self.tables[self.count].append(1)
        self.meter.total += 1.0
        self.meter.seen += 1
        self.meter.recent.append(self.count)
        with torch.no_grad():
            self.aside[0].weight.add_(1)
        noise = self.draw.random() + self.numpy.random() + torch.rand(1, generator=self.generator)
        return super().forward(x) + noise


def holdings(model):
    kept = {k: v for k, v in vars(model).items() if k not in ("_parameters", "meter", "aside")}
    generators = {k: kept.pop(k) for k in ("draw", "generator", "numpy")}
    kept["_buffers"] = dict(kept["_buffers"])
    drawn = [
        generators["draw"].getstate(), generators["generator"].get_state(),
        str(generators["numpy"].bit_generator.state),
    ]  # fmt: skip
    return copy.deepcopy([kept, vars(model.meter), model.aside[0].state_dict(), drawn])


def same_holdings(a, b):
    if isinstance(a, dict | OrderedDict):
        return a.keys() == b.keys() and all(same_holdings(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple | deque):
        return len(a) == len(b) and all(map(same_holdings, a, b))
    return same(a, b)


def test_what_modules_hold_outside_of_buffers_is_given_back():
    torch.manual_seed(0)
    model = nn.Sequential(Holding(), nn.Tanh())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    step(model, optimizer)
    before, mean, moving = holdings(model[0]), model[0].mean, model[0].moving
    kept = Snapshot(model, optimizer)
    for _ in range(2):  # as often as wanted
        for _ in range(3):
            step(model, optimizer)
        assert not same_holdings(holdings(model[0]), before)
        kept.restore()
        assert same_holdings(holdings(model[0]), before)
    assert model[0].mean is mean
    assert model[0].moving is moving
    del model[0].later
    fresh = Snapshot(model, optimizer)
    step(model, optimizer)
    fresh.restore()
    assert "later" not in vars(model[0])


def test_what_a_graph_needs_of_an_attribute_stays_usable():
    class Keeps(nn.Linear):
        def forward(self, x):
            self.last = super().forward(x).exp()
            return self.last

    model = Keeps(6, 2)
    out = model(torch.ones(1, 6))
    with undone(model):
        model(torch.zeros(1, 6))
    assert model.last is out
    out.sum().backward()  # exp needs its result as it was


def test_hooks_put_on_or_taken_off_meanwhile_stay_so():
    model = nn.Linear(6, 2)
    seen = []
    off = model.register_forward_hook(lambda *_: seen.append("off"))
    kept = Snapshot(model)
    off.remove()
    model.register_forward_hook(lambda *_: seen.append("on"))
    kept.restore()
    model(torch.zeros(1, 6))
    assert seen == ["on"]


class Frozen(dict):
    """A dict that nobody changes, as configurations are."""

    def _refuse(self, *_):
        raise TypeError("frozen")

    __setitem__ = __reduce_ex__ = update = clear = copy = _refuse


class Closed:
    """An object that does not show what it holds."""

    def __getattribute__(self, name):
        if name == "__dict__":
            raise RuntimeError("closed")
        return object.__getattribute__(self, name)


def nested(depth):
    inner = [0]
    outer = inner
    for _ in range(depth):
        outer = [outer]
    return outer, inner


def died():
    return weakref.proxy(nn.Linear(1, 1))


@pytest.mark.parametrize("make", [lambda: Frozen(a=1), Closed, died, lambda: object(), threading.Lock])
def test_what_does_not_let_itself_be_read_is_left_alone(make):
    model = Holding()
    held = make()
    vars(model)["odd"] = held
    before = model.history[:]
    with undone(model):
        model(torch.ones(2, 6))
    assert vars(model)["odd"] is held
    assert model.history == before
    assert model.count == 0


def test_what_does_not_let_itself_be_written_keeps_nothing_else_from_its_values():
    model = nn.Sequential(nn.Linear(6, 2), Holding())
    model[0].array = np.zeros(2)
    kept = Snapshot(model)
    model[1](torch.ones(2, 6))
    model[0].array.flags.writeable = False
    with pytest.warns(UserWarning, match="could not be given back: ValueError"):
        kept.restore()
    assert model[1].count == 0


def test_a_tensor_that_was_resized_and_the_gradient_of_one_are_given_back():
    model = nn.Linear(2, 2)
    model.mean = torch.arange(3.0)
    model.point = torch.zeros(2, requires_grad=True)
    model.point.grad = torch.ones(2)
    mean, gradient = model.mean, model.point.grad
    with undone(model):
        mean.data = torch.zeros(5)
        gradient.fill_(7.0)
        model.point.grad = None
    assert model.mean is mean
    assert mean.tolist() == [0.0, 1.0, 2.0]
    assert model.point.grad is gradient
    assert gradient.tolist() == [1.0, 1.0]


def test_whoever_looks_at_a_part_of_an_attribute_sees_it_given_back():
    model = nn.Linear(2, 2)
    model.total = torch.arange(3.0)
    part = model.total[1:]
    with undone(model):
        model.total.fill_(7.0)
    assert part.tolist() == [1.0, 2.0]


def test_how_far_wrappers_have_agreed_is_left_alone():
    class DataParallel(nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module, self.rounds = module, 0

    inner = nn.Linear(2, 2)
    inner.rounds = 0
    wrapped = DataParallel(inner)
    with undone(wrapped):
        wrapped.rounds = inner.rounds = 3
    assert (wrapped.rounds, inner.rounds) == (3, 0)


def test_containers_within_containers_are_followed_however_deep():
    model = nn.Linear(1, 1)
    model.outer, inner = nested(10_000)
    with undone(model):
        inner[0] = 1
    assert inner == [0]


def test_what_a_module_and_an_object_hold_is_kept_as_the_module_does():
    model = nn.Linear(1, 1)
    model.meter, within = Meter(), Meter()
    model.meter.list = model.list = [within]
    with undone(model):
        within.total = 5.0
    assert within.total == 0.0


def test_containers_of_other_kinds_are_refilled_in_their_order():
    model = nn.Linear(1, 1)
    model.order, model.count = OrderedDict(a=1, b=2, c=3), Counter("aab")
    model.order.move_to_end("a")
    model.frozen = Frozen(a=1)
    with undone(model):
        model.order.move_to_end("b")
        model.count["b"] += 5
        dict.__setitem__(model.frozen, "a", 2)
    assert list(model.order.items()) == [("b", 2), ("c", 3), ("a", 1)]
    assert model.count == Counter("aab")
    assert model.frozen == {"a": 1}


def test_threads_and_queues_are_not_taken_back():
    model = nn.Linear(1, 1)
    model.thread, model.queue = threading.Thread(target=lambda: model.queue.get()), queue.Queue()
    model.queue.put(1)
    with undone(model):
        model.thread.start()
        model.thread.join()
    assert not model.thread.is_alive()  # it has run, and what it took is taken
    model.thread.join()
    assert model.queue.empty()


def test_buffers_made_under_inference_mode_are_given_back():
    model = nn.Linear(1, 1)
    with torch.inference_mode():
        model.register_buffer("made", torch.ones(3))
        model.plain = [torch.ones(3)]
    with undone(model), torch.inference_mode():
        model.made.add_(1)
        model.plain[0].add_(1)
    assert model.made.tolist() == model.plain[0].tolist() == [1, 1, 1]


def test_arrays_in_files_are_not_read(tmp_path):
    model = nn.Linear(1, 1)
    file = tmp_path / "numbers"
    model.numbers = np.memmap(file, mode="w+", shape=(4,), dtype=float)
    with undone(model):
        model.numbers[:] = 1
    assert model.numbers.tolist() == [1, 1, 1, 1]


def test_many_numbers_are_kept_in_little_time():
    model = nn.Linear(1, 1)
    model.table = [0.0] * 10**6

    def seconds(f):
        begun = time.process_time()
        f()
        return time.process_time() - begun

    kept = min(seconds(lambda: Snapshot(model).restore()) for _ in range(3))
    looked = min(seconds(lambda: list(map(isinstance, model.table, [float] * 10**6))) for _ in range(3))
    assert kept < 9 * looked  # about 4; a look at each by itself takes 14
