"""The thresholds: cheapest by the rows they are chosen on, and no laxer than the bound allows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from router.calibration import (
    CASCADES,
    LEVELS,
    Evidence,
    Prices,
    Rule,
    Thresholds,
    answered,
    choose_thresholds,
    expected_cost,
    rule_of,
)
from router.thresholds import NEVER
from tests.unit.router.worlds import Population, population

PRICES = Prices(student=1.0, teacher=20.0)
GIVEN_UP = 0.02


def choose(rows: Population, target: float, delta: float = 0.05, prices: Prices = PRICES) -> Thresholds:
    return choose_thresholds(rows.evidence, target, delta, prices)


def cost(rows: Population, thresholds: Thresholds, prices: Prices) -> float:
    rule = rule_of(thresholds)
    return float(np.mean([expected_cost(rule, rows.scores, mask, prices) for mask in rows.answered(thresholds)]))


def same(scores: np.ndarray, confidences: np.ndarray, agreed: np.ndarray) -> Evidence:
    return Evidence(scores, confidences, confidences, agreed)


@given(st.integers(0, 10_000), st.integers(1, 400), st.floats(0.5, 0.99), st.floats(0.5, 0.99))
def test_a_higher_target_never_costs_less_or_lets_through_more_disagreement(
    seed: int, size: int, one: float, other: float
):
    rows = population(seed, size)
    lax, strict = choose(rows, min(one, other)), choose(rows, max(one, other))
    slack = GIVEN_UP * PRICES.teacher
    assert cost(rows, strict, PRICES) >= cost(rows, lax, PRICES) - slack
    assert lax.feasible or not strict.feasible


@given(st.integers(0, 10_000), st.integers(1, 300), st.floats(0.5, 0.99), st.floats(0.01, 0.3))
@settings(max_examples=60)
def test_the_stated_bound_and_share_are_those_of_the_rows(seed: int, size: int, target: float, delta: float):
    rows = population(seed, size)
    thresholds = choose(rows, target, delta)
    taken = rows.answered(thresholds)
    assert thresholds.student_share == pytest.approx(taken.mean())
    if thresholds.feasible:
        assert thresholds.sure_share == pytest.approx((rows.scores >= thresholds.sure).mean())
        assert thresholds.hard <= thresholds.sure
        wrong = int((taken & ~rows.agreed).sum(axis=1).max())
        exact = binomtest(wrong, size, alternative="less").proportion_ci(1 - delta / LEVELS)
        assert thresholds.agreement_lower_bound == pytest.approx(1 - exact.high, abs=1e-9)
        assert thresholds.agreement_lower_bound >= target - 1e-9


def test_no_cascade_that_keeps_the_bound_saves_much_more():
    rows = population(seed=5, size=300)
    thresholds = choose(rows, 0.93)
    allowed = max(
        k for k in range(300) if binomtest(k, 300, alternative="less").proportion_ci(1 - 0.05 / LEVELS).high <= 0.07
    )

    def cheapest(confidences: np.ndarray, hard: float) -> float:
        masks = ((rows.scores >= hard) & (confidences >= bar) for bar in confidences)
        kept = (mask for mask in masks if (mask & ~rows.agreed).sum() <= allowed)
        return min(expected_cost(Rule(hard, NEVER, 0, 0), rows.scores, mask, PRICES) for mask in kept)

    hards = {chain.hard for chain in CASCADES if chain.hard is not None}
    least = min(np.mean([cheapest(rows.held, hard), cheapest(rows.whole, hard)]) for hard in hards)
    assert cost(rows, thresholds, PRICES) <= least + GIVEN_UP * (PRICES.teacher - least)


def test_equal_confidences_stand_or_fall_together():
    agreed = np.array([True] * 300 + [False] * 100)
    assert not choose_thresholds(same(np.full(400, 0.75), np.full(400, 0.75), agreed), 0.9, 0.05, PRICES).feasible


def test_neighbouring_floats_are_still_told_apart():
    high = 0.9
    low = float(np.nextafter(high, 0.0))
    agreed = np.array([True] * 300 + [False] * 100)
    confidences = np.where(agreed, high, low)
    chosen = choose_thresholds(same(np.full(400, 0.95), confidences, agreed), 0.95, 0.05, PRICES)
    assert low < chosen.confident <= high
    assert low < chosen.confident_end <= high


@pytest.mark.parametrize("n", [0, 1, 20, 103])
def test_too_few_rows_for_the_bound_send_everything_to_the_teacher(n: int):
    # 103 agreements in a row leave an upper bound above 5% at level 0.05 / LEVELS; see the next test
    thresholds = choose_thresholds(same(np.ones(n), np.ones(n), np.ones(n, dtype=bool)), 0.95, 0.05, PRICES)
    assert (thresholds.feasible, thresholds.student_share, thresholds.n) == (False, 0.0, n)


def test_just_enough_agreements_in_a_row_meet_the_bound():
    """1 - level^(1/n) <= 5% first holds at n = 104 (Clopper and Pearson with no disagreement)."""
    thresholds = choose_thresholds(same(np.ones(104), np.ones(104), np.ones(104, dtype=bool)), 0.95, 0.05, PRICES)
    assert (thresholds.feasible, thresholds.student_share) == (True, 1.0)


def test_a_student_dearer_than_what_it_saves_is_not_used():
    rows = population(seed=3, size=500)
    assert choose(rows, 0.9).feasible
    assert not choose(rows, 0.9, prices=Prices(student=25.0, teacher=20.0)).feasible


def test_a_dear_student_is_spared_the_requests_it_would_fail():
    rows = population(seed=3, size=2000, ease=0.0)
    cheap, dear = (choose(rows, 0.9, prices=Prices(student, 20.0)) for student in (0.01, 8.0))
    assert cheap.hard < dear.hard


def test_where_the_score_says_as_much_as_the_answer_nothing_is_held_back():
    rng = np.random.default_rng(4)
    scores = rng.random(2000)
    chosen = choose_thresholds(same(scores, scores, rng.random(2000) < scores**0.1), 0.9, 0.05, PRICES)
    assert chosen.sure_share == pytest.approx(chosen.student_share, abs=0.02)
    assert chosen.sure_share > 0.5


def test_where_the_score_says_little_the_answer_is_read_and_few_are_sure():
    chosen = choose(population(seed=6, size=4000, ease=1.0), 0.9)
    assert chosen.sure_share < 0.3 < chosen.student_share


def test_an_answer_read_to_its_end_is_let_through_more_often():
    rows = population(seed=7, size=4000, ease=1.0)
    streamed, plain = rows.answered(choose(rows, 0.9)).mean(axis=1)
    assert plain > streamed + 0.05


def test_a_sure_request_is_answered_whatever_its_confidence():
    evidence = same(np.array([0.9, 0.9, 0.6, 0.6, 0.3]), np.array([0.0, 1.0, 0.0, 1.0, 1.0]), np.ones(5, dtype=bool))
    streamed, plain = answered(Rule(0.5, 0.8, 0.7, NEVER), evidence)
    assert streamed.tolist() == [True, True, False, True, False]
    assert plain.tolist() == [True, True, False, False, False]


@pytest.mark.parametrize(("target", "delta"), [(1.0, 0.1), (0.9, 0.0)])
def test_impossible_arguments_are_refused(target: float, delta: float):
    with pytest.raises(ValueError, match="target"):
        choose_thresholds(same(np.ones(3), np.ones(3), np.ones(3, dtype=bool)), target, delta, PRICES)


def test_columns_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="lengths"):
        same(np.ones(3), np.ones(3), np.ones(2, dtype=bool))
