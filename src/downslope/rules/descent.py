"""The one line of the library that knows the learning rate and decoupled weight decay."""

from __future__ import annotations

from typing import Any

from downslope.ops.protocol import Array, Ops


def step(
    x: Ops, p: Array, direction: Array, *, lr: Any, weight_decay: float = 0.0, cautious: bool = False
) -> Array:
    """Return what to add to a parameter: -lr (direction + weight_decay · p).

    Decoupled decay: Loshchilov & Hutter, 2019, arXiv:1711.05101. With `cautious`, decay acts only
    where it pulls the same way as the direction, that is where direction · p >= 0 (Chen et al.,
    2025, arXiv:2510.12402).
    """
    if weight_decay:
        decay = weight_decay * p
        if cautious:
            decay = x.where(direction * p >= 0, decay, x.zeros_like(decay))
        direction = direction + decay
    return -lr * direction
