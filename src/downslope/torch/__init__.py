"""Downslope for PyTorch: optimizers that are `torch.optim.Optimizer`s, and partitions of models."""

try:
    import torch as _torch  # noqa: F401
except ImportError as error:
    raise ImportError("downslope.torch needs PyTorch: pip install 'downslope[torch]'") from error

from downslope.grouping.torch import partition
from downslope.torch.elementwise import SGD, AdaGrad, Adam, AdamW, RMSProp
from downslope.torch.muon import Muon

__all__ = ["SGD", "AdaGrad", "Adam", "AdamW", "Muon", "RMSProp", "partition"]
