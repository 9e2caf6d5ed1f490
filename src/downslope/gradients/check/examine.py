"""The check itself: preflight, directions over all entries, the search, a last look, the verdict."""

from __future__ import annotations

import math
import time
import warnings
from dataclasses import dataclass, field, replace

import numpy as np

from downslope.gradients.check import grid, noise, surrogate
from downslope.gradients.check.bends import Bends
from downslope.gradients.check.line import Direction
from downslope.gradients.check.locate import Search, Wrong
from downslope.gradients.check.measure import IMPORTANT, SEEN, SURE, Measured, Meter
from downslope.gradients.check.problem import Indices, Problem, Vector, length
from downslope.gradients.check.result import (
    Finding,
    GradientReport,
    Reason,
    Verdict,
)
from downslope.gradients.check.verdict import Judge
from downslope.gradients.check.words import region

ROUNDED = "f holds numbers of 16 bits: what their rounding may make of the gradient was let pass"


@dataclass(frozen=True)
class Settings:
    """How a check is made.

    Args:
        directions: random directions that all entries are tested along.
        evaluations: calls of function and gradient allowed.
        findings: wrong entries or parts that are listed at most.
        level: the relative error that the coverage is stated for.
        rtol: relative differences up to this are let pass.
        seed: of the directions.

    """

    directions: int = 2
    evaluations: int = 2000
    findings: int = 50
    level: float = 0.01
    rtol: float = 1e-4
    seed: int = 0


@dataclass
class Stopped(Exception):  # noqa: N818
    """The check ends before directions make sense."""

    reason: Reason
    said: str
    findings: list[Finding] = field(default_factory=list)


def examine(problem: Problem, settings: Settings) -> GradientReport:
    """Check the claimed gradient of a problem."""
    begun = time.perf_counter()
    if problem.doubt is None:
        return examined(Check(problem, settings))
    report = examined(Check(problem, replace(settings, findings=1, evaluations=settings.evaluations // 2)))
    if report.verdict is Verdict.FAIL or report.reason is Reason.ROUND_OFF:
        check = Check(problem, settings, problem.doubt(problem.x))
        problem.notes.append(ROUNDED)
        report = examined(check)
    return replace(report, seconds=time.perf_counter() - begun)


def examined(check: Check) -> GradientReport:
    """Return what a check finds; which errors it would have seen stays in its `resolution`."""
    begun, problem = time.perf_counter(), check.problem
    try:
        report = check.run()
    except Stopped as stop:
        check.stopped = True
        verdict = Verdict.FAIL if stop.findings else Verdict.INCONCLUSIVE
        report = GradientReport(
            verdict, tuple(stop.findings), reason=None if stop.findings else stop.reason, reasons=(stop.said,)
        )
    return replace(
        report,
        evaluations=problem.evaluations,
        notes=tuple(problem.notes),
        seconds=time.perf_counter() - begun,
    )


class Check:
    """One check of one problem."""

    def __init__(self, problem: Problem, settings: Settings, doubt: Vector | None = None) -> None:
        self.problem = problem
        self.settings = settings
        self.doubt = doubt
        self.generator = np.random.default_rng(settings.seed)
        self.seen: list[Measured] = []
        self.unexplained: list[Measured] = []
        self.resolution: Vector = np.full(problem.size, math.inf)
        self.reasons: list[tuple[Reason, str]] = []
        self.stopped = False

    def run(self) -> GradientReport:
        """Return the report."""
        f0, claimed = self._preflight()
        at = np.flatnonzero(np.isfinite(claimed))
        first = self.generator.choice((-1.0, 1.0), self.problem.size)
        known = np.where(np.isfinite(claimed), claimed, 0.0)
        seen = grid.find(self.problem, self.generator)
        apart = np.random.default_rng(self.settings.seed)
        flat = surrogate.look(self.problem, f0, claimed, apart) if self.problem.automatic or f0 == 0 else None
        if flat is Reason.ROUND_OFF:
            raise Stopped(flat, surrogate.HIDDEN)
        if flat is Reason.JUMP and self.problem.automatic:
            raise Stopped(flat, surrogate.SAID)
        if seen:
            self.problem.notes.append(f"f casts x to {seen}: checked at points that {seen} has")
        sigma, dtype, stairs = noise.of_value(self.problem, f0, known, first)
        by_design = stairs > 0 and self.problem.automatic
        by_design = by_design and surrogate.stand_out(self.problem, f0, stairs, dtype, apart)
        own = noise.of_gradient(self.problem, known, self.generator, dtype)
        self.precise = dtype == "float64" and self.problem.grid < 1e-12
        if not self.precise:
            own = noise.of_coarse_gradient(known, own, dtype, seen)
            self.problem.eps = max(self.problem.eps, 2 * noise.HALF[dtype])
        own = np.maximum(own, 4 * self.problem.digits * np.abs(known))
        if self.doubt is not None:
            own = np.maximum(own, self.doubt / 2)
        settings = self.settings
        few = not self.precise or self.doubt is not None
        self.rtol = max(settings.rtol, 0.02) if few else settings.rtol
        self.level = max(settings.level, 0.1) if few else settings.level
        self.share = self.level / (1 + self.level)  # of what is claimed, where that is too large by `level`
        self.meter = Meter(
            self.problem,
            f0,
            noise.Noise(sigma, own, dtype, stairs, by_design),
            known,
            self.generator,
            settings.evaluations,
            start=0.1 * min(max(1.0, float(np.median(np.abs(self.problem.x)))), 30.0),
        )
        self.search = Search(self.meter, self.rtol, settings.findings, self.precise)
        self.judge = Judge(
            self.problem,
            settings.directions,
            self.level,
            self.share,
            self.meter,
            self.search,
            self.seen,
            self.unexplained,
            self.resolution,
            self.reasons,
        )
        self._not_finite(claimed)
        if at.size:
            self._all_entries(at)
            self._small_entries(at)
            self._zeros(at)
            if self.meter.on_grid or self.doubt is not None:
                self._by_parts(at)
            self._last_look(at)
            met = self.search.found.kinks  # also while a wrong entry was looked for
            if met and not any(reason is Reason.KINK for reason, _ in self.reasons):
                self._say_kink(met, complete=True)
            self._by_complex_step(self._unresolved(self._open(at)))
        return self.judge.report(claimed)

    # -- before any direction

    def _preflight(self) -> tuple[float, Vector]:
        problem = self.problem
        f0 = problem.f(problem.x)
        if not math.isfinite(f0):
            raise Stopped(Reason.NON_FINITE, f"f is {f0} at the point: choose a point inside its domain.")
        again = problem.f(problem.x)
        if again != f0 and not abs(again - f0) <= 64 * problem.eps * abs(f0):
            raise Stopped(
                Reason.RANDOM,
                f"f is random: {f0!r} and then {again!r} at the same point. Fix its seed in every call"
                f"{problem.facts.get('random', '')}.",
            )
        claimed = problem.g(problem.x)
        if claimed.size != problem.size:
            raise Stopped(
                Reason.NON_FINITE, f"the gradient has {claimed.size} entries, the point {problem.size}."
            )
        second = problem.g(problem.x)
        with np.errstate(invalid="ignore"):  # of infinite entries
            apart = np.abs(second - claimed)
        scale = float(np.max(np.abs(claimed[np.isfinite(claimed)]), initial=0.0))
        if not np.all((apart <= 1e4 * problem.eps * scale) | ~np.isfinite(claimed)):
            j = int(np.nanargmax(apart))
            raise Stopped(
                Reason.RANDOM,
                f"the gradient is random: {problem.name(j)} is {claimed[j]:.6g} and then {second[j]:.6g} at "
                f"the same point. Fix its seed in every call{problem.facts.get('random', '')}.",
            )
        return f0, claimed

    def _not_finite(self, claimed: Vector) -> None:
        """Measure some of the entries in which the claimed gradient is NaN or infinite."""
        bad = np.flatnonzero(~np.isfinite(claimed))
        for j in bad[:8]:
            seen = self.meter.measure(Direction(np.array([j]), np.ones(1)), start=self.search._step(int(j)))
            if seen.slope.error < 1e-3 * max(1.0, abs(seen.residual)):
                self.meter.correct(int(j), seen.residual, seen.slope.error)
                self.search.found.entries.append(
                    Wrong(int(j), float(claimed[j]), seen.residual, seen.slope.error)
                )
        if bad.size:
            where = region(self.problem, bad)
            self.reasons.append((Reason.NON_FINITE, f"The claimed gradient is not finite in {where}."))

    # -- directions

    def _all_entries(self, at: Indices) -> None:
        for _ in range(self.settings.directions):
            at = self._open(at)
            if not at.size or (self.seen and self.meter.spent):
                return
            seen = self._tested(at)
            if seen.bent:
                at = self._kinked(at, seen)
                if not at.size:
                    return
                seen = self._tested(at)
            self._explained(seen)

    def _open(self, at: Indices) -> Indices:
        """Return the entries but those already known to be wrong throughout, or bent."""
        found = self.search.found
        closed = [*found.excluded, np.array(found.kinks, dtype=np.intp)]
        return np.setdiff1d(at, np.concatenate(closed)) if found.excluded or found.kinks else at

    def _explained(self, seen: Measured) -> None:
        """Look for what is behind a residual; where nothing is found, it limits what was tested."""
        if not seen.wrong or seen.bent:
            return
        found = self.search.found
        before = self.meter.claimed.copy()
        self.search.explain(seen)
        if np.array_equal(before, self.meter.claimed) and not (found.unresolved or found.excluded):
            at, by = seen.direction
            self.unexplained.append(seen)
            limits = max(abs(seen.residual), seen.tolerance) / np.abs(by)
            self.resolution[at] = np.maximum(self.resolution[at], limits)

    def _tested(self, at: Indices, weights: Vector | None = None, start: float | None = None) -> Measured:
        seen = self.meter.measure(self.meter.direction(at, weights), start=start, sure=True)
        self.seen.append(seen)
        if seen.rough and not self.precise:
            self._forget_blind(seen)
        self._count(seen)
        return seen

    def _count(self, seen: Measured) -> None:
        """Note which errors a direction would have shown."""
        if seen.bent or math.isnan(seen.residual) or self._blind(seen):
            return
        at = seen.direction.at
        least = SEEN / SURE * seen.tolerance / np.abs(seen.direction.by)
        noticed = np.where(self.meter.moved(seen), least, np.inf)
        self.resolution[at] = np.minimum(self.resolution[at], noticed)

    def _blind(self, seen: Measured) -> bool:
        """Whether a direction was measured at steps that pass over structure another one has shown.

        In float64 the other one resolves it; below, the gradient of what large steps see may be claimed.
        """
        rough = [s.slope.step for s in self.seen if s.rough]
        return bool(rough) and not self.precise and not seen.rough and seen.slope.step > 16 * min(rough)

    def _forget_blind(self, seen: Measured) -> None:
        """Count anew what has been seen, now that structure has shown."""
        at = seen.direction.at
        if any(map(self._blind, self.seen)):
            self.resolution[at] = math.inf
            for earlier in self.seen[:-1]:
                self._count(earlier)

    def _kinked(self, at: Indices, seen: Measured) -> Indices:
        """Name the entries that bend at the point; return the others."""
        bends = Bends(self.meter)
        found, complete = bends.entries(seen)
        self.search.found.kinks.extend(found)
        self._say_kink(found, complete=complete)
        return np.setdiff1d(at, np.array(found, dtype=np.intp)) if complete and found else at[:0]

    def _say_kink(self, found: list[int], *, complete: bool) -> None:
        bends = Bends(self.meter)
        names = ", ".join(self.problem.name(j) for j in found[:4])
        more = "" if complete else " and others"
        left, right = bends.sides(found[0]) if found else (math.nan, math.nan)
        sides = f" (slope {left:.3g} to the left, {right:.3g} to the right)" if found else ""
        self.reasons.append(
            (
                Reason.KINK,
                f"f has a kink at the point, in {names or 'several entries together'}{more}{sides}: no "
                "gradient exists there. Move the point off the kink (x + 1e-3 times random signs), or check "
                "the two sides apart.",
            )
        )

    def _small_entries(self, at: Indices) -> None:
        """Test entries beside which the others' round-off is large, by themselves, weighted to be equal."""
        pool = self._unresolved(self._open(at))
        for _ in range(5):
            if not pool.size or self.meter.spent:
                return
            size = np.abs(self.meter.claimed[pool])
            top = float(size.max())
            chosen = pool[size > 1e-4 * top]
            weights = top / np.abs(self.meter.claimed[chosen])
            step = max(self.meter.start, 0.05 * float(np.median(np.abs(self.problem.x[chosen]))))
            seen = self._tested(chosen, weights / float(np.max(weights)), start=step)
            self._explained(seen)
            pool = np.setdiff1d(pool, chosen)

    def _zeros(self, at: Indices) -> None:
        """Test by themselves entries claimed to be zero that could be as large as the largest unseen.

        Each moves in proportion to itself: most often they are too large to be moved by the others' steps.
        """
        top = float(np.max(np.abs(self.meter.claimed), initial=0.0))
        at = self._open(at)
        at = at[(self.meter.claimed[at] == 0) & (self.resolution[at] > top)]
        if top > 0 and at.size and not self.meter.spent:
            size = np.maximum(np.abs(self.problem.x[at]), 1.0)
            largest = float(size.max())
            self._explained(self._tested(at, size / largest, start=0.05 * largest))

    def _by_parts(self, at: Indices) -> None:
        """Test in parts what drowns in the round-off of all entries together.

        One entry by itself tells whether that helps, and how many may stand in a part.
        """
        size = np.abs(self.meter.claimed)
        pool = self._unresolved(self._open(at))
        pool = pool[size[pool] > IMPORTANT * float(np.max(size, initial=0.0))]
        if not pool.size or self.search.full:
            return
        j = pool[[int(np.argsort(size[pool])[pool.size // 2])]]
        self._explained(self._tested(j, start=self._wide_step(j)))
        room = float((self.share * size[j] / self.resolution[j])[0])
        if not room >= 1:
            return
        count = min(pool.size, max(1, int(room**2)))
        parts = np.array_split(pool, math.ceil(pool.size / count))
        while parts and self.problem.evaluations < self.settings.evaluations // 2:
            part = self._unresolved(self._open(parts.pop()))
            if not part.size:
                continue
            self._explained(self._tested(part, start=self._wide_step(part)))
            left = self._unresolved(self._open(part))
            if left.size and part.size > 1:
                parts += [left[: left.size // 2], left[left.size // 2 :]]

    def _wide_step(self, at: Indices) -> float:
        """Return a first step of many points of the grid."""
        return 32 * self.problem.grid * float(np.max(np.abs(self.problem.x[at]), initial=1e-300))

    def _by_complex_step(self, at: Indices) -> None:
        """Test entries that differences cannot resolve by Im f(x + i h v) / h, which subtracts nothing.

        Believed only where it agrees with differences as far as these go, at two steps, and leaves the
        real part as it was; and never against the claimed gradient, since a function may take a
        complex number and mean something else (abs, a comparison).
        """
        if not at.size or self.problem.complex_value is None or self.search.found.entries:
            return
        if self.meter.noise.stairs:  # what rounds takes no complex number
            return
        if self.meter.noise.value > 64 * noise.HALF["float64"] * abs(self.meter.f0):
            cause = self.judge.cause  # a jump drowns differences as round-off does, and has no imaginary part
            if cause is not None:
                self.reasons.append(cause)
                return
        for direction, real in ((s.direction, s) for s in self.seen[:1]):
            tried = self._complex_slope(direction)
            if tried is None or not abs(tried - real.residual) <= real.tolerance:
                return
        top = float(np.max(np.abs(self.meter.claimed[at])))
        weights = np.clip(top / np.abs(self.meter.claimed[at]), 1.0, 1e6)
        direction = self.meter.direction(at, weights)
        residual = self._complex_slope(direction)
        summed = 2.0**-46 * length(self.meter.claimed[at] * direction.by)
        own = length(self.meter.noise.gradient[at] * direction.by)
        if residual is None or abs(residual) > 8 * own + summed:
            return
        noticed = (8 * own + summed) / np.abs(direction.by)
        self.resolution[at] = np.minimum(self.resolution[at], noticed)
        self.problem.notes.append(f"{at.size:,} entries were tested by the complex step, which f allows")

    def _complex_slope(self, direction: Direction) -> float | None:
        """Return the residual by the complex step, or None where the function does not allow it."""
        found = []
        for h in (1e-20, 1e-30):
            z = self.problem.x.astype(np.complex128)
            z[direction.at] += 1j * h * direction.by
            self.problem.values += 1
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("error")  # numpy only warns where it drops the imaginary part
                    value = self.problem.complex_value(z) if self.problem.complex_value else complex("nan")
            except Exception:  # whatever a function says to complex numbers
                return None
            if not abs(value.real - self.meter.f0) <= 64 * self.meter.noise.value + 1e-12 * abs(
                self.meter.f0
            ):
                return None
            found.append(value.imag / h - float(self.meter.claimed[direction.at] @ direction.by))
        scale = length(self.meter.claimed[direction.at] * direction.by)
        return found[0] if abs(found[0] - found[1]) <= 1e-10 * scale else None

    def _unresolved(self, at: Indices) -> Indices:
        size = np.abs(self.meter.claimed[at])
        return at[(size > 0) & (self.resolution[at] > self.share * size)]

    def _last_look(self, at: Indices) -> None:
        """After corrections, look along new directions until nothing is left."""
        for _ in range(12):
            at, found = self._open(at), self.search.found
            if not (found.entries or found.parts) or self.search.full or not at.size:
                return
            seen = self._tested(at)
            if not seen.wrong or seen.bent:
                return
            before = len(found.entries) + len(found.parts)
            self.search.explain(seen)
            if len(found.entries) + len(found.parts) == before:
                return
