"""Functions of compiled languages: `load("libf.so", "f")`, one symbol of a shared library.

The interface is `double f(const double *x, size_t n, double *gradient)`, described in `downslope.h`
beside this file. The library is called in place: no copy but the gradient's, and without Python's
global lock.
"""

from __future__ import annotations

import ctypes
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from downslope.errors import UsageError, a_type, closest
from downslope.gradients import binary

Vector = NDArray[np.float64]

UNWRITTEN = np.array([0x7FF8_DEAD_BEEF_0001], np.uint64)
"""The NaN that stands in a gradient before a first call: still there afterwards, nothing was written."""


def rows_of(x: Any, function: object) -> Vector:
    """Return a vector, or a matrix of one vector a row, as float64 in the order of C.

    Raises:
        UsageError: x is something else; `function` is what it was meant for.

    """
    try:
        array = np.asarray(x, dtype=np.float64, order="C")
    except (TypeError, ValueError, RuntimeError):  # the last of a PyTorch tensor that is differentiated
        raise UsageError(f"x for {function!r} is {a_type(x)}: expected NumPy's float64 numbers") from None
    if array.ndim not in (1, 2) or array.size == 0:
        raise UsageError(
            f"x of shape {np.shape(x)} for {function!r}: expected a vector, or a matrix of one vector a row"
        )
    return array


def include() -> str:
    """Return the folder of `downslope.h`, for a compiler's `-I`.

    >>> (Path(include()) / "downslope.h").is_file()
    True

    """
    return str(Path(__file__).parent)


def load(library: str | Path, symbol: str, *, gradient: bool = True, threads: int = 1) -> ForeignFunction:
    """Return a function of a shared library, callable on float64 vectors.

    Args:
        library: path of the shared library: .so, .dylib or .dll.
        symbol: name of the function in it, `double f(const double *x, size_t n, double *gradient)`.
        gradient: whether the function fills the gradient; False for one that only has a value.
        threads: how many rows of a batch are evaluated at once; above 1 only where the function may
            run in several threads.

    Raises:
        UsageError: no such file, no shared library, one for another machine, a library it needs is
            missing, or no such symbol.

    """
    path = Path(library)
    if not isinstance(threads, int) or isinstance(threads, bool) or threads < 1:
        raise UsageError(f"threads = {threads!r}: expected a whole number from 1 on")
    binary.check(path)
    try:
        handle = ctypes.CDLL(str(path.resolve()))
    except OSError as error:
        hint = ": it is a program; compile it with -shared -fPIC" if "executable" in str(error) else ""
        raise UsageError(f"{path} cannot be loaded: {error}{hint}") from None
    try:
        function = getattr(handle, symbol)
    except AttributeError:
        names = binary.symbols(path)
        hint = closest(symbol, names)
        if any(symbol in name for name in names if name.startswith("_Z")):
            hint = '; it holds a C++ name of it: declare the function extern "C" (DOWNSLOPE_EXPORT)'
        elif not hint and names:
            hint = f"; it has {', '.join(names[:6])}{', …' if len(names) > 6 else ''}"
        raise UsageError(f"{path} has no symbol {symbol!r}{hint}") from None
    return ForeignFunction(path, symbol, function, gradient=gradient, threads=threads)


class ForeignFunction:
    """A compiled function; `load` makes it.

    `f(x)` is the value at a vector of n numbers, `f.value_and_gradient(x)` the value and the
    gradient, which is None where the function has none. A matrix is a batch of vectors: values
    (rows,) and gradients (rows, n). Safe to call from several threads where the function itself
    is. It can be pickled: another process loads the same library.
    """

    def __init__(self, path: Path, symbol: str, function: Any, *, gradient: bool, threads: int) -> None:
        self.path, self.symbol, self.has_gradient, self.threads = path, symbol, gradient, threads
        self._function = function
        self._function.restype = ctypes.c_double
        self._function.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)
        self._seen: set[bool] = set()

    def __repr__(self) -> str:
        return f"load({str(self.path)!r}, {self.symbol!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (str(self.path.resolve()), self.symbol, self.has_gradient, self.threads)

    def __call__(self, x: Any) -> Any:
        """Return the value at a vector, or the values at the rows of a matrix."""
        x = self._checked(x)
        if x.ndim == 1:
            return self._value(x, None)
        return np.array(self._rows(self._value, [(row, None) for row in x]), np.float64)

    def value_and_gradient(self, x: Any) -> tuple[Any, Vector | None]:
        """Return the value and the gradient (None without one), of a vector or of each row.

        Raises:
            UsageError: x is no float64 vector or matrix; the function wrote no gradient, or to x.

        """
        x = self._checked(x)
        if not self.has_gradient:
            return self(x), None
        out = np.empty_like(x)
        if x.ndim == 1:
            value: Any = self._value(x, out)
        else:
            value = np.array(self._rows(self._value, list(zip(x, out, strict=True))), np.float64)
        out[~np.isfinite(value)] = np.nan  # a function that is not defined need not fill it
        return value, out

    def gradient(self, x: Any) -> Vector:
        """Return the gradient at a vector, or at each row of a matrix."""
        found = self.value_and_gradient(x)[1]
        if found is None:
            raise UsageError(f"{self!r} was loaded with gradient=False: it has no gradient")
        return found

    def _checked(self, x: Any) -> Vector:
        return rows_of(x, self)

    def _rows(self, one: Any, pairs: list[Any]) -> list[float]:
        if self.threads == 1 or len(pairs) == 1:
            return [one(*pair) for pair in pairs]
        with ThreadPoolExecutor(min(self.threads, len(pairs))) as pool:
            return list(pool.map(lambda pair: one(*pair), pairs))

    def _value(self, x: Vector, out: Vector | None) -> float:
        if (out is not None) not in self._seen:
            return self._first(x, out)
        return float(self._function(x.ctypes.data, x.size, out.ctypes.data if out is not None else None))

    def _first(self, x: Vector, out: Vector | None) -> float:
        """Call for the first time, and see that the function keeps to the interface."""
        given = x.copy()
        if out is not None:
            out.view(np.uint64)[:] = UNWRITTEN
        value = float(self._function(given.ctypes.data, x.size, out.ctypes.data if out is not None else None))
        if not np.array_equal(given.view(np.uint64), x.view(np.uint64)):
            at = int(np.flatnonzero(given.view(np.uint64) != x.view(np.uint64))[0])
            raise UsageError(f"{self!r} wrote to its argument: x[{at}] changed from {x[at]} to {given[at]}")
        if not math.isfinite(value):
            return value  # it may well return before it fills the gradient
        if out is not None and (left := np.flatnonzero(out.view(np.uint64) == UNWRITTEN)).size:
            raise UsageError(
                f"{self!r} wrote {x.size - left.size} of the {x.size} entries of its gradient (not entry "
                f"{left[0]}): fill it wherever it is not NULL, or load it with gradient=False "
                "(downslope minimize: --no-gradient)"
            )
        self._seen.add(out is not None)
        return value


def _again(path: str, symbol: str, gradient: bool, threads: int) -> ForeignFunction:
    return load(path, symbol, gradient=gradient, threads=threads)
