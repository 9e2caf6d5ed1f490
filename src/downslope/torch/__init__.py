"""Downslope for PyTorch: optimizers that are `torch.optim.Optimizer`s, and partitions of models."""

try:
    import torch as _torch  # noqa: F401
except ImportError as error:
    raise ImportError("downslope.torch needs PyTorch: pip install 'downslope[torch]'") from error

from typing import TYPE_CHECKING, Any

from downslope.grouping.torch import partition
from downslope.torch.attention import AttentionLogits
from downslope.torch.clip import qk_clip, qk_clip_fused
from downslope.torch.elementwise import SGD, AdaGrad, Adam, AdamW, RMSProp
from downslope.torch.muon import Muon

if TYPE_CHECKING:
    from downslope.diagnose.torch.health import Diagnostics
    from downslope.diagnose.torch.profile import profile
    from downslope.diagnose.torch.rates import Replay, find_lr
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


def __getattr__(name: str) -> Any:
    # What measures optimizers stands above them, and is loaded only when it is asked for.
    if name == "Diagnostics":
        from downslope.diagnose.torch.health import Diagnostics

        return Diagnostics
    if name == "profile":
        from downslope.diagnose.torch.profile import profile

        return profile
    if name in ("Replay", "find_lr"):
        from downslope.diagnose.torch import rates

        return getattr(rates, name)
    if name == "watch":
        from downslope.diagnose.watch.torch import watch

        return watch
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
