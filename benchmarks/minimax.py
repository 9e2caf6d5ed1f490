"""The coefficients of the set "minimax", computed anew.

    python benchmarks/minimax.py

Each step is the odd polynomial nearest to 1 on the interval that the step before leaves, found by
Remez's exchange in 40 digits: the first on [1e-3, 1], and every interval a little wider at both
ends, for rounding. It is then written as `downslope.rules.polynomials` evaluates it. Of the ways to
write it the one is printed whose largest intermediate number is the smallest.

In half precision rounding moves the largest singular values by some percent, which a steep step lifts
beyond what the next one bears. So the high degrees come last, and a cushion (Amsel et al., 2025) keeps the
first steps flat at the upper end. Degrees and margins were chosen among some 300 by what bfloat16 leaves
of matrices of many spectra: flat, falling, with gaps, of low rank, of condition 1e8.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import mpmath
import numpy as np

SETS = {
    "float32 and wider": ((9, 17, 17), (1.01, 1.01, 1.01), 0.0),
    "half precision": ((5, 5, 9, 9), (1.01, 1.01, 1.01, 1.03), 0.024),
}
"""Degrees; how much wider an interval is taken than what the step before leaves, for rounding; and the
cushion: no interval begins below that share of its end."""


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


def as_degree9(q: np.ndarray, h: float, z: np.ndarray) -> Iterator[tuple[float, dict[str, float]]]:
    (a, b), (c, d), (e, _) = digits(q, h)
    W = z * z - h * z
    parts = (b * z, c * W, d * z, e * W, d * z + e * W, W * (d * z + e * W))
    row = {"a": a, "b": b, "c": c, "d": d, "e": e}
    yield max(float(np.abs(part).max()) for part in parts), row


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


def as_degree5(q: np.ndarray, h: float, z: np.ndarray) -> Iterator[tuple[float, dict[str, float]]]:
    yield float(np.abs(q).max()), dict(zip("abc", map(float, q), strict=True))


WRITE = {5: as_degree5, 9: as_degree9, 17: as_degree17}


def main() -> None:
    mpmath.mp.dps = 40
    for name, (degrees, margins, cushion) in SETS.items():
        print(name)
        low, high = mpmath.mpf("1e-3"), mpmath.mpf(1)
        for degree, margin in zip(degrees, margins, strict=True):
            low, high = step(degree, low, high, margin, cushion)


def step(
    degree: int, low: mpmath.mpf, high: mpmath.mpf, margin: float, cushion: float
) -> tuple[mpmath.mpf, mpmath.mpf]:
    """Print the coefficients of a step for singular values in [low, high]; return where it leaves them."""
    end = high * margin
    coefficients, error = remez(max(low / margin, high * cushion), end, (degree + 1) // 2)
    u = float(end) ** 2
    q = np.array([float(c * end ** (2 * j)) for j, c in enumerate(coefficients)])
    z = np.linspace(0, 1, 2001)
    ways = [(*way, h) for h in np.linspace(0, 2, 161) for way in WRITE[degree](q, float(h), z)]
    size, row, h = min(ways, key=lambda way: way[0])
    if degree == 5:
        row = {"a": row["a"], "b": row["b"] / u, "c": row["c"] / u**2}
    else:
        row = {"w2": 1 / u**2, "w1": -float(h) / u, **row}
        for name in {"b", "d", "c1", "d1", "f1"} & row.keys():  # what multiplies z = R / u
            row[name] /= u
    from_low = sum(c * low ** (2 * j + 1) for j, c in enumerate(coefficients))
    low, high = min(from_low, 1 - error), 1 + error
    print(f"Degree{degree}: leaves [{float(low):.6f}, {float(high):.6f}], no number beyond {size:.0f}")
    for name, value in row.items():
        print(f"    {name} = {value!r}")
    return low, high


if __name__ == "__main__":
    main()
