"""What logs let one expect: shares that were measured, money that follows from them, and no promise without proof."""

from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distill.estimate.curve import Aim, answers_needed, parted
from distill.estimate.estimating import Promise, Question, Telling, estimate
from distill.estimate.findings import Findings
from distill.estimate.money import Costs
from distill.estimate.reading import Wanted, read_logs
from ledger.prices import Price
from router.calibration import Evidence, Prices, choose_thresholds
from router.policy import Capabilities
from router.settings import RouterSettings
from tests.unit.distill.desk_logs import at_random, desk, prose, records, write

QUESTION = Question(
    wanted=Wanted(Capabilities(8_192), RouterSettings()),
    promise=Promise(0.9, 0.95, 0.25),
    costs=Costs(Decimal("0.002"), Price(), Decimal(100), None),
)


def ask(path: Path, question: Question = QUESTION) -> Findings:
    return estimate([path], question, Telling(lambda _: None, lambda _, __: None))


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return write(tmp_path_factory.mktemp("desk") / "a.jsonl", records(desk(1_100)))


@pytest.fixture(scope="module")
def found(log):
    return ask(log)


def test_the_share_grows_with_the_answers_and_the_promise_holds_on_later_requests(found):
    assert [point.answers for point in found.curve] == [125, 250, 500, 825]
    assert found.curve[0].moved == 0  # too few to prove anything
    assert found.curve[-1].moved > 0.4
    assert found.curve[-1].moved > found.curve[-2].moved
    for point in found.curve:
        low, high = point.ends
        assert 0 <= low <= point.moved <= high <= 1
        assert point.agreement >= found.target
    assert found.agreement_ends[0] <= found.curve[-1].agreement <= found.agreement_ends[1]


def test_beyond_what_was_measured_there_is_a_band_and_no_figure(found):
    assert [each.answers for each in found.beyond] == [1_650, 3_300]
    for each in found.beyond:
        assert each.ends[0] == found.curve[-1].ends[0]
        assert each.ends[1] > found.curve[-1].moved


def test_money_is_that_of_the_cost_plan_for_what_was_moved(found):
    money, rate = found.money, found.inventory.requests_per_day
    assert rate == pytest.approx(48, rel=0.01)
    assert money.before == pytest.approx(rate * 0.0125 * 30)
    first, cascade = money.accountings
    moved = found.curve[-1].moved
    assert money.cost_moved == pytest.approx(moved)  # all requests cost the same
    assert first.saving == pytest.approx(rate * 30 * moved * (0.0125 - 0.002))
    assert cascade.saving == pytest.approx(rate * 30 * (moved * 0.0125 - 0.002))
    assert first.payback_days == pytest.approx(100 / (first.saving / 30))
    for each in money.accountings:
        assert each.saving_ends[0] <= each.saving <= each.saving_ends[1]
        assert each.payback_ends[0] <= each.payback_days <= each.payback_ends[1]
    assert money.before_ends[0] <= money.before <= money.before_ends[1]


def test_the_same_logs_give_the_same_estimate(log, found):
    assert ask(log) == found


def test_the_verdict_says_what_it_rests_on(found):
    assert found.verdict.says == "pays"
    assert "by a proxy" in found.verdict.sentence.casefold()
    assert "at least" in found.verdict.sentence


def test_a_student_that_costs_more_than_it_spares_does_not_pay(log):
    found = ask(log, replace(QUESTION, costs=Costs(Decimal("0.02"), Price(), Decimal(100), None)))
    assert found.verdict.says in ("does not pay", "nothing")
    assert not found.money.accountings[0].pays
    assert found.money.accountings[0].payback_days is None


def test_training_that_does_not_come_back_in_time_does_not_pay(log):
    found = ask(log, replace(QUESTION, costs=Costs(Decimal("0.002"), Price(), Decimal(100_000), 3)))
    assert found.verdict.says == "does not pay"
    assert "within 3 month(s)" in found.verdict.sentence


def test_answers_that_cannot_be_learned_move_no_more_than_the_target_forgives(tmp_path):
    found = ask(write(tmp_path / "a.jsonl", records(desk(700), at_random)))
    last = found.curve[-1]
    # a whole that agrees in 90% may have a tenth wrong, and two of three such answers are
    assert last.moved < 0.15
    assert last.where_moved < 0.6
    assert last.agreement >= 0.9


def test_free_text_is_left_to_a_student_to_prove(tmp_path):
    found = ask(write(tmp_path / "a.jsonl", records(desk(500), prose)))
    assert [(part.form, part.moved) for part in found.forms] == [("open", 0.0)]
    assert found.verdict.says == "nothing"
    assert any("free text" in step for step in found.verdict.next)


def test_too_few_answers_are_said_to_be_too_few_and_how_long_more_take(tmp_path):
    found = ask(write(tmp_path / "a.jsonl", records(desk(150))))
    assert found.verdict.says == "too few"
    assert any("Log on" in step for step in found.verdict.next)


@pytest.mark.parametrize("target", [0.9, 0.92, 0.95, 0.99])
def test_with_fewer_answers_than_are_needed_not_even_a_perfect_student_may_answer(target):
    aim = Aim(target, 0.05, 0.25, Prices(0.0, 1.0))
    for held_out, feasible in ((answers_needed(aim) // 4 - 1, False), (answers_needed(aim) // 4 + 1, True)):
        sure = np.linspace(0.6, 0.9, held_out)
        evidence = Evidence(sure, sure, sure, np.ones(held_out, dtype=bool))
        assert choose_thresholds(evidence, target, 0.05, aim.prices).feasible is feasible


def test_logs_without_text_are_counted_and_nothing_is_made_up(tmp_path):
    bare: dict[str, Any] = {"proxy_server_request": {}, "response": {}, "messages": {}}
    lines = [line | bare for line in records(desk(120))]
    found = ask(write(tmp_path / "a.jsonl", lines))
    assert (found.inventory.requests, found.inventory.kept, found.curve, found.money) == (120, 0, [], None)
    assert found.inventory.cost == pytest.approx(120 * 0.0125)
    assert found.verdict.says == "no text"
    assert "store_prompts_in_spend_logs" in found.verdict.next[0]


def test_what_no_student_is_asked_stays_with_the_teacher(tmp_path):
    lines = records(desk(800))
    for line in lines[::2]:
        line["proxy_server_request"] = line["proxy_server_request"] | {"tools": [{"type": "function"}]}
    found = ask(write(tmp_path / "a.jsonl", lines))
    forms = {part.form: part for part in found.forms}
    assert forms["unsupported"].share == pytest.approx(0.5)
    assert forms["unsupported"].moved == 0
    assert found.inventory.unsupported == {"tools": 400}
    assert found.curve[-1].moved < 0.5


def test_bad_records_are_counted_and_named_and_the_rest_is_used(tmp_path, log):
    lines = ["{", "[]", *log.read_text().splitlines()[:300], '{"prompt": 1}']
    found = ask(write(tmp_path / "a.jsonl", lines))
    assert (found.inventory.requests, found.inventory.counts["bad"]) == (300, 3)
    assert [line.partition(": ")[0].rpartition(":")[2] for line in found.inventory.bad_lines] == ["1", "2", "303"]


def test_prices_that_are_given_go_before_those_of_the_log(log):
    wanted = replace(QUESTION.wanted, price=Price(input=10.0, output=100.0))
    found = ask(log, replace(QUESTION, wanted=wanted))
    assert found.money.teacher_cost == pytest.approx(100e-5 + 10 * 1e-4)


def test_only_the_models_that_are_named_are_counted(tmp_path):
    lines = records(desk(100)) + records(desk(50), model="small")
    found = ask(
        write(tmp_path / "a.jsonl", lines),
        replace(QUESTION, wanted=replace(QUESTION.wanted, models=frozenset({"small"}))),
    )
    assert [(use.model, use.requests) for use in found.inventory.models] == [("small", 50)]
    assert found.inventory.counts["other models"] == 100


def test_repetition_and_the_teachers_own_consistency_are_counted(tmp_path):
    once = records(desk(40))
    again = records(desk(40), at_random)
    found = ask(write(tmp_path / "a.jsonl", [*once, *once[:20], *again]))
    assert found.inventory.repeated == pytest.approx(60 / 100)
    repetitions, same = found.inventory.same_answer
    assert (repetitions, same) == (60, 20)


def test_later_turns_of_what_was_learned_from_are_not_tested_on(tmp_path):
    lines = records(desk(200))
    opening = lines[0]["proxy_server_request"]["messages"]
    for line in lines[160:]:
        body = line["proxy_server_request"]
        body["messages"] = [*opening, {"role": "assistant", "content": "x"}, body["messages"][1]]
    reading = read_logs([write(tmp_path / "a.jsonl", lines)], QUESTION.wanted, lambda _: None)
    before, tested = parted(reading.sample)
    assert before.size == 150
    assert tested.tolist() == list(range(150, 160))


def test_a_log_of_one_conversation_proves_nothing(tmp_path):
    lines = records(desk(240))
    for line in lines:
        body = line["proxy_server_request"]
        body["messages"] = [{"role": "user", "content": "Go on."}]
    found = ask(write(tmp_path / "a.jsonl", lines))
    assert [point.moved for point in found.curve] == [0.0, 0.0]


def test_the_sample_is_even_over_the_whole_log(tmp_path):
    lines = records(desk(1_000, labels=40), apart_s=60)
    wanted = replace(QUESTION.wanted, sample=200)
    reading = read_logs([write(tmp_path / "a.jsonl", lines)], wanted, lambda _: None)
    places = np.array([each.order for each in reading.sample])
    assert places.size == np.unique(places).size == 200
    assert len(reading.columns) == 1_000
    by_quarter = np.histogram(places, 4, (0, 1_000))[0]
    assert (by_quarter > 30).all()  # 50 expected; 30 is 3.5 standard deviations below
