"""Reading a request: whatever comes in, a call or an error for the client comes out."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.answer import Answer
from gateway.bodies import explore_body, student_body, teacher_body
from gateway.call import Call, Caller, Pricing, read_call
from gateway.errors import ApiError
from gateway.metrics import Metrics
from gateway.recorder import Recorder
from gateway.upstream import Upstream, open_client
from gateway.wire import MAX_DEPTH, NotJson, decode_object, encode
from ledger.ingest import Ingester
from ledger.prices import Price
from ledger.requests import count
from ledger.spool import SpoolWriter
from ledger.store import open_store, sqlite_url
from router.policy import Capabilities, decide

CALLER = Caller("req_1", "key_1", {"gpt-4o": "auto", "mini": "student"}, log_content=True)
UPSTREAM = Upstream("teacher", "http://t/v1", "frontier", None, open_client().timeout)
PRICES = Pricing(Price(), Price())

FINITE = st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | FINITE | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=10,
)
ODD = {
    "stream_options": JSON, "logprobs": JSON, "n": JSON, "tools": JSON, "store": JSON, "response_format": JSON,
    "max_tokens": JSON | st.sampled_from([2**70, -(2**70)]), "seed": st.integers(), "x": JSON,
}  # fmt: skip
MESSAGE = st.dictionaries(st.sampled_from(["role", "content", "tool_calls"]), JSON, max_size=3)
WILD = st.fixed_dictionaries(
    {},
    optional=ODD
    | {
        "model": st.sampled_from(["auto", "student", "gpt-4o", "mini", "other"]) | JSON,
        "messages": st.lists(MESSAGE | JSON, max_size=3) | JSON,
        "stream": JSON,
        "top_logprobs": JSON | st.integers(),
    },
)
TAKEN = st.fixed_dictionaries(
    {
        "model": st.sampled_from(["auto", "student", "gpt-4o", "mini"]),
        "messages": st.lists(MESSAGE, min_size=1, max_size=3),
    },
    optional=ODD | {"stream": st.booleans() | st.none(), "top_logprobs": st.integers(0, 20) | st.none()},
)
HEADERS = st.dictionaries(
    st.sampled_from(
        ["x-stillroom-route", "x-stillroom-log", "x-stillroom-tags", "traceparent", "tracestate", "openai-project"]
    ),
    st.sampled_from(["auto", "teacher", "off", "on", "a,b", ""]) | st.text(max_size=20),
)


@pytest.fixture(scope="module")
def recorder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorder]:
    """A recorder whose whole spool is in the store in the end."""
    home = tmp_path_factory.mktemp("recorder")
    store, spool, metrics = open_store(sqlite_url(home)), SpoolWriter(home / "spool"), Metrics()
    recorder = Recorder(spool, Ingester(home / "spool", store), metrics)
    yield recorder
    asyncio.run(recorder.finish())
    assert spool.failures == 0
    assert b"stillroom_store_reachable 1.0" in metrics.render()
    assert count(store) == 1  # one id
    store.close()


def read(raw: bytes, headers: dict[str, str] | None = None) -> Call | None:
    """The call, or None for a request that is refused; nothing else is raised."""
    try:
        return read_call(raw, headers or {}, CALLER)
    except ApiError as error:
        assert error.status in (400, 404)
        assert error.message
        return None


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), HEADERS)
def test_arbitrary_bytes_are_refused_and_nothing_else_happens(raw: bytes, headers: dict[str, str]):
    read(raw, headers)


@settings(max_examples=300, deadline=None)
@given(WILD, HEADERS)
def test_odd_values_are_refused_and_nothing_else_happens(fields: dict[str, Any], headers: dict[str, str]):
    read(json.dumps(fields).encode(), headers)


@settings(max_examples=300, deadline=None)
@given(TAKEN, HEADERS)
def test_every_call_that_is_taken_can_be_routed_asked_and_recorded(
    recorder: Recorder, fields: dict[str, Any], headers: dict[str, str]
):
    headers = {name: value for name, value in headers.items() if not name.startswith("x-") or name.endswith("tags")}
    call = read(json.dumps(fields).encode(), headers)
    assert call is not None
    decide(call.view, None, Capabilities(100))
    for body in (
        student_body(call, UPSTREAM),
        teacher_body(call, UPSTREAM, 20),
        explore_body(call, UPSTREAM, 20),
    ):
        assert decode_object(encode(body))["model"] == "frontier"
    recorder.record(call.record(Answer(), PRICES, 200, None))
    assert all(value.isascii() for value in call.forwarded.values())
    assert len(call.tags) <= 20


@given(TAKEN)
def test_the_fields_of_the_body_reach_the_upstream_as_they_came(fields: dict[str, Any]):
    raw = json.dumps(fields | {"stream": False}).encode()
    call = read(raw)
    assert call is not None
    assert decode_object(encode(teacher_body(call, UPSTREAM, 0))) == decode_object(raw) | {"model": "frontier"}


@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_nesting_is_bounded(opening: bytes, closing: bytes):
    def nested(levels: int) -> bytes:
        return b'{"x":' + opening * levels + b"1" + closing * levels + b"}"

    assert decode_object(nested(MAX_DEPTH - 1))
    for levels in (MAX_DEPTH, 500, 2_000, 200_000):
        with pytest.raises(NotJson):
            decode_object(nested(levels))


def test_a_wide_body_is_not_taken_for_a_deep_one():
    body = {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]} for _ in range(10_000)]}
    assert decode_object(json.dumps(body).encode()) == body


@pytest.mark.parametrize(
    ("model", "header", "target"),
    [
        ("auto", None, "auto"), ("auto", "student", "student"), ("gpt-4o", "teacher", "teacher"),
        ("gpt-4o", None, "auto"), ("mini", "teacher", "student"), ("teacher", "student", "teacher"),
    ],
)  # fmt: skip
def test_a_named_model_goes_before_the_header(model: str, header: str | None, target: str):
    body = {"model": model, "messages": [{"role": "user", "content": "x"}]}
    call = read(json.dumps(body).encode(), {"x-stillroom-route": header} if header else {})
    assert call is not None
    assert (call.target, call.model) == (target, model)


def test_tags_are_bounded():
    body = json.dumps({"model": "auto", "messages": [{"role": "user", "content": "x"}]}).encode()
    call = read(body, {"x-stillroom-tags": ",".join(["t" * 500] * 50)})
    assert call is not None
    assert [len(tag) for tag in call.tags] == [100] * 20
