"""Keras 3: every rule as a `keras.optimizers.Optimizer`, on TensorFlow, JAX or PyTorch.

    import keras
    from downslope.keras import Muon

    model.compile(optimizer=Muon(learning_rate=1e-3), loss="mse")
    model.fit(x, y)

The optimizers are native ones: `fit`, `save` and `load_model`, learning-rate schedules, clipping,
averaged weights, gradient accumulation and loss scaling are Keras's own. What they add is the rule,
written once for every framework, and for `Muon` the partition of the model's parameters.
"""

try:
    import keras
except ModuleNotFoundError as error:
    missing = (error.name or "").partition(".")[0]
    if missing in ("tensorflow", "jax", "torch"):
        raise ImportError(
            f"Keras is set to run on {missing}, which is not installed: install it, or name another "
            "backend in the environment, as KERAS_BACKEND=torch"
        ) from error
    if error.name != "keras":
        raise
    raise ImportError(
        "downslope.keras needs Keras 3 and one of its backends: pip install 'downslope[keras]'"
    ) from error
if int(keras.__version__.partition(".")[0]) < 3:
    raise ImportError(
        f"downslope.keras needs Keras 3, found {keras.__version__}: pip install 'downslope[keras]'"
    )

from downslope.grouping.keras import partition
from downslope.keras.elementwise import SGD, AdaGrad, Adam, AdamW, RMSProp
from downslope.keras.muon import Muon

__all__ = ["SGD", "AdaGrad", "Adam", "AdamW", "Muon", "RMSProp", "partition"]
