"""Functions that cast their argument: on which grid they see it, found by asking.

A function that computes in bfloat16 inside is a staircase of what it is given in float32. On the points
that bfloat16 has, it is the function that was meant, and its gradient the one that is claimed.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from downslope.gradients.check.problem import Problem, Vector, length

BITS = {"bfloat16": 8, "float16": 11, "float32": 24}
"""Binary digits of each dtype's numbers, the leading one counted; TF32 has those of float16."""

Seen = tuple[float, Vector]
"""A value and a gradient at one point."""

COARSE = 2.0**-11
"""From this unit on, one step of the grid moves a smooth function visibly."""


def rounded(x: Vector, bits: int) -> Vector:
    """Return the nearest numbers of so many binary digits.

    >>> rounded(np.array([1.0, 1.003, 1.006, -300.7]), 8).tolist()
    [1.0, 1.0, 1.0078125, -300.0]

    """
    mantissa, exponent = np.frexp(x)
    made: Vector = np.ldexp(np.round(np.ldexp(mantissa, bits)), exponent - bits)
    return made


def cell(x: Vector, unit: float) -> Vector:
    """Return the distance of neighbouring numbers at x, where at 1 it is `unit`."""
    _, exponent = np.frexp(x)
    made: Vector = np.ldexp(unit, exponent - 1)
    return made


def find(problem: Problem, generator: np.random.Generator) -> str:
    """Move the problem onto the coarsest grid on which its function sees x; return its dtype, or "".

    Asked is, at points beside x, whether rounding them changes the value or any entry of the gradient. That
    nothing changes says nothing where it would be too little to be seen, and where neither moves anyway.
    """
    near = _beside(problem, generator)
    f = g = here = None
    for dtype, bits in BITS.items():
        if 2.0 ** (1 - bits) <= problem.grid:
            continue
        moved = rounded(near, bits)
        if np.array_equal(moved, near):
            continue
        f = problem.f(near) if f is None else f
        if problem.f(moved) != f:
            continue
        g = problem.g(near) if g is None else g
        if not np.array_equal(problem.g(moved), g, equal_nan=True):
            continue
        here = here or (problem.f(problem.x), problem.g(problem.x))
        if not _visible(moved - near, near - problem.x, (f, g), here[0]):
            continue
        on_grid = rounded(problem.x, bits)
        if not _same(here, (problem.f(on_grid), problem.g(on_grid))):
            continue
        still = np.array_equal(g, here[1], equal_nan=True)
        if still and not _moves(problem, generator, bits, f):
            continue
        problem.round = _composed(problem.round, bits)
        problem.x, problem.grid = on_grid, 2.0 ** (1 - bits)
        return dtype
    return ""


def _beside(problem: Problem, generator: np.random.Generator) -> Vector:
    made: Vector = problem.round(problem.x * (1 + 2.0**-6 * generator.uniform(-1, 1, problem.size)))
    return made


def _visible(step: Vector, way: Vector, near: Seen, here: float) -> bool:
    """Whether a function that does not round would have moved by more than its last digits.

    Args:
        step: by which rounding moved the point beside x.
        way: to that point.
        near: value and gradient there.
        here: the value at x.

    """
    f, g = near
    by_slope = abs(float(np.where(np.isfinite(g), g, 0.0) @ step))
    by_value = abs(f - here) * length(step) / length(way) if way.any() else 0.0
    return max(by_slope, by_value) > 2.0**-49 * abs(f)


def _moves(problem: Problem, generator: np.random.Generator, bits: int, f: float) -> bool:
    """Whether a function of constant gradient takes another value at every point, and so sees the grid.

    At the next point of the grid too: a function that is flat but for wide jumps has the same value there.
    """
    values = [f]
    for _ in range(3):
        near = _beside(problem, generator)
        on_grid = rounded(near, bits)
        values.append(problem.f(near))
        following = on_grid + cell(on_grid, 2.0 ** (1 - bits)) * np.sign(on_grid)
        if problem.f(on_grid) != values[-1] or problem.f(following) == values[-1]:
            return False
    return len(set(values)) == len(values)


def _composed(first: Callable[[Vector], Vector], bits: int) -> Callable[[Vector], Vector]:
    return lambda v: rounded(first(v), bits)


def _same(one: Seen, other: Seen) -> bool:
    return one[0] == other[0] and np.array_equal(one[1], other[1], equal_nan=True)
