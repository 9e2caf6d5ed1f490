"""Importing is quick and loads no framework, whichever frameworks are installed."""

from __future__ import annotations

import json
import resource
import subprocess
import sys

FRAMEWORKS = ("torch", "jax", "keras", "tensorflow", "optax", "optuna", "sklearn", "matplotlib")
REPORT = f"import sys, json; print(json.dumps([m for m in {FRAMEWORKS!r} if m in sys.modules]))"


def loaded_after(statement: str) -> list[str]:
    out = subprocess.run(
        [sys.executable, "-c", f"{statement}; {REPORT}"], capture_output=True, text=True, check=True
    )
    found: list[str] = json.loads(out.stdout.splitlines()[-1])
    return found


def seconds(*arguments: str) -> float:
    """Return a process's own time on the processor, the least of five: no matter what else runs there."""
    best = float("inf")
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *arguments], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        best = min(best, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return best


def test_importing_loads_no_framework() -> None:
    assert loaded_after("import downslope") == []
    assert loaded_after("import downslope.cli") == []
    assert loaded_after("import downslope; downslope.Muon(); downslope.Adam()") == []
    assert loaded_after("import downslope.native.build, downslope.native.polar, downslope.native.tape") == []


def test_what_is_compiled_for_jax_needs_no_optax() -> None:
    assert loaded_after("import downslope.native.jax") == ["jax"]


def test_a_numpy_user_loads_no_framework() -> None:
    use = "ds.orthogonalize(ops_for(np.eye(2)), np.eye(2))"
    statement = f"import numpy as np, downslope as ds; from downslope.ops import ops_for; {use}"
    assert loaded_after(statement) == []


def test_importing_is_quick() -> None:
    assert seconds("-c", "import downslope") - seconds("-c", "pass") < 0.3


def test_help_is_quick() -> None:
    assert seconds("-m", "downslope", "--help") < 0.6


def test_printing_leaves_the_random_numbers_of_a_training_as_they_are() -> None:
    code = (
        "import random, importlib; random.seed(1); before = random.getstate();"
        "names = ['grouping.table', 'diagnose.rates_table', 'diagnose.profile_table'];"
        "made = [importlib.import_module(f'downslope.{name}') for name in names];"
        "import numpy as np, downslope as ds; ds.minimize(lambda x: x @ x, np.ones(2), progress=True);"
        "print(ds.check_gradient(lambda x: x @ x, np.ones(2), gradient=lambda x: 2 * x));"
        "assert random.getstate() == before"
    )
    subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
