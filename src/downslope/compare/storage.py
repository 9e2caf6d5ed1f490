"""The tuning trials as Optuna studies, one an optimizer, in any database Optuna can reach.

The studies mirror the run folder's record. A trial that ends is written to both; when a comparison
is taken up again, each side is given what it lacks. So Optuna's own tools can look at a study
while it grows, and a comparison whose folder was lost, or that moves to another machine, takes
its tuning trials from the database.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any

from downslope.compare.plan import Plan
from downslope.compare.run import Record
from downslope.errors import MissingPackageError, UsageError, one_line


class Studies:
    """The studies of one plan.

    Raises:
        UsageError: the storage cannot be opened.

    """

    def __init__(self, url: str, plan: Plan) -> None:
        try:
            import optuna
        except ModuleNotFoundError:
            raise MissingPackageError("optuna", "compare", "keeping trials") from None
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._optuna, self._url = optuna, url
        self._candidates = {c.name: c for c in plan.candidates}
        self._studies: dict[str, Any] = {}
        task = plan.task.replace("/", "_")
        try:
            storage = optuna.storages.get_storage(url)
            for name in self._candidates:
                self._studies[name] = optuna.create_study(
                    study_name=f"{task}-{plan.digest()}-{name}", storage=storage, load_if_exists=True
                )
        # Whatever a database driver raises, from a bad URL to a lost connection, is about this URL.
        except Exception as error:
            raise UsageError(f"the storage {url!r} cannot be opened: {one_line(error)}") from error

    def records(self) -> list[Record]:
        """Return the runs that the studies hold."""
        complete = (self._optuna.trial.TrialState.COMPLETE,)
        return [
            Record.from_dict(json.loads(trial.user_attrs["record"]))
            for study in self._studies.values()
            for trial in study.get_trials(deepcopy=False, states=complete)
            if "record" in trial.user_attrs
        ]

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
                f"the storage {self._url!r} does not take a trial: {one_line(error)}; what is done is kept "
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
