"""PyTorch takes the same steps: against the NumPy oracle, and against torch.optim."""

from __future__ import annotations

import copy
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch

import downslope as ds
from downslope.grouping.view import MatrixView
from downslope.torch import SGD, AdaGrad, Adam, AdamW, Muon, RMSProp, blocks
from downslope.torch.native import elementwise
from downslope.torch.native import steps as native_steps
from tests.parity.cases import BY_NAME, CASES, Case, assert_run, gradients, start
from tests.parity.deviations import allowed

CLASSES = {ds.SGD: SGD, ds.AdaGrad: AdaGrad, ds.RMSProp: RMSProp, ds.Adam: Adam}


def optimizer_of(case: Case, params: dict[str, torch.nn.Parameter], **options: Any) -> torch.optim.Optimizer:
    """Return this library's optimizer for a case."""
    own = {f.name: getattr(case.rule, f.name) for f in fields(case.rule) if f.name != "l2"}
    if isinstance(case.rule, ds.Muon):
        batched = MatrixView((1,), (2,), batch=(0,))
        views = [batched if p.ndim == 3 else MatrixView((0,), (1,)) for p in params.values()]
        group = {"params": list(params.values()), "views": views}
        if case.rule.l2:
            group |= {"decoupled_weight_decay": False}
        decay = case.rule.l2 or case.weight_decay
        return Muon([group], lr=case.lr, weight_decay=decay, cautious=case.cautious, **own, **options)
    decay = case.rule.l2 or case.weight_decay
    return CLASSES[type(case.rule)](
        params.values(),
        lr=case.lr,
        weight_decay=decay,
        decoupled_weight_decay=not case.rule.l2,
        cautious=case.cautious,
        **own,
        **options,
    )


def run(case: Case, dtype: torch.dtype, values: str, **options: Any) -> list[dict[str, np.ndarray]]:
    """Return the parameters after each step of this library's optimizer."""
    params = {k: torch.nn.Parameter(torch.tensor(v, dtype=dtype)) for k, v in start(case, values).items()}
    optimizer = optimizer_of(case, params, **options)
    out = []
    for g in gradients(case, values):
        for name, p in params.items():
            p.grad = torch.tensor(g[name], dtype=dtype)
        before = {name: p.grad.clone() for name, p in params.items()}
        optimizer.step()
        assert all(torch.equal(before[name], p.grad) for name, p in params.items()), (
            "a gradient was written to"
        )
        out.append({name: p.detach().double().numpy().copy() for name, p in params.items()})
    return out


@pytest.mark.parametrize("case", CASES, ids=str)
def test_blocks_take_the_oracles_steps(case: Case) -> None:
    assert_run(case, run(case, torch.float64, "float64", fused=False), allowed("torch", case.name))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_fused_kernels_take_the_oracles_steps(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elementwise, "step_of", lambda *_: "nothing compiled in this test")
    assert_run(case, run(case, torch.float64, "float64"), allowed("torch", f"fused:{case.name}"))


@pytest.mark.parametrize("case", [c for c in CASES if c.rule.elementwise], ids=str)
def test_compiled_code_takes_the_oracles_steps(case: Case) -> None:
    assert_run(case, run(case, torch.float64, "float64"), allowed("torch", f"compiled:{case.name}"))


@pytest.mark.parametrize("fused", [None, False], ids=["fused", "blocks"])
def test_the_layout_of_a_parameter_changes_nothing_of_its_muon_steps(
    fused: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A convolution in another order of memory is staged in blocks, and a turned matrix copied."""
    # What is compiled as a whole takes a parameter in order alone, and adds up in another order.
    monkeypatch.setattr(native_steps, "takes", lambda *_: False)

    def stepped(move: Any, view: MatrixView) -> torch.Tensor:
        generator = torch.Generator().manual_seed(3)
        start, *grads = (torch.randn(40, 24, 3, 3, generator=generator) for _ in range(4))
        p = torch.nn.Parameter(move(start.clone()))
        optimizer = Muon([{"params": [p], "view": view}], lr=0.1, fused=fused)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
            for g in grads:
                p.grad = move(g.clone())
                optimizer.step()
        calls = {e.key: e.count for e in seen.key_averages()}
        assert calls.get("aten::_fused_sgd_", 0) == (3 if fused is None else 0)
        return p.detach()

    kernel = MatrixView((0,), (1, 2, 3))
    plain = stepped(lambda t: t, kernel)
    assert torch.equal(plain, stepped(lambda t: t.to(memory_format=torch.channels_last), kernel))
    turned = stepped(lambda t: t.transpose(0, 1).contiguous(), MatrixView((1,), (0, 2, 3)))
    assert torch.equal(plain, turned.transpose(0, 1))


@pytest.mark.parametrize("case", [c for c in CASES if c.rule.elementwise], ids=str)
def test_splitting_into_tiny_blocks_changes_nothing(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(case, torch.float64, "float64", fused=False)
    original = blocks.for_each_block.__defaults__
    monkeypatch.setattr(blocks.for_each_block, "__defaults__", (4,))
    split = run(case, torch.float64, "float64", fused=False)
    monkeypatch.setattr(blocks.for_each_block, "__defaults__", original)
    for a, b in zip(whole, split, strict=True):
        for name in a:
            # a vector's tail may contract a·b+c where whole lanes do not: 1 ulp a step
            np.testing.assert_allclose(a[name], b[name], rtol=25 * 2**-52, atol=25 * 2**-52)


@pytest.mark.parametrize("name", ["sgd-nesterov", "adagrad", "rmsprop-centered", "adam", "adam-decay"])
def test_float32_stays_within_rounding_of_the_oracle(name: str) -> None:
    # 25 steps that each round a few times in float32: 64 ulp of the parameter's size
    case = BY_NAME[name]
    assert_run(case, run(case, torch.float32, "float32"), ulps=64, dtype="float32")


@pytest.mark.parametrize("name", ["sgd-nesterov", "adam-decay", "muon-decay"])
def test_bfloat16_parameters_round_once_a_step(name: str) -> None:
    # states are float32, so each of 25 steps rounds the parameter once: at most half an ulp each,
    # and the next step's decay sees the rounded parameter
    case = BY_NAME[name]
    options = {"ns_dtype": "float32"} if name.startswith("muon") else {}
    assert_run(case, run(case, torch.bfloat16, "bfloat16", **options), ulps=16, dtype="bfloat16")


NATIVE = {
    "sgd": (SGD, torch.optim.SGD, {"lr": 0.1}),
    "sgd-momentum-l2": (SGD, torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}),
    "sgd-nesterov": (SGD, torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    "adagrad": (AdaGrad, torch.optim.Adagrad, {"lr": 0.1}),
    "adagrad-l2": (
        AdaGrad,
        torch.optim.Adagrad,
        {"lr": 0.1, "weight_decay": 0.1, "initial_accumulator_value": 0.1},
    ),
    "rmsprop": (RMSProp, torch.optim.RMSprop, {"lr": 0.1}),
    "rmsprop-all": (
        RMSProp,
        torch.optim.RMSprop,
        {"lr": 0.1, "momentum": 0.9, "centered": True, "weight_decay": 0.1},
    ),
    "adam-l2": (Adam, torch.optim.Adam, {"lr": 0.1, "weight_decay": 0.1}),
    "amsgrad": (Adam, torch.optim.Adam, {"lr": 0.1, "amsgrad": True}),
    "adamw": (AdamW, torch.optim.AdamW, {"lr": 0.1, "weight_decay": 0.1}),
}


@pytest.mark.parametrize("name", NATIVE)
def test_equals_torch_optim(name: str, fused: bool | None) -> None:
    ours, theirs, options = NATIVE[name]
    case = BY_NAME["adam"]
    both = []
    for make in (lambda p: ours(p, **options, fused=fused), lambda p: theirs(p, **options, foreach=False)):
        params = {k: torch.nn.Parameter(torch.tensor(v)) for k, v in start(case).items()}
        optimizer = make(params.values())
        for g in gradients(case):
            for k, p in params.items():
                p.grad = torch.tensor(g[k])
            optimizer.step()
        both.append(params)
    for k, p in both[0].items():
        # 25 steps in float64 of at most lr each; both orders of operations are valid
        torch.testing.assert_close(p, both[1][k], rtol=1e-13, atol=1e-13)
        if weight_decay := options.get("weight_decay"):
            effect = weight_decay * options["lr"] * p.abs().max()
            assert effect > 1e-6, "the decay would not have been seen"


@pytest.mark.parametrize("name", NATIVE)
def test_complex_numbers_equal_torch_optim(name: str, fused: bool | None) -> None:
    """As pairs of real numbers, which the squares of numbers would not be; states go over and back."""
    ours, theirs, options = NATIVE[name]
    generator = torch.Generator().manual_seed(5)
    made = torch.randn(4, 5, 3, dtype=torch.complex128, generator=generator)
    p, q = torch.nn.Parameter(made[0].clone()), torch.nn.Parameter(made[0].clone())
    one, other = ours([p], **options, fused=fused), theirs([q], **options, foreach=False)
    for step, g in enumerate(made.repeat(4, 1, 1)):
        p.grad, q.grad = g.conj(), g.conj().resolve_conj()  # autograd leaves conjugates unresolved, too
        one.step()
        other.step()
        torch.testing.assert_close(p, q, rtol=1e-13, atol=1e-13)  # float64, as above
        if step == 5:
            other.load_state_dict(copy.deepcopy(one.state_dict()))
            one.load_state_dict(copy.deepcopy(other.state_dict()))
    assert (p - made[0]).abs().min() > 1e-3


def test_equals_torch_muon_within_bfloat16() -> None:
    """torch.optim.Muon iterates in bfloat16 only; ours in the same steps differs by its rounding."""
    torch.manual_seed(0)
    start_value, gs = torch.randn(64, 32), [torch.randn(64, 32) for _ in range(5)]
    results = []
    for make in (
        lambda p: Muon(
            [p], lr=0.1, weight_decay=0.1, coefficients="keller5", scale="original", ns_dtype="float32"
        ),
        lambda p: torch.optim.Muon([p], lr=0.1, weight_decay=0.1, adjust_lr_fn="original"),
    ):
        p = torch.nn.Parameter(start_value.clone())
        optimizer = make(p)
        for g in gs:
            p.grad = g.clone()
            optimizer.step()
        results.append(p.detach())
    moved = (results[0] - start_value).norm()
    # bfloat16 has 8 bits: 2^-8 a product, ten products deep
    assert (results[0] - results[1]).norm() < 0.03 * moved


def test_a_convolution_moves_as_its_matrix_does() -> None:
    torch.manual_seed(1)
    weight, g = torch.randn(8, 4, 3, 3, dtype=torch.float64), torch.randn(8, 4, 3, 3, dtype=torch.float64)
    conv, flat = torch.nn.Parameter(weight.clone()), torch.nn.Parameter(weight.reshape(8, 36).clone())
    conv.grad, flat.grad = g, g.reshape(8, 36)
    Muon([conv, flat], lr=0.1).step()
    assert torch.equal(conv.reshape(8, 36), flat)


def test_memory_layouts_do_not_matter() -> None:
    torch.manual_seed(2)
    weight, g = torch.randn(8, 4, 3, 3), torch.randn(8, 4, 3, 3)
    for make in (lambda p: Muon([p], lr=0.1), lambda p: RMSProp([p], lr=0.1), lambda p: AdamW([p], lr=0.1)):
        results = []
        for memory in (torch.contiguous_format, torch.channels_last):
            for gradient_memory in (torch.contiguous_format, torch.channels_last):
                p = torch.nn.Parameter(weight.clone(memory_format=memory))
                optimizer = make(p)
                for _ in range(2):
                    p.grad = g.clone(memory_format=gradient_memory)
                    optimizer.step()
                results.append(p.detach().contiguous())
        for other in results[1:]:
            torch.testing.assert_close(results[0], other, rtol=1e-6, atol=1e-6)


def test_how_matrices_are_stacked_does_not_matter() -> None:
    """In float64 a stack of one gives what a stack of many gives, and one portion what several give."""
    torch.manual_seed(3)
    shapes = [(6, 10), (10, 6), (6, 10), (8, 8), (6, 10), (8, 8)]
    weights = [torch.randn(s, dtype=torch.float64) for s in shapes]
    gs = [torch.randn(s, dtype=torch.float64) for s in shapes]

    def moved(together: bool, **options: Any) -> list[torch.Tensor]:
        params = [torch.nn.Parameter(w.clone()) for w in weights]
        for p, g in zip(params, gs, strict=True):
            p.grad = g.clone()
        for group in [params] if together else [[p] for p in params]:
            Muon(group, lr=0.1, **options).step()
        return [p.detach() for p in params]

    apart = moved(together=False)
    for other in (moved(together=True), moved(together=True, max_stack_bytes=1000)):
        for a, b in zip(apart, other, strict=True):
            # a batched product may sum in another order: a few ulp, grown by five steps of degree five
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_fused_qkv_moves_as_three_matrices_do() -> None:
    torch.manual_seed(4)
    weight, g = torch.randn(12, 4, dtype=torch.float64), torch.randn(12, 4, dtype=torch.float64)
    whole = torch.nn.Parameter(weight.clone())
    whole.grad = g
    Muon([{"params": [whole], "view": MatrixView((0,), (1,), blocks=(6, 3, 3))}], lr=0.1).step()
    parts = [torch.nn.Parameter(w.clone()) for w in weight.split([6, 3, 3])]
    for p, piece in zip(parts, g.split([6, 3, 3]), strict=True):
        p.grad = piece.clone()
    Muon(parts, lr=0.1).step()
    torch.testing.assert_close(whole, torch.cat(parts), rtol=1e-12, atol=1e-12)
    alone = torch.nn.Parameter(weight.clone())
    alone.grad = g
    Muon([alone], lr=0.1).step()
    assert (whole - alone).abs().max() > 1e-2, "the blocks would not have been seen"


def test_interleaved_qkv_moves_as_three_matrices_do() -> None:
    """Q, K and V of two heads, head by head along the outputs."""
    torch.manual_seed(5)
    weight, g = torch.randn(12, 4, dtype=torch.float64), torch.randn(12, 4, dtype=torch.float64)
    whole = torch.nn.Parameter(weight.clone())
    whole.grad = g
    Muon([{"params": [whole], "view": MatrixView((0,), (1,), blocks=(2, 2, 2), repeats=2)}], lr=0.1).step()
    rows = [[0, 1, 6, 7], [2, 3, 8, 9], [4, 5, 10, 11]]
    for chosen in rows:
        p = torch.nn.Parameter(weight[chosen].clone())
        p.grad = g[chosen].clone()
        Muon([p], lr=0.1).step()
        torch.testing.assert_close(whole[chosen], p, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("cls", [AdamW, Adam, SGD, AdaGrad, RMSProp, Muon])
@pytest.mark.parametrize("capturable", [False, True], ids=["host", "capturable"])
def test_a_gradient_of_another_dtype_is_cast(cls: Any, capturable: bool) -> None:
    torch.manual_seed(0)
    dtypes = (torch.bfloat16, torch.float64, torch.float16, torch.float32)
    shapes = [(4, 6), (300, 100)]
    grads = [torch.randn(shape).bfloat16().float().half().float() for shape in shapes for _ in dtypes]
    moved = []
    for cast in (False, True):
        params = [torch.nn.Parameter(torch.ones(shape)) for shape in shapes for _ in dtypes]
        optimizer = cls(params, lr=0.1, capturable=capturable)
        for _ in range(2):
            for p, g, dtype in zip(params, grads, dtypes * 2, strict=True):
                p.grad_dtype = None
                p.grad = g.to(dtype) if cast else g
            optimizer.step()
        moved.append(params)
    for p, q in zip(*moved, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)
