"""Other libraries' Muon, each asked for the fastest that it offers for matrices on one device.

KellerJordan: `pip install muon-optimizer`; pytorch_optimizer, heavyball, timm, gram-newton-schulz: by these
names (`--no-deps`, lest they replace torch); dion and Emerging-Optimizers from their repositories. Those
that are not installed are left out by name.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any


def _from(module: str, name: str) -> Any:
    return getattr(importlib.import_module(module), name)


PEERS: dict[str, Callable[[list[Any]], Any]] = {
    "torch.optim": lambda p: _from("torch.optim", "Muon")(p, lr=1e-6, weight_decay=0.0),
    "KellerJordan": lambda p: _from("muon", "SingleDeviceMuon")(p, lr=1e-6, weight_decay=0.0),
    "pytorch_optimizer": lambda p: _from("pytorch_optimizer", "Muon")(
        [{"params": p, "use_muon": True}], lr=1e-6, weight_decay=0.0
    ),
    "timm": lambda p: _from("timm.optim.muon", "Muon")(p, lr=1e-6, weight_decay=0.0),
    "Emerging-Optimizers": lambda p: _from("emerging_optimizers.orthogonalized_optimizers", "Muon")(
        p, lr=1e-6, weight_decay=0.0, nesterov=True
    ),
    "HeavyBall": lambda p: _from("heavyball", "Muon")(p, lr=1e-6),
    "dion, Gram form": lambda p: _from("dion", "Muon")(
        p, lr=1e-6, weight_decay=0.0, nesterov=True, use_gram_newton_schulz=True
    ),
    "dion, Triton": lambda p: _from("dion", "Muon")(
        p, lr=1e-6, weight_decay=0.0, nesterov=True, use_triton=True
    ),
    "gram-newton-schulz": lambda p: _from("gram_newton_schulz", "Muon")(
        p, lr=1e-6, weight_decay=0.0, ns_use_kernels=importlib.util.find_spec("quack") is not None
    ),
}
