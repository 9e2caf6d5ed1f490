"""What a check of a gradient found."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from downslope.gradients.check.words import scientific, short


class Verdict(Enum):
    """How a check ended."""

    PASS = "pass"
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"


class Reason(Enum):
    """Why a check could not decide, and what to do about it."""

    KINK = "kink"
    JUMP = "jump"
    ROUND_OFF = "round-off"
    RANDOM = "random"
    NON_FINITE = "non-finite"
    BUDGET = "budget"


class GradientError(AssertionError):
    """A gradient is wrong, or could not be shown to be right."""


@dataclass(frozen=True)
class Finding:
    """A wrong entry, or many entries that are wrong in one way.

    Attributes:
        parameter: the array it is in.
        index: its index there; of many entries, of the one measured by itself.
        analytic: the claimed derivative.
        numeric: the measured one.
        error: its estimated error.
        hint: what the mistake may be.
        entries: how many entries are wrong in this way.
        where: which entries they are, in words; "" for a single one.

    """

    parameter: str
    index: tuple[int, ...]
    analytic: float
    numeric: float
    error: float
    hint: str = ""
    entries: int = 1
    where: str = ""

    @property
    def name(self) -> str:
        """The entry as it is written in the report: `layer2.weight[3, 17]`."""
        return f"{self.parameter}[{', '.join(map(str, self.index))}]" if self.index else self.parameter

    @property
    def ratio(self) -> float:
        """Claimed over measured."""
        return self.analytic / self.numeric if self.numeric else math.copysign(math.inf, self.analytic)

    @property
    def ratio_text(self) -> str:
        """The ratio as it is shown, with as many digits as tell it from 1."""
        if abs(self.ratio) >= 1e4:
            return f"{self.ratio:.1e}"
        text = f"{self.ratio + 0.0:.3f}"
        return f"{self.ratio:.6f}" if text == "1.000" else text

    @property
    def measured(self) -> bool:
        """Whether the measured derivative is more than its error, so that a ratio to it means something."""
        return math.isfinite(self.ratio) and abs(self.numeric) > 10 * self.error

    def __str__(self) -> str:
        digits = _digits(self.numeric, self.error)
        ratio = f", ratio {self.ratio_text}" if self.measured else ""
        numbers = (
            f"analytic {self.analytic:.{digits}g}, "
            f"numeric {self.numeric:.{digits}g} ± {self.error:.0e}{ratio}"
        )
        said = f"; {self.hint}" if self.hint else ""
        if self.entries == 1:
            return f"{self.name}: {numbers}{said}"
        return f"{self.where}{said}; for one, {self.name}: {numbers}"


def _digits(numeric: float, error: float) -> int:
    """Return how many digits are worth showing: those that are known, 3 to 6."""
    if numeric == 0 or error <= 0 or not math.isfinite(numeric):
        return 4
    return int(min(6, max(3, math.log10(max(abs(numeric) / error, 10.0)))))


@dataclass(frozen=True)
class Coverage:
    """What was looked at.

    Attributes:
        entries: entries of the gradient.
        resolved: of these, the ones in which an error of `level` would have been noticed.
        level: the error that counts, as a share of the right value.
        below: the largest claimed entry among those not resolved.
        zeros: entries claimed to be zero.
        notice: the size above which an entry claimed to be zero would have been noticed.
        directions: directions that all entries were tested along.

    """

    entries: int
    resolved: int
    level: float
    below: float
    zeros: int
    notice: float
    directions: int

    def __str__(self) -> str:
        judged = self.entries - self.zeros
        level = f"{self.level * 100:.3g} %"
        if judged == 0:
            above = f"above {scientific(self.notice)} would be noticed"
            return f"{self.entries:,} entries are claimed to be zero; {above}"
        whole = f"an error of {level} would be noticed in "
        if self.resolved == judged:
            said = whole + ("the one entry" if judged == 1 else f"each of {judged:,} entries")
        else:
            said = (
                f"{whole}{self.resolved:,} of {judged:,} entries; the others, at most "
                f"{scientific(self.below)}, are too small beside the round-off of f"
            )
        if self.zeros:
            said += f"; {self.zeros:,} claimed to be zero: above {scientific(self.notice)} would be noticed"
        return said


@dataclass(frozen=True)
class Taylor:
    """Remainders |f(x + h v) - f(x) - h ĝᵀv| along one direction: they fall as h² where ĝ is right.

    `slope` is their order in h, None where round-off leaves too few points to tell.
    """

    name: str
    steps: tuple[float, ...]
    remainders: tuple[float, ...]
    noise: float
    slope: float | None


@dataclass(frozen=True)
class GradientReport:
    """The verdict on a gradient, and what it rests on.

    Attributes:
        verdict: PASS, FAIL or INCONCLUSIVE.
        findings: the wrong entries, the most wrong first.
        reason: why it is inconclusive, else None.
        reasons: in words, what kept the check from deciding, and what to do.
        evaluations: calls of the function and of its gradient.
        coverage: what was looked at; None where the check ended before.
        notes: what else the user should know.
        taylor: remainders along some directions.
        complete: False where wrong entries may be left that are not listed.
        what: "gradient", "Hessian-vector product" or "Jacobian".

    """

    verdict: Verdict
    findings: tuple[Finding, ...] = ()
    reason: Reason | None = None
    reasons: tuple[str, ...] = ()
    evaluations: int = 0
    coverage: Coverage | None = None
    notes: tuple[str, ...] = ()
    taylor: tuple[Taylor, ...] = ()
    complete: bool = True
    what: str = "gradient"
    function: str = ""
    seconds: float = 0.0
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether the verdict is PASS."""
        return self.verdict is Verdict.PASS

    @property
    def headline(self) -> str:
        """The verdict in one sentence."""
        name = f" of {self.function}" if self.function else ""
        if self.verdict is Verdict.PASS:
            return f"The {self.what}{name} is right."
        if self.verdict is Verdict.INCONCLUSIVE:
            return f"The {self.what}{name} could not be judged: {self.reason.value if self.reason else ''}."
        wrong = sum(f.entries for f in self.findings)
        total = f" of {self.coverage.entries:,}" if self.coverage else ""
        least = "" if self.complete else "at least "
        entries = "entry" if wrong == 1 and not total else "entries"
        verb = "is" if wrong == 1 else "are"
        return f"The {self.what}{name} is wrong: {least}{wrong:,}{total} {entries} {verb} off."

    def raise_if_failed(self, *, inconclusive: bool = True) -> None:
        """Raise where the verdict is FAIL, and by default where it is INCONCLUSIVE.

        Raises:
            GradientError: an `AssertionError` with the whole report as its message.

        """
        if self.verdict is Verdict.FAIL or (inconclusive and self.verdict is Verdict.INCONCLUSIVE):
            raise GradientError(str(self))

    def __str__(self) -> str:
        lines = [f"{self.verdict.name}  {self.headline}"]
        lines += [f"  {f}" for f in self.findings]
        if not self.complete:
            lines.append("  More entries may be wrong than are listed.")
        lines += [f"  {said}" for said in self.reasons]
        if self.coverage is not None:
            lines.append(f"  Covered: {self.coverage}.")
        lines += [f"  Note: {note}" for note in self.notes]
        lines.append(f"  {self.evaluations:,} evaluations, {short(self.seconds)} s.")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values for JSON; what is not finite is a string."""
        return {
            "version": 1,
            "verdict": self.verdict.value,
            "what": self.what,
            "function": self.function,
            "headline": self.headline,
            "reason": self.reason.value if self.reason else None,
            "reasons": list(self.reasons),
            "complete": self.complete,
            "findings": [
                {
                    "name": f.name,
                    "parameter": f.parameter,
                    "index": list(f.index),
                    "analytic": _plain(f.analytic),
                    "numeric": _plain(f.numeric),
                    "error": _plain(f.error),
                    "ratio": _plain(f.ratio),
                    "hint": f.hint,
                    "entries": f.entries,
                    "where": f.where,
                }
                for f in self.findings
            ],
            "coverage": None
            if self.coverage is None
            else {**{k: _plain(v) for k, v in vars(self.coverage).items()}, "text": str(self.coverage)},
            "notes": list(self.notes),
            "taylor": [
                {
                    "name": t.name,
                    "steps": list(t.steps),
                    "remainders": [_plain(v) for v in t.remainders],
                    "noise": _plain(t.noise),
                    "slope": t.slope,
                }
                for t in self.taylor
            ],
            "evaluations": self.evaluations,
            "seconds": self.seconds,
        }


def _plain(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)
