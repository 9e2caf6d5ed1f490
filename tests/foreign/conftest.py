"""Compilers for the tests of foreign functions; a test skips, with the reason, where its own is missing."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from downslope.gradients import include

C = """
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include "downslope.h"
DOWNSLOPE_EXPORT double f(const double *x, size_t n, double *gradient) {
    double value = 0;
    for (size_t i = 0; i < n; ++i) value += cosh(x[i] - i);
    if (gradient) for (size_t i = 0; i < n; ++i) gradient[i] = sinh(x[i] - i);
    return value;
}
DOWNSLOPE_EXPORT double forgetful(const double *x, size_t n, double *gradient) {
    if (gradient) gradient[0] = 1;
    return x[0];
}
DOWNSLOPE_EXPORT double plain(const double *x, size_t n, double *gradient) { return x[0] * x[n - 1]; }
DOWNSLOPE_EXPORT double valley(const double *x, size_t n, double *gradient) {
    return x[0] * x[0] + (x[1] - 1) * (x[1] - 1);
}
DOWNSLOPE_EXPORT double writes(const double *x, size_t n, double *gradient) {
    ((double *)x)[n - 1] = 7;
    return 1;
}
DOWNSLOPE_EXPORT double not_a_number(const double *x, size_t n, double *gradient) {
    for (size_t i = 0; gradient && i < n; ++i) gradient[i] = NAN;
    return NAN;
}
DOWNSLOPE_EXPORT double logarithm(const double *x, size_t n, double *gradient) {
    if (x[0] <= 0) return NAN;
    if (gradient) gradient[0] = 1 - 1 / x[0];
    return x[0] - log(x[0]);
}
DOWNSLOPE_EXPORT double loud(const double *x, size_t n, double *gradient) {
    printf("hello from C\\n");
    return f(x, n, gradient);
}
DOWNSLOPE_EXPORT double slow(const double *x, size_t n, double *gradient) { usleep(200000); return x[0]; }
"""


def compiler() -> str:
    found = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if found is None:
        pytest.skip("no C compiler found: install gcc to test foreign functions")
    return found


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that compiles C into a file; options replace `-shared -fPIC`."""
    folder = tmp_path_factory.mktemp("built")

    def build(source: str, name: str, *options: str) -> Path:
        code, out = folder / f"{name}.c", folder / name
        code.write_text(source)
        options = options or ("-shared", "-fPIC")
        command = [compiler(), "-O1", *options, "-I", include(), str(code), "-o", str(out), "-lm"]
        subprocess.run(command, check=True, capture_output=True, text=True)
        return out

    return build


@pytest.fixture(scope="session")
def library(build: Callable[..., Path]) -> Path:
    return build(C, "libf.so")
