"""What is known of a value, and what is known of a use.

A value (a tensor, a variable of a jaxpr, an edge of a graph) is one of three things. *Weights*:
made from parameters and constants only; it carries, for each parameter, where its axes lie. *Data*:
it depends on what the model was given; it carries its depth, the uses whose results have reached it
with no further contraction (`writers`), and where the outputs of those uses lie (`results`).
*Constant*: neither.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from math import prod
from typing import Literal

from downslope.grouping.facts import Kind
from downslope.grouping.labels import MEMBERS, Dims, factors, size_of

NONE: frozenset[int] = frozenset()
# A sum of more results than this is a residual stream: no single projection can be cut out of it.
MOST_RESULTS = 4


@dataclass(frozen=True, slots=True)
class Trace:
    """Where the axes of an origin (a parameter, or the outputs of a use) lie in a value.

    `inner` are axes summed away before any data came in, `factored` those of them that a product with
    other weights summed, `fetched` axes that an index picked from, `stacked` axes that a loop runs over,
    or of which one position was taken.
    `linear` says that nothing but scaling and shifting has happened to a result, `mixed` that its
    positions are no longer those of the outputs one by one, as after a softmax. `event` tells the
    results of one use at different times apart.
    """

    origin: int
    dims: Dims
    inner: frozenset[int] = NONE
    factored: frozenset[int] = NONE
    fetched: frozenset[int] = NONE
    stacked: frozenset[int] = NONE
    linear: bool = True
    mixed: bool = False
    event: int = -1


@dataclass(frozen=True, slots=True)
class Info:
    """What is known of a value; `noise` is data that was drawn at random, and nothing but that."""

    weights: tuple[Trace, ...] = ()
    data: bool = False
    depth: int = 0
    writers: frozenset[int] = NONE
    results: tuple[Trace, ...] = ()
    choices: frozenset[int] = NONE
    noise: bool = False

    def moved(self, move: Callable[[Dims], Dims]) -> Info:
        """Return the info of a rearrangement, where `move` maps the labels of one to the other's."""
        return replace(
            self,
            weights=tuple(replace(t, dims=move(t.dims)) for t in self.weights),
            results=tuple(replace(t, dims=move(t.dims)) for t in self.results),
        )


CONSTANT = Info()
RAW = Info(data=True)
NOISE = Info(data=True, noise=True)


@dataclass(frozen=True, slots=True)
class Cut:
    """A part [low, high) of every `period` positions of an axis that was taken by itself."""

    axis: int
    period: int
    low: int
    high: int
    bent: bool = False  # after an activation


@dataclass(slots=True)
class Met:
    """A use under observation."""

    parameter: int
    kind: Kind
    operation: str
    outputs: frozenset[int] = NONE
    inputs: frozenset[int] = NONE
    batch: frozenset[int] = NONE
    depth: int = 0
    deepest: int = 0
    data: bool = True
    last: bool = False
    feeds: bool = False
    routes: bool = False
    picked: bool = False
    head: int = 0
    ranges: set[tuple[int, int, int]] = field(default_factory=set)
    cuts: list[Cut] = field(default_factory=list)
    joined: set[tuple[int, int, int]] = field(default_factory=set)
    whole: set[tuple[int, int, int]] = field(default_factory=set)
    gates: int = 1
    stretched: frozenset[int] = NONE  # of a product element by element: axes that the data lacked
    summed: bool = False  # of such a product: a sum has made it a contraction
    mixer: int | None = None  # the use whose result weighs the matrices of this one, if it is a softmax
    groups: int = 1
    along: Literal["outputs", "inputs"] = "outputs"


def best(traces: Iterable[Trace]) -> tuple[Trace, ...]:
    """Keep, for each parameter, the trace that shows most of it."""
    best: dict[int, Trace] = {}
    for trace in traces:
        known = best.get(trace.origin)
        if known is None or _shown(trace) > _shown(known):
            best[trace.origin] = trace
    return tuple(best.values())


def _shown(trace: Trace) -> int:
    return prod(f.size for f in factors(trace.dims))


def ranges_of(trace: Trace, outputs: frozenset[int]) -> tuple[tuple[int, int, int], ...]:
    """Return (axis, low, high) of the contiguous part of each output axis that the value holds."""
    found = []
    for axis in sorted(outputs):
        own = [f for f in factors(trace.dims) if f.axis == axis]
        if all(f.start >= 0 for f in own):
            low = sum(f.start for f in own)
            found.append((axis, low, low + sum((f.size - 1) * f.step for f in own) + 1))
    return tuple(found)


def cut_of(trace: Trace, dim: int, start: int, stop: int, step: int) -> Cut | None:
    """Return the part of a result that a slice takes, if its place along the outputs is known."""
    own = trace.dims[dim]
    if not own or any(f.start < 0 for f in own):
        return None
    first, inner, axis = own[0], size_of(own[1:]), own[0].axis
    if axis is None or axis == MEMBERS:
        return None
    if step == 1 and start % inner == 0 and stop % inner == 0:
        low, high, period = start // inner * first.step, stop // inner * first.step, first.size * first.step
    elif inner == 1 and first.size % step == 0 and start < step:
        return Cut(axis, step * first.step, start * first.step, (start + 1) * first.step)
    else:
        return None
    if stop - start == inner:  # one position: as much as there is of what lies below it
        within = [f for f in factors(trace.dims) if f.axis == axis and f.step < first.step]
        high = low + sum((f.size - 1) * f.step for f in within) + 1
    outer = [f for f in factors(trace.dims) if f.axis == axis and f.step >= period]
    if not outer:  # a part of a part, or of the whole: count from the start of the axis
        base = sum(f.start for f in factors(trace.dims) if f.axis == axis)
        return Cut(axis, 0, base + low, base + high)
    return Cut(axis, period, low, high)
