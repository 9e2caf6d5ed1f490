"""The best rate moves with the length of the run, and runs of the whole length settle it where they can."""

import math

import numpy as np
import pytest

from downslope.diagnose.lengths import DRIFT, FALL, NOISE, SHAPE, estimate, noise_of
from downslope.diagnose.rungs import FEWEST_STEPS, SWEEP_SEEDS
from downslope.diagnose.valley import Outcome, Run, optimum
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


def of_length(runs, steps):
    """Return how the runs of a length end, the mean over seeds."""
    ends = {}
    for r in runs:
        if r.steps == steps:
            ends.setdefault(r.scale, []).append(r.final)
    return {scale: float(np.mean(v)) for scale, v in sorted(ends.items())}


def repeated(octaves, count=20, **options):
    """Return searches on seeds of their own, and how far off they and runs of a quarter are, in octaves."""
    found = [searched(Moving(octaves, **options), seeds=(s, s + 1)) for s in range(1000, 1000 + 2 * count, 2)]
    whole = np.array([math.log2(f.value / BEST) for f in found])
    quarter = np.array([math.log2(optimum(of_length(f.runs, STEPS // 4)) / BEST) for f in found])
    return found, whole, quarter


def rms(x):
    return math.sqrt(np.mean(np.square(x)))


@pytest.mark.parametrize("drift", [-0.4, 0.4, 0.8])
def test_a_clean_drift_either_way_is_followed(drift):
    found = searched(Moving(lambda d: drift * d))
    # What a quarter foretells is off by twice the drift less what it falls anyway, and counts as little as
    # its variance says; an eighth is not asked.
    weights = [1 / (SHAPE**2 + (DRIFT * d) ** 2) for d in (0, 2)]
    off = np.dot(weights, [0, 2]) / sum(weights) * (drift + math.log2(FALL))
    assert abs(off) < 0.04
    assert math.log2(found.value / BEST) == pytest.approx(off, abs=0.02)
    quarter = optimum(of_length(found.runs, STEPS // 4))
    assert math.log2(quarter / BEST) == pytest.approx(2 * drift, abs=0.05)


def test_a_drift_under_noise_is_followed():
    """Runs that scatter by 3 %; those of a quarter are off by more than a factor 2 each time."""
    found, whole, quarter = repeated(lambda d: 0.8 * d, noise=0.03)
    assert min(quarter) > 1
    assert rms(whole) < 0.4
    assert max(abs(whole)) < 1
    assert all(f.confidence != "high" for f in found)
    assert all(any("higher" in r for r in f.reasons) for f in found)
    assert all(f.low <= f.value <= f.high for f in found)


def test_a_fall_that_only_the_whole_length_has_is_followed_and_told():
    """Two lengths that agree say nothing of the third: there the search was once wrong and sure of it."""
    found, whole, quarter = repeated(lambda d: 1.5 if d > 0.5 else 0.0, noise=0.015)
    assert min(quarter) > 1
    assert max(abs(whole)) < 1
    assert not any(f.confidence == "high" for f in found)


@pytest.mark.parametrize(
    ("noise", "sharp", "share", "most"),
    [
        (0.03, 0.15, 1.2, 0.1),
        (0.07, 0.15, 1.2, 0.2),
        (0.05, 0.04, 1.1, 0.3),
        (0.07, 0.04, 0.9, 0.4),
        (0.005, 0.005, 1.2, 0.2),
    ],
)
def test_a_rate_that_stays_is_left_but_for_noise(noise, sharp, share, most):
    """Where the valley is as flat as that of `digits`, the whole runs alone are worse."""
    found, whole, _ = repeated(lambda d: 0.0, count=40, noise=noise, sharp=sharp)
    alone = [math.log2(optimum(of_length(f.runs, STEPS)) / BEST) for f in found]
    assert max(abs(whole)) < 1
    # What each fall by FALL takes off is at most that of a quarter's runs alone, and so much may chance add.
    assert abs(np.mean(whole)) < -2 * math.log2(FALL) + 3 * rms(whole) / math.sqrt(len(whole))
    assert rms(whole) < min(most, share * rms(alone))


def test_a_drift_that_has_ended_is_not_followed():
    """The shortest runs want twice the rate, as where a warm-up is most of them; the others agree."""
    _, whole, _ = repeated(lambda d: max(0.0, d - 2), noise=0.03)
    assert rms(whole) < 0.3


def test_at_the_edge_of_the_whole_runs_more_are_made():
    """Two octaves below what a quarter says: beyond the three rates that are tried at first."""
    bench = Moving(lambda d: 1.0 * d, noise=0.0)
    found = searched(bench)
    whole = sorted({lr for lr, _, n in bench.asked if n == STEPS})
    assert len(whole) == 5
    # The three alone end an octave or so above the best.
    assert abs(math.log2(found.value / BEST)) < 0.6
    assert min(whole) < 1.5 * BEST


def test_where_the_fall_goes_on_beyond_the_last_rate_it_is_told():
    found = searched(Moving(lambda d: 0.0 if d < 0.5 else 5.0, sweep_off=2**5))
    assert found.confidence != "high"
    assert any("it may lie lower" in r or "not known" in r for r in found.reasons)


@pytest.mark.parametrize("steps", [60, 200, 2000])
@pytest.mark.parametrize("octaves", [lambda d: 0.0, lambda d: 2.0 * d, lambda d: -2.0 * d])
@pytest.mark.parametrize("off", [1 / 100, 1, 100])
def test_a_search_costs_less_than_a_quarter_of_a_grid(steps, octaves, off):
    """Of 13 rates on three seeds, also where rates are added at the edges of every rung."""
    bench = Moving(octaves, sweep_off=off)
    found = searched(bench, steps=steps)
    asked = sum(n for _, _, n in bench.asked) + sum(len(losses) for _, losses in found.sweeps)
    assert found.cost == asked
    assert found.cost < 13 * 3 * steps / 4


def test_where_no_rate_trains_a_search_costs_no_more():
    class Hopeless(Valley):
        def run(self, scale, seed, steps):
            return Outcome(3.0, 2.0)

    found = searched(Hopeless(BEST), steps=60)
    assert found.value is None
    assert found.cost < 13 * 3 * 60 / 4


@pytest.mark.parametrize("steps", [4, 5, 7, 16])
def test_a_training_of_few_steps_is_searched(steps):
    bench = Valley(BEST)
    found = searched(bench, steps=steps)
    assert found.value == pytest.approx(BEST, rel=0.05)
    assert max(n for _, _, n in bench.asked) == steps
    assert {len(losses) <= FEWEST_STEPS for _, losses in found.sweeps} == {True}
    assert len(found.sweeps) == SWEEP_SEEDS


def test_a_cliff_below_the_best_rate_of_shorter_runs_is_heeded():
    """Rates that trained for a quarter diverge later."""

    class Late(Valley):
        def run(self, scale, seed, steps):
            if steps == STEPS and scale > 1.5 * BEST:
                return Outcome(math.inf, 2.0)
            self.best = BEST if steps == STEPS else 2 * BEST
            return super().run(scale, seed, steps)

    found = searched(Late(BEST))
    assert found.value < 1.5 * BEST
    assert found.value > BEST / 2
    assert found.diverges <= 3 * BEST
    assert found.high <= 1.5 * BEST


def test_a_rate_that_needs_longer_than_the_shortest_runs_is_not_too_high():
    """Its shortest run ended above where it began; "too high from" was once the very rate that was best."""

    class Slow(Valley):
        def run(self, scale, seed, steps):
            end, start = super().run(scale, seed, steps)
            return Outcome(2.1 if steps < STEPS / 4 and scale > BEST / 2 else end, start)

    found = searched(Slow(BEST, ceiling=4.5))
    assert {r.scale for r in found.runs if r.failed and r.steps < STEPS / 4} & {
        r.scale for r in found.runs if r.steps == STEPS and not r.failed
    }
    assert found.value == pytest.approx(BEST, rel=0.3)
    assert found.high > 1.2 * BEST
    assert found.diverges > 2 * found.value


def test_with_one_seed_the_whole_length_is_followed_too():
    found = searched(Moving(lambda d: 0.8 * d), seeds=(0,))
    assert abs(math.log2(found.value / BEST)) < 0.3
    assert found.confidence != "high"


def test_longer_runs_decide_as_far_as_chance_allows():
    """Two valleys a factor 4 apart, at 100 and 400 steps, with noise between the seeds and without."""

    def valley(octaves, steps, noise):
        ends = {2.0**k: math.exp(0.15 * (k - octaves) ** 2) for k in range(-2, 5)}
        return [
            Run(lr, seed, steps, end * math.exp((-1) ** (seed + round(math.log2(lr))) * noise), 99.0)
            for lr, end in ends.items()
            for seed in (0, 1)
        ]

    clean = estimate(valley(2, 100, 0.0) + valley(0, 400, 0.0)).value
    noisy = estimate(valley(2, 100, 0.0) + valley(0, 400, 0.5)).value
    assert 1 <= clean < 1.1
    assert noisy > 1.25 * clean


def test_two_rates_know_an_optimum_to_half_a_step():
    """Without noise they would seem to know it exactly, and outweigh a whole valley at a quarter."""
    quarter = [Run(2.0**k, s, 100, math.exp(0.2 * k * k), 99.0) for k in range(-2, 3) for s in (0, 1)]
    whole = [Run(lr, 0, 400, end, 99.0) for lr, end in ((2.0, math.inf), (4.0, 1.0), (8.0, 1.1))]
    ends = [w.weight for w in estimate(quarter + whole).witnesses]
    assert ends[1] == pytest.approx(1 / (SHAPE**2 + (math.log(2) / 2) ** 2))
    assert ends[0] == pytest.approx(1 / (SHAPE**2 + (2 * DRIFT) ** 2))


@pytest.mark.parametrize(
    ("ends", "steps"), [((1.2, 1.1, 1.0), 1), ((1.0, 1.1, 1.2), 1), ((1.1, 1.0, 1.1), 0)]
)
def test_an_optimum_at_the_edge_is_known_to_a_step_at_best(ends, steps):
    """Chance may have put it there, and what lies beyond was not seen."""
    runs = [Run(2.0**k, s, 100, end, 99.0) for k, end in enumerate(ends) for s in (0, 1)]
    (known,) = estimate(runs).witnesses
    assert known.weight == pytest.approx(1 / (SHAPE**2 + (steps * math.log(2)) ** 2))


def test_a_rate_that_ran_once_more_is_known_no_better_than_all_are():
    valley = [Run(2.0**k, 0, 100, math.exp(0.05 * k * k), 9.0) for k in range(-2, 3)]
    once = estimate(valley).witnesses[0].weight
    again = estimate([*valley, Run(1.0, 1, 100, 1.0, 9.0)]).witnesses[0].weight
    # The square of the noise falls to 5/6, and not to a half.
    assert (1 / again - SHAPE**2) / (1 / once - SHAPE**2) == pytest.approx(5 / 6, rel=0.05)


def test_the_safe_range_holds_the_value():
    """Where the valley is so narrow that one rate alone is safe, and shorter runs draw the value off it."""
    found = searched(Moving(lambda d: 0.4 * d, sharp=3.0))
    assert found.low <= found.value <= found.high


def test_noise_is_what_seeds_differ_by_beyond_a_common_factor():
    rng = np.random.default_rng(0)
    runs = [
        Run(2.0**k, seed, 100, math.exp(0.3 * (seed % 2) + 0.04 * rng.normal()), 99.0)
        for k in range(3)
        for seed in range(200)
    ]
    assert noise_of(runs) == pytest.approx(0.04, rel=0.1)
    assert noise_of(runs[::200]) == NOISE


def test_lengths_that_say_nothing_are_left():
    dead = [Run(s, seed, 100, math.inf, 2.0) for s in (1.0, 2.0) for seed in (0, 1)]
    alive = [Run(s, seed, 50, 1.0 + s / 10, 2.0) for s in (1.0, 2.0) for seed in (0, 1)]
    assert estimate(dead) is None
    assert estimate([*alive, *dead]) is None  # at the length that counts, nothing trained
    found = estimate(alive)
    assert (found.value, len(found.witnesses)) == (1.0, 1)
    late = [Run(s, seed, 200, 1.0 + s / 10, 2.0) for s in (1.0, 2.0) for seed in (0, 1)]
    assert [w.steps for w in estimate([*alive, *dead, *late]).witnesses] == [50, 200]


def test_what_is_foretold_is_that_of_the_length_asked_for():
    runs = [Run(2.0**k, s, 100, math.exp(0.2 * k * k), 99.0) for k in range(-2, 3) for s in (0, 1)]
    assert estimate(runs).value == pytest.approx(1)
    assert estimate(runs, 400).value == pytest.approx(FALL**2)


def test_the_seeds_optima_lie_about_the_value():
    """Widths are compared by them."""
    found = searched(Moving(lambda d: 0.8 * d, noise=0.03))
    assert len(found.optima) == 2
    assert math.exp(np.mean(np.log(found.optima))) == pytest.approx(found.value, rel=0.25)
