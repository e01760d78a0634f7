"""The overview's figures are sums of the ledger's rows, and its intervals hold what they should."""

import random

import pytest

from ledger import labels
from ledger import overview_figures as figures
from ledger.labels import Label
from ledger.overview_figures import KeySpend, Span, Timing
from ledger.records import NANO
from ledger.requests import Usage, insert_records, latency_quantile
from ledger.rollups import HOUR_MS
from tests.unit.ledger.rows import a_store, row

DAY_MS = 24 * HOUR_MS
NOON = 1_768_478_400_000
"""Thursday, 15 January 2026, 12:00 UTC."""
TODAY = NOON - 12 * HOUR_MS
ALL = Span(0, NOON)


@pytest.fixture
def store():
    with a_store() as opened:
        yield opened


def spend(store, by_day: dict[int, int], key: str | None = None) -> None:
    """Units spent so many days before today, at one in the morning."""
    rows = [
        row(f"{key}-{ago}", created_at=TODAY - ago * DAY_MS + HOUR_MS, cost_nano=units * NANO, key_id=key)
        for ago, units in by_day.items()
    ]
    insert_records(store, rows)


def test_spend_is_of_today_this_month_and_the_whole_days_before_today(store):
    spend(store, {0: 1, 1: 2, 7: 4, 8: 8, 15: 16}, "a")
    spend(store, {14: 3})
    assert figures.spend_by_key(store, NOON) == {
        "a": KeySpend(NANO, 15 * NANO, 6 * NANO),
        "": KeySpend(0, 3 * NANO, 0),
    }


def test_without_spread_the_forecast_is_what_is_spent_and_as_much_a_day_as_before(store):
    spend(store, dict.fromkeys(range(1, 8), 10))
    found = figures.forecast(store, NOON)
    # sixteen and a half days of January are left
    assert (found.month_end, found.days) == ((70 + 165) * NANO, 7)
    assert found.low == found.high == found.month_end


def test_the_forecast_begins_with_the_first_day_and_counts_days_without_traffic(store):
    assert figures.forecast(store, NOON) is None
    spend(store, {3: 6})
    found = figures.forecast(store, NOON)
    assert (found.month_end, found.days) == ((6 + 33) * NANO, 3)
    assert 6 * NANO <= found.low < found.month_end < found.high


def test_one_day_gives_a_forecast_without_an_interval(store):
    spend(store, {1: 2})
    found = figures.forecast(store, NOON)
    assert (found.month_end, found.low, found.high, found.days) == ((2 + 33) * NANO, None, None, 1)


def test_the_interval_of_the_forecast_holds_most_months(store):
    draw = random.Random(7)
    held = 0
    for _ in range(40):
        with a_store() as other:
            spend(other, {ago: draw.randint(50, 150) for ago in range(1, 8)})
            found = figures.forecast(other, NOON)
            so_far = sum(each.month for each in figures.spend_by_key(other, NOON).values())
            truth = so_far + sum(draw.randint(50, 150) * NANO for _ in range(16)) + 50 * NANO
            held += found.low <= truth <= found.high
    assert held >= 32


def test_a_span_holds_the_hours_that_begin_in_it(store):
    insert_records(store, [row(f"h{i}", created_at=i * HOUR_MS + 5, cost_nano=10**i) for i in range(5)])
    found = figures.usage_in(store, Span(HOUR_MS + 7, 3 * HOUR_MS), ["route"])
    assert found[("teacher",)].cost_nano == 110


def test_use_over_time_sets_exploration_apart(store):
    kinds = [("student", "confident"), ("teacher", "explore"), ("teacher", "hard")]
    rows = [
        row(f"{i}", created_at=NOON - DAY_MS * (i % 2), route=route, reason=why)
        for i, (route, why) in enumerate(kinds)
    ]
    insert_records(store, rows)
    found = figures.usage_over_time(store, Span(0, NOON + 1))
    assert {key: each.requests for key, each in found.items()} == {
        (NOON, "student", 0): 1,
        (NOON, "teacher", 0): 1,
        (NOON - DAY_MS, "teacher", 1): 1,
    }


def test_the_interval_of_the_saving_holds_the_truth_and_needs_hours():
    draw = random.Random(3)
    hours = [Usage(cost_nano=draw.randint(2, 6) * 100, baseline_nano=1_000) for _ in range(200)]
    low, high = figures.saving_interval(hours)
    assert low < 0.6 < high
    assert high - low < 0.06
    assert figures.saving_interval(hours[:7]) is None
    assert figures.saving_interval([Usage(requests=1)] * 20) is None


def test_latencies_are_those_of_the_histogram(store):
    insert_records(store, [row(f"r{i}", latency_ms=float(i)) for i in range(200)])
    quantiles = tuple(latency_quantile(store, "teacher", q) for q in (0.5, 0.95, 0.99))
    assert figures.latencies(store, ALL) == {"teacher": Timing(quantiles, 200)}


def test_the_first_token_is_timed_of_all_requests_that_have_one(store):
    """Evenly spread from 1 to 5,000 ms, so that the quantiles of the buckets are those of the requests."""
    rows = [row(f"r{i}", first_token_ms=float(i) if i else None, content=None) for i in range(5_001)]
    insert_records(store, [*rows, row("s", route="student", first_token_ms=9_999.0), row("i", reason="imported")])
    found = figures.first_tokens(store, ALL)
    assert found["teacher"].quantiles == pytest.approx((2_500, 4_750, 4_950), abs=2)
    assert (found["teacher"].n, found["student"].n) == (5_000, 1)
    assert figures.first_tokens(store, Span(5 * HOUR_MS, NOON)) == {}


def agreement(store) -> figures.Agreement | None:
    return figures.agreement(store, ALL, figures.usage_in(store, ALL, ["route", "reason"]))


def label(request_id: str, agreement: float, **values) -> Label:
    usual = {"source": "explore", "created_at": 1_000, "release_id": None, "comparator": "exact", "propensity": 0.5}
    return Label(request_id=request_id, agreement=agreement, **(usual | values))


def test_agreement_is_of_the_students_answers_and_a_judges_word_counts_before_the_comparison(store):
    rows = [row(f"s{i}", route="student", reason="confident") for i in range(4)]
    insert_records(store, [*rows, *(row(f"t{i}") for i in range(4)), row("p", route="student", reason="pinned")])
    found = [label("s0", 1.0), label("s1", 0.0), label("s1", 1.0, source="judge"), label("s2", 0.0)]
    ignored = [
        label("t0", 0.0),
        label("p", 0.0),
        label("s3", 0.0, source="feedback"),
        label("s3", 0.0, propensity=0.0),
    ]
    labels.add(store, found + ignored)
    known = agreement(store)
    assert (known.labels, known.share) == (3, 0.5)
    assert known.student == pytest.approx(2 / 3)
    assert known.whole == pytest.approx(5 / 6)
    assert known.whole_bounds[0] < known.whole < known.whole_bounds[1] <= 1


def test_without_labels_there_is_no_agreement_and_without_disagreement_it_is_not_certain(store):
    insert_records(store, [row(f"s{i}", route="student", reason="confident") for i in range(30)])
    assert agreement(store) is None
    labels.add(store, [label(f"s{i}", 1.0) for i in range(30)])
    known = agreement(store)
    assert known.student == 1.0
    assert 0.8 < known.student_bounds[0] < 1.0 == known.student_bounds[1]
