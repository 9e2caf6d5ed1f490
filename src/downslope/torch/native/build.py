"""C++ compiled for this CPU, whose threads are those of torch's own OpenMP library."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

import torch

from downslope.native import build
from downslope.native.build import BuildError, Made, Source

__all__ = ["FLAGS", "BuildError", "Source", "load", "made"]

FLAGS = ("-fopenmp",)


def load(source: Source) -> ctypes.CDLL:
    """Return the library that `made` makes."""
    return made(source).code


def made(source: Source) -> Made:
    """Return what is compiled, as `downslope.native.build.made` does.

    Raises:
        BuildError: there is none.

    """
    return build.made(source._replace(flags=(*FLAGS, *source.flags), links=_openmp()))


@cache
def _openmp() -> tuple[str, ...]:
    """Return torch's library: with another, its threads would wait for the same cores."""
    folder = Path(torch.__file__).parent / "lib"
    return ("-Wl,--as-needed", *sorted(map(str, folder.glob("libgomp*.so*"))))
