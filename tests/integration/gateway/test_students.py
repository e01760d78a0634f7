"""Which student a gateway asks, as which model, and that it takes no router that was not released."""

import time
from pathlib import Path

import pytest

from ledger import releases, replicas
from ledger.artifacts import seal
from ledger.replicas import SWAPPABLE, Replica
from ledger.store import now_ms
from tests.gateway_fixtures import RELEASE, SURE, World, running_world, wait_until
from tests.scripted_upstream import Script

NEXT = "rel-2"


@pytest.fixture
def alone(router, tmp_path: Path):
    """A world whose student's row is the test's own."""
    with running_world(tmp_path, router) as world:
        world.keeper.close()
        world.student.reset(Script(text="The student says good day.", logprob=SURE))
        yield world


def told(world: World, *rows: Replica) -> None:
    """The ledger has these replicas only, and the gateway has read them."""
    for found in replicas.list_replicas(world.store):
        replicas.remove(world.store, found.id)
    for row in rows:
        replicas.report(world.store, row)
    live = world.app.state.live
    before = live.snapshot
    wait_until(lambda: live.snapshot is not before)
    before = live.snapshot
    wait_until(lambda: live.snapshot is not before)


def released(world: World, router, release: str) -> Path:
    folder = world.home / "releases" / release
    router.save(folder / "router")
    digest = seal(folder, {})
    releases.add(
        world.store, releases.Release(release, "candidate", now_ms(), None, RELEASE, None, str(folder), digest, {})
    )
    return folder


def test_a_student_of_the_ledger_is_sent_the_students_key(router, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("STUDENT_API_KEY", "students-own")
    with running_world(tmp_path, router) as world:
        world.student.reset(Script(text="The student says good day.", logprob=SURE))
        assert world.chat().headers["x-stillroom-route"] == "student"
        assert world.student.seen[-1].headers["authorization"] == "Bearer students-own"
        world.chat(model="teacher")
        assert "students-own" not in str(world.teacher.seen[-1].headers)


def test_a_student_is_asked_for_its_release_as_the_model_that_it_has(alone: World):
    told(alone, Replica("one", RELEASE, alone.student.url, "ready", 0, "", "its-adapter"))
    assert alone.chat().headers["x-stillroom-route"] == "student"
    asked = alone.student.seen[-1]
    assert asked.body["model"] == "its-adapter"
    assert asked.headers["x-stillroom-release"] == RELEASE
    told(alone, Replica("one", RELEASE, alone.student.url, "ready", 0))
    alone.chat()
    assert alone.student.seen[-1].body["model"] == "student"


def test_the_teacher_is_not_told_of_releases(alone: World):
    alone.chat(model="teacher")
    assert "x-stillroom-release" not in alone.teacher.seen[-1].headers


def test_a_server_that_is_about_to_take_the_live_release_is_asked_where_no_other_is_ready(alone: World, router):
    released(alone, router, NEXT)
    releases.promote(alone.store, NEXT, "test")
    told(
        alone,
        Replica("main", RELEASE, alone.student.url, "draining", 0),
        Replica("next", "", alone.student.url, SWAPPABLE, 0),
    )
    assert alone.chat().headers["x-stillroom-route"] == "student"
    assert alone.student.seen[-1].headers["x-stillroom-release"] == NEXT
    told(alone, Replica("own", NEXT, "http://127.0.0.1:1/v1", "ready", 0), Replica("next", "", "x", SWAPPABLE, 0))
    assert alone.app.state.live.snapshot.release.student_urls == ("http://127.0.0.1:1/v1",)


def test_the_release_before_goes_on_answering_until_the_promoted_one_has_a_student(alone: World, router):
    released(alone, router, NEXT)
    before = Replica("one", RELEASE, alone.student.url, "ready", 0)
    told(alone, before)
    releases.promote(alone.store, NEXT, "test")
    told(alone, before, Replica("two", NEXT, "", "starting", 0))
    for model in ("auto", "student"):
        answer = alone.chat(model=model)
        assert (answer.status_code, answer.headers["x-stillroom-route"]) == (200, "student")
        assert answer.headers["x-stillroom-release"] == RELEASE
        assert alone.student.seen[-1].headers["x-stillroom-release"] == RELEASE
    told(alone, before, Replica("two", NEXT, alone.student.url, "ready", 0))
    assert alone.chat().headers["x-stillroom-release"] == NEXT


def test_several_students_are_turned_to_once_half_as_many_are_ready_as_before(alone: World, router):
    released(alone, router, NEXT)
    before = [Replica(f"r1-{n}", RELEASE, alone.student.url.replace("/v1", f"/{n}/v1"), "ready", 0) for n in range(3)]
    after = [
        Replica(f"r2-{n}", NEXT, alone.student.url.replace("/v1", f"/next/{n}/v1"), "ready", 0) for n in range(3)
    ]
    told(alone, *before)
    releases.promote(alone.store, NEXT, "test")
    for ready, answering, count in ((1, RELEASE, 3), (2, NEXT, 2), (3, NEXT, 3)):
        told(alone, *before, *after[:ready])
        release = alone.app.state.live.snapshot.release
        assert (release.id, len(release.student_urls)) == (answering, count)


def test_a_release_that_was_taken_back_answers_nothing_more(alone: World, router):
    released(alone, router, NEXT)
    releases.promote(alone.store, NEXT, "test")
    taken_back = Replica("two", NEXT, alone.student.url, "ready", 0)
    told(alone, taken_back)
    assert alone.chat().headers["x-stillroom-release"] == NEXT
    releases.rollback(alone.store, "test")
    told(alone, taken_back, Replica("one", RELEASE, "", "starting", 0))
    assert alone.chat().headers["x-stillroom-route"] == "teacher"
    assert alone.chat(model="student").status_code == 503


@pytest.mark.parametrize("what", ["router", "manifest.json"])
def test_a_router_that_was_changed_is_not_taken(alone: World, router, what):
    folder = released(alone, router, NEXT)
    file = next(path for path in sorted((folder / what).rglob("*")) if path.is_file()) if what == "router" else (
        folder / what
    )  # fmt: skip
    file.write_bytes(file.read_bytes() + b" ")
    releases.promote(alone.store, NEXT, "test")
    time.sleep(1.2)
    assert alone.app.state.live.snapshot.release.id == RELEASE
