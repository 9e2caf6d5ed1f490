"""From a residual along a direction to the entries that are wrong.

One wrong entry j gives δ v_j along v, and δ v_j p_j along v∘p: the ratio of the two is p_j, so a code
p that differs from entry to entry names j, to as many digits as the residual has above its error.
Where several entries are wrong the name is a false one, which a look at that entry alone shows;
the entries are then halved, arrays first, until each part has one. What is found is put
right in the claimed gradient, so that the next error stands out of nothing.

Before parts are halved they are asked whether one explanation serves for all of them: a constant
factor, a transpose, a shift.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from downslope.gradients.check.grid import cell
from downslope.gradients.check.hints import Pattern, factor, patterns
from downslope.gradients.check.line import Direction
from downslope.gradients.check.measure import Measured, Meter
from downslope.gradients.check.problem import Indices, Vector, length

SAMPLE = 4
"""Entries looked at alone before a part is said to be wrong throughout."""


@dataclass
class Wrong:
    """A wrong entry: its place in the vector, what was claimed, what was measured."""

    at: int
    analytic: float
    numeric: float
    error: float


@dataclass
class WrongPart:
    """Entries that are wrong in one way, with the largest of them measured by itself."""

    at: Indices
    pattern: Pattern
    example: Wrong


@dataclass
class Location:
    """What was found, and what was not finished."""

    entries: list[Wrong] = field(default_factory=list)
    parts: list[WrongPart] = field(default_factory=list)
    kinks: list[int] = field(default_factory=list)
    unresolved: list[Indices] = field(default_factory=list)
    excluded: list[Indices] = field(default_factory=list)


class Search:
    """Finds the wrong entries behind a residual."""

    def __init__(self, meter: Meter, rtol: float, most: int, precise: bool) -> None:
        self.precise = precise
        self.meter = meter
        self.rtol = rtol
        self.most = most
        self.original = meter.claimed.copy()
        self.found = Location()

    @property
    def full(self) -> bool:
        """Whether there is no room, or no budget, for more."""
        return self.meter.spent or len(self.found.entries) + len(self.found.parts) >= self.most

    def explain(self, seen: Measured) -> None:
        """Find what makes the residual of `seen`; put it right in the claimed gradient."""
        at = seen.direction.at
        if self.full:
            self.found.unresolved.append(at)
            return
        if at.size == 1:
            self._single(int(at[0]), seen)
            return
        if self._finer(seen):
            return
        entry, second = self._decode(seen)
        if self._pattern(seen, second, entry):
            return
        if entry is not None and self._single(entry, seen):
            rest = self._without(seen)
            if rest.wrong:
                self.explain(self._again(rest))
            return
        if self._finer(seen):  # the entry alone has shown what the residual passed over
            return
        if self._throughout(seen):
            return
        halves = self._halves(seen)
        wrong = [half for half in halves if half.wrong]
        if not wrong:  # near round-off: follow what stands out more, and let the entry alone decide
            best = max(halves, key=lambda half: abs(half.residual) / half.tolerance)
            wrong = [best] if abs(best.residual) > 0.5 * best.tolerance else []
        for half in wrong:
            self.explain(half)

    def _finer(self, seen: Measured) -> bool:
        """Explain a residual anew that was measured over structure found since. Return whether it was."""
        step = self.meter.finer(seen)
        if step is None:
            return False
        anew = self.meter.measure(seen.direction, start=step, sure=True)
        if anew.wrong and not anew.bent:
            self.explain(anew)
        return True

    def _decode(self, seen: Measured) -> tuple[int | None, Measured | None]:
        """Return the entry that is wrong if only one is, and a second residual over all entries."""
        meter, r = self.meter, seen.residual
        at, by = seen.direction
        second = None
        for _ in range(8):
            code = meter.generator.permutation(np.linspace(-1.0, 1.0, at.size))
            if second is None:
                code = np.linspace(0.5, 1.5, at.size)  # no entry is left out: it serves patterns too
            spacing = abs(code[-1] - code[0]) / at.size if second is None else 2.0 / at.size
            coded = meter.measure(Direction(at, by * code), want=abs(r) * spacing / 40, start=seen.slope.step)
            second = second or coded
            ratio = coded.residual / r
            doubt = 8 * (coded.slope.error + abs(ratio) * seen.slope.error) / abs(r) + 1e-9
            keep = np.abs(code - ratio) <= doubt
            left = int(np.count_nonzero(keep))
            if left == 0 or (left > 0.7 * at.size and left > 1) or not np.isfinite(ratio):
                return None, second
            at, by = at[keep], by[keep]
            if left == 1:
                return int(at[0]), second
        return None, second

    def _single(self, j: int, of: Measured) -> bool:
        """Measure entry j alone; keep it if wrong, and put it right. Return whether it was wrong.

        `of` is the residual that it may be behind.
        """
        meter = self.meter
        seen = meter.measure(Direction(np.array([j]), np.ones(1)), start=self._step(j, of), sure=True)
        if j not in self.found.kinks and (seen.bent or (seen.wrong and self._between(seen))):
            self.found.kinks.append(j)
            meter.correct(j, float(meter.claimed[j] + seen.residual), seen.slope.error)
            return True
        if not seen.wrong or not self._steady(j, seen):
            return False
        analytic, numeric = float(meter.claimed[j]), float(meter.claimed[j] + seen.residual)
        meter.correct(j, numeric, seen.slope.error)
        if abs(seen.residual) > self.rtol * max(abs(analytic), abs(numeric)):
            error = seen.slope.error
            self.found.entries.append(Wrong(j, float(self.original[j]), numeric, error))
        return True

    def _between(self, seen: Measured) -> bool:
        """Return whether what is claimed lies between the slopes of the two sides, whatever the step.

        So it does at a kink beside the point that is nearer than any step can show, and is then right.
        """
        h = seen.slope.step
        wide, fine = seen.line.bend(h), seen.line.bend(h / 4)  # a quarter of it where f is only curved
        noise = seen.line.noise(h / 4)
        stands = wide != 0 and fine / wide > 0.6 and abs(fine) > 8 * noise
        lost = noise > 1e-3 * abs(wide)  # what finer steps would show; else they have been taken
        return stands and lost and abs(seen.residual) < 0.6 * abs(wide)

    def _steady(self, j: int, seen: Measured) -> bool:
        """Return whether the claimed entry stays what it is over the step that showed it to be wrong.

        Below float64 steps are large, and a gradient may rightly follow what they pass over.
        """
        if self.precise:
            return True
        problem, r = self.meter.problem, abs(seen.residual)
        finest = 32 * problem.grid * abs(float(problem.x[j]))
        visible = min(max(20 * self.meter.noise.value / r, finest), seen.slope.step)
        steps = [h for k in (2.6, 1.7, 1.0, 0.77, 0.53, 0.32, 0.11) if (h := visible * k) <= seen.slope.step]
        if self.meter.on_grid:  # whole steps of the grid: others move the point by chance, or not at all
            steps = [k * float(cell(problem.x[[j]], problem.grid)[0]) for k in (1, 2, 3, 5, 7, 11, 17, 23)]
        for h in steps:
            total = 0.0
            for side in (-h, h):
                near = problem.x.copy()
                near[j] += side
                total += float(problem.g(problem.round(near))[j]) / 2
            if not abs(total - float(self.original[j])) <= 0.3 * r:
                return False
        return True

    def _step(self, j: int, of: Measured | None = None) -> float:
        """Return a first step for one entry: as large as that of the lines, or as the entry itself.

        Where there is fine structure it stays below that, as far as the entry can show such a step. Where a
        residual is looked for that its own step shows well, and the entry too, it is that.
        """
        meter = self.meter
        size = abs(float(meter.problem.x[j]))
        shown = 1024 * meter.problem.grid * size
        if meter.rough:
            return min(meter.start, max(4 * meter.finest, shown))
        if of and of.slope.step > max(shown, 1e4 * meter.noise.value / max(abs(of.residual), 1e-300)):
            return of.slope.step
        return max(meter.start, 0.05 * size)

    def _without(self, seen: Measured) -> Measured:
        """Return the residual that is left beside what has been put right, at no evaluation."""
        at = seen.direction.at
        line = seen.line.with_claimed(self.meter.claimed[at])
        slope = line.slope(seen.slope.step)._replace(bend=seen.slope.bend, bend_error=seen.slope.bend_error)
        return Measured(seen.direction, slope, self.meter.tolerance(seen.direction, slope), line)

    def _again(self, seen: Measured) -> Measured:
        fresh = self.meter.direction(seen.direction.at, np.abs(seen.direction.by))
        return self.meter.measure(fresh, start=seen.slope.step, sure=True)

    def _halves(self, seen: Measured) -> list[Measured]:
        """Return the residuals of two halves, cut between arrays where there are several."""
        at, by = seen.direction
        cut = self._cut(at)
        # Not from the step of the whole alone: from half to half it would fall until round-off rules.
        step = seen.slope.step if self.meter.rough else max(seen.slope.step, self.meter.start)
        first = self.meter.measure(Direction(at[:cut], by[:cut]), start=step, sure=True)
        second = self.meter.measure(Direction(at[cut:], by[cut:]), start=step, sure=True)
        return [first, second]

    def _throughout(self, seen: Measured) -> bool:
        """Keep a part of one array in which a sample of entries is all wrong. Return whether it was."""
        at = seen.direction.at
        leaf = self.meter.problem.leaf_of(int(at[0]))
        if at.size < 16 or at[-1] >= leaf.stop:
            return False
        sample: list[Wrong] = []
        for j in self.meter.generator.choice(at, SAMPLE, replace=False):
            alone = self.meter.measure(Direction(np.array([j]), np.ones(1)), start=self._step(j), sure=True)
            analytic, numeric = float(self.meter.claimed[j]), float(self.meter.claimed[j] + alone.residual)
            off = abs(alone.residual) > self.rtol * max(abs(analytic), abs(numeric))
            if not alone.wrong or alone.bent or not off or not self._steady(int(j), alone):
                return False
            sample.append(Wrong(int(j), float(self.original[j]), numeric, alone.slope.error))
        zero = not np.any(self.original[at])
        worst = max(sample, key=lambda w: abs(w.analytic - w.numeric))
        pattern = Pattern.DETACHED if zero else Pattern.THROUGHOUT
        self.found.parts.append(WrongPart(at, pattern, worst))
        self.found.excluded.append(at)
        return True

    def _cut(self, at: Indices) -> int:
        edges = np.searchsorted(at, [leaf.start for leaf in self.meter.problem.leaves])
        inside = edges[(edges > 0) & (edges < at.size)]
        if inside.size:
            return int(inside[np.argmin(np.abs(inside - at.size // 2))])
        return at.size // 2

    def _pattern(self, seen: Measured, second: Measured | None, entry: int | None) -> bool:
        """Put right a part in which one explanation serves for all entries. Return whether one did.

        Not where `entry` explains the residual as well, and all that the pattern says of the others is less
        than could be seen.
        """
        if second is None or not second.slope.error < np.inf:
            return False
        meter, at = self.meter, seen.direction.at
        for pattern, whole, doubt in self._candidates(at, seen, second):
            if entry is not None:
                others = (whole - meter.claimed[at]) * seen.direction.by * (at != entry)
                if length(others) <= self._slack(doubt, seen):
                    continue
            if all(self._fits(whole, doubt, one) for one in (seen, second)):
                third = meter.measure(meter.direction(at), start=seen.slope.step, sure=True)
                if self._fits(whole, doubt, third):
                    return self._keep(third, pattern, whole)
        return False

    def _candidates(
        self, at: Indices, seen: Measured, second: Measured
    ) -> list[tuple[Pattern, Vector, float]]:
        meter = self.meter
        claimed = meter.claimed[at]
        given = [(p, v, 0.0) for p, v in patterns(meter.problem, at, meter.claimed)]
        rows = [(s.residual, s.slope.error, float(claimed @ s.direction.by)) for s in (seen, second)]
        measured = factor(rows)
        if measured is None:
            return given
        return [(Pattern.FACTOR, claimed * measured.value, measured.doubt), *given]

    def _fits(self, whole: Vector, doubt: float, seen: Measured) -> bool:
        """Whether with `whole` as the gradient the residual would be nothing, and is something now."""
        at, by = seen.direction
        claimed = self.meter.claimed[at]
        left = seen.residual - float((whole - claimed) @ by)
        return seen.wrong and abs(left) <= min(self._slack(doubt, seen), 0.02 * abs(seen.residual))

    def _slack(self, doubt: float, seen: Measured) -> float:
        """Return what an explanation, itself in `doubt` by that share, may leave of a residual."""
        at, by = seen.direction
        return seen.tolerance + (1e-9 + doubt) * length(self.meter.claimed[at] * by)

    def settle(self) -> None:
        """Keep only what still differs from what was claimed, each entry once, as it was measured last."""
        now, original = self.meter.claimed, self.original
        scale = self.rtol * np.maximum(np.abs(now), np.abs(np.nan_to_num(original)))
        off = ~(np.abs(now - original) <= scale)
        last = {w.at: w for w in self.found.entries if off[w.at]}
        told = np.array(list(last), dtype=np.intp)
        parts: list[WrongPart] = []
        for part in reversed(self.found.parts):
            whole = part.pattern in (Pattern.DETACHED, Pattern.THROUGHOUT)
            left = np.setdiff1d(part.at if whole else part.at[off[part.at]], told)
            told = np.concatenate([told, left])
            if left.size == 1:
                last.setdefault(part.example.at, part.example)
            elif left.size:
                parts.insert(0, replace(part, at=left))
        self.found.entries, self.found.parts = list(last.values()), parts

    def _keep(self, shown: Measured, pattern: Pattern, whole: Vector) -> bool:
        """Put a part right; what is kept are the entries whose error alone would have been seen."""
        meter, (at, by) = self.meter, shown.direction
        off = np.abs(whole - meter.claimed[at])
        j = int(at[int(np.argmax(off))])
        seen = meter.measure(Direction(np.array([j]), np.ones(1)), start=self._step(j, shown), sure=True)
        if not seen.wrong or meter.finer(shown) or not self._steady(j, seen):
            return False
        numeric = float(meter.claimed[j] + seen.residual)
        example = Wrong(j, float(self.original[j]), numeric, seen.slope.error)
        self.found.parts.append(WrongPart(at[off * np.abs(by) > shown.tolerance], pattern, example))
        meter.claimed[at] = whole
        return True
