"""Runs and evaluations spread over workers: joblib's processes, and a real cluster of Dask's."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager

import joblib
import numpy as np
import pytest

import downslope as ds
from downslope.errors import UsageError

RAY = pytest.param(
    "ray",
    marks=(
        pytest.mark.skipif(not importlib.util.find_spec("ray"), reason="ray is not installed"),
        # Where another test has imported JAX, it warns of Ray's forks, which run nothing of JAX's.
        pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning"),
    ),
)


def bowl(x: np.ndarray, folder: str, shift: float = 0.0) -> float:
    """A function that leaves the number of its process behind."""
    open(os.path.join(folder, str(os.getpid())), "w").close()
    return float(((x - 1 - shift) ** 2).sum() + 0.1 * np.cos(8 * x).sum())


def slope(x: np.ndarray, folder: str, shift: float = 0.0) -> np.ndarray:
    return 2 * (x - 1 - shift) - 0.8 * np.sin(8 * x)


@contextmanager
def running(engine: str) -> Iterator[None]:
    if engine == "joblib":
        with joblib.parallel_config(n_jobs=2):
            yield
    elif engine == "dask":
        from distributed import Client, LocalCluster

        cluster = LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, host="127.0.0.1"
        )
        with cluster, Client(cluster):
            yield
    else:
        import ray

        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
        try:
            yield
        finally:
            ray.shutdown()


@pytest.mark.parametrize("engine", ["joblib", "dask", RAY])
def test_an_engine_spreads_what_is_then_the_same(engine, tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    call = {"gradient": slope, "box": (-2, 3), "starts": 8}
    alone = ds.minimize(bowl, [0.3, -0.7], args=(str(here),), **call)
    x0 = np.linspace(-1, 2, 12).reshape(6, 2)
    shifts = np.linspace(0, 1, 6)
    with running(engine):
        runs = ds.minimize(bowl, [0.3, -0.7], args=(str(there),), engine=engine, **call)
        # On two processors a worker may take two of the calls before the other one has begun.
        lanes = ds.minimize(
            bowl,
            x0,
            args=(str(there), shifts),
            gradient=slope,
            batch=True,
            engine=engine,
            stop=ds.Stop(steps=6),
        )
        plain = ds.minimize(bowl, x0, args=(str(there),), batch=True, engine=engine, stop=ds.Stop(steps=3))
    np.testing.assert_array_equal(runs.values, alone.values)
    assert [m.count for m in runs.minima] == [m.count for m in alone.minima]
    assert {p.name for p in here.iterdir()} == {str(os.getpid())}
    workers = {p.name for p in there.iterdir()} - {str(os.getpid())}
    assert len(workers) >= 2
    for i in range(6):
        one = ds.minimize(
            bowl, x0[i], "bfgs", args=(str(here), shifts[i]), gradient=slope, stop=ds.Stop(steps=6)
        )
        assert lanes.value[i] == pytest.approx(one.value, rel=1e-9)
        assert lanes.evaluations[i] == one.evaluations
    assert (plain.value < [bowl(x, str(here)) for x in x0]).all()


def test_an_engine_that_is_not_there_is_told():
    def f(x):
        return float(x @ x)

    with pytest.raises(UsageError, match="Client"):
        ds.minimize(f, [1.0, 2.0], starts=4, box=(0, 1), engine="dask")
    with pytest.raises(UsageError, match="spreads a batch or several starts"):
        ds.minimize(f, [1.0, 2.0], engine="joblib")
    if not importlib.util.find_spec("ray"):
        with pytest.raises(UsageError, match="pip install ray"):
            ds.minimize(f, [1.0, 2.0], starts=4, box=(0, 1), engine="ray")
