"""What one traced forward pass shows of each parameter: the facts that roles are read from.

A framework's tracer fills these in; `policy` reads them. Neither knows the other's names.
Depths count weighted contractions: raw data has depth 0, the result of a contraction is one
deeper than the deepest thing that went into it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal


class Kind(StrEnum):
    """How a parameter meets the data."""

    CONTRACTION = "contraction"
    CONVOLUTION = "convolution"
    RECURRENCE = "recurrence"
    LOOKUP = "lookup"
    JOIN = "join"
    ADDITION = "addition"
    SCALING = "scaling"
    UNKNOWN = "unknown"

    @property
    def multiplies(self) -> bool:
        """Whether data is contracted with the parameter."""
        return self in (Kind.CONTRACTION, Kind.CONVOLUTION, Kind.RECURRENCE)


@dataclass(frozen=True)
class Use:
    """One way in which a parameter meets the data.

    Args:
        kind: what is done with it.
        outputs: axes of the parameter that stay in the result.
        inputs: axes that are summed over.
        batch: axes that run beside axes of the data: experts, heads, groups.
        blocks: sizes of the parts that the result is cut into (or that the parameter is used
            in), along the flattened outputs; empty for one part.
        repeats: how often the pattern of blocks is repeated along the outputs.
        groups: how many groups a convolution has.
        along: the side of the weight that all groups lie along; the other has one group's axes.
        parts: (axis, low, high) of each range of the outputs that was used by itself.
        head: how much of the outputs one attention head takes, 0 where there are no heads.
        depth: the smallest depth of what it is contracted with.
        deepest: the largest.
        data: whether it is contracted with something that depends on the model's inputs.
        last: whether the result reaches an output of the model with no further contraction.
        feeds: whether the result goes into a further contraction.
        routes: whether the result decides which other weights the data meets.
        picked: whether data picks single entries of the result.
        operation: the operation's name, for the reason in words.

    """

    kind: Kind
    outputs: tuple[int, ...] = ()
    inputs: tuple[int, ...] = ()
    batch: tuple[int, ...] = ()
    blocks: tuple[int, ...] = ()
    repeats: int = 1
    groups: int = 1
    along: Literal["outputs", "inputs"] = "outputs"
    parts: tuple[tuple[int, int, int], ...] = ()
    head: int = 0
    depth: int = 0
    deepest: int = 0
    data: bool = True
    last: bool = False
    feeds: bool = False
    routes: bool = False
    picked: bool = False
    operation: str = ""


@dataclass(frozen=True)
class ParameterFacts:
    """A parameter, its other names, every use the trace saw, and whether its numbers are complex."""

    name: str
    shape: tuple[int, ...]
    uses: tuple[Use, ...] = ()
    trainable: bool = True
    aliases: tuple[str, ...] = field(default=())
    complex: bool = False


@dataclass(frozen=True)
class ModelFacts:
    """All parameters of a model in their own order, and the depth of the deepest output."""

    parameters: tuple[ParameterFacts, ...]
    depth: int
