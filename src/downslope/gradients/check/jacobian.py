"""Jacobians: all outputs weighted to one number, then single outputs where that says too little.

For fixed weights w, Jᵀw is the gradient of wᵀF(x), and a wrong entry of J is a wrong entry there. The
weights make all rows of J equal in size, so that none hides behind another. What is said of a row
is measured on that row by itself: of those that are off in a wrong column, and of those with entries that
drown in the round-off of the others. F is computed once at each point for all of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np

from downslope.errors import UsageError, a_type, one_line
from downslope.gradients.check.adapter import problem_of, weights_for
from downslope.gradients.check.api import adapter_of, name_of
from downslope.gradients.check.examine import Check, Settings, examined
from downslope.gradients.check.measure import IMPORTANT
from downslope.gradients.check.noise import EPS, coarsest
from downslope.gradients.check.problem import Problem, Vector, leaves_of, undefined
from downslope.gradients.check.result import Finding, GradientReport, Reason, Verdict
from downslope.gradients.check.verdict import coverage_of

ROWS = 20
"""Rows off in one column, and rows with small entries that nothing has resolved, which are checked alone."""
MOST = 200
"""Rows checked alone at most."""
KEPT = 2**22
"""Numbers that are kept of outputs already computed."""
QUIET = 2.0**-22
"""The least size that a row is taken to have, as a share of its output.

Weights then carry at most 2**-30 of round-off from any output into the sum.
"""
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
    outputs = _Outputs(fun, x, jacobian)
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


class _Outputs:
    """A vector-valued function and its claimed Jacobian, on vectors."""

    def __init__(self, fun: Callable[..., Any], x: Any, jacobian: Callable[..., Any]) -> None:
        if isinstance(x, (dict, list, tuple)):
            raise UsageError(f"x is {a_type(x)}: check_jacobian takes a single array")
        self.fun, self.jacobian = fun, jacobian
        self.adapter = adapter_of(fun, x, jacobian, None)
        self.base = problem_of(_Scalar(self.adapter), "own")
        self.leaf = self.base.leaves[0]
        self.wide, self.calls = "", 0
        self._known: dict[bytes, Vector] = {}
        self._claimed: tuple[bytes, Vector] = (b"", np.zeros(0))
        self.notes: list[str] = []
        first = _at_point("the function", lambda: self._raw(self.base.x))
        self.shape = tuple(int(n) for n in first.shape)
        self.count = int(first.size)
        if not self.count:
            raise UsageError(
                f"the function returned an array of shape {self.shape}: expected at least one output"
            )

    def _array(self, z: Vector) -> Any:
        like = self.adapter.arrays[0]
        return self.adapter.made(z.reshape(tuple(like.shape)), like, self.wide)

    def _called(self, function: Callable[..., Any], z: Vector) -> Any:
        self.calls += 1
        with np.errstate(all="ignore"), self._running():
            return function(self._array(z))

    def _running(self) -> AbstractContextManager[Any]:
        """Return a context for what is called in the dtype of the check."""
        if self.wide and getattr(self.adapter, "lifted", False):
            return self.adapter.running_lifted()  # type: ignore[no-any-return]
        running = getattr(self.adapter, "running", None) if self.wide else None
        return running() if running else nullcontext()

    def _raw(self, z: Vector) -> Any:
        return _numbers(self._called(self.fun, z), "the function")

    def widen(self) -> None:
        """Take a point of 16 bits in float64 where function and Jacobian go through in it.

        Casts and arrays of their own with them, where the framework allows it. Not where the Jacobian may
        have been made in 16 bits and cast up: it has no more digits than before, or, where casts are not
        taken out, an entry stays what it is when x moves by less than these show.
        """
        if self.leaf.dtype not in ("bfloat16", "float16"):
            return
        x = self.base.x
        moved = x * (1 + 2.0**-20 * weights_for(x.size))
        own = _at_point("jacobian", lambda: (self.at(self.base.x), self.claimed(self.base.x)))
        self.wide = "float64"
        for lifted in (True, False) if hasattr(self.adapter, "running_lifted") else (False,):
            self.adapter.lifted = lifted
            try:
                made = [self._called(f, x) for f in (self.fun, self.jacobian)]
                fine = [_numbers(a, "").reshape(b.shape) for a, b in zip(made, own, strict=True)]
            except Exception:  # whatever they say to arrays of another dtype
                continue
            same = all(str(getattr(a, "dtype", "")).endswith("float64") for a in made)
            same &= all(_close(a, b) for a, b in zip(fine, own, strict=True))
            same &= all(coarsest(sorted(a.ravel())) == "float64" for a in fine)
            if same and not (lifted and type(made[1]) is type(made[0])):
                beside = _numbers(self._called(self.jacobian, moved), "jacobian").reshape(own[1].shape)
                same = bool(np.all((beside != fine[1]) | (fine[1] == 0)))
            if same:
                self.base = replace(self.base, eps=EPS["float64"], grid=EPS["float64"], round=lambda z: z)
                self.notes.append(f"checked in float64, which both take in place of {self.leaf.dtype}")
                self._known, self._claimed = {}, (b"", np.zeros(0))
                return
        self.adapter.lifted, self.wide = False, ""

    def at(self, z: Vector) -> Vector:
        """Return all outputs at z, computed once."""
        key = z.tobytes()
        if key not in self._known:
            made: Vector = self._raw(z).ravel()
            if len(self._known) * self.count > KEPT:
                self._known.clear()
            self._known[key] = made
        return self._known[key]

    def claimed(self, z: Vector) -> Vector:
        """Return the claimed Jacobian at z, (outputs, entries of x)."""
        key = z.tobytes()
        if key != self._claimed[0]:
            made = _numbers(self._called(self.jacobian, z), "jacobian")
            expected = (*self.shape, *self.leaf.shape)
            if made.shape != expected:
                raise UsageError(
                    f"jacobian returned the shape {made.shape}: expected {expected}, outputs first, then "
                    "inputs"
                )
            self._claimed = key, made.reshape(self.count, -1)
        return self._claimed[1]

    def problem(self, weights: Vector) -> Problem:
        """Return the problem of the outputs weighted to one number."""

        def gradient(z: Vector) -> Vector:
            with np.errstate(all="ignore"):
                made: Vector = weights @ self.claimed(z)
            return made

        return self._new(lambda z: float(weights @ self.at(z)), gradient, "J")

    def row(self, i: int) -> Problem:
        """Return the problem of one output."""
        return self._new(lambda z: float(self.at(z)[i]), lambda z: self.claimed(z)[i], self.name(i))

    def name(self, i: int) -> str:
        """Return what the row of output i is called."""
        index = ", ".join(map(str, self.index(i)))
        return f"J[{index}]" if index else "J"

    def _new(
        self, value: Callable[[Vector], float], gradient: Callable[[Vector], Vector], name: str
    ) -> Problem:
        leaves = leaves_of([(name, self.leaf.shape, self.leaf.dtype)])
        return replace(self.base, value=value, gradient=gradient, leaves=leaves, notes=[], facts={})

    def index(self, i: int) -> tuple[int, ...]:
        """Return the index of output i."""
        return tuple(int(k) for k in np.unravel_index(i, self.shape)) if self.shape else ()

    def sizes(self, matrix: Vector) -> Vector:
        """Return the size of each row: as claimed, or as a difference along one direction shows it."""
        x = self.base.x
        size = np.max(np.abs(np.where(np.isfinite(matrix), matrix, 0.0)), axis=1)
        h = self.base.eps**0.4 * max(1.0, float(np.median(np.abs(x))))
        step = h * weights_for(x.size)
        with np.errstate(all="ignore"):
            moved = np.abs(self._beside(step) - self._beside(-step)) / (2 * h)
        size = np.maximum(size, np.where(np.isfinite(moved), moved, 0.0))
        output = np.abs(self.at(x))
        size = np.maximum(size, QUIET * np.where(np.isfinite(output), output, 0.0))
        some = size[size > 0]
        return np.where(size > 0, size, float(np.median(some)) if some.size else 1.0)

    def compared(self, j: int, column: Vector) -> tuple[Vector, Vector]:
        """Return how far each row is off in column j by differences, and the errors of these."""
        x, eps = self.base.x, self.base.eps
        h = eps**0.3 * max(1.0, abs(float(x[j])))
        found = []
        for step in (h, h / 2):
            by = np.zeros(x.size)
            by[j] = step
            way = self.base.round(x + by)[j] - self.base.round(x - by)[j]
            with np.errstate(all="ignore"):
                found.append((self._beside(by) - self._beside(-by)) / way)
        with np.errstate(all="ignore"):
            error = np.abs(found[1] - found[0]) + 8 * eps * np.abs(self.at(x)) / h
            off = np.abs((4 * found[1] - found[0]) / 3 - column)
        return np.where(np.isfinite(off), off, np.inf), np.where(np.isfinite(error), error, np.inf)

    def _beside(self, step: Vector) -> Vector:
        """Return all outputs a step away; NaN where the function raises."""
        try:
            return self.at(self.base.round(self.base.x + step))
        except Exception as error:
            if isinstance(error, UsageError) or not undefined(error):
                raise
            return np.full(self.count, np.nan)


class _Rows:
    """The check of a Jacobian: of all rows in one, and of rows alone."""

    def __init__(self, outputs: _Outputs, settings: Settings) -> None:
        self.outputs, self.settings = outputs, settings
        self.alone: dict[int, GradientReport] = {}
        self.suspects: set[int] = set()
        self.beside = 0
        self.findings: list[Finding] = []
        self.notes = [*outputs.notes]

    def report(self) -> GradientReport:
        """Return the report on the claimed Jacobian."""
        outputs = self.outputs
        matrix = _at_point("jacobian", lambda: outputs.claimed(outputs.base.x))
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


class _Scalar:
    """An adapter whose value is nothing but a number, so that any function's point can be read."""

    def __init__(self, adapter: Any) -> None:
        self._adapter = adapter

    def __getattr__(self, name: str) -> Any:
        if name in ("complex_value", "product"):
            raise AttributeError(name)
        return getattr(self._adapter, name)

    def value(self, arrays: Any, wide: str) -> tuple[float, str]:
        """See `Adapter`."""
        return 0.0, "float64"


def _at_point(what: str, call: Callable[[], Any]) -> Any:
    try:
        return call()
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"{what} raised at the point: {one_line(error)}") from error


def _close(a: Vector, b: Vector) -> bool:
    return bool(np.all(np.abs(a - b) <= 0.05 * max(float(np.max(np.abs(b))), 1e-3)))


def _numbers(array: Any, what: str) -> Any:
    """Return what the user's function gave as an array of float64: dense, and of real numbers."""
    kind = a_type(array)
    if hasattr(array, "detach"):
        array = array.detach().cpu()
        array = array if array.is_complex() else array.to_dense().double()
    elif hasattr(array, "toarray"):  # a sparse matrix of SciPy
        array = array.toarray()
    try:
        made = np.asarray(array)
        if made.dtype.kind != "c":
            return made.astype(np.float64)
    except (TypeError, ValueError):
        raise UsageError(f"{what} returned {kind}: expected one array of real numbers") from None
    raise UsageError(
        f"{what} returned an array of dtype {made.dtype}: expected real numbers; check real and imaginary "
        "part as outputs of their own"
    )
