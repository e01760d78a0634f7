"""Every wait has an end: of a connection, of the first byte, between bytes, of a side, of the request.

Nothing here is timed. Where one bound is tried the others are out of reach, and so is the upstream's answer: that
there is an answer at all, and which, tells that the bound was kept. Of the latency only the least is known.
"""

from collections.abc import Iterator

import pytest
from structlog.testing import capture_logs

from tests.byte_server import full_listener
from tests.gateway_fixtures import EASY, HARD, World, running_world, stream_data, streamed_text, trust
from tests.scripted_upstream import FOREVER, Script
from tests.upstream_settings import changed

FIRST_BYTE, SILENCE, TOTAL = 0.4, 0.6, {"student": 2.5, "teacher": 1.5}
PATIENT = {"first_byte_timeout_seconds": FOREVER, "timeout_seconds": FOREVER, "total_timeout_seconds": FOREVER}
LATE, OVER = "did not answer in time", "did not answer before the request's time was over"


def ready(world: World) -> World:
    world.student.reset(Script(text="The student says good day."))
    world.teacher.reset(Script(text="The teacher says good day."))
    trust(world)
    return world


@pytest.fixture(scope="module")
def module_hasty(router, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    change = changed(
        gateway={"total_timeout_seconds": FOREVER},
        teacher=PATIENT,
        student=PATIENT | {"first_byte_timeout_seconds": FIRST_BYTE},
    )
    with running_world(tmp_path_factory.mktemp("hasty"), router, change) as world:
        yield world


@pytest.fixture
def hasty(module_hasty: World) -> World:
    """The time of the student's first byte is bounded, and nothing else."""
    return ready(module_hasty)


@pytest.fixture(scope="module")
def module_bounded(router, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    change = changed(
        gateway={"total_timeout_seconds": FOREVER},
        teacher=PATIENT | {"total_timeout_seconds": TOTAL["teacher"]},
        student=PATIENT | {"total_timeout_seconds": TOTAL["student"]},
    )
    with running_world(tmp_path_factory.mktemp("bounded"), router, change) as world:
        yield world


@pytest.fixture
def in_total(module_bounded: World) -> World:
    """The whole time of a side's answer is bounded, and nothing else."""
    return ready(module_bounded)


@pytest.mark.parametrize("stream", [False, True])
def test_a_late_first_byte_is_a_fault_and_the_other_side_answers(hasty: World, stream: bool):
    hasty.student.script = Script(delay=FOREVER)
    with capture_logs() as logs:
        answer = hasty.chat(EASY, stream=stream)
    assert (answer.status_code, answer.headers["x-stillroom-reason"]) == (200, "student_down")
    row = hasty.row(answer.headers["x-request-id"])
    assert (row["route"], row["reason"], row["status"]) == ("teacher", "student_down", 200)
    assert row["latency_ms"] >= FIRST_BYTE * 900
    assert [line["why"] for line in logs if line["event"] == "upstream_failed"] == [f"the student {LATE}"]
    (seen,) = hasty.student.seen
    assert seen.has_left()


def test_headers_without_a_first_chunk_are_no_first_byte(hasty: World):
    hasty.student.script = Script(stall_after=0)
    answer = hasty.chat(EASY, stream=True)
    assert (answer.status_code, answer.headers["x-stillroom-reason"]) == (200, "student_down")
    assert hasty.student.seen[0].has_left()


def test_a_pinned_request_whose_upstream_is_late_is_unavailable(hasty: World):
    hasty.student.script = Script(delay=FOREVER)
    answer = hasty.chat(model="student")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "service_unavailable")


def test_a_silence_in_mid_stream_ends_in_an_error_event(router, tmp_path):
    change = changed(teacher=PATIENT | {"timeout_seconds": SILENCE})
    with running_world(tmp_path, router, change) as world:
        # each event in time, the third one never
        world.teacher.script = Script(gap=0.1, stall_after=2)
        answer = world.chat(model="teacher", stream=True)
        error = stream_data(answer)[-1]["error"]
        assert (error["code"], LATE in error["message"]) == ("upstream_error", True)
        assert world.row(answer.headers["x-request-id"])["latency_ms"] >= SILENCE * 900
        assert world.teacher.seen[0].has_left()


@pytest.mark.parametrize("side", ["student", "teacher"])
def test_a_stream_beyond_its_total_time_ends_in_an_error_event(in_total: World, side: str):
    getattr(in_total, side).script = Script(text="word " * 10_000, gap=0.02, logprob=-0.02)
    answer = in_total.chat(model=side, stream=True)
    error = stream_data(answer)[-1]["error"]
    assert (error["type"], error["code"]) == ("server_error", "timeout")
    assert "[DONE]" not in answer.text
    row = in_total.row(answer.headers["x-request-id"])
    assert (row["status"], row["error_code"]) == (504, "timeout")
    assert row["latency_ms"] >= TOTAL[side] * 900
    assert row["completion_tokens"] == len(streamed_text(answer).split()) > 1
    assert getattr(in_total, side).seen[0].has_left()


def test_a_stream_that_is_silent_when_its_time_is_over_ends_then(in_total: World):
    in_total.teacher.script = Script(stall_after=1)
    answer = in_total.chat(model="teacher", stream=True)
    error = stream_data(answer)[-1]["error"]
    assert (error["code"], OVER in error["message"]) == ("timeout", True)
    assert in_total.teacher.seen[0].has_left()


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_does_not_come_in_the_total_time_is_504(in_total: World, stream: bool):
    in_total.teacher.script = Script(delay=FOREVER)
    answer = in_total.chat(model="teacher", stream=stream)
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "timeout")
    assert answer.json()["error"]["type"] == "server_error"
    row = in_total.row(answer.headers["x-request-id"])
    assert (row["status"], row["error_code"], row["route"]) == (504, "timeout", "teacher")
    assert row["latency_ms"] >= TOTAL["teacher"] * 900
    stood_in = in_total.chat(HARD, stream=stream)
    assert (stood_in.status_code, stood_in.headers["x-stillroom-reason"]) == (200, "teacher_down")


@pytest.mark.parametrize("stream", [False, True])
def test_what_the_student_used_up_is_gone_for_the_teacher_where_the_request_has_a_deadline(
    router, tmp_path, stream: bool
):
    # each side's time is within the request's, and the two together are not
    change = changed(gateway={"total_timeout_seconds": 2.4}, teacher=PATIENT, student=PATIENT)
    with running_world(tmp_path, router, change) as world:
        world.student.script = Script(delay=1.4, raw=b"nothing")
        world.teacher.script = Script(delay=1.4)
        answer = world.chat(EASY, stream=stream)
        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "timeout")
        assert len(world.student.seen) == len(world.teacher.seen) == 1
        assert world.chat(model="teacher", stream=stream).status_code == 200


def test_a_connection_that_is_not_made_is_given_up_in_time(router, tmp_path):
    with full_listener() as port:
        where = {"base_url": f"http://127.0.0.1:{port}/v1", "connect_timeout_seconds": 0.2}
        with running_world(tmp_path, router, changed(teacher=PATIENT | where)) as world:
            answer = world.chat(model="teacher")
        assert (answer.status_code, "could not be reached" in answer.json()["error"]["message"]) == (503, True)
