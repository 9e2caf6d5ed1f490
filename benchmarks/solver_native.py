"""Ceres and dlib as peers: `solver_peers.cpp`, compiled where their headers are installed, by ctypes.

apt-get install g++ libceres-dev libdlib-dev libeigen3-dev
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from solver_problems import Counter

SOURCE = Path(__file__).with_name("solver_peers.cpp")
KINDS = ("L-BFGS", "BFGS", "CG")
NUMBER = ctypes.POINTER(ctypes.c_double)
CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, NUMBER, NUMBER, NUMBER)


@cache
def library() -> ctypes.CDLL | None:
    """Return the compiled peers, or None where the compiler or a header is missing."""
    made = Path("runs/solvers/peers.so").resolve()
    if not made.exists() or made.stat().st_mtime < SOURCE.stat().st_mtime:
        made.parent.mkdir(parents=True, exist_ok=True)
        command = ["g++", "-O2", "-std=c++17", "-shared", "-fPIC", "-I/usr/include/eigen3", str(SOURCE)]
        try:
            done = subprocess.run(
                [*command, "-o", str(made), "-lceres", "-lglog", "-ldlib"], capture_output=True, text=True
            )
        except FileNotFoundError:
            print("g++ is not installed: Ceres and dlib are left out")
            return None
        if done.returncode:
            print(f"Ceres and dlib are left out: {done.stderr.strip().splitlines()[0]}")
            return None
    os.environ.setdefault("GLOG_minloglevel", "3")  # Ceres tells of each restart
    return ctypes.CDLL(str(made))


def pointer(a: Any) -> Any:
    """Return where the numbers of an array are."""
    return a.ctypes.data_as(NUMBER)


def called(evaluate: Callable[[Any], tuple[Any, Any]], n: int) -> tuple[Any, list[BaseException]]:
    """Return a C callback of a function, and the list that its exception goes to."""
    raised: list[BaseException] = []

    def callback(x: Any, value: Any, derivative: Any) -> int:
        try:
            f, d = evaluate(np.array(np.ctypeslib.as_array(x, (n,))))
        except BaseException as error:
            raised.append(error)
            return 1
        for place, found in ((value, f), (derivative, d)):
            if place:
                flat = np.ascontiguousarray(found, float).reshape(-1)
                np.ctypeslib.as_array(place, flat.shape)[:] = flat
        return 0

    return CALLBACK(callback), raised


def minimizer(package: str, kind: str) -> Callable[[Counter], tuple[Any, bool]]:
    """Ceres's line search or dlib's, asked for the gradient that the benchmark wants."""

    def solve(counter: Counter) -> tuple[Any, bool]:
        case, peers = counter.case, library()
        assert peers is not None
        x = np.array(case.x0, float)
        callback, raised = called(counter.value_and_gradient, x.size)
        size, wanted = ctypes.c_int(x.size), ctypes.c_double(case.wanted)
        call = [KINDS.index(kind), size, pointer(x), callback, wanted]
        if package == "Ceres":
            done = peers.ceres_minimize(*call)
        else:
            sides = [None, None] if case.bounds is None else [np.array(b, float) for b in case.bounds]
            done = peers.dlib_minimize(*call, *(None if s is None else pointer(s) for s in sides))
        if raised:
            raise raised[0]
        # dlib claims nothing: it comes back where its criterion holds, or where its search fails.
        return x, package == "Ceres" and done == 1

    return solve


def least_squares(kind: str, tolerance: float) -> Callable[[Counter], tuple[Any, bool]]:
    """Ceres's trust region on residuals and their exact Jacobian; an evaluation is one of the residuals."""

    def solve(counter: Counter) -> tuple[Any, bool]:
        case, peers = counter.case, library()
        assert peers is not None
        assert case.residuals is not None
        assert case.jacobian is not None
        x, last = np.array(case.x0, float), None

        def evaluate(at: Any) -> tuple[Any, Any]:
            nonlocal last
            if last is None or not np.array_equal(last, at):  # the residuals again, with the Jacobian
                counter.evaluations += 1
                last = at
            return case.residuals(at), case.jacobian(at)  # type: ignore[misc]

        callback, raised = called(evaluate, x.size)
        sizes = (ctypes.c_int(len(case.residuals(x))), ctypes.c_int(x.size))
        done = peers.ceres_least_squares(
            ("LM", "dogleg").index(kind), *sizes, pointer(x), callback, ctypes.c_double(tolerance)
        )
        if raised:
            raise raised[0]
        return x, done == 1

    return solve


def peers(family: str) -> dict[str, Callable[[Counter], tuple[Any, bool]]]:
    """Return the peers of a family by name; none where they cannot be compiled."""
    if library() is None:
        return {}
    if family == "nist":
        made = {f"Ceres {k}": least_squares(k, 1e-15) for k in ("LM", "dogleg")}
        return made | {"Ceres LM, 1e-8": least_squares("LM", 1e-8)}
    if family == "bounded":
        return {f"dlib {k}": minimizer("dlib", k) for k in KINDS[:2]}
    return {f"{p} {k}": minimizer(p, k) for p in ("Ceres", "dlib") for k in KINDS}
