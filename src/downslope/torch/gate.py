"""Whether a step is taken: not where a gradient is not finite, as its group asks.

On a CPU that is known before anything is written. Devices decide for themselves, each in the step that
it is given: `ok` of a job is a bool there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
import torch.distributed as dist
from torch import Tensor

from downslope.torch import kernels
from downslope.torch.job import Job
from downslope.torch.kernels.tables import Tables
from downslope.torch.nonfinite import ELSEWHERE, REMEDY, Ledger, flags, has_values, nonfinite
from downslope.torch.spread import most
from downslope.words import listed


def _asks(job: Job) -> bool:
    """Whether a job's gradients are looked at."""
    return job.group["on_nonfinite"] != "ignore" and has_values(job.grads[0])


def _nonfinite(jobs: Sequence[Job]) -> list[tuple[Job, int]]:
    """Return the gradients in which the host finds NaN or infinity: their jobs, and their places there."""
    alike: dict[tuple[torch.dtype, bool], list[Job]] = {}
    for job in jobs:
        if _asks(job) and not job.capturable:
            alike.setdefault((job.grads[0].dtype, job.group["fused"] is not False), []).append(job)
    found: list[tuple[Job, int]] = []
    for (_, compiled), some in alike.items():
        grads, known = list(chain.from_iterable(job.grads for job in some)), all(job.known for job in some)
        if bad := nonfinite(grads, compiled=compiled, known=known):
            places = [(job, i) for job in some for i in range(len(job.grads))]
            found += [places[i] for i in bad]
    return found


@dataclass
class Gate:
    """What looks at gradients, and where it writes down what it saw."""

    ledger: Ledger
    tables: Tables
    name_of: Callable[[Tensor], str]

    def goes_on(self, jobs: Sequence[Job], together: Sequence[dist.ProcessGroup], *, on_cpu: bool) -> bool:
        """Whether to go on: look at the gradients as each group asks. Processes that step `together` agree.

        `on_cpu` is whether it is the CPU on which they exchange numbers.

        Raises:
            ValueError: a gradient that is not finite, of a group that asks for it, is known of.

        """
        bad = _nonfinite(jobs)
        to_raise = [f"{self.name_of(j.params[i])}" for j, i in bad if j.group["on_nonfinite"] == "raise"]
        level = 2 if to_raise else int(bool(bad))  # to raise, to leave the step out, to go on
        if together and on_cpu:
            level = int(most(torch.tensor(level), together))
        if level == 2:
            names = listed(to_raise) or ELSEWHERE
            raise ValueError(f"the gradient of {names} holds NaN or infinity: nothing was changed. {REMEDY}")
        self.ledger.skipped += level
        return not level and self._let_devices_decide(jobs, together)

    def _let_devices_decide(self, jobs: Sequence[Job], together: Sequence[dist.ProcessGroup]) -> bool:
        """Give each capturable job its `ok`; only where the host has jobs of its own does it ask."""
        alike: dict[tuple[torch.device, torch.dtype, bool, bool], list[Job]] = {}
        for job in jobs:
            if _asks(job) and job.capturable:
                raises, compiled = job.group["on_nonfinite"] == "raise", job.group["fused"] is not False
                g = job.grads[0]
                alike.setdefault((g.device, g.dtype, compiled, raises), []).append(job)
        if not alike:
            return True
        found = []  # as on the host: to raise, to leave the step out, to go on
        for (_, _, compiled, raises), some in alike.items():
            bad = self._flags(list(chain.from_iterable(job.grads for job in some)), compiled)
            found.append(bad.any() * 2 if raises and together else bad.any())
            if raises:
                self.ledger.note(list(chain.from_iterable(job.params for job in some)), bad)
        level, *others = (one.to(found[0].device, non_blocking=True) for one in found)
        if others:
            level = torch.stack([level, *others]).amax()
        if together:
            own, level = level, most(level, together)
            self.ledger.note([None], ((level == 2) & (own < 2)).reshape(1))
        any_bad = level.bool()
        self.ledger.count(any_bad)
        ok = any_bad.logical_not()
        for job in jobs:
            if job.capturable:
                job.ok = ok.to(job.params[0].device, non_blocking=True)
        return all(job.capturable for job in jobs) or not bool(any_bad)

    def _flags(self, grads: Sequence[Tensor], compiled: bool) -> Tensor:
        """Return one bool a gradient, on their device: whether it holds NaN or infinity."""
        found = None
        if compiled and kernels.available(grads[0].device):
            from downslope.torch.kernels import steps

            found = steps.flags(grads, self.tables)
        return flags(grads) if found is None else found
