"""Usage is exact on both routes, whole or streamed, asked for or not; the client sees what it asked for."""

from typing import Any

import httpx
import pytest

from ledger.prices import Tokens, cost_nano
from tests.gateway_fixtures import EASY, HARD, HOLD, STUDENT_PRICE, TEACHER_PRICE, UNSURE, World, stream_data
from tests.scripted_upstream import CACHED_TOKENS, PROMPT_TOKENS, Script, usage

STUDENT, TEACHER = "the student says so many words to you", "the teacher says something else"
ROUTES = {
    "student": (EASY, -0.02, STUDENT),
    "teacher": (HARD, -0.02, TEACHER),
    "escalated": (EASY, UNSURE, TEACHER),
}
ENDPOINTS = ("chat/completions", "completions", "responses")


def ask(world: World, endpoint: str, text: str, stream: bool, asked: bool) -> httpx.Response:
    said: dict[str, Any] = {
        "chat/completions": {"messages": [{"role": "user", "content": text}]},
        "completions": {"prompt": text},
        "responses": {"input": text},
    }[endpoint]
    # asked for in a stream; a whole answer has it, and so has a response
    options = {"stream_options": {"include_usage": True}} if asked and stream and endpoint != "responses" else {}
    body = {"model": "auto", "stream": stream, **said, **options}
    return world.client.post(f"{world.url}/v1/{endpoint}", json=body, headers=world.headers())


@pytest.mark.parametrize("asked", [False, True], ids=["unasked", "asked"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_the_ledger_has_the_upstreams_count_and_the_client_sees_what_it_asked(
    world: World, endpoint: str, route: str, stream: bool, asked: bool
):
    text, logprob, said = ROUTES[route]
    world.student.reset(Script(text=STUDENT, logprob=logprob))
    world.teacher.reset(Script(text=TEACHER))
    answer = ask(world, endpoint, text, stream, asked)
    words = len(said.split(" "))
    row = world.row(answer.headers["x-request-id"])
    assert row["route"] == ("student" if route == "student" else "teacher")
    assert (row["prompt_tokens"], row["completion_tokens"], row["cached_tokens"]) == (
        PROMPT_TOKENS, words, CACHED_TOKENS,
    )  # fmt: skip
    attempt = Tokens()
    if route == "escalated":
        attempt = Tokens(PROMPT_TOKENS, HOLD if stream else len(STUDENT.split(" ")), CACHED_TOKENS)
    assert (row["attempt_prompt_tokens"], row["attempt_completion_tokens"]) == (attempt.prompt, attempt.completion)
    price = STUDENT_PRICE if route == "student" else TEACHER_PRICE
    tokens = Tokens(PROMPT_TOKENS, words, CACHED_TOKENS)
    assert row["cost_nano"] == cost_nano(price, tokens) + cost_nano(STUDENT_PRICE, attempt)
    assert row["baseline_nano"] == cost_nano(TEACHER_PRICE, tokens)
    assert_seen(answer, endpoint, stream, asked, words)


def assert_seen(answer: httpx.Response, endpoint: str, stream: bool, asked: bool, words: int) -> None:
    """What the client was shown of the usage."""
    if endpoint == "responses":
        response = stream_data(answer)[-1]["response"] if stream else answer.json()
        assert (response["usage"]["input_tokens"], response["usage"]["output_tokens"]) == (PROMPT_TOKENS, words)
    elif not stream:
        assert answer.json()["usage"] == usage(words)
    else:
        chunks = stream_data(answer)[:-1]
        assert [chunk["usage"] for chunk in chunks if not chunk["choices"]] == [usage(words)] * asked
        assert {chunk.get("usage", "none") for chunk in chunks if chunk["choices"]} == {None if asked else "none"}


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize("route", ROUTES)
def test_every_stream_is_asked_for_its_usage(world: World, endpoint: str, route: str):
    text, logprob, _ = ROUTES[route]
    world.student.reset(Script(text=STUDENT, logprob=logprob))
    world.teacher.reset(Script(text=TEACHER))
    ask(world, endpoint, text, stream=True, asked=False)
    for seen in world.student.seen + world.teacher.seen:
        assert seen.body["stream_options"]["include_usage"] is True
