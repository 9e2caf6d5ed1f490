"""The batches that a search trains on: from a list, a loader or a function, without taking any away."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from downslope.errors import UsageError


def begun(batches: Any, seed: int) -> Iterator[Any]:
    """Return an iterator over batches, or over those that a function of the seed returns.

    Raises:
        UsageError: they are nothing to iterate over.

    """
    source, said = (batches(seed), "batches(seed)") if callable(batches) else (batches, "batches")
    try:
        return iter(source)
    except TypeError:
        raise UsageError(
            f"{said} is of type {type(source).__name__}: expected "
            + ("an iterator" if callable(batches) else "a list, a data loader, or a function of a seed")
        ) from None


def lasting(stream: Iterator[Any]) -> Iterator[Any]:
    """Yield what there is.

    Raises:
        UsageError: it ends.

    """
    taken = 0
    for taken, batch in enumerate(stream, 1):  # noqa: B007 - counted for the error
        yield batch
    raise UsageError(
        f"batches(seed) ended after {taken} steps: it must go on for as long as training does; "
        "a list that is to be repeated is given itself"
    )


class Replay:
    """An iterator whose batches can be had again, so that a search leaves its position as it was.

    >>> stream = Replay(iter([1, 2, 3]))
    >>> next(stream)
    1
    >>> with_search = [b for b, _ in zip(stream.ahead(), range(2))]
    >>> with_search, list(stream)
    ([2, 3], [2, 3])

    """

    def __init__(self, batches: Iterable[Any]) -> None:
        self._source = iter(batches)
        self._waiting: list[Any] = []

    def __iter__(self) -> Replay:
        return self

    def __next__(self) -> Any:
        return self._waiting.pop(0) if self._waiting else next(self._source)

    def ahead(self) -> Iterator[Any]:
        """Yield what comes next without taking it."""
        at = 0
        while True:
            if at == len(self._waiting):
                try:
                    self._waiting.append(next(self._source))
                except StopIteration:
                    return
            yield self._waiting[at]
            at += 1


class Ahead:
    """A `Replay` looked at from where it is, again and again."""

    def __init__(self, replay: Replay) -> None:
        self.replay = replay

    def __iter__(self) -> Iterator[Any]:
        return self.replay.ahead()
