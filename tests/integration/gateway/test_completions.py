"""``/v1/completions``: a prompt in the older shape, routed and judged as a chat is."""

import json
from typing import Any

import httpx
import pytest

from ledger.prices import Tokens, cost_nano
from tests.gateway_fixtures import EASY, HARD, HOLD, STUDENT_PRICE, TEACHER_PRICE, UNSURE, World, stream_data
from tests.scripted_upstream import CACHED_TOKENS, PROMPT_TOKENS, Script


def complete(
    world: World, prompt: Any = EASY, headers: dict[str, str] | None = None, **fields: Any
) -> httpx.Response:
    body = {"model": "auto", "prompt": prompt, **fields}
    return world.client.post(f"{world.url}/v1/completions", json=body, headers=world.headers() | (headers or {}))


def bodies(answer: httpx.Response) -> list[dict[str, Any]]:
    """The answer, or its chunks."""
    if answer.headers["content-type"] == "application/json":
        return [answer.json()]
    *chunks, done = stream_data(answer)
    assert done == "[DONE]"
    return chunks


def text(answer: httpx.Response) -> str:
    return "".join(choice["text"] for body in bodies(answer) for choice in body["choices"])


def route(answer: httpx.Response) -> tuple[str, str]:
    return answer.headers["x-stillroom-route"], answer.headers["x-stillroom-reason"]


@pytest.mark.parametrize("stream", [False, True])
def test_the_student_completes_what_it_is_sure_of(world: World, stream: bool):
    answer = complete(world, stream=stream)
    assert route(answer) == ("student", "confident")
    assert text(answer) == "The student says good day."
    assert {body["object"] for body in bodies(answer)} == {"text_completion"}
    asked = world.student.seen[0]
    assert (asked.path, asked.body["prompt"], asked.body["logprobs"]) == ("/v1/completions", EASY, 5)
    assert "messages" not in asked.body
    assert "top_logprobs" not in asked.body
    row, content = world.recorded(answer.headers["x-request-id"])
    assert (row["endpoint"], row["route"], row["status"], row["finish_reason"]) == (
        "completions", "student", 200, "stop",
    )  # fmt: skip
    assert row["cost_nano"] == cost_nano(STUDENT_PRICE, Tokens(PROMPT_TOKENS, 5, CACHED_TOKENS))
    assert row["confidence"] > 0.5
    assert content is not None
    assert (content.messages, content.answer) == ([{"role": "user", "content": EASY}], "The student says good day.")


@pytest.mark.parametrize("stream", [False, True])
def test_confidence_is_that_of_a_chat_with_the_same_words(world: World, stream: bool):
    rows = [world.row(answer.headers["x-request-id"]) for answer in (complete(world, stream=stream), world.chat())]
    assert rows[0]["confidence"] == rows[1]["confidence"]
    assert rows[0]["score"] == rows[1]["score"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_doubtful_student_is_abandoned_for_the_teacher(world: World, stream: bool):
    world.student.script = Script(text="The student has no idea at all about it.", logprob=UNSURE)
    answer = complete(world, stream=stream)
    assert route(answer) == ("teacher", "low_confidence")
    assert text(answer) == "The teacher says good day."
    row = world.row(answer.headers["x-request-id"])
    attempted = HOLD if stream else len(world.student.script.tokens)
    assert (row["attempt_prompt_tokens"], row["attempt_completion_tokens"]) == (PROMPT_TOKENS, attempted)
    attempt = cost_nano(STUDENT_PRICE, Tokens(PROMPT_TOKENS, attempted, CACHED_TOKENS))
    assert row["cost_nano"] - attempt == cost_nano(TEACHER_PRICE, Tokens(PROMPT_TOKENS, 5, CACHED_TOKENS))


def test_a_completion_is_not_learned_from(world: World):
    answer = complete(world, HARD)
    assert route(answer) == ("teacher", "hard")
    row, content = world.recorded(answer.headers["x-request-id"])
    assert row["trainable"] is False
    assert content is not None
    assert "logprobs" not in world.teacher.seen[0].body, "nothing to harvest"


@pytest.mark.parametrize("text", [EASY, HARD], ids=["student", "teacher"])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("top", [None, 0, 2, 7])
def test_logprobs_are_shown_exactly_as_asked(world: World, text: str, stream: bool, top: int | None):
    answer = complete(world, text, stream=stream, **({} if top is None else {"logprobs": top}))
    shown = [choice["logprobs"] for body in bodies(answer) for choice in body["choices"]]
    if top is None:
        assert set(shown) == {None}
        return
    script = world.student.script if text == EASY else world.teacher.script
    found = [logprobs for logprobs in shown if logprobs is not None]
    assert [token for logprobs in found for token in logprobs["tokens"]] == script.tokens
    assert {value for logprobs in found for value in logprobs["token_logprobs"]} == {script.logprob}
    alternatives = [listed for logprobs in found for listed in logprobs["top_logprobs"]]
    assert len(alternatives) == len(script.tokens)
    # an upstream always lists the token that it chose, where it lists any
    assert {len(listed) for listed in alternatives} <= {max(top, 1)} | ({0} if top == 0 else set())


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": [EASY, EASY]},
        {"prompt": [1, 2, 3]},
        {"n": 2},
        {"best_of": 3},
        {"suffix": "the end"},
        {"echo": True},
    ],
    ids=["two prompts", "tokens", "two answers", "best of three", "a suffix", "an echo"],
)
def test_what_the_student_cannot_complete_is_the_teachers(world: World, fields: dict):
    answer = complete(world, **fields)
    assert route(answer) == ("teacher", "unsupported")
    assert world.student.seen == []
    assert {name: world.teacher.seen[0].body[name] for name in fields} == fields


@pytest.mark.parametrize("fields", [{"best_of": 1, "echo": False, "suffix": None, "n": 1}])
def test_fields_that_ask_for_nothing_leave_it_to_the_student(world: World, fields: dict):
    assert route(complete(world, **fields)) == ("student", "confident")


@pytest.mark.parametrize("text", [EASY, HARD], ids=["student", "teacher"])
@pytest.mark.parametrize("asked", [False, True])
def test_usage_is_recorded_always_and_shown_if_asked(world: World, text: str, asked: bool):
    answer = complete(world, text, stream=True, **({"stream_options": {"include_usage": True}} if asked else {}))
    chunks = bodies(answer)
    assert [bool(chunk["choices"]) for chunk in chunks].count(False) == asked
    assert any(chunk.get("usage") for chunk in chunks) == asked
    row = world.row(answer.headers["x-request-id"])
    assert (row["prompt_tokens"], row["completion_tokens"], row["cached_tokens"]) == (PROMPT_TOKENS, 5, CACHED_TOKENS)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": 7}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"logprobs": True}, "logprobs"),
        ({"logprobs": 21}, "logprobs"),
        ({"stream": "yes"}, "stream"),
        ({"model": None}, "model"),
    ],
)
def test_a_wrong_value_is_named(world: World, fields: dict, param: str):
    answer = complete(world, **fields)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_the_prompt_reaches_the_teacher_as_it_was_written(world: World):
    raw = b'{"model":"teacher", "prompt":"h\\u00e9", "temperature":0.30, "x":{"a":1,"a":2}}'
    answer = world.client.post(f"{world.url}/v1/completions", content=raw, headers=world.headers())
    assert answer.status_code == 200
    assert b'"prompt":"h\\u00e9"' in world.teacher.seen[0].raw
    assert b'"temperature":0.30' in world.teacher.seen[0].raw
    assert b'"x":{"a":1,"a":2}' in world.teacher.seen[0].raw


def test_an_upstreams_refusal_is_passed_on(world: World):
    body = {"error": {"message": "no", "type": "t", "param": "prompt", "code": "c"}}
    world.teacher.script = Script(status=400, body=json.dumps(body).encode())
    answer = complete(world, model="teacher")
    assert (answer.status_code, answer.json()) == (400, body)
