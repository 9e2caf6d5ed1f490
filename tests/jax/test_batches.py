"""Batches on CPUs: the lanes work a queue off, and a turn of theirs is one kernel."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import downslope as ds
from downslope.solvers import Status
from downslope.solvers.drivers import jax as driver
from downslope.solvers.drivers.jax import kernel, queue
from downslope.solvers.drivers.jax.kernel import one_kernel
from tests.solvers.functions import starts


def rosenbrock(x):
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


MANY = 3 * queue.LANES + 5
"""More problems than there are lanes, and not a multiple of them."""


@pytest.mark.parametrize("method", ["bfgs", "l-bfgs", "newton", "nesterov"])
def test_a_queue_gives_every_problem_its_own_run(method):
    # From far and near, so that they end at very different turns and lanes change their problem often.
    x0 = starts(MANY, 2) * np.linspace(0.2, 2.0, MANY)[:, None]
    every = ds.minimize(rosenbrock, jnp.array(x0), method, batch=True)
    few = range(0, MANY, 37)
    ones = [ds.minimize(rosenbrock, jnp.array(x0[i]), method) for i in few]
    for i, one in zip(few, ones, strict=True):
        # Sums are rounded otherwise in a kernel than alone, which the search blows up to a few evaluations.
        assert abs(int(every.evaluations[i]) - int(one.evaluations)) <= max(8, 0.1 * int(one.evaluations))
        assert every.status[i] == one.status
    assert every.success.all() == all(one.success for one in ones)
    g = np.asarray(jax.vmap(jax.grad(rosenbrock))(every.x))
    assert (np.abs(g).max(1) <= np.asarray(every.tolerance)).all()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_arguments_and_bounds_stay_with_their_problem(dtype):
    rng = np.random.default_rng(1)
    wanted = jnp.array(rng.uniform(-2, 2, (MANY, 3)), dtype)
    low, high = np.full((MANY, 3), -1.0), rng.uniform(0.0, 1.0, (MANY, 3))

    def distance(x, to, weights):
        return (weights * jnp.cosh(x - to)).sum()

    weights = jnp.array([1.0, 2.0, 3.0], dtype)
    found = ds.minimize(
        distance, jnp.zeros((MANY, 3), dtype), bounds=(low, high), batch=True, args=(wanted, weights)
    )
    assert found.success.all()
    # The gradient's tolerance, 1e-6 and 1e-4 of the first one, over curvatures of at least 1.
    far = 1e-2 if dtype == jnp.float32 else 1e-4
    np.testing.assert_allclose(found.x, np.clip(wanted, low, high), atol=far)


def test_functions_that_call_a_library_are_left_outside_the_kernel():
    a = jnp.array(np.random.default_rng(2).standard_normal((40, 4)))
    b = jnp.array(np.random.default_rng(3).standard_normal((queue.LANES + 5, 40)))

    def misfit(x, b):
        q, _ = jnp.linalg.qr(a)
        return ((a @ x - b) ** 2).sum() + 0.0 * q.sum()

    found = ds.minimize(misfit, jnp.zeros((len(b), 4)), batch=True, args=(b,))
    assert found.success.all()
    best = np.linalg.lstsq(np.asarray(a), np.asarray(b).T, rcond=None)[0].T
    np.testing.assert_allclose(found.x, best, atol=1e-5)


def long_sum(x):
    t = jnp.linspace(0.0, 1.0, 250, dtype=x.dtype)
    return ((x[0] * jnp.exp(-x[1] * t) - 2.0 * jnp.exp(-t)) ** 2).sum()


def held_by(function, method="bfgs"):
    """Return the batch's result, and what its kernels held."""
    driver._compiled.clear()
    found = ds.minimize(function, jnp.array(starts(MANY, 2)) + 2.0, method, batch=True)
    (kept,) = driver._compiled[function].values()
    return found, kept.queue.held


def test_large_functions_are_left_outside_the_kernel():
    assert 250 * queue.LANES >= kernel.SUMMED
    found, held = held_by(long_sum)
    assert held == queue.Held.ALL  # XLA was not asked for what it cannot do
    np.testing.assert_allclose(found.x, [[2.0, 1.0]] * MANY, atol=1e-3)


def test_what_xla_cannot_compile_in_a_kernel_is_compiled_outside(monkeypatch):
    monkeypatch.setattr(kernel, "SUMMED", 10**9)
    found, held = held_by(lambda x: long_sum(x))
    assert held == queue.Held.METHOD
    np.testing.assert_allclose(found.x, [[2.0, 1.0]] * MANY, atol=1e-3)


def test_where_no_kernel_can_be_compiled_there_is_none(monkeypatch):
    def refused(f, otherwise=None):
        def traced(*args):
            raise jax.errors.JaxRuntimeError("UNIMPLEMENTED: a kernel")

        return traced

    monkeypatch.setattr(queue, "one_kernel", refused)
    found, held = held_by(lambda x: (1 - x[0]) ** 2 + (x[1] - x[0] ** 2) ** 2)
    assert held == queue.Held.NOTHING
    assert found.success.all()


def test_within_jit_no_function_is_in_a_kernel(monkeypatch):
    # What XLA cannot compile there ends the user's program: nothing could be tried again.
    monkeypatch.setattr(kernel, "SUMMED", 10**9)
    found = jax.jit(lambda x: ds.minimize(long_sum, x, "bfgs", batch=True))(jnp.array(starts(MANY, 2)) + 2.0)
    assert bool(found.success.all())
    np.testing.assert_allclose(found.x, [[2.0, 1.0]] * MANY, atol=1e-3)


def test_functions_of_large_arrays_are_left_outside():
    large = jnp.ones(kernel.ENTRIES + 1)
    assert kernel.is_small(lambda x: x + large[: kernel.ENTRIES].max(), 1.0) is False  # it is made of `large`
    assert kernel.is_small(lambda x: (x + jnp.ones(kernel.ENTRIES)).max(), 1.0)
    assert not kernel.is_small(lambda x: (x + jnp.ones(kernel.ENTRIES + 1)).max(), 1.0)


def of_many_steps(steps):
    def f(x):
        for i in range(steps):
            x = jnp.sin(x + 0.01 * i) + x
        return x.sum()

    return f


def test_functions_of_many_operations_are_left_outside():
    x = jnp.ones(3)
    assert kernel.is_small(of_many_steps(kernel.OPERATIONS // 4), x)
    assert not kernel.is_small(of_many_steps(kernel.OPERATIONS // 3 + 1), x)
    # Those within loops and branches count as well.
    assert not kernel.is_small(
        lambda x: jax.lax.fori_loop(0, 2, lambda i, y: y + of_many_steps(200)(y), x), jnp.ones(3)
    )


def test_problems_that_never_began_have_their_start():
    x0 = jnp.array(starts(MANY, 4))
    cut = ds.minimize(rosenbrock, x0, "bfgs", batch=True, stop=ds.Stop(seconds=0.0))
    assert (cut.status == Status.SECONDS).all()
    np.testing.assert_array_equal(cut.x, x0)
    np.testing.assert_allclose(cut.value, jax.vmap(rosenbrock)(x0), rtol=1e-12)


def test_a_start_that_is_not_finite_spoils_no_other():
    x0 = np.abs(starts(MANY, 2)) + 1.0
    x0[7] = -1.0
    found = ds.minimize(lambda x: (x - jnp.log(x)).sum(), jnp.array(x0), "bfgs", batch=True)
    assert found.status[7] == Status.NONFINITE
    others = np.arange(MANY) != 7
    assert found.success[others].all()
    np.testing.assert_allclose(found.x[others], 1.0, atol=1e-5)


def test_a_batch_within_jit_is_that_without():
    x0 = jnp.array(starts(MANY, 4))
    plain = ds.minimize(rosenbrock, x0, "bfgs", batch=True)
    traced = jax.jit(lambda x: ds.minimize(rosenbrock, x, "bfgs", batch=True))(x0)
    assert bool(traced.success.all())
    np.testing.assert_array_equal(traced.evaluations, plain.evaluations)
    np.testing.assert_allclose(traced.x, plain.x, atol=1e-12)


def test_a_kernel_computes_what_it_is_of_and_nothing_twice():
    def decisions(a, b):
        t = jnp.where(a > b, a * b + 1.0, b - a) * jnp.where(a < 0, a, b)
        for _ in range(20):
            t = jnp.where(t > 1, t - a, t + b) * 0.5
        return {"sums": [t + i for i in range(8)], "least": jnp.minimum(t, a)}

    a, b = jnp.array(starts(2, 64))
    made = jax.jit(one_kernel(decisions))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-14), made(a, b), decisions(a, b))
    selects = [
        len(re.findall(r" select\(", f.lower(a, b).compile().as_text())) for f in (made, jax.jit(decisions))
    ]
    # Without: once for each of nine results. `where` is 22 times in the function.
    assert selects[0] <= 23 < 100 < selects[1]


def test_a_search_by_directions_in_a_batch_and_within_jit():
    def bowl(x):
        return (x[0] - 1) ** 2 + 10 * (x[1] + x[0] ** 2) ** 2 + (x[2] - 0.5) ** 2

    x0 = jnp.array(np.random.default_rng(0).standard_normal((9, 3)))
    found = ds.minimize(bowl, x0, "pattern", batch=True)
    traced = jax.jit(lambda x: ds.minimize(bowl, x, "pattern", batch=True))(x0)
    assert found.success.all()
    # The gradient's tolerance, 1e-6 of a first one of some hundred, over curvatures of at least 1.
    np.testing.assert_allclose(found.x, [[1.0, -1.0, 0.5]] * 9, atol=1e-3)
    np.testing.assert_array_equal(traced.evaluations, found.evaluations)


def test_problems_whose_best_point_is_not_the_last_have_it():
    # Half of them end at the count, between two steps: the point asked for last is the lowest seen.
    x0 = jnp.array(starts(9, 4))
    for evaluations in (4, 5, 6):
        found = ds.minimize(rosenbrock, x0, "cg", batch=True, stop=ds.Stop(evaluations=evaluations))
        np.testing.assert_allclose(found.value, jax.vmap(rosenbrock)(found.x), rtol=1e-12)
        assert (found.value <= jax.vmap(rosenbrock)(x0)).all()


S = np.random.default_rng(4).standard_normal((4, 4))
S = S @ S.T + 4 * np.eye(4)


def scanned(x):
    def step(c, t):
        return jax.lax.cond(t > 0.5, lambda c: 0.9 * c, lambda c: c + 0.1 * t, c), c.sum()

    end, sums = jax.lax.scan(step, x, x)
    return (end**2).sum() + (sums**2).mean()


@jax.custom_vjp
def own_derivative(x):
    return jnp.sin(x)


own_derivative.defvjp(lambda x: (jnp.sin(x), x), lambda x, t: (jnp.cos(x) * t,))

OPERATIONS = {
    "sort": lambda x: (jnp.sort(x) * jnp.arange(1.0, 5.0)).sum(),
    "top_k, argmax": lambda x: (jax.lax.top_k(x, 2)[0] ** 2).sum() + x[jnp.argmax(x)],
    "cumulative": lambda x: (jnp.cumsum(x) ** 2).sum() + jnp.cumprod(1 + 0.1 * x)[-1],
    "where": lambda x: sum(jnp.where(x > 0.1 * i, x * 0.9, x + 0.05 * i).sum() for i in range(12)),
    "scan, cond": scanned,
    "fori_loop": lambda x: (jax.lax.fori_loop(0, 9, lambda i, c: 0.9 * c + 0.01 * i, x) ** 2).sum(),
    "while_loop": lambda x: jax.lax.while_loop(
        lambda c: c < 9, lambda c: 2 * c, 1 + abs(jax.lax.stop_gradient(x[0]))
    ),
    "switch": lambda x: jax.lax.switch((x[0] > 0).astype(int), [jnp.sum, lambda a: (a**2).sum()], x),
    "gather": lambda x: (x[jnp.array([0, 2, 2, 3, 1])] ** 2).sum() + x[(x[0] > 0).astype(int)],
    "scatter": lambda x: (jnp.zeros(3).at[jnp.array([0, 1, 1, 2])].add(x) ** 2).sum(),
    "slices": lambda x: (jax.lax.dynamic_slice(x, ((x[0] > 0).astype(int),), (2,)) ** 2).sum(),
    "concatenate, pad": lambda x: jnp.pad(jnp.concatenate([x, jnp.flip(x), x[:2] * x[1]]), 2).sum() ** 2,
    "fft": lambda x: (jnp.abs(jnp.fft.fft(x) + 0.1) ** 2).sum(),
    "complex": lambda x: jnp.abs(jnp.exp(1j * x).sum()) ** 2,
    "linalg": lambda x: x @ jnp.linalg.solve(S, x) + jnp.linalg.slogdet(jnp.outer(x, x) + S)[1],
    "einsum": lambda x: jnp.einsum("i,ij,j->", x, S, x),
    "integers": lambda x: (x[jnp.arange(10) // 3 % 2] ** 2 * (jnp.arange(10) << 1)).sum(),
    "booleans": lambda x: jnp.any(x > 10) * 1.0 + jnp.all(x < 50) + jnp.logical_xor(x[0] > 20, x[1] > 2),
    "iota": lambda x: (x * jax.lax.broadcasted_iota(x.dtype, (4,), 0)).sum(),
    "unused": lambda x: (x[:2] ** 2).sum(),
    "constant": lambda x: jnp.ones((), x.dtype),
    "casts": lambda x: jnp.sin(x.astype(jnp.float16)).sum().astype(x.dtype) * 0 + x.astype(jnp.float32).sum(),
    "special": lambda x: jax.scipy.special.erf(x).sum() + jax.scipy.special.gammaln(abs(x) + 1).sum(),
    "bessel": lambda x: jax.scipy.special.i0(x).sum() + jax.scipy.special.digamma(abs(x) + 1).sum(),
    "softmax": lambda x: jax.scipy.special.logsumexp(x) + jax.nn.softmax(x)[0] + jax.nn.gelu(x).sum(),
    "arcs": lambda x: (jnp.arctan2(x, 2.0) + jnp.arcsinh(x) + jnp.arcsin(0.5 * jnp.tanh(x))).sum(),
    "own derivative": lambda x: own_derivative(x).sum(),
    "checkpoint": lambda x: jax.checkpoint(lambda y: jnp.sin(jnp.sin(y)).sum())(x),
    "random": lambda x: (x * jax.random.normal(jax.random.key(0), (4,), x.dtype)).sum(),
    "vmap, grad, jit": lambda x: jax.jit(jax.vmap(jax.grad(lambda t: jnp.sin(t) ** 2)))(x).sum() ** 2,
    "empty": lambda x: x[:0].sum() + jnp.zeros((0, 3)).sum(),
}


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("name", OPERATIONS)
def test_a_kernel_of_any_operations_computes_what_jax_does(name, dtype):
    def pair(x):
        def total(x):
            value = jax.vmap(lambda one: OPERATIONS[name](one) + ((one - 0.3) ** 2).sum())(x).astype(x.dtype)
            return value.sum(), value

        (_, value), gradient = jax.value_and_grad(total, has_aux=True)(x)
        return value, gradient

    def three_turns(turn):
        def body(_, c):
            value, gradient = turn(c[0])
            return c[0] - 0.01 * gradient, value

        return lambda x: jax.lax.fori_loop(0, 3, body, (x, x[:, 0]))

    x = jnp.array(starts(queue.LANES, 4), dtype)
    made = jax.jit(kernel.joined(three_turns(one_kernel(pair))))(x)
    # The same operations, fused otherwise: a few roundings of each.
    for a, b in zip(made, jax.jit(three_turns(pair))(x), strict=True):
        np.testing.assert_allclose(a, b, rtol=200 * jnp.finfo(dtype).eps, atol=200 * jnp.finfo(dtype).eps)
