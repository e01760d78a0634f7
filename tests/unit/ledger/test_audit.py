"""The audit: each change with what was before and after, never a secret or a hash; its pages, which lose nothing."""

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger import (
    approvals,
    audit,
    canaries,
    datasets,
    erasure,
    events,
    jobs,
    key_list,
    keys,
    release_history,
    releases,
    retention,
)
from ledger.audit import Filters
from ledger.canaries import Trial
from ledger.datasets import Dataset, DatasetError
from ledger.job_history import jobs_page
from ledger.key_list import KeyFilters
from ledger.keys import KeyNameError, KeyPolicy
from ledger.releases import ReleaseError
from ledger.requests import HOUR_MS, insert_records
from ledger.store import now_ms
from tests.unit.ledger.rows import a_store, release, row

HASH = re.compile(r"[0-9a-f]{32,}")


def newest(store) -> tuple[str, dict, dict]:
    """Action, before and after of the newest entry."""
    (entry,) = audit.entries_page(store, Filters(), 1)
    return entry.action, entry.detail["before"], entry.detail["after"]


def waiting_job(store, release_id: str) -> str:
    job = jobs.create(store, "manual", "ann", {"note": "n"})
    jobs.claim(store, "w", job.id)
    jobs.set_state(store, job.id, "w", "awaiting_approval", release_id=release_id)
    return job.id


def test_a_key_from_its_making_to_its_end_and_no_secret_of_it(store):
    key, first = keys.create(store, "shop", ["read"], "ann", policy=KeyPolicy(budget_day=1))
    assert newest(store) == ("key.create", None, {"name": "shop", "scopes": ["read"], "policy": {"budget_day": 1.0}})
    keys.update_policy(store, key.id, {"budget_day": 2}, "ben")
    assert newest(store) == ("key.update", {"budget_day": 1.0}, {"budget_day": 2.0})
    rotated, second = keys.rotate(store, key.id, 60, "ben")
    until = {"previous_until": rotated.previous_until}
    assert newest(store) == ("key.rotate", {"previous_until": None}, until)
    keys.revoke(store, key.id, "ben")
    action, before, after = newest(store)
    assert (action, before) == ("key.revoke", {"revoked_at": None, **until})
    assert after["revoked_at"] >= key.created_at
    told = json.dumps(audit.entries(store))
    assert not HASH.search(told)
    for secret in (first, second):
        assert secret not in told
        assert keys.digest(secret) not in told


def test_releases_from_a_promotion_to_a_prune(store):
    for i, (name, parent) in enumerate([("a", None), ("b", "a"), ("c", "b")]):
        releases.add(store, release(name, parent, created_at=i))
    releases.promote(store, "a", "ann")
    assert newest(store) == ("release.promote", {"live": None, "state": "candidate"}, {"live": "a", "state": "live"})
    releases.promote(store, "b", "ann")
    releases.rollback(store, "ann")
    assert newest(store) == ("release.rollback", {"live": "b", "state": "retired"}, {"live": "a", "state": "live"})
    releases.reject(store, "c", "ann", "worse")
    assert newest(store) == ("release.reject", {"state": "candidate"}, {"state": "rejected"})
    for pinned, action in ((True, "release.pin"), (False, "release.unpin")):
        retention.pin(store, "b", pinned, "ann")
        assert newest(store) == (action, {"pinned": not pinned}, {"pinned": pinned})
    assert retention.mark_pruned(store, "b", "ann")
    assert newest(store) == ("release.prune", {"files": "/releases/b"}, {"files": None})
    with pytest.raises(ReleaseError):
        retention.pin(store, "none", True, "ann")


def test_jobs_and_approvals(store):
    for i, name in enumerate("abcd"):
        releases.add(store, release(name, created_at=i))
    job = jobs.create(store, "manual", "ann", {"note": "n"})
    assert newest(store) == ("job.create", None, {"state": "queued", "settings": {"note": "n"}})
    jobs.cancel(store, job.id, "ben")
    before, after = (
        {"state": state, "cancel_requested": asked} for state, asked in (("queued", False), ("cancelled", True))
    )
    assert newest(store) == ("job.cancel", before, after)
    waits = {"state": "awaiting_approval"}
    approvals.approve(store, waiting_job(store, "a"), "ben")
    assert newest(store) == ("job.approve", waits, {"state": "live"})
    approvals.reject(store, waiting_job(store, "b"), "ben", "worse")
    assert newest(store) == ("job.reject", waits, {"state": "rejected"})
    approvals.approve(store, waiting_job(store, "c"), "ben", Trial(mode="canary", share=0.1))
    assert newest(store) == ("job.approve", waits, {"state": "canary"})
    canaries.finish(store, canaries.current(store), "stopped", "ben")
    action, before, after = newest(store)
    assert (action, before["share"], after["outcome"]) == ("canary.stopped", 0.1, "stopped")
    canaries.start(store, "d", Trial(mode="shadow", share=0.2), "ben")
    action, before, after = newest(store)
    assert (action, before, after["mode"]) == ("canary.start", {"state": "candidate"}, "shadow")


def test_an_erasure_says_how_much_there_was_and_not_whose_words(store):
    insert_records(store, [row("r1")])
    erasure.erase(store, erasure.resolve(store, "request", "r1"), "ann")
    action, before, after = newest(store)
    assert (action, before["contents"], after["contents"]) == ("content.erased", 1, 0)


def test_filters_take_what_they_say(store):
    key, _ = keys.create(store, "shop", ["read"], "ann")
    keys.revoke(store, key.id, "ben")
    jobs.create(store, "manual", "ann", {})
    since = now_ms() + 1

    def found(**filters) -> list[str]:
        return [entry.action for entry in audit.entries_page(store, Filters(**filters), 10)]

    assert found(action="key") == ["key.revoke", "key.create"]
    assert found(action="key.revoke") == found(actor="ben") == ["key.revoke"]
    assert found(action="ke") == found(action="key.") == found(action="%") == []
    assert found(subject=key.id, actor="ann") == ["key.create"]
    assert (found(since=since), len(found(until=since))) == ([], 3)
    assert audit.actions(store) == ["job.create", "key.create", "key.revoke"]


NAMES = st.text("ab", min_size=1, max_size=3)
ROWS = st.lists(st.tuples(NAMES, st.integers(0, 3)), max_size=8, unique_by=lambda pair: pair[0])


def walked(read, limit: int) -> list:
    """Every page until one comes short, each read behind the last of the one before."""
    found: list = []
    while True:
        page = read(limit, found[-1].id if found else None)
        found += page
        if len(page) < limit:
            return found


@settings(max_examples=12, deadline=None)
@given(rows=ROWS, limit=st.integers(1, 4))
def test_pages_put_together_are_the_whole_list_whatever_has_the_same_time(rows, limit):
    with a_store() as store:
        for name, at in rows:
            releases.add(store, release(name, created_at=at))
            datasets.add(store, Dataset(name, at, None, f"/{name}", "0" * 64, {}), [])
            events.add(store, "drift" if at else "other", name, {})
            jobs.create(store, "manual", name, {})
            keys.create(store, name, ["read"], "test")
        assert walked(lambda n, after: release_history.releases_page(store, n, after), limit) == sorted(
            releases.list_releases(store), key=lambda each: (each.created_at, each.id), reverse=True
        )
        every = datasets.Filters()
        whole = datasets.list_datasets(store)
        assert walked(lambda n, after: datasets.datasets_page(store, every, n, after), limit) == whole
        assert walked(lambda n, after: events.newest(store, n, "drift", after), limit) == events.newest(
            store, kind="drift"
        )
        assert walked(lambda n, after: jobs_page(store, n, after), limit) == jobs.list_jobs(store)
        found = walked(lambda n, after: key_list.keys_page(store, KeyFilters(name="A"), n, after), limit)
        assert [key.id for key in found] == [
            key.id for key in sorted(keys.list_keys(store), key=lambda key: (key.created_at, key.id), reverse=True)
            if "a" in key.name + key.id
        ]  # fmt: skip
        entries = walked(lambda n, after: audit.entries_page(store, Filters(action="key"), n, after), limit)
        assert [entry.subject for entry in entries] == [
            each["subject"] for each in audit.entries(store) if each["action"] == "key.create"
        ]


def test_a_page_after_what_is_not_there_is_refused(store):
    for error, read in (
        (KeyNameError, lambda: key_list.keys_page(store, KeyFilters(), 1, "no")),
        (DatasetError, lambda: datasets.datasets_page(store, datasets.Filters(), 1, "no")),
        (ReleaseError, lambda: release_history.releases_page(store, 1, "no")),
    ):
        with pytest.raises(error, match="there is no"):
            read()


def test_keys_are_found_by_each_filter_and_their_last_hour_is_known(store):
    old, _ = keys.create(store, "old", ["read"], "test", 1, policy=KeyPolicy(owner="ann", tags=("eu",)))
    new, _ = keys.create(store, "new", ["inference"], "test")
    keys.revoke(store, new.id, "test")
    for filters, expected in (
        (KeyFilters(owner="ann"), [old.id]),
        (KeyFilters(tag="eu", state="expired"), [old.id]),
        (KeyFilters(state="revoked"), [new.id]),
        (KeyFilters(scope="inference", name=new.id[4:].upper()), [new.id]),
        (KeyFilters(state="active"), []),
    ):
        assert [key.id for key in key_list.keys_page(store, filters, 10)] == expected, filters
    now = now_ms()
    insert_records(store, [row(f"r{i}", created_at=now - i * HOUR_MS, key_id=old.id) for i in (1, 3)])
    assert key_list.last_hours(store, [old.id, new.id], now) == {old.id: (now - HOUR_MS) // HOUR_MS * HOUR_MS}


def test_datasets_are_found_by_their_job_and_by_what_was_erased(store):
    for name, job in (("d1", "job_1"), ("d2", None)):
        datasets.add(store, Dataset(name, 1, job, "/d", "0" * 64, {}), [])
    with store.write() as connection:
        datasets.flag(connection, ["d2"], 5)
    for filters, expected in (
        (datasets.Filters(job_id="job_1"), ["d1"]),
        (datasets.Filters(flagged=True), ["d2"]),
        (datasets.Filters(flagged=False), ["d1"]),
    ):
        assert [each.id for each in datasets.datasets_page(store, filters, 9)] == expected
