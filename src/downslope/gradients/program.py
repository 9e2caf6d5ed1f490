"""Functions of any language: a program that reads points and writes values, a line each.

    asked     {"x": [1.0, 2.0]}
    answers   {"value": 3.5, "gradient": [0.5, -1.0]}

`gradient` may be left out. A value of null, NaN or Infinity says that the function is not defined at
the point; `{"error": "…"}` says why there is no answer. The program is started once and asked again
and again; it ends when its input ends. What it has to say to people goes to standard error.
"""

from __future__ import annotations

import json
import math
import queue
import shlex
import signal
import threading
import weakref
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from downslope.errors import UsageError
from downslope.gradients.foreign import rows_of
from downslope.gradients.pipe import DiedError, Line, StalledError, end

Vector = NDArray[np.float64]


class ProgramError(UsageError):
    """A program that ended, stalled, or answered what is no answer; the line holds its standard error."""


class Answer(NamedTuple):
    """What a program said of a point."""

    value: float
    gradient: Vector | None


class Program:
    """A function that a program evaluates.

    `program(x)` is the value at a vector, `program.value_and_gradient(x)` the value and the gradient,
    None where the program sends none. A matrix is a batch of vectors, spread over the workers.
    Several threads may call at once. Close it, or use it in a `with`: the processes end then, and at
    the latest with this one.

    Args:
        command: the program and its arguments, as typed (`"elixir f.exs"`) or as a list.
        workers: how many processes may run at once; each is started when it is first needed.
        timeout: seconds an evaluation may take, the start of the program included; None for no end.
        retries: how often an evaluation is asked again of a new process, where the old one died.
        cwd: folder in which the program runs.
        env: variables added to its environment.

    Raises:
        UsageError: an option out of its range, or no such program.

    """

    def __init__(
        self,
        command: str | Sequence[str],
        *,
        workers: int = 1,
        timeout: float | None = 60.0,
        retries: int = 1,
        cwd: str | Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        try:
            words = shlex.split(command) if isinstance(command, str) else command
        except ValueError as error:
            raise UsageError(f"command {command!r}: {str(error).lower()}") from None
        self.command = [str(word) for word in words]
        if not self.command:
            raise UsageError("command is empty: expected a program, as in 'python f.py'")
        for name, value, least in (("workers", workers, 1), ("retries", retries, 0)):
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise UsageError(f"{name} = {value!r}: expected a whole number from {least} on")
        if timeout is not None and not timeout > 0:
            raise UsageError(f"timeout = {timeout!r}: expected seconds above 0, or None")
        self.workers, self.timeout, self.retries = workers, timeout, retries
        self.cwd, self.env = (None if cwd is None else str(cwd)), env
        self.restarts = 0
        """How many processes were started in place of one that died or stalled."""
        self._lines: set[Line] = set()
        self._free: queue.LifoQueue[Line | None] = queue.LifoQueue()
        for _ in range(workers):
            self._free.put(None)
        self._lock = threading.Lock()
        self._closed = False
        self._finalizer = weakref.finalize(self, _end_all, self._lines)
        self._free.put(self._start(self._free.get()))  # a program that is not there is said now

    def __repr__(self) -> str:
        return f"Program({shlex.join(self.command)!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (self.command, self.workers, self.timeout, self.retries, self.cwd, self.env)

    def __enter__(self) -> Program:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the processes. A second time, nothing happens."""
        self._closed = True
        self._finalizer()

    def __call__(self, x: Any) -> Any:
        """Return the value at a vector, or the values at the rows of a matrix.

        Raises:
            ProgramError: the program died, stalled or answered what is no answer.

        """
        return self.value_and_gradient(x)[0]

    def value_and_gradient(self, x: Any) -> tuple[Any, Vector | None]:
        """Return the value and the gradient (None where the program sends none), also of each row.

        Raises:
            ProgramError: the program died, stalled or answered what is no answer.
            UsageError: x is no vector or matrix of finite numbers, or the program is closed.

        """
        array = rows_of(x, self)
        if not np.isfinite(array).all():
            raise UsageError(f"x for {self!r} is not finite, and JSON has no such numbers")
        if array.ndim == 1:
            return self._evaluate(array)
        answers = self._spread(array)
        values = np.array([answer.value for answer in answers])
        gradients = [answer.gradient for answer in answers if answer.gradient is not None]
        return values, np.array(gradients) if len(gradients) == len(answers) else None

    def _spread(self, rows: Vector) -> list[Answer]:
        """Evaluate rows on all workers; after an error or an interrupt, nothing of it goes on."""
        stop = threading.Event()
        with ThreadPoolExecutor(min(self.workers, len(rows))) as pool:
            asked = [pool.submit(self._evaluate, row, stop) for row in rows]
            try:
                return [answer.result() for answer in asked]
            except BaseException:
                stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
                with self._lock:
                    running = list(self._lines)
                for line in running:
                    line.signal(signal.SIGKILL)
                raise

    def _evaluate(self, x: Vector, stop: threading.Event | None = None) -> Answer:
        """Ask a free worker, and a new one where it dies."""
        request = json.dumps({"x": x.tolist()}).encode() + b"\n"
        for attempt in range(self.retries + 1):
            if self._closed:
                raise UsageError(f"{self!r} is closed: make another")
            line = self._free.get()
            try:
                line = self._start(line)
                return self._ask(line, request, x.size)
            except DiedError:
                assert line is not None
                how, said = line.ending(), line.said()
                self._drop(line)
                line = None
                if attempt == self.retries or (stop is not None and stop.is_set()):
                    times = "" if attempt == 0 else f" ({attempt + 1} times)"
                    raise ProgramError(f"{self._name} ended ({how}) at {_point(x)}{times}{said}") from None
            except BaseException:
                # Whatever it was, the next answer of this process would not be to the next question.
                self._drop(line)
                line = None
                raise
            finally:
                self._free.put(line)
        raise AssertionError

    @property
    def _name(self) -> str:
        return f"program {shlex.join(self.command)!r}"

    def _start(self, line: Line | None) -> Line:
        if line is not None:
            return line
        try:
            line = Line(self.command, self.cwd, self.env)
        except FileNotFoundError as error:
            raise UsageError(f"no program {error.filename!r}: expected a command as it is typed") from None
        except OSError as error:
            raise UsageError(f"{self._name} cannot be started: {error.strerror}") from None
        with self._lock:
            self._lines.add(line)
        return line

    def _drop(self, line: Line | None) -> None:
        if line is not None:
            line.kill()
            with self._lock:
                self._lines.discard(line)
                self.restarts += 1

    def _ask(self, line: Line, request: bytes, n: int) -> Answer:
        if (before := line.unasked()) is not None:
            raise ProgramError(
                f"{self._name} printed {_short(before)} unasked: expected one line for each line; "
                f"what is for people goes to standard error{line.said()}"
            )
        try:
            text = line.ask(request, self.timeout)
        except StalledError:
            raise ProgramError(
                f"{self._name} did not answer within {self.timeout:g} s: give it more time "
                f"(timeout=…), or see that it writes the line out (flush){line.said()}"
            ) from None
        try:
            return parse(text, n)
        except ValueError as error:
            raise ProgramError(f"{self._name} answered {_short(text)}: {error}{line.said()}") from None


def parse(text: str, n: int) -> Answer:
    """Return the value and gradient that a line holds.

    >>> parse('{"value": 2.5, "gradient": [1, 0]}', 2)
    Answer(value=2.5, gradient=array([1., 0.]))

    Raises:
        ValueError: it holds none; the message says what was expected.

    """
    wanted = 'expected one line {"value": number, "gradient": [numbers]}'
    try:
        answer = json.loads(text)
    except (ValueError, RecursionError):  # the latter of brackets a thousand deep
        raise ValueError(f"{wanted}; this is not JSON") from None
    if isinstance(answer, dict) and answer.get("error") is not None:
        raise ValueError("it says it failed")
    if not isinstance(answer, dict) or "value" not in answer:
        raise ValueError(f"{wanted}; this has no value")
    value = _number(answer["value"], "the value")
    gradient = answer.get("gradient")
    if gradient is None:
        return Answer(value, None)
    if not isinstance(gradient, list) or len(gradient) != n:
        size = f"{len(gradient)} numbers" if isinstance(gradient, list) else type(gradient).__name__
        raise ValueError(f"the gradient holds {size}, and x has {n}")
    return Answer(value, np.array([_number(g, f"gradient[{i}]") for i, g in enumerate(gradient)]))


def _number(value: Any, name: str) -> float:
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name} is {_short(json.dumps(value))}, not a number")
    try:
        return float(value)
    except OverflowError:  # an integer of more than 308 digits; 1e400 is infinite to JSON too
        return math.inf if value > 0 else -math.inf


def _short(text: str) -> str:
    text = text.strip()
    return repr(text if len(text) <= 120 else f"{text[:117]}...")


def _point(x: Vector) -> str:
    return f"x = {np.array2string(x, precision=6, threshold=6, edgeitems=2, separator=', ')}"


def _end_all(lines: set[Line]) -> None:
    ending = list(lines)
    lines.clear()
    end(ending)


def _again(
    command: list[str],
    workers: int,
    timeout: float | None,
    retries: int,
    cwd: str | None,
    env: Mapping[str, str] | None,
) -> Program:
    return Program(command, workers=workers, timeout=timeout, retries=retries, cwd=cwd, env=env)
