"""Bad input gives one clear error, before anything has changed."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from downslope.grouping.view import MatrixView
from downslope.torch import SGD, AdaGrad, Adam, AdamW, Muon, RMSProp, partition

CLASSES = (SGD, AdaGrad, RMSProp, Adam, AdamW, Muon)


def weight(*shape: int, dtype: torch.dtype = torch.float32) -> nn.Parameter:
    p = nn.Parameter(torch.ones(shape or (4, 4), dtype=dtype))
    p.grad = torch.ones_like(p)
    return p


def same(a: Any, b: Any) -> bool:
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("lr", [-0.1, float("nan"), float("inf"), "fast", "1e-3", None])
def test_a_bad_learning_rate(cls: Any, lr: Any) -> None:
    with pytest.raises(ValueError, match=r"lr = .*: expected a number in \[0, inf\)"):
        cls([weight()], lr=lr)


@pytest.mark.parametrize(
    ("cls", "options", "message"),
    [
        (SGD, {"momentum": 1.0}, r"momentum = 1.0: expected a number in \[0, 1\)"),
        (SGD, {"nesterov": True}, "nesterov = True: expected momentum > 0"),
        (AdamW, {"betas": (0.9, 1.0)}, r"betas\[1\] = 1.0: expected a number in \[0, 1\)"),
        (AdamW, {"betas": (-0.1, 0.9)}, r"betas\[0\] = -0.1"),
        (AdamW, {"betas": 0.9}, r"betas = 0.9: expected 2 numbers"),
        (AdamW, {"eps": -1.0}, r"eps = -1.0"),
        (AdamW, {"weight_decay": -1.0}, r"weight_decay = -1.0"),
        (RMSProp, {"alpha": 1.5}, r"alpha = 1.5"),
        (AdaGrad, {"initial_accumulator_value": -1.0}, "initial_accumulator_value = -1.0"),
        (Muon, {"ns_steps": 0}, "ns_steps = 0: expected a whole number of at least 1"),
        (
            Muon,
            {"coefficients": "magic"},
            "coefficients = 'magic': expected one of minimax, polar_express",
        ),
        (Muon, {"scale": "big"}, "scale = 'big': expected one of match_rms_adamw, original, spectral"),
        (Muon, {"ns_dtype": "float16"}, "ns_dtype = 'float16': expected one of auto"),
        (Muon, {"max_stack_bytes": 0}, "max_stack_bytes = 0: expected a positive"),
        (Adam, {"on_nonfinite": "hope"}, "on_nonfinite = 'hope': expected one of raise, skip, ignore"),
    ],
)
def test_a_bad_hyper_parameter(cls: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cls([weight()], **options)


@pytest.mark.parametrize("cls", CLASSES)
def test_no_parameters(cls: Any) -> None:
    with pytest.raises(ValueError, match="empty parameter list"):
        cls([])


def test_a_model_with_nothing_to_optimize() -> None:
    with pytest.raises(ValueError, match="no parameters"):
        Muon(nn.Sequential(nn.ReLU()), torch.zeros(2, 4))
    frozen = nn.Linear(4, 4).requires_grad_(False)
    with pytest.raises(ValueError, match="every parameter frozen"):
        Muon(frozen, torch.zeros(2, 4))


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("dtype", [torch.int64, torch.bool], ids=str)
def test_parameters_that_are_not_real_floating(cls: Any, dtype: torch.dtype) -> None:
    with pytest.raises(TypeError, match=r"w has dtype .*: expected a real floating dtype"):
        cls([("w", torch.ones(4, 4, dtype=dtype))])


@pytest.mark.parametrize("cls", CLASSES)
def test_frozen_parameters_of_integers_may_stand_among_others(cls: Any) -> None:
    frozen = nn.Parameter(torch.ones(4, 4, dtype=torch.int8), requires_grad=False)
    p = weight()
    optimizer = cls([p, frozen])
    optimizer.step()
    assert same(frozen, torch.ones(4, 4, dtype=torch.int8))
    assert "int8" not in repr(optimizer)


def test_muon_steps_no_complex_matrices() -> None:
    p = nn.Parameter(torch.ones(4, 4, dtype=torch.complex64))
    with pytest.raises(
        TypeError, match=r'w has .* expected a real floating dtype, or a group with "rule": "adamw"'
    ):
        Muon([("w", p)])
    with pytest.raises(TypeError, match="w has dtype"):
        Muon([("w", nn.Parameter(p.detach(), requires_grad=False))])  # it may be unfrozen later
    Muon([{"params": [("w", p)], "rule": "adamw"}])
    real = weight()
    optimizer = Muon([("w", real)])
    real.data = real.data.to(torch.complex64)
    real.grad = torch.ones(4, 4, dtype=torch.complex64)
    with pytest.raises(TypeError, match=r"w has .* expected a real floating dtype, or a group"):
        optimizer.step()
    assert not optimizer.state


def test_a_gradient_of_another_kind_of_number_is_refused() -> None:
    p = nn.Parameter(torch.ones(4))
    p.grad = torch.ones(4)
    p.data = p.data.to(torch.complex64)
    with pytest.raises(TypeError, match=r"w has dtype torch\.float32, the parameter torch\.complex64"):
        SGD([("w", p)]).step()


@pytest.mark.parametrize("cls", [SGD, AdaGrad, RMSProp, Adam, AdamW])
def test_gradients_of_complex_parameters_are_looked_at(cls: Any) -> None:
    p = nn.Parameter(torch.ones(4, dtype=torch.complex64))
    p.grad = torch.tensor([1.0, 2.0, complex(0.0, torch.nan), 3.0])
    optimizer = cls([("w", p)])
    with pytest.raises(ValueError, match="the gradient of w holds NaN"):
        optimizer.step()
    assert torch.equal(p.detach(), torch.ones(4, dtype=torch.complex64))


@pytest.mark.parametrize("cls", CLASSES)
def test_a_refused_group_leaves_the_optimizer_as_it_was(cls: Any) -> None:
    optimizer = cls([weight()])
    before = copy.deepcopy(optimizer.state_dict())
    bad: list[tuple[Any, type[Exception]]] = [
        ({"params": [weight()], "lr": -1.0}, ValueError),
        ({"params": [torch.ones(3, dtype=torch.int32)]}, TypeError),
        ({"params": [weight()], "rule": "adamq"}, ValueError),
        ({"params": [weight()], "maximize": True}, ValueError),
        ([weight()], TypeError),
        ({"params": [weight()], "rule": "adagrad" if cls is not AdaGrad else "adam"}, ValueError),
        ({"params": [nn.Parameter(torch.ones(1, 4).expand(4, 4))]}, ValueError),
    ]
    if cls is Muon:
        bad += [
            ({"params": [weight(3)]}, ValueError),
            ({"params": [weight(2, 3, 4)]}, ValueError),
            ({"params": [weight(2, 3)], "view": MatrixView((0,), (2,))}, ValueError),
            ({"params": [weight(2, 3)], "views": []}, ValueError),
            ({"params": [weight(2, 3)], "views": 3}, TypeError),
            ({"params": [weight(2, 3)], "views": ["foo"]}, TypeError),
            ({"params": [weight(2, 3)], "view": "foo"}, TypeError),
            ({"params": [weight(2, 3)], "view": MatrixView(0, (1,))}, TypeError),
            ({"params": [weight(2, 3)], "rule": "sgd"}, ValueError),
        ]
    for group, error in bad:
        with pytest.raises(error):
            optimizer.add_param_group(group)
        assert optimizer.state_dict() == before


def test_muon_names_what_is_no_view() -> None:
    with pytest.raises(TypeError, match=r"the view of w is 'foo': expected a MatrixView"):
        Muon([{"params": [("w", weight())], "view": "foo"}])


def test_muon_names_what_is_no_matrix() -> None:
    with pytest.raises(ValueError, match=r'bias is no matrix: put it in a group with "rule": "adamw"'):
        Muon([("weight", weight()), ("bias", weight(4))])
    with pytest.raises(ValueError, match=r"parameter 0 of shape \(2, 3, 4\) in group 0 may be a stack"):
        Muon([weight(2, 3, 4)])


def test_errors_say_in_which_group_a_parameter_is() -> None:
    with pytest.raises(ValueError, match=r"parameter 0 of shape \(5,\) in group 1 is no matrix"):
        Muon([{"params": [weight()]}, {"params": [weight(5)]}])
    with pytest.raises(TypeError, match=r"parameter 1 of shape \(2,\) in group 1 has dtype torch.int64"):
        SGD([{"params": [weight()]}, {"params": [weight(), torch.ones(2, dtype=torch.int64)]}], lr=0.1)
    with pytest.raises(ValueError, match=r"parameter 0 of shape \(2, 2\) in group 1 is expanded"):
        SGD([{"params": [weight()]}, {"params": [torch.ones(2, 1).expand(2, 2)]}], lr=0.1)
    optimizer = SGD([{"params": [weight()]}, {"params": [weight(2)]}], lr=0.1)
    p = optimizer.param_groups[1]["params"][0]
    p.grad = torch.ones(2).to_sparse()
    with pytest.raises(ValueError, match=r"parameter 0 of shape \(2,\) in group 1 is sparse"):
        optimizer.step()


def test_errors_say_in_which_group_a_name_is_that_several_have() -> None:
    groups = [{"params": [(name, weight()), ("bias", weight(3))]} for name in ("up", "down")]
    optimizer = SGD(groups, lr=0.1, momentum=0.9)
    for group, i, name in ((0, 1, "bias in group 0"), (1, 0, "down"), (1, 1, "bias in group 1")):
        p = optimizer.param_groups[group]["params"][i]
        p.grad = torch.full_like(p, torch.nan)
        with pytest.raises(ValueError, match=f"the gradient of {name} holds NaN"):
            optimizer.step()
        p.grad = torch.ones_like(p)
    optimizer.step()
    state = optimizer.state_dict()
    state["state"][3]["momentum_buffer"] = torch.ones(4)
    with pytest.raises(ValueError, match="momentum_buffer of bias in group 1 has shape"):
        optimizer.load_state_dict(state)


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("poison", [torch.nan, torch.inf, -torch.inf])
def test_a_gradient_that_is_not_finite(cls: Any, poison: float) -> None:
    good, bad = weight(), weight(300, 100)
    optimizer = cls([("good", good), ("bad", bad)])
    optimizer.step()
    before = copy.deepcopy((good, bad, optimizer.state_dict()))
    bad.grad[7, 3] = poison
    with pytest.raises(ValueError, match="the gradient of bad holds NaN or infinity: nothing was changed"):
        optimizer.step()
    after = (good, bad, optimizer.state_dict())
    assert torch.equal(before[0], after[0])
    assert torch.equal(before[1], after[1])
    for k, slot in before[2]["state"].items():
        assert all(same(v, after[2]["state"][k][field]) for field, v in slot.items())


@pytest.mark.parametrize("cls", CLASSES)
def test_skipping_counts(cls: Any) -> None:
    p = weight()
    optimizer = cls([p], on_nonfinite="skip")
    p.grad[0, 0] = torch.nan
    before = p.detach().clone()
    optimizer.step()
    assert torch.equal(p, before)
    assert optimizer.skipped_steps == 1
    assert copy.deepcopy(optimizer).skipped_steps == 1
    p.grad = torch.ones_like(p)
    optimizer.step()
    assert optimizer.skipped_steps == 1
    assert not torch.equal(p, before)


def test_finite_gradients_whose_sum_overflows_are_fine() -> None:
    p = weight(1000)
    p.grad = torch.full((1000,), 1e38)
    SGD([p], lr=0.0).step()
    half = weight(1000, dtype=torch.float16)
    half.grad = torch.full((1000,), 6e4, dtype=torch.float16)
    SGD([half], lr=0.0).step()


@pytest.mark.parametrize("cls", CLASSES)
def test_a_sparse_gradient_is_refused(cls: Any) -> None:
    layer = nn.Embedding(4, 4, sparse=True)
    optimizer = cls(layer.named_parameters())
    layer(torch.tensor([1])).sum().backward()
    with pytest.raises(ValueError, match=r"the gradient of weight is sparse: .*SparseAdam"):
        optimizer.step()
    assert not optimizer.state


@pytest.mark.parametrize(
    ("cls", "option", "value"),
    [
        (Muon, "ns_dtype", "float16"),
        (Muon, "rule", "sgd"),
        (Muon, "lr", "0.1"),
        (AdamW, "on_nonfinite", "hope"),
        (AdamW, "capturable", "yes"),
        (SGD, "weight_decay", "0.1"),
    ],
)
def test_a_group_that_was_written_to_is_looked_at_before_the_step(cls: Any, option: str, value: str) -> None:
    p = weight()
    optimizer = cls([p])
    optimizer.param_groups[0][option] = value
    with pytest.raises(ValueError, match=f"{option} = '{value}': expected"):
        optimizer.step()
    assert torch.equal(p, torch.ones(4, 4))
    assert not optimizer.state


@pytest.mark.parametrize("cls", CLASSES)
def test_a_schedule_that_leaves_the_range(cls: Any) -> None:
    p = weight()
    optimizer = cls([p])
    optimizer.param_groups[0]["lr"] = float("nan")
    before = p.detach().clone()
    with pytest.raises(ValueError, match="lr = nan"):
        optimizer.step()
    assert torch.equal(p, before)
    assert not optimizer.state


@pytest.mark.parametrize("cls", CLASSES)
def test_a_parameter_that_was_resized_under_its_state(cls: Any) -> None:
    first, p = weight(), weight()
    optimizer = cls([("first", first), ("w", p)], **({"momentum": 0.9} if cls is SGD else {}))
    optimizer.step()
    p.data = torch.ones(40, 4)
    before = copy.deepcopy((first, p, optimizer.state_dict()))
    with pytest.raises(ValueError, match=r"the gradient of w has shape \(4, 4\): the parameter was resized"):
        optimizer.step()
    p.grad = torch.ones_like(p)
    with pytest.raises(ValueError, match=r"of w has shape \(4, 4\), expected \(40, 4\)"):
        optimizer.step()
    assert torch.equal(first, before[0])
    assert torch.equal(p, before[1])
    assert optimizer.state[first]["step"] == 1
    del optimizer.state[p]
    optimizer.step()
    assert (optimizer.state[first]["step"], optimizer.state[p]["step"]) == (2, 1)


def test_a_parameter_that_muon_has_no_view_of() -> None:
    first, p, q = weight(), weight(), weight()
    optimizer = Muon([("first", first), ("w", p)])
    optimizer.step()
    optimizer.param_groups[0]["params"][1] = q
    before = first.clone()
    with pytest.raises(ValueError, match="w came into its group without a view as matrices"):
        optimizer.step()
    assert torch.equal(first, before)
    assert optimizer.state[first]["step"] == 1


def test_a_state_of_another_rule_is_refused() -> None:
    p = weight()
    sgd, adam = SGD([p], momentum=0.9), AdamW([p])
    sgd.step()
    adam.step()
    before = copy.deepcopy(adam.state_dict())
    with pytest.raises(
        ValueError, match="group 0 of the state was made by rule 'sgd', this optimizer's is 'adamw'"
    ):
        adam.load_state_dict(sgd.state_dict())
    theirs = torch.optim.SGD([p], momentum=0.9)
    theirs.step()
    with pytest.raises(ValueError, match="lacks exp_avg, exp_avg_sq"):
        adam.load_state_dict(theirs.state_dict())
    other = AdamW([weight(2, 2)])
    other.step()
    with pytest.raises(ValueError, match=r"exp_avg of .* has shape \(2, 2\), the parameter \(4, 4\)"):
        adam.load_state_dict(other.state_dict())
    for field, value, message in (
        ("exp_avg", None, "lacks exp_avg"),
        ("step", None, "lacks step"),
        ("exp_avg", [0.0], r"exp_avg of .* has type <class 'list'>, the parameter \(4, 4\)"),
    ):
        odd = copy.deepcopy(before)
        odd["state"][0][field] = value
        with pytest.raises(ValueError, match=message):
            adam.load_state_dict(odd)
    with pytest.raises(ValueError, match="the state has 2 parameter groups, this optimizer 1"):
        adam.load_state_dict(AdamW([{"params": [weight()]}, {"params": [weight()]}]).state_dict())
    adam.register_load_state_dict_pre_hook(lambda _, state: {**state, "param_groups": []})
    with pytest.raises(ValueError, match="the state has 0 parameter groups, this optimizer 1"):
        adam.load_state_dict(before)
    after = adam.state_dict()
    assert after["param_groups"] == before["param_groups"]
    assert all(same(v, after["state"][0][k]) for k, v in before["state"][0].items())


OTHER_OPTIONS = [
    (AdamW, torch.optim.AdamW, "maximize", True),
    (SGD, torch.optim.SGD, "maximize", True),
    (SGD, torch.optim.SGD, "dampening", 0.5),
    (AdaGrad, torch.optim.Adagrad, "lr_decay", 1.0),
    (RMSProp, torch.optim.RMSprop, "maximize", True),
    (Adam, torch.optim.Adam, "differentiable", True),
]


@pytest.mark.parametrize(("cls", "other", "option", "value"), OTHER_OPTIONS)
def test_a_state_made_with_an_option_that_is_not_here_is_refused(
    cls: Any, other: Any, option: str, value: Any
) -> None:
    p, q = weight(), weight()
    ours, plain, theirs = cls([p]), other([p]), other([q], **{option: value})
    before = copy.deepcopy(ours.state_dict())
    with pytest.raises(ValueError, match=rf"group 0 of the state was made with {option} = {value}: expected"):
        ours.load_state_dict(theirs.state_dict())
    assert ours.state_dict() == before
    ours.load_state_dict(plain.state_dict())  # without it, and with foreach=None and the like
    theirs = other([q], foreach=False)
    ours.load_state_dict(theirs.state_dict())


@pytest.mark.parametrize(("cls", "other", "option", "value"), OTHER_OPTIONS)
def test_an_option_that_is_not_here_is_refused(cls: Any, other: Any, option: str, value: Any) -> None:
    expected = rf"^{option} = {value}: expected (False|0), since the rules here have no such option"
    with pytest.raises(ValueError, match=expected):
        cls([weight()], **{option: value})
    p = weight()
    optimizer = cls([p])
    optimizer.param_groups[0][option] = value
    before = p.detach().clone()
    with pytest.raises(ValueError, match=expected):
        optimizer.step()
    assert same(p.detach(), before)
    with pytest.raises(TypeError, match="unexpected keyword argument 'maximise'"):
        cls([p], maximise=True)


def test_what_is_no_state_is_refused() -> None:
    with pytest.raises(ValueError, match=r"the state to load = \{\}: expected 'state' and 'param_groups'"):
        SGD([weight()]).load_state_dict({})


def test_a_partition_of_another_model() -> None:
    small, large = nn.Linear(4, 4), nn.Linear(4, 8)
    found = partition(small, torch.zeros(1, 4))
    with pytest.raises(ValueError, match=r"weight has shape \(8, 4\), in the partition \(4, 4\)"):
        Muon(large, partition=found)
    with pytest.raises(ValueError, match="names 'weight', which this model lacks"):
        Muon(nn.Sequential(small), partition=found)
    with pytest.raises(ValueError, match="roles that this model has"):
        Muon(found, by_role={"router": {"lr": 1.0}})
    with pytest.raises(ValueError, match="Muon\\(model, partition=partition\\)"):
        Muon(type(found).from_dict(found.to_dict()))
    assert Muon(small, partition=type(found).from_dict(found.to_dict())).param_groups


@pytest.mark.parametrize("cls", CLASSES)
def test_huge_tiny_and_zero_gradients(cls: Any) -> None:
    for size in (0.0, 1e-30, 1e30):
        p = weight(8, 4)
        p.grad = torch.randn(8, 4, generator=torch.Generator().manual_seed(0)) * size
        cls([p], lr=0.0 if cls is SGD else 0.01).step()
        assert p.isfinite().all()


def test_muon_does_not_see_the_size_of_a_gradient() -> None:
    steps = []
    g = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    for size in (1.0, 2.0**-90, 2.0**90):
        p = weight(8, 4)
        p.grad = g * size
        Muon([p], lr=0.1).step()
        steps.append(p.detach())
    assert torch.equal(steps[0], steps[1])
    assert torch.equal(steps[0], steps[2])


def test_an_empty_parameter_is_left_alone() -> None:
    empty = nn.Parameter(torch.ones(0, 4))
    empty.grad = torch.ones(0, 4)
    for cls in (SGD, AdamW, RMSProp, Muon):
        cls([empty, weight()]).step()
