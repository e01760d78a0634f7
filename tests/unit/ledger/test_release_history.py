"""What releases saved, how they were tried, and their pages."""

import dataclasses
from decimal import Decimal

import pytest

from ledger import canaries, jobs, releases
from ledger.canaries import Trial
from ledger.distilling import Distilling
from ledger.release_history import releases_page, saved_by_release, training_cost, trials_of
from ledger.releases import ReleaseError
from ledger.requests import HOUR_MS, insert_records
from tests.unit.ledger.rows import release, row


def test_what_a_release_saved_is_the_sum_over_its_requests_and_no_others(store):
    records = [
        row(f"r{i}", created_at=i * HOUR_MS, release_id="new", cost_nano=2, baseline_nano=10) for i in range(3)
    ]
    beside = row("b", created_at=0, release_id="new", reason="explore", cost_nano=5, baseline_nano=0)
    older = row("o", release_id="old", cost_nano=9, baseline_nano=8)
    insert_records(store, [*records, beside, older, row("none", cost_nano=100, baseline_nano=100)])
    found = saved_by_release(store)
    assert found.keys() == {"new", "old"}
    new = found["new"]
    assert (new.requests, new.cost_nano, new.baseline_nano, new.saved_nano, new.hours) == (3, 11, 30, 19, 3)
    assert new.bounds is None
    assert found["old"].saved_nano == -1
    assert saved_by_release(store, "new") == {"new": new}
    assert saved_by_release(store, "no") == {}


def test_the_interval_holds_the_saving_and_is_wider_where_hours_differ(store):
    for name, costs in (("even", [40] * 12), ("uneven", [10, 70] * 6)):
        insert_records(
            store,
            [
                row(f"{name}{i}", created_at=i * HOUR_MS, release_id=name, cost_nano=cost * 10**9,
                    baseline_nano=100 * 10**9)
                for i, cost in enumerate(costs)
            ],
        )  # fmt: skip
    found = saved_by_release(store)
    widths = {}
    for name, saved in found.items():
        low, high = saved.bounds
        assert low <= saved.saved_nano <= high
        widths[name] = high - low
    assert all(isinstance(end, int) for saved in found.values() for end in saved.bounds)
    assert widths["uneven"] > widths["even"]


def test_the_trials_of_a_release_are_its_own_newest_first(store, monkeypatch):
    for i, name in enumerate(("old", "new", "other")):
        releases.add(store, release(name, created_at=i))
    releases.promote(store, "old", "ann")
    for at, name in enumerate(("new", "other", "new")):
        monkeypatch.setattr(canaries, "now_ms", lambda at=at: at)
        canary = canaries.start(store, name, Trial("shadow", 0.5), "ann")
        canaries.finish(store, canary, "stopped", "ann")
    assert [(each.started_at, each.outcome) for each in trials_of(store, "new")] == [(2, "stopped"), (0, "stopped")]
    assert trials_of(store, "old") == []


def test_the_pages_hold_each_release_once_newest_first(store):
    for i in range(5):
        releases.add(store, release(f"r{i}", created_at=i // 2))
    seen, before = [], None
    while some := releases_page(store, 2, before):
        seen += some
        before = some[-1].id
    assert seen == releases.list_releases(store)[::-1]
    with pytest.raises(ReleaseError, match="no release 'x'"):
        releases_page(store, 2, "x")


def test_a_training_cost_its_hours_and_its_comparing_of_answers(store):
    job = jobs.create(store, "manual", "ann", {}).id
    known = Distilling(paid_reasons=("judge",), hour_cost=Decimal("2.5"))
    made = dataclasses.replace(release("r"), job_id=job)
    assert training_cost(store, made, known) is None
    states = [(0, "building"), (1, "evaluating"), (2 * HOUR_MS, "rejected")]
    jobs.add_events(store, job, [(at, "state", {"state": state}) for at, state in states])
    insert_records(
        store, [row("j", created_at=HOUR_MS, reason="judge", cost_nano=250_000_000), row("t", cost_nano=7)]
    )
    assert training_cost(store, made, known) == Decimal("5.25")
    assert training_cost(store, release("r"), known) is None
    assert training_cost(store, made, dataclasses.replace(known, hour_cost=None)) is None
