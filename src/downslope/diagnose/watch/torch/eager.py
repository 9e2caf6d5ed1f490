"""What is compiled within a model runs operation by operation while a pass is watched.

A compiler gives up where operations are watched, and some, as `flex_attention`'s, raise then.
"""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, suppress
from threading import Lock

import torch

_lock = Lock()
_watching = 0
_stance: AbstractContextManager[None] | None = None


def begin() -> None:
    """Switch compilers off, for all threads; passes of several may be watched at a time."""
    global _watching, _stance
    with _lock:
        _watching += 1
        if _stance is None and "torch._dynamo" in sys.modules:  # else nothing is compiled
            with suppress(RuntimeError):  # in code between compiled parts it may not be set
                _stance = torch.compiler.set_stance("force_eager")


def end() -> None:
    """Switch them on again, where no other pass is watched."""
    global _watching, _stance
    with _lock:
        _watching -= 1
        if not _watching and _stance is not None:
            _stance.__exit__(None, None, None)
            _stance = None
