"""The plots of a comparison: loss curves, sensitivity to the learning rate, final values."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from statistics import median
from typing import Any

from downslope.report import ranking
from downslope.report.numbers import finite, listed, plain
from downslope.report.parts import Note, Section
from downslope.report.plots import Axis, Guide, Interval, Intervals, Lines, Scale, Series, Trace
from downslope.report.result import Run, absent, curves_of, finals_of, seeds_of, trials_of


def sections(run: Run, points: int) -> list[Section]:
    """Return the sections of the plots; the thin curves together have at most `points` points."""
    return [_curves(run, points), _sensitivity(run), _finals(run)] if run.ranked else []


def _curves(run: Run, points: int) -> Section:
    title, drawn = "Loss curves", [o for o in run.ranked if curves_of(o)]
    if not drawn:
        return Section(
            title, [Note("No curves yet: they come from the reruns on fresh seeds, after tuning.")]
        )
    keep = max(2, points // sum(len(curves_of(o)) for o in drawn))
    longest = max(len(c["loss"]) for o in drawn for c in curves_of(o))
    series = [
        Series(
            run.short(o),
            run.colour(o),
            median_trace(curves_of(o), keep),
            [seed_trace(c, keep) for c in curves_of(o)],
        )
        for o in drawn
    ]
    plot = Lines(
        f"{run.quantity} as training goes on, a curve for each seed of {listed([s.name for s in series])}",
        x=[Axis("steps"), Axis("seconds of training", name="seconds")],
        y=Axis(run.metric, scale_for([v for s in series for v in s.main.y]), switch=True),
        series=series,
        guides=[] if run.target is None else [Guide(run.target, f"target {plain(run.target, 4)}")],
    )
    thinned = [Note(f"Curves are thinned from {longest} to {keep} points to keep this page small.")]
    caption = "Evaluated as training goes on. Thick: the median over seeds. Thin: each seed."
    return Section(title, [plot, *(thinned if longest > keep else [])], caption)


def seed_trace(curve: dict[str, Any], keep: int) -> Trace:
    """Return one seed's curve over steps and over seconds, in at most `keep` points."""
    at = kept(len(curve["loss"]), keep)
    steps, seconds, loss = ([curve[k][i] for i in at] for k in ("steps", "seconds", "loss"))
    return Trace((steps, seconds), [finite(v) for v in loss], f"seed {curve.get('seed', '?')}")


def median_trace(curves: Sequence[dict[str, Any]], keep: int) -> Trace:
    """Return the median over seeds at each step.

    A seed without a finite value, or whose curve ended before, counts as infinite: a diverged seed
    cannot make its optimizer look better. Seconds are the median time at which a step was reached.
    """
    losses: dict[int, list[float]] = defaultdict(list)
    seconds: dict[int, list[float]] = defaultdict(list)
    ends = [max(curve["steps"]) for curve in curves]
    for curve in curves:
        for step, time, loss in zip(curve["steps"], curve["seconds"], curve["loss"], strict=True):
            value = finite(loss)
            losses[step].append(math.inf if value is None else value)
            seconds[step].append(finite(time) or 0.0)
    steps = sorted(losses)
    steps = [steps[i] for i in kept(len(steps), keep)]
    middle = [finite(median(losses[s] + [math.inf] * sum(end < s for end in ends))) for s in steps]
    return Trace((steps, [median(seconds[s]) for s in steps]), middle, "median")


def kept(count: int, keep: int) -> list[int]:
    """Return at most `keep` evenly spaced indices below `count`, first and last among them.

    >>> kept(5, 10), kept(9, 3)
    ([0, 1, 2, 3, 4], [0, 4, 8])
    """
    if count <= keep:
        return list(range(count))
    return [round(i * (count - 1) / (keep - 1)) for i in range(keep)]


def scale_for(values: Sequence[float | None]) -> Scale:
    """Return "log" where the values are positive and span a decade or more.

    >>> scale_for([0.01, 2.3, None]), scale_for([1.0, 2.0]), scale_for([0.0, 5.0])
    ('log', 'linear', 'linear')
    """
    known = [v for v in values if v is not None]
    return "log" if known and min(known) > 0 and max(known) >= 10 * min(known) else "linear"


def _sensitivity(run: Run) -> Section:
    title = "Sensitivity to the learning rate"
    series = [_trials_series(run, o) for o in run.ranked if trials_of(o)]
    if not series:
        return Section(title, [Note("No tuning trials were recorded.")], half=True)
    shown = listed([s.name for s in series])
    plot = Lines(
        f"final {run.quantity} of every tuning trial against its learning rate, for {shown}",
        x=[Axis("learning rate", "log")],
        y=Axis(f"final {run.metric}", scale_for([v for s in series for v in s.main.y]), switch=True),
        series=series,
        points=True,
        missing="top",
        missing_label="diverged",
        span_label="within 10 % of the best",
    )
    caption = "A mark for each tuning trial, the best ringed, diverged ones at the top edge."
    bars = " The bars: rates that come within 10 % of the best; wider is easier to tune."
    return Section(
        title, [plot, ranking.trials(run)], caption + (bars if any(s.span for s in series) else ""), half=True
    )


def _trials_series(run: Run, optimizer: dict[str, Any]) -> Series:
    trials = sorted(
        (t for t in trials_of(optimizer) if (finite(t.get("lr")) or 0) > 0), key=lambda t: float(t["lr"])
    )
    finals = [None if t.get("diverged") else finite(t.get("final")) for t in trials]
    hints = [
        f"weight decay {plain(t['weight_decay'])}" if t.get("weight_decay") is not None else ""
        for t in trials
    ]
    best = min(((v, i) for i, v in enumerate(finals) if v is not None), default=(0.0, None))[1]
    name, colour = run.short(optimizer), run.colour(optimizer)
    low, high = (finite((optimizer.get("sensitivity") or {}).get(end)) for end in ("low", "high"))
    span = (low, high) if low and high else None
    return Series(
        name, colour, Trace(([t["lr"] for t in trials],), finals, hints=hints), best=best, span=span
    )


def _finals(run: Run) -> Section:
    rows = []
    for o in run.ranked:
        final, values = o.get("final") or {}, finals_of(o)
        middle, low, high = (finite(final.get(k)) for k in ("median", "low", "high"))
        names = seeds_of(run, o)
        rows.append(Interval(run.short(o), run.colour(o), middle, low, high, values, names, absent(o)))
    known = [v for r in rows for v in (*r.values, r.value, r.low, r.high)]
    axis = Axis(f"final {run.metric}", scale_for(known), switch=True)
    plot = Intervals(f"final {run.quantity} with its interval, by optimizer", axis, rows)
    caption = "Bar: the bootstrap interval. Tick: the median. Dots: the seeds."
    return Section(f"Final {run.quantity}", [plot, ranking.seeds(run)], caption, half=True)
