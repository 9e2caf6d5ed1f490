"""Downslope for JAX: every rule as an `optax.GradientTransformation`, and partitions of parameter trees."""

try:
    import jax as _jax  # noqa: F401
    import optax as _optax  # noqa: F401
except ImportError as error:
    raise ImportError("downslope.jax needs JAX and optax: pip install 'downslope[jax]'") from error

from typing import TYPE_CHECKING, Any

from downslope.grouping.jax import partition
from downslope.jax.elementwise import adagrad, adam, adamw, rmsprop, sgd
from downslope.jax.muon import muon
from downslope.native.jax import engine

if TYPE_CHECKING:
    from downslope.diagnose.watch.jax import watch

__all__ = ["adagrad", "adam", "adamw", "engine", "muon", "partition", "rmsprop", "sgd", "watch"]


def __getattr__(name: str) -> Any:
    # What looks after a training stands above the optimizers, and is loaded only when it is asked for.
    if name == "watch":
        from downslope.diagnose.watch.jax import watch

        return watch
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
