"""One backend a process: `KERAS_BACKEND=tensorflow pytest tests/keras`, likewise jax and torch.

Without that variable nothing here is collected, since TensorFlow and PyTorch do not go well together
in the process that runs the other tests.
"""

import os
import random

import numpy as np
import pytest

BACKENDS = ("tensorflow", "jax", "torch")
CHOSEN = os.environ.get("KERAS_BACKEND")

if CHOSEN in BACKENDS:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    if CHOSEN == "jax":  # compiling takes longer here than running
        flags = "--xla_backend_optimization_level=1 --xla_llvm_disable_expensive_passes=true"
        flags += " --xla_force_host_platform_device_count=2"
        os.environ.setdefault("XLA_FLAGS", flags)
    pytest.importorskip("keras", reason="Keras is not installed")
    if CHOSEN == "tensorflow":
        import tensorflow as tf

        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    if CHOSEN == "jax":
        import jax

        jax.config.update("jax_enable_x64", True)
else:
    collect_ignore_glob = ["*.py"]


def pytest_configure(config):
    # Keras hands its variables to NumPy by an interface that NumPy 2 warns about.
    config.addinivalue_line("filterwarnings", "ignore:__array__ implementation doesn't:DeprecationWarning")


@pytest.fixture(autouse=True)
def _fresh_keras():
    """Each test starts with float32, no global seed state and automatic names from one."""
    import keras

    keras.config.set_floatx("float32")
    keras.utils.clear_session(free_memory=False)
    random.seed(0)  # Keras draws the seeds of initializers from it
    np.random.seed(0)  # noqa: NPY002
    yield
    keras.config.set_floatx("float32")
    keras.utils.clear_session(free_memory=False)  # doctests follow, which show automatic names
