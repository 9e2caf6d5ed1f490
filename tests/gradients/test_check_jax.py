"""Checks of JAX functions: pytrees, custom derivatives."""

from __future__ import annotations

from typing import Any

import pytest

jax = pytest.importorskip("jax", reason="JAX is not installed")
import jax.numpy as jnp  # noqa: E402

import downslope as ds  # noqa: E402
from downslope.gradients.check import Reason, Verdict  # noqa: E402


def test_a_pytree_passes_in_float64() -> None:
    before = jax.config.jax_enable_x64
    params = {"w": jnp.full((4, 3), 0.3, jnp.float32), "b": jnp.arange(3, dtype=jnp.float32)}
    report = ds.check_gradient(lambda p: jnp.sum(jnp.tanh(p["w"]) @ p["b"]), params)
    assert report.passed
    assert any("float64" in note for note in report.notes)
    assert jax.config.jax_enable_x64 == before


def test_custom_vjp_with_one_wrong_entry() -> None:
    @jax.custom_vjp
    def f(x: Any) -> Any:
        return jnp.sum(jnp.exp(x))

    f.defvjp(lambda x: (f(x), x), lambda x, g: ((g * jnp.exp(x)).at[1, 2].multiply(-1.0),))
    report = ds.check_gradient(f, jnp.linspace(0, 1, 12).reshape(3, 4))
    assert [one.name for one in report.findings] == ["x[1, 2]"]
    assert report.findings[0].hint == "opposite sign"


def test_a_missing_mean_is_named_and_many_outputs_are_weighted() -> None:
    @jax.custom_vjp
    def mean(x: Any) -> Any:
        return jnp.mean(x**2)

    mean.defvjp(lambda x: (mean(x), x), lambda x, g: (g * 2 * x,))
    report = ds.check_gradient(mean, jnp.linspace(1, 2, 37))
    assert "a missing 1/37" in report.findings[0].hint
    assert any("weighting" in note for note in ds.check_gradient(jnp.sin, jnp.ones((2, 3))).notes)


def test_bfloat16_never_fails_a_right_gradient() -> None:
    x = jnp.linspace(-1, 1, 50).astype(jnp.bfloat16)
    assert ds.check_gradient(lambda x: jnp.sum(jnp.sin(x)), x).passed
    assert ds.check_gradient(lambda x: jnp.sum(jnp.sin(x)), x, precision="own").verdict is not Verdict.FAIL


def test_functions_that_cannot_be_traced_are_called_as_they_are() -> None:
    def f(x: Any) -> Any:
        return jnp.sum(x**2) if float(jax.lax.stop_gradient(x)[0]) > 0 else jnp.sum(x)

    assert ds.check_gradient(f, jnp.ones(3)).verdict is not Verdict.FAIL


def test_kinks_and_products() -> None:
    assert ds.check_gradient(lambda x: jnp.sum(jax.nn.relu(x)), jnp.zeros(3)).reason is Reason.KINK
    assert ds.check_hvp(lambda x: jnp.sum(x**3) + jnp.prod(x), jnp.linspace(1, 2, 6)).passed
    wrong = ds.check_hvp(lambda x: jnp.sum(x**3), jnp.linspace(1, 2, 6), hvp=lambda x, v: 5 * x * v)
    assert wrong.verdict is Verdict.FAIL
