"""What the gradients of the parameters say of their layers: dead, exploding, vanishing, cut off."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping
from statistics import median

import torch
from torch import Tensor

from downslope.diagnose.watch.finding import Ailment
from downslope.diagnose.watch.torch.forward import Seen

WINDOW = 10
"""Backward passes that a unit must be without gradient to be called dead."""

DEAD = 0.5
"""The share of dead units from which a layer is spoken of."""

EXPLODING = 1e3
"""How many times its own recent median a gradient's norm must be."""

SPREAD = 1e7
"""How far relative gradients of weight matrices may lie apart before one is called vanishing."""

Said = tuple[Ailment, str, str]
"""Kind, name of the parameter, and the line."""


class Gradients:
    """Remembers what the gradients of earlier passes were like."""

    def __init__(self) -> None:
        self._norms: dict[str, deque[float]] = {}
        self._idle: dict[str, tuple[int, Tensor]] = {}
        self._left_out: dict[str, int] = {}
        self._passes = 0

    def look(self, parameters: Mapping[str, Tensor], seen: Seen | None) -> Iterator[Said]:
        """Yield what is found in the gradients of one backward pass."""
        learning = {name: p for name, p in parameters.items() if p.requires_grad}
        given = {name: p for name, p in learning.items() if p.grad is not None}
        for name in given:
            self._left_out.pop(name, None)
        if seen is not None and given:
            yield from self._cut_off(learning, seen)
        names = [n for n, p in given.items() if p.grad is not None and p.grad.layout is torch.strided]
        rows = {n: _row_norms(_grad(given[n])) for n in names}
        norms = dict(zip(names, _numbers([torch.linalg.vector_norm(r) for r in rows.values()]), strict=True))
        if not all(map(math.isfinite, norms.values())):
            return
        self._passes += 1
        yield from self._exploding(norms)
        matrices = {n: given[n] for n in names if given[n].ndim >= 2}
        for name in matrices:
            if seen is None or name not in seen.looked_up:
                yield from self._dead(name, rows[name] == 0)
        if self._passes % WINDOW == 1:
            yield from self._vanishing(matrices, norms)

    def _cut_off(self, learning: Mapping[str, Tensor], seen: Seen) -> Iterator[Said]:
        for name, p in learning.items():
            if p.grad is not None:
                continue
            if name not in seen.used:
                yield Ailment.UNUSED, name, f"{name} takes no part in the forward pass: it cannot learn"
                continue
            module, recorded, before = seen.used[name]
            if id(p) in seen.reached:  # of another loss, which may have a backward pass of its own
                self._left_out[name] = self._left_out.get(name, 0) + 1
                if self._left_out[name] < WINDOW:
                    continue
                why = f"no loss of {WINDOW} backward passes made use of the outputs that it leads to"
            elif not recorded:
                why = "it is used under no_grad"
            elif cuts := seen.cuts[before:]:
                why = f"detach() is called in {cuts[0] or 'the model'}"
            else:
                why = (
                    "look for detach(), item(), numpy(), argmax or a cast to integers after it, or for a "
                    "result that nothing reads"
                )
            yield (
                Ailment.DETACHED,
                name,
                f"{name} is used in {module or 'the model'}, but no gradient reaches it: {why}",
            )

    def _exploding(self, norms: Mapping[str, float]) -> Iterator[Said]:
        for name, norm in norms.items():
            past = self._norms.setdefault(name, deque(maxlen=2 * WINDOW))
            usual = median(past) if len(past) >= 5 else 0.0
            past.append(norm)
            if usual > 0 and norm > EXPLODING * usual:
                yield (
                    Ailment.EXPLODING,
                    name,
                    f"the gradient of {name} has norm {norm:.2g}, {norm / usual:,.0f} times its recent "
                    "median: clip gradients, or lower the learning rate",
                )

    def _vanishing(self, matrices: Mapping[str, Tensor], norms: Mapping[str, float]) -> Iterator[Said]:
        named = [n for n in matrices if norms[n] > 0]
        sizes = _numbers([torch.linalg.vector_norm(matrices[n].detach()) for n in named])
        relative = {n: norms[n] / size for n, size in zip(named, sizes, strict=True) if size > 0}
        if len(relative) < 2:
            return
        least, most = min(relative, key=relative.__getitem__), max(relative, key=relative.__getitem__)
        times = relative[most] / relative[least]
        if times > SPREAD:
            yield (
                Ailment.VANISHING,
                least,
                f"the gradient of {least}, relative to its weights, is {times:.0e} times smaller than that "
                f"of {most}: normalise between them, add skip connections, or scale the initialisation",
            )

    def _dead(self, name: str, still: Tensor) -> Iterator[Said]:
        passes, idle = self._idle.get(name, (0, still))
        idle = still if idle.shape != still.shape else idle & still
        passes += 1
        self._idle[name] = passes, idle
        if passes < WINDOW:
            return
        del self._idle[name]  # a new window begins
        share = float(idle.double().mean())
        if share >= DEAD:
            yield (
                Ailment.DEAD,
                name,
                f"{share:.0%} of the {len(idle)} units of {name} had no gradient in {passes} backward "
                "passes: a ReLU that never fires, or a unit that nothing reads; lower the learning rate, "
                "or use LeakyReLU or GELU",
            )


def _row_norms(grad: Tensor) -> Tensor:
    """Return the norm of each unit's gradient; of a vector, the vector."""
    return grad if grad.ndim < 2 else torch.linalg.vector_norm(grad, dim=tuple(range(1, grad.ndim)))


def _numbers(norms: list[Tensor]) -> list[float]:
    """Return the numbers, waiting once where all are on one device."""
    if len({n.device for n in norms}) > 1:
        return [float(n) for n in norms]
    numbers: list[float] = torch.stack([n.float() for n in norms]).tolist() if norms else []
    return numbers


def _grad(p: Tensor) -> Tensor:
    assert p.grad is not None
    return p.grad.detach()
