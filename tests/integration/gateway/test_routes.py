"""Which route a request takes: what the client sees of it, and the row it leaves."""

import re
import time

import pytest

from ledger.prices import Tokens, cost_nano
from tests.gateway_fixtures import (
    EASY,
    HARD,
    HOLD,
    RELEASE,
    STUDENT_PRICE,
    TEACHER_PRICE,
    UNSURE,
    World,
    stream_data,
    streamed_text,
)
from tests.scripted_upstream import CACHED_TOKENS, PROMPT_TOKENS, Script

IMAGE = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]
TOOL = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]


def route(answer) -> tuple[str, str]:
    return answer.headers["x-stillroom-route"], answer.headers["x-stillroom-reason"]


def tokens_of(text: str) -> Tokens:
    return Tokens(PROMPT_TOKENS, len(text.split(" ")), CACHED_TOKENS)


@pytest.mark.parametrize("stream", [False, True])
def test_without_a_release_the_teacher_answers(world_without_release: World, stream: bool):
    answer = world_without_release.chat(stream=stream)
    assert answer.status_code == 200
    assert route(answer) == ("teacher", "no_release")
    assert "x-stillroom-release" not in answer.headers
    row = world_without_release.row(answer.headers["x-request-id"])
    assert (row["route"], row["reason"], row["release_id"], row["status"]) == ("teacher", "no_release", None, 200)
    assert row["cost_nano"] == row["baseline_nano"] == cost_nano(TEACHER_PRICE, tokens_of(Script().text))
    assert world_without_release.teacher.seen[0].body["model"] == "frontier"


def test_pinning_the_student_without_a_release_is_refused(world_without_release: World):
    answer = world_without_release.chat(model="student")
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "service_unavailable"
    assert world_without_release.row(answer.headers["x-request-id"])["status"] == 503


def test_every_answer_carries_its_id_route_release_and_limits(world: World):
    answer = world.chat()
    assert re.fullmatch(r"req_[0-9a-f]{24}", answer.headers["x-request-id"])
    assert answer.headers["x-stillroom-release"] == RELEASE
    assert answer.headers["x-ratelimit-limit-requests"] == "60000"
    assert int(answer.headers["x-ratelimit-remaining-requests"]) < 60000
    assert re.fullmatch(r"[0-9.]+s", answer.headers["x-ratelimit-reset-requests"])


@pytest.mark.parametrize("stream", [False, True])
def test_the_student_answers_what_it_is_sure_of(world: World, stream: bool):
    answer = world.chat(EASY, stream=stream)
    assert route(answer) == ("student", "confident")
    text = streamed_text(answer) if stream else answer.json()["choices"][0]["message"]["content"]
    assert text == "The student says good day."
    assert world.teacher.seen == []
    row, content = world.recorded(answer.headers["x-request-id"])
    assert (row["route"], row["reason"], row["release_id"]) == ("student", "confident", RELEASE)
    assert row["score"] > 0.5
    assert row["confidence"] > 0.5
    assert row["finish_reason"] == "stop"
    assert (row["first_token_ms"] is not None) == stream
    assert row["cost_nano"] == cost_nano(STUDENT_PRICE, tokens_of(text))
    assert row["baseline_nano"] == cost_nano(TEACHER_PRICE, tokens_of(text))
    assert content is not None
    assert content.answer == text
    assert content.teacher_logprobs is None


@pytest.mark.parametrize("stream", [False, True])
def test_a_doubtful_student_is_abandoned_for_the_teacher(world: World, stream: bool):
    world.student.script = Script(text="The student has no idea at all about it.", logprob=UNSURE)
    answer = world.chat(EASY, stream=stream)
    assert route(answer) == ("teacher", "low_confidence")
    text = streamed_text(answer) if stream else answer.json()["choices"][0]["message"]["content"]
    assert text == "The teacher says good day."
    assert "student" not in answer.text.lower()
    row, content = world.recorded(answer.headers["x-request-id"])
    attempted = HOLD if stream else len(world.student.script.tokens)
    assert (row["attempt_prompt_tokens"], row["attempt_completion_tokens"]) == (PROMPT_TOKENS, attempted)
    cost = cost_nano(TEACHER_PRICE, tokens_of(text))
    attempt = cost_nano(STUDENT_PRICE, Tokens(PROMPT_TOKENS, attempted, CACHED_TOKENS))
    assert row["cost_nano"] == cost + attempt
    assert row["baseline_nano"] == cost
    assert 0 <= row["confidence"] < 0.5
    assert content is not None
    assert content.student_answer is not None
    assert world.student.script.text.startswith(content.student_answer)


def test_an_abandoned_stream_closes_the_students_call(world: World):
    world.student.script = Script(text="no idea " * 1_000, logprob=UNSURE, gap=0.02)
    answer = world.chat(EASY, stream=True)
    assert route(answer) == ("teacher", "low_confidence")
    assert world.student.seen[0].has_left()


@pytest.mark.parametrize("stream", [False, True])
def test_a_hard_request_never_reaches_the_student(world: World, stream: bool):
    answer = world.chat(HARD, stream=stream)
    assert route(answer) == ("teacher", "hard")
    assert world.student.seen == []
    row = world.row(answer.headers["x-request-id"])
    assert row["score"] < 0.2
    assert row["confidence"] is None


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 2},
        {"tools": TOOL},
        {"messages": [{"role": "user", "content": IMAGE}]},
        {"messages": [{"role": "user", "content": "long " * 2_000}]},
        {"max_tokens": 5_000},
    ],
    ids=["two answers", "tools", "an image", "a long prompt", "a long answer"],
)
def test_what_the_student_cannot_do_is_the_teachers(world: World, fields: dict):
    answer = world.chat(**fields)
    assert answer.status_code == 200
    assert route(answer) == ("teacher", "unsupported")
    assert world.student.seen == []
    assert world.row(answer.headers["x-request-id"])["reason"] == "unsupported"


@pytest.mark.parametrize("pin", ["student", "teacher"])
@pytest.mark.parametrize("by", ["header", "model"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_caller_may_pin_the_route(world: World, pin: str, by: str, stream: bool):
    world.student.script = Script(logprob=UNSURE)
    named = {"model": pin} if by == "model" else {}
    answer = world.chat(HARD, {"x-stillroom-route": pin} if by == "header" else None, stream=stream, **named)
    assert route(answer) == (pin, "pinned")
    row = world.row(answer.headers["x-request-id"])
    assert (row["route"], row["reason"], row["propensity"]) == (pin, "pinned", 1.0)
    assert len(world.student.seen if pin == "student" else world.teacher.seen) == 1


@pytest.mark.parametrize(
    ("alias", "expected"), [("gpt-4o-mini", ("student", "confident")), ("cheap", ("student", "pinned"))]
)
def test_an_alias_stands_for_its_model(world: World, alias: str, expected: tuple[str, str]):
    answer = world.chat(model=alias)
    assert route(answer) == expected
    assert world.row(answer.headers["x-request-id"])["model"] == alias
    assert world.student.seen[0].body["model"] == "student"


def test_an_unknown_model_gives_openais_404(world: World):
    answer = world.chat(model="gpt-17")
    assert answer.status_code == 404
    assert answer.json() == {
        "error": {
            "message": "The model `gpt-17` does not exist or you do not have access to it.",
            "type": "invalid_request_error",
            "param": None,
            "code": "model_not_found",
        }
    }


def test_the_models_are_listed_and_can_be_asked_for_by_name(world: World):
    listed = world.get("/v1/models", "inference").json()
    assert [model["id"] for model in listed["data"]] == ["auto", "student", "teacher", "gpt-4o-mini", "cheap"]
    assert world.get("/v1/models/cheap", "inference").json()["id"] == "cheap"
    missing = world.get("/v1/models/gpt-17", "inference")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")


def test_tags_are_kept_in_the_row(world: World):
    answer = world.chat(headers={"x-stillroom-tags": "checkout, eu ,,beta"})
    assert world.row(answer.headers["x-request-id"])["tags"] == ["checkout", "eu", "beta"]


@pytest.mark.parametrize(("header", "value"), [("x-stillroom-route", "nowhere"), ("x-stillroom-log", "maybe")])
def test_an_instruction_that_is_not_understood_is_refused(world: World, header: str, value: str):
    answer = world.chat(headers={header: value})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, header)


def test_the_metrics_count_what_was_answered_and_hold_no_key(world: World):
    world.chat()
    text = world.get("/metrics").text
    assert 'stillroom_requests_total{reason="confident",route="student",status="2xx"}' in text
    assert f'stillroom_release_info{{id="{RELEASE}"}} 1.0' in text
    assert not any(secret in text for secret in world.secrets.values())


def test_the_stream_is_passed_on_as_it_comes(world: World):
    world.teacher.script = Script(text="one two three four", gap=0.15)
    with world.streaming(model="teacher") as answer:
        arrived = [time.monotonic() for _ in answer.iter_bytes()]
    assert len(arrived) >= 5
    assert arrived[-1] - arrived[0] > 0.4


def test_the_last_event_of_a_stream_is_done(world: World):
    assert stream_data(world.chat(stream=True))[-1] == "[DONE]"
