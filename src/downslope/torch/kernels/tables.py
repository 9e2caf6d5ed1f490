"""Addresses on the device: what a kernel reads that takes many tensors in one launch."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Row = tuple[int, ...]

_REMEMBERED = 64
"""Tables kept: gradients come back to a few sets of addresses, from step to step."""


class Tables:
    """Tables of integers on a device, each made once.

    A table that a CUDA graph records is kept for good, since the graph reads it whenever it is replayed.
    """

    def __init__(self) -> None:
        self._made: OrderedDict[tuple[torch.device, Row], Tensor] = OrderedDict()
        self._recorded: list[tuple[Tensor, Tensor]] = []

    def named(self, name: Row, device: torch.device, rows: Callable[[], Sequence[Row]]) -> Tensor:
        """Return the int64 table (rows, columns) of a name, made of `rows()` where it is not remembered.

        Args:
            name: all the numbers that decide the rows.
            device: where it is wanted.
            rows: returns its rows.

        """
        if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            pinned, table = _sent(rows(), device)
            self._recorded.append((pinned, table))
            return table
        key = (device, name)
        if key not in self._made:
            self._made[key] = _sent(rows(), device)[1]
            if len(self._made) > _REMEMBERED:
                self._made.popitem(last=False)
        self._made.move_to_end(key)
        return self._made[key]


def _sent(rows: Sequence[Row], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the numbers in memory of the host, and their copy on the device, which nothing waits for."""
    host = torch.tensor(rows, dtype=torch.int64, pin_memory=device.type == "cuda")
    return host, host.to(device, non_blocking=True)
