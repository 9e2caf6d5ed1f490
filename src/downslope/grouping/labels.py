"""Where the axes of a parameter lie in a tensor made from it.

A tensor's axis is described by factors, major to minor: each is a run of positions on one axis
of the origin (start, step, size), or a foreign axis of that size. A (3·H·D, C) weight that is
viewed as (3, H, D, C) then has the axes 0·step H·D, 0·step D, 0·step 1, and 1. Views, slices and
permutations only rearrange factors, so that a contraction that is met much later can still say
which axes of the parameter it sums over, and a split which part of the outputs it takes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod


@dataclass(frozen=True, slots=True)
class Factor:
    """A run of positions along one axis of the origin; `axis` None is foreign, `start` -1 unknown."""

    axis: int | None
    size: int
    start: int = 0
    step: int = 1


# The axis along which results of different origins were lined up.
MEMBERS = -1

Dim = tuple[Factor, ...]
Dims = tuple[Dim, ...]


def of_shape(shape: Sequence[int]) -> Dims:
    """Return the labels of the origin itself."""
    return tuple((Factor(axis, size),) if size != 1 else () for axis, size in enumerate(shape))


def foreign(size: int) -> Dim:
    """Return an axis that is not the origin's."""
    return (Factor(None, size),) if size != 1 else ()


def size_of(dim: Dim) -> int:
    """Return how many positions an axis has."""
    return prod(f.size for f in dim)


def axes_of(dims: Sequence[Dim]) -> frozenset[int]:
    """Return the origin's axes that occur."""
    return frozenset(f.axis for dim in dims for f in dim if f.axis is not None and f.axis != MEMBERS)


def regroup(dims: Dims, shape: Sequence[int]) -> Dims:
    """Return the labels after a reshape: factors are cut and gathered as the sizes ask."""
    if tuple(map(size_of, dims)) == tuple(shape):
        return dims
    flat = [f for dim in dims for f in dim][::-1]
    new: list[Dim] = []
    for size in shape:
        dim: list[Factor] = []
        have = 1
        while have < size:
            if not flat:
                return blurred(dims, shape)
            f = flat.pop()
            need = size // have
            if size % have or (f.size % need and need % f.size):
                return blurred(dims, shape)
            if f.size > need:
                inner = f.size // need
                flat.append(replace(f, size=inner))
                start = f.start if f.start >= 0 else -1
                f = Factor(f.axis, need, start, f.step * inner)
                flat[-1] = Factor(f.axis, inner, 0 if start >= 0 else -1, flat[-1].step)
            dim.append(f)
            have *= f.size
        if have != size:
            return blurred(dims, shape)
        new.append(_merged(dim))
    return tuple(new)


def _merged(dim: Sequence[Factor]) -> Dim:
    """Return the labels of an axis with runs that continue each other, as after a view and back, made one."""
    runs: list[Factor] = []
    for f in dim:
        last = runs[-1] if runs else None
        if last and last.axis == f.axis and last.start >= 0 == f.start and last.step == f.size * f.step:
            runs[-1] = Factor(f.axis, last.size * f.size, last.start, f.step)
        else:
            runs.append(f)
    return tuple(runs)


def blurred(dims: Sequence[Dim], shape: Sequence[int]) -> Dims:
    """Return labels for a rearrangement that the factors do not show: all axes on the longest one."""
    axes = sorted(axes_of(dims))
    new = [foreign(size) for size in shape]
    if axes and shape:
        where = max(range(len(shape)), key=lambda i: shape[i])
        new[where] = (Factor(axes[0], shape[where], -1), *(Factor(a, 1, -1) for a in axes[1:]))
    return tuple(new)


def cut(dim: Dim, start: int, stop: int, step: int = 1) -> Dim:
    """Return the labels of a slice of an axis."""
    size = len(range(start, stop, step))
    if not dim or (start, size, step) == (0, size_of(dim), 1):
        return dim
    inner = size_of(dim[1:])
    first = dim[0]
    if inner == 1 and first.start >= 0:
        return (
            replace(first, size=size, start=first.start + start * first.step, step=first.step * step),
            *dim[1:],
        )
    if step == 1 and start % inner == 0 and stop % inner == 0 and first.start >= 0:
        low, n = start // inner, size // inner
        return (replace(first, size=n, start=first.start + low * first.step), *dim[1:])
    axes = sorted(axes_of((dim,)))
    return (Factor(axes[0], size, -1), *(Factor(a, 1, -1) for a in axes[1:])) if axes else foreign(size)


def shifted(dims: Dims, taken: Dim) -> Dims:
    """Return the labels where one position of a dropped axis was taken: what is left starts there."""
    new = list(dims)
    for gone in taken:
        if gone.axis is None:
            continue
        for k, dim in enumerate(new):
            at = next((j for j, f in enumerate(dim) if f.axis == gone.axis), None)
            if at is not None:
                known = dim[at].start >= 0 and gone.start >= 0
                moved = replace(dim[at], start=dim[at].start + gone.start if known else -1)
                new[k] = (*dim[:at], moved, *dim[at + 1 :])
                break
    return tuple(new)


def broadcast(dims: Dims, own: Sequence[int], shape: Sequence[int]) -> Dims:
    """Return the labels in a result of this shape, where axes of size 1 were stretched."""
    missing = len(shape) - len(own)
    if missing < 0:
        return blurred(dims, shape)
    padded = ((),) * missing + tuple(dims)
    sizes = (1,) * missing + tuple(own)
    return tuple(d if s == n else foreign(n) for d, s, n in zip(padded, sizes, shape, strict=True))


def factors(dims: Sequence[Dim]) -> Iterator[Factor]:
    """Yield every factor that belongs to the origin."""
    return (f for dim in dims for f in dim if f.axis is not None and f.axis != MEMBERS)
