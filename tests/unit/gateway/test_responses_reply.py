"""A chat's answer as a response: whole and as events, which come to the same."""

import asyncio
import json
from collections.abc import AsyncGenerator, Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from gateway.call import Caller
from gateway.responses.events import ResponseTranslation
from gateway.responses.reply import from_chat
from gateway.responses.request import Asking, read_response
from gateway.sse import DONE, event_data, frame
from gateway.translated import translated
from gateway.wire import encode

EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
USAGE = {
    "prompt_tokens": 11,
    "completion_tokens": 5,
    "total_tokens": 16,
    "prompt_tokens_details": {"cached_tokens": 4, "audio_tokens": None},
    "completion_tokens_details": {"reasoning_tokens": 2},
}
PIECES = st.lists(st.text(min_size=1, max_size=6), max_size=4)
CALLS = st.lists(st.tuples(st.text("abc", min_size=1, max_size=4), PIECES), max_size=3)
REASONS = st.sampled_from(["stop", "tool_calls", "length", "content_filter"])


def asking(**fields: Any) -> Asking:
    caller = Caller("req_ab12", "key_1", {}, log_content=True)
    return read_response({"model": "auto", "input": "Hello", **fields}, (), {}, caller)[1]


def token(text: str) -> dict[str, Any]:
    return {"token": text, "logprob": -0.5, "bytes": list(text.encode()), "top_logprobs": []}


def whole(said: list[str], refused: list[str], calls: list[tuple[str, list[str]]], reason: str) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": "".join(said) or None}
    message["refusal"] = "".join(refused) or None
    if calls:
        message["tool_calls"] = [
            {"id": f"call_{i}", "type": "function", "function": {"name": name, "arguments": "".join(pieces)}}
            for i, (name, pieces) in enumerate(calls)
        ]
    choice = {"index": 0, "message": message, "finish_reason": reason, "logprobs": {"content": [*map(token, said)]}}
    return {"model": "m-1", "choices": [choice], "usage": USAGE, "service_tier": "flex"}


def chunk(delta: dict[str, Any], reason: str | None = None, tokens: Iterable[str] = ()) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": reason, "logprobs": {"content": [*map(token, tokens)]}}
    return {"model": "m-1", "service_tier": "flex", "choices": [choice]}


def chunks(
    said: list[str], refused: list[str], calls: list[tuple[str, list[str]]], reason: str
) -> Iterable[dict[str, Any]]:
    yield chunk({"role": "assistant", "content": ""})
    for piece in said:
        yield chunk({"content": piece}, tokens=[piece])
    for piece in refused:
        yield chunk({"refusal": piece})
    for i, (name, _) in enumerate(calls):
        function = {"name": name, "arguments": ""}
        yield chunk({"tool_calls": [{"index": i, "id": f"call_{i}", "type": "function", "function": function}]})
    # side by side: every call's first piece, then every call's second
    for turn in range(4):
        grown = [(i, pieces[turn]) for i, (_, pieces) in enumerate(calls) if turn < len(pieces)]
        yield chunk({"tool_calls": [{"index": i, "function": {"arguments": piece}} for i, piece in grown]})
    yield chunk({}, reason)
    yield {"model": "m-1", "choices": [], "usage": USAGE}


def events(data: bytes) -> list[dict[str, Any]]:
    found = []
    for block in data.split(b"\n\n"):
        if block:
            assert block.startswith(b"event: ")
            found.append(json.loads(event_data(block + b"\n\n") or b""))
            assert block.partition(b"\n")[0] == b"event: " + found[-1]["type"].encode()
    return found


def streamed(parts: Iterable[dict[str, Any]], of: Asking) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    ended: list[dict[str, Any]] = []
    translation = ResponseTranslation(of, ended.append)
    data = b"".join([translation.read(part) for part in parts])
    data += b"".join(translation.finish())
    return events(data), ended[0]


def lasting(response: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in response.items() if name != "completed_at"}


@settings(max_examples=150, deadline=None)
@given(PIECES, PIECES, CALLS, REASONS)
def test_a_stream_ends_in_the_response_that_a_whole_answer_is(said, refused, calls, reason):
    of = asking()
    expected = from_chat(of, whole(said, refused, calls, reason))
    _, ended = streamed(chunks(said, refused, calls, reason), of)
    assert lasting(ended) == lasting(expected)
    assert ended["status"] == ("incomplete" if reason in ("length", "content_filter") else "completed")
    Response.model_validate(expected)


@settings(max_examples=100, deadline=None)
@given(PIECES, PIECES, CALLS, REASONS)
def test_the_events_are_in_order_and_add_up(said, refused, calls, reason):
    seen, ended = streamed(chunks(said, refused, calls, reason), asking())
    assert [event["sequence_number"] for event in seen] == list(range(len(seen)))
    assert [event["type"] for event in seen[:2]] == ["response.created", "response.in_progress"]
    assert seen[-1]["response"] == ended
    grown: dict[int, str] = {}
    done: dict[int, dict[str, Any]] = {}
    for event in seen:
        EVENT.validate_python(event)
        if event["type"] == "response.output_item.added":
            assert event["output_index"] == len(grown)
            grown[event["output_index"]] = ""
        elif event["type"].endswith(".delta"):
            assert event["output_index"] not in done
            grown[event["output_index"]] += event["delta"]
        elif event["type"] == "response.output_item.done":
            done[event["output_index"]] = event["item"]
    assert [done[n] for n in range(len(grown))] == ended["output"]
    for n, item in done.items():
        parts = item.get("content") or [{"text": item.get("arguments", "")}]
        assert grown[n] == "".join(part.get("text", part.get("refusal", "")) for part in parts)


def test_the_usage_is_counted_as_responses_do():
    usage = from_chat(asking(), whole(["hi"], [], [], "stop"))["usage"]
    assert usage == {
        "input_tokens": 11,
        "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0},
        "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 2},
        "total_tokens": 16,
    }


def test_the_request_is_repeated_where_openai_does():
    of = asking(instructions="Be kind.", metadata={"a": "b"}, temperature=0.3, max_output_tokens=7, tools=[])
    response = from_chat(of, whole(["hi"], [], [], "stop"))
    assert (response["id"], response["model"], response["service_tier"]) == ("resp_ab12", "m-1", "flex")
    named = ("instructions", "metadata", "temperature", "max_output_tokens", "truncation", "store")
    assert [response[name] for name in named] == ["Be kind.", {"a": "b"}, 0.3, 7, "disabled", True]


def test_a_cut_answer_says_why():
    assert from_chat(asking(), whole(["hi"], [], [], "length"))["incomplete_details"] == {
        "reason": "max_output_tokens"
    }


def test_text_after_a_call_is_a_message_of_its_own():
    called = {"index": 0, "id": "c", "function": {"name": "f", "arguments": "{}"}}
    parts = [chunk({"content": "a"}), chunk({"tool_calls": [called]}), chunk({"content": "b"}), chunk({}, "stop")]
    _, ended = streamed(parts, asking())
    assert [item["type"] for item in ended["output"]] == ["message", "function_call", "message"]


def test_tokens_that_came_before_their_text_are_not_lost():
    parts = [chunk({"content": ""}, tokens=["x"]), chunk({"content": "é"}, tokens=["y"]), chunk({}, "stop")]
    _, ended = streamed(parts, asking())
    assert [token["token"] for token in ended["output"][0]["content"][0]["logprobs"]] == ["x", "y"]


def test_only_the_first_choice_is_told():
    other = {"choices": [{"index": 1, "delta": {"content": "no"}}]}
    _, ended = streamed([other, chunk({"content": "yes"}, "stop")], asking())
    assert ended["output"][0]["content"][0]["text"] == "yes"


async def _gives(parts: Iterable[bytes], closed: list[bool]) -> AsyncGenerator[bytes, None]:
    try:
        for part in parts:
            yield part
    finally:
        closed.append(True)


ERROR = {
    "error": {"message": "The stream broke off.", "type": "server_error", "code": "upstream_error", "param": None}
}


@pytest.mark.parametrize("begun", [False, True])
async def test_a_stream_that_breaks_ends_in_a_failed_response(begun: bool):
    parts = [frame(encode(chunk({"content": "half"})))] if begun else []
    ended: list[dict[str, Any]] = []
    closed: list[bool] = []
    inner = _gives([*parts, frame(encode(ERROR))], closed)
    seen = events(b"".join([event async for event in translated(ResponseTranslation(asking(), ended.append), inner)]))
    assert [event["type"] for event in seen][:2] == ["response.created", "response.in_progress"]
    last = EVENT.validate_python(seen[-1])
    assert (last.type, last.response.status) == ("response.failed", "failed")
    assert last.response.error.message == "The stream broke off."
    assert (ended, closed) == ([], [True])


async def test_comments_pass_and_the_response_is_handed_over_before_the_last_event():
    ended: list[dict[str, Any]] = []
    inner = _gives([b": ping\n\n", frame(encode(chunk({"content": "hi"}, "stop"))), frame(DONE)], [])
    seen = []
    stream = translated(ResponseTranslation(asking(), ended.append), inner)
    assert await anext(stream) == b""
    async for event in stream:
        seen.append(event)
        assert bool(ended) == event.startswith(b"event: response.completed\n")
    assert seen[0] == b": ping\n\n"
    assert b"[DONE]" not in b"".join(seen)


@pytest.mark.parametrize("read", [1, 2])
async def test_who_leaves_closes_what_is_read(read: int):
    closed: list[bool] = []
    inner = _gives([b"", *[frame(encode(chunk({"content": "hi"})))] * 3], closed)
    await anext(inner)  # a relay hands over what has begun
    stream = translated(ResponseTranslation(asking(), [].append), inner)
    for _ in range(read):
        await anext(stream)
    await stream.aclose()
    await asyncio.sleep(0)
    assert closed == [True]
