"""How runs end: no success that is none, and no failure of a run that has converged."""

from __future__ import annotations

import math
import os
import signal

import numpy as np
import pytest

import downslope as ds
from downslope.solvers import Status, Stop
from tests.solvers.functions import rosenbrock, rosenbrock_gradient, start

GRADIENT = {"gradient": rosenbrock_gradient}


@pytest.mark.parametrize("method", ["l-bfgs", "bfgs", "newton", "trust-ncg"])
@pytest.mark.parametrize("scale", [1e-10, 1e-6, 1.0, 1e10])
def test_the_scale_of_f_does_not_decide_where_a_run_ends(method, scale):
    """SciPy's BFGS and L-BFGS-B call 1e-6 times this function solved at 9.5, where f is 0 at its least."""
    result = ds.minimize(
        lambda x: scale * rosenbrock(x), start(10), method, gradient=lambda x: scale * rosenbrock_gradient(x)
    )
    assert result.success
    size = np.abs(rosenbrock_gradient(result.x)).max()
    assert size <= 1e-6 * np.abs(rosenbrock_gradient(start(10))).max()
    assert result.value / scale < 4


@pytest.mark.parametrize("shift", [1e4, 1e8, 1e12])
def test_a_large_constant_hides_values_not_gradients(shift):
    # Of 1e12, values are rounded to 1e-4: they cannot tell where the last steps lead, gradients can.
    result = ds.minimize(lambda x: shift + rosenbrock(x), start(2), **GRADIENT)
    assert result.success
    assert np.abs(rosenbrock_gradient(result.x)).max() <= 1e-6 * 215.6


def test_going_on_to_round_off_is_a_success():
    result = ds.minimize(lambda x: 1.0 + rosenbrock(x), start(2), stop=Stop(gradient=0), **GRADIENT)
    assert result.status in (Status.ROUNDOFF, Status.GRADIENT)
    assert result.success
    assert np.abs(result.x - 1).max() < 1e-6


def test_a_start_at_the_minimum_is_a_success_without_a_step():
    result = ds.minimize(rosenbrock, np.ones(4), **GRADIENT)
    assert result.success
    # Three of them beside the start, the third downhill from there: no saddle, no plateau.
    assert (result.steps, result.evaluations) == (0, 4)


def kinked(x):
    return float(np.abs(x).sum())


NO_MINIMUM = {
    "linear": (lambda x: float(x.sum()), np.ones_like, [1.0, 2.0], {Status.UNBOUNDED}),
    "cubic": (lambda x: float((x**3).sum()), lambda x: 3 * x**2, [-1.0, 2.0], {Status.UNBOUNDED}),
    "kink": (kinked, np.sign, [1.3, -0.7], {Status.KINK, Status.STALLED}),
    "wrong gradient": (rosenbrock, lambda x: -rosenbrock_gradient(x), [-1.2, 1.0], {Status.STALLED}),
}


@pytest.mark.parametrize("method", ["l-bfgs", "bfgs", "cg"])
@pytest.mark.parametrize("case", NO_MINIMUM)
def test_what_has_no_smooth_minimum_is_no_success(case, method):
    f, gradient, x0, statuses = NO_MINIMUM[case]
    result = ds.minimize(f, np.array(x0), method, gradient=gradient, stop=Stop(evaluations=20_000))
    assert not result.success
    assert result.status in statuses
    assert result.value <= f(np.array(x0))


def test_points_that_are_not_finite_are_walked_back_from():
    # The first steps from 50 lead far into x < 0, where the logarithm is not defined.
    def f(x):
        return float(x[0] - math.log(x[0])) if x[0] > 0 else math.nan

    result = ds.minimize(f, [50.0], gradient=lambda x: 1 - 1 / x)
    assert result.success
    assert result.x[0] == pytest.approx(1.0, abs=1e-6)


def test_a_trial_that_is_not_finite_is_no_success():
    """SciPy's L-BFGS-B reports success after one such trial, at f = 214 where 124 is least (JENSMP)."""
    i = np.arange(1, 11)

    def f(x):
        return ((2 + 2 * i - np.exp(i * x[0]) - np.exp(i * x[1])) ** 2).sum()

    def gradient(x):
        a, b = np.exp(i * x[0]), np.exp(i * x[1])
        r = 2 + 2 * i - a - b
        return np.array([(-2 * r * i * a).sum(), (-2 * r * i * b).sum()])

    with np.errstate(all="ignore"):
        result = ds.minimize(f, [0.3, 0.4], gradient=gradient)
        far = ds.minimize(f, [30.0, 40.0], gradient=gradient)
    assert result.success
    assert result.value == pytest.approx(124.362, abs=1e-3)
    assert (
        not far.success or far.value == pytest.approx(124.362, abs=1e-3) or far.gradient_size <= far.tolerance
    )


def test_nothing_finite_at_the_start_is_told():
    result = ds.minimize(lambda x: math.nan, [1.0], gradient=lambda x: x)
    assert result.status is Status.NONFINITE
    assert not result.success


def test_each_budget_ends_the_run_and_says_so():
    for stop, status in (
        (Stop(steps=3), Status.STEPS),
        (Stop(evaluations=4), Status.EVALUATIONS),
        (Stop(seconds=0), Status.SECONDS),
        (Stop(target=1.0), Status.TARGET),
        (Stop(gradient=0, value=0.9), Status.VALUE),
        (Stop(gradient=0, step=10), Status.STEP),
    ):
        result = ds.minimize(rosenbrock, start(4), stop=stop, **GRADIENT)
        assert result.status is status
        assert not result.success
        assert result.value <= rosenbrock(start(4))
    assert ds.minimize(rosenbrock, start(4), stop=Stop(steps=3), **GRADIENT).steps == 3
    assert ds.minimize(rosenbrock, start(4), stop=Stop(evaluations=4), **GRADIENT).evaluations == 4


def failing(error: BaseException, at: int):
    calls = 0

    def f(x):
        nonlocal calls
        calls += 1
        if calls == at:
            raise error
        return rosenbrock(x)

    return f


def test_an_exception_leaves_the_best_point():
    result = ds.minimize(failing(ZeroDivisionError("here"), 12), start(4), **GRADIENT)
    assert result.status is Status.RAISED
    assert isinstance(result.error, ZeroDivisionError)
    assert "ZeroDivisionError: here" in result.message
    assert result.value < rosenbrock(start(4))
    assert result.value == rosenbrock(result.x)


def test_an_exception_at_the_first_evaluation_is_raised():
    with pytest.raises(ZeroDivisionError):
        ds.minimize(failing(ZeroDivisionError(), 1), start(4), **GRADIENT)


def test_control_c_leaves_the_best_point_and_a_run_to_go_on_with():
    calls = 0

    def f(x):
        nonlocal calls
        calls += 1
        if calls == 12:
            os.kill(os.getpid(), signal.SIGINT)
        return rosenbrock(x)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's `&` has it ignored
    try:
        result = ds.minimize(f, start(4), **GRADIENT)
    finally:
        signal.signal(signal.SIGINT, before)
    assert result.status is Status.INTERRUPTED
    assert result.value == rosenbrock(result.x) < rosenbrock(start(4))
    whole = ds.minimize(rosenbrock, start(4), **GRADIENT)
    rest = ds.minimize(rosenbrock, result, **GRADIENT)
    np.testing.assert_array_equal(rest.x, whole.x)


@pytest.mark.parametrize("method", ["l-bfgs", "bfgs", "cg", "newton", "trust-ncg", "nesterov", "adam"])
def test_a_run_resumed_is_the_run_uninterrupted(method):
    options = {"lr": 0.02} if method == "adam" else None
    whole = ds.minimize(
        rosenbrock, start(4), method, options=options, stop=Stop(evaluations=40, gradient=0), **GRADIENT
    )
    part = ds.minimize(
        rosenbrock, start(4), method, options=options, stop=Stop(evaluations=17, gradient=0), **GRADIENT
    )
    before = part.x.copy()
    rest = ds.minimize(rosenbrock, part, options=options, stop=Stop(evaluations=40, gradient=0), **GRADIENT)
    np.testing.assert_array_equal(rest.x, whole.x)
    assert rest.evaluations == whole.evaluations
    np.testing.assert_array_equal(part.x, before)


@pytest.mark.parametrize(
    "first", ["l-bfgs", "bfgs", "cg", "newton", "newton-cg", "nesterov", "pattern", "adam"]
)
@pytest.mark.parametrize(
    "then", ["l-bfgs", "bfgs", "cg", "newton", "newton-cg", "nesterov", "pattern", "adam"]
)
def test_a_run_is_gone_on_with_by_another_method(first, then):
    part = ds.minimize(rosenbrock, start(2), first, stop=Stop(steps=3), **GRADIENT)
    rest = ds.minimize(rosenbrock, part, then, stop=Stop(steps=5, gradient=0), **GRADIENT)
    assert rest.error is None
    assert rest.value < part.value
    assert rest.steps == 5  # of one method the count goes on
    assert part.steps == 3


@pytest.mark.parametrize("memory", [3, 20])
def test_a_run_is_gone_on_with_by_other_options(memory):
    part = ds.minimize(rosenbrock, start(4), stop=Stop(steps=12), **GRADIENT)
    rest = ds.minimize(rosenbrock, part, options={"memory": memory}, **GRADIENT)
    assert rest.success
    # Those of the first run are kept where none are given.
    part = ds.minimize(rosenbrock, start(4), options={"memory": memory}, stop=Stop(steps=12), **GRADIENT)
    assert ds.minimize(rosenbrock, part, stop=Stop(steps=20, gradient=0), **GRADIENT).steps == 20


def test_a_run_is_gone_on_with_within_new_bounds():
    seen = []

    def f(x):
        seen.append(x.copy())
        return rosenbrock(x)

    part = ds.minimize(rosenbrock, start(2), stop=Stop(steps=3), **GRADIENT)
    rest = ds.minimize(f, part, bounds=(-0.5, 0.5), **GRADIENT)
    assert np.max(np.abs(seen)) <= 0.5
    assert rest.success
    whole = ds.minimize(rosenbrock, start(2), bounds=(-0.5, 0.5), stop=Stop(steps=8, gradient=0), **GRADIENT)
    part = ds.minimize(rosenbrock, start(2), bounds=(-0.5, 0.5), stop=Stop(steps=3, gradient=0), **GRADIENT)
    again = ds.minimize(rosenbrock, part, bounds=(-0.5, 0.5), stop=Stop(steps=8, gradient=0), **GRADIENT)
    assert again.evaluations == whole.evaluations


@pytest.mark.parametrize(("method", "lr"), [("sgd", 0.01), ("gd", 1.0)])
def test_a_learning_rate_that_is_too_high_is_told(method, lr):
    with np.errstate(all="ignore"):
        result = ds.minimize(rosenbrock, start(2), method, options={"lr": lr}, **GRADIENT)
    assert result.status is Status.NONFINITE
    assert "Lower it, as in options={'lr':" in result.message
    assert "bounds" not in result.message  # which these methods do not keep to


def test_bounds_that_hold_all_unknowns_leave_a_minimum():
    held = ds.minimize(lambda x: ((x - 1) ** 2).sum(), [3.0, 4.0], bounds=[(1, 1), (1, 1)],
                       gradient=lambda x: 2 * (x - 1))  # fmt: skip
    assert held.success


def test_messages_say_what_to_try():
    for status in Status:
        assert status.message.endswith(".")
    assert "check_gradient" in Status.STALLED.message


@pytest.mark.parametrize("error", [OverflowError, KeyboardInterrupt])
def test_a_second_look_that_is_cut_short_leaves_the_result(error):
    """The run is over by then: what it found is not lost to a point farther on."""
    asked = []

    def tail(x):
        asked.append(float(x[0]))
        if x[0] > 40:
            raise error
        return np.exp(-x[0])

    result = ds.minimize(tail, np.zeros(1), gradient=lambda x: -np.exp(-x))
    assert max(asked) > 40, "nothing was looked at"
    assert 5 < result.x[0] < 40
    assert result.value == tail(result.x)


@pytest.mark.parametrize("start", [3.0, 2.0, 1.3])
@pytest.mark.parametrize("method", ["l-bfgs", "bfgs", "cg", "newton"])
def test_a_stair_is_a_plateau_and_no_minimum(start, method):
    result = ds.minimize(lambda x: float(np.floor(10 * np.sum(x**2))), np.full(2, start), method)
    assert result.status is Status.PLATEAU, str(result)
    many = ds.minimize(
        lambda x: np.floor(10 * np.sum(x**2, axis=-1)), np.full((2, 2), start), batch=True, vectorized=True
    )
    assert all(status == Status.PLATEAU for status in many.status)


@pytest.mark.parametrize("start", [3.0, 2.0])
def test_a_set_of_minima_that_a_slope_leads_to_is_a_minimum(start):
    result = ds.minimize(lambda x: float(np.sum(np.maximum(0, x**2 - 1))), np.full(2, start))
    assert result.success, str(result)
    assert result.value == 0


@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("method", ["cg", "nesterov", "adam"])
def test_the_size_of_the_gradient_is_that_of_the_point_returned(method, batch):
    """Each passes lower points by, so that runs out of steps end on the best point and not on the iterate."""
    f, gradient, x0 = rosenbrock, rosenbrock_gradient, np.array([-1.2, 1.0])
    if batch:
        f, x0 = (lambda x: np.array([rosenbrock(p) for p in x])), np.array([x0, x0 + 0.1])
        gradient = lambda x: np.array([rosenbrock_gradient(p) for p in x])  # noqa: E731
    for evaluations in range(2, 40):
        found = ds.minimize(f, x0, method, gradient=gradient, batch=batch, stop=Stop(evaluations=evaluations))
        np.testing.assert_array_equal(found.gradient_size, np.abs(found.gradient).max(-1))


@pytest.mark.parametrize("batch", [False, True])
def test_with_bounds_the_size_is_that_of_the_projected_gradient(batch):
    # The first trial is at the upper bound, lower but too steep for the line search: the best point, no step.
    def f(x):
        value = np.where(x[..., 0] < 0.5, (x[..., 0] - 0.9) ** 2, -1.0) + x[..., 1] ** 2
        return value if batch else float(value)

    def gradient(x):
        slope = np.where(x[..., 0] < 0.5, 2 * (x[..., 0] - 0.9), 1e3)
        return np.stack([slope, 2 * x[..., 1]], -1)

    x0 = np.array([0.0, 0.5])
    found = ds.minimize(
        f, np.stack([x0, x0]) if batch else x0, "l-bfgs", gradient=gradient, batch=batch, bounds=(-1, 0.6),
        stop=Stop(evaluations=2),
    )  # fmt: skip
    assert np.all(found.x[..., 0] == 0.6)
    assert np.all(found.steps == 0)
    projected = found.x - np.clip(found.x - found.gradient, -1, 0.6)
    np.testing.assert_allclose(found.gradient_size, np.abs(projected).max(-1), rtol=1e-12)


@pytest.mark.parametrize("method", ["l-bfgs", "bfgs"])
@pytest.mark.parametrize("batch", [False, True])
def test_a_start_that_is_a_million_times_too_steep_does_not_end_a_fit_at_its_first_step(method, batch):
    # A normal distribution's likelihood from a σ a hundred times too small: ‖g₀‖ is 1e9, so that the first
    # step, of length 1, leads to within 1e-6 of it and to nowhere.
    data = np.linspace(-3.0, 9.0, 61)
    sigma, n = data.std(), data.size

    def f(x):
        m, s = x[..., 0], x[..., 1]
        return n * np.log(abs(s)) + ((data - m[..., None]) ** 2).sum(-1) / (2 * s**2)

    first = np.array([0.0, 0.02])
    result = ds.minimize(f, np.stack([first, first]) if batch else first, method, batch=batch)
    value, best = np.min(result.value), f(np.array([3.0, sigma]))
    assert np.all(result.success)
    at_first = f(np.array([0.01, 1.02])) - best  # where the first step leads, 300
    assert value - best < 0.15 * at_first
    assert np.max(result.evaluations) < 40


@pytest.mark.parametrize("method", ["l-bfgs", "bfgs"])
def test_a_model_that_promises_more_goes_on_within_the_tolerance(method):
    result = ds.minimize(lambda x: ((x - 3) ** 2).sum() + (x**4).sum(), np.full(5, 1e3), method)
    once = ds.minimize(lambda x: ((x - 3) ** 2).sum() + (x**4).sum(), np.full(5, 1e3), method,
                       stop=Stop(gradient=0, gradient_absolute=float(result.tolerance)))  # fmt: skip
    assert result.success
    assert result.steps <= once.steps + 8
    assert result.value < once.value / 5  # 5,000 and 48,000
    # Nothing is added where ‖g‖ says it all.
    plain = ds.minimize(lambda x: ((x - 3) ** 2).sum(), np.zeros(5), method)
    assert plain.evaluations <= 4


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("batch", [False, True])
def test_a_start_that_is_a_saddle_is_no_minimum_whichever_way_is_looked_first(seed, batch):
    # Factors of a matrix that start at zero: ∇f is zero, and f falls along half of all ways alone.
    matrix = np.random.default_rng(seed).standard_normal((6, 5))

    def f(x):
        u, v = x[..., :12].reshape(*x.shape[:-1], 6, 2), x[..., 12:].reshape(*x.shape[:-1], 2, 5)
        return ((u @ v - matrix) ** 2).sum((-1, -2))

    def gradient(x):
        u, v = x[..., :12].reshape(*x.shape[:-1], 6, 2), x[..., 12:].reshape(*x.shape[:-1], 2, 5)
        r = 2 * (u @ v - matrix)
        of_u, of_v = r @ v.swapaxes(-1, -2), u.swapaxes(-1, -2) @ r
        return np.concatenate([of_u.reshape(*x.shape[:-1], 12), of_v.reshape(*x.shape[:-1], 10)], -1)

    zero = np.zeros((3, 22)) if batch else np.zeros(22)
    for sign in (1, -1):
        matrix = sign * matrix
        result = ds.minimize(f, zero, gradient=gradient, batch=batch)
        assert np.all(result.status == Status.SADDLE)
        assert np.all(result.value < f(zero))


def bowls(count):
    """Yield convex functions with a large constant beside them, and where to start."""
    for seed in range(count):
        rng = np.random.default_rng(seed)
        n = int(rng.integers(1, 7))
        weights, centre = 10.0 ** rng.uniform(-3, 3, n), rng.standard_normal(n) * 10.0 ** rng.uniform(-3, 3)
        beside = float(rng.choice([1e3, 1e6, 1e9, -1e6]))
        kind = seed % 3

        def f(x, w=weights, c=centre, beside=beside, kind=kind):
            d = x - c
            parts = (d**2, d**4, np.logaddexp(d, -d))[kind]
            return float(beside + w @ parts)

        yield f, centre + rng.standard_normal(n) * 10.0 ** rng.uniform(-4, 2)


@pytest.mark.parametrize("gradient", ["forward", "central"])
@pytest.mark.parametrize("method", ["l-bfgs", "cg"])
def test_a_bowl_beside_a_constant_is_no_saddle(method, gradient):
    # Differences are exactly zero where all that is left of a slope is below the constant's rounding; farther
    # out the function may be lower by more, but nowhere does it curve down.
    for seed, (f, x0) in enumerate(bowls(200)):
        with np.errstate(all="ignore"):
            result = ds.minimize(f, x0, method, gradient=gradient, stop=Stop(evaluations=300))
        assert result.status is not Status.SADDLE, (seed, str(result))


SADDLES = {
    "x² - y²": (lambda x: x[0] ** 2 - x[1] ** 2, lambda x: np.array([2 * x[0], -2 * x[1]]), 1e5),
    "x y": (lambda x: x[0] * x[1], lambda x: np.array([x[1], x[0]]), 1e6),
    "a monkey's": (
        lambda x: x[0] ** 3 - 3 * x[0] * x[1] ** 2,
        lambda x: np.array([3 * x[0] ** 2 - 3 * x[1] ** 2, -6 * x[0] * x[1]]),
        1.0,  # on a way of 1e-4 it falls by 1e-12
    ),
    "a peak": (lambda x: -np.abs(x).sum(), lambda x: -np.sign(x), 1e6),
    "a well's middle": (
        lambda x: (x[0] ** 2 - 1) ** 2 + x[1] ** 2,
        lambda x: np.array([4 * x[0] * (x[0] ** 2 - 1), 2 * x[1]]),
        1e6,
    ),
}


@pytest.mark.parametrize("name", SADDLES)
def test_a_saddle_beside_a_constant_is_one(name):
    f, gradient, most = SADDLES[name]
    for beside in (0.0, most):

        def raised(x, beside=beside):
            return float(f(x) + beside)

        # The monkey's is no saddle to differences, which are not zero there.
        for given in (gradient, "central") if name != "a monkey's" else (gradient,):
            result = ds.minimize(raised, np.zeros(2), gradient=given)
            assert result.status is Status.SADDLE, beside
            assert result.value < raised(np.zeros(2))


@pytest.mark.parametrize("bounds", [None, (0.0, 2.0), (-1e-5, 2.0)])
def test_a_gradient_of_zero_on_a_slope_is_wrong_and_makes_no_saddle(bounds):
    def f(x):
        return ((x - 1) ** 2).sum()

    result = ds.minimize(f, np.array([0.5, 0.5]), gradient=lambda x: 0 * x, bounds=bounds)
    assert result.status is Status.STALLED
    assert "check_gradient" in result.message
    assert result.value < f(np.array([0.5, 0.5]))


def test_results_are_told_in_eighty_columns():
    for told in (
        ds.minimize(lambda x: float(np.logaddexp(0, -x[0])), [-3.0]),
        ds.minimize(lambda x: float(abs(x[0]) + x[1] ** 2), [1.0, 2.0]),
        ds.least_squares(lambda x: float(np.cosh(x).sum()), [0.0, 0.1]),
    ):
        lines = str(told).splitlines()
        assert max(map(len, lines)) <= 80
        assert " ".join(map(str.strip, lines)).startswith(told.message)


def test_a_run_that_cancels_is_told_as_hidden_by_noise_and_not_as_a_wrong_gradient():
    # (1e6 x + 1)² - (1e6 x)² is exact to 1e-4 only, which the values, around 1, do not show.
    def f(x):
        return float(np.sum((1e6 * x + 1) ** 2 - (1e6 * x) ** 2 - 2e6 * x) + np.sum((x - 1) ** 2))

    result = ds.minimize(f, np.array([0.01, 0.02]))
    assert result.status is Status.STALLED
    assert "the noise of the function" in result.message
    assert "may be wrong" not in result.message
    noise, error = (float(part.split()[-1]) for part in result.provenance.split(", ")[-2:])
    assert 1e-5 < noise < 1e-3  # the spacing of numbers at 1e12 is 1.2e-4
    assert float(result.gradient_size) < 10 * error


@pytest.mark.parametrize("method", ["l-bfgs", "cg", "newton"])
def test_differences_that_can_tell_no_more_end_a_run_at_round_off(method):
    result = ds.minimize(rosenbrock, [-1.7, 0.3], method, stop=Stop(gradient=0))
    assert result.status is Status.ROUNDOFF
    assert result.value < 1e-20
    assert result.gradient_size <= 1e-6


@pytest.mark.parametrize("method", ["l-bfgs", "bfgs", "cg"])
def test_a_kink_whose_sides_cancel_is_not_taken_for_round_off(method):
    result = ds.minimize(
        lambda x: abs(x[0] - 1) + abs(x[1] - 2), [1.0, 0.5], method, stop=ds.Stop(evaluations=2000)
    )
    # Chance decides at a kink: one run in twenty goes on by ever smaller differences until its budget ends.
    assert result.status in (Status.STALLED, Status.KINK, Status.EVALUATIONS)
    assert result.gradient_size > 0.5


DATA = np.linspace(-3.0, 9.0, 61)


def normal(x):
    """Return the negative logarithm of a normal's likelihood; where σ is small it is steep."""
    return 61 * np.log(abs(x[1])) + ((DATA - x[0]) ** 2).sum() / (2 * x[1] ** 2)


@pytest.mark.parametrize(("method", "highest"), [("l-bfgs", 109.5), ("bfgs", 123.0)])
def test_a_search_that_begins_within_the_tolerance_is_searched_to_its_end(method, highest):
    def slope(x):
        r = DATA - x[0]
        return np.array([-r.sum() / x[1] ** 2, 61 / x[1] - (r**2).sum() / x[1] ** 3])

    # From so steep a start all that follows is within the tolerance. Half above where it ends; it would end
    # a whole one above that if the first point within the tolerance ended each search.
    assert ds.minimize(normal, [0.0, 0.01], method, gradient=slope).value < highest


def test_an_ending_that_is_near_only_beside_a_steep_start_says_so():
    steep = ds.minimize(normal, [0.0, 1e-3], "bfgs")
    assert "still promises a fall of" in steep.message
    again = ds.minimize(normal, steep.x, "bfgs")
    assert again.value < steep.value - 1
    assert "promises" not in again.message
