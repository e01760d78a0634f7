"""The short way of a chunk of text: the same for the client and for the ledger as the long one, or not taken."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import streams
from gateway.answer import Answer, Asked
from gateway.chunks import read_text_chunk
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
    taken = read_text_chunk(NOT_ASKED, short, data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "read_text_chunk", lambda *_: None)
        shown = streams._shown("student", NOT_ASKED, long, frame(data), data)
    return (taken, short), (shown, long)


COMMON = {
    "text alone": chunk({"content": "hi"}),
    "role and text": chunk({"role": "assistant", "content": ""}),
    "log-probabilities": chunk({"content": "a"}, choice={"logprobs": {"content": [TOKEN]}, "finish_reason": None}),
    "running usage": chunk({"content": "a"}, usage={"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}),
    "no usage yet": chunk({"content": "a"}, usage=None),
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
    assert json.loads(taken[6:]) == json.loads(shown[6:])
    assert short == long


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
    assert json.loads(taken[6:]) == json.loads(shown[6:])
    assert short == long
    assert short.text == text


ANOTHER_KIND = {
    "a tool call": chunk({"content": "", "tool_calls": [{"index": 0}]}),
    "its end": chunk({"content": "a"}, choice={"finish_reason": "stop"}),
    "another choice": chunk({"content": "a"}, choice={"index": 1}),
    "an error": chunk({"content": "a"}, error={"message": "no"}),
    "two choices": {**BASE, "choices": [{"index": 0, "delta": {"content": "a"}}, {"index": 1, "delta": {}}]},
    "usage alone": {**BASE, "choices": [], "usage": {"prompt_tokens": 3}},
    "thoughts": chunk({"content": "a", "reasoning": "hm"}),
}


@pytest.mark.parametrize("body", ANOTHER_KIND.values(), ids=ANOTHER_KIND)
def test_another_event_is_left_to_the_long_way_and_nothing_of_it_is_read(body: dict[str, Any]):
    answer = Answer()
    assert read_text_chunk(NOT_ASKED, answer, written(body)) is None
    assert answer == Answer()


def test_what_is_not_json_or_written_with_spaces_is_left_to_the_long_way():
    spaced = json.dumps(COMMON["all of it"]).encode()
    for data in (b"", b"[DONE]", b'{"choices":', b"\xff", b"[" * 100_000, spaced):
        answer = Answer()
        assert read_text_chunk(NOT_ASKED, answer, data) is None
        assert answer == Answer()


@pytest.mark.parametrize("asked", [Asked(True, 2, False), Asked(False, 0, True), Asked(False, 0, False, True)])
def test_a_client_that_asked_for_more_takes_the_long_way(asked: Asked):
    assert read_text_chunk(asked, Answer(), written(COMMON["all of it"])) is None
