"""Architectures with a label for every parameter, written down by hand.

timm and transformers import torchvision, whose operators have no CPU build beside this torch:
they are declared here, without a body, before anything imports it.
"""

import contextlib

from torch import library

_LIBRARY = library.Library("torchvision", "DEF")
for _schema in (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
):
    with contextlib.suppress(RuntimeError):  # a build that has them has been imported already
        _LIBRARY.define(_schema)

from . import language, plain, vision  # noqa: E402, F401  (each enters its architectures)
from .entry import ZOO, Architecture  # noqa: E402

__all__ = ["ZOO", "Architecture"]
