"""The types of what a run folder holds; whoever reads a file there holds it against its type."""

from __future__ import annotations

from typing import Annotated, Any, NotRequired, TypedDict

from downslope.compare.optimizers import CANDIDATES
from downslope.shapes import Count, DamagedError, Number, Positive, Whole, one_of, require, two

Name = Annotated[str, one_of(CANDIDATES)]


class Space(TypedDict):
    """Where an optimizer's trials are drawn from."""

    lr: Annotated[list[Positive], two]
    weight_decay: list[Number]


class Candidate(TypedDict):
    """An optimizer that takes part."""

    name: Name
    space: Space


class Plan(TypedDict):
    """The plan; the ranges of its numbers are told by `downslope.compare.plan.Plan`."""

    task: str
    fingerprint: str
    candidates: list[Candidate]
    trials: Whole
    seeds: list[Whole]
    tuning_seed: Whole
    steps: Whole
    schedule: str
    warmup: Whole
    goal: Number | None


class Task(TypedDict):
    """What is trained."""

    name: str
    metric: str
    description: NotRequired[str]
    steps: NotRequired[Whole]
    parameters: NotRequired[Whole]


class Environment(TypedDict):
    """Where the first look was taken."""

    device: str


class Assignment(TypedDict):
    """A parameter in the partition that is shown."""

    name: str
    rule: str
    role: str
    shape: list[Whole]
    matrices: str
    reason: str
    warning: str


class Partition(TypedDict):
    """The partition of an optimizer that traces the model."""

    optimizer: Name
    assignments: list[Assignment]


class Schema(TypedDict):
    """What tells the version of a file."""

    schema: Whole


class Run(TypedDict):
    """`run.json`, schema 1."""

    identity: dict[str, Any]
    plan: Plan
    command: str
    created: str
    task: Task
    environment: Environment
    partition: Partition | None
    repeatable: NotRequired[bool]
    jobs: Count
    threads: Count


class Curve(TypedDict):
    """A run's evaluations; a loss that is null was infinite."""

    steps: list[Whole]
    seconds: list[Number]
    loss: list[Number | None]


class Record(TypedDict):
    """A line of `trials.jsonl`."""

    kind: Annotated[str, one_of(["tune", "final"])]
    optimizer: Name
    index: Whole
    seed: Whole
    lr: Positive
    weight_decay: Number
    final: Number | None
    diverged: bool
    steps: Whole
    seconds: Number
    cpu_seconds: Number
    seconds_per_step: Number
    threads: Count
    jobs: Count
    curve: Curve


class Field(TypedDict):
    """A grid's map of one optimizer."""

    name: str
    label: str
    rows: list[Number]
    columns: list[Number]
    values: list[list[Number | None]]
    done: list[list[bool]]
    short: NotRequired[list[list[bool]]]
    best_row: Number | None
    best: Number | None
    row_factor: Number | None
    column_factor: Number | None
    room: Whole
    lost: Whole
    cells: Whole


class Grid(TypedDict):
    """`result.json` where it holds a grid of `--sensitivity`."""

    kind: Annotated[str, one_of(["sensitivity"])]
    name: str
    metric: str
    row: str
    column: str
    lost: str
    short: NotRequired[str]
    steps: Whole
    sentence: str
    command: str
    environment: dict[str, Any]
    fields: list[Field]


def require_grid(found: Any) -> None:
    """Hold a grid against its type, and its maps against their rows and columns.

    Raises:
        DamagedError: it does not fit.

    """
    grid = require(found, Grid)
    for i, field in enumerate(grid["fields"]):
        rows, columns = len(field["rows"]), len(field["columns"])
        for name in {"values", "done", "short"} & field.keys():
            if [len(row) for row in found["fields"][i][name]] != [columns] * rows:
                raise DamagedError(f"fields[{i}].{name} has not {rows} rows of {columns}")
        if ("short" in field) != ("short" in grid):
            raise DamagedError(f"fields[{i}].short and short belong together, and one is missing")
