"""One process that answers lines: started, asked with a deadline, and ended with all its children."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import IO

PATIENCE = 1.0
"""Seconds that a process has to end after its input ended, before it is told to, and then killed."""

PIPE = 32_768
"""Bytes that a pipe takes for certain without being read from."""

LOST = "\x00"
"""In place of a line: the output ended."""


class DiedError(Exception):
    """The process ended before it answered."""


class StalledError(Exception):
    """The process did not answer in time."""


class Line:
    """A process in a session of its own: Ctrl-C does not reach it, and its children end with it."""

    def __init__(self, command: Sequence[str], cwd: str | None, env: Mapping[str, str] | None) -> None:
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=cwd,
            env=None if env is None else {**os.environ, **env},
            start_new_session=True,
        )
        assert self.process.stdin is not None
        self.stdin = self.process.stdin
        self.answers: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.complaints: deque[str] = deque(maxlen=20)
        self.readers = [
            threading.Thread(target=self._answers, args=(self.process.stdout,), daemon=True),
            threading.Thread(target=self._complaints, args=(self.process.stderr,), daemon=True),
        ]
        for reader in self.readers:
            reader.start()

    def _answers(self, stream: IO[bytes]) -> None:
        with contextlib.suppress(OSError, ValueError):
            for line in stream:
                self.answers.put(line.decode(errors="replace"))
        self.answers.put(LOST)

    def _complaints(self, stream: IO[bytes]) -> None:
        with contextlib.suppress(OSError, ValueError):
            for line in stream:
                self.complaints.append(line.decode(errors="replace").rstrip()[:500])

    def unasked(self) -> str | None:
        """Return a line that the process printed without being asked, or None."""
        try:
            line = self.answers.get_nowait()
        except queue.Empty:
            return None
        if line == LOST:
            raise DiedError
        return line

    def ask(self, line: bytes, seconds: float | None) -> str:
        """Return the line that answers a line.

        Raises:
            DiedError: the process ended instead.
            StalledError: no whole answer within so many seconds.

        """
        end = None if seconds is None else time.monotonic() + seconds
        try:
            if len(line) <= PIPE or seconds is None:
                self._write(line)
            else:
                self._write_watched(line, seconds)
            answer = self.answers.get(timeout=None if end is None else max(0.0, end - time.monotonic()))
        except queue.Empty:
            raise StalledError from None
        except OSError:
            answer = LOST
        if answer == LOST:
            raise DiedError
        return answer

    def _write(self, line: bytes) -> None:
        self.stdin.write(line)
        self.stdin.flush()

    def _write_watched(self, line: bytes, seconds: float) -> None:
        """Write what a pipe may not take at once; a process that does not read it is killed."""
        late = threading.Event()

        def kill() -> None:
            late.set()
            self.signal(signal.SIGKILL)

        timer = threading.Timer(seconds, kill)
        timer.start()
        try:
            self._write(line)
        except OSError:
            if late.is_set():
                raise StalledError from None
            raise
        finally:
            timer.cancel()

    def ending(self) -> str:
        """Return how a process that is ending ended: `exit code 3`, `signal SIGSEGV`."""
        try:
            code = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            return "its output closed"
        if code >= 0:
            return f"exit code {code}"
        try:
            return f"signal {signal.Signals(-code).name}"
        except ValueError:
            return f"signal {-code}"

    def said(self) -> str:
        """Return the last lines that it wrote to standard error, as `; stderr: …`, or nothing."""
        self.readers[1].join(0.2)  # what was written just before the end is still on its way
        lines = [line for line in list(self.complaints) if line.strip()]
        return f"; stderr: {' | '.join(lines[-8:])}" if lines else ""

    def signal(self, number: int) -> None:
        """Send a signal to the process and all its children."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if hasattr(os, "killpg"):
                os.killpg(self.process.pid, number)
            else:
                self.process.kill()

    def hang_up(self) -> None:
        """End the input of the process, which asks it to end."""
        with contextlib.suppress(OSError, ValueError):
            # Closing flushes, and would wait for a process that does not read.
            os.set_blocking(self.stdin.fileno(), False)
            self.stdin.close()

    def ended(self, until: float) -> bool:
        """Wait for the end of the process, to a time of the monotonic clock; return whether it came."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(max(0.0, until - time.monotonic()))
        return self.process.returncode is not None

    def kill(self) -> None:
        """End the process and all its children now."""
        self.signal(signal.SIGKILL)
        self.process.wait()
        for reader in self.readers:
            reader.join(0.2)
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                with contextlib.suppress(OSError, ValueError):
                    stream.close()


def end(lines: Sequence[Line], patience: float = PATIENCE) -> None:
    """End processes: their input ends, then they are told to, then they and their children are killed."""
    for line in lines:
        line.hang_up()
    until = time.monotonic() + patience
    for line in [line for line in lines if not line.ended(until)]:
        line.signal(signal.SIGTERM)
    until = time.monotonic() + patience
    for line in lines:
        line.ended(until)
        line.kill()
