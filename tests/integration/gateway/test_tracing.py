"""OpenTelemetry traces at a real receiver: a span per request and attempt, the context passed on, and no harm."""

import contextlib
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

pytest.importorskip("opentelemetry.sdk")

from gateway.settings import EmbeddingsSettings, TracingSettings
from tests.gateway_fixtures import (
    EASY,
    HARD,
    RELEASE,
    SURE,
    TEACHER_KEY,
    UNSURE,
    World,
    chat_body,
    running_world,
    trust,
    wait_until,
)
from tests.otlp_receiver import OtlpReceiver, Seen
from tests.scripted_upstream import CACHED_TOKENS, FOREVER, PROMPT_TOKENS, Script

TRACE_ID, SPAN_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SENT = f"00-{TRACE_ID}-{SPAN_ID}-01"
HEADERS_ENV = "OTLP_HEADERS_OF_THE_TESTS"
CONTENT = "the canary sings at four"


@pytest.fixture(scope="module")
def receiver() -> Iterator[OtlpReceiver]:
    opened = OtlpReceiver()
    yield opened
    opened.close()


def traced(url: str, **fields):
    tracing = TracingSettings(endpoint=url, headers_env=HEADERS_ENV, **fields)

    def change(config):
        gateway = msgspec.structs.replace(config.gateway, tracing=tracing)
        embeddings = EmbeddingsSettings(base_url=config.teacher.base_url, model="embed", api_key_env="NONE")
        return replace(config, gateway=gateway, embeddings=embeddings)

    return change


@pytest.fixture(scope="module")
def traced_world(router, receiver: OtlpReceiver, tmp_path_factory) -> Iterator[World]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(HEADERS_ENV, "x-tenant=a%20b,authorization=Bearer%20otlp-secret")
        patch.setattr("gateway.tracing.DELAY_MS", 20.0)
        with running_world(tmp_path_factory.mktemp("traced"), router, traced(receiver.url)) as world:
            yield world


@pytest.fixture
def world(traced_world: World, receiver: OtlpReceiver) -> World:
    receiver.reset()
    trust(traced_world)
    traced_world.student.reset(Script(text="The student says good day.", logprob=SURE))
    traced_world.teacher.reset(Script(text="The teacher says good day."))
    return traced_world


def spans_of(receiver: OtlpReceiver, answer, attempts: int = 1) -> tuple[Seen, list[Seen]]:
    request_id = answer.headers["x-request-id"]

    def there() -> bool:
        requests, asked = receiver.of(request_id)
        return len(requests) == 1 and len(asked) == attempts

    wait_until(there)
    (request,), asked = receiver.of(request_id)
    assert {each.trace_id for each in asked} <= {request.trace_id}
    assert {each.parent_id for each in asked} <= {request.span_id}
    return request, asked


def is_sampled(traceparent: str) -> bool:
    # the flag beside it says that the id is random (W3C Trace Context level 2)
    return bool(int(traceparent.rpartition("-")[2], 16) & 1)


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_a_request_is_a_span_and_its_attempt_one_below_it(world: World, receiver: OtlpReceiver, stream: bool):
    answer = world.chat(EASY, stream=stream, max_tokens=50, temperature=0.5, seed=7)
    request, (attempt,) = spans_of(receiver, answer)
    assert (request.name, request.kind, request.parent_id, request.status) == ("chat auto", "SERVER", "", "UNSET")
    told = request.attributes
    cost = world.row(answer.headers["x-request-id"])["cost_nano"]
    expected = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "vllm",
        "gen_ai.request.model": "auto",
        "gen_ai.request.max_tokens": 50,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.seed": 7,
        "gen_ai.response.id": "chatcmpl-1",
        "gen_ai.response.model": "student",
        "gen_ai.usage.input_tokens": PROMPT_TOKENS,
        "gen_ai.usage.output_tokens": 5,
        "gen_ai.usage.cache_read.input_tokens": CACHED_TOKENS,
        "http.response.status_code": 200,
        "stillroom.route": "student",
        "stillroom.reason": "confident",
        "stillroom.release": RELEASE,
        "stillroom.cost_nano": cost,
    }
    assert told.items() >= expected.items()
    assert told["gen_ai.response.finish_reasons"] == ["stop"]
    assert told["stillroom.score"] > 0.5
    assert told.get("gen_ai.request.stream", False) == stream
    assert ("gen_ai.response.time_to_first_chunk" in told) == stream
    assert "error.type" not in told
    assert request.resource["service.name"] == "stillroom"
    assert (attempt.name, attempt.kind, attempt.status) == ("chat student", "CLIENT", "UNSET")
    assert attempt.attributes.items() >= {
        "gen_ai.provider.name": "vllm", "gen_ai.request.model": "student", "server.address": "localhost",
        "server.port": world.student.port, "stillroom.upstream": "student", "gen_ai.response.id": "chatcmpl-1",
    }.items()  # fmt: skip
    assert "gen_ai.usage.input_tokens" not in attempt.attributes, "tokens are counted once in a trace"


def test_a_replay_is_a_request_of_its_own_in_the_trace_of_who_asked(world: World, receiver: OtlpReceiver):
    request_id = world.chat(HARD).headers["x-request-id"]
    world.row(request_id)
    receiver.reset()
    url = f"{world.url}/admin/v1/requests/{request_id}/replay"
    headers = world.headers("admin") | {"traceparent": SENT}
    answer = world.client.post(url, json={"route": "student"}, headers=headers)
    assert answer.status_code == 200, answer.text
    request, (attempt,) = spans_of(receiver, answer)
    assert (request.trace_id, request.parent_id) == (TRACE_ID, SPAN_ID)
    assert request.attributes["stillroom.reason"] == "replay"
    assert attempt.attributes["stillroom.upstream"] == "student"
    assert world.student.seen[-1].headers["traceparent"].startswith(attempt.context)


def test_the_receiver_gets_the_headers_of_the_variable(world: World, receiver: OtlpReceiver):
    spans_of(receiver, world.chat(EASY))
    assert receiver.posted[0].headers["x-tenant"] == "a b"
    assert receiver.posted[0].headers["authorization"] == "Bearer otlp-secret"


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_a_clients_context_is_the_parent_and_each_upstream_gets_its_own_spans(
    world: World, receiver: OtlpReceiver, stream: bool
):
    world.student.script = Script(logprob=UNSURE)
    sent = {"traceparent": SENT, "tracestate": "vendor=1"}
    answer = world.chat(EASY, headers=sent, stream=stream)
    assert answer.headers["x-stillroom-reason"] == "low_confidence"
    request, attempts = spans_of(receiver, answer, 2)
    assert (request.trace_id, request.parent_id) == (TRACE_ID, SPAN_ID)
    by_upstream = {each.attributes["stillroom.upstream"]: each for each in attempts}
    for upstream, name in ((world.student, "student"), (world.teacher, "teacher")):
        assert upstream.seen[0].headers["traceparent"].startswith(by_upstream[name].context)
        assert upstream.seen[0].headers["tracestate"] == "vendor=1"
    assert request.attributes["gen_ai.provider.name"] == "openai"
    assert request.attributes["gen_ai.response.model"] == "frontier"
    assert request.attributes["stillroom.abandoned.output_tokens"] > 0


def test_a_context_that_is_none_is_dropped_whole(world: World, receiver: OtlpReceiver):
    answer = world.chat(HARD, headers={"traceparent": "00-ab-cd-01", "tracestate": "vendor=1"})
    request, (attempt,) = spans_of(receiver, answer)
    assert request.parent_id == ""
    assert world.teacher.seen[0].headers["traceparent"].startswith(attempt.context)
    assert "tracestate" not in world.teacher.seen[0].headers


def test_a_client_that_samples_no_trace_gets_none_and_that_is_passed_on(world: World, receiver: OtlpReceiver):
    world.chat(HARD, headers={"traceparent": f"00-{TRACE_ID}-{SPAN_ID}-00"})
    assert world.teacher.seen[0].headers["traceparent"].startswith(f"00-{TRACE_ID}-")
    assert not is_sampled(world.teacher.seen[0].headers["traceparent"])
    answer = world.chat(HARD)
    spans_of(receiver, answer)
    assert {span.trace_id for span in receiver.spans}.isdisjoint({TRACE_ID})


def test_every_attempt_has_a_span_with_what_went_wrong(world: World, receiver: OtlpReceiver):
    world.teacher.first = [Script(status=503)]
    answer = world.chat(HARD)
    assert answer.status_code == 200
    request, (failed, good) = spans_of(receiver, answer, 2)
    assert (failed.attributes["error.type"], failed.status) == ("busy", "ERROR")
    assert ("error.type" in good.attributes, good.status, request.status) == (False, "UNSET", "UNSET")
    assert failed.span_id != good.span_id
    for seen, attempt in zip(world.teacher.seen, (failed, good), strict=True):
        assert seen.headers["traceparent"].startswith(attempt.context)


def test_a_refusal_of_the_upstream_is_no_failure_of_the_gateway(world: World, receiver: OtlpReceiver):
    world.teacher.script = Script(status=400, body=b'{"error": {"message": "no"}}')
    request, (attempt,) = spans_of(receiver, world.chat(HARD))
    assert (request.attributes["error.type"], request.status) == ("upstream_refused", "UNSET")
    assert request.attributes["http.response.status_code"] == 400
    assert (attempt.attributes["error.type"], attempt.status) == ("400", "ERROR")


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_a_request_that_nobody_answers_is_an_error(world: World, receiver: OtlpReceiver, stream: bool):
    world.teacher.script = Script(raw=b"")
    answer = world.chat(model="teacher", stream=stream)
    assert answer.status_code == 503
    request, attempts = spans_of(receiver, answer, 3)
    assert request.status == "ERROR"
    assert request.attributes["error.type"] == "service_unavailable"
    assert {each.attributes["error.type"] for each in attempts} == {"closed"}


def test_a_stream_that_breaks_off_ends_both_spans_as_errors(world: World, receiver: OtlpReceiver):
    world.teacher.script = Script(cut_after=3)
    request, (attempt,) = spans_of(receiver, world.chat(HARD, stream=True))
    assert (request.status, request.attributes["error.type"]) == ("ERROR", "upstream_error")
    assert (attempt.status, attempt.attributes["error.type"]) == ("ERROR", "broken")


def test_a_client_that_leaves_ends_the_spans_too(world: World, receiver: OtlpReceiver):
    world.teacher.script = Script(gap=0.05)
    with world.streaming(HARD) as answer:
        next(answer.iter_raw())
    request, _ = spans_of(receiver, answer)
    assert (request.attributes["error.type"], request.status) == ("client_closed", "UNSET")
    world.teacher.reset(Script(delay=5.0))
    with contextlib.suppress(Exception):
        world.client.post(
            f"{world.url}/v1/chat/completions", json=chat_body(HARD), headers=world.headers(), timeout=0.2
        )
    wait_until(lambda: any(span.attributes.get("error.type") == "cancelled" for span in receiver.spans))


def test_other_endpoints_have_their_own_operations(world: World, receiver: OtlpReceiver):
    world.teacher.script = Script(body=b'{"data": [], "model": "embed", "usage": {"prompt_tokens": 3}}')
    embedded = world.client.post(
        f"{world.url}/v1/embeddings", json={"model": "embed", "input": "x"}, headers=world.headers()
    )
    request, (attempt,) = spans_of(receiver, embedded)
    assert (request.name, attempt.name) == ("embeddings embed", "embeddings embed")
    assert request.attributes["gen_ai.usage.input_tokens"] == 3
    world.teacher.script = Script()
    body = {"model": "teacher", "prompt": "go on"}
    completed = world.client.post(f"{world.url}/v1/completions", json=body, headers=world.headers())
    request, (attempt,) = spans_of(receiver, completed)
    assert (request.name, attempt.name) == ("text_completion teacher", "text_completion frontier")


def test_nothing_that_was_said_is_in_a_span_and_no_key(world: World, receiver: OtlpReceiver):
    world.teacher.script = Script(text=f"{CONTENT} again")
    answer = world.chat(f"{HARD} {CONTENT}", stop=[CONTENT], user=CONTENT, metadata={"x": CONTENT})
    spans_of(receiver, answer)
    written = b"".join(posted.body for posted in receiver.posted)
    for secret in (CONTENT, TEACHER_KEY, world.secrets["inference"]):
        assert secret.encode() not in written


def test_content_is_in_the_span_where_the_settings_ask_for_it_and_the_caller_lets_it(
    router, receiver: OtlpReceiver, tmp_path, monkeypatch
):
    monkeypatch.setattr("gateway.tracing.DELAY_MS", 20.0)
    receiver.reset()
    with running_world(tmp_path, None, traced(receiver.url, content=True)) as world:
        world.teacher.script = Script(text=f"{CONTENT} again")
        request, _ = spans_of(receiver, world.chat(CONTENT))
        assert json.loads(request.attributes["gen_ai.input.messages"]) == [
            {"role": "user", "parts": [{"type": "text", "content": CONTENT}]}
        ]
        assert json.loads(request.attributes["gen_ai.output.messages"]) == [
            {"role": "assistant", "parts": [{"type": "text", "content": f"{CONTENT} again"}], "finish_reason": "stop"}
        ]
        request, _ = spans_of(receiver, world.chat(CONTENT, headers={"x-stillroom-log": "off"}))
        assert "gen_ai.input.messages" not in request.attributes


def test_a_share_is_traced_and_the_rest_costs_no_span(router, receiver: OtlpReceiver, tmp_path, monkeypatch):
    monkeypatch.setattr("gateway.tracing.DELAY_MS", 20.0)
    receiver.reset()
    with running_world(tmp_path, None, traced(receiver.url, sample_ratio=0.0)) as world:
        for _ in range(5):
            world.chat()
        # one that comes with a trace of its own is traced as that one is
        answer = world.chat(headers={"traceparent": SENT})
        spans_of(receiver, answer)
        assert len(receiver.spans) == 2
        assert [is_sampled(seen.headers["traceparent"]) for seen in world.teacher.seen] == [False] * 5 + [True]


@pytest.mark.parametrize("hangs", [False, True], ids=["nobody there", "it hangs"])
def test_a_receiver_that_is_down_costs_no_request_and_no_long_end(router, tmp_path, hangs, monkeypatch, capfd):
    monkeypatch.setattr("gateway.tracing.QUEUE", 8)
    monkeypatch.setattr("gateway.tracing.BATCH", 4)
    monkeypatch.setattr("gateway.tracing.CLOSE_S", 0.5)
    monkeypatch.setattr("gateway.tracing.EXPORT_S", FOREVER)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        if hangs:
            silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with running_world(tmp_path, None, traced(url)) as world:
            answers = [world.chat(stream=bool(number % 2)) for number in range(30)]
            assert {answer.status_code for answer in answers} == {200}
            # every batch is tried for ever, so that none of these waited for one; the world's own end asserts that
            # the gateway does not either
            for answer in answers:
                world.row(answer.headers["x-request-id"])


def test_what_waits_is_sent_before_the_gateway_ends(router, receiver: OtlpReceiver, tmp_path, monkeypatch):
    monkeypatch.setattr("gateway.tracing.DELAY_MS", 60_000.0)
    receiver.reset()
    with running_world(tmp_path, None, traced(receiver.url)) as world:
        answer = world.chat()
        assert receiver.spans == []
    assert len(receiver.of(answer.headers["x-request-id"])[0]) == 1


def test_a_gateway_that_traces_nothing_loads_nothing_of_opentelemetry():
    code = (
        "import sys, gateway.app, stillroom.compose;"
        "assert not [name for name in sys.modules if name.startswith('opentelemetry')]"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])
