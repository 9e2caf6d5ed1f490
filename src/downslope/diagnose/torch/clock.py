"""When something happened on a device: read from the host, or from events in a GPU's stream."""

from __future__ import annotations

import time
from typing import Any, Protocol

import torch


class Clock(Protocol):
    """Marks moments and says afterwards how far apart they were."""

    def mark(self) -> Any:
        """Return the moment at which the device has done all that it was given before."""

    def seconds(self, start: Any, end: Any) -> float:
        """Return the seconds between two marks; it may wait for the device."""

    def settle(self) -> None:
        """Wait until the device has done what it was given."""


class HostClock:
    """The host's clock; on a device other than the CPU it waits for it before it is read."""

    def __init__(self, device: torch.device) -> None:
        self.device = None if device.type == "cpu" else device

    def mark(self) -> float:
        """See `Clock`."""
        self.settle()
        return time.perf_counter()

    def seconds(self, start: float, end: float) -> float:
        """See `Clock`."""
        return end - start

    def settle(self) -> None:
        """See `Clock`."""
        if self.device is not None:
            torch.accelerator.synchronize(self.device)


class EventClock:
    """Events in the current CUDA stream; nobody waits for them until they are read.

    Each lies in the stream behind the work that was queued before it, so what lies between two of them
    is the time for which the device worked on that stretch, or waited for the host to hand it over.
    Stretches that follow each other add up to the whole, and the step runs as fast as without marks;
    what the host does while the device is busy takes no time here, as it takes none of the step.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def mark(self) -> Any:
        """See `Clock`."""
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self.device))
        return event

    def seconds(self, start: Any, end: Any) -> float:
        """See `Clock`."""
        end.synchronize()
        return float(start.elapsed_time(end)) / 1e3

    def settle(self) -> None:
        """See `Clock`."""
        torch.cuda.synchronize(self.device)


def clock_of(device: torch.device) -> Clock:
    """Return the clock of a device."""
    return EventClock(device) if device.type == "cuda" else HostClock(device)
