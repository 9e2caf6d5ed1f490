"""A grid of runs: what it says of a known one, and the command."""

import json
import math

import pytest

from downslope.cli import run
from downslope.compare.sensitivity import RATES, sentence, summary
from tests.compare import tiny

TASK = f"{tiny.__file__}:regression"
NAN, INF = math.nan, math.inf


def test_a_summary_says_what_moves_the_end():
    found = summary(
        [0.1, 0.2, 0.4, 0.8], [[2.0, 2.2, 2.4], [1.0, 1.1, 1.5], [1.15, 1.2, 1.3], [3.0, INF, INF]]
    )
    assert found["best_row"] == 0.2
    assert found["best"] == 1.1
    assert found["row_factor"] == pytest.approx(2.2 / 1.1)  # the worse neighbour
    assert found["column_factor"] == pytest.approx(1.5)
    assert found["room"] == 2  # 1.2 is within 10 % of 1.1
    assert (found["lost"], found["cells"]) == (2, 12)


def test_a_neighbour_that_is_lost_costs_everything():
    found = summary([1.0, 2.0], [[1.0, 1.0], [INF, INF]])
    assert found["row_factor"] is None
    assert found["lost"] == 2
    field = {**found, "label": "SGD", "rows": [1.0, 2.0]}
    assert "a row away from 1 costs everything" in sentence([field], "seed")


def test_what_was_not_run_is_left_out():
    found = summary([1.0, 2.0, 4.0], [[1.0, NAN], [NAN, NAN], [2.0, 3.0]])
    assert (found["cells"], found["lost"], found["best"]) == (3, 0, 1.0)


def test_nothing_that_ended_well():
    found = summary([1.0, 2.0], [[INF], [INF]])
    assert found["best_row"] is None
    assert (
        sentence([{**found, "label": "SGD", "rows": [1.0, 2.0]}], "seed")
        == "Nothing that was tried ended well."
    )


@pytest.mark.parametrize(("across", "columns"), [("seed", [0, 1, 2]), ("decay", [0.0, 1e-3, 1e-2, 1e-1])])
def test_the_command_fills_a_grid_and_goes_on(across, columns, tmp_path, capsys):
    out = tmp_path / "run"
    arguments = ["compare", TASK, "--sensitivity", "--across", across, "--optimizers", "sgd,adamw"]
    arguments += [
        "--seeds",
        "3",
        "--steps",
        "6",
        "--jobs",
        "1",
        "--threads",
        "1",
        "--out",
        str(out),
        "--json",
    ]
    assert run(arguments) == 0
    found = json.loads(capsys.readouterr().out)
    assert [f["columns"] for f in found["fields"]] == [columns, columns]
    for field in found["fields"]:
        assert len(field["rows"]) == RATES == len(field["values"])
        assert all(field["done"][i][j] for i in range(RATES) for j in range(len(columns)))
        # A row is another rate: it ends elsewhere. So does a column.
        flat = [v for row in field["values"] for v in row if v is not None]
        assert len(set(flat)) > len(flat) / 2
    assert 'class="heat"' in (out / "report.html").read_text()
    records = (out / "trials.jsonl").read_text().splitlines()
    assert len(records) == 2 * RATES * len(columns)
    # Some runs lost: the same command does them again and finds the same.
    (out / "trials.jsonl").write_text("\n".join(records[:7]) + "\n")
    assert run(arguments) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["fields"] == found["fields"]
    # Another grid does not go into this folder.
    assert run([*arguments, "--steps", "7"]) == 2
    assert "holds another comparison" in capsys.readouterr().err


def test_the_terminal_fits_80_columns(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    arguments = ["compare", TASK, "--sensitivity", "--optimizers", "sgd", "--steps", "6", "--jobs", "1"]
    assert run([*arguments, "--threads", "1", "--out", str(tmp_path / "run")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= 80 for line in lines if not line.startswith("Report"))
    assert any("×" in line or "█" in line for line in lines)


def test_a_solve(tmp_path, capsys):
    arguments = ["compare", "rosenbrock", "--sensitivity", "--optimizers", "l-bfgs,bfgs", "--seeds", "3"]
    assert run([*arguments, "--out", str(tmp_path / "run"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [f["label"] for f in found["fields"]] == ["l-bfgs", "bfgs"]
    assert all(f["lost"] == 0 for f in found["fields"])
    values = found["fields"][0]["values"]
    # Hardly moved, a solve is the solve it was; moved far, it is another one.
    assert max(values[0]) - min(values[0]) <= 5
    assert max(values[-1]) > min(values[-1])


def test_a_solve_that_runs_out_of_steps_is_not_at_another_minimum(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    arguments = ["compare", "rosenbrock", "--sensitivity", "--optimizers", "bfgs,gd", "--seeds", "2"]
    arguments += ["--steps", "100", "--out", str(tmp_path / "run")]
    assert run([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["steps"] == 100
    assert [(f["lost"], sum(map(sum, f["short"]))) for f in found["fields"]] == [(0, 0), (0, 8)]
    assert "gd finds no minimum (8 of 8 run out of steps)" in found["sentence"]
    assert "out of steps" in (tmp_path / "run" / "report.html").read_text()
    assert run(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "0.0010 … … out of steps" in lines
    assert all(len(line) <= 80 for line in lines if not line.startswith("Report"))


def test_the_plan_of_a_solve_is_shown_and_nothing_is_run(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(["compare", "rosenbrock", "--sensitivity", "--seeds", "3", "--dry-run"]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert "48 solves of at most 2000 steps: 4 distances × 3 directions × 4 methods" in " ".join(err.split())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--across", "decay"], "--across is of trainings, and rosenbrock is a problem to solve"),
        (["--jobs", "99"], "--jobs is of trainings"),
        (["--trials", "3"], "--trials has no meaning with --sensitivity"),
        (["--steps", "0"], "--steps 0: expected at least 1"),
        (["--seeds", "0"], "--seeds 0: expected at least 1"),
        (["--seed", "-1"], "--seed -1: expected at least 0"),
        (["--optimizers", "adamv"], "did you mean 'adam'"),
        (["--optimizers", "gauss-newton"], "gauss-newton takes residuals"),
        (["--out", tiny.__file__], "cannot be a run folder"),
    ],
)
def test_bad_options_of_a_solve(arguments, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(["compare", "rosenbrock", "--sensitivity", *arguments]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--trials", "3"], "--trials has no meaning with --sensitivity"),
        (["--across", "seeds"], "did you mean 'seed'"),
        (["--seeds", "1"], "needs at least 2"),
        (["--optimizers", "adamv"], "did you mean 'adam'"),
    ],
)
def test_bad_options(arguments, said, capsys, tmp_path):
    assert run(["compare", TASK, "--sensitivity", "--out", str(tmp_path / "r"), *arguments]) == 2
    assert said in capsys.readouterr().err
