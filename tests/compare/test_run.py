"""One run: the clock, the curve, divergence, and that watching changes nothing."""

import math

import pytest
import torch

from downslope.compare.plan import RunSpec
from downslope.compare.run import Record, execute, trainer_of
from downslope.compare.torch import TorchTrainer, threads
from downslope.compare.torch.probe import probe
from downslope.errors import UsageError

from . import tiny


def run(
    plan, task=tiny.regression, optimizer="sgd", kind="final", seed=1, lr=0.1, progress=lambda steps: None
):
    spec = RunSpec(kind, optimizer, seed, seed, lr, 0.0)
    with threads(1):
        return execute(plan, spec, trainer_of(task, plan, spec), progress, threads=1, jobs=1)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "muon", "adam", "rmsprop", "adagrad"])
def test_every_optimizer_learns_the_tiny_task(make_plan, optimizer):
    lr = {"sgd": 0.3, "adagrad": 0.3}.get(optimizer, 0.03)
    record = run(make_plan((optimizer,), steps=150, warmup=5), optimizer=optimizer, lr=lr)
    assert record.curve.steps[0] == 0
    assert record.final < 0.3 * record.curve.loss[0]
    assert not record.diverged


def test_equal_seeds_give_equal_runs_and_other_seeds_others(make_plan):
    plan = make_plan()
    one, again, other = run(plan), run(plan), run(plan, seed=2)
    assert one.curve.loss == again.curve.loss
    assert one.final != other.final


def test_all_optimizers_start_from_the_same_model(make_plan):
    plan = make_plan(("sgd", "adamw", "muon"))
    assert len({run(plan, optimizer=name).curve.loss[0] for name in ("sgd", "adamw", "muon")}) == 1


def test_watching_changes_nothing(make_plan):
    """A final run is evaluated often and a trial once; both end at the same value, dropout or not."""
    from dataclasses import replace

    def with_dropout(seed):
        return torch.nn.Sequential(tiny.network(seed), torch.nn.Dropout(0.5), torch.nn.Linear(3, 3))

    def draws(model):
        torch.rand(3)
        assert not model.training
        assert not torch.is_grad_enabled()
        return tiny.evaluate(model)

    task = replace(tiny.regression, build=with_dropout, evaluate=draws)
    watched, alone = (run(make_plan(), task=task, kind=kind) for kind in ("final", "tune"))
    assert len(watched.curve.loss) > 5
    assert len(alone.curve.loss) == 1
    assert watched.final == alone.final


def test_evaluation_is_not_on_the_clock(make_plan, monkeypatch):
    """By a clock that goes on in a step and in an evaluation only."""
    from dataclasses import replace

    now = 0.0

    def takes(seconds, does):
        def timed(*args):
            nonlocal now
            now += seconds
            return does(*args)

        return timed

    monkeypatch.setattr("downslope.compare.run.time.perf_counter", lambda: now)
    task = replace(tiny.regression, loss=takes(2.0, tiny.loss), evaluate=takes(50.0, tiny.evaluate))
    record = run(make_plan(), task=task)
    assert record.seconds == 12 * 2.0
    assert record.seconds_per_step == 2.0
    assert record.curve.seconds == [2.0 * i for i in range(13)]


def test_a_diverged_run_is_a_result(make_plan):
    record = run(make_plan(steps=40), lr=1e30)
    assert record.diverged
    assert record.final == math.inf
    assert record.steps < 40
    assert record.to_dict()["final"] is None
    assert Record.from_dict(record.to_dict()) == record


def test_a_loss_that_refuses_nan_is_a_diverged_run(make_plan):
    assert run(make_plan(), task=tiny.touchy, lr=1e30).diverged


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_optimizers_that_refuse_nan_diverge_too(make_plan, optimizer):
    assert run(make_plan((optimizer,)), optimizer=optimizer, lr=1e30).diverged


def test_record_survives_json(make_plan):
    import json

    record = run(make_plan())
    assert Record.from_dict(json.loads(json.dumps(record.to_dict(), allow_nan=False))) == record


def test_progress_is_told(make_plan):
    told = []
    run(make_plan(steps=30), task=tiny.slow, progress=told.append)
    assert told == sorted(told)
    assert told[-1] == 30
    assert len(told) > 1


def test_gains_and_biases_are_not_decayed(make_plan):
    plan = make_plan(("sgd", "adamw", "muon"))
    for candidate in plan.candidates:
        trainer = TorchTrainer(tiny.regression, candidate, 0, 0.1, 0.01)
        for group in trainer.optimizer.param_groups:
            for p in group["params"]:
                assert group["weight_decay"] == (0.01 if p.ndim == 2 else 0.0)


def test_schedule_reaches_every_group(make_plan):
    plan = make_plan(("muon",))
    trainer = TorchTrainer(tiny.regression, plan.candidates[0], 0, 0.1, 0.0)
    assert len(trainer.optimizer.param_groups) > 2
    trainer.step(0.25)
    assert [g["lr"] for g in trainer.optimizer.param_groups] == [0.025] * len(trainer.optimizer.param_groups)


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (tiny.nan_loss, "loss.*'nan_loss' is nan in the first step, before any optimizer"),
        (tiny.nan_gradient, r"gradient of 0\.weight in task 'nan_gradient' holds NaN"),
        (tiny.nan_value, "evaluate.*'nan_value' is nan for a new model"),
        (tiny.no_scalar, r"returned a tensor of shape \(16, 3\): expected a scalar"),
        (tiny.no_gradient, "'no_gradient' has no gradient"),
        (tiny.raises, r"loss\(model, batch\) of task 'raises' raised TypeError.*tiny.py, line"),
        (tiny.misfit, r"raised AttributeError: .* \(tiny.py, line \d+\)"),  # and not torch's file
        (tiny.no_stream, r"batches\(seed\) of task 'no_stream' raised TypeError: .* is not iterable$"),
        (tiny.text_value, "evaluate.*returned an object of type str: expected a number"),
        (tiny.no_model, "returned an object of type int: expected a torch.nn.Module"),
        (tiny.frozen, "every parameter frozen: there is nothing to train"),
        (tiny.empty, "'empty' is empty"),
    ],
)
def test_a_broken_task_is_told_in_one_line_before_anything_is_run(make_plan, task, words):
    with pytest.raises(UsageError, match=words) as caught:
        probe(task, make_plan(("sgd", "muon")).candidates, 0, 12)
    assert "\n" not in str(caught.value)


def test_batches_that_end_are_told(make_plan):
    with pytest.raises(UsageError, match="'short' ended after 5 steps"):
        run(make_plan(), task=tiny.short)


def test_probe_finds_size_cost_and_partition(make_plan):
    facts = probe(tiny.regression, make_plan(("sgd", "muon")).candidates, 0, 12)
    assert facts.parameters == sum(p.numel() for p in tiny.network(0).parameters())
    assert 0 < facts.step_seconds < 1
    assert facts.partition["optimizer"] == "muon"
    assert [a["name"] for a in facts.partition["assignments"] if a["rule"] == "muon"] == ["2.weight"]
    assert probe(tiny.regression, make_plan(("sgd",)).candidates, 0, 12).partition is None
