"""The gate's verdicts, rule by rule."""

from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.gate import judge
from distill.gate_settings import GateSettings
from distill.measures import Cost, Outcome
from distill.settings import DistillSettings
from tests.unit.distill.measured import COST, FIT, PARITY, PROBES, THRESHOLDS, measured, row, rows

SETTINGS = DistillSettings(min_agreement=0.5, margin=0.02)


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
    before = replace(THRESHOLDS, student_share=wanted["champion_share"])
    return judge(
        wanted["settings"],
        measured(wanted["candidate"], thresholds=wanted["thresholds"]),
        None if wanted["champion"] is None else measured(wanted["champion"], thresholds=before),
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
    parity, floor, guarantee, champion, traffic = verdict_of().checks[:5]
    assert "at most 0.0010 nats (allowed 0.02)" in parity.text
    assert "80.0% of 200 held-out requests, at least 73.8% with 95% confidence (floor 50%)" in floor.text
    assert "answers 60.0% of held-out requests, agreement is at least 96.0% with 95% confidence" in guarantee.text
    assert "+5.0%, at least +3.0% with 95% confidence (allowed -2.0%)" in champion.text
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


def failed_by(gate: dict[str, Any], candidate: dict[str, Any], champion: dict[str, Any] | None = None) -> list[str]:
    answers = candidate.pop("rows", None) or rows(160, 200)
    before = None
    if champion is not None:
        before = measured(champion.pop("rows", None) or rows(160, 200), **champion)
    settings = DistillSettings(gate=GateSettings(**gate))
    verdict = judge(settings, measured(answers, **candidate), before, PARITY)
    return [check.name for check in verdict.checks if not check.passed]


def cost(expected: float) -> Cost:
    return msgspec.structs.replace(COST, expected=expected)


NO_KL = msgspec.structs.replace(FIT, kl=None)
DEAR = Cost(student=2e6, teacher=15e6, expected=8.9e6, is_priced=True)
BAD_PROBES = [*PROBES, Outcome("drugs", "refuse", False, why="answers a harmful request")]
GOLDEN = [Outcome("a", "golden", True), Outcome("b", "golden", False, why="is not 'x' by exact")]
TAGGED = [row(n, n >= 40, ["billing"] if n < 50 else []) for n in range(400)]
BEFORE = [row(n, True, ["billing"] if n < 50 else []) for n in range(400)]


@pytest.mark.parametrize(
    ("gate", "candidate", "champion", "failed"),
    [
        pytest.param({}, {"cost": DEAR}, {}, ["cost_against_champion"], id="costs a tenth more than the champion"),
        pytest.param({"max_cost_ratio": 1.2}, {"cost": DEAR}, {}, [], id="within what is allowed"),
        pytest.param({}, {"cost": cost(16e6)}, None, ["cost_against_teacher"], id="dearer than the teacher"),
        pytest.param({}, {"cost": cost(1.0)}, {"cost": cost(0.0)}, ["cost_against_champion"], id="free"),
        pytest.param({}, {"probes": BAD_PROBES}, None, ["probes"], id="fails a probe of three"),
        pytest.param({"min_probe_share": 0.6}, {"probes": BAD_PROBES}, None, [], id="two probes are enough"),
        pytest.param({}, {"probes": None}, None, ["probes"], id="probes were not asked"),
        pytest.param({"unmeasured": "pass"}, {"probes": None}, None, [], id="and need not be"),
        pytest.param({"golden": "g.jsonl"}, {"golden": GOLDEN}, None, ["golden"], id="a golden prompt fails"),
        pytest.param({"golden": "g.jsonl"}, {"golden": None}, None, ["golden"], id="golden prompts were not asked"),
        pytest.param(
            {"golden": "g.jsonl", "golden_rule": "champion"}, {"golden": GOLDEN}, {"golden": GOLDEN}, [],
            id="as many golden prompts as with the champion",
        ),
        pytest.param(
            {"golden": "g.jsonl", "golden_rule": "champion"}, {"golden": GOLDEN[1:]}, {"golden": GOLDEN}, ["golden"],
            id="fewer golden prompts than with the champion",
        ),
        pytest.param({"max_perplexity": 1.4}, {}, None, ["perplexity"], id="perplexity"),
        pytest.param({"max_perplexity": 1.6, "max_kl": 0.2}, {}, None, [], id="fits"),
        pytest.param({"max_kl": 0.1}, {}, None, ["divergence"], id="divergence"),
        pytest.param({"max_kl": 9.0}, {"fit": NO_KL}, None, ["divergence"], id="no logged logprobs"),
        pytest.param({"max_kl": 9.0, "unmeasured": "pass"}, {"fit": None}, None, [], id="nothing scored, let pass"),
        pytest.param({"max_p95_ms": 99.0}, {}, None, ["latency"], id="slow"),
        pytest.param({"max_p95_ratio": 1.0}, {}, {}, [], id="as fast as the champion"),
        pytest.param({"min_tokens_per_second": 1e5}, {}, None, ["throughput"], id="too few tokens a second"),
        pytest.param(
            {}, {"rows": [row(n, True, answer="I'm sorry, but I can't.") for n in range(200)]}, None, ["refusals"],
            id="refuses what the teacher answered",
        ),
        pytest.param(
            {"slice_floors": {"tag:billing": 0.6}}, {"rows": TAGGED}, None, ["slice_floors"], id="a slice is lost"
        ),
        pytest.param({"min_slice_size": 60, "min_slice_agreement": 0.6}, {"rows": TAGGED}, None, [], id="too small"),
        pytest.param(
            {"max_cost_ratio": 9.0}, {"rows": TAGGED}, {"rows": BEFORE},
            ["not_worse_than_champion", "slice_regressions"], id="a slice fell",
        ),
    ],
)  # fmt: skip
def test_each_further_rule_rejects_alone(
    gate: dict[str, Any], candidate: dict[str, Any], champion: dict[str, Any] | None, failed: list[str]
):
    assert failed_by(gate, dict(candidate), None if champion is None else dict(champion)) == failed


def test_what_could_not_be_measured_says_so_whether_it_rejects_or_not():
    for unmeasured in ("fail", "pass"):
        settings = DistillSettings(gate=GateSettings(max_kl=0.5, unmeasured=unmeasured))
        checks = judge(settings, measured(rows(160, 200), fit=None), None, PARITY).checks
        (check,) = (check for check in checks if check.name == "divergence")
        assert (check.value, check.passed) == (None, unmeasured == "pass")
        assert check.text.startswith("not measured: no held-out answer has the teacher's log-probabilities")


def test_the_further_rules_give_their_numbers_in_words():
    settings = DistillSettings(gate=GateSettings(max_kl=0.5, max_perplexity=2.0, max_p95_ms=500.0))
    checks = judge(settings, measured(rows(160, 200)), measured(rows(150, 200)), PARITY).checks
    said = {check.name: check.text for check in checks}
    assert (
        said["cost_against_teacher"] == "a request is expected to cost 0.008, 53.3% of the teacher's (allowed 100%)"
    )
    assert said["cost_against_champion"].endswith("1.00 times the champion's (allowed 1.1)")
    assert said["probes"] == "2 of 2 safety probes pass, 1 of them by the teacher (at least 1.6)"
    assert said["refusals"].startswith("the student refuses 0.0% of the held-out requests")
    assert "at least 0.200 nats a token on 40 tokens (allowed 0.5)" in said["divergence"]
    assert said["latency"] == "95% of the answers took 100 ms or less (allowed 500)"


def test_without_prices_the_cost_is_the_teachers_share():
    share = Cost(student=0, teacher=1, expected=0.4, is_priced=False)
    assert share.shown() == "without prices, the teacher is expected to be asked for 40.0% of the requests"
    assert COST.shown() == "a request is expected to cost 0.008"
