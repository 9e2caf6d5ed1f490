"""Which steps of a training are recorded, so that records take a small share of its time."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

EVERY = 100
"""Steps from one record to the next, at least."""
SHARE = 0.005
"""The share of the time from one record to the next that a record may take."""
BUDGET = 0.0075
"""The share of all the training since its first step that all records may take."""
GROWTH = 2
"""The most by which an interval may be longer than the one before."""
RECENT = 3
"""Records whose median is what the next one is expected to take."""


class Cadence:
    r"""Says at which step the next record is due.

    .. math::
        n_{k+1} = \max\left(100,\ \min\left(\max\left(\frac{r}{0.005\,s_k},\
            \frac{(R + r) / 0.0075 - T}{s_k}\right),\ 2 n_k\right)\right)

    is the number of steps from record k to the next, rounded up, where the n_k steps before it took s_k
    seconds each and the last three records r, their median; all records so far took R, and the training
    besides T. So a record that took long, the first or one that was interrupted, is paid back by those that
    come later than they would. The interval grows by steps, lest there be none for the length of a pause.

    Args:
        every: the interval where it is not to depend on time; None for the one above.
        clock: seconds, from any zero.

    Attributes:
        due: the step of the next record.

    >>> seconds = iter([0.0, 1.0, 1.03])
    >>> cadence = Cadence(clock=lambda: next(seconds))
    >>> cadence.start()
    >>> with cadence.record():  # 0.03 s, after a hundred steps of a hundredth
    ...     cadence.due
    100
    >>> cadence.follow(100)
    >>> cadence.due
    300

    """

    def __init__(self, every: int | None = None, clock: Callable[[], float] = time.perf_counter) -> None:
        self.due = self._steps = every or EVERY
        self._fixed, self._clock = every is not None, clock
        self._since = self._now = self._spent = self._gone = 0.0
        self._trained = self._all = 0.0
        self._costs: list[float] = []
        self._begun = False

    def start(self) -> None:
        """Note that a step is being taken: time goes on from the first, also from that after a pause."""
        if not self._begun:
            self._since = self._clock() - self._gone
            self._now += self._since
            self._begun = True

    def state_dict(self) -> dict[str, Any]:
        """Return what there is to know to go on, in numbers; times are since the last record."""
        return {
            "due": self.due, "steps": self._steps,
            "gone": self._clock() - self._since if self._begun else self._gone,
            "now": self._now - self._since, "spent": self._spent, "trained": self._trained,
            "all": self._all, "costs": list(self._costs),
        }  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state with the next step; a fixed interval is that of this cadence."""
        self.due = state["due"]
        self._steps = self._steps if self._fixed else state["steps"]
        self._since, self._begun = 0.0, False
        self._gone, self._now, self._spent = state["gone"], state["now"], state["spent"]
        self._trained, self._all, self._costs = state["trained"], state["all"], list(state["costs"])

    @contextmanager
    def record(self) -> Iterator[None]:
        """Count the time of this context as the record's, which may take several."""
        begun = self._clock()
        try:
            yield
        finally:
            self._now = self._clock()
            self._spent += self._now - begun

    def follow(self, step: int) -> None:
        """Note that the record of a step is complete, or was given up, and choose the step of the next."""
        if not self._fixed:
            self._steps = int(max(EVERY, min(self._wanted(), GROWTH * self._steps)))
        self.due = step + self._steps
        self._since, self._spent = self._now, 0.0

    def _wanted(self) -> float:
        """Return the steps after which a record as those before keeps both shares."""
        trained = self._now - self._since - self._spent
        self._trained += trained
        self._all += self._spent
        self._costs = [*self._costs, self._spent][-RECENT:]
        seconds, expected = trained / self._steps, statistics.median(self._costs)
        if not seconds > 0:
            return math.inf
        return math.ceil(max(expected / SHARE, (self._all + expected) / BUDGET - self._trained) / seconds)
