"""What can be typed, what it answers, and the exit code."""

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from downslope.cli import run

TINY = Path(__file__).parents[1] / "compare" / "tiny.py"
REGRESSION = f"{TINY}:regression"
SMALL = ["--optimizers", "sgd,adamw", "--trials", "2", "--seeds", "2", "--jobs", "1", "--threads", "1"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "80"}


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")


def start(*arguments, **options):
    """Start the command in a process of its own."""
    command = [sys.executable, "-m", "downslope.cli", *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=ENVIRONMENT, **{**pipes, **options})


def test_help_is_quick_and_loads_no_framework():
    code = (
        "import sys, time; t = time.process_time(); from downslope.cli import run; run(['--help']);"
        "heavy = {'torch', 'jax', 'keras', 'tensorflow', 'optuna', 'sklearn', 'scipy', 'downslope.compare'};"
        "print(time.process_time() - t, sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    best = math.inf
    for _ in range(5):  # about 0.3 s on an idle machine, which tests share with others
        ran = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env=ENVIRONMENT, check=True
        )
        seconds, loaded = ran.stderr.strip().split(" ", 1)
        assert loaded == "[]"
        best = min(best, float(seconds))
        if best < 1.5:
            break
    assert best < 1.5
    assert "compare" in ran.stdout
    assert "report" in ran.stdout


def test_compare_prints_verdict_table_and_page(capsys):
    assert run(["compare", REGRESSION, *SMALL]) == 0
    out, err = capsys.readouterr()
    assert re.search(r"tied|is best", out)
    for word in ("SGD", "AdamW", "optimizer", "room", "Report: runs/regression-"):
        assert word in out
    assert max(map(len, out.splitlines())) <= 80
    assert "each: 2 tuning trials, then the best on 2 fresh seeds" in err
    assert "[8/8]" in err
    page = Path(out.rpartition("Report: ")[2].strip())
    assert page.read_text().startswith("<!doctype html>") or page.read_text().startswith("<!DOCTYPE html>")


def test_json_is_all_that_is_printed_even_if_the_task_prints(tmp_path, capsys):
    file = tmp_path / "loud.py"
    file.write_text(
        "print('importing')\n" + TINY.read_text().replace("x, y = batch", "print('step'); x, y = batch")
    )
    assert run(["compare", f"{file}:regression", *SMALL, "--json"]) == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert result["command"].endswith("--json")
    assert result["command"].startswith("downslope compare ")
    assert "importing" in err
    assert "step" in err
    folder = next(Path("runs").iterdir())
    assert json.loads((folder / "result.json").read_text()) == result


def test_dry_run_tells_the_cost_and_writes_nothing(capsys):
    assert run(["compare", REGRESSION, *SMALL, "--dry-run"]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert "8 runs of 12 steps" in err
    assert "About" in err
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("no url", "Could not parse"),
        ("sqlite:///nowhere/trials.db", "no file can be made at nowhere/trials.db"),
        ("sqlite:///text.db", "not a database"),
        ("unheard://me:secret@host/trials", r"unheard://me:\*\*\*@host"),
    ],
)
def test_a_dry_run_looks_at_the_storage_and_writes_nothing(url, words, capsys):
    Path("text.db").write_text("this is no database")
    dry = ["compare", REGRESSION, *SMALL, "--dry-run", "--storage"]
    assert run([*dry, url]) == 2
    assert re.search(words, err := capsys.readouterr().err)
    assert "secret" not in err
    assert run([*dry, "sqlite:///new.db"]) == 0
    assert not Path("new.db").exists()


def test_json_of_a_dry_run_is_the_plan(capsys):
    assert run(["compare", REGRESSION, *SMALL, "--dry-run", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["runs"], found["plan"]["steps"]) == (8, 12)
    assert found["seconds"] > 0
    assert run(["compare", REGRESSION, "--sensitivity", "--steps", "12", "--dry-run", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["plan"]["columns"]) == 5
    assert found["runs"] > 0
    assert run(["lr", REGRESSION, "--optimizer", "sgd,adamw", "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["plan"]["optimizers"] == ["sgd", "adamw"]
    assert run(["compare", "rosenbrock", "--sensitivity", "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["plan"]["problem"] == "rosenbrock"
    assert not Path("runs").exists()


def test_a_dry_run_of_a_comparison_that_was_begun_tells_what_is_left(capsys):
    assert run(["compare", REGRESSION, *SMALL, "--out", "run"]) == 0
    lines = Path("run/trials.jsonl").read_text().splitlines(keepends=True)
    for kept, least, most in ((6, 1e-9, 10), (8, 0, 0)):
        Path("run/trials.jsonl").write_text("".join(lines[:kept]))
        capsys.readouterr()
        assert run(["compare", REGRESSION, *SMALL, "--out", "run", "--dry-run", "--json"]) == 0
        out, err = capsys.readouterr()
        assert least <= json.loads(out)["seconds"] <= most
        assert "for what is left" in err


def test_the_table_breaks_no_word_in_60_columns(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    assert run(["compare", REGRESSION, *SMALL]) == 0
    out = capsys.readouterr().out
    assert max(len(line) for line in out.splitlines() if not line.startswith("Report")) <= 60
    rows = [line.split() for line in out.splitlines()]
    assert any("optimizer" in row for row in rows)
    intervals = [word for row in rows if row[1:2] in (["SGD"], ["AdamW"]) for word in row if "[" in word]
    assert len(intervals) == 2
    assert all(word.endswith(",") for word in intervals)


def test_a_warmup_that_is_no_share_is_refused_before_anything_is_said(capsys):
    assert run(["lr", REGRESSION, "--warmup", "2"]) == 2
    assert capsys.readouterr().err == (
        "downslope: --warmup 2: expected a share of the training, at least 0 and below 1\n"
    )


def test_brackets_in_names_are_shown_as_they_are(tmp_path, capsys):
    """They are no markup of the terminal's."""
    file = tmp_path / "brackets.py"
    task = "odd = Task('a [/b]', **parts, steps=12, metric='loss [nats]')\n"
    file.write_text(TINY.read_text() + task)
    arguments = ["--trials", "1", "--seeds", "1", "--optimizers", "sgd", "--jobs", "1", "--threads", "1"]
    assert run(["compare", f"{file}:odd", *arguments]) == 0
    out, err = capsys.readouterr()
    assert "a [/b]: SGD" in err
    assert "final loss [nats]" in out


def test_a_damaged_run_is_one_line(capsys, tmp_path):
    (tmp_path / "run.json").write_text('{"schema": 1, "plan": {}}')
    assert run(["report", str(tmp_path)]) == 2
    assert "run.json is damaged" in capsys.readouterr().err
    (tmp_path / "run.json").unlink()  # the grid of a solve has none
    (tmp_path / "result.json").write_text('{"kind": "sensitivity", "fields": null}')
    assert run(["report", str(tmp_path)]) == 2
    assert "result.json is damaged" in capsys.readouterr().err


def _without(*keys):
    def spoil(run):
        for key in keys[:-1]:
            run = run[key]
        del run[keys[-1]]

    return spoil


def _set(key, value):
    def spoil(run):
        run[key] = value

    return spoil


@pytest.mark.parametrize(
    "spoil",
    [
        _without("identity"), _set("identity", None), _set("identity", 3), _without("plan"),
        _without("plan", "seeds"), _set("task", []), _without("environment", "device"),
        _without("created"), _set("plan", {"steps": "many"}),
    ],
)  # fmt: skip
def test_a_damaged_run_is_told_before_anything_is_run(spoil, capsys):
    command = ["compare", REGRESSION, *SMALL, "--out", "run"]
    assert run(command) == 0
    file, trials = Path("run/run.json"), Path("run/trials.jsonl")
    damaged = json.loads(file.read_text())
    spoil(damaged)
    file.write_text(json.dumps(damaged))
    lines = trials.read_text().splitlines(keepends=True)
    trials.write_text("".join(lines[:-1]))
    for words in (command, [*command, "--sensitivity"][:-1], ["report", "run"]):
        capsys.readouterr()
        assert run(words) == 2
        assert "run.json is damaged" in capsys.readouterr().err
    assert trials.read_text() == "".join(lines[:-1])


def test_report_makes_the_page_again_of_one_run_or_several(capsys):
    for name in ("a", "b"):
        assert run(["compare", REGRESSION, *SMALL, "--out", name]) == 0
    Path("a/report.html").unlink()
    Path("a/result.json").unlink()
    capsys.readouterr()
    assert run(["report", "a"]) == 0
    assert Path("a/report.html").stat().st_size > 10_000
    assert run(["report", "a", "b", "--out", "both.html", "--json"]) == 0
    assert Path("both.html").exists()
    assert json.loads(capsys.readouterr().out.partition("\n")[2])["report"] == "both.html"
    assert run(["report", "a", "b"]) == 2
    assert "--out" in capsys.readouterr().err


def test_all_diverged_is_a_finding(capsys):
    assert run(["compare", f"{TINY}:never", *SMALL]) == 1
    assert "Every run diverged" in capsys.readouterr().out.replace("\n", " ")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("compare digitz", "unknown task 'digitz'.*digits, text.*did you mean 'digits'"),
        ("compare nosuch.py:task", "no task file 'nosuch.py'"),
        (f"compare {TINY}:regresion", "has no 'regresion'.*did you mean 'regression'"),
        (f"compare {TINY}:not_a_task", "not_a_task is of type int: expected a downslope.tasks.Task"),
        (f"compare {TINY}", r"holds \d+ tasks .*name one"),
        (f"compare {TINY}:nan_loss", "is nan in the first step, before any optimizer"),
        (f"compare {TINY}:raises", "raised TypeError"),
        ("compare digits --optimizers sgd,adamv", "unknown optimizer 'adamv'.*did you mean 'adam"),
        ("compare digits --trails 3", "no such option: --trails; did you mean '--trials'"),
        ("compare digits --trials x", "invalid value for '--trials'"),
        ("compare digits --trials -1", "trials = -1: expected a whole number above 0"),
        ("compare digits --seeds 0", "seeds = 0"),
        ("compare digits --steps -5", "steps = -5"),
        ("compare digits --warmup 999", "warmup = 999"),
        ("compare digits --seed -1", "seed = -1"),
        ("compare digits --across decay", "--across says what the columns of a grid are: give --sens"),
        ("compare digits --schedule step", "unknown schedule 'step': expected linear or cosine"),
        ("compare digits --jobs 999", "jobs = 999: this machine has"),
        ("compare digits --goal nan", "goal = nan"),
        ("compare digits --lr adamw", "--lr adamw: expected optimizer=low:high"),
        ("compare digits --lr adamw=-1:1", "-1 to 1: expected 0 < low < high"),
        ("compare digits --lr lion=1e-3:1", "'lion', which does not take part"),
        ("compare digits --storage nosuch://x", "storage 'nosuch://x' cannot be opened"),
        ("compare", "missing argument 'TASK'"),
        ("compare digits extra", "unexpected extra argument"),
        (f"compare digits --seed {2**64}", "seed = 18446744073709551616: expected a whole number from 0 to"),
        ("compare rosenbrok --sensitivity", "'rosenbrok': expected a task .* or a problem.*'rosenbrock'"),
        (f"lr {REGRESSION} --seed {2**64}", "--seed 18446744073709551616: expected a whole number from 0"),
        ("minimize large:quartic --n 1000000000000", "the memory does not suffice: .* shape .1000000000000,"),
        ("minimize large:quartic --n 99999999999999", "does not come with 99999999999999 unknowns: expected"),
        ("minimize rosenbrock --gradient -1", "--gradient -1: expected a finite number of at least 0"),
        ("minimize rosenbrock --target nan", "--target nan: expected a number"),
        ("check digits.py:", "'digits.py:': expected path.py:name, the name of a function"),
        ("groups digits --save /", "the partition cannot be written to /, a folder: give a file"),
        ("minimize rosenbrock --out=", "--out=: nothing is given; is a variable of the shell empty"),
        ("comprae digits", "no such command 'comprae'.*compare"),
        ("report nosuch", "has no run.json"),
        ("report", "missing argument 'RUN"),
        ("--nosuch", "no such option: --nosuch"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, words, capsys, tmp_path):
    assert run(arguments.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    complaint = [line for line in err.splitlines() if line.startswith("downslope: ")]
    assert len(complaint) == 1
    assert err.endswith(complaint[0] + "\n")
    assert re.search(words, complaint[0])
    assert "Traceback" not in err
    assert list(tmp_path.rglob("trials.jsonl")) == []


@pytest.mark.parametrize(
    "words", [["report"], ["compare"], ["compare", "digits", "--out"], ["lr", "x", "--seeds"]]
)
def test_an_empty_word_is_refused(words, capsys):
    """As of a variable of the shell that is not set: an empty path would be the folder one is in."""
    assert run([*words, ""]) == 2
    assert capsys.readouterr() == (
        "",
        f"downslope: {words[-1]} '': nothing is given; is a variable of the shell empty?\n",
    )


OWN = """
import numpy as np
import torch

x0 = np.array([3.0, 0.5])
model, batch = torch.nn.Linear(3, 1), torch.zeros(5, 3)


def bowl(x):
    return ((x - 1) ** 2).sum()


def both(x):
    return bowl(x), 2 * (x - 1)


pair = (bowl, x0, lambda x: 2 * (x - 1))
"""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("minimize rosenbrock --workers 1", "--workers is for --program, and rosenbrock is a problem"),
        ("minimize rosenbrock --timeout 3", "--timeout is for --program, and rosenbrock is a problem"),
        ("minimize rosenbrock --framework jax", "--framework is for path.py:f, and rosenbrock is a problem"),
        ("minimize own.py:bowl --framework numpy", "--framework numpy says what --x0 is made of: give --x0"),
        ("minimize own.py:bowl --n 2", "--n is for a problem whose size is free, and own.py:bowl is a func"),
        ("minimize own.py:bowl --workers 2", "--workers is for --program, and own.py:bowl is a function"),
        ("minimize own.py:bowl --no-gradient", "--no-gradient: own.py holds no gradient of bowl"),
        ("minimize own.py:both --no-gradient", "both returns its gradient with its value"),
        ("minimize none.so:f --x0 1 --timeout 1", "--timeout is for --program, and none.so:f is in a lib"),
        ("minimize --program cat --x0 1 --n 1", "--n is for a problem whose size is free, and a program"),
        ("minimize rosenbrock --method cg,bfgs", "--method cg,bfgs: expected one method; --race cg,bfgs"),
        ("minimize rosenbrock --option memory=3 --option memory=4", "memory=4: memory stands twice"),
        ("check own.py:pair --x shape:2", "--x shape:2 is for a function, and own.py:pair is a tuple"),
        ("check own.py:model --gradient both", "--gradient both is for a function, and .* is a model"),
        (f"check {REGRESSION} --x shape:2", "--x shape:2 is for a function, and .*:regression is a task"),
        ("check digits --gradient true", "--gradient true is for a function, and digits is a task"),
        ("groups digits --every --json", "--every is of the table, which --json does not print"),
        ("groups digits --every --diff old.json", "--every is of the table, which --diff does not print"),
        ("groups digits --lint --diff old.json", "--lint beside --diff"),
        (
            f"profile {REGRESSION} --optimizer sgd --what-if steps",
            "'steps' changes nothing in this step of S",
        ),
        (f"profile {REGRESSION} --what-if replicas", "it is for Muon in several processes"),
        (f"lr {REGRESSION} --widths ,", "--widths ,: expected whole numbers"),
        (f"compare {REGRESSION} --sensitivity --across decay --seeds 3", "--seeds has no meaning with --ac"),
        (f"compare {REGRESSION} --lr sgd=1e-3:1 --lr sgd=1e-2:1", "sgd has a range already"),
    ],
)
def test_an_option_without_effect_is_refused(arguments, words, capsys):
    Path("own.py").write_text(OWN)
    assert run(arguments.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(f"downslope: .*{words}.*\n", err)
    assert not Path("runs").exists()


def test_out_that_is_a_file_is_named(tmp_path, capsys):
    Path("file").write_text("")
    for out, option in (("file", "--json"), ("file/run", "--dry-run"), ("file", "--sensitivity")):
        assert run(["compare", REGRESSION, "--out", out, option]) == 2
        assert "cannot be a run folder" in capsys.readouterr().err


def test_defects_of_the_program_keep_their_traceback(monkeypatch):
    def broken(*_, **__):
        raise ValueError("a defect")

    monkeypatch.setattr("downslope.compare.command.run_compare", broken)
    with pytest.raises(ValueError, match="a defect"):
        run(["compare", "digits"])


def records(folder: Path) -> list[dict]:
    """Return the whole lines of the records."""
    file = folder / "trials.jsonl"
    return [json.loads(line) for line in file.read_bytes().split(b"\n")[:-1]] if file.exists() else []


def wait_for(count: int, folder: Path, process: subprocess.Popen) -> None:
    """Wait until so many runs have ended."""
    deadline = time.monotonic() + 60
    while len(records(folder)) < count:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def outcome(folder: Path) -> list[tuple]:
    """Return what was found, without times and in a fixed order."""
    return sorted(
        (r["kind"], r["optimizer"], r["index"], r["lr"], r["final"], str(r["curve"]["loss"]))
        for r in records(folder)
    )


def test_killed_and_resumed_equals_undisturbed(capsys):
    command = ["compare", f"{TINY}:slow", *SMALL, "--jobs", "2"]
    killed = start(*command, "--out", "killed")
    wait_for(3, Path("killed"), killed)
    killed.kill()
    killed.communicate()
    kept = outcome(Path("killed"))
    assert 3 <= len(kept) < 8
    # The workers of a killed process notice, even in the middle of a run, and record nothing more.
    time.sleep(1.0)
    assert outcome(Path("killed")) == kept
    assert not workers_in(Path("killed"))
    assert run([*command, "--out", "killed"]) == 0
    assert f"Resuming: {len(kept)} of 8 runs are done" in capsys.readouterr().err
    assert run([*command, "--jobs", "1", "--out", "undisturbed"]) == 0
    assert outcome(Path("killed")) == outcome(Path("undisturbed"))
    assert json.loads(Path("killed/result.json").read_text())["verdict"]["complete"]


def workers_in(folder: Path) -> list[str]:
    """Return the processes that still write to a worker's log in a folder (where /proc tells)."""
    log = str((folder / "worker-1.log").resolve())
    found = []
    for link in Path("/proc").glob("[0-9]*/fd/2"):
        try:
            if os.readlink(link) == log:
                found.append(str(link))
        except OSError:
            continue
    return found


def test_ctrl_c_keeps_what_is_done_and_says_how_to_go_on(capsys):
    command = ["compare", f"{TINY}:slow", *SMALL, "--jobs", "2", "--out", "run"]
    process = start(*command, start_new_session=True)
    wait_for(2, Path("run"), process)
    os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to the workers too
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert "the same command goes on from here" in err
    kept = len(records(Path("run")))
    assert 2 <= kept < 8
    assert f"Not finished ({kept} of 8 runs)" in out.replace("\n", " ")
    assert Path("run/report.html").exists()
    assert not workers_in(Path("run"))
    assert run(command) == 0
    assert "Not finished" not in capsys.readouterr().out
    assert len(records(Path("run"))) == 8


def test_a_task_named_twice_runs_once_at_a_time():
    command = ["compare", f"{TINY}:slow", *SMALL, "--out", "run"]
    first = start(*command)
    wait_for(1, Path("run"), first)
    try:
        assert run(command) == 2
    finally:
        first.kill()
        first.communicate()


def test_ctrl_c_within_a_command_is_one_line_and_130(monkeypatch, capsys):
    def pressed(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("downslope.compare.command.run_compare", pressed)
    assert run(["compare", "digits"]) == 130
    assert capsys.readouterr().err == "Interrupted.\n"


def test_ctrl_c_while_what_was_typed_is_read_is_one_line_and_130(monkeypatch, capsys):
    """Typer reads it, and imports what it needs for that."""

    def pressed(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("typer.core.TyperGroup.make_context", pressed)
    assert run(["compare", "digits"]) == 130
    assert capsys.readouterr().err == "Interrupted.\n"


def test_ctrl_c_while_python_imports_is_one_line_and_130(tmp_path):
    """The modules stand for any that is being imported when the keys are pressed."""
    for name in ("typer", "numpy"):
        folder = tmp_path / f"slow_{name}"
        folder.mkdir()
        (folder / f"{name}.py").write_text("raise KeyboardInterrupt")
        ran = subprocess.run(
            [sys.executable, "-m", "downslope", "minimize", "rosenbrock"],
            env={**ENVIRONMENT, "PYTHONPATH": os.pathsep.join([str(folder), *filter(None, sys.path)])},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (ran.returncode, ran.stderr) == (130, "Interrupted.\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a disk without room")
def test_output_that_cannot_be_written_is_one_line():
    for words in (["--json"], []):
        with open("/dev/full", "w") as full:
            process = start("minimize", "rosenbrock", *words, stdout=full)
            _, err = process.communicate(timeout=60)
        assert process.returncode == 2
        assert err == "downslope: the output cannot be written: No space left on device\n"


def test_closed_and_broken_outputs_are_no_defects():
    command = ["sh", "-c", 'exec "$@" >&-', "sh", sys.executable, "-m", "downslope", "minimize", "rosenbrock"]
    ran = subprocess.run([*command, "--json"], stderr=subprocess.PIPE, env=ENVIRONMENT, check=False)
    assert (ran.stderr, ran.returncode) == (b"", 0)
    with start("minimize", "rosenbrock", "--json") as process:
        process.stdout.close()  # as of `| head`, which has seen enough
        assert (process.stderr.read(), process.wait(60)) == ("", 1)


def test_names_that_are_no_utf_8():
    try:
        folder = Path(os.fsdecode(b"\xff\xfe"))
        folder.mkdir()
    except (OSError, UnicodeError):
        pytest.skip("this file system has no such names")
    (folder / "tiny.py").write_text(TINY.read_text())
    for words in (
        ("compare", f"{folder}/tiny.py:regression", *SMALL, "--out", folder / "run"),
        ("report", folder / "run"),
        ("minimize", "rosenbrock", "--race", "cg", "--out", folder / "race"),
    ):
        process = start(*words)
        err = process.communicate(timeout=60)[1]
        assert process.returncode == 0, err
    assert "??" in (folder / "run/report.html").read_text()


def test_what_took_long_is_shown_where_its_page_cannot_be_written(monkeypatch, capsys):
    def full(path, text):
        raise OSError(28, "No space left on device")

    grid = ["--sensitivity", "--optimizers", "l-bfgs", "--seeds", "1"]
    monkeypatch.setattr("downslope.compare.folder.write_text", full)
    for words, said in (
        (["lr", REGRESSION, "--optimizer", "sgd", "--steps", "8"], "search took"),
        (["profile", REGRESSION, "--seconds", "0.1", "--what-if", "none"], "peak"),
        (["compare", "rosenbrock", *grid], "l-bfgs takes"),
    ):
        assert run(words) == 2
        out, err = capsys.readouterr()
        assert said in out
        assert "cannot be written: No space left on device" in err
        assert "Report:" not in out


def test_names_of_tasks_are_no_paths(tmp_path, capsys):
    text = TINY.read_text() + "\nregression = replace(regression, name='../a/b' + 'c' * 300)\n"
    (tmp_path / "named.py").write_text("from dataclasses import replace\n" + text)
    for words in (
        ["lr", "named.py:regression", "--optimizer", "sgd", "--steps", "8"],
        ["profile", "named.py:regression", "--seconds", "0.1", "--what-if", "none"],
    ):
        assert run(words) in (0, 1)
    capsys.readouterr()
    kept = "..-a-b" + "c" * 54
    assert sorted(p.name for p in tmp_path.rglob("*.html")) == [
        f"lr-{kept}.html",
        f"profile-{kept}-muon.html",
    ]


def test_without_words_the_help_is_all_that_is_shown(capsys):
    assert run([]) == 2
    out, err = capsys.readouterr()
    assert "compare" in out
    assert err == ""


def test_a_page_may_go_to_a_folder_that_is_not_there_yet(capsys):
    assert run(["compare", REGRESSION, *SMALL, "--out", "run"]) == 0
    assert run(["report", "run", "--out", "new/page.html"]) == 0
    assert Path("new/page.html").exists()
    capsys.readouterr()
