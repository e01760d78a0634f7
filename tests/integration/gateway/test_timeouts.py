"""Every wait has an end: of a connection, of the first byte, between bytes, of a side, of the request."""

import time
from collections.abc import Iterator

import pytest

from tests.gateway_fixtures import EASY, HARD, World, running_world, stream_data, streamed_text, trust
from tests.scripted_upstream import Script
from tests.upstream_settings import changed

FIRST_BYTE, SILENCE, TOTAL, STUDENT_TOTAL = 0.4, 0.6, 1.2, 0.8
LIMITS = {"first_byte_timeout_seconds": FIRST_BYTE, "timeout_seconds": SILENCE}
LONG = "word " * 60


@pytest.fixture(scope="module")
def module_hasty(router, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    change = changed(
        teacher={**LIMITS, "total_timeout_seconds": TOTAL},
        student={**LIMITS, "total_timeout_seconds": STUDENT_TOTAL},
    )
    with running_world(tmp_path_factory.mktemp("hasty"), router, change) as world:
        yield world


@pytest.fixture
def hasty(module_hasty: World) -> World:
    module_hasty.student.reset(Script(text="The student says good day."))
    module_hasty.teacher.reset(Script(text="The teacher says good day."))
    trust(module_hasty)
    return module_hasty


@pytest.mark.parametrize("stream", [False, True])
def test_a_late_first_byte_is_a_fault_and_the_other_side_answers(hasty: World, stream: bool):
    hasty.student.script = Script(delay=3)
    began = time.monotonic()
    answer = hasty.chat(EASY, stream=stream)
    assert (answer.status_code, answer.headers["x-stillroom-reason"]) == (200, "student_down")
    assert FIRST_BYTE * 0.9 <= time.monotonic() - began < SILENCE
    assert len(hasty.student.seen) == 1
    assert hasty.student.seen[0].left.wait(1)


def test_headers_without_a_first_chunk_are_no_first_byte(hasty: World):
    hasty.student.script = Script(gap=3)
    began = time.monotonic()
    answer = hasty.chat(EASY, stream=True)
    assert (answer.status_code, answer.headers["x-stillroom-reason"]) == (200, "student_down")
    assert time.monotonic() - began < SILENCE


def test_a_pinned_request_whose_upstream_is_late_is_unavailable(hasty: World):
    hasty.teacher.script = Script(delay=3)
    answer = hasty.chat(model="teacher")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "service_unavailable")


def test_a_silence_in_mid_stream_ends_in_an_error_event(hasty: World):
    # each event within the first byte's time, the third one never
    hasty.teacher.script = Script(events=(b": one\n\n", b": two\n\n"), gap=0.1)
    answer = hasty.chat(model="teacher", stream=True)
    assert stream_data(answer)[-1]["error"]["code"] == "upstream_error"


@pytest.mark.parametrize("side", ["student", "teacher"])
def test_a_stream_beyond_its_total_time_ends_in_an_error_event(hasty: World, side: str):
    getattr(hasty, side).script = Script(text=LONG, gap=0.05, logprob=-0.02)
    began = time.monotonic()
    answer = hasty.chat(model=side, stream=True)
    error = stream_data(answer)[-1]["error"]
    assert (error["type"], error["code"]) == ("server_error", "timeout")
    assert "[DONE]" not in answer.text
    total = TOTAL if side == "teacher" else STUDENT_TOTAL
    assert total * 0.9 <= time.monotonic() - began < total + 0.4
    row = hasty.row(answer.headers["x-request-id"])
    assert (row["status"], row["error_code"]) == (504, "timeout")
    assert row["completion_tokens"] == len(streamed_text(answer).split()) > 5
    assert getattr(hasty, side).seen[0].left.wait(1)


def test_a_stream_that_is_silent_when_its_time_is_over_ends_then(router, tmp_path):
    with running_world(
        tmp_path, router, changed(teacher={"timeout_seconds": 5.0, "total_timeout_seconds": 0.6})
    ) as world:
        world.teacher.script = Script(gap=0.4)
        began = time.monotonic()
        answer = world.chat(model="teacher", stream=True)
        assert stream_data(answer)[-1]["error"]["code"] == "timeout"
        assert time.monotonic() - began < 1.0


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_does_not_come_in_the_total_time_is_504(router, tmp_path, stream: bool):
    with running_world(
        tmp_path, router, changed(teacher={"timeout_seconds": 5.0, "total_timeout_seconds": 0.4})
    ) as world:
        world.teacher.script = Script(delay=3)
        began = time.monotonic()
        answer = world.chat(model="teacher", stream=stream)
        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "timeout")
        assert answer.json()["error"]["type"] == "server_error"
        assert 0.3 < time.monotonic() - began < 0.8
        row = world.row(answer.headers["x-request-id"])
        assert (row["status"], row["error_code"], row["route"]) == (504, "timeout", "teacher")
        stood_in = world.chat(HARD, stream=stream)
        assert (stood_in.status_code, stood_in.headers["x-stillroom-reason"]) == (200, "teacher_down")


@pytest.mark.parametrize("stream", [False, True])
def test_what_the_student_used_up_is_gone_for_the_teacher_where_the_request_has_a_deadline(
    router, tmp_path, stream: bool
):
    change = changed(gateway={"total_timeout_seconds": 0.8}, teacher={"timeout_seconds": 5.0})
    with running_world(tmp_path, router, change) as world:
        world.student.script = Script(delay=0.6, raw=b"nothing")
        world.teacher.script = Script(delay=0.5)
        began = time.monotonic()
        answer = world.chat(EASY, stream=stream)
        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "timeout")
        assert time.monotonic() - began < 1.1
        assert len(world.student.seen) == len(world.teacher.seen) == 1
        assert world.chat(model="teacher", stream=stream).status_code == 200


def test_a_connection_that_is_not_made_is_given_up_in_time(hasty: World):
    side = hasty.app.state.relay.teacher
    member = side.members[0]
    # an address of documentation (RFC 5737): packets to it are lost, or refused at once
    elsewhere = type(member.upstream)(
        **{name: getattr(member.upstream, name) for name in member.upstream.__slots__}
        | {"base_url": "http://192.0.2.1:81/v1"}
    )
    kept, member.upstream = member.upstream, elsewhere
    try:
        began = time.monotonic()
        assert hasty.chat(model="teacher").status_code == 503
        assert time.monotonic() - began < 3 * (1.0 + 0.2) + 0.5
    finally:
        member.upstream = kept
