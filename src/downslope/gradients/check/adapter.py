"""From the user's function and arrays to a `Problem`, in float64 where the function allows it.

What differs between frameworks is in the file of each name: how a nest of arrays is taken apart, how
numbers become its arrays, how a value and a gradient are asked for. What does not differ is here.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from downslope.errors import UsageError, a_type, one_line
from downslope.gradients.check.noise import EPS, HALF
from downslope.gradients.check.problem import Leaf, Problem, Vector, leaves_of
from downslope.gradients.check.rounded import DRAWS, coarse
from downslope.tasks.load import where

BY_PLACE = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)

Arrays = Sequence[Any]
"""The arrays that the gradient is taken in, in order."""


class Adapter(Protocol):
    """A function of one framework, and its point.

    Where a framework lets a function be run without its casts, `lifted` says whether it is, and
    `look_for_casts(arrays)` notes in `casts` and `held` the dtypes that it casts to and that arrays of its
    own have. Numbers written into it that may have been rounded are in `rounded` then, with the eps of
    their dtype; `moved_gradient(arrays, draw)` is the gradient with each at one end of its rounding. `known`
    is not None where casts were left out of the tracing, which `leave_out` asks for.
    """

    names: Sequence[str]
    arrays: Arrays
    facts: dict[str, Any]
    notes: list[str]

    def dtype_of(self, array: Any) -> str:
        """Return the name of an array's dtype."""

    def numbers(self, array: Any) -> Vector:
        """Return an array's entries as a vector of float64."""

    def made(self, numbers: NDArray[Any], like: Any, wide: str) -> Any:
        """Return an array like another with these entries, in the dtype `wide` unless that is ""."""

    def value(self, arrays: Arrays, wide: str) -> tuple[Any, str]:
        """Return the value, and the name of its dtype."""

    def gradient(self, arrays: Arrays, wide: str) -> Arrays:
        """Return the claimed gradient, an array for each; None for one that it leaves out."""


def problem_of(adapter: Adapter, precision: str = "auto") -> Problem:
    """Return the problem of a function of some framework.

    Raises:
        UsageError: the function raises at the point, or returns what is no number.

    """
    shapes = [tuple(int(n) for n in a.shape) for a in adapter.arrays]
    dtypes = [adapter.dtype_of(a) for a in adapter.arrays]
    leaves = leaves_of(list(zip(adapter.names, shapes, dtypes, strict=True)))
    x = _joined([adapter.numbers(a) for a in adapter.arrays])
    if not x.size:
        raise UsageError("x has no entry of a floating dtype: expected at least one")
    if not np.all(np.isfinite(x)):
        j = int(np.flatnonzero(~np.isfinite(x))[0])
        raise UsageError(f"x holds {x[j]} (entry {j} of all): expected finite numbers")
    narrow = any(d != "float64" for d in dtypes)
    own = _Bound(adapter, leaves, "").first(x)
    wide = ""
    if precision != "own":
        wide = _without_casts(adapter, leaves, x, own) or (_widest(adapter, leaves, x, own) if narrow else "")
    if precision == "float64" and narrow and wide != "float64":
        raise UsageError(
            'precision = "float64": the function does not take float64 arrays through to its value; '
            'use "auto"'
        )
    bound = _Bound(adapter, leaves, wide)
    if wide and not getattr(adapter, "lifted", False):
        adapter.notes.append(f"checked in {wide}, which f takes in place of {_coarsest(dtypes)}")
    problem = Problem(
        x,
        bound.value,
        bound.gradient,
        leaves,
        eps=EPS[wide] if wide else max(EPS.get(d, 2.0**-23) for d in dtypes),
        round=bound.rounded if narrow and wide != "float64" else (lambda v: v),
        notes=adapter.notes,
        facts=adapter.facts,
        automatic=getattr(adapter, "given", None) is None,
        told=partial(_of_gradient, adapter),
    )
    if getattr(adapter, "lifted", False):
        rounded = getattr(adapter, "rounded", {})
        problem.doubt = bound.doubt if coarse(rounded) else None
        problem.digits = EPS["float32"] if rounded else 0.0
    if hasattr(adapter, "product"):
        problem.product = bound.product
    if hasattr(adapter, "complex_value"):
        problem.complex_value = adapter.complex_value
    return problem


class _Bound:
    """The function and its gradient as functions of a vector."""

    def __init__(self, adapter: Adapter, leaves: Sequence[Leaf], wide: str) -> None:
        self.adapter, self.leaves, self.wide = adapter, leaves, wide

    def arrays(self, x: Vector) -> list[Any]:
        return [
            self.adapter.made(x[leaf.start : leaf.stop].reshape(leaf.shape), a, self.wide)
            for leaf, a in zip(self.leaves, self.adapter.arrays, strict=True)
        ]

    def value(self, x: Vector) -> float:
        value, _ = self.adapter.value(self.arrays(x), self.wide)
        return math.nan if _imaginary(value) else _number(value)  # as the root of a negative number beside x

    def gradient(self, x: Vector) -> Vector:
        return self._vector(self.adapter.gradient(self.arrays(x), self.wide))

    def product(self, x: Vector, v: Vector) -> Vector:
        made = self.adapter.product(self.arrays(x), self.arrays(v), self.wide)  # type: ignore[attr-defined]
        return self._vector(made)

    def doubt(self, x: Vector) -> Vector:
        claimed = self.gradient(x)
        made = HALF["bfloat16"] * np.abs(claimed)  # where only the function holds such a number
        for draw in range(DRAWS):
            other = self._vector(self.adapter.moved_gradient(self.arrays(x), draw))  # type: ignore[attr-defined]
            made = np.maximum(made, np.abs(other - claimed))
        return made

    def _vector(self, made: Arrays) -> Vector:
        return _joined(
            [
                np.zeros(leaf.stop - leaf.start) if g is None else self._fitting(g, leaf)
                for g, leaf in zip(made, self.leaves, strict=True)
            ]
        )

    def _fitting(self, g: Any, leaf: Leaf) -> Vector:
        shape = tuple(int(n) for n in getattr(g, "shape", ()))
        if shape != leaf.shape:
            raise UsageError(f"the gradient of {leaf.name} has shape {shape}: expected {leaf.shape}")
        return self.adapter.numbers(g)

    def rounded(self, x: Vector) -> Vector:
        return _joined([self.adapter.numbers(a) for a in self.arrays(x)])

    def first(self, x: Vector) -> float:
        """Return the value; tell what is wrong with the function, writing to x too, as bad input."""
        arrays = self.arrays(x)
        try:
            value, _ = self.adapter.value(arrays, self.wide)
        except UsageError:
            raise
        except Exception as error:
            raise UsageError(f"the function raised at the point: {one_line(error)}") from error
        found = _number(value)
        after = _joined([self.adapter.numbers(a) for a in arrays])
        if not np.array_equal(after, x if self.wide == "float64" else self.rounded(x)):
            j = int(np.flatnonzero(after != x)[0])
            leaf = next(leaf for leaf in self.leaves if j < leaf.stop)
            raise UsageError(f"the function writes to its argument ({leaf.name}): let it work on a copy")
        return found


def _of_gradient(adapter: Adapter, error: Exception) -> str:
    """Return whose code raised while a gradient was taken, what, and what to do."""
    given = getattr(adapter, "given", None)
    own = given if callable(given) else getattr(adapter, "fun", None)
    code = getattr(own, "__code__", None)
    at = where(error, Path(code.co_filename)) if code is not None else ""
    said = f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')}".rstrip(": .")
    if given is None:
        return (
            f"differentiating the function raised {said}{at}: write it in operations that the framework can "
            "differentiate, or give its gradient"
        )
    return f"the gradient raised {said}{at}: expected a function of what f takes, defined at the point"


def _number(value: Any) -> float:
    """Return the one number that a value is, or that an array of one entry holds."""
    kind = a_type(value)
    if isinstance(value, np.ndarray):
        kind = f"{kind} of shape {value.shape}"
        value = value.item() if value.size == 1 else value
    if _imaginary(value):
        raise UsageError(
            f"the function returned the complex number {value:.6g}: expected a real one; check its real part "
            "and its imaginary part apart"
        )
    try:
        if isinstance(value, (str, bytes)):
            raise TypeError
        return float(value.real if np.iscomplexobj(value) else value)
    except (TypeError, ValueError):
        raise UsageError(
            f"the function returned {kind}: expected a single real number; "
            "downslope.check_jacobian checks a function that returns an array"
        ) from None


def _imaginary(value: Any) -> bool:
    return bool(np.iscomplexobj(value) and np.size(value) == 1 and np.any(np.imag(value)))


def _without_casts(adapter: Adapter, leaves: Sequence[Leaf], x: Vector, own: float) -> str:
    """Return float64 where f runs in it without its casts and would not run in it with them, else "".

    Of the adapters that look for them: what f casts to narrower dtypes, and holds in them, is then taken in
    float64 too.
    """
    if not hasattr(adapter, "look_for_casts"):
        return ""
    try:
        adapter.look_for_casts(_Bound(adapter, leaves, "float64").arrays(x))
    except Exception:  # whatever a function says to arrays of another dtype
        return ""
    casts, held = sorted(adapter.casts), sorted(adapter.held)  # type: ignore[attr-defined]
    if not (casts or (held and _refusal(adapter, leaves, x, own, "float64"))):
        return ""
    adapter.lifted = True  # type: ignore[attr-defined]
    refused = _refusal(adapter, leaves, x, own, "float64")
    if (
        refused and getattr(adapter, "known", None) is not None
    ):  # what it does may depend on the dtypes it sees
        adapter.look_for_casts(_Bound(adapter, leaves, "float64").arrays(x), leave_out=False)
        refused = _refusal(adapter, leaves, x, own, "float64")
    if refused:
        adapter.lifted = False  # type: ignore[attr-defined]
        return ""
    what = [f"casts to {' and '.join(casts)}"] if casts else []
    what += [f"holds tensors of {' and '.join(held)}"] if held else []
    adapter.notes.append(f"f {' and '.join(what)}: checked with all of it in float64")
    return "float64"


def _widest(adapter: Adapter, leaves: Sequence[Leaf], x: Vector, own: float) -> str:
    """Return the finest dtype that the function takes through to its value and gradient, "" if none."""
    given = {leaf.dtype for leaf in leaves}
    for dtype in ("float64", "float32"):
        if dtype in given:
            return ""
        refused = _refusal(adapter, leaves, x, own, dtype)
        if not refused:
            return dtype
        adapter.notes.append(f"checked in {_coarsest(sorted(given))}: in {dtype} {refused}")
    return ""


def _refusal(adapter: Adapter, leaves: Sequence[Leaf], x: Vector, own: float, dtype: str) -> str:
    """Return what keeps the function from being checked in another dtype, "" where nothing does."""
    wide = _Bound(adapter, leaves, dtype)
    try:
        value, found = adapter.value(wide.arrays(x), dtype)
        gradient = adapter.gradient(wide.arrays(x), dtype)
    except Exception as error:  # whatever a function says to arrays of another dtype
        return f"the function raises {type(error).__name__}"
    if found != dtype:
        return f"the function returns {found}"
    if not {adapter.dtype_of(g) for g in gradient if g is not None} <= {dtype}:
        return "the gradient has another dtype"
    return "" if _close(_number(value), own) else "the function has another value"


def _close(a: float, b: float) -> bool:
    return math.isfinite(a) and abs(a - b) <= 0.05 * max(abs(a), abs(b), 1e-3)


def _coarsest(dtypes: Sequence[str]) -> str:
    return max(dtypes, key=lambda d: EPS.get(d, 0.0))


def _joined(parts: Sequence[Vector]) -> Vector:
    return np.concatenate([np.asarray(p, dtype=np.float64).ravel() for p in parts]) if parts else np.zeros(0)


def spread(fun: Callable[..., Any], x: Any) -> bool:
    """Return whether a tuple x is the function's arguments one by one, by its signature.

    >>> spread(lambda a, b: a, (1, 2)), spread(lambda x: x, (1, 2))
    (True, False)

    """
    if not isinstance(x, tuple) or hasattr(x, "_fields"):
        return False
    try:
        parameters = inspect.signature(fun).parameters.values()
    except (TypeError, ValueError):  # a compiled function, as the apply of torch.autograd.Function
        return True
    if getattr(fun, "__name__", "") == "apply":
        return True
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return True
    needed = [
        p
        for p in parameters
        if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    return len(needed) == len(x) and len(x) > 1


def labels(names: Sequence[str], fun: Callable[..., Any], apart: bool) -> list[str]:
    """Return what entries are called: after the function's own arguments, or after x."""
    own = _arguments(fun)
    made = []
    for name in names:
        head, _, rest = name.partition(".")
        if apart and head.isdigit() and int(head) < len(own):
            made.append(f"{own[int(head)]}.{rest}" if rest else own[int(head)])
        elif not name:
            made.append("x")
        else:
            made.append(f"x.{name}" if head.isdigit() else name)
    return made


def _arguments(fun: Callable[..., Any]) -> list[str]:
    if getattr(fun, "__name__", "") == "apply":  # of a torch.autograd.Function: those of its forward
        forward = getattr(getattr(fun, "__self__", None), "forward", None)
        try:
            found = list(inspect.signature(forward).parameters) if forward else []
        except (TypeError, ValueError):
            return []
        return found[1:] if found and found[0] in ("ctx", "context", "self") else found
    try:
        return list(inspect.signature(fun).parameters)
    except (TypeError, ValueError):
        return []


def refuse_complex(said: str, found: Sequence[tuple[str, str]]) -> None:
    """Raise where one of the arrays, each (name, dtype), is of complex numbers, which are not checked.

    Raises:
        UsageError: one is.

    """
    for name, dtype in found:
        if dtype.startswith("complex"):
            which = f" ({name})" if name else ""
            raise UsageError(
                f"{said} complex numbers, of dtype {dtype}{which}: expected real ones; make it a function of "
                "the real part and the imaginary part, of real numbers"
            )


PLAIN = "f returned a plain number, which no gradient goes through: it counts as zero"
"""The note on a function that returned no array, as `max(0, …)` does on one side of its hinge."""


def plain_number(returned: Any) -> float | None:
    """Return the real number of Python or NumPy that a function returned in the place of an array, or None.

    >>> plain_number(3), plain_number(np.float32(0.5)), plain_number([1.0])
    (3.0, 0.5, None)

    """
    real = isinstance(returned, (int, float, np.integer, np.floating, np.bool_))
    return float(returned) if real else None


def weighting(shapes: Sequence[Any]) -> str:
    """Return the note on a function of many outputs."""
    shown = ", ".join(str(tuple(shape)) for shape in shapes)
    return f"f has outputs of shape {shown}; a fixed random weighting of them was checked"


def weights_for(count: int) -> Vector:
    """Return the fixed weights by which many outputs become one number."""
    generator = np.random.default_rng(20)
    made: Vector = generator.uniform(0.5, 1.5, count) * generator.choice((-1.0, 1.0), count)
    return made
