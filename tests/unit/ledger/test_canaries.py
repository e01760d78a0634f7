"""Canaries: one is open at most, and release, job and canary change together or not at all."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from ledger import approvals, audit, canaries, events, jobs, releases, schema
from ledger.canaries import CanaryOpen, Trial
from ledger.jobs import JobError
from ledger.releases import ReleaseError
from ledger.store import Store
from tests.unit.ledger.rows import release

TENTH = Trial("canary", 0.1)


@pytest.fixture
def pair(store: Store) -> Store:
    """``old`` is live, ``new`` and ``other`` are candidates."""
    for i, (name, parent) in enumerate([("old", None), ("new", "old"), ("other", "old")]):
        releases.add(store, release(name, parent, created_at=i))
    releases.promote(store, "old", "ann")
    return store


def a_job(store: Store, state: str, release_id: str = "new") -> str:
    job = jobs.create(store, "manual", "ann", {})
    jobs.claim(store, "w", job.id)
    jobs.set_state(store, job.id, "w", state, release_id=release_id)
    return job.id


def states(store: Store) -> dict[str, str]:
    return {found.id: found.state for found in releases.list_releases(store)}


def last_states(store: Store, job_id: str) -> str:
    return [event["data"]["state"] for event in jobs.events(store, job_id) if event["kind"] == "state"][-1]


def test_a_canary_comes_back_as_it_was_begun(pair):
    job = a_job(pair, "awaiting_approval")
    begun = canaries.start(pair, "new", TENTH, "ann")
    assert canaries.current(pair) == begun == canaries.newest(pair)
    assert (begun.champion_id, begun.mode, begun.share, begun.ended_at) == ("old", "canary", 0.1, None)
    assert states(pair) == {"old": "live", "new": "canary", "other": "candidate"}
    assert "new" in [found.id for found in releases.served(pair)]
    assert (jobs.get(pair, job).state, last_states(pair, job)) == ("canary", "canary")
    assert audit.entries(pair)[0]["action"] == "canary.start"


def test_there_is_never_a_second_one(pair):
    canaries.start(pair, "new", TENTH, "ann")
    with pytest.raises(CanaryOpen, match="new is open"):
        canaries.start(pair, "other", TENTH, "ann")
    assert states(pair)["other"] == "candidate"


def test_of_two_that_are_begun_at_once_one_is(pair):
    def begin(name: str) -> bool:
        try:
            canaries.start(pair, name, TENTH, "ann")
        except CanaryOpen:
            return False
        return True

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(begin, ["new", "other"])) == [False, True]
    assert sorted(states(pair).values()) == ["canary", "candidate", "live"]


def test_what_may_not_be_tried_is_refused_and_nothing_changes(pair):
    releases.reject(pair, "other", "ann", "no")
    before = states(pair)
    for name in ("old", "other", "nobody"):
        with pytest.raises(ReleaseError, match=name):
            canaries.start(pair, name, TENTH, "ann")
    assert (states(pair), canaries.newest(pair)) == (before, None)


def test_without_a_champion_there_is_nothing_to_compare_with(store):
    releases.add(store, release("new"))
    with pytest.raises(ReleaseError, match="no release is live"):
        canaries.start(store, "new", TENTH, "ann")
    assert states(store) == {"new": "candidate"}


def test_a_job_at_work_keeps_its_release_from_others(pair):
    job = a_job(pair, "evaluating")
    for owner in (None, "another"):
        with pytest.raises(JobError, match="still at work"):
            canaries.start(pair, "new", TENTH, "ann", owner)
    assert (states(pair)["new"], jobs.get(pair, job).state) == ("candidate", "evaluating")
    canaries.start(pair, "new", TENTH, "gate", "w")
    found = jobs.get(pair, job)
    assert (found.state, found.lease_owner, jobs.claim(pair, "another")) == ("canary", None, None)


def test_a_promotion_ends_the_canary_and_its_job(pair):
    job = a_job(pair, "awaiting_approval")
    begun = canaries.start(pair, "new", TENTH, "ann")
    canaries.set_figures(pair, begun, {"why": "every rule is shown to hold"})
    assert releases.promote(pair, "new", "canary", was="canary").id == "old"
    assert (states(pair)["old"], states(pair)["new"]) == ("retired", "live")
    assert (jobs.get(pair, job).state, jobs.get(pair, job).error) == ("live", None)
    ended = canaries.newest(pair)
    assert (ended.outcome, ended.ended_at is not None, canaries.current(pair)) == ("promoted", True, None)
    (event,) = events.newest(pair, kind="canary")
    assert (event.subject, event.data["outcome"], event.data["text"]) == (
        "new", "promoted", "every rule is shown to hold"
    )  # fmt: skip


@pytest.mark.parametrize("outcome", ["rolled_back", "stopped"])
def test_taking_back_ends_all_three(pair, outcome):
    job = a_job(pair, "awaiting_approval")
    begun = canaries.start(pair, "new", TENTH, "ann")
    canaries.set_figures(pair, begun, {"why": "it is worse"})
    canaries.finish(pair, begun, outcome, "ann")
    assert (states(pair)["old"], states(pair)["new"]) == ("live", "rolled_back")
    assert (jobs.get(pair, job).state, jobs.get(pair, job).error) == ("rolled_back", "it is worse")
    assert canaries.newest(pair).outcome == outcome
    with pytest.raises(ReleaseError, match="ended already"):
        canaries.finish(pair, begun, outcome, "ann")
    with pytest.raises(ReleaseError, match="no canary any more"):
        releases.promote(pair, "new", "late worker", was="canary")
    assert states(pair)["old"] == "live"
    assert canaries.start(pair, "new", TENTH, "ann") == canaries.current(pair)


def test_another_champion_ends_what_was_compared_with_the_old_one(pair):
    job = a_job(pair, "awaiting_approval")
    canaries.start(pair, "new", TENTH, "ann")
    releases.promote(pair, "other", "ann")
    assert states(pair) == {"old": "retired", "new": "rolled_back", "other": "live"}
    assert (canaries.newest(pair).outcome, jobs.get(pair, job).state) == ("superseded", "rolled_back")
    canaries.start(pair, "new", TENTH, "ann")
    releases.rollback(pair, "ann")
    assert (states(pair)["old"], states(pair)["new"], canaries.current(pair)) == ("live", "rolled_back", None)


def test_rejecting_and_cancelling_take_it_back_too(pair):
    job = a_job(pair, "awaiting_approval")
    canaries.start(pair, "new", TENTH, "ann")
    releases.reject(pair, "other", "ann", "another one")
    assert canaries.current(pair) is not None
    releases.reject(pair, "new", "ann", "no good")
    assert (states(pair)["new"], jobs.get(pair, job).state) == ("rejected", "rejected")
    assert canaries.newest(pair).outcome == "rejected"
    releases.add(pair, release("third", "old"))
    job = a_job(pair, "awaiting_approval", "third")
    canaries.start(pair, "third", TENTH, "ann")
    jobs.cancel(pair, job, "ann")
    assert (states(pair)["third"], jobs.get(pair, job).state) == ("rolled_back", "cancelled")
    assert canaries.current(pair) is None


def test_approval_begins_a_trial_where_there_is_a_champion(store):
    releases.add(store, release("old"))
    first = a_job(store, "awaiting_approval", "old")
    assert approvals.approve(store, first, "ann", TENTH).state == "live"
    releases.add(store, release("new", "old"))
    second = a_job(store, "awaiting_approval")
    assert approvals.approve(store, second, "ann", TENTH).state == "canary"
    assert (states(store), canaries.current(store).release_id) == ({"old": "live", "new": "canary"}, "new")


class Crashed(Exception):
    """What a test breaks a transaction off with."""


@pytest.mark.parametrize("step", ["start", "promote", "finish", "cancel"])
def test_whatever_breaks_off_within_a_step_leaves_all_as_it_was(pair, step):
    """Break off at the first statement that changes something, at the second, and so on, until the step succeeds."""
    job = a_job(pair, "awaiting_approval")
    if step != "start":
        canaries.start(pair, "new", TENTH, "ann")
    begun = canaries.current(pair)
    steps = {
        "start": lambda: canaries.start(pair, "new", TENTH, "ann"),
        "promote": lambda: releases.promote(pair, "new", "ann"),
        "finish": lambda: canaries.finish(pair, begun, "rolled_back", "ann"),  # type: ignore[arg-type]
        "cancel": lambda: jobs.cancel(pair, job, "ann"),
    }

    def everything() -> list[object]:
        tables = (schema.releases, schema.jobs, schema.canaries, schema.job_events, schema.events, schema.audit)
        with pair.read() as connection:
            return [connection.execute(sa.select(table)).all() for table in tables]

    before, left, broken = everything(), [0], 0

    def crash(_connection, _cursor, statement, *_rest):
        if statement.startswith(("UPDATE", "INSERT")):
            left[0] -= 1
            if left[0] < 0:
                raise Crashed

    sa.event.listen(pair.engine, "before_cursor_execute", crash)
    try:
        while True:
            left[0] = broken
            try:
                steps[step]()
                break
            except Crashed:
                broken += 1
                left[0] = 1_000
                assert everything() == before
    finally:
        sa.event.remove(pair.engine, "before_cursor_execute", crash)
    assert broken >= 5
    assert everything() != before


def test_figures_are_kept_of_an_open_canary_only(pair):
    begun = canaries.start(pair, "new", TENTH, "ann")
    canaries.set_figures(pair, begun, {"at": 1})
    assert canaries.current(pair).figures == {"at": 1}
    canaries.finish(pair, begun, "stopped", "ann")
    canaries.set_figures(pair, begun, {"at": 2})
    assert canaries.newest(pair).figures == {"at": 1}
