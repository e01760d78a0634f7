"""Labels: added once, corrected later, and in with the row they come with."""

from pathlib import Path

from ledger import labels
from ledger.ingest import Ingester
from ledger.labels import Label
from ledger.records import encode_record
from ledger.requests import insert_records
from ledger.spool import SpoolWriter
from ledger.store import Store
from tests.unit.ledger.rows import row


def label(request_id: str = "req_1", **changes) -> Label:
    values = {
        "request_id": request_id,
        "source": "explore",
        "created_at": 5,
        "release_id": "rel-1",
        "comparator": "exact",
        "agreement": 1.0,
        "propensity": 0.02,
    }
    return Label(**(values | changes))


def test_labels_of_a_request_come_back_oldest_first(store: Store):
    late, early = label(source="judge", created_at=9, agreement=0.5), label()
    labels.add(store, [late, early, label("req_2")])
    assert labels.of_request(store, "req_1") == [early, late]
    assert labels.of_request(store, "req_3") == []


def test_of_two_of_the_same_source_the_later_counts(store: Store):
    labels.add(store, [label()])
    labels.add(store, [label(created_at=7, comparator="json", agreement=0.0)])
    assert labels.of_request(store, "req_1") == [label(created_at=7, comparator="json", agreement=0.0)]


def test_adding_none_changes_nothing(store: Store):
    labels.add(store, [])
    assert labels.of_request(store, "req_1") == []


def test_a_label_goes_through_the_spool_with_its_row_and_counts_once(store: Store, tmp_path: Path):
    record = row("req_1-explore", reason="explore", propensity=0.02, label=label())
    for _ in range(2):
        writer = SpoolWriter(tmp_path)
        writer.append(encode_record(record))
        writer.close()
        Ingester(tmp_path, store).run_once()
    assert labels.of_request(store, "req_1") == [label()]


def test_a_row_that_comes_again_does_not_undo_a_later_label(store: Store):
    record = row("req_1-explore", reason="explore", label=label())
    insert_records(store, [record])
    labels.add(store, [label(agreement=0.0, created_at=8)])
    assert insert_records(store, [record]) == 0
    assert labels.of_request(store, "req_1")[0].agreement == 0.0
