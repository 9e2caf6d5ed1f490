"""What runs at several rates say: against the definitions, SciPy's regression and cases worked by hand."""

import math

import numpy as np
import pytest
from scipy import stats

from downslope.diagnose.rates import Rates
from downslope.diagnose.rungs import climbed, window
from downslope.diagnose.valley import Outcome, Run, confidence_of, edge_of, optimum, safe_range
from downslope.diagnose.widths import CONFIDENCE, check


def runs_of(ends, steps=100, seed=0, start=9.0):
    return [Run(scale, seed, steps, final, start) for scale, final in ends.items()]


def test_a_measure_below_zero_has_the_parabola_of_one_as_far_above_its_best():
    excess = {0.5: 0.4, 1.0: 0.02, 2.0: 0.0, 4.0: 0.3}
    above, below = ({scale: floor + e for scale, e in excess.items()} for floor in (1.0, -1.0))
    assert optimum(below) == pytest.approx(optimum(above), rel=1e-12)
    assert 1.0 < optimum(below) < 1.9


def test_a_best_of_zero_has_no_size_and_is_the_rate_that_was_tried():
    assert optimum({1.0: 1.0, 2.0: 0.0, 4.0: 2.0}) == 2.0


def test_neighbours_of_the_best_count_however_much_worse_they_are():
    ends = {1.0: 8.0, 2.0: 1.0, 4.0: 4.0, 8.0: 50.0}  # the parabola through ln 8, 0, ln 4 at -ln 2, 0, ln 2
    assert optimum(ends) == pytest.approx(2 * math.exp(math.log(2) * (3 - 2) / (2 * (3 + 2))))


def test_a_cliff_far_above_the_floor_does_not_push_the_minimum_away():
    """A slope of 3 to 4 % an octave, and 22 % up beyond its end: a plain parabola has its minimum at 4.0."""
    slope = {0.5: 0.14, 1.0: 0.1, 2.0: 0.07, 4.0: 0.042, 8.0: 0.0, 16.0: 0.22}
    x, y = np.log2(list(slope)), np.array(list(slope.values()))
    bend, tilt, _ = np.polyfit(x, y, 2)
    assert 2 ** (-tilt / (2 * bend)) < 4.05
    assert 6 < optimum({scale: math.exp(above) for scale, above in slope.items()}) < 8 * math.sqrt(2)


def test_past_the_middle_to_a_neighbour_it_lies_only_where_chance_may_have_put_that_above():
    slope = {2.0**k: 0.04 * (3 - k) for k in range(-2, 4)}
    for above, most in ((0.30, math.sqrt(2)), (0.02, 2.0)):
        ends = {scale: math.exp(y) for scale, y in (slope | {16.0: above}).items()}
        assert optimum(ends) <= 8 * most * (1 + 1e-9)
    assert optimum({scale: math.exp(y) for scale, y in (slope | {16.0: 0.30}).items()}) == pytest.approx(
        8 * math.sqrt(2)
    ), "the fit alone would go further"


def test_the_minimum_stays_within_what_was_tried():
    slope = {2.0**k: math.exp(0.01 * (k - 9) ** 2) for k in range(-2, 4)}
    x, y = np.log2(list(slope)), np.log(list(slope.values()))
    assert np.polyfit(x, y, 2)[0] > 0, "its minimum is at 2**9"
    assert optimum(slope) == pytest.approx(8.0)


class Ends:
    """A bench whose runs end as it is told."""

    def __init__(self, ends):
        self.ends = ends

    def run(self, scale, seed, steps):
        return Outcome(self.ends[scale], 9.0)


def added(ends, enough, room=100, within=(0.1, 100.0)):
    """Return the rates beside 1, 2 and 4 that are run for ten steps each, in this order."""
    runs, scales = climbed(Ends(ends), [1.0, 2.0, 4.0], [0], 10, room, within, lambda _: None, enough)
    assert sorted(r.scale for r in runs) == scales
    return [r.scale for r in runs[3:]]


@pytest.mark.parametrize(
    ("enough", "room", "more"),
    [(0, 100, []), (5, 100, [8.0, 16.0]), (4, 100, [8.0]), (5, 9, []), (5, 10, [8.0])],
)
def test_rates_are_added_beyond_the_edge_that_ends_lower(enough, room, more):
    ends = {0.5: 2.7, 1.0: 2.6091, 2.0: 2.4924, 4.0: 2.5166, 8.0: 2.55, 16.0: 2.52, 32.0: 2.9}
    assert added(ends, enough, room) == more


def test_where_the_best_is_at_the_edge_there_are_never_enough():
    ends = {0.25: 1.6, 0.5: 1.5, 1.0: 1.4, 2.0: 1.3, 4.0: 1.2, 8.0: 1.1, 16.0: 1.0, 32.0: 1.01}
    assert added(ends, 0) == added(ends, 5) == [8.0, 16.0, 32.0]
    assert added(ends, 0, within=(0.1, 20.0)) == [8.0, 16.0]
    assert added(ends, 6, within=(0.1, 10.0)) == [8.0, 0.5, 0.25], (
        "what may not be tried above is tried below"
    )


def test_none_is_added_that_the_parabola_would_hardly_look_at():
    assert added({0.5: 9.0, 1.0: 1.6, 2.0: 1.0, 4.0: 1.7}, 5) == []
    assert added({0.5: 9.0, 1.0: 1.4, 2.0: 1.0, 4.0: 1.7}, 5) == [0.5]
    assert added({0.5: 9.0, 1.0: -0.6, 2.0: -1.0, 4.0: -0.1}, 5) == [0.5]


def test_where_none_trained_lower_ones_are_tried_and_no_higher_ones():
    ends = {0.25: 1.0, **dict.fromkeys((0.5, 1.0, 2.0, 4.0, 8.0), math.inf)}
    assert added(ends, 0, 20) == [0.5, 0.25]
    assert added(ends, 5, 20, within=(0.9, 100.0)) == []


def test_the_safe_range_ends_where_a_line_between_the_rates_reaches_ten_percent():
    low, high = safe_range(runs_of({1.0: 3.0, 2.0: 2.0, 4.0: 2.05, 8.0: 2.5}))
    assert low == pytest.approx(2 * 0.5 ** (0.10 / 0.50))  # 0 above the best at 2, 50 % at 1
    assert high == pytest.approx(4 * 2 ** ((0.10 - 0.025) / (0.25 - 0.025)))


def test_one_rate_alone_has_no_edge():
    assert edge_of(runs_of({1.0: 2.0})) == ""


def test_what_chance_may_have_put_below_the_edge_has_its_best_there():
    runs = runs_of({1.0: 2.6, 2.0: 2.49, 4.0: 2.52})  # ln(2.52 / 2.49) = 0.012
    assert edge_of(runs) == edge_of(runs, 0.011) == ""
    assert edge_of(runs, 0.013) == "highest"
    assert edge_of(runs_of({1.0: -2.52, 2.0: -2.5, 4.0: -1.0})) == "lowest"
    level, reasons = confidence_of(1.0, [1.0, 1.0], 2, 50, [(50, 1.0), (100, 1.0)], 1.0, near="highest")
    assert level == "medium"
    assert reasons[-1].endswith(
        "by no more than chance: it may lie higher. More seeds of whole trainings would tell."
    )
    assert "agree within a factor 1.0 in runs of 50 steps" in reasons[0]


def test_the_window_grows_to_the_better_side():
    medians = {1.0: 5.0, 2.0: 3.0, 4.0: 1.0, 8.0: 2.0, 16.0: 9.0}
    scales = list(medians)
    assert window(scales, medians, 2) == [4.0, 8.0]
    assert window(scales, medians, 4) == [1.0, 2.0, 4.0, 8.0]
    assert window(scales[2:], medians, 3) == [4.0, 8.0, 16.0]  # nothing is left below
    assert window(scales[:3], medians, 3) == [1.0, 2.0, 4.0]  # nor here above


@pytest.mark.parametrize(
    ("optima", "ends", "level"),
    [
        ([1.0, 1.9], [(50, 1.0), (100, 1.0)], "high"),
        ([1.0, 2.1], [(50, 1.0), (100, 1.0)], "medium"),
        ([1.0, 4.2], [(50, 1.0), (100, 1.0)], "low"),
        ([1.0, 1.0], [(50, 2.1), (100, 1.0)], "medium"),
        ([1.0, 1.0], [(50, 1.0), (100, 2.1)], "medium"),
        ([1.0, 1.0], [(50, 1.0), (100, 4.2)], "low"),
    ],
)
def test_confidence_falls_with_what_seeds_and_lengths_disagree_by(optima, ends, level):
    assert confidence_of(1.0, optima, 2, 50, ends, 1.0)[0] == level


def found(optima):
    value = math.exp(np.mean(np.log(optima)))
    return Rates("", "", 100, value, None, None, None, "high", (), tuple(optima), (), (), (), 0)


def test_the_width_check_is_a_regression():
    widths = (64, 128, 256)
    optima = [(0.1, 0.3), (0.05, 0.12), (0.02, 0.09)]  # scatter beyond the fraction of a step that is assumed
    checked = check(widths, [found(o) for o in optima])
    x = np.repeat(np.log2(widths), 2)
    line = stats.linregress(x, np.log2(optima).ravel())
    reach = stats.t.ppf(0.5 + CONFIDENCE / 2, len(x) - 2) * line.stderr
    assert checked.factor == pytest.approx(2**line.slope)
    assert (checked.low, checked.high) == pytest.approx(
        (2 ** (line.slope - reach), 2 ** (line.slope + reach))
    )
    assert checked.verdict == "unclear"


def test_seeds_that_agree_by_chance_are_known_to_a_fraction_of_a_step():
    checked = check((64, 256), [found([0.1, 0.1]), found([0.1, 0.1])])
    reach = stats.t.ppf(0.5 + CONFIDENCE / 2, 2) * 0.25 / 2  # log widths 1 from their mean, four of them
    assert checked.high == pytest.approx(2**reach)


def test_two_widths_with_one_seed_each_say_nothing_sure():
    assert check((64, 256), [found([0.1]), found([0.01])]).verdict == "unclear"
