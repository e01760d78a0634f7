"""Ingestion: every spooled record arrives once, and what cannot arrive is kept and hinders no other."""

import pytest
import sqlalchemy as sa

from ledger import ingest, spool
from ledger.ingest import Ingester
from ledger.records import Content, decode_record, encode_record
from ledger.requests import count, get
from ledger.spool import SpoolWriter, read_frames, segments
from tests.unit.ledger.rows import row


def write(folder, *ids, **values):
    writer = SpoolWriter(folder)
    for name in ids:
        assert writer.append(encode_record(row(name, **values)))
    writer.close()
    return max(segments(folder), key=lambda path: path.name)


def ids(store):
    with store.read() as connection:
        return set(connection.execute(sa.text("select id from requests")).scalars())


def test_a_finished_segment_is_moved_and_removed(tmp_path, store):
    write(tmp_path, "a", "b")
    ingester = Ingester(tmp_path, store)
    assert ingester.backlog_bytes() > 0
    assert ingester.run_once() == 2
    assert ingester.run_once() == 0
    assert ids(store) == {"a", "b"}
    assert list(tmp_path.iterdir()) == []
    assert ingester.backlog_bytes() == 0


def test_a_segment_that_is_being_written_is_followed_and_left_in_place(tmp_path, store):
    writer = SpoolWriter(tmp_path)
    ingester = Ingester(tmp_path, store)
    for i in range(3):
        writer.append(encode_record(row(f"r{i}")))
        assert ingester.run_once() == 1
        assert ingester.backlog_bytes() == 0
    assert len(segments(tmp_path)) == 1
    writer.close()
    assert ingester.run_once() == 0
    assert segments(tmp_path) == []


def test_more_records_than_a_batch_all_arrive(tmp_path, store, monkeypatch):
    monkeypatch.setattr(ingest, "BATCH", 3)
    write(tmp_path, *(f"r{i}" for i in range(10)))
    assert Ingester(tmp_path, store).run_once() == 10
    assert count(store) == 10


def test_large_records_are_moved_a_few_at_a_time(tmp_path, store, monkeypatch):
    moved, insert = [], ingest.insert_records
    monkeypatch.setattr(ingest, "insert_records", lambda *given: moved.append(len(given[1])) or insert(*given))
    monkeypatch.setattr(ingest, "BATCH_BYTES", 100_000)
    write(tmp_path, *"abcde", content=Content(messages=[{"role": "user", "content": "x" * 60_000}]))
    assert Ingester(tmp_path, store).run_once() == 5
    assert [size for size in moved if size] == [2, 2, 1]
    assert ids(store) == set("abcde")


def test_a_torn_tail_is_kept_beside_and_the_records_before_it_arrive(tmp_path, store):
    path = write(tmp_path, "a", "b")
    torn = spool.frame(b"never finished")[:-1]
    with path.open("ab") as file:
        file.write(torn)
    assert Ingester(tmp_path, store).run_once() == 2
    (kept,) = tmp_path.iterdir()
    assert kept.suffix == ".torn"
    assert kept.read_bytes().endswith(torn)
    assert ids(store) == {"a", "b"}


def test_the_torn_tails_of_two_lives_are_both_kept(tmp_path, store):
    for name in ("a", "b"):
        with write(tmp_path, name).open("ab") as file:
            file.write(b"torn")
        Ingester(tmp_path, store).run_once()
    assert [path.suffix for path in tmp_path.iterdir()] == [".torn", ".torn"]


@pytest.mark.parametrize(
    "values",
    [
        pytest.param({"prompt_tokens": 2**63}, id="an integer above the store's"),
        pytest.param({"latency_ms": float("nan")}, id="no number"),
        pytest.param({"finish_reason": ["stop"]}, id="a value of another type"),
    ],
)
def test_a_record_that_the_store_never_takes_is_set_aside_and_the_others_pass(tmp_path, store, values):
    writer = SpoolWriter(tmp_path)
    for record in (row("before"), row("poison", **values), row("after")):
        writer.append(encode_record(record))
    writer.close()
    assert Ingester(tmp_path, store).run_once() == 2
    assert ids(store) == {"before", "after"}
    assert count(store) == 2
    (kept,) = tmp_path.iterdir()
    assert kept.suffix == ".refused"
    ((_, payload),) = read_frames(kept)
    assert b"poison" in payload


def test_a_payload_that_is_no_record_is_set_aside_and_the_others_pass(tmp_path, store):
    writer = SpoolWriter(tmp_path)
    for payload in (encode_record(row("before")), b"\xc1 no record", encode_record(row("after"))):
        writer.append(payload)
    writer.close()
    assert Ingester(tmp_path, store).run_once() == 2
    assert ids(store) == {"before", "after"}
    assert [payload for path in tmp_path.iterdir() for _, payload in read_frames(path)] == [b"\xc1 no record"]


def test_two_ingesters_over_one_spool_count_each_record_once(tmp_path, store):
    writer = SpoolWriter(tmp_path, segment_bytes=2_000)
    first, second = Ingester(tmp_path, store), Ingester(tmp_path, store)
    new = 0
    for i in range(40):
        writer.append(encode_record(row(f"r{i}")))
        new += (first if i % 3 else second).run_once()
        if i % 7 == 0:
            writer.sync()
    writer.close()
    new += first.run_once() + second.run_once() + first.run_once()
    assert new == count(store) == 40
    assert segments(tmp_path) == []
    assert first.backlog_bytes() == second.backlog_bytes() == 0


def test_an_ingester_starts_where_another_process_stopped_and_counts_nothing_twice(tmp_path, store):
    writer = SpoolWriter(tmp_path)
    writer.append(encode_record(row("a")))
    assert Ingester(tmp_path, store).run_once() == 1
    writer.append(encode_record(row("b")))
    assert Ingester(tmp_path, store).run_once() == 1
    writer.close()
    assert count(store) == 2


def test_a_record_is_the_same_after_spool_and_store(tmp_path, store):
    record = row("a", score=0.25, tags=["x", "y"])
    (payload,) = [payload for _, payload in read_frames(write(tmp_path, "a", score=0.25, tags=["x", "y"]))]
    assert decode_record(payload) == record
    Ingester(tmp_path, store).run_once()
    values, content = get(store, "a")
    assert (values["score"], values["tags"], content) == (0.25, ["x", "y"], record.content)
