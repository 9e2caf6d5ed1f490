"""Where a solver's lines run: on the host, in a jitted loop, or on many problems in lock step."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np

from downslope.ops.protocol import Array
from downslope.solvers.spaces.protocol import Space

__all__ = ["Space", "clipped", "space_of", "vector_like"]


def space_of(like: Array, framework: str, kind: str) -> Space:
    """Return the space of vectors of a framework; `kind` is "host" or "lanes"."""
    made: Space
    if framework == "numpy":
        from downslope.solvers.spaces.arrays import NumpyLanes
        from downslope.solvers.spaces.host import NumpyHost

        return NumpyHost(like.dtype) if kind == "host" else NumpyLanes(like.dtype)
    own = import_module(f"downslope.solvers.spaces.{framework}")
    made = own.host(like) if kind == "host" else own.lanes(like)
    return made


def vector_like(like: Array, framework: str, values: Any) -> Array:
    """Return NumPy values as a vector of a framework, of the dtype and on the device of `like`."""
    if framework == "numpy":
        return np.asarray(values, like.dtype)
    return import_module(f"downslope.solvers.spaces.{framework}").vector(like, values)


def clipped(x: Array, framework: str, low: Array, high: Array) -> Array:
    """Return the point within the bounds that is nearest to x."""
    return space_of(x, framework, "lanes").clip(x, low, high)
