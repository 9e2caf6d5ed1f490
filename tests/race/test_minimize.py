"""`downslope minimize`: what can be typed, what it answers, the exit code, and the page of a race."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from downslope.cli import run

ANSWERS = Path(__file__).parents[1] / "foreign" / "answers.py"
OWN = """
import numpy as np

x0 = np.array([3.0, 0.5])


def bowl(x):
    "A bowl."
    return (x[0] - 1) ** 2 + 2 * (x[1] + 2) ** 2


def both(x):
    return bowl(x), np.array([2 * (x[0] - 1), 4 * (x[1] + 2)])


def slope(x):
    return float(((x - 1) ** 2).sum())


def slope_gradient(x):
    return 2 * (x - 1)


def down(x):
    return -x.sum()


def loud(x):
    print("called")
    return bowl(x)


def fails(x):
    raise RuntimeError("no mesh")
"""


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    (tmp_path / "own.py").write_text(OWN)


def answer(capsys: Any, *words: str, code: int = 0) -> dict[str, Any]:
    assert run(["minimize", *words, "--json"]) == code
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_one_method_on_a_problem(capsys: Any) -> None:
    assert run(["minimize", "rosenbrock"]) == 0
    out = capsys.readouterr().out
    assert "Converged" in out
    assert max(map(len, out.splitlines())) <= 80
    found = answer(capsys, "rosenbrock", "--method", "bfgs", "--x0", "2,2")["runs"][0]
    assert found["method"] == "bfgs"
    np.testing.assert_allclose(found["x"], 1, atol=1e-3)
    assert not Path("runs").exists()


def test_the_function_may_be_in_a_file(capsys: Any) -> None:
    for name in ("bowl", "both"):
        found = answer(capsys, f"own.py:{name}")
        np.testing.assert_allclose(found["runs"][0]["x"], [1, -2], atol=1e-5)
        assert ("differences" in found["problem"]["gradient"]) == (name == "bowl")
    torch = answer(capsys, "own.py:bowl", "--framework", "torch", "--x0", "0,0")
    assert "PyTorch" in torch["problem"]["gradient"]


def test_a_start_in_a_file_may_be_a_list(capsys: Any, tmp_path: Path) -> None:
    text = "def f(x):\n    return ((x - 1) ** 2).sum()\n\n\nx0 = "
    (tmp_path / "listed.py").write_text(text + "[3, 0.5]\n")
    found = answer(capsys, "listed.py:f")
    np.testing.assert_allclose(found["runs"][0]["x"], 1, atol=1e-5)
    (tmp_path / "listed.py").write_text(text + "['3']\n")
    assert run(["minimize", "listed.py:f"]) == 2
    assert "x0[0] is a str" in capsys.readouterr().err


def test_the_function_may_be_a_program(capsys: Any) -> None:
    program = f"{sys.executable} -S {ANSWERS} well"
    found = answer(capsys, "--program", program, "--x0", "5*3", "--workers", "2")
    np.testing.assert_allclose(found["runs"][0]["x"], [0, 1, 2], atol=1e-5)
    assert found["problem"]["name"] == "answers.py"
    without = answer(capsys, "--program", f"{sys.executable} -S {ANSWERS} value", "--x0", "5*3")
    np.testing.assert_allclose(without["runs"][0]["x"], [0, 1, 2], atol=1e-5)
    assert "differences" in without["problem"]["gradient"]


def test_bounds_and_budgets(capsys: Any) -> None:
    found = answer(capsys, "own.py:bowl", "--bounds", "1.5:,:")["runs"][0]
    np.testing.assert_allclose(found["x"], [1.5, -2], atol=1e-5)
    short = answer(capsys, "rosenbrock", "--evaluations", "5", code=1)["runs"][0]
    assert (short["status"], short["evaluations"]) == ("evaluations", 5)
    assert answer(capsys, "rosenbrock", "--target", "1", code=1)["runs"][0]["status"] == "target"
    assert answer(capsys, "own.py:down", code=1)["runs"][0]["status"] == "unbounded"


def test_a_race_has_a_table_and_a_page(capsys: Any) -> None:
    assert run(["minimize", "himmelblau", "--race", "gd,cg,l-bfgs,newton"]) == 0
    out, err = capsys.readouterr()
    assert max(map(len, out.splitlines())) <= 80
    assert re.search(r"is first: \d+ evaluations", " ".join(out.split()))
    assert [m for m in ("gd", "cg", "l-bfgs", "newton") if f"{m} …" not in err] == []
    page = Path("runs/race-himmelblau/report.html")
    assert f"Report: {page}" in out
    found = json.loads(page.with_name("race.json").read_text())
    counts = [r["evaluations"] for r in found["runs"] if r["success"]]
    assert counts == sorted(counts)
    for r in found["runs"]:
        assert r["curve"]["evaluations"][-1] <= r["evaluations"]
        assert len(r["path"]["x"]) == len(r["curve"]["value"])
    before = page.read_text()
    page.unlink()
    assert run(["report", str(page.parent)]) == 0
    assert page.read_text() == before


def test_a_race_tells_who_found_a_higher_minimum(capsys: Any) -> None:
    found = answer(capsys, "own.py:bowl", "--race", "l-bfgs,cg", "--out", "here")
    assert Path("here/report.html").exists()
    assert found["notes"] == []
    (Path("double.py")).write_text(
        "import numpy as np\nx0 = np.array([0.4])\n"
        "def f(x):\n    return float((x[0] ** 2 - 1) ** 2 + 0.2 * x[0])\n"
    )
    higher = answer(capsys, "double.py:f", "--method", "l-bfgs")["runs"][0]["value"]
    assert higher > 0.1


def test_methods_for_sums_of_squares_run_beside_the_others(capsys: Any) -> None:
    found = answer(capsys, "nist:misra1a", "--race", "levenberg-marquardt,bfgs", "--out", "here")
    first = found["runs"][0]
    assert first["method"] == "levenberg-marquardt"
    # Σ r², as NIST certifies it, not the half of it that least squares speak of.
    assert first["value"] == pytest.approx(0.12455138894, rel=1e-8)
    assert first["curve"]["value"][-1] == pytest.approx(first["value"], rel=1e-8)


def test_methods_for_sums_of_squares_take_targets_and_options_as_the_others_do(capsys: Any) -> None:
    command = ["nist:misra1a", "--method", "levenberg-marquardt"]
    short = answer(capsys, *command, "--target", "10", code=1)["runs"][0]
    assert short["status"] == "target"
    assert short["value"] <= 10  # of Σ r²: the first at or below 20 is 11.5
    steps = [
        answer(capsys, *command, "--option", f"first={first}")["runs"][0]["steps"] for first in (1, 1e-4)
    ]
    assert steps[0] < steps[1]  # of a radius that begins small


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["rosenbrok"], "did you mean 'rosenbrock'"),
        ([], "give a problem, a file or a library, or --program"),
        (["rosenbrock", "--program", "cat"], "one of them"),
        (["none.py:f"], "no file 'none.py'"),
        (["own.py"], "holds 7 functions (bowl, both, slope, slope_gradient, down, loud, fails): name one"),
        (["own.py:bowel"], "did you mean 'bowl'"),
        (["own.py:fails"], "no mesh"),
        (["./none.so:f", "--x0", "1"], "no library 'none.so'"),
        (["./none.so", "--x0", "1"], "name the function in the library"),
        (["--program", "no-such-program-here", "--x0", "1"], "no program 'no-such-program-here'"),
        (["--program", "cat"], "cat has no start: give --x0"),
        (["--program", "cat", "--x0", "1"], "this has no value"),
        (["rosenbrock", "--x0", "1,2,3"], "--x0 has 3 numbers: problem 'rosenbrock' has 2 unknowns"),
        (["rosenbrock", "--x0", "1,b"], "'b' is no number"),
        (["rosenbrock", "--x0", "1,nan"], "expected finite numbers"),
        (["rosenbrock", "--n", "3"], "has 2 unknowns, not 3"),
        (["rosenbrock", "--method", "lbgfs"], "did you mean 'l-bfgs'"),
        (["rosenbrock", "--race", "l-bfgs,nope"], "method = 'nope'"),
        (["rosenbrock", "--method", "gauss-newton"], "gauss-newton is for sums of squares"),
        (["rosenbrock", "--race", "cg,gd", "--method", "bfgs"], "--method bfgs beside --race"),
        (["rosenbrock", "--no-gradient"], "--no-gradient is for path.py:f and libraries"),
        (["rosenbrock", "--race", ","], "names no method"),
        (["rosenbrock", "--race", "cg,gd,cg"], "method 'cg' stands twice in --race"),
        (["rosenbrock", "--bounds", "a:1,0:1"], "--bounds 'a': 'a' is no number"),
        (["rosenbrock", "--bounds", "1,2"], "'1' is no pair"),
        (["rosenbrock", "--option", "memory"], "expected option=value"),
        (["rosenbrock", "--option", "cg.memory=3"], "'cg' is not run"),
        (["rosenbrock", "--steps", "-1"], "at least 0"),
        (
            ["rosenbrock", "--method", "adam", "--option", "lr=x"],
            "method 'adam': lr = 'x': expected a number",
        ),
        (["rosenbrock", "--method", "gd", "--option", "momentum=0.5"], "'gd' has no option 'momentum'"),
        (
            ["rosenbrock", "--method", "gd", "--option", "step=[1]"],
            "step = [1]: expected one of armijo, wolfe",
        ),
        (["rosenbrock", "--method", "muon", "--option", "scale={}"], "scale = {}: expected one of match_rms"),
        (["rosenbrock", "--method", "muon", "--option", "coefficients=[1]"], "coefficients = [1]: expected"),
        (["rosenbrock", "--method", "muon", "--option", "ns_steps=1e30"], "ns_steps = 1e+30: expected"),
        (
            ["rosenbrock", "--method", "muon", "--option", f"ns_steps={10**20}"],
            "at least 1, at most 1000",
        ),
        (["nist:enso", "--method", "gauss-newton", "--option", "first=x"], "first = 'x': expected a number"),
        (["rosenbrock", "--option", "name=gd"], "method 'l-bfgs' has no option 'name'"),
        (["rosenbrock", "--option", "memory=0"], "method 'l-bfgs': memory = 0: expected"),
        (["rosenbrock", "--x0", f"1*{10**15}"], f"{10**15} numbers do not fit into memory"),
        (["--program", "'cat", "--x0", "1"], "no closing quotation"),
        (["own.py:bowl", "--framework", "mxnet", "--x0", "1,2"], "expected numpy, torch, jax or tensorflow"),
    ],
)
def test_bad_input_is_one_line(capsys: Any, words: list[str], said: str) -> None:
    assert run(["minimize", *words]) == 2
    out, err = capsys.readouterr()
    assert said in err.splitlines()[-1]
    assert [line for line in err.splitlines() if "…" not in line] == [err.splitlines()[-1]]
    assert out == ""


def test_the_gradient_beside_a_function_is_taken(capsys: Any) -> None:
    assert answer(capsys, "own.py:slope")["problem"]["gradient"] == "the gradient given"
    assert "differences" in answer(capsys, "own.py:slope", "--no-gradient")["problem"]["gradient"]


def test_a_run_in_jax_says_what_was_asked_for(capsys: Any) -> None:
    found = answer(capsys, "own.py:bowl", "--framework", "jax", "--x0", "3,0.5")
    assert found["tolerance"] == pytest.approx(1e-5)  # 1e-6 of the first gradient, (4, 10)
    assert run(["minimize", "own.py:bowl", "--framework", "jax", "--x0", "3,0.5"]) == 0
    assert "asked for 10⁻⁵" in capsys.readouterr().out


def test_no_process_is_left_behind(capsys: Any, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "downslope", "minimize", "--x0", "1", "--timeout", "0.5", "--program"]
    ran = subprocess.run(
        [*command, f"{sys.executable} -S {ANSWERS} stalls"], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 2
    assert "did not answer within 0.5 s" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_json_is_all_that_is_printed_even_if_the_function_prints(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["minimize", "own.py:loud", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["runs"][0]["success"]
    assert "called" in err


@pytest.mark.parametrize(
    ("framework", "extra"), [("torch", "torch"), ("jax", "jax"), ("tensorflow", "keras")]
)
def test_a_framework_that_is_not_installed_is_named(
    framework: str, extra: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, framework, None)
    assert run(["minimize", "own.py:bowl", "--framework", framework, "--x0", "1,2"]) == 2
    assert capsys.readouterr().err == (
        f"downslope: --framework {framework} needs {framework}, which is not installed: "
        f"pip install 'downslope[{extra}]'\n"
    )


def test_a_race_is_kept_where_the_function_raises_or_stops_the_picture(capsys: Any, tmp_path: Path) -> None:
    """The picture asks for points far from all that the methods saw."""
    (tmp_path / "edge.py").write_text(
        "import numpy as np\nx0 = np.array([3.0, 3.0])\n\n\ndef near(x):\n"
        "    if x[0] < 0.9:\n        raise ValueError('outside')\n"
        "    return float(((x - 1) ** 2).sum())\n\n\nseen = 0\n\n\ndef pressed(x):\n"
        "    global seen\n    seen += 1\n    if seen == 200:\n        raise KeyboardInterrupt\n"
        "    print('called')\n    return float(((x - 1) ** 2).sum())\n"
    )
    assert run(["minimize", "edge.py:near", "--race", "l-bfgs", "--out", "near"]) == 0
    field = json.loads(Path("near/race.json").read_text())["picture"]["field"]
    assert None in field[0]
    assert field[0][-1] is not None
    assert run(["minimize", "edge.py:pressed", "--race", "l-bfgs", "--out", "pressed"]) == 0
    drawn = json.loads(Path("pressed/race.json").read_text())["picture"]
    assert drawn["field"] is None
    assert "interrupted" in drawn["without"]
    assert capsys.readouterr().err.count("called") < 100  # of the methods, not of the picture


def test_a_page_that_cannot_be_written_is_told_before_the_race(capsys: Any, tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    for out in ([], ["--out", "own.py"], ["--out", "own.py/page.html"]):
        assert run(["minimize", "rosenbrock", "--race", "gd,cg", *out]) == 2
        said = capsys.readouterr()
        assert "gd …" not in said.err
        assert re.search("cannot be (a run folder|written)", said.err)


def test_a_race_is_shown_where_its_page_cannot_be_written(
    capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, text: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("downslope.compare.folder.write_text", full)
    assert run(["minimize", "rosenbrock", "--race", "cg,l-bfgs"]) == 2
    out, err = capsys.readouterr()
    assert "l-bfgs is first" in out
    assert "runs/race-rosenbrock/race.json cannot be written: No space left on device" in err


@pytest.mark.parametrize(
    ("part", "value"),
    [("schema", None), ("runs", [{}]), ("where", None), ("picture", {"frame": []}), ("problem", "x")],
)
def test_a_damaged_race_is_one_line(part: str, value: Any, capsys: Any) -> None:
    assert run(["minimize", "himmelblau", "--race", "cg", "--out", "here"]) == 0
    file = Path("here/race.json")
    whole = json.loads(file.read_text())
    for text in (json.dumps({**whole, part: value}), file.read_text()[:-100], ""):
        file.write_text(text)
        capsys.readouterr()
        assert run(["report", "here"]) == 2
        assert re.search("race.json (is damaged|has schema)", capsys.readouterr().err)


def test_a_damaged_grid_is_one_line(capsys: Any) -> None:
    grid = [
        "compare",
        "rosenbrock",
        "--sensitivity",
        "--optimizers",
        "l-bfgs",
        "--seeds",
        "1",
        "--out",
        "grid",
    ]
    assert run(grid) == 0
    file = Path("grid/result.json")
    whole = json.loads(file.read_text())
    for part, value in (("rows", []), ("values", [[]]), ("columns", [])):
        file.write_text(json.dumps({**whole, "fields": [{**whole["fields"][0], part: value}]}))
        capsys.readouterr()
        assert run(["report", "grid"]) == 2
        assert "result.json is damaged" in capsys.readouterr().err
