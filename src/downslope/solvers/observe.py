"""What looks on while a run goes: the callback, the history, a log, a progress bar."""

from __future__ import annotations

import inspect
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np

from downslope.errors import UsageError, a_type
from downslope.solvers.core import Core


def check_alone(where: str, **asked: Any) -> None:
    """Raise where something is to look on that one problem on the host has alone.

    Raises:
        UsageError: naming what was asked for.

    """
    for name, value in asked.items():
        if value is not None and value is not False:
            raise UsageError(
                f"{name} with {where}: nothing can look on there; leave it out, or solve one at a time"
            )


BY_CALLBACK = "raised by the callback"
"""A note on what a callback raises, which is told apart from what the function does."""


class Observer:
    """Called after the first evaluation and after each step; `__call__` returns whether to stop.

    Args:
        callback: takes x, or `intermediate_result` by that name, after each step; returns True or raises
            StopIteration to stop.
        history: whether to keep a record of each step; "points" keeps x as well.
        log: a file that a JSON line is appended to at each step, written at once.
        progress: whether to show a bar.
        restore: makes the user's arrays of a vector.

    """

    def __init__(
        self, callback: Callable[..., Any] | None, history: bool | str, log: str | Path | None,
        progress: bool, restore: Callable[[Any], Any],
    ) -> None:  # fmt: skip
        if callback is not None and not callable(callback):
            raise UsageError(f"callback is {a_type(callback)}: expected a function")
        if history not in (True, False, "points"):
            raise UsageError(f"history = {history!r}: expected True, False or 'points'")
        self.callback = None if callback is None else _in_both_forms(callback)
        self.keep, self.restore = history, restore
        self.records: list[dict[str, Any]] = []
        self.began = time.perf_counter()
        self.file: IO[str] | None = None
        if log is not None:
            try:
                self.file = Path(log).open("a")  # noqa: SIM115
            except OSError as error:
                raise UsageError(f"log = {str(log)!r} cannot be written: {error.strerror}") from None
        self.bar = Bar() if progress else None

    @property
    def needed(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.callback or self.keep or self.file or self.bar)

    def __call__(self, core: Core) -> bool:
        """Take note of a step; return whether the callback asked to stop."""
        record = {
            "step": int(core.steps),
            "evaluations": int(core.evaluations),
            "value": float(core.value),
            "gradient": float(core.size),
            "seconds": time.perf_counter() - self.began,
        }
        if self.keep:
            point = {"x": self.restore(core.x)} if self.keep == "points" else {}
            self.records.append({**record, **point})
        if self.file is not None:
            self.file.write(json.dumps({**record, "x": _plain(core.x)}) + "\n")
            self.file.flush()
        if self.bar is not None:
            self.bar.show(record)
        if self.callback is None or not record["step"]:  # the start is the caller's own
            return False
        return self.callback(self.restore(_copied(core.x)), record)

    def close(self) -> None:
        """Close the log and the bar."""
        if self.file is not None:
            self.file.close()
        if self.bar is not None:
            self.bar.close()


class Bar:
    """A line that tells step, value and gradient, on stderr."""

    def __init__(self) -> None:
        from downslope.drawing import Console, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        self.progress = Progress(
            SpinnerColumn(),
            TextColumn("step {task.fields[step]}"),
            TextColumn("f = {task.fields[value]:.8g}"),
            TextColumn("gradient {task.fields[gradient]:.1e}"),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            transient=False,
        )
        self.task = self.progress.add_task("", total=None, step=0, value=float("nan"), gradient=float("nan"))
        self.progress.start()

    def show(self, record: dict[str, Any]) -> None:
        """Show a step."""
        shown = {k: record[k] for k in ("step", "value", "gradient")}
        self.progress.update(self.task, **shown)

    def close(self) -> None:
        """Leave the line as it is."""
        self.progress.stop()


def _copied(x: Any) -> Any:
    """Return a vector that a callback may write to; those of JAX and TensorFlow cannot be written to."""
    return x.copy() if isinstance(x, np.ndarray) else x.clone() if hasattr(x, "clone") else x


def _plain(x: Any) -> list[float]:
    if hasattr(x, "detach"):
        x = x.detach().cpu()
    return [float(v) for v in np.asarray(x)]


def _in_both_forms(given: Callable[..., Any]) -> Callable[[Any, dict[str, Any]], bool]:
    from scipy.optimize import OptimizeResult

    try:
        named = set(inspect.signature(given).parameters) == {"intermediate_result"}
    except ValueError:  # of some built-in functions nothing is known
        named = False

    def call(x: Any, record: dict[str, Any]) -> bool:
        try:
            if named:
                result = OptimizeResult(x=x, fun=record["value"], nit=record["step"], **record)
                return _is_true(given(intermediate_result=result))
            return _is_true(given(x))
        except StopIteration:
            return True
        except Exception as error:
            error.add_note(BY_CALLBACK)
            raise

    return call


def _is_true(returned: Any) -> bool:
    """Return whether a callback returned True, Python's or NumPy's; an array or a number says nothing."""
    return isinstance(returned, (bool, np.bool_)) and bool(returned)
