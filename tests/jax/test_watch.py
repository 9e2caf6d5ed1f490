"""A watched JAX function: the primitive, the module and the line that make NaN or infinity."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from downslope.diagnose.watch import Ailment, NonFiniteError
from downslope.errors import UsageError
from downslope.jax import watch

X = jnp.array([0.0, 1.0, -1.0], jnp.float32)


@pytest.mark.parametrize(
    ("fun", "ailment", "operation"),
    [
        (lambda x: jnp.log(x).sum(), Ailment.FORWARD, "log"),
        (jax.grad(lambda x: jnp.where(x > 0, jnp.log(x), 0.0).sum()), Ailment.BACKWARD, "div"),
        (lambda x: jax.nn.softmax(jnp.where(x > 5, x, -jnp.inf)), Ailment.FORWARD, "sub"),
        (lambda x: lax.scan(lambda c, y: (c, y / x[0]), x[1], x)[1], Ailment.FORWARD, "div"),
        (lambda x: lax.while_loop(lambda s: s[1] < 5, lambda s: (s[0] * 1e30, s[1] + 1), (x, 0))[0],
         Ailment.FORWARD, "mul"),
        (lambda x: lax.cond(x[0] > 5, lambda x: x, lambda x: jnp.log(x - 5), x), Ailment.FORWARD, "log"),
        (jax.grad(lambda x: jnp.sqrt(jnp.abs(x)).sum()), Ailment.NUMBER, "div"),
        (jax.grad(jax.jit(lambda x: jnp.sqrt(jnp.abs(x)).sum())), Ailment.NUMBER, "div"),
        (jax.value_and_grad(lambda x: jnp.log(x).sum()), Ailment.NUMBER, "log"),
        (jax.jacfwd(lambda x: lax.cond(x[1] > 0, lambda x: jnp.sqrt(x), jnp.cos, x)), Ailment.NUMBER, "sqrt"),
        (jax.grad(jax.jit(lambda x: jnp.where(x > 0, jnp.log(x), 0.0).sum())), Ailment.BACKWARD, "div"),
        (jax.grad(lambda x: lax.scan(lambda c, y: (c + jnp.where(y > 0, jnp.log(y), 0.0), c), 0.0, x)[0]),
         Ailment.BACKWARD, "div"),
        (jax.jit(jax.vmap(jax.checkpoint(lambda x: jnp.sqrt(x)))), Ailment.FORWARD, "sqrt"),
        (lambda x: 2 * x / jnp.array([1.0, jnp.nan, 1.0]), Ailment.INPUT, ""),
    ],
    ids=["log", "where", "mask", "scan", "while", "cond", "slope", "of a call", "value",
         "forward mode", "call", "loop", "calls", "constant"],
)  # fmt: skip
def test_the_first_primitive_that_makes_it_is_named(
    fun: Callable[..., Any], ailment: Ailment, operation: str
) -> None:
    checked = watch(fun, on_finding="collect")
    jax.tree.map(np.testing.assert_array_equal, checked(X), fun(X))
    assert [(f.ailment, f.operation) for f in checked.findings] == [(ailment, operation)]
    if operation:
        assert "test_watch.py" in checked.findings[0].text


def test_the_line_of_a_rule_of_ones_own_is_none_of_ours() -> None:
    @jax.custom_vjp
    def root(x: Any) -> Any:
        return jnp.sqrt(x)

    root.defvjp(lambda x: (jnp.sqrt(x), x), lambda x, g: (g / (2 * jnp.sqrt(x)),))
    checked = watch(jax.grad(root), on_finding="collect")
    checked(0.0)
    assert [(f.ailment, f.operation) for f in checked.findings] == [(Ailment.BACKWARD, "div")]
    assert "arguments.py" not in checked.findings[0].text


@pytest.mark.parametrize(
    "fun",
    [
        lambda x: jax.nn.softmax(jnp.where(x < 0, x, -jnp.inf)),
        lambda x: jnp.exp(jnp.log(jnp.abs(x))),
        lambda x: lax.cond(x[0] > 5, lambda x: jnp.log(x), lambda x: x, x),
        jax.grad(lambda x: lax.scan(lambda c, y: (jnp.tanh(c + y), c), x[1], x)[0]),
        lambda key_free: jax.random.normal(jax.random.key(0), (3,)) * key_free,
    ],
    ids=["mask", "vanishing", "branch", "scan", "random"],
)
def test_healthy_functions(fun: Callable[..., Any]) -> None:
    checked = watch(fun, on_finding="raise")
    for _ in range(2):
        np.testing.assert_allclose(checked(X), fun(X), rtol=1e-6)  # fused otherwise, 1 ulp
    assert str(checked) == "nothing found in 2 calls watched"


def test_the_turn_before_is_not_at_fault() -> None:
    """The third turn overflows; what follows only hands it on."""

    def turn(carry: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        grown = carry * x
        return grown, jnp.sin(grown)

    checked = watch(lambda x: lax.scan(turn, jnp.float32(1), x), on_finding="collect")
    checked(jnp.full(6, 1e13, jnp.float32))
    assert [f.operation for f in checked.findings] == ["mul"]


def test_the_module_of_flax_is_named() -> None:
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            return jnp.log(nn.Dense(3)(x) * 0)

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            return Block(name="inner")(nn.Dense(2)(x)).sum()

    x = jnp.ones((2, 3))
    weights = Model().init(jax.random.key(0), x)
    checked = watch(jax.value_and_grad(Model().apply), on_finding="collect")
    _, gradients = checked(weights, x)
    assert jax.tree.structure(gradients) == jax.tree.structure(weights)
    (finding,) = checked.findings
    assert finding.where == "Model/inner"
    with pytest.raises(NonFiniteError, match="Model/inner"):
        watch(Model().apply, on_finding="raise")(weights, x)


def powered(x: jax.Array, n: int, mode: str = "plain", scale: float = 1.0) -> jax.Array:
    for _ in range(n):
        x = jnp.log(x) if mode == "log" else x * x
    return x * scale


@pytest.mark.parametrize(
    ("fun", "args", "kwargs"),
    [
        (jax.jit(powered, static_argnums=1), (X, 2), {}),
        (jax.jit(powered, static_argnames=("n", "mode")), (X,), {"n": np.int64(2), "mode": "plain"}),
        (jax.jit(powered, static_argnums=(1, 2, 3)), (X, 2, "plain", 3.0), {}),
        (powered, (X, 2, "plain", jnp.float32(2)), {}),
        (lambda x, f, nothing: f(x) if nothing is None else x, (X, jnp.sin, None), {}),
        (lambda x, dtype: x.astype(dtype), (X, jnp.float16), {}),
    ],
    ids=["number", "names", "all", "no jit", "function", "dtype"],
)
def test_static_arguments_stay_as_they_are(
    fun: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    checked = watch(fun, on_finding="raise")
    for _ in range(2):
        np.testing.assert_array_equal(checked(*args, **kwargs), fun(*args, **kwargs))


def test_only_the_arguments_that_are_static_are_compiled_anew() -> None:
    traced: list[int] = []

    def fun(x: jax.Array, n: int, scale: float, mode: str) -> jax.Array:
        traced.append(1)
        return powered(x, n, mode, scale)

    checked = watch(fun, on_finding="collect")
    for scale in (1.0, 2.0, 3.0):
        np.testing.assert_array_equal(checked(X, 2, scale, "plain"), powered(X, 2, "plain", scale))
    once = len(traced)
    checked(X, 2, 4.0, "plain")
    assert len(traced) == once
    np.testing.assert_array_equal(checked(X, 3, 4.0, "plain"), powered(X, 3, "plain", 4.0))
    assert len(traced) == once + 1
    assert checked.findings == []
    checked(X, 3, 4.0, "log")
    assert [f.operation for f in checked.findings] == ["log"]


def test_an_error_of_the_function_is_its_own() -> None:
    def fun(x: jax.Array, n: int) -> jax.Array:
        raise KeyError(f"no {n}")

    with pytest.raises(KeyError, match="no 2"):
        watch(fun)(X, 2)


def test_bad_input() -> None:
    with pytest.raises(UsageError, match="a set, neither an array nor hashable"):
        watch(lambda x, names: x)(X, {"a"})
    with pytest.raises(UsageError, match="expected a function"):
        watch(3)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="watch outermost"):
        jax.jit(watch(jnp.sin))(X)
