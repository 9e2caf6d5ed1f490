"""The run folder: what a comparison leaves on disk, and how it is taken up again.

    run.json       the plan, its identity and what the first look at the task found
    trials.jsonl   one line for each run that ended, written through to the disk before the next
    study.db       the tuning trials as Optuna studies (unless they live in a server's database)
    result.json    the result as of the last time the command ended
    report.html    the page

`trials.jsonl` is the record; everything else can be made again from it and `run.json`. A process
killed while it writes leaves at most half a line at the end, which is cut off on the next start.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from downslope.compare.plan import Plan, differences
from downslope.compare.run import Record
from downslope.compare.stored import Run, Schema
from downslope.errors import UsageError
from downslope.files import write_text
from downslope.shapes import DamagedError, parsed, require

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
"""What a disk answers that takes no more."""


class RunFolder:
    """A folder that holds one comparison."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.run_file = path / "run.json"
        self.trials_file = path / "trials.jsonl"
        self.result_file = path / "result.json"
        self.report_file = path / "report.html"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from working in this folder; a killed process keeps nothing.

        Raises:
            UsageError: another process is working in it, it cannot be made, or the disk is full.

        """
        import filelock

        lock = filelock.FileLock(self.path / ".lock", timeout=0)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except filelock.Timeout:
            raise UsageError(
                f"another process is at work in {self.path}: wait for it, or give another --out"
            ) from None
        except OSError as error:
            raise UsageError(
                f"{self.path} cannot be a run folder: {error.strerror}; give another --out"
            ) from None
        try:
            yield
        except OSError as error:
            own = error.filename is not None and Path(os.fsdecode(error.filename)).parent == self.path
            if error.errno not in FULL and not own:
                raise
            raise UsageError(
                f"{self.path} cannot be written: {error.strerror}; what is done is kept, and the same "
                "command goes on from here where there is room"
            ) from error
        finally:
            lock.release()

    def require_possible(self, what: str = "trainings") -> None:
        """Refuse a path where no folder can be, before any work is done for it, and what others would lose.

        Raises:
            UsageError: it, or what it is to stand in, is a file or cannot be written to; or it holds a page
                of something else than is to be written: "trainings", "a solve" or "a race".

        """
        trainings = self.run_file.exists() or self.trials_file.exists()
        race, solve = (self.path / "race.json").exists(), self.result_file.exists()
        held = "trainings" if trainings else "a race" if race else "a solve" if solve else what
        if held != what:
            raise UsageError(f"{self.path} holds {held}, which this would write over: give another --out")
        nearest = next(p for p in (self.path.absolute(), *self.path.absolute().parents) if p.exists())
        if not nearest.is_dir() or not os.access(nearest, os.W_OK):
            why = "is no folder" if not nearest.is_dir() else "cannot be written to"
            raise UsageError(f"{self.path} cannot be a run folder: {nearest} {why}; give another --out")

    def read_run(self) -> dict[str, Any]:
        """Return what `write_run` wrote.

        Raises:
            UsageError: this is no run folder, it is damaged, or of a version that this program does not know.

        """
        if not self.run_file.is_file():
            raise UsageError(
                f"{self.path} is not a run folder: it has no run.json; expected the folder of a comparison"
            )
        try:
            run: dict[str, Any] = parsed(read_bytes(self.run_file))
            schema = require(run, Schema)["schema"]
            if schema == 1:
                partition = require(run, Run)["partition"]
                plan = Plan.from_dict(run["plan"])
                names = {c.name for c in plan.candidates}
                if not names:
                    raise DamagedError("plan.candidates is empty")
                if partition is not None and partition["optimizer"] not in names:
                    raise DamagedError(f"partition.optimizer: expected one of {', '.join(sorted(names))}")
        except UsageError as error:  # of the plan, whose numbers are out of range
            raise self.damaged(f"plan: {error}") from None
        except DamagedError as error:
            raise self.damaged(error) from None
        if schema != 1:
            raise UsageError(f"{self.run_file} has schema {schema}: this version reads schema 1")
        return run

    def damaged(self, what: object) -> UsageError:
        """Return the error for a `run.json` in which something is not as it was written."""
        return UsageError(f"{self.run_file} is damaged ({what}): move the folder away and start again")

    def open_run(self, run: dict[str, Any]) -> dict[str, Any]:
        """Write what a comparison starts from, or return what an earlier start of the same one wrote.

        Raises:
            UsageError: the folder holds a comparison of another identity, or something else.

        """
        if self.run_file.exists():
            there = self.read_run()
            if different := differences(run["identity"], there["identity"]):
                raise UsageError(
                    f"{self.path} holds another comparison ({'; '.join(different)}): give another --out, "
                    "or the same options again to resume it"
                )
            return there
        if self.trials_file.exists():
            raise UsageError(f"{self.path} has trials.jsonl but no run.json: give another --out")
        write_json(self.run_file, run)
        return run

    def read_records(self) -> list[Record]:
        """Return the runs that ended, in the order in which they did; the last line may be half a line.

        Raises:
            UsageError: a whole line is no record.

        """
        if not self.trials_file.exists():
            return []
        lines = read_bytes(self.trials_file).split(b"\n")
        records: dict[tuple[str, str, int], Record] = {}
        for number, line in enumerate(lines[:-1], start=1):
            try:
                record = Record.from_dict(parsed(line))
            except DamagedError as error:
                raise UsageError(
                    f"{self.trials_file}, line {number}, is no record of a run ({error}): delete the line, "
                    "and the same command of downslope compare runs it again"
                ) from None
            records[record.key] = record
        return list(records.values())

    def mend(self) -> None:
        """Cut off half a line that a killed process left at the end."""
        if not self.trials_file.exists():
            return
        with self.trials_file.open("r+b") as file:
            whole = file.read().rfind(b"\n") + 1
            file.truncate(whole)
            os.fsync(file.fileno())

    def append(self, record: Record) -> None:
        """Add a run that ended; when this returns, it is on the disk."""
        line = json.dumps(record.to_dict(), allow_nan=False) + "\n"
        with self.trials_file.open("ab") as file:
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())


def read_bytes(path: Path) -> bytes:
    """Return what a file holds.

    Raises:
        UsageError: it cannot be read.

    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None


def plain_name(text: str) -> str:
    """Return a text as a part of the name of a file or folder: of letters, digits and `-_.`, not too long.

    >>> plain_name("mgh:watson"), plain_name("a/b c"), plain_name("../x")
    ('mgh-watson', 'a-b-c', '..-x')

    """
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in text[:60])


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that a reader finds the old file or the new one, whole."""
    write_text(path, as_text(value))


def as_text(value: Any) -> str:
    """Return JSON as it is written to files and printed."""
    return json.dumps(value, indent=1, allow_nan=False) + "\n"


def require_writable(path: Path, option: str) -> None:
    """Refuse a file that cannot be written before the work that it is to hold.

    Raises:
        UsageError: it is a folder, or stands in none that can be written to.

    """
    if path.is_dir():
        raise UsageError(f"{path} is a folder: give a file as {option}")
    folder = next(p for p in path.absolute().parents if p.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise UsageError(f"{path} cannot be written, in {folder}: give another {option}")


def write_file(path: Path, text: str, option: str) -> None:
    """Write text to a file that an option names, in a folder that is made where there is none.

    Raises:
        UsageError: it cannot be written.

    """
    if path.is_dir():
        raise UsageError(f"{path} is a folder: give a file as {option}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}; give another {option}") from None
