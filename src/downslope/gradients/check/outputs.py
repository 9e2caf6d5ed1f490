"""A function of many outputs and its claimed Jacobian, on vectors: computed once at each point."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np

from downslope.errors import UsageError, a_type, one_line
from downslope.gradients.check.adapter import problem_of, weights_for
from downslope.gradients.check.api import adapter_of
from downslope.gradients.check.noise import EPS, coarsest
from downslope.gradients.check.problem import Problem, Vector, leaves_of, undefined

KEPT = 2**22
"""Numbers that are kept of outputs already computed."""

QUIET = 2.0**-22
"""The least size that a row is taken to have, as a share of its output.

Weights then carry at most 2**-30 of round-off from any output into the sum.
"""


class Outputs:
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
        first = at_point("the function", lambda: self._raw(self.base.x))
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
        own = at_point("jacobian", lambda: (self.at(x), self.claimed(x)))
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


def at_point(what: str, call: Callable[[], Any]) -> Any:
    """Return what a call at the point returns; what it raises is a UsageError that says whose it was."""
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
