"""The verdict in one sentence, and the words that go with numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from downslope.compare.verdict import Estimate, Sensitivity


@dataclass(frozen=True)
class Standing:
    """Where an optimizer stands: what sentence and notes are made of. `p_value` is against the best."""

    name: str
    label: str
    rank: int
    final: Estimate | None
    best_lr: float | None
    trials: int
    trials_diverged: int
    finals_diverged: int
    sensitivity: Sensitivity
    range: tuple[float, float]
    steps_to_target: float | None = None
    p_value: float | None = None


def number(value: float, digits: int = 3) -> str:
    """Return a number with so many significant digits, as short as that allows.

    >>> number(0.15034), number(0.00054), number(12345.6), number(0.0), number(float("inf"))
    ('0.150', '5.40e-4', '1.23e4', '0', 'diverged')

    """
    if not math.isfinite(value):
        return "diverged"
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 10**digits:
        return f"{value:#.{digits}g}".removesuffix(".")
    mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
    return f"{mantissa}e{int(exponent)}"


def more(ratio: float) -> str:
    """Return how much worse something is.

    >>> more(4.32), more(108.46)
    ('+332 %', '× 108')

    """
    return f"+{100 * (ratio - 1):.0f} %" if ratio < 10 else f"× {ratio:.0f}"


def interval(e: Estimate) -> str:
    """Return an estimate as `0.150 [0.140, 0.160]`."""
    if e.low is None or e.high is None:
        return number(e.median)
    low, high = (number(v) if math.isfinite(v) else "∞" for v in (e.low, e.high))
    return f"{number(e.median)} [{low}, {high}]"


def listed(names: Sequence[str]) -> str:
    """Return names as `a, b and c`; of no names, nothing."""
    return "".join(names) if len(names) < 2 else f"{', '.join(names[:-1])} and {names[-1]}"


def quantity(metric: str) -> str:
    """Return a metric without its unit.

    >>> quantity("validation loss (nats)")
    'validation loss'

    """
    return metric.split(" (")[0]


def sentence(
    standings: Sequence[Standing], winners: Sequence[str], metric: str, steps: int, done: int, total: int
) -> str:
    """Return the verdict; `standings` are in order of rank, `done` of `total` runs have ended."""
    ended = [s for s in standings if s.final is not None and math.isfinite(s.final.median)]
    what = quantity(metric)
    if done < total:
        said = _judged(ended, winners, what, steps, diverged=False) if ended else _tuning_only(standings)
        return f"Not finished ({done} of {total} runs): {said}"
    if not ended:
        return "Every run diverged: no optimizer trained this model; try lower learning rates with --lr."
    said = _judged(ended, winners, what, steps, diverged=len(ended) < len(standings))
    lost = [s.label for s in standings if s not in ended]
    if len(ended) > 1 and lost:
        return f"{said.removesuffix('.')}; {listed(lost)} diverged."
    return said


def _judged(ended: Sequence[Standing], winners: Sequence[str], what: str, steps: int, diverged: bool) -> str:
    first = ended[0]
    own = _interval_of(first)
    if len(ended) == 1:
        alone = "every other optimizer diverged" if diverged else "there is no other to compare it with"
        return f"{first.label} ends at a {what} of {own}; {alone}."
    others = [s for s in ended if s.name not in winners]
    tied = [s for s in ended if s.name in winners]
    if first.final is not None and first.final.low is None:
        rest = listed([f"{s.label} at {_interval_of(s)}" for s in ended[1:]])
        return (
            f"Nothing is settled by one seed: {first.label} ends with the lowest {what}, {own}, {rest}; "
            "more --seeds give intervals."
        )
    if len(tied) > 1:
        values = ", ".join(_interval_of(s) for s in tied)
        names, verb = listed([s.label for s in others]), "is" if len(others) == 1 else "are"
        behind = f"; {names} {verb} behind" if others else ""
        tie = f"{listed([s.label for s in tied])} are tied: the difference in their {what} may be chance"
        return f"{tie} ({values}){behind}."
    second = others[0]
    sooner = ""
    if first.steps_to_target is not None and first.steps_to_target < steps:
        sooner = f", and it reaches the target in {first.steps_to_target:.0f} of {steps} steps"
    return (
        f"{first.label} is best: its {what} ends at {own}, below {second.label}'s {_interval_of(second)}"
        f"{_chance(second)}{sooner}."
    )


def _interval_of(s: Standing) -> str:
    assert s.final is not None
    return interval(s.final)


def _chance(s: Standing) -> str:
    """Return how probable it is that chance puts as much between an optimizer's runs and the best one's."""
    return "" if s.p_value is None else f" (p={number(s.p_value, 2)})"


def _tuning_only(standings: Sequence[Standing]) -> str:
    tried = [s for s in standings if s.best_lr is not None]
    if not tried:
        return "No trial has ended."
    best = listed([f"{number(s.best_lr)} for {s.label}" for s in tried if s.best_lr is not None])
    return f"No final run has ended; the best learning rates are {best}."
