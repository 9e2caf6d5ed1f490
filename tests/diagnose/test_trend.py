"""A best rate that moves with the length of the run is carried on to the training; one that stays is left."""

import math

import numpy as np
import pytest

from downslope.diagnose.trend import trend_of
from downslope.diagnose.valley import Run, pooled
from tests.diagnose.test_rates import Valley, searched

STEPS = 400
BEST = 0.02


class Moving(Valley):
    """A valley whose best rate lies `octaves(d)` above BEST in runs that are d doublings short of STEPS."""

    def __init__(self, octaves, **options):
        super().__init__(BEST, **{"ceiling": 1e9, **options})
        self.octaves = octaves

    def run(self, scale, seed, steps):
        self.best = BEST * 2 ** self.octaves(math.log2(STEPS / steps))
        return super().run(scale, seed, steps)


def repeated(octaves, count=20, **options):
    """Return searches on seeds of their own, and how far off they and the former mean are, in octaves."""
    found = [searched(Moving(octaves, **options), seeds=(s, s + 1)) for s in range(1000, 1000 + 2 * count, 2)]
    now = np.array([math.log2(f.value / BEST) for f in found])
    before = np.array([math.log2(pooled(f.runs) / BEST) for f in found])
    return found, now, before


def rms(x):
    return math.sqrt(np.mean(np.square(x)))


@pytest.mark.parametrize("drift", [0.4, 0.8])
def test_a_clean_drift_is_carried_on_exactly(drift):
    found = searched(Moving(lambda d: drift * d))
    assert found.value == pytest.approx(BEST, rel=0.02)
    # The mean of a quarter and a half is a doubling and a half behind.
    assert math.log2(pooled(found.runs) / BEST) == pytest.approx(1.5 * drift, abs=0.02)


def test_a_drift_under_noise_is_carried_on():
    """Runs that scatter by 3 %; the mean of both lengths is off by more than a factor 2 each time."""
    found, now, before = repeated(lambda d: 0.8 * d, noise=0.03)
    assert min(before) > 0.9
    # A third of an octave: each optimum is known to a tenth, and five times the slope's error adds up.
    assert rms(now) < 0.4
    assert max(abs(now)) < 1
    assert all(f.confidence != "high" for f in found)
    assert all(any("falls with the length of the run" in r for r in f.reasons) for f in found)
    assert all(f.low <= f.value <= f.high for f in found)


@pytest.mark.parametrize(("noise", "sharp"), [(0.03, 0.15), (0.07, 0.15), (0.005, 0.005)])
def test_a_rate_that_stays_is_left_but_for_noise(noise, sharp):
    """Also in a valley so flat that chance alone moves each optimum by a third of an octave."""
    _, now, before = repeated(lambda d: 0.0, noise=noise, sharp=sharp)
    # The error of the mean of 20 at the scatter seen, three times, or a twentieth of an octave.
    assert abs(np.mean(now)) < abs(np.mean(before)) + max(0.05, 3 * rms(now) / math.sqrt(20))
    # Positive-part shrinkage takes in 0.3 of a slope's variance where there is none: the scatter stays well
    # below the 1.5 times the difference of two optima that carrying on unshrunk would add.
    assert rms(now) < 2.5 * rms(before)
    assert max(abs(now)) < 1
    assert np.mean(np.isclose(now, before, atol=1e-9)) >= 0.4


def test_a_drift_that_has_ended_is_not_carried_on():
    """The shortest runs want twice the rate, as where a warm-up is most of them; the others agree."""
    _, now, before = repeated(lambda d: max(0.0, d - 2), noise=0.03)
    assert rms(before) < 0.15
    assert rms(now) < 0.3


def valley_at(octaves, steps):
    """Return runs of every rate and two seeds in a clean valley at 2**octaves."""
    ends = {2.0**k: 0.5 * math.exp(0.15 * (k - octaves) ** 2) for k in range(-6, 7)}
    return [Run(lr, seed, steps, end, 9.0) for lr, end in ends.items() for seed in (0, 1)]


def test_it_goes_no_further_than_a_factor_two_beyond_the_longest_runs():
    runs = valley_at(4, 100) + valley_at(2.5, 200) + valley_at(1, 400)
    assert pooled(runs) * trend_of(runs, 800).carry == pytest.approx(2**0)


def test_it_goes_no_further_than_from_one_length_to_the_next():
    runs = valley_at(2, 100) + valley_at(1.5, 200) + valley_at(1, 400)
    near, far = trend_of(runs, 800), trend_of(runs, 1_000_000)
    # Without noise an optimum is taken as known to a thousandth: so little of the drift is not believed.
    assert pooled(runs) * near.carry == pytest.approx(2**0.5, rel=1e-5)
    assert far.carry == pytest.approx(near.carry)
    assert far.sentence(1_000_000).endswith("carried on to 800.")


def test_a_rise_is_not_carried_on():
    """A rate somewhat too low trains, one too high may not."""
    found = searched(Moving(lambda d: -0.8 * d))
    assert found.value == pytest.approx(pooled(found.runs))
    assert not any("with the length" in r for r in found.reasons)


def test_with_one_seed_nothing_is_carried_on():
    found = searched(Moving(lambda d: 0.8 * d), seeds=(0,))
    assert found.value == pytest.approx(pooled(found.runs))


def test_the_safe_range_is_carried_down_and_holds_the_value():
    found = searched(Moving(lambda d: 0.4 * d))
    trend = trend_of(found.runs, STEPS)
    assert found.low < found.value < found.high
    assert found.high >= trend.optima[-1]
    # The whole training's own range: sqrt(log 1.1 / 0.15) octaves to either side, by lines between octaves.
    assert math.log2(BEST / found.low) == pytest.approx(math.sqrt(math.log(1.1) / 0.15), rel=0.3)


def test_the_seeds_optima_are_carried_on_with_the_value():
    """Widths are compared by them."""
    found = searched(Moving(lambda d: 0.8 * d, noise=0.03))
    assert math.exp(np.mean(np.log(found.optima))) == pytest.approx(found.value, rel=0.25)


def test_lengths_that_say_nothing_are_left():
    runs = [Run(s, seed, 100, math.inf, 2.0) for s in (1.0, 2.0) for seed in (0, 1)]
    assert trend_of(runs, STEPS) is None
    runs = [
        Run(s, seed, n, 1.0 if n != 100 else 3.0, 2.0)
        for n in (50, 100, 200)
        for s in (1.0, 2.0)
        for seed in (0, 1)
    ]
    assert trend_of(runs, STEPS).carry == 1.0
    assert trend_of(runs[:4], STEPS).carry == 1.0
