"""The health of a training: each trouble by records that show it, and none by a healthy run."""

from __future__ import annotations

import io
import json
import math
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from downslope.diagnose.health import GroupRecord, Judge, NoiseScale, Record, TrainingWarning, Trouble
from downslope.diagnose.torch.health import _effective_rank
from downslope.errors import UsageError
from downslope.torch import Diagnostics, Muon


def record(step: int, loss: float, cosine: float = 0.3, ratios: tuple[float, ...] = (1e-3, 1e-3)) -> Record:
    groups = {f"g{i}": GroupRecord(1.0, ratio, 0.4, None) for i, ratio in enumerate(ratios)}
    return Record(step, loss, groups, cosine, None, None)


def judged(records: list[Record]) -> list[Trouble]:
    judge = Judge()
    return [sign.trouble for r in records for sign in judge.see(r)]


def falling(i: int) -> float:
    return 3 * math.exp(-i / 10)


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ([record(i, falling(i)) for i in range(40)], []),
        ([record(i, falling(i) if i < 5 else math.nan) for i in range(9)], [Trouble.DIVERGING]),
        ([record(i, 3 * 2.0**i) for i in range(9)], [Trouble.DIVERGING]),
        ([record(i, 3 * math.exp(-i / 10) + (i % 2) * 0.5) for i in range(40)], []),
        ([record(i, 1.5 + 1e-5 * (i % 3)) for i in range(15)], [Trouble.STALLED]),
        ([record(i, falling(i), cosine=-0.6) for i in range(15)], [Trouble.OSCILLATING]),
        ([record(i, 3 - i * 1e-2, 0.99, (1e-6, 2e-6)) for i in range(15)], [Trouble.TOO_LOW]),
        ([record(i, falling(i), ratios=(1e-3, 0.0, 1e-3)) for i in range(15)], [Trouble.FROZEN]),
        # said once, and again after it had passed
        ([record(i, math.nan if i in (5, 6, 20) else falling(i)) for i in range(40)],
         [Trouble.DIVERGING, Trouble.DIVERGING]),
    ],
    ids=["healthy", "nan", "grows", "noisy", "stalled", "turns", "creeps", "frozen", "again"],
)  # fmt: skip
def test_each_trouble_has_its_sign(records: list[Record], expected: list[Trouble]) -> None:
    assert judged(records) == expected


def test_cosines_of_small_batches_that_scatter_do_not_oscillate() -> None:
    """Of mean zero and standard deviation 0.3: the mean of five is below -0.2 in one window of fifteen."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        assert (
            judged([record(i, falling(i), cosine=c) for i, c in enumerate(0.3 * rng.normal(size=40))]) == []
        )


def test_a_loss_whose_scatter_hides_its_fall_has_not_stalled() -> None:
    """It falls by 2 % a window, with noise of 5 % a record: now and then two halves have the same mean."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        losses = np.exp(-np.arange(60) / 500) * (1 + 0.05 * rng.normal(size=60))
        assert judged([record(i, v) for i, v in enumerate(losses)]) == []


def test_a_rate_that_a_schedule_brings_down_was_not_too_low() -> None:
    steps = [1e-3 * max(0.0, 1 - i / 40) ** 2 for i in range(40)]
    assert judged([record(i, falling(i), 0.99, (s, s)) for i, s in enumerate(steps)]) == []


def stalls(fall: float, scatter: float = 0.0) -> bool:
    """Whether ten losses about 1 stall, of which the later five lie lower and each five scatter."""
    around = [s * scatter for s in (-1, -1, 0, 1, 1)]  # standard deviation `scatter`
    losses = [1 + a for a in around] + [1 - fall + a for a in around]
    return Trouble.STALLED in judged([record(i, loss) for i, loss in enumerate(losses)])


def test_a_stall_is_what_its_numbers_say() -> None:
    """Of the difference of two means of five the error is scatter √(2/5) = 0.632 scatter."""
    assert stalls(0.9e-5)
    assert not stalls(1.1e-5)
    assert stalls(0.9e-3, scatter=0.8e-3)  # less than a thousandth, and less than twice its error
    assert not stalls(1.1e-3, scatter=2e-3)
    assert not stalls(0.9e-3, scatter=0.7e-3)  # a fall of more than two errors
    assert stalls(0.0, scatter=7.8e-3)
    assert not stalls(0.0, scatter=8e-3)  # may have fallen by a hundredth


def test_a_stall_says_since_how_many_steps() -> None:
    judge = Judge()
    signs = [s for i in range(10) for s in judge.see(record(100 + 7 * i, 2.0))]
    assert "stood at 2 for 63 steps" in str(signs[0])


@pytest.mark.parametrize(("loss", "diverges"), [(5.9, False), (6.1, True)])
def test_divergence_is_three_records_above_what_was_gained_twice(loss: float, diverges: bool) -> None:
    """It began at 2 and gained 4 on the way to -2: it diverges above -2 + 2 · 4."""
    losses = [2.0, -2.0, *[loss] * 3]
    assert (Trouble.DIVERGING in judged([record(i, v) for i, v in enumerate(losses)])) == diverges
    assert Trouble.DIVERGING not in judged([record(i, v) for i, v in enumerate(losses[:-1])])


@pytest.mark.parametrize(("ratio", "frozen"), [(0.9e-6, True), (1.1e-6, False)])
def test_a_frozen_group_moves_a_thousandth_of_the_others(ratio: float, frozen: bool) -> None:
    records = [record(i, falling(i), ratios=(1e-3, 1e-3, ratio)) for i in range(3)]
    assert (Trouble.FROZEN in judged(records)) == frozen


def test_nothing_is_too_slow_before_the_window_is_full() -> None:
    records = [record(i, falling(i), cosine=0.99, ratios=(1e-6, 1e-6)) for i in range(10)]
    assert Trouble.TOO_LOW in judged(records)
    assert Trouble.TOO_LOW not in judged(records[:9])


def test_the_noise_scale_of_gradients_whose_noise_is_known() -> None:
    """Noise of variance 4 an entry on a gradient of length 5 in 100 dimensions: tr Σ / |G|² = 16."""
    rng = np.random.default_rng(0)
    mean = np.full(100, 0.5)
    scale, told = NoiseScale(kept=0.999), None
    for _ in range(2000):
        a, b = (mean + 2 * rng.standard_normal(100) for _ in range(2))
        told = scale.add(float(a @ a + b @ b), float(a @ b))
    assert told == pytest.approx(16, rel=0.1)  # of 2,000 pairs: the product's scatter is 2 %


class Run:
    """A small regression, trained with its diagnostics."""

    def __init__(self, make: Callable[[nn.Module], torch.optim.Optimizer], **options: Any) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(
            nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1)
        )
        self.generator = torch.Generator().manual_seed(1)
        self.optimizer = make(self.model)
        self.diagnostics = Diagnostics(self.optimizer, **options)

    def batch(self) -> tuple[Tensor, Tensor]:
        x = torch.randn(64, 8, generator=self.generator)
        return x, x[:, :1] * x[:, 1:2] + 0.5 * torch.randn(64, 1, generator=self.generator)

    def steps(self, count: int) -> Diagnostics:
        for _ in range(count):
            x, y = self.batch()
            self.optimizer.zero_grad()
            loss = (self.model(x) - y).square().mean()
            loss.backward()
            self.diagnostics(loss)
            self.optimizer.step()
        return self.diagnostics


def sgd(lr: float, momentum: float = 0.0) -> Callable[[nn.Module], torch.optim.Optimizer]:
    return lambda model: torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum)


def groups_of(model: nn.Module, lrs: tuple[float, ...]) -> list[dict[str, Any]]:
    halves = [list(model[0].parameters()), list(model[2:].parameters())]
    return [
        {"params": p, "lr": lr, "name": n} for p, lr, n in zip(halves, lrs, ("first", "rest"), strict=True)
    ]


def test_a_healthy_training_has_no_trouble_and_true_numbers() -> None:
    run = Run(lambda m: Muon(m, torch.randn(2, 8), lr=1e-2), every=10, batch_size=64)
    diagnostics = run.steps(151)
    assert diagnostics.signs == []
    assert [r.step for r in diagnostics.records] == [*range(10, 151, 10)]
    last = diagnostics.records[-1]
    assert set(last.groups) == {"hidden", "input", "vector", "output"}
    hidden = last.groups["hidden"]
    assert hidden.effective_rank is not None
    assert 0 < hidden.effective_rank <= 1
    assert 0.2 < hidden.sign_flips < 0.6
    assert last.noise_scale is not None
    assert last.batch_size == round(64 * last.noise_scale)
    assert "hidden: gradient" in str(diagnostics)


def test_the_numbers_are_those_of_the_step() -> None:
    """Against plain SGD, of which they are known: the update is the rate times the gradient."""
    run = Run(sgd(0.03), every=2)
    before = [p.detach().clone() for p in run.model.parameters()]
    run.steps(1)
    assert run.diagnostics.records == []
    before = [p.detach().clone() for p in run.model.parameters()]
    run.steps(1)
    grads = [p.grad.clone() for p in run.model.parameters()]
    run.steps(1)
    after = [p.grad.clone() for p in run.model.parameters()]
    (found,) = run.diagnostics.records[0].groups.values()
    flat, then, weights = (torch.cat([t.flatten() for t in ts]).double() for ts in (grads, after, before))
    assert found.gradient_norm == pytest.approx(float(flat.norm()), rel=1e-5)
    assert found.update_ratio == pytest.approx(0.03 * float(flat.norm() / weights.norm()), rel=1e-3)
    assert found.sign_flips == pytest.approx(float((flat * then < 0).double().mean()))
    expected = 2 * float(flat @ then) / float(flat @ flat + then @ then)
    assert run.diagnostics.records[0].cosine == pytest.approx(expected, rel=1e-4)
    assert found.effective_rank is None


def test_losses_may_be_numbers_and_tensors_of_one_entry() -> None:
    run = Run(sgd(0.0), every=4)
    run.model(torch.ones(1, 8)).sum().backward()
    for loss in (torch.tensor([1.0]), 3, torch.tensor(5.0, dtype=torch.float64), 7.0, 0.0):
        run.diagnostics(loss)
        run.optimizer.step()
    assert [r.loss for r in run.diagnostics.records] == [
        4.0
    ]  # of the first four: the fifth is of the next record


@pytest.mark.parametrize("when", ["before the step", "after it"])
def test_a_group_that_is_added_takes_part_from_the_next_record_on(when: str) -> None:
    def make(model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model[2:].parameters(), lr=0.03)

    run, plain = Run(make, every=2), Run(make, every=2)
    for each in (run, plain):
        each.steps(1)
        x, y = each.batch()
        each.optimizer.zero_grad()
        loss = (each.model(x) - y).square().mean()
        loss.backward()
        each.diagnostics(loss)
        if when == "after it":
            each.optimizer.step()
        if each is run:
            each.optimizer.add_param_group({"params": each.model[0].parameters(), "lr": 0.0})
        if when == "before the step":
            each.optimizer.step()
        each.steps(3)
    assert run.diagnostics.records[0] == plain.diagnostics.records[0]
    assert [len(r.groups) for r in run.diagnostics.records] == [1, 2]


def test_sparse_gradients_give_the_numbers_of_dense_ones() -> None:
    found: list[Diagnostics] = []
    for sparse in (False, True):
        torch.manual_seed(0)
        table, head = nn.Embedding(50, 4, sparse=sparse), nn.Linear(4, 1)
        optimizer = torch.optim.SGD([*table.parameters(), *head.parameters()], lr=0.1, momentum=0.5)
        found.append(Diagnostics(optimizer, every=2, on_trouble="collect"))
        for i in range(13):
            optimizer.zero_grad()
            words = (torch.arange(8) * (i + 1)) % 50  # of other rows each time, the first of several
            words[0] = words[1]
            loss = (head(table(words)) - i).square().mean()
            loss.backward()
            found[-1](loss)
            optimizer.step()
    dense, rows = (d.records for d in found)
    for a, b in zip(dense, rows, strict=True):
        assert asdict(b.groups["group 0"]) == pytest.approx(asdict(a.groups["group 0"]), rel=1e-4)
        assert (b.loss, b.cosine) == pytest.approx((a.loss, a.cosine), rel=1e-4)
        assert (b.noise_scale or 0) == pytest.approx(a.noise_scale or 0, rel=1e-3)


def test_complex_numbers_give_the_numbers_of_their_parts() -> None:
    found: list[Diagnostics] = []
    for is_complex in (False, True):
        pairs = torch.randn(6, 4, 2, generator=torch.Generator().manual_seed(1))
        w = nn.Parameter(torch.view_as_complex(pairs) if is_complex else pairs)
        optimizer = torch.optim.SGD([w], lr=0.1)  # no momentum, whose rank is another one
        found.append(Diagnostics(optimizer, every=2, on_trouble="collect"))
        for i in range(13):
            optimizer.zero_grad()
            generator = torch.Generator().manual_seed(i)
            target = torch.randn(6, 4, 2, generator=generator)
            loss = ((torch.view_as_real(w) if is_complex else w) - target).square().sum()
            loss.backward()
            found[-1](loss)
            optimizer.step()
    for a, b in zip(*(d.records for d in found), strict=True):
        one, other = (asdict(r.groups["group 0"]) for r in (a, b))
        assert one.pop("effective_rank") is other.pop("effective_rank") is None
        assert other == pytest.approx(one, rel=1e-5)
        assert (b.loss, b.cosine) == pytest.approx((a.loss, a.cosine), rel=1e-5)
    assert found[1].records[-1].groups["group 0"].sign_flips > 0.1


def test_it_stands_beside_an_optimizer_of_sparse_gradients() -> None:
    table = nn.Embedding(50, 4, sparse=True)
    optimizer = torch.optim.SparseAdam(table.parameters())
    diagnostics = Diagnostics(optimizer, every=2)
    for i in range(5):
        optimizer.zero_grad()
        loss = table(torch.tensor([i, 3, 3])).square().mean()
        loss.backward()
        diagnostics(loss)
        optimizer.step()
    (group,) = diagnostics.records[-1].groups.values()
    assert group.gradient_norm > 0
    assert group.effective_rank is not None


def test_effective_rank_of_a_known_momentum() -> None:
    run = Run(sgd(1e-3, 0.9), every=2)
    run.steps(1)
    weight = run.model[2].weight
    q = torch.linalg.qr(torch.randn(32, 32)).Q
    run.steps(1)  # kept at the second step; its record is made at the third
    run.optimizer.state[weight]["momentum_buffer"].copy_(q)
    assert run.diagnostics.records == []
    run = Run(lambda m: torch.optim.SGD([m[2].weight], lr=0.0, momentum=1.0), every=2)
    run.steps(1)
    run.optimizer.state[run.model[2].weight]["momentum_buffer"].copy_(1e6 * q)
    run.steps(2)
    (group,) = run.diagnostics.records[0].groups.values()
    assert group.effective_rank == pytest.approx(1, rel=1e-3)  # an orthogonal matrix has full rank
    unitary = torch.linalg.qr(torch.randn(8, 4, dtype=torch.complex64)).Q
    for m in (unitary, unitary.mH):
        assert float(_effective_rank(m)) == pytest.approx(1, rel=1e-3)


@pytest.mark.parametrize(
    ("make", "trouble"),
    [
        (sgd(30.0), Trouble.DIVERGING),
        (sgd(1e-9), Trouble.STALLED),
        (lambda m: torch.optim.SGD(groups_of(m, (1e-9, 0.05)), lr=0.1), Trouble.FROZEN),
    ],
    ids=["rate too high", "nothing moves", "one group"],
)
def test_troubles_that_are_provoked(
    make: Callable[[nn.Module], torch.optim.Optimizer], trouble: Trouble
) -> None:
    run = Run(make, every=2, on_trouble="collect")
    if trouble is Trouble.STALLED:
        fixed = run.batch()
        run.batch = lambda: fixed  # type: ignore[method-assign]
    assert trouble in {s.trouble for s in run.steps(60).signs}


def test_a_trouble_is_a_warning() -> None:
    run = Run(sgd(30.0), every=2)
    with pytest.warns(TrainingWarning, match="diverging"):
        run.steps(60)


def test_the_training_is_as_without_them() -> None:
    plain, watched = Run(sgd(0.05, 0.9), every=10**6), Run(sgd(0.05, 0.9), every=3, on_trouble="collect")
    plain.steps(20)
    watched.steps(20)
    assert len(watched.diagnostics.records) == 6
    for a, b in zip(plain.model.parameters(), watched.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_writers(tmp_path: Path) -> None:
    path, taken, scalars = tmp_path / "run.jsonl", [], []

    class Summary:
        def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
            scalars.append((tag, scalar_value, global_step))

    for writer in (path, taken.append, Summary()):
        Run(sgd(0.05), every=2, writer=writer).steps(7)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["step"] for line in lines] == [r.step for r in taken] == [2, 4, 6]
    assert lines[0]["loss"] == taken[0].loss
    assert ("loss", taken[2].loss, 6) in scalars
    assert {tag for tag, _, _ in scalars} >= {"loss", "cosine", "group 0/update_ratio"}


def resumed(path: Path, at: int, killed: int, steps: int, **options: Any) -> Run:
    """Train to a step, go on without keeping it until the run is killed, and resume."""
    run = Run(sgd(0.05, 0.9), writer=path, **options)
    run.steps(at)
    kept = io.BytesIO()
    state = {"model": run.model, "optimizer": run.optimizer, "diagnostics": run.diagnostics}
    torch.save({name: part.state_dict() for name, part in state.items()}, kept)
    drawn = run.generator.get_state()
    run.steps(killed - at)
    with path.open("a") as file:
        file.write('{"step": 17, "lo')  # killed while it wrote
    again = Run(sgd(0.05, 0.9), writer=path, **options)
    loaded = torch.load(io.BytesIO(kept.getvalue()))  # as plain numbers and tensors, torch's default
    again.model.load_state_dict(loaded["model"])
    again.optimizer.load_state_dict(loaded["optimizer"])
    again.diagnostics.load_state_dict(loaded["diagnostics"])
    again.generator.set_state(drawn)
    again.steps(steps - at)
    return again


@pytest.mark.parametrize("at", [31, 32, 33])  # before, between and after the two steps of a record
def test_a_training_that_is_resumed_has_the_records_of_one_that_was_not(tmp_path: Path, at: int) -> None:
    options: dict[str, Any] = {"every": 4, "batch_size": 64, "on_trouble": "collect"}
    undisturbed = Run(sgd(0.05, 0.9), writer=tmp_path / "whole.jsonl", **options)
    undisturbed.steps(80)
    again = resumed(tmp_path / "run.jsonl", at, 57, 80, **options)
    assert again.diagnostics.records == undisturbed.diagnostics.records
    assert again.diagnostics.signs == undisturbed.diagnostics.signs
    assert (tmp_path / "run.jsonl").read_text() == (tmp_path / "whole.jsonl").read_text()
    assert str(again.diagnostics) == str(undisturbed.diagnostics)


def test_troubles_go_on_where_a_training_is_resumed(tmp_path: Path) -> None:
    records = [record(i, 1.5 + 1e-5 * (i % 3)) for i in range(15)]
    first = Run(sgd(0.1))
    for r in records[:12]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TrainingWarning)
            first.diagnostics._take(r)
    second = Run(sgd(0.1))
    second.diagnostics.load_state_dict(first.diagnostics.state_dict())
    assert [s.trouble for s in second.diagnostics.signs] == [Trouble.STALLED]
    second.diagnostics._take(records[12])  # said once: a warning would be an error here
    assert len(second.diagnostics.signs) == 1


def test_a_file_of_another_training_is_left_as_it_is(tmp_path: Path) -> None:
    options: dict[str, Any] = {"every": 4, "on_trouble": "collect"}
    other = Run(sgd(0.01), writer=tmp_path / "run.jsonl", **options)
    other.steps(40)
    before = (tmp_path / "run.jsonl").read_text()
    state = Run(sgd(0.05), **options).steps(21).state_dict()
    mine = Run(sgd(0.05), writer=tmp_path / "run.jsonl", **options)
    mine.diagnostics.load_state_dict(state)
    assert (tmp_path / "run.jsonl").read_text() == before


def test_a_state_of_something_else_is_refused_and_changes_nothing() -> None:
    state = Run(sgd(0.1), every=4, on_trouble="collect").steps(24).state_dict()
    run = Run(sgd(0.1), every=4, on_trouble="collect")
    for wrong in (None, {}, {**state, "noise": {}}, run.optimizer.state_dict()):
        with pytest.raises(UsageError, match=r"expected what state_dict\(\) returned"):
            run.diagnostics.load_state_dict(wrong)  # type: ignore[arg-type]
    small = Diagnostics(torch.optim.SGD([nn.Parameter(torch.ones(2))], lr=0.1))
    with pytest.raises(UsageError, match="gradients of other parameters in group 0"):
        small.load_state_dict(state)
    assert run.steps(6).records == Run(sgd(0.1), every=4, on_trouble="collect").steps(6).records


def test_a_run_that_diverges_is_written_as_strict_json(tmp_path: Path) -> None:
    path, taken = tmp_path / "run.jsonl", []
    for writer in (path, taken.append):
        Run(sgd(1e9), every=2, batch_size=64, writer=writer, on_trouble="collect").steps(11)

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    lines = [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]
    assert math.isnan(taken[-1].loss)
    assert lines[-1] == {
        "step": 10, "loss": None, "cosine": None, "noise_scale": None, "batch_size": None,
        "groups": {"group 0": {"gradient_norm": None, "update_ratio": None, "sign_flips": 0.0,
                               "effective_rank": None}},
    }  # fmt: skip


def test_a_gradient_that_is_not_finite_spoils_no_noise_scale() -> None:
    scale, broken = NoiseScale(), NoiseScale()
    for _ in range(3):
        assert broken.add(math.nan, math.nan) is broken.add(math.inf, 1.0) is None
        assert broken.add(4.0, 1.0) == scale.add(4.0, 1.0)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"every": 1}, "every = 1"),
        ({"batch_size": 0}, "batch_size = 0"),
        ({"writer": "no/such/folder.jsonl"}, "its folder is not there"),
        ({"writer": "tests"}, "expected a file that can be written"),
        ({"writer": 3}, "writer = 3"),
        ({"on_trouble": "raise"}, "on_trouble = 'raise'"),
    ],
)
def test_bad_input(options: dict[str, Any], expected: str) -> None:
    with pytest.raises(UsageError, match=expected):
        Diagnostics(torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1.0), **options)
    with pytest.raises(UsageError, match=r"expected a torch\.optim\.Optimizer"):
        Diagnostics(nn.Linear(1, 1))  # type: ignore[arg-type]


def test_a_loss_that_is_no_number_is_refused_at_the_first_step() -> None:
    """Not at that of the first record, in the middle of a training."""
    with Diagnostics(torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1.0), every=2) as diagnostics:
        with pytest.raises(UsageError, match=r"shape \(3,\): expected one number, as loss\.mean\(\)"):
            diagnostics(torch.ones(3))
        with pytest.raises(UsageError, match="loss is a NoneType"):
            diagnostics(None)  # type: ignore[arg-type]
        assert (diagnostics._step, diagnostics._losses) == (0, [])


def test_a_noise_scale_is_not_negative() -> None:
    scale = NoiseScale()
    assert [scale.add(2.0, 1.0 + 1e-8) for _ in range(4)][-1] == 0.0
