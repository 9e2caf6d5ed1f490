"""Equal to `keras.optimizers` where both define the same rule; how far apart where they do not.

Keras's Adam adds epsilon to the uncorrected root, so that with t steps behind it the same epsilon
counts 1/sqrt(1 - beta2**t) times as much; Keras's defaults differ besides. `docs/frameworks_keras.md`
tells the sizes that are measured here.
"""

import keras
import numpy as np
import pytest

import downslope.keras as dk
from downslope.grouping.partition import Assignment, Partition, Role
from downslope.grouping.view import MatrixView
from tests.keras.drive import BACKEND, tensors, values, variables
from tests.parity.cases import BY_NAME, assert_ulp, gradients, scale_of, start

native = keras.optimizers

# (this library's, Keras's, ulp allowed). Both run in float64, so the bounds are of rounding alone.
# Keras folds the bias corrections into the learning rate and forms 1 - beta**t by subtraction (ten of 53
# bits lost at t = 1), and steps decay before the rule: 1e-12 relative, not 8 ulp.
LOOSE = 4096
# On TensorFlow, Keras rounds its hyper-parameters to float32 also where all else is float64: a relative
# 6e-8, which in 1 - 0.999 is 5e-5, and 9e-6 of the parameters after 25 steps of Adam.
ROUNDED = 1e11
SAME = {
    "sgd": (dk.SGD(learning_rate=0.1), native.SGD(learning_rate=0.1), 8),
    "sgd momentum": (
        dk.SGD(learning_rate=0.1, momentum=0.9),
        native.SGD(learning_rate=0.1, momentum=0.9),
        16,
    ),
    "sgd nesterov": (
        dk.SGD(learning_rate=0.1, momentum=0.9, nesterov=True),
        native.SGD(learning_rate=0.1, momentum=0.9, nesterov=True),
        16,
    ),
    "sgd decay": (
        dk.SGD(learning_rate=0.1, weight_decay=0.1),
        native.SGD(learning_rate=0.1, weight_decay=0.1),
        16,
    ),
    "adam, no epsilon": (
        dk.Adam(learning_rate=0.1, eps=0.0),
        native.Adam(learning_rate=0.1, epsilon=0.0),
        LOOSE,
    ),
    "adamw, no epsilon": (
        dk.AdamW(learning_rate=0.1, eps=0.0, weight_decay=0.1),
        native.AdamW(learning_rate=0.1, epsilon=0.0, weight_decay=0.1),
        LOOSE,
    ),
    "adam amsgrad, no epsilon": (
        dk.Adam(learning_rate=0.1, eps=0.0, betas=(0.9, 0.9), amsgrad=True),
        native.Adam(learning_rate=0.1, epsilon=0.0, beta_2=0.9, amsgrad=True),
        LOOSE,
    ),
    "rmsprop, epsilon inside": (
        dk.RMSProp(learning_rate=0.1, alpha=0.9, eps=1e-7, eps_inside_root=True),
        native.RMSprop(learning_rate=0.1, rho=0.9, epsilon=1e-7),
        16,
    ),
    "rmsprop centered": (
        dk.RMSProp(learning_rate=0.1, alpha=0.9, eps=1e-7, eps_inside_root=True, centered=True),
        native.RMSprop(learning_rate=0.1, rho=0.9, epsilon=1e-7, centered=True),
        64,
    ),
    "adagrad, no epsilon": (
        dk.AdaGrad(learning_rate=0.1, eps=0.0, initial_accumulator_value=0.1),
        native.Adagrad(learning_rate=0.1, epsilon=0.0, initial_accumulator_value=0.1),
        16,
    ),
}

# Documented differences: the largest distance after 25 steps of 0.1, between two powers of ten.
APART = {
    "adam, epsilon 1e-7 in both": (
        dk.Adam(learning_rate=0.1, eps=1e-7),
        native.Adam(learning_rate=0.1, epsilon=1e-7),
        (1e-7, 1e-2),
    ),
    "rmsprop, epsilon outside": (
        dk.RMSProp(learning_rate=0.1, alpha=0.9, eps=1e-7),
        native.RMSprop(learning_rate=0.1, rho=0.9, epsilon=1e-7),
        (1e-6, 1.0),
    ),
    "adagrad, epsilon 1e-7 in both": (
        dk.AdaGrad(learning_rate=0.1, eps=1e-7, initial_accumulator_value=0.1),
        native.Adagrad(learning_rate=0.1, epsilon=1e-7, initial_accumulator_value=0.1),
        (1e-9, 1e-5),
    ),
}


def ends(optimizer, shapes="adam", arrays=None):
    """Return the parameters after each of 25 steps in float64, of a copy made where floatx is float64."""
    optimizer = type(optimizer).from_config(optimizer.get_config())
    case = BY_NAME[shapes]
    begin = {
        k: v for k, v in start(case).items() if k != "table"
    }  # whose zero gradient is 0/0 without epsilon
    params = variables(begin, "float64")
    optimizer.build(params)
    run = []
    for g in gradients(case):
        optimizer.apply(tensors({k: g[k] for k in begin}, "float64"), params)
        run.append(values(params))
    return run


def exact(optimizer, lr=0.1):
    """Undo the rounding of the learning rate to float32, which happened where the table was made."""
    config = {**optimizer.get_config(), "learning_rate": lr}
    return type(optimizer).from_config(config)


@pytest.mark.parametrize("name", SAME)
def test_the_same_rule_takes_the_same_steps(name):
    keras.config.set_floatx("float64")
    ours, theirs, ulps = SAME[name]
    mine, other = ends(exact(ours)), ends(exact(theirs))
    for key in mine[0]:
        scale = scale_of(mine, key)
        for a, b in zip(mine, other, strict=True):
            allowed = ROUNDED if BACKEND == "tensorflow" else ulps
            assert_ulp(a[key], b[key], allowed, scale, what=f"{name}: {key}")


@pytest.mark.parametrize("name", APART)
def test_a_documented_difference_has_its_size(name):
    keras.config.set_floatx("float64")
    ours, theirs, (low, high) = APART[name]
    mine, other = ends(exact(ours)), ends(exact(theirs))
    distance = max(np.abs(mine[-1][k] - other[-1][k]).max() for k in mine[-1])
    print(f"{name}: {distance:.1e}")
    assert low <= distance <= high


def test_muon_differs_from_keras_own_by_coefficients_and_fan_in():
    """With Keras's coefficients and momentum the two agree in direction; defaults are 10 % apart."""
    keras.config.set_floatx("float64")
    rng = np.random.default_rng(0)
    p, g = rng.standard_normal((6, 10)), rng.standard_normal((6, 10))
    partition = Partition([Assignment("w", (6, 10), Role.HIDDEN, "muon", MatrixView((1,), (0,)), "")])

    def moved(optimizer):
        w = keras.Variable(p, dtype="float64", name="w")
        optimizer.apply([keras.ops.convert_to_tensor(g)], [w])
        return keras.ops.convert_to_numpy(w.value) - p

    theirs = moved(native.Muon(learning_rate=0.1, weight_decay=None, adam_weight_decay=None, nesterov=True))
    like = {"learning_rate": 0.1, "weight_decay": 0.0, "ns_dtype": "float64"}
    same = moved(dk.Muon(partition, coefficients="keller5", **like))
    default = moved(dk.Muon(partition, **like))
    size = np.linalg.norm(theirs)
    # Keras adds 1e-7 to the norm before dividing by it; the polynomials make of that 1e-8 to 1e-7.
    assert np.linalg.norm(same - theirs) / size < 1e-6
    print(f"muon defaults: {np.linalg.norm(default - theirs) / size:.1e}")
    assert 1e-2 < np.linalg.norm(default - theirs) / size < 0.5


def test_backends_are_what_the_process_was_started_for():
    import os

    assert os.environ["KERAS_BACKEND"] == BACKEND
