"""Whether a matrix fits into memory, asked before it is made."""

from __future__ import annotations

import os
from pathlib import Path

from downslope.errors import UsageError

SHARE = 0.8
"""Of the free memory that one matrix may take."""


def free_memory() -> int | None:
    """Return the bytes that this process may still take on the host, or None where nothing tells."""
    found = []
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        found += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")]
    except OSError:
        pass
    if not found:
        try:
            found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
        except (ValueError, OSError, AttributeError):
            return None
    try:  # a container's limit
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
        if limit != "max":
            found.append(max(int(limit) - used, 0))
    except (OSError, ValueError):
        pass
    return min(found)


def require_memory(shape: tuple[int, ...], dtype: str, free: int | None, what: str, remedy: str) -> None:
    """Raise where an array does not fit into `free` bytes.

    >>> require_memory((10, 10), "float64", 10**6, "the Jacobian", "use another method")
    >>> require_memory((10**6, 10**5), "float64", 10**9, "J", "go without it")
    Traceback (most recent call last):
        ...
    downslope.errors.UsageError: J of 1000000 x 100000 in float64 needs 800 GB, 1 GB is free: go without it

    """
    size = {"float32": 4, "float64": 8}[dtype]
    for n in shape:
        size *= n
    if free is not None and size > SHARE * free:
        shown = " x ".join(str(n) for n in shape)
        raise UsageError(
            f"{what} of {shown} in {dtype} needs {readable(size)}, {readable(free)} is free: {remedy}"
        )


def readable(size: int) -> str:
    """Return a number of bytes as people write it."""
    for unit, factor in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size} bytes"
