"""Bounds as vectors: from a pair of arrays, SciPy's list of pairs, or SciPy's `Bounds`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from downslope.errors import UsageError, a_type
from downslope.gradients.structure import Structure

Vector = NDArray[np.float64]


def bounds_of(given: Any, structure: Structure) -> tuple[Vector, Vector] | None:
    """Return lower and upper bounds (n,) or (B, n) in float64, or None where nothing is bounded.

    Args:
        given: (low, high), each a number, None or nested as x0, with an array, a number or None for each
            array; a list of n pairs
            (low, high) with None for no bound; or SciPy's `Bounds`.
        structure: of x0.

    Raises:
        UsageError: another form or length, NaN, or a lower bound above its upper one.

    """
    if given is None:
        return None
    if hasattr(given, "lb") and hasattr(given, "ub"):
        low, high = _side(given.lb, -np.inf, structure), _side(given.ub, np.inf, structure)
    elif _are_pairs(given, structure):
        columns = np.array(
            [[-np.inf if a is None else a, np.inf if b is None else b] for a, b in given], np.float64
        )
        low, high = columns.T.copy()
    elif isinstance(given, (tuple, list)) and len(given) == 2:
        low, high = _side(given[0], -np.inf, structure), _side(given[1], np.inf, structure)
    else:
        raise UsageError(
            f"bounds are {_shown(given)}: expected (low, high), or {structure.size} pairs (low, high), "
            "one for each entry of x0"
        )
    for side, values in (("lower", low), ("upper", high)):
        if np.isnan(values).any():
            at = int(np.argwhere(np.isnan(values))[0][-1])
            raise UsageError(f"the {side} bound of x0{structure.where(at)} is NaN: expected a number or None")
    nowhere = np.argwhere(np.isposinf(low) | np.isneginf(high))
    if len(nowhere):
        at = int(nowhere[0][-1])
        raise UsageError(
            f"bounds of x0{structure.where(at)} leave no number: expected low < inf, high > -inf"
        )
    crossing = np.argwhere(low > high)
    if len(crossing):
        first = tuple(int(i) for i in crossing[0])
        raise UsageError(
            f"bounds of x0{structure.where(first[-1])} cross: {low[first]:g} > {high[first]:g}; "
            "expected low ≤ high"
        )
    if np.isneginf(low).all() and np.isposinf(high).all():
        return None
    return low, high


def _are_pairs(given: Any, structure: Structure) -> bool:
    """Whether there is a pair for each entry.

    Of two unknowns, two pairs and two sides look alike: a tuple of two lists or arrays is (low, high),
    everything else SciPy's pairs.
    """
    if not isinstance(given, (tuple, list, np.ndarray)) or len(given) != structure.size:
        return False
    if structure.size == 2 and isinstance(given, tuple) and not all(isinstance(p, tuple) for p in given):
        return False

    def plain(pair: Any) -> bool:
        flat = isinstance(pair, (tuple, list, np.ndarray)) and len(pair) == 2
        return flat and all(v is None or np.ndim(v) == 0 for v in pair)

    return all(plain(pair) for pair in given)


def _side(value: Any, nothing: float, structure: Structure) -> Vector:
    whole = (structure.size,) if structure.batch is None else (structure.batch, structure.size)
    if value is None:
        return np.full(whole, nothing)
    if np.isscalar(value):
        return np.full(whole, float(value))  # type: ignore[arg-type]
    if isinstance(value, (list, tuple)) and structure.flat:
        value = np.array([nothing if v is None else v for v in value], np.float64)
    try:
        array = np.asarray(_to_numpy(value), np.float64)
        if structure.flat:
            return np.broadcast_to(array, whole).copy()
    except (TypeError, ValueError):
        if structure.flat:
            found = _shown(value)
            raise UsageError(f"bounds: one side is {found}, expected {structure.size} numbers") from None
    shapes = iter(range(len(structure.parts)))

    def filled(leaf: Any) -> Any:
        index = next(shapes)
        if leaf is None or np.ndim(_to_numpy(leaf)) == 0:
            return np.full(structure.whole(index), nothing if leaf is None else float(leaf))
        return np.asarray(_to_numpy(leaf), np.float64)

    return np.asarray(structure.flatten(value, "bounds", filled)).reshape(whole)


def _to_numpy(value: Any) -> Any:
    return value.detach().cpu().numpy() if hasattr(value, "detach") else value


def _shown(given: Any) -> str:
    length = f" of length {len(given)}" if hasattr(given, "__len__") else ""
    return f"{a_type(given)}{length}"
