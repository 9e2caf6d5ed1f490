"""Which steps of a training are recorded, so that records take a small share of its time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

EVERY = 100
"""Steps from one record to the next, at least."""
SHARE = 0.005
"""The share of a training's time that records may take."""
GROWTH = 2
"""The most by which an interval may be longer than the one before."""


class Cadence:
    r"""Says at which step the next record is due.

    .. math::
        n_{k+1} = \max\left(100,\ \min\left(\frac{r_k}{0.005\,s_k},\ 2 n_k\right)\right)

    is the number of steps from record k to the next, rounded up, where record k took r_k seconds, and the n_k
    steps before it s_k each. It grows by steps, since a first record, or one that was interrupted, takes
    longer than those that follow.

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
        self._since = self._now = self._spent = 0.0

    def start(self) -> None:
        """Note that the first step is being taken."""
        self._since = self._clock()

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
            seconds = (self._now - self._since - self._spent) / self._steps
            wanted = math.ceil(self._spent / (SHARE * seconds)) if seconds > 0 else math.inf
            self._steps = int(max(EVERY, min(wanted, GROWTH * self._steps)))
        self.due = step + self._steps
        self._since, self._spent = self._now, 0.0
