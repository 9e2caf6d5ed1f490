"""Who is better than whom: against tests and rates of error that are known by other means."""

import math
from itertools import combinations

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from downslope.compare import judge
from downslope.compare.judge import against_best, chance_apart, p_value, ranks, told_apart
from downslope.compare.verdict import Estimate, estimate

INF = math.inf


def by_counting(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """The p-value by its definition: how many ways of dealing out the values make the sum of ranks as odd."""
    both = np.array([*a, *b])
    rank = [(both < v).sum() + (both == v).sum() / 2 for v in both]
    sums = np.array([sum(chosen) for chosen in combinations(rank, len(a))])
    own = sum(rank[: len(a)])
    return min(1.0, 2 * min((sums <= own + 1e-9).mean(), (sums >= own - 1e-9).mean()))


@pytest.mark.parametrize("digits", [6, 0], ids=["all apart", "some alike"])
@pytest.mark.parametrize("counts", [(5, 5), (6, 4), (9, 9)])
def test_the_p_value_is_that_of_all_ways_to_deal_out_the_values(counts, digits):
    rng = np.random.default_rng(sum(counts))
    for shift in (0.0, 1.0, 2.0):
        a = tuple((2 * rng.normal(size=counts[0])).round(digits).tolist())
        b = tuple((2 * rng.normal(size=counts[1]) + shift).round(digits).tolist())
        assert (len({*a, *b}) < sum(counts)) == (digits == 0)
        assert p_value(a, b) == pytest.approx(by_counting(a, b))
        assert p_value(b, a) == pytest.approx(p_value(a, b))


def test_runs_that_diverged_count_as_the_largest():
    assert p_value((1.0, 2.0, 3.0, 4.0), (5.0, INF, INF, INF)) == pytest.approx(chance_apart(4))


def test_equal_optimizers_are_told_apart_as_rarely_as_is_claimed():
    """Of 400 comparisons of three equal optimizers; without Holm's step a tenth and more are wrong."""
    draws = np.random.default_rng(0).normal(size=(400, 3, 9))
    found = [told_apart({str(i): whole(v) for i, v in enumerate(draw)}) for draw in draws]
    alone = [min(mannwhitneyu(x, y).pvalue for x, y in combinations(draw, 2)) for draw in draws]
    wrong, without = np.mean([bool(pairs) for pairs in found]), np.mean(np.array(alone) <= 0.05)
    assert wrong <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 400)  # three standard deviations
    assert without > 0.08


def test_a_difference_that_intervals_hide_is_seen():
    """A worse optimizer whose interval overlaps the better one's, as they do in a third of such cases."""
    draws = np.random.default_rng(1).normal(size=(60, 2, 9)) + np.array([[0.0], [2.0]])
    pairs = [tuple(estimate(v.tolist()) for v in draw) for draw in draws]
    seen = [ranks({"a": a, "b": b})["b"] == 2 for a, b in pairs]
    apart = [a.high < b.low for a, b in pairs]
    assert np.mean(seen) > 0.9
    assert np.mean(apart) < 0.8


@pytest.mark.parametrize(
    ("p", "apart"),
    [
        ((0.016, 0.024, 0.049), 3),  # 0.05 / 3, 0.05 / 2, 0.05: each at a level of its own
        ((0.016, 0.024, 0.051), 2),
        ((0.016, 0.026, 0.049), 1),  # the third would do, but comes behind one that does not
        ((0.017, 0.018, 0.019), 0),
    ],
)
def test_holms_steps_end_at_the_first_that_is_too_large(monkeypatch, p, apart):
    names = {name: whole([i, i + 9]) for i, name in enumerate("abc")}  # ranges that overlap
    given = dict(zip(combinations([e.values for e in names.values()], 2), p, strict=True))
    monkeypatch.setattr(judge, "p_value", lambda a, b: given[a, b])
    pairs = [frozenset(pair) for pair in combinations(names, 2)]  # in order of their p-values
    assert told_apart(names) == set(pairs[:apart])


def whole(values) -> Estimate:
    """An estimate of which the values alone matter."""
    values = tuple(float(v) for v in values)
    return Estimate(float(np.median(values)), min(values), max(values), values)


def e(low: float, median: float, high: float) -> Estimate:
    return Estimate(median, low, high, (low, median, high))


def test_overlapping_ranges_of_few_runs_share_a_rank_and_separate_ones_do_not():
    assert ranks({"a": e(3, 4, 5), "b": e(1, 2, 2.9), "c": e(2.8, 3, 3.5)}) == {"b": 1, "c": 1, "a": 2}
    assert ranks({"a": e(3, 4, 5), "b": e(1, 2, 2.9)}) == {"b": 1, "a": 2}


def test_touching_ranges_share_a_rank():
    assert ranks({"a": e(1, 2, 3), "b": e(3, 4, 5)}) == {"a": 1, "b": 1}


def test_rank_counts_who_is_better_for_certain():
    assert ranks({"a": e(1, 1, 1), "b": e(2, 2, 2), "c": e(2, 2.1, 3), "d": e(4, 4, 4)}) == {
        "a": 1,
        "b": 2,
        "c": 2,
        "d": 4,
    }


def test_of_one_run_nobody_is_better():
    assert set(ranks({"a": estimate([1.0]), "b": estimate([5.0])}).values()) == {1}


def test_who_diverged_is_behind_everyone_who_did_not():
    # The runs of `bad` begin at 1, but more than half of its runs diverged.
    assert ranks({"bad": estimate([1.0, INF, INF]), "good": estimate([2.0, 3.0, 4.0])}) == {
        "good": 1,
        "bad": 2,
    }


def test_the_p_value_is_against_the_lowest_median():
    a, b, c = whole([1, 2, 3, 4]), whole([5, 6, 7, 8]), whole([4.5])
    assert against_best({"b": b, "a": a, "c": c}) == {"b": pytest.approx(chance_apart(4))}
    assert against_best({}) == {}
    assert against_best({"b": b, "c": whole([0.5])}) == {}  # of one run is the lowest
