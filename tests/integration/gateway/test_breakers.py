"""An upstream that fails again and again is left alone, its place is taken, and it is tried with one request."""

import pytest
from structlog.testing import capture_logs

from gateway import breaker
from gateway.breaker import CONSECUTIVE
from tests.gateway_fixtures import EASY, HARD, World, running_world, wait_until
from tests.scripted_upstream import FOREVER, Script, ScriptedUpstream
from tests.upstream_settings import changed, spare

DOWN = Script(status=501, body=b"")  # a fault that is not asked again
GOOD = Script(text="Good day.")


def fail(world: World, side: str, times: int = CONSECUTIVE) -> None:
    getattr(world, side).reset(DOWN)
    for _ in range(times):
        assert world.chat(model=side).status_code == 503


def open_gauge(world: World, side: str, index: int = 0) -> str:
    name = f'stillroom_breaker_open{{index="{index}",upstream="{side}"}} '
    return next(line for line in world.get("/metrics").text.splitlines() if line.startswith(name))[len(name) :]


@pytest.mark.parametrize("stream", [False, True])
def test_a_student_that_is_down_is_not_asked_and_the_teacher_answers(world: World, stream: bool):
    assert open_gauge(world, "student") == "0.0"
    fail(world, "student")
    assert open_gauge(world, "student") == "1.0"
    world.student.reset(GOOD)
    answer = world.chat(EASY, stream=stream)
    assert (answer.status_code, answer.headers["x-stillroom-reason"]) == (200, "student_down")
    assert world.student.seen == []
    assert world.row(answer.headers["x-request-id"])["reason"] == "student_down"


@pytest.mark.parametrize("stream", [False, True])
def test_a_teacher_that_is_down_is_not_asked_and_the_student_answers(world: World, stream: bool):
    fail(world, "teacher")
    world.teacher.reset(GOOD)
    answer = world.chat(HARD, stream=stream)
    assert (answer.status_code, answer.headers["x-stillroom-reason"]) == (200, "teacher_down")
    assert world.teacher.seen == []


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("side", ["student", "teacher"])
def test_who_needs_the_side_that_is_down_is_told_when_to_come_back(world: World, side: str, stream: bool):
    fail(world, side)
    getattr(world, side).reset(GOOD)
    answer = world.chat(model=side, stream=stream)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "service_unavailable")
    assert 1 <= int(answer.headers["retry-after"]) <= 5
    assert getattr(world, side).seen == []
    assert world.row(answer.headers["x-request-id"])["status"] == 503


def test_what_is_the_clients_fault_opens_nothing(world: World):
    for script in (Script(status=400, body=b"{}"), Script(status=429, body=b"{}"), Script(status=401, body=b"")):
        world.teacher.reset(script)
        for _ in range(CONSECUTIVE + 1):
            world.chat(model="teacher")
    assert len(world.teacher.seen) == CONSECUTIVE + 1
    assert open_gauge(world, "teacher") == "0.0"


def test_streams_that_break_open_it(world: World):
    world.teacher.reset(Script(cut_after=3))
    for _ in range(CONSECUTIVE):
        world.chat(model="teacher", stream=True)
    wait_until(lambda: open_gauge(world, "teacher") == "1.0")


def test_answers_that_do_not_come_open_it(tmp_path):
    with running_world(tmp_path, None, changed(teacher={"timeout_seconds": 0.3})) as world:
        world.teacher.reset(Script(delay=FOREVER))
        for _ in range(CONSECUTIVE):
            assert world.chat(model="teacher").status_code == 503
        assert len(world.teacher.seen) == CONSECUTIVE, "none is asked twice: it may have cost tokens"
        wait_until(lambda: open_gauge(world, "teacher") == "1.0")


def test_one_request_tries_it_again_and_its_success_closes_it(world: World, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(breaker, "OPEN_S", 0.5)
    with capture_logs() as logs:
        fail(world, "teacher")
        assert world.chat(model="teacher").status_code == 503
        world.teacher.reset(GOOD)
        wait_until(lambda: world.chat(model="teacher").status_code == 200)
        assert len(world.teacher.seen) == 1
    assert open_gauge(world, "teacher") == "0.0"
    changes = [(line["upstream"], line["state"]) for line in logs if line["event"] == "breaker_changed"]
    assert changes == [("teacher", "open"), ("teacher", "closed")]
    # who was refused by it left no line
    assert len([line for line in logs if line["event"] == "upstream_failed"]) == CONSECUTIVE


def test_the_next_teacher_answers_at_once_while_the_first_is_left_alone(router, tmp_path):
    second = ScriptedUpstream()
    try:
        with running_world(tmp_path, router, changed(teacher={"fallbacks": (spare(second.url),)})) as world:
            world.teacher.reset(DOWN)
            for _ in range(CONSECUTIVE):
                assert world.chat(model="teacher").status_code == 503
            world.teacher.reset(GOOD)
            answer = world.chat(model="teacher")
            assert (answer.status_code, world.teacher.seen, len(second.seen)) == (200, [], 1)
            assert (open_gauge(world, "teacher", 0), open_gauge(world, "teacher", 1)) == ("1.0", "0.0")
            assert world.row(answer.headers["x-request-id"])["trainable"] is True
    finally:
        second.close()


def test_exploring_leaves_a_teacher_alone_that_is_down(router, tmp_path):
    with running_world(tmp_path, router, changed(router={"explore_share": 1.0})) as world:
        fail(world, "teacher")
        world.teacher.reset(GOOD)
        answer = world.chat(EASY)
        assert answer.headers["x-stillroom-reason"] == "confident"
        world.row(answer.headers["x-request-id"])
        assert world.teacher.seen == []
