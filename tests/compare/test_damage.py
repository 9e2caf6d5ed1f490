"""Files of runs, grids and races in which one entry is not as it was written: one line says which."""

import json
import shutil
from pathlib import Path

import pytest

from downslope.cli import run

TASK = f"{Path(__file__).with_name('tiny.py')}:regression"
COMPARE = ["compare", TASK, "--optimizers", "sgd,muon", "--trials", "2", "--seeds", "2"]
ONE = ["--jobs", "1", "--threads", "1", "--out"]
MADE_BY = {
    "run": [*COMPARE, *ONE],
    "grid": ["compare", TASK, "--sensitivity", "--optimizers", "sgd", "--seeds", "2", *ONE],
    "solve": ["compare", "rosenbrock", "--sensitivity", "--optimizers", "l-bfgs,gd", "--seeds", "2", "--out"],
    "race": ["minimize", "himmelblau", "--race", "l-bfgs,gd", "--out"],
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Return a folder of each kind, as its command leaves it."""
    made = tmp_path_factory.mktemp("made")
    for name, command in MADE_BY.items():
        assert run([*command, str(made / name)]) == 0
    return made


@pytest.fixture
def copy(folders, tmp_path, monkeypatch, capsys):
    """Return a function that copies a folder to where one is."""

    def copied(name):
        shutil.copytree(folders / name, tmp_path / name)
        capsys.readouterr()
        return Path(name)

    monkeypatch.chdir(tmp_path)
    return copied


def entries(value, at=()):
    """Yield the places within a value, of lists the first and the last."""
    if at:
        yield at
    inside = list(value.items()) if isinstance(value, dict) and at[-1:] != ("identity",) else []
    if isinstance(value, list) and value:
        inside = [(i, value[i]) for i in sorted({0, len(value) - 1})]
    for key, one in inside:
        yield from entries(one, (*at, key))


def spoilt(value, at, way):
    """Return a copy of a value with something else at a place, or nothing."""
    copied = json.loads(json.dumps(value))
    inner = copied
    for key in at[:-1]:
        inner = inner[key]
    if way == "missing":
        del inner[at[-1]]
    else:
        inner[at[-1]] = {"of another type": 3 if isinstance(inner[at[-1]], str) else "x", "null": None}[way]
    return copied


@pytest.mark.parametrize("way", ["of another type", "null", "missing"])
@pytest.mark.parametrize(
    ("name", "file"),
    [("run", "run.json"), ("grid", "result.json"), ("solve", "result.json"), ("race", "race.json")],
)
def test_every_entry_that_is_damaged_is_named(name, file, way, copy, capsys):
    folder = copy(name)
    whole = json.loads((folder / file).read_text())
    told = 0
    for at in entries(whole):
        if way == "missing" and not isinstance(at[-1], str):
            continue  # a list that is shorter may be one that was written so
        (folder / file).write_text(json.dumps(spoilt(whole, at, way)))
        code = run(["report", str(folder)])
        err = capsys.readouterr().err
        if code == 2:
            told += 1
            assert err.startswith(f"downslope: {folder / file} ")
            assert len(err.splitlines()) == 1
            near = [str(key) for key in at if isinstance(key, str)]
            assert near[-1] in err or near[-2] in err, (at, err)
        else:
            assert code == 0  # nothing is made of it
    assert told > 20


@pytest.mark.parametrize(
    ("file", "at", "value", "words"),
    [
        ("run.json", ("environment",), None, "environment: expected `object`, got `null`"),
        ("run.json", ("task", "metric"), 3, "task.metric: expected `str`, got `int`"),
        ("run.json", ("plan", "candidates"), [], "plan.candidates is empty"),
        ("run.json", ("plan", "candidates", 0, "name"), "x", "plan.candidates[0].name: expected one of adag"),
        ("run.json", ("plan", "steps"), -1, "plan: steps = -1: expected a whole number above 0"),
        ("run.json", ("plan", "seeds"), [2**63], "plan.seeds[0]: expected `int` <= 9223372036854775807"),
        ("run.json", ("partition", "optimizer"), "adam", "partition.optimizer: expected one of muon, sgd"),
        (
            "run.json",
            ("partition", "assignments", 1, "shape"),
            [2.5],
            "assignments[1].shape[0]: expected `int`, got `float`",
        ),
        ("trials.jsonl", ("kind",), "tune\n", "(kind: expected one of final, tune)"),
        ("trials.jsonl", ("curve", "loss", 0), "x", "line 3, is no record of a run (curve.loss[0]: "),
        ("trials.jsonl", ("curve", "loss"), [], "(curve: steps, seconds, loss are not of one length)"),
        ("trials.jsonl", ("lr",), 0, "(lr: expected `float` > 0.0)"),
        ("trials.jsonl", ("seconds",), True, "(seconds: expected `float`, got `bool`)"),
        ("trials.jsonl", ("optimizer",), "adam", "a run that is not in the plan of run.json (adam, tune 1,"),
        ("trials.jsonl", ("lr",), 1e9, "a run that is not in the plan of run.json (sgd, tune 1, lr 1e+09,"),
    ],
)
def test_what_is_damaged_is_told_by_report_and_before_a_run_goes_on(file, at, value, words, copy, capsys):
    folder = copy("run")
    lines = (folder / file).read_text().splitlines() if file == "trials.jsonl" else []
    damaged = json.loads(lines[2] if lines else (folder / file).read_text())
    inner = damaged
    for key in at[:-1]:
        inner = inner[key]
    inner[at[-1]] = value
    left = [*lines[:2], json.dumps(damaged), *lines[3:-1]] if lines else [json.dumps(damaged)]
    (folder / file).write_text("\n".join(left) + "\n")
    (folder / "study.db").unlink()  # a trial that it holds would not be given to it again
    for command in (["report", "run"], [*MADE_BY["run"], "run"]):
        assert run(command) == 2
        err = capsys.readouterr().err.splitlines()[-1]
        assert err.startswith(f"downslope: {folder / file}")
        assert words in err
    assert (folder / file).read_text() == "\n".join(left) + "\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"schema": NaN}', "NaN is no JSON"),
        ('{"schema": 1,\n "identity"', "line 2 column 12"),
        ("[" * 100_000, "maximum recursion depth exceeded"),
        (b"\xff", "can't decode byte 0xff"),
        ('{"schema": ' + "9" * 5000 + "}", "Exceeds the limit"),
        ("[]", "(expected `object`, got `array`)"),
        ('{"schema": 1, "\\udcff": 1}', "surrogates not allowed"),
        ("{}", "object missing required field `schema`"),
        ('{"schema": "1"}', "schema: expected `int`, got `str`"),
    ],
)
def test_what_is_no_json_is_told(text, words, copy, capsys):
    folder = copy("run")
    (folder / "run.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert run(["report", "run"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("downslope: run/run.json is damaged (")
    assert words in err


@pytest.mark.parametrize(
    ("at", "value", "words"),
    [
        (("runs", 0, "curve", "value"), [], "runs[0].curve: evaluations, seconds, value, gradient are not"),
        (("runs", 1, "path", "y"), [], "runs[1].path: x, y, value are not of one length"),
        (("runs", 1, "path"), None, "runs[1].path is null, and there is a picture"),
        (("runs", 0, "seconds"), "1e400", "runs[0].seconds: expected `float` <= 1.79"),
        (("lowest",), 10**400, "lowest: number out of range"),
        (("picture", "frame", 1), [0.0], "picture.frame[1]: expected `array` of length >= 2"),
        (("picture", "field"), [[1.0, 2.0], [1.0]], "picture.field are not rows of one length"),
        (("picture", "field"), [[], []], "picture.field are not rows of one length"),
    ],
)
def test_numbers_and_lists_of_a_race_that_do_not_fit_are_named(at, value, words, copy, capsys):
    file = copy("race") / "race.json"
    whole = json.loads(file.read_text())
    inner = whole
    for key in at[:-1]:
        inner = inner[key]
    inner[at[-1]] = value
    file.write_text(json.dumps(whole).replace('"1e400"', "1e400"))
    assert run(["report", "race"]) == 2
    assert f"race.json is damaged ({words}" in capsys.readouterr().err


def test_a_grid_that_was_not_finished_has_no_page(copy, capsys):
    folder = copy("grid")
    (folder / "result.json").unlink()
    assert run(["report", "grid"]) == 2
    assert "grid holds the beginning of a grid: the same command goes on" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "command", "held"),
    [
        ("run", "solve", "trainings"), ("run", "race", "trainings"), ("grid", "race", "trainings"),
        ("race", "run", "a race"), ("race", "solve", "a race"), ("race", "grid", "a race"),
        ("solve", "run", "a solve"), ("solve", "race", "a solve"), ("solve", "grid", "a solve"),
    ],
)  # fmt: skip
def test_no_command_writes_over_what_another_left(name, command, held, copy, capsys):
    folder = copy(name)
    before = {file.name: file.read_bytes() for file in folder.iterdir() if file.suffix in (".json", ".html")}
    assert run([*MADE_BY[command], name]) == 2
    assert f"{name} holds {held}, which this would write over" in capsys.readouterr().err
    assert {file.name: file.read_bytes() for file in folder.iterdir() if file.name in before} == before
    assert run([*MADE_BY[name], name]) == 0  # its own command goes on, or does it again
