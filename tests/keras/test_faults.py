"""Bad input gets one clear error, and nothing has changed."""

import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
from keras import layers

from downslope.grouping.view import MatrixView
from downslope.keras import SGD, Adam, AdamW, Muon, RMSProp, partition
from tests.keras.drive import BACKEND, MODES, stepper

schedules = keras.optimizers.schedules


def net(first="first", width=8):
    return keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(width, "tanh", name=first),
            layers.Dense(width, "tanh", name="second"),
            layers.Dense(2, name="head"),
        ]
    )


def stepped(optimizer, model=None, steps=2):
    model = model or net()
    optimizer.build(model.trainable_variables)
    for i in range(steps):
        rng = np.random.default_rng(i)
        grads = [
            keras.ops.convert_to_tensor(rng.standard_normal(v.shape).astype("float32"))
            for v in model.trainable_variables
        ]
        optimizer.apply(grads, model.trainable_variables)
    return optimizer


def state(optimizer):
    return [np.array(keras.ops.convert_to_numpy(v.value)) for v in optimizer.variables]


def assert_unchanged(optimizer, before):
    for a, b in zip(state(optimizer), before, strict=True):
        np.testing.assert_array_equal(a, b)


def stored(optimizer):
    store = {}
    optimizer.save_own_variables(store)
    return store


def refuses(optimizer, store, match):
    before = state(optimizer)
    with pytest.raises(ValueError, match=match):
        optimizer.load_own_variables(store)
    assert_unchanged(optimizer, before)


def test_a_state_is_loaded_where_it_belongs():
    optimizer = stepped(Muon(learning_rate=0.1))
    other = stepped(Muon(learning_rate=0.1), steps=1)
    other.load_own_variables(stored(optimizer))
    assert_unchanged(other, state(optimizer))


def test_state_of_a_renamed_variable_is_refused():
    refuses(
        stepped(AdamW(), net("renamed"), 1),
        stored(stepped(AdamW())),
        "names '.*first/kernel' where .*renamed/kernel'",
    )


def test_state_of_another_rule_is_refused():
    refuses(stepped(RMSProp(), steps=1), stored(stepped(Adam())), "made by Adam, this optimizer is RMSProp")


def test_state_of_the_same_rule_with_other_parts_is_refused():
    refuses(stepped(Adam(amsgrad=True), steps=1), stored(stepped(Adam())), "state of .* is .*max_exp_avg_sq")


def test_state_of_another_partition_is_refused():
    one, two = stepped(Muon()), stepped(Muon(overrides={"*second/kernel": "adamw"}), steps=1)
    refuses(two, stored(one), "rule of .*second/kernel is Adam, in the saved state Muon")


def test_state_of_other_shapes_is_refused():
    refuses(stepped(SGD(momentum=0.5), net(width=6), 1), stored(stepped(SGD(momentum=0.5))), "shape of")


def test_state_of_keras_own_optimizer_is_refused():
    native = keras.optimizers.Adam()
    native.build(net().trainable_variables)
    refuses(stepped(Adam(), steps=1), stored(native), "is not one of downslope.keras.Adam")


def test_state_with_averages_is_refused_without():
    refuses(stepped(SGD(), steps=1), stored(stepped(SGD(use_ema=True))), "averaged weights")


def test_loading_a_model_whose_layer_was_renamed_says_so(tmp_path):
    model = net()
    model.compile(SGD(momentum=0.9), loss="mse")
    model.train_on_batch(np.zeros((2, 4)), np.zeros((2, 2)))
    model.save_weights(tmp_path / "w.weights.h5")
    other = net("renamed")
    other.compile(SGD(momentum=0.9), loss="mse")
    other.optimizer.build(other.trainable_variables)
    with pytest.raises(ValueError, match="was a layer renamed or moved"):
        other.load_weights(tmp_path / "w.weights.h5")


def test_a_variable_that_is_not_floating_is_refused():
    whole, p = (
        keras.Variable([1, 2], dtype="int32", name="counts", trainable=False),
        keras.Variable([1.0], name="p"),
    )
    optimizer = Adam()
    before = len(optimizer.variables)
    with pytest.raises(TypeError, match="counts has dtype int32: expected a real floating dtype"):
        optimizer.build([p, whole])
    assert not optimizer.built
    assert len(optimizer.variables) == before


class Broken(schedules.LearningRateSchedule):
    """Not a number from some step on."""

    def __init__(self, start):
        self.start = start

    def __call__(self, step):
        step = keras.ops.cast(step, "float32")
        return keras.ops.where(step >= self.start, np.float32("nan"), np.float32(0.1))


def test_a_schedule_that_returns_nan_is_refused_before_training():
    with pytest.raises(ValueError, match="learning_rate at step 100 = nan"):
        SGD(learning_rate=Broken(50))
    with pytest.raises(ValueError, match="learning_rate at step"):
        SGD(learning_rate=schedules.CosineDecay(float("inf"), 10))


def run_into(optimizer, bad, mode):
    """Take a good step, then `bad`; return what there was before and after, and the error."""
    p, q = keras.Variable(np.ones((3, 4)), name="p"), keras.Variable(np.ones((4,)), name="q")
    optimizer.build([p, q])
    step = stepper(optimizer, [p, q], mode)
    ones = [keras.ops.ones((3, 4)), keras.ops.ones((4,))]
    step(ones)
    values = [p, q, *optimizer.variables]
    before = [np.array(keras.ops.convert_to_numpy(v.value)) for v in values]
    error = None
    try:
        step(bad or ones)
    except Exception as e:
        error = str(e)
    after = [np.array(keras.ops.convert_to_numpy(v.value)) for v in values]
    return values, before, after, error


@pytest.mark.parametrize("mode", MODES)
def test_a_schedule_that_turns_nan_later_changes_nothing(mode):
    late = SGD(learning_rate=Late())
    values, before, after, error = run_into(late, None, mode)
    if mode in RAISING:
        assert "NaN or infinity in the learning rate" in error
    else:
        with pytest.raises(ValueError, match="1 steps met NaN or infinity"):
            late.finalize_variable_values(values[:2])
    np.testing.assert_array_equal(before[0], after[0])
    np.testing.assert_array_equal(before[1], after[1])


@pytest.mark.parametrize("mode", MODES)
def test_a_callable_rate_below_zero_changes_nothing(mode):
    """A step against the descent would climb."""
    rate = keras.Variable(0.1, trainable=False, name="rate")
    optimizer = SGD(learning_rate=lambda: rate * 1.0)
    rate.assign(-0.1)
    p = keras.Variable(np.ones((3, 4)), name="p")
    optimizer.build([p])
    step = stepper(optimizer, [p], mode)
    if mode in RAISING:
        with pytest.raises(Exception, match=r"the learning rate \(or it is below 0\)"):
            step([keras.ops.ones((3, 4))])
    else:
        step([keras.ops.ones((3, 4))])
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(p.value), np.ones((3, 4)))


class Late(schedules.LearningRateSchedule):
    """Not a number at step 1 once it has been probed there."""

    def __init__(self):
        self.probed = set()

    def __call__(self, step):
        if isinstance(step, int):
            return keras.ops.convert_to_tensor(0.1)
        return keras.ops.where(keras.ops.cast(step, "int32") == 1, np.float32("nan"), np.float32(0.1))


RAISING = ("eager", "function")
BAD = [np.ones((3, 4), "float32"), np.array([1, np.nan, 1, 1], "float32")]


@pytest.mark.parametrize("mode", MODES)
def test_a_gradient_that_is_not_finite_raises_and_changes_nothing(mode):
    optimizer = Adam(learning_rate=0.1, on_nonfinite="raise")
    bad = [keras.ops.convert_to_tensor(b) for b in BAD]
    values, before, after, error = run_into(optimizer, bad, mode)
    if mode in RAISING:
        assert "NaN or infinity in the gradient of q: nothing was changed" in error
    else:  # XLA can raise nothing: the step is left out, counted, and fit's end raises
        assert optimizer.skipped_steps == 1
        with pytest.raises(ValueError, match="1 steps met NaN or infinity"):
            optimizer.finalize_variable_values(values[:2])
    counters = ("iteration", "skipped_steps")
    for v, a, b in zip(values, before, after, strict=True):
        if v.name not in counters:
            np.testing.assert_array_equal(a, b, err_msg=v.name)


@pytest.mark.parametrize("mode", MODES)
def test_a_step_can_be_left_out_instead(mode):
    optimizer = Adam(learning_rate=0.1, on_nonfinite="skip")
    _, before, after, error = run_into(optimizer, [keras.ops.convert_to_tensor(b) for b in BAD], mode)
    assert error is None
    assert optimizer.skipped_steps == 1
    np.testing.assert_array_equal(before[0], after[0])
    assert int(keras.ops.convert_to_numpy(optimizer._t())) == 2  # the next step is the second that counts


def test_muon_needs_to_know_what_a_variable_is_for():
    loose = keras.Variable(np.ones((4, 4)), name="loose")
    optimizer = Muon()
    with pytest.raises(ValueError, match="no Keras model owns loose"):
        optimizer.build([loose])
    assert not optimizer.built


def test_a_layer_that_an_error_left_half_made_is_passed_over():
    class Half(keras.layers.Layer):
        def __init__(self):
            kept.append(self)
            raise RuntimeError

    kept = []
    with pytest.raises(RuntimeError):
        Half()
    with pytest.raises((AttributeError, RuntimeError)):
        _ = kept[0].trainable_variables
    optimizer = Muon()
    optimizer.build(net().trainable_variables)
    assert "hidden" in [a.role.value for a in optimizer.partition]


def test_a_partition_of_another_model_is_refused():
    wide = partition(net(width=6))
    with pytest.raises(ValueError, match="has shape"):
        Muon(wide).build(net().trainable_variables)
    with pytest.raises(ValueError, match="is not in the partition"):
        Muon(wide).build([keras.Variable(np.ones((4, 4)), name="loose")])


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Muon(1e-3), "learning rate is passed by name"),
        (lambda: Muon(ns_dtype="int8"), "ns_dtype = 'int8'"),
        (lambda: Muon(by_role={"hidden": {"lr": 1}}), "by_role"),
        (lambda: Muon(by_role={"hidden": 0.5}), r"by_role\['hidden'\] = 0.5: expected a dict"),
        (lambda: Adam(learning_rate=-1.0), "learning_rate = -1.0"),
        (lambda: Adam(learning_rate="fast"), "learning_rate = 'fast'"),
        (lambda: Adam([keras.Variable(np.ones((8, 8)))]), "learning_rate = a list: expected a number"),
        (lambda: Muon([keras.Variable(np.ones((8, 8)))]), "partition = a list: expected a Partition"),
        (lambda: Adam(betas=(0.9, 1.0)), r"betas\[1\] = 1.0"),
        (lambda: SGD(nesterov=True), "momentum > 0 with Nesterov"),
        (lambda: SGD(weight_decay=-0.1), "weight_decay = -0.1"),
        (lambda: SGD(on_nonfinite="cry"), "on_nonfinite = 'cry'"),
        (lambda: SGD(lr=0.1), "lr is not an argument of SGD: use learning_rate"),
        (lambda: AdamW(beta_1=0.9), "beta_1 is not an argument of AdamW: use betas"),
        (lambda: RMSProp(rho=0.9), "rho is not an argument of RMSProp: use alpha"),
        (lambda: Muon(exclude_layers=["head"]), "exclude_layers is not an argument of Muon: use overrides="),
        (lambda: Muon(wd=0.1), "not recognized: {'wd': 0.1}"),
    ],
)
def test_a_bad_argument_is_named(make, match):
    with pytest.raises((ValueError, TypeError), match=match):
        make()


def test_roles_that_the_model_lacks_are_named():
    with pytest.raises(ValueError, match=r"by_role = \['embedding'\]: .* has, hidden, "):
        Muon(by_role={"embedding": {"lr_ratio": 0.5}}).build(net().trainable_variables)


def test_gradients_that_do_not_fit_their_variables_change_nothing():
    for make in (Adam, SGD):
        p, q = (keras.Variable(np.ones((3, 4), "float32")) for _ in range(2))
        optimizer = make(learning_rate=0.1)
        with pytest.raises(ValueError, match=r"has shape \(3, 1\), the variable \(3, 4\)"):
            optimizer.apply([keras.ops.ones((3, 4)), keras.ops.ones((3, 1))], [p, q])
        with pytest.raises(ValueError, match="1 gradients for 2 variables: expected one for each"):
            optimizer.apply([keras.ops.ones((3, 4))], [p, q])
        for v in (p, q):
            np.testing.assert_array_equal(keras.ops.convert_to_numpy(v.value), 1.0)


def test_decay_is_fixed_once_the_optimizer_is_built():
    p = keras.Variable(np.ones(3, "float32"))
    optimizer = AdamW(weight_decay=0.5)
    optimizer.weight_decay = None
    with pytest.raises(ValueError, match=r"weight_decay = -1\.0"):
        optimizer.weight_decay = -1.0
    optimizer.build([p])
    with pytest.raises(ValueError, match=r"weight_decay = 0\.1: the optimizer is built already"):
        optimizer.weight_decay = 0.1
    with pytest.raises(ValueError, match="exclude_from_weight_decay: the optimizer is built already"):
        optimizer.exclude_from_weight_decay(var_names=["bias"])
    assert optimizer.weight_decay == 0.0


@pytest.mark.skipif(BACKEND != "jax", reason="only on JAX does `fit` hold the values while it runs")
def test_an_error_in_a_step_is_not_hidden_by_another():
    m = net()
    m.compile(Muon(), loss="mse")
    m.fit(np.zeros((4, m.input_shape[-1])), np.zeros((4, m.output_shape[-1])), verbose=0)
    m.layers[-1].trainable = False  # Keras then wants `compile` again
    with pytest.raises(ValueError, match="was built with"):
        m.fit(np.zeros((4, m.input_shape[-1])), np.zeros((4, m.output_shape[-1])), verbose=0)


def test_overrides_must_match_something():
    with pytest.raises(ValueError, match="matches no parameter"):
        partition(net(), overrides={"*third*": "adamw"})
    found = partition(net(), overrides={"*head/kernel": MatrixView((1,), (0,))})
    assert next(a for a in found if a.name.endswith("head/kernel")).rule == "muon"


def test_a_model_that_was_not_built_is_refused():
    with pytest.raises(ValueError, match="has no variables yet"):
        partition(keras.Sequential([layers.Dense(3)]))
    with pytest.raises(ValueError, match="is no Keras model"):
        partition(3)


def test_without_its_backend_what_to_do_is_said():
    code = f"""
        import sys
        sys.modules[{BACKEND!r}] = None
        try:
            import downslope.keras
        except ImportError as e:
            assert "Keras is set to run on {BACKEND}, which is not installed" in str(e), e
        else:
            raise AssertionError("imported")
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)


def test_without_keras_the_extra_is_named():
    code = """
        import sys
        sys.modules["keras"] = None
        try:
            import downslope.keras
        except ImportError as e:
            assert "pip install 'downslope[keras]'" in str(e), e
        else:
            raise AssertionError("imported")
        import downslope
        assert "tensorflow" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)
