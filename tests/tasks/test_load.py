"""From what is typed to a task, and what is said where that fails."""

import sys

import pytest

from downslope.errors import UsageError
from downslope.tasks import KNOWN, Task, load

HEAD = """
from downslope.tasks import Task
def build(seed): return None
def batches(seed): return iter(())
def loss(model, batch): return 0.0
def evaluate(model): return 0.0
parts = {"build": build, "batches": batches, "loss": loss, "evaluate": evaluate}
"""


@pytest.fixture
def write(tmp_path):
    def write(text, name="mine.py"):
        file = tmp_path / name
        file.write_text(HEAD + text)
        return file

    return write


def test_a_file_with_one_task_needs_no_name(write):
    file = write("mine = Task('mine', **parts, steps=7)\n")
    for spec in (str(file), f"{file}:mine"):
        assert (load(spec).name, load(spec).steps) == ("mine", 7)


def test_a_function_may_make_the_task(write):
    assert load(f"{write('def make(): return Task(chr(109), **parts)')}:make").name == "m"


def test_a_file_may_import_what_lies_beside_it(write):
    write("value = 5\n", "beside_a_task.py")
    assert (
        load(
            str(write("import beside_a_task\nmine = Task('mine', **parts, steps=beside_a_task.value)"))
        ).steps
        == 5
    )


def test_a_file_that_reads_its_arguments_sees_none(write, monkeypatch):
    command = ["downslope", "compare", "mine.py", "--steps", "9"]
    monkeypatch.setattr(sys, "argv", command)
    reads = "import argparse\np = argparse.ArgumentParser()\np.add_argument('--steps', type=int, default=7)\n"
    task = load(str(write(f"{reads}mine = Task('mine', **parts, steps=p.parse_args().steps)")))
    assert task.steps == 7  # a worker, on whose command line no such option stands, reads the same
    assert sys.argv is command


def test_an_edit_changes_the_fingerprint_and_nothing_else_does(write):
    one = load(str(write("mine = Task('mine', **parts)"))).fingerprint
    assert load(str(write("mine = Task('mine', **parts)"))).fingerprint == one
    assert load(str(write("mine = Task('mine', **parts)  # edited"))).fingerprint != one


@pytest.mark.parametrize(
    ("text", "name", "words"),
    [
        (
            "import nosuchmodule",
            "",
            r"does not import: ModuleNotFoundError: No module named 'nosuchmodule' \(mine.py, line 8",
        ),
        ("1 / 0", "", r"does not import: ZeroDivisionError: division by zero \(mine.py, line 8\)"),
        ("def (:", "", r"does not import: SyntaxError.*line 8"),
        ("raise SystemExit(3)", "", "does not import: SystemExit: 3.*it is run without arguments"),
        ("from .beside import net", "", "does not import: ImportError.*import by whole names"),
        ("Task('mine')", "", "task 'mine' lacks build: give build"),
        ("Task('mine', build, batches, loss)", "", r"task 'mine' lacks evaluate: give evaluate\(model\)"),
        ("Task('mine', **{**parts, 'loss': 3})", "", "loss = 3 in task 'mine': expected a function"),
        ("Task('mine', **parts, steps=0)", "", "steps = 0 in task 'mine'"),
        ("Task('mine', **parts, steps=True)", "", "steps = True in task 'mine'"),
        ("Task('mine', **parts, goal=float('nan'))", "", "goal = nan in task 'mine'"),
        ("Task('mine', **parts, framework='mxnet')", "", "framework = 'mxnet'"),
        ("Task('', **parts)", "", "a task needs a name"),
        ("", "", r"holds 0 tasks \(none\)"),
        ("a = Task('a', **parts); b = Task('b', **parts)", "", r"holds 2 tasks \(a, b\): name one"),
        ("alpha = Task('a', **parts)", ":alpa", "has no 'alpa'; tasks in it: alpha; did you mean 'alpha'"),
        ("a = 3", ":a", "a is of type int: expected a downslope.tasks.Task"),
        ("def a(): return 3", ":a", "a is of type int"),
        ("def a(): raise KeyError('x')", ":a", "KeyError: 'x'"),
    ],
)
def test_a_bad_file_is_told_in_one_line(write, text, name, words):
    with pytest.raises(UsageError, match=words) as caught:
        load(f"{write(text)}{name}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("spec", ["digitz", "text.txt", "", "folder/digits"])
def test_an_unknown_task_lists_the_known(spec):
    with pytest.raises(UsageError, match=f"unknown task.*{', '.join(KNOWN)}"):
        load(spec)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UsageError, match="no task file"):
        load(f"{tmp_path}/nosuch.py:task")


def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(UsageError, match=r"task 'digits' needs sklearn.*pip install 'downslope\[compare\]'"):
        load("digits")


def test_inputs_of_a_batch():
    parts = dict.fromkeys(("build", "batches", "loss", "evaluate"), len)
    assert Task("t", **parts).inputs((1, 2)) == (1,)
    assert Task("t", **parts).inputs({"x": 1}) == ({"x": 1},)
    assert Task("t", **parts, example=lambda batch: (batch["x"], 2)).inputs({"x": 1}) == (1, 2)
