"""Checks of PyTorch functions, custom autograd functions and modules."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import downslope as ds
from downslope.cli import run
from downslope.errors import UsageError
from downslope.gradients.check import Reason, Verdict
from downslope.gradients.check.torch_casts import Lifted
from tests.gradients.expressions import Expression, gradient, spoiled


def network() -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3))
    return model, (torch.randn(5, 8), torch.randint(0, 3, (5,)))


def loss(model: nn.Module, batch: Any) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


class Halved(torch.autograd.Function):
    """A product whose gradient in the weight has lost a factor 2."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        return 2 * inputs @ weight

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        inputs, weight = ctx.saved_tensors
        return 2 * g @ weight.T, inputs.T @ g


class OneEntry(torch.autograd.Function):
    """A sum of cubes whose gradient is wrong in one entry."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return (x**3).sum()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        made = 3 * x**2 * g
        made[2, 1] *= 0.9
        return made


def test_a_module_passes_and_is_left_as_it_was() -> None:
    model, batch = network()
    before = copy.deepcopy(model.state_dict())
    report = ds.check_gradient(model, batch, loss=loss)
    assert report.passed
    assert report.coverage is not None
    assert (report.coverage.entries, report.coverage.level) == (195, 0.01)  # in float64
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_batch_norm_in_training_mode_is_deterministic_and_untouched() -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 1))
    before = copy.deepcopy(model.state_dict())
    assert ds.check_gradient(model, torch.randn(9, 4), loss=lambda m, b: m(b).square().mean()).passed
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_a_custom_function_is_called_with_its_arguments() -> None:
    torch.manual_seed(0)
    report = ds.check_gradient(Halved.apply, (torch.randn(4, 3), torch.randn(3, 6)))
    assert report.verdict is Verdict.FAIL
    assert report.function == "Halved"
    (found,) = report.findings
    assert (found.where, found.entries) == ("all of weight", 18)
    assert "a factor 2 is missing" in found.hint


def test_one_entry_of_a_custom_function() -> None:
    report = ds.check_gradient(OneEntry.apply, torch.linspace(1, 2, 12).reshape(4, 3))
    assert [f.name for f in report.findings] == ["x[2, 1]"]
    assert report.findings[0].ratio == pytest.approx(0.9)


def test_what_is_detached_is_named() -> None:
    point = {"w": torch.randn(4, 20, generator=torch.Generator().manual_seed(0)), "b": torch.ones(20)}
    report = ds.check_gradient(lambda p: (p["w"] @ p["b"].detach()).sin().sum() + p["w"].sum(), point)
    (found,) = report.findings
    assert (found.where, found.entries) == ("all of b", 20)
    assert "detached" in found.hint
    assert any("no way from f to b" in note for note in report.notes)


def test_dropout_is_named() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5))
    report = ds.check_gradient(model, torch.ones(3, 8), loss=lambda m, b: m(b).sum())
    assert report.reason is Reason.RANDOM
    assert "1 (Dropout) is in training mode: call model.eval()" in report.reasons[0]
    assert ds.check_gradient(model.eval(), torch.ones(3, 8), loss=lambda m, b: m(b).sum()).passed


def test_relu_at_zero_is_a_kink_and_no_failure() -> None:
    report = ds.check_gradient(lambda x: torch.relu(x).sum(), torch.tensor([1.0, 0.0, -2.0]))
    assert (report.verdict, report.reason) == (Verdict.INCONCLUSIVE, Reason.KINK)
    assert "x[1]" in report.reasons[0]


def test_frozen_parameters_are_said() -> None:
    model, batch = network()
    next(model.parameters()).requires_grad_(False)
    report = ds.check_gradient(model, batch, loss=loss)
    assert report.passed
    assert any("frozen: 0.weight" in note for note in report.notes)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_narrow_functions_never_fail_when_right_and_do_when_wrong(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = torch.randn(200).to(dtype)

    def inside(x: Tensor) -> Tensor:
        return (x.to(dtype) ** 2).sum()  # in its own precision, whatever is handed over

    assert ds.check_gradient(inside, x, precision="own").verdict is not Verdict.FAIL
    assert ds.check_gradient(inside, x).verdict is not Verdict.FAIL
    wide = ds.check_gradient(lambda x: (x**2).sum(), x)
    assert wide.passed
    assert any("float64" in note for note in wide.notes)
    wrong = ds.check_gradient(lambda x: (x**2).sum() + 0.1 * (x[7] ** 2).detach(), x)
    assert [f.index for f in wrong.findings] == [(7,)]


@pytest.mark.parametrize("compute", [None, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("precision", ["auto", "own"])
def test_expressions_put_together_at_random(compute: torch.dtype | None, precision: str) -> None:
    named = 0
    for seed in range(1000, 1040):
        f = Expression(seed, compute)
        x = f.point(torch.float64 if compute is None else torch.float32)
        report = ds.check_gradient(f, x, precision=precision)
        assert report.verdict is not Verdict.FAIL, f"{seed} {f.steps} {f.end}\n{report}"
        if not report.passed or (compute is torch.bfloat16 and precision == "own"):
            continue
        points = x if isinstance(x, tuple) else (x,)
        sizes = gradient(f, points)[0].abs().flatten()
        if float(sizes.max()) <= 0.1 * max(float(g.abs().max()) for g in gradient(f, points)):
            continue
        j = int(sizes.argmax())
        wrong = ds.check_gradient(f, x, gradient=spoiled(f, 0, j, 1.1), precision=precision)
        found = [w.index for w in wrong.findings] == [tuple(map(int, np.unravel_index(j, f.shape)))]
        assert found or wrong.verdict is Verdict.INCONCLUSIVE, f"{seed} {f.steps} {f.end}\n{wrong}"
        named += found
    assert precision == "own" or named >= 25  # in bfloat16 itself no tenth of an entry is to be seen


class Rounded(torch.autograd.Function):
    """Squares in bfloat16, forward and backward; the gradient of entry 2 is a tenth too large."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return (x.bfloat16() ** 2).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        made = (2 * x.bfloat16()).to(x.dtype) * g
        made[2] *= 1.1
        return made


def test_casts_inside_are_taken_out_of_a_function_and_of_its_backward() -> None:
    torch.manual_seed(0)
    x = torch.randn(6)
    report = ds.check_gradient(lambda x: Rounded.apply(x).sum(), x)
    assert [f.index for f in report.findings] == [(2,)]
    assert "f casts to bfloat16: checked with all of it in float64" in report.notes
    unseen = ds.check_gradient(lambda x: Rounded.apply(x).sum(), x, precision="own")
    assert unseen.verdict is Verdict.INCONCLUSIVE


class RoundedBack(Rounded):
    """The same, casting in its backward pass alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**2


def test_a_cast_in_the_backward_pass_alone_is_taken_out() -> None:
    torch.manual_seed(0)
    report = ds.check_gradient(lambda x: RoundedBack.apply(x).sum(), torch.randn(6))
    assert [f.index for f in report.findings] == [(2,)]
    assert report.findings[0].ratio == pytest.approx(1.1, rel=1e-6)  # to 8 bits it would not be
    assert "f casts to bfloat16: checked with all of it in float64" in report.notes


def test_narrow_tensors_that_a_function_holds_or_makes_are_taken_in_float64() -> None:
    torch.manual_seed(0)
    x, held = torch.randn(4), torch.randn(4, 4, dtype=torch.bfloat16)

    def mixed(x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            made = torch.tanh(x.to(held.dtype) @ held) @ held
        made = nn.functional.layer_norm(made, (4,), torch.ones(4, dtype=made.dtype))
        places = torch.zeros(4, dtype=torch.float16)
        places[1:] += made[1:].half() ** 2
        return places.float().sum()

    report = ds.check_gradient(mixed, x)
    assert report.passed
    assert any("holds tensors of" in note and "bfloat16" in note for note in report.notes)
    wrong = ds.check_gradient(
        lambda x: mixed(x) + 0.1 * x[3].detach() * 7, x, gradient=lambda x: torch.ones(4)
    )
    assert wrong.verdict is Verdict.FAIL
    assert held.dtype is torch.bfloat16
    assert ds.check_hvp(lambda x: (x.bfloat16() ** 3).sum(), x).passed


def test_what_is_written_to_stays_the_function_s_own() -> None:
    kept = torch.zeros(3, dtype=torch.bfloat16)
    with Lifted(torch.float64):
        kept += torch.ones(3, dtype=torch.bfloat16)
    assert kept.dtype is torch.bfloat16
    assert kept.tolist() == [1.0, 1.0, 1.0]


def test_a_module_with_a_norm_in_float32_is_checked_in_float64() -> None:
    class Norm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(8, dtype=torch.bfloat16))

        def forward(self, x: Tensor) -> Tensor:
            wide = x.float()
            return self.weight * (wide * wide.pow(2).mean(-1, keepdim=True).rsqrt()).type_as(x)

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8, dtype=torch.bfloat16), Norm())
    batch = torch.randn(4, 8, dtype=torch.bfloat16)
    report = ds.check_gradient(model, batch, loss=lambda m, b: m(b).float().sin().sum())
    assert report.passed
    assert report.coverage is not None
    assert (report.coverage.entries, report.coverage.level) == (80, 0.01)
    assert "f casts to float32: checked with all of it in float64" in report.notes
    assert model[0].weight.dtype is torch.bfloat16


def test_what_is_another_function_without_its_casts_is_left_as_it_is() -> None:
    x = torch.full((4,), 0.3)
    report = ds.check_gradient(
        lambda x: (100 + x.bfloat16()).float().sum() - 400, x
    )  # bfloat16 rounds it away
    assert not any("all of it in float64" in note for note in report.notes)
    assert report.verdict is not Verdict.FAIL


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, x: Tensor) -> Tensor:
        return (self.scale**3 * x).sum()


def test_tensors_of_no_axis() -> None:
    torch.manual_seed(0)
    x = torch.randn(3)
    assert ds.check_gradient(lambda x: x**2, torch.tensor(3.0)).passed
    nest = {"w": x, "b": torch.tensor(3.0)}
    assert ds.check_gradient(lambda p: (p["w"] ** 2).sum() * p["b"], nest).passed
    assert ds.check_gradient(Scaled(), x).passed
    wrong = ds.check_gradient(lambda x: x**2, torch.tensor(3.0), gradient=lambda x: 3 * x)
    assert [(one.name, one.index) for one in wrong.findings] == [("x", ())]
    report = ds.check_jacobian(
        lambda x: torch.stack([x**2, x]), torch.tensor(3.0), lambda x: torch.stack([2 * x, 2 * x / x])
    )
    assert [one.name for one in report.findings] == ["J[1]"]


def test_sparse_gradients_are_read_densely() -> None:
    torch.manual_seed(0)
    batch = torch.tensor([0, 3, 3, 1])
    report = ds.check_gradient(
        nn.Embedding(5, 3, sparse=True), batch, loss=lambda model, batch: model(batch).square().sum()
    )
    assert report.passed
    assert report.coverage is not None
    assert (report.coverage.entries, report.coverage.zeros) == (15, 6)  # of two rows that nobody looked up
    with pytest.raises(UsageError, match=r"layout sparse_coo \(x\): expected dense"):
        ds.check_gradient(lambda x: (x.to_dense() ** 2).sum(), torch.eye(3).to_sparse())


def test_complex_numbers_are_refused() -> None:
    nest = {"a": torch.ones(2, dtype=torch.complex64), "b": torch.ones(3)}
    with pytest.raises(UsageError, match=r"dtype complex64 \(a\): expected real"):
        ds.check_gradient(lambda p: (p["b"] ** 2).sum() + p["a"].abs().sum(), nest)
    with pytest.raises(UsageError, match="returned complex numbers"):
        ds.check_gradient(lambda x: {"a": x * 1j, "b": x}, torch.ones(3))
    model = Scaled()
    model.scale = nn.Parameter(torch.tensor(2.0 + 1j))
    with pytest.raises(UsageError, match="the module has complex numbers"):
        ds.check_gradient(model, torch.ones(3))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_jacobians_of_every_dtype(dtype: torch.dtype) -> None:
    x = torch.tensor([0.5, -1.25, 3.0], dtype=dtype)
    right = ds.check_jacobian(lambda x: x**2, x, lambda x: torch.diag(2 * x))
    assert right.verdict is not Verdict.FAIL
    assert right.passed or dtype == torch.bfloat16  # eight binary digits: round-off hides what is right
    assert not ds.check_jacobian(lambda x: x**2, x, lambda x: torch.diag(3 * x)).passed


def test_decompositions_that_fail_beside_the_point() -> None:
    """A matrix that is no longer positive definite when its entries are moved by 0.1."""
    a = torch.tensor([[1.0, 0.99], [0.99, 1.0]], dtype=torch.float64)
    report = ds.check_gradient(lambda a: torch.linalg.cholesky((a + a.T) / 2).diagonal().log().sum(), a)
    assert report.passed


def test_second_derivatives_of_custom_functions() -> None:
    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x**2

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Any:
            (x,) = ctx.saved_tensors
            return 2 * x.detach() * g  # right, but its own derivative is lost

    x = torch.linspace(1, 2, 5, dtype=torch.float64)
    assert ds.check_gradient(lambda x: Square.apply(x).sin().sum(), x).passed
    assert ds.check_hvp(lambda x: (x**4).sum(), x).passed
    assert ds.check_hvp(lambda x: Square.apply(x).sin().sum(), x).verdict is Verdict.FAIL


def test_bad_input() -> None:
    with pytest.raises(UsageError, match=r"without a shape yet \(weight, bias\): run it on a batch"):
        ds.check_gradient(nn.LazyLinear(2), torch.ones(3, 2), loss=lambda model, batch: model(batch).sum())
    with pytest.raises(UsageError, match="the gradient raised KeyError: 'a'"):
        ds.check_gradient(lambda x: x.sum(), torch.ones(3), gradient=lambda x: {}["a"])
    model, batch = network()
    with pytest.raises(UsageError, match="loss is given for a function"):
        ds.check_gradient(torch.sum, torch.ones(3), loss=loss)
    with pytest.raises(UsageError, match="its gradient is that of autograd"):
        ds.check_gradient(model, batch, loss=loss, gradient=lambda x: x)
    with pytest.raises(UsageError, match="returned a str"):
        ds.check_gradient(lambda x: "no", torch.ones(3))
    with pytest.raises(UsageError, match="does not take float64"):
        ds.check_gradient(
            lambda x: x.sum() if x.dtype is torch.float32 else None, torch.ones(3), precision="float64"
        )


@pytest.mark.parametrize("factor", [1.0, 1.1])
@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_casts_to_eight_bits_are_taken_out(dtype: torch.dtype, factor: float) -> None:
    """As training in float8 does it: the gradient takes them for the identity."""

    class Doubled(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return 2 * x

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            return 2 * factor * g

    x = torch.rand(4, generator=torch.Generator().manual_seed(0))
    report = ds.check_gradient(lambda x: Doubled.apply(x.to(dtype).float()).sum(), x)
    assert report.verdict is (Verdict.PASS if factor == 1 else Verdict.FAIL)
    assert f"{str(dtype).removeprefix('torch.')}: checked with all of it in float64" in report.notes[0]


def test_hooks_on_parameters_are_told_to_be_left_out() -> None:
    model = torch.nn.Linear(3, 1)
    model.weight.register_hook(lambda g: 2 * g)
    report = ds.check_gradient(model, torch.ones(2, 3), loss=lambda m, b: m(b).square().mean())
    assert report.passed
    assert "not looked at: what hooks do to the gradient of weight" in report.notes


@pytest.mark.parametrize("number", [3, 2.5, True, np.int64(3), np.float32(0.5)], ids=type)
def test_a_plain_number_is_a_constant(number: Any) -> None:
    report = ds.check_gradient(lambda x: number, torch.linspace(-1, 1, 4, dtype=torch.float64))
    assert (report.verdict, report.coverage.zeros) == (Verdict.PASS, 4)
    assert any("counts as zero" in note for note in report.notes)
    assert (
        ds.check_hvp(lambda x: number, torch.linspace(-1, 1, 4, dtype=torch.float64)).verdict is Verdict.PASS
    )
    hinge = ds.check_gradient(
        lambda x: max(0, x.sum() - 9), torch.linspace(-1, 1, 4, dtype=torch.float64)
    )  # 0 is Python's here
    assert hinge.verdict is Verdict.PASS


@pytest.mark.parametrize(
    "returned", [None, "3", (3, 4), torch.tensor(3)], ids=["none", "text", "numbers", "whole"]
)
def test_what_is_no_number_is_refused(returned: Any) -> None:
    with pytest.raises(UsageError, match=r"the function returned an? .*: expected"):
        ds.check_gradient(lambda x: returned, torch.linspace(-1, 1, 4, dtype=torch.float64))


class Spike(torch.autograd.Function):
    """A step, with the slope of a fast sigmoid for a gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return (x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return g / (1 + x.abs()) ** 2


def through(x: Tensor, steps: float) -> Tensor:
    """Round to so many steps a unit, and take the gradient straight through."""
    return x + ((x * steps).round() / steps - x).detach()


MIX = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
SURROGATES = {
    "spikes": lambda x: Spike.apply(x).sum(),
    "layers of spikes": lambda x: Spike.apply(Spike.apply(x @ MIX.to(x)) @ MIX.to(x).T).sum(),
    "spikes and a loss": lambda x: (Spike.apply(x @ MIX.to(x)) - 0.3).square().sum().exp(),
    "rounded": lambda x: through(x, 1).square().sum(),
    "sixteenths": lambda x: (through(x, 16) @ MIX.to(x)).tanh().square().sum(),
    "eight bits": lambda x: (through(x, 128) @ MIX.to(x)).tanh().square().sum(),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", SURROGATES)
def test_a_surrogate_gradient_of_steps_is_called_one(name: str, dtype: torch.dtype, seed: int) -> None:
    x = torch.randn(6, 5, dtype=dtype, generator=torch.Generator().manual_seed(seed + 1))
    report = ds.check_gradient(SURROGATES[name], x)
    assert (report.verdict, report.reason) == (Verdict.INCONCLUSIVE, Reason.JUMP)
    (said,) = report.reasons
    assert "its true derivative is zero. The gradient is a surrogate" in said
    assert "\n" not in said


SELF = torch.randn(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
CANCELLED = {
    "cross-entropy": lambda x: nn.functional.cross_entropy(1000 * x, x.argmax(1)),
    "softplus by hand": lambda x: torch.log(1 + torch.exp(-40 - x.abs())).mean(),
    "cosine beside 1": lambda x: (1 - torch.cos(1e-9 * x)).sum(),
    "divergence from itself": lambda x: nn.functional.kl_div(
        (x / 30).log_softmax(1), (SELF.to(x) / 30).softmax(1), reduction="sum"
    ),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", CANCELLED)
def test_a_loss_below_its_own_round_off_is_no_surrogate(name: str, dtype: torch.dtype) -> None:
    report = ds.check_gradient(CANCELLED[name], SELF.to(dtype))
    assert report.verdict is not Verdict.FAIL  # the gradient is right
    assert report.reason is not Reason.JUMP
    assert "surrogate" not in str(report)


class Through(torch.autograd.Function):
    """A ReLU whose backward pass has forgotten the mask."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


def test_a_plateau_with_a_wrong_gradient_is_no_staircase() -> None:
    x = -torch.rand(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) - 0.1
    report = ds.check_gradient(lambda x: Through.apply(x).sum(), x)
    assert report.verdict is Verdict.FAIL
    assert "surrogate" not in str(report)


def test_the_smooth_function_in_place_of_steps_is_judged() -> None:
    x = torch.randn(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    class Smooth(Spike):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x / (1 + x.abs())

    assert ds.check_gradient(lambda x: Smooth.apply(x).sum(), x).verdict is Verdict.PASS
    # of a function with slopes and steps the slopes are judged; zeros are what steps by themselves have
    assert ds.check_gradient(lambda x: (Smooth.apply(x) * (x > 0)).sum(), x).verdict is Verdict.PASS
    assert ds.check_gradient(lambda x: (x > 0).to(x).sum() + x.sum(), x).verdict is Verdict.PASS
    wrong = ds.check_gradient(lambda x: Smooth.apply(x).sum() + Spike.apply(x).sum(), x)
    assert wrong.verdict is Verdict.FAIL


def narrow_outputs(seed: int) -> tuple[Any, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    a = (torch.randn(4, 6, generator=generator) / 2).bfloat16()
    return lambda x: torch.tanh(a @ x), torch.randn(6, generator=generator).bfloat16()


def largest_off(jacobian: Any) -> Any:
    """Return a Jacobian whose largest entry is a tenth too large."""

    def wrong(x: Any) -> Any:
        made = jacobian(x).clone().contiguous()
        made.view(-1)[made.abs().argmax()] *= 1.1
        return made

    return wrong


@pytest.mark.parametrize("seed", range(4))
def test_a_jacobian_of_bfloat16_is_judged_in_float64(seed: int) -> None:
    f, x = narrow_outputs(seed)
    jacobian = torch.func.jacrev(f)
    report = ds.check_jacobian(f, x, jacobian)
    assert report.verdict is Verdict.PASS
    assert "checked in float64, which both take in place of bfloat16" in report.notes
    wrong = ds.check_jacobian(f, x, largest_off(jacobian))
    place = np.unravel_index(int(jacobian(x).abs().argmax()), (4, 6))
    assert wrong.verdict is Verdict.FAIL
    assert wrong.findings[0].name == f"J[{place[0]}, {place[1]}]"


@pytest.mark.parametrize("seed", range(4))
def test_a_jacobian_made_in_few_bits_and_cast_up_is_not_called_wrong(seed: int) -> None:
    f, x = narrow_outputs(seed)

    def by_numpy(x: Tensor) -> Any:  # in float16, but for a last factor
        z = x.float().numpy().astype(np.float16)
        a = np.stack([f_row.float().numpy() for f_row in torch.func.jacrev(f)(x * 0)]).astype(np.float16)
        return (1 - np.tanh(a @ z) ** 2)[:, None].astype(np.float64) * a * 1.1

    assert ds.check_jacobian(lambda x: f(x) * 1.1, x, by_numpy).verdict is not Verdict.FAIL


def test_a_module_as_the_point_is_told_what_to_give() -> None:
    module = nn.Linear(3, 1)
    with pytest.raises(
        UsageError, match=r"x holds a Linear, a module: check_gradient\(module, batch, loss=…\)"
    ):
        ds.check_gradient(lambda m: m(torch.ones(3)).sum(), module)


def test_inference_mode_is_told_and_makes_no_gradient_wrong() -> None:
    x = torch.ones(3)
    with torch.inference_mode(), pytest.raises(UsageError, match="inference_mode"):
        ds.check_gradient(lambda x: (x**2).sum(), x)
    with torch.no_grad():
        assert ds.check_gradient(lambda x: (x**2).sum(), x).verdict is Verdict.PASS


def test_second_derivatives_that_are_tensors_of_no_memory() -> None:
    torch.manual_seed(0)
    x = [torch.randn(5, dtype=torch.float64), torch.randn(5, dtype=torch.float64)]
    assert ds.check_hvp(lambda x: nn.functional.l1_loss(*x), x).passed


@pytest.mark.parametrize("operation", [lambda x: x.sort()[0], lambda x: x.clamp(-0.5, 0.5), torch.round])
def test_a_function_that_jumps_all_around_is_told_by_its_name(operation: Any) -> None:
    """It is flat at the point, so that zero is right; not round-off, and no cast."""
    torch.manual_seed(0)
    x, w = torch.randn(2, 250, dtype=torch.float64)
    if operation is torch.round:
        report = ds.check_gradient(lambda x: (w * operation(x)).sum(), x)
    else:
        report = ds.check_hvp(lambda x: (w * operation(x)).sum(), x)
    assert report.verdict is Verdict.INCONCLUSIVE
    assert report.reason is Reason.JUMP
    assert "casts" not in str(report)


def test_a_task_that_comes_along_needs_no_file(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["check", "digits", "--directions", "1"]) == 0
    assert "PASS  The gradient of digits is right." in capsys.readouterr().out


def test_a_task_without_batches_is_told(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    tiny = Path(__file__).parents[1] / "compare" / "tiny.py"
    text = (
        tiny.read_text()
        + "\nempty = Task('empty', **{**parts, 'batches': lambda seed: iter(())}, steps=12)\n"
    )
    (tmp_path / "tiny.py").write_text(text)
    assert run(["check", "tiny.py:empty"]) == 2
    assert "batches(seed) of task 'empty' is empty: expected batches" in capsys.readouterr().err
