"""What must be so whatever the numbers: layouts, compiled graphs, purity, precision."""

import itertools

import keras
import numpy as np
import pytest
from keras import layers

import downslope as ds
from downslope.grouping.partition import Assignment, Partition, Role
from downslope.grouping.view import MatrixView
from downslope.keras import SGD, Adam, AdamW, Muon, RMSProp
from downslope.ops.numpy import NumpyOps
from tests.keras.drive import BACKEND, MODES, optimizer_of, run, stepper, tensors, values, variables
from tests.parity.cases import BY_NAME, assert_run, gradients, start

COMPILED = [mode for mode in MODES if mode != "eager"]

KERNELS = {  # how Keras lays a kernel out, and as which (count, fan_out, fan_in) it is to be stepped
    "dense": ((6, 4), MatrixView((1,), (0,)), [(1, 4, 6)]),
    "conv": ((3, 3, 2, 5), MatrixView((3,), (0, 1, 2)), [(1, 5, 18)]),
    "grouped": ((3, 2, 6), MatrixView((2,), (0, 1), blocks=(2, 2, 2)), [(3, 2, 6)]),
    "heads": ((6, 2, 4), MatrixView((1, 2), (0,)), [(1, 8, 6)]),
    "merged heads": ((2, 4, 6), MatrixView((2,), (0, 1)), [(1, 6, 8)]),
    "gates": ((4, 12), MatrixView((1,), (0,), blocks=(4, 4, 4)), [(3, 4, 4)]),
    "experts": ((3, 4, 5), MatrixView((2,), (1,), batch=(0,)), [(3, 5, 4)]),
}


@pytest.mark.parametrize("mode", COMPILED[-1:] or ["eager"])
def test_kernels_are_stepped_as_the_matrices_they_are(mode):
    """All layouts in one optimizer, each against NumPy's Muon on its matrices cut out by hand."""
    keras.config.set_floatx("float64")
    rng = np.random.default_rng(0)
    p = {name: rng.standard_normal(shape) for name, (shape, _, _) in KERNELS.items()}
    g = {name: rng.standard_normal(shape) for name, (shape, _, _) in KERNELS.items()}
    rows = [
        Assignment(name, shape, Role.HIDDEN, "muon", view, "") for name, (shape, view, _) in KERNELS.items()
    ]
    for name, (shape, view, matrices) in KERNELS.items():
        assert view.matrices(shape) == matrices, name
    params = variables(p, "float64")
    optimizer = Muon(Partition(rows), learning_rate=0.5, weight_decay=0.0, ns_dtype="float64")
    optimizer.build(params)
    stepper(optimizer, params, mode)(tensors(g, "float64"))
    for name, (shape, view, _) in KERNELS.items():
        x, rule = NumpyOps(), ds.Muon()
        directions = [
            rule.direction(x, stack, rule.init(x, stack), stack, 1)[0] for stack in view.split(x, g[name])
        ]
        expected = p[name] - 0.5 * view.join(x, directions, shape)
        # as the 128 ulp of Muon in deviations/keras.txt
        np.testing.assert_allclose(values(params)[name], expected, rtol=0, atol=128 * 2.0**-52 * 4)


def test_a_transposed_kernel_takes_the_transposed_step():
    """Scale "spectral" tells fan_out from fan_in, so a wrong view would show."""
    keras.config.set_floatx("float64")
    rng = np.random.default_rng(0)
    p, g = rng.standard_normal((4, 9)), rng.standard_normal((4, 9))
    moved = []
    for array, view, grad in ((p, MatrixView((0,), (1,)), g), (p.T, MatrixView((1,), (0,)), g.T)):
        partition = Partition([Assignment("w", array.shape, Role.HIDDEN, "muon", view, "")])
        w = keras.Variable(array, dtype="float64", name="w")
        Muon(partition, scale="spectral", ns_dtype="float64").apply([keras.ops.convert_to_tensor(grad)], [w])
        moved.append(keras.ops.convert_to_numpy(w.value) - array)
    np.testing.assert_allclose(moved[0], moved[1].T, rtol=0, atol=1e-15)
    assert np.abs(moved[0]).max() > 1e-5


def test_equal_matrices_make_one_stack(monkeypatch):
    """Three 8 × 8 kernels of a model are orthogonalised in one call, and nothing else is."""
    if BACKEND == "torch":
        pytest.skip("the PyTorch backend gathers stacks in downslope.torch, which has its own test")
    if BACKEND == "jax":
        from downslope.native import jax as polar
    else:
        from downslope.keras import polar

    shapes = []
    original = polar.orthogonalize

    def counting(x, u, **kwargs):
        shapes.append(tuple(u.shape))
        return original(x, u, **kwargs)

    monkeypatch.setattr(polar, "orthogonalize", counting)
    model = keras.Sequential([keras.Input((8,)), *(layers.Dense(8) for _ in range(5))])
    optimizer = Muon(fused=False)
    optimizer.build(model.trainable_variables)
    optimizer.apply([keras.ops.ones(v.shape) for v in model.trainable_variables])
    assert shapes == [(3, 8, 8)]


def test_momentum_zero_is_plain_descent():
    assert same(SGD(learning_rate=0.1, momentum=0.0), SGD(learning_rate=0.1))
    assert not same(SGD(learning_rate=0.1, momentum=0.9), SGD(learning_rate=0.1))


def test_adam_without_momentum_and_correction_is_rmsprop():
    adam = Adam(learning_rate=0.1, betas=(0.0, 0.9), bias_correction=False)
    assert same(adam, RMSProp(learning_rate=0.1, alpha=0.9))
    assert not same(Adam(learning_rate=0.1, betas=(0.0, 0.9)), RMSProp(learning_rate=0.1, alpha=0.9))


def same(one, two):
    keras.config.set_floatx("float64")
    ends = []
    for optimizer in (one, two):
        params = variables(start(BY_NAME["adam"]), "float64")
        for g in gradients(BY_NAME["adam"])[:5]:
            optimizer.apply(tensors(g, "float64"), params)
        ends.append(values(params))
    return all(np.allclose(ends[0][k], ends[1][k], rtol=1e-6, atol=1e-9) for k in ends[0])


@pytest.mark.parametrize("mode", COMPILED)
@pytest.mark.parametrize("name", ["adam", "muon"])
def test_there_is_one_graph_and_none_on_step_two(name, mode):
    case = BY_NAME[name]
    optimizer, params = optimizer_of(case), variables(start(case), "float32")
    optimizer.build(params)
    step = stepper(optimizer, params, mode)
    for g in gradients(case)[:4]:
        step(tensors(g, "float32"))
    optimizer.learning_rate = 0.01  # a variable: no reason to trace again
    step(tensors(g, "float32"))
    assert len(step.traces) == 1


@pytest.mark.parametrize("name", ["sgd-nesterov", "adam-amsgrad", "rmsprop-everything", "muon"])
def test_gradients_and_given_states_stay_as_they_were(name):
    case = BY_NAME[name]
    optimizer, params = optimizer_of(case), variables(start(case), "float32")
    optimizer.build(params)
    grads = tensors(gradients(case)[0], "float32")
    before = [np.array(keras.ops.convert_to_numpy(g)) for g in grads]
    optimizer.apply(grads, params)
    for g, b in zip(grads, before, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(g), b)
    if BACKEND == "tensorflow":
        return  # Keras has no stateless_apply there
    given = [keras.ops.copy(v.value) for v in optimizer.variables]
    weights = [keras.ops.copy(p.value) for p in params]
    before = [np.array(keras.ops.convert_to_numpy(v)) for v in [*given, *weights]]
    new, _ = optimizer.stateless_apply(given, grads, weights)
    for v, b in zip([*given, *weights], before, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(v), b)
    assert any(
        (np.array(keras.ops.convert_to_numpy(a)) != b).any()
        for a, b in zip(new, before[-len(new) :], strict=True)
    )


# float32: 25 steps of rounding each, and sums in another order (Muon: multiplied as in float64).
# bfloat16: states and steps are computed in float32, and each step is rounded to bfloat16 once: at
# most half an ulp a step, of the largest value, in 25 steps.
BOUNDS = {("float32", True): 32, ("float32", False): 512, ("bfloat16", True): 13, ("bfloat16", False): 13}


@pytest.mark.parametrize("name", ["sgd-nesterov", "adagrad", "rmsprop", "adam-decay", "muon-decay"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_lower_precision_stays_within_its_rounding(name, dtype):
    case = BY_NAME[name]
    mode = MODES[1] if BACKEND == "jax" and name.startswith("muon") else "eager"
    assert_run(case, run(case, mode, dtype), BOUNDS[dtype, case.rule.elementwise], dtype)


def test_decay_is_larger_than_any_tolerance_here():
    """Else the parity of decay would show nothing."""
    for name in ("sgd", "adam", "muon"):
        plain, decayed = (run(BY_NAME[n], "eager")[-1] for n in (name, f"{name}-decay"))
        assert all(np.abs(plain[k] - decayed[k]).max() > 1e-3 for k in plain)


def test_weight_decay_is_applied_once_and_decoupled():
    p = keras.Variable([2.0], name="p")
    AdamW(learning_rate=0.5, weight_decay=0.1).apply([keras.ops.zeros((1,))], [p])
    assert float(keras.ops.convert_to_numpy(p.value)[0]) == pytest.approx(2.0 * (1 - 0.05), rel=1e-6)


def test_every_rule_is_registered_under_its_own_name():
    kinds = [SGD, Adam, AdamW, RMSProp, Muon]
    names = [keras.saving.get_registered_name(kind) for kind in kinds]
    assert names == [f"downslope>{kind.__name__}" for kind in kinds]
    assert len(set(itertools.chain(names))) == len(kinds)


@pytest.mark.skipif(BACKEND != "torch", reason="elsewhere the step is part of what the framework compiles")
def test_on_pytorch_muon_is_stepped_by_what_is_compiled_for_the_cpu(monkeypatch):
    import torch

    from downslope.torch.native import polar, steps

    if why := polar.reason(torch.float32):
        pytest.skip(why)
    g = np.random.default_rng(0).standard_normal((24, 40)).astype("float32")
    taken = []
    monkeypatch.setattr(steps, "take", lambda rule, items, *rest: taken.append(len(items)))
    view = MatrixView((1,), (0,))
    optimizer = Muon(Partition([Assignment("p", g.shape, Role.HIDDEN, "muon", view, "")]), ns_dtype="float32")
    params = variables({"p": g}, "float32")
    optimizer.build(params)
    optimizer.apply(tensors({"p": g}, "float32"))
    assert taken == [1]
