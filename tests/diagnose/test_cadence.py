"""Records take a small share of a training's time, by a clock that is set by hand."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from downslope.diagnose.cadence import BUDGET, EVERY, SHARE, Cadence
from downslope.torch import Diagnostics


class Hand:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def intervals(cadence: Cadence, clock: Hand, step: float, costs: list[float]) -> Iterator[int]:
    """Train by steps of so many seconds, with a record of each cost; yield the steps between them."""
    cadence.start()
    last = 0
    for cost in costs:
        yield cadence.due - last
        clock.now += step * (cadence.due - last)
        with cadence.record():
            clock.now += cost
        last = cadence.due
        cadence.follow(last)


def test_the_interval_grows_until_records_take_their_share() -> None:
    clock = Hand()
    # 3.5 ms a record, against 0.5 % of 1 ms a step.
    found = list(intervals(Cadence(clock=clock), clock, 1e-3, [3.5e-3] * 8))
    assert found[:4] == [100, 200, 400, 800]  # until all records take no more than 0.75 %
    # Sums of milliseconds in float64, rounded up to whole steps.
    assert found[5:] == pytest.approx([700] * 3, abs=1)
    assert 3.5e-3 / (found[-1] * 1e-3) == pytest.approx(SHARE, rel=0.01)


def test_a_slow_record_is_paid_back() -> None:
    """Ten seconds in a record of a tenth of a millisecond: 0.75 % of what follows, and no longer."""
    clock = Hand()
    cadence = Cadence(clock=clock)
    costs = [1e-4, 1e-4, 10.0] + 20 * [1e-4]
    found = list(intervals(cadence, clock, 1e-3, costs))
    assert found[:5] == [100, 100, 100, 200, 400]
    assert max(b / a for a, b in pairwise(found)) <= 2
    paid = next(k for k in range(3, 23) if sum(costs[: k + 1]) <= BUDGET * 1e-3 * sum(found[: k + 1]))
    # Its share by the interval that reaches it, which is no longer than it has to be.
    assert sum(costs[: paid + 1]) == pytest.approx(BUDGET * 1e-3 * sum(found[: paid + 1]), rel=1e-3)
    assert found[paid + 1 :] == [100] * (22 - paid)


@pytest.mark.parametrize("seed", range(5))
def test_records_take_no_more_than_their_budget_of_all_the_training(seed: int) -> None:
    """Costs that vary by e either way, and one in twenty that takes fifty times as long."""
    r, clock = np.random.default_rng(seed), Hand()
    costs = 3e-3 * np.exp(r.normal(size=200)) * np.where(r.random(200) < 0.05, 50.0, 1.0)
    found = np.array(list(intervals(Cadence(clock=clock), clock, 3e-4, list(costs))))
    spent, trained = np.cumsum(costs), 3e-4 * np.cumsum(found)
    growing = 0
    for k in range(3, 200):
        if found[k] == 2 * found[k - 1]:  # on its way to the length that is wanted
            growing += 1
        else:
            assert spent[k - 1] + np.median(costs[k - 3 : k]) <= BUDGET * trained[k] * (1 + 1e-9)
    assert growing <= 80  # after each of the ten long ones a few, and where one was cheap by chance
    assert spent[-1] <= 1.05 * BUDGET * trained[-1]


def test_a_cheap_record_comes_every_hundred_steps_and_a_fixed_one_as_told() -> None:
    clock = Hand()
    assert list(intervals(Cadence(clock=clock), clock, 1.0, [0.1] * 3)) == [EVERY] * 3
    assert list(intervals(Cadence(7, clock), clock, 1e-6, [10.0] * 3)) == [7] * 3


def test_a_clock_that_stands_still_is_no_division_by_zero() -> None:
    clock = Hand()
    assert list(intervals(Cadence(clock=clock), clock, 0.0, [0.0] * 3)) == [100, 200, 400]


class Slow(torch.optim.SGD):
    """Of which each step lasts a millisecond, while writing a record lasts `cost`."""

    def __init__(self, clock: Hand) -> None:
        super().__init__([nn.Parameter(torch.ones(3))], lr=1e-3)
        self.clock = clock

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        super().step(closure)
        self.clock.now += 1e-3


def run(steps: int, cost: float, skipped: tuple[int, ...] = (), resumed: int = 0) -> list[int]:
    """Return the steps that were recorded; an hour goes by before the training is resumed after a step."""
    clock = Hand()
    optimizer = Slow(clock)

    def writer(record: object) -> None:
        clock.now += cost

    diagnostics = Diagnostics(optimizer, writer=writer, on_trouble="collect", clock=clock)
    (p,) = optimizer.param_groups[0]["params"]
    for i in range(1, steps + 1):
        optimizer.zero_grad()
        loss = p.square().sum()
        loss.backward()
        diagnostics(loss)
        if i not in skipped:
            optimizer.step()
        if i == resumed:
            diagnostics.close()
            state = diagnostics.state_dict()
            clock.now += 3600.0
            diagnostics = Diagnostics(optimizer, writer=writer, on_trouble="collect", clock=clock)
            diagnostics.load_state_dict(state)
    return [r.step for r in diagnostics.records]


def test_diagnostics_of_a_short_step_record_less_often() -> None:
    assert run(1000, cost=1e-4) == [*range(100, 1000, 100)]
    # 1.5 ms of a step of 1 ms: after 200 steps, the most that it may grow by, then every 300.
    assert run(1300, cost=1.5e-3) == pytest.approx([100, 300, 600, 900, 1200], abs=5)


def test_a_step_that_is_skipped_has_no_record() -> None:
    """As a GradScaler skips it: what its gradients were says nothing of a later step."""
    assert run(350, cost=1e-4, skipped=(200,)) == [100, 300]


@pytest.mark.parametrize("at", [1, 99, 100, 101, 450, 600, 601])
def test_a_pause_before_a_training_is_resumed_is_no_training(at: int) -> None:
    # Sums of milliseconds in float64, rounded up to whole steps.
    assert run(1300, cost=1.5e-3, resumed=at) == pytest.approx(run(1300, cost=1.5e-3), abs=2)
