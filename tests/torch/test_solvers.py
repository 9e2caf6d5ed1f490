"""minimize on PyTorch: the steps of NumPy, alone and in lock step; nested starts, float32, the GPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import downslope as ds
from downslope.errors import UsageError
from tests.solvers.functions import rosenbrock as f_numpy
from tests.solvers.functions import rosenbrock_gradient, start, starts


def rosenbrock(x):
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


@pytest.mark.parametrize("method", ["l-bfgs", "bfgs", "cg", "gd", "nesterov", "adam", "newton", "trust-ncg"])
def test_steps_are_those_of_numpy(method):
    # 25 steps: before differences in the order of sums, of some 1e-16, are blown up by the search.
    stop = ds.Stop(steps=25, gradient=1e-12)
    mine = ds.minimize(rosenbrock, torch.tensor(start(6)), method, stop=stop)
    peer = ds.minimize(f_numpy, start(6), method, gradient=rosenbrock_gradient, stop=stop)
    if method in ("newton", "trust-ncg"):  # NumPy's Hessians are differences of gradients there
        assert abs(mine.evaluations - peer.evaluations) <= 2
        return
    assert (mine.evaluations, mine.steps) == (peer.evaluations, peer.steps)
    np.testing.assert_allclose(mine.x.numpy(), peer.x, rtol=1e-6)


@pytest.mark.parametrize("method", ["l-bfgs", "bfgs"])
def test_lanes_are_the_single_problems(method):
    x0 = torch.tensor(starts(6, 4))
    every = ds.minimize(rosenbrock, x0, method, batch=True)
    assert every.success.all()
    assert isinstance(every.x, torch.Tensor)
    for lane in range(6):
        one = ds.minimize(rosenbrock, x0[lane], method)
        assert abs(int(every.evaluations[lane]) - one.evaluations) <= 6
        torch.testing.assert_close(every.x[lane], one.x, rtol=1e-3, atol=1e-3)


def test_bounds_and_their_active_set():
    x0 = torch.tensor(start(4))
    one = ds.minimize(rosenbrock, x0, bounds=(-2.0, 0.5))
    peer = ds.minimize(f_numpy, start(4), gradient=rosenbrock_gradient, bounds=(-2.0, 0.5))
    torch.testing.assert_close(one.x, torch.tensor(peer.x), rtol=1e-5, atol=1e-6)
    every = ds.minimize(rosenbrock, torch.stack([x0, x0]), batch=True, bounds=(-2.0, 0.5))
    assert every.success.all()
    torch.testing.assert_close(every.x[1], one.x, rtol=1e-5, atol=1e-6)


def test_nested_starts_in_float32():
    target = torch.tensor([1.0, -2.0])

    def f(p):
        return ((p["w"] @ target - 3) ** 2).sum() + (p["b"] ** 2).sum()

    result = ds.minimize(f, {"w": torch.ones(2, 2), "b": torch.ones(3)})
    assert result.success
    assert result.x["w"].dtype == torch.float32
    torch.testing.assert_close(result.x["w"] @ target, torch.full((2,), 3.0), rtol=1e-4, atol=1e-4)


def test_what_does_not_fit_is_named():
    for fun, words in (
        (lambda x: x, "fun returned"),
        (lambda x: x.sum().detach(), "fun"),
        (lambda x: None, "fun returned"),
    ):
        with pytest.raises(UsageError, match=words):
            ds.minimize(fun, torch.ones(2))
    with pytest.raises(UsageError, match="int64"):
        ds.minimize(rosenbrock, torch.ones(2, dtype=torch.int64))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_what_starts_on_the_gpu_stays_there():
    x0 = torch.tensor(starts(64, 6), device="cuda")
    one, every = ds.minimize(rosenbrock, x0[0]), ds.minimize(rosenbrock, x0, batch=True)
    assert one.x.is_cuda
    assert every.x.is_cuda
    assert one.success
    assert every.success.all()
