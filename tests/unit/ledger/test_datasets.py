"""The registry of datasets."""

import pytest
from sqlalchemy.exc import IntegrityError

from ledger import datasets
from ledger.datasets import Dataset


def dataset(name: str, created_at: int = 1, **values: object) -> Dataset:
    return Dataset(**{
        "id": name, "created_at": created_at, "job_id": None, "folder": f"/data/{name}",
        "content_hash": "0" * 64, "manifest": {"train": 2}, **values,
    })  # fmt: skip


def test_a_dataset_comes_back_as_it_was_recorded_newest_first(store):
    assert datasets.latest(store) is None
    first, second = dataset("d1", 1, job_id="job_1"), dataset("d2", 2)
    datasets.add(store, second, [])
    datasets.add(store, first, [("a", False), ("b", True)])
    assert datasets.get(store, "d1") == first
    assert datasets.get(store, "d3") is None
    assert datasets.latest(store) == second
    assert datasets.list_datasets(store) == [second, first]
    assert datasets.list_datasets(store, limit=1) == [second]


def test_the_datasets_that_hold_a_request_are_found_whether_it_is_held_out_or_not(store):
    datasets.add(store, dataset("d1", 1), [(f"r{i}", False) for i in range(2_500)])
    datasets.add(store, dataset("d2", 2), [("r7", True), ("x", False)])
    datasets.add(store, dataset("d3", 3), [("y", False)])
    ids = [held.id for held in datasets.holding(store, ["r7"])]
    assert ids == ["d2", "d1"]
    assert [held.id for held in datasets.holding(store, ["r2499"])] == ["d1"]
    assert [held.id for held in datasets.holding(store, [f"no{i}" for i in range(1_200)] + ["y"])] == ["d3"]
    assert datasets.holding(store, []) == []


def test_a_dataset_that_is_built_again_replaces_what_it_held(store):
    datasets.add(store, dataset("d1"), [("a", False), ("a", True)])
    datasets.add(store, dataset("d1", content_hash="1" * 64), [("b", False)])
    assert datasets.holding(store, ["a"]) == []
    assert [held.content_hash for held in datasets.holding(store, ["b"])] == ["1" * 64]


def test_a_dataset_whose_rows_fail_halfway_is_not_recorded(store):
    with pytest.raises(IntegrityError):
        datasets.add(store, dataset("d1"), ((f"r{i}" if i < 1_500 else None, False) for i in range(2_000)))
    assert datasets.get(store, "d1") is None
    assert datasets.holding(store, ["r1"]) == []


def test_the_first_time_of_a_flag_stays(store):
    datasets.add(store, dataset("d1"), [])
    for at in (5, 9):
        with store.write() as connection:
            datasets.flag(connection, ["d1"], at)
    assert datasets.get(store, "d1").flagged_at == 5
