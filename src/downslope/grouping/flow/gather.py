"""Lookups: an index that picks rows makes an embedding, one that picks matrices a stack of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from downslope.grouping.facts import Kind
from downslope.grouping.flow.info import NONE, Info
from downslope.grouping.flow.uses import Uses
from downslope.grouping.labels import Dims, axes_of


def picked(
    uses: Uses,
    infos: Sequence[Info],
    move: Callable[[Dims], Dims],
    axes: Sequence[int],
    gone: Sequence[int],
    index: bool = True,
    beside: Sequence[int] = (),
) -> Info:
    """Return what is picked from the first value at the places that the others name.

    `axes` are those along which is picked, `gone` those of which one position is left, `move` says
    where the others go. `index` is False where the places are written in the program one by one. Along
    `beside`, of `axes`, places run beside what they are picked from: nothing is chosen there.
    """
    table, *others = infos
    whole = uses.merged(infos)
    if any(i.choices for i in others) and (
        table.data or any(len(axes_of(t.dims)) > 2 for t in table.weights)
    ):
        uses.note_routes(infos)
    if not table.weights or table.data:
        uses.note_picked(table, [k for k in axes if k not in beside], others)
        whole = uses.merged(infos, tuple(replace(t, dims=move(t.dims)) for t in table.results))
        return replace(whole, weights=(), choices=uses.elsewhere(whole.choices, table))
    data, routed = any(i.data for i in others), uses.routed(table, others)
    traces = []
    for t in table.weights:
        fetched, dims = axes_of([t.dims[k] for k in axes]), move(t.dims)
        rows = len(axes_of(dims)) < 2
        if data and rows:
            kind = Kind.ADDITION if routed else Kind.LOOKUP  # rows that a router picked: an expert's bias
            inputs = fetched if kind is Kind.LOOKUP else NONE
            uses.meet(
                replace(t, dims=()), kind, "gather", whole, inputs=inputs, outputs=axes_of(dims) - fetched
            )
        elif data or (rows and index):
            traces.append(replace(t, dims=dims, fetched=t.fetched | fetched))
        else:
            lost = axes_of([t.dims[k] for k in gone]) - axes_of(dims)
            traces.append(replace(t, dims=dims, stacked=t.stacked | lost))
    if not data:
        return Info(weights=tuple(traces), choices=whole.choices)
    depth = max(whole.depth, 1) if traces or not routed else 0  # an expert's bias: no stream
    return Info(weights=tuple(traces), data=True, depth=depth, choices=whole.choices)
