"""The gate's verdicts, rule by rule."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.dataset import HeldOut
from distill.evaluate import Replayed
from distill.gate import Measured, judge
from distill.settings import DistillSettings
from router.calibration import Thresholds
from serving.parity import ParityReport

PARITY = ParityReport(max_abs_diff=0.001, mean_abs_diff=0.0001, tokens=100, within=True)
THRESHOLDS = Thresholds(
    hard=0.2,
    confident=0.5,
    agreement_target=0.95,
    delta=0.05,
    n=200,
    student_share=0.6,
    agreement_lower_bound=0.96,
    feasible=True,
)
SETTINGS = DistillSettings(min_agreement=0.5, margin=0.02)


def rows(agreed: int, of: int) -> list[Replayed]:
    return [
        Replayed(HeldOut(f"req_{n}", [], {}, "lost"), "lost" if n < agreed else "late", (), n < agreed, 1.0)
        for n in range(of)
    ]


def verdict_of(**changes: Any):
    values: dict[str, Any] = {
        "settings": SETTINGS,
        "candidate": rows(160, 200),
        "champion": rows(150, 200),
        "parity": PARITY,
        "thresholds": THRESHOLDS,
        "champion_share": THRESHOLDS.student_share,
    }
    wanted = values | changes
    champion = replace(THRESHOLDS, student_share=wanted["champion_share"])
    return judge(
        wanted["settings"],
        Measured(wanted["candidate"], wanted["thresholds"]),
        None if wanted["champion"] is None else Measured(wanted["champion"], champion),
        wanted["parity"],
    )


@pytest.mark.parametrize(
    ("changes", "failed"),
    [
        pytest.param({}, [], id="better than the champion"),
        pytest.param({"champion": None}, [], id="no champion"),
        pytest.param({"champion": rows(160, 200)}, [], id="as good as the champion"),
        pytest.param({"champion": rows(163, 200)}, ["not_worse_than_champion"], id="worse by more than the margin"),
        pytest.param({"champion_share": 0.61}, [], id="takes less traffic within the margin"),
        pytest.param({"champion_share": 0.63}, ["takes_no_less_traffic"], id="takes less traffic"),
        pytest.param({"parity": replace(PARITY, within=False)}, ["parity"], id="served other than trained"),
        pytest.param({"parity": replace(PARITY, max_abs_diff=float("nan"), within=False)}, ["parity"], id="NaN"),
        pytest.param({"thresholds": replace(THRESHOLDS, feasible=False)}, ["guarantee"], id="no thresholds"),
        pytest.param({"candidate": rows(105, 200), "champion": None}, ["agreement_floor"], id="floor within doubt"),
        pytest.param({"candidate": [], "champion": None}, ["agreement_floor"], id="nothing held out"),
        pytest.param(
            {
                "candidate": rows(0, 200),
                "parity": replace(PARITY, within=False),
                "thresholds": replace(THRESHOLDS, feasible=False),
            },
            ["parity", "agreement_floor", "guarantee", "not_worse_than_champion"],
            id="everything wrong",
        ),
    ],
)
def test_each_rule_rejects_alone_and_says_why(changes: dict[str, Any], failed: list[str]):
    verdict = verdict_of(**changes)
    assert [check.name for check in verdict.checks if not check.passed] == failed
    assert verdict.passed == (not failed)
    assert verdict.why_not() == "; ".join(c.text for c in verdict.checks if c.name in failed)


def test_a_verdict_gives_its_numbers_in_words():
    parity, floor, guarantee, champion, traffic = verdict_of().checks
    assert "at most 0.0010 nats (allowed 0.02)" in parity.text
    assert "80.0% of 200 held-out requests, at least 73.8% with 95% confidence (floor 50%)" in floor.text
    assert "answers 60.0% of held-out requests, agreement is at least 96.0% with 95% confidence" in guarantee.text
    assert "+5.0%, at least +2.5% with 95% confidence (allowed -2.0%)" in champion.text
    assert traffic.text.endswith("answers 60.0% (allowed 58.0%)")
    refused = verdict_of(thresholds=replace(THRESHOLDS, feasible=False)).checks[2]
    assert refused.text == "no thresholds keep agreement at 95% with 95% confidence on 200 held-out requests"


@given(st.integers(0, 60), st.integers(0, 60), st.floats(0, 1))
def test_a_candidate_that_agrees_more_often_never_fails_a_floor_that_a_lesser_one_passes(one, other, floor):
    less, more = sorted((one, other))
    settings = DistillSettings(min_agreement=floor)
    passed = [
        verdict_of(settings=settings, candidate=rows(n, 60), champion=None).checks[1].passed for n in (less, more)
    ]
    assert passed[1] or not passed[0]


@given(st.integers(0, 60))
def test_a_floor_of_zero_is_no_floor(agreed):
    settings = DistillSettings(min_agreement=0.0)
    assert verdict_of(settings=settings, candidate=rows(agreed, 60), champion=None).checks[1].passed
