"""The plan of a comparison: every run it consists of, fixed before the first one starts.

Each optimizer gets the same number of tuning trials, drawn from its declared space by the same
scrambled Sobol' sequence and all run with one seed. The best of them is run again on fresh seeds,
and only these final runs are judged. Because a trial's hyper-parameters depend on nothing but the
plan, a comparison that was interrupted goes on exactly as it would have gone.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from downslope.compare.optimizers import CANDIDATES, Candidate, Space
from downslope.errors import MissingPackageError, UsageError, closest

SCHEDULES = ("linear", "cosine")
MOST_SEED = 2**62
"""Seeds begin below this: every framework's generators take those and the ones that follow."""
CURVE_POINTS = 20
"""How many times a final run is evaluated, about evenly spaced."""


@dataclass(frozen=True)
class RunSpec:
    """One run: an optimizer, its hyper-parameters, a seed, and whether its curve is recorded.

    `kind` is "tune" or "final"; `index` counts the tuning trials of an optimizer and is the seed
    of a final run.
    """

    kind: str
    optimizer: str
    index: int
    seed: int
    lr: float
    weight_decay: float

    @property
    def key(self) -> tuple[str, str, int]:
        """What tells this run from the others of its plan."""
        return (self.kind, self.optimizer, self.index)

    def __str__(self) -> str:
        return (
            f"{self.optimizer}, {'tuning trial' if self.kind == 'tune' else 'final run, seed'} {self.index}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the run as JSON types."""
        return asdict(self)


@dataclass(frozen=True)
class Plan:
    """What is compared and how; two plans with one `identity` give the same runs."""

    task: str
    fingerprint: str
    candidates: tuple[Candidate, ...]
    trials: int
    seeds: tuple[int, ...]
    tuning_seed: int
    steps: int
    schedule: str
    warmup: int
    goal: float | None

    def __post_init__(self) -> None:
        for name in ("trials", "steps"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} = {getattr(self, name)}: expected a whole number above 0")
        if not self.seeds:
            raise UsageError("seeds = 0: expected at least 1 seed for the final runs")
        if self.goal is not None and not math.isfinite(self.goal):
            raise UsageError(f"goal = {self.goal}: expected a finite number")
        if not 0 <= self.warmup < self.steps:
            raise UsageError(
                f"warmup = {self.warmup}: expected 0 up to {self.steps - 1}, one less than steps"
            )
        if self.schedule not in SCHEDULES:
            raise UsageError(
                f"unknown schedule {self.schedule!r}: expected {' or '.join(SCHEDULES)}"
                f"{closest(self.schedule, SCHEDULES)}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON types."""
        own = {f.name: getattr(self, f.name) for f in fields(self)}
        return {**own, "seeds": list(self.seeds), "candidates": [c.to_dict() for c in self.candidates]}

    @classmethod
    def from_dict(cls, d: Mapping[str, Any]) -> Plan:
        """Return the plan that `to_dict` described."""
        candidates = tuple(
            replace(CANDIDATES[c["name"]], space=Space.from_dict(c["space"])) for c in d["candidates"]
        )
        return cls(**{**d, "seeds": tuple(d["seeds"]), "candidates": candidates})

    def identity(self) -> dict[str, Any]:
        """Return everything that decides the results, as JSON types."""
        return {
            "task": self.task,
            "task version": self.fingerprint,
            "steps": self.steps,
            "goal": self.goal,
            "trials": self.trials,
            "seeds": list(self.seeds),
            "tuning seed": self.tuning_seed,
            "schedule": self.schedule,
            "warmup": self.warmup,
            "optimizers": [c.to_dict() for c in self.candidates],
        }

    def digest(self) -> str:
        """Return eight hexadecimal digits that stand for `identity`."""
        text = json.dumps(self.identity(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:8]

    def tuning_runs(self) -> list[RunSpec]:
        """Return all tuning trials, the optimizers taking turns so that all meet the same machine."""
        drawn = {c.name: points(c.space, self.trials, self.tuning_seed) for c in self.candidates}
        return [
            RunSpec("tune", c.name, i, self.tuning_seed, *drawn[c.name][i])
            for i in range(self.trials)
            for c in self.candidates
        ]

    def final_runs(self, optimizer: str, lr: float, weight_decay: float) -> list[RunSpec]:
        """Return the runs of an optimizer's best trial on fresh seeds."""
        return [RunSpec("final", optimizer, seed, seed, lr, weight_decay) for seed in self.seeds]

    def total_runs(self) -> int:
        """Return how many runs there are if every optimizer is run to the end."""
        return len(self.candidates) * (self.trials + len(self.seeds))

    def evaluations(self, kind: str) -> list[int]:
        """Return the steps after which a run of this kind is evaluated; the last is always there."""
        if kind == "tune":
            return [self.steps]
        every = max(1, math.ceil(self.steps / CURVE_POINTS))
        return sorted({*range(0, self.steps, every), self.steps})

    def factor(self, step: int) -> float:
        """Return what the learning rate is multiplied with at a step, counted from 0.

        It rises linearly over the warm-up, then falls towards zero, which it would reach one step
        after the last.
        """
        if step < self.warmup:
            return (step + 1) / self.warmup
        left = (self.steps - step) / (self.steps - self.warmup)
        return left if self.schedule == "linear" else 0.5 * (1 - math.cos(math.pi * left))


@functools.cache
def points(space: Space, count: int, seed: int) -> tuple[tuple[float, float], ...]:
    """Return `count` quasi-random (lr, weight_decay) of a space; more of them begin with the same."""
    try:
        import optuna
    except ModuleNotFoundError:
        raise MissingPackageError("optuna", "compare", "drawing hyper-parameters") from None

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    axes: Mapping[str, Any] = {
        "lr": optuna.distributions.FloatDistribution(*space.lr, log=True),
        # A number in [0, 1) that picks among the choices: every version of Optuna draws it quasi-randomly.
        "choice": optuna.distributions.FloatDistribution(0.0, 1.0),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.QMCSampler(qmc_type="sobol", scramble=True, seed=seed)
    study = optuna.create_study(sampler=sampler)
    # The sampler learns the space from the first finished trial and draws that one at random: give it one.
    known = {"lr": space.lr[0], "choice": 0.0}
    study.add_trial(optuna.trial.create_trial(params=known, distributions=dict(axes), value=0.0))
    drawn = [study.ask(dict(axes)).params for _ in range(count)]
    choices = space.weight_decay
    last = len(choices) - 1
    return tuple((float(d["lr"]), choices[min(int(d["choice"] * len(choices)), last)]) for d in drawn)


def require_seed(seed: int, said: str) -> None:
    """Raise `UsageError` unless every framework's generators take a seed; `said` comes before it."""
    if not 0 <= seed < MOST_SEED:
        raise UsageError(f"{said} {seed}: expected a whole number from 0 to below {MOST_SEED}")


def fresh_seeds(count: int, tuning_seed: int) -> tuple[int, ...]:
    """Return the seeds of the final runs: those that follow the tuning seed."""
    if count < 1:
        raise UsageError(f"seeds = {count}: expected a whole number above 0")
    require_seed(tuning_seed, "seed =")
    return tuple(range(tuning_seed + 1, tuning_seed + 1 + count))


def differences(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> Sequence[str]:
    """Return what differs between two identities, in words."""
    keys = [k for k in {**mine, **theirs} if mine.get(k) != theirs.get(k)]
    return [
        f"{k} differ" if k == "optimizers" else f"{k} {theirs.get(k)} there, {mine.get(k)} now" for k in keys
    ]
