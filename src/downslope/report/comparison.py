"""A comparison of optimizers as a chapter: headline, what is missing, and the order of its sections."""

from __future__ import annotations

import re

from downslope.report import curves, partition, ranking, setup
from downslope.report.numbers import count, counted, listed
from downslope.report.parts import Chapter, Note
from downslope.report.result import Run, finals_of, trials_of


def chapter(run: Run, points: int) -> Chapter:
    """Return the chapter of one run; all its thin curves together have at most `points` points."""
    headline, evidence = spoken(str(run.verdict.get("sentence") or "No verdict yet."))
    return Chapter(
        name=str(run.task.get("name") or "unnamed task"),
        headline=headline,
        evidence=evidence,
        eyebrow=_eyebrow(run),
        lede=_capital(str(run.task.get("description") or "")),
        notes=[Note(text, "warning") for text in [*gaps(run), *map(str, run.result.get("notes") or [])]],
        sections=[
            ranking.section(run),
            *curves.sections(run, points),
            partition.section(run.result.get("partition"), _partitioner(run)),
            setup.section(run),
        ],
    )


def gaps(run: Run) -> list[str]:
    """Return what the run lacks, one sentence each."""
    complete = run.verdict.get("complete") is True
    planned, seeds = (0, 0) if complete else (run.plan.get("trials") or 0, len(run.seeds))
    found = {o.get("name") for o in run.ranked}
    waiting = [str(o.get("name")) for o in run.plan.get("optimizers") or [] if o.get("name") not in found]
    untuned = [f"{run.short(o)} ({len(trials_of(o))})" for o in run.ranked if len(trials_of(o)) < planned]
    unseeded = [f"{run.short(o)} ({len(finals_of(o))})" for o in run.ranked if len(finals_of(o)) < seeds]
    said = [
        f"No result yet for {listed(waiting)}." if waiting else "",
        f"Fewer than the {counted(planned, 'tuning trial')} planned: {listed(untuned)}." if untuned else "",
        f"Fewer than the {counted(seeds, 'seed')} planned: {listed(unseeded)}." if unseeded else "",
    ]
    for o in run.ranked if "notes" not in run.result else []:  # else the notes say it
        values = finals_of(o)
        lost = sum(v is None for v in values)
        if lost:
            where = "every seed" if lost == len(values) else f"{lost} of {counted(len(values), 'seed')}"
            said.append(f"{run.short(o)} diverged on {where}.")
    if not complete:
        said.append("The run is not complete: the same command resumes it and keeps what is done.")
    return [sentence for sentence in said if sentence]


def spoken(sentence: str) -> tuple[str, str]:
    """Return the verdict as its claim and what stands behind it.

    >>> spoken("Muon is best: its loss ends at 0.043, below the 0.062 of SGD.")
    ('Muon is best:', 'its loss ends at 0.043, below the 0.062 of SGD.')
    >>> spoken("SGD and AdamW are tied.")
    ('SGD and AdamW are tied.', '')
    """
    # Intervals and percentages stay on one line.
    whole = re.sub(r"\[[^][]{1,30}\]| %", lambda m: m[0].replace(" ", "\N{NO-BREAK SPACE}"), sentence)
    claim, *rest = re.split(r"(?<=[:;]) ", whole, maxsplit=1)
    return claim, "".join(rest)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _partitioner(run: Run) -> str:
    """Return the name of the optimizer whose partition it is."""
    name = str((run.result.get("partition") or {}).get("optimizer") or "")
    return next((run.short(o) for o in run.ranked if o.get("name") == name), name)


def _eyebrow(run: Run) -> list[str]:
    task, plan = run.task, run.plan
    said = [
        str(task.get("name") or ""),
        counted(len(run.ranked), "optimizer") if run.ranked else "",
        f"{counted(plan['trials'], 'trial')} each" if plan.get("trials") else "",
        counted(len(run.seeds), "seed") if run.seeds else "",
        f"{count(plan['steps'])} steps" if plan.get("steps") else "",
        f"{count(task['parameters'])} parameters" if task.get("parameters") else "",
    ]
    return [text for text in said if text]
