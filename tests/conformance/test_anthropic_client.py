"""Anthropic's own client against the gateway: only its base URL and key are changed."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import anthropic
import httpx
import msgspec
import pytest

from gateway.app import GatewayConfig
from ledger import keys
from ledger.policies import KeyPolicy
from tests.conformance.scripts import asked, calling, streaming_calls
from tests.gateway_fixtures import EASY, HARD, RELEASE, TEACHER_PRICE, World, running_world, wait_until
from tests.scripted_upstream import CACHED_TOKENS, PROMPT_TOKENS, Script, event, usage

MESSAGES: list[Any] = [{"role": "user", "content": EASY}]
TOOL: dict[str, Any] = {
    "name": "locate",
    "description": "Where a parcel is.",
    "input_schema": {"type": "object", "properties": {"parcel": {"type": "string"}}, "required": ["parcel"]},
}


def client_of(world: World, **options: Any) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=world.url, **({"max_retries": 0} | options))


@pytest.fixture
def claude(world: World) -> Iterator[anthropic.Anthropic]:
    with client_of(world, api_key=world.secrets["inference"]) as client:
        yield client


def test_a_message_is_what_the_client_expects(claude: anthropic.Anthropic, world: World):
    message = claude.messages.create(model="gpt-4o-mini", max_tokens=50, messages=MESSAGES, system="Be kind.")
    assert [block.text for block in message.content if block.type == "text"] == ["The student says good day."]
    assert (message.stop_reason, message.role, message.type) == ("end_turn", "assistant", "message")
    assert message._request_id is not None
    assert message.id == message._request_id.replace("req_", "msg_")
    row, content = world.recorded(message._request_id)
    assert (row["endpoint"], row["route"], row["status"]) == ("messages", "student", 200)
    assert content is not None
    assert content.messages == [{"role": "system", "content": "Be kind."}, *MESSAGES]
    assert content.answer == "The student says good day."


def test_the_usage_is_the_ledgers_to_the_token(claude: anthropic.Anthropic, world: World):
    message = claude.messages.create(model="teacher", max_tokens=50, messages=MESSAGES)
    used = message.usage
    assert (used.input_tokens, used.cache_read_input_tokens) == (PROMPT_TOKENS - CACHED_TOKENS, CACHED_TOKENS)
    row = world.row(message._request_id or "")
    assert (row["prompt_tokens"], row["cached_tokens"], row["completion_tokens"]) == (
        PROMPT_TOKENS, CACHED_TOKENS, used.output_tokens,
    )  # fmt: skip
    dear = used.input_tokens * TEACHER_PRICE.input + used.output_tokens * TEACHER_PRICE.output
    assert row["cost_nano"] == round((dear + CACHED_TOKENS * TEACHER_PRICE.cached_input) * 1_000)


@pytest.mark.parametrize("model", ["student", "teacher"])
def test_a_stream_is_what_the_client_expects(claude: anthropic.Anthropic, world: World, model: str):
    with claude.messages.stream(model=model, max_tokens=50, messages=MESSAGES) as stream:
        texts = list(stream.text_stream)
        message = stream.get_final_message()
    assert "".join(texts) == f"The {model} says good day."
    assert len(texts) == 5
    assert message.usage.output_tokens == 5
    assert (message.usage.input_tokens, message.usage.cache_read_input_tokens) == (
        PROMPT_TOKENS - CACHED_TOKENS, CACHED_TOKENS,
    )  # fmt: skip
    assert (message.stop_reason, message.model) == ("end_turn", asked(world)["model"])
    assert stream.request_id is not None
    assert world.row(stream.request_id)["first_token_ms"] is not None


def test_the_events_come_in_anthropics_order(claude: anthropic.Anthropic):
    kinds = [each.type for each in claude.messages.create(model="auto", max_tokens=9, messages=MESSAGES, stream=True)]
    assert kinds == [
        "message_start",
        "content_block_start",
        *["content_block_delta"] * 5,
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]


def test_the_raw_stream_pings_and_names_each_event(world: World):
    body = {"model": "auto", "max_tokens": 9, "messages": MESSAGES, "stream": True}
    answer = world.client.post(f"{world.url}/v1/messages", json=body, headers=world.headers())
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    events = answer.text.strip().split("\n\n")
    assert [each.split("\n")[0] for each in events[:2]] == ["event: message_start", "event: ping"]
    assert "[DONE]" not in answer.text


@pytest.mark.parametrize("stream", [False, True])
def test_tools_are_called_and_their_results_go_back(claude: anthropic.Anthropic, world: World, stream: bool):
    world.teacher.reset(streaming_calls("a1", "b2") if stream else calling("a1", "b2"))
    wanted: dict[str, Any] = {"model": "teacher", "max_tokens": 90, "tools": [TOOL], "messages": MESSAGES}
    if stream:
        with claude.messages.stream(**wanted, tool_choice={"type": "any"}) as opened:
            message = opened.get_final_message()
    else:
        message = claude.messages.create(**wanted, tool_choice={"type": "any"})
    assert message.stop_reason == "tool_use"
    calls = [block for block in message.content if block.type == "tool_use"]
    assert [(call.name, call.input) for call in calls] == [("locate", {"parcel": "a1"}), ("locate", {"parcel": "b2"})]
    assert asked(world)["tool_choice"] == "required"
    assert asked(world)["tools"][0]["function"]["parameters"] == TOOL["input_schema"]
    results = [{"type": "tool_result", "tool_use_id": call.id, "content": "In Rome."} for call in calls]
    world.teacher.reset(Script(text="Both are in Rome."))
    turn: Any = {"role": "assistant", "content": message.content}
    claude.messages.create(**wanted | {"messages": [*MESSAGES, turn, {"role": "user", "content": results}]})
    said = asked(world)["messages"]
    assert [each["role"] for each in said] == ["user", "assistant", "tool", "tool"]
    assert [each["id"] for each in said[1]["tool_calls"]] == [each["tool_call_id"] for each in said[2:]]


def test_the_same_router_decides(claude: anthropic.Anthropic, world: World):
    easy = claude.messages.with_raw_response.create(model="auto", max_tokens=9, messages=MESSAGES)
    assert (easy.headers["x-stillroom-route"], easy.headers["x-stillroom-release"]) == ("student", RELEASE)
    hard = claude.messages.with_raw_response.create(
        model="auto", max_tokens=9, messages=[{"role": "user", "content": HARD}]
    )
    assert (hard.headers["x-stillroom-route"], hard.headers["x-stillroom-reason"]) == ("teacher", "hard")
    world.student.reset(Script(text="I guess so.", logprob=-1.6))
    doubtful = claude.messages.with_raw_response.create(model="auto", max_tokens=9, messages=MESSAGES)
    assert doubtful.headers["x-stillroom-reason"] == "low_confidence"
    text = doubtful.parse().content[0]
    assert text.type == "text"
    assert text.text == "The teacher says good day."
    assert doubtful.headers["x-ratelimit-limit-requests"] == "60000"


@pytest.mark.parametrize("stream", [False, True])
def test_thinking_is_a_block_of_its_own_where_it_is_asked_for(
    claude: anthropic.Anthropic, world: World, stream: bool
):
    deltas = [{"reasoning": "Let me "}, {"reasoning": "see."}, {"content": "Rome."}]
    chunks = [event({"choices": [{"index": 0, "delta": delta}]}) for delta in deltas]
    chunks += [event({"choices": [], "usage": usage(3)}), event(b"[DONE]")]
    whole = (
        b'{"choices":[{"index":0,"finish_reason":"stop","message":{"content":"Rome.","reasoning":"Let me see."}}]}'
    )
    script = Script(events=tuple(chunks)) if stream else Script(body=whole)
    wanted: dict[str, Any] = {"model": "teacher", "max_tokens": 2000, "messages": MESSAGES}
    for thinking, kinds in (("disabled", ["text"]), ("adaptive", ["thinking", "text"])):
        world.teacher.reset(script)
        if stream:
            with claude.messages.stream(**wanted, thinking={"type": thinking}) as opened:
                message = opened.get_final_message()
        else:
            message = claude.messages.create(**wanted, thinking={"type": thinking})
        assert [block.type for block in message.content] == kinds
        if thinking == "adaptive":
            assert message.content[0].thinking == "Let me see."


def test_a_token_is_as_good_as_a_key(world: World):
    with client_of(world, auth_token=world.secrets["inference"]) as client:
        assert client.messages.create(model="auto", max_tokens=9, messages=MESSAGES).content


REFUSED = [
    pytest.param(400, {}, anthropic.BadRequestError, "invalid_request_error", id="refused"),
    pytest.param(404, {}, anthropic.NotFoundError, "not_found_error", id="not there"),
    pytest.param(413, {}, anthropic.RequestTooLargeError, "request_too_large", id="too large"),
    pytest.param(429, {"retry-after": "90"}, anthropic.RateLimitError, "rate_limit_error", id="too many"),
    pytest.param(500, {}, anthropic.ServiceUnavailableError, "overloaded_error", id="broken"),
]


@pytest.mark.parametrize(("status", "headers", "kind", "name"), REFUSED)
@pytest.mark.parametrize("stream", [False, True])
def test_what_the_teacher_refuses_is_an_error_of_the_client(
    claude: anthropic.Anthropic,
    world: World,
    stream: bool,
    status: int,
    headers: dict[str, str],
    kind: Any,
    name: str,
):
    body = b'{"error":{"message":"It was refused.","type":"x","param":null,"code":"why"}}'
    world.teacher.reset(Script(status=status, body=body, headers=headers))
    with pytest.raises(kind) as caught:
        claude.messages.create(model="teacher", max_tokens=9, messages=MESSAGES, stream=stream)
    assert caught.value.type == name
    assert caught.value.request_id is not None
    if status < 500:
        assert (caught.value.api_message, caught.value.error_code) == ("It was refused.", "why")
    assert world.row(caught.value.request_id)["endpoint"] == "messages"


def test_our_own_refusals_are_errors_of_the_client(claude: anthropic.Anthropic, world: World):
    with pytest.raises(anthropic.NotFoundError, match="claude-9"):
        claude.messages.create(model="claude-9", max_tokens=9, messages=MESSAGES)
    with pytest.raises(anthropic.BadRequestError, match="max_tokens"):
        claude.messages.create(model="auto", max_tokens=0, messages=MESSAGES)
    with client_of(world, api_key="sk-wrong") as stranger, pytest.raises(anthropic.AuthenticationError) as caught:
        stranger.messages.create(model="auto", max_tokens=9, messages=MESSAGES)
    assert (caught.value.type, caught.value.error_code) == ("authentication_error", "invalid_api_key")
    with client_of(world, api_key=world.secrets["read"]) as reader, pytest.raises(anthropic.PermissionDeniedError):
        reader.messages.create(model="auto", max_tokens=9, messages=MESSAGES)


def test_a_full_minute_is_told_in_anthropics_shape(world: World):
    _, secret = keys.create(world.store, "slow", ["inference"], "test", policy=KeyPolicy(requests_per_minute=1))
    with client_of(world, api_key=secret) as client:
        client.messages.create(model="auto", max_tokens=9, messages=MESSAGES)
        with pytest.raises(anthropic.RateLimitError) as refused:
            client.messages.create(model="auto", max_tokens=9, messages=MESSAGES)
    caught = refused.value
    assert (caught.type, caught.error_code) == ("rate_limit_error", "rate_limit_exceeded")
    assert float(caught.response.headers["retry-after"]) > 0


def test_a_stream_that_breaks_off_is_an_error_of_the_client(claude: anthropic.Anthropic, world: World):
    world.teacher.reset(Script(text="One two three four.", cut_after=3))
    with pytest.raises(anthropic.APIStatusError, match="broke off"):
        list(claude.messages.create(model="teacher", max_tokens=9, messages=MESSAGES, stream=True))


def test_a_stream_that_a_shutdown_cuts_is_an_error_of_the_client(tmp_path: Path):
    def hurried(config: GatewayConfig) -> GatewayConfig:
        return replace(config, gateway=msgspec.structs.replace(config.gateway, drain_seconds=1.0))

    with ThreadPoolExecutor(1) as pool:
        with running_world(tmp_path, None, hurried) as world:
            world.teacher.script = Script(text="word " * 300, gap=0.1)
            claude = client_of(world, api_key=world.secrets["inference"])
            reading = pool.submit(
                lambda: list(claude.messages.create(model="auto", max_tokens=9, messages=MESSAGES, stream=True))
            )
            wait_until(lambda: len(world.teacher.seen) == 1)
        with pytest.raises(anthropic.APIStatusError, match="shutting down"):
            reading.result(20)
        claude.close()


def test_tokens_are_counted_by_the_students_server(claude: anthropic.Anthropic, world: World):
    counted = claude.messages.count_tokens(model="auto", messages=MESSAGES, system="Be kind.", tools=[TOOL])
    assert counted.input_tokens == PROMPT_TOKENS
    (seen,) = world.student.seen
    assert (seen.path, seen.body["model"], len(seen.body["messages"])) == ("/tokenize", "student", 2)
    assert seen.body["tools"][0]["function"]["name"] == "locate"


@pytest.mark.parametrize(
    ("script", "kind"),
    [
        pytest.param(Script(body=b"{}"), anthropic.NotFoundError, id="cannot count"),
        pytest.param(Script(status=404, body=b"nothing here"), anthropic.NotFoundError, id="has no such path"),
        pytest.param(
            Script(status=400, body=b'{"error":{"message":"No template."}}'),
            anthropic.BadRequestError,
            id="cannot read",
        ),
        pytest.param(Script(status=503), anthropic.ServiceUnavailableError, id="is away"),
    ],
)
def test_a_count_that_cannot_be_had_is_an_error_of_the_client(
    claude: anthropic.Anthropic, world: World, script, kind
):
    world.student.reset(script)
    with pytest.raises(kind):
        claude.messages.count_tokens(model="auto", messages=MESSAGES)


def test_nobody_counts_without_a_student(world_without_release: World):
    key, refused = (
        world_without_release.secrets["inference"],
        pytest.raises(anthropic.NotFoundError, match="no student"),
    )
    with client_of(world_without_release, api_key=key) as client, refused:
        client.messages.count_tokens(model="auto", messages=MESSAGES)


@pytest.mark.parametrize(
    ("method", "path", "status", "kind"),
    [
        ("GET", "/v1/messages", 405, "invalid_request_error"),
        ("POST", "/v1/messages/other", 404, "not_found_error"),
    ],
)
def test_even_a_wrong_path_below_is_told_in_anthropics_shape(
    world: World, method: str, path: str, status: int, kind: str
):
    answer = world.client.request(method, world.url + path, headers=world.headers())
    assert (answer.status_code, answer.json()["type"], answer.json()["error"]["type"]) == (status, "error", kind)
    assert answer.json()["request_id"] == answer.headers["request-id"] == answer.headers["x-request-id"]


def test_a_body_that_is_too_large_and_a_bad_head_are_told_in_anthropics_shape(world: World):
    large = world.client.post(f"{world.url}/v1/messages", content=b"x" * 1_100_000, headers=world.headers())
    assert (large.status_code, large.json()["error"]["type"]) == (413, "request_too_large")
    headed = httpx.post(f"{world.url}/v1/messages", headers=world.headers() | {"x-long": "x" * 40_000})
    assert (headed.status_code, headed.json()["type"]) == (431, "error")


def test_the_same_stream_again_is_the_same_bytes(world: World):
    body = {"model": "auto", "max_tokens": 9, "messages": MESSAGES, "stream": True}
    headers = world.headers() | {"idempotency-key": "messages-1"}
    first, again = (world.client.post(f"{world.url}/v1/messages", json=body, headers=headers) for _ in range(2))
    assert first.content == again.content
    assert again.headers["x-stillroom-idempotent-replay"] == "true"
    assert len(world.student.seen) == 1
