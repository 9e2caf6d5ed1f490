"""Functions of shared libraries: the same numbers as Python's, and one clear error for what is wrong."""

from __future__ import annotations

import json
import math
import pickle
import struct
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from downslope import minimize
from downslope.cli import run
from downslope.errors import UsageError
from downslope.gradients import load

X = np.array([0.3, -1.2, 2.5])
VALUE = sum(math.cosh(v - i) for i, v in enumerate(X))
GRADIENT = np.sinh(X - np.arange(3))


def test_value_and_gradient_are_those_of_the_function(library: Path) -> None:
    f = load(library, "f")
    value, gradient = f.value_and_gradient(X)
    # C's and NumPy's hyperbolic functions may differ in the last place.
    assert value == pytest.approx(VALUE, rel=1e-15)
    assert f(X) == value
    np.testing.assert_allclose(gradient, GRADIENT, rtol=1e-15)
    assert f(list(X)) == value
    assert f(X[::-1].copy()[::-1]) == value  # not contiguous


def test_each_gradient_is_an_array_of_its_own(library: Path) -> None:
    f = load(library, "f")
    first = f.gradient(X)
    kept = first.copy()
    f.gradient(X + 1)
    np.testing.assert_array_equal(first, kept)


def test_rows_are_a_batch(library: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(7, 3))
    for threads in (1, 3):
        f = load(library, "f", threads=threads)
        values, gradients = f.value_and_gradient(rows)
        assert values.tolist() == [f(row) for row in rows] == f(rows).tolist()
        np.testing.assert_array_equal(gradients, [f.gradient(row) for row in rows])


def test_threads_evaluate_rows_side_by_side(library: Path) -> None:
    f = load(library, "slow", gradient=False, threads=4)
    f(X)
    start = time.monotonic()
    f(np.ones((4, 2)))
    together = time.monotonic() - start
    assert together < 0.75  # one after the other: 0.8 s


def test_pythons_lock_is_free_during_a_call(library: Path) -> None:
    f = load(library, "slow", gradient=False)
    f(X)
    called = threading.Thread(target=f, args=(X,))
    called.start()
    turns = 0
    while called.is_alive():
        turns += 1
        time.sleep(0.001)
    assert turns > 10


def test_a_function_without_a_gradient(library: Path) -> None:
    f = load(library, "plain", gradient=False)
    assert f.value_and_gradient(X) == (X[0] * X[2], None)
    with pytest.raises(UsageError, match="it has no gradient"):
        f.gradient(X)


def test_not_a_number_is_an_answer(library: Path) -> None:
    value, gradient = load(library, "not_a_number").value_and_gradient(X)
    assert math.isnan(value)
    assert np.isnan(gradient).all()


def test_where_it_is_not_defined_a_function_need_not_fill_the_gradient(library: Path) -> None:
    f = load(library, "logarithm")
    for x in ([-1.0], [[2.0], [-1.0]]):  # also at its first call
        value, gradient = f.value_and_gradient(x)
        assert np.isnan(value).any()
        np.testing.assert_array_equal(np.isnan(gradient).ravel(), np.isnan(np.ravel(value)))
    found = minimize(f, [9.0])
    assert found.success
    assert found.x == pytest.approx([1.0], abs=1e-5)
    forgetful = load(library, "forgetful")
    assert math.isnan(forgetful([math.nan, 0.0]))
    with pytest.raises(UsageError, match="wrote 1 of the 2 entries"):
        forgetful.value_and_gradient([1.0, 0.0])


def test_what_c_prints_is_not_among_the_json(library: Path) -> None:
    words = ["minimize", f"{library}:loud", "--x0", "1,2", "--json"]
    ran = subprocess.run(
        [sys.executable, "-m", "downslope", *words], capture_output=True, text=True, check=True
    )
    assert json.loads(ran.stdout)["runs"][0]["success"]
    assert "hello from C" in ran.stderr


def test_it_can_be_pickled(library: Path) -> None:
    f = load(library, "plain", gradient=False, threads=2)
    g = pickle.loads(pickle.dumps(f))
    assert (g(X), g.has_gradient, g.threads) == (f(X), False, 2)


def test_threads_of_the_caller(library: Path) -> None:
    f = load(library, "f")
    rows = np.random.default_rng(1).normal(size=(50, 3))
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(f, rows)) == [f(row) for row in rows]


@pytest.mark.parametrize(
    ("symbol", "words"),
    [
        ("forgetful", "wrote 1 of the 3 entries of its gradient (not entry 1)"),
        ("plain", "wrote 0 of the 3 entries of its gradient (not entry 0)"),
        ("writes", "wrote to its argument: x[2] changed from 2.5 to 7.0"),
    ],
)
def test_a_function_that_does_not_keep_to_the_interface(library: Path, symbol: str, words: str) -> None:
    before = X.copy()
    f = load(library, symbol)
    for _ in range(2):
        with pytest.raises(UsageError) as raised:
            f.value_and_gradient(X)
        assert words in str(raised.value)
    np.testing.assert_array_equal(X, before)


def refusal(*arguments: Any, **options: Any) -> str:
    with pytest.raises(UsageError) as raised:
        load(*arguments, **options)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_what_is_no_library(library: Path, build: Any, tmp_path: Path) -> None:
    assert "no library" in refusal(tmp_path / "none.so", "f")
    assert "is a folder" in refusal(tmp_path, "f")
    for name, data, words in [
        ("f.cpp", b"double f();", "it is source"),
        ("f.so", b"", "it is empty"),
        ("g.so", b"hello world", "it begins with b'hello wo'"),
        ("f.a", b"!<arch>\n", "static archive"),
        ("f.dll", b"MZ\x90\0", "is a PE file"),
        ("cut.so", library.read_bytes()[:40], "cut short"),
    ]:
        (tmp_path / name).write_bytes(data)
        assert words in refusal(tmp_path / name, "f")
    main = "int main(void) { return 0; }"
    assert "link it into a library" in refusal(build(main, "f.o", "-c"), "f")
    assert "is a program" in refusal(build(main, "fixed", "-no-pie"), "f")
    assert "is a program" in refusal(build(main, "moved", "-pie", "-fPIE"), "f")
    halved = tmp_path / "halved.so"
    halved.write_bytes(library.read_bytes()[:600])
    assert "cut short, to 600 bytes" in refusal(halved, "f")


def test_a_library_for_another_machine(library: Path, tmp_path: Path) -> None:
    data = bytearray(library.read_bytes())
    own = struct.unpack_from("<H", data, 18)[0]
    struct.pack_into("<H", data, 18, 62 if own == 183 else 183)
    other = tmp_path / "other.so"
    other.write_bytes(data)
    text = refusal(other, "f")
    assert f"is built for {'x86_64' if own == 183 else 'aarch64'} (64 bits); this Python runs on" in text


def test_a_symbol_that_is_not_there(library: Path, build: Any) -> None:
    assert "no symbol 'plian'; did you mean 'plain'?" in refusal(library, "plian")
    assert "no symbol 'zzz'; it has " in refusal(library, "zzz")
    mangled = build("double _Z6energyPKdmPd(void) { return 0; }", "libmangled.so")
    assert 'declare the function extern "C"' in refusal(mangled, "energy")


def test_a_library_that_needs_another(build: Any) -> None:
    source = "double missing(void); double f(void) { return missing(); }"
    assert "undefined symbol: missing" in refusal(
        build(source, "libneeds.so", "-shared", "-fPIC", "-Wl,-z,now"), "f"
    )


def test_arguments_are_checked(library: Path) -> None:
    assert "threads = 0" in refusal(library, "f", threads=0)
    f = load(library, "f")
    for wrong in (np.zeros((2, 2, 2)), 1.0, []):
        with pytest.raises(UsageError, match="expected a vector"):
            f(wrong)
    for other in ({"x": X}, torch.ones(3, requires_grad=True)):
        with pytest.raises(UsageError, match=r"is a (dict|Tensor): expected NumPy's float64"):
            f(other)


def test_minimize_on_the_command_line_takes_a_function_without_gradient(library, capsys):
    words = ["minimize", f"{library}:valley", "--x0", "3,-1"]
    assert run(words) == 2
    assert "--no-gradient" in capsys.readouterr().err
    assert run([*words, "--no-gradient"]) == 0
