"""Checks of TensorFlow functions and Keras models; run with KERAS_BACKEND=tensorflow."""

from __future__ import annotations

import os
from typing import Any

import pytest

if os.environ.get("KERAS_BACKEND") != "tensorflow":
    pytest.skip("needs KERAS_BACKEND=tensorflow, in a process of its own", allow_module_level=True)
tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
import keras  # noqa: E402
import numpy as np  # noqa: E402

import downslope as ds  # noqa: E402
from downslope.errors import UsageError  # noqa: E402
from downslope.gradients.check.result import Reason, Verdict  # noqa: E402


def test_a_function_passes() -> None:
    report = ds.check_gradient(lambda x: tf.reduce_sum(tf.sin(x) ** 2), tf.constant([[0.1, 0.5], [1.0, 2.0]]))
    assert report.passed
    assert any("float64" in note for note in report.notes)


def test_a_custom_gradient_with_one_wrong_entry() -> None:
    @tf.custom_gradient
    def f(x: Any) -> Any:
        def back(g: Any) -> Any:
            return g * 2 * x * tf.constant([1, 1, 0.5, 1], x.dtype)

        return tf.reduce_sum(x**2), back

    report = ds.check_gradient(f, tf.constant([1.0, 2.0, 3.0, 4.0], tf.float64))
    assert [one.name for one in report.findings] == ["x[2]"]
    assert "a factor 2 is missing" in report.findings[0].hint


def test_complex_numbers_are_refused() -> None:
    nest = {"a": tf.ones(2, tf.complex64), "b": tf.ones(3)}
    with pytest.raises(UsageError, match=r"dtype complex64 \(a\): expected real"):
        ds.check_gradient(lambda p: tf.reduce_sum(p["b"] ** 2) + tf.reduce_sum(tf.abs(p["a"])), nest)
    with pytest.raises(UsageError, match="returned complex numbers"):
        ds.check_gradient(lambda x: tf.cast(x, tf.complex64), tf.ones(3))


def test_a_keras_model_is_checked_in_float64_and_left_as_it_was() -> None:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(7, "tanh"), keras.layers.Dense(1)])
    batch = (tf.random.normal((6, 5), seed=1), tf.random.normal((6, 1), seed=2))
    before = [v.numpy() for v in model.variables]

    def loss(model: Any, batch: Any) -> Any:
        return tf.reduce_mean((model(batch[0]) - batch[1]) ** 2)

    report = ds.check_gradient(model, batch, loss=loss)
    assert report.passed
    assert report.coverage is not None
    assert report.coverage.level == 0.01
    assert all(np.array_equal(v.numpy(), b) for v, b in zip(model.variables, before, strict=True))
    with pytest.raises(UsageError, match="loss is missing"):
        ds.check_gradient(model, batch)


def test_second_derivatives() -> None:
    assert ds.check_hvp(lambda x: tf.reduce_sum(x**3), tf.constant([1.0, 2.0], tf.float64)).passed


@tf.custom_gradient
def rounded(x: Any) -> Any:
    """Squares in bfloat16, forward and backward; the gradient of entry 2 is a tenth too large."""

    def back(g: Any) -> Any:
        tenth = tf.tensor_scatter_nd_update(tf.ones_like(g), [[2]], [tf.cast(1.1, g.dtype)])
        return tf.cast(2 * narrow(x), g.dtype) * g * tenth

    return tf.cast(narrow(x) ** 2, x.dtype), back


def narrow(x: Any) -> Any:
    return tf.cast(x, tf.bfloat16)


def test_casts_inside_are_taken_out_of_a_function_and_of_its_derivative_rule() -> None:
    x = tf.constant(np.random.default_rng(0).normal(size=4), tf.float32)

    def f(x: Any) -> Any:
        return narrow(30 + tf.reduce_sum(rounded(x)))

    report = ds.check_gradient(f, x)
    assert [one.index for one in report.findings] == [(2,)]
    assert "f casts to bfloat16: checked with all of it in float64" in report.notes
    unseen = ds.check_gradient(f, x, precision="own")
    assert unseen.verdict is Verdict.INCONCLUSIVE


HELD = tf.constant(np.random.default_rng(1).normal(size=(40, 4)), tf.bfloat16)
"""Large enough that TensorFlow does not write it into the graph."""
SINE = tf.function(lambda x: tf.reduce_sum(tf.sin(x)))
VARIABLE = tf.Variable([1.0, 2.0, 3.0, 4.0])
WRITTEN = tf.Variable([1.0, 2.0, 3.0, 4.0])


@tf.function
def writes(x: Any) -> Any:
    """Leaves the variable as it was, but on the way."""
    WRITTEN.assign_add([1.0, 1.0, 1.0, 1.0])
    total = tf.reduce_sum(tf.sin(narrow(x) + narrow(WRITTEN)))
    WRITTEN.assign_sub([1.0, 1.0, 1.0, 1.0])
    total += tf.reduce_sum(narrow(x) * narrow(WRITTEN) ** 2)
    return total


FUNCTIONS = {
    "held": lambda x: tf.reduce_sum(tf.tanh(tf.linalg.matvec(HELD, narrow(x)))),
    "variable": lambda x: tf.reduce_sum(tf.sin(narrow(x) + narrow(VARIABLE))),
    "writes": writes,
    "loop": lambda x: tf.reduce_sum(
        tf.while_loop(lambda i, c: i < 3, lambda i, c: (i + 1, tf.sin(c)), (0, narrow(x)))[1]
    ),
    "map": lambda x: tf.reduce_sum(tf.map_fn(lambda a: tf.sin(a) * a, narrow(x))),
    "cond": lambda x: tf.reduce_sum(tf.cond(x[0] > 0, lambda: tf.sin(narrow(x)), lambda: narrow(x) ** 2)),
    "case": lambda x: tf.reduce_sum(
        tf.switch_case(tf.constant(7), [lambda: narrow(x), lambda: tf.sin(narrow(x))])
    ),
    "call": lambda x: SINE(narrow(x)),
    "gather": lambda x: tf.reduce_sum(tf.sin(tf.gather(narrow(x), [0, 1, 1, 3]))),
    "sort": lambda x: tf.reduce_sum(tf.sort(narrow(x)) * tf.range(1, 5, dtype=tf.bfloat16)),
    "pieces": lambda x: tf.add_n([tf.reduce_sum(a**2) for a in tf.split(narrow(x), 2)]),
    "convolution": lambda x: tf.reduce_sum(
        tf.nn.conv1d(tf.reshape(narrow(x), (1, 4, 1)), tf.ones((2, 1, 1), tf.bfloat16), 1, "VALID") ** 2
    ),
    "drawn": lambda x: tf.reduce_sum(narrow(x) * narrow(3 + tf.random.stateless_normal([4], seed=[1, 2]))),
    "solve": lambda x: tf.reduce_sum(
        tf.linalg.solve(3 * tf.eye(4) + x[:, None] * x, tf.cast(narrow(x), tf.float32)[:, None])
    ),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_that_cast_are_checked_in_float64(name: str) -> None:
    """A right gradient passes, and one with a tenth too much in an entry does not."""
    x = tf.constant([0.9, -0.7, 1.1, 0.6])

    @tf.custom_gradient
    def planted(x: Any) -> Any:
        return x, lambda g: g * tf.constant([1, 1.1, 1, 1], g.dtype)

    report = ds.check_gradient(FUNCTIONS[name], x)
    assert report.passed
    assert any("casts to bfloat16" in note and "float64" in note for note in report.notes)
    wrong = ds.check_gradient(lambda x: FUNCTIONS[name](planted(x)), x)
    assert [one.index for one in wrong.findings] == [(1,)]


SMOOTH = {
    "erf": tf.math.erf,
    "keras gelu": keras.activations.gelu,
    "mish": keras.activations.mish,
    "log2": keras.ops.log2,
    "call": tf.function(lambda x: tf.math.erf(narrow(x))),
    "loop": lambda x: tf.while_loop(lambda i, c: i < 3, lambda i, c: (i + 1, tf.math.erf(c)), (0, x))[1],
}
"""Functions whose derivatives hold numbers that 16 bits round, as 2/√π."""


def tenth_more(f: Any, x: Any) -> tuple[int, Any]:
    """Return the entry of the largest derivative, and the gradient with a tenth too much in it."""

    def gradient(x: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = f(x)
        return tape.gradient(value, x)

    largest = int(tf.argmax(tf.abs(gradient(x))))
    factors = [1.1 if i == largest else 1.0 for i in range(x.shape[0])]
    return largest, lambda x: (g := gradient(x)) * tf.constant(factors, g.dtype)


@pytest.mark.parametrize("name", SMOOTH)
def test_numbers_in_derivatives_of_narrow_functions_are_those_of_float64(name: str) -> None:
    """A right gradient passes in as few evaluations as in float64, and a tenth in an entry is named."""
    generator = np.random.default_rng(sum(map(ord, name)))
    x = tf.constant(generator.uniform(0.1, 0.9, 6), tf.float32)
    dtype = tf.bfloat16 if name == "call" else (tf.bfloat16, tf.float16)[int(generator.integers(2))]

    def f(x: Any) -> Any:
        return tf.reduce_sum(tf.cast(SMOOTH[name](tf.cast(x, dtype)), tf.float32) * tf.range(1.0, 7.0))

    report = ds.check_gradient(f, x)
    assert report.passed
    assert report.evaluations < 80  # about 57, as of a function that casts nothing
    assert report.coverage is not None
    assert report.coverage.level == 0.01
    largest, gradient = tenth_more(f, x)
    wrong = ds.check_gradient(f, x, gradient=gradient)
    assert [one.index for one in wrong.findings] == [(largest,)]


@tf.custom_gradient
def kept(x: Any) -> Any:
    """Erf, with a number in its derivative rule that is bfloat16 for good."""
    number = tf.constant(2 / np.pi**0.5, tf.bfloat16)
    return tf.math.erf(x), lambda g: g * tf.cast(number, g.dtype) * tf.exp(-x * x)


def of_kept(x: Any) -> Any:
    return tf.reduce_sum(tf.cast(kept(narrow(x)), tf.float32))


def with_held(x: Any) -> Any:
    """Cannot be traced without its cast: a product takes no two dtypes."""
    return tf.reduce_sum(tf.cast(tf.math.erf(narrow(x)) * tf.ones(6, tf.bfloat16), tf.float32))


@pytest.mark.parametrize("f", [of_kept, with_held])
def test_what_the_rounding_of_a_number_makes_of_a_gradient_is_let_pass(f: Any) -> None:
    x = tf.constant(np.random.default_rng(0).normal(size=6), tf.float32)
    report = ds.check_gradient(f, x)
    assert report.passed
    assert "f holds numbers of 16 bits" in report.notes[-1]
    largest, gradient = tenth_more(f, x)
    wrong = ds.check_gradient(f, x, gradient=gradient)
    assert [one.index for one in wrong.findings] == [(largest,)]


def test_functions_and_settings_are_left_as_they_were() -> None:
    f = tf.function(lambda x: tf.reduce_sum(tf.cast(tf.math.erf(narrow(x)), x.dtype)))
    assert ds.check_gradient(f, tf.constant([0.7, 0.7])).passed
    assert not tf.config.functions_run_eagerly()
    assert float(f(tf.constant([0.7, 0.7], tf.float64))) == 2 * float(
        tf.math.erf(tf.constant(0.7, tf.bfloat16))
    )


def test_narrow_arrays_held_by_a_function_are_taken_in_float64() -> None:
    """A float64 point does not go with them; in bfloat16 the check would see no digit."""
    x = tf.cast([0.9, -0.7, 1.1, 0.6], tf.bfloat16)

    def f(x: Any) -> Any:
        return tf.reduce_sum(tf.tanh(tf.linalg.matvec(HELD, x)))

    with pytest.raises(tf.errors.InvalidArgumentError):
        f(tf.cast(x, tf.float64))
    report = ds.check_gradient(f, x)
    assert report.passed
    assert report.coverage is not None
    assert report.coverage.level == 0.01
    assert "f holds tensors of bfloat16: checked with all of it in float64" in report.notes


def test_gradients_that_leave_an_array_out_and_products_are_lifted_too() -> None:
    x = {"a": tf.constant([0.3, -0.7]), "b": tf.constant([1.0, 2.0])}
    report = ds.check_gradient(lambda x: tf.reduce_sum(narrow(x["a"]) ** 2), x)
    assert report.passed
    assert any("float64" in note for note in report.notes)
    assert ds.check_hvp(lambda x: tf.reduce_sum(narrow(x) ** 3), tf.constant([1.0, 2.0])).passed


def test_what_looks_at_bits_or_calls_python_is_checked_as_it_is() -> None:
    def bits(x: Any) -> Any:
        near = tf.cast(x, tf.float32)
        return tf.reduce_sum(near**2) + 0 * tf.reduce_sum(tf.cast(tf.bitcast(near, tf.int32), tf.float32))

    def called(x: Any) -> Any:
        near = tf.cast(x, tf.float32)
        return tf.reduce_sum(near**2) + 0 * tf.reduce_sum(tf.numpy_function(np.sign, [near], tf.float32))

    for f in (bits, called):
        report = ds.check_gradient(f, tf.constant([0.5, 1.0, 2.0], tf.float64))
        assert report.verdict is not Verdict.FAIL
        assert not any("all of it" in note for note in report.notes)


@keras.saving.register_keras_serializable()
class Squares(keras.layers.Layer):  # type: ignore[misc]
    """Squares by a derivative rule of its own, wrong in an entry, and counts its calls."""

    def build(self, shape: Any) -> None:
        self.calls = self.add_weight(shape=(), trainable=False, initializer="zeros", name="calls")

    def call(self, x: Any) -> Any:
        self.calls.assign_add(1.0)
        shift = 0.01 * tf.cast(self.calls - tf.stop_gradient(self.calls), x.dtype)
        return tf.map_fn(rounded, x) + shift


@pytest.mark.parametrize("wrong", [False, True])
def test_a_model_in_mixed_precision_is_checked_in_float64_and_left_as_it_was(wrong: bool) -> None:
    keras.utils.set_random_seed(0)
    mixed = {"dtype": "mixed_bfloat16"}
    layers = [keras.layers.Dense(4, "gelu", **mixed), *([Squares(**mixed)] if wrong else [])]
    model = keras.Sequential([keras.Input((5,)), *layers, keras.layers.BatchNormalization(**mixed)])
    batch = (tf.random.normal((6, 5), seed=1), tf.random.normal((6, 4), seed=2))

    def loss(model: Any, batch: Any) -> Any:
        return tf.reduce_mean((tf.cast(model(batch[0], training=True), tf.float32) - batch[1]) ** 2)

    model(batch[0])
    before = [v.numpy() for v in model.variables]
    report = ds.check_gradient(model, batch, loss=loss)
    assert any("casts to bfloat16" in note and "float64" in note for note in report.notes)
    assert report.passed is not wrong
    if wrong:  # the weights of the third unit
        assert {one.index[-1] for one in report.findings} == {2}
    assert all(np.array_equal(v.numpy(), b) for v, b in zip(model.variables, before, strict=True))


@pytest.mark.parametrize("number", [3, 2.5, True, np.int64(3), np.float32(0.5)], ids=type)
def test_a_plain_number_is_a_constant(number: Any) -> None:
    report = ds.check_gradient(lambda x: number, tf.linspace(-1.0, 1.0, 4))
    assert (report.verdict, report.coverage.zeros) == (Verdict.PASS, 4)
    assert any("counts as zero" in note for note in report.notes)
    assert ds.check_hvp(lambda x: number, tf.linspace(-1.0, 1.0, 4)).verdict is Verdict.PASS
    hinge = ds.check_gradient(
        lambda x: max(0, tf.reduce_sum(x) - 9), tf.linspace(-1.0, 1.0, 4)
    )  # 0 is Python's here
    assert hinge.verdict is Verdict.PASS


@pytest.mark.parametrize(
    "returned", [None, "3", (3, 4), tf.constant(3)], ids=["none", "text", "numbers", "whole"]
)
def test_what_is_no_number_is_refused(returned: Any) -> None:
    with pytest.raises(UsageError, match=r"the function returned an? .*: expected"):
        ds.check_gradient(lambda x: returned, tf.linspace(-1.0, 1.0, 4))


def test_a_surrogate_gradient_of_steps_is_called_one() -> None:
    @tf.custom_gradient
    def spike(x: Any) -> Any:
        return tf.cast(x > 0, x.dtype), lambda g: g / (1 + tf.abs(x)) ** 2

    x = tf.random.stateless_normal((6, 5), (1, 2), dtype=tf.float64)
    report = ds.check_gradient(lambda x: tf.reduce_sum((spike(x) - 0.3) ** 2 * 0.7), x)
    assert (report.verdict, report.reason) == (Verdict.INCONCLUSIVE, Reason.JUMP)
    assert "The gradient is a surrogate" in report.reasons[0]
