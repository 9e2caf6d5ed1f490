"""What a user's function may return, and the one error for all that it may not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from downslope.errors import UsageError, a_type
from downslope.gradients.nest import leaves_of


def describe(value: Any) -> str:
    """Return how a wrong value is called in an error."""
    if value is None:
        return "None: is a return missing?"
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if shape is not None:
        name = str(getattr(dtype, "name", dtype)).removeprefix("torch.")
        return f"{a_type(value)} of shape {tuple(shape)} and dtype {name}"
    if isinstance(value, (list, tuple)):
        return f"{a_type(value)} of {len(value)}"
    return f"{a_type(value)}"


def no_scalar(value: Any, expected: str, *, name: str = "fun") -> UsageError:
    """Return the error for a value that is no real number (or no row of them, in a batch)."""
    hint = ""
    size = getattr(value, "shape", None)
    if isinstance(value, tuple) and len(value) == 2:
        hint = "; where it returns (value, gradient), say gradient=True"
    elif size is not None and len(size) > 0:
        hint = "; sum or average it, or give residuals to least_squares"
    elif "complex" in describe(value):
        hint = "; return its real part"
    return UsageError(f"{name} returned {describe(value)}: expected {expected}{hint}")


def is_whole(value: Any) -> bool:
    """Return whether a value is a whole number, Python's or NumPy's; a bool is none."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def is_of(value: Any, framework: str) -> bool:
    """Return whether a value is an array of a framework, without importing it."""
    return any(kind.__module__.partition(".")[0].startswith(framework) for kind in type(value).__mro__)


def foreign_array(value: Any) -> str | None:
    """Return the framework of an array that is not NumPy's, or None."""
    names = {"torch": "PyTorch", "jax": "JAX", "tensorflow": "TensorFlow"}
    return next((shown for name, shown in names.items() if is_of(value, name)), None)


def residual_parts(returned: Any) -> list[Any]:
    """Return the arrays that a function of residuals returned; raise where there are none."""
    parts = leaves_of(returned, is_leaf=lambda tree: tree is None)  # a return is missing
    if all(0 in np.shape(part) for part in parts):
        raise UsageError("fun returned no residuals: expected at least one number")
    return parts


def no_hessian(value: Any, shape: tuple[int, ...]) -> UsageError:
    """Return the error for a Hessian that is no array of a shape."""
    found = getattr(value, "shape", None)
    if hasattr(value, "matvec"):
        return UsageError("hessian returned an operator: give hessian_vector, its product with a vector")
    said = describe(value) if found is None else f"the shape {tuple(found)}"
    return UsageError(f"hessian returned {said}{':' if value is not None else ''} expected {shape}")


def changed_argument(where: str, copy: str = "copy") -> UsageError:
    """Return the error for a function that writes to what it is given; `copy` is how arrays are copied."""
    return UsageError(f"fun changed its argument x{where}: work on a copy, as in `x = x.{copy}()`")


@contextmanager
def of_one_problem() -> Iterator[None]:
    """Say beside an error of a function that is called with one problem of a batch that it is so."""
    try:
        yield
    except UsageError:
        raise
    except Exception as error:
        error.add_note(
            "With batch=True a function of PyTorch, JAX or TensorFlow is given one problem, without the "
            "leading axis: write it for one, or for all of them and say vectorized=True."
        )
        raise


def pair(returned: Any, derivative: str) -> tuple[Any, Any]:
    """Return what a function with `gradient=True` or `jacobian=True` returned; raise where it is no pair."""
    if not (isinstance(returned, (tuple, list)) and len(returned) == 2):
        first, second = ("value", "gradient") if derivative == "gradient" else ("residuals", "Jacobian")
        raise UsageError(
            f"fun returned {describe(returned)}: with {derivative}=True expected ({first}, {second})"
        )
    return returned[0], returned[1]
