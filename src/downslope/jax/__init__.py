"""Downslope for JAX: every rule as an `optax.GradientTransformation`, and partitions of parameter trees."""

try:
    import jax as _jax  # noqa: F401
    import optax as _optax  # noqa: F401
except ImportError as error:
    raise ImportError("downslope.jax needs JAX and optax: pip install 'downslope[jax]'") from error

from downslope.grouping.jax import partition
from downslope.jax.elementwise import adagrad, adam, adamw, rmsprop, sgd
from downslope.jax.muon import muon

__all__ = ["adagrad", "adam", "adamw", "muon", "partition", "rmsprop", "sgd"]
