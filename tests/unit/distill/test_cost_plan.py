"""The arithmetic of a cost plan: the documented example, its identities, and intervals that are those of the days."""

from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.cost_history import days_until
from distill.cost_plan import CostPlan, Day, Plan, intervals, measured, total
from ledger.requests import insert_records
from tests.unit.ledger.rows import a_store, row

EXAMPLE = Plan(Decimal(50_000), Decimal("0.015"), Decimal("0.002"), Decimal("0.06"))
DAY_MS = 86_400_000
HOUR_MS = 3_600_000

MONEY = st.decimals("0", "10", places=4)
SHARES = st.decimals("0", "1", places=3)
PLANS = st.builds(Plan, st.integers(1, 10**6).map(Decimal), MONEY, MONEY, SHARES)


def cascade(plan: Plan) -> Plan:
    return replace(plan, accounting="cascade")


def test_the_documented_example_router_first():
    plan = CostPlan(EXAMPLE.spending, Decimal(2_000))
    assert (plan.monthly_before, plan.monthly_after, plan.saving) == (22_500, 4_170, 18_330)
    assert Decimal(3) < plan.payback_days < Decimal(4)
    assert plan.break_even == Decimal("0.002")


def test_the_documented_example_as_a_cascade():
    plan = CostPlan(cascade(EXAMPLE).spending, Decimal(2_000))
    assert (plan.monthly_before, plan.monthly_after) == (22_500, 4_350)
    assert Decimal(3) < plan.payback_days < Decimal(7)


@given(PLANS)
def test_with_all_to_the_teacher_nothing_changes_where_the_router_goes_first(plan: Plan):
    result = CostPlan(replace(plan, teacher_share=Decimal(1)).spending, Decimal(5))
    assert result.monthly_after == result.monthly_before
    assert result.payback_days is None
    assert result.break_even is None
    assert "no request" in result.why_not


@given(PLANS, SHARES)
def test_a_larger_share_for_the_dearer_side_costs_more(plan: Plan, share: Decimal):
    low, high = sorted((plan.teacher_share, share))
    less, more = (CostPlan(replace(plan, teacher_share=each).spending).monthly_after for each in (low, high))
    assert less <= more if plan.teacher_cost >= plan.student_cost else less >= more


@given(PLANS)
def test_a_cascade_costs_the_students_try_of_what_goes_on_to_the_teacher(plan: Plan):
    first, tried = CostPlan(plan.spending), CostPlan(cascade(plan).spending)
    extra = plan.teacher_share * plan.student_cost * plan.requests_per_day * 30
    assert tried.monthly_after - first.monthly_after == extra


@given(PLANS, st.decimals("0", "100000", places=2), st.sampled_from([None, 1, 12]))
def test_payback_is_when_the_savings_are_what_training_cost(plan: Plan, training: Decimal, months: int | None):
    result = CostPlan(plan.spending, training, months)
    if result.payback_days is None:
        assert result.saving <= 0
    else:
        assert float(result.payback_days * plan.spending.saving) == pytest.approx(float(training))
    assert (result.why_not is None) == result.pays


@given(PLANS, st.decimals("0", "1000", places=2), st.sampled_from([None, 1, 12]), st.booleans())
def test_at_the_break_even_price_nothing_is_won(plan: Plan, training: Decimal, months: int | None, is_cascade: bool):
    plan = cascade(plan) if is_cascade else plan
    even = CostPlan(plan.spending, training, months).break_even
    if even is None:
        assert plan.teacher_share == 1
        return
    there = CostPlan(replace(plan, teacher_cost=even).spending, training, months)
    won = there.saving * (months or 1) - (training if months else 0)
    assert float(won) == pytest.approx(0, abs=1e-6)
    assert CostPlan(replace(plan, teacher_cost=even + 1).spending, training, months).pays


def test_a_training_that_savings_do_not_bring_back_in_time_does_not_pay():
    dear = CostPlan(EXAMPLE.spending, Decimal(20_000), months=1)
    assert dear.payback_days is not None
    assert not dear.pays
    assert "within 1 month" in dear.why_not
    assert CostPlan(EXAMPLE.spending, Decimal(20_000), months=2).pays


def a_day(requests: int = 100, to_teacher: int = 10, scale: str = "1") -> Day:
    """The teacher's request costs 2, the student's half; one was asked beside."""
    k = Decimal(scale)
    return Day(
        length=Decimal(1),
        requests=Decimal(requests),
        to_teacher=Decimal(to_teacher),
        baseline=2 * k * requests,
        on_teacher=2 * k * (to_teacher + 1),
        on_student=k / 2 * (requests - to_teacher),
        beside_on_teacher=2 * k,
    )


def test_what_was_spent_is_counted_with_what_was_asked_to_learn():
    spent = measured(total([a_day(), a_day(300, 30)]))
    assert (spent.before, spent.on_teacher, spent.on_student) == (400, 42, 90)
    assert spent.spared == 179
    assert CostPlan(spent).break_even == Decimal(90) / 179


def test_the_ledgers_figures_per_request_leave_out_what_was_asked_to_learn():
    plan = a_day().plan
    assert (plan.requests_per_day, plan.teacher_cost, plan.student_cost) == (100, 2, Decimal("0.5"))
    assert plan.teacher_share == Decimal("0.1")


@settings(max_examples=5, deadline=None)
@given(st.integers(1, 40), st.integers(2, 8))
def test_days_alike_have_intervals_of_no_width(requests: int, n: int):
    found = intervals([a_day(requests, 1)] * n, lambda day: {"before": measured(day).before})
    assert found == {"before": (2 * requests, 2 * requests)}


def test_an_interval_holds_the_figure_and_is_the_same_each_time():
    days = [a_day(100 + 10 * i) for i in range(14)]
    once, again = (intervals(days, lambda day: {"n": day.plan.requests_per_day}) for _ in range(2))
    low, high = once["n"]
    assert once == again
    assert 100 < low < total(days).plan.requests_per_day < high < 230
    # twice 1.96 standard errors of the mean: 42.2, and 35.4 at 90%
    assert 38 < high - low < 46


NOW = 1_000 * DAY_MS + HOUR_MS // 2


def rows_of_the_days(hours_ago: list[int]):
    return [
        row(f"r{i}", created_at=NOW - hours * HOUR_MS, cost_nano=3_000_000_000, baseline_nano=3_000_000_000)
        for i, hours in enumerate(hours_ago)
    ]


def test_days_are_blocks_back_from_now_and_the_first_may_be_short():
    with a_store() as store:
        insert_records(store, rows_of_the_days([0, 1, 30, 75]))
        days = days_until(store, NOW, 30)
        assert [int(day.requests) for day in days] == [1, 0, 1, 2]
        assert [float(day.length * 24) for day in days] == [4, 24, 24, 23.5]
        assert float(total(days).baseline) == 12
        assert [int(day.requests) for day in days_until(store, NOW, 2)] == [1, 2]


def test_a_ledger_of_a_moment_is_an_hour_old():
    with a_store() as store:
        insert_records(store, [row("r", created_at=1_000 * DAY_MS)])
        (day,) = days_until(store, 1_000 * DAY_MS + 1, 30)
        assert float(day.length * 24) == 1


def test_a_request_asked_beside_is_money_and_no_request():
    with a_store() as store:
        beside = row("r-explore", created_at=NOW, reason="explore", cost_nano=5_000_000_000)
        student = row("s", created_at=NOW, route="student", reason="confident", cost_nano=1_000_000_000)
        insert_records(store, [*rows_of_the_days([0]), beside, student])
        (day,) = days_until(store, NOW, 30)
    assert (day.requests, day.to_teacher) == (2, 1)
    assert (day.on_teacher, day.beside_on_teacher, day.on_student) == (8, 5, 1)
    assert day.plan.student_cost == 1


def test_an_empty_ledger_has_no_days():
    with a_store() as store:
        assert days_until(store, NOW, 30) == []
