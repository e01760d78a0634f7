"""Jobs: one worker holds a job, a dead one's is taken over, and a cancelled one stays so."""

import dataclasses
import multiprocessing
import threading
from collections import Counter

import pytest
import sqlalchemy as sa

from ledger import audit, jobs, releases, schema
from ledger.jobs import JobError
from ledger.store import now_ms, open_store
from tests.postgres_server import postgres_store
from tests.unit.ledger.rows import release


def run_out(store, job_id: str) -> None:
    """The worker died a lease ago."""
    with store.write() as connection:
        connection.execute(sa.update(schema.jobs).where(schema.jobs.c.id == job_id).values(lease_until=now_ms() - 1))


def test_a_created_job_is_queued_and_listed(store):
    job = jobs.create(store, "manual", "ann", {"note": "more data"})
    assert jobs.get(store, job.id) == job
    assert jobs.list_jobs(store) == [job]
    assert (job.state, job.settings, job.lease_owner) == ("queued", {"note": "more data"}, None)
    assert audit.entries(store)[0]["action"] == "job.create"


def test_a_job_of_a_name_is_made_once_whoever_asks_again(store):
    first, is_new = jobs.create_once(store, "nightly", "api", "ann", {"note": "a"})
    assert is_new
    jobs.claim(store, "w")
    again, is_new = jobs.create_once(store, "nightly", "api", "ben", {"note": "b"})
    assert (again.id, again.settings, again.lease_owner, is_new) == (first.id, {"note": "a"}, "w", False)
    assert jobs.create_once(store, "weekly", "api", "ann", {})[0].id != first.id
    assert [entry["action"] for entry in audit.entries(store)] == ["job.create"] * 2


def test_a_job_of_a_name_is_made_once_by_threads_at_once(store):
    start, made = threading.Barrier(4), []

    def work() -> None:
        start.wait()
        made.append(jobs.create_once(store, "nightly", "api", "ann", {}))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len({job.id for job, _ in made}), sum(is_new for _, is_new in made)) == (1, 1)


def test_the_newest_job_is_the_one_made_last(store):
    assert jobs.newest(store) is None
    old, new = (jobs.create(store, "manual", "ann", {}) for _ in range(2))
    with store.write() as connection:
        for at, job in enumerate((old, new)):
            connection.execute(sa.update(schema.jobs).where(schema.jobs.c.id == job.id).values(created_at=at))
    assert jobs.newest(store).id == new.id


def test_events_are_added_together_with_their_own_times_and_read_in_parts(store):
    job = jobs.create(store, "manual", "ann", {})
    jobs.add_events(store, job.id, [(7, "training", {"step": 1}), (9, "check", {})])
    first = jobs.events(store, job.id, limit=1)
    assert [(event["at"], event["kind"]) for event in first] == [(7, "training")]
    assert [event["at"] for event in jobs.events(store, job.id, first[0]["id"], 5)] == [9]


def test_a_claimed_job_is_not_claimed_again(store):
    job = jobs.create(store, "manual", "ann", {})
    claimed = jobs.claim(store, "first")
    assert (claimed.id, claimed.lease_owner) == (job.id, "first")
    assert now_ms() < claimed.lease_until <= now_ms() + jobs.LEASE_MS
    assert jobs.claim(store, "second") is None
    assert jobs.claim(store, "second", job.id) is None


def test_the_oldest_job_is_claimed_first_unless_one_is_named(store):
    old, middle, new = (jobs.create(store, "manual", "ann", {}) for _ in range(3))
    with store.write() as connection:
        for i, job in enumerate((old, middle, new)):
            connection.execute(sa.update(schema.jobs).where(schema.jobs.c.id == job.id).values(created_at=i))
    assert jobs.claim(store, "w", middle.id).id == middle.id
    assert jobs.claim(store, "w").id == old.id
    assert jobs.claim(store, "w").id == new.id
    assert [job.id for job in jobs.list_jobs(store)] == [new.id, middle.id, old.id]


def claim_all(url: str, owner: str, start, results) -> None:
    store = open_store(url)
    start.wait()
    taken = []
    while (job := jobs.claim(store, owner)) is not None:
        taken.append(job.id)
    results.put((owner, taken))
    store.close()


def test_processes_that_claim_at_once_never_get_the_same_job(store):
    made = {jobs.create(store, "manual", "ann", {}).id for _ in range(20)}
    url = store.engine.url.render_as_string()
    context = multiprocessing.get_context("spawn")
    start, results = context.Barrier(3), context.Queue()
    workers = [context.Process(target=claim_all, args=(url, f"worker {i}", start, results)) for i in range(3)]
    for worker in workers:
        worker.start()
    taken = dict(results.get(timeout=60) for _ in workers)
    for worker in workers:
        worker.join()
    assert Counter(job for ids in taken.values() for job in ids) == dict.fromkeys(made, 1)
    for owner, ids in taken.items():
        assert all(jobs.get(store, job_id).lease_owner == owner for job_id in ids)


def test_threads_that_claim_one_job_at_once_leave_one_winner(store):
    for _ in range(10):
        job = jobs.create(store, "manual", "ann", {})
        start, winners = threading.Barrier(4), []

        def work(owner: str, start=start, winners=winners, job=job) -> None:
            start.wait()
            if jobs.claim(store, owner, job.id) is not None:
                winners.append(owner)

        threads = [threading.Thread(target=work, args=(f"worker {i}",)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert winners == [jobs.get(store, job.id).lease_owner]


def test_a_claim_passes_over_a_job_that_another_worker_is_about_to_take(postgres):
    """On SQLite, where one writes at a time, there is no such moment."""
    with postgres_store(postgres) as store:
        first, second = (jobs.create(store, "manual", "ann", {}).id for _ in range(2))
        with store.write() as connection:
            connection.execute(sa.update(schema.jobs).where(schema.jobs.c.id == first).values(created_at=1))
        with store.write(None) as other:
            other.execute(sa.select(schema.jobs.c.id).where(schema.jobs.c.id == first).with_for_update())
            assert jobs.claim(store, "me").id == second
            assert jobs.claim(store, "me") is None
        assert jobs.claim(store, "me").id == first


def test_a_lease_that_ran_out_is_taken_over_and_its_holder_is_told(store):
    job = jobs.create(store, "manual", "ann", {})
    jobs.claim(store, "dead")
    jobs.set_state(store, job.id, "dead", "training", result={"step": 3})
    run_out(store, job.id)
    taken = jobs.claim(store, "alive")
    assert (taken.id, taken.state, taken.lease_owner, taken.result) == (job.id, "training", "alive", {"step": 3})
    for late in (
        lambda: jobs.heartbeat(store, job.id, "dead"),
        lambda: jobs.set_state(store, job.id, "dead", "evaluating"),
    ):
        with pytest.raises(JobError, match="held by another worker"):
            late()
    assert jobs.get(store, job.id).state == "training"


def test_a_heartbeat_renews_the_lease_of_its_holder_only(store):
    job = jobs.create(store, "manual", "ann", {})
    jobs.claim(store, "first")
    run_out(store, job.id)
    renewed = jobs.heartbeat(store, job.id, "first")
    assert renewed.lease_until > now_ms()
    assert jobs.claim(store, "second") is None
    for owner in ("second", ""):
        with pytest.raises(JobError):
            jobs.heartbeat(store, job.id, owner)
    with pytest.raises(JobError):
        jobs.heartbeat(store, "job_none", "first")


@pytest.mark.parametrize("state", [*jobs.WAITING_STATES, *jobs.FINAL_STATES])
def test_a_state_without_a_worker_frees_the_lease_and_is_never_claimed(store, state):
    job = jobs.create(store, "manual", "ann", {})
    jobs.claim(store, "w")
    jobs.set_state(store, job.id, "w", state, error="why")
    found = jobs.get(store, job.id)
    assert (found.state, found.error, found.lease_owner, found.lease_until) == (state, "why", None, None)
    assert jobs.claim(store, "w") is None
    with pytest.raises(JobError):
        jobs.heartbeat(store, job.id, "w")


def test_states_and_events_are_a_jobs_history_in_order(store):
    job = jobs.create(store, "manual", "ann", {})
    jobs.claim(store, "w")
    jobs.set_state(store, job.id, "w", "building")
    jobs.add_event(store, job.id, "training", {"step": 1})
    jobs.set_state(store, job.id, "w", "live")
    jobs.add_event(store, "another", "training", {"step": 9})
    history = jobs.events(store, job.id)
    assert [(event["kind"], event["data"]) for event in history] == [
        ("state", {"state": "building"}),
        ("training", {"step": 1}),
        ("state", {"state": "live"}),
    ]
    assert jobs.events(store, job.id, after=history[1]["id"]) == history[2:]


def test_a_queued_job_is_cancelled_at_once(store):
    job = jobs.create(store, "manual", "ann", {})
    assert jobs.cancel(store, job.id, "ben").state == "cancelled"
    assert [event["data"] for event in jobs.events(store, job.id)] == [{"state": "cancelled"}]
    assert jobs.claim(store, "w") is None
    with pytest.raises(JobError, match="has ended already"):
        jobs.cancel(store, job.id, "ben")
    assert [entry["action"] for entry in audit.entries(store)] == ["job.cancel", "job.create"]


def test_a_held_job_is_cancelled_by_its_worker(store):
    job = jobs.create(store, "manual", "ann", {})
    jobs.claim(store, "w")
    jobs.set_state(store, job.id, "w", "training")
    asked = jobs.cancel(store, job.id, "ben")
    assert (asked.state, asked.cancel_requested) == ("training", True)
    assert jobs.heartbeat(store, job.id, "w").cancel_requested
    jobs.set_state(store, job.id, "w", "cancelled")
    assert jobs.get(store, job.id).state == "cancelled"


def test_a_worker_that_slept_through_its_lease_does_not_revive_a_cancelled_job(store):
    job = jobs.create(store, "manual", "ann", {})
    jobs.claim(store, "asleep")
    run_out(store, job.id)
    assert jobs.cancel(store, job.id, "ben").state == "cancelled"
    with pytest.raises(JobError):
        jobs.set_state(store, job.id, "asleep", "training")
    assert jobs.get(store, job.id).state == "cancelled"


def test_cancelling_a_job_that_awaits_approval_rejects_its_candidate(store):
    releases.add(store, dataclasses.replace(release("r1"), job_id="j"))
    job = jobs.create(store, "manual", "ann", {})
    jobs.claim(store, "w")
    jobs.set_state(store, job.id, "w", "awaiting_approval", release_id="r1")
    assert jobs.cancel(store, job.id, "ben").state == "cancelled"
    assert releases.get(store, "r1").state == "rejected"
    assert releases.served(store) == []


def test_cancelling_does_not_take_back_a_release_that_is_live(store):
    releases.add(store, release("r1"))
    releases.promote(store, "r1", "ann")
    job = jobs.create(store, "manual", "ann", {})
    jobs.claim(store, "w")
    jobs.set_state(store, job.id, "w", "canary", release_id="r1")
    jobs.cancel(store, job.id, "ben")
    assert releases.live(store).id == "r1"


def test_only_a_job_that_waits_is_settled(store):
    job = jobs.create(store, "manual", "ann", {})
    with pytest.raises(JobError, match="does not wait"):
        jobs.settle(store, job.id, "live")
    jobs.claim(store, "w")
    jobs.set_state(store, job.id, "w", "awaiting_approval")
    jobs.settle(store, job.id, "live")
    assert jobs.get(store, job.id).state == "live"
    with pytest.raises(JobError):
        jobs.settle(store, job.id, "rejected")


def test_an_unknown_job_is_named_in_the_error(store):
    for refused in (jobs.get, lambda store, job_id: jobs.cancel(store, job_id, "ann")):
        with pytest.raises(JobError, match="there is no job 'job_x'"):
            refused(store, "job_x")
