"""A watched PyTorch model: each ailment is provoked, a healthy model has none, and nothing is changed."""

from __future__ import annotations

import copy
import io
import math
import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from threading import Barrier, Event, Thread, current_thread

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import flex_attention
from torch.utils.checkpoint import checkpoint

from downslope.diagnose.watch import Ailment, Finding, HealthWarning, NonFiniteError
from downslope.diagnose.watch.torch.backward import _begun_at
from downslope.errors import UsageError
from downslope.torch import watch


class Tail(nn.Module):
    """Two layers, and a last operation of the test's choice."""

    def __init__(self, last: Callable[[Tensor], Tensor] = lambda h: h) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Dropout(0.2))
        self.head = nn.Linear(6, 3)
        self.last = last

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.head(self.body(x)))


def compiled() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler's own
        return torch.compile(Tail())


def batch() -> Tensor:
    return torch.randn(5, 4, generator=torch.Generator().manual_seed(1))


def found(model: nn.Module, x: Tensor, passes: int = 1) -> list[Finding]:
    with watch(model, on_finding="collect") as doctor:
        for _ in range(passes):
            model.zero_grad()
            model(x).sum().backward()
    return doctor.findings


def masked(h: Tensor, rows: Tensor) -> Tensor:
    return torch.softmax(h + torch.zeros_like(h).masked_fill(rows[:, None], -math.inf), -1)


@pytest.mark.parametrize(
    ("last", "ailment", "operation"),
    [
        (lambda h: (h - h).log(), Ailment.FORWARD, "log"),
        (lambda h: (h - h) / (h - h), Ailment.FORWARD, "div"),
        (lambda h: (h * 1e30).exp().mul(0), Ailment.FORWARD, "exp"),
        (lambda h: masked(h, torch.ones(5, dtype=torch.bool)), Ailment.FORWARD, "_softmax"),
        (lambda h: h.abs().mul(0).sqrt(), Ailment.BACKWARD, "SqrtBackward0"),
        (lambda h: torch.where(h < 9, h, (h - h).log()), Ailment.BACKWARD, "LogBackward0"),
    ],
    ids=["log", "0/0", "overflow", "mask", "root", "where"],
)
def test_the_first_operation_that_makes_it_is_named(
    last: Callable[[Tensor], Tensor], ailment: Ailment, operation: str
) -> None:
    findings = found(Tail(last), batch())
    assert [(f.ailment, f.operation) for f in findings] == [(ailment, operation)]
    assert "\n" not in str(findings[0])


def test_the_module_is_named() -> None:
    model = Tail()
    model.body.append(nn.Sequential(nn.Identity(), Tail(torch.log)))  # the first has no say
    model.body[-1][1].head, model.body[-1][1].body = nn.Linear(6, 6), nn.Identity()
    (finding,) = [f for f in found(model, batch()) if f.ailment is Ailment.FORWARD]
    assert (finding.where, finding.operation) == ("body.3.1", "log")


def test_infinities_of_a_mask_are_no_finding() -> None:
    some = torch.zeros(5, 3, dtype=torch.bool)
    some[:, 1] = True
    assert found(Tail(lambda h: torch.softmax(h.masked_fill(some, -math.inf), -1)), batch()) == []
    assert found(Tail(lambda h: h.masked_fill(some, -math.inf).softmax(-1).square()), batch(), 12) == []


@pytest.mark.parametrize(
    "mask",
    [
        lambda some, least: torch.where(some, torch.scalar_tensor(least), torch.scalar_tensor(0.0)),
        lambda some, least: torch.full((5, 3), least).masked_fill(~some, 0.0),
        lambda some, least: (1 - (~some).float()) * least,
        lambda some, least: some.float().mul(least).expand(2, 5, 3)[1],
    ],
    ids=["where", "full", "product", "expanded"],
)
def test_the_least_number_of_a_mask_is_not_near_overflow(mask: Callable[[Tensor, float], Tensor]) -> None:
    some = torch.zeros(5, 3, dtype=torch.bool)
    some[:, 1] = True
    least = torch.finfo(torch.float32).min
    assert found(Tail(lambda h: torch.softmax(h + mask(some, least), -1)), batch()) == []
    large = found(Tail(lambda h: (h + mask(some, 0.0)) * 1e10 * 1e10 * 1e10 * 2e8), batch())
    assert [f.operation for f in large if f.ailment is Ailment.OVERFLOW] == ["mul"]


def test_what_comes_from_outside_is_told_apart() -> None:
    (given,) = found(Tail(), batch() / 0)
    assert given.ailment is Ailment.INPUT
    model = Tail()
    with torch.no_grad():
        model.head.bias[1] = math.nan
    (held,) = found(model, batch())
    assert (held.ailment, held.where) == (Ailment.PARAMETER, "head.bias")
    model = Tail()
    with watch(model, on_finding="collect") as doctor:
        (model(batch()).sum() * math.nan).backward()
    assert [f.ailment for f in doctor.findings] == [Ailment.LOSS]


@pytest.mark.parametrize(
    "loss",
    [
        lambda h: nn.functional.cross_entropy(h, torch.full((5,), -100)),
        lambda h: (-1 - h.square()).log().mean(),
        lambda h: h.detach().sum() * math.inf + h.sum(),
    ],
    ids=["every target ignored", "log", "infinite"],
)
def test_a_loss_whose_gradient_is_finite(loss: Callable[[Tensor], Tensor]) -> None:
    model = Tail()
    weight = model.head.weight
    for begin in (Tensor.backward, torch.autograd.backward, lambda t: torch.autograd.grad(t, weight)):
        with watch(model, on_finding="collect") as doctor:
            value = loss(model(batch()))
            begin(value)
        assert [f.ailment for f in doctor.findings] == [Ailment.LOSS]
        assert ("the loss is NaN" if value.isnan() else "the loss is infinite") in doctor.findings[0].text


@pytest.mark.parametrize("reentrant", [False, True])
def test_the_loss_of_a_model_within_a_checkpoint(reentrant: bool) -> None:
    model, x = Tail(), batch().requires_grad_()
    with watch(model, on_finding="collect") as doctor:
        (-1 - checkpoint(model, x, use_reentrant=reentrant).square()).log().mean().backward()
    assert [f.ailment for f in doctor.findings] == [Ailment.LOSS]


def test_a_pass_that_begins_at_many_numbers_has_no_loss() -> None:
    model = Tail(lambda h: h.masked_fill(h > -9, -math.inf))
    with watch(model, on_finding="raise"):
        model(batch()).backward(torch.zeros(5, 3))


def test_the_loss_is_found_from_a_thread_of_the_device() -> None:
    found: list[list[Tensor]] = []

    def look(gradient: Tensor) -> None:
        thread = Thread(target=lambda: found.append(_begun_at()))
        thread.start()
        thread.join()

    x = torch.ones(2, requires_grad=True)
    x.register_hook(look)
    loss = x.sum()
    loss.backward()
    assert found[0][0] is loss
    assert _begun_at() == []


class Centred(Tail):
    def __init__(self) -> None:
        super().__init__()
        self.mean = torch.tensor([1.0, math.nan, 0.0])

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) - self.mean


def one_entry(h: Tensor) -> Tensor:
    h = h.clone()
    h[0, 0] = math.nan
    return h


@pytest.mark.parametrize(
    "make",
    [
        Centred,
        lambda: Tail(one_entry),
        lambda: Tail(lambda h: h * torch.from_numpy(h.detach().numpy() * np.float32(math.nan))),
    ],
    ids=["attribute", "entry", "numpy"],
)
def test_what_no_operation_made_is_not_blamed_on_the_data(make: Callable[[], nn.Module]) -> None:
    findings = found(make(), batch(), 3)
    assert [f.ailment for f in findings] == [Ailment.CONSTANT]
    assert "look at the data" not in findings[0].text
    with watch(make(), on_finding="raise") as doctor, pytest.raises(NonFiniteError):
        doctor._model(batch())


def test_parameters_that_no_gradient_reaches() -> None:
    class Cut(Tail):
        def __init__(self) -> None:
            super().__init__()
            self.spare, self.aside = nn.Linear(2, 2), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + self.aside(x).detach()

    findings = found(Cut(), batch(), 3)
    assert {(f.ailment, f.where) for f in findings} == {
        (Ailment.UNUSED, "spare.weight"),
        (Ailment.UNUSED, "spare.bias"),
        (Ailment.DETACHED, "aside.weight"),
        (Ailment.DETACHED, "aside.bias"),
    }
    frozen = Cut().requires_grad_(False)
    frozen.head.requires_grad_(True)
    assert found(frozen, batch()) == []


@pytest.mark.parametrize(
    ("use", "why"),
    [
        (lambda y, a: y + a.detach() * 2, "detach() is called in the model"),
        (lambda y, a: y, "or for a result that nothing reads"),
        (
            lambda y, a: torch.softmax(y, -1),
            "or for a result that nothing reads",
        ),  # torch detaches what it keeps
        (lambda y, a: y + (a > 0), "a cast to integers"),
    ],
    ids=["detached", "left out", "softmax", "compared"],
)
def test_why_no_gradient_reaches_a_parameter(use: Callable[[Tensor, Tensor], Tensor], why: str) -> None:
    class Aside(Tail):
        def __init__(self) -> None:
            super().__init__()
            self.aside = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            early = torch.softmax(x, -1).detach() + 1  # before the parameter is used
            return use(super().forward(x + early), self.aside(x))

    findings = found(Aside(), batch())
    assert {f.where for f in findings} == {"aside.weight", "aside.bias"}
    assert all(why in f.text for f in findings)


def test_dead_units_and_not_the_rows_of_a_table() -> None:
    model = Tail()
    with torch.no_grad():
        model.body[0].bias[:4], model.body[0].bias[4:] = -1e3, 10.0  # four of six units never fire
    findings = found(model, batch(), 10)
    assert [(f.ailment, f.where) for f in findings] == [(Ailment.DEAD, "body.0.weight")]
    assert "67% of the 6 units" in findings[0].text
    table = nn.Sequential(nn.Embedding(50, 4), Tail(lambda h: h.square()))
    assert found(table, torch.arange(5), 12) == []


def test_exploding_and_vanishing_gradients() -> None:
    model = Tail()
    model.body[2] = nn.Identity()
    with watch(model, on_finding="collect") as doctor:
        for scale in [1.0] * 6 + [1e5]:
            model.zero_grad()
            (scale * model(batch()).square().sum()).backward()
    assert {f.ailment for f in doctor.findings} == {Ailment.EXPLODING}
    faint = nn.Sequential(nn.Linear(4, 4), *[nn.Sigmoid(), nn.Linear(4, 4)] * 1, nn.Linear(4, 4))
    with torch.no_grad():
        faint[2].weight.mul_(1e-10)
    assert (Ailment.VANISHING, "0.weight") in {(f.ailment, f.where) for f in found(faint, batch())}


def test_half_precision_near_its_end() -> None:
    model = nn.Linear(4, 2, bias=False).half()
    with torch.no_grad():
        model.weight.fill_(60.0)
    (finding,) = found(model, torch.full((1, 4), 60.0).half())
    assert finding.ailment is Ailment.OVERFLOW
    assert found(nn.Linear(4, 2).half(), torch.ones(1, 4).half()) == []


def test_values_gradients_and_the_random_state_are_as_without_it() -> None:
    results = []
    for watched in (False, True):
        model = Tail()
        doctor = watch(model) if watched else None
        torch.manual_seed(3)
        out = model(batch())
        out.square().sum().backward()
        results.append([out, torch.rand(2), *[p.grad for p in model.parameters()]])
        if doctor is not None:
            doctor.close()
            assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    for plain, seen in zip(*results, strict=True):
        assert torch.equal(plain, seen)


def test_an_error_of_the_model_ends_the_watch_of_its_pass() -> None:
    model = Tail()
    with watch(model) as doctor:
        with pytest.raises(RuntimeError, match="shapes"):
            model(torch.ones(2, 9))
        model(batch()).sum().backward()
        assert torch.utils._python_dispatch._get_current_dispatch_mode() is None
    assert doctor.findings == []


def test_warn_raise_and_every() -> None:
    with watch(Tail(torch.log)) as doctor, pytest.warns(HealthWarning, match="log in the model"):
        doctor._model(batch())
    model = Tail(lambda h: h.abs().mul(0).sqrt())
    with watch(model, on_finding="raise"), pytest.raises(NonFiniteError, match="SqrtBackward0"):
        model(batch()).sum().backward()
    model = Tail()
    with watch(model, every=3) as doctor:
        for _ in range(7):
            model(batch()).sum().backward()
    assert doctor.passes == 3
    assert str(doctor) == "nothing found in 3 passes watched"


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize(
    ("model", "options", "expected"),
    [
        (lambda: 3, {}, "model is an int"),
        (compiled, {}, "compiled"),
        (lambda: Tail().to("meta"), {}, "meta"),
        (lambda: torch.jit.trace(Tail().eval(), batch()), {}, "ScriptModule, which takes no hooks"),
        (Tail, {"every": 0}, "every = 0"),
        (Tail, {"on_finding": "cry"}, "on_finding = 'cry'"),
    ],
)
def test_bad_input(model: Callable[[], nn.Module], options: dict, expected: str) -> None:
    with pytest.raises(UsageError, match=expected):
        watch(model(), **options)


class Complex(nn.Module):
    """A layer of complex numbers, whose gradients are conjugates that torch has not written out."""

    def __init__(self, last: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.weight, self.last = nn.Parameter(torch.randn(4, 4, dtype=torch.complex64)), last

    def forward(self, x: Tensor) -> Tensor:
        return self.last((torch.fft.fft(x) @ self.weight.conj().T).abs())


class Ragged(nn.Module):
    def __init__(self, layout: torch.layout, last: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.layer, self.layout, self.last = nn.Linear(4, 4), layout, last

    def forward(self, x: Tensor) -> Tensor:
        rows = torch.nested.nested_tensor([x[:2], x[2:]], layout=self.layout)
        return self.last(self.layer(rows).to_padded_tensor(0.0))


@pytest.mark.filterwarnings("ignore:.*nested tensors", "ignore:.*torch.jit")
@pytest.mark.parametrize(
    "make",
    [
        lambda last: Complex(last),
        lambda last: Ragged(torch.strided, last),
        lambda last: Ragged(torch.jagged, last),
        lambda last: Tail(lambda h: last(h.to(torch.float8_e5m2).to(h.dtype) * 0 + h)),
        lambda last: Tail(lambda h: last(torch.vmap(torch.func.grad(lambda z: z.square().sum()))(h))),
        lambda last: Tail(lambda h: last(torch.func.jvp(torch.sin, (h,), (torch.ones_like(h),))[1])),
    ],
    ids=["complex", "nested", "jagged", "float8", "vmap of grad", "jvp"],
)
def test_tensors_that_cannot_be_read_like_others(make: Callable[..., nn.Module]) -> None:
    model = make(lambda h: h)
    model.eval()
    assert found(model, batch(), 3) == []
    findings = found(make(lambda h: (h.abs() * 0).log()), batch())
    assert [(f.ailment, f.operation) for f in findings] == [(Ailment.FORWARD, "log")]


@pytest.mark.filterwarnings("ignore:.*nested tensors")
def test_an_encoder_that_packs_its_batch_for_speed() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.TransformerEncoder(layer, 2).eval()
    with watch(model) as doctor, torch.no_grad():
        model(torch.randn(2, 5, 8), src_key_padding_mask=torch.arange(5) > torch.tensor([[2], [4]]))
    assert doctor.findings == []


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_the_model_within_a_transform_of_torch_func() -> None:
    model = Tail(lambda h: h.log()).eval()
    with watch(model, on_finding="collect") as doctor:
        parameters = dict(model.named_parameters())

        def loss(p: dict[str, Tensor], x: Tensor) -> Tensor:
            return torch.func.functional_call(model, p, (x,)).sum()

        torch.vmap(torch.func.grad(loss), (None, 0))(parameters, batch())
    assert (Ailment.FORWARD, "log") in {(f.ailment, f.operation) for f in doctor.findings}


@dataclass
class Output:
    logits: Tensor
    loss: Tensor


def test_outputs_in_a_dataclass_are_looked_into() -> None:
    with watch(Tail(lambda h: Output(h, h.sub(1e9).log().sum())), on_finding="collect") as doctor:
        doctor._model(batch()).loss.backward()
    assert [(f.ailment, f.operation) for f in doctor.findings] == [(Ailment.FORWARD, "log")]


def test_an_ill_pass_is_not_forgotten_over_a_healthy_one() -> None:
    """The loss of both is no news; that of the next pass is."""
    model = Tail()
    with watch(model, on_finding="collect") as doctor:
        (model(batch() * math.nan).sum() + model(batch()).sum()).backward()
        assert [f.ailment for f in doctor.findings] == [Ailment.INPUT]
        (model(batch()).sum() * math.inf).backward()
    assert [f.ailment for f in doctor.findings] == [Ailment.INPUT, Ailment.LOSS]


class Heads(Tail):
    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Linear(6, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.body(x)
        return self.head(h), self.other(h)


def test_losses_that_go_back_one_after_the_other_cut_nothing_off() -> None:
    model = Heads()
    with watch(model, on_finding="collect") as doctor:
        for _ in range(12):
            model.zero_grad()
            one, other = model(batch())
            one.sum().backward(retain_graph=True)
            other.sum().backward()
        assert doctor.findings == []
        for _ in range(12):
            model.zero_grad()
            model(batch())[0].sum().backward()
    assert {(f.ailment, f.where) for f in doctor.findings} == {
        (Ailment.DETACHED, "other.weight"),
        (Ailment.DETACHED, "other.bias"),
    }
    assert "no loss of 10 backward passes" in doctor.findings[0].text


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of torch's weak references
def test_a_model_that_is_compiled_later() -> None:
    model = Tail(lambda h: (h.abs() * 0).log())
    with watch(model, on_finding="collect") as doctor, warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        torch.compile(model, backend="aot_eager")(batch())
    assert [(f.ailment, f.operation) for f in doctor.findings] == [(Ailment.FORWARD, "log")]
    assert not [w for w in said if "Dynamo" in str(w.message)]


def at_once(*functions: Callable[[], object]) -> None:
    """Run each in a thread of its own, by the names 0, 1, …; what they raise is raised."""
    raised: list[BaseException] = []

    def run(function: Callable[[], object]) -> None:
        try:
            function()
        except BaseException as error:
            raised.append(error)

    threads = [Thread(target=run, args=(f,), name=str(i)) for i, f in enumerate(functions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if raised:
        raise raised[0]


def test_forward_passes_at_once_are_told_apart() -> None:
    meet = Barrier(2, timeout=30)

    def last(h: Tensor) -> Tensor:
        meet.wait()  # both are within the model, and have been through its layers
        h = (h - h).log() if current_thread().name == "1" else h
        meet.wait()
        return h

    model = Tail(last)
    with watch(model, on_finding="collect") as doctor:
        outputs: dict[str, Tensor] = {}

        def forward() -> None:
            outputs[current_thread().name] = model(batch())

        at_once(forward, forward)
        assert [(f.ailment, f.operation) for f in doctor.findings] == [(Ailment.FORWARD, "log")]
        outputs["1"].sum().backward()  # known to be ill
        assert len(doctor.findings) == 1
        (outputs["0"].sum() * math.inf).backward()
    assert [f.ailment for f in doctor.findings] == [Ailment.FORWARD, Ailment.LOSS]
    assert doctor.passes == 2


def test_backward_passes_at_once_are_told_apart() -> None:
    meet = Barrier(2, timeout=30)

    def wait(_: Tensor) -> None:
        meet.wait()

    def last(h: Tensor) -> Tensor:
        if current_thread().name == "1":
            h = h.abs().mul(0).sqrt()
        h.register_hook(wait)
        return h * 2

    model = Tail(last)
    with watch(model, on_finding="collect") as doctor:
        outputs: dict[str, Tensor] = {}

        def forward() -> None:
            outputs[current_thread().name] = model(batch())

        at_once(forward, forward)
        # each in the other's thread: a pass belongs to its graph
        at_once(*[outputs[i].sum().backward for i in ("1", "0")])
        assert [(f.ailment, f.operation) for f in doctor.findings] == [(Ailment.BACKWARD, "SqrtBackward0")]
        assert not doctor._backward._tasks
        assert not doctor._backward._threads


@pytest.mark.parametrize("models", [1, 2])
def test_threads_that_train_are_found_healthy(models: int) -> None:
    nets = [Tail(torch.tanh) for _ in range(models)]
    doctors = [watch(net, on_finding="raise") for net in nets]

    def train() -> None:
        net = nets[int(current_thread().name) % models]
        for _ in range(20):
            net(batch()).square().sum().backward()
        assert torch.utils._python_dispatch._get_current_dispatch_mode() is None

    at_once(train, train, train)
    assert sum(doctor.passes for doctor in doctors) == 60
    for doctor in doctors:
        assert str(doctor).startswith("nothing found")
        doctor.close()


class Attention(nn.Module):
    """Attention whose scores a function changes, which PyTorch compiles by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.biases = nn.Linear(4, 12), nn.Parameter(torch.zeros(5))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, 1, 4)).permute(2, 0, 3, 1, 4)
        return flex_attention(q, k, v, score_mod=lambda score, b, h, i, j: score + self.biases[j])


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_an_operator_that_holds_functions_is_one_operation() -> None:
    model, x = Attention(), torch.randn(2, 5, 4)
    stance = torch._dynamo.eval_frame._stance
    with torch.no_grad(), watch(model, on_finding="collect") as doctor:  # on CPUs it has no backward pass
        first = model(x)
        assert not doctor.findings
        model.biases[2] = math.nan
        model(x)
    assert [(f.ailment, f.operation) for f in doctor.findings] == [(Ailment.FORWARD, "flex_attention")]
    assert torch._dynamo.eval_frame._stance is stance
    model.biases.data.zero_()
    with torch.no_grad():
        torch.testing.assert_close(model(x), first)


def test_passes_of_several_threads_leave_the_compiler_as_it_was() -> None:
    stance = torch._dynamo.eval_frame._stance
    nets = [Tail(torch.tanh) for _ in range(2)]
    doctors = [watch(net, on_finding="raise") for net in nets]
    both, over = Barrier(2), Event()  # the second pass begins before the first ends, and ends after it
    seen: list[str] = []

    def linger(*_: object) -> None:
        both.wait()
        over.wait()
        seen.append(torch._dynamo.eval_frame._stance.stance)

    nets[0].head.register_forward_hook(lambda *_: (both.wait(), None)[1])
    nets[1].head.register_forward_hook(linger)
    at_once(lambda: (nets[0](batch()), over.set()), lambda: nets[1](batch()))
    assert seen == ["force_eager"]
    assert torch._dynamo.eval_frame._stance is stance
    for doctor in doctors:
        doctor.close()


def replica(model: nn.Module) -> nn.Module:
    """Return a copy as `torch.nn.parallel.replicate` makes it, which is to be had on GPUs only."""
    copies = {m: m._replicate_for_data_parallel() for m in model.modules()}
    for module, copied in copies.items():
        for key, child in module._modules.items():
            setattr(copied, key, copies[child])
        copied._former_parameters = {key: p.clone() for key, p in module._parameters.items()}
        for key, p in copied._former_parameters.items():
            setattr(copied, key, p)
    return copies[model]


def test_replicas_of_data_parallel() -> None:
    class Cut(Tail):
        def __init__(self) -> None:
            super().__init__(lambda h: (h - h).log() if current_thread().name == "1" else h)
            self.aside = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + self.aside(x).detach()

    model, outputs = Cut(), {}
    with watch(model, on_finding="collect") as doctor:
        copies = [replica(model), replica(model)]

        def forward() -> None:
            outputs[i] = copies[(i := int(current_thread().name))](batch())

        at_once(forward, forward)
        outputs[0].sum().backward()
        outputs[1].sum().backward()
    assert doctor.passes == 2
    assert {(f.ailment, f.where, f.operation) for f in doctor.findings} == {
        (Ailment.FORWARD, "", "log"),
        (Ailment.DETACHED, "aside.weight", ""),
        (Ailment.DETACHED, "aside.bias", ""),
    }


def test_what_another_thread_of_the_pass_makes_is_not_called_a_constant() -> None:
    def last(h: Tensor) -> Tensor:
        made: list[Tensor] = []
        at_once(lambda: made.append((h.detach() - h.detach()).log()))
        return h + made[0]

    (finding,) = found(Tail(last), batch())
    assert finding.ailment is Ailment.CONSTANT
    assert "another thread" in finding.text


def test_a_backward_pass_that_fails_does_not_end_the_watch() -> None:
    model = Tail(lambda h: h.abs().mul(0).sqrt())

    def fail(_: Tensor) -> None:
        raise RuntimeError("stop")

    with watch(model, on_finding="collect") as doctor:
        out = model(batch())
        out.grad_fn.next_functions[0][0].register_prehook(fail)
        with pytest.raises(RuntimeError, match="stop"):
            out.sum().backward()
        model(batch()).sum().backward()
    assert [f.operation for f in doctor.findings] == ["SqrtBackward0"]
    assert not doctor._backward._tasks


def test_a_checkpoint_within_the_model_belongs_to_its_pass() -> None:
    class Kept(Tail):
        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.head(checkpoint(self.body, x, use_reentrant=True)))

    findings = found(Kept(lambda h: h.abs().mul(0).sqrt()), batch().requires_grad_())
    assert [(f.ailment, f.operation) for f in findings] == [(Ailment.BACKWARD, "SqrtBackward0")]


def saved(model: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


class Deep(nn.Sequential):
    """A module that copies itself, as some do."""

    def __deepcopy__(self, memo: dict) -> nn.Module:
        new = type(self).__new__(type(self))
        memo[id(self)] = new
        new.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return new


@pytest.mark.parametrize("make", [Tail, Deep], ids=["module", "of its own"])
@pytest.mark.parametrize(
    "copied",
    [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), saved],
    ids=["deepcopy", "pickle", "torch.save"],
)
def test_a_copy_is_as_that_of_a_model_that_is_not_watched(
    make: Callable[..., nn.Module], copied: Callable[[nn.Module], nn.Module]
) -> None:
    body = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Tanh(), nn.Linear(4, 2)))
    model = Deep(body) if make is Deep else body
    names, kept = list(model.state_dict()), model.state_dict()
    with watch(model, on_finding="collect") as doctor:
        model(batch()).sum().backward()
        twin = copied(model)
        assert list(model.state_dict()) == names
        assert doctor.passes == 1
        out = twin(batch() * math.nan)
        out.sum().backward()
        assert (doctor.passes, doctor.findings) == (1, [])  # it has nothing to do with the copy
        assert torch.equal(twin(batch()), model(batch()))
        assert doctor.passes == 2
    twin.load_state_dict(kept)
    with watch(twin, on_finding="collect") as doctor:
        twin(batch() * math.nan)
    assert [f.ailment for f in doctor.findings] == [Ailment.INPUT]


def test_a_file_of_a_watched_model_loads_without_this_package() -> None:
    model = nn.Sequential(nn.Linear(4, 2))
    with watch(model):
        file = pickle.dumps(model)
    load = (
        "import pickle, sys, torch; m = pickle.load(sys.stdin.buffer); m(torch.ones(1, 4)).sum().backward()"
    )
    check = "; assert not any(name.startswith('downslope') for name in sys.modules)"
    subprocess.run([sys.executable, "-c", load + check], input=file, check=True)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_copy_is_compiled_in_one_piece() -> None:
    model = nn.Sequential(nn.Linear(4, 2), nn.Tanh())
    with watch(model):
        twin = copy.deepcopy(model)
    assert torch.equal(torch.compile(twin, backend="eager", fullgraph=True)(batch()), model(batch()))
