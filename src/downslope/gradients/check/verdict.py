"""From what a check has measured to its verdict: findings in words, coverage, reasons, Taylor slopes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from downslope.gradients import kinks
from downslope.gradients.check import noise, surrogate
from downslope.gradients.check.grid import COARSE
from downslope.gradients.check.hints import ZERO, Pattern, hint, ratio_hint
from downslope.gradients.check.line import Direction, Line
from downslope.gradients.check.locate import Search, Wrong, WrongPart
from downslope.gradients.check.measure import IMPORTANT, Measured, Meter
from downslope.gradients.check.problem import Problem, Vector
from downslope.gradients.check.result import Coverage, Finding, GradientReport, Reason, Taylor, Verdict
from downslope.gradients.check.words import region

GRID, CAUSE = 17, 120
"""Values with which a kink or a jump is first looked for along a line, and at most in all."""

BESIDE = 1e-9
"""Where it is looked whether f is flat, as a share of x."""

DIGITS = 2.0**12
"""So many half units in the last place may be the rounding of f itself."""

FLAT = (
    "f does not change at all close to the point, and jumps a little farther off. A derivative of zero, as "
    "is claimed, is right of such an f; where its jumps are digits that were cut off, it is not, and "
    "differences cannot tell."
)


def coverage_of(claimed: Vector, resolution: Vector, level: float, directions: int) -> Coverage | None:
    """Return in which entries an error of `level` would have been seen; None where in none of any size.

    Args:
        claimed: the gradient, or a Jacobian.
        resolution: the least error of each entry that would have been seen.
        level: as a share of the right value.
        directions: along which all were tested.

    """
    if not np.any(np.isfinite(resolution)):
        return None
    size = np.where(np.isfinite(claimed), np.abs(claimed), 0.0)
    judged = size > 0
    resolved = judged & (resolution <= level / (1 + level) * size)
    below = float(np.max(size[judged & ~resolved], initial=0.0))
    zeros = ~judged
    notice = float(np.max(resolution[zeros & np.isfinite(resolution)], initial=0.0))
    return Coverage(
        int(claimed.size), int(resolved.sum()), level, below, int(zeros.sum()), notice, directions
    )


@dataclass
class Judge:
    """Says what a finished check means: from what it looked for, and what it has measured.

    Attributes:
        problem: what was checked.
        directions: how many went over all entries.
        level: the relative error that the coverage is stated for.
        share: of what is claimed, where that is too large by `level`.
        meter: what measured.
        search: what looked for wrong entries.
        seen: all that was measured.
        unexplained: differences that no entry explains.
        resolution: of each entry, the error that would have been seen.
        reasons: why nothing can be said of some.

    """

    problem: Problem
    directions: int
    level: float
    share: float
    meter: Meter
    search: Search
    seen: list[Measured]
    unexplained: list[Measured]
    resolution: Vector
    reasons: list[tuple[Reason, str]]

    def report(self, claimed: Vector) -> GradientReport:
        """Return the report on a claimed gradient."""
        self.search.settle()
        found = self.search.found
        findings = [self._finding(w) for w in found.entries] + [self._part(p) for p in found.parts]
        findings.sort(key=lambda f: (-f.entries, -abs(f.analytic - f.numeric)))
        coverage = coverage_of(claimed, self.resolution, self.level, self.directions)
        if not findings:
            self._judge_coverage()
        self._rough()
        reason = self.reasons[0][0] if self.reasons else None
        verdict = Verdict.FAIL if findings else Verdict.INCONCLUSIVE if self.reasons else Verdict.PASS
        if found.unresolved and not findings and verdict is Verdict.PASS:
            verdict, reason = Verdict.INCONCLUSIVE, Reason.BUDGET
        return GradientReport(
            verdict,
            tuple(findings),
            reason=None if findings else reason,
            reasons=tuple(said for _, said in self.reasons),
            coverage=coverage,
            taylor=tuple(self._taylor(claimed, findings)),
            complete=not found.unresolved,
        )

    def _finding(self, wrong: Wrong) -> Finding:
        leaf = self.problem.leaf_of(wrong.at)
        said = hint(self.problem, wrong.at, wrong.analytic, wrong.numeric, wrong.error)
        return Finding(leaf.name, leaf.index(wrong.at), wrong.analytic, wrong.numeric, wrong.error, said)

    def _part(self, part: WrongPart) -> Finding:
        single = self._finding(part.example)
        said = part.pattern.value
        if part.pattern is Pattern.FACTOR and not single.measured:
            said = ZERO.replace(" it,", " them,")
        elif part.pattern is Pattern.FACTOR:
            ratio = single.ratio
            doubt = 10 * single.error / abs(single.numeric)
            leaf = self.problem.leaf_of(part.example.at)
            known = ratio_hint(self.problem, leaf, ratio, doubt)
            said = f"the same ratio {ratio:.6g} everywhere" + (f": {known}" if known else "")
        return replace(single, hint=said, entries=int(part.at.size), where=region(self.problem, part.at))

    def _judge_coverage(self) -> None:
        """A pass needs the entries that make up the gradient to be resolved.

        And that none claimed to be zero can be as large as the largest of them, or of any size at all.
        """
        size = np.abs(self.meter.claimed)
        top = float(np.max(size, initial=0.0))
        important = (size > IMPORTANT * top) & (size > 0)
        missed = important & (self.resolution > self.share * size)
        missed |= (size == 0) & (self.resolution > (top or self._worth_seeing()))
        if self.unexplained and not self.reasons:
            r, own = self.unexplained[0].residual, self.unexplained[0].tolerance
            self.reasons.append(
                self.cause
                or (
                    Reason.ROUND_OFF,
                    f"A difference of {r:.2g} (round-off: {own:.1g}) along a random direction could not be "
                    "traced to any entry. Check in float64, or at another point.",
                )
            )
        if self.reasons or not missed.any():
            return
        cause = self.cause
        if cause is not None:
            self.reasons.append(cause)
            return
        if not self.meter.claimed.any() and self._is_flat():
            self.reasons.append((Reason.JUMP, FLAT))
            return
        noise_level = self.meter.noise.value
        self.reasons.append(
            (
                Reason.ROUND_OFF,
                f"Round-off hides the gradient: f = {self.meter.f0:.6g} carries an error of about "
                f"{noise_level:.1g}. Check in float64, or take away what is constant in f.",
            )
        )

    def _is_flat(self) -> bool:
        """Return whether f stays as it is close to the point, and jumps by more than its digits elsewhere."""
        x, seen = self.problem.x, self.meter.noise
        if not seen.value > DIGITS * noise.HALF[seen.dtype] * abs(self.meter.f0):
            return False
        size = np.maximum(np.abs(x), float(np.max(np.abs(x), initial=0.0)) or 1.0)
        signs = np.random.default_rng(0).choice([-1.0, 1.0], x.size)
        ways = (side * BESIDE * size * signs for side in (1, -1))
        return all(self.problem.f(self.problem.round(x + way)) == self.meter.f0 for way in ways)

    def _worth_seeing(self) -> float:
        """Return how large an entry may be unseen where all are claimed to be zero.

        That is f over x, and 1 where f is larger: beside a large constant nothing may have been seen.
        """
        size = float(np.max(np.abs(self.problem.x), initial=0.0)) or 1.0
        own = abs(self.meter.f0) / size
        return min(own, 1.0) or 1.0

    @cached_property
    def cause(self) -> tuple[Reason, str] | None:
        """Return steps of f, or a kink or a jump near the point, that keep differences from converging."""
        if self.meter.noise.by_design:
            return Reason.JUMP, surrogate.SAID
        if self.meter.noise.stairs:
            return Reason.ROUND_OFF, (
                f"f is a staircase: its values come in steps of about {self.meter.noise.stairs:.2g}, as of "
                "numbers rounded, printed with few digits, read from a table or left where larger ones "
                "cancel, and these hide the gradient. Give f all its digits (%.17g where it is printed); of "
                "steps by design, check the smooth function in their place."
            )
        if not self.seen or self.meter.spent or self.problem.grid >= COARSE:  # all is jumps on a coarse grid
            return None
        line, near = self.seen[0].line, self.seen[0].slope.step
        found = None
        first = self.problem.evaluations
        for reach in (near, 0.03 * near**0.5, 0.1):
            # Not the noise that was measured: a jump at the point has been taken for it.
            least = 8 * noise.HALF[self.meter.noise.dtype] * abs(self.meter.f0)
            left = CAUSE - (self.problem.evaluations - first)
            if left < GRID:
                break
            found = kinks.locate(
                lambda t: line.at(t)[0], -reach, reach, noise=least, points=GRID, values=left
            )
            if found is not None and (isinstance(found, kinks.Kink) or self._stands_out(line, found)):
                break
            found = None
        if found is None:
            return None
        if isinstance(found, kinks.Jump):
            return Reason.JUMP, (
                f"f jumps along a line through the point: {found}. Differences across it do not converge; "
                "choose a point that is farther from it, or smooth f."
            )
        return Reason.KINK, (
            f"f has a kink on a line through the point: {found}. Choose a point that is farther from it, or "
            "a smooth version of f (softplus for relu)."
        )

    def _stands_out(self, line: Line, jump: kinks.Jump) -> bool:
        """Return whether a jump is more than round-off, and than what the function does on either side of it.

        At the point itself, where a jump has been taken for round-off, only the latter is asked.
        """
        height, size = abs(jump.right - jump.left), float(np.median(np.abs(self.problem.x)))
        if height < 8 * self.meter.noise.value and abs(jump.at) > 1e3 * max(self.problem.grid, 1e-12) * size:
            return False
        reach = 8 * jump.width
        sides = [[line.at(jump.at + side * reach * k)[0] for k in range(1, 9)] for side in (-1, 1)]
        return max(max(values) - min(values) for values in sides) < 0.2 * height

    def _rough(self) -> None:
        """Say where values are rounded, or steps had to stay small: there is structure close to the point."""
        if self.meter.noise.stairs and not self.reasons:
            self.problem.notes.append(
                f"f's values come in steps of about {self.meter.noise.stairs:.2g} (rounded?): differences "
                "were taken over many of them"
            )
        if self.meter.rough and not self.reasons:
            step = self.meter.rough[0].slope.step
            self.problem.notes.append(
                "f has fine structure around the point (steps, ripples or kinks); "
                f"differences were taken at steps below {step:.1g}"
            )

    def _taylor(self, claimed: Vector, findings: list[Finding]) -> list[Taylor]:
        made = []
        finite = np.where(np.isfinite(claimed), claimed, 0.0)
        if self.seen:
            line = self.seen[0].line
            made.append(line.with_claimed(finite[line.direction.at]).taylor("all entries"))
        for finding, wrong in zip(findings[:3], self._worst(findings), strict=False):
            line = self.meter.line(Direction(np.array([wrong]), np.ones(1)))
            made.append(line.with_claimed(finite[[wrong]]).taylor(finding.name))
        return made

    def _worst(self, findings: list[Finding]) -> list[int]:
        starts = {leaf.name: leaf for leaf in self.problem.leaves}
        return [
            starts[f.parameter].start
            + (int(np.ravel_multi_index(f.index, starts[f.parameter].shape)) if f.index else 0)
            for f in findings[:3]
        ]
