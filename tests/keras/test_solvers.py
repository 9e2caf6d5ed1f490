"""minimize on TensorFlow: the steps of NumPy, alone and in lock step."""

import numpy as np
import pytest

from tests.keras.drive import BACKEND

if BACKEND != "tensorflow":
    pytest.skip("plain TensorFlow needs the TensorFlow backend", allow_module_level=True)

import keras
import tensorflow as tf

import downslope as ds
from downslope.errors import UsageError
from tests.solvers.functions import rosenbrock as f_numpy
from tests.solvers.functions import rosenbrock_gradient, start, starts


def rosenbrock(x):
    return tf.reduce_sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


@pytest.mark.parametrize("method", ["l-bfgs", "bfgs", "cg", "nesterov", "adam"])
def test_steps_are_those_of_numpy(method):
    # 25 steps: before differences in the order of sums, of some 1e-16, are blown up by the search.
    stop = ds.Stop(steps=25, gradient=1e-12)
    mine = ds.minimize(rosenbrock, tf.constant(start(6)), method, stop=stop)
    peer = ds.minimize(f_numpy, start(6), method, gradient=rosenbrock_gradient, stop=stop)
    assert (mine.evaluations, mine.steps) == (peer.evaluations, peer.steps)
    np.testing.assert_allclose(mine.x.numpy(), peer.x, rtol=1e-6)


@pytest.mark.parametrize("bounds", [None, (-2.0, 0.5)], ids=["free", "bounded"])
def test_lanes_are_the_single_problems(bounds):
    x0 = starts(2, 4)
    every = ds.minimize(rosenbrock, tf.constant(x0), batch=True, bounds=bounds)
    assert every.success.all()
    for lane in range(2):
        one = ds.minimize(rosenbrock, tf.constant(x0[lane]), bounds=bounds)
        assert one.success
        np.testing.assert_allclose(every.x[lane], one.x, atol=2e-3)


def test_variables_of_keras_are_a_point_and_symbols_are_none():
    found = ds.minimize(lambda x: tf.reduce_sum((x - 1) ** 2), keras.Variable(np.zeros(3)))
    assert found.success
    np.testing.assert_allclose(found.x, np.ones(3), atol=1e-6)  # a quadratic, in float32
    inside = tf.function(lambda x: ds.minimize(rosenbrock, x).x, autograph=False)
    with pytest.raises(UsageError, match=r"x0 is symbolic: .* outside of tf\.function"):
        inside(tf.constant(start(6)))
