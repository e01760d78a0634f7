"""Budgets: nothing counts twice or is missed, in whatever order records, ingestion and readings come."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import budgets as module
from gateway.budgets import Budgets
from ledger.keys import Key, KeyPolicy
from ledger.records import NANO, RequestRecord
from ledger.requests import insert_records
from ledger.spending import DAY_MS, HOUR_MS, Periods, SpendReader
from ledger.store import now_ms
from tests.unit.ledger.rows import a_store, row

POLICY = KeyPolicy(budget_day=1000.0, budget_month=1000.0)


def key(name: str = "k", policy: KeyPolicy = POLICY) -> Key:
    return Key(name, name, "abcd", ("inference",), 0, None, None, policy)


def spent(budgets: Budgets, holder: Key, now: int | None = None) -> list[int]:
    """What is used of the day's and the month's budget."""
    return list(budgets.used(holder.id, now_ms() if now is None else now))


@pytest.fixture
def store():
    with a_store() as opened:
        yield opened


@dataclass
class Truth:
    """All that was recorded of one key."""

    records: list[RequestRecord] = field(default_factory=list)
    spooled: list[RequestRecord] = field(default_factory=list)

    def spent(self) -> list[int]:
        periods = Periods.at(now_ms())
        return [
            sum(r.cost_nano for r in self.records if r.created_at >= since) for since in (periods.day, periods.month)
        ]


STEP = st.one_of(
    st.tuples(st.just("record"), st.sampled_from([0, 1, 3, 20, 30, 24 * 10, 24 * 40])),
    st.tuples(st.just("ingest"), st.integers(1, 4)),
    st.tuples(st.just("read"), st.just(0)),
    st.tuples(st.just("apply"), st.just(0)),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(STEP, max_size=40))
def test_what_is_spent_is_exact_after_every_step(steps: list[tuple[str, int]]):
    with a_store() as store:
        holder, truth = key(), Truth()
        budgets = Budgets(SpendReader(store))
        reading = budgets.read([holder])
        budgets.apply(reading)
        reading = None
        for number, (step, of) in enumerate(steps):
            if step == "record":
                made = row(
                    f"r{number}", key_id="k", cost_nano=10**number % 97 + 1, created_at=now_ms() - of * HOUR_MS
                )
                truth.records.append(made)
                truth.spooled.append(made)
                budgets.recorded(made)
            elif step == "ingest":
                insert_records(store, truth.spooled[:of])
                truth.spooled = truth.spooled[of:]
            elif step == "read":
                reading = budgets.read([holder])
            elif reading is not None:
                budgets.apply(reading)
                reading = None
            assert spent(budgets, holder) == truth.spent()


def test_what_another_process_did_counts_once_it_is_in_the_store(store):
    budgets = Budgets(SpendReader(store))
    budgets.apply(budgets.read([key()]))
    insert_records(store, [row("theirs", key_id="k", cost_nano=5, created_at=now_ms())])
    assert spent(budgets, key()) == [0, 0]
    budgets.apply(budgets.read([key()]))
    assert spent(budgets, key()) == [5, 5]


@pytest.mark.parametrize("moment", ["before the listing", "after the listing"])
def test_a_record_made_while_the_store_is_read_counts_once(store, moment: str):
    budgets = Budgets(SpendReader(store))
    budgets.apply(budgets.read([key()]))
    late = row("late", key_id="k", cost_nano=7, created_at=now_ms())

    def listing():
        listed = Budgets._created(budgets)
        budgets.recorded(late)
        insert_records(store, [late])
        return listed if moment == "after the listing" else Budgets._created(budgets)

    budgets._created = listing
    budgets.apply(budgets.read([key()]))
    assert spent(budgets, key()) == [7, 7]
    del budgets._created
    budgets.apply(budgets.read([key()]))
    assert spent(budgets, key()) == [7, 7]
    assert budgets._pending == {}


def test_the_same_record_twice_counts_once(store):
    budgets = Budgets(SpendReader(store))
    budgets.apply(budgets.read([key()]))
    for _ in range(3):
        budgets.recorded(row("a", key_id="k", cost_nano=5, created_at=now_ms()))
    assert spent(budgets, key()) == [5, 5]


def test_a_new_day_and_a_new_month_begin_with_nothing_spent(store):
    budgets = Budgets(SpendReader(store))
    insert_records(store, [row("a", key_id="k", cost_nano=5, created_at=now_ms())])
    budgets.apply(budgets.read([key()]))
    budgets.recorded(row("b", key_id="k", cost_nano=6, created_at=now_ms()))
    assert spent(budgets, key()) == [11, 11]
    tomorrow = now_ms() + DAY_MS
    same_month = Periods.at(tomorrow).month == Periods.at(now_ms()).month
    assert spent(budgets, key(), tomorrow) == [0, 11 if same_month else 0]
    assert spent(budgets, key(), now_ms() + 40 * DAY_MS) == [0, 0]


def test_reservations_count_until_they_are_given_back(store):
    budgets = Budgets(SpendReader(store))
    holder = key(policy=KeyPolicy(budget_day=1.0))
    budgets.apply(budgets.read([holder]))
    assert budgets.has_room(holder, now_ms())
    budgets.reserve("k", NANO)
    budgets.apply(budgets.read([holder]))
    assert not budgets.has_room(holder, now_ms())
    budgets.reserve("k", -1)
    assert budgets.has_room(holder, now_ms())


def test_a_key_without_a_budget_costs_no_query_and_no_memory(store):
    budgets, holder = Budgets(SpendReader(store)), key(policy=KeyPolicy(owner="ann"))
    store.engine.dispose()
    assert budgets.read([holder]) is None
    budgets.apply(None)
    budgets.recorded(row("a", key_id="k", cost_nano=5))
    assert budgets._pending == {}


def test_while_the_store_is_away_memory_is_bounded_and_the_sum_is_exact(store, monkeypatch):
    monkeypatch.setattr(module, "MAX_PENDING", 10)
    budgets = Budgets(SpendReader(store))
    budgets.apply(budgets.read([key()]))
    records = [row(f"r{i}", key_id="k", cost_nano=i + 1, created_at=now_ms()) for i in range(100)]
    for record in records:
        budgets.recorded(record)
    assert len(budgets._pending) <= 11
    assert spent(budgets, key()) == [5050, 5050]
    insert_records(store, records)
    budgets.apply(budgets.read([key()]))
    assert spent(budgets, key()) == [5050, 5050]
    assert budgets._pending == {}


def test_a_key_of_many_hours_and_another_are_summed_apart(store):
    now = now_ms()
    month = Periods.at(now).month
    rows = [row(f"r{i}", key_id="ab"[i % 2], cost_nano=1, created_at=month + i * HOUR_MS) for i in range(24 * 40)]
    insert_records(store, [r for r in rows if r.created_at <= now])
    holders = [key("a"), key("b"), key("none")]
    budgets = Budgets(SpendReader(store))
    budgets.apply(budgets.read(holders))
    hours, of_day = (now - month) // HOUR_MS + 1, (now - Periods.at(now).day) // HOUR_MS + 1
    found = [spent(budgets, holder) for holder in holders]
    assert [sum(day) for day in zip(*found, strict=True)] == [of_day, hours]
    assert found[2] == [0, 0]
