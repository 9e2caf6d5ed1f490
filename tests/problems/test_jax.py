"""The test problems as JAX functions: traced, with the same values and gradients."""

from __future__ import annotations

import numpy as np
import pytest

from tests.problems.test_problems import SMALL, near

jax = pytest.importorskip("jax", reason="JAX is not installed")


# Tracing each takes a second or so: one of every way in which they are written.
WAYS = ("ackley", "mgh:helical-valley", "mgh:gulf", "mgh:watson", "mgh:penalty-2", "mgh:broyden-banded")
WAYS += ("mgh:chebyquad", "nist:nelson", "nist:enso", "large:logistic", "large:minimal-surface")


@pytest.mark.parametrize("name", WAYS)
def test_jax_has_the_same_values_and_gradients(name: str) -> None:
    p, x = SMALL[name], near(name)
    with jax.enable_x64(True):
        value, g = jax.jit(jax.value_and_grad(p))(x)
    np.testing.assert_allclose(value, p(x), rtol=1e-11, atol=1e-14)
    exact = p.gradient(x)
    np.testing.assert_allclose(g, exact, rtol=1e-8, atol=1e-10 * np.abs(exact).max())
