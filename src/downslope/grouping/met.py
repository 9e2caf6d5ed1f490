"""Uses under observation while data is followed through a graph of operations, layer by layer.

A tracer says in which order stages of operations are met and what each does with its variables; this
keeps count of depth, of which results have reached where, and of rankings that route.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

from downslope.grouping.facts import Kind, Use

Axes = tuple[int, ...]


@dataclass(frozen=True)
class Meeting:
    """How a variable meets the data, before it is known where in the model that happens.

    `again` says that the data is a state made by earlier results.
    """

    variable: Any
    kind: Kind
    operation: str
    outputs: Axes = ()
    inputs: Axes = ()
    batch: Axes = ()
    blocks: tuple[int, ...] = ()
    head: int = 0
    again: bool = False


Stage = list[Meeting]


@dataclass
class Met:
    """A use of a variable under observation."""

    meeting: Meeting
    depth: int
    deepest: int
    last: bool = False
    feeds: bool = False
    routes: bool = False
    parts: set[tuple[int, int, int]] = field(default_factory=set)

    def use(self) -> Use:
        """Return the use as the policy reads it."""
        m = self.meeting
        return Use(
            m.kind,
            m.outputs,
            m.inputs,
            m.batch,
            blocks=m.blocks,
            parts=tuple(sorted(self.parts)),
            head=m.head,
            depth=self.depth,
            deepest=self.deepest,
            last=self.last,
            feeds=self.feeds,
            routes=self.routes,
            operation=m.operation,
        )


@dataclass(frozen=True)
class Info:
    """What is known of a tensor: how deep it is, and which uses have reached it with no further contraction.

    `choices` are the uses whose results were ranked to make it; `fresh` those whose outputs are its
    last axis, untouched.
    """

    depth: int = 0
    writers: frozenset[int] = frozenset()
    choices: frozenset[int] = frozenset()
    fresh: frozenset[int] = frozenset()


@dataclass
class Record:
    """All uses that were seen, and the depth of the deepest output."""

    uses: list[Met] = field(default_factory=list)
    depth: int = 0

    def of(self, variable: Any) -> tuple[Use, ...]:
        """Return the uses of a variable."""
        return tuple(met.use() for met in self.uses if met.meeting.variable is variable)

    def finish(self, outputs: Sequence[Info]) -> None:
        """Say what leaves the model."""
        for info in outputs:
            self.depth = max(self.depth, info.depth)
            for use in info.writers:
                self.uses[use].last = True

    def meet(self, stage: Stage, info: Info) -> Info:
        """Enter the uses of one stage; return what is known of its result."""
        if not stage:
            return info
        multiplied = [m for m in stage if m.kind.multiplies]
        writers = set() if multiplied else set(info.writers)
        fresh: set[int] = set()
        for m in stage:
            number = self._enter(m, info)
            if m.kind.multiplies:
                writers.add(number)
                fresh.add(number)
            if m.kind is Kind.RECURRENCE:  # the state reads every earlier result of both kernels
                self.uses[number].feeds = True
        depth, choices = info.depth, info.choices
        if multiplied:
            for use in info.writers:
                self.uses[use].feeds = True
            depth, choices = depth + 1, frozenset()
        if any(m.kind is Kind.LOOKUP for m in stage):
            depth, writers = max(depth, 1), set()
        return Info(depth, frozenset(w for w in writers if not self.uses[w].feeds), choices, frozenset(fresh))

    def part(self, info: Info, low: int, high: int) -> None:
        """Say that positions [low, high) of a result's last axis were used by themselves."""
        for number in info.fresh:
            met = self.uses[number]
            if len(met.meeting.outputs) == 1 and not met.meeting.blocks:
                met.parts.add((met.meeting.outputs[0], low, high))

    def _enter(self, meeting: Meeting, info: Info) -> int:
        depth = info.depth
        depth += meeting.again
        for number, met in enumerate(self.uses):
            same = met.meeting
            if same.variable is meeting.variable and (same.kind, same.outputs) == (
                meeting.kind,
                meeting.outputs,
            ):
                met.depth, met.deepest = min(met.depth, depth), max(met.deepest, depth)
                return number
        self.uses.append(Met(meeting, depth, depth))
        return len(self.uses) - 1

    def routes(self, infos: Sequence[Info]) -> None:
        """Note a ranking that decides what other data goes on."""
        for i, info in enumerate(infos):
            for use in info.choices:
                others = [o for j, o in enumerate(infos) if j != i]
                if any(use not in o.writers and use not in o.choices and o.depth for o in others):
                    self.uses[use].routes = True


def merged(infos: Sequence[Info]) -> Info:
    """Return what is known of a tensor that was made from these."""
    return Info(
        max((i.depth for i in infos), default=0),
        frozenset().union(*(i.writers for i in infos)),
        frozenset().union(*(i.choices for i in infos)),
    )


def contraction(variable: Any, letters: str, other: str, kept: str, operation: str) -> Meeting:
    """Return the meeting that an equation describes: `letters` for the variable, `other` for the data."""
    outputs: list[int] = []
    inputs: list[int] = []
    batch: list[int] = []
    for axis, letter in enumerate(letters):
        side = inputs if letter not in kept else batch if letter in other else outputs
        side.append(axis)
    if not outputs and not inputs:
        return Meeting(variable, Kind.SCALING, operation, outputs=tuple(batch))
    head = prod(variable.shape[axis] for axis in outputs[1:]) if len(outputs) > 1 else 0
    return Meeting(
        variable, Kind.CONTRACTION, operation, tuple(outputs), tuple(inputs), tuple(batch), head=head
    )
