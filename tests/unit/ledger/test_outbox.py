"""The outbox: written with the change or not at all, taken up once, sent until it is taken or given up."""

import pytest
import sqlalchemy as sa

from ledger import (
    approvals,
    audit,
    canaries,
    canary_close,
    drift_rows,
    events,
    jobs,
    leases,
    outbox,
    releases,
    schema,
    trigger_facts,
)
from ledger.canaries import Trial
from ledger.outbox import KEEP_TRYING_MS, KINDS, OutboxError
from ledger.store import now_ms
from tests.unit.ledger.rows import release


def said(store) -> list[tuple[str, str]]:
    table = schema.webhook_messages
    with store.read() as connection:
        rows = connection.execute(sa.select(table.c.kind, table.c.subject).order_by(table.c.id))
        return [tuple(row) for row in rows]


def data_of(store, kind: str) -> dict:
    table = schema.webhook_messages
    with store.read() as connection:
        return connection.execute(sa.select(table.c.data).where(table.c.kind == kind)).scalar_one()


def put(store, kind: str = "job.failed", subject: str = "job_1", once: str | None = None) -> None:
    with store.write() as connection:
        outbox.put(connection, kind, subject, {"of": subject}, once)


def to(*names: str):
    return lambda _kind: names


def two_releases(store) -> None:
    for name in ("r1", "r2"):
        releases.add(store, release(name, parent="r1" if name == "r2" else None))
    releases.promote(store, "r1", "ann")


# who says what


def test_every_state_of_a_job_is_said_with_its_change(store):
    job = jobs.create(store, "manual", "ann", {})
    jobs.claim(store, "w")
    for state in ("building", "training", "evaluating"):
        jobs.set_state(store, job.id, "w", state)
    jobs.set_state(store, job.id, "w", "failed", error="the disk is full")
    states = ("queued", "building", "training", "evaluating", "failed")
    assert said(store) == [(f"job.{state}", job.id) for state in states]
    assert data_of(store, "job.failed") == {
        "job": job.id, "state": "failed", "trigger": "manual", "actor": "ann", "release_id": None,
        "error": "the disk is full",
    }  # fmt: skip


def test_a_change_that_is_refused_says_nothing(store):
    job = jobs.create(store, "manual", "ann", {})
    with pytest.raises(jobs.JobError):
        jobs.set_state(store, job.id, "nobody", "training")
    with pytest.raises(jobs.JobError):
        jobs.settle(store, job.id, "live")
    assert jobs.create_once(store, "n", "api", "ann", {})[1]
    assert not jobs.create_once(store, "n", "api", "ann", {})[1]
    assert [kind for kind, _ in said(store)] == ["job.queued"] * 2


def test_a_cancelled_job_says_so_once_it_is(store):
    job = jobs.create(store, "manual", "ann", {})
    held = jobs.create(store, "manual", "ann", {})
    jobs.claim(store, "w", held.id)
    jobs.cancel(store, held.id, "ann")
    jobs.cancel(store, job.id, "ann")
    assert said(store)[2:] == [("job.cancelled", job.id)]


def test_promotions_and_rollbacks_say_what_is_live_and_what_was(store):
    two_releases(store)
    releases.promote(store, "r2", "ben")
    releases.rollback(store, "eve")
    assert said(store) == [("release.promoted", "r1"), ("release.promoted", "r2"), ("release.rolled_back", "r1")]
    assert data_of(store, "release.rolled_back") == {"live": "r1", "before": "r2", "by": "eve"}
    releases.add(store, release("r3"))
    releases.reject(store, "r3", "ann", "worse")
    releases.reject(store, "r3", "ann", "worse")
    assert said(store)[3:] == [("release.rejected", "r3")]


def test_a_rejected_job_says_it_of_its_release_too(store):
    job = jobs.create(store, "manual", "ann", {})
    releases.add(store, release("r1"))
    jobs.claim(store, "w")
    jobs.set_state(store, job.id, "w", "awaiting_approval", release_id="r1")
    approvals.reject(store, job.id, "ann", "worse")
    assert said(store)[1:] == [
        ("job.awaiting_approval", job.id), ("job.rejected", job.id), ("release.rejected", "r1"),
    ]  # fmt: skip


def test_a_canary_says_its_beginning_and_its_end_and_its_jobs(store):
    two_releases(store)
    job = jobs.create(store, "manual", "ann", {})
    jobs.claim(store, "w")
    jobs.set_state(store, job.id, "w", "awaiting_approval", release_id="r2")
    canary = canaries.start(store, "r2", Trial("canary", 0.1), "ann")
    canaries.finish(store, canary, "rolled_back", "canary")
    assert said(store)[3:] == [
        ("job.canary", job.id), ("canary.started", "r2"), ("job.rolled_back", job.id), ("canary.rolled_back", "r2"),
    ]  # fmt: skip
    assert data_of(store, "canary.started") == {"release": "r2", "champion": "r1", "mode": "canary", "share": 0.1}


def test_drift_triggers_and_alerts_are_said_as_often_as_they_are_noted(store):
    for _ in range(2):
        drift_rows.raise_once(store, "r1", {"drift": "score", "n": 500}, 1_000_000)
        trigger_facts.note_once(store, "volume", {"decision": "held", "why": "window"}, 0)
    events.add(store, "disk", "spool", {"text": "full"})
    assert said(store) == [("drift.score", "r1"), ("trigger.held", "volume"), ("alert.disk", "spool")]
    assert data_of(store, "drift.score") == {"release": "r1", "drift": "score", "n": 500}


def test_every_kind_of_job_and_canary_can_be_named_in_the_settings():
    assert set(KINDS["job"]) == {*jobs.ACTIVE_STATES, *jobs.WAITING_STATES, *jobs.FINAL_STATES}
    assert set(canary_close.JOB_STATES) < set(KINDS["canary"])


# taking up and sending


def test_a_message_goes_to_those_who_want_it_once(store):
    put(store, "job.failed")
    put(store, "drift.score", "r1")
    wanted = {"job.failed": ("pager", "log"), "drift.score": ("log",)}
    assert outbox.take_up(store, lambda kind: wanted[kind], now_ms()) == 2
    assert outbox.take_up(store, lambda kind: wanted[kind], now_ms()) == 0
    found = outbox.deliveries(store, 10)
    assert [(each.endpoint, each.kind) for each in found] == [
        ("log", "drift.score"), ("log", "job.failed"), ("pager", "job.failed"),
    ]  # fmt: skip
    assert outbox.counts(store) == {("log", "pending"): 2, ("pager", "pending"): 1}


def test_a_message_of_one_name_is_there_once_and_the_second_is_passed_over(store):
    for _ in range(3):
        put(store, "budget.warning", "key_1", once="key_1 day 1")
    put(store, "budget.warning", "key_1", once="key_1 day 2")
    assert len(said(store)) == 2


def test_what_nobody_took_up_in_time_goes_to_nobody(store):
    put(store)
    assert outbox.take_up(store, to("pager"), now_ms() + KEEP_TRYING_MS + 1_000) == 1
    assert outbox.deliveries(store, 10) == []


def test_due_ones_come_oldest_first_with_the_message_and_later_ones_when_it_is_time(store):
    for subject in ("a", "b", "c"):
        put(store, subject=subject)
    now = now_ms()
    outbox.take_up(store, to("pager"), now)
    first, second, third = outbox.due(store, "pager", now, 10)
    assert [each.message.subject for each in (first, second, third)] == ["a", "b", "c"]
    assert first.message.data == {"of": "a"}
    assert first.message.id.startswith("msg_")
    assert outbox.due(store, "other", now, 10) == []
    outbox.mark(store, first.id, 200, None)
    outbox.mark(store, second.id, 500, "answered with status 500", now + 5_000)
    assert [each.message.subject for each in outbox.due(store, "pager", now, 10)] == ["c"]
    assert [each.message.subject for each in outbox.due(store, "pager", now + 5_000, 10)] == ["b", "c"]
    outbox.mark(store, third.id, None, "x" * 2_000)
    states = {each.subject: (each.state, each.attempts, each.last_status) for each in outbox.deliveries(store, 10)}
    assert states == {"a": ("delivered", 1, 200), "b": ("pending", 1, 500), "c": ("failed", 1, None)}


def test_an_attempt_that_ends_after_another_one_delivered_changes_nothing(store):
    put(store)
    outbox.take_up(store, to("pager"), now_ms())
    (due,) = outbox.due(store, "pager", now_ms(), 1)
    outbox.mark(store, due.id, 200, None)
    outbox.mark(store, due.id, 500, "late", now_ms())
    assert outbox.deliveries(store, 1)[0].state == "delivered"


def test_what_failed_is_sent_again_by_request_and_audited(store):
    for subject in ("a", "b"):
        put(store, subject=subject)
    outbox.take_up(store, to("pager", "log"), now_ms())
    for name in ("pager", "log"):
        for each in outbox.due(store, name, now_ms(), 10):
            outbox.mark(store, each.id, 500, "answered with status 500")
    newest = outbox.deliveries(store, 1)[0]
    assert outbox.retry(store, "ann", newest.id) == 1
    assert outbox.due(store, newest.endpoint, now_ms(), 10)[0].message.id == newest.message_id
    assert outbox.retry(store, "ann", endpoint="pager") == (1 if newest.endpoint == "pager" else 2)
    assert outbox.counts(store).get(("pager", "failed")) is None
    assert audit.entries(store)[0]["action"] == "webhook.retry"
    with pytest.raises(OutboxError, match="no delivery 999"):
        outbox.retry(store, "ann", 999)


def test_pages_of_deliveries_follow_each_other(store):
    for number in range(5):
        put(store, subject=str(number))
    outbox.take_up(store, to("pager"), now_ms())
    first = outbox.deliveries(store, 2)
    second = outbox.deliveries(store, 2, before=first[-1].id)
    assert [each.subject for each in (*first, *second)] == ["4", "3", "2", "1"]
    assert outbox.deliveries(store, 10, state="failed") == []
    assert len(outbox.deliveries(store, 10, endpoint="pager", state="pending")) == 5


def test_what_is_old_is_forgotten_and_what_waits_for_nobody_is_given_up(store):
    for subject in ("a", "b"):
        put(store, subject=subject)
    outbox.take_up(store, to("pager", "gone"), now_ms())
    (sent, _) = outbox.due(store, "pager", now_ms(), 2)
    outbox.mark(store, sent.id, 200, None)
    outbox.prune(store, ["pager"], now_ms() + KEEP_TRYING_MS + 1_000)
    assert outbox.counts(store) == {("pager", "delivered"): 1, ("pager", "pending"): 1, ("gone", "failed"): 2}
    outbox.prune(store, ["pager"], now_ms() + 40 * 86_400_000)
    assert outbox.counts(store) == {("pager", "pending"): 1}
    assert [subject for _, subject in said(store)] == ["b"]


# leases


def test_a_lease_is_held_by_one_until_it_is_given_back_or_runs_out(store):
    assert leases.take(store, "webhooks", "a", 60_000)
    assert not leases.take(store, "webhooks", "b", 60_000)
    assert leases.take(store, "webhooks", "a", 60_000), "it is renewed"
    assert leases.take(store, "other", "b", 60_000)
    leases.give_back(store, "webhooks", "b")
    assert not leases.take(store, "webhooks", "b", 60_000), "it was not b's to give back"
    leases.give_back(store, "webhooks", "a")
    assert leases.take(store, "webhooks", "b", -1)
    assert leases.take(store, "webhooks", "a", 60_000), "b's had run out"
