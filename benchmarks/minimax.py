"""The coefficients of the set "minimax", computed anew.

    python benchmarks/minimax.py

Each step is the odd polynomial nearest to 1 on the interval that the step before leaves: the first on
[1e-3, 1], and every interval a little wider at both ends, for rounding. Those of degree 5 and 17 are found by
Remez's exchange in 40 digits, those of degree 9 among the polynomials that `Degree9` evaluates, by linear
programming. Degree 17 is then written as `downslope.rules.polynomials` evaluates it; of the ways to write it
the one is printed whose largest intermediate number is the smallest.

In half precision rounding moves the largest singular values by some percent, which a steep step lifts
beyond what the next one bears. So gentle steps stand at both ends, and a cushion (Amsel et al., 2025) keeps
the first ones flat at the upper end. Order, margins and cushion were chosen among some thousand by what
bfloat16 leaves of matrices of many spectra (flat, falling, with gaps, of low rank, of condition 1e8) in
random bases, of permutations, and with a column of equal entries, whose rounding errors all point one way.
The last step is multiplied by a number that keeps all singular values below 1.2, as Keller Jordan's do.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import mpmath
import numpy as np
from scipy.optimize import linprog, minimize_scalar

from downslope.rules.polynomials import Degree5, Degree9, Degree17

SETS = {
    "float32 and wider": ((9, 17, 17), (1.01, 1.01, 1.01), 0.0, 1.0),
    "half precision": ((5, 9, 9, 5), (1.02, 1.02, 1.12, 1.03), 0.024, 0.92),
}
"""Degrees; how much wider an interval is taken than what the step before leaves, for rounding; the cushion:
no interval begins below that share of its end; and what the last step, of degree 5, is multiplied by."""


def remez(low: mpmath.mpf, high: mpmath.mpf, terms: int) -> tuple[list[mpmath.mpf], mpmath.mpf]:
    """Return the coefficients of x, x³, … nearest to 1 on [low, high], and the largest error."""
    points = [low + (high - low) * (1 - mpmath.cos(mpmath.pi * i / terms)) / 2 for i in range(terms + 1)]
    while True:
        rows = mpmath.matrix(terms + 1, terms + 1)
        for i, x in enumerate(points):
            for j in range(terms):
                rows[i, j] = x ** (2 * j + 1)
            rows[i, terms] = (-1) ** i
        solved = mpmath.lu_solve(rows, mpmath.matrix([1] * (terms + 1)))
        slope = [(2 * j + 1) * solved[j] for j in reversed(range(terms))]
        roots = mpmath.polyroots(slope, maxsteps=500, extraprec=200)
        found = sorted(mpmath.sqrt(mpmath.re(y)) for y in roots)
        moved = [low, *found, high]
        done = max(abs(a - b) for a, b in zip(moved, points, strict=True)) < mpmath.mpf(10) ** -20
        points = moved
        if done:
            return [solved[j] for j in range(terms)], abs(solved[terms])


def digits(q: np.ndarray, h: float) -> list[tuple[float, float]]:
    """Return (a, b) of each power in q(z) = Σ (a + b z) Wⁱ, with W = z² - h z."""
    rest, found = q.astype(np.longdouble), []
    while len(rest) > 2:
        quotient = np.zeros(len(rest) - 2, np.longdouble)
        for i in reversed(range(len(quotient))):
            quotient[i] = rest[i + 2]
            rest[i : i + 3] -= quotient[i] * np.array([0, -h, 1], np.longdouble)
        found.append((float(rest[0]), float(rest[1])))
        rest = quotient
    return [*found, (float(rest[0]), float(rest[1]) if len(rest) > 1 else 0.0)]


def as_degree17(q: np.ndarray, h: float, z: np.ndarray) -> Iterator[tuple[float, dict[str, float]]]:
    """Solve for T = W (c1 z + c2 W) and the rest, power by power from the highest."""
    (f0, f1), (f2, zw), (w2, zw2), (w3, zw3), (w4, _) = digits(q, h)
    if w4 <= 0:
        return
    W = z * z - h * z
    for c2 in (math.sqrt(w4), -math.sqrt(w4)):
        c1 = zw3 / (2 * c2)
        both = (w3 - c1**2) / c2  # d2 + e
        d1 = (zw2 - c1**2 * h - both * c1) / c2
        A, B = w2 - d1 * c1, zw - d1 * c1 * h
        quadratic = (c1 / c2, d1 - c1 / c2 * both, c1 / c2 * A - B)
        for e in np.roots(quadratic):
            if abs(e.imag) > 0:
                continue
            e = float(e.real)
            d2, f3 = both - e, (A - (both - e) * e) / c2
            T = W * (c1 * z + c2 * W)
            left, right = d1 * z + d2 * W + T, e * W + T
            low = f0 + f1 * z + f2 * W + f3 * T
            parts = (T, left, right, low, c1 * z + c2 * W, f3 * T, f2 * W, f1 * z, d2 * W, d1 * z, e * W)
            row = {"c2": c2, "c1": c1, "d2": d2, "d1": d1, "e": e, "f3": f3, "f2": f2, "f1": f1, "f0": f0}
            yield max(float(np.abs(part).max()) for part in parts), row


def degree5(low: mpmath.mpf, high: mpmath.mpf) -> tuple[dict[str, float], float, float]:
    """Return the coefficients, the error and the largest number that is added up."""
    q, error = remez(low, high, 3)
    row = {name: float(number) for name, number in zip("abc", q, strict=True)}
    return row, float(error), max(abs(float(c * high ** (2 * j))) for j, c in enumerate(q))


def degree9(low: mpmath.mpf, high: mpmath.mpf) -> tuple[dict[str, float], float, float]:
    """As `degree5`: of s (a + c W + W²), with W = w2 (z² - h z), z = (s/high)²."""
    share = float(low / high)
    s = np.unique(np.concatenate([np.geomspace(share, 1, 2001), np.linspace(share, 1, 2001)]))

    def fitted(h: float) -> tuple[float, np.ndarray]:
        W = s**4 - h * s**2
        basis = np.stack([s, s * W, s * W * W], axis=1)
        sides = np.block([[basis, -np.ones((len(s), 1))], [-basis, -np.ones((len(s), 1))]])
        limits = np.r_[np.ones(len(s)), -np.ones(len(s))]
        found = linprog([0, 0, 0, 1], A_ub=sides, b_ub=limits, bounds=[(None, None)] * 3 + [(0, None)])
        return float(found.x[-1]), found.x[:-1]

    h = float(minimize_scalar(lambda h: fitted(h)[0], bounds=(0.9, 1.3), options={"xatol": 1e-7}).x)
    q = fitted(h)[1]
    between = np.linspace(share, 1, 400_001)  # at its end the next step is steep
    W = between**4 - h * between**2
    error = float(np.abs(between * (q[0] + W * (q[1] + q[2] * W)) - 1).max())
    a, c, e = q / float(high)
    u, k = float(high) ** 2, math.sqrt(e)
    W = k * (s**4 - h * s**2)
    size = max(float(np.abs(part).max()) for part in (c / k * W, W * W))
    row = {"w2": k / u**2, "w1": -h * k / u, "c": c / k, "a": a}
    return {name: float(number) for name, number in row.items()}, error, size


def degree17(low: mpmath.mpf, high: mpmath.mpf) -> tuple[dict[str, float], float, float]:
    """As `degree5`."""
    coefficients, error = remez(low, high, 9)
    u = float(high) ** 2
    q = np.array([float(c * high ** (2 * j)) for j, c in enumerate(coefficients)])
    z = np.linspace(0, 1, 2001)
    ways = [(*way, h) for h in np.linspace(0, 2, 161) for way in as_degree17(q, float(h), z)]
    size, row, h = min(ways, key=lambda way: way[0])
    row = {"w2": 1 / u**2, "w1": -float(h) / u, **row}
    for name in ("c1", "d1", "f1"):  # what multiplies z = R / u
        row[name] /= u
    return row, float(error), size


NEAREST = {5: degree5, 9: degree9, 17: degree17}
STEPS = {5: Degree5, 9: Degree9, 17: Degree17}


def main() -> None:
    mpmath.mp.dps = 40
    for name, (degrees, margins, cushion, end) in SETS.items():
        print(name)
        low, high = mpmath.mpf("1e-3"), mpmath.mpf(1)
        for k, (degree, margin) in enumerate(zip(degrees, margins, strict=True), start=1):
            row, error, size = NEAREST[degree](max(low / margin, high * cushion), high * margin)
            low, high = min(low * STEPS[degree](**row).at(low * low), 1 - error), mpmath.mpf(1 + error)
            if k == len(degrees) and end != 1:
                row, low, high = {n: end * value for n, value in row.items()}, end * low, end * high
            left = f"[{float(low):.6f}, {float(high):.6f}]"
            print(f"Degree{degree}: leaves {left}, no number beyond {size:.0f}")
            for n, value in row.items():
                print(f"    {n} = {value!r}")


if __name__ == "__main__":
    main()
