"""The tuning trials as Optuna studies, one an optimizer, in any database Optuna can reach.

The studies mirror the run folder's record. A trial that ends is written to both; when a comparison
is taken up again, each side is given what it lacks. So Optuna's own tools can look at a study
while it grows, and a comparison whose folder was lost, or that moves to another machine, takes
its tuning trials from the database.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from downslope.compare.plan import Plan
from downslope.compare.run import Record
from downslope.errors import MissingPackageError, UsageError, one_line
from downslope.shapes import DamagedError, parsed


def require_reachable(url: str) -> None:
    """Refuse a storage that cannot be opened; nothing is written, and no file is made.

    Raises:
        UsageError: no such database, no driver for it, or nobody answers.

    """
    try:
        from sqlalchemy import create_engine, text
    except ModuleNotFoundError:
        raise MissingPackageError("optuna", "compare", "keeping trials") from None
    try:
        engine = create_engine(url)
        file = engine.url.database if engine.dialect.name == "sqlite" else None
        if file in (None, "", ":memory:") or Path(str(file)).exists():
            with engine.connect() as connection:
                # Of a file that is no database SQLite says so when it is read.
                connection.execute(text("SELECT name FROM sqlite_master" if file else "SELECT 1"))
        elif not os.access(Path(str(file)).absolute().parent, os.W_OK):
            raise UsageError(f"no file can be made at {file}")
    # Whatever a database driver raises, from a bad URL to a lost connection, is about this URL.
    except Exception as error:
        raise _closed(url, error) from error


def _file(path: Path) -> Any:
    """Return the storage of a SQLite file; in a URL `?`, `%` and `{` of its name would be something else."""
    import sqlite3

    from optuna.storages import RDBStorage
    from sqlalchemy.pool import NullPool

    def connect() -> sqlite3.Connection:
        return sqlite3.connect(path, check_same_thread=False)

    return RDBStorage("sqlite://", engine_kwargs={"creator": connect, "poolclass": NullPool})


def _closed(url: str, error: Exception) -> UsageError:
    said = str(error) if isinstance(error, UsageError) else one_line(error)
    return UsageError(without_password(f"the storage {url!r} cannot be opened: {said}"))


def without_password(text: str) -> str:
    """Return a text in which passwords of URLs are stars.

    >>> without_password("postgresql://me:secret@host/trials, sqlite:///me@home.db")
    'postgresql://me:***@host/trials, sqlite:///me@home.db'

    """
    return re.sub(r"(://[^:/@\s]*):[^/@\s]*@", r"\1:***@", text)


class Studies:
    """The studies of one plan, in a SQLite file or in the database that a URL names.

    Raises:
        UsageError: the storage cannot be opened.

    """

    def __init__(self, at: Path | str, plan: Plan) -> None:
        try:
            import optuna
        except ModuleNotFoundError:
            raise MissingPackageError("optuna", "compare", "keeping trials") from None
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._optuna, self._shown = optuna, without_password(str(at))
        self._candidates = {c.name: c for c in plan.candidates}
        self._studies: dict[str, Any] = {}
        task = plan.task.replace("/", "_")
        try:
            storage = _file(at) if isinstance(at, Path) else optuna.storages.get_storage(at)
            for name in self._candidates:
                self._studies[name] = optuna.create_study(
                    study_name=f"{task}-{plan.digest()}-{name}", storage=storage, load_if_exists=True
                )
        # Whatever a database driver raises, from a bad URL to a lost connection, is about this URL.
        except Exception as error:
            raise _closed(str(at), error) from error

    def records(self) -> list[Record]:
        """Return the runs that the studies hold.

        Raises:
            UsageError: one of them is damaged.

        """
        complete = (self._optuna.trial.TrialState.COMPLETE,)
        found = []
        for name, study in self._studies.items():
            for trial in study.get_trials(deepcopy=False, states=complete):
                if "record" not in trial.user_attrs:
                    continue
                try:
                    record = Record.from_dict(parsed(trial.user_attrs["record"]))
                except (DamagedError, TypeError) as error:
                    raise UsageError(
                        f"trial {trial.number} of {name} in the storage {self._shown!r} is no record of a "
                        f"run ({error}): delete its study, or give another --storage"
                    ) from None
                found.append(record)
        return found

    def add(self, record: Record) -> None:
        """Add a tuning trial that ended; final runs are no part of a study.

        Raises:
            UsageError: the storage does not take it.

        """
        if record.kind != "tune":
            return
        distributions = self._optuna.distributions
        space = self._candidates[record.optimizer].space
        trial = self._optuna.trial.create_trial(
            params={"lr": record.lr, "weight_decay": record.weight_decay},
            distributions={
                "lr": distributions.FloatDistribution(*space.lr, log=True),
                "weight_decay": distributions.CategoricalDistribution(space.weight_decay),
            },
            value=record.final if math.isfinite(record.final) else math.inf,
            user_attrs={"record": json.dumps(record.to_dict()), "diverged": record.diverged},
        )
        try:
            self._studies[record.optimizer].add_trial(trial)
        except Exception as error:  # whatever a database driver raises
            raise UsageError(
                f"the storage {self._shown!r} does not take a trial: {one_line(error)}; what is done is kept "
                "in the run folder, and the same command goes on from there"
            ) from error

    def exchange(self, records: Iterable[Record]) -> list[Record]:
        """Give the studies the records they lack, and return those that only they had."""
        theirs = {r.key: r for r in self.records()}
        mine = {r.key: r for r in records}
        for key, record in mine.items():
            if key not in theirs:
                self.add(record)
        return [r for key, r in theirs.items() if key not in mine]
