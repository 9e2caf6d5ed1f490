"""What a step of Muon is taken with, and how it is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from downslope.ops.torch import TorchOps
from downslope.torch.kernel import OPS
from downslope.torch.kernels.tables import Tables


@dataclass(frozen=True)
class Engine:
    """What a step is taken with.

    Attributes:
        ops: the operations of the iterations.
        tables: where Triton kernels update the momenta and write the steps, what they read addresses from.
        look: whether the host may read a value, which on a device would wait for it.
        ok: a bool on the device; where it is False, nothing is written.
        native: whether stacks of float32 are orthogonalised by what was compiled for this CPU.

    """

    ops: TorchOps = OPS
    tables: Tables | None = None
    look: bool = True
    ok: Tensor | None = None
    native: bool = False


def counted(engines: Sequence[str]) -> list[str]:
    """Return the engines of some parameters in words, each with how many it takes where they differ."""
    return [name if n == len(engines) else f"{name} for {n} of them" for name, n in Counter(engines).items()]


@dataclass(frozen=True)
class Write:
    """How steps are written: `p -= lr (d + weight_decay p)`, decayed only where it agrees if `cautious`.

    `fused` says whether torch's kernel may write them.
    """

    lr: Any
    weight_decay: float
    cautious: bool
    fused: bool = True
