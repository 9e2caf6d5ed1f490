"""`downslope groups`: what it prints, saves and compares, and its exit codes."""

from __future__ import annotations

import json
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
