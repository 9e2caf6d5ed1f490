"""A comparison as it looks in a terminal: the plan, live progress, the ranked table."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from downslope.compare.plan import Plan, RunSpec
from downslope.compare.run import Record
from downslope.compare.storage import without_password
from downslope.compare.words import number, quantity


class Live:
    """Shows how far each optimizer is: bars in a terminal, one line a run elsewhere."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[stage]}"),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.plan: Plan | None = None
        self.records: list[Record] = []
        self.ids: dict[str, TaskID] = {}
        self.under_way: dict[tuple[str, str, int], int] = {}

    def __enter__(self) -> Live:
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.stop()

    def began(self, plan: Plan, done: Sequence[Record]) -> None:
        """See `Observer`."""
        self.plan, self.records = plan, list(done)
        total = plan.total_runs()
        if len(done) >= total:
            self.console.print("All runs are done already.")
        elif done:
            self.console.print(f"Resuming: {len(done)} of {total} runs are done.")
        each = (plan.trials + len(plan.seeds)) * plan.steps
        for c in plan.candidates:
            self.ids[c.name] = self.bars.add_task(c.label, total=each, stage="")
            self._show(c.name)
        self.bars.start()

    def progressed(self, spec: RunSpec, steps: int) -> None:
        """See `Observer`."""
        self.under_way[spec.key] = steps
        self._show(spec.optimizer)

    def ended(self, record: Record) -> None:
        """See `Observer`."""
        self.under_way.pop(record.key, None)
        self.records.append(record)
        self._show(record.optimizer)
        if not self.console.is_terminal and self.plan is not None:
            kind = f"trial {record.index + 1}" if record.kind == "tune" else f"seed {record.seed}"
            self.console.print(
                f"[{len(self.records)}/{self.plan.total_runs()}] {record.optimizer} {kind}, "
                f"lr {number(record.lr)}, decay {record.weight_decay:g}: {number(record.final)}, "
                f"{record.seconds:.1f} s",
                markup=False,
                highlight=False,
            )

    def _show(self, name: str) -> None:
        """Bring an optimizer's bar up to date."""
        assert self.plan is not None
        own = [r for r in self.records if r.optimizer == name]
        part = sum(steps for key, steps in self.under_way.items() if key[1] == name)
        self.bars.update(self.ids[name], completed=len(own) * self.plan.steps + part, stage=self._stage(own))

    def _stage(self, own: Sequence[Record]) -> str:
        assert self.plan is not None
        tuned = [r for r in own if r.kind == "tune"]
        if len(tuned) == self.plan.trials:
            return f"final runs {len(own) - len(tuned)}/{len(self.plan.seeds)}"
        best = min(tuned, key=lambda r: r.final, default=None)
        stage = f"tuning {len(tuned)}/{self.plan.trials}"
        if best is None or best.diverged:
            return stage
        return f"{stage}, best {number(best.final)} at lr {number(best.lr)}"


def duration(seconds: float) -> str:
    """Return a time in words.

    >>> duration(12.3), duration(75), duration(4000), duration(7199)
    ('12 s', '1 min 15 s', '1 h 7 min', '2 h 0 min')

    """
    whole = max(1, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    minutes = round(whole / 60)
    return f"{minutes // 60} h {minutes % 60} min"


def plan_lines(plan: Plan, jobs: int, threads: int) -> list[str]:
    """Return what a comparison consists of, in a few lines."""
    names = ", ".join(c.label for c in plan.candidates)
    return [
        f"{plan.task}: {names}",
        f"each: {plan.trials} tuning trials, then the best on {len(plan.seeds)} fresh seeds",
        f"{plan.total_runs()} runs of {plan.steps} steps ({plan.schedule}, {plan.warmup} of them warm-up), "
        f"{jobs} at a time on {threads} {'thread' if threads == 1 else 'threads'} each",
    ]


def table(result: dict[str, Any], width: int = 80) -> Table:
    """Return the ranked table; it fits 80 columns, and 60 without a broken word."""
    unit = quantity(result["task"]["metric"])
    gap = 2 if width >= 76 else 1
    shown = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0), header_style="dim")
    for header in ("", "optimizer", "lr", "decay", f"final {unit}", "hit", "steps", "seconds", "lr\nroom"):
        left = header in ("optimizer", f"final {unit}")
        shown.add_column(Text(header), justify="left" if left else "right", overflow="fold")
    winners = set(result["verdict"]["winners"])
    for entry in result["optimizers"]:
        shown.add_row(*_row(entry), style="bold" if entry["name"] in winners else "")
    return shown


def _row(entry: dict[str, Any]) -> list[Text | str]:
    best, steps, seconds = entry["best"], entry["steps_to_target"], entry["seconds_to_target"]
    room = entry["sensitivity"]["within_10_percent_decades"]
    ranked = bool(entry["final"]["values"])
    return [
        str(entry["rank"]) if ranked else "",
        entry["label"],
        "–" if best is None else number(best["lr"], 2),
        "–" if best is None else number(best["weight_decay"], 1),
        _final(entry),
        f"{steps['reached']}/{steps['of']}",
        "–" if steps["median"] is None else f"{steps['median']:.0f}",
        "–" if seconds["median"] is None else number(seconds["median"]),
        f"{room:.2f}",
    ]


def _final(entry: dict[str, Any]) -> str:
    final = entry["final"]
    if not final["values"]:
        tried = entry["trials"]
        return "diverged" if tried and all(t["diverged"] for t in tried) else "not run yet"
    middle = number(math.inf if final["median"] is None else final["median"])
    if len(final["values"]) == 1:
        return middle
    low, high = (("∞" if final[k] is None else number(final[k])) for k in ("low", "high"))
    return f"{middle} [{low}, {high}]"


def legend(result: dict[str, Any]) -> str:
    """Return what the columns of the table mean."""
    seeds = len(result["plan"]["seeds"])
    text = (
        f"Final: median of {seeds} seeds [95 % bootstrap interval]. Lr room: how many decades of "
        "learning rate end within 10 % of the best trial."
    )
    if result["target"] is not None:
        text += (
            f" Hit, steps, seconds: runs that reach {number(result['target']['value'])} "
            f"({result['target']['origin']}), and after how much training."
        )
    return text


def command_line(arguments: Sequence[str]) -> str:
    """Return the command as it can be typed again, but for the password of a storage: pages are passed on.

    >>> command_line(["compare", "digits", "--storage", "postgresql://me:secret@host/trials"])
    'downslope compare digits --storage postgresql://me:***@host/trials'

    """
    return without_password(shlex.join(["downslope", *arguments]))
