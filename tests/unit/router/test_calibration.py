"""The guarantee: thresholds keep the system's agreement at the target."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

from router.calibration import HARD_GRID, Prices, Thresholds, choose_thresholds
from tests.unit.router.worlds import Population, population

PRICES = Prices(student=1.0, teacher=20.0)


def choose(rows: Population, target: float, delta: float = 0.05, prices: Prices = PRICES) -> Thresholds:
    return choose_thresholds(rows.scores, rows.confidences, rows.agreed, target, delta, prices)


def cost(rows: Population, thresholds: Thresholds, prices: Prices) -> float:
    if not thresholds.feasible:
        return prices.teacher
    tried = rows.scores >= thresholds.hard
    return prices.student * tried.mean() + prices.teacher * (1 - rows.answered(thresholds).mean())


@pytest.mark.parametrize(
    ("size", "target", "ease", "overconfidence"),
    [(300, 0.9, 1.5, 1.0), (300, 0.95, 3.0, 1.0), (800, 0.9, 0.5, 4.0), (150, 0.9, 2.5, 0.1)],
    ids=["calibrated", "easy", "overconfident", "flat"],
)
def test_at_most_delta_of_the_worlds_miss_the_target(size: int, target: float, ease: float, overconfidence: float):
    delta, worlds = 0.1, 400
    truth = population(seed=1, size=100_000, ease=ease, overconfidence=overconfidence)
    rng = np.random.default_rng(2)
    chosen = [choose(truth.sample(rng, size), target, delta) for _ in range(worlds)]
    missed = sum(truth.agreement(thresholds) < target for thresholds in chosen)
    assert missed <= binom.ppf(0.999, worlds, delta)
    # A rule that never let the student answer would pass the line above.
    assert np.mean([thresholds.student_share for thresholds in chosen]) > 0.2


@given(st.integers(0, 10_000), st.integers(1, 400), st.floats(0.5, 0.99), st.floats(0.5, 0.99))
def test_a_higher_target_never_costs_less_or_lets_through_more_disagreement(
    seed: int, size: int, one: float, other: float
):
    rows = population(seed, size)
    lax, strict = choose(rows, min(one, other)), choose(rows, max(one, other))
    assert cost(rows, strict, PRICES) >= cost(rows, lax, PRICES) - 1e-9
    assert lax.feasible or not strict.feasible
    free = Prices(student=0.0, teacher=1.0)
    shares = [choose(rows, target, prices=free).student_share for target in (min(one, other), max(one, other))]
    assert shares[1] <= shares[0]


@given(st.integers(0, 10_000), st.integers(1, 300), st.floats(0.5, 0.99), st.floats(0.01, 0.3))
@settings(max_examples=60)
def test_the_stated_bound_and_share_are_those_of_the_rows(seed: int, size: int, target: float, delta: float):
    rows = population(seed, size)
    thresholds = choose(rows, target, delta)
    answered = rows.answered(thresholds)
    assert thresholds.student_share == pytest.approx(answered.mean())
    if thresholds.feasible:
        wrong = int((answered & ~rows.agreed).sum())
        exact = binomtest(wrong, size, alternative="less").proportion_ci(1 - delta / len(HARD_GRID))
        assert thresholds.agreement_lower_bound == pytest.approx(1 - exact.high, abs=1e-9)
        assert thresholds.agreement_lower_bound >= target - 1e-9


def test_no_pair_of_the_grid_that_keeps_the_bound_is_cheaper():
    rows = population(seed=5, size=300)
    thresholds = choose(rows, 0.93)
    allowed = max(
        k
        for k in range(300)
        if binomtest(k, 300, alternative="less").proportion_ci(1 - 0.05 / len(HARD_GRID)).high <= 0.07
    )
    costs = [
        PRICES.student * (rows.scores >= hard).mean() + PRICES.teacher * (1 - answered.mean())
        for hard in HARD_GRID
        for confident in rows.confidences
        if (answered := (rows.scores >= hard) & (rows.confidences >= confident)).any()
        and (answered & ~rows.agreed).sum() <= allowed
    ]
    assert cost(rows, thresholds, PRICES) == pytest.approx(min(costs))


def test_equal_confidences_stand_or_fall_together():
    agreed = np.array([True] * 300 + [False] * 100)
    same = choose_thresholds(np.full(400, 0.75), np.full(400, 0.75), agreed, 0.9, 0.05, PRICES)
    assert not same.feasible


def test_neighbouring_floats_are_still_told_apart():
    high = 0.9
    low = float(np.nextafter(high, 0.0))
    agreed = np.array([True] * 300 + [False] * 100)
    confidences = np.where(agreed, high, low)
    chosen = choose_thresholds(np.full(400, 0.95), confidences, agreed, 0.95, 0.05, PRICES)
    assert low < chosen.confident <= high


@pytest.mark.parametrize("n", [0, 1, 20, 71])
def test_too_few_rows_for_the_bound_send_everything_to_the_teacher(n: int):
    # 71 agreements in a row leave an upper bound above 5% at level 0.05 / len(HARD_GRID); see the next test
    thresholds = choose_thresholds(np.ones(n), np.ones(n), np.ones(n, dtype=bool), 0.95, 0.05, PRICES)
    assert (thresholds.feasible, thresholds.student_share, thresholds.n) == (False, 0.0, n)


def test_just_enough_agreements_in_a_row_meet_the_bound():
    """1 - level^(1/n) <= 5% first holds at n = 72 (Clopper and Pearson with no disagreement)."""
    thresholds = choose_thresholds(np.ones(72), np.ones(72), np.ones(72, dtype=bool), 0.95, 0.05, PRICES)
    assert (thresholds.feasible, thresholds.student_share) == (True, 1.0)


def test_a_student_dearer_than_what_it_saves_is_not_used():
    rows = population(seed=3, size=500)
    assert choose(rows, 0.9).feasible
    assert not choose(rows, 0.9, prices=Prices(student=25.0, teacher=20.0)).feasible


def test_a_dear_student_is_spared_the_requests_it_would_fail():
    rows = population(seed=3, size=2000, ease=0.0)
    cheap, dear = (choose(rows, 0.9, prices=Prices(student, 20.0)) for student in (0.01, 8.0))
    assert cheap.hard < dear.hard


@pytest.mark.parametrize(("target", "delta", "labels"), [(1.0, 0.1, 3), (0.9, 0.0, 3), (0.9, 0.1, 2)])
def test_impossible_arguments_are_refused(target: float, delta: float, labels: int):
    with pytest.raises(ValueError, match=r"target|labels"):
        choose_thresholds(np.ones(3), np.ones(3), np.ones(labels, dtype=bool), target, delta, PRICES)
