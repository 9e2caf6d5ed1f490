"""JAX in a process of its own: on the CPU, as four devices, with float64; set before JAX is imported."""

import os
import sys

assert "jax" not in sys.modules, (
    "run tests/jax in a process of its own: JAX's devices are set before its import"
)
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
os.environ["JAX_ENABLE_X64"] = "1"
