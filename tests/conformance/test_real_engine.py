"""The gateway in front of a real vLLM as the student; the teacher alone is a script."""

import re
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import anthropic
import msgspec
import openai
import pytest

from gateway.app import GatewayConfig
from router.model import RouterModel
from router.thresholds import NEVER
from tests.engine_fixtures import TinyEngine
from tests.gateway_fixtures import World, running_world, stream_data, streamed_text, wait_until
from tests.scripted_upstream import WAIT_S, Script

pytestmark = pytest.mark.engine


def judged(router: RouterModel, confident: float) -> RouterModel:
    """This router with other thresholds: every request may try the student, whose answer must be so sure."""
    bars = {"hard": 0.0, "sure": NEVER, "confident": confident, "confident_end": confident}
    return replace(router, thresholds=replace(router.thresholds, **bars, feasible=True))


@contextmanager
def world_of(home: Path, router: RouterModel, engine: TinyEngine) -> Iterator[World]:
    """A gateway with the engine as its student, and patience for a busy machine."""

    def patient(config: GatewayConfig) -> GatewayConfig:
        return replace(config, student=msgspec.structs.replace(config.student, timeout_seconds=60.0))

    with running_world(home, router, patient, f"{engine.base_url}/v1") as world:
        world.client.timeout = 60
        world.teacher.script = Script(text="The teacher says good day.")
        yield world


@pytest.fixture(scope="module")
def trusting(router, tiny_engine: TinyEngine, tmp_path_factory) -> Iterator[World]:
    """A gateway whose router takes whatever the student says."""
    with world_of(tmp_path_factory.mktemp("trusting"), judged(router, 0.0), tiny_engine) as world:
        yield world


@pytest.fixture(scope="module")
def doubting(router, tiny_engine: TinyEngine, tmp_path_factory) -> Iterator[World]:
    """A gateway whose router tries the student and never trusts it."""
    with world_of(tmp_path_factory.mktemp("doubting"), judged(router, 1.1), tiny_engine) as world:
        yield world


def running(engine: TinyEngine) -> int:
    """Requests that vLLM works on now, by its own metrics."""
    with urllib.request.urlopen(f"{engine.base_url}/metrics", timeout=WAIT_S) as answer:
        found = re.search(r"^vllm:num_requests_running\{[^}]*\} ([0-9.]+)", answer.read().decode(), re.MULTILINE)
    assert found is not None
    return int(float(found[1]))


@pytest.mark.parametrize("how", [{}, {"model": "student"}], ids=["routed", "pinned"])
@pytest.mark.parametrize("stream", [False, True])
def test_the_engine_answers(trusting: World, how: dict, stream: bool):
    answer = trusting.chat("Hello there", stream=stream, max_tokens=12, ignore_eos=True, temperature=0, **how)
    assert answer.status_code == 200
    assert answer.headers["x-stillroom-route"] == "student"
    assert answer.headers["x-stillroom-reason"] == ("pinned" if how else "confident")
    row, content = trusting.recorded(answer.headers["x-request-id"])
    assert (row["status"], row["completion_tokens"], row["finish_reason"]) == (200, 12, "length")
    assert row["prompt_tokens"] > 5
    assert content is not None
    shown = streamed_text(answer) if stream else answer.json()["choices"][0]["message"]["content"]
    assert content.answer == shown
    bodies = stream_data(answer)[:-1] if stream else [answer.json()]
    assert not any(choice["logprobs"] for body in bodies for choice in body["choices"])
    assert stream is not any("usage" in body for body in bodies)
    assert trusting.teacher.seen == []


def test_the_engines_logprobs_are_shown_as_asked(trusting: World):
    fields = {"max_tokens": 6, "ignore_eos": True, "logprobs": True, "top_logprobs": 2}
    tokens = trusting.chat("Hello", **fields).json()["choices"][0]["logprobs"]["content"]
    assert [len(token["top_logprobs"]) for token in tokens] == [2] * 6


@pytest.mark.parametrize("stream", [False, True])
def test_a_doubtful_engine_is_abandoned_for_the_teacher(doubting: World, tiny_engine: TinyEngine, stream: bool):
    answer = doubting.chat("Hello there", stream=stream, max_tokens=600, ignore_eos=True)
    assert answer.status_code == 200
    assert answer.headers["x-stillroom-reason"] == "low_confidence"
    text = streamed_text(answer) if stream else answer.json()["choices"][0]["message"]["content"]
    assert text == "The teacher says good day."
    row, _ = doubting.recorded(answer.headers["x-request-id"])
    assert row["attempt_prompt_tokens"] > 5
    assert 4 <= row["attempt_completion_tokens"] < (100 if stream else 601)
    assert 0 <= row["confidence"] <= 1
    wait_until(lambda: running(tiny_engine) == 0)


def test_a_client_that_leaves_a_stream_frees_the_engine(trusting: World, tiny_engine: TinyEngine):
    with trusting.streaming("Count", max_tokens=900, ignore_eos=True) as answer:
        assert answer.headers["x-stillroom-route"] == "student"
        chunks = answer.iter_bytes()  # held on to: a response whose iterator is dropped is closed
        next(chunks)
        wait_until(lambda: running(tiny_engine) == 1)
    wait_until(lambda: running(tiny_engine) == 0)
    row, _ = trusting.recorded(answer.headers["x-request-id"])
    assert (row["status"], row["error_code"]) == (499, "client_closed")
    assert 4 <= row["completion_tokens"] < 900


def test_a_request_that_the_engine_refuses_goes_to_the_teacher_or_back_as_it_is(trusting: World):
    answer = trusting.chat("Hello", temperature=-3)
    assert (answer.status_code, answer.headers["x-stillroom-reason"]) == (200, "unsupported")
    pinned = trusting.chat("Hello", temperature=-3, model="student")
    assert pinned.status_code == 400
    assert "temperature" in pinned.json()["error"]["message"]
    trusting.teacher.reset()


def test_openais_client_streams_from_the_engine(trusting: World):
    with openai.OpenAI(base_url=f"{trusting.url}/v1", api_key=trusting.secrets["inference"]) as client:
        chunks = list(
            client.chat.completions.create(
                model="auto", messages=[{"role": "user", "content": "Hi"}], max_tokens=9, stream=True,
                stream_options={"include_usage": True}, extra_body={"ignore_eos": True},
            )
        )  # fmt: skip
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 9
    assert all(chunk.usage is None for chunk in chunks[:-1])


@pytest.mark.parametrize("stream", [False, True])
def test_the_engine_completes_a_prompt_and_is_judged_by_its_logprobs(trusting: World, stream: bool):
    fields = {"max_tokens": 12, "ignore_eos": True, "temperature": 0}
    body = {"model": "auto", "prompt": "Hello there", "stream": stream, "logprobs": 2, **fields}
    answer = trusting.client.post(f"{trusting.url}/v1/completions", json=body, headers=trusting.headers())
    assert (answer.status_code, answer.headers["x-stillroom-reason"]) == (200, "confident")
    row, content = trusting.recorded(answer.headers["x-request-id"])
    assert (row["endpoint"], row["completion_tokens"], row["finish_reason"]) == ("completions", 12, "length")
    assert 0 <= row["confidence"] <= 1
    choices = [c for b in (stream_data(answer)[:-1] if stream else [answer.json()]) for c in b["choices"]]
    assert content is not None
    assert content.answer == "".join(choice["text"] for choice in choices)
    listed = [top for choice in choices for top in (choice["logprobs"] or {}).get("top_logprobs", ())]
    # vLLM lists the two likeliest and the token that it chose, here the likeliest
    assert [len(top) for top in listed] == [2] * 12


@pytest.mark.parametrize("stream", [False, True])
def test_a_doubtful_completion_is_abandoned_for_the_teacher(doubting: World, tiny_engine: TinyEngine, stream: bool):
    body = {"model": "auto", "prompt": "Hello there", "stream": stream, "max_tokens": 600, "ignore_eos": True}
    answer = doubting.client.post(f"{doubting.url}/v1/completions", json=body, headers=doubting.headers())
    assert (answer.status_code, answer.headers["x-stillroom-reason"]) == (200, "low_confidence")
    row, _ = doubting.recorded(answer.headers["x-request-id"])
    assert row["attempt_prompt_tokens"] > 1
    assert 4 <= row["attempt_completion_tokens"] < (100 if stream else 601)
    wait_until(lambda: running(tiny_engine) == 0)


def test_openais_client_gets_responses_from_the_engine(trusting: World):
    with openai.OpenAI(base_url=f"{trusting.url}/v1", api_key=trusting.secrets["inference"]) as client:
        first = client.responses.create(
            model="auto", input="Hi", max_output_tokens=8, extra_body={"ignore_eos": True}, top_logprobs=2
        )
        assert (first.status, first.usage is not None and first.usage.output_tokens) == ("incomplete", 8)
        with client.responses.stream(
            model="auto", input="And?", previous_response_id=first.id, max_output_tokens=8,
            extra_body={"ignore_eos": True},
        ) as stream:  # fmt: skip
            last = list(stream)[-1]
    assert last.type == "response.incomplete"
    assert last.response.output_text
    assert last.response.usage is not None
    assert first.usage is not None
    assert last.response.usage.input_tokens > first.usage.input_tokens


def test_anthropics_client_gets_messages_from_the_engine(trusting: World):
    # the client knows no temperature, which the API takes
    how = {
        "model": "auto",
        "max_tokens": 8,
        "system": "Be kind.",
        "extra_body": {"temperature": 0, "ignore_eos": True},
    }
    messages = [{"role": "user", "content": "Hello there"}]
    key = trusting.secrets["inference"]
    with anthropic.Anthropic(base_url=trusting.url, api_key=key, timeout=60) as client:
        counted = client.messages.count_tokens(model="auto", messages=messages, system="Be kind.")
        whole = client.messages.create(messages=messages, **how)
        with client.messages.stream(messages=messages, **how) as stream:
            streamed = stream.get_final_message()
        (said,) = whole.content
        assert said.type == "text"
        word = said.text[2:4]
        cut = client.messages.create(messages=messages, stop_sequences=[word], **how)
    assert (whole.stop_reason, whole.usage.output_tokens) == ("max_tokens", 8)
    assert [block.text for block in streamed.content if block.type == "text"] == [said.text]
    for used in (whole.usage, streamed.usage):
        assert used.input_tokens + (used.cache_read_input_tokens or 0) == counted.input_tokens
    assert (cut.stop_reason, cut.stop_sequence) == ("stop_sequence", word)
    assert trusting.row(cut._request_id or "")["endpoint"] == "messages"
