"""``/v1/embeddings``: passed on as they came, and billed."""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import openai
import pytest

from gateway.app import GatewayConfig
from gateway.settings import EmbeddingsSettings
from ledger.prices import Price, Tokens, cost_nano
from tests.gateway_fixtures import World, running_world, wait_until
from tests.scripted_upstream import FOREVER, WAIT_S, Script, ScriptedUpstream

PRICE = Price(input=0.13)
KEY_ENV = "EMBEDDINGS_KEY_OF_THE_TESTS"
CANARY = "canary-5e1d-oboe"
VECTORS = (
    b'{"object": "list", "data": [{"object":"embedding","index":0,"embedding":[0.10, -2.5E-3]}], '
    b'"model":"embed-small", "usage": {"prompt_tokens": 8, "total_tokens": 8}, "odd": 1.50}'
)


@pytest.fixture(scope="module")
def module_server() -> Iterator[ScriptedUpstream]:
    server = ScriptedUpstream()
    yield server
    server.close()


@pytest.fixture
def server(module_server: ScriptedUpstream) -> ScriptedUpstream:
    module_server.reset(Script(body=VECTORS))
    return module_server


@pytest.fixture(scope="module")
def embedding(module_server: ScriptedUpstream, tmp_path_factory) -> Iterator[World]:
    """A gateway that has embeddings."""

    def change(config: GatewayConfig) -> GatewayConfig:
        settings = EmbeddingsSettings(
            base_url=module_server.url,
            model="embed-small",
            models=("embed-large",),
            api_key_env=KEY_ENV,
            price=PRICE,
            connect_timeout_seconds=WAIT_S,
            timeout_seconds=WAIT_S,
        )
        return replace(config, embeddings=settings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(KEY_ENV, "sk-embeddings-1")
        with running_world(tmp_path_factory.mktemp("embeddings"), None, change) as world:
            yield world


def embed(world: World, headers: dict[str, str] | None = None, **fields: Any) -> httpx.Response:
    body = {"model": "embed-small", "input": f"{CANARY} one", **fields}
    return world.client.post(f"{world.url}/v1/embeddings", json=body, headers=world.headers() | (headers or {}))


def test_vectors_come_back_to_the_byte_and_are_billed(embedding: World, server: ScriptedUpstream):
    fields = {"encoding_format": "base64", "dimensions": 2, "x_new": {"a": 1.5}}
    answer = embed(embedding, {"x-stillroom-tags": "search"}, **fields)
    assert (answer.status_code, answer.content) == (200, VECTORS)
    assert answer.headers["x-stillroom-route"] == "teacher"
    (seen,) = server.seen
    assert (seen.path, seen.headers["authorization"]) == ("/v1/embeddings", "Bearer sk-embeddings-1")
    assert seen.body == {"model": "embed-small", "input": f"{CANARY} one", **fields}
    row, content = embedding.recorded(answer.headers["x-request-id"])
    assert (row["endpoint"], row["route"], row["reason"]) == ("embeddings", "teacher", "unsupported")
    assert (row["prompt_tokens"], row["completion_tokens"], row["tags"]) == (8, 0, ["search"])
    assert row["cost_nano"] == row["baseline_nano"] == cost_nano(PRICE, Tokens(8))
    assert (row["model"], row["trainable"], content) == ("embed-small", False, None)
    assert CANARY.encode() not in embedding.everything_written()
    assert embedding.teacher.seen == []


def test_the_body_goes_out_as_it_was_written(embedding: World, server: ScriptedUpstream):
    raw = b'{"model":"embed-large","input":["h\\u00e9",  "x"],"user":"a","dimensions":9007199254740993}'
    headers = embedding.headers()
    assert embedding.client.post(f"{embedding.url}/v1/embeddings", content=raw, headers=headers).status_code == 200
    assert server.seen[0].raw == raw


@pytest.mark.parametrize("model", ["auto", "teacher", "gpt-4o-mini", "text-embedding-9"])
def test_a_model_without_embeddings_is_not_found(embedding: World, server: ScriptedUpstream, model: str):
    answer = embed(embedding, model=model)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
    assert server.seen == []


def test_a_request_without_a_model_is_refused(embedding: World, server: ScriptedUpstream):
    answer = embed(embedding, model=None)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "model")


def test_a_refusal_is_passed_on(embedding: World, server: ScriptedUpstream):
    refusal = {"error": {"message": "no", "type": "t", "param": "input", "code": "c"}}
    server.script = Script(status=400, body=json.dumps(refusal).encode())
    answer = embed(embedding)
    assert (answer.status_code, answer.json()) == (400, refusal)
    row = embedding.row(answer.headers["x-request-id"])
    assert (row["status"], row["error_code"], row["cost_nano"]) == (400, "upstream_refused", 0)


@pytest.mark.parametrize(
    "script",
    [Script(status=500, body=b""), Script(raw=b"nonsense\r\n\r\n"), Script(body=b"[1]")],
    ids=["500", "no HTTP", "no object"],
)
def test_a_server_that_fails_is_a_clear_error(embedding: World, server: ScriptedUpstream, script: Script):
    server.script = script
    answer = embed(embedding)
    assert answer.status_code in (503, 504)
    assert answer.json()["error"]["type"] == "server_error"
    assert embedding.row(answer.headers["x-request-id"])["status"] == answer.status_code


def test_a_server_that_is_late_is_a_clear_error(server: ScriptedUpstream, tmp_path):
    def change(config: GatewayConfig) -> GatewayConfig:
        settings = EmbeddingsSettings(base_url=server.url, model="embed-small", timeout_seconds=0.3)
        return replace(config, embeddings=settings)

    server.script = Script(delay=FOREVER)
    with running_world(tmp_path, None, change) as world:
        answer = embed(world)
        assert answer.status_code in (503, 504)
        assert answer.json()["error"]["type"] == "server_error"
        assert world.row(answer.headers["x-request-id"])["status"] == answer.status_code


def test_lines_of_a_batch_are_embedded_and_billed_each_and_what_is_wrong_is_told(
    embedding: World, server: ScriptedUpstream
):
    inputs = {"one": "red", "two": ["green", "blue"]}
    bodies = {name: {"model": "embed-small", "input": text} for name, text in inputs.items()}
    bodies["wrong"] = {"model": "auto", "input": "no such model"}
    lines = [
        {"custom_id": name, "method": "POST", "url": "/v1/embeddings", "body": body} for name, body in bodies.items()
    ]
    data = "\n".join(map(json.dumps, lines)).encode()
    key = embedding.secrets["inference"]
    with openai.OpenAI(base_url=f"{embedding.url}/v1", api_key=key, max_retries=0) as client:
        file = client.files.create(file=("lines.jsonl", data), purpose="batch")
        batch = client.batches.create(input_file_id=file.id, endpoint="/v1/embeddings", completion_window="24h")
        wait_until(lambda: client.batches.retrieve(batch.id).status == "completed", 30)
        done = client.batches.retrieve(batch.id)
        output, errors = (client.files.content(each or "").text for each in (done.output_file_id, done.error_file_id))
    found = {each["custom_id"]: each["response"] for each in map(json.loads, output.splitlines())}
    assert found.keys() == inputs.keys()
    assert json.loads(errors)["response"]["body"]["error"]["code"] == "model_not_found"
    assert sorted((seen.path, str(seen.body["input"])) for seen in server.seen) == sorted(
        ("/v1/embeddings", str(text)) for text in inputs.values()
    )
    for each in found.values():
        assert each["body"] == json.loads(VECTORS)
        row, content = embedding.recorded(each["request_id"])
        assert (row["endpoint"], row["prompt_tokens"], row["cost_nano"]) == (
            "embeddings",
            8,
            cost_nano(PRICE, Tokens(8)),
        )
        assert content is None


def test_without_settings_there_are_none(world: World):
    answer = embed(world)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
    assert "not configured" in answer.json()["error"]["message"]
