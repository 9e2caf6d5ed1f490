"""A learning-rate search against trainings whose best rate is known, and what it leaves behind."""

import json
import math
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import downslope.torch as dt
from downslope.cli import run
from downslope.compare.optimizers import CANDIDATES
from downslope.compare.plan import Plan
from downslope.compare.torch.trainer import TorchTrainer
from downslope.diagnose import rates
from downslope.diagnose.rates import search, steepest
from downslope.diagnose.rates_command import plan_line
from downslope.diagnose.rates_table import text
from downslope.diagnose.rungs import Seeds, room_for_more, sweep_steps
from downslope.diagnose.torch.batches import Replay
from downslope.diagnose.torch.rates import TaskBench, find_lr, grown, of_task, schedule_of
from downslope.diagnose.valley import Outcome, Run, optimum, safe_range
from downslope.diagnose.widths import check
from downslope.errors import UsageError
from downslope.tasks import Task, load
from tests.compare import tiny
from tests.diagnose.test_snapshot import MAKERS, everything, same, step, trained


def test_a_sweep_sees_every_loss_where_runs_look_now_and_then(monkeypatch):
    """On a GPU a run reads its loss every tenth step; a sweep of zeros would point anywhere."""
    made = TorchTrainer.__init__

    def as_on_a_gpu(self, *args):
        made(self, *args)
        self.device = torch.device("cpu")

    monkeypatch.setattr(TorchTrainer, "__init__", as_on_a_gpu)
    bench = TaskBench(load(TASK), CANDIDATES["sgd"], 0.0, schedule_of("linear", 0.1))
    losses = bench.sweep(1e-6, 10.0, 50, 0)
    assert len(losses) > 10
    assert 0.0 not in losses


def test_a_best_rate_at_the_edge_is_not_sure():
    """A valley far above all that the search may try: the answer is the last rate, and says so."""
    found = searched(Valley(1e9, ceiling=1e9, sharp=1e-3, sweep_off=1e-12))
    assert found.confidence == "low"
    assert any("highest rate that was tried" in reason for reason in found.reasons)
    assert searched(Valley(0.01)).confidence == "high"


class Valley:
    """A training whose runs end lowest at `best`, with noise by seed, and fail above `ceiling`."""

    def __init__(self, best, ceiling=30.0, noise=0.0, sweep_off=1.0, sharp=0.15):
        self.best, self.ceiling, self.noise = best, ceiling, noise
        self.sweep_off, self.sharp = sweep_off, sharp
        self.asked = []

    def sweep(self, low, high, steps, seed):
        point = self.best * self.sweep_off

        def loss(lr, _):
            x = math.log(lr / point)
            return math.nan if x > 3 else 2 - 1 / (1 + math.exp(-3 * x))

        return grown(loss, low, high, steps)

    def run(self, scale, seed, steps):
        self.asked.append((scale, seed, steps))
        if scale > self.ceiling * self.best:
            return Outcome(math.inf, 2.0)
        jitter = np.random.default_rng([seed, steps, round(1000 * (99 + math.log2(scale)))]).normal()
        octaves = math.log2(scale / self.best)
        return Outcome(0.5 * math.exp(self.sharp * octaves**2 + self.noise * jitter), 2.0)


def searched(bench, seeds=(0, 1), whole=1, **options):
    both = Seeds(seeds, range(seeds[0], seeds[0] + whole))
    return search(bench, name="valley", label="none", **{"steps": 400, "seeds": both, **options})


@pytest.mark.parametrize("best", [1e-4, 0.013, 0.7])
def test_a_clean_valley_is_found_exactly(best):
    found = searched(Valley(best))
    assert found.value == pytest.approx(best, rel=0.02)
    assert found.low < best < found.high
    # Within 10 % of the best: sqrt(log 1.1 / 0.15) octaves to either side, by lines between octaves.
    assert math.log2(found.high / found.low) == pytest.approx(2 * math.sqrt(math.log(1.1) / 0.15), rel=0.25)
    assert found.confidence == "high"
    # No rate but the last of the sweep's own reaches 30 times the best: the valley has no cliff in sight.
    assert found.diverges is None or found.diverges > 10 * best


@pytest.mark.parametrize("off", [1 / 60, 1 / 8, 8, 60])
def test_a_sweep_that_points_astray_is_put_right(off):
    found = searched(Valley(0.01, sweep_off=off, ceiling=1e9))
    assert 0.5 < found.value / 0.01 < 2


def test_noise_moves_it_by_less_than_a_factor_of_two():
    """Runs that scatter by 7 %, as those of `digits` do, in a valley as flat."""
    values = [searched(Valley(0.02, noise=0.07), seeds=(s, s + 1)).value for s in range(0, 60, 2)]
    off = [max(v / 0.02, 0.02 / v) for v in values]
    assert max(off) < 2
    # The rate of the lowest single run is not as good: the effect is there.
    lowest = []
    for s in range(0, 60, 2):
        bench = Valley(0.02, noise=0.07)
        ends = {lr: bench.run(lr, s, 200).final for lr in (0.02 * 2.0**k for k in range(-4, 4))}
        lowest.append(min(ends, key=ends.get))
    assert max(max(v / 0.02, 0.02 / v) for v in lowest) >= 2


def test_a_cliff_is_told():
    found = searched(Valley(0.01, ceiling=3.0))
    assert 0.03 < found.diverges <= 0.06 * 1.01
    assert found.high <= 0.03 * 1.01
    assert found.value == pytest.approx(0.01, rel=0.3)


def test_where_nothing_trains_no_rate_is_given():
    class Hopeless(Valley):
        def run(self, scale, seed, steps):
            return Outcome(3.0, 2.0)

    found = searched(Hopeless(0.01))
    assert found.value is None
    assert found.confidence == "low"
    assert "no learning rate" in text(found)
    with pytest.raises(UsageError, match="no learning rate was found"):
        found.apply(torch.optim.SGD([torch.zeros(1, requires_grad=True)]))


def test_whole_trainings_have_both_sides_of_the_valley():
    """Two octaves below and above its best, where they end less than half above it."""
    for sharp, counts in ((0.01, {5}), (0.12, {5}), (1.0, {3, 4})):
        bench = Valley(0.01, sharp=sharp)
        searched(bench)
        whole = sorted(scale for scale, seed, n in bench.asked if n == 400 and seed == 0)
        assert len(whole) in counts
        assert 0.5**0.6 < whole[len(whole) // 2] / 0.01 < 2**0.6


class Slope(Valley):
    """A gentle slope before a cliff, whole trainings noisier than short ones: SGD on `text` was found so."""

    def run(self, scale, seed, steps):
        end, start = super().run(min(scale, self.best), seed, steps)
        above = max(0.0, math.log2(scale / self.best))
        return Outcome(end * math.exp(0.18 * above**2), start) if above < 2 else Outcome(math.inf, start)


def test_five_whole_trainings_are_misled_less_often_than_three(monkeypatch):
    """On a slope three say only where it goes down; the cliff beyond its end is what five know of it.

    Shorter runs have their best at 0.04. A parabola through four whole ones has its minimum at 0.075.
    """

    class Rising(Slope):
        def run(self, scale, seed, steps):
            self.best = 0.1 if steps == 400 else 0.04
            return super().run(scale, seed, steps)

    def misled():
        bench = Rising(0.1, noise=0.033, sharp=0.015)
        found = [searched(bench, (seed, seed + 1)).value for seed in range(0, 120, 2)]
        return sum(not 0.5 < value / 0.075 < 2 for value in found)

    five = misled()
    monkeypatch.setattr(rates, "RUNGS", [rung._replace(enough=0) for rung in rates.RUNGS])
    three = misled()
    assert three >= 12
    assert five <= three / 3


def test_more_seeds_of_whole_trainings_settle_what_one_leaves_to_chance():
    def missed(whole):
        bench = Slope(0.1, noise=0.033, sharp=0.015)
        found = [searched(bench, (seed, seed + 1), whole) for seed in range(0, 200, 2)]
        return sum(not 0.5 < f.value / 0.1 < 2 for f in found), found

    one, _ = missed(1)
    three, found = missed(3)
    assert one >= 10
    assert three <= one / 3
    for f in found:
        whole = [r for r in f.runs if r.steps == f.steps]
        assert len(whole) == 3 * len({r.scale for r in whole})


@pytest.mark.parametrize("seeds", [1, 2, 4])
def test_medians_over_more_seeds_differ_less_by_chance(seeds):
    """A median of four scatters 1.09 times as much as their mean; twice the seeds would be off by 1.4."""
    noise, random = 0.03, np.random.default_rng(0)
    runs = [Run(2.0**k, s, 100, math.exp(noise * random.normal()), 9.0) for k in range(5) for s in range(400)]
    two = np.median(random.normal(scale=noise, size=(2, 4000, seeds)), axis=2)
    assert rates._noise_of_two(runs, seeds) == pytest.approx(np.std(two[0] - two[1]), rel=0.15)


def test_the_search_costs_what_it_says_and_less_than_ten_trainings():
    bench = Valley(0.01)
    found = searched(bench)
    steps = sum(n for _, _, n in bench.asked) + sum(len(s) for s, _ in found.sweeps)
    assert found.cost == steps
    assert found.cost < 9.75 * 400  # a quarter of 13 rates on 3 seeds
    assert {n for _, _, n in bench.asked} == {50, 100, 400}
    assert {(s, n) for _, s, n in bench.asked} == {(0, 50), (0, 100), (1, 100), (0, 400), (1, 400)}
    again = [scale for scale, s, n in bench.asked if (s, n) == (1, 400)]
    assert len(again) == 1  # the best
    assert 0.5**0.5 < again[0] / 0.01 < 2**0.5
    assert json.loads(json.dumps(found.to_dict()))["cost"] == steps


@pytest.mark.parametrize("whole", [1, 2, 3])
def test_no_search_costs_more_than_was_foretold(whole):
    """Rates are added to the last, and sweeps that end at their tenth step leave room for more."""

    class Steep(Valley):
        def sweep(self, low, high, steps, seed):
            return super().sweep(low, high, steps, seed)[:10]

    shares = []
    for steps in range(4, 60, 5):
        for count in (1, 2, 4):
            seeds = Seeds(range(count), range(whole))
            most = int(plan_line(steps, steps, seeds, 1).split()[5].replace(",", ""))
            costs = [
                searched(Steep(10.0**k, sharp=0.05, noise=0.05), range(count), whole, steps=steps).cost
                for k in (-9, -3, 9)
            ]
            assert max(costs) <= most
            shares.append(max(costs) / most)
            sums = [n + room_for_more(steps, n, seeds) for n in range(3, 3 * sweep_steps(steps) + 1)]
            assert max(sums) == sums[-1]
    assert max(shares) > 0.85


def test_a_long_training_is_not_run_to_its_end():
    found = searched(Valley(0.01), steps=100_000, longest=600)
    assert max(r.steps for r in found.runs) == 600
    assert found.confidence == "medium"
    assert "it may want a lower rate" in " ".join(found.reasons)


def test_one_seed_is_no_high_confidence():
    assert searched(Valley(0.01), seeds=(0,)).confidence == "medium"


def test_disagreeing_seeds_lower_the_confidence():
    class Torn(Valley):
        def run(self, scale, seed, steps):
            self.best = 0.01 if seed == 0 else 0.16
            return super().run(scale, 0, steps)

    found = searched(Torn(0.01))
    assert found.confidence == "low"
    assert max(found.optima) / min(found.optima) > 4


def test_a_seed_that_no_rate_trained_agrees_with_none():
    """It was once counted among those that agree, with high confidence."""

    class Unlucky(Valley):
        def run(self, scale, seed, steps):
            return Outcome(math.inf, 2.0) if seed == 1 else super().run(scale, seed, steps)

    found = searched(Unlucky(0.01), (0, 1, 2))
    assert len(found.optima) == 2
    assert found.confidence == "low"
    assert found.reasons[0] == "Only 2 of 3 seeds trained at any rate in runs of 100 steps."


def test_the_optimum_is_that_of_the_parabola():
    true = {2.0**k: math.exp(0.1 * (k - 0.3) ** 2) for k in range(-3, 4)}
    assert optimum(true) == pytest.approx(2**0.3)
    assert optimum({1.0: math.inf, 2.0: math.inf}) is None
    assert optimum({1.0: 5.0, 2.0: 4.0, 4.0: 3.0}) == 4.0


def test_a_failed_run_is_not_safe():
    runs = [Run(s, seed, 100, 1.0, 2.0) for s in (1.0, 2.0) for seed in (0, 1)]
    assert safe_range(runs) == (1.0, 2.0)
    assert safe_range([*runs, Run(2.0, 2, 50, math.inf, 2.0)]) == (1.0, 1.0)


def test_a_best_rate_that_failed_on_one_seed_is_not_safe():
    """Its median of three seeds is finite: it was once told as safe, and as too high."""

    class Brittle(Valley):
        def run(self, scale, seed, steps):
            broke = (seed, steps) == (2, 400) and scale > self.share * self.best
            return Outcome(math.inf, 2.0) if broke else super().run(scale, seed, steps)

    Brittle.share = 1.2
    found = searched(Brittle(0.01, sharp=0.05), whole=3)
    assert found.low < found.value <= found.high < found.diverges
    Brittle.share = 0.6  # what the value lies between
    found = searched(Brittle(0.01, sharp=0.05), whole=3)
    failed = {r.scale for r in found.runs if r.failed}
    assert min(failed) < found.value < found.diverges
    assert (found.low, found.high) == (None, None)
    assert "safe" not in text(found).splitlines()[0]
    ends = {1.0: 1.05, 2.0: 1.0, 4.0: 1.02}
    runs = [Run(scale, seed, 100, end, 9.0) for scale, end in ends.items() for seed in range(3)]
    assert safe_range(runs) == (1.0, 4.0)
    broken = [replace(r, final=math.inf) if (r.scale, r.seed) == (2.0, 2) else r for r in runs]
    assert safe_range(broken) == (4.0, 4.0)
    flat = [replace(r, final=r.final + (r.scale != 2.0)) for r in broken]
    assert safe_range(flat) == (None, None)


def test_steepest_ignores_what_comes_after_the_explosion():
    rates = [10.0 ** (i / 10 - 4) for i in range(40)]
    losses = [2.0 - (0.1 * max(0, i - 10) if i < 20 else 1.0) for i in range(30)] + [9.0, 50.0, math.nan]
    assert rates[10] <= steepest(rates, losses) <= rates[20]


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_the_schedule_is_that_of_a_comparison(name):
    plan = Plan("x", "", (CANDIDATES["sgd"],), 1, (1,), 0, 40, name, 4, None)
    assert schedule_of(name, 0.1)(40) == pytest.approx([plan.factor(i) for i in range(40)])


def test_a_schedule_of_ones_own():
    assert schedule_of(lambda share: 1 - share, 0.0)(4) == [0.875, 0.625, 0.375, 0.125]
    assert schedule_of("constant", 0.5)(4) == [0.5, 1.0, 1.0, 1.0]


def quadratic(seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2))
    x = torch.randn(64, 6)
    return model, [(x[i : i + 16], x[i : i + 16, :2].sin()) for i in range(0, 64, 16)]


def loss(model, batch):
    return (model(batch[0]) - batch[1]).square().mean()


def test_ratios_between_groups_stay():
    model, batches = quadratic()
    groups = [{"params": model[0].parameters(), "lr": 1e-3}, {"params": model[2:].parameters(), "lr": 1e-4}]
    optimizer, seen = torch.optim.Adam(groups), []
    inner = optimizer.step
    optimizer.step = lambda: (seen.append([g["lr"] for g in optimizer.param_groups]), inner())
    found = find_lr(model, optimizer, batches, loss, steps=40)
    assert len(seen) > 100
    assert all(b / a == pytest.approx(0.1) for a, b in seen)
    assert found.groups[0] == found.value
    assert found.groups[1] == pytest.approx(0.1 * found.value)
    del optimizer.step
    found.apply(optimizer)
    assert [g["lr"] for g in optimizer.param_groups] == list(found.groups)


@pytest.mark.parametrize("name", MAKERS)
def test_a_search_leaves_no_trace(name):
    model, optimizer = trained(MAKERS[name])
    loader = torch.utils.data.DataLoader(
        torch.randn(32, 6), batch_size=8, shuffle=True, generator=torch.Generator().manual_seed(1)
    )
    order = loader.generator.get_state()
    before = everything(model, optimizer)
    square = lambda m, x: m(x).square().mean()  # noqa: E731
    find_lr(model, optimizer, loader, square, steps=16)
    assert same(everything(model, optimizer), before)
    assert torch.equal(loader.generator.get_state(), order)
    undisturbed, own = trained(MAKERS[name])
    for one, its in ((undisturbed, own), (model, optimizer)):
        torch.manual_seed(5)
        step(one, its)
    assert same(everything(model, optimizer), everything(undisturbed, own))


def test_a_search_that_fails_leaves_no_trace():
    model, optimizer = trained(MAKERS["muon"])
    batches, calls = [torch.randn(4, 6)], []
    before = everything(model, optimizer)

    def breaks(m, x):
        calls.append(1)
        if len(calls) > 30:
            raise RuntimeError("out of luck")
        return m(x).square().mean()

    with pytest.raises(RuntimeError, match="out of luck"):
        find_lr(model, optimizer, batches, breaks, steps=16)
    assert same(everything(model, optimizer), before)


def test_the_position_in_the_data_stays():
    model, batches = quadratic()
    endless = (batches[i % 4] for i in range(10**6))
    stream = Replay(endless)
    first = next(stream)
    assert first is batches[0]
    find_lr(model, dt.SGD(model.parameters()), stream, loss, steps=16)
    assert [next(stream) for _ in range(6)] == [batches[i % 4] for i in range(1, 7)]


def test_a_search_is_the_same_again():
    model, batches = quadratic()
    optimizer = dt.Muon(model, batches[0][0])
    random.seed(1)
    first = find_lr(model, optimizer, batches, loss, steps=16)
    random.seed(2)
    torch.manual_seed(9)
    assert find_lr(model, optimizer, batches, loss, steps=16).to_dict() == first.to_dict()


def test_a_real_training_at_the_rate_ends_near_the_best_of_a_grid():
    task = load("tests/compare/tiny.py:regression")
    for name in ("sgd", "adamw"):
        bench = TaskBench(task, CANDIDATES[name], 0.0, schedule_of("linear", 0.1))
        found = of_task(task, CANDIDATES[name], steps=160)
        low = CANDIDATES[name].space.lr[0] / 4
        grid = [bench.run(low * 2.0**k, 7, 160).final for k in range(14)]
        assert bench.run(found.value, 7, 160).final < 1.5 * min(grid)
        # The grid has a valley to miss.
        assert sum(end > 1.5 * min(grid) for end in grid) >= 8


def test_the_untrained_model_of_a_seed_is_judged_once():
    task, judged = load(TASK), []
    counting = replace(task, evaluate=lambda model: judged.append(1) or task.evaluate(model))
    found = of_task(counting, CANDIDATES["adamw"], steps=16)
    assert all(math.isfinite(r.final) for r in found.runs)
    assert len(judged) == len(found.runs) + 2
    with torch.no_grad():
        assert {r.start for r in found.runs if r.seed == 0} == {task.evaluate(task.build(0))}


def test_bad_input_is_told_in_a_line():
    model, batches = quadratic()
    good = dt.SGD(model.parameters())
    for options, said in [
        ({"steps": 3}, "steps = 3: expected at least 4"),
        ({"steps": "16"}, "steps = '16': expected at least 4"),
        ({"steps": 16, "longest": 0}, "longest = 0: expected at least 4"),
        ({"steps": 16, "seeds": 0}, "seeds = 0"),
        ({"steps": 16, "seeds": 1.5}, "seeds = 1.5: expected a whole number"),
        ({"steps": 16, "whole_seeds": 0}, "whole_seeds = 0: expected a whole number of at least 1"),
        ({"steps": 16, "low": 1.0, "high": 0.1}, "learning rates from 1 to 0.1"),
        ({"steps": 16, "high": math.inf}, "both finite"),
        (
            {"steps": 16, "evaluate": lambda model: None},
            r"evaluate\(model\) returned None: expected one number",
        ),
        ({"steps": 16, "evaluate": lambda model: torch.ones(2)}, r"returned a tensor of shape \(2,\)"),
        ({"steps": 16, "schedule": "linaer"}, "did you mean 'linear'"),
        ({"steps": 16, "warmup": 1.0}, "warmup = 1.0"),
    ]:
        with pytest.raises(UsageError, match=said):
            find_lr(model, good, batches, loss, **options)
    with pytest.raises(UsageError, match=r"optimizer is of type list: .* as in find_lr\("):
        find_lr(model, [good], batches, loss, steps=16)
    with pytest.raises(UsageError, match="an iterator, which the search would use up"):
        find_lr(model, good, iter(batches), loss, steps=16)
    with pytest.raises(UsageError, match="batches are empty"):
        find_lr(model, good, [], loss, steps=16)
    with pytest.raises(UsageError, match="batches is of type NoneType: expected a list"):
        find_lr(model, good, None, loss, steps=16)
    with pytest.raises(UsageError, match=r"batches\(seed\) is of type int: expected an iterator"):
        find_lr(model, good, lambda seed: seed, loss, steps=16)
    for ending in (lambda _: iter(batches), lambda _: batches):
        with pytest.raises(UsageError, match=r"batches\(seed\) ended after 4 steps: it must go on"):
            find_lr(model, good, ending, loss, steps=16)
    with pytest.raises(UsageError, match="first group's learning rate is 0"):
        find_lr(model, dt.SGD(model.parameters(), lr=0.0), batches, loss, steps=16)


def rates_at(*values, scatter=1.1):
    made = [searched(Valley(v)) for v in values]
    return [replace(r, optima=(r.value / scatter, r.value * scatter)) for r in made]


def test_widths_are_judged_by_a_line():
    widths = (64, 128, 256)
    stays = check(widths, rates_at(0.01, 0.0102, 0.0098))
    assert stays.verdict == "stays"
    assert stays.factor == pytest.approx(1, abs=0.05)
    moves = check(widths, rates_at(0.04, 0.02, 0.01))
    assert moves.verdict == "moves"
    assert moves.factor == pytest.approx(0.5, rel=0.05)
    assert moves.high < 1
    assert check(widths, rates_at(0.02, 0.01, 0.02, scatter=2.0)).verdict == "unclear"
    assert "× 0.50 for each doubling" in moves.sentence()


def test_tasks_have_widths():
    task = load("digits")
    counts = [sum(p.numel() for p in task.at_width(w).build(0).parameters()) for w in (16, 32)]
    assert 3 < counts[1] / counts[0] < 4
    assert counts[1] == sum(p.numel() for p in task.build(0).parameters())
    assert task.at_width(16).name == "digits-16"
    text_task = load("text")
    assert text_task.at_width(64).build(0).embed.weight.shape == (256, 64)
    with pytest.raises(TypeError, match="at_width = 3"):
        Task("x", **tiny.parts, at_width=3)


TASK = "tests/compare/tiny.py:regression"


def test_command_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    page = tmp_path / "page.html"
    arguments = [
        "lr",
        TASK,
        "--optimizer",
        "sgd,adamw",
        "--steps",
        "16",
        "--threads",
        "1",
        "--out",
        str(page),
    ]
    assert run(arguments) == 0
    out = capsys.readouterr().out
    assert out.startswith("regression with SGD: lr ")
    assert all(len(line) <= 80 for line in out.splitlines() if not line.startswith("Report"))
    assert "Learning rate" in page.read_text()
    assert run([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [r["label"] for r in found["rates"]] == ["SGD", "AdamW"]
    assert all(r["low"] <= r["value"] <= r["high"] for r in found["rates"])


def test_command_line_with_widths(tmp_path, capsys):
    file = tmp_path / "wide.py"
    file.write_text(
        "from dataclasses import replace\nfrom torch import nn\nfrom tests.compare import tiny\n"
        "def wide(width):\n"
        "    build = lambda seed: nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 3))\n"
        "    return replace(tiny.regression, name=f'wide-{width}', build=build)\n"
        "task = replace(wide(8), at_width=wide)\n"
    )
    page = tmp_path / "page.html"
    arguments = [
        "lr",
        str(file),
        "--optimizer",
        "adamw",
        "--steps",
        "16",
        "--threads",
        "1",
        "--out",
        str(page),
    ]
    assert run([*arguments, "--widths", "4,8,16", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["widths"]
    assert found["widths"] == [4, 8, 16]
    assert found["verdict"] in ("stays", "moves", "unclear")
    assert found["low"] < found["factor_per_doubling"] < found["high"]
    assert "move with the width" in page.read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--widths", "64,128"], "has no widths"),
        (["--widths", "64,big"], "--widths 64,big: expected whole numbers"),
        (["--optimizer", "adamv"], "did you mean 'adam'"),
        (["--threads", "1000"], "--threads 1000"),
        (["--threads", "0", "--dry-run"], "--threads 0: expected 1 to"),
        (["--seed", "-1", "--dry-run"], "--seed -1: expected a whole number from 0"),
        (["--weight-decay", "-1", "--dry-run"], "--weight-decay -1: expected a number of at least 0"),
        (["--weight-decay", "nan", "--dry-run"], "--weight-decay nan: expected a number of at least 0"),
        (["--seeds", "0"], "--seeds 0"),
        (["--whole-seeds", "0", "--dry-run"], "--whole-seeds 0: expected at least 1"),
        (["--steps", "0"], "--steps 0: expected at least 4"),
        (["--warmup", "1.5", "--dry-run"], "--warmup 1.5: expected a share"),
        (["--steps", "-5", "--dry-run"], "--steps -5: expected at least 4"),
        (["--longest", "0"], "--longest 0: expected at least 4"),
        (["--schedule", "cosin"], "did you mean 'cosine'"),
        (["--dry-run", "--out", "tests"], "tests is a folder: give a file as --out"),
        (["--dry-run", "--out", f"{__file__}/page.html"], "give another --out"),
    ],
)
def test_bad_options(arguments, said, capsys):
    assert run(["lr", TASK, *arguments]) == 2
    assert said in capsys.readouterr().err.splitlines()[-1]


def test_bars_of_one_shade_are_those_of_runs_of_one_length():
    class Falling(Valley):
        def run(self, scale, seed, steps):
            self.best = 0.013 if steps == 400 else 0.05
            return super().run(scale, seed, steps)

    found = searched(Falling(0.013, sharp=0.05))
    rows = [line.split() for line in text(found).splitlines() if "▏" in line]
    longest = [
        max((r for r in found.runs if r.scale == scale), key=lambda r: r.steps)
        for scale in sorted({r.scale for r in found.runs})
    ]
    shades = {50: set(), 100: set(), 400: set()}
    for steps, (*_, bar) in zip([r.steps for r in longest if not r.failed], rows, strict=True):
        if bar != "best":
            shades[steps] |= set(bar.removeprefix("▏"))
    assert shades == {50: {"▒"}, 100: {"▓"}, 400: {"█"}}
