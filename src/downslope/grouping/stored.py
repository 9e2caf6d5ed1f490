"""The type of a file that holds a partition, version 1."""

from __future__ import annotations

from typing import Annotated, NotRequired, TypedDict

from downslope.grouping.partition import RULES, Role
from downslope.shapes import Count, Whole, one_of


class View(TypedDict):
    """A `MatrixView`."""

    outputs: list[Whole]
    inputs: list[Whole]
    batch: list[Whole]
    blocks: list[Whole]
    blocks_along: Annotated[str, one_of(["outputs", "inputs"])]
    repeats: NotRequired[Count]


class Assigned(TypedDict):
    """An `Assignment`."""

    name: str
    shape: list[Whole]
    role: Annotated[str, one_of(Role)]
    rule: Annotated[str, one_of(RULES)]
    view: View | None
    reason: str
    warning: NotRequired[str]


class Saved(TypedDict):
    """What `Partition.save` wrote."""

    assignments: list[Assigned]
