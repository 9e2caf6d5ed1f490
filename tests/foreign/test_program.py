"""Programs on a pipe: kept alive, asked in parallel, restarted, and never left behind."""

from __future__ import annotations

import contextlib
import json
import math
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from downslope import least_squares
from downslope.errors import UsageError
from downslope.gradients import Program, ProgramError

ANSWERS = str(Path(__file__).with_name("answers.py"))
X = np.array([0.5, -1.0, 1e-7])


def program(*how: str, **options: object) -> Program:
    return Program([sys.executable, "-S", ANSWERS, *how], **options)  # type: ignore[arg-type]


def alive(pid: int) -> bool:
    """Return whether a process runs; one that is dead and not yet fetched by its parent does not."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def within(seconds: float, said: Callable[[], bool]) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if said():
            return True
        time.sleep(0.02)
    return said()


def test_value_and_gradient_are_those_of_the_program() -> None:
    with program("well") as f:
        value, gradient = f.value_and_gradient(X)
        assert value == sum((v - i) ** 2 for i, v in enumerate(X))
        np.testing.assert_array_equal(gradient, 2 * (X - np.arange(3)))
        assert f(X) == value


def test_every_digit_arrives() -> None:
    with program("well") as f:
        for x in np.random.default_rng(0).lognormal(sigma=50, size=(20, 1)):
            np.testing.assert_array_equal(f.value_and_gradient(x)[1], 2 * x)


def test_the_process_lives_from_one_evaluation_to_the_next() -> None:
    with program("well") as f:
        f(X)
        (line,) = f._lines
        pid = line.process.pid
        for _ in range(5):
            f(X)
        assert [line.process.pid for line in f._lines] == [pid]
        assert f.restarts == 0
        assert alive(pid)
    assert not alive(pid)


def test_a_program_without_gradients() -> None:
    with program("value") as f:
        assert f.value_and_gradient(X)[1] is None
        assert f.value_and_gradient(np.stack([X, X]))[1] is None


def test_rows_are_evaluated_side_by_side() -> None:
    rows = np.random.default_rng(0).normal(size=(8, 3))
    with program("slow", workers=4) as f:
        f(rows[:4])
        start = time.monotonic()
        values, gradients = f.value_and_gradient(rows)
        assert 0.6 <= time.monotonic() - start < 2.3  # eight of 0.3 s: one after the other, 2.4
        assert len(f._lines) == 4
    np.testing.assert_allclose(values, ((rows - np.arange(3)) ** 2).sum(1), rtol=1e-15)
    np.testing.assert_array_equal(gradients, 2 * (rows - np.arange(3)))


def test_a_large_vector_goes_through() -> None:
    x = np.random.default_rng(0).normal(size=50_000)
    with program("well") as f:
        value, gradient = f.value_and_gradient(x)
    np.testing.assert_array_equal(gradient, 2 * (x - np.arange(x.size)))
    assert value == pytest.approx(((x - np.arange(x.size)) ** 2).sum(), rel=1e-12)


def test_a_crash_between_is_not_seen() -> None:
    with program("crashes") as f:
        values = [f(X + i) for i in range(6)]
        assert f.restarts == 2  # every third answer of a process kills it
    with program("well") as g:
        assert values == [g(X + i) for i in range(6)]


def test_a_crash_at_a_point_is_told() -> None:
    with program("crashes") as f:
        with pytest.raises(ProgramError, match=r"ended \(signal SIGSEGV\) at x = \[13\.\] \(2 times\)"):
            f([13.0])
        assert f([1.0]) == 1.0  # and another point goes on


def test_a_crash_once_is_asked_again(tmp_path: Path) -> None:
    with program("once", str(tmp_path / "flag")) as f:
        f(X)
        assert f.restarts == 1
    with (
        program("once", str(tmp_path / "other"), retries=0) as f,
        pytest.raises(ProgramError, match=r"ended \(exit code 1\) at x = \[.*\]$"),
    ):
        f(X)


def test_what_it_said_before_it_died_is_told() -> None:
    with program("dies") as f, pytest.raises(ProgramError) as raised:
        f(X)
    text = str(raised.value)
    assert "ended (exit code 3) at x = [ 5.e-01, -1.e+00,  1.e-07] (2 times)" in text
    assert text.endswith("; stderr: out of luck | at line 7")


@pytest.mark.parametrize("n", [1, 50_000])
def test_a_stall_is_told(n: int) -> None:
    # A large point does not fit in a pipe, and must not wait for its reader.
    with program("stalls", timeout=0.5) as f:
        start = time.monotonic()
        with pytest.raises(ProgramError, match=r"did not answer within 0\.5 s"):
            f(np.zeros(n))
        assert time.monotonic() - start < 30  # it would answer after 60 s


def test_a_program_that_never_reads_is_told() -> None:
    with (
        Program([sys.executable, "-S", "-c", "import time; time.sleep(60)"], timeout=0.5) as f,
        pytest.raises(ProgramError, match="did not answer"),
    ):
        f(np.zeros(50_000))


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("hello", "answered 'hello': expected one line"),
        ("x" * 500, f"answered '{'x' * 117}...': expected"),
        ("", "answered '': expected one line"),
        ("[1, 2]", "this has no value"),
        ('{"gradient": [1]}', "this has no value"),
        ('{"value": "3"}', "the value is '\"3\"', not a number"),
        ('{"value": true}', "not a number"),
        ('{"value": 1, "gradient": [1, 2]}', "the gradient holds 2 numbers, and x has 3"),
        ('{"value": 1, "gradient": 5}', "the gradient holds int, and x has 3"),
        ('{"value": 1, "gradient": [1, "a", 2]}', "gradient[1] is"),
        ('{"error": "no such mesh"}', "no such mesh"),
        ("[" * 100_000, "this is not JSON"),
    ],
)
def test_garbage_is_told(said: str, words: str) -> None:
    with program("says", said) as f, pytest.raises(ProgramError) as raised:
        f(X)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


def test_not_a_number_is_an_answer() -> None:
    for said in ('{"value": null}', '{"value": NaN}', '{"value": NaN, "gradient": [null, NaN, 1]}'):
        with program("says", said) as f:
            assert math.isnan(f(X))
    for said in ('{"value": -Infinity}', '{"value": -1e400}', f'{{"value": -1{"0" * 400}}}'):
        with program("says", said) as f:
            assert f(X) == -math.inf


def test_no_error_is_an_answer() -> None:
    with program("says", '{"value": 2.5, "gradient": [1, 0, 0], "error": null}') as f:
        assert f(X) == 2.5


@pytest.mark.parametrize("how", ["chatty", "twice"])
def test_a_line_unasked_is_told_and_never_taken_for_an_answer(how: str) -> None:
    def ask(f: Program) -> None:
        for i in range(20):
            assert f(X + i) == pytest.approx(sum((v + i - j) ** 2 for j, v in enumerate(X)))
            time.sleep(0.02)

    with program(how) as f, pytest.raises(ProgramError, match=r"unasked|answered 'hello"):
        ask(f)


def test_bad_input() -> None:
    for command, options, words in [
        ("no-such-program-here x", {}, "no program 'no-such-program-here'"),
        ("", {}, "command is empty"),
        ("cat", {"workers": 0}, "workers = 0"),
        ("cat", {"retries": -1}, "retries = -1"),
        ("cat", {"timeout": 0}, "timeout = 0"),
        ("cat", {"cwd": "/no/such/folder"}, "/no/such/folder"),
        (ANSWERS, {}, "cannot be started"),
    ]:
        with pytest.raises(UsageError, match=words):
            Program(command, **options)  # type: ignore[arg-type]
    with program("well") as f:
        for wrong in (1.0, [], np.zeros((2, 2, 2))):
            with pytest.raises(UsageError, match="expected a vector"):
                f(wrong)
        with pytest.raises(UsageError, match="not finite"):
            f([1.0, math.nan])
        assert f(X) > 0
    with pytest.raises(UsageError, match="is closed"):
        f(X)
    f.close()


def test_children_of_the_program_end_with_it() -> None:
    with program("parent") as f:
        child = int(f(X))
        assert alive(child)
    assert within(30, lambda: not alive(child))  # it would live for 60 s


def test_a_program_that_ignores_the_end_is_killed() -> None:
    f = program("deaf")
    pid = int(f(X))
    start = time.monotonic()
    f.close()
    assert not alive(pid)
    assert time.monotonic() - start < 30  # it would never end


def test_a_program_that_is_forgotten_ends() -> None:
    f = program("deaf")
    pid = int(f(X))
    del f
    assert within(30, lambda: not alive(pid))


def run_in_a_process(code: str) -> subprocess.Popen[str]:
    head = (
        "import sys, time; from downslope.gradients import Program\n"
        f"f = Program([sys.executable, '-S', {ANSWERS!r}, 'well'], workers=2); f([[1.0], [2.0]])\n"
        "print(*[line.process.pid for line in f._lines], flush=True)\n"
    )
    return subprocess.Popen([sys.executable, "-c", head + code], stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("code", ["sys.exit(0)", "raise SystemExit(3)", "import os; time.sleep(60)"])
def test_nothing_is_left_when_this_process_ends(code: str) -> None:
    parent = run_in_a_process(code)
    assert parent.stdout is not None
    pids = [int(word) for word in parent.stdout.readline().split()]
    assert len(pids) >= 1
    if "sleep" in code:
        parent.send_signal(signal.SIGKILL)
    parent.wait(60)
    parent.stdout.close()
    assert within(30, lambda: not any(map(alive, pids)))


def test_ctrl_c_leaves_nothing_and_does_not_wait() -> None:
    code = (
        "import signal, sys; from downslope.gradients import Program\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's `&` has it ignored
        f"with Program([sys.executable, '-S', {ANSWERS!r}, 'stalls'], workers=2) as f:\n"
        "    print('asking', flush=True); f([[1.0], [2.0], [3.0]])\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    parent.stdout.readline()
    assert within(60, lambda: len(children_of(parent.pid)) == 2)
    children = children_of(parent.pid)
    os.kill(parent.pid, signal.SIGINT)
    _, err = parent.communicate(timeout=50)  # the first answer would come after 60 s
    assert "KeyboardInterrupt" in err
    assert within(30, lambda: not any(map(alive, children)))


def children_of(pid: int) -> list[int]:
    numbers = (int(folder.name) for folder in Path("/proc").iterdir() if folder.name.isdigit())
    return [number for number in numbers if parent_of(number) == pid]


def parent_of(pid: int) -> int:
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


def test_it_can_be_pickled() -> None:
    with program("well", workers=2, timeout=7.0) as f, pickle.loads(pickle.dumps(f)) as g:
        assert (g(X), g.workers, g.timeout) == (f(X), 2, 7.0)


def test_what_is_asked_is_what_is_documented() -> None:
    code = "import sys; line = sys.stdin.readline(); print(line, file=sys.stderr); sys.exit(9)"
    with Program([sys.executable, "-S", "-c", code]) as f, pytest.raises(ProgramError) as raised:
        f([1.0, 1e-300])
    assert json.loads(str(raised.value).split("stderr: ")[1]) == {"x": [1.0, 1e-300]}


def test_one_value_is_no_residuals() -> None:
    with (
        program("well") as f,
        pytest.raises(UsageError, match=r"a Program, which returns one value: .*minimize\(fun, x0\)"),
    ):
        least_squares(f, X)
