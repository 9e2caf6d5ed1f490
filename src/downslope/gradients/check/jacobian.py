"""Jacobians: all outputs weighted to one number, then single outputs where that says too little.

For fixed weights w, Jᵀw is the gradient of wᵀF(x), and a wrong entry of J is a wrong entry there. The
weights make all rows of J equal in size, so that none hides behind another. What is said of a row
is measured on that row by itself: of those that are off in a wrong column, and of those with entries that
drown in the round-off of the others. F is computed once at each point for all of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from downslope.errors import UsageError
from downslope.gradients.check.adapter import weights_for
from downslope.gradients.check.api import name_of
from downslope.gradients.check.examine import Check, Settings, examined
from downslope.gradients.check.measure import IMPORTANT
from downslope.gradients.check.outputs import Outputs, at_point
from downslope.gradients.check.problem import Vector
from downslope.gradients.check.result import Finding, GradientReport, Reason, Verdict
from downslope.gradients.check.verdict import coverage_of

ROWS = 20
"""Rows off in one column, and rows with small entries that nothing has resolved, which are checked alone."""
MOST = 200
"""Rows checked alone at most."""
ROUNDED = 0.05
"""What is let pass, as a share, where the point has 16 bits: the Jacobian may hold numbers of so many."""


def check_jacobian(
    fun: Callable[..., Any],
    x: Any,
    jacobian: Callable[..., Any],
    *,
    directions: int = 2,
    evaluations: int = 3000,
    rtol: float = 1e-4,
    seed: int = 0,
) -> GradientReport:
    """Check the Jacobian of a vector-valued function; each wrong entry has its row and its column.

    Args:
        fun: a function of one array that returns an array, (…) -> (m…).
        x: an array of NumPy, PyTorch, JAX or TensorFlow.
        jacobian: `jacobian(x)` returns an array of shape (m…, …): outputs first, as `jax.jacobian` does.
        directions: random directions that all columns are tested along.
        evaluations: calls at most, beside those for the rows of wrong columns; F is called once at a point.
        rtol: relative differences up to this are let pass; 0.02 at least below float64, 0.05 where a point
            of 16 bits is taken in float64, as it is where function and Jacobian both go through in that.
        seed: of the directions.

    Raises:
        UsageError: as `check_gradient`; a Jacobian of another shape.

    >>> import numpy as np
    >>> x = np.array([1.0, 2.0, 3.0])
    >>> check_jacobian(lambda x: x**2, x, lambda x: np.diag(2 * x)).verdict.name
    'PASS'
    >>> wrong = check_jacobian(lambda x: x**2, x, lambda x: np.diag(2 * x) + np.eye(3, k=2))
    >>> wrong.findings[0].name
    'J[0, 2]'

    """
    if not callable(jacobian):
        raise UsageError(f"jacobian = {jacobian!r}: expected a function of x")
    begun = time.perf_counter()
    outputs = Outputs(fun, x, jacobian)
    outputs.widen()
    settings = Settings(directions, evaluations, rtol=rtol, seed=seed)
    if outputs.wide:
        settings = replace(settings, rtol=max(rtol, ROUNDED), level=0.1)
    report = _Rows(outputs, settings).report()
    return replace(
        report,
        what="Jacobian",
        function=name_of(fun),
        evaluations=outputs.calls,
        seconds=time.perf_counter() - begun,
    )


class _Rows:
    """The check of a Jacobian: of all rows in one, and of rows alone."""

    def __init__(self, outputs: Outputs, settings: Settings) -> None:
        self.outputs, self.settings = outputs, settings
        self.alone: dict[int, GradientReport] = {}
        self.suspects: set[int] = set()
        self.beside = 0
        self.findings: list[Finding] = []
        self.notes = [*outputs.notes]

    def report(self) -> GradientReport:
        """Return the report on the claimed Jacobian."""
        outputs = self.outputs
        matrix = at_point("jacobian", lambda: outputs.claimed(outputs.base.x))
        weights = weights_for(outputs.count) / outputs.sizes(matrix)
        strict = replace(self.settings, rtol=min(self.settings.rtol, 1e-8))
        check = Check(outputs.problem(weights), strict)
        whole = examined(check)
        if check.stopped:
            return whole
        self.share = check.share
        self.notes += whole.notes
        summed = strict.rtol * np.abs(check.meter.claimed)
        self.resolution = np.maximum(check.resolution, summed) / np.abs(weights)[:, None]
        complete = self._wrong_columns(check, matrix, np.abs(weights))
        important, any_ = self._missed(matrix)
        self._look(np.flatnonzero(~np.all(np.isfinite(matrix), axis=1)))
        self._look(np.flatnonzero(important))
        self._look(np.flatnonzero(any_ & ~important)[:ROWS])
        # What was wrong in the sum is explained where all rows of these columns are right to within rtol.
        seen = complete and not self.suspects if whole.verdict is Verdict.FAIL else whole.passed
        if not seen and not self.findings:
            self._look(range(outputs.count))
        made = self._judged(matrix, whole, seen)
        coverage = coverage_of(matrix, self.resolution, check.level, self.settings.directions)
        complete = complete and made.complete and self._all_seen(matrix)
        return replace(
            made, coverage=coverage, notes=tuple(self.notes), complete=complete or not self.findings
        )

    def _wrong_columns(self, check: Check, matrix: Vector, weights: Vector) -> bool:
        """Look at the rows that are off in columns found to be wrong. Return whether these are all."""
        found = check.search.found
        single = np.array([w.at for w in found.entries], dtype=np.intp)
        columns = np.unique(np.concatenate([single, *(p.at for p in found.parts)]))
        with np.errstate(invalid="ignore"):
            moved = np.abs(check.meter.claimed - check.search.original)
        # Putting a column of the sum right has hidden what else is wrong in it.
        self.resolution[:, columns] = np.inf
        complete = not found.unresolved
        for j in columns:
            if self.spent or self.full:
                return False
            off, error = self.outputs.compared(int(j), matrix[:, j])
            self.resolution[:, j] = 4 * error
            passed = self.settings.rtol * np.abs(matrix[:, j])
            suspects = np.flatnonzero(~(off <= np.maximum(4 * error, passed)))
            seen = 1.1 * float(weights @ np.minimum(off, passed)) + 4 * float(check.meter.noise.gradient[j])
            if not suspects.size and not moved[j] <= seen:  # the differences did not show it
                suspects = np.flatnonzero((off + 4 * error) * weights * matrix.shape[0] >= moved[j])
            order = suspects[np.argsort(-(off * weights)[suspects], kind="stable")]
            self._look(order[:ROWS], beside=True)
            complete = complete and order.size <= ROWS
            self.suspects.update(map(int, order))
        return complete

    def _missed(self, matrix: Vector) -> tuple[Any, Any]:
        """Return which rows have entries not resolved: ones that make up the row, and any at all."""
        size = np.where(np.isfinite(matrix), np.abs(matrix), 0.0)
        top = np.max(size, axis=1, keepdims=True)
        missed = (size > 0) & (self.resolution > self.share * size)
        zeros = (size == 0) & np.where(top > 0, self.resolution > top, np.isinf(self.resolution))
        important = (missed & (size > IMPORTANT * top)) | zeros
        return important.any(axis=1), (missed | zeros).any(axis=1)

    @property
    def full(self) -> bool:
        """Whether there is no room for more findings, or rows."""
        return len(self.findings) >= self.settings.findings or len(self.alone) >= MOST

    @property
    def spent(self) -> bool:
        """Whether the evaluations allowed are used up, but those for the rows of wrong columns."""
        return self.outputs.calls - self.beside >= self.settings.evaluations

    def _look(self, rows: Iterable[Any], *, beside: bool = False) -> None:
        """Check rows alone, as far as there is room; `beside` the evaluations allowed, or within them."""
        for i in map(int, rows):
            if self.full or (self.spent and not beside):
                return
            if i in self.alone:
                continue
            before = self.outputs.calls
            check = Check(self.outputs.row(i), self.settings)
            report = examined(check)
            self.alone[i] = report
            self.beside += self.outputs.calls - before if beside else 0
            self.resolution[i] = np.where(np.isfinite(check.resolution), check.resolution, self.resolution[i])
            at = self.outputs.index(i)
            self.findings += [
                replace(f, parameter="J", index=(*at, *f.index), where=f.where.replace("][", ", "))
                for f in report.findings
            ]
            self.notes += [note for note in report.notes if note not in self.notes]

    def _judged(self, matrix: Vector, whole: GradientReport, seen: bool) -> GradientReport:
        """Return the verdict; `seen` says that all rows were right together, as far as they were resolved."""
        reports = dict(sorted(self.alone.items()))
        bare = GradientReport(Verdict.FAIL, complete=all(r.complete for r in reports.values()))
        if self.findings:
            return replace(bare, findings=tuple(sorted(self.findings, key=lambda f: (-f.entries, f.index))))
        undecided = [(i, r) for i, r in reports.items() if r.verdict is Verdict.INCONCLUSIVE]
        if undecided:
            reasons = [
                f"In {self.outputs.name(i)}: {s.replace('][', ', ')}" for i, r in undecided for s in r.reasons
            ]
            reason = undecided[0][1].reason
            return replace(bare, verdict=Verdict.INCONCLUSIVE, reason=reason, reasons=tuple(reasons[:4]))
        if len(reports) == self.outputs.count or (seen and self._all_seen(matrix)):
            return replace(bare, verdict=Verdict.PASS, taylor=whole.taylor)
        if whole.verdict is Verdict.INCONCLUSIVE:
            return whole
        said = (
            f"All outputs together leave something open, and the {len(reports):,} of "
            f"{self.outputs.count:,} that were checked alone do not explain it. Check fewer at a time."
        )
        return replace(bare, verdict=Verdict.INCONCLUSIVE, reason=Reason.BUDGET, reasons=(said,))

    def _all_seen(self, matrix: Vector) -> bool:
        """Whether the rows not looked at alone have all that makes them up resolved."""
        missed = self._missed(matrix)[0]
        return all(i in self.alone for i in np.flatnonzero(missed))
