"""A tape on which the parts of a step leave when they began and ended."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from downslope.diagnose.torch.clock import Clock


@dataclass
class Entry:
    """A part's path from the outside in, and its marks; `end` is None while it lasts."""

    path: tuple[str, ...]
    start: Any
    end: Any = None


class Tape:
    """Records nested parts of one step after the other."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.entries: list[Entry] = []
        self._path: tuple[str, ...] = ()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Record a part; parts inside it are its own."""
        before, self._path = self._path, (*self._path, name)
        entry = Entry(self._path, self.clock.mark())
        self.entries.append(entry)
        try:
            yield
        finally:
            entry.end = self.clock.mark()
            self._path = before

    def told(self, parts: Mapping[str, float]) -> None:
        """Record parts of what is being recorded, in seconds, that something else timed just now."""
        end = self.clock.mark()
        if not isinstance(end, float):
            return  # an event in a stream, where the host's seconds mean nothing
        at = end - sum(parts.values())
        for name, seconds in parts.items():
            self.entries.append(Entry((*self._path, name), at, at + seconds))
            at += seconds

    def spans(self) -> list[tuple[tuple[str, ...], float, float]]:
        """Return (path, start, duration) in seconds of every part, from the first mark on."""
        if not self.entries:
            return []
        zero = self.entries[0].start
        return [
            (e.path, self.clock.seconds(zero, e.start), self.clock.seconds(e.start, e.end))
            for e in self.entries
        ]


def self_times(spans: Sequence[tuple[tuple[str, ...], float, float]]) -> dict[tuple[str, ...], float]:
    """Return what each part took beyond the parts inside it; together they are the outermost parts.

    >>> self_times([(("step",), 0.0, 1.0), (("step", "forward"), 0.0, 0.25), (("step", "rest"), 0.5, 0.5)])
    {('step',): 0.25, ('step', 'forward'): 0.25, ('step', 'rest'): 0.5}

    """
    total: dict[tuple[str, ...], float] = {}
    for path, _, seconds in spans:
        total[path] = total.get(path, 0.0) + seconds
    own = dict(total)
    for path, seconds in total.items():
        if len(path) > 1:
            own[path[:-1]] -= seconds
    return own
