"""Derivatives of TensorFlow functions by `tf.GradientTape` and `tf.autodiff.ForwardAccumulator`.

A function written for one problem is vectorised by `tf.vectorized_map`; everything below sees a
function of all problems, whose gradient is that of the sum of the values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import tensorflow as tf

from downslope.errors import UsageError
from downslope.gradients.memory import free_memory, require_memory
from downslope.gradients.returned import (
    describe,
    is_whole,
    no_hessian,
    no_scalar,
    of_one_problem,
    pair,
    residual_parts,
)
from downslope.gradients.source import Counts, Given, Provenance
from downslope.gradients.structure import Structure

AUTOMATIC = Provenance("TensorFlow's automatic differentiation")
GIVEN = Provenance("the derivative given")
DETACHED = (
    "fun returned {}, from which no gradient comes: expected one computed from x by TensorFlow, without "
    ".numpy(), float() or tf.stop_gradient"
)


def check_point(leaves: list[tuple[str, Any]]) -> None:
    """Raise where the parts of a starting point are on two devices, or an entry is no finite number."""
    for name, leaf in leaves:
        if tf.is_symbolic_tensor(leaf):
            raise UsageError(f"{name} is symbolic: expected numbers; call the solver outside of tf.function")
    devices = {leaf.device: name for name, leaf in leaves}
    if len(devices) > 1:
        shown = ", ".join(f"{name} is on {device}" for device, name in devices.items())
        raise UsageError(f"x0 is on two devices ({shown}): expected one; copy it within tf.device")
    for name, leaf in leaves:
        bad = ~np.isfinite(leaf.numpy())
        if bad.any():
            at = tuple(int(i) for i in np.argwhere(bad)[0])
            entry = f"[{', '.join(map(str, at))}]" if at else ""
            raise UsageError(f"{name}{entry} is {leaf.numpy()[at]}: expected finite numbers")


def owned(vector: Any) -> Any:
    """Return the vector as a tensor: nothing writes to it."""
    return tf.identity(vector)


class _Function:
    """What scalar and vector functions share: the user's function of flat vectors."""

    def __init__(self, given: Given, structure: Structure, x0: Any, counts: Counts | None = None) -> None:
        if isinstance(given.gradient, str) and given.gradient != "auto":
            raise UsageError(
                f"gradient = {given.gradient!r} is for NumPy functions: TensorFlow differentiates this one "
                "itself; leave gradient out"
            )
        self.given, self.structure, self.x0 = given, structure, x0
        self.counts = Counts() if counts is None else counts
        self.batch = structure.batch is not None
        self._rows = [self._is_row(a) for a in given.args]
        self.is_given = callable(given.gradient) or given.gradient is True

    @property
    def provenance(self) -> Provenance:
        """Where the derivative comes from."""
        return GIVEN if self.is_given else AUTOMATIC

    def _is_row(self, argument: Any) -> bool:
        own = isinstance(argument, (tf.Tensor, np.ndarray))
        return self.batch and own and tuple(argument.shape[:1]) == (self.structure.batch,)

    def _call(self, function: Callable[..., Any], *vectors: Any) -> Any:
        """Call a function of the user's with the arrays of vectors and the further arguments."""

        def single(given: tuple[Any, ...]) -> Any:
            rows = iter(given[len(vectors) :])
            args = [next(rows) if own else a for a, own in zip(self.given.args, self._rows, strict=True)]
            return function(*(self.structure.restore(v) for v in given[: len(vectors)]), *args)

        own = [a for a, is_row in zip(self.given.args, self._rows, strict=True) if is_row]
        if not self.batch or self.given.vectorized:
            return single((*vectors, *own))
        with of_one_problem():
            return tf.vectorized_map(
                single, (*vectors, *map(tf.convert_to_tensor, own)), fallback_to_while_loop=False
            )

    def _flat(self, tree: Any, name: str) -> Any:
        if tree is None:
            raise UsageError(f"{name} returned None: is a return missing?")
        return tf.cast(self.structure.flatten(tree, name), self.x0.dtype)

    def _of_lanes(self, lanes: Any) -> tuple[Any, ...]:
        args = tuple(
            tf.gather(a, lanes) if own else a for a, own in zip(self.given.args, self._rows, strict=True)
        )
        x0 = tf.gather(self.x0, lanes)
        structure = replace(self.structure, batch=int(x0.shape[0]))
        return replace(self.given, args=args), structure, x0, self.counts


class Objective(_Function):
    """`downslope.gradients.source.Objective` of a TensorFlow function."""

    def value(self, x: Any) -> Any:
        """f(x)."""
        self.counts.values += 1
        made = self._call(self.given.fun, x)
        return self._scalar(pair(made, "gradient")[0] if self.given.gradient is True else made)

    def value_and_gradient(self, x: Any) -> tuple[Any, Any]:
        """f(x) and ∇f(x)."""
        self.counts.gradients += 1
        if self.given.gradient is True:
            self.counts.values += 1
            value, made = pair(self._call(self.given.fun, x), "gradient")
            return self._scalar(value), self._flat(made, "gradient")
        if callable(self.given.gradient):
            return self.value(x), self._flat(self._call(self.given.gradient, x), "gradient")
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(x)
            value = self.value(x)
        made = tape.gradient(value, x)
        if made is None:
            raise UsageError(DETACHED.format(describe(value)))
        return value, made

    def hessian_vector(self, x: Any, v: Any) -> Any:
        """∇²f(x) v, reverse over reverse: a vectorised function has no forward derivative of its gradient."""
        self.counts.products += 1
        if self.given.hessian_vector is not None:
            return self._flat(self._call(self.given.hessian_vector, x, v), "hessian_vector")
        if self.given.hessian is not None:
            return tf.linalg.matvec(self.hessian(x), v)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(x)
            gradient = self.value_and_gradient(x)[1]
        self.counts.gradients -= 1
        made = tape.gradient(gradient, x, output_gradients=v)
        return tf.zeros_like(v) if made is None else made

    def hessian(self, x: Any) -> Any:
        """∇²f(x), symmetric."""
        self.counts.matrices += 1
        shape = (*x.shape, self.structure.size)
        if self.given.hessian is not None:
            made = self._call(self.given.hessian, x)
            if tuple(getattr(made, "shape", ())) != shape:
                raise no_hessian(made, shape)
            return tf.cast(made, x.dtype)
        remedy = "use method='newton-cg' or 'l-bfgs'"
        require_memory(shape, self.structure.dtype, free_memory(), "a Hessian", remedy)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(x)
            gradient = self.value_and_gradient(x)[1]
        self.counts.gradients -= 1
        matrix = (tape.batch_jacobian if self.batch else tape.jacobian)(gradient, x)
        if matrix is None:
            return tf.zeros(shape, x.dtype)
        return (matrix + tf.linalg.matrix_transpose(matrix)) / 2

    def select(self, lanes: Any) -> Objective:
        """Return the problems of some lanes."""
        return Objective(*self._of_lanes(lanes))

    def _scalar(self, value: Any) -> Any:
        shape = (self.structure.batch,) if self.batch else ()
        expected = (
            f"a floating tensor of shape {shape}" if self.batch else "one floating number, a 0-d tensor"
        )
        plain = isinstance(value, (float, np.floating)) or is_whole(value)
        if plain and not self.is_given:
            raise UsageError(DETACHED.format(describe(value)))
        if plain:
            value = tf.constant(value, self.x0.dtype)
        if not tf.is_tensor(value) or not value.dtype.is_floating:
            raise no_scalar(value, expected)
        if tuple(value.shape) != shape and not (not self.batch and tf.size(value) == 1):
            raise no_scalar(value, expected)
        return tf.cast(tf.reshape(value, shape), self.x0.dtype)


class Residuals(_Function):
    """`downslope.gradients.source.Residuals` of a TensorFlow function."""

    def value(self, x: Any) -> Any:
        """r(x)."""
        self.counts.values += 1
        made = self._call(self.given.fun, x)
        return self._row(pair(made, "jacobian")[0] if self.given.gradient is True else made)

    def value_and_jacobian(self, x: Any) -> tuple[Any, Any]:
        """r(x) and J(x)."""
        self.counts.gradients += 1
        self.counts.matrices += 1
        if self.is_given:
            return self._given_jacobian(x)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(x)
            value = self.value(x)
        shape = (*value.shape, self.structure.size)
        remedy = "use linear='cg', which needs products with it only"
        require_memory(shape, self.structure.dtype, free_memory(), "a Jacobian", remedy)
        made = (tape.batch_jacobian if self.batch else tape.jacobian)(value, x)
        if made is None:
            raise UsageError(DETACHED.format(describe(value)))
        return value, made

    def jacobian_vector(self, x: Any, v: Any) -> Any:
        """J(x) v."""
        self.counts.products += 1
        if self.is_given:
            return tf.linalg.matvec(self._given_jacobian(x)[1], v)
        with tf.autodiff.ForwardAccumulator(x, v) as forward:
            value = self.value(x)
        made = forward.jvp(value)
        return tf.zeros_like(value) if made is None else made

    def transposed_vector(self, x: Any, u: Any) -> Any:
        """J(x)ᵀ u."""
        self.counts.products += 1
        if self.is_given:
            return tf.linalg.matvec(self._given_jacobian(x)[1], u, transpose_a=True)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(x)
            value = self.value(x)
        made = tape.gradient(value, x, output_gradients=u)
        if made is None:
            raise UsageError(DETACHED.format(describe(value)))
        return made

    def select(self, lanes: Any) -> Residuals:
        """Return the problems of some lanes."""
        return Residuals(*self._of_lanes(lanes))

    def _given_jacobian(self, x: Any) -> tuple[Any, Any]:
        if self.given.gradient is True:
            self.counts.values += 1
            first, made = pair(self._call(self.given.fun, x), "jacobian")
            value = self._row(first)
        else:
            value, made = self.value(x), self._call(self.given.gradient, x)
        shape = (*value.shape, self.structure.size)
        if tuple(getattr(made, "shape", ())) != tuple(shape):
            raise UsageError(f"jacobian returned {describe(made)}: expected a tensor of shape {shape}")
        return value, tf.cast(made, x.dtype)

    def _row(self, returned: Any) -> Any:
        expected = "a floating tensor, or a nested dict, list or tuple of them"
        leading = (self.structure.batch,) if self.batch else ()
        parts, rows = residual_parts(returned), []
        for part in parts:
            if not tf.is_tensor(part) or not part.dtype.is_floating:
                raise UsageError(f"fun returned {describe(part)}: expected {expected}")
            if tuple(part.shape[: len(leading)]) != leading:
                raise UsageError(
                    f"fun returned the shape {tuple(part.shape)}: expected the {self.structure.batch} "
                    "problems along the leading axis"
                )
            rows.append(tf.reshape(part, (*leading, -1)))
        return tf.cast(tf.concat(rows, axis=-1), self.x0.dtype)
