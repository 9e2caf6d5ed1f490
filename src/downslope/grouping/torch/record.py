"""All tensors and all uses of one forward pass.

Tensors are held weakly, so that activations are freed when the model lets go of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from math import prod
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.weak import WeakIdKeyDictionary

from downslope.grouping.facts import Kind
from downslope.grouping.labels import Dims, axes_of, factors, of_shape
from downslope.grouping.torch.info import MOST_RESULTS, NONE, RAW, Info, Met, Trace, best, cut_of, ranges_of


class Record:
    """All tensors and uses of one forward pass."""

    def __init__(self) -> None:
        self.infos: Any = WeakIdKeyDictionary()
        self.unknown = RAW
        self.slot: Callable[[torch.Tensor], int | None] = lambda _: None
        self.uses: list[Met] = []
        self.shapes: list[tuple[int, ...]] = []
        self._known: dict[Any, int] = {}
        self._events, self._fed = 0, set[int]()
        self._written: dict[int, tuple[StorageWeakRef, Info]] = {}
        self._held: set[int] = set()

    def begin(
        self, parameters: Iterable[torch.Tensor], slot: Callable[[torch.Tensor], int | None] = lambda _: None
    ) -> None:
        """Begin a forward pass: tensors of an earlier one are forgotten, uses are kept.

        `slot` returns the number of the parameter in whose place a tensor stands by now, if any.
        """
        self.slot = slot
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
        info: Info = self.infos[tensor] if tensor in self.infos else self._first_seen(tensor)
        key = _storage(tensor) if self._written else None
        if key is None or key[0] not in self._written:
            return info
        ref, late = self._written[key[0]]
        if ref.expired():  # type: ignore[no-untyped-call]
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

    def _first_seen(self, tensor: torch.Tensor) -> Info:
        """Return what a tensor is that no operation made: a part of another, a parameter, a literal."""
        inner = getattr(tensor, "_local_tensor", None)  # a distributed tensor, made from a local one
        if inner is not None and inner in self.infos:
            return _resized(self.infos[inner], tuple(inner.shape) == tuple(tensor.shape))
        number = self.slot(tensor) if isinstance(tensor, torch.nn.Parameter) else None
        if number is None:
            return self.unknown
        info = Info(weights=(Trace(number, of_shape(tuple(tensor.shape))),))
        self.infos[tensor] = info  # FSDP has put an unsharded parameter in the place of its shard
        return info

    def set(self, tensor: torch.Tensor, info: Info) -> None:
        """Say what a new tensor is."""
        self.infos[tensor] = info
        inner = getattr(tensor, "_local_tensor", None)
        if inner is not None:
            self.infos[inner] = _resized(info, tuple(inner.shape) == tuple(tensor.shape))

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
            self._written[key[0]] = (StorageWeakRef(key[1]), merged)  # type: ignore[no-untyped-call]

    def open(self, writers: Iterable[int]) -> frozenset[int]:
        """Return the uses that may still turn out to be the model's last."""
        return frozenset(w for w in writers if not self.uses[w].feeds)

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
        ranges = ranges_of(trace, outputs)
        key = (trace.origin, kind, operation, outputs, inputs, batch, ranges)
        number = self._known.get(key)
        if number is None:
            number = self._known[key] = len(self.uses)
            self.uses.append(
                Met(trace.origin, kind, operation, outputs, inputs, batch, data.depth, data.depth, data.data)
            )
            self.uses[number].ranges.update(ranges)
        met = self.uses[number]
        if data.data:
            met.depth = min(met.depth, data.depth) if met.data else data.depth
            met.deepest, met.data = max(met.deepest, data.depth), True
        return number

    def result(self, number: int, dims: Dims) -> Trace:
        """Return the trace of a new result of a use."""
        self._events += 1
        return Trace(number, dims, event=self._events)

    def feed(self, info: Info) -> None:
        """Say that this tensor goes into a weighted contraction."""
        for number in info.writers:
            self.uses[number].feeds = True
        self._fed.update(t.event for t in info.results)
        self.note_whole(info)

    def fresh(self, info: Info) -> bool:
        """Whether this is results that no contraction has read: parts of a sum that can be cut."""
        return bool(info.results) and not any(t.event in self._fed for t in info.results)

    def note_whole(self, info: Info) -> None:
        """Say that a result, or a part of one, is contracted as it is: it is not cut any further."""
        for trace in info.results:
            for axis in axes_of(trace.dims):
                own = [f for f in factors(trace.dims) if f.axis == axis]
                if all(f.start >= 0 for f in own):
                    start = sum(f.start for f in own)
                    self.uses[trace.origin].whole.add((axis, start, start + prod(f.size for f in own)))

    def note_cut(self, info: Info, dim: int, start: int, stop: int, step: int = 1) -> None:
        """Say that a part of a result was taken by itself."""
        for trace in info.results:
            if not trace.mixed and stop > start and (cut := cut_of(trace, dim, start, stop, step)):
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
            weights = best(t for i in infos for t in i.weights)
            return Info(weights=weights, choices=frozenset().union(*(i.choices for i in infos)))
        return Info(
            data=True,
            depth=max(i.depth for i in infos),
            writers=self.open(frozenset().union(*(i.writers for i in infos))),
            results=results if len(results) <= MOST_RESULTS else (),
            choices=frozenset().union(*(i.choices for i in infos)),
        )


def _resized(info: Info, same: bool) -> Info:
    """Return what a shard is: its axes are not those of the whole, unless there is one shard."""
    return info if same else replace(info, weights=(), results=())


def _storage(tensor: torch.Tensor) -> tuple[int, Any] | None:
    try:
        storage = tensor.untyped_storage()
    except (RuntimeError, NotImplementedError):  # sparse, nested and wrapped tensors have none
        return None
    return storage._cdata, storage
