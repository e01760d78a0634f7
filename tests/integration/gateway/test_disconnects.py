"""A client that goes away: the upstream's call is closed, and the row says so."""

import json
import socket
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
import sqlalchemy as sa
from structlog.testing import capture_logs

from ledger import schema
from router.model import RouterModel
from tests.gateway_fixtures import EASY, HARD, TEACHER_KEY, UNSURE, World, chat_body, running_world, wait_until
from tests.scripted_upstream import FOREVER, WAIT_S, Script, ScriptedUpstream, Seen
from tests.upstream_settings import changed

SLOW_STREAM = Script(text="word " * 5_000, logprob=-0.02, gap=0.02)


@pytest.fixture(scope="module")
def module_world(router: RouterModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Of a gateway that gives nobody up by itself."""
    patient = {"timeout_seconds": FOREVER, "first_byte_timeout_seconds": FOREVER}
    with running_world(
        tmp_path_factory.mktemp("patient"), router, changed(teacher=patient, student=patient)
    ) as world:
        yield world


def send(world: World, body: bytes, tag: str, length: int | None = None) -> socket.socket:
    """A request on a socket of its own, with a tag to find it by."""
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        f"authorization: Bearer {world.secrets['inference']}\r\ncontent-length: {length or len(body)}\r\n"
        f"x-stillroom-tags: {tag}\r\n\r\n"
    )
    connection = socket.create_connection(("127.0.0.1", world.port), timeout=WAIT_S)
    connection.sendall(head.encode() + body)
    return connection


def seen_by(upstream: ScriptedUpstream) -> Seen:
    wait_until(lambda: bool(upstream.seen))
    return upstream.seen[0]


def tagged_row(world: World, tag: str) -> dict:
    """The row of a request whose client left before it learned the request's id."""
    found: list[str] = []

    def arrived() -> bool:
        with world.store.read() as connection:
            rows = connection.execute(sa.select(schema.requests.c.id, schema.requests.c.tags))
            found[:] = [row.id for row in rows if row.tags == [tag]]
        return bool(found)

    wait_until(arrived)
    assert len(found) == 1
    return world.row(found[0])


@pytest.mark.parametrize("side", ["student", "teacher"])
def test_leaving_before_a_whole_answer_closes_the_upstreams_call(world: World, side: str):
    upstream = getattr(world, side)
    upstream.script = Script(delay=FOREVER)
    connection = send(world, json.dumps(chat_body(EASY if side == "student" else HARD)).encode(), side)
    seen = seen_by(upstream)
    connection.close()
    assert seen.has_left()
    row = tagged_row(world, side)
    assert (row["route"], row["status"], row["error_code"], row["cost_nano"]) == (side, 499, "client_closed", 0)


@pytest.mark.parametrize("side", ["student", "teacher"])
def test_leaving_a_stream_closes_the_upstreams_call(world: World, side: str):
    upstream = getattr(world, side)
    upstream.script = SLOW_STREAM
    with world.streaming(EASY if side == "student" else HARD) as answer:
        assert answer.status_code == 200
        chunks = answer.iter_bytes()
        for _ in range(3):
            next(chunks)
    assert upstream.seen[0].has_left()
    row, content = world.recorded(answer.headers["x-request-id"])
    assert (row["route"], row["status"], row["error_code"]) == (side, 499, "client_closed")
    assert 1 <= row["completion_tokens"] < 5_000
    assert row["cost_nano"] > 0
    assert row["first_token_ms"] is not None
    assert content is not None
    assert content.answer.startswith("word")


def test_leaving_while_the_students_stream_is_held_closes_its_call(world: World):
    world.student.script = Script(text="a b c d e f", logprob=-0.02, stall_after=3)
    connection = send(world, json.dumps(chat_body(EASY, stream=True)).encode(), "held")
    seen = seen_by(world.student)
    time.sleep(0.5)
    connection.close()
    assert seen.has_left()
    row = tagged_row(world, "held")
    assert (row["reason"], row["attempt_prompt_tokens"]) == ("confident", 11)
    # what was held by then
    assert 0 <= row["attempt_completion_tokens"] < 4
    assert row["cost_nano"] > 0


def test_leaving_during_the_escalation_keeps_the_attempts_tokens(world: World):
    world.student.script = Script(text="a b c d e f", logprob=UNSURE)
    world.teacher.script = Script(delay=FOREVER)
    connection = send(world, json.dumps(chat_body(EASY, stream=True)).encode(), "escalated")
    seen = seen_by(world.teacher)
    connection.close()
    assert seen.has_left()
    row = tagged_row(world, "escalated")
    assert (row["reason"], row["attempt_completion_tokens"], row["attempt_prompt_tokens"]) == (
        "low_confidence",
        4,
        11,
    )
    assert row["cost_nano"] > 0


def test_leaving_in_the_middle_of_the_request_is_no_internal_error(world: World):
    body = json.dumps(chat_body()).encode()
    with capture_logs() as logs:
        send(world, body[:10], "in the body", len(body)).close()
        assert world.chat().status_code == 200
    assert not [line for line in logs if line["event"] == "internal_error"]


def test_leaving_many_streams_leaves_no_call_open(world: World):
    world.student.script = replace(SLOW_STREAM, gap=0.005)
    for number in range(40):
        with world.streaming(EASY) as answer:
            if number % 2:
                next(answer.iter_bytes())
    wait_until(lambda: all(seen.left.is_set() for seen in world.student.seen))
    assert len(world.student.seen) == 40
    assert "stillroom_in_flight_requests 0.0" in world.get("/metrics").text


def test_no_secret_is_logged_whatever_fails(tmp_path):
    hasty = changed(teacher={"timeout_seconds": 0.5})
    with running_world(tmp_path, None, hasty) as world, capture_logs() as logs:
        for script in (
            Script(status=401, body=TEACHER_KEY.encode()),
            Script(raw=TEACHER_KEY.encode()),
            Script(delay=FOREVER),
        ):
            world.teacher.script = script
            assert world.chat(model="teacher").status_code == 503
    text = json.dumps(logs)
    assert len(logs) == 3
    assert TEACHER_KEY not in text
    assert not any(secret in text for secret in world.secrets.values())
