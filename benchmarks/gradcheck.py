"""How often checkers of gradients find a planted error, name its entry, and cry wolf; and what it costs.

    python benchmarks/gradcheck.py [--seeds 14] [--seed 0] [--parts corpus,sizes,precision,chance]
        [--json FILE]

Part 1: the corpus of right functions (`tests/gradients/corpus.py`): false alarms, and one error from 1 %
to a flipped sign planted in each. Part 2: single errors in smooth functions of 100 to a million
entries. Peers run at their defaults on the same planted errors; where a peer needs one evaluation an
entry it is left out above 10,000 entries, and where it is not installed its row says so. Part 3: the
corpus below float64, Downslope alone: values and gradients rounded to float32; to bfloat16; float32 functions
that cast their argument to bfloat16, with values in float32 or in bfloat16; and one entry of at least a tenth
of the largest wrong by 10 %. Part 4: expressions put together at random, differentiated by autograd
(`tests/gradients/expressions.py`), in each precision. `--seed` begins with another function of each family,
another expression and other entries.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections import Counter
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
            return f"{sum(values)}/{len(values)}" if values else "–"

        def middle(values: list[Any]) -> str:
            return f"{np.median(values):,.4g}" if values else "–"

        located = share(self.located) if any(self.located) else "none"
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


def on_the_corpus(made: dict[str, Checker], first: int, seeds: int, least: int) -> dict[str, Tally]:
    """Check `seeds` of every family with Downslope, `least` of them with the peers."""
    tallies = {name: Tally() for name in made}
    r = np.random.default_rng(7 + first)
    for k, case in enumerate(corpus(seeds, first)):
        size = np.abs(case.g(case.x))
        visible = np.flatnonzero(size > 1e-3 * size.max())
        silent = case.name.split("-")[0] in SILENT
        j, factor = (0, 1.0) if silent else (int(r.choice(visible)), float(FACTORS[k % len(FACTORS)]))
        few = int(case.name.rsplit("-", 1)[1]) < first + least and case.x.size <= 1000
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


def narrowed(case: Case, seen: str, given: str) -> Case:
    """Return a float32 case that sees its argument in one dtype and gives values in another."""
    from ml_dtypes import bfloat16

    def to(a: Any, dtype: str) -> Any:
        return np.asarray(np.asarray(a, bfloat16 if dtype == "bfloat16" else dtype), np.float32)

    def wide(x: Any) -> Any:
        return np.asarray(to(x, seen), np.float64)

    return case._replace(
        f=lambda x: to(case.f(wide(x)), given)[()],
        g=lambda x: to(case.g(wide(x)), "bfloat16" if "bfloat16" in (seen, given) else given),
        x=to(case.x, seen),
    )


PRECISIONS = {
    "float32": ("float32", "float32"),
    "float32, x cast to bfloat16": ("bfloat16", "float32"),
    "float32, value rounded to bfloat16": ("float32", "bfloat16"),
    "bfloat16": ("bfloat16", "bfloat16"),
}
RIGHT = ["right functions", "pass", "not judged", "FAIL"]
WRONG = ["10 % wrong", "entry named", "not judged", "other FAIL", "pass", "median", "most"]


def show_both(title: str, rows: list[list[str]]) -> None:
    """Print what was said of right functions and of wrong ones, each as a table that fits a terminal."""
    show(title, RIGHT, [row[:4] for row in rows])
    show("with one entry made wrong; evaluations", WRONG, [[row[0], *row[4:]] for row in rows])


@dataclass
class Verdicts:
    """What Downslope said of right gradients, and of wrong ones."""

    right: Counter[str] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)
    evaluations: list[int] = field(default_factory=list)

    def row(self, name: str) -> list[str]:
        """Return the row of the table."""
        right = [str(self.right[v]) for v in ("PASS", "INCONCLUSIVE", "FAIL")]
        wrong = [str(self.wrong[v]) for v in ("named", "INCONCLUSIVE", "FAIL", "PASS")]
        return [name, *right, *wrong, f"{np.median(self.evaluations):.0f}", f"{max(self.evaluations):,}"]

    def take(self, name: str, right: Any, wrong: Any, j: tuple[int, ...]) -> None:
        """Count two reports: on the right gradient, and on one that is wrong in entry j."""
        self.right[right.verdict.name] += 1
        if right.verdict is Verdict.FAIL:
            print(f"a right gradient fails: {name}", file=sys.stderr)
        if wrong is not None:
            if wrong.verdict is Verdict.PASS:
                print(f"a wrong gradient passes: {name}, entry {j}", file=sys.stderr)
            named = [f.index for f in wrong.findings] == [j] and wrong.findings[0].entries == 1
            self.wrong["named" if named else wrong.verdict.name] += 1
            self.evaluations.append(wrong.evaluations)


def by_precision(first: int, seeds: int) -> list[list[str]]:
    rows = []
    for name, (seen, given) in PRECISIONS.items():
        r, said = np.random.default_rng(3 + first), Verdicts()
        for whole in corpus(seeds, first):
            case = narrowed(whole, seen, given)
            g = case.g(case.x)
            if not (np.isfinite(case.f(case.x)) and np.all(np.isfinite(g)) and np.all(np.isfinite(case.x))):
                continue
            right = ds.check_gradient(case.f, case.x, gradient=case.g)
            wrong, j = None, 0
            if np.any(g):
                j = int(r.choice(np.flatnonzero(np.abs(g) > 0.1 * np.abs(g).max())))
                wrong = ds.check_gradient(case.f, case.x, gradient=spoiled(case, j, 1.1).g)
            said.take(f"{name}, {case.name}", right, wrong, (j,))
        rows.append(said.row(name))
    return rows


def by_chance(first: int, count: int) -> list[list[str]]:
    import torch

    from tests.gradients import expressions

    rows = []
    for name, given, compute in (
        ("float64", torch.float64, None),
        ("float32", torch.float32, torch.float32),
        ("float32 arrays, bfloat16 inside", torch.float32, torch.bfloat16),
        ("bfloat16 arrays, any dtype inside", torch.bfloat16, None),
    ):
        r, said = np.random.default_rng(5 + first), Verdicts()
        for seed in range(first, first + count):
            f = expressions.Expression(seed, compute)
            x = f.point(given)
            points = [t.double() for t in (x if isinstance(x, tuple) else (x,))]
            # Without its casts: where those alone make a gradient, a tenth of it is no error.
            whole = expressions.Expression(seed, None)
            sizes = [g.abs().numpy().ravel() for g in expressions.gradient(whole, points)]
            top = max(s.max() for s in sizes)
            right = ds.check_gradient(f, x)
            wrong, j = None, (0, 0)
            if top > 0 and np.isfinite(top):
                k = int(np.argmax([s.max() for s in sizes]))
                flat = int(r.choice(np.flatnonzero(sizes[k] > 0.1 * top)))
                j = tuple(int(i) for i in np.unravel_index(flat, f.shape))
                wrong = ds.check_gradient(f, x, gradient=expressions.spoiled(f, k, flat, 1.1))
            said.take(f"{name}, expression {seed}", right, wrong, j)
        rows.append(said.row(name))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=14, help="of each of the 37 families")
    parser.add_argument("--seed", type=int, default=0, help="the first seed of functions and expressions")
    parser.add_argument("--peers", type=int, default=2, help="seeds that the peers are run on too")
    parser.add_argument("--parts", default="corpus,sizes,precision,chance")
    parser.add_argument("--expressions", type=int, default=500)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    np.seterr(all="ignore")
    made, absent = checkers()
    for name in absent:
        print(f"not installed, left out: {name}")
    parts, found = args.parts.split(","), {}
    if "corpus" in parts:
        tallies = on_the_corpus(made, args.seed, args.seeds, args.peers)
        found["corpus"] = [tally.row(name) for name, tally in tallies.items() if tally.evaluations]
        head = ["checker", "alarms", "found", "named", "calls", "most", "ms"]
        show("Right functions, and one planted error in each (float64)", head, found["corpus"])
        spent = tallies["Downslope"].evaluations
        print(f"Downslope took more than 250 evaluations {sum(n > 250 for n in spent)} times of {len(spent)}")
    if "sizes" in parts:
        found["sizes"] = by_size(made)
        head = ["n", "checker", "found", "named", "calls", "ms"]
        show("One wrong entry among n: 1 %, 5 %, half, zero, sign", head, found["sizes"])
    if "precision" in parts:
        found["precision"] = by_precision(args.seed, args.seeds)
        show_both("The corpus below float64", found["precision"])
    if "chance" in parts:
        found["chance"] = by_chance(args.seed, args.expressions)
        show_both("Expressions put together at random", found["chance"])
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
