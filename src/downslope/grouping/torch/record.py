"""All tensors and all uses of one forward pass.

Tensors are held weakly, so that activations are freed when the model lets go of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.weak import WeakIdKeyDictionary

from downslope.grouping.flow.info import RAW, Info, Trace
from downslope.grouping.flow.uses import Uses
from downslope.grouping.labels import of_shape


class Record(Uses):
    """All tensors and uses of one forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.infos: Any = WeakIdKeyDictionary()
        self.unknown = RAW
        self.slot: Callable[[torch.Tensor], int | None] = lambda _: None
        self._written: dict[int, tuple[StorageWeakRef, Info]] = {}
        self._held: set[int] = set()

    def begin(
        self, parameters: Iterable[torch.Tensor], slot: Callable[[torch.Tensor], int | None] = lambda _: None
    ) -> None:
        """Begin a forward pass: tensors of an earlier one are forgotten, uses are kept.

        `slot` returns the number of the parameter in whose place a tensor stands by now, if any.
        """
        self.slot = slot
        self.infos = WeakIdKeyDictionary()
        self._written, self._held, self.shapes = {}, set(), []
        for number, tensor in enumerate(parameters):
            self.shapes.append(tuple(tensor.shape))
            self.infos[tensor] = Info(weights=(Trace(number, of_shape(self.shapes[-1])),))
            key = _storage(tensor)
            if key is not None:
                self._held.add(key[0])

    def get(self, tensor: torch.Tensor) -> Info:
        """Return what is known; a tensor never seen before is what `unknown` says."""
        known: Info | None = self.infos.get(tensor)
        if known is None or (isinstance(tensor, torch.nn.Parameter) and not known.weights):
            known = self._first_seen(tensor, known or self.unknown)
        info = known
        key = _storage(tensor) if self._written else None
        if key is None or key[0] not in self._written:
            return info
        ref, late = self._written[key[0]]
        if ref.expired():  # type: ignore[no-untyped-call]
            del self._written[key[0]]
            return info
        return Info(
            () if late.data else info.weights,
            info.data or late.data,
            max(info.depth, late.depth),
            self.open(info.writers | late.writers),
            info.results,
            info.choices | late.choices,
        )

    def _first_seen(self, tensor: torch.Tensor, otherwise: Info) -> Info:
        """Return what a tensor is that no operation made: a part of another, a parameter, a literal."""
        number = self.slot(tensor) if isinstance(tensor, torch.nn.Parameter) else None
        if number is not None:  # FSDP has put an unsharded parameter in the place of its shard
            self.infos[tensor] = Info(weights=(Trace(number, of_shape(tuple(tensor.shape))),))
            info: Info = self.infos[tensor]
            return info
        inner = getattr(tensor, "_local_tensor", None)  # a distributed tensor, made from a local one
        if inner is not None and inner in self.infos:
            return _resized(self.infos[inner], tuple(inner.shape) == tuple(tensor.shape))
        return otherwise

    def set(self, tensor: torch.Tensor, info: Info) -> None:
        """Say what a new tensor is."""
        self.infos[tensor] = info
        inner = getattr(tensor, "_local_tensor", None)
        if inner is not None:
            self.infos[inner] = _resized(info, tuple(inner.shape) == tuple(tensor.shape))

    def write(self, tensor: torch.Tensor, info: Info) -> None:
        """Say what was written into a tensor, and so into all that share its memory."""
        key = _storage(tensor)
        if key is not None and key[0] in self._held:
            return
        old = self.get(tensor)
        self.infos[tensor] = info
        if key is not None and (info.data or info.choices):
            merged = Info(
                data=info.data,
                depth=max(info.depth, old.depth),
                writers=info.writers | old.writers,
                choices=info.choices | old.choices,
            )
            self._written[key[0]] = (StorageWeakRef(key[1]), merged)  # type: ignore[no-untyped-call]


def _resized(info: Info, same: bool) -> Info:
    """Return what a shard is: its axes are not those of the whole, unless there is one shard."""
    return info if same else replace(info, weights=(), results=())


def _storage(tensor: torch.Tensor) -> tuple[int, Any] | None:
    try:
        storage = tensor.untyped_storage()
    except (RuntimeError, NotImplementedError):  # sparse, nested and wrapped tensors have none
        return None
    return storage._cdata, storage
