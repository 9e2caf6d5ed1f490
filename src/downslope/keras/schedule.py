"""Learning rates: numbers, schedules and callables, looked at before training starts."""

from __future__ import annotations

from numbers import Real
from typing import Any

import keras

from downslope.rules.checks import require, require_number, shown

_STEPS = (0, 1, 10, 100, 1_000, 10_000, 100_000, 1_000_000)


def check_learning_rate(learning_rate: Any) -> Any:
    """Return a learning rate that Keras takes: a float, a schedule, or a callable as it is.

    A schedule is asked for its value at steps 0, 1, 10, ... and around every number of steps that it
    was made with.

    Raises:
        ValueError: a number below 0 or not finite; a schedule that returns one.
        TypeError: anything else.

    """
    if isinstance(learning_rate, keras.optimizers.schedules.LearningRateSchedule):
        for at in _probes(learning_rate):
            value = float(keras.ops.convert_to_numpy(learning_rate(at)))
            require(
                f"learning_rate at step {at}",
                value,
                0 <= value < float("inf"),
                "a finite number of at least 0",
            )
        return learning_rate
    if callable(learning_rate):
        return learning_rate
    if isinstance(learning_rate, Real) and learning_rate is not True and learning_rate is not False:
        require_number("learning_rate", learning_rate, 0.0)
        return float(learning_rate)
    if getattr(learning_rate, "shape", None) == ():
        return check_learning_rate(float(learning_rate))
    raise TypeError(
        f"learning_rate = {shown(learning_rate)}: expected a number, a callable without arguments, "
        "or a schedule of keras.optimizers.schedules"
    )


def _probes(schedule: Any) -> list[int]:
    try:
        config = schedule.get_config()
    except NotImplementedError:
        config = {}
    made_with: list[int] = []
    for value in config.values():
        for one in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(one, int) and not isinstance(one, bool) and one > 0:
                made_with += [one - 1, one, one + 1]
    return sorted({*_STEPS, *made_with})
