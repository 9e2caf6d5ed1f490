"""What was measured of a training step, as plain numbers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

SCHEMA = 1

TRACE_LIMIT = 1_000_000
"""Bytes a trace stays under, so that it can be sent and opens at once."""


@dataclass(frozen=True)
class PartTime:
    """A part of a step: its path from the outside in, its milliseconds, its share of the step.

    The milliseconds are those of the part itself, without the parts inside it, so that all parts
    together are the step.
    """

    path: tuple[str, ...]
    milliseconds: float
    share: float

    @property
    def name(self) -> str:
        """The innermost name."""
        return self.path[-1]


@dataclass(frozen=True)
class LayerTime:
    """A module itself, without those inside it: milliseconds forward and backward, and its parameters."""

    name: str
    kind: str
    forward: float
    backward: float
    parameters: int


@dataclass(frozen=True)
class Memory:
    """Bytes. `peak` is the most that is held at a time in a step, `peak_in` the part in which that is."""

    parameters: int
    buffers: int
    gradients: int
    state: int
    activations: int
    peak: int
    peak_in: str


@dataclass(frozen=True)
class WhatIf:
    """A change that was tried: the step's milliseconds before and after, in turns with the step as it is.

    `ratio` is the median over rounds; below 1 is faster. `note` says what the change costs, or, where
    it could not be tried (`ratio` None), why.
    """

    name: str
    change: str
    before: float | None = None
    after: float | None = None
    ratio: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Profile:
    """Where a training step's time and memory go.

    Attributes:
        name: the task or the model.
        optimizer: its name.
        device: "cpu", "cuda:0".
        threads: of the host.
        parameters: how many there are.
        milliseconds: of a step, from windows in which nothing is measured but their length.
        low, high: the same of the fastest and of the slowest window.
        parts: the composition, from windows synchronised at every part; together they are the step.
        closure: the parts' own milliseconds, added up, against `milliseconds`: 1 where both windows agree.
        overhead: how much longer a step took in the synchronised windows, as a share: 0.02 is 2 %.
        layers: each module's forward and backward, from further steps.
        memory: in bytes.
        what_ifs: changes that were tried.
        spans: (path, start, duration) in seconds of the parts of some steps, for a trace.

    """

    name: str
    optimizer: str
    device: str
    threads: int
    parameters: int
    steps: int
    milliseconds: float
    low: float
    high: float
    parts: tuple[PartTime, ...]
    closure: float
    overhead: float
    layers: tuple[LayerTime, ...] = ()
    memory: Memory | None = None
    what_ifs: tuple[WhatIf, ...] = ()
    versus: Profile | None = None
    """The other optimizer, measured in turns with this one."""
    versus_ratio: float | None = None
    """This step's time against the other's, the median over rounds."""
    environment: dict[str, Any] = field(default_factory=dict)
    spans: tuple[tuple[tuple[str, ...], float, float], ...] = field(default=(), repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Return the profile as JSON types, without the spans of the trace."""
        own = asdict(replace(self, spans=(), versus=None))
        del own["spans"]
        versus = None if self.versus is None else self.versus.to_dict()
        return {"schema": SCHEMA, "kind": "profile", **own, "versus": versus}

    @classmethod
    def from_dict(cls, d: dict[str, Any]) -> Profile:
        """Return the profile that `to_dict` described."""
        values = {k: v for k, v in d.items() if k not in ("schema", "kind")}
        values["parts"] = tuple(PartTime(**{**p, "path": tuple(p["path"])}) for p in d["parts"])
        values["layers"] = tuple(LayerTime(**x) for x in d["layers"])
        values["memory"] = None if d["memory"] is None else Memory(**d["memory"])
        values["what_ifs"] = tuple(WhatIf(**w) for w in d["what_ifs"])
        values["versus"] = None if d["versus"] is None else cls.from_dict(d["versus"])
        return cls(**values)

    def trace(self) -> str:
        """Return the recorded steps in the Chrome trace format, under 1 MB: whole steps from the first on.

        Open it in chrome://tracing or ui.perfetto.dev.
        """
        steps: list[list[str]] = []
        for path, start, duration in self.spans:
            event = {
                "name": path[-1],
                "cat": "/".join(path),
                "ph": "X",
                "ts": round(1e6 * start, 1),
                "dur": round(1e6 * duration, 1),
                "pid": 0,
                "tid": 0,
            }
            if len(path) == 1 or not steps:
                steps.append([])
            steps[-1].append(json.dumps(event, separators=(",", ":")))
        named = json.dumps(
            {"name": "process_name", "ph": "M", "pid": 0, "args": {"name": f"{self.name}, {self.optimizer}"}}
        )
        lines, size = [named], len(named) + 40
        for step in steps:
            size += sum(len(line) + 2 for line in step)
            if size >= TRACE_LIMIT:
                break
            lines += step
        return '{"displayTimeUnit":"ms","traceEvents":[\n' + ",\n".join(lines) + "\n]}\n"

    def __str__(self) -> str:
        from downslope.diagnose.profile_table import text

        return text(self)


def left_out(tried: Sequence[str]) -> str:
    """Return the sentence on the change that takes long, where it was not among those tried, else "".

    >>> left_out(["dtype", "compile"])
    ''

    """
    if "compile" in tried:
        return ""
    return "Not tried: torch.compile of the model, which takes up to a minute (--what-if all)."


def parts_of(own: Sequence[tuple[tuple[str, ...], float]], whole: float) -> tuple[PartTime, ...]:
    """Return the parts of a step of `whole` milliseconds, from the seconds of each."""
    total = sum(seconds for _, seconds in own) or 1.0
    return tuple(PartTime(path, whole * s / total, s / total) for path, s in own)
