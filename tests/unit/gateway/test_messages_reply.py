"""A chat's answer as a message of Anthropic's: whole and as events, which come to the same."""

import json
from collections.abc import AsyncGenerator, Iterable
from typing import Any

import pytest
from anthropic.types import Message, RawMessageStreamEvent
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from gateway.call import Caller
from gateway.messages.events import MessageTranslation
from gateway.messages.reply import from_chat
from gateway.messages.request import Asking, read_message
from gateway.sse import DONE, event_data, frame
from gateway.translated import translated
from gateway.wire import encode

EVENT: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)
USAGE = {
    "prompt_tokens": 11,
    "completion_tokens": 5,
    "total_tokens": 16,
    "prompt_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 3},
    "completion_tokens_details": {"reasoning_tokens": 2},
}
PIECES = st.lists(st.text(min_size=1, max_size=6), max_size=4)
ARGUMENTS = st.dictionaries(st.text(max_size=3), st.integers(), max_size=2).map(json.dumps)
CALLS = st.lists(
    st.tuples(st.text("abc", min_size=1, max_size=4), PIECES | ARGUMENTS.map(lambda text: [text[:4], text[4:]])),
    max_size=3,
)
REASONS = st.sampled_from(["stop", "tool_calls", "length", "content_filter"])


def asking(**fields: Any) -> Asking:
    caller = Caller("req_ab12", "key_1", {}, log_content=True)
    body = {"model": "auto", "max_tokens": 9, "messages": [{"role": "user", "content": "Hello"}], **fields}
    return read_message(body, {}, caller)[1]


def whole(message: dict[str, Any], reason: str = "stop", **choice: Any) -> dict[str, Any]:
    said = {"index": 0, "message": message, "finish_reason": reason, **choice}
    return {"model": "m-1", "choices": [said], "usage": USAGE}


def chunk(delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
    return {"model": "m-1", "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}


def chunks(
    thought: list[str], said: list[str], calls: list[tuple[str, list[str]]], reason: str, side_by_side: bool
) -> Iterable[dict[str, Any]]:
    yield chunk({"role": "assistant", "content": ""})
    yield from [chunk({"reasoning": piece}) for piece in thought]
    yield from [chunk({"content": piece}) for piece in said]
    begun = [
        chunk({"tool_calls": [{"index": i, "id": f"call_{i}", "function": {"name": name, "arguments": ""}}]})
        for i, (name, _) in enumerate(calls)
    ]
    grown = [
        [chunk({"tool_calls": [{"index": i, "function": {"arguments": piece}}]}) for piece in pieces]
        for i, (_, pieces) in enumerate(calls)
    ]
    if side_by_side:
        yield from begun
        for turn in range(4):
            yield from [parts[turn] for parts in grown if turn < len(parts)]
    else:
        for first, parts in zip(begun, grown, strict=True):
            yield from [first, *parts]
    yield chunk({}, reason)
    yield {"model": "m-1", "choices": [], "usage": USAGE}


def events(data: bytes) -> list[dict[str, Any]]:
    found = []
    for block in data.split(b"\n\n"):
        if block:
            found.append(json.loads(event_data(block + b"\n\n") or b""))
            assert block.partition(b"\n")[0] == b"event: " + found[-1]["type"].encode()
    return found


def put_together(seen: list[dict[str, Any]]) -> dict[str, Any]:
    """The message that a client makes of the events; blocks must grow one after another."""
    message, open_block, written = seen[0]["message"], None, ""
    for event in seen[1:]:
        if event["type"] == "content_block_start":
            assert (open_block, event["index"]) == (None, len(message["content"]))
            open_block, written = event["index"], ""
            message["content"].append(event["content_block"])
        elif event["type"] == "content_block_delta":
            assert event["index"] == open_block
            kind = message["content"][-1]["type"]
            if kind == "tool_use":
                written += event["delta"]["partial_json"]
            else:
                message["content"][-1][kind] += event["delta"][kind]
        elif event["type"] == "content_block_stop":
            assert event["index"] == open_block
            if message["content"][-1]["type"] == "tool_use":
                message["content"][-1]["input"] = as_input(written)
            open_block = None
        elif event["type"] == "message_delta":
            message |= event["delta"] | {"usage": event["usage"]}
    assert (open_block, seen[-1]["type"]) == (None, "message_stop")
    return message


def as_input(written: str) -> Any:
    try:
        read = json.loads(written or "{}")
    except ValueError:
        read = None
    return read if isinstance(read, dict) else {"INVALID_JSON": written}


@settings(max_examples=200, deadline=None)
@given(PIECES, PIECES, CALLS, REASONS, st.booleans(), st.booleans())
def test_a_stream_comes_to_the_message_that_a_whole_answer_is(thought, said, calls, reason, side_by_side, shown):
    of = asking(thinking={"type": "enabled" if shown else "disabled"})
    message: dict[str, Any] = {"content": "".join(said) or None, "reasoning": "".join(thought) or None}
    message["tool_calls"] = [
        {"id": f"call_{i}", "type": "function", "function": {"name": name, "arguments": "".join(pieces)}}
        for i, (name, pieces) in enumerate(calls)
    ]
    expected = from_chat(of, whole(message, reason))
    translation = MessageTranslation(of)
    data = b"".join([translation.read(part) for part in chunks(thought, said, calls, reason, side_by_side)])
    seen = events(data + b"".join(translation.finish()))
    assert put_together(seen) == expected
    Message.model_validate(expected)
    for event in seen:
        if event["type"] != "ping":
            EVENT.validate_python(event)


def test_calls_that_come_one_after_another_are_streamed_as_they_come():
    translation = MessageTranslation(asking())
    seen = []
    for part in chunks([], [], [("a", ['{"x":', "1}"]), ("b", ['{"y":', "2}"])], "tool_calls", side_by_side=False):
        seen += [event["type"] for event in events(translation.read(part))]
    assert seen.count("content_block_start") == 2
    assert seen.count("content_block_delta") == 4


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        pytest.param({"finish_reason": "stop"}, ("end_turn", None), id="its turn is over"),
        pytest.param({"finish_reason": "length"}, ("max_tokens", None), id="cut short"),
        pytest.param({"finish_reason": "content_filter"}, ("refusal", None), id="filtered"),
        pytest.param({"finish_reason": "stop", "stop_reason": "END"}, ("stop_sequence", "END"), id="as vLLM says"),
        pytest.param({"finish_reason": "stop", "stop_reason": "<eos>"}, ("end_turn", None), id="not the client's"),
        pytest.param({"finish_reason": "stop", "stop_reason": 128001}, ("end_turn", None), id="a token"),
        pytest.param({"finish_reason": "new"}, ("end_turn", None), id="unknown"),
    ],
)
def test_why_an_answer_is_over_has_anthropics_name(choice: dict[str, Any], expected: tuple[str, str | None]):
    of = asking(stop_sequences=["END"])
    message = from_chat(of, whole({"content": "Hi"}) | {"choices": [{"message": {"content": "Hi"}, **choice}]})
    assert (message["stop_reason"], message["stop_sequence"]) == expected
    translation = MessageTranslation(of)
    translation.read({"choices": [{"delta": {"content": "Hi"}, **choice}]})
    delta = events(b"".join(translation.finish()))[-2]["delta"]
    assert (delta["stop_reason"], delta["stop_sequence"]) == expected


def test_a_refusal_is_a_text_and_says_so():
    message = from_chat(asking(), whole({"content": None, "refusal": "I will not."}))
    assert (message["content"], message["stop_reason"]) == ([{"type": "text", "text": "I will not."}], "refusal")


def test_tokens_of_a_cache_are_counted_once():
    usage = from_chat(asking(), whole({"content": "Hi"}))["usage"]
    assert usage == {
        "input_tokens": 4,
        "cache_creation_input_tokens": 3,
        "cache_read_input_tokens": 4,
        "output_tokens": 5,
        "output_tokens_details": {"thinking_tokens": 2},
    }


def test_a_call_without_an_id_has_one_of_ours():
    calls = [{"function": {"name": "locate", "arguments": "{}"}}] * 2
    ids = [block["id"] for block in from_chat(asking(), whole({"tool_calls": calls}))["content"]]
    assert ids == ["toolu_ab120", "toolu_ab121"]


async def _gives(*parts: bytes) -> AsyncGenerator[bytes, None]:
    for part in parts:
        yield part


@pytest.mark.parametrize("begun", [False, True])
async def test_a_stream_that_breaks_ends_in_an_error(begun: bool):
    error = {"error": {"message": "It broke off.", "type": "server_error", "code": "upstream_error", "param": None}}
    parts = [frame(encode(chunk({"content": "half"})))] if begun else []
    stream = translated(MessageTranslation(asking()), _gives(*parts, frame(encode(error))))
    seen = events(b"".join([event async for event in stream]))
    assert [event["type"] for event in seen][:2] == ["message_start", "ping"]
    assert seen[-1] == {
        "type": "error",
        "error": {"type": "api_error", "message": "It broke off.", "details": {"error_code": "upstream_error"}},
        "request_id": "req_ab12",
    }


async def test_an_answer_of_nothing_is_a_message_of_no_blocks():
    stream = translated(MessageTranslation(asking()), _gives(frame(DONE)))
    message = put_together(events(b"".join([event async for event in stream])))
    assert (message["content"], message["stop_reason"], message["model"]) == ([], "end_turn", "auto")
