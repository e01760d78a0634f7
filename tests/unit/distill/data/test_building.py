"""A dataset of a ledger: what is filtered, hidden, registered, and what happens when content goes meanwhile."""

import json
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from transformers import AutoTokenizer

from distill.collate import read_examples
from distill.data.settings import DataSettings
from distill.dataset import Building, DatasetError, Manifest, build_dataset, dataset_id_of, read_held_out
from distill.settings import DistillSettings, TrainingSettings
from ledger import datasets, schema
from ledger.request_filters import TrainableFilters
from ledger.requests import expire_contents, insert_records
from ledger.store import Store, open_store, sqlite_url
from ledger.trainable import fetch_trainable, stream_trainable, times_of_trainable
from tests.unit.distill.conftest import save_tokenizer
from tests.unit.distill.data.rows import EXACT, record


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = open_store(sqlite_url(tmp_path))
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def tokenizer(tiny: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny)


def building(store: Store, tokenizer: Any, data: DataSettings = EXACT, **values: Any) -> Building:
    return Building(store, DistillSettings(min_examples=1, holdout_share=0.3, data=data), 0.1, tokenizer, **values)


def taken(manifest: Manifest) -> int:
    return manifest.train + manifest.held_out


def test_expired_content_is_in_no_dataset(store: Store, tokenizer: Any, tmp_path: Path):
    records = [record(f"parcel {n}", "lost", created_at=n) for n in range(80)]
    insert_records(store, records)
    expire_contents(store, 40)
    assert taken(build_dataset(building(store, tokenizer), tmp_path / "dataset")) == 40


def test_personal_data_is_in_neither_file_and_explained_only_in_a_file_of_its_owners(
    store: Store, tokenizer: Any, tmp_path: Path
):
    insert_records(store, [record(f"I am user{n}@example.com", f"Hello user{n}@example.com") for n in range(60)])
    kept = tmp_path / "pii.jsonl"
    manifest = build_dataset(building(store, tokenizer, pii_map=kept), tmp_path / "dataset")
    assert manifest.redacted == {"EMAIL": 60}
    held_out = read_held_out(tmp_path / "dataset")
    assert {held.answer for held in held_out} == {"Hello <EMAIL_1>"}
    examples = list(read_examples(tmp_path / "dataset" / "train.parquet"))
    assert {tokenizer.decode(each.answer_ids) for each in examples} == {"Hello <EMAIL_1><end>"}
    assert not [each for each in examples if "@" in tokenizer.decode(each.prompt_ids)]
    assert b"@example.com" not in (tmp_path / "dataset" / "manifest.json").read_bytes()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    lines = [json.loads(line) for line in kept.read_bytes().splitlines()]
    assert {line["placeholders"]["<EMAIL_1>"] for line in lines} == {f"user{n}@example.com" for n in range(60)}


def test_personal_data_stays_where_the_settings_leave_it(store: Store, tokenizer: Any, tmp_path: Path):
    insert_records(store, [record(f"I am user{n}@example.com", "lost") for n in range(40)])
    data = DataSettings(near_duplicates=1, redact_pii=False)
    build_dataset(building(store, tokenizer, data), tmp_path / "dataset")
    assert all("@example.com" in held.messages[1]["content"] for held in read_held_out(tmp_path / "dataset"))


def test_a_dataset_is_registered_with_its_rows_once_though_its_job_builds_it_twice(
    store: Store, tokenizer: Any, tmp_path: Path
):
    insert_records(store, [record(f"parcel {n}", "lost", id=f"r{n}") for n in range(60)])
    for _ in range(2):
        manifest = build_dataset(building(store, tokenizer, job_id="job_1"), tmp_path / "dataset")
    (registered,) = datasets.list_datasets(store)
    assert registered.id == manifest.id == dataset_id_of("job_1")
    assert (registered.job_id, registered.content_hash) == ("job_1", manifest.content_hash)
    held = {held.id for held in read_held_out(tmp_path / "dataset")}
    table = schema.dataset_rows
    with store.read() as connection:
        rows = {row.request_id: row.held_out for row in connection.execute(sa.select(table))}
    assert len(rows) == 60
    assert {request for request, held_out in rows.items() if held_out} == held


def test_the_same_ledger_gives_the_same_content_hash(store: Store, tokenizer: Any, tmp_path: Path):
    insert_records(store, [record(f"parcel {n}", "lost") for n in range(60)])
    one, two = (build_dataset(building(store, tokenizer), tmp_path / name) for name in ("one", "two"))
    assert one.content_hash == two.content_hash
    assert one.id != two.id


def test_what_is_older_than_the_last_dataset_is_replayed_in_its_share(store: Store, tokenizer: Any, tmp_path: Path):
    insert_records(store, [record(f"parcel {n}", "lost", created_at=n) for n in range(100)])
    build_dataset(building(store, tokenizer, now=99), tmp_path / "first")
    insert_records(store, [record(f"card {n}", "stolen", created_at=200 + n) for n in range(100)])
    data = DataSettings(near_duplicates=1, min_keys_per_trigger=1, replay_share=0.2)
    manifest = build_dataset(building(store, tokenizer, data), tmp_path / "second")
    assert 0.15 * manifest.train < manifest.replayed <= 0.2 * manifest.train
    assert manifest.dropped["replay_share"] > 0


def test_a_local_teacher_of_other_tokens_reads_each_row_in_its_own(store: Store, tokenizer: Any, tmp_path: Path):
    (tmp_path / "teacher").mkdir()
    save_tokenizer(tmp_path / "teacher", ["quite", "another", "language"])
    insert_records(store, [record(f"parcel {n}", f"lost \u00fcber {n}") for n in range(60)])
    made = building(store, tokenizer)
    training = TrainingSettings(teacher_weights=str(tmp_path / "teacher"))
    made = replace(made, settings=msgspec.structs.replace(made.settings, training=training))
    manifest = build_dataset(made, tmp_path / "dataset")
    assert (manifest.teacher.dense, manifest.teacher.foreign) == (False, True)
    assert manifest.targets.rows == {"foreign": manifest.train}
    theirs = AutoTokenizer.from_pretrained(tmp_path / "teacher")
    for each in read_examples(tmp_path / "dataset" / "train.parquet"):
        assert tokenizer.decode(each.answer_ids) == theirs.decode(each.teacher_answer_ids)
        assert tokenizer.decode(each.prompt_ids) == theirs.decode(each.teacher_prompt_ids)
        assert each.ends[-1] == each.teacher_ends[-1] == len(theirs.decode(each.teacher_answer_ids[:-1]).encode()) + 1


def test_a_local_teacher_of_the_students_tokens_is_recorded_as_dense(
    store: Store, tokenizer: Any, tiny: Path, tmp_path: Path
):
    insert_records(store, [record(f"parcel {n}", "lost") for n in range(60)])
    made = building(store, tokenizer)
    for folder, kind in ((str(tiny), "dense"), (str(tmp_path / "nowhere"), None)):
        training = TrainingSettings(teacher_weights=folder)
        chosen = replace(made, settings=msgspec.structs.replace(made.settings, training=training))
        if kind is None:
            with pytest.raises(DatasetError, match=r"teacher_weights = .* has no tokenizer"):
                build_dataset(chosen, tmp_path / "none")
            continue
        manifest = build_dataset(chosen, tmp_path / kind)
        assert manifest.teacher.dense
        assert manifest.targets.rows == {"dense": manifest.train}


def test_each_thing_that_is_done_is_said_to_be_over(store: Store, tokenizer: Any, tmp_path: Path):
    insert_records(store, [record(f"parcel {n}", "lost") for n in range(60)])
    said: dict[str, tuple[int, int]] = {}

    def hear(what: str, done: int, of: int) -> None:
        said[what] = (done, of)

    build_dataset(building(store, tokenizer, on_progress=hear), tmp_path / "dataset")
    assert said == {"reading": (60, 60), "choosing": (60, 60), "writing": (60, 60)}


def test_content_that_goes_between_the_passes_is_left_out_and_counted(store: Store, tokenizer: Any, tmp_path: Path):
    insert_records(store, [record(f"parcel {n}", "lost", created_at=n) for n in range(60)])

    def expire(what: str, done: int, of: int) -> None:
        if what == "choosing" and done == of:
            expire_contents(store, 20)

    manifest = build_dataset(building(store, tokenizer, on_progress=expire), tmp_path / "dataset")
    assert (taken(manifest), manifest.dropped["gone"]) == (40, 20)


def test_content_that_is_erased_while_it_is_written_takes_the_files_with_it(
    store: Store, tokenizer: Any, tmp_path: Path
):
    insert_records(store, [record(f"parcel {n}", "lost", created_at=n) for n in range(60)])

    def expire(what: str, done: int, of: int) -> None:
        if what == "writing" and done == of:
            expire_contents(store, 20)

    with pytest.raises(DatasetError, match="the content of 20 requests was erased"):
        build_dataset(building(store, tokenizer, on_progress=expire), tmp_path / "dataset")
    assert list((tmp_path / "dataset").iterdir()) == []


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        pytest.param({}, {"a", "b", "c"}, id="all"),
        pytest.param({"since": 2}, {"b", "c"}, id="since"),
        pytest.param({"until": 2}, {"a"}, id="until"),
        pytest.param({"tags": ("x", "y")}, {"a", "b"}, id="any of the tags"),
        pytest.param({"keys": ("k2",)}, {"c"}, id="key"),
        pytest.param({"reasons": ("hard",)}, {"b"}, id="reason"),
        pytest.param({"routes": ("student",)}, set(), id="route"),
        pytest.param({"finish_reasons": ("length",)}, set(), id="finish reason"),
        pytest.param({"min_feedback": 0.5}, set(), id="feedback that nobody gave"),
    ],
)
@pytest.mark.parametrize("batch", [1, 10])
def test_filters_choose_among_what_may_be_trained_on(
    store: Store, filters: dict[str, Any], found: set[str], batch: int
):
    insert_records(
        store,
        [
            record("q", "lost", id="a", created_at=1, tags=["x"]),
            record("q", "lost", id="b", created_at=2, tags=["y", "z"], reason="hard"),
            record("q", "lost", id="c", created_at=3, key_id="k2"),
            record("q", "lost", id="d", created_at=4, trainable=False),
        ],
    )
    chosen = TrainableFilters(**filters)
    assert {values["id"] for values, _ in stream_trainable(store, 0, batch, chosen)} == found
    assert set(fetch_trainable(store, ["a", "d", "nowhere"])) == {"a"}
    assert times_of_trainable(store, TrainableFilters(since=2)) == (2, 3)
