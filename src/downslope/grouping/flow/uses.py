"""All uses of parameters that were seen, and what is noted about each while data is followed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from math import prod
from typing import Any

from downslope.grouping.facts import Kind, Use
from downslope.grouping.flow.blocks import use_of
from downslope.grouping.flow.info import (
    CONSTANT,
    MOST_RESULTS,
    NONE,
    RAW,
    Info,
    Met,
    Trace,
    best,
    cut_of,
    ranges_of,
)
from downslope.grouping.labels import MEMBERS, Dims, axes_of, factors, of_shape, size_of

Letters = Sequence[Any]


class Uses:
    """All uses that were seen, of parameters of these shapes."""

    def __init__(self, shapes: Iterable[tuple[int, ...]] = ()) -> None:
        self.shapes = list(shapes)
        self.uses: list[Met] = []
        self._known: dict[tuple[object, ...], int] = {}
        self._events, self._fed = 0, set[int]()

    def parameter(self, number: int) -> Info:
        """Return what a parameter itself is."""
        return Info(weights=(Trace(number, of_shape(self.shapes[number])),))

    def of(self, number: int) -> tuple[Use, ...]:
        """Return the uses of a parameter as the policy reads them."""
        own = [met for met in self.uses if met.parameter == number and not met.summed]
        return tuple(use_of(met, self.shapes[number]) for met in own)

    def finish(self, outputs: Iterable[Info]) -> int:
        """Say what leaves the model; return the depth of the deepest output."""
        depth = 0
        for info in outputs:
            self.leave([info])
            self.absorb(info, Kind.JOIN, "returned", RAW)
            depth = max(depth, info.depth)
        return depth

    def leave(self, outputs: Iterable[Info]) -> None:
        """Say that these are results of the model."""
        for info in outputs:
            for number in info.writers:
                self.uses[number].last = True

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

    def absorb(self, weight: Info, kind: Kind, operation: str, data: Info) -> tuple[Trace, ...]:
        """Enter the uses of parameters that meet data element by element, or beside it.

        Return the products of the data with whole matrices, which a sum would make contractions.
        """
        products = []
        for trace in () if weight.data else weight.weights:
            if trace.inner:  # a norm or a penalty, if nothing else is left of it
                outputs = axes_of(trace.dims) - trace.inner
                if outputs:
                    self.meet(
                        trace, Kind.CONTRACTION, operation, CONSTANT, outputs=outputs, inputs=trace.inner
                    )
                continue
            met = Kind.LOOKUP if trace.fetched else kind
            outputs = axes_of(trace.dims)
            number = self.meet(trace, met, operation, data, outputs=outputs, batch=trace.stacked - outputs)
            if met is Kind.SCALING and len(outputs) > 1:
                products.append(replace(trace, origin=number, linear=False))
        return tuple(products)

    def summed(
        self,
        info: Info,
        trace: Trace,
        kind: Kind,
        operation: str,
        outputs: frozenset[int],
        inputs: frozenset[int],
    ) -> int | None:
        """Enter the contraction that a sum makes of a product of data and a matrix; return its number.

        It is none where the data has the matrix's outputs as axes of its own: a filter for each of them.
        """
        met = self.uses[trace.origin]
        if met.kind is not Kind.SCALING or not inputs or not outputs & met.stretched:
            return None
        met.summed = True
        self.feed(info)
        basis = replace(RAW, depth=met.depth, data=met.data)
        axes = {"outputs": outputs & met.stretched, "inputs": inputs, "batch": outputs - met.stretched}
        return self.meet(replace(trace, origin=met.parameter), kind, operation, basis, **axes)

    def result(self, number: int, dims: Dims) -> Trace:
        """Return the trace of a new result of a use."""
        self._events += 1
        return Trace(number, dims, event=self._events)

    def feed(self, info: Info) -> None:
        """Say that this tensor goes into a weighted contraction."""
        for number in info.writers:
            self.uses[number].feeds = True
        self._fed.update(t.event for t in info.results if t.event >= 0)
        self.note_whole(info)

    def fresh(self, info: Info) -> bool:
        """Whether this is results that no contraction has read: parts of a sum that can be cut."""
        return bool(info.results) and not any(t.event in self._fed for t in info.results)

    def note_whole(self, info: Info) -> None:
        """Say that a result, or a part of one, is contracted as it is: it is not cut any further."""
        for trace in info.results:
            for axis in axes_of(trace.dims) if trace.event >= 0 else ():
                own = [f for f in factors(trace.dims) if f.axis == axis]
                if all(f.start >= 0 for f in own):
                    start = sum(f.start for f in own)
                    self.uses[trace.origin].whole.add((axis, start, start + prod(f.size for f in own)))

    def note_cut(self, info: Info, dim: int, start: int, stop: int, step: int = 1) -> None:
        """Say that a part of a result was taken by itself."""
        for trace in info.results:
            if stop == start + 1 and [f.axis for f in trace.dims[dim]] == [MEMBERS]:
                self._apart(trace)
            if not trace.mixed and stop > start and (cut := cut_of(trace, dim, start, stop, step)):
                met = self.uses[trace.origin]
                cut = replace(cut, bent=not trace.linear)
                if cut not in met.cuts:
                    met.cuts.append(cut)

    def _apart(self, trace: Trace) -> None:
        """Say that what had been put beside others is taken from there again: it was no part of one."""
        met = self.uses[trace.origin]
        for axis in axes_of(trace.dims):
            own = [f for f in factors(trace.dims) if f.axis == axis]
            at, end = sum(f.start for f in own), sum(f.start for f in own) + prod(f.size for f in own)
            met.joined = {j for j in met.joined if j[:2] != (axis, at) or j[2] < end}

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

    def note_routes(self, infos: Sequence[Info]) -> None:
        """Say that a ranking decided what the data meets, where it picks from more than itself."""
        for k, info in enumerate(infos):
            for use in info.choices:
                for j, other in enumerate(infos):
                    mine = use in other.writers or any(t.origin == use for t in other.results)
                    if j != k and not mine and use not in other.choices and (other.depth or other.weights):
                        self.uses[use].routes = True

    def note_picked(self, info: Info, axes: Sequence[int], index: Sequence[Info]) -> None:
        """Say that data picks single entries of a result along its outputs, as weights of others.

        Places that weights have found, such as the knots of a spline, are no choice of other weights.
        """
        raw = any(i.data for i in index) and not any(i.depth for i in index)
        for trace in info.results if raw else ():
            along = axes_of([trace.dims[k] for k in axes if k < len(trace.dims)])
            if along & self.uses[trace.origin].outputs:
                self.uses[trace.origin].picked = True

    def routed(self, table: Info, index: Sequence[Info]) -> bool:
        """Whether a ranking of other weights' results picks from a table: a codebook ranks its own."""
        own = {t.origin for t in table.weights}
        return any(self.uses[c].parameter not in own for i in index for c in i.choices)

    def elsewhere(self, choices: frozenset[int], picked: Info) -> frozenset[int]:
        """Return the choices that picked from other results than their own, as a k-max pooling does not."""
        return choices - picked.writers - {t.origin for t in picked.results}

    def note_mixture(self, gate: Info, mixed: Info, axes: Sequence[tuple[int, int]]) -> None:
        """Say that a result weighs the results of other weights, lined up along its own outputs."""
        for g in gate.results:
            for m in mixed.results:
                batch = {MEMBERS, *self.uses[m.origin].batch}
                for i, j in axes:
                    if i >= len(g.dims) or j >= len(m.dims) or g.origin == m.origin:
                        continue
                    own = axes_of((g.dims[i],)) & self.uses[g.origin].outputs
                    at = m.dims[j]  # the others side by side, each perhaps with places of its own
                    stacked = bool(at) and at[0].axis in batch and all(f.axis in {None, *batch} for f in at)
                    shown = prod(f.size for f in factors(g.dims))
                    whole = size_of(g.dims[i]) == shown  # one weight for each of the others, nothing else
                    if not g.linear and own and stacked and whole:
                        self.uses[g.origin].routes = True

    def note_mixer(self, number: int, data: Info, axes: Sequence[int]) -> None:
        """Say whose softmax weighs a stack of matrices: they may be mixed before they meet other data."""
        met = self.uses[number]
        for g in data.results if len(axes) == 1 and len(met.inputs) == 1 and len(met.outputs) > 1 else ():
            own = axes_of(g.dims[axes[0] : axes[0] + 1]) & self.uses[g.origin].outputs
            whole = size_of(g.dims[axes[0]]) == prod(f.size for f in factors(g.dims)) if own else False
            if g.mixed and g.event >= 0 and whole:
                met.mixer = g.origin

    def note_mixed(self, trace: Trace, outputs: frozenset[int], inputs: frozenset[int]) -> None:
        """Say that what was mixed from a stack is contracted with data over axes of its own: a matrix."""
        met = self.uses[trace.origin]
        if met.mixer is not None and outputs and inputs and outputs | inputs <= met.outputs:
            met.outputs, met.inputs, met.batch = outputs, inputs, met.batch | met.inputs
            self.uses[met.mixer].routes = True

    def note_heads(self, info: Info, own: Letters, other: Letters, kept: Letters) -> None:
        """Say how much of a result one head takes: what is left of its axes beside another's."""
        for trace in info.results:
            if not trace.linear or len(own) != len(trace.dims):
                continue
            met = self.uses[trace.origin]
            shared = [letter in other and letter in kept for letter in own]
            beside = axes_of([d for d, both in zip(trace.dims, shared, strict=True) if both])
            within = [d for d, both in zip(trace.dims, shared, strict=True) if not both]
            axes = axes_of(within)
            size = prod(f.size for f in factors(within) if f.axis in met.outputs)
            if (beside & axes or (beside & met.outputs and len(met.outputs) > 1)) and size > 1:
                met.head = size

    def note_stacks(self, info: Info, own: Letters, other: Letters, kept: Letters) -> None:
        """Say that an axis of a result runs beside an axis of the next weight: it counts experts."""
        for trace in info.results:
            met = self.uses[trace.origin]
            for letter, dim in zip(own, trace.dims, strict=False):
                axes = axes_of((dim,))
                whole = len(dim) == 1 and len(axes) == 1 and dim[0].size == self._length(met, axes)
                if letter in other and letter in kept and whole and axes < met.outputs:
                    met.outputs, met.batch = met.outputs - axes, met.batch | axes

    def note_groups(self, number: int, shared: Dims) -> None:
        """Say that parts of a weight's outputs meet data of their own: a product in groups."""
        met = self.uses[number]
        for f in factors(shared):
            own = {f.axis} == met.outputs and f.start == 0
            if own and f.size * f.step == self._length(met, met.outputs):
                met.groups, met.along = f.size, "outputs"

    def _length(self, met: Met, axes: frozenset[int]) -> int:
        return self.shapes[met.parameter][min(axes)]

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
            noise=all(i.noise for i in infos if i.data),
        )
