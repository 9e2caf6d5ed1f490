"""`downslope check`, pytest's fixture, and the page."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from downslope.cli import run

BOWL = """
import numpy as np

x0 = np.linspace(-1, 1, 12).reshape(3, 4)

def f(x):
    return np.sum(np.sin(x) ** 2)

def f_gradient(x):
    g = np.sin(2 * x)
    g[1, 2] *= -1
    return g

def good(x):
    print("called")
    return np.sum(np.exp(x))

def good_gradient(x):
    return np.exp(x)

def kink(x):
    return np.sum(np.abs(x - x0[0, 0]))

def kink_gradient(x):
    return np.sign(x - x0[0, 0])

def both(a, b):
    return float(a @ b), (b, a)

a, b = np.ones(3), np.arange(1.0, 4)
pair = (good, x0, good_gradient)
number = 3

def lonely(z):
    return z

def broken_gradient(x):
    return x / (1 // 0)

def ungraded(x):
    return np.sum(x)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    (tmp_path / "bowl.py").write_text(BOWL)
    return tmp_path


def test_a_wrong_gradient_is_a_finding(folder: Path, capsys: Any) -> None:
    assert run(["check", "bowl.py:f"]) == 1
    out = capsys.readouterr().out
    assert out.startswith("FAIL  The gradient of f is wrong: 1 of 12 entries is off.")
    assert "x[1, 2]" in out
    assert "opposite sign" in out
    assert max(map(len, out.splitlines())) <= 80


def test_a_right_gradient_passes_and_prints_go_to_the_other_stream(folder: Path, capsys: Any) -> None:
    assert run(["check", "bowl.py:good", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["verdict"] == "pass"
    assert "called" in err


def test_a_kink_is_inconclusive_and_exits_with_1(folder: Path, capsys: Any) -> None:
    assert run(["check", "bowl.py:kink"]) == 1
    assert "INCONCLUSIVE" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        ["bowl.py:both", "--gradient", "true"],
        ["bowl.py:pair"],
        ["bowl.py:good", "--x", "shape:2x5"],
        ["bowl.py:good", "--x", "[0.1, 0.2]"],
        ["bowl.py:good", "--gradient", "good_gradient"],
    ],
)
def test_where_point_and_gradient_come_from(folder: Path, arguments: list[str], capsys: Any) -> None:
    assert run(["check", *arguments]) == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nosuch.py:f"], "no file 'nosuch.py'"),
        (["bowl"], "expected path.py:name"),
        (["bowl.py:godo"], "did you mean 'good'"),
        (["bowl.py:number"], "is an int"),
        (["bowl.py:lonely", "--x", "[1]"], "no gradient of bowl.py:lonely"),
        (["bowl.py:good", "--x", "shape:two"], "expected shape:3x4"),
        (["bowl.py:good", "--x", "shape:-3"], "--x shape:-3: expected lengths of at least 1"),
        (["bowl.py:good", "--x", "{"], "expected shape:3x4, a .npy file"),
        (["bowl.py:good", "--x", "no.npy"], "No such file"),
        (["bowl.py:f", "--gradient", "nope"], "no 'nope' in the file"),
        (["bowl.py:f", "--directions", "0"], "directions = 0"),
        (
            ["bowl.py:f", "--gradient", "broken_gradient"],
            "the gradient raised ZeroDivisionError: integer division or modulo by zero (bowl.py, line 38)",
        ),
    ],
)
def test_bad_input(folder: Path, arguments: list[str], words: str, capsys: Any) -> None:
    assert run(["check", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err
    assert len(err.strip().splitlines()) == 1


def test_no_point_says_how_to_give_one(folder: Path, capsys: Any) -> None:
    (folder / "bare.py").write_text("def f(z):\n    return z\n")
    assert run(["check", "bare.py:f"]) == 2
    assert "put x0 = … into the file (or variables called z)" in capsys.readouterr().err


def test_the_page_stands_alone(folder: Path, capsys: Any) -> None:
    assert run(["check", "bowl.py:f", "--report", "page.html"]) == 1
    page = (folder / "page.html").read_text()
    assert "Taylor slopes" in page
    assert "x[1, 2]" in page
    assert "downslope check bowl.py:f --report page.html" in page
    assert len(page) < 500_000


def test_the_page_gets_its_folder_and_the_verdict_comes_before_it(folder: Path, capsys: Any) -> None:
    assert run(["check", "bowl.py:f", "--report", "new/deep/page.html"]) == 1
    assert (folder / "new" / "deep" / "page.html").is_file()
    for page, words in (("bowl.py/page.html", "cannot be written"), (".", ". is a folder: give a file")):
        capsys.readouterr()
        assert run(["check", "bowl.py:f", "--report", page]) == 2
        out, err = capsys.readouterr()
        assert out.startswith("FAIL")
        assert words in err
        assert len(err.strip().splitlines()) == 1


def test_the_fixture_fails_a_test_with_the_report(folder: Path) -> None:
    (folder / "test_mine.py").write_text(
        "import numpy as np\n"
        "def test_right(check_gradient):\n"
        "    report = check_gradient(lambda x: np.sum(x**2), np.ones(3), gradient=lambda x: 2 * x)\n"
        "    assert report.passed\n"
        "def test_wrong(check_gradient):\n"
        "    check_gradient(lambda x: np.sum(x**2), np.ones(3), gradient=lambda x: x)\n"
        "def test_kink(check_gradient):\n"
        "    check_gradient(lambda x: np.sum(abs(x)), np.zeros(3), gradient=np.sign)\n"
        "def test_kink_let_pass(check_gradient):\n"
        "    x, options = np.zeros(3), {'allow_inconclusive': True}\n"
        "    check_gradient(lambda x: np.sum(abs(x)), x, gradient=np.sign, **options)\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "test_mine.py"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
    assert "2 passed" in done.stdout, done.stdout + done.stderr
    assert "2 failed" in done.stdout
    assert "a factor 2 is missing" in done.stdout


def test_the_fixture_is_there_wherever_downslope_is_installed() -> None:
    from importlib.metadata import entry_points

    assert [e.value for e in entry_points(group="pytest11") if e.name == "downslope"] == [
        "downslope.pytest_plugin"
    ]


def test_a_terminal_of_few_characters_shows_the_numbers(folder: Path) -> None:
    command = [sys.executable, "-m", "downslope", "check", "bowl.py:f"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, capture_output=True, cwd=folder, env=environment, check=False)
    assert done.returncode == 1
    assert done.stderr == b""
    assert b"x[1, 2]  -0.180818  0.180818" in done.stdout


def test_a_long_name_stays_beneath_the_head_of_its_column(folder: Path, capsys: Any) -> None:
    name = "a_parameter_with_a_long_name_" * 3
    (folder / "named.py").write_text(
        f"import numpy as np\nname = {name!r}\nx0 = {{name: np.ones(2)}}\n\n\n"
        "def f(x):\n    return x[name] @ x[name]\n\n\ndef f_gradient(x):\n    return {name: 3 * x[name]}\n"
    )
    assert run(["check", "named.py:f"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert all(line.startswith("  ") and len(line) <= 80 for line in lines[1:])
