"""The sequential comparison: few false alarms however often one looks, and the power to see a real fall."""

import itertools
import math
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.sequential import Arm, arm, arm_of_counts, evidence, interval, tail_bounds

ALPHA = 0.05
RUNS = 2_000
SLACK = ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / RUNS)
"""What a true rate of alpha exceeds in one of 700 tests."""

counted = cache(arm_of_counts)


@cache
def compared(first_bad: int, second_bad: int, n: int, excess: float) -> float:
    return evidence(counted(first_bad, n), counted(second_bad, n), excess)


def alarms(p_first: float, p_second: float, excess: float, looks: int, seed: int) -> float:
    """Share of runs in which the second was, at some look, shown to be worse by more than the excess.

    A look comes after every pair of observations.
    """
    rng = np.random.default_rng(seed)
    seen = np.zeros((2, RUNS), np.int64)
    fired = np.zeros(RUNS, bool)
    for n in range(1, looks + 1):
        seen[0] += rng.random(RUNS) < p_first
        seen[1] += rng.random(RUNS) < p_second
        kinds, which = np.unique(seen, axis=1, return_inverse=True)
        found = [compared(int(a), int(b), n, excess) >= math.log(1 / ALPHA) for a, b in kinds.T]
        fired |= np.array(found)[which.ravel()]
    return float(fired.mean())


@pytest.mark.parametrize(
    ("p_first", "p_second", "excess"),
    [(0.1, 0.1, 0.0), (0.1, 0.13, 0.03), (0.02, 0.02, 0.0), (0.5, 0.5, 0.0)],
    ids=["alike", "worse by what is allowed", "rare", "even"],
)
def test_a_look_after_every_observation_raises_no_more_false_alarms_than_alpha(p_first, p_second, excess):
    assert alarms(p_first, p_second, excess, 150, seed=1) <= SLACK


def test_a_real_fall_is_seen_in_most_runs_and_sooner_where_it_is_larger():
    small, large = alarms(0.05, 0.2, 0.03, 200, seed=2), alarms(0.05, 0.5, 0.03, 50, seed=3)
    assert small > 0.6
    assert large > 0.9


def test_one_that_is_as_good_is_shown_to_be_within_the_margin():
    as_good = counted(60, 2_000)
    assert evidence(as_good, as_good, -0.03) >= math.log(1 / ALPHA)
    assert evidence(as_good, as_good, 0.0) < math.log(1 / ALPHA)
    worse = counted(160, 2_000)
    assert evidence(worse, as_good, -0.03) < math.log(1 / ALPHA)


def drawn(rng: np.random.Generator, n: int, least: float) -> tuple[np.ndarray, np.ndarray]:
    """Labels of requests of which the hard ones are wrong more often, and are drawn four times as often."""
    hard = rng.random(n) < 0.25
    wrong = rng.random(n) < np.where(hard, 0.3, 0.02)
    p = np.where(hard, 4 * least, least)
    kept = rng.random(n) < p
    return wrong[kept].astype(float), least / p[kept]


TRUE_MEAN = 0.25 * 0.3 + 0.75 * 0.02


def test_weights_undo_that_doubtful_requests_are_drawn_more_often():
    values, weights = drawn(np.random.default_rng(0), 400_000, 0.02)
    assert arm(values, weights).mean == pytest.approx(TRUE_MEAN, abs=0.01)
    assert arm(values).mean > TRUE_MEAN + 0.05
    other = np.random.default_rng(1).random(3_000) < TRUE_MEAN
    low, high = interval(arm_of_counts(int(other.sum()), 3_000), arm(values, weights), ALPHA)
    assert low < 0.0 < high < 0.06


def test_unequal_propensities_raise_no_more_false_alarms_either():
    """The true difference leaves the interval, at any of the looks, in few runs."""
    rng, runs, left = np.random.default_rng(4), 150, 0
    for _ in range(runs):
        values, weights = drawn(rng, 15_000, 0.02)
        uniform = (rng.random(values.size) < TRUE_MEAN).astype(float)
        looks = (interval(arm(uniform[:n]), arm(values[:n], weights[:n]), ALPHA) for n in range(40, values.size, 60))
        left += any(not low <= 0.0 <= high for low, high in looks)
    assert left / runs <= ALPHA + 3 * math.sqrt(ALPHA / runs)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 200), st.integers(0, 200), st.floats(-0.5, 0.5))
def test_evidence_falls_as_more_is_allowed_and_hangs_on_no_order(bad_first, bad_second, excess):
    first, second = counted(bad_first, 200), counted(bad_second, 200)
    assert evidence(first, second, excess) >= evidence(first, second, excess + 0.1) - 1e-9
    low, high = interval(first, second, ALPHA)
    assert low <= (bad_second - bad_first) / 200 <= high
    values = np.r_[np.ones(bad_second), np.zeros(200 - bad_second)]
    shuffled = arm(np.random.default_rng(bad_first).permutation(values))
    assert shuffled.above == pytest.approx(second.above)
    assert shuffled.below == pytest.approx(second.below)


def test_wealths_are_monotone_in_the_mean_as_cells_of_the_grid_need():
    rng = np.random.default_rng(5)
    found = arm(rng.choice([0.0, 0.5, 1.0], 300), rng.choice([0.25, 1.0], 300))
    assert (np.diff(found.above) <= 1e-9).all()
    assert (np.diff(found.below) >= -1e-9).all()


def test_nothing_seen_shows_nothing():
    nothing = arm(np.zeros(0), np.zeros(0))
    assert (nothing.n, math.isnan(nothing.mean)) == (0, True)
    assert interval(nothing, nothing, ALPHA) == pytest.approx((-1.0, 1.0), abs=1e-6)
    assert tail_bounds(np.zeros(0), np.zeros(0), 0.05, ALPHA) == (0.0, math.inf)


def test_a_percentile_stays_within_its_bounds_at_every_look():
    rng, runs, left = np.random.default_rng(6), 150, 0
    truth = math.exp(5 + 0.5 * 1.6448536)
    for _ in range(runs):
        times = rng.lognormal(5, 0.5, 600)
        looks = (tail_bounds(np.sort(times[:n]), np.ones(n), 0.05, ALPHA) for n in range(20, 600, 20))
        left += any(not low <= truth <= high for low, high in looks)
    assert left / runs <= ALPHA + 3 * math.sqrt(ALPHA / runs)


def test_a_percentile_is_known_better_the_more_is_seen():
    rng = np.random.default_rng(7)
    widths = []
    for n in (300, 1_000, 10_000):
        low, high = tail_bounds(np.sort(rng.lognormal(5, 0.5, n)), np.ones(n), 0.05, ALPHA)
        widths.append(high / low)
    assert all(wide > narrow for wide, narrow in itertools.pairwise(widths))
    assert widths[-1] < 1.2


def test_repeated_times_count_as_often_as_they_were_seen():
    once = tail_bounds(np.repeat([100.0, 900.0], [950, 50]), np.ones(1_000), 0.05, ALPHA)
    assert once == tail_bounds(np.array([100.0, 900.0]), np.array([950.0, 50.0]), 0.05, ALPHA)


def test_an_arm_says_how_much_was_seen():
    found: Arm = arm_of_counts(3, 10)
    assert (found.n, found.mean) == (10, pytest.approx(0.3))
