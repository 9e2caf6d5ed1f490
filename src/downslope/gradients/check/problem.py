"""What the search sees of the user's function: vectors of float64, counted calls, names of entries."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from downslope.errors import UsageError, one_line

Vector: TypeAlias = NDArray[np.float64]
Indices: TypeAlias = NDArray[np.intp]


@dataclass(frozen=True)
class Leaf:
    """One array among those the gradient is taken in: its name, shape and place in the vector."""

    name: str
    shape: tuple[int, ...]
    start: int
    dtype: str = "float64"

    @property
    def stop(self) -> int:
        """Where the leaf ends in the vector."""
        return self.start + int(np.prod(self.shape, dtype=np.int64))

    def index(self, i: int) -> tuple[int, ...]:
        """Return the index in the array of entry `i` of the vector."""
        return tuple(int(k) for k in np.unravel_index(i - self.start, self.shape)) if self.shape else ()

    def place(self, index: Sequence[int]) -> int:
        """Return the place in the vector of an index in the array."""
        return self.start + (int(np.ravel_multi_index(tuple(index), self.shape)) if self.shape else 0)


def leaves_of(named: Sequence[tuple[str, tuple[int, ...], str]]) -> tuple[Leaf, ...]:
    """Lay arrays, each (name, shape, dtype), end to end."""
    made: list[Leaf] = []
    for name, shape, dtype in named:
        made.append(Leaf(name, tuple(shape), made[-1].stop if made else 0, dtype))
    return tuple(made)


def length(v: Vector) -> float:
    """Return the Euclidean norm, without underflow or overflow on the way.

    >>> length(np.array([3e-200, 4e-200]))
    5e-200

    """
    largest = float(np.max(np.abs(v), initial=0.0))
    if 1e-100 < largest < 1e100 or largest == 0 or not np.isfinite(largest):
        return float(np.linalg.norm(v))
    return float(largest * np.linalg.norm(v / largest))


def entry_name(leaf: Leaf, index: Sequence[int]) -> str:
    """Return an entry's name.

    >>> entry_name(Leaf("layer2.weight", (4, 20), 0), (3, 17))
    'layer2.weight[3, 17]'

    """
    return f"{leaf.name}[{', '.join(map(str, index))}]" if index else leaf.name


def undefined(error: Exception) -> bool:
    """Return whether an exception says that a function has no value there, rather than that it is broken.

    >>> undefined(ValueError("math domain error")), undefined(NameError("y"))
    (True, False)

    """
    # That of PyTorch's decompositions is a RuntimeError, and is told by its name alone.
    return isinstance(error, (ArithmeticError, ValueError)) or "LinAlgError" in type(error).__name__


@dataclass
class Problem:
    """A scalar function of a vector, its claimed gradient, and the point.

    Attributes:
        x: the point, (n,).
        value: f at a vector.
        gradient: the claimed gradient at a vector, (n,).
        leaves: what the user calls the parts of the vector.
        eps: unit round-off of the arithmetic that f and its gradient are known to use.
        grid: unit round-off of x as they use it: coarser than `eps` where they cast their argument.
        round: a vector as the function receives it (float32 parameters lose digits).
        complex_value: f at a complex vector, where the framework has one to try.
        digits: unit round-off of numbers written into function and gradient, where it is more than `eps`.
        doubt: how far a right gradient at a vector may be off by numbers of 16 bits, (n,), if there are any.
        product: the claimed Hessian times a vector, (x, v) -> (n,), where there is one.
        automatic: whether the gradient is that of automatic differentiation.
        told: what to say of an exception of the gradient: whose code raised it, and what to do.
        notes: what was decided on the way, for the report.

    """

    x: Vector
    value: Callable[[Vector], float]
    gradient: Callable[[Vector], Vector]
    leaves: tuple[Leaf, ...]
    eps: float = float(np.finfo(np.float64).eps)
    round: Callable[[Vector], Vector] = field(default=lambda x: x)
    grid: float = 0.0
    complex_value: Callable[[NDArray[np.complex128]], complex] | None = None
    digits: float = 0.0
    doubt: Callable[[Vector], Vector] | None = None
    product: Callable[[Vector, Vector], Vector] | None = None
    automatic: bool = False
    told: Callable[[Exception], str] = lambda error: f"the gradient raised at the point: {one_line(error)}"
    notes: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    values: int = 0
    gradients: int = 0

    def __post_init__(self) -> None:
        self.grid = self.grid or self.eps

    @property
    def size(self) -> int:
        """Entries of the vector."""
        return int(self.x.size)

    @property
    def evaluations(self) -> int:
        """Calls of the function and of its gradient so far."""
        return self.values + self.gradients

    def f(self, x: Vector) -> float:
        """Return the function at x, counted; NaN where it raises, as math.log(-1) does.

        Raises:
            UsageError: it raises at the point itself.

        """
        self.values += 1
        try:
            return float(self.value(x))
        except UsageError:
            raise
        except Exception as error:
            if np.array_equal(x, self.x):
                raise UsageError(f"the function raised at the point: {one_line(error)}") from error
            if not undefined(error):
                raise
            return math.nan

    def g(self, x: Vector) -> Vector:
        """Return the claimed gradient at x, counted, as a vector of its own; NaN where it raises.

        Raises:
            UsageError: it raises at the point itself, or is broken beside it.

        """
        self.gradients += 1
        try:
            return np.array(self.gradient(x), dtype=np.float64, copy=True).reshape(-1)
        except UsageError:
            raise
        except Exception as error:
            if np.array_equal(x, self.x) or not undefined(error):
                raise UsageError(self.told(error)) from error
            return np.full(self.size, math.nan)

    def leaf_of(self, i: int) -> Leaf:
        """Return the leaf that holds entry `i`."""
        starts = [leaf.start for leaf in self.leaves]
        k = int(np.searchsorted(starts, i, side="right")) - 1
        while self.leaves[k].stop <= i:  # leaves of no entries share a start
            k -= 1
        return self.leaves[k]

    def name(self, i: int) -> str:
        """Return the name of entry `i`."""
        leaf = self.leaf_of(i)
        return entry_name(leaf, leaf.index(i))
