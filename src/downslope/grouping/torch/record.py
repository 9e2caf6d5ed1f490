"""What is known of each tensor while the model runs, and of each use that has been seen.

A tensor is one of three things. *Weights*: made from parameters and constants only; it carries,
for each parameter, where that parameter's axes lie. *Data*: it depends on what the model was
given; it carries its depth, the uses whose results have reached it with no further contraction
(`writers`), and where the outputs of those uses lie (`results`). *Constant*: neither.
Tensors are held weakly, so that activations are freed when the model lets go of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.weak import WeakIdKeyDictionary

from downslope.grouping.facts import Kind
from downslope.grouping.labels import Dims, axes_of, factors, of_shape, size_of

NONE: frozenset[int] = frozenset()
# A sum of more results than this is a residual stream: no single projection can be cut out of it.
MOST_RESULTS = 4


@dataclass(frozen=True, slots=True)
class Trace:
    """Where the axes of an origin (a parameter, or the outputs of a use) lie in a tensor.

    `inner` are axes summed away before any data came in, `fetched` axes that an index picked from.
    `linear` says that nothing but scaling and shifting has happened to a result, `mixed` that its
    positions are no longer those of the outputs one by one, as after a softmax.
    """

    origin: int
    dims: Dims
    inner: frozenset[int] = NONE
    fetched: frozenset[int] = NONE
    linear: bool = True
    mixed: bool = False


@dataclass(frozen=True, slots=True)
class Info:
    """What is known of a tensor."""

    weights: tuple[Trace, ...] = ()
    data: bool = False
    depth: int = 0
    writers: frozenset[int] = NONE
    results: tuple[Trace, ...] = ()
    choices: frozenset[int] = NONE


CONSTANT = Info()
RAW = Info(data=True)


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
    head: int = 0
    ranges: set[tuple[int, int, int]] = field(default_factory=set)
    cuts: list[Cut] = field(default_factory=list)
    joined: set[tuple[int, int, int]] = field(default_factory=set)
    gates: int = 1
    groups: int = 1


class Record:
    """All tensors and uses of one forward pass."""

    def __init__(self) -> None:
        self.infos: Any = WeakIdKeyDictionary()
        self.unknown = RAW
        self.uses: list[Met] = []
        self.shapes: list[tuple[int, ...]] = []
        self._known: dict[Any, int] = {}
        self._written: dict[int, tuple[StorageWeakRef, Info]] = {}
        self._held: set[int] = set()

    def begin(self, parameters: Iterable[torch.Tensor]) -> None:
        """Begin a forward pass: tensors of an earlier one are forgotten, uses are kept."""
        self.infos = WeakIdKeyDictionary()
        self._written, self._held, self.shapes = {}, set(), []
        for number, tensor in enumerate(parameters):
            self.shapes.append(tuple(tensor.shape))
            self.infos[tensor] = Info(weights=(Trace(number, of_shape(self.shapes[-1])),))
            key = _storage(tensor)
            if key is not None:
                self._held.add(key[0])

    def get(self, tensor: torch.Tensor) -> Info:
        """Return what is known; a tensor never seen before is what `unknown` says."""
        info: Info = self.infos.get(tensor, self.unknown)
        key = _storage(tensor) if self._written else None
        if key is None or key[0] not in self._written:
            return info
        ref, late = self._written[key[0]]
        if ref.expired():
            del self._written[key[0]]
            return info
        return Info(
            info.weights,
            info.data or late.data,
            max(info.depth, late.depth),
            self.open(info.writers | late.writers),
            info.results,
            info.choices | late.choices,
        )

    def set(self, tensor: torch.Tensor, info: Info) -> None:
        """Say what a new tensor is."""
        self.infos[tensor] = info

    def write(self, tensor: torch.Tensor, info: Info) -> None:
        """Say what was written into a tensor, and so into all that share its memory."""
        key = _storage(tensor)
        if key is not None and key[0] in self._held:
            return
        old = self.get(tensor)
        self.infos[tensor] = info
        if key is not None and (info.data or info.choices):
            merged = Info(
                data=info.data,
                depth=max(info.depth, old.depth),
                writers=info.writers | old.writers,
                choices=info.choices | old.choices,
            )
            self._written[key[0]] = (StorageWeakRef(key[1]), merged)

    def open(self, writers: Iterable[int]) -> frozenset[int]:
        """Return the uses that may still turn out to be the model's last."""
        return frozenset(w for w in writers if not self.uses[w].feeds)

    def meet(self, trace: Trace, kind: Kind, operation: str, data: Info, **axes: frozenset[int]) -> int:
        """Enter a use of a parameter, or find the same use again; return its number."""
        ranges = _ranges(trace, axes.get("outputs", NONE))
        key = (trace.origin, kind, operation, tuple(sorted(axes.items())), ranges)
        number = self._known.get(key)
        if number is None:
            number = self._known[key] = len(self.uses)
            self.uses.append(
                Met(
                    trace.origin,
                    kind,
                    operation,
                    **axes,
                    depth=data.depth,
                    deepest=data.depth,
                    data=data.data,
                )
            )
            self.uses[number].ranges.update(ranges)
        met = self.uses[number]
        if data.data:
            met.depth = min(met.depth, data.depth) if met.data else data.depth
            met.deepest, met.data = max(met.deepest, data.depth), True
        return number

    def feed(self, info: Info) -> None:
        """Say that this tensor goes into a weighted contraction."""
        for number in info.writers:
            self.uses[number].feeds = True

    def note_cut(self, info: Info, dim: int, start: int, stop: int, step: int = 1) -> None:
        """Say that a part of a result was taken by itself."""
        for trace in info.results:
            if not trace.mixed and stop > start and (cut := _cut(trace, dim, start, stop, step)):
                met = self.uses[trace.origin]
                cut = replace(cut, bent=not trace.linear)
                if cut not in met.cuts:
                    met.cuts.append(cut)

    def note_join(self, infos: Sequence[Info], *, beside: bool = False) -> None:
        """Say that these were added or put side by side: parts of one result that meet so are one."""
        starts: dict[tuple[int, int], set[int]] = {}
        for info in infos:
            for trace in info.results:
                met = self.uses[trace.origin]
                if not trace.linear:
                    # Channels that are put beside others after an activation are bookkeeping.
                    met.cuts = [c for c in met.cuts if not c.bent] if beside else met.cuts
                elif met.cuts and all(f.size for f in factors(trace.dims)):
                    for axis in axes_of(trace.dims):
                        at = sum(f.start for f in factors(trace.dims) if f.axis == axis)
                        if all(f.start >= 0 for f in factors(trace.dims)):
                            starts.setdefault((trace.origin, axis), set()).add(at)
        for (origin, axis), places in starts.items():
            first, *rest = sorted(places)
            self.uses[origin].joined.update((axis, first, other) for other in rest)

    def merged(self, infos: Sequence[Info], results: tuple[Trace, ...] = ()) -> Info:
        """Return what a tensor is that was made from these."""
        if not any(i.data for i in infos):
            weights = _best(t for i in infos for t in i.weights)
            return Info(weights=weights, choices=frozenset().union(*(i.choices for i in infos)))
        return Info(
            data=True,
            depth=max(i.depth for i in infos),
            writers=self.open(frozenset().union(*(i.writers for i in infos))),
            results=results if len(results) <= MOST_RESULTS else (),
            choices=frozenset().union(*(i.choices for i in infos)),
        )


def _storage(tensor: torch.Tensor) -> tuple[int, Any] | None:
    try:
        storage = tensor.untyped_storage()
    except (RuntimeError, NotImplementedError):  # sparse, nested and wrapped tensors have none
        return None
    return storage._cdata, storage


def _best(traces: Iterable[Trace]) -> tuple[Trace, ...]:
    """Keep, for each parameter, the trace that shows most of it."""
    best: dict[int, Trace] = {}
    for trace in traces:
        known = best.get(trace.origin)
        if known is None or _shown(trace) > _shown(known):
            best[trace.origin] = trace
    return tuple(best.values())


def _shown(trace: Trace) -> int:
    n = 1
    for f in factors(trace.dims):
        n *= f.size
    return n


def _ranges(trace: Trace, outputs: frozenset[int]) -> tuple[tuple[int, int, int], ...]:
    """Return (axis, low, high) of the contiguous part of each output axis that the tensor holds."""
    found = []
    for axis in sorted(outputs):
        own = [f for f in factors(trace.dims) if f.axis == axis]
        if all(f.start >= 0 for f in own):
            low = sum(f.start for f in own)
            found.append((axis, low, low + sum((f.size - 1) * f.step for f in own) + 1))
    return tuple(found)


def _cut(trace: Trace, dim: int, start: int, stop: int, step: int) -> Cut | None:
    own = trace.dims[dim]
    if not own or own[0].axis is None or any(f.start < 0 for f in own):
        return None
    first, inner = own[0], size_of(own[1:])
    if step == 1 and start % inner == 0 and stop % inner == 0:
        low, high, period = start // inner * first.step, stop // inner * first.step, first.size * first.step
    elif inner == 1 and first.size % step == 0 and start < step:
        return Cut(first.axis, step * first.step, start * first.step, (start + 1) * first.step)
    else:
        return None
    outer = [f for f in factors(trace.dims) if f.axis == first.axis and f.step >= period]
    if not outer:  # a part of a part, or of the whole: count from the start of the axis
        base = sum(f.start for f in factors(trace.dims) if f.axis == first.axis)
        return Cut(first.axis, 0, base + low, base + high)
    return Cut(first.axis, period, low, high)


def relabel(info: Info, move: Any) -> Info:
    """Return the info of a view, where `move` maps the labels of one tensor to those of the other."""
    return replace(
        info,
        weights=tuple(replace(t, dims=move(t.dims)) for t in info.weights),
        results=tuple(replace(t, dims=move(t.dims)) for t in info.results),
    )
