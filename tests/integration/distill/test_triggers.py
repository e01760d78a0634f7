"""Jobs that start by themselves: when each trigger is due, what holds it, and that only one worker makes the job."""

import multiprocessing
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from distill.trigger_settings import TriggerSettings
from distill.triggers import Triggers, rise, trigger_states
from ledger import events, jobs, releases, schema
from ledger.jobs import Job
from ledger.records import NANO, Content, RequestRecord
from ledger.releases import Release
from ledger.requests import insert_records
from ledger.store import Store, open_store, sqlite_url

HOUR = 3_600_000
NOW = round(datetime(2026, 11, 24, 15, 0, tzinfo=UTC).timestamp() * 1000)
LATER = NOW + 100 * 365 * 24 * HOUR
"""Later than whatever the clock says while the tests run."""
VOLUME = {"new_answers": 10}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = open_store(sqlite_url(tmp_path))
    yield opened
    opened.close()


def looking(store: Store, **settings: Any) -> Triggers:
    return Triggers(store, TriggerSettings(**settings), since=NOW)


def state(store: Store, name: str, now: int = NOW, **settings: Any) -> Any:
    return next(each for each in trigger_states(store, TriggerSettings(**settings), now) if each.name == name)


def answers(store: Store, number: int, at: int = NOW - HOUR, **changes: Any) -> None:
    """Answers of the teacher that may be trained on."""
    content = Content(messages=[{"role": "user", "content": "x"}], answer="y")
    values = {"route": "teacher", "reason": "hard", "finish_reason": "stop", "content": content} | changes
    insert_records(store, [RequestRecord(id=f"{at}-{i}-{changes}", created_at=at, **values) for i in range(number)])


def ended(store: Store, at: int, dataset_at: int | None = None, state: str = "live") -> Job:
    """A job that began at a time, and built a dataset."""
    job = jobs.create(store, "manual", "ann", {})
    with store.write() as connection:
        row = sa.update(schema.jobs).where(schema.jobs.c.id == job.id)
        connection.execute(row.values(created_at=at, state=state))
    if dataset_at is not None:
        jobs.add_events(store, job.id, [(dataset_at, "dataset", {"train": 1})])
    return job


def live(store: Store, promoted_at: int) -> None:
    releases.add(store, Release("r1", "live", promoted_at, promoted_at, None, None, "/none", "0", {}))


def routed(store: Store, start: int, hours: int, escalated: float, per_hour: int = 100) -> None:
    """Traffic of the live release, so much of it given to the teacher by the router."""
    for hour in range(hours):
        at, hard = start + hour * HOUR, round(per_hour * escalated)
        insert_records(
            store,
            [
                RequestRecord(
                    id=f"{at}-{i}",
                    created_at=at,
                    release_id="r1",
                    route="teacher" if i < hard else "student",
                    reason="hard" if i < hard else "confident",
                )
                for i in range(per_hour)
            ],
        )


def said(store: Store) -> list[tuple[str, str]]:
    return [(event.subject, event.data["why"]) for event in events.newest(store, kind="trigger")][::-1]


def test_nothing_starts_unless_it_is_asked_for(store: Store):
    answers(store, 100)
    live(store, NOW - 100 * HOUR)
    assert looking(store).look(NOW) is None
    assert {each.state for each in trigger_states(store, TriggerSettings(), NOW)} == {"off"}
    assert jobs.list_jobs(store) == []


def test_enough_new_answers_start_a_job_that_says_so(store: Store):
    answers(store, 9)
    triggers = looking(store, **VOLUME)
    assert triggers.look(NOW) is None
    assert (state(store, "volume", **VOLUME).value, said(store)) == (9, [])
    answers(store, 1, at=NOW - 1)
    job = triggers.look(NOW)
    assert job is not None
    assert (job.trigger, job.actor, job.state) == ("volume", "trigger:volume", "queued")
    assert job.settings == {"note": "at least 10 new answers of the teacher"}
    assert said(store) == [("volume", f"started {job.id}")]
    assert triggers.look(NOW) is None, "the job under way takes them"
    assert len(jobs.list_jobs(store)) == 1


def test_only_answers_that_may_be_trained_on_and_are_newer_than_the_last_dataset_count(store: Store):
    ended(store, NOW - 100 * HOUR, dataset_at=NOW - 90 * HOUR)
    answers(store, 20, at=NOW - 91 * HOUR)
    for changes in (
        {"trainable": False},
        {"route": "student"},
        {"status": 500},
        {"finish_reason": "length"},
        {"content": None},
    ):
        answers(store, 20, **changes)
    assert state(store, "volume", **VOLUME).value == 0
    answers(store, 3)
    assert state(store, "volume", **VOLUME).value == 3


def test_a_job_that_failed_before_it_had_a_dataset_leaves_the_answers_to_the_next_after_the_cool_down(store: Store):
    answers(store, 20)
    ended(store, NOW - HOUR, state="failed")
    triggers = looking(store, **VOLUME)
    assert triggers.look(NOW) is None
    assert state(store, "volume", **VOLUME).next_at == NOW + 23 * HOUR
    assert triggers.look(NOW + 23 * HOUR) is not None


def test_drift_since_the_last_job_is_due_once(store: Store):
    live(store, NOW - 100 * HOUR)
    ended(store, NOW - 50 * HOUR)
    settings: Any = {"drift": True}
    assert looking(store, **settings).look(NOW) is None
    events.add(store, "drift", "another", {"drift": "score"})
    assert state(store, "drift", **settings).state == "waiting"
    events.add(store, "drift", "r1", {"drift": "novelty"})
    job = looking(store, **settings).look(NOW)
    assert job is not None
    assert (job.trigger, job.settings["note"]) == ("drift", "drift of novelty")
    jobs.claim(store, "w")
    jobs.set_state(store, job.id, "w", "live")
    assert state(store, "drift", now=job.created_at + 100 * HOUR, **settings).state == "waiting"


@pytest.mark.parametrize(
    ("schedule", "began", "starts"),
    [
        ("every 7d", 7 * 24, True),
        ("every 7d", 7 * 24 - 1, False),
        ("daily at 14:30", 25, True),
        ("daily at 16:00", 22, False),
        ("weekly on sun at 03:00", 24 * 4, True),
        ("weekly on sun at 03:00", 24 * 2, False),
    ],
)
def test_a_schedule_counts_from_the_last_job(store: Store, schedule: str, began: int, starts: bool):
    ended(store, NOW - began * HOUR)
    assert (looking(store, schedule=schedule).look(NOW) is not None) == starts
    if not starts:
        assert state(store, "schedule", schedule=schedule).next_at > NOW


def test_the_first_job_of_a_daily_schedule_waits_for_its_hour(store: Store):
    triggers = looking(store, schedule="daily at 16:00")
    assert triggers.look(NOW) is None
    assert triggers.look(NOW + HOUR) is not None


def test_a_rise_of_the_escalation_rate_starts_a_job_and_its_ordinary_ups_and_downs_do_not(store: Store):
    promoted = NOW - 96 * HOUR - 1
    live(store, promoted)
    settings: Any = {"escalation_rise": 0.05}
    routed(store, NOW - 96 * HOUR, 72, 0.2)
    assert "too little traffic" in state(store, "escalation", **settings).why
    routed(store, NOW - 24 * HOUR, 20, 0.24)
    quiet = state(store, "escalation", **settings)
    assert (quiet.state, quiet.value < 0.05, quiet.threshold) == ("waiting", True, 0.05)
    routed(store, NOW - 4 * HOUR, 4, 0.95)
    assert state(store, "escalation", **settings).state == "waiting", "four odd hours are no proof"


def test_a_rate_that_has_surely_risen_is_due(store: Store):
    live(store, NOW - 96 * HOUR - 1)
    routed(store, NOW - 96 * HOUR, 72, 0.2)
    routed(store, NOW - 24 * HOUR, 24, 0.4)
    job = looking(store, escalation_rise=0.05).look(NOW)
    assert job is not None
    assert (job.trigger, "gave 40.0% to the teacher, 20.0% after the promotion" in job.settings["note"]) == (
        "escalation", True,
    )  # fmt: skip


def test_hours_that_differ_widely_prove_less_than_their_requests_would_if_they_were_independent():
    chance = np.random.default_rng(0)

    def hours(number: int, mean: float, spread: float) -> list[tuple[int, int]]:
        rates = np.clip(chance.normal(mean, spread, number), 0, 1)
        return [(int(chance.binomial(200, rate)), 200) for rate in rates]

    false = sum(rise(hours(72, 0.3, 0.1), hours(24, 0.3, 0.1)) > 0 for _ in range(2_000))
    assert false / 2_000 < 0.015, "half a percent, and a little for so few hours"
    found = sum(rise(hours(72, 0.3, 0.1), hours(24, 0.45, 0.1)) > 0.03 for _ in range(200))
    assert found > 180
    assert rise([(0, 10)] * 12, [(0, 10)] * 12) < 0


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("cool_down", {"min_hours_between_jobs": 100.0}),
        ("teacher_budget", {"teacher_budget_month": 2.0}),
        ("compute_budget", {"compute_hours_month": 3.0}),
        ("window", {"windows": ("22:00-06:00",)}),
    ],
)
def test_what_holds_a_job_back_is_said_once_and_what_it_waits_for_lets_it_start(
    store: Store, kind: str, settings: dict[str, Any]
):
    before = ended(store, NOW - 30 * HOUR)
    answers(store, 10)
    insert_records(
        store,
        [
            RequestRecord(
                id="cmp_1", created_at=NOW, route="teacher", reason="judge", cost_nano=2 * NANO, trainable=False
            )
        ],
    )
    seconds = [(NOW - 29 * HOUR, "training", {"seconds": 9e9}), (NOW - 28 * HOUR, "training", {"seconds": 3 * 3_600})]
    jobs.add_events(store, before.id, seconds)
    triggers = looking(store, **VOLUME, **settings)
    for _ in range(3):
        assert triggers.look(NOW) is None
    assert looking(store, **VOLUME, **settings).look(NOW) is None, "nor by another worker"
    assert said(store) == [("volume", kind)]
    shown = state(store, "volume", **VOLUME, **settings)
    assert shown.state == "held"
    assert shown.next_at is not None
    assert shown.next_at > NOW
    assert state(store, "volume", now=shown.next_at - 60_000, **VOLUME, **settings).state == "held"
    assert triggers.look(shown.next_at) is not None


@pytest.mark.parametrize("waiting", ["queued", "training", "awaiting_approval", "canary"])
def test_a_job_that_is_not_over_holds_the_next_one_back(store: Store, waiting: str):
    job = ended(store, NOW - 200 * HOUR, state=waiting)
    assert looking(store, schedule="every 7d").look(NOW) is None
    assert said(store) == [("schedule", "unfinished")]
    assert job.id in events.newest(store)[0].data["text"]


def look_at_once(url: str, start: Any, made: Any) -> None:
    store = open_store(url)
    triggers = Triggers(store, TriggerSettings(new_answers=10, min_hours_between_jobs=0), since=NOW)
    for _ in range(10):
        start.wait()
        job = triggers.look(LATER)
        made.put(job.id if job else None)
        start.wait()
    store.close()


def test_two_workers_in_two_processes_make_one_job_between_them_each_time(store: Store):
    context = multiprocessing.get_context("spawn")
    start, made = context.Barrier(3), context.Queue()
    url = store.engine.url.render_as_string()
    workers = [context.Process(target=look_at_once, args=(url, start, made)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for round_ in range(10):
        answers(store, 10, at=NOW + round_)
        start.wait(60)
        found = [made.get(timeout=60) for _ in workers]
        newest = jobs.newest(store)
        assert newest is not None
        assert sorted(each or "" for each in found) == ["", newest.id]
        assert len(jobs.list_jobs(store)) == round_ + 1
        jobs.add_events(store, newest.id, [(NOW + round_, "dataset", {})])
        jobs.claim(store, "w", newest.id)
        jobs.set_state(store, newest.id, "w", "rejected")
        start.wait(60)
    for worker in workers:
        worker.join()
