"""Numbers and entries as the report says them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from downslope.gradients.check.problem import Indices, Leaf, Problem


def scientific(value: float) -> str:
    """Return a size to two digits.

    >>> scientific(3.21e-9), scientific(0.25), scientific(0.0)
    ('3.2e-09', '0.25', '0')
    """
    return f"{value:.2g}"


def short(seconds: float) -> str:
    """Return seconds as people read them.

    >>> short(0.01234), short(12.345)
    ('0.012', '12.3')
    """
    return f"{seconds:.1f}" if seconds >= 10 else f"{seconds:.2g}"


def region(problem: Problem, at: Indices) -> str:
    """Return which entries `at` are: whole arrays, rows, or how many of which array."""
    return ", ".join(_of_leaf(leaf, inside) for leaf, inside in by_leaf(problem, at))


def by_leaf(problem: Problem, at: Indices) -> Iterator[tuple[Leaf, Indices]]:
    """Yield each array that has entries among `at`, with these."""
    for leaf in problem.leaves:
        inside = at[(at >= leaf.start) & (at < leaf.stop)]
        if inside.size:
            yield leaf, inside


def _of_leaf(leaf: Leaf, inside: Indices) -> str:
    size = leaf.stop - leaf.start
    if inside.size == size:
        return f"all of {leaf.name}" if size > 1 else leaf.name
    places = np.unravel_index(inside - leaf.start, leaf.shape)
    box = [(int(p.min()), int(p.max()) + 1) for p in places]
    if int(np.prod([b - a for a, b in box])) == inside.size:
        said = [
            ":" if b - a == n and n > 1 else str(a) if b - a == 1 else f"{a}:{b}"
            for (a, b), n in zip(box, leaf.shape, strict=True)
        ]
        return f"{leaf.name}[{', '.join(said)}]"
    return f"{inside.size:,} of {size:,} entries of {leaf.name}"
