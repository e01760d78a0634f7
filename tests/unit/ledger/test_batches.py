"""Files and batches in the store."""

from typing import Any

from ledger import batches, files
from ledger.batches import Batch
from ledger.files import File
from ledger.store import Store


def file(number: int, **fields: Any) -> File:
    values = {"key_id": "key_1", "filename": "a.jsonl", "purpose": "batch", "bytes": 3, "expires_at": 1_000}
    return File(**{"id": f"file-{number}", "created_at": number} | values | fields)


def batch(number: int, **fields: Any) -> Batch:
    values = {"key_id": "key_1", "endpoint": "/v1/x", "input_file_id": "file-1", "completion_window": "24h"}
    more = {"status": "validating", "expires_at": 1_000}
    return Batch(**{"id": f"batch_{number}", "created_at": number} | values | more | fields)


def test_files_are_found_listed_by_key_and_purpose_and_expire(store: Store):
    kept = [file(1), file(2, key_id="key_2"), file(3, purpose="batch_output"), file(4, expires_at=50)]
    for each in kept:
        files.add(store, each)
    assert files.get(store, "file-2") == kept[1]
    assert files.get(store, "file-9") is None
    assert [each.id for each in files.page(store, 10)] == ["file-4", "file-3", "file-2", "file-1"]
    assert [each.id for each in files.page(store, 1, "file-4", "key_1")] == ["file-3"]
    assert [each.id for each in files.page(store, 10, None, "key_1", "batch")] == ["file-4", "file-1"]
    assert files.expired(store, 50, 10) == ["file-4"]
    assert [files.delete(store, "file-4"), files.delete(store, "file-4")] == [True, False]


def test_a_batch_is_what_was_added_and_changes_only_from_the_states_named(store: Store):
    added = batch(1, metadata={"a": "b"})
    batches.add(store, added)
    assert batches.get(store, "batch_1") == added
    assert batches.change(store, "batch_1", ("validating",), status="in_progress", total=3)
    assert not batches.change(store, "batch_1", ("validating",), status="failed")
    found = batches.get(store, "batch_1")
    assert found is not None
    assert (found.status, found.total, found.metadata) == ("in_progress", 3, {"a": "b"})


def test_what_is_open_comes_oldest_first_and_holds_its_file(store: Store):
    for number, status in ((3, "in_progress"), (1, "cancelling"), (2, "completed")):
        batches.add(store, batch(number, status=status, input_file_id=f"file-{number}"))
    assert [each.id for each in batches.open_batches(store, 10)] == ["batch_1", "batch_3"]
    assert [each.id for each in batches.page(store, 10, "batch_3", "key_1")] == ["batch_2", "batch_1"]
    assert batches.page(store, 10, None, "key_2") == []
    assert [batches.holds(store, f"file-{number}") for number in (1, 2, 3)] == [True, False, True]


def test_a_batch_ends_once_and_with_its_files(store: Store):
    batches.add(store, batch(1, status="finalizing"))
    made = [file(7, purpose="batch_output")]
    assert batches.finish(store, "batch_1", made, status="completed", completed=1, output_file_id="file-7")
    assert not batches.finish(store, "batch_1", [file(8)], status="cancelled")
    found = batches.get(store, "batch_1")
    assert found is not None
    assert (found.status, found.completed, found.output_file_id) == ("completed", 1, "file-7")
    assert [each.id for each in files.page(store, 10)] == ["file-7"]
