"""Which optimizer is better than which, as far as runs can tell.

Two optimizers are told apart by the exact rank-sum test of Mann and Whitney on the values their runs
end with, all pairs together at 5 % by Holm's step-down; the better one has the lower median. They are
tied otherwise. Too few runs for that test to say anything are told apart where their ranges share no
point. A run that diverged counts as infinite: it is behind every other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import combinations

import numpy as np

from downslope.compare.verdict import CONFIDENCE, Estimate


@lru_cache(maxsize=1024)
def p_value(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """Return the p-value of the exact two-sided rank-sum test, where runs are alike by permutation.

    Source: Mann and Whitney, 1947.

    >>> round(p_value((1.0, 2.0, 3.0), (4.0, 5.0, 6.0)), 3)
    0.1

    """
    from scipy.stats import PermutationMethod, mannwhitneyu

    alike = len({*a, *b}) < len(a) + len(b)
    permuted = PermutationMethod(n_resamples=99_999, rng=np.random.default_rng(0))  # 9 and 9: all
    return float(mannwhitneyu(a, b, method=permuted if alike else "exact").pvalue)


def chance_apart(count: int) -> float:
    """Return the chance that the ranges of `count` runs each of two equal optimizers share no point.

    >>> round(chance_apart(2), 3)
    0.333

    """
    return 2 / math.comb(2 * count, count)


def told_apart(estimates: Mapping[str, Estimate]) -> set[frozenset[str]]:
    """Return the pairs of names whose runs differ by more than chance explains.

    With the chance that any two of equal optimizers are told apart at 5 % (Holm, 1979), but for few runs:
    those whose ranges share no point are always told apart, which `chance_apart` of equal ones are.

    >>> from downslope.compare.verdict import estimate
    >>> low, high = estimate([1.0, 2.0, 3.0, 4.0]), estimate([5.0, 6.0, 7.0, 8.0])
    >>> sorted(sorted(pair) for pair in told_apart({"a": low, "b": high, "c": high}))
    [['a', 'b'], ['a', 'c']]

    """
    several = _of_several_runs(estimates)
    pairs = [(p_value(several[a], several[b]), a, b) for a, b in combinations(several, 2)]
    found = set()
    rejecting = True
    for i, (p, a, b) in enumerate(sorted(pairs)):
        rejecting = rejecting and p <= (1 - CONFIDENCE) / (len(pairs) - i)
        if rejecting or _apart(several[a], several[b]):
            found.add(frozenset((a, b)))
    return found


def _of_several_runs(estimates: Mapping[str, Estimate]) -> dict[str, tuple[float, ...]]:
    """Return the values of those that a test can say something of."""
    return {name: e.values for name, e in estimates.items() if len(e.values) > 1}


def _lowest(estimates: Mapping[str, Estimate]) -> str:
    """Return the name with the lowest median, the first of several; "" of none."""
    return min(estimates, key=lambda name: estimates[name].median, default="")


def _apart(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether the ranges share no point."""
    return max(a) < min(b) or max(b) < min(a)


def against_best(estimates: Mapping[str, Estimate]) -> dict[str, float]:
    """Return the p-value of every name with several runs against the one with the lowest median."""
    several = _of_several_runs(estimates)
    best = several.pop(_lowest(estimates), None)
    return {} if best is None else {name: p_value(best, values) for name, values in several.items()}


def ranks(estimates: Mapping[str, Estimate]) -> dict[str, int]:
    """Return each name's rank, in order of rank and median: 1 + how many are better for certain.

    Names that are not told apart from the one with the lowest median share rank 1. A name whose
    median is infinite is behind every name whose median is not.
    """
    apart = told_apart(estimates)

    def better(a: str, b: str) -> bool:
        one, other = estimates[a].median, estimates[b].median
        if math.isinf(other):
            return not math.isinf(one)
        return one < other and frozenset((a, b)) in apart

    best = _lowest(estimates)
    place = {
        name: 1 + sum(better(a, name) for a in estimates) if better(best, name) else 1 for name in estimates
    }
    order = sorted(place, key=lambda n: (place[n], estimates[n].median, n))
    return {name: place[name] for name in order}
