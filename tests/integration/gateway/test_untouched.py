"""What crosses the gateway untouched, in both directions: to the byte where nothing has to be changed."""

import json
from typing import Any

import httpx
import pytest

from tests.conformance.scripts import LOCATE, calling, streaming_calls
from tests.gateway_fixtures import EASY, HARD, World, chat_body, stream_data
from tests.scripted_upstream import PROMPT_TOKENS, Script, event, token_logprobs, usage

SCHEMA = {"type": "json_schema", "json_schema": {"name": "s", "strict": True, "schema": {"type": "object"}}}
DOCUMENTED: dict[str, Any] = {
    "logit_bias": {"50256": -100},
    "seed": 2**53 + 1,
    "stop": ["\n", "END"],
    "metadata": {"order": "7"},
    "store": True,
    "user": "u-1",
    "reasoning_effort": "low",
    "max_completion_tokens": 64,
    "response_format": SCHEMA,
    "temperature": 0.7,
    "top_p": 0.9,
    "presence_penalty": -0.5,
    "frequency_penalty": 0.5,
    "service_tier": "auto",
    "prediction": {"type": "content", "content": "x"},
    "verbosity": "low",
    "x_of_tomorrow": {"deep": [1, 2.5, "é", None, True]},
}
ROUTES = {"student": EASY, "teacher": HARD}
each_route = pytest.mark.parametrize("route", ROUTES)
each_way = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])


def post(world: World, raw: bytes) -> httpx.Response:
    return world.client.post(f"{world.url}/v1/chat/completions", content=raw, headers=world.headers())


@each_route
@each_way
def test_every_documented_field_reaches_the_upstream(world: World, route: str, stream: bool):
    answer = world.chat(ROUTES[route], stream=stream, **DOCUMENTED)
    assert (answer.status_code, answer.headers["x-stillroom-route"]) == (200, route)
    body = getattr(world, route).seen[0].body
    assert {name: body[name] for name in DOCUMENTED} == DOCUMENTED


WRITTEN = {
    "a large integer": b'"seed":9007199254740993123456789',
    "many digits": b'"temperature":0.1000000000000000055511',
    "an exponent": b'"top_p":1E0',
    "an escape": b'"user":"h\\u00e9\\ud83d\\ude00\\/"',
    "a name twice": b'"metadata":{"a":"1","a":"2"}',
    "white space": b'"stop":[ "a" ,\t"b" ]',
    "an order": b'"logit_bias":{"9":1,"10":2,"1":3}',
}


@each_route
@each_way
@pytest.mark.parametrize("written", WRITTEN.values(), ids=WRITTEN)
def test_a_field_is_sent_on_as_it_was_written(world: World, written: bytes, route: str, stream: bool):
    raw = b'{"model":"%s","messages":[{"role":"user","content":"h\\u00e9"}],"stream":%s,%s}'
    sent = raw % (route.encode(), json.dumps(stream).encode(), written)
    assert post(world, sent).status_code == 200
    (seen,) = getattr(world, route).seen
    assert written in seen.raw
    assert b'"messages":[{"role":"user","content":"h\\u00e9"}]' in seen.raw


def test_only_the_model_and_what_the_gateway_asks_is_changed(world: World):
    world.chat(HARD, stream=True, stream_options={"include_obfuscation": False}, **DOCUMENTED)
    body = world.teacher.seen[0].body
    expected = chat_body(HARD, stream=True, **DOCUMENTED) | {
        "model": "frontier",
        "logprobs": True,
        "top_logprobs": 20,
        "stream_options": {"include_obfuscation": False, "include_usage": True},
    }
    assert body == expected


def test_a_number_that_no_double_holds_is_refused_clearly(world: World):
    answer = post(world, b'{"model":"auto","messages":[{"role":"user","content":"x"}],"top_p":1e400}')
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")
    assert "Number out of range" in answer.json()["error"]["message"]


ODD = {"odd": {"deep": [1, None, 2**60]}}
CHUNK = {
    "id": "c1",
    "object": "chat.completion.chunk",
    "choices": [
        {
            "index": 0,
            "delta": {"role": "assistant", "content": "hi", "reasoning_content": "hm", **ODD},
            "finish_reason": None,
            "logprobs": None,
            **ODD,
        }
    ],
    "usage": None,
    **ODD,
}
LAST = {"id": "c1", "choices": [], "usage": usage(1) | ODD, **ODD}
WHOLE = {
    "id": "c1",
    "object": "chat.completion",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "hi", "annotations": [], "audio": None, **ODD},
            "finish_reason": "stop",
            "logprobs": None,
            **ODD,
        }
    ],
    "usage": usage(1) | ODD,
    **ODD,
}


def spaced(value: Any) -> bytes:
    """JSON in a hand that is not the gateway's."""
    return json.dumps(value, indent=1).encode()


def one_line(value: Any) -> bytes:
    return json.dumps(value, separators=(" , ", " : ")).encode()


@each_route
def test_a_whole_answer_comes_back_to_the_byte(world: World, route: str):
    getattr(world, route).script = Script(body=spaced(WHOLE))
    assert world.chat(model=route).content == spaced(WHOLE)


@each_route
def test_a_stream_comes_back_to_the_byte_with_comments_and_keep_alives(world: World, route: str):
    events = (
        b": keep-alive\n\n",
        b"event: message\nid: 7\ndata: " + one_line(CHUNK) + b"\n\n",
        b": ping\r\n\r\n",
        b"data:" + one_line(CHUNK) + b"\r\n\r\n",
        b"retry: 100\n\n",
        b"data: " + one_line(LAST) + b"\n\n",
    )
    getattr(world, route).script = Script(events=(*events, event(b"[DONE]")))
    answer = world.chat(model=route, stream=True, stream_options={"include_usage": True})
    assert answer.content == b"".join(events) + b"data: [DONE]\n\n"


@each_route
def test_unknown_fields_stay_where_something_else_is_taken_out(world: World, route: str):
    logprobs = {"content": [token_logprobs("hi", -0.01, 5)], "refusal": None}
    choice = CHUNK["choices"][0] | {"logprobs": logprobs}
    chunk = CHUNK | {"choices": [choice], "usage": usage(1)}
    getattr(world, route).script = Script(events=(event(chunk), event(LAST), event(b"[DONE]")))
    shown, done = stream_data(world.chat(model=route, stream=True))
    expected = {name: value for name, value in CHUNK.items() if name != "usage"}
    assert (shown, done) == (expected, "[DONE]")
    getattr(world, route).script = Script(
        body=spaced(WHOLE | {"choices": [WHOLE["choices"][0] | {"logprobs": logprobs}]})
    )
    assert world.chat(model=route).json() == WHOLE


@pytest.mark.parametrize("asked", [False, True])
@each_route
def test_the_usage_chunk_has_no_choices_and_comes_iff_asked(world: World, route: str, asked: bool):
    options = {"stream_options": {"include_usage": True}} if asked else {}
    chunks = stream_data(world.chat(ROUTES[route], stream=True, **options))[:-1]
    assert [chunk["choices"] for chunk in chunks].count([]) == asked
    assert [bool(chunk.get("usage")) for chunk in chunks] == [False] * (len(chunks) - asked) + [True] * asked


def choice_of(index: int, said: str, key: str) -> dict[str, Any]:
    return {"index": index, key: {"content": said}, "finish_reason": "stop", "logprobs": None}


@each_way
def test_both_of_two_choices_come(world: World, stream: bool):
    if stream:
        chunks = [{"id": "c", "choices": [choice_of(i, said, "delta")]} for i, said in enumerate(("one", "two"))]
        parts = (*(event(one_line(chunk)) for chunk in chunks), event(LAST), event(b"[DONE]"))
        world.teacher.script = Script(events=parts)
        assert stream_data(world.chat(n=2, stream=True)) == [*chunks, "[DONE]"]
    else:
        body = {"choices": [choice_of(0, "one", "message"), choice_of(1, "two", "message")], "usage": usage(2)}
        world.teacher.script = Script(body=spaced(body))
        answer = world.chat(n=2)
        assert answer.content == spaced(body)
        assert world.row(answer.headers["x-request-id"])["prompt_tokens"] == PROMPT_TOKENS
    assert world.teacher.seen[0].body["n"] == 2
    assert "logprobs" not in world.teacher.seen[0].body


@each_route
@each_way
def test_logprobs_are_the_upstreams_own(world: World, route: str, stream: bool):
    token = token_logprobs("hé", -0.0000000123, 20) | {"odd": 1}
    part = {"delta" if stream else "message": {"content": "hé"}}
    choice = {"index": 0, **part, "logprobs": {"content": [token], "refusal": None}, "finish_reason": "stop"}
    body = {"id": "c", "choices": [choice]}
    raw = one_line(body)
    parts = (event(raw), event(LAST), event(b"[DONE]"))
    getattr(world, route).script = Script(events=parts) if stream else Script(body=raw)
    answer = world.chat(model=route, stream=stream, logprobs=True, top_logprobs=20)
    assert raw in answer.content


@pytest.mark.parametrize("parcels", [("a1",), ("a1", "b2", "c3")], ids=["one", "parallel"])
def test_tool_calls_are_streamed_to_the_byte(world: World, parcels: tuple[str, ...]):
    world.teacher.script = streaming_calls(*parcels)
    fields = {"tools": [LOCATE], "tool_choice": "auto", "parallel_tool_calls": True}
    answer = world.chat(stream=True, stream_options={"include_usage": True}, **fields)
    assert answer.content == b"".join(world.teacher.script.events or ())
    body = world.teacher.seen[0].body
    assert {name: body[name] for name in fields} == fields
    world.teacher.script = calling(*parcels)
    assert world.chat(**fields).content == world.teacher.script.body


PARTS = [
    {"type": "text", "text": "What is this?"},
    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "detail": "low"}},
    {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
    {"type": "file", "file": {"file_id": "file-1"}},
]


@each_way
def test_images_audio_and_files_pass(world: World, stream: bool):
    answer = world.chat(messages=[{"role": "user", "content": PARTS}], stream=stream)
    assert answer.headers["x-stillroom-reason"] == "unsupported"
    assert world.teacher.seen[0].body["messages"] == [{"role": "user", "content": PARTS}]


UNSERVED = {
    "modalities": ["text", "audio"],
    "audio": {"voice": "alloy", "format": "wav"},
    "web_search_options": {},
    "reasoning_effort": "galactic",
    "functions": [{"name": "f"}],
    "tools": [{"type": "custom", "custom": {"name": "c"}}],
    "prompt_embeds": "AA==",
    "n": 2,
}


@pytest.mark.parametrize("name", UNSERVED)
@each_way
def test_what_no_student_has_is_the_teachers_before_a_token_is_spent(world: World, name: str, stream: bool):
    answer = world.chat(stream=stream, **{name: UNSERVED[name]})
    assert (answer.status_code, answer.headers["x-stillroom-reason"]) == (200, "unsupported")
    assert world.student.seen == []
    assert world.teacher.seen[0].body[name] == UNSERVED[name]
    assert world.row(answer.headers["x-request-id"])["reason"] == "unsupported"


@pytest.mark.parametrize(
    "fields", [{"modalities": ["text"]}, {"audio": None}, {"reasoning_effort": "minimal"}, {"n": 1}, {"tools": []}]
)
def test_what_asks_for_nothing_more_leaves_it_to_the_student(world: World, fields: dict):
    assert world.chat(**fields).headers["x-stillroom-reason"] == "confident"
