"""Solvers against each other on published problems: who solves what, with how many evaluations.

    python benchmarks/solvers.py mgh nist             # some families: mgh, nist, sif, bounded, large, million
    python benchmarks/solvers.py --only l-bfgs sif    # one solver anew; the others as they were
    python benchmarks/solvers.py --missing large      # only what no run before has finished
    python benchmarks/solvers.py --table sif mgh      # the tables of what has been run

A problem is solved where ‖g‖∞ ≤ 1e-6 max(1, ‖g₀‖∞) at the point returned, g computed here; the solver's
own flag counts for nothing, but a flag of success on a problem that is not solved is a false one.
Beside it: the share within a value gap, (f - f*) / (f₀ - f*), f* the lowest that is known or any met.
Results go to runs/solvers/FAMILY.json, each as soon as it is there.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from timing import show

from downslope.solvers.methods import METHODS

FOLDER = Path("runs/solvers")


def evaluate(family: str, only: list[str], missing: bool) -> None:
    """Run the solvers on a family, or of them what is missing, and keep what they found."""
    from solver_methods import run, solvers
    from solver_optimistix import Peer
    from solver_problems import Counter, cases

    kept = read(family)
    chosen = {k: v for k, v in solvers(family).items() if not only or k in only}
    made = [c for c in cases(family) if np.isfinite(c.first).all()]
    kept["problems"] = {
        c.name: {"n": int(c.x0.size), "best": c.best, "start": c.first, "wanted": c.wanted} for c in made
    }
    for name in chosen:
        known = kept["solvers"].get(name, {}) if missing else {}
        kept["solvers"][name] = {n: r for n, r in known.items() if n in kept["problems"]}
    for case in made:
        left = {k: v for k, v in chosen.items() if case.name not in kept["solvers"][k]}
        if left and case.x0.size <= 100:  # compiled before the clock runs
            case.hessian(case.x0), case.product(case.x0, case.x0)
        for name, solver in left.items():
            if isinstance(solver, Peer):
                solver.compile(case)
            kept["solvers"][name][case.name] = _one(run, solver, Counter(case))
            write(family, kept)


def read(family: str) -> dict[str, Any]:
    """Return what has been found on a family so far."""
    path = FOLDER / f"{family}.json"
    return json.loads(path.read_text()) if path.exists() else {"problems": {}, "solvers": {}}


def write(family: str, kept: dict[str, Any]) -> None:
    """Keep it; wherever a run is killed, the file is whole."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    whole = FOLDER / f"{family}.new"
    whole.write_text(json.dumps(kept))
    whole.replace(FOLDER / f"{family}.json")


def _one(run: Any, solver: Any, counter: Any) -> dict[str, Any]:
    case = counter.case
    start = time.process_time()
    x, claimed, error = run(solver, counter)
    seconds = time.process_time() - start
    if x is None:
        f, size = case.first
    else:
        f, g = case.value_and_gradient(x)
        size = case.size(x, g)
    far = (
        case.bounds is not None
        and x is not None
        and not ((x >= case.bounds[0]) & (x <= case.bounds[1])).all()
    )
    return {
        "f": float(f), "g": size, "evaluations": counter.evaluations, "products": counter.products,
        "hessians": counter.hessians, "seconds": seconds, "claimed": claimed, "error": error,
        "solved": bool(size <= case.wanted * (1 + 1e-9) and not far),
        "x": None if x is None or x.size > 20 else [float(v) for v in x],
    }  # fmt: skip


def lowest(kept: dict[str, Any]) -> dict[str, float]:
    """Return the lowest value known, or met by any solver, of each problem."""
    found = {}
    for name, p in kept["problems"].items():
        met = [runs[name]["f"] for runs in kept["solvers"].values() if name in runs]
        met = [f for f in met if np.isfinite(f) and f > -1e20]
        found[name] = min([*met, p["start"][0]])
    return found


def gaps(kept: dict[str, Any], solver: str) -> dict[str, float]:
    """Return (f - f*) / (f₀ - f*) of a solver on each problem."""
    low, made = lowest(kept), {}
    for name, r in kept["solvers"][solver].items():
        fall = kept["problems"][name]["start"][0] - low[name]
        made[name] = (r["f"] - low[name]) / fall if fall > 0 else 0.0
    return made


def table(family: str) -> None:
    """Print what a family's runs came to."""
    kept = read(family)
    if not kept["problems"]:
        print(f"{family}: nothing in {FOLDER} yet; run it without --table")
        return
    if family == "nist":
        return certified(kept)
    rows = []
    names = list(kept["problems"])
    yardstick = kept["solvers"].get("SciPy L-BFGS-B", {})
    for solver, runs in kept["solvers"].items():
        gap = gaps(kept, solver)
        solved = [n for n in names if n in runs and runs[n]["solved"]]
        false = [n for n in names if n in runs and runs[n]["claimed"] and not runs[n]["solved"]]
        wrong = [n for n in false if gap[n] > 1e-8]
        near = [sum(runs[n]["solved"] and gap[n] <= g for n in solved) for g in (1e-3, 1e-8)]
        both = [n for n in solved if n in yardstick and yardstick[n]["solved"]]
        counts = [runs[n]["evaluations"] for n in both]
        ratio = [runs[n]["evaluations"] / yardstick[n]["evaluations"] for n in both]
        work = [runs[n]["products"] + runs[n]["hessians"] for n in solved]
        rows.append(
            [
                solver, f"{len(solved)}", *map(str, near), f"{len(false)} ({len(wrong)})",
                f"{np.median(counts):.0f}" if counts else "–", f"{np.median(ratio):.2f}" if ratio else "–",
                f"{np.median(work):.0f}" if any(work) else "",
            ]
        )  # fmt: skip
    columns = ["solver", "solved", "1e-3", "1e-8", "false", "evals", "ratio", "Hv, H"]
    show(f"{family}: {len(names)} problems", columns, rows)
    print("1e-3, 1e-8: solved, and the value gap within. false (in brackets: with a gap above 1e-8): success")
    print("claimed, not solved. evals, ratio: to SciPy L-BFGS-B, medians over what both solve.")
    profile(kept, "evaluations")
    profile(kept, "seconds")
    ours = [s for s in kept["solvers"] if s in METHODS]
    union = {n for n in names if any(kept["solvers"][s].get(n, {}).get("solved") for s in ours)}
    everyone = {n for n in names if any(r.get(n, {}).get("solved") for r in kept["solvers"].values())}
    print(f"solved by one of ours: {len(union)}, by any: {len(everyone)}, of {len(names)}")
    print("by none:", ", ".join(n for n in names if n not in everyone) or "–")
    print("by others only:", ", ".join(n for n in everyone - union) or "–")


def profile(kept: dict[str, Any], cost: str) -> None:
    """Print a Dolan-Moré profile: the share solved within so many times the least cost of any."""
    names, factors = list(kept["problems"]), (1, 1.5, 2, 4, 8, 16, np.inf)
    price = {
        s: {n: r[n][cost] if n in r and r[n]["solved"] else np.inf for n in names}
        for s, r in kept["solvers"].items()
    }
    least = {n: min(price[s][n] for s in price) for n in names}
    known = [n for n in names if np.isfinite(least[n])]
    rows = []
    for s in price:
        shares = [
            sum(np.isfinite(price[s][n]) and (f == np.inf or price[s][n] <= f * least[n]) for n in known)
            / len(names)
            for f in factors
        ]
        rows.append([s, *(f"{100 * share:.0f}" for share in shares)])
    rows.sort(key=lambda row: -sum(map(float, row[1:])))
    show(f"% solved within so many times the least {cost}", ["solver", *(f"{f:g}" for f in factors)], rows)


def certified(kept: dict[str, Any]) -> None:
    """Print how many of NIST's certified parameters were reached, to how many digits."""
    from downslope.tasks.problems.nist import certified as values

    rows = []
    for solver, runs in kept["solvers"].items():
        digits = {}
        for name, r in runs.items():
            exact = values(name.split(":")[1]).parameters
            off = np.abs(np.array(r["x"]) - exact) / np.abs(exact) if r["x"] is not None else np.inf
            digits[name] = float(np.min(-np.log10(np.maximum(off, 1e-11))))
        reached = [sum(d >= k for d in digits.values()) for k in (4, 6, 8)]
        counts = [runs[n]["evaluations"] for n in runs]
        lost = [n.removeprefix("nist:") for n, d in digits.items() if d < 6]
        rows.append(
            [solver, *map(str, reached), str(sum(counts)), f"{np.median(counts):.0f}", " ".join(lost)]
        )
    show("NIST, 54 runs", ["solver", "4 digits", "6", "8", "evals", "median", "fewer than 6"], rows)


def main() -> None:
    """Run or show what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("families", nargs="*", default=["mgh", "nist", "large", "million", "sif", "bounded"])
    parser.add_argument("--only", action="append", default=[], help="a solver; may be repeated")
    parser.add_argument("--missing", action="store_true", help="run only what no run before has finished")
    parser.add_argument("--table", action="store_true", help="show what has been run")
    asked = parser.parse_args()
    for family in asked.families:
        if not asked.table:
            evaluate(family, asked.only, asked.missing)
        table(family)


if __name__ == "__main__":
    main()
