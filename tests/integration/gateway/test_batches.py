"""Files and batches by OpenAI's own client, against a real gateway: lines are asked once, what is wrong is told."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import openai
import pytest
import sqlalchemy as sa

from gateway.app import GatewayConfig
from gateway.batches import runner
from ledger import batches, files, keys, schema
from ledger.policies import KeyPolicy
from tests.gateway_fixtures import EASY, SURE, World, running_world, wait_until
from tests.scripted_upstream import Script

CHAT = "/v1/chat/completions"


def line(number: int, text: str = EASY, **fields: Any) -> dict[str, Any]:
    body = {"model": "auto", "messages": [{"role": "user", "content": f"{text} {number}"}], **fields}
    return {"custom_id": f"line-{number}", "method": "POST", "url": CHAT, "body": body}


def jsonl(*lines: Any) -> bytes:
    return b"".join((each if isinstance(each, bytes) else json.dumps(each).encode()) + b"\n" for each in lines)


@pytest.fixture
def client(world: World) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{world.url}/v1", api_key=world.secrets["inference"], max_retries=0) as client:
        yield client


def begin(client: openai.OpenAI, *lines: Any, endpoint: Any = CHAT, **fields: Any) -> openai.types.Batch:
    file = client.files.create(file=("lines.jsonl", jsonl(*lines)), purpose="batch")
    return client.batches.create(input_file_id=file.id, endpoint=endpoint, completion_window="24h", **fields)


def ended(client: openai.OpenAI, batch_id: str, seconds: float = 60) -> openai.types.Batch:
    wait_until(lambda: client.batches.retrieve(batch_id).status not in batches.OPEN, seconds)
    return client.batches.retrieve(batch_id)


def results(client: openai.OpenAI, file_id: str | None) -> dict[str, Any]:
    assert file_id is not None
    found = [json.loads(each) for each in client.files.content(file_id).text.splitlines()]
    named = {each["custom_id"]: each for each in found}
    assert len(named) == len(found)
    return named


def test_a_file_is_kept_listed_read_and_deleted(client: openai.OpenAI, world: World):
    data = jsonl(line(1), line(2))
    file = client.files.create(file=("lines.jsonl", data), purpose="batch")
    assert (file.bytes, file.filename, file.purpose, file.status) == (len(data), "lines.jsonl", "batch", "processed")
    assert client.files.retrieve(file.id) == file
    assert client.files.content(file.id).content == data
    assert client.files.list(purpose="batch").data[0] == file
    assert [path.name for path in (world.home / "files").iterdir() if file.id in path.name] == [file.id]
    assert client.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(file.id)
    assert not (world.home / "files" / file.id).exists()


def test_files_and_batches_are_their_keys(client: openai.OpenAI, world: World):
    batch = begin(client, line(1))
    _, secret = keys.create(world.store, "other", ["inference"], "test")
    other = openai.OpenAI(base_url=f"{world.url}/v1", api_key=secret, max_retries=0)
    wait_until(lambda: knows(other))
    for ask in (
        lambda: other.files.retrieve(batch.input_file_id),
        lambda: other.files.content(batch.input_file_id),
        lambda: other.files.delete(batch.input_file_id),
        lambda: other.batches.retrieve(batch.id),
        lambda: other.batches.cancel(batch.id),
        lambda: other.batches.create(input_file_id=batch.input_file_id, endpoint=CHAT, completion_window="24h"),
    ):
        with pytest.raises(openai.NotFoundError):
            ask()
    assert (other.files.list().data, other.batches.list().data) == ([], [])
    other.close()
    assert client.batches.list(limit=1).data[0].id == batch.id
    ended(client, batch.id)


def knows(client: openai.OpenAI) -> bool:
    try:
        client.models.list()
    except openai.AuthenticationError:
        return False
    return True


def test_a_batch_is_asked_as_its_key_would_ask(client: openai.OpenAI, world: World):
    batch = begin(client, *map(line, range(5)), metadata={"of": "tests"})
    assert (batch.status, batch.metadata) == ("validating", {"of": "tests"})
    done = ended(client, batch.id)
    assert (done.status, done.error_file_id) == ("completed", None)
    assert done.request_counts is not None
    assert (done.request_counts.total, done.request_counts.completed, done.request_counts.failed) == (5, 5, 0)
    found = results(client, done.output_file_id)
    assert found.keys() == {f"line-{number}" for number in range(5)}
    for each in found.values():
        body = each["response"]["body"]
        assert (each["error"], each["response"]["status_code"]) == (None, 200)
        assert body["choices"][0]["message"]["content"] == "The student says good day."
        row = world.row(each["response"]["request_id"])
        assert (row["route"], row["status"], row["key_id"]) == ("student", 200, own_key(world))
    assert len(world.student.seen) == 5
    assert sorted(path.name for path in (world.home / "files").iterdir() if batch.id in path.name) == []


def own_key(world: World) -> str:
    return next(key.id for key in keys.list_keys(world.store) if key.name == "inference-key")


@pytest.mark.parametrize(
    ("endpoint", "body", "shape"),
    [
        ("/v1/responses", {"model": "auto", "input": EASY}, "output"),
        ("/v1/completions", {"model": "teacher", "prompt": EASY}, "choices"),
        (
            "/v1/messages",
            {"model": "auto", "max_tokens": 9, "messages": [{"role": "user", "content": EASY}]},
            "content",
        ),
    ],
)
def test_other_endpoints_may_be_asked_too(client: openai.OpenAI, endpoint: str, body: dict[str, Any], shape: str):
    wanted = {"custom_id": "one", "method": "POST", "url": endpoint, "body": body}
    done = ended(client, begin(client, wanted, endpoint=endpoint).id)
    assert results(client, done.output_file_id)["one"]["response"]["body"][shape]


def test_what_is_wrong_with_a_line_is_told_and_the_others_are_asked(client: openai.OpenAI, world: World):
    wrong = [
        b"{not json",
        b'"a string"',
        {"custom_id": "", "method": "POST", "url": CHAT, "body": {}},
        line(1) | {"method": "GET"},
        line(2) | {"url": "/v1/embeddings"},
        line(3) | {"body": []},
        line(4, stream=True),
        line(5) | {"body": {"model": "auto", "messages": []}},
        line(6) | {"body": line(6)["body"] | {"model": "gone"}},
        line(0),
        line(7, "x" * 1_100_000),
    ]
    done = ended(client, begin(client, line(0), *wrong).id)
    assert done.status == "completed"
    assert done.request_counts is not None
    assert (done.request_counts.total, done.request_counts.completed, done.request_counts.failed) == (12, 1, 11)
    assert results(client, done.output_file_id).keys() == {"line-0"}
    assert done.error_file_id is not None
    told = [json.loads(each) for each in client.files.content(done.error_file_id).text.splitlines()]
    codes = sorted((each["error"] or each["response"]["body"]["error"])["code"] or "" for each in told)
    assert codes == sorted(
        [
            "invalid_json_line", "invalid_json_line", "invalid_custom_id", "invalid_method", "mismatched_endpoint",
            "invalid_body", "invalid_body", "", "model_not_found", "duplicate_custom_id", "request_too_large",
        ]
    )  # fmt: skip
    assert len(world.student.seen) == 1


def test_a_file_of_nothing_fails_its_batch(client: openai.OpenAI):
    done = ended(client, begin(client, b"  ").id)
    assert done.status == "failed"
    assert done.errors is not None
    assert done.errors.data is not None
    assert done.errors.data[0].code == "empty_file"


def test_what_the_upstream_refuses_is_in_the_error_file(client: openai.OpenAI, world: World):
    world.student.reset(Script(status=400, body=b'{"error":{"message":"No.","type":"x","param":null,"code":null}}'))
    done = ended(client, begin(client, line(1) | {"body": line(1)["body"] | {"model": "student"}}).id)
    told = results(client, done.error_file_id)["line-1"]
    assert (told["error"], told["response"]["status_code"]) == (None, 400)
    assert told["response"]["body"]["error"]["message"] == "No."


def test_a_cancelled_batch_keeps_what_was_answered(client: openai.OpenAI, world: World):
    world.student.reset(Script(text="slow", logprob=SURE, delay=0.1))
    batch = begin(client, *map(line, range(60)))
    wait_until(lambda: len(world.student.seen) > 2)
    assert client.batches.cancel(batch.id).status in ("cancelling", "cancelled")
    done = ended(client, batch.id)
    assert done.status == "cancelled"
    found = results(client, done.output_file_id)
    assert done.request_counts is not None
    assert done.request_counts.completed == len(found) == len(world.student.seen) < 60
    assert client.batches.cancel(batch.id).status == "cancelled"
    finished = ended(client, begin(client, line(1)).id)
    with pytest.raises(openai.BadRequestError, match="completed"):
        client.batches.cancel(finished.id)


def test_a_batch_whose_time_is_over_says_which_lines_were_not_asked(client: openai.OpenAI, world: World):
    world.student.reset(Script(text="slow", logprob=SURE, delay=0.2))
    batch = begin(client, *map(line, range(40)))
    wait_until(lambda: len(world.student.seen) > 2)
    batches.change(world.store, batch.id, batches.OPEN, expires_at=1)
    done = ended(client, batch.id)
    assert done.status == "expired"
    answered, missed = results(client, done.output_file_id), results(client, done.error_file_id)
    assert len(answered) + len(missed) == 40
    assert {each["error"]["code"] for each in missed.values()} == {"batch_expired"}


def test_a_file_that_a_batch_reads_is_not_deleted(client: openai.OpenAI, world: World):
    world.student.reset(Script(text="slow", logprob=SURE, delay=0.5))
    batch = begin(client, line(1), line(2))
    with pytest.raises(openai.ConflictError) as caught:
        client.files.delete(batch.input_file_id)
    assert caught.value.code == "file_in_use"
    ended(client, batch.id)
    assert client.files.delete(batch.input_file_id).deleted


def test_files_whose_time_is_over_are_forgotten_once_no_batch_reads_them(
    client: openai.OpenAI, world: World, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(runner, "SWEEP_S", 0.0)
    world.student.reset(Script(text="slow", logprob=SURE, delay=0.3))
    kept, over = (client.files.create(file=("lines.jsonl", jsonl(line(1))), purpose="batch").id for _ in range(2))
    batch = begin(client, *map(line, range(60)))
    with world.store.write() as connection:
        ended_files = schema.files.c.id.in_([over, batch.input_file_id])
        connection.execute(sa.update(schema.files).where(ended_files).values(expires_at=1))
    wait_until(lambda: files.get(world.store, over) is None)
    assert not (world.home / "files" / over).exists()
    assert client.files.retrieve(batch.input_file_id).id == batch.input_file_id
    client.batches.cancel(batch.id)
    done = ended(client, batch.id)
    assert done.status == "cancelled"
    wait_until(lambda: files.get(world.store, batch.input_file_id) is None)
    assert not (world.home / "files" / batch.input_file_id).exists()
    assert client.files.content(kept).content == jsonl(line(1))
    assert done.output_file_id is None or results(client, done.output_file_id)


def test_the_limits_of_its_key_hold_for_a_batch(world: World):
    _, secret = keys.create(world.store, "slow", ["inference"], "test", policy=KeyPolicy(max_concurrent=1))
    world.student.reset(Script(text="slow", logprob=SURE, delay=0.05))
    with openai.OpenAI(base_url=f"{world.url}/v1", api_key=secret, max_retries=0) as client:
        wait_until(lambda: knows(client))
        done = ended(client, begin(client, *map(line, range(4))).id)
        assert len(results(client, done.output_file_id)) == 4


def test_a_spent_budget_fails_the_lines_that_are_left(world: World):
    policy = KeyPolicy(budget_day=0.000_000_001)
    _, secret = keys.create(world.store, "poor", ["inference"], "test", policy=policy)
    with openai.OpenAI(base_url=f"{world.url}/v1", api_key=secret, max_retries=0) as client:
        wait_until(lambda: knows(client))
        client.chat.completions.create(model="teacher", messages=[{"role": "user", "content": EASY}])
        done = ended(client, begin(client, line(1)).id)
        told = results(client, done.error_file_id)["line-1"]
        assert told["response"]["body"]["error"]["code"] == "insufficient_quota"


def test_lines_of_a_key_that_was_revoked_are_not_asked(client: openai.OpenAI, world: World):
    key, secret = keys.create(world.store, "gone", ["inference"], "test")
    world.student.reset(Script(text="slow", logprob=SURE, delay=0.3))
    with openai.OpenAI(base_url=f"{world.url}/v1", api_key=secret, max_retries=0) as own:
        wait_until(lambda: knows(own))
        batch = begin(own, *map(line, range(30)))
        wait_until(lambda: len(world.student.seen) > 0)
        keys.revoke(world.store, key.id, "test")
    wait_until(lambda: over(world, batch.id), 60)
    found = batches.get(world.store, batch.id)
    assert found is not None
    assert (found.status, found.completed + found.failed) == ("completed", 30)
    assert found.failed > 0


def over(world: World, batch_id: str) -> bool:
    found = batches.get(world.store, batch_id)
    return found is not None and found.status not in batches.OPEN


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"endpoint": "/v1/models"}, "endpoint"),
        ({"completion_window": "1h"}, "completion_window"),
        ({"input_file_id": 5}, "input_file_id"),
        ({"metadata": {"a": 1}}, "metadata"),
    ],
)
def test_a_batch_that_cannot_be_is_refused(world: World, fields: dict[str, Any], param: str):
    body = {"input_file_id": "file-1", "endpoint": CHAT, "completion_window": "24h"} | fields
    answer = world.client.post(f"{world.url}/v1/batches", json=body, headers=world.headers())
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize(
    ("data", "files", "param"),
    [
        ({"purpose": "fine-tune"}, {"file": ("x", b"{}")}, "purpose"),
        ({"purpose": "batch"}, {}, "file"),
        ({"purpose": "batch", "expires_after[seconds]": "5"}, {"file": ("x", b"{}")}, "expires_after"),
    ],
)
def test_an_upload_that_cannot_be_is_refused(world: World, data: dict[str, str], files: Any, param: str):
    answer = world.client.post(f"{world.url}/v1/files", data=data, files=files, headers=world.headers())
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def bounded(config: GatewayConfig) -> GatewayConfig:
    own = msgspec.structs.replace(config.gateway.batches, max_file_bytes=20_000, max_lines=3)
    return replace(config, gateway=msgspec.structs.replace(config.gateway, batches=own, max_body_bytes=1_000))


def test_a_file_has_bounds_of_its_own(tmp_path: Path):
    with running_world(tmp_path, None, bounded) as world:
        key = world.secrets["inference"]
        with openai.OpenAI(base_url=f"{world.url}/v1", api_key=key, max_retries=0) as client:
            with pytest.raises(openai.APIStatusError) as caught:
                client.files.create(file=("big", b"x" * 30_000), purpose="batch")
            assert (caught.value.status_code, caught.value.code) == (413, "request_too_large")
            assert not list((tmp_path / "files").glob("*")) if (tmp_path / "files").exists() else True
            done = ended(client, begin(client, *[line(number) for number in range(4)]).id)
            assert done.errors is not None
            assert done.errors.data is not None
            assert (done.status, done.errors.data[0].code) == ("failed", "too_many_lines")
