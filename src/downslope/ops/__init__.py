"""The operations on each framework's arrays, looked up by array type.

A framework is imported only by the file that bears its name, and that file only when the user's
arrays come from it.
"""

from __future__ import annotations

import sys
from functools import cache
from importlib import import_module

from downslope.ops.protocol import Array, Ops

_BACKENDS = {"numpy": "NumpyOps", "torch": "TorchOps", "jax": "JaxOps", "tensorflow": "TensorflowOps"}


def ops_for(array: Array) -> Ops:
    """Return the operations for an array.

    Raises:
        TypeError: the array belongs to no framework known here.

    >>> import numpy as np
    >>> type(ops_for(np.zeros(3))).__name__
    'NumpyOps'

    """
    for kind in type(array).__mro__:
        framework = kind.__module__.partition(".")[0]
        if framework == "keras" and hasattr(array, "value"):
            return ops_for(array.value)  # a keras.Variable holds an array of Keras's backend
        if framework in _BACKENDS and framework in sys.modules:
            return _load(framework)
    known = ", ".join(_BACKENDS)
    raise TypeError(f"no operations for {type(array).__qualname__}: expected an array of one of {known}")


@cache
def _load(framework: str) -> Ops:
    ops: Ops = getattr(import_module(f"downslope.ops.{framework}"), _BACKENDS[framework])()
    return ops
