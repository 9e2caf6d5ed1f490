"""The limit of central differences as their step goes to zero, with an estimate of its error.

The central difference of a smooth function is c(h) = f' + a h² + b h⁴ + …, plus round-off of
about σ / h. Polynomials in h² through several steps are evaluated at h = 0 (Richardson; Ridders,
Advances in Engineering Software 4, 1982). The error of each is how far it lies from its neighbours
of lower order and of larger steps, plus the round-off that its weights let through; the best of them
is taken, and must agree with the second best.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

ORDERS = 5
"""Steps that one polynomial goes through at most."""


class Limit(NamedTuple):
    """A limit, its estimated error, the share of round-off in it, and the steps it was made from."""

    value: float
    error: float
    noise: float
    first: int
    last: int


def limit(steps: Sequence[float], differences: Sequence[float], noise: Sequence[float]) -> Limit:
    """Return the limit at step zero of differences taken at falling steps.

    Args:
        steps: falling, above 0.
        differences: the central difference at each.
        noise: the round-off of each difference, one standard deviation.

    >>> import math
    >>> h = [0.1 / 2**k for k in range(5)]
    >>> found = limit(h, [(math.exp(t) - math.exp(-t)) / (2 * t) for t in h], [1e-16 / t for t in h])
    >>> abs(found.value - 1) <= found.error < 1e-12
    True

    """
    table: dict[tuple[int, int], tuple[float, float]] = {}
    found: list[Limit] = []
    for last in range(len(steps)):
        for first in range(last, max(-1, last - ORDERS), -1):
            weights = _weights(steps[first : last + 1])
            value = sum(w * c for w, c in zip(weights, differences[first : last + 1], strict=True))
            passed = math.hypot(*(w * s for w, s in zip(weights, noise[first : last + 1], strict=True)))
            table[first, last] = (value, passed)
            near = [table[k] for k in ((first + 1, last), (first, last - 1)) if k in table]
            if len(near) < 2:  # a single difference: only the one before it says how far it is
                near = [table[last - 1, last - 1]] if first == last and last > 0 else []
            if near and math.isfinite(value):
                distance = max(abs(value - v) for v, _ in near)
                found.append(Limit(value, distance + 2 * passed, passed, first, last))
    if not found:
        return Limit(differences[-1] if differences else math.nan, math.inf, math.inf, 0, 0)
    found.sort(key=lambda one: one.error)
    best, others = found[0], [one for one in found[1:] if one.last != found[0].last]
    doubt = abs(best.value - others[0].value) if others and others[0].error < 30 * best.error else 0.0
    return best._replace(error=max(best.error, doubt))


def _weights(steps: Sequence[float]) -> list[float]:
    """Return the weights with which values at the steps give the polynomial in h² at 0."""
    squares = [h * h for h in steps]
    made = []
    for i, a in enumerate(squares):
        weight = 1.0
        for j, b in enumerate(squares):
            if j != i:
                weight *= b / (b - a)
        made.append(weight)
    return made
