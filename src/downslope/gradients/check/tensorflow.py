"""TensorFlow functions of tensors, and Keras models with a loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
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
from downslope.gradients.check.problem import Vector
from downslope.gradients.check.rounded import coarse
from downslope.gradients.check.tensorflow_casts import Lifted
from downslope.rules.loop import mapped, named


class _Common:
    """How tensors become numbers, and numbers tensors."""

    def __init__(self) -> None:
        self.facts: dict[str, Any] = {}
        self.notes: list[str] = []
        self.arrays: list[Any] = []
        self.names: list[str] = []
        self.lifted = False
        self.casts: set[str] = set()
        self.held: set[str] = set()
        self.rounded: dict[float, float] = {}
        self.known: dict[float, float] | None = None
        self.wide = tf.float64
        self._graphs: dict[str, Lifted] = {}

    def dtype_of(self, array: Any) -> str:
        """See `Adapter`."""
        return str(tf.as_dtype(array.dtype).name)

    def numbers(self, array: Any) -> Vector:
        """See `Adapter`."""
        if isinstance(array, tf.IndexedSlices):  # the gradient of an embedding
            array = tf.convert_to_tensor(array)
        return tf.cast(array, tf.float64).numpy().ravel().copy()  # type: ignore[no-any-return]

    def made(self, numbers: NDArray[Any], like: Any, wide: str) -> Any:
        """See `Adapter`."""
        return tf.cast(tf.constant(np.array(numbers)), wide or like.dtype)

    def _graph(self, name: str, function: Callable[..., Any], *lists: list[Any]) -> Lifted:
        """Return a function as it is run without its casts, traced once."""
        if name not in self._graphs:
            narrow = [[tf.cast(a, own.dtype) for a, own in zip(of, self.arrays, strict=True)] for of in lists]
            try:
                self._graphs[name] = made = Lifted(function, lists, narrow, self.known, self.wide)
            except Exception:  # a product of second derivatives may say what the gradient did not
                if not self.lifted or self.known is None:
                    raise
                self._graphs[name] = made = Lifted(function, lists, narrow)
            if self.known is None:
                self.casts |= made.casts
                self.held |= made.held
        return self._graphs[name]

    def look_for_casts(self, arrays: Arrays, leave_out: bool = True) -> None:
        """See `Adapter`; nothing is computed."""
        self._graphs, self.known = {}, None
        self._trace(arrays)
        self.rounded = self._rounded()
        if self.rounded and leave_out:
            as_it_is, self.known = self._graphs, coarse(self.rounded)
            for self.wide in (tf.float64, tf.float32):
                self._graphs = {}
                try:
                    self._trace(arrays)
                    self.rounded = self._rounded()
                    return
                except Exception:  # whatever it says to what it did not cast
                    self._graphs = as_it_is
            self.known = None

    def _trace(self, arrays: Arrays) -> None:
        """Trace the function and its gradient."""
        raise NotImplementedError

    def _rounded(self) -> dict[float, float]:
        return {number: eps for made in self._graphs.values() for number, eps in made.rounded.items()}

    def _scalar(self, returned: Any) -> Any:
        refuse_complex("the function returned", [("", _dtype(a)) for _, a in named(returned)])
        number = plain_number(returned)
        if number is not None:
            if getattr(self, "given", None) is None and PLAIN not in self.notes:
                self.notes.append(PLAIN)
            return tf.constant(number, tf.float64)
        found = [tf.convert_to_tensor(a) for _, a in named(returned) if _is_float(a)]
        if not found:
            raise UsageError(
                f"the function returned {a_type(returned)}: expected a tensor of a floating dtype"
            )
        count = sum(a.shape.num_elements() for a in found)
        if count == 1:
            return tf.reshape(found[0], ())
        if "outputs" not in self.facts:
            self.facts["outputs"] = count
            self.notes.append(weighting([a.shape for a in found]))
        weights, total, start = weights_for(count), None, 0
        for a in found:
            size = a.shape.num_elements()
            w = tf.constant(weights[start : start + size], a.dtype, a.shape)
            part, start = tf.reduce_sum(w * a), start + size
            total = part if total is None else total + part
        return total


class TensorflowAdapter(_Common):
    """A function of tensors."""

    def __init__(self, fun: Callable[..., Any], x: Any, gradient: Any) -> None:
        super().__init__()
        if gradient is not None and gradient is not True and not callable(gradient):
            raise UsageError(
                f"gradient = {gradient!r}: expected a function, True, or None for GradientTape's"
            )
        self.fun, self.given, self.tree = fun, gradient, x
        self.hvp: Callable[..., Any] | None = None
        self.apart = spread(fun, x)
        found = list(named(x))
        self.all = [a for _, a in found]
        self.floating = [i for i, a in enumerate(self.all) if _is_float(a)]
        called = labels([n for n, _ in found], fun, self.apart)
        refuse_complex("x holds", [(n, _dtype(a)) for n, a in zip(called, self.all, strict=True)])
        self.names = [called[i] for i in self.floating]
        self.arrays = [tf.convert_to_tensor(self.all[i]) for i in self.floating]

    def value(self, arrays: Arrays, wide: str) -> tuple[Any, str]:
        """See `Adapter`."""
        value = self._run("value", self._value, list(arrays))
        return float(value), self.dtype_of(value)

    def gradient(self, arrays: Arrays, wide: str) -> Arrays:
        """See `Adapter`."""
        return list(self._run("gradient", self._claimed, list(arrays)))

    def moved_gradient(self, arrays: Arrays, draw: int) -> Arrays:
        """See `Adapter`."""
        return list(self._graphs["gradient"](list(arrays), draw=draw))

    def _trace(self, arrays: Arrays) -> None:
        self._graph("value", self._value, list(arrays))
        self._graph("gradient", self._claimed, list(arrays))

    def _run(self, name: str, function: Callable[..., Any], *lists: list[Any]) -> Any:
        """Call a function, in float64 where it is lifted."""
        return self._graph(name, function, *lists)(*lists) if self.lifted else function(*lists)

    def _value(self, arrays: list[Any]) -> Any:
        return self._scalar(self._returned(arrays))

    def _claimed(self, arrays: list[Any]) -> list[Any]:
        if self.given is not None:
            made = self._call(self.fun, arrays)[1] if self.given is True else self._call(self.given, arrays)
            return self._flat(made)
        with tf.GradientTape() as tape:
            tape.watch(arrays)
            value = self._value(arrays)
        return _dense(tape.gradient(value, arrays), arrays)

    def _flat(self, made: Any) -> list[Any]:
        """Return the arrays of a nest like x that belong to its floating arrays."""
        flat: list[Any] = []
        mapped(lambda _, a, g: flat.append(g), self.tree, made)
        return [flat[i] for i in self.floating]

    def _returned(self, arrays: Arrays) -> Any:
        returned = self._call(self.fun, arrays)
        return returned[0] if self.given is True else returned

    def _call(self, function: Callable[..., Any], arrays: Arrays) -> Any:
        tree = self._tree(arrays)
        return function(*tree) if self.apart else function(tree)

    def _tree(self, arrays: Arrays) -> Any:
        whole = list(self.all)
        for i, a in zip(self.floating, arrays, strict=True):
            whole[i] = a
        rest = iter(whole)
        return mapped(lambda _, __: next(rest), self.tree)

    def product(self, arrays: Arrays, vectors: Arrays, wide: str) -> Arrays:
        """Return the Hessian times a vector: as `hvp` gives it, or by a second tape."""
        return list(self._run("product", self._product, list(arrays), list(vectors)))

    def _product(self, points: list[Any], vectors: list[Any]) -> list[Any]:
        if self.hvp is not None:
            return self._flat(self.hvp(self._tree(points), self._tree(vectors)))
        with tf.GradientTape() as outer:
            outer.watch(points)
            with tf.GradientTape() as inner:
                inner.watch(points)
                value = self._value(points)
            first = inner.gradient(value, points)
            terms = [tf.reduce_sum(g * v) for g, v in zip(first, vectors, strict=True) if g is not None]
            total = tf.add_n(terms) if terms else value  # a constant
        return _dense(outer.gradient(total, points), points)


class ModelAdapter(_Common):
    """A Keras model and its loss on one batch, as a function of its weights, which are put back after use."""

    def __init__(self, model: Any, batch: Any, loss: Callable[[Any, Any], Any] | None) -> None:
        super().__init__()
        if loss is None:
            raise UsageError(
                "loss is missing: check_gradient(model, batch, loss=…), loss(model, batch) -> a number"
            )
        self.model, self.batch, self.loss = model, batch, loss
        self.variables = list(model.trainable_variables)
        if not self.variables:
            raise UsageError("the model has no trainable variable: build it first, by calling it on a batch")
        self.names = [str(getattr(v, "path", v.name)).replace("/", ".") for v in self.variables]
        dtypes = [str(v.dtype) for v in self.variables]
        refuse_complex("the model has", list(zip(self.names, dtypes, strict=True)))
        self.arrays = [tf.identity(tf.convert_to_tensor(v)) for v in self.variables]
        self._wide: dict[str, tuple[Any, Any]] = {}

    def value(self, arrays: Arrays, wide: str) -> tuple[Any, str]:
        """See `Adapter`."""
        value = self._run(
            "value", arrays, wide, lambda model, batch, _: self._scalar(self.loss(model, batch))
        )
        return float(value), self.dtype_of(value)

    def gradient(self, arrays: Arrays, wide: str) -> Arrays:
        """See `Adapter`."""
        return list(self._run("gradient", arrays, wide, self._taken))

    def moved_gradient(self, arrays: Arrays, draw: int) -> Arrays:
        """See `Adapter`."""
        return list(self._graphs["gradient"](variables=self._known(arrays), draw=draw))

    def _trace(self, arrays: Arrays) -> None:
        variables = list(self.model.trainable_variables)
        self._graph("value", lambda: self._scalar(self.loss(self.model, self.batch)))
        self._graph("gradient", lambda: self._taken(self.model, self.batch, variables))

    def _taken(self, model: Any, batch: Any, variables: list[Any]) -> list[Any]:
        own = [getattr(v, "value", v) for v in variables]
        with tf.GradientTape() as tape:
            value = self._scalar(self.loss(model, batch))
        return _dense(tape.gradient(value, own), own)

    def _run(self, name: str, arrays: Arrays, wide: str, what: Callable[[Any, Any, list[Any]], Any]) -> Any:
        """Call what is given with the model at these arrays, in float64 where it is lifted."""
        if not self.lifted:
            return self._at(arrays, wide, what)
        return self._graphs[name](variables=self._known(arrays))

    def _known(self, arrays: Arrays) -> dict[int, Any]:
        """Return arrays by the handles of the variables that they stand for."""
        handles = [id(getattr(v, "value", v).handle) for v in self.model.trainable_variables]
        return dict(zip(handles, arrays, strict=True))

    def _at(self, arrays: Arrays, wide: str, what: Callable[[Any, Any, list[Any]], Any]) -> Any:
        model, batch = self._widened(wide) if wide else (self.model, self.batch)
        variables = list(model.trainable_variables)
        others = [(v, tf.identity(tf.convert_to_tensor(v))) for v in model.variables]
        try:
            for v, a in zip(variables, arrays, strict=True):
                v.assign(a)
            return what(model, batch, variables)
        finally:
            for v, old in others:
                v.assign(old)

    def _widened(self, dtype: str) -> tuple[Any, Any]:
        """Return a copy of the model in another dtype, and its batch."""
        import keras

        if dtype not in self._wide:

            def layer_of(layer: Any) -> Any:
                return layer.__class__.from_config({**layer.get_config(), "dtype": dtype})

            batch = mapped(lambda _, a: tf.cast(a, dtype) if _is_float(a) else a, self.batch)
            model = keras.models.clone_model(self.model, clone_function=layer_of)
            if not model.built:
                model.build(self.model.input_shape)
            for new, old in zip(model.variables, self.model.variables, strict=True):
                new.assign(tf.cast(tf.convert_to_tensor(old), new.dtype))
            self._wide[dtype] = (model, batch)
        return self._wide[dtype]


def _dense(gradients: list[Any], arrays: list[Any]) -> list[Any]:
    """Return gradients as tensors: whole where an embedding has slices, zero where there is none."""
    return [
        tf.zeros_like(a) if g is None else tf.convert_to_tensor(g)
        for g, a in zip(gradients, arrays, strict=True)
    ]


def _dtype(a: Any) -> str:
    dtype = getattr(a, "dtype", None)
    return "" if dtype is None else str(tf.as_dtype(dtype).name)


def _is_float(a: Any) -> bool:
    if isinstance(a, float):
        return True
    dtype = getattr(a, "dtype", None)
    return dtype is not None and bool(tf.as_dtype(dtype).is_floating)


def adapter_for(fun: Any, x: Any, gradient: Any, loss: Any) -> TensorflowAdapter | ModelAdapter:
    """Return the adapter of a function, or of a model."""
    if hasattr(fun, "trainable_variables") and not isinstance(fun, type):
        if gradient is not None:
            raise UsageError(
                "gradient is given for a model: its gradient is that of GradientTape; leave it out"
            )
        return ModelAdapter(fun, x, loss)
    if loss is not None:
        raise UsageError(
            "loss is given for a function: it belongs to a model, check_gradient(model, batch, loss=…)"
        )
    return TensorflowAdapter(fun, x, gradient)
