"""Calls spread over the workers of joblib, Dask or Ray, all three through joblib."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from importlib import import_module
from typing import Any, TypeAlias

import numpy as np

from downslope.errors import MissingPackageError, UsageError
from downslope.ops.protocol import Array

ENGINES = ("joblib", "dask", "ray")

Map: TypeAlias = Callable[[Callable[..., Any], Iterable[tuple[Any, ...]]], list[Any]]
"""Calls a function with each of some tuples of arguments; returns what it returned, in that order."""


def check_engine(engine: str | None) -> None:
    """Raise UsageError where an engine is not known, or not running."""
    if engine is None:
        return
    if engine not in ENGINES:
        raise UsageError(f"engine = {engine!r}: expected one of {', '.join(ENGINES)}, or None")
    _import("joblib", engine, "pip install 'downslope[compare]'")
    if engine == "dask":
        distributed = _import("distributed", engine, "pip install distributed")
        try:
            distributed.get_client()
        except ValueError:
            raise UsageError(
                "engine = 'dask' needs a cluster to spread over: make a dask.distributed.Client(...) before"
            ) from None
    if engine == "ray":
        _import("ray.util.joblib", engine, "pip install ray").register_ray()


@contextmanager
def spread(engine: str) -> Iterator[Map]:
    """Yield a map over an engine's workers: all there are, or as many as `joblib.parallel_config` says."""
    joblib = import_module("joblib")
    most = None if engine == "joblib" and joblib.parallel.get_active_backend()[1] != 1 else -1
    with (
        nullcontext() if engine == "joblib" else joblib.parallel_config(backend=engine, n_jobs=-1),
        joblib.Parallel(n_jobs=most) as pool,
    ):
        yield lambda f, calls: list(pool(joblib.delayed(f)(*call) for call in calls))


def rows(f: Callable[..., Any], over: Map) -> Callable[..., Any]:
    """Return a function of many points (B, …), from one of a single point, whose calls are spread.

    An array among its further arguments whose leading axis is as long has a row for each point.
    """

    def of_many(x: Array, *args: Any) -> Any:
        each = [isinstance(a, np.ndarray) and a.shape[:1] == (len(x),) for a in args]
        calls = [
            (row, *(a[i] if own else a for a, own in zip(args, each, strict=True))) for i, row in enumerate(x)
        ]
        made = over(f, calls)
        if isinstance(made[0], tuple):  # (value, gradient)
            return tuple(np.array(part) for part in zip(*made, strict=True))
        return np.array(made)

    return of_many


def _import(name: str, engine: str, remedy: str) -> Any:
    try:
        return import_module(name)
    except ImportError:
        if name == "joblib":
            raise MissingPackageError("joblib", "compare", f"engine={engine!r}") from None
        package = name.partition(".")[0]
        raise UsageError(f"engine = {engine!r} needs {package}, which is not installed: {remedy}") from None
