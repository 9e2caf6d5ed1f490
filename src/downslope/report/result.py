"""A comparison's result as it is read here: every part of it may be missing, and then is empty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from downslope.report.numbers import finite

SCHEMA = 1


@dataclass(frozen=True)
class Run:
    """One result dict of `downslope compare`, and the colour number of each optimizer on the page."""

    result: Mapping[str, Any]
    colours: Mapping[str, int]

    @property
    def task(self) -> dict[str, Any]:
        """Name, description, metric, steps, goal, parameters."""
        return self.result.get("task") or {}

    @property
    def plan(self) -> dict[str, Any]:
        """Trials, seeds, steps, schedule, search spaces, jobs."""
        return self.result.get("plan") or {}

    @property
    def verdict(self) -> dict[str, Any]:
        """Sentence, winners, tied, complete."""
        return self.result.get("verdict") or {}

    @property
    def ranked(self) -> list[dict[str, Any]]:
        """The optimizers that have a result, best first."""
        return self.result.get("optimizers") or []

    @property
    def seeds(self) -> list[int]:
        """The fresh seeds planned."""
        return self.plan.get("seeds") or []

    @property
    def metric(self) -> str:
        """The word for what is evaluated, with its unit: "validation loss (nats)"."""
        return str(self.task.get("metric") or "loss")

    @property
    def quantity(self) -> str:
        """The word for what is evaluated, without its unit: "validation loss"."""
        return head_of(self.metric)

    @property
    def target(self) -> float | None:
        """The value to reach, or None."""
        return finite((self.result.get("target") or {}).get("value"))

    def colour(self, optimizer: Mapping[str, Any]) -> int:
        """Return the number of an optimizer's colour."""
        return self.colours[name_of(optimizer)]

    def short(self, optimizer: Mapping[str, Any]) -> str:
        """Return an optimizer's name without its parenthesis, unless another would then share it."""
        full = name_of(optimizer)
        heads = [head_of(name_of(o)) for o in self.ranked]
        return full if heads.count(head_of(full)) > 1 else head_of(full)


def name_of(optimizer: Mapping[str, Any]) -> str:
    """Return the full name an optimizer is shown by: "SGD (momentum 0.9)"."""
    return str(optimizer.get("label") or optimizer.get("name") or "unnamed")


def head_of(text: str) -> str:
    """Return a text without the parenthesis at its end.

    >>> head_of("SGD (momentum 0.9)"), head_of("(odd)")
    ('SGD', '(odd)')
    """
    head = text.partition(" (")[0] if text.endswith(")") else text
    return head.strip() or text


def trials_of(optimizer: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return an optimizer's tuning trials."""
    return optimizer.get("trials") or []


def curves_of(optimizer: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return an optimizer's curves that hold at least one evaluation, one a seed."""
    return [c for c in optimizer.get("curves") or [] if c.get("loss")]


def finals_of(optimizer: Mapping[str, Any]) -> list[float | None]:
    """Return an optimizer's final values, one a seed; None where it is not finite."""
    return [finite(v) for v in (optimizer.get("final") or {}).get("values") or []]


def seeds_of(run: Run, optimizer: Mapping[str, Any]) -> list[str]:
    """Return the name of each of an optimizer's final values: the seed it came from."""
    values, curves = finals_of(optimizer), optimizer.get("curves") or []
    seeds = [c.get("seed") for c in curves] if len(curves) == len(values) else run.seeds[: len(values)]
    named = [f"seed {s}" for s in seeds]
    return named + [f"value {i + 1}" for i in range(len(named), len(values))]


def absent(optimizer: Mapping[str, Any]) -> str:
    """Return the word for a final value that is not there: "diverged", or "no result" yet."""
    trials = trials_of(optimizer)
    lost = finals_of(optimizer) or (trials and all(t.get("diverged") for t in trials))
    return "diverged" if lost else "no result"


def interval(low: str, high: str) -> str:
    """Return an interval of two numbers in words; one that has no upper end reaches infinity.

    >>> interval("0.1", "0.2"), interval("0.1", "–"), interval("–", "–")
    ('0.1 – 0.2', '0.1 – ∞', '–')
    """
    if low == "–":
        return "–"
    return f"{low} – {'∞' if high == '–' else high}"


def colours_of(results: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Return one colour number an optimizer, in the order in which the results name them."""
    names = [name_of(o) for result in results for o in result.get("optimizers") or []]
    return {name: i for i, name in enumerate(dict.fromkeys(names))}


def checked(result: object) -> Mapping[str, Any]:
    """Return the result if it can be read.

    Raises:
        TypeError: not a dict.
        ValueError: a schema that this version does not know.

    """
    if not isinstance(result, Mapping):
        raise TypeError(
            f"a result is a dict, as `downslope compare --json` writes it; got {type(result).__name__}"
        )
    if result.get("schema") != SCHEMA:
        raise ValueError(
            f"schema = {result.get('schema')!r} in the result: this version of Downslope reads {SCHEMA}; "
            "run `downslope compare` again, or use the version that wrote the run"
        )
    return result
