"""Whether a step may be taken: no NaN or infinity in a gradient or in the learning rate.

Where values can be looked at (PyTorch, and TensorFlow and JAX run eagerly) a bad one raises before
anything has changed. `tf.function` raises from its graph, by an assertion that every write waits
for. XLA, in TensorFlow and JAX, can raise nothing (and an error in the middle of a jitted JAX step
would lose the weights that were donated to it): there a mask holds the step back, it is counted, and
the end of `fit` raises.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import keras

from downslope.keras.backend import BACKEND, in_xla
from downslope.ops.protocol import Array
from downslope.words import listed

ON_NONFINITE = ("raise", "skip", "ignore")

_REMEDY = 'nothing was changed. Look for the cause, or pass on_nonfinite="skip" to leave such steps out'


@dataclass(frozen=True)
class Decision:
    """Whether to take a step: yes or no, or as the graph's `mask` says, or after its `assertion`."""

    go: bool = True
    mask: Array | None = None
    assertion: Any = None

    def order(self) -> AbstractContextManager[Any]:
        """Return a context whose writes wait for the assertion."""
        if self.assertion is None:
            return nullcontext()
        import tensorflow as tf

        context: AbstractContextManager[Any] = tf.control_dependencies([self.assertion])
        return context


def decide(names: Sequence[str], values: Sequence[Array], mode: str) -> Decision:
    """Look at the values that a step depends on.

    Args:
        names: what to call each value in an error.
        values: gradients, and the learning rate.
        mode: "raise" or "skip".

    Raises:
        ValueError: a value is not finite, it can be seen here, and `mode` is "raise".

    """
    if not values:
        return Decision()
    good = [keras.ops.all(keras.ops.isfinite(value)) for value in values]
    if all(map(_is_known, good)):
        bad = [name for name, ok in zip(names, good, strict=True) if not bool(ok)]
        if bad and mode == "raise":
            raise ValueError(describe(bad))
        return Decision(go=not bad)
    flags = keras.ops.stack(good)
    fine = keras.ops.all(flags)
    if mode == "skip" or BACKEND == "jax" or in_xla():
        return Decision(mask=fine)
    return Decision(assertion=_assertion(names, flags, fine))


def describe(bad: Sequence[str]) -> str:
    """Return the error's text."""
    return f"NaN or infinity in {listed(bad)}: {_REMEDY}"


def _is_known(value: Array) -> bool:
    if BACKEND == "jax":
        import jax

        return not isinstance(value, jax.core.Tracer)
    if BACKEND == "tensorflow":
        return hasattr(value, "numpy")
    return True


def _assertion(names: Sequence[str], flags: Array, fine: Array) -> Any:
    import tensorflow as tf

    bad = tf.strings.reduce_join(tf.boolean_mask(tf.constant(list(names)), ~flags), separator=", ")
    return tf.debugging.Assert(fine, [tf.strings.join(["NaN or infinity in ", bad, ": ", _REMEDY])])
