"""The short way of a chunk of text: the same for the client and for the ledger as the long one, or not taken."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import streams
from gateway.answer import Answer, Asked
from gateway.chunks import read_text, read_whole
from gateway.sse import frame

NOT_ASKED = Asked(False, 0, False)
TOKEN = {"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": [{"token": "a", "logprob": -0.5}]}
BASE = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}


def chunk(delta: dict[str, Any], **fields: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, **fields.pop("choice", {})}
    return {**BASE, "choices": [choice], **fields}


def written(body: dict[str, Any]) -> bytes:
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()


def both_ways(data: bytes) -> tuple[Any, Any]:
    """Events and answers of the short and the long way."""
    short, long = Answer(), Answer()
    taken = read_text(NOT_ASKED, short, [frame(data)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "read_text", lambda *_: None)
        shown = streams._shown("student", NOT_ASKED, long, frame(data), data)
    return (taken, short), (shown, long)


def payloads(events: bytes) -> list[Any]:
    return [json.loads(event.removeprefix(b"data: ")) for event in events.split(b"\n\n") if event]


COMMON = {
    "text alone": chunk({"content": "hi"}),
    "role and text": chunk({"role": "assistant", "content": ""}),
    "log-probabilities": chunk({"content": "a"}, choice={"logprobs": {"content": [TOKEN]}, "finish_reason": None}),
    "running usage": chunk({"content": "a"}, usage={"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}),
    "no usage yet": chunk({"content": "a"}, usage=None),
    "no log-probabilities": chunk({"content": "a"}, choice={"logprobs": None}),
    "empty log-probabilities": chunk({"content": "a"}, choice={"logprobs": {"content": None}}),
    "its end": chunk({}, choice={"finish_reason": "stop"}),
    "usage alone": {**BASE, "choices": [], "usage": {"prompt_tokens": 3}},
    "all of it": chunk(
        {"content": "a"},
        choice={"logprobs": {"content": [TOKEN]}},
        usage={"prompt_tokens": 3, "completion_tokens": 1},
    ),
}


@pytest.mark.parametrize("body", COMMON.values(), ids=COMMON)
def test_a_chunk_of_text_is_read_and_shown_as_the_long_way_does(body: dict[str, Any]):
    (taken, short), (shown, long) = both_ways(written(body))
    assert taken is not None
    assert payloads(taken) == payloads(shown)
    assert short == long


@given(st.lists(st.sampled_from([*COMMON.values()]), min_size=1, max_size=8))
def test_events_that_came_together_are_read_as_one_after_another(bodies: list[dict[str, Any]]):
    """Those of other kinds among them, too: then all go the long way."""
    events = [frame(written(body)) for body in bodies]
    together, each = Answer(), Answer()
    taken = read_text(NOT_ASKED, together, events)
    pieces = [read_text(NOT_ASKED, each, [event]) for event in events]
    assert taken == b"".join(piece or b"" for piece in pieces)
    assert together == each
    for other in ANOTHER_KIND.values():
        answer = Answer()
        assert read_text(NOT_ASKED, answer, [*events, frame(written(other))]) is None
        assert answer == Answer()


@pytest.mark.parametrize("odd", [b": ping\n\n", b"event: x\ndata: {}\n\n", b"data: {}\r\n\r\n", b"data: {}"])
def test_events_of_more_than_one_line_of_data_are_left_to_the_long_way(odd: bytes):
    answer = Answer()
    event = frame(written(COMMON["text alone"]))
    for events in ([odd], [event, odd], [odd, event]):
        assert read_text(NOT_ASKED, answer, events) is None
    assert answer == Answer()


def whole(message: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {**BASE, "choices": [{"index": 0, "message": message, "finish_reason": "stop", **fields}], "usage": USAGE}


USAGE = {"prompt_tokens": 3, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 2}}
WHOLE = {
    "text": whole({"role": "assistant", "content": "hi", "refusal": None, "tool_calls": []}),
    "with log-probabilities": whole({"content": "a"}, logprobs={"content": [TOKEN]}),
    "with none": whole({"content": "a"}, logprobs=None),
    "with a call": whole(
        {"content": None, "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": "{}"}}]}
    ),
    "with another": {"choices": [*whole({"content": "a"})["choices"], {"index": 1, "message": {"content": "b"}}]},
    "with odd log-probabilities": whole({"content": "a"}, logprobs={"content": [TOKEN, {"logprob": "x"}, 7]}),
    "without a choice": {**BASE, "choices": []},
}


@given(st.sampled_from([*WHOLE.values()]), st.booleans(), st.booleans(), st.booleans())
def test_a_whole_answer_is_read_and_shown_the_same_by_the_short_way(
    body: dict[str, Any], spaced: bool, logprobs: bool, usage: bool
):
    asked, short, long = Asked(logprobs, 0, usage), Answer(), Answer()
    raw = json.dumps(body).encode() if spaced else written(body)
    shown = read_whole(asked, short, raw)
    again = json.loads(raw)
    long.read(again)
    changed = long.hide(again, asked)
    assert json.loads(shown) == again
    assert short == long
    assert (shown is raw) == (not changed)


@given(st.text(), st.booleans(), st.booleans())
def test_no_text_is_taken_for_what_is_cut_out(text: str, logprobs: bool, usage: bool):
    text += '"logprobs":null,"usage":{"prompt_tokens":3}'
    body = chunk(
        {"content": text},
        choice={"logprobs": {"content": [TOKEN]}} if logprobs else {},
        **({"usage": {"prompt_tokens": 3}} if usage else {}),
    )
    (taken, short), (shown, long) = both_ways(json.dumps(body, separators=(",", ":")).encode())
    assert taken is not None
    assert payloads(taken) == payloads(shown)
    assert short == long
    assert short.text == text


ANOTHER_KIND = {
    "a tool call": chunk({"content": "", "tool_calls": [{"index": 0}]}),
    "another choice": chunk({"content": "a"}, choice={"index": 1}),
    "an error": chunk({"content": "a"}, error={"message": "no"}),
    "two choices": {**BASE, "choices": [{"index": 0, "delta": {"content": "a"}}, {"index": 1, "delta": {}}]},
    "nothing": {**BASE, "choices": []},
    "thoughts": chunk({"content": "a", "reasoning": "hm"}),
}


@pytest.mark.parametrize("body", ANOTHER_KIND.values(), ids=ANOTHER_KIND)
def test_another_event_is_left_to_the_long_way_and_nothing_of_it_is_read(body: dict[str, Any]):
    answer = Answer()
    assert read_text(NOT_ASKED, answer, [frame(written(body))]) is None
    assert answer == Answer()


def test_what_is_not_json_or_written_with_spaces_is_left_to_the_long_way():
    spaced = json.dumps(COMMON["all of it"]).encode()
    for data in (b"", b"[DONE]", b'{"choices":', b"\xff", b"[" * 100_000, spaced):
        answer = Answer()
        assert read_text(NOT_ASKED, answer, [frame(data)]) is None
        assert answer == Answer()


@pytest.mark.parametrize("asked", [Asked(True, 2, False), Asked(False, 0, True), Asked(False, 0, False, True)])
def test_a_client_that_asked_for_more_takes_the_long_way(asked: Asked):
    assert read_text(asked, Answer(), [frame(written(COMMON["all of it"]))]) is None
