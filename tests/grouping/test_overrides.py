"""Overrides, the table, saved partitions and the command: what a user says and sees."""

# ruff: noqa: E501
import json
import subprocess
import sys
import textwrap

import pytest
from rich.console import Console

torch = pytest.importorskip("torch")
nn = torch.nn

from downslope.errors import UsageError  # noqa: E402
from downslope.grouping.command import run_groups  # noqa: E402
from downslope.grouping.diff import changes  # noqa: E402
from downslope.grouping.partition import Assignment, Partition, Role  # noqa: E402
from downslope.grouping.table import folded, plain  # noqa: E402
from downslope.grouping.torch import partition  # noqa: E402
from downslope.grouping.view import MatrixView  # noqa: E402

X = torch.linspace(-1, 1, 16).reshape(2, 8)


class Model(nn.Module):
    def __init__(self, spare=False):
        super().__init__()
        self.read, self.head = nn.Linear(8, 16), nn.Linear(16, 4)
        self.blocks = nn.ModuleList(nn.Linear(16, 16) for _ in range(12))
        if spare:
            self.spare = nn.Linear(8, 8)

    def forward(self, x):
        x = self.read(x)
        for block in self.blocks:
            x = x + block(x).relu()
        return self.head(x)


def rules(p):
    return {a.name: a.rule for a in p if len(a.shape) > 1}


def test_by_pattern_module_and_predicate():
    p = partition(Model(), X, overrides={"blocks.1*.weight": "adamw", "blocks.0": "none"})
    assert [rules(p)[f"blocks.{k}.weight"] for k in (0, 1, 2, 10, 11)] == [
        "none",
        "adamw",
        "muon",
        "adamw",
        "adamw",
    ]
    assert p["blocks.0.bias"].rule == "none"
    assert "override 'blocks.0'" in p["blocks.0.bias"].reason
    p = partition(Model(), X, overrides={lambda a: a.role is Role.OUTPUT: "hidden"})
    assert (p["head.weight"].role, p["head.weight"].rule) == (Role.HIDDEN, "muon")


def test_views_and_whole_assignments():
    view = MatrixView((1,), (0,))
    assert partition(Model(), X, overrides={"read.weight": view})["read.weight"].view == view
    own = Assignment("any", (1,), Role.ROUTER, "adamw", None, "I know better")
    assert partition(Model(), X, overrides={"head.weight": own})["head.weight"].role is Role.ROUTER


def test_the_last_that_matches_wins():
    p = partition(Model(), X, overrides=[("*.weight", "adamw"), ("blocks.3.weight", "muon")])
    assert [n for n, rule in rules(p).items() if rule == "muon"] == ["blocks.3.weight"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"blocks.0.wieght": "adamw"},
            "override 'blocks.0.wieght' matches no parameter: the closest are 'blocks.0.weight'",
        ),
        ({"hed": "adamw"}, "override 'hed' matches no parameter: the closest are 'head'"),
        ({"head": "moun"}, "'moun' is none of a rule"),
        ({"head.bias": "muon"}, r"'muon' needs matrices, and head.bias \(4,\) is used as none"),
        ({"head.bias": "hidden"}, "role 'hidden' needs matrices"),
        ({lambda a: False: "muon"}, "matches no parameter"),
        ({3: "muon"}, "override 3: expected a pattern"),
        ({"head.weight": MatrixView((0,), (1, 2))}, "does not fit shape"),
    ],
)
def test_overrides_that_cannot_be(overrides, message):
    with pytest.raises(ValueError, match=message):
        partition(Model(), X, overrides=overrides)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: partition(Model()), "Model needs inputs"),
        (lambda: partition(Model(), torch.ones(2, 9)), r"the call Model\(float32\[2, 9\]\) failed with RuntimeError"),
        (lambda: partition(Model(), X, heads="both"), "heads = 'both': expected 'fused' or 'split'"),
        (lambda: partition(Model(), X, batches=[X]), "batches stands for the inputs of several calls"),
        (lambda: partition(nn.ReLU(), X), "ReLU has no parameters"),
        (lambda: partition(nn.Sequential(nn.LazyLinear(3)), X), "0.weight has no shape yet"),
        (lambda: partition("model", X), "expected a torch.nn.Module and one batch of its inputs, got a str"),
    ],
)  # fmt: skip
def test_bad_input_is_told_in_one_line(call, message):
    with pytest.raises(UsageError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_several_batches_reach_what_one_does_not():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.read, self.a, self.b, self.head = (
                nn.Linear(8, 8),
                nn.Linear(8, 8),
                nn.Linear(8, 8),
                nn.Linear(8, 2),
            )

        def forward(self, x):
            h = self.read(x)
            return self.head(self.a(h) if x.sum() > 0 else self.b(h))

    one = partition(Branches(), X.abs())
    assert one["b.weight"].role is Role.UNUSED
    assert one["b.weight"].rule == "adamw"
    assert "not used on this batch" in one["b.weight"].warning
    both = partition(Branches(), batches=[X.abs(), (-X.abs(),), {"x": X.abs()}])
    assert both["a.weight"].role is both["b.weight"].role is Role.HIDDEN
    assert not any(a.warning for a in both)


def test_the_table_fits_and_folds():
    p = partition(Model(spare=True), X)
    text = str(p)
    assert max(map(len, text.splitlines())) <= 80
    assert "blocks.{0-11}." in text
    assert "depths 1 to 12 of 14" in " ".join(text.split())
    assert "! spare.weight: not used on this batch" in text
    assert "12 parameters" in text
    assert len(folded(p)) < 12 < len(p)
    assert max(map(len, plain(p, width=120).splitlines())) <= 120


@pytest.mark.parametrize(("dot", "slash"), [(".", "/"), ("/", "/")], ids=["Flax, Haiku", "Keras"])
def test_names_of_flax_and_keras_fold_and_break_too(dot, slash):
    layers = [f"encoder_of_many_layers{slash}MultiHeadDotProductAttention_{k}" for k in range(3)]
    view, why = MatrixView((1,), (0,)), "contracted over axis 0 at depth 1 of 4"
    assigned = [
        Assignment(f"{n}{dot}recurrent_kernel", (8, 8), Role.HIDDEN, "muon", view, why) for n in layers
    ]
    names = [*layers, "head"]
    assigned += [Assignment(f"{n}{dot}bias", (8,), Role.VECTOR, "adamw", None, "added") for n in names]
    rows = folded(Partition(assigned), every=False)
    one = f"encoder_of_many_layers{slash}MultiHeadDotProductAttention_{{0-2}}{dot}recurrent_kernel"
    assert [r.name for r in rows] == [one, f"*{dot}bias"]
    assert "added (4 of them)" in str(Partition(assigned))
    lines = plain(Partition(assigned)).splitlines()
    column = [line.split("   ")[0].strip() for line in lines]
    assert column[3:7] == [
        f"encoder_of_many_layers{slash}",
        "MultiHeadDotProduct",
        f"Attention_{{0-2}}{dot}",
        "recurrent_kernel",
    ]


def test_saved_and_loaded(tmp_path):
    p = partition(Model(), X)
    p.save(tmp_path / "groups.json")
    loaded = Partition.load(tmp_path / "groups.json")
    assert loaded == p
    assert loaded.parameters is None
    assert not changes(loaded, p)


def test_changes_between_partitions():
    old = partition(Model(), X)
    new = partition(Model(spare=True), X, overrides={"head": "none", "read.weight": "hidden"})
    told = {c.name: c.what for c in changes(old, new)}
    assert told == {
        "head.weight": ("rule",),
        "head.bias": ("rule",),
        "read.weight": ("role", "rule"),
        "spare.weight": ("added",),
        "spare.bias": ("added",),
    }
    assert next(map(str, changes(old, new))) == "~ read.weight: role input → hidden, rule adamw → muon"
    assert {c.what for c in changes(new, old) if c.name == "spare.bias"} == {("removed",)}


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"version": 2, "assignments": []}', '{"version": 1, "assignments": [{}]}']
)
def test_files_that_are_no_partition(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(UsageError, match=r"x\.json"):
        Partition.load(tmp_path / "x.json")


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        textwrap.dedent(
            """
            import torch
            from torch import nn

            x = torch.ones(2, 8)
            pair = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.Linear(16, 2)), x
            def made(): return pair
            class Two(nn.Module):
                def __init__(self):
                    super().__init__()
                    self.a, self.spare = nn.Linear(8, 3), nn.Linear(8, 8)
                def forward(self, *, x): return self.a(x)
            def spare(): return Two(), {"kwargs": {"x": x}}
            number = 3
            bare = nn.Linear(3, 3)
            """
        )
    )
    return path


def run(target, **options):
    console = Console(file=__import__("io").StringIO(), width=80)
    code = run_groups(target, console=console, **options)
    return code, console.file.getvalue()


@pytest.mark.parametrize("name", ["pair", "made"])
def test_the_command_prints_a_table(file, name):
    code, text = run(f"{file}:{name}")
    assert code == 0
    assert "2.weight" in text
    assert "muon" in text


def test_the_command_lints(file):
    assert run(f"{file}:spare")[0] == 0
    assert run(f"{file}:spare", lint=True)[0] == 1
    assert run(f"{file}:pair", lint=True)[0] == 0


def test_the_command_saves_and_compares(file, tmp_path):
    saved = tmp_path / "old.json"
    code, text = run(f"{file}:pair", as_json=True, save=saved)
    assert json.loads(text) == json.loads(saved.read_text())
    assert run(f"{file}:made", diff=saved) == (0, "no difference\n")
    code, text = run(f"{file}:spare", diff=saved)
    assert code == 1
    assert "+ spare.weight" in text
    assert json.loads(run(f"{file}:spare", diff=saved, as_json=True)[1])["changes"]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("nothing.py:m", "no file 'nothing.py'"),
        ("digit", "did you mean 'digits'"),
        ("{file}:par", "has no 'par'; did you mean 'pair'"),
        ("{file}:number", "gives an int: expected"),
        ("{file}:bare", "Linear needs inputs"),
    ],
)
def test_targets_that_cannot_be(file, target, message):
    with pytest.raises(UsageError, match=message.replace("{", "").replace("}", "")):
        run_groups(target.format(file=file))


def test_policy_loads_no_framework():
    code = "import sys, downslope.grouping.policy, downslope.grouping.table; print({'torch', 'jax', 'keras'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"
