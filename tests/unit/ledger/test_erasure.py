"""Erasure: what was said is gone for good, the bill stays, and whoever holds a copy is named."""

import json
from pathlib import Path

import msgspec
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger import audit, datasets, erasure, feedback, jobs, keys, labels, releases, responses, schema
from ledger.conversations import conversation_id, user_id_of
from ledger.erasure import ErasureError, Subject, resolve
from ledger.feedback import Feedback
from ledger.holders import flagged, purge
from ledger.ingest import Ingester
from ledger.labels import Label
from ledger.owners import backfill
from ledger.records import Content, encode_record
from ledger.requests import count, get, insert_records, usage_by
from ledger.responses import StoredBody, StoredResponse, encode_body
from ledger.spool import SpoolWriter
from ledger.store import Store, now_ms
from tests.unit.ledger.rows import a_store, release, row
from tests.unit.ledger.test_datasets import dataset


def said(request_id: str, first: str = "hello", user: str | None = None, **values: object):
    parameters = {"user": user} if user else {}
    content = Content(messages=[{"role": "user", "content": first}], parameters=parameters, answer="fine")
    return row(request_id, content=content, **values)


def answered(request_id: str, previous: str | None = None, at: int = 1, **response: object) -> StoredResponse:
    body = StoredBody(msgspec.Raw(json.dumps({"id": f"resp_{request_id}", **response}).encode()), [])
    return StoredResponse(f"resp_{request_id}", at, "key_1", request_id, previous, encode_body(body))


def erase(store: Store, kind: str, value: str, dry_run: bool = False) -> erasure.Erasure:
    return erasure.erase(store, resolve(store, kind, value), "tester", dry_run)


def kept(store: Store) -> set[str]:
    with store.read() as connection:
        return set(connection.execute(sa.select(schema.contents.c.request_id)).scalars())


def test_a_users_content_goes_and_the_rows_and_sums_stay(store):
    insert_records(store, [said("a", user="ann", cost_nano=5), said("a-explore", user="ann"), said("b", user="bob")])
    before = usage_by(store, ["route"])
    done = erase(store, "user", "ann")
    assert (done.contents, done.feedback, done.responses) == (2, 0, 0)
    assert kept(store) == {"b"}
    assert usage_by(store, ["route"]) == before
    assert get(store, "a")[0]["cost_nano"] == 5
    assert erase(store, "user", "ann").contents == 0


def test_a_dry_run_says_the_same_and_changes_nothing(store):
    insert_records(store, [said("a", user="ann")])
    datasets.add(store, dataset("d1"), [("a", False)])
    wouldbe = erase(store, "user", "ann", dry_run=True)
    assert kept(store) == {"a"}
    assert flagged(store).datasets == []
    assert audit.entries(store) == []
    done = erase(store, "user", "ann")
    assert msgspec.structs.replace(wouldbe, dry_run=False, holders=done.holders) == done
    assert [held.id for held in wouldbe.holders.datasets] == ["d1"]


def test_a_conversation_is_erased_by_any_of_its_requests_or_by_its_id(store):
    insert_records(store, [said("a", "Hello  there"), said("b", "hello there"), said("c", "other")])
    assert erase(store, "conversation", "b").contents == 2
    assert kept(store) == {"c"}
    assert erase(store, "conversation", conversation_id([{"role": "user", "content": "other"}])).contents == 1
    with pytest.raises(ErasureError, match="there is no content"):
        erase(store, "conversation", "a")


def test_messages_without_a_user_are_no_conversation_to_erase(store):
    content = Content(messages=[{"role": "system", "content": "x"}])
    insert_records(store, [row("a", content=content)])
    with pytest.raises(ErasureError, match="erase the request alone"):
        erase(store, "conversation", "a")
    assert erase(store, "request", "a").contents == 1


def test_one_request_is_erased_with_the_rows_beside_it_and_what_may_quote_it_is_counted(store):
    insert_records(store, [said("a"), said("a-explore"), said("a-shadow"), said("b"), said("c", "other")])
    done = erase(store, "request", "a-explore")
    assert (done.subject, done.contents, done.quoting) == ("request:a", 3, 1)
    assert kept(store) == {"b", "c"}


def test_a_keys_content_goes_and_an_unknown_key_is_an_error(store):
    key = keys.create(store, "shop", ["inference"], "tester")[0]
    insert_records(store, [said(f"r{i:04d}", f"q{i}", key_id=key.id) for i in range(1_100)])
    insert_records(store, [said("other", key_id="key_2"), said("r0001-explore")])
    assert erase(store, "key", key.id).contents == 1_101
    assert kept(store) == {"other"}
    with pytest.raises(ErasureError, match="there is no key 'x'"):
        erase(store, "key", "x")


def test_feedback_loses_its_words_and_keeps_its_score_and_labels_stay(store):
    insert_records(store, [said("a", user="ann"), said("b")])
    for request_id in ("a", "b"):
        feedback.add(store, Feedback(id="", created_at=0, request_id=request_id, score=0.0, comment="no"), None, True)
    labels.add(store, [Label(
        request_id="a", source="explore", created_at=1, release_id=None, comparator="text", agreement=1, propensity=1,
    )])  # fmt: skip
    assert erase(store, "user", "ann").feedback == 1
    (of_a,), (of_b,) = feedback.of_request(store, "a"), feedback.of_request(store, "b")
    assert (of_a.score, of_a.comment, of_b.comment) == (0.0, None, "no")
    assert len(labels.of_request(store, "a")) == 1


def test_kept_answers_go_with_all_that_go_on_from_them(store):
    insert_records(store, [said(name, f"turn {name}") for name in ("a", "b", "c", "z")])
    chain = [answered("a"), answered("b", "resp_a", 2), answered("c", "resp_b", 3), answered("z", None, 4)]
    responses.save(store, chain)
    done = erase(store, "request", "b")
    assert (done.responses, done.contents) == (2, 2)
    assert [responses.get(store, f"resp_{name}") is not None for name in "abcz"] == [True, False, False, True]
    assert kept(store) == {"a", "z"}


def test_a_kept_answer_to_a_request_that_was_not_logged_is_found_by_the_user_in_it(store):
    insert_records(store, [row("a", content=None), row("b", content=None)])
    responses.save(store, [answered("a", user="ann"), answered("b", user="bob", safety_identifier=7)])
    assert erase(store, "user", "ann").responses == 1
    assert responses.get(store, "resp_b") is not None


@pytest.mark.parametrize("kind", erasure.KINDS)
def test_a_record_in_a_spool_loses_its_content_on_its_way_in(store, tmp_path: Path, kind):
    key = keys.create(store, "shop", ["inference"], "tester")[0]
    now = now_ms()
    early = said("a", user="ann", key_id=key.id, created_at=now)
    other = said("b", "other", user="bob", created_at=now)
    insert_records(store, [said("seen", user="ann", created_at=now)])
    spool = SpoolWriter(tmp_path)
    for record in (early, said("a-explore", user="ann", created_at=now), other):
        spool.append(encode_record(record))
    value = {"user": "ann", "conversation": "seen", "request": "a", "key": key.id}[kind]
    erase(store, kind, value)
    spool.append(encode_record(said("later", user="ann", key_id=key.id, created_at=now + 3_600_000)))
    spool.close()
    assert Ingester(tmp_path, store).run_once() == 4
    assert "a" not in kept(store)
    assert ("a-explore" in kept(store)) == (kind == "key")  # that row names no key here
    assert {"b", "later"} <= kept(store)
    assert count(store) == 5


def test_every_dataset_and_release_that_holds_it_is_named_and_flagged(store):
    insert_records(store, [said("a", user="ann"), said("b", user="bob")])
    datasets.add(store, dataset("d1", 1, job_id="job_1"), [("a", False)])
    datasets.add(store, dataset("d2", 2), [("a", True), ("b", False)])
    datasets.add(store, dataset("d3", 3), [("b", False)])
    made = [
        ("r1", {"job_id": "job_1"}),
        ("r2", {"dataset_id": "d2", "parent_id": "r1"}),
        ("r3", {"dataset_id": "d3", "parent_id": "r2"}),
        ("r4", {"dataset_id": "d3"}),
    ]
    for at, (name, values) in enumerate(made):
        plain = release(name, created_at=at)
        releases.add(store, releases.Release(**{f: getattr(plain, f) for f in plain.__slots__} | values))
    held = erase(store, "user", "ann").holders
    assert [(each.id, each.flagged_at is not None) for each in held.datasets] == [("d2", True), ("d1", True)]
    found = [(each.id, each.how, each.of) for each in held.releases]
    assert found == [("r1", "trained", "d1"), ("r2", "trained", "d2"), ("r3", "descends", "r2")]
    assert flagged(store) == held
    assert datasets.get(store, "d3").flagged_at is None
    (last, first) = audit.entries(store)
    assert (first["action"], last["action"]) == ("content.erase", "content.erased")
    assert first["subject"] == f"user:{user_id_of('ann')}"
    assert last["detail"]["releases"] == ["r1", "r2", "r3"]
    assert "ann" not in json.dumps([first, last], default=str)


def test_a_request_whose_content_expired_is_still_named_in_its_datasets(store):
    insert_records(store, [row("a", content=None)])
    datasets.add(store, dataset("d1"), [("a", False)])
    assert [held.id for held in erase(store, "request", "a").holders.datasets] == ["d1"]


def test_files_of_a_dataset_are_purged_unless_a_job_may_need_them(store, tmp_path: Path):
    for name in ("free", "busy"):
        (tmp_path / name / "part").mkdir(parents=True)
        for file in ("train.parquet", "part/0.parquet", "held_out.jsonl", "manifest.json"):
            (tmp_path / name / file).write_text("x")
    job = jobs.create(store, "manual", "tester", {})
    datasets.add(store, dataset("busy", 1, folder=str(tmp_path / "busy"), job_id=job.id), [("a", False)])
    datasets.add(store, dataset("free", 2, folder=str(tmp_path / "free"), job_id="job_gone"), [("a", False)])
    datasets.add(store, dataset("lost", 3, folder=str(tmp_path / "lost")), [("a", False)])
    held = erase(store, "request", "a").holders.datasets
    assert purge(store, held)[1] == ["busy"]
    assert sorted(path.name for path in (tmp_path / "free").rglob("*") if path.is_file()) == ["manifest.json"]
    assert (tmp_path / "busy" / "train.parquet").exists()
    jobs.cancel(store, job.id, "tester")
    assert len(purge(store, held)[0]) == 6
    assert not (tmp_path / "busy" / "train.parquet").exists()


def forget_owners(store: Store) -> None:
    with store.write() as connection:
        connection.execute(sa.update(schema.contents).values(conversation_id=None, user_id=None))


def test_content_from_before_there_were_owners_is_found_too(store):
    insert_records(store, [said("a", user="ann"), said("b", "other", user="bob")])
    forget_owners(store)
    assert erase(store, "user", "ann").contents == 1
    forget_owners(store)
    assert erase(store, "conversation", "b").contents == 1
    assert kept(store) == set()


def test_a_body_that_cannot_be_read_does_not_stop_the_others(store):
    insert_records(store, [said("a", user="ann"), said("b", user="ann"), said("c", user="ann")])
    forget_owners(store)
    with store.write() as connection:
        connection.execute(
            sa.update(schema.contents).where(schema.contents.c.request_id == "b").values(body=b"not zstd")
        )
    assert backfill(store, batch=1) == 2
    assert backfill(store, batch=1) == 0
    assert erase(store, "user", "ann").contents == 2


USERS = st.lists(st.tuples(st.sampled_from(["ann", "bob", None]), st.integers(0, 2)), max_size=12)


@settings(deadline=None, max_examples=15)
@given(USERS, st.sampled_from(["ann", "bob"]), st.booleans())
def test_exactly_the_content_of_the_subject_goes(rows, user, old):
    with a_store() as store:
        insert_records(store, [said(f"r{i}", f"q{q}", user=who) for i, (who, q) in enumerate(rows)])
        if old:
            forget_owners(store)
        erasure.erase(store, Subject("user", user_id_of(user)), "tester")
        assert kept(store) == {f"r{i}" for i, (who, _) in enumerate(rows) if who != user}
