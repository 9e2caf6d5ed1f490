"""`downslope groups`: what it prints, saves and compares, and its exit codes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from downslope.cli import run
from downslope.grouping.partition import Partition

FILE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, spare=False):
        super().__init__()
        self.stem, self.mix, self.head = nn.Linear(6, 16), nn.Linear(16, 16), nn.Linear(16, 3)
        self.spare = nn.Linear(2, 2) if spare else None

    def forward(self, x):
        return self.head(self.mix(self.stem(x).relu()).relu())

batch = torch.randn(4, 6)
model = Net()
spare = Net(spare=True), batch

def make():
    return Net(), {"kwargs": {"x": batch}}
"""


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    Path("net.py").write_text(FILE)


@pytest.mark.parametrize("name", ["model", "make"])
def test_the_table_fits_into_eighty_columns(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["groups", f"net.py:{name}"]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert "mix.weight" in out
    assert "hidden" in out


def test_json_is_what_is_saved_and_nothing_differs(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["groups", "net.py:model", "--json", "--save", "groups.json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == Partition.load("groups.json").to_dict()
    assert run(["groups", "net.py:model", "--diff", "groups.json"]) == 0
    assert "no difference" in capsys.readouterr().out


def test_json_is_all_that_is_printed_even_if_the_model_prints(capsys: pytest.CaptureFixture[str]) -> None:
    Path("net.py").write_text(FILE.replace("return self.head", "print('forward'); return self.head"))
    assert run(["groups", "net.py:model", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["assignments"]
    assert "forward" in err


def test_short_names_leave_the_column_its_heading(capsys: pytest.CaptureFixture[str]) -> None:
    Path("net.py").write_text(
        FILE
        + """
class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(6, 3))

    def forward(self, x):
        return x @ self.w

tiny = Tiny(), batch
"""
    )
    assert run(["groups", "net.py:tiny"]) == 0
    out = capsys.readouterr().out
    assert "parameter   as matrices" in out
    assert max(map(len, out.splitlines())) <= 80


def test_a_place_that_cannot_be_written_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["groups", "net.py:model", "--save", "nowhere/groups.json"]) == 2
    assert "cannot be written to nowhere/groups.json: No such file" in capsys.readouterr().err


def test_a_task_without_batches_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    task = "Task('none', lambda seed: model, lambda seed: [], len, len, steps=1)"
    Path("net.py").write_text(f"{FILE}\nfrom downslope.tasks import Task\ntask = {task}\n")
    assert run(["groups", "net.py:task"]) == 2
    assert "batches(seed) of task 'none' is empty: expected batches without end" in capsys.readouterr().err


def test_a_file_with_one_task_needs_no_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["groups", "net.py"]) == 2
    assert "net.py holds 0 tasks: name one, or a model or (model, *inputs)" in capsys.readouterr().err
    task = "Task('one', lambda seed: model, lambda seed: [(batch, batch)], len, len, steps=1)"
    Path("net.py").write_text(f"{FILE}\nfrom downslope.tasks import Task\ntask = {task}\n")
    assert run(["groups", "net.py"]) == 0
    assert "mix.weight" in capsys.readouterr().out


def test_a_function_that_raises_is_told_from_a_file_that_does_not_import(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("net.py").write_text(f"{FILE}\ndef broken():\n    raise ValueError('boo')\n")
    assert run(["groups", "net.py:broken"]) == 2
    assert "broken() in net.py raised ValueError: boo (net.py, line " in capsys.readouterr().err
    assert run(["compare", "net.py:broken"]) == 2
    assert "broken() in net.py raised ValueError: boo (net.py, line " in capsys.readouterr().err


def test_a_difference_that_changes_the_update_exits_with_one(capsys: pytest.CaptureFixture[str]) -> None:
    run(["groups", "net.py:model", "--save", "groups.json"])
    Path("groups.json").write_text(Path("groups.json").read_text().replace('"muon"', '"adamw"'))
    capsys.readouterr()
    assert run(["groups", "net.py:model", "--diff", "groups.json"]) == 1
    assert "mix.weight" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:.*spare")
def test_lint_exits_with_one_where_a_parameter_is_unused() -> None:
    assert run(["groups", "net.py:model", "--lint"]) == 0
    assert run(["groups", "net.py:spare", "--lint"]) == 1
    assert run(["groups", "net.py:spare"]) == 0


@pytest.mark.parametrize("target", ["none.py:model", "net.py:modle", "net.py:batch", "digit"])
def test_bad_input_is_one_line_and_two(target: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["groups", target]) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("downslope: ")
    assert "\n" not in said


def test_the_summary_has_its_nouns_in_the_right_number(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["groups", "net.py:make"]) == 0
    muon, adamw = capsys.readouterr().out.splitlines()[-2:]
    assert "1 parameter, " in muon
    assert muon.endswith(" in 1 matrix")
    assert "5 parameters, " in adamw


def test_a_full_disk_leaves_the_saved_partition_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = tmp_path / "groups.json"
    assert run(["groups", "net.py:model", "--save", str(saved)]) == 0
    before = saved.read_bytes()

    def full(file: int) -> None:  # the file that is written anew is there by then
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert run(["groups", "net.py:model", "--save", str(saved)]) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert saved.read_bytes() == before
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize(
    ("part", "value", "words"),
    [
        ("role", "nobody", "assignments[0].role: expected one of embedding, "),
        ("rule", 3, "assignments[0].rule: expected `str`, got `int`"),
        ("rule", "x", "assignments[0].rule: expected one of adamw, muon, none"),
        ("shape", "x", "assignments[0].shape: expected `array`, got `str`"),
        ("name", True, "assignments[0].name: expected `str`, got `bool`"),
        ("view", {}, "assignments[0].view: object missing required field `outputs`"),
    ],
)
def test_a_damaged_partition_is_one_line(
    part: str, value: object, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["groups", "net.py:model", "--save", "groups.json"]) == 0
    file = Path("groups.json")
    saved = json.loads(file.read_text())
    saved["assignments"][0][part] = value
    file.write_text(json.dumps(saved))
    capsys.readouterr()
    code = run(["groups", "net.py:model", "--diff", "groups.json"])
    said = capsys.readouterr()
    assert code == 2
    assert said.err.startswith("downslope: groups.json: no partition")
    assert words in said.err
