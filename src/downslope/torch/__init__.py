"""Downslope for PyTorch: optimizers that are `torch.optim.Optimizer`s, and partitions of models."""

try:
    import torch as _torch  # noqa: F401
except ImportError as error:
    raise ImportError("downslope.torch needs PyTorch: pip install 'downslope[torch]'") from error

from importlib import import_module
from typing import TYPE_CHECKING, Any

from downslope.grouping.torch import partition
from downslope.torch.attention import AttentionLogits
from downslope.torch.clip import qk_clip, qk_clip_fused
from downslope.torch.elementwise import SGD, AdaGrad, Adam, AdamW, RMSProp
from downslope.torch.muon import Muon

if TYPE_CHECKING:
    from downslope.diagnose.torch.batches import Replay
    from downslope.diagnose.torch.health import Diagnostics
    from downslope.diagnose.torch.profile import profile
    from downslope.diagnose.torch.rates import find_lr
    from downslope.diagnose.watch.torch import watch

__all__ = [
    "SGD",
    "AdaGrad",
    "Adam",
    "AdamW",
    "AttentionLogits",
    "Diagnostics",
    "Muon",
    "RMSProp",
    "Replay",
    "find_lr",
    "partition",
    "profile",
    "qk_clip",
    "qk_clip_fused",
    "watch",
]


# What measures optimizers stands above them, and is loaded only when it is asked for.
_ABOVE = {
    "Diagnostics": "downslope.diagnose.torch.health",
    "Replay": "downslope.diagnose.torch.batches",
    "find_lr": "downslope.diagnose.torch.rates",
    "profile": "downslope.diagnose.torch.profile",
    "watch": "downslope.diagnose.watch.torch",
}


def __getattr__(name: str) -> Any:
    if name not in _ABOVE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_ABOVE[name]), name)
