"""A task: a model to train, the data to train it on, and a measure that does not lie about it.

A task is the user's side of a comparison. It says how a model is built, which batches it sees,
what is minimised, and what is judged; it says nothing about the optimizer. It is a plain record
of functions, so a few lines in a file make one, and it knows no framework.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

MISSING: Any = object()

PARTS = {
    "build": "build(seed) -> model",
    "batches": "batches(seed) -> iterator of batches",
    "loss": "loss(model, batch) -> scalar to minimise",
    "evaluate": "evaluate(model) -> float to judge by, lower is better",
}


@dataclass(frozen=True)
class Task:
    """A training task: four functions and how long to train.

    Args:
        name: what it is called in tables and file names.
        build: `build(seed)` returns a new model, its parameters drawn from `seed`.
        batches: `batches(seed)` returns an iterator over batches that does not end; the same seed
            gives the same batches.
        loss: `loss(model, batch)` returns the scalar that is minimised.
        evaluate: `evaluate(model)` returns the number the model is judged by; lower is better. It
            is called in evaluation mode, without gradients, and with the clock stopped.
        steps: training steps of one run, unless the user says otherwise.
        goal: the value of `evaluate` that counts as solved; None derives a target from the runs.
        description: one sentence on model and data.
        metric: what `evaluate` measures, with its unit.
        example: `example(batch)` returns the tuple of inputs on which the model is traced; by
            default the first entry of a batch that is a tuple or list, else the batch itself.
        learning_rates: `{optimizer: (low, high)}` where this task needs another range to search
            than the optimizer's own.
        at_width: `at_width(width)` returns this task with a model of another width, to see how a
            learning rate moves with it; None where the model has no width.
        framework: the framework of the model: "torch".
        fingerprint: distinguishes two versions of a task of one name; `load` sets it.

    Raises:
        TypeError: a part is missing or is not a function.
        ValueError: a number is out of range.

    """

    name: str
    build: Callable[[int], Any] = MISSING
    batches: Callable[[int], Iterator[Any]] = MISSING
    loss: Callable[[Any, Any], Any] = MISSING
    evaluate: Callable[[Any], float] = MISSING
    steps: int = 1000
    goal: float | None = None
    description: str = ""
    metric: str = "validation loss"
    example: Callable[[Any], tuple[Any, ...]] | None = None
    learning_rates: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    at_width: Callable[[int], Task] | None = None
    framework: str = "torch"
    fingerprint: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise TypeError(f"name = {self.name!r}: a task needs a name, a string that is not empty")
        for part, signature in PARTS.items():
            value = getattr(self, part)
            if value is MISSING:
                raise TypeError(f"task {self.name!r} lacks {part}: give {signature}")
            if not callable(value):
                raise TypeError(f"{part} = {value!r} in task {self.name!r}: expected a function {signature}")
        for part in ("description", "metric"):
            value = getattr(self, part)
            if not isinstance(value, str):
                raise TypeError(f"{part} = {value!r} in task {self.name!r}: expected a string")
        if not isinstance(self.learning_rates, Mapping):
            raise TypeError(
                f"learning_rates = {self.learning_rates!r} in task {self.name!r}: "
                "expected {optimizer: (low, high)}"
            )
        for optimizer, ends in self.learning_rates.items():
            if not isinstance(ends, tuple | list) or [isinstance(v, int | float) for v in ends] != [True] * 2:
                raise TypeError(
                    f"learning_rates[{optimizer!r}] = {ends!r} in task {self.name!r}: expected (low, high)"
                )
        for part in ("example", "at_width"):
            value = getattr(self, part)
            if value is not None and not callable(value):
                raise TypeError(f"{part} = {value!r} in task {self.name!r}: expected a function or None")
        if not isinstance(self.steps, int) or isinstance(self.steps, bool) or self.steps < 1:
            raise ValueError(f"steps = {self.steps!r} in task {self.name!r}: expected a whole number above 0")
        if self.goal is not None and not (isinstance(self.goal, (int, float)) and math.isfinite(self.goal)):
            raise ValueError(f"goal = {self.goal!r} in task {self.name!r}: expected a finite number or None")
        if self.framework != "torch":
            raise ValueError(f"framework = {self.framework!r} in task {self.name!r}: expected 'torch'")

    def inputs(self, batch: Any) -> tuple[Any, ...]:
        """Return the inputs of the model in a batch, on which it can be traced."""
        if self.example is not None:
            return tuple(self.example(batch))
        return (batch[0],) if isinstance(batch, (tuple, list)) else (batch,)
