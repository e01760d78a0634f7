"""Old rows as Parquet: their sums to the nano, each once whatever ends it, nothing deleted that is not there."""

import contextlib
import itertools
import random
import re
import resource
import subprocess
import sys
from collections import Counter
from pathlib import Path

import duckdb
import fsspec
import pytest
import sqlalchemy as sa
from fsspec.implementations.memory import MemoryFileSystem

from bench.ledger.traffic import traffic
from ledger import schema
from ledger.archive import ArchiveError, Day, archive, youngest
from ledger.archive_files import ArchiveFiles
from ledger.artifacts import ArtifactError
from ledger.labels import Label
from ledger.requests import count, expire_contents, get, insert_records
from ledger.rollups import DAY_MS, SUMS
from ledger.store import Store, now_ms
from tests.unit.ledger.rows import row

PAGE = Path(__file__).parents[3] / "docs" / "archive.md"
OLD = 20_000 * DAY_MS
"""A day in 2024."""


@pytest.fixture(params=["folder", "memory"])
def url(request, tmp_path):
    return str(tmp_path / "archive") if request.param == "folder" else f"memory://{tmp_path.name}/archive"


@pytest.fixture
def folder(tmp_path):
    return str(tmp_path / "archive")


def archived(store: Store, url: str, delete: bool = False) -> list[Day]:
    done: list[Day] = []
    archive(store, url, youngest(), delete, done.append)
    return done


def asked(url: str, query: str) -> list[tuple]:
    """What DuckDB answers, which gets to whatever fsspec gets to."""
    with duckdb.connect() as connection:
        if url.startswith("memory://"):
            connection.register_filesystem(fsspec.filesystem("memory"))
        return connection.execute(query.replace("ARCHIVE", url)).fetchall()


def ids(url: str) -> Counter[str]:
    return Counter(name for (name,) in asked(url, "SELECT id FROM read_parquet('ARCHIVE/requests/*/*.parquet')"))


def held(store: Store) -> set[str]:
    with store.read() as connection:
        return set(connection.execute(sa.select(schema.requests.c.id)).scalars())


def labelled(request_id: str, at: int) -> Label:
    return Label(
        request_id=request_id, source="feedback", created_at=at, release_id=None, comparator="exact", agreement=0.5,
        propensity=0.25,
    )  # fmt: skip


def of_days(*numbers: int, **values) -> list:
    return [row(f"r{day}-{n}", created_at=OLD + day * DAY_MS + n, **values) for day in numbers for n in range(5)]


def test_its_sums_are_those_of_the_ledger_to_the_nano_before_and_after_the_rows_are_deleted(store, url):
    insert_records(store, list(itertools.islice(traffic(15_000, now_ms() - 100 * DAY_MS), 2_000)))
    expire_contents(store, now_ms())
    sums, rows = schema.usage_rollups, count(store)
    of_ledger = sa.select(sums.c.at, sums.c.route, sums.c.value, *(sums.c[name] for name in SUMS)).where(
        sums.c.dimension == "reason", sums.c.step_ms == DAY_MS
    )
    with store.read() as connection:
        expected = sorted(map(tuple, connection.execute(of_ledger)))
    for delete in (False, True):
        done = archived(store, url, delete)
        found = asked(
            url,
            "SELECT epoch_ms(day::TIMESTAMP), route, reason, count(*), count(*) FILTER (status >= 400), "
            "sum(prompt_tokens + attempt_prompt_tokens), sum(completion_tokens + attempt_completion_tokens), "
            "sum(cost_nano), sum(baseline_nano) "
            "FROM read_parquet('ARCHIVE/requests/*/*.parquet', hive_partitioning = true) GROUP BY ALL",
        )
        assert sorted(found) == expected
        assert sum(day.rows for day in done if day.table == "requests") == rows
        assert sum(day.deleted for day in done if day.table == "requests") == (rows if delete else 0)
    with store.read() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(schema.labels)).scalar() == 0
        assert sorted(map(tuple, connection.execute(of_ledger))) == expected
    assert (held(store), count(store)) == (set(), rows)


def test_a_row_is_archived_as_it_is_and_without_what_was_said(store, url):
    tags = ["team a", "größe", "東京", ""]
    label = labelled("r", OLD + 1)
    insert_records(store, [row("r", created_at=OLD, cost_nano=2**62, score=0.1, tags=tags, stream=True, label=label)])
    archived(store, url)
    requests = "read_parquet('ARCHIVE/requests/*/*.parquet', hive_partitioning = false)"
    (names,) = zip(*asked(url, f"SELECT column_name FROM (DESCRIBE SELECT * FROM {requests})"), strict=True)
    (values,) = asked(url, f"SELECT * FROM {requests}")
    found = dict(zip(names, values, strict=True))
    expected, content = get(store, "r")
    assert content is not None
    assert found == expected
    assert asked(url, "SELECT request_id, agreement FROM read_parquet('ARCHIVE/labels/*/*.parquet')") == [("r", 0.5)]
    assert "question" not in str(values)


def test_what_is_archived_is_not_written_again_and_what_came_late_is_added(store, url):
    insert_records(store, of_days(0, 1))
    assert [(day.rows, day.written) for day in archived(store, url)] == [(5, 5), (5, 5)]
    assert [(day.rows, day.written) for day in archived(store, url)] == [(5, 0), (5, 0)]
    insert_records(store, [row("late", created_at=OLD)])
    assert [(day.rows, day.written) for day in archived(store, url)] == [(6, 1), (5, 0)]
    assert ids(url) == Counter(held(store))


def test_a_day_that_is_not_over_stays_in_the_ledger(store, folder):
    insert_records(store, [row("old", created_at=OLD), row("new", created_at=now_ms())])
    assert [day.rows for day in archived(store, folder)] == [1]
    assert ids(folder) == Counter(["old"])


def test_rows_with_content_and_rows_of_a_dataset_stay_with_their_labels(store, folder):
    label = labelled("r2-0", OLD + DAY_MS)
    insert_records(
        store, [*of_days(0), *of_days(1, content=None), row("held", created_at=OLD + DAY_MS, content=None)]
    )
    insert_records(store, [row("r2-0", created_at=OLD + 2 * DAY_MS, content=None, label=label)])
    with store.write() as connection:
        connection.execute(sa.insert(schema.dataset_rows).values(dataset_id="d", request_id="held", held_out=False))
    found = {(day.table, day.day - 20_000): day.deleted for day in archived(store, folder, delete=True)}
    assert found == {("requests", 0): 0, ("requests", 1): 5, ("requests", 2): 1, ("labels", 1): 1}
    assert held(store) == {"held", *(f"r0-{n}" for n in range(5))}
    expire_contents(store, now_ms())
    assert [day.deleted for day in archived(store, folder, delete=True)] == [5, 0]
    assert held(store) == {"held"}
    assert len(ids(folder)) == 12


@pytest.mark.parametrize("damage", [b"", b"PAR1", None], ids=["empty", "cut off", "changed"])
def test_nothing_is_deleted_that_the_archive_does_not_give_back(store, folder, damage):
    insert_records(store, of_days(0, content=None))
    archived(store, folder)
    (file,) = Path(folder).rglob("*.parquet")
    whole = file.read_bytes()
    at = whole.index(b"PAR1") + 60
    file.write_bytes(damage if damage is not None else whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    with contextlib.suppress(ArchiveError, ArtifactError):
        archived(store, folder, delete=True)
    assert len(held(store)) == 5 or ids(folder) == Counter(f"r0-{n}" for n in range(5))
    if damage is not None:
        with pytest.raises(ArchiveError, match="cannot be read"):
            archived(store, folder, delete=True)


def test_another_ledgers_archive_is_not_taken_for_ones_own(store, folder):
    insert_records(store, of_days(0, content=None))
    archived(store, folder)
    with store.write() as connection:
        connection.execute(sa.update(schema.requests).where(schema.requests.c.id == "r0-3").values(cost_nano=5))
    with pytest.raises(ArchiveError, match="r0-3 differs"):
        archived(store, folder, delete=True)
    assert len(held(store)) == 5


class Forgetful(MemoryFileSystem):
    """Stands for a place that keeps less than it was given, and says nothing of it."""

    protocol = "forgetful"
    store = {}  # noqa: RUF012 as its parent has it
    pseudo_dirs = [""]  # noqa: RUF012 same

    def put_file(self, lpath, rpath, callback=None, mode="overwrite", **kwargs):
        self.pipe_file(rpath, Path(lpath).read_bytes()[:-100])


def test_a_place_that_loses_bytes_gets_no_file_and_nothing_is_deleted(store):
    fsspec.register_implementation("forgetful", Forgetful, clobber=True)
    insert_records(store, of_days(0, content=None))
    with pytest.raises(ArchiveError, match="cannot be read"):
        archived(store, "forgetful://archive", delete=True)
    assert Forgetful().find("/") == []
    assert len(held(store)) == 5


def test_a_disk_that_takes_no_more_loses_nothing_and_leaves_nothing_half(store, folder):
    insert_records(store, of_days(0, 2, content=None))
    chance = random.Random(3)
    many = [row(chance.randbytes(30).hex(), created_at=OLD + DAY_MS, content=None) for _ in range(6_000)]
    insert_records(store, many)
    with store.read() as connection:
        if connection.dialect.name == "sqlite":
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, hard))
    try:
        with pytest.raises(ArtifactError, match="too large"):
            archived(store, folder, delete=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert len(held(store)) == 6_005
    assert [path.name for path in Path(folder).rglob("*") if path.is_file() and path.suffix != ".parquet"] == []
    archived(store, folder, delete=True)
    assert held(store) == set()
    assert ids(folder).total() == len(ids(folder)) == 6_010


KILLED = """
import sys
from ledger.archive import archive, youngest
from ledger.store import open_store
from ledger import archive as of, leases
of.DELETED_AT_ONCE = 50
print("up", flush=True)
archive(open_store(sys.argv[1]), sys.argv[2], youngest(), True, lambda day: None)
"""


def test_ended_anywhere_it_goes_on_and_every_row_is_somewhere_and_in_the_archive_once(store, folder):
    made = [row(f"r{n}", created_at=OLD + n * DAY_MS // 100, content=None) for n in range(2_000)]
    insert_records(store, made)
    chance = random.Random(7)
    for _ in range(4):
        command = [sys.executable, "-c", KILLED, store.engine.url.render_as_string(False), folder]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"up\n"
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(chance.uniform(0.05, 0.6))
            process.kill()
        assert held(store) | set(ids(folder) if list(Path(folder).rglob("*.parquet")) else ()) == {r.id for r in made}
        with store.write() as connection:
            connection.execute(sa.delete(schema.leases))  # ten minutes pass
    archived(store, folder, delete=True)
    assert held(store) == set()
    assert ids(folder) == Counter(r.id for r in made)
    assert count(store) == 2_000


def test_two_do_not_archive_one_ledger_at_once(store, folder):
    insert_records(store, of_days(0, 1))

    def meanwhile(_day: Day) -> None:
        with pytest.raises(ArchiveError, match="another process"):
            archived(store, folder)

    archive(store, folder, youngest(), False, meanwhile)
    assert len(archived(store, folder)) == 2


def test_the_queries_of_the_page_are_answered(store, folder):
    insert_records(store, of_days(0, 1, cost_nano=1_500_000_000))
    archived(store, folder)
    blocks = re.findall(r"```sql\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    assert blocks
    (first, *others) = [asked(folder, block.replace("'archive/", "'ARCHIVE/")) for block in blocks]
    assert [float(line[-1]) for line in first] == [7.5, 7.5]
    assert all(others)


def test_a_place_that_cannot_be_is_said(store, tmp_path):
    insert_records(store, of_days(0))
    (tmp_path / "file").write_text("")
    for url, says in ((str(tmp_path / "file" / "x"), "cannot be used"), ("nosuch://x", "cannot be opened")):
        with pytest.raises(ArtifactError, match=says):
            archived(store, url)
    assert ArchiveFiles(str(tmp_path / "none")).rows(schema.requests, 0) == {}
