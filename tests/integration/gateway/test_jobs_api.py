"""``/admin/v1/jobs`` over a socket: made once, decided, and followed as events."""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from gateway.jobs_api import KEEP_ALIVE, Tail, _Seen
from ledger import audit, jobs, releases
from ledger.releases import Release
from tests.gateway_fixtures import World, wait_until
from tests.scripted_upstream import WAIT_S


def post(world: World, path: str, body: Any = None, scope: str = "admin", **headers: str) -> httpx.Response:
    return world.client.post(f"{world.url}/admin/v1/jobs{path}", json=body, headers=world.headers(scope) | headers)


def waiting(world: World, release_id: str = "r-new") -> str:
    """A job that awaits approval of a candidate."""
    job = jobs.create(world.store, "manual", "ann", {})
    releases.add(
        world.store, Release(release_id, "candidate", 1, None, None, job.id, str(Path("/none")), "0" * 64, {})
    )
    jobs.claim(world.store, "w", job.id)
    jobs.set_state(world.store, job.id, "w", "awaiting_approval", release_id=release_id)
    return job.id


def events_of(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    """The events of a stream, comments and ``retry`` left out."""
    event: dict[str, Any] = {}
    for line in lines:
        if not line:
            if "data" in event:
                yield event
            event = {}
            continue
        name, _, value = line.partition(": ")
        if name in ("id", "event", "data"):
            event[name] = json.loads(value) if name == "data" else value


def test_a_job_takes_what_it_is_told_and_its_answer_says_where_it_is(world: World):
    answer = post(world, "", {"note": "more", "max_examples": 50, "start_from": "base"})
    job = answer.json()
    assert (answer.status_code, answer.headers["location"]) == (202, f"/admin/v1/jobs/{job['id']}")
    assert jobs.get(world.store, job["id"]).settings == {"note": "more", "max_examples": 50, "start_from": "base"}
    assert world.get(answer.headers["location"], "read").json()["job"]["state"] == "queued"


def test_a_job_keeps_its_filters_and_the_same_ones_again_are_the_same_job(world: World):
    filters = {"tags": ["support"], "keys": ["key_1"], "routes": ["teacher"], "since": "30d", "min_feedback": 0.5}
    answers = [post(world, "", filters, **{"idempotency-key": "filtered"}) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [202, 202]
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert jobs.get(world.store, answers[0].json()["id"]).settings == filters


@pytest.mark.parametrize(
    "body",
    [
        {"min_agreement": 0.0},
        {"approval": "auto"},
        {"max_examples": 0},
        {"max_examples": True},
        {"start_from": "/etc"},
        {"note": "x" * 2_001},
        {"training": {}},
        {"languages": ["en"]},
        {"tag": "support"},
        {"tags": "support"},
        {"routes": ["cache"]},
        {"since": "yesterday"},
        {"min_feedback": 1.5},
    ],
)
def test_a_job_takes_nothing_that_would_change_its_gate(module_world: World, body: dict[str, Any]):
    before = len(jobs.list_jobs(module_world.store))
    answer = post(module_world, "", body)
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")
    assert len(jobs.list_jobs(module_world.store)) == before


def test_the_same_request_again_makes_no_second_job_not_even_at_once(world: World):
    name = {"idempotency-key": "nightly-1"}
    before = len(jobs.list_jobs(world.store))
    answers: list[httpx.Response] = []
    threads = [
        threading.Thread(target=lambda: answers.append(post(world, "", {"note": "a"}, **name))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {(answer.status_code, answer.json()["id"]) for answer in answers} == {
        (202, jobs.list_jobs(world.store)[0].id)
    }
    assert len(jobs.list_jobs(world.store)) == before + 1
    other = post(world, "", {"note": "b"}, **name)
    assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_mismatch")
    assert post(world, "", {"note": "a"}, **{"idempotency-key": "nightly-2"}).json()["id"] != answers[0].json()["id"]
    assert post(world, "", {}, **{"idempotency-key": "x" * 256}).status_code == 400


def test_approval_makes_a_release_live_and_rejection_ends_it_for_good(world: World):
    good, bad = waiting(world, "r-good"), waiting(world, "r-bad")
    assert post(world, f"/{good}/approve").json()["state"] == "live"
    assert releases.live(world.store).id == "r-good"  # type: ignore[union-attr]
    rejected = post(world, f"/{bad}/reject", {"why": "too curt"}).json()
    assert (rejected["state"], rejected["error"]) == ("rejected", "too curt")
    assert releases.get(world.store, "r-bad").state == "rejected"
    for path in (f"/{bad}/approve", f"/{bad}/reject", f"/{good}/reject", f"/{good}/approve"):
        answer = post(world, path)
        assert (answer.status_code, "does not await approval" in answer.text) == (400, True)
    assert "job.reject" in {entry["action"] for entry in audit.entries(world.store)}


def test_a_job_whose_release_was_made_live_by_hand_is_not_rejected(world: World):
    job = waiting(world)
    releases.promote(world.store, "r-new", "ann")
    assert post(world, f"/{job}/reject").status_code == 400
    assert (jobs.get(world.store, job).state, releases.live(world.store).id) == ("awaiting_approval", "r-new")  # type: ignore[union-attr]
    assert post(world, f"/{job}/approve").json()["state"] == "live"


def test_only_an_administrator_decides_and_a_reader_may_follow(module_world: World):
    for scope in ("inference", "read"):
        for path in ("", "/job_x/cancel", "/job_x/approve", "/job_x/reject"):
            assert post(module_world, path, {}, scope).status_code == 403
    assert module_world.get("/admin/v1/jobs/job_x/events", "inference").status_code == 403
    assert module_world.get("/admin/v1/jobs/job_x/events", "read").status_code == 404


def test_a_follower_sees_what_was_and_what_comes_until_the_job_ends(world: World):
    job = jobs.create(world.store, "manual", "ann", {})
    jobs.claim(world.store, "w", job.id)
    jobs.set_state(world.store, job.id, "w", "building")
    url = f"{world.url}/admin/v1/jobs/{job.id}/events"
    with world.client.stream("GET", url, headers=world.headers("read")) as answer:
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        stream = events_of(answer.iter_lines())
        first = next(stream)
        assert (first["event"], first["data"]["state"]) == ("state", "building")
        jobs.add_event(world.store, job.id, "training", {"step": 1, "note": "two\nlines"})
        assert next(stream)["data"]["note"] == "two\nlines"
        jobs.set_state(world.store, job.id, "w", "failed", error="why")
        assert [event["data"]["state"] for event in stream] == ["failed"], "and then the stream is over"
    history = jobs.events(world.store, job.id)
    assert first["id"] == str(history[0]["id"])

    def rest(path: str = "", **headers: str) -> httpx.Response:
        return world.client.get(url + path, headers=world.headers("read") | headers)

    again = rest(**{"last-event-id": first["id"]})
    assert [event["id"] for event in events_of(iter(again.text.splitlines()))] == [str(e["id"]) for e in history[1:]]
    assert rest(f"?after={history[0]['id']}").text == again.text
    over = rest(**{"last-event-id": str(history[-1]["id"])})
    assert (over.status_code, over.content) == (204, b""), "a browser then asks no more"
    for bad in ("x", "-1", "1.5", "9" * 30, "²"):
        assert rest(f"?after={bad}").status_code == 400


def test_a_job_that_is_cancelled_before_anyone_took_it_ends_its_stream(world: World):
    job = jobs.create(world.store, "manual", "ann", {})
    url = f"{world.url}/admin/v1/jobs/{job.id}/events"
    with world.client.stream("GET", url, headers=world.headers("read")) as answer:
        jobs.cancel(world.store, job.id, "ann")
        assert [event["data"]["state"] for event in events_of(answer.iter_lines())] == ["cancelled"]


def test_more_events_than_one_look_takes_all_come(world: World):
    job = jobs.create(world.store, "manual", "ann", {})
    jobs.add_events(world.store, job.id, [(i, "training", {"step": i}) for i in range(450)])
    jobs.cancel(world.store, job.id, "ann")
    text = world.get(f"/admin/v1/jobs/{job.id}/events").text
    assert [event["data"].get("step") for event in events_of(iter(text.splitlines()))] == [*range(450), None]


def test_many_followers_hold_two_threads_and_leave_none_behind(world: World):
    job = jobs.create(world.store, "manual", "ann", {})
    url = f"{world.url}/admin/v1/jobs/{job.id}/events"

    def readers() -> int:
        return sum(thread.name.startswith("job-events") for thread in threading.enumerate())

    with httpx.Client(timeout=10, limits=httpx.Limits(max_connections=None)) as client:
        following = [client.stream("GET", url, headers=world.headers("read")) for _ in range(50)]
        answers = [each.__enter__() for each in following]
        jobs.add_event(world.store, job.id, "training", {"step": 1})
        assert [next(events_of(answer.iter_lines()))["data"]["step"] for answer in answers] == [1] * 50
        assert readers() <= 2
        for answer in answers:
            answer.close()
    wait_until(lambda: not _followed(world))


def _followed(world: World) -> bool:
    """Whether anybody still looks at the store: its reads are counted for a while."""
    reads: list[str] = []

    def count(*arguments: Any) -> None:
        reads.extend(text for text in arguments if isinstance(text, str) and "FROM job_events" in text)

    sa.event.listen(world.store.engine, "before_cursor_execute", count)
    time.sleep(1.2)
    sa.event.remove(world.store.engine, "before_cursor_execute", count)
    return bool(reads)


async def test_a_store_that_is_away_shows_as_keep_alives_and_the_events_come_when_it_is_back():
    outcomes: list[Any] = [OperationalError("SELECT", {}, Exception("away"))] * 3
    outcomes += [_Seen([{"id": 7, "at": 1, "kind": "state", "data": {"state": "live"}}], True)]
    asked: list[int] = []

    def look(after: int) -> _Seen:
        asked.append(after)
        found = outcomes.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    pieces = [piece async for piece in Tail(look, 4, lambda: False, keep_alive_s=0.1).frames()]
    assert pieces[0] == b"retry: 3000\n\n"
    assert pieces.count(KEEP_ALIVE) >= 2
    assert pieces[-1] == b'id: 7\nevent: state\ndata: {"at":1,"state":"live"}\n\n'
    assert asked == [4] * 4


async def test_a_store_that_hangs_does_not_silence_the_stream_and_is_asked_once_only():
    back = threading.Event()
    asked: list[int] = []

    def look(after: int) -> _Seen:
        asked.append(after)
        back.wait(WAIT_S)
        return _Seen([], True)

    frames = Tail(look, 0, lambda: False, keep_alive_s=0.1).frames()
    assert [await anext(frames) for _ in range(4)] == [b"retry: 3000\n\n", *[KEEP_ALIVE] * 3]
    back.set()
    assert [piece async for piece in frames] == []
    assert asked == [0]


async def test_a_gateway_that_ends_ends_its_streams():
    ending = threading.Event()
    frames = Tail(lambda _after: _Seen([], False), 0, ending.is_set, keep_alive_s=0.1).frames()
    await anext(frames)
    await anext(frames)
    ending.set()
    assert [piece async for piece in frames] == []
