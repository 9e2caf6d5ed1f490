"""The statistics against cases whose answer is known by other means."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from downslope.compare.verdict import (
    Estimate,
    Reach,
    coverage_of_range,
    derive_target,
    estimate,
    first_reaching,
    sensitivity,
)

INF = math.inf


def exact_bootstrap(values: list[float]) -> tuple[float, float]:
    """The 95 % percentile interval of the bootstrap distribution itself, for an odd number of values.

    The median of a resample is at most the k-th smallest value where more than half of its draws
    are among the k smallest, which is binomial.
    """
    n = len(values)
    at_most = [binom.sf(n // 2, n, k / n) for k in range(1, n + 1)]
    low = next(i for i, p in enumerate(at_most) if p > 0.025)
    high = next(i for i, p in enumerate(at_most) if p >= 0.975)
    ordered = sorted(values)
    return ordered[low], ordered[high]


@pytest.mark.parametrize("n", [5, 7, 9, 11, 13])
def test_interval_is_that_of_the_exact_bootstrap_distribution(n):
    values = list(np.random.default_rng(n).normal(size=n))
    found = estimate(values)
    assert (found.low, found.high) == exact_bootstrap(values)
    assert found.median == sorted(values)[n // 2]
    # The interval is narrower than the data from 7 values on, so this is not just their range.
    assert (found.high - found.low < max(values) - min(values)) == (n > 5)


def test_nine_runs_cover_the_true_median_as_often_as_is_claimed():
    data = np.random.default_rng(0).normal(size=(300, 9))
    covered = np.mean([e.low <= 0 <= e.high for e in map(estimate, data.tolist())])
    # The interval of 9 values goes from the second to the eighth: P = 0.961; 300 cases, 3.5 sigma: 0.039.
    assert covered == pytest.approx(1 - 2 * binom.cdf(1, 9, 0.5), abs=0.039)


def test_range_of_runs_covers_as_often_as_coin_tosses_say():
    assert coverage_of_range(3) == pytest.approx(1 - 2 * binom.pmf(0, 3, 0.5))


def test_one_run_has_no_interval_and_none_has_no_estimate():
    assert estimate([]) is None
    assert estimate([2.0]) == Estimate(2.0, None, None, (2.0,))


def test_equal_runs_have_an_interval_of_one_point():
    assert estimate([2.0] * 5) == Estimate(2.0, 2.0, 2.0, (2.0,) * 5)


@pytest.mark.parametrize(
    ("values", "median", "high"),
    [
        ([1.0, 2.0, INF], 2.0, INF),
        ([1.0, INF, INF], INF, INF),
        ([INF] * 4, INF, INF),
        ([1, 2, 3, 4, INF], 3, INF),
    ],
)
def test_a_diverged_run_is_infinite_and_not_left_out(values, median, high):
    found = estimate(values)
    assert (found.median, found.high) == (median, high)


@given(st.lists(st.floats(0.01, 100), min_size=2, max_size=9), st.sampled_from([0.125, 4.0]))
@settings(max_examples=20, deadline=None, derandomize=True)
def test_interval_holds_the_median_and_scales_with_the_unit(values, unit):
    one, other = estimate(values), estimate([v * unit for v in values])
    # Percentiles are interpolated, which rounds.
    slack = 1e-14 * max(values)
    assert min(values) - slack <= one.low <= one.median + slack
    assert one.median - slack <= one.high <= max(values) + slack
    assert (other.low, other.median, other.high) == (one.low * unit, one.median * unit, one.high * unit)


def e(low: float, median: float, high: float) -> Estimate:
    return Estimate(median, low, high, (low, median, high))


def test_target_is_the_goal_or_else_where_the_second_best_ends():
    estimates = {"a": e(3, 4, 5), "b": e(1, 2, 3), "c": e(INF, INF, INF)}
    labels = {"a": "A", "b": "B", "c": "C"}
    assert derive_target(0.5, estimates, labels) == (0.5, "the goal of the task")
    value, origin = derive_target(None, estimates, labels)
    assert value == 4
    assert "second-best" in origin
    assert "A" in origin
    assert derive_target(None, {"b": e(1, 2, 3)}, labels)[0] == 2
    assert derive_target(None, {"c": e(INF, INF, INF)}, labels) is None


def test_a_miss_is_a_miss():
    assert first_reaching([3.0, 2.0, 1.0], 2.0) == 1
    assert first_reaching([3.0, 2.0, 1.0], 0.5) is None
    assert Reach((10.0, None, 20.0)).median == 20.0
    assert Reach((10.0, None, None)).median is None
    assert (Reach((10.0, None, 20.0)).reached, Reach(()).median) == (2, None)


def test_sensitivity_counts_the_decades_within_ten_percent():
    # 1.1 is crossed half-way up the first decade; the plateau is one decade; 1.2 is crossed half-way down.
    found = sensitivity([(1e-4, 1.2), (1e-3, 1.0), (1e-2, 1.0), (1e-1, 1.2)])
    assert found.decades == pytest.approx(2.0)
    assert found.low == pytest.approx(10**-3.5)
    assert found.high == pytest.approx(10**-1.5)
    assert found.edge is None


@pytest.mark.parametrize(("best", "edge"), [(0, "low"), (1, None), (2, "high")])
def test_sensitivity_says_when_the_best_is_at_the_edge(best, edge):
    values = [2.0, 2.0, 2.0]
    values[best] = 1.0
    assert sensitivity(list(zip([1e-3, 1e-2, 1e-1], values, strict=True))).edge == edge


def test_a_diverged_neighbour_is_no_edge_and_adds_no_width():
    found = sensitivity([(1e-3, 2.0), (1e-2, 1.0), (1e-1, INF)])
    assert found.edge is None
    assert found.decades == pytest.approx(0.1)
    assert sensitivity([(1.0, INF)]).decades == 0


@given(
    st.lists(
        st.tuples(st.floats(1e-5, 1.0), st.floats(0.1, 10)), min_size=2, max_size=9, unique_by=lambda p: p[0]
    )
)
@settings(max_examples=50, deadline=None, derandomize=True)
def test_sensitivity_equals_a_fine_grid(trials):
    trials = sorted(trials)
    x = np.log10([lr for lr, _ in trials])
    if min(b - a for a, b in pairwise(x)) < 1e-3:
        return
    grid = np.linspace(x[0], x[-1], 20_001)
    values = np.interp(grid, x, [v for _, v in trials])
    inside = np.mean(values <= 1.1 * min(v for _, v in trials)) * (x[-1] - x[0])
    # Each of at most 18 crossings is off by at most one cell of the grid.
    assert sensitivity(trials).decades == pytest.approx(inside, abs=18 * (x[-1] - x[0]) / 20_000)
