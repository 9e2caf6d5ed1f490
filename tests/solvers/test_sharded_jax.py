"""Parameters spread over devices: an array of JAX on four of the host's, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytest.importorskip("jax", reason="JAX is not installed")

PROGRAM = """
import jax, jax.numpy as jnp, numpy as np
jax.config.update("jax_enable_x64", True)
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import downslope as ds

spread = NamedSharding(Mesh(np.array(jax.devices()), ("d",)), PartitionSpec("d"))
w, x0 = (jax.device_put(a, spread) for a in (jnp.linspace(1, 50, 400), jnp.ones(400)))
for method in ("l-bfgs", "newton-cg"):
    result = ds.minimize(lambda x: (w * jnp.cosh(x - 0.3)).sum(), x0, method=method)
    assert result.success, result.message
    assert len(result.x.sharding.device_set) == 4, result.x.sharding
    assert not result.x.sharding.is_fully_replicated
    np.testing.assert_allclose(result.x, 0.3, atol=1e-4)
"""


def test_sharded_parameters_stay_sharded() -> None:
    env = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=env, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
