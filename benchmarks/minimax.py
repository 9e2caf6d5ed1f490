"""The coefficients of the set "minimax", computed anew.

    python benchmarks/minimax.py

Each step is the odd polynomial nearest to 1 on the interval that the step before leaves, found by
Remez's exchange in 40 digits: the first on [1e-3, 1], and every interval one percent wider at both
ends, for rounding. It is then written as `downslope.rules.polynomials` evaluates it. Of the ways to
write it the one is printed whose largest intermediate number is the smallest.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import mpmath
import numpy as np

DEGREES = (9, 17, 17)
SAFETY = 1.01


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


def main() -> None:
    mpmath.mp.dps = 40
    low, high = mpmath.mpf("1e-3"), mpmath.mpf(1)
    for degree in DEGREES:
        coefficients, error = remez(low / SAFETY, high * SAFETY, (degree + 1) // 2)
        u = float(high * SAFETY) ** 2
        q = np.array([float(c * (high * SAFETY) ** (2 * j)) for j, c in enumerate(coefficients)])
        write = as_degree9 if degree == 9 else as_degree17
        z = np.linspace(0, 1, 2001)
        ways = [(*way, h) for h in np.linspace(0, 2, 161) for way in write(q, float(h), z)]
        size, row, h = min(ways, key=lambda way: way[0])
        row = {"w2": 1 / u**2, "w1": -float(h) / u, **row}
        for name in {"b", "d", "c1", "d1", "f1"} & row.keys():  # what multiplies z = R / u
            row[name] /= u
        low, high = 1 - error, 1 + error
        print(f"Degree{degree}: leaves [{float(low):.6f}, {float(high):.6f}], no number beyond {size:.0f}")
        for name, value in row.items():
            print(f"    {name} = {value!r}")


if __name__ == "__main__":
    main()
