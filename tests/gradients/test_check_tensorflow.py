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
