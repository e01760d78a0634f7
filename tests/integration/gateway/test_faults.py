"""What a client gets when an upstream fails, and the row that is left."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.gateway_fixtures import (
    EASY,
    HARD,
    TEACHER_KEY,
    UNSURE,
    World,
    stream_data,
    streamed_text,
    wait_until,
)
from tests.scripted_upstream import Script, event

GARBAGE_HTTP = b"SSH-2.0-OpenSSH_9.2\r\n\r\n"
NO_CHUNKS = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\nZZZ\r\n"
SHORT = b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 500\r\n\r\n{"id"'

ANY_FAULT = {
    "500": Script(status=500, body=b'{"error":{"message":"x"}}'),
    "503 with retry-after": Script(status=503, body=b"busy", headers={"retry-after": "7"}),
    "redirect": Script(status=302, body=b"", headers={"location": "http://169.254.169.254/latest"}),
    "our key refused": Script(status=401, body=b'{"error":{"message":"no such key"}}'),
    "not HTTP": Script(raw=GARBAGE_HTTP),
    "closed at once": Script(raw=b""),
}
PLAIN_FAULT = {
    "not JSON": Script(body=b"<html>welcome</html>"),
    "a JSON list": Script(body=b"[1, 2]"),
    "a JSON string": Script(body=b'"hello"'),
    "not UTF-8": Script(body=b'{"id": "\xff\xfe"}'),
    "nested too deep": Script(body=b"[" * 50_000),
    "body cut short": Script(raw=SHORT),
    "garbage chunk size": Script(raw=NO_CHUNKS),
}
STREAM_FAULT = {
    "garbage chunk size": Script(raw=NO_CHUNKS),
    "cut before the first event": Script(cut_after=0),
    "cut after the first event": Script(cut_after=1),
    "cut within the hold": Script(cut_after=3),
    "an event that is not JSON": Script(events=(b"data: {oops\n\n",)),
    "an event that is a list": Script(events=(event([]),)),
    "an error event": Script(events=(event({"error": {"message": "out of memory"}}), event(b"[DONE]"))),
    "no [DONE]": Script(events=(b": hello\n\n",)),
    "a plain JSON answer": Script(body=b'{"choices": []}'),
    "an event of 9 MB": Script(events=(b"data: " + b"x" * 9_000_000,)),
}


def as_cases(*tables: dict[str, Script]) -> list:
    return [pytest.param(script, id=name) for table in tables for name, script in table.items()]


@contextmanager
def student_at(world: World, url: str) -> Iterator[None]:
    """Report the live release's replica elsewhere for a while, until the gateway has seen it."""
    live = world.app.state.live
    world.keeper.move(url)
    wait_until(lambda: live.snapshot.release.student_urls == (url,))
    try:
        yield
    finally:
        world.keeper.move(world.student.url)
        wait_until(lambda: live.snapshot.release.student_urls == (world.student.url,))


@pytest.mark.parametrize("script", as_cases(ANY_FAULT, PLAIN_FAULT))
def test_the_teacher_answers_where_the_student_fails(world: World, script: Script):
    world.student.script = script
    answer = world.chat(EASY)
    assert answer.status_code == 200
    assert answer.headers["x-stillroom-reason"] == "student_down"
    assert answer.json()["choices"][0]["message"]["content"] == "The teacher says good day."
    row = world.row(answer.headers["x-request-id"])
    assert (row["route"], row["reason"], row["status"]) == ("teacher", "student_down", 200)


@pytest.mark.parametrize("script", as_cases(ANY_FAULT, STREAM_FAULT))
def test_the_teacher_streams_where_the_student_fails_before_it_is_trusted(world: World, script: Script):
    world.student.script = script
    answer = world.chat(EASY, stream=True)
    assert answer.status_code == 200
    assert answer.headers["x-stillroom-reason"] == "student_down"
    assert streamed_text(answer) == "The teacher says good day."
    assert stream_data(answer)[-1] == "[DONE]"
    row = world.row(answer.headers["x-request-id"])
    assert (row["route"], row["reason"], row["status"]) == ("teacher", "student_down", 200)


@pytest.mark.parametrize("stream", [False, True])
def test_a_student_that_refuses_connections_is_made_up_for(world: World, stream: bool):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/v1"
    with student_at(world, url):
        answer = world.chat(EASY, stream=stream)
        pinned = world.chat(model="student", stream=stream)
    assert (answer.status_code, answer.headers["x-stillroom-reason"]) == (200, "student_down")
    assert (pinned.status_code, pinned.json()["error"]["code"]) == (503, "service_unavailable")
    row = world.row(pinned.headers["x-request-id"])
    assert (row["route"], row["reason"], row["status"]) == ("student", "pinned", 503)


@pytest.mark.parametrize("stream", [False, True])
def test_what_the_students_server_refuses_the_teacher_may_take(world: World, stream: bool):
    world.student.script = Script(status=400, body=b'{"error":{"message":"no such parameter","type":"x"}}')
    answer = world.chat(EASY, stream=stream)
    assert (answer.status_code, answer.headers["x-stillroom-reason"]) == (200, "unsupported")
    pinned = world.chat(model="student", stream=stream)
    assert (pinned.status_code, pinned.json()["error"]["message"]) == (400, "no such parameter")


def test_a_student_that_dies_in_mid_stream_gives_an_error_event_and_no_done(world: World):
    world.student.script = Script(text="one two three four five six seven", logprob=-0.02, cut_after=6)
    answer = world.chat(EASY, stream=True)
    assert answer.headers["x-stillroom-route"] == "student"
    *chunks, last = stream_data(answer)
    text = streamed_text(answer)  # what arrives together with the end of the connection may be lost
    assert text in ("one two three four", "one two three four five")
    assert last["error"].keys() == {"message", "type", "param", "code"}
    assert (last["error"]["type"], last["error"]["code"]) == ("server_error", "upstream_error")
    assert all("choices" in chunk for chunk in chunks)
    row, content = world.recorded(answer.headers["x-request-id"])
    assert (row["status"], row["error_code"], row["completion_tokens"]) == (502, "upstream_error", len(text.split()))
    assert row["cost_nano"] > 0
    assert content is not None
    assert content.answer == text


@pytest.mark.parametrize("script", as_cases(STREAM_FAULT))
def test_a_teacher_that_dies_in_mid_stream_gives_an_error_event_and_no_done(world: World, script: Script):
    world.teacher.script = script
    answer = world.chat(model="teacher", stream=True)
    if answer.status_code == 200:
        last = stream_data(answer)[-1]
        assert last["error"]["code"] == "upstream_error"
        assert "[DONE]" not in answer.text
    else:
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "service_unavailable")
    row = world.row(answer.headers["x-request-id"])
    assert row["status"] == (502 if answer.status_code == 200 else 503)


@pytest.mark.parametrize("script", as_cases(ANY_FAULT))
@pytest.mark.parametrize("stream", [False, True])
def test_the_student_stands_in_for_a_teacher_that_is_down(world: World, script: Script, stream: bool):
    world.teacher.script = script
    answer = world.chat(HARD, stream=stream)
    assert answer.status_code == 200
    assert (answer.headers["x-stillroom-route"], answer.headers["x-stillroom-reason"]) == ("student", "teacher_down")
    text = streamed_text(answer) if stream else answer.json()["choices"][0]["message"]["content"]
    assert text == "The student says good day."
    row = world.row(answer.headers["x-request-id"])
    assert (row["route"], row["reason"], row["status"]) == ("student", "teacher_down", 200)


@pytest.mark.parametrize("stream", [False, True])
def test_a_doubtful_answer_is_better_than_none_and_both_attempts_are_billed(world: World, stream: bool):
    world.student.script = Script(text="I do not really know it.", logprob=UNSURE)
    world.teacher.script = Script(status=500, body=b"")
    answer = world.chat(EASY, stream=stream)
    assert (answer.status_code, answer.headers["x-stillroom-reason"]) == (200, "teacher_down")
    row = world.row(answer.headers["x-request-id"])
    assert row["attempt_prompt_tokens"] == row["prompt_tokens"] == 11
    assert row["completion_tokens"] == 6
    assert row["confidence"] < 0.5


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fields", [{"model": "teacher"}, {"n": 2}], ids=["pinned", "unsupported"])
def test_what_only_the_teacher_can_answer_is_unavailable_without_it(world: World, stream: bool, fields: dict):
    world.teacher.script = ANY_FAULT["503 with retry-after"]
    answer = world.chat(stream=stream, **fields)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "service_unavailable")
    assert answer.headers["retry-after"] == "7"
    assert answer.headers["x-stillroom-route"] == "teacher"
    assert world.student.seen == []
    assert world.row(answer.headers["x-request-id"])["status"] == 503


@pytest.mark.parametrize("stream", [False, True])
def test_without_teacher_and_student_the_request_is_unavailable(world: World, stream: bool):
    world.teacher.script = world.student.script = Script(status=500, body=b"")
    answer = world.chat(HARD, stream=stream)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "service_unavailable")
    assert world.row(answer.headers["x-request-id"])["status"] == 503


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("status", "fields"),
    [(400, {}), (404, {}), (422, {}), (429, {}), (429, {"model": "teacher"}), (429, {"n": 2})],
    ids=["400", "404", "422", "429", "429 pinned", "429 unsupported"],
)
def test_the_teachers_refusal_reaches_the_client_as_it_is(world: World, stream: bool, status: int, fields: dict):
    body = b'{"error":{"message":"slow down","type":"requests","param":null,"code":"rate_limit_exceeded"}}'
    world.teacher.script = Script(status=status, body=body, headers={"retry-after": "3"})
    answer = world.chat(HARD, stream=stream, **fields)
    assert (answer.status_code, answer.content, answer.headers["retry-after"]) == (status, body, "3")
    row = world.row(answer.headers["x-request-id"])
    assert (row["status"], row["error_code"], row["cost_nano"]) == (status, "upstream_refused", 0)


@pytest.mark.parametrize("body", [b"nope", b"[]", b'{"error": "text"}', b"", b'{"detail": "x"}'])
def test_a_refusal_of_another_shape_becomes_openais(world: World, body: bytes):
    world.teacher.script = Script(status=400, body=body)
    error = world.chat(HARD).json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["code"] == "upstream_refused"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("status", [401, 403])
def test_a_teacher_that_repeats_our_key_does_not_give_it_away(world: World, stream: bool, status: int):
    body = f'{{"error":{{"message":"Incorrect API key provided: {TEACHER_KEY}"}}}}'.encode()
    world.teacher.script = Script(status=status, body=body)
    answer = world.chat(model="teacher", stream=stream)
    assert answer.status_code == 503
    assert TEACHER_KEY not in answer.text
    world.row(answer.headers["x-request-id"])
    assert TEACHER_KEY.encode() not in world.everything_written()


@pytest.mark.parametrize(
    "extra",
    [
        {"usage": {"prompt_tokens": -5, "completion_tokens": 2**62, "prompt_tokens_details": []}},
        {"usage": {"prompt_tokens": 1, "prompt_tokens_details": {"cached_tokens": 50}}},
        {"usage": [1]},
        {"choices": [1, {"index": 0, "delta": 3, "message": [], "logprobs": {"content": [1, {"token": 2}]}}]},
        {"choices": {"a": 1}},
        {"choices": [{"message": {"content": "x"}, "finish_reason": "y" * 500, "logprobs": "?"}]},
    ],
    ids=[
        "impossible counts",
        "more cached than sent",
        "usage a list",
        "odd choices",
        "choices an object",
        "long reason",
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_of_odd_shape_is_passed_on_and_recorded(world: World, extra: dict, stream: bool):
    chunk = {"id": "1", "choices": [{"index": 0, "delta": {"content": "hi"}, "message": {"content": "hi"}}]} | extra
    world.teacher.script = (
        Script(body=event(chunk)[6:]) if not stream else Script(events=(event(chunk), event(b"[DONE]")))
    )
    answer = world.chat(model="teacher", stream=stream)
    assert answer.status_code == 200
    row = world.row(answer.headers["x-request-id"])
    assert row["status"] == 200
    assert row["cost_nano"] >= 0
    assert 0 <= row["completion_tokens"] <= 10**9
    assert len(row["finish_reason"] or "") <= 32
