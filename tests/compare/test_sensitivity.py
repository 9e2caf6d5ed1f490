"""A grid of runs: what it says of a known one, and the command."""

import json
import math

import pytest

from downslope.cli import run
from downslope.compare.prepare import prepare
from downslope.compare.sensitivity import RATES, grid_of, sentence, summary
from downslope.compare.sensitivity import run as run_grid
from downslope.compare.sensitivity_solve import End, _field
from downslope.compare.words import more
from tests.compare import tiny
from tests.compare.test_session import Count

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


@pytest.mark.parametrize(("factor", "said"), [(4.32, "332 %"), (108.46, "a factor 108")])
def test_the_sentence_has_the_numbers_of_the_table(factor, said):
    field = {**summary([1.0, 2.0], [[1.0, factor], [factor, factor]]), "label": "SGD", "rows": [1.0, 2.0]}
    assert f"the worst seed {said}." in sentence([field], "seed")
    assert said.removeprefix("a factor ") in more(factor)


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
    arguments += ["--steps", "6", "--jobs", "1", "--threads", "1", "--out", str(out), "--json"]
    arguments += ["--seeds", "3"] if across == "seed" else []
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


def test_zero_and_negative_values_have_their_costs_too():
    assert summary([1.0, 2.0], [[0.0, 0.0], [0.0, 0.0]])["row_factor"] == 1.0
    found = summary([1.0, 2.0], [[-10.0, -9.0], [-8.0, -8.0]])
    assert found["best"] == -9.5
    assert found["row_factor"] == pytest.approx(1 + 1.5 / 9.5)
    assert found["column_factor"] == pytest.approx(1.1)


def test_equal_rooms_are_no_advantage():
    field = {**summary([1.0, 2.0], [[1.0, 1.0], [5.0, 5.0]]), "rows": [1.0, 2.0]}
    said = sentence([{**field, "label": "SGD"}, {**field, "label": "AdamW"}], "seed")
    assert said.startswith("SGD and AdamW are alike: 1 of 2 rows end within 10 % of their best.")
    assert "forgiving" not in sentence([{**field, "label": "SGD"}], "seed")


def test_a_grid_that_is_not_finished_says_so(tmp_path):
    session = prepare(TASK, optimizers=["sgd"], steps=6, jobs=1, threads=1, seeds=1, out=tmp_path / "run")
    session.observer = Count(interrupt_after=3)
    found = run_grid(session, grid_of(session, "seed", 2))
    assert found["interrupted"]
    assert found["sentence"].startswith("Not finished (3 of 18 runs): ")


def test_the_median_of_an_even_number_of_columns(tmp_path, capsys):
    """It is what the table calls the best, and not the upper of the two in the middle."""
    arguments = ["compare", "mgh:watson", "--sensitivity", "--optimizers", "newton", "--seeds", "2"]
    assert run([*arguments, "--out", str(tmp_path / "run")]) == 0
    found = json.loads((tmp_path / "run" / "result.json").read_text())["fields"][0]
    best = found["values"][found["rows"].index(found["best_row"])]
    assert max(best) > min(best)
    lines = capsys.readouterr().out.splitlines()
    row = next(line for line in lines if line.strip().startswith("1.0 "))
    assert row.split()[-1] == f"{sum(best) / 2:.1f}"


def test_report_makes_the_page_of_a_grid_again(tmp_path, capsys):
    out = tmp_path / "run"
    arguments = ["compare", TASK, "--sensitivity", "--optimizers", "sgd", "--seeds", "2", "--steps", "6"]
    assert run([*arguments, "--jobs", "1", "--threads", "1", "--out", str(out)]) == 0
    page = (out / "report.html").read_text()
    (out / "report.html").unlink()
    assert run(["report", str(out)]) == 0
    assert (out / "report.html").read_text() == page
    assert run(["report", str(out), str(out), "--out", str(tmp_path / "two.html")]) == 2
    assert "has a page of its own" in capsys.readouterr().err


def test_a_solve_does_not_write_over_trainings(tmp_path, capsys):
    (tmp_path / "run.json").write_text("{}")
    assert run(["compare", "rosenbrock", "--sensitivity", "--out", str(tmp_path)]) == 2
    assert "holds trainings" in capsys.readouterr().err
    assert not (tmp_path / "result.json").exists()


def test_ctrl_c_ends_a_solve_and_not_one_run_of_it(tmp_path, monkeypatch):
    asked = []

    def pressed(x):
        asked.append(x)
        if len(asked) == 3:  # at the first evaluation it would reach the command anyway
            raise KeyboardInterrupt
        return (x**2).sum(-1)

    monkeypatch.setattr("downslope.tasks.problems.Problem.__call__", lambda self, x: pressed(x))
    assert run(["compare", "rosenbrock", "--sensitivity", "--out", str(tmp_path / "run")]) == 130
    assert len(asked) == 3


def test_a_solve_that_ends_elsewhere_is_lost_and_one_that_runs_out_is_short():
    arrived, elsewhere, spent, spent_there = (
        End(1.0, 9, False),
        End(2.0, 9, False),
        End(2.0, 9, True),
        End(1.0, 9, True),
    )
    rows = [[arrived, elsewhere], [spent, spent_there], [arrived] * 2, [arrived] * 2]
    field = _field("bfgs", rows, [0, 1], 1.0)
    assert field["values"] == [[9.0, None], [None, 9.0], [9.0] * 2, [9.0] * 2]
    assert field["short"] == [[False, False], [True, False], [False] * 2, [False] * 2]
    assert field["lost"] == 1


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
        (["--optimizers", "bfgs,bfgs"], "'bfgs' stands twice"),
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
