"""Training and probing a task in PyTorch: what of a comparison belongs to that framework."""

from downslope.compare.torch.probe import probe
from downslope.compare.torch.trainer import TorchTrainer, threads

__all__ = ["TorchTrainer", "probe", "threads"]
