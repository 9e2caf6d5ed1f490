"""How often checkers of gradients find a planted error, name its entry, and cry wolf; and what it costs.

    python benchmarks/gradcheck.py [--seeds 14] [--json FILE]

Part 1: the corpus of right functions (`tests/gradients/corpus.py`): false alarms, and one error from 1 %
to a flipped sign planted in each. Part 2: single errors in smooth functions of 100 to a million
entries. Peers run at their defaults on the same planted errors; where a peer needs one evaluation an
entry it is left out above 10,000 entries, and where it is not installed its row says so.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from timing import show

import downslope as ds
from downslope.gradients.check import Verdict
from tests.gradients.corpus import Case, corpus

FACTORS = (1.01, 0.95, 0.5, 0.0, -1.0)
SILENT = {"constant", "stationary", "plateaus"}


@dataclass
class Outcome:
    """What a checker said of one gradient: wrong or not, which entry, evaluations of f or its gradient."""

    wrong: bool
    entry: int | None = None
    evaluations: int = 0


@dataclass
class Tally:
    """What a checker said of many."""

    alarms: list[bool] = field(default_factory=list)
    found: list[bool] = field(default_factory=list)
    located: list[bool] = field(default_factory=list)
    evaluations: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def row(self, name: str) -> list[str]:
        """Return the row of the table."""

        def share(values: list[bool]) -> str:
            return f"{sum(values)} of {len(values)}" if values else "–"

        def middle(values: list[Any]) -> str:
            return f"{np.median(values):,.4g}" if values else "–"

        located = share(self.located) if any(self.located) else "names none"
        return [
            name,
            share(self.alarms),
            share(self.found),
            located,
            middle(self.evaluations),
            f"{max(self.evaluations, default=0):,}",
            middle([1e3 * s for s in self.seconds]),
        ]


Checker = Callable[[Case], Outcome]


def counted(case: Case) -> tuple[Callable[[Any], float], Callable[[Any], Any], list[int]]:
    count = [0]

    def f(x: Any) -> float:
        count[0] += 1
        return case.f(np.asarray(x))

    def g(x: Any) -> Any:
        count[0] += 1
        return case.g(np.asarray(x))

    return f, g, count


def downslope(case: Case) -> Outcome:
    report = ds.check_gradient(case.f, case.x, gradient=case.g)
    entries = [f.index[0] for f in report.findings if f.entries == 1]
    only = entries[0] if len(entries) == len(report.findings) == 1 else None
    return Outcome(report.verdict is Verdict.FAIL, only, report.evaluations)


def scipy_check_grad(case: Case) -> Outcome:
    """One number, to be judged by the reader: here against 1e-4 of the gradient's norm."""
    from scipy.optimize import check_grad

    f, g, count = counted(case)
    error = check_grad(f, g, case.x)
    return Outcome(not error <= 1e-4 * np.linalg.norm(case.g(case.x)), None, count[0])


def numdifftools(case: Case) -> Outcome:
    """Derivatives by Richardson extrapolation, no verdict: compared here entry by entry at 1e-4."""
    import numdifftools as nd

    f, g, count = counted(case)
    value = np.atleast_1d(nd.Gradient(f)(case.x))
    claimed = g(case.x)
    beyond = np.abs(value - claimed) - 1e-4 * np.maximum(np.abs(claimed), np.abs(value))
    wrong = bool(np.any(~(beyond <= 0)))
    return Outcome(wrong, int(np.nanargmax(beyond)) if wrong else None, count[0])


def torch_gradcheck(*, fast: bool) -> Checker:
    import torch

    def check(case: Case) -> Outcome:
        f, g, count = counted(case)

        class Wrapped(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, x: Any) -> Any:
                ctx.save_for_backward(x)
                return torch.as_tensor(f(x.detach().numpy()), dtype=torch.float64)

            @staticmethod
            def backward(ctx: Any, back: Any) -> Any:
                (x,) = ctx.saved_tensors
                return back * torch.as_tensor(np.array(g(x.detach().numpy())))

        x = torch.tensor(case.x, requires_grad=True)
        right = torch.autograd.gradcheck(Wrapped.apply, (x,), fast_mode=fast, raise_exception=False)
        return Outcome(not right, None, count[0])

    return check


def jax_check_grads(case: Case) -> Outcome:
    import jax
    from jax.test_util import check_grads

    f, g, count = counted(case)
    with jax.enable_x64(True):

        @jax.custom_vjp
        def wrapped(x: Any) -> Any:
            shape = jax.ShapeDtypeStruct((), np.float64)
            return jax.pure_callback(lambda x: np.float64(f(x)), shape, x)

        def back(x: Any, cotangent: Any) -> Any:
            shape = jax.ShapeDtypeStruct(x.shape, np.float64)
            return (cotangent * jax.pure_callback(lambda x: np.asarray(g(x), np.float64), shape, x),)

        wrapped.defvjp(lambda x: (wrapped(x), x), back)
        try:
            check_grads(wrapped, (jax.numpy.asarray(case.x),), order=1, modes=("rev",))
        except AssertionError:
            return Outcome(True, None, count[0])
        return Outcome(False, None, count[0])


def checkers() -> tuple[dict[str, Checker], list[str]]:
    """Return the checkers that are installed, and what is not."""
    made: dict[str, Checker] = {"Downslope": downslope, "scipy check_grad": scipy_check_grad}
    absent = []
    try:
        made["torch gradcheck"] = torch_gradcheck(fast=False)
        made["torch gradcheck, fast"] = torch_gradcheck(fast=True)
    except ImportError:
        absent.append("torch")
    for name, package, checker in (
        ("jax check_grads", "jax", jax_check_grads),
        ("numdifftools", "numdifftools", numdifftools),
    ):
        try:
            __import__(package)
            made[name] = checker
        except ImportError:
            absent.append(package)
    return made, absent


def spoiled(case: Case, j: int, factor: float) -> Case:
    def g(x: Any) -> Any:
        made = np.array(case.g(x))
        made[j] *= factor
        return made

    return case._replace(g=g)


def judged(tally: Tally, checker: Checker, case: Case, j: int | None) -> None:
    begun = time.perf_counter()
    try:
        said = checker(case)
    except Exception as error:  # a peer that cannot digest a function has raised an alarm
        said = Outcome(True)
        print(f"{checker.__name__} on {case.name}: {type(error).__name__}", file=sys.stderr)
    tally.seconds.append(time.perf_counter() - begun)
    tally.evaluations.append(said.evaluations)
    if j is None:
        tally.alarms.append(said.wrong)
    else:
        tally.found.append(said.wrong)
        tally.located.append(said.entry == j)


def on_the_corpus(made: dict[str, Checker], seeds: int, least: int) -> dict[str, Tally]:
    """Check `seeds` of every family with Downslope, `least` of them with the peers."""
    tallies = {name: Tally() for name in made}
    r = np.random.default_rng(7)
    for k, case in enumerate(corpus(seeds)):
        size = np.abs(case.g(case.x))
        visible = np.flatnonzero(size > 1e-3 * size.max())
        silent = case.name.split("-")[0] in SILENT
        j, factor = (0, 1.0) if silent else (int(r.choice(visible)), float(FACTORS[k % len(FACTORS)]))
        few = int(case.name.rsplit("-", 1)[1]) < least and case.x.size <= 1000
        for name, checker in made.items():
            if name == "Downslope" or few:
                judged(tallies[name], checker, case, None)
                if not silent:
                    judged(tallies[name], checker, spoiled(case, j, factor), j)
    return tallies


def smooth(n: int, seed: int) -> Case:
    x = np.random.default_rng(seed).normal(size=n)
    return Case(
        f"smooth-{n}",
        lambda x: float(np.sum(np.log(np.cosh(x)) + 0.5 * np.sin(x))),
        lambda x: np.tanh(x) + 0.5 * np.cos(x),
        x,
    )


def by_size(made: dict[str, Checker]) -> list[list[str]]:
    rows = []
    for n, repeats in ((100, 3), (1000, 3), (10_000, 1), (100_000, 1), (1_000_000, 1)):
        tallies = {name: Tally() for name in made}
        for seed in range(repeats):
            case = smooth(n, seed)
            for k, factor in enumerate(FACTORS if n < 1_000_000 else FACTORS[:1]):
                j = int(np.random.default_rng([seed, k, n]).integers(n))
                for name, checker in made.items():
                    per_entry = name not in ("Downslope", "torch gradcheck, fast", "jax check_grads")
                    if not (per_entry and n > 1000):
                        judged(tallies[name], checker, spoiled(case, j, factor), j)
        for name, tally in tallies.items():
            if tally.found:
                rows.append([f"{n:,}", *(tally.row(name)[i] for i in (0, 2, 3, 4, 6))])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=14, help="of each of the 37 families")
    parser.add_argument("--peers", type=int, default=2, help="seeds that the peers are run on too")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    np.seterr(all="ignore")
    made, absent = checkers()
    for name in absent:
        print(f"not installed, left out: {name}")
    tallies = on_the_corpus(made, args.seeds, args.peers)
    rows = [tally.row(name) for name, tally in tallies.items()]
    head = ["checker", "false alarms", "found", "entry named", "evaluations", "at most", "ms"]
    show("Right functions, and one planted error in each (float64)", head, rows)
    sizes = by_size(made)
    show(
        "One wrong entry among n: 1 %, 5 %, half, zero, sign",
        ["n", "checker", "found", "entry named", "evaluations", "ms"],
        sizes,
    )
    if args.json:
        args.json.write_text(json.dumps({"corpus": rows, "sizes": sizes}, indent=1))


if __name__ == "__main__":
    main()
