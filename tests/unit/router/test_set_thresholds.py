"""Thresholds that a person sets: what they leave of a release's guarantee, and what the router then decides by."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.set_thresholds import Bars
from router.calibration import Evidence, Rule, answered, rule_of
from router.estimators import Cutoffs, estimate
from router.thresholds import NEVER, Thresholds, bars_of, in_force, keeps_guarantee
from tests.unit.router.logs import CONFIDENT, PRICES, logged, traffic

OWN = Thresholds(0.4, 0.6, 0.95, 0.05, 300, 0.5, 0.951, True, 0.9, 0.7, 0.1)
BAR = st.floats(0, 1.2) | st.just(NEVER)
BARS = st.builds(Bars, hard=BAR, confident=BAR, confident_end=BAR, sure=BAR)
RNG = np.random.default_rng(3)
EVIDENCE = Evidence(RNG.random(400), RNG.random(400), RNG.random(400), RNG.random(400) < 0.5)


def thresholds(bars: Bars) -> Thresholds:
    return replace(OWN, hard=bars.hard, confident=bars.confident, confident_end=bars.confident_end, sure=bars.sure)


@given(BARS, BARS)
def test_where_the_guarantee_is_kept_the_student_answers_nothing_that_it_did_not_before(own, wanted):
    kept = keeps_guarantee(thresholds(own), wanted)
    before, now = (answered(rule_of(thresholds(bars)), EVIDENCE) for bars in (own, wanted))
    if kept:
        assert not any((mine & ~old).any() for mine, old in zip(now, before, strict=True))


@given(BARS)
def test_its_own_thresholds_keep_a_release_s_guarantee_and_so_do_stricter_ones(own):
    assert keeps_guarantee(thresholds(own), own)
    stricter = Bars(hard=2.0, confident=2.0, confident_end=2.0, sure=2.0)
    assert keeps_guarantee(thresholds(own), stricter)


@pytest.mark.parametrize("name", ["hard", "confident", "confident_end", "sure"])
def test_a_single_lower_bar_loses_the_guarantee(name):
    lower = getattr(bars_of(OWN), name) - 0.01
    wanted = Bars(**{"hard": OWN.hard, "confident": OWN.confident, "confident_end": OWN.confident_end,
                     "sure": OWN.sure, name: lower})  # fmt: skip
    assert keeps_guarantee(OWN, bars_of(OWN))
    assert not keeps_guarantee(OWN, wanted)


def test_what_promises_nothing_keeps_its_word_only_where_the_teacher_answers_everything():
    nothing = replace(OWN, feasible=False)
    assert not keeps_guarantee(nothing, bars_of(OWN))
    assert keeps_guarantee(nothing, bars_of(nothing))
    assert rule_of(in_force(nothing, bars_of(OWN))) == Rule(0.4, 0.9, 0.6, 0.7)


def test_none_set_leaves_the_release_s_own_and_others_show_that_nothing_is_promised():
    assert in_force(OWN, None) is OWN
    lax = Bars(hard=0.0, confident=0.1, confident_end=0.1, sure=0.9)
    found = in_force(OWN, lax)
    assert bars_of(found) == lax
    assert (found.agreement_lower_bound, found.agreement_target) == (0.0, 0.95)
    strict = Bars(hard=0.5, confident=0.8, confident_end=0.8, sure=0.95)
    assert in_force(OWN, strict).agreement_lower_bound == OWN.agreement_lower_bound


def test_sure_requests_stay_the_student_s_where_no_confidence_is_enough():
    rng = np.random.default_rng(5)
    log = logged(rng, traffic(rng, 2_000))
    sure = log.student & (log.score >= 0.8)
    # whose answer was not judged
    log = replace(log, confidence=np.where(sure, np.nan, log.confidence))
    found = estimate(log, Cutoffs(0.8, NEVER, NEVER), PRICES)
    assert found.teacher_share == pytest.approx(1 - sure.mean())
    assert estimate(log, Cutoffs(NEVER, CONFIDENT, CONFIDENT), PRICES).teacher_share == 1
