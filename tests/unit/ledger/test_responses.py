"""Responses in the store."""

import json

import msgspec
import pytest
import sqlalchemy as sa

from ledger import responses, schema
from ledger.responses import StoredBody, StoredResponse, encode_body
from ledger.store import Store


def stored(response_id: str, created_at: int = 1, text: str = "hi") -> StoredResponse:
    response = msgspec.Raw(json.dumps({"id": response_id, "output": [{"text": text}]}, indent=1).encode())
    body = encode_body(StoredBody(response, [{"type": "message", "content": text}]))
    return StoredResponse(response_id, created_at, "key_1", "req_1", None, body)


def test_a_response_is_what_was_saved_to_the_byte(store: Store):
    kept = stored("resp_1", text="é\u2028")
    responses.save(store, [kept, stored("resp_2")])
    found = responses.get(store, "resp_1")
    assert found == kept
    assert bytes(found.read().response) == bytes(kept.read().response)
    assert found.read().items == [{"type": "message", "content": "é\u2028"}]


def test_saving_twice_keeps_one(store: Store):
    responses.save(store, [stored("resp_1")])
    responses.save(store, [stored("resp_1", text="again")])
    with store.read() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(schema.responses)).scalar_one() == 1


def test_what_was_said_is_compressed(store: Store):
    responses.save(store, [stored("resp_1", text="say it again " * 1_000)])
    with store.read() as connection:
        assert len(connection.execute(sa.select(schema.responses.c.body)).scalar_one()) < 1_000


def test_a_deleted_response_is_gone(store: Store):
    responses.save(store, [stored("resp_1"), stored("resp_2")])
    assert responses.delete(store, "resp_1") is True
    assert responses.delete(store, "resp_1") is False
    assert responses.get(store, "resp_1") is None
    assert responses.get(store, "resp_2") is not None


@pytest.mark.parametrize(("before", "left"), [(5, ["resp_5", "resp_9"]), (10, [])])
def test_old_responses_expire(store: Store, before: int, left: list[str]):
    responses.save(store, [stored(f"resp_{at}", at) for at in (1, 4, 5, 9)])
    assert responses.expire(store, before) == 4 - len(left)
    with store.read() as connection:
        assert list(connection.execute(sa.select(schema.responses.c.id)).scalars()) == left
