"""Estimates from the log: unbiased where the plain one is not, intervals that hold, and the curve's shape."""

import itertools
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from ledger.observed import Observed
from ledger.prices import Price
from router.estimators import (
    ESTIMATORS,
    Cutoffs,
    Estimator,
    Prices,
    calibration_error,
    curve,
    estimate,
    plain_agreement,
)
from tests.unit.router.logs import CONFIDENT, HARD, PRICES, Traffic, logged, traffic

LOGS, ROWS = 1_000, 1_000
IN_FORCE = Cutoffs(HARD, CONFIDENT, CONFIDENT)
CUTOFFS = {
    "in force": IN_FORCE,
    "stricter": Cutoffs(0.7, 0.9, 0.9),
    "laxer": Cutoffs(0.4, 0.6, 0.6),
    "all for the student": Cutoffs(0.0, 0.0, 0.0),
}


@cache
def population() -> Traffic:
    return traffic(np.random.default_rng(1), 1_000_000)


@cache
def logs() -> list[Observed]:
    rng = np.random.default_rng(2)
    return [logged(rng, traffic(rng, ROWS)) for _ in range(LOGS)]


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("which", CUTOFFS)
def test_over_a_thousand_logs_the_estimate_is_right_and_its_interval_holds(which: str, estimator: Estimator):
    cutoffs = CUTOFFS[which]
    agreement, teacher_share, cost = population().truth(cutoffs.hard, cutoffs.confident)
    points = [estimate(log, cutoffs, PRICES, estimator) for log in logs()]
    for found, true in (
        ([p.agreement for p in points], agreement),
        ([p.teacher_share for p in points], teacher_share),
        ([p.cost for p in points], cost),
    ):
        error = np.std(found) / np.sqrt(LOGS)
        assert abs(np.mean(found) - true) <= 4 * error + 1e-3 * true
    covered = np.mean([p.low <= agreement <= p.high for p in points])
    assert covered >= 0.93
    # an interval that always holds for being everything says nothing
    assert np.mean([p.high - p.low for p in points]) < 6 * np.std([p.agreement for p in points])


def test_the_plain_estimate_is_biased_where_ours_is_not():
    """Over the labelled requests alone, and over the router's own choices: both see the doubtful ones too often."""
    true, _, _ = population().truth(HARD, CONFIDENT)
    answered = population().confidence[population().score >= HARD] >= CONFIDENT
    of_answers = population().agreed[population().score >= HARD][answered].mean()
    plain = [plain_agreement(log) for log in logs()]
    own = [log.agreement[log.labelled & log.student].mean() for log in logs()]
    assert true - np.mean(plain) > 40 * np.std(plain) / np.sqrt(LOGS)
    assert of_answers - np.nanmean(own) > 10 * np.nanstd(own) / np.sqrt(LOGS)


def test_doubly_robust_spreads_less_than_inverse_propensity():
    for cutoffs in (IN_FORCE, CUTOFFS["all for the student"]):
        spread = {e: np.std([estimate(log, cutoffs, PRICES, e).agreement for log in logs()]) for e in ("ips", "dr")}
        assert spread["dr"] < spread["ips"]


def test_without_labels_nothing_is_claimed():
    log = logs()[0]
    bare = replace(log, asked=log.asked & False, agreement=log.agreement * np.nan, propensity=log.propensity * np.nan)
    point = estimate(bare, IN_FORCE, PRICES)
    assert point.labels == 0
    assert (point.low, point.high) == (pytest.approx(point.teacher_share), 1.0)
    assert plain_agreement(bare) is None
    assert calibration_error(bare, "score") is None


def test_no_disagreement_seen_is_not_none_there():
    log = logs()[0]
    happy = replace(log, agreement=np.where(log.labelled, 1.0, np.nan))
    for estimator in ESTIMATORS:
        assert estimate(happy, IN_FORCE, PRICES, estimator).low < 0.99


def test_answers_not_compared_yet_are_taken_to_be_like_the_others():
    rng = np.random.default_rng(8)
    log = logged(rng, population())
    half = replace(log, agreement=np.where(rng.random(len(log)) < 0.5, log.agreement, np.nan))
    true, _, _ = population().truth(HARD, CONFIDENT)
    assert estimate(half, IN_FORCE, PRICES, "ips").agreement == pytest.approx(true, abs=0.004)


def test_streamed_and_whole_answers_have_thresholds_of_their_own():
    log = logs()[0]
    streamed = replace(log, stream=np.ones(len(log), dtype=bool))
    strict_end = Cutoffs(HARD, CONFIDENT, 1.1)
    assert estimate(streamed, strict_end, PRICES).teacher_share == estimate(streamed, IN_FORCE, PRICES).teacher_share
    whole = replace(log, stream=np.zeros(len(log), dtype=bool))
    assert estimate(whole, Cutoffs(HARD, CONFIDENT, 1.1), PRICES).teacher_share == 1.0


def test_the_curve_goes_from_the_student_to_the_teacher_over_what_is_in_force():
    points = curve(logs()[0], PRICES, points=21, in_force=IN_FORCE)
    assert len(points) == 21
    assert (points[0].teacher_share, points[-1].teacher_share) == (0.0, 1.0)
    assert (points[0].hard, points[-1].agreement) == (0.0, 1.0)
    assert points[0].saving > 0.9
    assert points[-1].saving == pytest.approx(0.0)
    assert all(p.low <= p.agreement <= p.high for p in points)
    for one, other in itertools.pairwise(points):
        assert one.hard <= other.hard
        assert one.confident <= other.confident
        # further on fewer requests are answered, but for the guess of those whose confidence is not known
        assert other.teacher_share >= one.teacher_share - 0.05
    assert curve(nothing(), PRICES) == []


def nothing() -> Observed:
    none, no = np.zeros(0), np.zeros(0, dtype=bool)
    return Observed(none, none, none, no, no, no, no, none, none, np.zeros((0, 3)))


def test_four_requests_come_out_as_by_hand():
    """Four requests: two answered (one explored, wrong, p = 1/2), one abandoned, one never asked."""
    nan = np.nan
    log = Observed(
        score=np.array([0.9, 0.9, 0.8, 0.2]),
        confidence=np.array([0.9, 0.9, 0.3, nan]),
        novelty=np.zeros(4),
        stream=np.array([True, False, True, False]),
        student=np.array([True, True, False, False]),
        tried=np.array([True, True, True, False]),
        asked=np.array([True, False, False, False]),
        agreement=np.array([0.0, nan, nan, nan]),
        propensity=np.array([0.5, nan, nan, nan]),
        tokens=np.array([[1e6, 0, 0]] * 4),
    )
    prices = Prices(Price(input=1.0), Price(input=10.0))
    point = estimate(log, Cutoffs(0.5, 0.5, 0.5), prices, "ips")
    assert point.teacher_share == 0.5
    assert point.agreement == 1 - 2 / 4
    # three were asked of the student at 1, two of the teacher at 10
    assert point.cost == pytest.approx((3 * 1 + 2 * 10) / 4)
    assert point.saving == pytest.approx(1 - 23 / 40)
    # dr: 0.1 is guessed of both answers, and the one that was seen corrects it: (0.1 + 2 * (1 - 0.1) + 0.1) / 4
    assert estimate(log, Cutoffs(0.5, 0.5, 0.5), prices, "dr").agreement == pytest.approx(1 - 2.0 / 4)
    assert estimate(log, Cutoffs(0.5, 0.5, 0.5), prices, "snips").agreement == pytest.approx(1 - 1.0 * 2 / 4)
    assert estimate(log, Cutoffs(0.95, 0.5, 0.5), prices).agreement == 1.0


def test_the_calibration_error_is_none_for_a_probability_that_is_right_and_large_for_one_that_is_not():
    rng = np.random.default_rng(5)
    p = rng.random(40_000)
    log = logged(rng, replace(traffic(rng, 40_000), score=p, agreed=rng.random(40_000) < p))
    assert calibration_error(log, "score") < 0.04
    assert calibration_error(replace(log, score=1 - p), "score") > 0.3
