"""The optimizers have every habit of a torch.optim.Optimizer."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from downslope.torch import SGD, AdaGrad, Adam, AdamW, Muon, RMSProp, partition
from downslope.torch import optimizer as optimizer_module
from downslope.torch.native import elementwise

MAKERS: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
    "sgd": lambda m: SGD(m.parameters(), lr=0.1, momentum=0.9, nesterov=True),
    "adagrad": lambda m: AdaGrad(m.parameters(), lr=0.1),
    "rmsprop": lambda m: RMSProp(m.parameters(), lr=0.01, centered=True, momentum=0.5),
    "adam": lambda m: Adam(m.parameters(), lr=0.01, amsgrad=True),
    "adamw": lambda m: AdamW(m.parameters(), lr=0.01),
    "muon": lambda m: Muon(m, torch.zeros(2, 6), lr=0.01),
}


def model(seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))
    return layers.to(dtype)


def loss_of(m: nn.Module, k: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(k)
    batch = torch.randn(8, 6, generator=generator).to(next(m.parameters()).dtype)
    return m(batch).square().mean()


def train(m: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for k in steps:
        optimizer.zero_grad()
        loss_of(m, k).backward()
        optimizer.step()


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


each = pytest.mark.parametrize("name", MAKERS)


@each
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_saved_and_loaded_continues_bitwise(name: str, dtype: torch.dtype) -> None:
    straight = model(dtype=dtype)
    make = MAKERS[name] if name != "muon" else lambda m: Muon(m, torch.zeros(2, 6, dtype=dtype), lr=0.01)
    train(straight, make(straight), range(8))
    first = model(dtype=dtype)
    optimizer = make(first)
    train(first, optimizer, range(4))
    file = io.BytesIO()
    torch.save({"model": first.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    second = model(seed=9, dtype=dtype)
    second.load_state_dict(saved["model"])
    resumed = make(second)
    resumed.load_state_dict(saved["optimizer"])
    train(second, resumed, range(4, 8))
    assert same(straight, second)
    assert not same(first, second)


@each
@pytest.mark.parametrize(
    "clone", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))], ids=["deepcopy", "pickle"]
)
def test_copied_with_its_model_goes_on_alone(name: str, clone: Callable[[Any], Any]) -> None:
    m = model()
    optimizer = MAKERS[name](m)
    train(m, optimizer, range(3))
    m2, optimizer2 = clone((m, optimizer))
    train(m, optimizer, range(3, 6))
    assert not same(m, m2)
    train(m2, optimizer2, range(3, 6))
    assert same(m, m2)


@each
def test_a_closure_gives_its_loss(name: str) -> None:
    m = model()
    optimizer = MAKERS[name](m)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = loss_of(m, 0)
        loss.backward()
        return loss

    losses = [optimizer.step(closure).item() for _ in range(5)]
    assert losses[-1] < losses[0]


SCHEDULERS = {
    "StepLR": lambda o: torch.optim.lr_scheduler.StepLR(o, 2),
    "CosineAnnealingLR": lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 5),
    "OneCycleLR": lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.1, total_steps=10, cycle_momentum=False),
    "LinearLR": lambda o: torch.optim.lr_scheduler.LinearLR(o),
    "LambdaLR": lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda k: 0.9**k),
}


@each
@pytest.mark.parametrize("kind", SCHEDULERS)
def test_schedulers_reach_every_group(name: str, kind: str) -> None:
    m = model()
    optimizer = MAKERS[name](m)
    scheduler = SCHEDULERS[kind](optimizer)
    rates = []
    for k in range(4):
        optimizer.zero_grad()
        loss_of(m, k).backward()
        optimizer.step()
        scheduler.step()
        rates.append({group["lr"] for group in optimizer.param_groups})
    assert all(len(r) == 1 for r in rates)
    assert rates[0] != rates[-1]


@pytest.mark.parametrize("own", [True, False])
def test_groups_share_a_rate_that_is_a_tensor_until_each_has_its_own(own: bool) -> None:
    params = [nn.Parameter(torch.zeros(2)) for _ in range(2)]
    optimizer = SGD([{"params": [p]} for p in params], lr=torch.tensor(1.0))
    for group in optimizer.param_groups if own else ():
        group["lr"] = group["lr"].clone()
    torch.optim.lr_scheduler.LambdaLR(optimizer, [lambda _: 0.5, lambda _: 0.25])
    for p in params:
        p.grad = torch.ones(2)
    optimizer.step()
    assert [float(p.detach()[0]) for p in params] == [-0.5 if own else -0.25, -0.25]


def test_one_cycle_moves_momentum_and_betas() -> None:
    m = model()
    for optimizer, read in (
        (SGD(m.parameters(), lr=0.1, momentum=0.9), lambda g: g["momentum"]),
        (AdamW(m.parameters(), lr=0.1), lambda g: g["betas"][0]),
    ):
        before = read(optimizer.param_groups[0])
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=10)
        train(m, optimizer, range(3))
        scheduler.step()
        train(m, optimizer, range(3))
        assert read(optimizer.param_groups[0]) != before


@each
def test_a_parameter_without_a_gradient_stays(name: str) -> None:
    m = model()
    optimizer = MAKERS[name](m)
    loss_of(m, 0).backward()
    m[2].weight.grad = None
    before = m[2].weight.detach().clone()
    optimizer.step()
    assert torch.equal(m[2].weight, before)
    assert m[2].weight not in optimizer.state
    train(m, optimizer, range(1, 3))  # its count of steps now lags behind the others'
    assert optimizer.state[m[2].weight]["step"] == 2
    assert optimizer.state[m[0].weight]["step"] == 3


@each
def test_a_group_may_be_added_later(name: str) -> None:
    m, late = model(), nn.Parameter(torch.ones(5))
    optimizer = MAKERS[name](m)
    train(m, optimizer, range(2))
    group = {"params": [("late", late)], "rule": "adamw"} if name == "muon" else {"params": [late]}
    optimizer.add_param_group({**group, "lr": 0.5})
    late.grad = torch.ones(5)
    optimizer.step()
    assert (late < 1).all()


CHANGES = [
    (torch.float32, torch.float64),
    (torch.float64, torch.float32),
    (torch.float64, torch.float16),
    (torch.bfloat16, torch.float64),
    (torch.float32, torch.bfloat16),
]


@each
@pytest.mark.parametrize(("before", "after"), CHANGES, ids=str)
def test_states_follow_a_model_to_another_dtype(name: str, before: torch.dtype, after: torch.dtype) -> None:
    m = model(dtype=before)
    optimizer = MAKERS[name](m) if name != "muon" else Muon(m, torch.zeros(2, 6, dtype=before), lr=0.01)
    train(m, optimizer, range(2))
    optimizer.zero_grad()
    m.to(after)
    train(m, optimizer, range(2, 4))
    states = [v for slot in optimizer.state.values() for k, v in slot.items() if k != "step"]
    assert {v.dtype for v in states} == {torch.promote_types(after, torch.float32)}
    assert {slot["step"] for slot in optimizer.state.values()} == {4}


def test_a_state_that_follows_its_parameter_goes_on_where_it_was() -> None:
    params = [nn.Parameter(torch.ones(8, 8, dtype=d)) for d in (torch.float32, torch.float64)]
    optimizers = [SGD([p], lr=0.1, momentum=0.5) for p in params]
    for k in range(4):
        if k == 2:
            params[0].data = params[0].data.double()
        for p, optimizer in zip(params, optimizers, strict=True):
            p.grad = torch.full_like(p, 1.0)  # halves and ones: sums are exact, products with 0.1 are not
            optimizer.step()
    assert torch.equal(*(o.state[p]["momentum_buffer"] for p, o in zip(params, optimizers, strict=True)))
    torch.testing.assert_close(*params, rtol=1e-6, atol=1e-6)


OPTIONS: list[tuple[Callable[..., Any], Any, str, dict[str, Any], dict[str, Any]]] = [
    (SGD, torch.optim.SGD, "momentum_buffer", {"momentum": 0.0}, {"momentum": 0.9}),
    (RMSProp, None, "momentum_buffer", {"momentum": 0.0}, {"momentum": 0.9}),
    (RMSProp, None, "grad_avg", {"centered": False}, {"centered": True}),
    (AdamW, None, "max_exp_avg_sq", {"amsgrad": False}, {"amsgrad": True}),
    (Muon, None, "row_square", {"normuon": False}, {"normuon": True}),
]


@pytest.mark.parametrize(("cls", "native", "field", "off", "on"), OPTIONS)
def test_an_option_switched_on_later_starts_from_nothing(
    cls: Any, native: Any, field: str, off: dict[str, Any], on: dict[str, Any]
) -> None:
    made = [c for c in (cls, native) if c]
    params = [nn.Parameter(torch.ones(4, 4)) for _ in made]
    optimizers = [c([p], lr=0.1, **off) for c, p in zip(made, params, strict=True)]
    for k in range(4):
        for p, optimizer in zip(params, optimizers, strict=True):
            if k == 2:
                optimizer.param_groups[0].update(on)
            p.grad = torch.randn(4, 4, generator=torch.Generator().manual_seed(k))
            optimizer.step()
    assert optimizers[0].state[params[0]][field].any()
    assert optimizers[0].state[params[0]]["step"] == 4
    torch.testing.assert_close(params[0], params[-1])


@each
def test_hooks_run(name: str) -> None:
    m = model()
    optimizer, calls = MAKERS[name](m), []
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    train(m, optimizer, range(1))
    assert calls == ["before", "after"]


@each
def test_clipping_and_a_gradient_scaler(name: str) -> None:
    m = model()
    optimizer, scaler = MAKERS[name](m), torch.amp.GradScaler("cpu", init_scale=256.0)
    for k in range(3):
        optimizer.zero_grad()
        scaler.scale(loss_of(m, k)).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(m.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
    twin = model()
    plain = MAKERS[name](twin)
    for k in range(3):
        plain.zero_grad()
        loss_of(twin, k).backward()
        torch.nn.utils.clip_grad_norm_(twin.parameters(), 1.0)
        plain.step()
    assert same(m, twin)  # 256 is a power of two: scaling is exact


@each
def test_a_scaler_leaves_out_a_step_that_overflowed(name: str) -> None:
    m = model()
    optimizer, scaler = MAKERS[name](m), torch.amp.GradScaler("cpu", init_scale=256.0)
    before = copy.deepcopy(m)
    scaler.scale(loss_of(m, 0)).backward()
    m[0].weight.grad[0, 0] = torch.inf
    scaler.step(optimizer)
    scaler.update()
    assert same(m, before)
    assert not optimizer.state
    assert scaler.get_scale() == 128.0


def test_half_precision_parameters_have_float32_states() -> None:
    m = model(dtype=torch.bfloat16)
    optimizer = Muon(m, torch.zeros(2, 6, dtype=torch.bfloat16), lr=0.01)
    train(m, optimizer, range(2))
    states = [v for slot in optimizer.state.values() for k, v in slot.items() if k != "step"]
    assert {v.dtype for v in states} == {torch.float32}
    optimizer.load_state_dict(optimizer.state_dict())
    states = [v for slot in optimizer.state.values() for k, v in slot.items() if k != "step"]
    assert {v.dtype for v in states} == {torch.float32}


def test_states_of_torch_adamw_can_be_loaded() -> None:
    m = model()
    theirs = torch.optim.AdamW(m.parameters(), lr=0.01)
    train(m, theirs, range(3))
    twin = copy.deepcopy(m)
    ours = AdamW(twin.parameters(), lr=0.5)
    ours.load_state_dict(copy.deepcopy(theirs.state_dict()))
    train(m, theirs, range(3, 6))
    train(twin, ours, range(3, 6))
    for p, q in zip(m.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}], ids=str)
def test_states_of_torch_sgd_which_counts_no_steps_can_be_loaded(options: dict[str, Any]) -> None:
    m = model()
    theirs = torch.optim.SGD(m.parameters(), lr=0.1, **options)
    train(m, theirs, range(3))
    twin = copy.deepcopy(m)
    ours = SGD(twin.parameters(), lr=0.5)
    ours.load_state_dict(copy.deepcopy(theirs.state_dict()))
    train(m, theirs, range(3, 6))
    train(twin, ours, range(3, 6))
    for p, q in zip(m.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-6)
    again = SGD(twin.parameters(), lr=0.5)
    again.load_state_dict(ours.state_dict())


TORCH = {
    SGD: (torch.optim.SGD, {"momentum": 0.9, "dampening": 0}),
    AdaGrad: (torch.optim.Adagrad, {"lr_decay": 0}),
    RMSProp: (torch.optim.RMSprop, {"momentum": 0.9, "centered": True}),
    Adam: (torch.optim.Adam, {"amsgrad": True}),
    AdamW: (torch.optim.AdamW, {"betas": np.array([0.8, 0.9])}),
}


@pytest.mark.parametrize("cls", TORCH, ids=lambda cls: cls.__name__)
def test_the_import_may_change_and_change_back(cls: Any) -> None:
    """The same arguments go to both, and a state goes from one to the other and back."""
    other, options = TORCH[cls]
    options = {"lr": 0.1, "foreach": True, "maximize": False, "differentiable": False, **options}
    generator = torch.Generator().manual_seed(3)
    p, q = (nn.Parameter(torch.linspace(-1, 1, 7, dtype=torch.float64)) for _ in range(2))
    ours, theirs = cls([p], **options), other([q], **options)

    def steps(*pairs: tuple[nn.Parameter, Any]) -> None:
        for g in torch.randn(3, 7, generator=generator, dtype=torch.float64):
            for parameter, optimizer in pairs:
                parameter.grad = g.clone()
                optimizer.step()

    steps((p, ours))
    q.data.copy_(p.data)
    theirs.load_state_dict(copy.deepcopy(ours.state_dict()))
    steps((p, ours), (q, theirs))
    torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-12)  # float64, a few operations a step
    again = cls([p], **options)
    again.load_state_dict(copy.deepcopy(theirs.state_dict()))
    steps((p, again), (q, theirs))
    torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("scale", [None, "original", "match_rms_adamw"])
def test_states_of_torch_muon_can_be_loaded(scale: str | None) -> None:
    """Which knows no step, and calls the scale and the polynomial otherwise."""
    torch.manual_seed(0)
    gs = torch.randn(6, 24, 8)
    p = torch.nn.Parameter(torch.randn(24, 8))
    theirs = torch.optim.Muon([p], lr=0.05, momentum=0.8, weight_decay=0.2, ns_steps=4, adjust_lr_fn=scale)

    def take(optimizer: Any, q: torch.nn.Parameter, some: range) -> None:
        for i in some:
            q.grad = gs[i].clone()
            optimizer.step()

    take(theirs, p, range(3))
    twin = torch.nn.Parameter(p.detach().clone())
    ours = Muon([twin], lr=0.5, scale="spectral")
    ours.load_state_dict(copy.deepcopy(theirs.state_dict()))
    before = p.detach().clone()
    take(theirs, p, range(3, 6))
    take(ours, twin, range(3, 6))
    moved = (p - before).norm()
    # Ten products in bfloat16, 2^-8 each, of torch's. Without the momentum, the decay or the number of steps
    # it differs by 0.25 and more.
    assert (twin - p).norm() < 0.03 * moved
    resumed = Muon([twin])
    resumed.load_state_dict(ours.state_dict())


def test_a_polynomial_of_torch_muon_that_is_not_here_is_refused() -> None:
    q = torch.nn.Parameter(torch.zeros(4, 4))
    theirs = torch.optim.Muon([q], ns_coefficients=(3.0, -4.0, 2.0))
    with pytest.raises(ValueError, match=r"group 0 of the state .* ns_coefficients = \(3.0, -4.0, 2.0\)"):
        Muon([q]).load_state_dict(theirs.state_dict())


@each
@pytest.mark.parametrize("capturable", [None, False, True])
def test_a_step_of_shapes_alone(name: str, capturable: bool | None) -> None:
    m = model()
    optimizer = MAKERS[name](m)
    train(m, optimizer, range(1))
    shapes = {p: {k: v.shape for k, v in s.items() if k != "step"} for p, s in optimizer.state.items()}
    shadow = model().to("meta")
    if name == "muon":
        meta = Muon(shadow, torch.zeros(2, 6, device="meta"), lr=0.01, capturable=capturable)
    else:
        meta = MAKERS[name](shadow)
        meta.param_groups[0]["capturable"] = capturable
    for _ in range(2):
        for p in shadow.parameters():
            p.grad = torch.ones_like(p)
        meta.step()
        meta.load_state_dict(copy.deepcopy(meta.state_dict()))
    assert meta.skipped_steps == 0
    for p, q in zip(m.parameters(), shadow.parameters(), strict=True):
        assert {k: v.shape for k, v in meta.state[q].items() if k != "step"} == shapes[p]
        assert all(v.is_meta for k, v in meta.state[q].items() if k != "step")


@pytest.mark.parametrize("capturable", [None, True])
@pytest.mark.parametrize("cls", [SGD, AdaGrad, RMSProp, Adam, AdamW, Muon])
def test_fake_tensors_take_a_step(cls: Any, capturable: bool | None) -> None:
    with FakeTensorMode():  # which says what a training will take, before there is any memory for it
        params = [nn.Parameter(torch.randn(40, 30)), nn.Parameter(torch.randn(30, 40))]
        optimizer = cls(params, capturable=capturable)
        for _ in range(2):
            for p in params:
                p.grad = torch.randn_like(p)
            optimizer.step()
            optimizer.load_state_dict(optimizer.state_dict())
        assert optimizer.skipped_steps == 0
    for p in params:
        assert all(v.shape == p.shape for k, v in optimizer.state[p].items() if k != "step")


@each
def test_hooks_see_and_change_a_state_that_is_loaded(name: str) -> None:
    m = model(dtype=torch.bfloat16)
    make = MAKERS[name] if name != "muon" else lambda m: Muon(m, torch.zeros(2, 6).bfloat16(), lr=0.01)
    optimizer, again = make(m), make(m)
    train(m, optimizer, range(3))
    state = optimizer.state_dict()
    old = {**state, "param_groups": [{**group, "rule": "old"} for group in state["param_groups"]]}
    rules = [group["rule"] for group in optimizer.param_groups]
    seen = []

    def renamed(_: Any, state: dict[str, Any]) -> dict[str, Any]:
        groups = [{**g, "rule": rule} for g, rule in zip(state["param_groups"], rules, strict=True)]
        return {**state, "param_groups": groups}

    def look(loaded: torch.optim.Optimizer) -> None:
        seen.extend(slot["step"] for slot in loaded.state.values())
        next(iter(loaded.state.values()))["step"] = 7

    handles = [again.register_load_state_dict_pre_hook(renamed)]
    handles.append(again.register_load_state_dict_post_hook(look))
    again.load_state_dict(old)
    assert seen == [3] * 6
    assert next(iter(again.state.values()))["step"] == 7
    for key, slot in again.state_dict()["state"].items():
        for field in slot.keys() - {"step"}:
            assert torch.equal(slot[field], state["state"][key][field])
    for handle in handles:
        handle.remove()
    with pytest.raises(ValueError, match="made by rule 'old'"):
        again.load_state_dict(old)


def test_a_partition_fits_its_model_in_a_wrapper() -> None:
    m = model()
    found = partition(m, torch.zeros(2, 6))
    for wrapped in (torch.compile(m, backend="eager"), nn.DataParallel(m)):
        optimizer = Muon(wrapped, partition=found)
        assert optimizer.param_groups[0]["param_names"] == ["2.weight"]


def test_muon_has_one_learning_rate_and_groups_by_role() -> None:
    m = model()
    optimizer = Muon(m, torch.zeros(2, 6), lr=0.02, by_role={"output": {"lr": 0.001}})
    groups = {group["role"]: group for group in optimizer.param_groups}
    assert groups["hidden"]["param_names"] == ["2.weight"]
    assert groups["hidden"]["rule"] == "muon"
    assert groups["input"]["param_names"] == ["0.weight"]
    assert groups["output"]["param_names"] == ["4.weight"]
    assert groups["vector"]["weight_decay"] == 0
    assert groups["hidden"]["weight_decay"] == 0.1
    assert [groups[r]["lr"] for r in ("hidden", "input", "output")] == [0.02, 0.02, 0.001]


def test_groups_with_the_same_options_are_stepped_together(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    take = optimizer_module.step_elementwise

    def counting(rule: Any, columns: Any, *rest: Any) -> None:
        taken.append(len(columns[0]))
        take(rule, columns, *rest)

    monkeypatch.setattr(optimizer_module, "step_elementwise", counting)
    options: dict[str, Any] = {"lr": 0.1, "betas": (0.9, 0.95), "weight_decay": 0.1}
    changes: list[dict[str, Any]] = [{}, {"betas": [0.9, 0.95]}, {"lr": 0.2}, {"weight_decay": 0.3}, {}]

    def trained(together: bool) -> tuple[list[nn.Parameter], list[list[int]]]:
        """Return what four steps make of a group each, and how many parameters went together in each."""
        torch.manual_seed(0)
        params = [nn.Parameter(torch.randn(n, 3)) for n in (2, 4, 6, 8, 10)]
        gradients = [torch.randn_like(p) for p in params]
        groups = [{"params": [p], **change} for p, change in zip(params, changes, strict=True)]
        made = [AdamW(groups, **options)] if together else [AdamW([group], **options) for group in groups]
        own = [group for optimizer in made for group in optimizer.param_groups]
        found = []
        for step in range(4):
            for p, g in zip(params, gradients, strict=True):
                p.grad = g
            if step in (1, 2):
                params[0].grad, own[4]["cautious"] = None, True
            taken.clear()
            for optimizer in made:
                optimizer.step()
            found.append(sorted(taken))
        return params, found

    one, counts = trained(together=True)
    # Of the last step the first group is two behind, and the last one decays otherwise.
    assert counts == [[1, 1, 3], [1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1, 1]]
    for p, q in zip(one, trained(together=False)[0], strict=True):
        assert torch.equal(p, q)
    monkeypatch.setattr(AdamW, "replicas", object())  # processes whose jobs must be the same ones
    assert trained(together=True)[1][0] == [1, 1, 1, 1, 1]
    monkeypatch.undo()
    monkeypatch.setattr(optimizer_module, "step_elementwise", counting)
    options["capturable"] = True  # where each group's count lies on the device by itself
    assert trained(together=True)[1][0] == [1, 1, 1, 1, 1]


def test_each_group_is_asked_what_to_do_about_nan() -> None:
    params = [nn.Parameter(torch.ones(2)) for _ in range(2)]
    groups = [
        {"params": [p], "on_nonfinite": how} for p, how in zip(params, ("ignore", "raise"), strict=True)
    ]
    optimizer = SGD(groups, lr=0.1)
    params[0].grad, params[1].grad = torch.full((2,), torch.nan), torch.ones(2)
    optimizer.step()
    assert params[0].isnan().all()
    assert torch.equal(params[1].detach(), torch.full((2,), 0.9))
    params[1].grad = torch.full((2,), torch.nan)
    with pytest.raises(ValueError, match=r"parameter 0 of shape \(2,\) in group 1 holds NaN or infinity"):
        optimizer.step()
    assert torch.equal(params[1].detach(), torch.full((2,), 0.9))


@pytest.mark.parametrize("together", [True, False], ids=["one group", "two groups"])
@pytest.mark.parametrize(
    ("cls", "options"),
    [(AdamW, {"cautious": True}), (SGD, {"fused": False}), (Muon, {"fused": False, "weight_decay": 0.0})],
    ids=["cautious", "sgd", "muon"],
)
def test_of_parameters_of_one_memory_no_step_is_lost(cls: Any, options: Any, together: bool) -> None:
    memory = torch.zeros(16, 16)
    params = [nn.Parameter(memory.view(16, 16)) for _ in range(2)]
    for p in params:
        p.grad = torch.eye(16)
    cls(params if together else [{"params": [p]} for p in params], lr=1.0, **options).step()
    alone = nn.Parameter(torch.zeros(16, 16))
    alone.grad = torch.eye(16)
    cls([alone], lr=1.0, **options).step()
    torch.testing.assert_close(memory, 2 * alone.detach())


@pytest.mark.parametrize("both", [(0, False), (False, 0)])
def test_of_groups_that_look_alike_each_is_stepped_as_it_asks(
    both: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of these two, equal as numbers, `False` alone asks for plain blocks."""
    asked: list[bool] = []
    monkeypatch.setattr(optimizer_module, "step_elementwise", lambda *args: asked.append(args[3].fused))
    params = [nn.Parameter(torch.ones(3)) for _ in range(2)]
    for p in params:
        p.grad = torch.ones(3)
    AdamW([{"params": [p], "fused": fused} for p, fused in zip(params, both, strict=True)]).step()
    assert asked == [fused is not False for fused in both]


@pytest.mark.parametrize("key", ["lr", "cautious"])
def test_an_array_of_one_number_is_one(key: str) -> None:
    """NumPy's have no hash by which groups could be compared."""
    p = nn.Parameter(torch.ones(3))
    p.grad = torch.ones(3)
    optimizer = AdamW([p], lr=0.1)
    optimizer.param_groups[0][key] = np.array(optimizer.param_groups[0][key])
    optimizer.step()
    assert p.tolist() == pytest.approx([0.9 - 0.1 * 0.01] * 3)


def test_repr_says_what_runs() -> None:
    text = repr(Muon(model(), torch.zeros(2, 6)))
    assert "hidden: 1 parameter, 256 elements" in text
    assert "stacks of 1 shape in" in text
    assert "code compiled for this CPU" in text
    assert "cache-sized blocks (fused=False)" in repr(RMSProp(model().parameters(), fused=False))
    assert "torch's fused kernel (capturable)" in repr(RMSProp(model().parameters(), capturable=True))


def test_repr_keeps_to_80_columns() -> None:
    params = [nn.Parameter(torch.empty(1280, 5120, device="meta")) for _ in range(100)]
    text = repr(AdamW(params, lr=1.23457e-4, weight_decay=0.1, cautious=True))
    assert "100 parameters, 655,360,000 elements, lr=0.000123457, weight_decay=0.1, cautious" in " ".join(
        text.split()
    )
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("cls", [AdamW, SGD, AdaGrad, RMSProp])
def test_repr_says_what_runs_for_each_kind_of_parameter(cls: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, half = nn.Parameter(torch.ones(4, 4)), nn.Parameter(torch.ones(4, 4, dtype=torch.bfloat16))
    conv = nn.Parameter(torch.ones(8, 4, 3, 3).to(memory_format=torch.channels_last))
    gaps = nn.Parameter(torch.ones(4, 8)[:, ::2])
    for p in (plain, half, conv):
        assert "code compiled for this CPU\n" in repr(cls([p]))
    assert "cache-sized blocks\n" in repr(cls([gaps]))
    mixed = cls([plain, half, conv, gaps])
    assert "code compiled for this CPU for 3 of them, cache-sized blocks for 1 of them" in " ".join(
        repr(mixed).split()
    )
    monkeypatch.setattr(elementwise, "step_of", lambda *_: "no compiler")
    assert "torch's fused kernel (no compiler)\n" in repr(cls([plain]))
    for p in (half, conv):
        assert "cache-sized blocks (no compiler)\n" in repr(cls([p]))
    names = {"_fused_adamw_", "_fused_adam_", "_fused_sgd_", "_fused_adagrad_"}
    plain.grad, conv.grad = torch.ones_like(plain), torch.ones_like(conv)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
        mixed.step()  # of one dtype: the one that the kernel cannot take does not keep the other from it
    assert names & {event.key.removeprefix("aten::") for event in seen.key_averages()}


def test_repr_of_muon_says_what_runs_for_each_kind_of_parameter() -> None:
    dtypes = (torch.float32, torch.float64, torch.float16)
    params = [nn.Parameter(torch.ones(4, 6 + i, dtype=d)) for i, d in enumerate(dtypes)]
    text = repr(Muon(params, ns_dtype="auto"))
    assert "1 shape in float64" in text
    assert "3 shapes" not in text
    assert "stacks of 3 shapes in bfloat16, plain PyTorch" in repr(
        Muon(params, ns_dtype="bfloat16", fused=False)
    )
    empty = Muon([{"params": []}, {"params": [params[0]], "rule": "adamw"}])
    assert "muon: 0 parameters, 0 elements" in repr(empty)
    assert "stacks of no shapes" in repr(empty)
