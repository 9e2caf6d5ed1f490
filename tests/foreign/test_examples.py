"""The examples in other languages, built as their first lines say, and held against differences."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import check_grad, curve_fit

import downslope as ds
from downslope.gradients import ForeignFunction, Program, include, load

FOLDER = Path(__file__).parents[2] / "examples" / "foreign"
HEADERS = {
    "chain_eigen.cpp": ("/usr/include/eigen3/Eigen/Dense", "libeigen3-dev"),
    "arm_ceres.cpp": ("/usr/include/ceres/jet.h", "libceres-dev"),
    "towns_dlib.cpp": ("/usr/include/dlib/matrix.h", "libdlib-dev"),
}
CASES = {
    "chain_eigen.cpp": ("energy", [0.2, -0.1, 0.5, -0.2, 0.8, -0.1]),
    "arm_ceres.cpp": ("reach", [0.1, 0.4, -0.3, 0.2, 0.5, 0.1]),
    "towns_dlib.cpp": ("distance", [0.1, 0.2, 2.0, 2.5]),
    "cluster.zig": ("energy", [0.0, 0.1, 0.0, 1.2, 0.0, 0.1, 0.3, 1.1, 0.0, 0.4, 0.5, 1.0]),
}

# Found by SciPy's L-BFGS-B from the same points.
LOWEST = {
    "chain_eigen.cpp": -0.110386854,
    "arm_ceres.cpp": 0.011211289,
    "towns_dlib.cpp": 3.231147400,
    "cluster.zig": -6.000000000,
}
CELLS = [9.6, 18.3, 29.0, 47.2, 71.1, 119.1, 174.6, 257.3, 350.7, 441.0, 513.3, 559.7, 594.8, 629.4]
CELLS += [640.8, 651.1, 655.9, 659.6, 661.8]


def built(name: str, folder: Path) -> ForeignFunction:
    """Run the line `Build:` of an example and load what it makes."""
    if name.endswith(".cpp"):
        header, package = HEADERS[name]
        if not Path(header).exists() or shutil.which("c++") is None:
            pytest.skip(f"{name} needs a C++ compiler and {package}: apt install g++ {package}")
    elif importlib.util.find_spec("ziglang") is None:
        pytest.skip(f"{name} needs Zig: pip install ziglang")
    found = re.search(r"Build: (.*)", (FOLDER / name).read_text())
    assert found
    line = re.sub(r"\b(lib\w+\.so)\b", str(folder / r"\1"), found[1]).replace("python ", f"{sys.executable} ")
    environment = {**os.environ, "INCLUDE": include(), "ZIG_LOCAL_CACHE_DIR": str(folder / "zig")}
    done = subprocess.run(line, shell=True, cwd=FOLDER, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (library,) = folder.glob("lib*.so")
    return load(library, CASES[name][0])


@pytest.mark.parametrize("name", CASES)
def test_a_library_has_the_right_gradient(name: str, tmp_path: Path) -> None:
    f = built(name, tmp_path)
    x = np.array(CASES[name][1])
    size = np.linalg.norm(f.gradient(x))
    assert size > 0.1
    # Forward differences are right to about the square root of the rounding.
    assert check_grad(f, f.gradient, x, epsilon=1e-7) < 1e-5 * size
    assert f(x) == f.value_and_gradient(x)[0]
    ds.check_gradient(f, x).raise_if_failed()
    found = ds.minimize(f, x)
    assert found.success
    assert found.value == pytest.approx(LOWEST[name], abs=1e-6)
    if name != "arm_ceres.cpp":
        assert np.isnan(f(x[:1]))


@pytest.fixture(scope="module")
def growth() -> Program:
    if shutil.which("elixir") is None:
        pytest.skip("growth.exs needs Elixir: apt install elixir")
    with Program(f"elixir {FOLDER / 'growth.exs'}", workers=2) as program:
        yield program  # type: ignore[misc]


def test_the_elixir_program_has_the_right_gradient(growth: Program) -> None:
    x = np.array([600.0, 0.5, 9.0])
    gradient = growth.value_and_gradient(x)[1]
    assert gradient is not None
    assert check_grad(
        growth, lambda x: growth.value_and_gradient(x)[1], x, epsilon=1e-5
    ) < 1e-4 * np.linalg.norm(gradient)
    assert np.isnan(growth([600.0, 1000.0, 9.0]))
    found = ds.minimize(growth, x)
    assert found.success
    # Half the sum of squares of the best fit; SciPy's curve_fit finds the same.
    t, cells = np.arange(19.0), np.array(CELLS)
    fitted, _ = curve_fit(lambda t, a, b, c: a / (1 + np.exp(-b * (t - c))), t, cells, p0=x)
    np.testing.assert_allclose(found.x, fitted, rtol=1e-4)
    values = growth(np.array([x, x + 1, x + 2]))
    assert values.tolist() == [growth(x), growth(x + 1), growth(x + 2)]
