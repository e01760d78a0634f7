"""Cutting a byte stream into events."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import sse

PIECES = st.sampled_from(
    [b"data: x", b"data:", b"\n", b"\r", b"\r\n", b"\n\n", b"\r\n\r\n", b":", b"id: 1", b"\xff", b" "]
)
STREAMS = st.lists(st.one_of(PIECES, st.binary(max_size=5)), max_size=40).map(b"".join)


def cut(stream: bytes, at: list[int]) -> list[bytes]:
    ends = sorted({min(i, len(stream)) for i in at} | {len(stream)})
    return [stream[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def events_of(chunks: list[bytes]) -> list[bytes]:
    async def arriving() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk

    async def read() -> list[bytes]:
        return [event async for batch in sse.batches(arriving()) for event in batch]

    return asyncio.run(read())


@settings(max_examples=300, deadline=None)
@given(STREAMS, st.lists(st.integers(0, 200), max_size=30))
def test_any_chunking_gives_the_same_events_which_joined_are_the_stream(stream: bytes, at: list[int]):
    events = events_of(cut(stream, at))
    assert events == events_of([stream])
    assert b"".join(events) == stream
    assert all(sse.is_whole(event) for event in events[:-1])


@settings(max_examples=100, deadline=None)
@given(STREAMS, st.integers(0, 200))
def test_an_event_ends_at_its_first_blank_line(stream: bytes, at: int):
    for event in events_of(cut(stream, [at])):
        body = event[:-1]
        assert b"\n\n" not in body
        assert b"\r\n\r\n" not in body


@given(st.binary().filter(lambda data: not {b"\n", b"\r"} & {bytes([c]) for c in data}))
def test_a_framed_line_is_read_back(data: bytes):
    assert sse.event_data(sse.frame(data)) == data


@pytest.mark.parametrize(
    ("event", "data"),
    [
        (b": comment\n\n", None),
        (b"event: x\nid: 1\n\n", None),
        (b"data: a\ndata: b\n\n", b"a\nb"),
        (b"data:a\r\ndata:  b\r\n\r\n", b"a\n b"),
        (b"data\n\n", None),
        (b"event: x\ndata: [DONE]\n\n", b"[DONE]"),
    ],
)
def test_the_data_of_an_event_is_that_of_its_data_lines(event: bytes, data: bytes | None):
    assert sse.event_data(event) == data


def test_an_event_beyond_the_bound_is_refused():
    with pytest.raises(sse.EventTooLarge):
        events_of([b"x" * (1024 * 1024)] * 9)
