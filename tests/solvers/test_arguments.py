"""What users pass: nested starts, SciPy's names, onlookers, and input that does not fit."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy import optimize, sparse

import downslope as ds
from downslope.errors import UsageError
from downslope.solvers import Status, Stop
from tests.solvers.functions import rosenbrock, rosenbrock_gradient, start


def test_nested_starts_come_back_nested():
    def f(p):
        return ((p["w"] - 2) ** 2).sum() + (p["b"][0] + 1) ** 2

    def gradient(p):
        return {"w": 2 * (p["w"] - 2), "b": (np.asarray(2 * (p["b"][0] + 1)),)}

    result = ds.minimize(f, {"w": np.zeros((2, 3)), "b": (np.array(0.0),)}, gradient=gradient)
    assert result.success
    np.testing.assert_allclose(result.x["w"], np.full((2, 3), 2.0))
    assert isinstance(result.x["b"], tuple)
    assert result.gradient["w"].shape == (2, 3)


def test_float32_stays_float32_and_converges():
    x0 = start(4).astype(np.float32)
    result = ds.minimize(rosenbrock, x0, gradient=rosenbrock_gradient)
    assert result.success, result.message
    assert result.x.dtype == np.float32
    assert result.value < 1e-3  # of 724: the gradient asked for, 0.08, leaves g² / 2λ, λ about 0.4 here
    closer = ds.minimize(rosenbrock, x0, gradient=rosenbrock_gradient, stop=ds.Stop(gradient=1e-5))
    assert closer.success, closer.message
    assert closer.value < 1e-4


@pytest.mark.parametrize("method", ["L-BFGS-B", "BFGS", "CG", "Newton-CG", "trust-ncg", "trust-exact"])
def test_a_user_of_scipy_changes_the_import_and_goes_on(method):
    more = {"hess": optimize.rosen_hess} if method.startswith(("trust", "Newton")) else {}
    call = {"method": method, "jac": optimize.rosen_der, "tol": 1e-8, **more}
    theirs = optimize.minimize(optimize.rosen, [1.3, 0.7, 0.8], **call)
    ours = ds.minimize(optimize.rosen, [1.3, 0.7, 0.8], **call)
    np.testing.assert_allclose(ours.x, theirs.x, atol=1e-5)
    assert ours.success
    assert ours.fun == ours["fun"] == ours.value
    assert np.abs(ours.jac).max() <= 1e-8
    assert ours.nit > 0
    assert ours.nfev >= ours.nit
    assert ours["x"] is ours.x
    assert "njev" in ours
    assert "nothing" not in ours


def test_scipys_arguments_are_understood():
    def f(x, a):
        return ((x - a) ** 2).sum(), 2 * (x - a)

    result = ds.minimize(f, [0.0, 0.0], args=(3.0,), jac=True, options={"maxiter": 5, "gtol": 1e-9})
    np.testing.assert_allclose(result.x, 3.0)
    result = ds.minimize(lambda x, a: f(x, a)[0], [0.0, 0.0], (3.0,), jac="3-point")
    np.testing.assert_allclose(result.x, 3.0, atol=1e-6)
    few = ds.minimize(rosenbrock, start(4), jac=rosenbrock_gradient, options={"maxiter": 2, "maxcor": 3})
    assert few.status is Status.STEPS
    assert few.nit == 2


@pytest.mark.parametrize(
    "name", ["trust-constr", "TNC", "SLSQP", "COBYLA", "COBYQA", "Powell", "Nelder-Mead"]
)
def test_scipys_methods_mean_what_is_nearest(name):
    found = ds.minimize(rosenbrock, start(2), method=name)
    np.testing.assert_allclose(found.x, 1.0, atol=1e-2)
    with pytest.raises(UsageError, match="constraints are not for these methods"):
        ds.minimize(rosenbrock, start(2), method=name, constraints=[{"type": "eq", "fun": sum}])


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint8])
def test_whole_numbers_of_numpy_are_a_start_in_float64(dtype):
    found = ds.minimize(rosenbrock, np.array([2, 3], dtype))
    np.testing.assert_array_equal(found.x, ds.minimize(rosenbrock, [2.0, 3.0]).x)
    assert found.x.dtype == np.float64
    nested = ds.minimize(lambda p: float(((p["w"] - 0.5) ** 2).sum()), {"w": np.zeros(3, dtype)})
    np.testing.assert_allclose(nested.x["w"], 0.5)
    ds.least_squares(lambda x: x - 0.5, np.zeros((4, 2), dtype), batch=True)


@pytest.mark.parametrize("x0", [2.0, [2.0], np.full((1, 1), 2.0)], ids=["number", "vector", "matrix"])
@pytest.mark.parametrize("wrap", [float, np.float64, np.atleast_1d, np.atleast_2d])
def test_the_gradient_of_one_number_may_be_one_in_any_brackets(x0, wrap):
    found = ds.minimize(
        lambda x: float(np.sum((x - 3.0) ** 4)), x0, jac=lambda x: wrap(np.squeeze(4 * (x - 3.0) ** 3))
    )
    assert found.success
    assert np.shape(found.x) == np.shape(x0)


@pytest.mark.parametrize("hess", ["2-point", "3-point", "cs"])
def test_scipys_hessians_by_differences_are_understood(hess):
    named, plain = (
        ds.minimize(rosenbrock, start(2), "Newton-CG", jac=rosenbrock_gradient, hess=h) for h in (hess, None)
    )
    assert named.success
    np.testing.assert_array_equal(named.x, plain.x)


def test_options_of_scipys_own_code_are_told_to_be_without_effect():
    with pytest.warns(UserWarning, match="without effect here.*: c1, maxls") as told:
        found = ds.minimize(rosenbrock, start(2), options={"c1": 1e-3, "maxls": 40, "maxiter": 99})
    assert found.success
    assert told[0].filename == __file__


def test_onlookers_see_each_step(tmp_path):
    seen, log = [], tmp_path / "run.jsonl"
    result = ds.minimize(
        rosenbrock, start(4), gradient=rosenbrock_gradient, callback=lambda x: seen.append(x.copy()),
        history=True, log=log,
    )  # fmt: skip
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert len(result.history) == len(lines) == result.steps + 1
    assert len(seen) == result.steps  # the start is the caller's own
    assert lines[-1]["value"] == result.value
    np.testing.assert_array_equal(lines[-1]["x"], result.x)
    np.testing.assert_array_equal(lines[0]["x"], start(4))
    np.testing.assert_array_equal(seen, [line["x"] for line in lines[1:]])
    assert [h["step"] for h in result.history] == list(range(result.steps + 1))


@pytest.mark.parametrize(
    "many", [{"batch": True}, {"starts": 4, "box": (-1.0, 1.0)}], ids=["batch", "starts"]
)
@pytest.mark.parametrize("asked", [{"callback": print}, {"history": True}, {"log": "a"}, {"progress": True}])
def test_what_cannot_look_on_is_refused(many, asked):
    x0 = np.ones((3, 4)) if "batch" in many else start(4)
    with pytest.raises(UsageError, match=f"{next(iter(asked))} with {next(iter(many))}"):
        ds.minimize(rosenbrock, x0, gradient=rosenbrock_gradient, **many, **asked)


@pytest.mark.parametrize("method", ["levenberg-marquardt", "gauss-newton"])
def test_methods_of_least_squares_are_refused(method):
    with pytest.raises(UsageError, match=f"{method}' takes residuals: call least_squares"):
        ds.minimize(rosenbrock, start(4), method=method)


def test_a_callback_stops_the_run_in_both_forms():
    def raising(x):
        raise StopIteration

    def told(intermediate_result):
        return intermediate_result.nit == 3

    result = ds.minimize(rosenbrock, start(4), gradient=rosenbrock_gradient, callback=raising)
    assert (result.status, result.steps) == (Status.CALLBACK, 1)
    result = ds.minimize(rosenbrock, start(4), gradient=rosenbrock_gradient, callback=told)
    assert (result.status, result.steps) == (Status.CALLBACK, 3)


def test_what_a_callback_raises_is_told_from_what_the_function_raises():
    def broken(x):
        raise RuntimeError("no disk")

    found = ds.minimize(rosenbrock, start(4), gradient=rosenbrock_gradient, callback=broken)
    assert found.status is Status.RAISED
    assert found.message.startswith("The callback raised an exception;")
    assert found.message.endswith("RuntimeError: no disk")
    fitted = ds.least_squares(lambda x: x - 1.0, np.zeros(2), callback=broken)
    assert fitted.message.startswith("The callback raised an exception;")


def test_least_squares_takes_no_number_as_stop():
    with pytest.raises(UsageError, match="stop = 100: expected a Stop"):
        ds.least_squares(lambda x: x - 1.0, np.zeros(2), stop=100)


def test_progress_is_shown_on_stderr(capsys):
    ds.minimize(rosenbrock, start(4), gradient=rosenbrock_gradient, progress=True)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "gradient" in shown.err


BAD = {
    "vector": (lambda: {"fun": lambda x: x}, "fun returned"),
    "none": (lambda: {"fun": lambda x: None}, "fun returned"),
    "complex": (lambda: {"fun": lambda x: 1j * x.sum()}, "fun returned"),
    "writes": (lambda: {"fun": lambda x: float(x.sort() or x.sum()), "x0": [3.0, 1.0]}, "changed"),
    "no function": (lambda: {"fun": 3}, "fun is an int"),
    "empty": (lambda: {"x0": np.zeros(0)}, "x0 is empty"),
    "nan": (lambda: {"x0": [1.0, np.nan]}, r"x0\[1\] is nan"),
    "complex x0": (lambda: {"x0": np.array([1j, 2])}, "x0 has dtype complex128"),
    "words": (lambda: {"x0": "start"}, "x0 is a str"),
    "matrix": (
        lambda: {"x0": np.ones((1, 2)).view(np.matrix)},
        r"x0 is an np.matrix: .* give np.asarray\(x0\)",
    ),
    "gradient's shape": (lambda: {"gradient": lambda x: np.zeros(3)}, "gradient has"),
    "gradient's name": (lambda: {"gradient": "centrall"}, "did you mean"),
    "method": (lambda: {"method": "bfsg"}, "did you mean 'bfgs'"),
    "option": (lambda: {"options": {"memry": 3}}, "no option 'memry'"),
    "stop": (lambda: {"tol": 1e-3, "stop": Stop()}, "both say when to stop"),
    "no stop": (lambda: {"stop": 100}, r"stop = 100: expected a Stop, as Stop\(steps=100\)"),
    "two names": (lambda: {"jac": rosenbrock_gradient}, "are the same"),
    "history": (lambda: {"history": "all"}, "history = 'all'"),
    "constraints": (lambda: {"constraints": [{"type": "eq"}]}, "constraints"),
    "log": (lambda: {"log": "/nowhere/at/all"}, "cannot be written"),
}


@pytest.mark.parametrize("case", BAD)
def test_input_that_does_not_fit_gets_one_clear_error(case):
    make, words = BAD[case]
    call = {"fun": rosenbrock, "x0": [1.0, 2.0], "gradient": rosenbrock_gradient, **make()}
    with pytest.raises(UsageError, match=words) as caught:
        ds.minimize(call.pop("fun"), call.pop("x0"), **call)
    assert "\n" not in str(caught.value)


HESSIANS = {
    "shape": (lambda x: np.ones((3, 3)), r"hessian returned the shape \(3, 3\): expected \(2, 2\)"),
    "diagonal": (np.ones_like, r"hessian returned the shape \(2,\): expected \(2, 2\)"),
    "none": (lambda x: None, r"hessian returned None: is a return missing\? expected \(2, 2\)"),
    "operator": (lambda x: sparse.linalg.aslinearoperator(np.eye(2)), "an operator: give hessian_vector"),
}


@pytest.mark.parametrize("method", ["newton", "trust-ncg"])
@pytest.mark.parametrize("case", HESSIANS)
def test_a_hessian_that_does_not_fit_is_an_error_and_no_ending(method, case):
    hessian, words = HESSIANS[case]
    with pytest.raises(UsageError, match=words):
        ds.minimize(rosenbrock, [1.5, 2.0], method, gradient=rosenbrock_gradient, hessian=hessian)


@pytest.mark.parametrize("framework", ["numpy", "torch", "jax"])
@pytest.mark.parametrize("batch", [False, True])
def test_so_it_is_in_every_framework_and_in_batches(framework, batch):
    module = pytest.importorskip("jax.numpy" if framework == "jax" else framework)
    x0 = np.full((4, 2) if batch else 2, 1.5, np.float32)
    x0 = {"numpy": np.asarray, "torch": getattr(module, "tensor", None), "jax": module.asarray}[framework](x0)

    def f(x):
        return (x**4).sum(-1) if framework == "numpy" else (x**4).sum()

    def hessian(x):
        return module.ones((*(x.shape[:-1] if framework == "numpy" else ()), 3, 3))

    with pytest.raises(UsageError, match=r"hessian returned the shape \(.*3, 3\): expected \(.*2, 2\)"):
        ds.minimize(f, x0, "newton", batch=batch, hessian=hessian)
    with pytest.raises(UsageError, match="hessian_vector has"):
        ds.minimize(f, x0, "newton-cg", batch=batch, hessian_vector=lambda x, v: module.ones(3))


@pytest.mark.parametrize("method", ["newton", "trust-ncg"])
def test_a_sparse_hessian_is_taken(method):
    call = {"method": method, "gradient": rosenbrock_gradient}
    dense = ds.minimize(rosenbrock, [1.5, 2.0], hessian=optimize.rosen_hess, **call)
    found = ds.minimize(
        rosenbrock, [1.5, 2.0], hessian=lambda x: sparse.csr_array(optimize.rosen_hess(x)), **call
    )
    assert found.success
    np.testing.assert_array_equal(found.x, dense.x)


def test_criteria_out_of_range_are_named():
    for name, value in (("gradient", -1), ("steps", 1.5), ("seconds", np.inf), ("target", "low")):
        with pytest.raises(UsageError, match=name):
            Stop(**{name: value})


def test_an_unknown_argument_is_a_type_error():
    with pytest.raises(TypeError, match="did you mean 'bounds'"):
        ds.minimize(rosenbrock, start(2), bound=(0, 1))


def test_numbers_of_numpy_are_numbers():
    tight = ds.minimize(
        rosenbrock, start(2), tol=np.sqrt(np.finfo(float).eps), options={"maxiter": np.int64(99)}
    )
    assert tight.success
    assert (
        Stop(gradient=np.float32(1e-3), steps=np.int64(3), target=np.float64(0)).limits("float64").steps == 3
    )
    assert ds.least_squares(lambda x: x - 1, [0.0], xtol=np.float64(1e-9)).success
    assert len(ds.minimize(rosenbrock, start(2), starts=np.int64(3), box=(-2, 2)).results) == 3
    for wrong in (np.float64(-1), np.array(1.0), np.True_, "1"):
        with pytest.raises(UsageError, match="gradient="):
            Stop(gradient=wrong)
    for wrong in (np.float64(1.5), math.inf, np.int64(-1)):
        with pytest.raises(UsageError, match="steps="):
            Stop(steps=wrong)


@pytest.mark.parametrize("truth", [True, np.True_])
def test_a_callback_stops_by_a_truth_of_numpy_too(truth):
    result = ds.minimize(rosenbrock, start(2), callback=lambda x: truth)
    assert result.status is Status.CALLBACK


def test_a_callback_may_write_to_its_x():
    def wipe(x):
        x[:] = 0

    plain, wiped = (ds.minimize(rosenbrock, start(2), callback=c, history="points") for c in (None, wipe))
    assert wiped.success
    assert np.array_equal(plain.x, wiped.x)
    assert np.array_equal(plain.history[-1]["x"], wiped.history[-1]["x"])


def test_a_callback_without_a_signature_gets_x():
    assert not ds.minimize(rosenbrock, start(2), callback=max).error


@pytest.mark.parametrize(
    ("method", "options", "named"),
    [
        ("l-bfgs", {"memory": 0}, "memory = 0: expected a whole number"),
        ("l-bfgs", {"memory": "5"}, "memory = '5'"),
        ("bfgs", {"trials": 0}, "trials = 0"),
        ("bfgs", {"decrease": 0.1}, "method 'bfgs' has no option 'decrease'"),
        ("pattern", {"step": "a"}, "step = 'a'"),
        ("bfgs", [("trials", 3)], "options is a list: expected a dict"),
    ],
)
def test_options_that_do_not_fit_are_told_before_the_function_is_called(method, options, named):
    with pytest.raises(ValueError, match=named):
        ds.minimize(lambda x: 1 / 0, [1.0], method, options=options)


@pytest.mark.parametrize("noise", [-1.0, "a", np.nan, [1.0]])
def test_a_noise_that_is_none_is_told(noise):
    with pytest.raises(UsageError, match="noise = "):
        ds.minimize(rosenbrock, start(2), noise=noise)
