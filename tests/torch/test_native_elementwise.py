"""Element-wise steps compiled for this CPU, against the same rules in plain PyTorch blocks."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.flop_counter import FlopCounterMode

from downslope.grouping.view import MatrixView
from downslope.ops.numpy import NumpyOps
from downslope.ops.protocol import Array, Ops
from downslope.rules.adagrad import AdaGrad
from downslope.rules.adam import Adam
from downslope.rules.rmsprop import RMSProp
from downslope.rules.rule import Rule, State
from downslope.rules.sgd import SGD
from downslope.torch import AdamW, Muon, element_step
from downslope.torch.element_step import step_elementwise
from downslope.torch.engine import Write
from downslope.torch.exchange import placed
from downslope.torch.kernel import HALF, first_state, state_fields
from downslope.torch.native import elementwise, expression, finite, steps
from downslope.torch.native.expression import written
from downslope.torch.native.memory import lie_apart
from downslope.torch.nonfinite import nonfinite

PLAIN = Write(0.1, 0.0, False)
WHY = elementwise.reason(SGD(), torch.float32, PLAIN)
pytestmark = pytest.mark.skipif(bool(WHY), reason=WHY)

DTYPES = [
    torch.float32,
    torch.float64,
    torch.bfloat16,
    pytest.param(
        torch.float16,
        marks=pytest.mark.skipif(
            bool(elementwise.reason(SGD(), torch.float16, PLAIN)), reason="the compiler has no float16"
        ),
    ),
]
RULES: dict[str, Rule] = {
    "sgd": SGD(),
    "sgd, l2": SGD(l2=0.1),
    "momentum": SGD(momentum=0.9),
    "nesterov": SGD(momentum=0.5, nesterov=True),
    "adagrad": AdaGrad(initial_accumulator_value=0.1),
    "rmsprop": RMSProp(),
    # The larger eps keeps what rounding leaves of g + l2 p, where they cancel, from being divided by 1e-4.
    "rmsprop, all": RMSProp(momentum=0.9, centered=True, eps_inside_root=True, l2=0.1, eps=0.1),
    "adam": Adam(),
    "adam, short": Adam(betas=(0.0, 0.3)),
    "adam, plain": Adam(bias_correction=False),
    "amsgrad": Adam(amsgrad=True),
}
SHAPES = [(1,), (7, 5), (), (0, 3), (64,), (130, 33), (5, 1, 4), (1 << 16,)]


def columns_of(rule: Rule, dtype: torch.dtype, seed: int = 0) -> list[list[Tensor]]:
    """Return parameters, gradients and the parts of a state that one step has left."""
    generator = torch.Generator().manual_seed(seed)
    params = [torch.randn(shape, generator=generator).to(dtype) for shape in SHAPES]
    grads = [torch.randn(shape, generator=generator).to(dtype) for shape in SHAPES]
    states = [first_state(rule, p) for p in params]
    columns = [params, grads, *([state[field] for state in states] for field in state_fields(rule))]
    step_elementwise(rule, columns, 1, Write(0.1, 0.0, False, fused=False))
    return columns


def copied(columns: list[list[Tensor]]) -> list[list[Tensor]]:
    return [[t.clone() for t in column] for column in columns]


def compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make steps fail that are not compiled."""
    monkeypatch.setattr(element_step, "_fused", None)
    monkeypatch.setattr(element_step, "elementwise_kernel", None)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("decay", [(0.0, False), (0.1, False), (0.1, True)], ids=str)
@pytest.mark.parametrize("name", RULES)
def test_steps_are_those_of_blocks(
    name: str, decay: tuple[float, bool], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule, how = RULES[name], Write(0.1, *decay)
    done, start = columns_of(rule, dtype), columns_of(rule, dtype)[0][-1]
    expected, grads = copied(done), copied(done)[1]
    for t in range(2, 5):
        step_elementwise(rule, expected, t, Write(*(how.lr, *decay), fused=False))
    compiled(monkeypatch)
    for t in range(2, 5):
        step_elementwise(rule, done, t, how)
    assert all(map(torch.equal, done[1], grads)), "a gradient was written to"
    for found, wanted in zip(done, expected, strict=True):
        for a, b in zip(found, wanted, strict=True):
            # Of three steps of some ten operations, of numbers of at most 8: torch's averages round once
            # where these round twice, and it divides where these multiply by the inverse. Parameters of half
            # precision round once a step, on either side of half a unit, and the penalty is made of them.
            unit, few = (torch.finfo(dtype).eps, 3) if dtype in HALF else (torch.finfo(a.dtype).eps, 30)
            torch.testing.assert_close(a, b, rtol=few * unit, atol=few * unit)
    assert (done[0][-1] - start).abs().max() > 0.15, "nothing moved"


@pytest.fixture
def threads() -> Iterator[Any]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", ["adam", "rmsprop, all"])
def test_threads_and_what_is_beside_a_tensor_change_nothing(name: str, threads: Any) -> None:
    """To the last bit: ranges begin anywhere in a tensor, vectors end anywhere in a range."""
    rule, how = RULES[name], Write(0.1, 0.1, True)
    together, spread, alone = (columns_of(rule, torch.float32) for _ in range(3))
    threads(1)
    step_elementwise(rule, together, 2, how)
    for i in range(len(SHAPES)):
        step_elementwise(rule, [[column[i]] for column in alone], 2, how)
    threads(2)
    step_elementwise(rule, spread, 2, how)
    for other in (spread, alone):
        for a, b in zip(together, other, strict=True):
            assert all(map(torch.equal, a, b))


@pytest.mark.parametrize("many", [1, 2, 3, 5, 7])
def test_every_number_is_stepped_once(many: int, threads: Any) -> None:
    threads(many)
    for sizes in ([70_000] * 3, [1, 200_000, 0, 3, 99_999], [32_768] * 5, [5], [0]):
        params = [torch.zeros(size) for size in sizes]
        step_elementwise(SGD(), [params, [torch.ones(size) for size in sizes]], 1, Write(1.0, 0.0, False))
        assert all(bool((p == -1).all()) for p in params)


def test_bfloat16_is_rounded_as_torch_rounds_it() -> None:
    """Halves to even, up into infinity, and down to the least: every upper half, five lower ones."""
    upper = torch.arange(1 << 16, dtype=torch.int64) << 16
    bits = (upper[:, None] + torch.tensor([0, 1, 0x7FFF, 0x8000, 0x8001])).flatten()
    numbers = bits.to(torch.int32).view(torch.float32)
    p, g = (
        torch.zeros(numbers.numel(), dtype=torch.bfloat16),
        torch.ones(numbers.numel(), dtype=torch.bfloat16),
    )
    buffer = (numbers - 1).clone()  # momentum of nearly 1 gives back what is not lost in adding
    how = Write(-1.0, 0.0, False)
    rule = SGD(momentum=0.5)
    other, kept = p.clone(), buffer.clone()
    step_elementwise(rule, [[p], [g], [buffer]], 2, how)
    step_elementwise(rule, [[other], [g], [kept]], 2, Write(-1.0, 0.0, False, fused=False))
    assert torch.equal(p.isnan(), other.isnan())
    assert torch.equal(p.nan_to_num(7.0), other.nan_to_num(7.0))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e38, 1e-45, -0.0])
@pytest.mark.parametrize("name", RULES)
def test_extreme_numbers_go_the_same_way(name: str, value: float) -> None:
    rule, how = RULES[name], Write(0.1, 0.1, True)
    done = columns_of(rule, torch.float32)
    for column in done:
        column[-1][3] = value
    expected = copied(done)
    step_elementwise(rule, done, 2, how)
    step_elementwise(rule, expected, 2, Write(0.1, 0.1, True, fused=False))
    for a, b in zip(done, expected, strict=True):
        torch.testing.assert_close(a[-1], b[-1], rtol=1e-5, atol=1e-6, equal_nan=True)


class Window(NamedTuple):
    largest: Array


@dataclass(frozen=True)
class Own(Rule):
    """A rule of the user's own: what it does to arrays is compiled too."""

    state_type = Window
    root: bool = False

    def init(self, x: Ops, p: Array) -> Window:
        return Window(x.full_like(p, 0.5))

    def direction(self, x: Ops, g: Array, state: State, p: Array, t: Any) -> tuple[Array, Window]:
        largest = x.maximum(0.9 * state.largest, abs(g))
        smooth = x.combine((1.0, g), (0.5, p), (-0.25, 1 - p))
        d = x.where(g < 0, smooth / largest, x.ramp(g, t, 10) - (2.0 / largest))
        return (x.row_rms(d) * d if self.root else x.where(p <= 0, -d, d)), Window(largest)


def test_a_rule_of_the_users_own_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    done = columns_of(Own(), torch.float64)
    expected = copied(done)
    step_elementwise(Own(), expected, 2, Write(0.1, 0.0, False, fused=False))
    compiled(monkeypatch)
    step_elementwise(Own(), done, 2, Write(0.1, 0.0, False))
    for a, b in zip(done, expected, strict=True):
        for one, other in zip(a, b, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-14, atol=1e-14)


def test_a_rule_that_needs_more_runs_in_blocks_and_says_so() -> None:
    p = nn.Parameter(torch.ones(4, 4))
    text = element_step.engines_of(Own(root=True), [p], PLAIN, capturable=False)
    assert (
        text
        == "cache-sized blocks (nothing compiled for this rule: 'Tape' object has no attribute 'row_rms')"
    )
    done, expected = ([[torch.ones(4, 4)], [torch.ones(4, 4)], [torch.ones(4, 4)]] for _ in range(2))
    step_elementwise(Own(root=True), done, 2, PLAIN)
    step_elementwise(Own(root=True), expected, 2, Write(0.1, 0.0, False, fused=False))
    assert torch.equal(done[0][0], expected[0][0])


def test_a_choice_that_python_makes_is_refused() -> None:
    @dataclass(frozen=True)
    class Choosing(Rule):
        def init(self, x: Ops, p: Array) -> Any:
            return self.state_type()

        def direction(self, x: Ops, g: Array, state: State, p: Array, t: Any) -> Any:
            return (g if g > 0 else -g), state

    assert "not known before the step is taken" in elementwise.reason(Choosing(), torch.float32, PLAIN)


class Past(NamedTuple):
    last: Array
    before: Array


@dataclass(frozen=True)
class Late(Rule):
    """Goes where the gradient pointed two steps ago: parts of the state change places, and one is the way."""

    state_type = Past

    def init(self, x: Ops, p: Array) -> Past:
        return Past(x.zeros_like(p), x.zeros_like(p))

    def direction(self, x: Ops, g: Array, state: State, p: Array, t: Any) -> tuple[Array, Past]:
        return state.before, Past(g, state.last)


@dataclass(frozen=True)
class Comparing(Late):
    """Compares in every way, and remembers what comes of it."""

    def direction(self, x: Ops, g: Array, state: State, p: Array, t: Any) -> tuple[Array, Past]:
        d = x.where(g == 0, 0.5, x.where(p != 1, g, -g)) + x.where(g <= p, 1.0, x.where(g >= 2 * p, p, 4.0))
        return d, Past(g < p, g > p)


@dataclass(frozen=True)
class Counting(Late):
    """Adds truths, which in arrays makes a truth."""

    def direction(self, x: Ops, g: Array, state: State, p: Array, t: Any) -> tuple[Array, Past]:
        return g * ((g < 3) + (p < 3)), state


@pytest.mark.parametrize("rule", [Late(), Comparing(), Counting()], ids=repr)
def test_rules_of_the_users_own_do_what_they_do_in_numpy(rule: Rule, fused: bool | None) -> None:
    start, grads = np.array([0.0, 1.0, 1.0, -2.0]), np.array([[1.0, 0, 1, -3], [2, 1, 1, 0], [0, 5, 1, -1]])
    expected, state = start, rule.start(start)
    columns = [[torch.tensor(start)], [], [torch.zeros(4).double()], [torch.zeros(4).double()]]
    for t, g in enumerate(grads, 1):
        expected, state = rule.step(expected, g, state, lr=0.5)
        columns[1] = [torch.tensor(g)]
        step_elementwise(rule, columns, t, Write(0.5, 0.0, False, fused=fused is not False))
        for (found,), wanted in zip(columns, (expected, g, *state.states), strict=True):
            assert found.tolist() == wanted.tolist()


@dataclass(frozen=True)
class Huge(Own):
    def direction(self, x: Ops, g: Array, state: State, p: Array, t: Any) -> tuple[Array, Window]:
        return g * 10**400, state


@dataclass(frozen=True)
class Mean(Own):
    def direction(self, x: Ops, g: Array, state: State, p: Array, t: Any) -> tuple[Array, Window]:
        return np.mean(g) * g, state


@pytest.mark.parametrize(("rule", "why"), [(Huge(), "too large"), (Mean(), "no array of NumPy's")], ids=repr)
def test_where_a_rule_fails_its_own_error_is_the_reason(rule: Rule, why: str) -> None:
    said = elementwise.reason(rule, torch.float32, PLAIN)
    assert said.startswith("nothing compiled for this rule: ")
    assert why in said


def test_the_code_of_a_rule_is_the_same_at_every_step() -> None:
    """Otherwise a schedule would compile it anew at each."""
    rule = Adam()
    first, later = written(rule, 1, Write(0.1, 0.01, True)), written(rule, 99, Write(3.0, 0.5, True))
    assert first.lines == later.lines
    assert first.numbers != later.numbers
    other = written(Adam(betas=(0.8, 0.99), eps=1e-3), 1, Write(0.1, 0.01, True))
    assert other.lines == first.lines


@dataclass(frozen=True)
class Odd(Late):
    """Sees its count, in ways that a number which is not known yet refuses."""

    how: str = "=="

    def direction(self, x: Ops, g: Array, state: State, p: Array, t: Any) -> tuple[Array, Past]:
        seen = {
            "==": lambda: t == 2,
            "!=": lambda: t != 2,
            "<": lambda: t < 2,
            "%": lambda: t % 2,
            "bool": lambda: not t,
            "in": lambda: t in (2, 3),
            "in a set": lambda: t in {2, 3},
            "float": lambda: float(t) > 2,
            "root": lambda: math.sqrt(t) > 1.5,
            "numpy": lambda: np.float64(1.5) * t > 2,
            "range": lambda: len(range(t)) > 2,
        }[self.how]()
        return (3.0 if seen else 1.0) * g, state


HOWS = ["==", "!=", "<", "%", "bool", "in", "in a set", "float", "root", "numpy", "range"]


@pytest.mark.parametrize("how", HOWS)
def test_a_rule_that_sees_its_count_is_run_at_every_step(how: str) -> None:
    rule, numpy = Odd(how=how), np.zeros(2)
    state = rule.start(numpy)
    p = torch.zeros(2, dtype=torch.float64)
    states = [[torch.zeros(2).double()], [torch.zeros(2).double()]]
    for t in range(1, 5):
        numpy, state = rule.step(numpy, np.ones(2), state, lr=0.5)
        step_elementwise(rule, [[p], [torch.ones(2).double()], *states], t, Write(0.5, 0.0, False))
        assert p.tolist() == numpy.tolist()


@dataclass(frozen=True)
class Backward(Late):
    """Hands on another number than its count."""

    def direction(self, x: Ops, g: Array, state: State, p: Array, t: Any) -> tuple[Array, Past]:
        back = -t
        return x.debias(x.ramp(g, back, 4) * g, 0.5, -back), state


def test_what_a_rule_makes_of_its_count_is_handed_on() -> None:
    rule, start = Backward(), np.ones(2)
    assert expression._recipe(rule, 0.0, False) is not None
    for t in (1, 2, 5):
        expected, _ = rule.direction(NumpyOps(), start, Past(start, start), start, t)
        p, g, *states = ([torch.ones(2).double()] for _ in range(4))
        step_elementwise(rule, [p, g, *states], t, Write(0.5, 0.0, False))
        assert p[0].tolist() == (start - 0.5 * expected).tolist()


def test_rules_of_here_are_run_once_for_all_steps() -> None:
    """And say the same numbers, to the last bit, as when they are run at one."""
    rules = [SGD(), SGD(momentum=0.9, nesterov=True), AdaGrad(), RMSProp(centered=True, momentum=0.5)]
    for rule in [*rules, Adam(), Adam(amsgrad=True, l2=0.1), Adam(bias_correction=False)]:
        for decay, cautious in ((0.0, False), (0.1, False), (0.1, True)):
            recipe = expression._recipe(rule, decay, cautious)
            assert recipe is not None
            for t, lr in ((1, 0.1), (2, 1e-3), (1000, 0.3)):
                once = expression._run(rule, t, lr, decay, cautious)
                assert recipe.at(t, lr) == once.at(t, lr)
                assert all(type(n) is float for n in once.numbers)


def test_what_is_not_plain_is_left_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    take = elementwise.take
    monkeypatch.setattr(
        elementwise, "take", lambda s, grads, known: taken.append(len(grads)) or take(s, grads, known)
    )

    def stepped(p: Tensor, g: Tensor) -> Tensor:
        taken.clear()
        step_elementwise(SGD(), [[p], [g]], 1, Write(1.0, 0.0, False))
        return p

    ones = torch.ones(4, 6)
    assert torch.equal(stepped(torch.zeros(4, 6), ones), -ones)
    assert taken == [1]
    last = torch.zeros(2, 3, 4, 5).to(memory_format=torch.channels_last)
    assert torch.equal(
        stepped(last, torch.ones(2, 3, 4, 5).to(memory_format=torch.channels_last)), -torch.ones_like(last)
    )
    assert taken == [1], "one order of memory, whichever it is"
    numbers, wide = torch.arange(24.0).view(4, 6), torch.zeros(2, 4, 12)
    for p, g in (
        (torch.zeros(6, 4).T, numbers),  # another order than the gradient's
        (torch.zeros(4, 6), numbers.T.contiguous().T),
        (wide[0, :, ::2], numbers),  # gaps
        (wide[1, :, ::2], torch.zeros(4, 12)[:, ::2].copy_(numbers)),  # the same ones
        (torch.zeros(4, 6), torch._neg_view(-numbers)),  # which holds the opposites
        (torch.zeros(4, 6), numbers.double()),
    ):
        assert torch.equal(stepped(p, g), -numbers)
        assert not taken
    assert not wide[..., 1::2].any()
    assert torch.equal(stepped(torch.zeros(4, 6), torch._efficientzerotensor((4, 6))), torch.zeros(4, 6))
    assert not taken


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_parts_of_a_state_in_another_precision_are_left_to_others(dtype: torch.dtype) -> None:
    p = torch.ones(3, dtype=dtype)
    own = torch.zeros(3, dtype=torch.float32 if dtype in HALF else dtype)
    assert elementwise.fits([[p], [p], [own], [own]])
    for other in {torch.float32, torch.float64, torch.bfloat16} - {own.dtype}:
        assert not elementwise.fits([[p], [p], [own.to(other)], [own]])
        assert not elementwise.fits([[p, p], [p, p], [own, own.to(other)], [own, own]])


@pytest.mark.parametrize("after", [0, 1000])
def test_parameters_of_one_memory_are_stepped_one_after_the_other(
    after: int, threads: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Side by side on two threads, one of the steps would be lost now and then."""
    threads(2)
    monkeypatch.setattr(elementwise, "take", None)
    memory = torch.zeros(1 << 17)
    params = [memory, memory[after:]]
    assert not lie_apart(params)
    for k in range(1, 20):
        step_elementwise(SGD(), [params, list(map(torch.ones_like, params))], 1, Write(1.0, 0.0, False))
        assert bool((memory[after:] == -2 * k).all())
        assert bool((memory[:after] == -k).all())
    assert lie_apart([memory[after:], memory[:after], memory[:0], torch.zeros(0)])


def test_matrices_of_one_memory_are_not_stepped_side_by_side() -> None:
    memory = torch.zeros(3, 4)
    view = MatrixView((0,), (1,))
    items = [placed(p, torch.ones(2, 4), torch.zeros(2, 4), view) for p in (memory[:2], memory[1:])]
    assert steps.taken(items) == []
    assert steps.taken(items[:1]) == items[:1]


def test_a_step_that_a_tensor_counts_or_decides_is_not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elementwise, "take", None)
    p = torch.ones(3)
    for t in (1, torch.tensor(1.0)):
        step_elementwise(SGD(), [[p], [torch.ones(3)]], t, PLAIN, ok=torch.tensor(False))
        assert torch.equal(p, torch.ones(3))
    step_elementwise(SGD(), [[p], [torch.ones(3)]], torch.tensor(1.0), PLAIN)
    assert torch.equal(p, torch.full((3,), 0.9))


def test_unfused_steps_and_looks_are_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    for what, name in ((elementwise, "step_of"), (finite, "takes")):
        monkeypatch.setattr(what, name, None)
    p = nn.Parameter(torch.ones(3))
    p.grad = torch.ones(3)
    AdamW([p], fused=False).step()
    assert bool((p < 1).all())


def test_all_threads_are_asked_for(threads: Any) -> None:
    asked: list[int] = []
    library: Any = SimpleNamespace(step=lambda *arguments: asked.append(arguments[-1]))
    for many in (1, 3):
        threads(many)
        known = elementwise.known_of([torch.ones(3)], [])
        elementwise.take(elementwise.Step(library, ()), [torch.ones(3)], known)
    assert asked == [1, 3]


def test_what_torch_must_see_is_not_compiled() -> None:
    """Of a function that is transformed or recorded the step is a part."""

    def stepped(p: Tensor, g: Tensor) -> Tensor:
        p = p.clone()
        step_elementwise(SGD(), [[p], [g]], 1, Write(1.0, 0.0, False))
        return p

    def ahead(p: Tensor) -> Tensor:
        with torch.no_grad():
            return p * stepped(p, torch.ones(3))

    zeros, ones = torch.zeros(3), torch.ones(3)
    assert torch.equal(make_fx(stepped)(zeros, ones)(ones, ones), zeros)
    assert torch.equal(make_fx(stepped)(zeros, ones)(zeros, 2 * ones), -2 * ones)
    assert torch.equal(torch.func.vjp(ahead, ones)[0], zeros)
    matrix = nn.Parameter(torch.ones(2, 3))
    matrix.grad = torch.eye(2, 3)
    for layout in (matrix.grad, matrix.grad.T.contiguous().T):
        matrix.grad = layout
        with FlopCounterMode(display=False) as counter:
            Muon([matrix]).step()
        assert counter.get_total_flops() > 0


def test_a_state_on_another_device_is_not_gone_to() -> None:
    """Where the parameter was moved since, as by `module.cpu()`; its address means nothing here."""
    p, slot = torch.zeros(3), torch.zeros(3, device="meta")
    assert not elementwise.fits([[p], [torch.ones(3)], [slot]])
    assert not elementwise.fits([[slot]])
    view = MatrixView((0,), (1,))
    items = [placed(p.view(1, 3), torch.ones(1, 3), m.view(1, 3), view) for m in (slot, torch.zeros(3))]
    assert steps.taken(items) == steps.taken(items[::-1]) == items[1:]


def test_autograd_learns_that_parameters_and_states_changed() -> None:
    p = nn.Parameter(torch.ones(3))
    optimizer = AdamW([p])
    loss = (p**3).sum()
    loss.backward(retain_graph=True)
    versions = p._version
    optimizer.step()
    assert p._version > versions
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
    first = optimizer.state[p]["exp_avg"]._version
    optimizer.step()
    assert optimizer.state[p]["exp_avg"]._version > first


def test_a_step_in_inference_mode() -> None:
    """Where tensors have no version that could be told of."""
    p = nn.Parameter(torch.ones(3))
    p.grad = torch.ones(3)
    optimizer = AdamW([p], lr=0.5, weight_decay=0.0)
    with torch.inference_mode():
        optimizer.step()
        optimizer.step()
    assert torch.allclose(p, torch.zeros(3), atol=1e-6)


LOOK = {"compiled": True, "plain": False}


def test_gradients_of_two_dtypes_are_each_read_as_their_own() -> None:
    """As after `p.data = p.data.double()`: read as doubles, floats would hide what they hold."""
    nan = torch.tensor([1.0, float("nan"), 1.0])
    assert nonfinite([torch.ones(3).double(), nan]) == [1]
    assert nonfinite([torch.ones(3), nan.double()]) == [1]
    assert nonfinite([torch.ones(3).double(), torch.zeros(3)]) == []


@pytest.mark.parametrize("many", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("way", LOOK)
@pytest.mark.parametrize("value", [float("nan"), -float("nan"), float("inf"), -float("inf")])
def test_every_place_of_what_is_not_finite_is_seen(
    way: str, value: float, dtype: torch.dtype, many: int, threads: Any
) -> None:
    threads(many)
    grads = [torch.full((size,), torch.finfo(dtype).max, dtype=dtype) for size in (1, 0, 40, 70_001, 2)]
    assert finite.takes(grads)
    assert nonfinite(grads, compiled=LOOK[way]) == []
    for i, places in ((0, [0]), (2, [0, 17, 39]), (3, [0, 1, 32_767, 32_768, 65_536, 70_000]), (4, [1])):
        for place in places:
            grads[i][place] = value
            assert nonfinite(grads, compiled=LOOK[way]) == [i]
            grads[i][place] = -torch.finfo(dtype).tiny
    grads[0][0] = grads[3][5] = value
    assert nonfinite(grads, compiled=LOOK[way]) == [0, 3]


FAR = (1 << 19) + 77
"""Numbers that are taken at several places in turn, and some over."""


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("size", [(1 << 14) + 1, FAR])
def test_every_place_of_large_gradients_is_seen(size: int, dtype: torch.dtype, threads: Any) -> None:
    threads(1)
    g = torch.zeros(size, dtype=dtype)
    line = 64 // g.itemsize
    each = size // 12 // line * line
    edges = [k * each + i for k in range(13) for i in (-1, 0, 15, 16, 31, 32, 33)]
    edges = [place for place in edges if 0 <= place < size]
    places = [*edges, *range(size - 400, size), *torch.randint(size, (100,)).tolist()]
    for place in places:
        g[place] = torch.inf
        assert nonfinite([g]) == [0], place
        g[place] = 0.0
    assert nonfinite([g]) == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_large_tensors_are_stepped_as_small_ones(dtype: torch.dtype, threads: Any) -> None:
    """To the last bit: each entry is by itself, whenever its turn is."""
    threads(1)
    torch.manual_seed(0)
    p, g = torch.randn(FAR).to(dtype), torch.randn(FAR).to(dtype)
    states = [
        torch.rand(FAR, dtype=torch.float64 if dtype == torch.float64 else torch.float32) for _ in range(2)
    ]
    whole, parts = ([t.clone() for t in (p, g, *states)] for _ in range(2))
    step_elementwise(Adam(), [[t] for t in whole], 7, Write(0.1, 0.1, True))
    pieces = [torch.split(t, 10_000) for t in parts]
    step_elementwise(Adam(), [list(column) for column in pieces], 7, Write(0.1, 0.1, True))
    assert all(map(torch.equal, whole, parts))
    assert not torch.equal(whole[0], p)


def test_gradients_that_cannot_be_read_where_they_lie_are_seen_too() -> None:
    nan = torch.ones(2, 3, 4, 5)
    nan[1, 2, 3, 4] = float("nan")
    zeros = torch._efficientzerotensor((3,))
    for g in (nan.mT, nan[1, :, ::3], nan.to(memory_format=torch.channels_last), nan[1, 2, 3, 4].expand(3)):
        assert not finite.takes([g])
        assert nonfinite([torch.ones(3), g]) == [1]
    assert not finite.takes([zeros])
    assert nonfinite([zeros]) == []
    assert not finite.takes([torch.ones(3, device="meta")])


RUN = """
import torch
from downslope.torch import AdamW
p = torch.nn.Parameter(torch.ones(8, 16))
p.grad = torch.ones(8, 16)
optimizer = AdamW([p])
optimizer.step()
assert p.isfinite().all()
p.grad[3, 4] = float("nan")
try:
    optimizer.step()
except ValueError as error:
    print(error)
print(" ".join(repr(optimizer).split()))
"""


def test_without_a_compiler_it_is_torchs_kernel_and_says_why(tmp_path: Path) -> None:
    env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "CXX": "false"}
    command = [sys.executable, "-c", RUN]
    said = subprocess.run(command, capture_output=True, text=True, check=True, env=env).stdout
    where = "parameter 0 of shape (8, 16) in group 0"
    assert f"the gradient of {where} holds NaN or infinity: nothing was changed" in said
    assert "torch's fused kernel (nothing compiled for this CPU: false fails: it says nothing)" in said


def test_a_library_that_cannot_be_compiled_is_asked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a compiler that fails would be started in every step."""
    asked: list[str] = []

    def fails(source: Any) -> Any:
        asked.append(source.name)
        raise elementwise.BuildError("no room")

    monkeypatch.setattr(elementwise.build, "load", fails)
    elementwise._compiled.cache_clear()
    p = torch.zeros(3)
    for t in (1, 2, 3):
        step_elementwise(SGD(), [[p], [torch.ones(3)]], t, Write(1.0, 0.0, False))
    assert torch.equal(p, torch.full((3,), -3.0))
    assert asked == ["step"]
    elementwise._compiled.cache_clear()
