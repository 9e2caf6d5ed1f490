"""Run every test, one process a backend, and report one summary.

    python tests/run.py [NAME ...]

Frameworks clash in one process (TensorFlow and torch's compiler abort together), so each session
below is a pytest of its own. Two run side by side, each on one thread.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Session:
    """One pytest process: what it collects, and its environment."""

    name: str
    paths: tuple[str, ...]
    env: dict[str, str] = field(default_factory=dict)

    def run(self) -> tuple[str, int, str, float]:
        """Return the name, pytest's exit code, its output and the seconds it took."""
        start = time.monotonic()
        command = [sys.executable, "-m", "pytest", "-q", "-rfEs", "--durations=3", *self.paths]
        env = {"OMP_NUM_THREADS": "1", **os.environ, **self.env, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        return self.name, done.returncode, done.stdout, time.monotonic() - start


GROUPING = (
    "src/downslope/grouping",
    *(f"--ignore=src/downslope/grouping/{n}" for n in ("jax", "keras", "tensorflow")),
)

SOLVERS = (
    "methods",
    "endings",
    "bounds",
    "arguments",
    "lanes",
    "hostile",
    "engines",
    "fits",
    "saturation",
    "undetermined",
)

# The longest first, so that the two lanes end together.
SESSIONS = (
    Session(
        "jax",
        (
            "tests/jax",
            "tests/gradients/test_check_jax.py",
            "tests/gradients/test_sources_jax.py",
            "tests/solvers/test_sharded_jax.py",
            "src/downslope/jax",
            "src/downslope/native/jax.py",
            "src/downslope/grouping/jax",
            "src/downslope/diagnose/watch/jax",
        ),
    ),
    Session(
        "compare",
        ("tests/compare", "tests/tasks", "tests/cli", "src/downslope/compare", "src/downslope/tasks"),
    ),
    Session("zoo", ("tests/zoo",)),
    Session(
        "keras-tensorflow",
        (
            "tests/keras",
            "tests/gradients/test_check_tensorflow.py",
            "tests/gradients/test_sources_tensorflow.py",
            "src/downslope/keras",
        ),
        {"KERAS_BACKEND": "tensorflow"},
    ),
    Session("keras-jax", ("tests/keras",), {"KERAS_BACKEND": "jax"}),
    Session("keras-torch", ("tests/keras",), {"KERAS_BACKEND": "torch"}),
    Session(
        "torch",
        (
            "tests/torch",
            "tests/grouping",
            "tests/gradients/test_check_torch.py",
            "tests/gradients/test_sources.py",
            "tests/solvers/test_least_squares.py",
            "tests/solvers/test_search_and_starts.py",
            "tests/solvers/test_sharded_torch.py",
            "src/downslope/torch",
            "--ignore=src/downslope/torch/kernels",
            *GROUPING,
        ),
    ),
    Session(
        "diagnose",
        ("tests/diagnose", "src/downslope/diagnose", "--ignore=src/downslope/diagnose/watch/jax"),
    ),
    Session("triton", ("tests/triton",), {"TRITON_INTERPRET": "1"}),
    Session("report", ("tests/report", "src/downslope/report")),
    Session("foreign", ("tests/foreign",)),
    Session("problems", ("tests/problems", "tests/race", "src/downslope/solvers/race")),
    Session("docs", ("tests/docs",)),
    Session(
        "core",
        (
            "tests/parity",
            "tests/scipy",
            "tests/test_imports.py",
            *(f"tests/gradients/test_check{part}.py" for part in ("", "_kinks", "_command")),
            *(f"tests/solvers/test_{part}.py" for part in SOLVERS),
            "src/downslope/solvers/minimize.py",
            *(f"src/downslope/solvers/{n}.py" for n in ("least_squares", "linear", "losses")),
            *(f"src/downslope/gradients/{n}.py" for n in ("memory", "nest", "noise", "source", "structure")),
            "src/downslope/gradients/kinks.py",
            "src/downslope/gradients/check",
            *(f"--ignore=src/downslope/gradients/check/{n}.py" for n in ("torch", "jax", "tensorflow")),
            "src/downslope/rules",
            *(f"src/downslope/{n}.py" for n in ("errors", "scipy", "shapes", "words")),
        ),
    ),
)

COUNT = re.compile(r"(\d+) (passed|failed|skipped|errors?|xfailed)")


def counts(output: str) -> dict[str, int]:
    """Return the numbers in the closing line of pytest."""
    closing = next((line for line in reversed(output.splitlines()) if COUNT.search(line)), "")
    return {
        kind.removesuffix("s") if kind.startswith("error") else kind: int(n)
        for n, kind in COUNT.findall(closing)
    }


def main() -> int:
    """Run the named sessions, all by default."""
    chosen = [s for s in SESSIONS if not sys.argv[1:] or s.name in sys.argv[1:]]
    if unknown := set(sys.argv[1:]) - {s.name for s in SESSIONS}:
        print(
            f"no session {sorted(unknown)}: expected some of {', '.join(s.name for s in SESSIONS)}",
            file=sys.stderr,
        )
        return 2
    total = {"passed": 0, "failed": 0, "skipped": 0}
    healthy = True
    with ThreadPoolExecutor(max_workers=2) as pool:
        for name, code, output, seconds in pool.map(Session.run, chosen):
            found = counts(output)
            total["passed"] += found.get("passed", 0)
            total["failed"] += found.get("failed", 0) + found.get("error", 0)
            total["skipped"] += found.get("skipped", 0)
            healthy &= code == 0
            print(f"=== {name}: {seconds:.0f} s, exit code {code}\n{output}", flush=True)
    if not healthy and not total["failed"]:
        total["failed"] = 1  # a session that could not even start
    print(f"{total['passed']} passed, {total['failed']} failed, {total['skipped']} skipped")
    return 0 if healthy else 1


if __name__ == "__main__":
    raise SystemExit(main())
