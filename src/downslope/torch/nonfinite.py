"""Whether any gradient holds NaN or infinity, at the price of reading it once.

On a CPU the host looks before anything is written. A device is never waited for: it decides by
itself whether a step is written (`flags`), and what it found reaches the host when it is done
(`Ledger`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from downslope.torch.native import finite
from downslope.words import listed

_SMALL = 1 << 14

ELSEWHERE = "a parameter, in another process,"

REMEDY = 'Look for the cause, or pass on_nonfinite="skip" to leave such steps out'


def has_values(t: Tensor) -> bool:
    """Whether a tensor holds numbers: those of the meta device, and fake ones, are shapes alone."""
    return not (t.is_meta or isinstance(t, FakeTensor))


def nonfinite(grads: Sequence[Tensor], *, compiled: bool = True, known: bool = False) -> list[int]:
    """Return the indices of the gradients, all of one dtype and on the CPU, that hold NaN or infinity.

    `known` says that compiled code takes them, as it took them a step ago.

    Where nothing is compiled for it: a sum is finite only if its terms are, and reads each gradient once; the
    converse fails where finite terms overflow together, so a sum that is not finite is followed by an exact
    look.
    """
    if compiled and finite.takes(grads, known=known):
        return finite.nonfinite(grads)
    small = [g for g in grads if g.numel() <= _SMALL]
    sums = [_wide(g) for g in grads if g.numel() > _SMALL]
    if small:
        sums.append(_wide(torch._C._nn.flatten_dense_tensors(small)))
    if bool(torch.stack(sums).sum().isfinite()):
        return []
    return [i for i, g in enumerate(grads) if not bool(g.isfinite().all())]


def _wide(g: Tensor) -> Tensor:
    return g.sum(dtype=torch.float32 if g.dtype == torch.float16 else None)


def flags(grads: Sequence[Tensor]) -> Tensor:
    """Return one bool a gradient, on its device: whether it holds NaN or infinity."""
    full = [i for i, g in enumerate(grads) if g.numel()]
    largest = torch._foreach_norm([grads[i] for i in full], torch.inf) if full else []
    found = dict(zip(full, largest, strict=True))
    empty = grads[0].new_zeros(())
    return torch.stack([found.get(i, empty) for i in range(len(grads))]).isfinite().logical_not_()


def recording(t: Tensor) -> bool:
    """Whether a CUDA graph is being recorded: events must not be asked then."""
    return t.device.type == "cuda" and torch.cuda.is_current_stream_capturing()


@dataclass
class _Entry:
    """What a device has seen in the gradients of some parameters, and the copy on its way.

    None stands for a parameter of which another process has seen it.
    `behind` says that there may be more to tell than the copy does, `recorded` that a CUDA graph writes here,
    and `replaced` that other entries have taken its parameters over.
    """

    params: Sequence[Tensor | None]
    seen: Tensor
    copy: Tensor | None = None
    event: Any = None
    on_its_way: bool = False
    behind: bool = False
    recorded: bool = False
    replaced: bool = False

    def note(self, bad: Tensor) -> None:
        """Add what was seen in a step."""
        self.seen.logical_or_(bad)
        self.behind = True
        self.recorded |= recording(self.seen)

    @property
    def done(self) -> bool:
        """Whether nothing more will be told here."""
        return self.replaced and not (self.behind or self.on_its_way or self.recorded)

    def send(self) -> None:
        """Start copying to the host, unless a copy is on its way."""
        if self.on_its_way or recording(self.seen):
            return
        if self.copy is None:
            on_gpu = self.seen.device.type == "cuda"
            self.copy = torch.empty(self.seen.shape, dtype=torch.bool, pin_memory=on_gpu)
            self.event = torch.cuda.Event() if on_gpu else None  # type: ignore[no-untyped-call]
        self.copy.copy_(self.seen, non_blocking=True)
        if self.event is not None:
            self.event.record()
        self.on_its_way, self.behind = True, False

    def wait(self) -> None:
        """Fetch what was seen, and wait for it."""
        self.copy, self.event, self.on_its_way, self.behind = self.seen.cpu(), None, True, False

    def arrived(self) -> list[Tensor | None]:
        """Return the parameters named by a copy that has arrived; wait for nothing."""
        if not self.on_its_way or recording(self.seen) or not (self.event is None or self.event.query()):
            return []
        assert self.copy is not None
        bad = self.copy.numpy().nonzero()[0].tolist()  # memory of the host: not an operation on a tensor
        self.on_its_way = False
        if self.event is None:
            self.copy = None
        return [self.params[i] for i in bad]


class Ledger:
    """What devices found in gradients while the host went on: steps left out, parameters to name."""

    def __init__(self, skipped: int = 0) -> None:
        self.skipped = skipped
        self._counts: dict[torch.device, Tensor] = {}
        self._entries: dict[tuple[int, ...], _Entry] = {}

    def count(self, bad: Tensor) -> None:
        """Count a step as left out if `bad`, a bool on the device."""
        if bad.device not in self._counts:
            self._counts[bad.device] = torch.zeros((), dtype=torch.int64, device=bad.device)
        self._counts[bad.device].add_(bad)

    def total(self) -> int:
        """Return how many steps were left out; waits for the devices."""
        return self.skipped + sum(int(count) for count in self._counts.values())

    def note(self, params: Sequence[Tensor | None], bad: Tensor) -> None:
        """Remember which gradients were bad, one bool a parameter, until the host has heard of it.

        None is a parameter that another process has met.
        """
        key = tuple(map(id, params))
        entry = self._entries.get(key)
        if entry is None or entry.replaced:
            for other, old in self._entries.items():
                old.replaced |= not set(key).isdisjoint(other)
            entry = self._entries.setdefault(key, _Entry(list(params), torch.zeros_like(bad)))
            entry.replaced = False
        entry.note(bad)
        if not torch.compiler.is_compiling():
            entry.send()

    def raise_late(self, name_of: Callable[[Tensor], str], *, wait: bool = False) -> None:
        """Raise ValueError if a device is known to have met a gradient that was not finite.

        Without `wait`, what the devices have not reported yet stays for a later call.
        """
        if wait:
            for entry in self._entries.values():
                entry.wait()
        bad = [(entry, found) for entry in self._entries.values() if (found := entry.arrived())]
        for key, entry in list(self._entries.items()):
            if entry.replaced and entry.behind:  # nobody else will send it
                entry.send()
            elif entry.done:
                del self._entries[key]
        if not bad:
            return
        for entry, _ in bad:
            entry.seen.zero_()
        names = listed(ELSEWHERE if p is None else name_of(p) for _, found in bad for p in found)
        raise ValueError(
            f"the gradient of {names} held NaN or infinity in an earlier step, which was left out: "
            f"the device has only now reported it. {REMEDY}"
        )
