"""How far a computed function is from smooth: its noise, estimated from a few values.

Values at equally spaced points along a line are differenced again and again: what is smooth fades
with each difference, what is noise grows in a known way (Moré and Wild, Estimating computational
noise, SIAM J. Sci. Comput. 33, 2011). About eight evaluations tell the standard deviation of rounding
errors, of an inner iteration's tolerance, or of a simulation's randomness alike.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

POINTS = 7
"""Values a try takes; the difference table has as many levels less one."""

TRIES = 5


def estimate_noise(
    f: Callable[[NDArray[np.floating]], NDArray[np.floating]],
    x: NDArray[np.floating],
    scale: NDArray[np.floating],
) -> NDArray[np.floating]:
    """Return the standard deviation of the noise of each component of `f`.

    Args:
        f: takes x (..., n) and returns numbers of any shape; it is called 7 to 35 times.
        x: where, (..., n).
        scale: what is a natural step of each entry, (..., n).

    Where no try tells noise from the function, half the spacing of floating point numbers at f(x).

    >>> rng = np.random.default_rng(0)
    >>> noisy = lambda x: np.asarray(np.sum(x**2) + 1e-6 * rng.standard_normal())
    >>> bool(3e-7 < estimate_noise(noisy, np.ones(3), np.ones(3)) < 3e-6)
    True

    """
    eps = np.finfo(x.dtype).eps
    signs = np.random.default_rng(0).choice([-1.0, 1.0], size=x.shape[-1]).astype(x.dtype)
    step = eps**0.75
    for _ in range(TRIES):
        at = [x + (i * step) * signs * scale for i in range(-(POINTS // 2), POINTS // 2 + 1)]
        values = np.stack([np.asarray(f(point), dtype=np.float64) for point in at])
        if not np.isfinite(values).all():
            step /= 100
            continue
        floor = 0.5 * eps * np.max(np.abs(values), axis=0)
        found, flat, steep = _from_table(values)
        if np.mean(flat) > 0.5:  # of the components: most values are the same number
            step *= 100
        elif np.mean(steep) > 0.5:
            step /= 100
        else:
            return np.asarray(np.maximum(np.where(np.isfinite(found), found, floor), floor))
    centre = np.asarray(f(x), dtype=np.float64)
    size = np.where(np.isfinite(centre), np.abs(centre), 1.0)
    return np.asarray(np.maximum(0.5 * eps * size, np.finfo(x.dtype).tiny))


def _from_table(
    values: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]:
    """Return the noise of each component (NaN: not told), and where the steps were too small or too large."""
    flat = np.sum(np.diff(values, axis=0) == 0, axis=0) >= POINTS // 2
    spread = np.max(values, axis=0) - np.min(values, axis=0)
    steep = spread > 0.1 * np.max(np.abs(values), axis=0)
    table, gamma = values, 1.0
    levels, mixed = [], []
    for k in range(1, POINTS):
        table = np.diff(table, axis=0)
        gamma *= 0.5 * k / (2 * k - 1)
        levels.append(np.sqrt(gamma * np.mean(table**2, axis=0)))
        mixed.append((table.min(axis=0) < 0) & (table.max(axis=0) > 0))
    found = np.full(values.shape[1:], np.nan)
    for k in range(POINTS - 4, -1, -1):  # the first level counts that agrees with the two after it
        three = np.stack(levels[k : k + 3])
        agree = (three.max(axis=0) <= 4 * three.min(axis=0)) & mixed[k]
        found = np.where(agree, levels[k], found)
    return found, flat, steep & np.isnan(found)
