"""JAX: functions of pytrees, with custom derivatives or not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from downslope.errors import UsageError, a_type
from downslope.gradients.check.adapter import (
    PLAIN,
    Arrays,
    labels,
    plain_number,
    refuse_complex,
    spread,
    weighting,
    weights_for,
)
from downslope.gradients.check.jax_casts import Lifted
from downslope.gradients.check.problem import Vector
from downslope.gradients.check.rounded import coarse


class JaxAdapter:
    """A function of JAX arrays."""

    def __init__(self, fun: Callable[..., Any], x: Any, gradient: Any) -> None:
        if gradient is not None and gradient is not True and not callable(gradient):
            raise UsageError(f"gradient = {gradient!r}: expected a function, True, or None for jax.grad")
        self.fun, self.given = fun, gradient
        self.hvp: Callable[..., Any] | None = None
        self.apart = spread(fun, x)
        self.facts: dict[str, Any] = {}
        self.notes: list[str] = []
        with_path, self.nest = jax.tree_util.tree_flatten_with_path(x)
        self.all = [leaf for _, leaf in with_path]
        self.floating = [i for i, a in enumerate(self.all) if _is_float(a)]
        called = labels([_dotted(path) for path, _ in with_path], fun, self.apart)
        refuse_complex("x holds", [(n, _dtype(a)) for n, a in zip(called, self.all, strict=True)])
        self.names = [called[i] for i in self.floating]
        self.arrays = [jnp.asarray(self.all[i]) for i in self.floating]
        self._compiled: dict[str, Callable[..., Any] | None] = {}
        self.lifted = False
        self.casts: set[str] = set()
        self.held: set[str] = set()
        self.rounded: dict[float, float] = {}
        self.known: dict[float, float] | None = None

    def dtype_of(self, array: Any) -> str:
        """See `Adapter`."""
        return str(array.dtype)

    def numbers(self, array: Any) -> Vector:
        """See `Adapter`."""
        return np.asarray(array).astype(np.float64).ravel()

    def made(self, numbers: NDArray[Any], like: Any, wide: str) -> Any:
        """See `Adapter`."""
        with jax.enable_x64(wide == "float64" or like.dtype == np.float64):
            return jnp.array(numbers, dtype=wide or like.dtype)

    def value(self, arrays: Arrays, wide: str) -> tuple[Any, str]:
        """See `Adapter`."""
        with jax.enable_x64(wide == "float64" or self._double()):
            value = self._run("value", self._value, list(arrays))
            return float(value), str(value.dtype)

    def gradient(self, arrays: Arrays, wide: str) -> Arrays:
        """See `Adapter`."""
        with jax.enable_x64(wide == "float64" or self._double()):
            if self.given is None:
                return list(self._run("gradient", jax.grad(self._value), list(arrays)))
            made = (
                self._run("gradient", self._claimed, list(arrays)) if self.lifted else self._claimed(arrays)
            )
            leaves: list[Any]
            nest: Any
            leaves, nest = jax.tree_util.tree_flatten(made)
            if nest != self.nest:
                raise UsageError(f"the gradient is nested as {nest}: expected the nesting of x, {self.nest}")
            return [leaves[i] for i in self.floating]

    def _double(self) -> bool:
        return any(a.dtype == np.float64 for a in self.arrays)

    def _claimed(self, arrays: Arrays) -> Any:
        return self._call(self.fun, arrays)[1] if self.given is True else self._call(self.given, arrays)

    def _run(self, name: str, function: Callable[..., Any], *lists: list[Any]) -> Any:
        """Call compiled, or as it is where the function cannot be traced; in float64 where it is lifted."""
        if self.lifted:
            name, function = f"{name}, lifted", self._lift(name, function, lists)
        if name not in self._compiled:
            try:
                compiled = jax.jit(function)
                returned = compiled(*lists)
                self._compiled[name] = compiled
                return returned
            except (jax.errors.JAXTypeError, TypeError):
                self._compiled[name] = None
        compiled_one = self._compiled[name]
        return (compiled_one or function)(*lists)

    def running(self) -> Any:
        """Return a context for what is called in float64."""
        return jax.enable_x64(True)

    def look_for_casts(self, arrays: Arrays, leave_out: bool = True) -> None:
        """See `Adapter`; nothing is compiled, nor computed."""
        self.known = None
        self._compiled = {name: made for name, made in self._compiled.items() if "lifted" not in name}
        with jax.enable_x64(True):
            made = self._looked_at(arrays)
            for lifted in made:
                self.casts |= lifted.casts
                self.held |= lifted.held
            self.rounded = _together(made)
            if self.rounded and leave_out:
                self.known = coarse(self.rounded)
                try:
                    self.rounded = _together(self._looked_at(arrays))
                except Exception:  # whatever it says to what it did not cast
                    self.known = None

    def _looked_at(self, arrays: Arrays) -> list[Lifted]:
        """Return function and gradient as they are run in float64, traced throughout."""
        claimed = jax.grad(self._value) if self.given is None else self._claimed
        made = [self._lifted(function, (list(arrays),)) for function in (self._value, claimed)]
        for lifted in made:
            jax.eval_shape(lifted, list(arrays))
        return made

    def moved_gradient(self, arrays: Arrays, draw: int) -> Arrays:
        """See `Adapter`."""
        claimed = jax.grad(self._value) if self.given is None else self._claimed
        with jax.enable_x64(True):
            made = self._lifted(claimed, (list(arrays),), draw)(list(arrays))
            leaves: list[Any]
            leaves = jax.tree_util.tree_leaves(made)
            return leaves if self.given is None else [leaves[i] for i in self.floating]

    def _lift(self, name: str, function: Callable[..., Any], lists: tuple[list[Any], ...]) -> Any:
        if self._compiled.get(f"{name}, lifted"):
            return function  # the compiled one is called
        return self._lifted(function, lists)

    def _lifted(
        self, function: Callable[..., Any], lists: tuple[list[Any], ...], draw: int | None = None
    ) -> Lifted:
        narrow = [
            [jnp.asarray(a, own.dtype) for a, own in zip(arrays, self.arrays, strict=True)]
            for arrays in lists
        ]
        try:
            return Lifted(function, lists, narrow, known=self.known, draw=draw)
        except Exception:  # a product of second derivatives may say what the gradient did not
            if not self.lifted or self.known is None:
                raise
            return Lifted(function, lists, narrow, draw=draw)

    def _value(self, arrays: list[Any]) -> Any:
        returned = self._call(self.fun, arrays)
        return self._scalar(returned[0] if self.given is True else returned)

    def _scalar(self, returned: Any) -> Any:
        leaves = jax.tree_util.tree_leaves(returned)
        refuse_complex("the function returned", [("", _dtype(a)) for a in leaves])
        number = plain_number(returned)
        if number is not None:
            if self.given is None and PLAIN not in self.notes:
                self.notes.append(PLAIN)
            return jnp.asarray(number, float)
        found = [jnp.asarray(a) for a in leaves if _is_float(a)]
        if not found:
            raise UsageError(
                f"the function returned {a_type(returned)}: expected an array of a floating dtype"
            )
        if len(found) == 1 and found[0].size == 1:
            return found[0].reshape(())
        count = sum(a.size for a in found)
        if "outputs" not in self.facts:
            self.facts["outputs"] = count
            self.notes.append(weighting([a.shape for a in found]))
        total: Any = 0.0
        weights, start = weights_for(count), 0
        for a in found:
            w = jnp.asarray(weights[start : start + a.size], a.dtype).reshape(a.shape)
            total, start = total + jnp.sum(w * a), start + a.size
        return total

    def _call(self, function: Callable[..., Any], arrays: Arrays) -> Any:
        whole = list(self.all)
        for i, a in zip(self.floating, arrays, strict=True):
            whole[i] = a
        tree = jax.tree_util.tree_unflatten(self.nest, whole)
        return function(*tree) if self.apart else function(tree)

    def product(self, arrays: Arrays, vectors: Arrays, wide: str) -> Arrays:
        """Return the Hessian times a vector: as `hvp` gives it, or the gradient of ∇fᵀv."""
        with jax.enable_x64(wide == "float64" or self._double()):
            if self.hvp is not None:
                given, both = self.hvp, (list(arrays), list(vectors))

                def hvp(*lists: list[Any]) -> Any:
                    return given(*(jax.tree_util.tree_unflatten(self.nest, a) for a in lists))

                made = self._run("product", hvp, *both) if self.lifted else hvp(*both)
                leaves: list[Any]
                leaves = jax.tree_util.tree_leaves(made)
                return [leaves[i] for i in self.floating]

            def product(points: list[Any], vectors: list[Any]) -> Any:
                def along(points: list[Any]) -> Any:
                    first = jax.grad(self._value)(points)
                    return sum(jnp.vdot(g, v) for g, v in zip(first, vectors, strict=True))

                return jax.grad(along)(points)

            return list(self._run("product", product, list(arrays), list(vectors)))


def _together(made: list[Lifted]) -> dict[float, float]:
    return {number: eps for lifted in made for number, eps in lifted.rounded.items()}


def _is_float(a: Any) -> bool:
    dtype = getattr(a, "dtype", None)
    return isinstance(a, float) or (dtype is not None and jnp.issubdtype(dtype, jnp.floating))


def _dtype(a: Any) -> str:
    return "complex" if isinstance(a, complex) else str(getattr(a, "dtype", ""))


def _dotted(path: Any) -> str:
    parts = [getattr(k, "key", getattr(k, "idx", getattr(k, "name", k))) for k in path]
    return ".".join(str(p) for p in parts)
