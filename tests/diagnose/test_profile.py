"""A profile tells where the time went: with a clock of our own, to the last tick."""

import io
import json
import math
import re
import subprocess
import sys
from itertools import pairwise

import pytest
import torch
from rich.console import Console
from torch import nn

import downslope.torch as dt
from downslope.cli import run
from downslope.diagnose.profile import TRACE_LIMIT, LayerTime, PartTime, Profile
from downslope.diagnose.profile_table import layers_table, text
from downslope.diagnose.torch import profile as measuring
from downslope.diagnose.torch import what_if
from downslope.diagnose.torch.layers import OUTSIDE, Layers
from downslope.diagnose.torch.memory import memory_of
from downslope.diagnose.torch.profile import middle_half, profile, profile_subjects
from downslope.diagnose.torch.subject import of_objects
from downslope.errors import UsageError
from downslope.torch.regions import heard_by, region
from tests.diagnose.clock import Ticks
from tests.diagnose.test_snapshot import everything, same


class Slow(nn.Linear):
    """A layer that takes so many ticks forward, and twice as many backward."""

    def __init__(self, n, m, ticks, clock):
        super().__init__(n, m, bias=False)
        self.ticks, self.clock = ticks, clock

    def forward(self, x):
        self.clock.now += self.ticks
        return Late.apply(super().forward(x), 2 * self.ticks, self.clock)


class Late(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, ticks, clock):
        ctx.ticks, ctx.clock = ticks, clock
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        ctx.clock.now += ctx.ticks
        return g, None, None


def network(clock, widths=(6, 8, 8, 2)):
    torch.manual_seed(0)
    layers = [Slow(n, m, i + 1, clock) for i, (n, m) in enumerate(pairwise(widths))]
    return nn.Sequential(*layers)


def loss(model, x):
    return model(x).square().mean()


def muon(model):
    return dt.Muon(model, torch.ones(4, 6), lr=1e-3)


class Batches:
    """Batches that take five ticks each."""

    def __init__(self, clock):
        self.clock = clock

    def __iter__(self):
        while True:
            self.clock.now += 5
            yield torch.ones(4, 6)


@pytest.fixture
def ticking(monkeypatch):
    clock = Ticks()
    monkeypatch.setattr(measuring, "clock_of", lambda _: clock)
    # Windows of one length are timed by the host's clock: here it ticks too.
    monkeypatch.setattr(what_if.time, "perf_counter", lambda: clock.now)
    return clock


def test_parts_are_what_took_the_time(ticking, monkeypatch):
    apply = dt.Muon._apply
    monkeypatch.setattr(
        dt.Muon, "_apply", lambda self, job: (setattr(ticking, "now", ticking.now + 7), apply(self, job))[1]
    )
    model = network(ticking)
    found = profile(
        model, torch.ones(4, 6), muon(model), loss, batches=Batches(ticking), layers=False, memory=False
    )
    ticks = {"/".join(p.path): p.milliseconds / 1e3 for p in found.parts}
    assert ticks["data"] == pytest.approx(5)
    assert ticks["forward"] == pytest.approx(1 + 2 + 3)
    assert ticks["backward"] == pytest.approx(2 * (1 + 2 + 3))
    assert ticks["muon"] + ticks["adamw"] == pytest.approx(2 * 7)  # hidden; input and output together
    assert found.milliseconds / 1e3 == pytest.approx(5 + 6 + 12 + 14)
    assert sum(p.milliseconds for p in found.parts) == pytest.approx(found.milliseconds)
    assert sum(p.share for p in found.parts) == pytest.approx(1)
    assert found.closure == pytest.approx(1)
    assert found.overhead == pytest.approx(0)


def test_the_closure_tells_windows_that_disagree(ticking, monkeypatch):
    """A part that is slow only while parts are timed shows as a closure above 1."""
    model = network(ticking)
    tape = measuring.Tape

    class Dragging(tape):
        def part(self, name):
            if name == "forward":
                ticking.now += 18
            return super().part(name)

    monkeypatch.setattr(measuring, "Tape", Dragging)
    found = profile(model, torch.ones(4, 6), muon(model), loss, layers=False, memory=False)
    assert found.closure == pytest.approx(2)  # 18 ticks are the step itself
    assert found.overhead == pytest.approx(1)
    assert "busy" in text(found)


def test_rules_tell_their_parts():
    model = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 2))
    x = torch.ones(4, 6)
    found = profile(model, x, dt.Muon(model, x), loss, seconds=0.05)
    paths = ["/".join(p.path) for p in found.parts]
    for path in (
        "data",
        "forward",
        "backward",
        "muon/momentum",
        "muon/orthogonalise",
        "muon/write",
        "adamw",
        "check",
    ):
        assert path in paths
    plain = profile(model, x, torch.optim.SGD(model.parameters()), loss, seconds=0.05)
    assert [p.path for p in plain.parts] == [
        (n,) for n in ("data", "forward", "backward", "optimizer", "zero_grad", "between parts")
    ]


def test_regions_cost_nothing_unheard():
    heard = []

    class Here:
        def __init__(self, name):
            heard.append(name)

        __enter__ = __exit__ = lambda *_: None

    assert region("a") is region("b")
    with heard_by(Here), region("a"):
        pass
    assert heard == ["a"]
    assert region("a") is region("b")


def test_each_layer_has_its_own_time():
    clock = Ticks()
    model = network(clock)
    layers = Layers(clock, model)
    with layers.watched():
        value = loss(model, torch.ones(4, 6))
    layers.watch_backward(value)
    value.backward()
    seconds = layers.seconds()
    assert [seconds[name] for name in ("0", "1", "2")] == [(1, 2), (2, 4), (3, 6)]
    assert seconds["Sequential"] == (0, 0)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_layer_called_twice_and_operations_outside():
    clock = Ticks()
    layer = Slow(6, 6, 3, clock)
    model = nn.ModuleList([layer])
    layers = Layers(clock, model)
    with layers.watched():
        value = Late.apply(layer(layer(torch.ones(4, 6))), 11, clock).sum()
    layers.watch_backward(value)
    value.backward()
    assert layers.seconds()["0"] == (6, 12)
    assert layers.seconds()[OUTSIDE] == (0, 11)


def test_memory_is_counted():
    model = nn.Sequential(nn.Linear(100, 50, bias=False), nn.ReLU(), nn.Linear(50, 10, bias=False))
    x = torch.ones(32, 100)
    subject = of_objects(model, x, dt.AdamW(model.parameters()), loss, None)
    found = memory_of(subject)
    weights = 4 * (100 * 50 + 50 * 10)
    assert found.parameters == found.gradients == weights
    assert found.state == 2 * weights
    # Kept for the backward pass: what the ReLU returns, and the output that is squared.
    assert found.activations == 4 * 32 * (50 + 10)
    held = weights * 4 + 4 * 32 * 100
    assert held <= found.peak <= held + found.activations + 2 * weights + 4 * 32 * 60
    assert found.peak_in in ("backward", "optimizer")


@pytest.mark.parametrize("layers", [False, True])
def test_a_profile_leaves_no_trace(layers):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 8), nn.Linear(8, 2)
    )
    x = torch.ones(4, 6)
    optimizer = dt.Muon(model, x)
    loss(model, x).backward()
    optimizer.step()
    before = everything(model, optimizer)
    profile(
        model, x, optimizer, loss, layers=layers, memory=layers, seconds=0.05, what_ifs="dtype,steps,stacks"
    )
    assert same(everything(model, optimizer), before)


def test_another_optimizer_is_measured_in_turns(ticking):
    model = network(ticking)

    class Dawdling(dt.SGD):
        def step(self):
            ticking.now += 9
            super().step()

    batch, fast, slow = torch.ones(4, 6), dt.SGD(model.parameters()), Dawdling(model.parameters())
    found = profile(model, batch, slow, loss, versus=fast, layers=False, memory=False)
    assert found.versus_ratio == pytest.approx((6 + 12 + 9) / (6 + 12))
    assert "Dawdling is 1.50 times slower" in text(found)


def test_what_if_tries_and_undoes():
    model = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 2))
    x = torch.ones(4, 6)
    optimizer = dt.Muon(model, x, ns_steps=5, max_stack_bytes=300)
    seen = []
    step = optimizer.step

    def watched():
        muon = optimizer.param_groups[0]
        seen.append((muon["ns_dtype"], muon["ns_steps"], optimizer.max_stack_bytes))
        step()

    optimizer.step = watched
    subject = of_objects(model, x, optimizer, loss, None)
    found = what_if.try_out(subject, ("dtype", "steps", "stacks"), measuring.clock_of(subject.device), 0.05)
    assert [w.name for w in found] == ["dtype", "steps", "stacks"]
    assert all(w.ratio and w.ratio > 0 for w in found)
    settings = set(seen)
    dtypes = {d for d, _, _ in settings} - {"auto"}
    assert len(dtypes) == 1
    assert settings == {("auto", 5, 300), (*dtypes, 5, 300), ("auto", 3, 300), ("auto", 5, 1200)}
    # Each change takes turns with the step as it is.
    assert 0.3 < seen.count(("auto", 5, 300)) / len(seen) < 0.6
    assert optimizer.max_stack_bytes == 300
    assert optimizer.param_groups[0]["ns_steps"] == 5


def test_a_what_if_that_fails_says_why(monkeypatch):
    def broken(_):
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(torch, "compile", broken)
    model = nn.Linear(6, 2)
    found = profile(
        model,
        torch.ones(4, 6),
        dt.SGD(model.parameters()),
        loss,
        seconds=0.05,
        layers=False,
        memory=False,
        what_ifs="all",
    )
    assert [(w.name, w.ratio) for w in found.what_ifs] == [("compile", None)]
    assert "no C++ compiler" in " ".join(text(found, width=200).split())


def test_what_is_left_out_is_said(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda model: model)
    model = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 2))
    subject = of_objects(model, torch.ones(4, 6), dt.Muon(model, torch.ones(4, 6)), loss, None)
    for names, said in (("quick", True), ("all", False), ("none", False)):
        found = profile_subjects([subject], what_if.chosen(names), layers=False, memory=False, seconds=0.05)
        assert ("Not tried: torch.compile" in text(found)) == said
        assert ("compile" in [w.name for w in found.what_ifs]) == (names == "all")


def test_a_compiled_step_is_measured(monkeypatch):
    called = []
    monkeypatch.setattr(torch, "compile", lambda model: lambda x: (called.append(1), model(x))[1])
    model = nn.Linear(6, 2)
    subject = of_objects(model, torch.ones(4, 6), dt.SGD(model.parameters()), loss, None)
    found = profile_subjects([subject], ("compile",), layers=False, memory=False, seconds=0.05)
    assert called
    assert found.what_ifs[0].ratio > 0


def test_a_trace_is_whole_and_small():
    spans = []
    for i in range(20_000):
        spans += [(("step",), 0.1 * i, 0.05), (("step", "forward"), 0.1 * i, 0.02)]
    found = Profile("x", "SGD", "cpu", 1, 1, 1, 1.0, 1.0, 1.0, (), 1.0, 0.0, spans=tuple(spans))
    written = found.trace()
    assert 0.8 * TRACE_LIMIT < len(written) < TRACE_LIMIT
    events = json.loads(written)["traceEvents"][1:]
    assert len(events) % 2 == 0
    assert events[0] == {
        "name": "step",
        "cat": "step",
        "ph": "X",
        "ts": 0.0,
        "dur": 50000.0,
        "pid": 0,
        "tid": 0,
    }
    assert events[3]["ts"] == 100000.0


def test_the_middle_half_adds_up():
    own = [{("a",): 1.0, ("b",): float(i)} for i in range(8)]
    assert middle_half(own) == {("a",): 1.0, ("b",): 3.5}


def test_json_and_back():
    model = nn.Linear(6, 2)
    found = profile(model, torch.ones(4, 6), dt.SGD(model.parameters()), loss, seconds=0.05)
    again = Profile.from_dict(json.loads(json.dumps(found.to_dict())))
    assert again.to_dict() == found.to_dict()
    assert again.layers[0] == found.layers[0]
    assert isinstance(again.layers[0], LayerTime)
    assert isinstance(again.parts[0], PartTime)


def test_bad_input_is_told_in_a_line():
    model, x = nn.Linear(6, 2), torch.ones(4, 6)
    good = dt.SGD(model.parameters())
    with pytest.raises(UsageError, match="holds no parameter of this model"):
        profile(model, x, dt.SGD(nn.Linear(1, 1).parameters()), loss)
    with pytest.raises(UsageError, match=r"expected a torch\.optim\.Optimizer"):
        profile(model, x, 0.1, loss)
    with pytest.raises(UsageError, match=r"loss\(model, batch\) raised TypeError"):
        profile(model, x, good, lambda m: m)
    with pytest.raises(UsageError, match="pass loss="):
        profile(model, x, good)
    with pytest.raises(UsageError, match=r"unknown what-if 'step'.*did you mean 'steps'"):
        profile(model, x, good, loss, what_ifs="step")
    with pytest.raises(UsageError, match="the step of LBFGS needs a closure"):
        profile(model, x, torch.optim.LBFGS(model.parameters()), loss)
    for seconds in (0, math.nan, math.inf):
        with pytest.raises(UsageError, match=f"seconds = {seconds}"):
            profile(model, x, good, loss, seconds=seconds)
    with pytest.raises(UsageError, match="empty or used up"):
        profile(model, x, good, loss, batches=[], seconds=0.05)


@pytest.mark.parametrize("make", [dt.SGD, torch.optim.SGD], ids=["ours", "torch's"])
def test_an_optimizer_with_a_scheduler_is_measured(make):
    """A scheduler puts a function around `step` whose signature is that of the unbound method."""
    model, x = nn.Linear(6, 2), torch.ones(4, 6)
    optimizer = make(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    assert profile(model, x, optimizer, loss, seconds=0.05).milliseconds > 0
    optimizer.step()
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.01)
    optimizer = torch.optim.LBFGS(model.parameters())
    torch.optim.lr_scheduler.StepLR(optimizer, 1)
    with pytest.raises(UsageError, match="the step of LBFGS needs a closure"):
        profile(model, x, optimizer, loss)


TINY = "tests/compare/tiny.py"
TASK = f"{TINY}:regression"


def test_command_line(tmp_path, capsys):
    page, trace = tmp_path / "a" / "page.html", tmp_path / "trace.json"
    arguments = ["profile", TASK, "--vs", "adamw", "--what-if", "steps", "--seconds", "0.1", "--threads", "1"]
    assert run([*arguments, "--out", str(page), "--trace", str(trace), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["kind"] == "profile"
    assert found["versus"]["optimizer"] == "AdamW"
    assert {"parts", "layers", "memory", "what_ifs", "closure", "overhead"} <= found.keys()
    assert "Where the time goes" in page.read_text()
    assert json.loads(trace.read_text())["traceEvents"]


def test_the_terminal_fits_80_columns(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert (
        run(["profile", TASK, "--what-if", "none", "--seconds", "0.1", "--out", str(tmp_path / "p.html")])
        == 0
    )
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("regression with Muon: ")
    assert all(len(line) <= 80 for line in lines if not line.startswith("Report"))
    assert any("■ data" in line for line in lines)


def test_a_mark_and_its_label_stay_on_one_line():
    for width in range(1, 12):
        parts = [PartTime((f"part {i} " + "x" * width,), 1.0, 0.1) for i in range(8)]
        parts += [PartTime(("muon", "orthogonalise"), 2.0, 0.2), PartTime(("tiny",), 0.01, 0.001)]
        lines = text(Profile("x", "y", "cpu", 1, 1, 9, 10.0, 9.9, 10.2, tuple(parts), 1.0, 0.0)).splitlines()
        legend = [line.rstrip() for line in lines if "■" in line]
        assert sum(line.count("■") for line in legend) == 10
        assert all(len(line) <= 80 and line.startswith("■") and not line.endswith("■") for line in legend)
        assert "■ muon 20 (orthogonalise)" in "\n".join(legend)


def test_measuring_memory_makes_torch_say_nothing(tmp_path):
    command = [sys.executable, "-m", "downslope", "profile", TASK, "--what-if", "none", "--seconds", "0.05"]
    ran = subprocess.run([*command, "--out", tmp_path / "p.html"], capture_output=True, text=True, check=True)
    assert all(line.startswith("Measuring ") for line in ran.stderr.splitlines())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--vs", "muon"], "is the optimizer itself"),
        (["--optimizer", "adamv"], "did you mean 'adam'"),
        (["--what-if", "bf16"], "unknown what-if 'bf16'"),
        (["--threads", "0"], "--threads 0: expected 1 to"),
        (["--threads", "1000"], "--threads 1000: expected 1 to"),
        (["--lr", "-1"], "--lr -1: expected a positive number"),
        (["--seconds", "0"], "--seconds 0: expected a positive number"),
        (["--seconds", "nan"], "--seconds nan: expected a positive number"),
        (["--seconds", "inf"], "--seconds inf: expected a positive number"),
        (["--out", "tests"], "tests is a folder: give a file as --out"),
        (["--trace", f"{__file__}/steps.json"], "give another --trace"),
    ],
)
def test_bad_options(arguments, said, capsys):
    assert run(["profile", TASK, *arguments]) == 2
    refused = capsys.readouterr().err
    assert said in refused
    assert "Measuring" not in refused


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ("short", r"the batches of task 'short' ended after 5 steps"),
        ("empty", r"batches\(seed\) of task 'empty' is empty"),
        ("raises", r"loss\(model, batch\) of task 'raises' raised TypeError.*tiny\.py, line"),
        ("nan_loss", r"loss\(model, batch\) of task 'nan_loss' is nan in the first step"),
        ("never", r"a step of Muon on task 'never' at a learning rate of .* raised ValueError: the gradient"),
    ],
)
def test_what_a_task_gets_wrong_is_told_in_a_line(task, said, capsys):
    assert run(["profile", f"{TINY}:{task}", "--what-if", "none", "--seconds", "0.05"]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("downslope: ")
    assert re.search(said, line)


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_a_script_module_has_no_layers_to_profile():
    x = torch.zeros(4, 3)
    model = torch.jit.trace(torch.nn.Linear(3, 2), x)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def loss(m, x):
        return m(x).square().mean()

    with pytest.raises(UsageError, match="ScriptModule, which takes no hooks"):
        profile(model, x, optimizer, loss, seconds=0.05)
    assert not profile(model, x, optimizer, loss, seconds=0.05, layers=False).layers


def test_names_of_layers_are_shown_whole():
    """They often differ at their ends."""
    names = [f"{'a_layer_of_a_deep_model.' * 4}{end}" for end in ("first", "second")]
    console = Console(width=80, file=io.StringIO())
    console.print(layers_table([LayerTime(name, "Linear", 1e-3, 2e-3, 9) for name in names]))
    shown = console.file.getvalue()
    assert max(map(len, shown.splitlines())) <= 80
    first = "".join(line.split(" ")[0] for line in shown.splitlines()[1:])
    assert first == "".join(names)
