"""What a function of `keras.ops` does with a variable that it was handed beside the data."""

from __future__ import annotations

from string import ascii_lowercase
from typing import Any

import keras
from keras import tree

from downslope.grouping.facts import Kind
from downslope.grouping.met import Meeting, Stage, contraction

RANKS = ("TopK", "Argmax", "Argmin", "Argsort", "Sort", "Argpartition")
PICKS = ("Take", "TakeAlongAxis")
_ADDS = ("Add", "Subtract", "Maximum", "Minimum", "Where")
_SCALES = ("Multiply", "Divide", "TrueDivide", "Power")
_CONVOLVES = {"Conv": "convolution", "ConvTranspose": "transposed convolution", "DepthwiseConv": "depthwise"}
_JOINS = ("Concatenate", "Stack", "Vstack", "Hstack")


def meetings_of(operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Stage:
    """Return how each variable among the arguments meets the data."""
    given = [*args, *kwargs.values()]
    flat = [v for v in tree.flatten(given) if isinstance(v, keras.Variable)]
    if not flat:
        return []
    name = type(operation).__name__
    if name == "Einsum":
        return _einsum(operation.subscripts, [t for t in tree.flatten(args) if hasattr(t, "shape")])
    found = []
    for i, v in enumerate(given):
        if isinstance(v, keras.Variable):
            other = next((t for j, t in enumerate(given) if j != i and hasattr(t, "shape")), None)
            found.append(_meeting(operation, name, v, i, other))
    found += [
        _plain(v, Kind.JOIN if name in _JOINS else Kind.UNKNOWN, name) for v in flat if _lacks(found, v)
    ]
    return found


def _lacks(found: Stage, variable: Any) -> bool:
    return not any(m.variable is variable for m in found)


def _meeting(operation: Any, name: str, v: Any, position: int, other: Any) -> Meeting:
    if name in ("Matmul", "Dot") and other is not None:
        letters = _product_letters(v, other, position)
        if letters:
            return contraction(v, *letters, name.lower())
    if name == "Tensordot" and other is not None:
        return contraction(v, *_tensordot_letters(operation.axes, v, other, position), "tensordot")
    if name in PICKS and position == 0:
        axis = (operation.axis or 0) % len(v.shape)
        rest = tuple(k for k in range(len(v.shape)) if k != axis)
        return Meeting(v, Kind.LOOKUP, "lookup", outputs=rest, inputs=(axis,))
    if name in _CONVOLVES and position == 1:
        return _convolution(v, name)
    if name in _ADDS:
        return _plain(v, Kind.ADDITION, name)
    if name in _SCALES:
        return _plain(v, Kind.SCALING, name)
    return _plain(v, Kind.UNKNOWN, name)


def _plain(v: Any, kind: Kind, name: str) -> Meeting:
    return Meeting(v, kind, name.lower(), outputs=tuple(range(len(v.shape))))


def _product_letters(v: Any, other: Any, position: int) -> tuple[str, str, str] | None:
    """Return the letters of a variable, of the data and of their product, as `matmul` reads them."""
    n, m = len(v.shape), len(other.shape)
    if n == 0 or m == 0:
        return None
    own = ascii_lowercase[: max(n - 2, 0)]  # axes that run beside the data's, if it has them
    lead = ascii_lowercase[: max(m - 2, 0)]
    own, lead = own[::-1], lead[::-1]  # the last of them meet one another
    if position == 0:
        mine, theirs, product = ("yk" if n > 1 else "k"), ("kz" if m > 1 else "k"), "yz"
    else:
        mine, theirs, product = ("kz" if n > 1 else "k"), ("yk" if m > 1 else "k"), "yz"
    kept = "".join(letter for letter in product if letter in mine + theirs)
    both = own if len(own) >= len(lead) else lead
    return own + mine, lead + theirs, both + kept


def _tensordot_letters(axes: Any, v: Any, other: Any, position: int) -> tuple[str, str, str]:
    n, m = len(v.shape), len(other.shape)
    if isinstance(axes, int):
        first = n if position == 0 else m
        pairs = list(zip(range(first - axes, first), range(axes), strict=True))
    else:
        left, right = (a if isinstance(a, (list, tuple)) else [a] for a in axes)
        pairs = list(zip(left, right, strict=True))
    if position == 1:
        pairs = [(b, a) for a, b in pairs]
    mine = list(ascii_lowercase[:n])
    theirs = list(ascii_lowercase[n : n + m])
    for a, b in pairs:
        theirs[b] = mine[a]
    summed = {mine[a] for a, _ in pairs}
    kept = [letter for letter in dict.fromkeys(mine + theirs) if letter not in summed]
    return "".join(mine), "".join(theirs), "".join(kept)


def _einsum(subscripts: str, operands: list[Any]) -> Stage:
    left, _, kept = subscripts.replace(" ", "").replace("...", "").partition("->")
    terms = left.split(",")
    if not _:
        kept = "".join(sorted(c for c in set(left) - {","} if left.count(c) == 1))
    found = []
    for i, (letters, v) in enumerate(zip(terms, operands, strict=False)):
        if isinstance(v, keras.Variable):
            others = "".join(t for j, t in enumerate(terms) if j != i)
            found.append(contraction(v, letters, others, kept, "einsum"))
    return found


def _convolution(v: Any, name: str) -> Meeting:
    n = len(v.shape)
    if name == "DepthwiseConv":
        return Meeting(v, Kind.CONVOLUTION, _CONVOLVES[name], (n - 1,), tuple(range(n - 2)), (n - 2,))
    out = n - 2 if name == "ConvTranspose" else n - 1
    inputs = tuple(axis for axis in range(n) if axis != out)
    return Meeting(v, Kind.CONVOLUTION, _CONVOLVES[name], (out,), inputs)
