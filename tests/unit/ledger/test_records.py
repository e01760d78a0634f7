"""Records and their content: what goes into the spool and the store comes back the same."""

import threading

import msgspec
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.records import (
    MAX_CONTENT_BYTES,
    Content,
    RequestRecord,
    decode_content,
    decode_record,
    encode_content,
    encode_record,
    nano,
)
from tests.unit.ledger.rows import CONTENT, INT64, row

RECORD = st.builds(
    RequestRecord,
    id=st.text(),
    created_at=INT64,
    key_id=st.none() | st.text(),
    route=st.text(),
    reason=st.text(),
    score=st.none() | st.floats(allow_nan=False),
    propensity=st.floats(allow_nan=False),
    status=INT64,
    error_code=st.none() | st.text(),
    stream=st.booleans(),
    prompt_tokens=INT64,
    cost_nano=INT64,
    latency_ms=st.floats(allow_nan=False),
    first_token_ms=st.none() | st.floats(allow_nan=False),
    tags=st.lists(st.text(), max_size=3),
    trainable=st.booleans(),
    content=st.none() | CONTENT,
)


@settings(deadline=None)
@given(RECORD)
def test_a_record_comes_back_as_it_was_encoded(record):
    assert decode_record(encode_record(record)) == record


@settings(deadline=None)
@given(CONTENT)
def test_content_comes_back_as_it_was_compressed(content):
    assert decode_content(encode_content(content)) == content


@given(st.binary(max_size=200))
def test_bytes_that_are_no_record_raise_what_ingestion_expects(payload):
    try:
        record = decode_record(payload)
    except msgspec.MsgspecError:
        return
    assert isinstance(record, RequestRecord)


def test_content_with_an_integer_above_64_bits_is_left_out_and_the_row_is_kept():
    content = Content(messages=[{"role": "user", "content": "hello"}], parameters={"seed": 10**30})
    record = row("big", content=content)
    found = decode_record(encode_record(record))
    assert found == msgspec.structs.replace(record, content=None)


def test_threads_may_compress_and_read_content_at_once():
    contents = [Content(messages=[{"content": f"{i}" * 5_000}]) for i in range(20)]
    bodies = [encode_content(content) for content in contents]
    wrong: list[int] = []

    def work() -> None:
        for _ in range(40):
            for i, body in enumerate(bodies):
                if decode_content(body) != contents[i] or encode_content(contents[i]) != body:
                    wrong.append(i)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_body_that_is_no_zstd_frame_raises_and_gives_no_content():
    with pytest.raises(zstandard.ZstdError):
        decode_content(b"not compressed")


def test_text_that_repeats_is_kept_small():
    body = encode_content(Content(messages=[{"content": "the same words again " * 10_000}]))
    assert len(body) < 1_000 < MAX_CONTENT_BYTES


@given(st.integers(-(10**6), 10**6))
def test_whole_amounts_are_exact_in_nano_units(amount):
    assert nano(float(amount)) == amount * 10**9
