"""What is known of each value of a jaxpr, and of each use of a parameter that was seen.

A value is one of three things. *Weights*: made from parameters and constants only; it carries,
for each parameter, where that parameter's axes lie. *Data*: it depends on what the function was
given; it carries its depth, the uses whose results have reached it with no further contraction
(`writers`), and where the outputs of those uses lie (`results`). *Constant*: neither.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from downslope.grouping.facts import Kind, Use
from downslope.grouping.labels import Dim, Dims, axes_of, factors, of_shape, size_of

NONE: frozenset[int] = frozenset()
# A sum of more results than this is a residual stream: no single projection can be cut out of it.
MOST_RESULTS = 4


@dataclass(frozen=True)
class Trace:
    """Where the axes of an origin (a parameter, or the outputs of a use) lie in a value.

    `inner` are axes summed away before any data came in, `fetched` axes that an index of the data
    picked from, `stacked` axes that a loop runs over. `linear` says that nothing but scaling and
    shifting has happened to a result.
    """

    origin: int
    dims: Dims
    inner: frozenset[int] = NONE
    fetched: frozenset[int] = NONE
    stacked: frozenset[int] = NONE
    linear: bool = True


@dataclass(frozen=True)
class Info:
    """What is known of a value."""

    weights: tuple[Trace, ...] = ()
    data: bool = False
    depth: int = 0
    writers: frozenset[int] = NONE
    results: tuple[Trace, ...] = ()
    choices: frozenset[int] = NONE

    def moved(self, move: Callable[[Dims], Dims]) -> Info:
        """Return the info of a rearrangement, where `move` maps the labels of one to the other's."""
        return replace(
            self,
            weights=tuple(replace(t, dims=move(t.dims)) for t in self.weights),
            results=tuple(replace(t, dims=move(t.dims)) for t in self.results),
        )


CONSTANT = Info()
RAW = Info(data=True)


@dataclass
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
    head: int = 0
    groups: int = 1
    parts: tuple[tuple[int, int, int], ...] = ()
    cuts: set[tuple[int, int, int]] = field(default_factory=set)
    joined: set[tuple[int, int]] = field(default_factory=set)

    def use(self, shape: Sequence[int]) -> Use:
        """Return the use as the policy reads it."""
        return Use(
            self.kind,
            outputs=tuple(sorted(self.outputs)),
            inputs=tuple(sorted(self.inputs)),
            batch=tuple(sorted(self.batch)),
            blocks=self._blocks(shape),
            head=self.head,
            depth=self.depth,
            deepest=self.deepest,
            data=self.data,
            last=self.last,
            feeds=self.feeds,
            routes=self.routes,
            operation=self.operation,
            parts=self.parts,
        )

    def _blocks(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the parts that the only output axis was cut into, if they cover it."""
        if len(self.outputs) != 1:
            return ()
        (axis,) = self.outputs
        if self.groups > 1:
            return (shape[axis] // self.groups,) * self.groups
        cuts = sorted((low, high) for a, low, high in self.cuts if a == axis)
        edges = sorted({edge for cut in cuts for edge in cut})
        covered = all(any(low <= a and b <= high for low, high in cuts) for a, b in pairwise(edges))
        if len(edges) < 3 or (edges[0], edges[-1]) != (0, shape[axis]) or not covered:
            return ()
        for first, second in self.joined:  # parts that were put back together are one
            low, high = sorted((first, second))
            edges = [e for e in edges if not low < e <= high or e == shape[axis]]
        return tuple(b - a for a, b in pairwise(edges)) if len(edges) > 2 else ()


class Record:
    """All uses that were seen."""

    def __init__(self, shapes: Sequence[tuple[int, ...]]) -> None:
        self.shapes = list(shapes)
        self.uses: list[Met] = []
        self._known: dict[tuple[object, ...], int] = {}

    def parameter(self, number: int) -> Info:
        """Return what a parameter itself is."""
        return Info(weights=(Trace(number, of_shape(self.shapes[number])),))

    def open(self, writers: Iterable[int]) -> frozenset[int]:
        """Return the uses that may still turn out to be the last."""
        return frozenset(w for w in writers if not self.uses[w].feeds)

    def feed(self, info: Info) -> None:
        """Say that this value goes into a weighted contraction."""
        for number in info.writers:
            self.uses[number].feeds = True

    def meet(
        self,
        trace: Trace,
        kind: Kind,
        operation: str,
        data: Info,
        *,
        outputs: frozenset[int] = NONE,
        inputs: frozenset[int] = NONE,
        batch: frozenset[int] = NONE,
    ) -> int:
        """Enter a use of a parameter, or find the same use again; return its number."""
        parts = _ranges(trace, outputs)
        key = (trace.origin, kind, operation, outputs, inputs, batch, parts)
        number = self._known.get(key)
        if number is None:
            number = self._known[key] = len(self.uses)
            met = Met(trace.origin, kind, operation, outputs, inputs, batch, parts=parts)
            met.depth, met.deepest, met.data = data.depth, data.depth, data.data
            self.uses.append(met)
        met = self.uses[number]
        if data.data:
            met.depth = min(met.depth, data.depth) if met.data else data.depth
            met.deepest, met.data = max(met.deepest, data.depth), True
        return number

    def note_cut(self, info: Info, dim: int, start: int, stop: int) -> None:
        """Say that a part of a result was taken by itself."""
        for trace in info.results:
            own = trace.dims[dim]
            if not trace.linear or not own or any(f.start < 0 for f in own):
                continue
            first, inner = own[0], size_of(own[1:])
            if first.axis is None:
                continue
            outer = [f for f in factors(trace.dims) if f.axis == first.axis and f.step > first.step]
            if outer or start % inner or stop % inner:
                continue  # interleaved with something else: no consecutive part
            base = sum(f.start for f in factors(trace.dims) if f.axis == first.axis)
            low, high = base + start // inner * first.step, base + stop // inner * first.step
            self.uses[trace.origin].cuts.add((first.axis, low, high))

    def note_join(self, infos: Sequence[Info]) -> None:
        """Say that these were added or put side by side: parts of one result that meet so are one."""
        starts: dict[tuple[int, int], set[int]] = {}
        for info in infos:
            for trace in info.results:
                if trace.linear and self.uses[trace.origin].cuts:
                    for axis in axes_of(trace.dims):
                        own = [f.start for f in factors(trace.dims) if f.axis == axis]
                        if min(own) >= 0:
                            starts.setdefault((trace.origin, axis), set()).add(sum(own))
        for (origin, _), places in starts.items():
            first, *rest = sorted(places)
            self.uses[origin].joined.update((first, other) for other in rest)

    def note_routes(self, infos: Sequence[Info]) -> None:
        """Say that a ranking decided what the data meets, where it picks from more than itself."""
        for k, info in enumerate(infos):
            for use in info.choices:
                for j, other in enumerate(infos):
                    mine = use in other.writers or any(t.origin == use for t in other.results)
                    if j != k and not mine and use not in other.choices and (other.depth or other.weights):
                        self.uses[use].routes = True

    def merged(self, infos: Sequence[Info], results: Sequence[Trace] = ()) -> Info:
        """Return what a value is that was made from these."""
        choices = frozenset[int]().union(*(i.choices for i in infos))
        if not any(i.data for i in infos):
            return Info(weights=_best(t for i in infos for t in i.weights), choices=choices)
        return Info(
            data=True,
            depth=max(i.depth for i in infos),
            writers=self.open(frozenset[int]().union(*(i.writers for i in infos))),
            results=tuple(results) if len(results) <= MOST_RESULTS else (),
            choices=choices,
        )


def sides_of(
    trace: Trace, own: Sequence[object], kept: Sequence[object], other: Sequence[object]
) -> dict[str, frozenset[int]]:
    """Return outputs, inputs and batch of a contraction, each axis of the parameter on one side.

    `own`, `other` and `kept` name the axes of the weight, of the data and of the result. An axis
    that is partly batch is cut into heads, not stacked.
    """
    sides: dict[str, set[int]] = {"outputs": set(), "inputs": set(), "batch": set()}
    for letter, dim in zip(own, trace.dims, strict=True):
        side = "inputs" if letter not in kept else "batch" if letter in other else "outputs"
        sides[side] |= axes_of((dim,))
    sides["batch"] |= trace.fetched | trace.stacked
    sides["batch"] -= sides["outputs"] | sides["inputs"]
    sides["outputs"] -= sides["inputs"]
    inner = set(trace.inner) - sides["outputs"] - sides["inputs"] - sides["batch"]
    if not sides["inputs"]:
        sides["inputs"] |= inner
    elif not sides["outputs"]:
        sides["outputs"] |= inner
    return {side: frozenset(axes) for side, axes in sides.items()}


def shown(dim: Dim) -> int:
    """Return how many positions of the origin an axis shows."""
    return size_of(tuple(f for f in dim if f.axis is not None))


def _best(traces: Iterable[Trace]) -> tuple[Trace, ...]:
    """Keep, for each parameter, the trace that shows most of it."""
    best: dict[int, Trace] = {}
    for trace in traces:
        known = best.get(trace.origin)
        if known is None or sum(map(shown, trace.dims)) > sum(map(shown, known.dims)):
            best[trace.origin] = trace
    return tuple(best.values())


def _ranges(trace: Trace, outputs: frozenset[int]) -> tuple[tuple[int, int, int], ...]:
    """Return (axis, low, high) of the contiguous part of each output axis that the value holds."""
    found = []
    for axis in sorted(outputs):
        own = [f for f in factors(trace.dims) if f.axis == axis]
        if own and all(f.start >= 0 for f in own):
            low = sum(f.start for f in own)
            found.append((axis, low, low + sum((f.size - 1) * f.step for f in own) + 1))
    return tuple(found)
