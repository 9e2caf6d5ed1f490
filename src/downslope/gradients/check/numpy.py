"""NumPy functions with the gradient that the user gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from downslope.errors import UsageError, a_type
from downslope.gradients.check.adapter import Arrays, labels, spread
from downslope.gradients.check.problem import Vector
from downslope.rules.loop import mapped, named


class NumpyAdapter:
    """A function of NumPy arrays."""

    def __init__(self, fun: Callable[..., Any], x: Any, gradient: Any) -> None:
        self.tree = (
            mapped(lambda _, a: None if a is None else _array(a), x)
            if isinstance(x, (dict, list, tuple)) and not _plain(x)
            else _array(x)
        )
        if gradient is None and hasattr(fun, "value_and_gradient"):
            gradient = _own(fun)
        if gradient is None:
            raise UsageError(
                "gradient is missing: a NumPy function is checked against the gradient that you give, "
                "gradient=your_gradient, or gradient=True where the function returns (value, gradient)"
            )
        if gradient is not True and not callable(gradient):
            raise UsageError(f"gradient = {gradient!r}: expected a function, or True")
        self.fun, self.given = fun, gradient
        self.apart = spread(fun, x)
        found = list(named(self.tree))
        self.floating = [i for i, (_, a) in enumerate(found) if a is not None and a.dtype.kind == "f"]
        self.all = [a for _, a in found]
        names = labels([n for n, _ in found], fun, self.apart)
        self.names = [names[i] for i in self.floating]
        self.arrays = [self.all[i] for i in self.floating]
        self.hvp: Callable[..., Any] = _no_product
        self.facts: dict[str, Any] = {}
        self.notes: list[str] = []

    def dtype_of(self, array: Any) -> str:
        """See `Adapter`."""
        return str(array.dtype)

    def numbers(self, array: Any) -> Vector:
        """See `Adapter`."""
        array = np.asarray(array)
        if array.dtype.kind == "c":
            if np.any(array.imag):
                raise UsageError("the gradient holds complex numbers: expected real ones")
            array = array.real
        return np.array(array, dtype=np.float64).ravel()

    def made(self, numbers: NDArray[Any], like: Any, wide: str) -> Any:
        """See `Adapter`."""
        return np.array(numbers, dtype=wide or like.dtype)

    def value(self, arrays: Arrays, wide: str) -> tuple[Any, str]:
        """See `Adapter`."""
        with np.errstate(all="ignore"):
            returned = self._call(self.fun, arrays)
        if self.given is True:
            returned = self._pair(returned)[0]
        return returned, str(getattr(returned, "dtype", "float64"))

    def gradient(self, arrays: Arrays, wide: str) -> Arrays:
        """See `Adapter`."""
        with np.errstate(all="ignore"):
            if self.given is True:
                made = self._pair(self._call(self.fun, arrays))[1]
            else:
                made = self._call(self.given, arrays)
        if not isinstance(self.tree, (dict, list, tuple)):
            return [np.asarray(made)]
        try:
            flat: list[Any] = []
            mapped(lambda _, a, g: flat.append(None if g is None else np.asarray(g)), self.tree, made)
        except (TypeError, ValueError, KeyError) as error:
            raise UsageError(f"the gradient is not nested as x: {error}") from None
        return [flat[i] for i in self.floating]

    def product(self, arrays: Arrays, vectors: Arrays, wide: str) -> Arrays:
        """Return the claimed Hessian times a vector, which `hvp` gives."""
        with np.errstate(all="ignore"):
            made = self.hvp(self._tree(arrays), self._tree(vectors))
        if not isinstance(self.tree, (dict, list, tuple)):
            return [np.asarray(made)]
        flat: list[Any] = []
        mapped(lambda _, a, g: flat.append(np.asarray(g)), self.tree, made)
        return [flat[i] for i in self.floating]

    def complex_value(self, x: NDArray[np.complex128]) -> complex:
        """Return f at a complex vector; raises whatever the function raises."""
        parts, start = [], 0
        for a in self.arrays:
            parts.append(x[start : start + a.size].reshape(a.shape))
            start += a.size
        with np.errstate(all="ignore"):
            returned = self._call(self.fun, parts)
        return complex(np.asarray(self._pair(returned)[0] if self.given is True else returned).item())

    def _call(self, function: Callable[..., Any], arrays: Arrays) -> Any:
        tree = self._tree(arrays)
        return function(*tree) if self.apart else function(tree)

    def _tree(self, arrays: Arrays) -> Any:
        whole = list(self.all)
        for i, a in zip(self.floating, arrays, strict=True):
            whole[i] = a
        rest = iter(whole)
        return mapped(lambda _, __: next(rest), self.tree)

    def _pair(self, returned: Any) -> tuple[Any, Any]:
        if not (isinstance(returned, tuple) and len(returned) == 2):
            raise UsageError(
                f"gradient = True, and the function returned {a_type(returned)}: expected (value, gradient)"
            )
        return returned


def _no_product(x: Any, v: Any) -> Any:
    raise UsageError(
        "hvp is missing: for NumPy functions give hvp(x, v), the product of the Hessian and a vector"
    )


def _array(a: Any) -> NDArray[Any]:
    try:
        made = np.asarray(a)
    except ValueError:
        raise UsageError(
            f"x = {str(a)[:60]} is ragged: expected lists of one length, or a dict or a list of arrays"
        ) from None
    if made.dtype.kind not in "iufb":
        dtype = "" if made.dtype.kind == "O" and not isinstance(a, np.ndarray) else f" of dtype {made.dtype}"
        raise UsageError(
            f"x holds {a_type(a)}{dtype}: expected real numbers, arrays of them, or dicts, lists "
            "and tuples of these"
        )
    return made if isinstance(a, np.ndarray) or made.dtype.kind == "f" else made.astype(np.float64)


def _plain(x: Any) -> bool:
    return isinstance(x, list) and all(
        isinstance(v, (int, float)) or (isinstance(v, list) and _plain(v)) for v in x
    )


def _own(fun: Any) -> Callable[..., Any] | None:
    """Return the gradient of a function that brings it along (compiled, or a program), where it does."""

    def gradient(*args: Any) -> Any:
        found = fun.value_and_gradient(*args)[1]
        if found is None:
            raise UsageError(f"{fun!r} has no gradient of its own: there is nothing to check")
        return found

    return gradient
