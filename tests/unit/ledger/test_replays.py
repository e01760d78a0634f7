"""Replays: found by what they repeat, and gone with it."""

from pathlib import Path

import pytest
import sqlalchemy as sa

from ledger import erasure, keys, schema
from ledger.erasure import resolve
from ledger.ingest import Ingester
from ledger.records import Content, encode_record
from ledger.replays import REPLAY, origin_of, replays_of, tag_of
from ledger.requests import insert_records
from ledger.spool import SpoolWriter
from ledger.store import Store, now_ms
from ledger.trainable import stream_trainable
from tests.unit.ledger.rows import row


def said(request_id: str, text: str = "hello", **values: object):
    return row(request_id, content=Content(messages=[{"role": "user", "content": text}], answer="fine"), **values)


def replay(request_id: str, of: str, text: str = "hello", **values: object):
    tags = [tag_of(of), "other"]
    return said(request_id, text, reason=REPLAY, trainable=False, tags=tags, **values)


def kept(store: Store) -> set[str]:
    with store.read() as connection:
        return set(connection.execute(sa.select(schema.contents.c.request_id)).scalars())


def test_the_replays_of_a_request_are_found_newest_first_and_those_of_its_neighbours_are_not(store):
    pretender = said("p", tags=[tag_of("a")])  # a client's own tag
    insert_records(store, [said("a"), said("b"), replay("r1", "a"), replay("r2", "a", created_at=2_000), pretender])
    insert_records(store, [replay("r3", "b"), replay("elsewhere", "a", "other words")])
    assert replays_of(store, ["a"]) == ["r2", "r1"]
    assert replays_of(store, ["b", "none"]) == ["r3"]
    assert origin_of(["x", tag_of("a")]) == "a"
    assert origin_of(["x"]) is None


def test_a_replay_is_never_trained_on(store):
    insert_records(store, [said("a"), replay("r", "a")])
    assert [values["id"] for values, _ in stream_trainable(store)] == ["a"]


def test_what_is_erased_of_a_request_is_erased_of_its_replays_and_of_the_release_that_was_tried_beside_it(store):
    insert_records(store, [said("a"), replay("r", "a"), said("a-canary"), said("b")])
    done = erasure.erase(store, resolve(store, "request", "a"), "tester")
    assert (done.contents, done.quoting) == (3, 1)
    assert kept(store) == {"b"}


def test_what_is_erased_of_a_key_is_erased_of_the_replays_that_another_key_had(store):
    key, _ = keys.create(store, "shop", ["inference"], "tester")
    insert_records(store, [said("a", key_id=key.id), replay("r", "a", key_id="key_2"), said("b", key_id="key_2")])
    erasure.erase(store, resolve(store, "key", key.id), "tester")
    assert kept(store) == {"b"}


@pytest.mark.parametrize("late", ["r", "a-canary"])
def test_a_copy_that_is_in_a_spool_when_its_request_is_erased_loses_its_content_on_its_way_in(
    store, tmp_path: Path, late: str
):
    now = now_ms()
    insert_records(store, [said("a", created_at=now)])
    spool = SpoolWriter(tmp_path)
    spool.append(encode_record(replay(late, "a", created_at=now) if late == "r" else said(late, created_at=now)))
    erasure.erase(store, resolve(store, "request", "a"), "tester")
    spool.close()
    assert Ingester(tmp_path, store).run_once() == 1
    assert kept(store) == set()
