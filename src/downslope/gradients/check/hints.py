"""What a wrong gradient has in common with a known mistake.

`patterns` makes whole gradients out of the claimed one, each as it would be had one mistake been
made; the search keeps one only where it explains residuals along several directions. `hint`
reads a single ratio.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import Enum
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from downslope.gradients.check.problem import Indices, Leaf, Problem, Vector

ZERO = "f does not depend on it, or is stationary here"
TELLING = 0.05
"""The doubt in a ratio up to which it is given a name."""


class Pattern(Enum):
    """One explanation for many entries."""

    FACTOR = "factor"
    TRANSPOSED = "it is the transpose of what is right"
    ROLLED = "it is right, but shifted by one place"
    REVERSED = "it is right, but in reverse order"
    SWAPPED = "it is right, but two arrays are exchanged"
    DETACHED = "claimed zero throughout: detached, or never written"
    THROUGHOUT = "wrong throughout, in no pattern known here"


class Factor(NamedTuple):
    """A factor and how far it may be off."""

    value: float
    doubt: float


def factor(seen: Sequence[tuple[float, float, float]]) -> Factor | None:
    """Return the constant by which claimed derivatives are to be multiplied, where one serves all.

    A fraction of small numbers within its doubt is taken for the factor itself.

    Args:
        seen: for each direction the residual, its error and the claimed derivative.

    >>> factor([(1.0, 1e-9, 1.0), (-3.0, 1e-9, -3.0)]).value
    2.0
    >>> factor([(1.0, 1e-9, 1.0), (-3.0, 1e-9, 2.0)]) is None
    True

    """
    if any(abs(claimed) <= 20 * error for _, error, claimed in seen):
        return None
    found = [1 + residual / claimed for residual, _, claimed in seen]
    doubts = [10 * error / abs(claimed) for _, error, claimed in seen]
    best = min(range(len(seen)), key=doubts.__getitem__)
    if max(found) - min(found) > max(doubts) + 1e-9 * max(map(abs, found)):
        return None
    value, doubt = found[best], doubts[best]
    plain = Fraction(value).limit_denominator(16)
    if abs(value - plain) <= doubt < 1e-4:
        return Factor(float(plain), 0.0)
    return Factor(value, doubt)


def patterns(problem: Problem, at: Indices, claimed: Vector) -> Iterator[tuple[Pattern, Vector]]:
    """Yield gradients on the entries `at` as they would be had one mistake been made."""
    leaves = [leaf for leaf in problem.leaves if leaf.stop > leaf.start]
    inside = [leaf for leaf in leaves if at[0] <= leaf.start and leaf.stop - 1 <= at[-1]]
    whole = sum(leaf.stop - leaf.start for leaf in inside) == at.size
    if not whole:
        return
    if len(inside) == 1:
        yield from _of_leaf(inside[0], claimed[at].reshape(inside[0].shape))
    for i, a in enumerate(inside):
        for b in inside[i + 1 :]:
            if a.shape == b.shape and len(inside) <= 8:
                swapped = claimed.copy()
                swapped[a.start : a.stop] = claimed[b.start : b.stop]
                swapped[b.start : b.stop] = claimed[a.start : a.stop]
                yield Pattern.SWAPPED, swapped[at]


def _of_leaf(leaf: Leaf, g: Vector) -> Iterator[tuple[Pattern, Vector]]:
    if g.ndim >= 2:
        # Of (m, n) read as if it were (n, m), and of a true transpose where m = n.
        yield (
            Pattern.TRANSPOSED,
            g.reshape((*g.shape[:-2], g.shape[-1], g.shape[-2])).swapaxes(-1, -2).ravel(),
        )
    for axis in range(g.ndim):
        if g.shape[axis] > 1:
            for shift in (1, -1):
                yield Pattern.ROLLED, np.roll(g, shift, axis).ravel()
            yield Pattern.REVERSED, np.flip(g, axis).ravel()


def hint(problem: Problem, j: int, analytic: float, numeric: float, error: float) -> str:
    """Return what one entry's numbers suggest, or nothing."""
    slack = 10 * error
    if not np.isfinite(analytic):
        return "not finite, though f is smooth here"
    if analytic == 0:
        return "claimed zero: detached, or never written"
    if abs(numeric) <= slack:
        return ZERO if abs(analytic) > 4 * slack else ""
    if abs(analytic + numeric) <= slack + 1e-6 * abs(numeric):
        return "opposite sign"
    return ratio_hint(problem, problem.leaf_of(j), analytic / numeric, abs(slack / numeric))


def ratio_hint(problem: Problem, leaf: Leaf, ratio: float, doubt: float) -> str:
    """Return what a ratio of claimed to measured suggests: a sign, a dimension, a plain number."""
    close = max(doubt, 1e-5)
    if not close <= TELLING:
        return ""
    near = [(value, said) for value, said in _known(problem, leaf) if abs(ratio / value - 1) <= close]
    # Two that the doubt cannot tell apart are none.
    alike = all(abs(value / near[0][0] - 1) < 1e-9 for value, _ in near)
    return near[0][1] if near and alike else ""


def _known(problem: Problem, leaf: Leaf) -> Iterator[tuple[float, str]]:
    """Yield ratios that mistakes make, with what they suggest; the likelier first."""
    yield -1.0, "opposite sign"
    yield 2.0, "2: a factor 2 too much"
    yield 0.5, "1/2: a factor 2 is missing"
    sizes: dict[int, str] = {}
    for axis, n in enumerate(leaf.shape):
        sizes.setdefault(n, f"axis {axis} of {leaf.name}")
    sizes.setdefault(leaf.stop - leaf.start, f"the size of {leaf.name}")
    sizes.setdefault(problem.size, "the number of all entries")
    for n, said in problem.facts.get("sizes", {}).items():
        sizes.setdefault(n, said)
    for n, said in sizes.items():
        if n > 1:
            yield float(n), f"{n} = {said}: a missing 1/{n} (a sum where f takes a mean?)"
            yield 1.0 / n, f"1/{n}, and {n} = {said}: a mean where f takes a sum?"
            yield float(n) ** 0.5, f"a factor √{n}, and {n} = {said}"
            yield float(n) ** -0.5, f"a factor √{n}, and {n} = {said}"
    for n in range(3, 17):
        yield float(n), f"a factor {n}"
        yield 1.0 / n, f"a factor 1/{n}"
