"""The result of a comparison as one JSON object: the contract with the report and with scripts.

Every number that is not finite is None. Keys are only ever added; a change of meaning would be
another `schema`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from downslope.compare import words
from downslope.compare.folder import RunFolder
from downslope.compare.judge import against_best, ranks
from downslope.compare.notes import Conditions, notes
from downslope.compare.optimizers import Candidate
from downslope.compare.plan import Plan, RunSpec
from downslope.compare.run import Record, finite
from downslope.compare.verdict import (
    Estimate,
    Reach,
    derive_target,
    estimate,
    first_reaching,
    sensitivity,
)
from downslope.errors import UsageError, one_line

SCHEMA = 1


def best_trial(records: Sequence[Record], optimizer: str) -> Record | None:
    """Return the tuning trial that ended lowest, or None where all diverged."""
    trials = [r for r in records if r.kind == "tune" and r.optimizer == optimizer and not r.diverged]
    return min(trials, key=lambda r: (r.final, r.index), default=None)


def final_runs(plan: Plan, records: Sequence[Record]) -> list[RunSpec]:
    """Return the final runs that the tuning trials call for, the optimizers taking turns."""
    runs = []
    for candidate in plan.candidates:
        best = best_trial(records, candidate.name)
        if best is not None:
            runs.append(plan.final_runs(candidate.name, best.lr, best.weight_decay))
    return [spec for same_seed in zip(*runs, strict=True) for spec in same_seed]


def tuned(plan: Plan, records: Sequence[Record]) -> bool:
    """Whether every tuning trial of the plan has ended."""
    return {s.key for s in plan.tuning_runs()} <= {r.key for r in records}


def build(run: Mapping[str, Any], records: Sequence[Record]) -> dict[str, Any]:
    """Return the result that the records of a run add up to.

    `run` is what `RunFolder.read_run` returns.
    """
    plan = Plan.from_dict(run["plan"])
    finals = _finals(plan, records)
    estimates = {name: e for name, rs in finals.items() if (e := estimate([r.final for r in rs]))}
    place, p_values = ranks(estimates), against_best(estimates)
    labels = {c.name: c.label for c in plan.candidates}
    target = derive_target(plan.goal, estimates, labels)
    total = plan.total_runs()
    if tuned(plan, records):
        total = len(plan.tuning_runs()) + len(final_runs(plan, records))
    done = sum(r.kind == "tune" for r in records) + sum(map(len, finals.values()))

    order = sorted(plan.candidates, key=lambda c: [*place, c.name].index(c.name))
    entries, standings = [], []
    for c in order:
        rank = place.get(c.name, 1 + len(place))
        standing, entry = _entry(
            c, rank, records, finals[c.name], estimates.get(c.name), p_values.get(c.name), target
        )
        standings.append(standing)
        entries.append(entry)
    settled = [n for n, e in estimates.items() if place[n] == 1 and math.isfinite(e.median)]
    winners = [n for n in place if n in settled]
    metric = run["task"]["metric"]
    conditions = Conditions(
        seeds=len(plan.seeds),
        crews=len({(r.jobs, r.threads) for r in records}),
        most_jobs=max((r.jobs for r in records), default=1),
        on_cpu=run["environment"]["device"] == "cpu",
        seconds=sum(r.seconds for r in records),
        cpu_seconds=sum(r.cpu_seconds for r in records),
        seedless=[c.label for c in order if _same_runs(finals[c.name])],
        untrained=[c.label for c in order if _no_lower(finals[c.name])],
        repeatable=run.get("repeatable", True),
        no_matrices=_tracer_without_matrices(plan, run["partition"]),
    )
    return {
        "schema": SCHEMA,
        "command": run["command"],
        "created": run["created"],
        "task": run["task"],
        "plan": _plan(plan, run),
        "environment": run["environment"],
        "verdict": {
            "sentence": words.sentence(standings, winners, metric, plan.steps, done, total),
            "winners": winners,
            "tied": len(winners) > 1,
            "complete": done >= total,
            "runs_done": done,
            "runs_total": total,
        },
        "target": None if target is None else {"value": target[0], "origin": target[1]},
        "notes": notes(standings, conditions),
        "optimizers": entries,
        "partition": run["partition"],
    }


def checked(folder: RunFolder, run: Mapping[str, Any], records: Sequence[Record]) -> dict[str, Any]:
    """Return what `build` makes of what was read from a folder.

    Raises:
        UsageError: what was read is damaged.

    """
    spaces = {c["name"]: c["space"] for c in run["plan"]["candidates"]}
    for r in records:
        space = spaces.get(r.optimizer)
        low, high = space["lr"] if space else (1, 0)
        if space is None or not low <= r.lr <= high or r.weight_decay not in space["weight_decay"]:
            raise UsageError(
                f"{folder.trials_file} holds a run that is not in the plan of run.json ({r.optimizer}, "
                f"{r.kind} {r.index}, lr {r.lr:.6g}, decay {r.weight_decay:g}): delete its line, and the "
                "same command of downslope compare runs what is missing"
            )
    try:
        return build(run, records)
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
        raise folder.damaged(one_line(error)) from error


def _finals(plan: Plan, records: Sequence[Record]) -> dict[str, list[Record]]:
    """Return each optimizer's final runs in order of their seeds."""
    return {
        c.name: sorted(
            (r for r in records if r.kind == "final" and r.optimizer == c.name), key=lambda r: r.seed
        )
        for c in plan.candidates
    }


def _same_runs(finals: Sequence[Record]) -> bool:
    """Whether several runs that ended well have the same curve; a level one may be that of many runs."""
    curves = {tuple(r.curve.loss) for r in finals if not r.diverged}
    moved = any(len(set(curve)) > 1 for curve in curves)
    return moved and len(curves) == 1 and len(finals) > 1 and not any(r.diverged for r in finals)


def _no_lower(finals: Sequence[Record]) -> bool:
    """Whether runs that ended well have a median no lower than that of the models they began with."""
    if not finals or any(r.diverged for r in finals):
        return False
    return median(r.final for r in finals) >= median(r.curve.loss[0] for r in finals)


def _tracer_without_matrices(plan: Plan, partition: Mapping[str, Any] | None) -> str | None:
    """Return the label of the optimizer that traced a model and found no matrix for its own rule."""
    if partition is None or any(a["rule"] == "muon" for a in partition["assignments"]):
        return None
    return next(c.label for c in plan.candidates if c.name == partition["optimizer"])


def _plan(plan: Plan, run: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "trials": plan.trials,
        "seeds": list(plan.seeds),
        "tuning_seed": plan.tuning_seed,
        "steps": plan.steps,
        "schedule": plan.schedule,
        "warmup": plan.warmup,
        "optimizers": [c.to_dict() for c in plan.candidates],
        "jobs": run["jobs"],
        "threads": run["threads"],
    }


def _entry(
    c: Candidate,
    rank: int,
    records: Sequence[Record],
    finals: Sequence[Record],
    final: Estimate | None,
    p_value: float | None,
    target: tuple[float, str] | None,
) -> tuple[words.Standing, dict[str, Any]]:
    trials = sorted((r for r in records if r.kind == "tune" and r.optimizer == c.name), key=lambda r: r.index)
    best = best_trial(records, c.name)
    steps, seconds = _reach(finals, None if target is None else target[0])
    shown = sensitivity([(r.lr, r.final) for r in trials])
    standing = words.Standing(
        name=c.name,
        label=c.label,
        rank=rank,
        final=final,
        best_lr=None if best is None else best.lr,
        trials=len(trials),
        trials_diverged=sum(r.diverged for r in trials),
        finals_diverged=sum(r.diverged for r in finals),
        sensitivity=shown,
        range=c.space.lr,
        steps_to_target=steps.median,
        p_value=p_value,
    )
    rates = [r.seconds_per_step for r in finals or trials if not r.diverged]
    entry = {
        "name": c.name,
        "label": c.label,
        "rank": rank,
        "best": best and {"lr": best.lr, "weight_decay": best.weight_decay},
        "settings": c.to_dict()["settings"],
        "final": _estimate(final),
        "p_value": p_value,
        "steps_to_target": _reach_dict(steps),
        "seconds_to_target": _reach_dict(seconds),
        "seconds_per_step": sorted(rates)[len(rates) // 2] if rates else None,
        "trials": [
            {
                "lr": r.lr,
                "weight_decay": r.weight_decay,
                "final": finite(r.final),
                "diverged": r.diverged,
                "seconds": r.seconds,
            }
            for r in trials
        ],
        "curves": [
            {
                "seed": r.seed,
                "steps": r.curve.steps,
                "seconds": r.curve.seconds,
                "loss": [finite(v) for v in r.curve.loss],
            }
            for r in finals
        ],
        "sensitivity": {
            "within_10_percent_decades": shown.decades,
            "threshold": shown.threshold,
            "low": shown.low,
            "high": shown.high,
            "edge": shown.edge,
        },
    }
    return standing, entry


def _reach(finals: Sequence[Record], target: float | None) -> tuple[Reach, Reach]:
    """Return the steps and the seconds each final run took to the target."""
    hits = [None if target is None else first_reaching(r.curve.loss, target) for r in finals]
    pairs = list(zip(finals, hits, strict=True))
    steps = tuple(None if i is None else float(r.curve.steps[i]) for r, i in pairs)
    seconds = tuple(None if i is None else r.curve.seconds[i] for r, i in pairs)
    return Reach(steps), Reach(seconds)


def _reach_dict(reach: Reach) -> dict[str, Any]:
    return {
        "median": reach.median,
        "reached": reach.reached,
        "of": len(reach.values),
        "values": list(reach.values),
    }


def _estimate(e: Estimate | None) -> dict[str, Any]:
    if e is None:
        return {"median": None, "low": None, "high": None, "values": []}
    low, high = (None if v is None else finite(v) for v in (e.low, e.high))
    return {"median": finite(e.median), "low": low, "high": high, "values": [finite(v) for v in e.values]}
