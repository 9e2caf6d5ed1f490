"""The test problems as JAX functions: traced, with the same values and gradients."""

from __future__ import annotations

import numpy as np
import pytest

from downslope.tasks.problems import NAMES
from tests.problems.test_problems import SMALL, near

jax = pytest.importorskip("jax", reason="JAX is not installed")


def test_jax_has_the_same_values_and_gradients() -> None:
    with jax.enable_x64(True):
        for name in NAMES:
            p, x = SMALL[name], near(name)
            value, g = jax.value_and_grad(p)(jax.numpy.asarray(x))
            np.testing.assert_allclose(value, p(x), rtol=1e-11, atol=1e-14, err_msg=name)
            exact = p.gradient(x)
            np.testing.assert_allclose(g, exact, rtol=1e-8, atol=1e-10 * np.abs(exact).max(), err_msg=name)


def test_a_problem_is_traced() -> None:
    jitted = jax.jit(SMALL["nist:enso"])
    x = near("nist:enso").astype(np.float32)
    np.testing.assert_allclose(jitted(x), SMALL["nist:enso"](x.astype(float)), rtol=1e-4)
