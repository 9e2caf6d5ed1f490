"""Where derivatives come from: one interface, whatever the user's function is made of.

    f = objective(fun, x0)                      # or residuals(fun, x0)
    value, gradient = f.value_and_gradient(f.x0)
    product = f.hessian_vector(f.x0, v)

A solver sees flat vectors only: x is (n,), or (B, n) for a batch in lock step, of the user's own
framework, dtype and device. The framework's own module makes the derivatives: `torch.py`, `jax.py`
and `tensorflow.py` by automatic differentiation, `numpy.py` from a function of the user's, from
differences or from the complex step. `Provenance` says which, and at what cost and error.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

from downslope.errors import UsageError, a_type, closest
from downslope.gradients.nest import Tree
from downslope.gradients.structure import Structure, structure_of
from downslope.ops.protocol import Array

GRADIENTS = {
    "auto": "auto", "forward": "forward", "2-point": "forward", "central": "central",
    "3-point": "central", "complex": "complex", "cs": "complex",
}  # fmt: skip
"""What `gradient=` may be called by name; the second names are SciPy's."""


@dataclass
class Counts:
    """How often the user's functions were called; a batch in lock step counts as one call.

    Attributes:
        values: calls of the function, those for differences included.
        gradients: gradients made, one or several calls each.
        products: Hessian-vector products, Jacobian-vector products and their transposes.
        matrices: dense Hessians or Jacobians.

    """

    values: int = 0
    gradients: int = 0
    products: int = 0
    matrices: int = 0


@dataclass(frozen=True)
class Provenance:
    """Where a derivative comes from.

    Attributes:
        how: "PyTorch's automatic differentiation", "central differences", "the complex step", ….
        calls: calls of the function for one gradient (or Jacobian) of the kind now in use.
        noise: estimated standard deviation of the function's rounding or other noise, or None.
        error: estimated largest error of an entry, or None where it is at the level of rounding.

    """

    how: str
    calls: int = 1
    noise: float | None = None
    error: float | None = None

    def __str__(self) -> str:
        """One line for a result."""
        parts = [self.how]
        if self.calls > 1:
            parts.append(f"{self.calls} evaluations each")
        if self.noise is not None:
            parts.append(f"noise of the function {self.noise:.1e}")
        if self.error is not None:
            parts.append(f"error about {self.error:.1e}")
        return ", ".join(parts)


class Objective(Protocol):
    """A scalar function of a vector, with its derivatives.

    x and v are (n,), values are scalars; in a batch x and v are (B, n), values (B,). Nothing that is
    given is written to, nothing that is returned is written to later.
    """

    structure: Structure
    x0: Array
    counts: Counts

    @property
    def provenance(self) -> Provenance:
        """Where the gradient comes from, as of now."""

    def value(self, x: Array) -> Array:
        """f(x): () or (B,)."""

    def value_and_gradient(self, x: Array) -> tuple[Array, Array]:
        """f(x) and ∇f(x): (n,) or (B, n)."""

    def hessian_vector(self, x: Array, v: Array) -> Array:
        """∇²f(x) v, matrix-free; products at the same `x` object share their work."""

    def hessian(self, x: Array) -> Array:
        """∇²f(x), symmetric: (n, n) or (B, n, n)."""

    def select(self, lanes: Array) -> Objective:
        """The problems `lanes` (integer indices) of a batch; counts are shared."""


class Residuals(Protocol):
    """A vector function r of a vector, with its derivatives; r is (m,), or (B, m) in a batch."""

    structure: Structure
    x0: Array
    counts: Counts

    @property
    def provenance(self) -> Provenance:
        """Where the Jacobian comes from, as of now."""

    def value(self, x: Array) -> Array:
        """r(x): (m,) or (B, m)."""

    def value_and_jacobian(self, x: Array) -> tuple[Array, Array]:
        """r(x) and J(x): (m, n) or (B, m, n).

        Raises:
            UsageError: a Jacobian larger than the memory, with its size and the way without it.

        """

    def jacobian_vector(self, x: Array, v: Array) -> Array:
        """J(x) v, matrix-free: (m,) or (B, m)."""

    def transposed_vector(self, x: Array, u: Array) -> Array:
        """J(x)ᵀ u, matrix-free: (n,) or (B, n)."""

    def select(self, lanes: Array) -> Residuals:
        """The problems `lanes` (integer indices) of a batch; counts are shared."""


@dataclass(frozen=True)
class Given:
    """What the user gave: the function, its further arguments and what is known of its derivatives."""

    fun: Callable[..., Any]
    args: tuple[Any, ...] = ()
    gradient: Any = None
    hessian: Callable[..., Any] | None = None
    hessian_vector: Callable[..., Any] | None = None
    noise: float | None = None
    vectorized: bool = False
    bounds: tuple[Any, Any] | None = None


def objective(
    fun: Callable[..., Any],
    x0: Tree,
    *,
    args: tuple[Any, ...] = (),
    gradient: Callable[..., Any] | str | bool | None = None,
    hessian: Callable[..., Any] | None = None,
    hessian_vector: Callable[..., Any] | None = None,
    noise: float | None = None,
    bounds: tuple[Array, Array] | None = None,
    batch: bool = False,
    vectorized: bool = False,
) -> Objective:
    """Return a scalar function with its derivatives.

    Args:
        fun: takes x0's arrays (and `args`) and returns one real number of x0's framework.
        x0: an array, or a nested dict, list or tuple of arrays of one framework, float32 or float64, or
            another tree that JAX knows; in a batch with the problems along the leading axis of each.
        args: further arguments of `fun`, `gradient` and the Hessian; in a batch, arrays whose leading
            axis has the length of the batch belong to the problems, one row each.
        gradient: a function of the same arguments; True where `fun` returns (value, gradient); None
            for automatic differentiation and, of NumPy functions, differences; "forward", "central",
            "auto" (forward until its error is felt, then central) or "complex" for NumPy functions.
            SciPy's names "2-point", "3-point" and "cs" are understood.
        hessian: returns ∇²f over the flat vector, (n, n); None for automatic differentiation, or
            differences of gradients.
        hessian_vector: takes (x, v, *args), returns ∇²f v.
        noise: standard deviation of the function's noise, where known; it is estimated otherwise.
        bounds: (lower, upper) over the flat vector, that no difference may cross.
        batch: whether x0 holds many problems. A NumPy function is then called with all of them and
            returns (B,); functions of other frameworks are written for one problem and vectorised.
        vectorized: a batch whose `fun` is written for all problems at once in PyTorch, JAX or
            TensorFlow too.

    Raises:
        UsageError: an x0, an argument or a returned value that does not fit; the latter at the first
            evaluation.

    >>> import numpy as np
    >>> x0 = {"a": np.array([1.0, 2.0]), "b": np.array(1.0)}
    >>> f = objective(lambda x: (x["a"] ** 2).sum() + 3 * x["b"], x0)
    >>> value, gradient = f.value_and_gradient(f.x0)
    >>> print(value, gradient.round(6))
    8.0 [2. 4. 3.]

    """
    structure, vector = structure_of(x0, batch=batch)
    given = Given(
        _callable("fun", fun), _tuple(args), _gradient("gradient", gradient),
        None if hessian is None else _callable("hessian", hessian),
        None if hessian_vector is None else _callable("hessian_vector", hessian_vector),
        _noise(noise), vectorized, bounds,
    )  # fmt: skip
    own = import_module(f"downslope.gradients.{structure.framework}")
    made: Objective = own.Objective(given, structure, vector)
    return made


def residuals(
    fun: Callable[..., Any],
    x0: Tree,
    *,
    args: tuple[Any, ...] = (),
    jacobian: Callable[..., Any] | str | bool | None = None,
    noise: float | None = None,
    bounds: tuple[Array, Array] | None = None,
    batch: bool = False,
    vectorized: bool = False,
) -> Residuals:
    """Return a vector function with its derivatives; what is not said here is as in `objective`.

    `fun` returns one array (m,), or a nested dict, list or tuple of arrays of any shape, which are laid
    end to end. `jacobian` is a function that returns (m, n) over the flat vector, as an array, a SciPy
    sparse matrix or a `LinearOperator`; True where `fun` returns (residuals, Jacobian); the name of a
    difference; or None.

    Raises:
        UsageError: as of `objective`.

    """
    structure, vector = structure_of(x0, batch=batch)
    given = Given(
        _callable("fun", fun), _tuple(args), _gradient("jacobian", jacobian), noise=_noise(noise),
        vectorized=vectorized, bounds=bounds,
    )  # fmt: skip
    own = import_module(f"downslope.gradients.{structure.framework}")
    made: Residuals = own.Residuals(given, structure, vector)
    return made


def _callable(name: str, value: Any) -> Any:
    if not callable(value):
        raise UsageError(f"{name} is {a_type(value)}: expected a function")
    return value


def _noise(value: Any) -> float | None:
    try:
        fits = value is None or (not isinstance(value, str) and 0 <= float(value) < math.inf)
    except (TypeError, ValueError):
        fits = False
    if not fits:
        raise UsageError(f"noise = {value!r}: expected a standard deviation, a number of at least 0, or None")
    return None if value is None else float(value)


def _tuple(args: Any) -> tuple[Any, ...]:
    return args if isinstance(args, tuple) else (args,)


def _gradient(name: str, value: Any) -> Any:
    if value is None or value is True or callable(value):
        return value
    if value is False:
        return None
    if isinstance(value, str) and value in GRADIENTS:
        return GRADIENTS[value]
    hint = closest(value, GRADIENTS) if isinstance(value, str) else ""
    raise UsageError(
        f"{name} = {value!r}: expected a function, True, None, 'forward', 'central' or 'complex'{hint}"
    )
