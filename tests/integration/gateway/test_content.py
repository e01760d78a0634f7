"""What passes through untouched, what is taken out, and what is kept."""

import json

import pytest
from structlog.testing import capture_logs

from tests.gateway_fixtures import EASY, HARD, TEACHER_KEY, UNSURE, World, chat_body, stream_data
from tests.scripted_upstream import Script, event

CANARY = "canary-7f3e-zeppelin"


def shown_logprobs(answer, stream: bool) -> list[dict]:
    """The tokens' log-probabilities that the client sees."""
    bodies = stream_data(answer)[:-1] if stream else [answer.json()]
    found = [choice["logprobs"] for body in bodies for choice in body["choices"] if choice["logprobs"] is not None]
    return [token for logprobs in found for token in logprobs["content"]]


@pytest.mark.parametrize("stream", [False, True])
def test_the_teachers_logprobs_are_harvested_and_not_shown(world: World, stream: bool):
    answer = world.chat(HARD, stream=stream)
    asked = world.teacher.seen[0].body
    assert (asked["logprobs"], asked["top_logprobs"]) == (True, 20)
    assert "top_logprobs" not in answer.text
    assert shown_logprobs(answer, stream) == []
    _, content = world.recorded(answer.headers["x-request-id"])
    assert content is not None
    assert content.teacher_logprobs is not None
    assert [token["token"] for token in content.teacher_logprobs] == world.teacher.script.tokens
    assert {len(token["top_logprobs"]) for token in content.teacher_logprobs} == {20}


@pytest.mark.parametrize("text", [EASY, HARD], ids=["student", "teacher"])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("top", [None, 0, 3])
def test_logprobs_are_shown_exactly_as_asked(world: World, text: str, stream: bool, top: int | None):
    fields = {} if top is None else {"top_logprobs": top}
    answer = world.chat(text, stream=stream, logprobs=True, **fields)
    script = world.student.script if text == EASY else world.teacher.script
    shown = shown_logprobs(answer, stream)
    assert [token["token"] for token in shown] == script.tokens
    assert {len(token["top_logprobs"]) for token in shown} == {top or 0}
    _, content = world.recorded(answer.headers["x-request-id"])
    assert content is not None
    if text == HARD:
        assert {len(token["top_logprobs"]) for token in content.teacher_logprobs or []} == {20}


@pytest.mark.parametrize("stream", [False, True])
def test_confidence_is_read_from_all_the_logprobs_whatever_the_client_sees(world: World, stream: bool):
    bare = world.row(world.chat(EASY, stream=stream).headers["x-request-id"])
    asked = world.row(world.chat(EASY, stream=stream, logprobs=True, top_logprobs=1).headers["x-request-id"])
    assert asked["confidence"] == bare["confidence"]


@pytest.mark.parametrize("text", [EASY, HARD], ids=["student", "teacher"])
@pytest.mark.parametrize("asked", [False, True])
def test_a_stream_has_a_usage_chunk_only_if_it_was_asked_for(world: World, text: str, asked: bool):
    options = {"stream_options": {"include_usage": True}} if asked else {}
    answer = world.chat(text, stream=True, **options)
    chunks = stream_data(answer)[:-1]
    last = [chunk for chunk in chunks if not chunk["choices"]]
    others = [chunk for chunk in chunks if chunk["choices"]]
    if asked:
        assert [chunk["usage"]["prompt_tokens"] for chunk in last] == [11]
        assert {chunk["usage"] for chunk in others} == {None}
    else:
        assert last == []
        assert not any("usage" in chunk for chunk in others)
    assert world.row(answer.headers["x-request-id"])["prompt_tokens"] == 11


@pytest.mark.parametrize("text", [EASY, HARD], ids=["student", "teacher"])
def test_running_usage_that_the_client_asked_for_is_left_in(world: World, text: str):
    options = {"include_usage": True, "continuous_usage_stats": True}
    chunks = stream_data(world.chat(text, stream=True, stream_options=options))[:-1]
    assert all(chunk["usage"]["prompt_tokens"] == 11 for chunk in chunks)


@pytest.mark.parametrize("pin", ["student", "teacher"])
@pytest.mark.parametrize("stream", [False, True])
def test_unknown_fields_pass_in_both_directions(world: World, pin: str, stream: bool):
    upstream = getattr(world, pin)
    upstream.script = Script(extra={"service_tier": "flex", "x_new": {"deep": [1, None]}})
    sent = {"reasoning_effort": "low", "x_future": {"a": [1, 2.5, "é", None, True]}, "seed": 2**60}
    answer = world.chat(model=pin, stream=stream, **sent)
    body = upstream.seen[0].body
    assert {name: body[name] for name in sent} == sent
    for chunk in stream_data(answer)[:-1] if stream else [answer.json()]:
        assert chunk["service_tier"] == "flex"
        assert chunk["x_new"] == {"deep": [1, None]}


def test_an_answer_that_needs_no_cut_is_passed_on_byte_for_byte(world: World):
    raw = b'{ "id":"x","choices":[ {"index":0,"message":{"content":"h\\u00e9"},"logprobs":null} ] , "odd":1.50 }'
    world.teacher.script = Script(body=raw)
    assert world.chat(model="teacher").content == raw


def test_comments_of_a_stream_pass(world: World):
    chunk = {"id": "1", "choices": [{"index": 0, "delta": {"content": "hi"}, "logprobs": None}]}
    world.teacher.script = Script(events=(b": keep-alive\n\n", event(chunk), b": ping\n\n", event(b"[DONE]")))
    answer = world.chat(model="teacher", stream=True)
    assert answer.text.startswith(": keep-alive\n\n")
    assert ": ping\n\n" in answer.text
    assert answer.text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("reason", ["confident", "low_confidence", "hard"])
def test_log_off_keeps_no_content_anywhere(world: World, stream: bool, reason: str):
    world.student.script = Script(text=f"no {CANARY}", logprob=UNSURE if reason == "low_confidence" else -0.02)
    world.teacher.script = Script(text=f"yes {CANARY}")
    with capture_logs() as logs:
        # where it does not change what the router reads
        asked = chat_body(HARD if reason == "hard" else EASY)["messages"]
        messages = [{"role": "system", "content": CANARY}, *asked]
        answer = world.chat(headers={"x-stillroom-log": "off"}, stream=stream, user=CANARY, messages=messages)
        row, content = world.recorded(answer.headers["x-request-id"])
    assert (row["reason"], content, row["trainable"]) == (reason, None, False)
    assert CANARY in answer.text
    assert not any("top_logprobs" in seen.body for seen in world.teacher.seen)
    assert CANARY.encode() not in world.everything_written()
    assert CANARY not in json.dumps(logs)
    assert CANARY not in world.get("/metrics").text


def test_a_request_that_says_store_false_is_not_trainable(world: World):
    answer = world.chat(HARD, store=False)
    row, content = world.recorded(answer.headers["x-request-id"])
    assert row["trainable"] is False
    assert content is not None
    assert world.row(world.chat(HARD).headers["x-request-id"])["trainable"] is True


def test_the_content_kept_can_be_asked_again_as_it_was(world: World):
    answer = world.chat(HARD, temperature=0.2, response_format={"type": "json_object"})
    _, content = world.recorded(answer.headers["x-request-id"])
    assert content is not None
    assert content.messages == chat_body(HARD)["messages"]
    assert content.parameters == {"temperature": 0.2, "response_format": {"type": "json_object"}}


def test_an_upstream_sees_its_own_key_and_nothing_of_the_clients(world: World):
    world.chat(
        model="teacher",
        headers={"cookie": "session=1", "x-forwarded-for": "10.1.1.1", "traceparent": "00-ab-cd-01", "x-other": "1"},
    )
    seen = world.teacher.seen[0].headers
    assert seen["authorization"] == f"Bearer {TEACHER_KEY}"
    assert seen["traceparent"] == "00-ab-cd-01"
    assert not {"cookie", "x-forwarded-for", "x-other"} & seen.keys()
    world.chat(model="student")
    assert "authorization" not in world.student.seen[0].headers


def test_a_cookie_of_an_upstream_is_neither_passed_on_nor_sent_back(world: World):
    world.teacher.script = Script(headers={"set-cookie": "who=first-caller; Path=/"})
    assert "set-cookie" not in world.chat(model="teacher").headers
    world.chat(model="teacher")
    assert "cookie" not in world.teacher.seen[1].headers


def test_a_header_that_is_not_ascii_is_not_forwarded(world: World):
    request = world.client.build_request(
        "POST", f"{world.url}/v1/chat/completions", json=chat_body(model="teacher"),
        headers=[*world.headers().items(), (b"traceparent", "é".encode())],
    )  # fmt: skip
    assert world.client.send(request).status_code == 200
    assert "traceparent" not in world.teacher.seen[0].headers


def test_headers_of_the_upstream_that_help_a_client_are_passed_on(world: World):
    world.teacher.script = Script(headers={"openai-processing-ms": "17", "server": "frontier", "x-secret": "1"})
    answer = world.chat(model="teacher")
    assert answer.headers["openai-processing-ms"] == "17"
    assert "x-secret" not in answer.headers
    assert answer.headers.get("server") != "frontier"


def test_an_integer_that_the_spool_cannot_hold_costs_the_content_and_not_the_row(world: World):
    answer = world.chat(HARD, seed=2**70)
    assert world.teacher.seen[0].body["seed"] == 2**70
    row, content = world.recorded(answer.headers["x-request-id"])
    assert (row["status"], content) == (200, None)


def test_the_tools_that_an_answer_calls_are_kept(world: World):
    call = {"id": "call_1", "type": "function", "function": {"name": "lookup", "arguments": '{"id": 7}'}}
    choice = {"index": 0, "message": {"role": "assistant", "content": None, "tool_calls": [call]}}
    world.teacher.reset(Script(body=json.dumps({"choices": [choice | {"finish_reason": "tool_calls"}]}).encode()))
    answer = world.chat(HARD, tools=[{"type": "function", "function": {"name": "lookup"}}])
    row, content = world.recorded(answer.headers["x-request-id"])
    assert content is not None
    assert (content.tool_calls, content.answer, row["finish_reason"]) == ([call], "", "tool_calls")


@pytest.mark.parametrize(("stream", "ended"), [(False, "stop"), (True, None)], ids=["plain", "streamed"])
def test_it_is_kept_whether_an_abandoned_attempt_was_a_whole_answer(world: World, stream: bool, ended: str | None):
    world.student.script = Script(text="The student has no idea at all about it, none.", logprob=UNSURE)
    answer = world.chat(stream=stream)
    _, content = world.recorded(answer.headers["x-request-id"])
    assert content is not None
    assert content.student_answer
    assert content.student_finish_reason == ended
