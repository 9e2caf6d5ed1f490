"""A model is left exactly as it was: every part of its state, proved part by part."""

import gc
import random
import weakref

import numpy as np
import pytest

torch = pytest.importorskip("torch")
F, nn = torch.nn.functional, torch.nn

from downslope.grouping.torch import partition  # noqa: E402

X = torch.linspace(-1, 1, 4 * 8).reshape(4, 8)


class Restless(nn.Module):
    """Changes all that a forward pass can change."""

    def __init__(self):
        super().__init__()
        self.read, self.norm, self.head = nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Linear(16, 3)
        self.inner = nn.utils.parametrizations.spectral_norm(nn.Linear(16, 16))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))
        self.register_buffer("place", torch.zeros(2))
        self.average = nn.Parameter(torch.ones(16), requires_grad=False)
        self.plain, self.calls, self.log = torch.zeros(3), 0, ["first"]

    def forward(self, x):
        h = F.dropout(self.norm(self.read(x)), 0.5)
        with torch.no_grad():
            self.average.lerp_(h.mean(0), 0.5)
        self.count += 1
        self.place = torch.ones(2)  # bound anew, not written to
        self.plain.add_(1)
        self.calls += 1
        self.log.append("again")
        self.cache = h
        self.register_buffer("late", torch.ones(1))
        random.random()
        np.random.rand()  # noqa: NPY002
        return self.head(self.inner(h))


@pytest.mark.parametrize("training", [True, False])
def test_tensors_attributes_and_random_states(training):
    model = Restless().train(training)
    model(X).sum().backward()
    del model.cache, model.late
    hook = model.read.register_forward_hook(lambda *_: None)
    before = {k: (v, v.clone()) for k, v in model.state_dict(keep_vars=True).items()}
    plain = model.plain.clone()
    without = [n for n, p in model.named_parameters() if p.grad is None]
    values = {n: (p.grad, p.grad.clone()) for n, p in model.named_parameters() if p.grad is not None}
    calls, log = model.calls, list(model.log)
    modes = [m.training for m in model.modules()]
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002

    partition(model, X)

    after = model.state_dict(keep_vars=True)
    assert list(after) == list(before)
    for k, (tensor, value) in before.items():
        assert after[k] is tensor
        assert torch.equal(tensor, value), k
    assert torch.equal(model.plain, plain)
    assert (model.calls, model.log) == (calls, log)
    assert not hasattr(model, "cache")
    assert without == [n for n, p in model.named_parameters() if p.grad is None]
    for n, (grad, value) in values.items():
        assert model.get_parameter(n).grad is grad
        assert torch.equal(grad, value)
    assert [m.training for m in model.modules()] == modes
    assert hook.id in model.read._forward_hooks
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.array_equal(np.random.get_state()[1], states[2])  # noqa: NPY002


def test_the_model_would_have_changed():
    """The same model does change all of it when it is simply called, so the test above can fail."""
    model = Restless()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    model(X)
    changed = {k for k, v in before.items() if not torch.equal(v, model.state_dict()[k])}
    assert {"count", "place", "average", "norm.running_mean", "norm.num_batches_tracked"} <= changed
    assert model.calls == 1


def test_state_is_put_back_when_the_model_fails():
    model = Restless()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    model.head = nn.Linear(7, 3)
    with pytest.raises(ValueError, match="mat1 and mat2 shapes cannot be multiplied"):
        partition(model, X)
    assert torch.equal(model.state_dict()["norm.running_mean"], before["norm.running_mean"])
    assert model.calls == 0
    assert torch.is_grad_enabled()


def test_switches_are_put_back():
    assert torch.backends.mha.get_fastpath_enabled()
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    partition(layer, X[None])
    assert torch.backends.mha.get_fastpath_enabled()
    assert torch.is_grad_enabled()


def test_activations_are_freed_as_the_model_frees_them():
    alive, most = weakref.WeakSet(), []

    class Layer(nn.Linear):
        def forward(self, x):
            y = super().forward(x).relu()
            alive.add(y)
            most.append(len(alive))
            return y

    model = nn.Sequential(*(Layer(8, 8) for _ in range(12)))
    gc.disable()  # by reference counts alone
    try:
        partition(model, X)
    finally:
        gc.enable()
    assert max(most) <= 3  # what a layer reads, what it makes, and the sequence's own hold
    assert len(alive) <= 1


def test_one_forward_pass_and_no_copy_of_the_parameters():
    passes = []

    class Model(nn.Linear):
        def forward(self, x):
            passes.append(self.weight.data_ptr())
            return super().forward(x)

    model = Model(8, 8)
    at = model.weight.data_ptr()
    p = partition(model, X)
    assert passes == [at]
    assert p.parameters["weight"] is model.weight


class Frozen(dict):
    """A configuration that refuses to be written, as those of diffusers do."""

    def refuse(self, *_):
        raise TypeError("frozen")

    update = __setitem__ = __delitem__ = pop = setdefault = refuse


def test_a_configuration_that_refuses_to_be_written_stays_as_it_is():
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
    model.config = Frozen(width=16)
    assert partition(model, X)["0.weight"].role.value == "input"
    assert model.config == {"width": 16}
