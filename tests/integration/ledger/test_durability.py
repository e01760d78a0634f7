"""What the ledger promises when processes are killed and the database goes away: nothing lost, nothing twice."""

import contextlib
import random
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
import sqlalchemy as sa

from ledger.ingest import Ingester
from ledger.records import RequestRecord, encode_record
from ledger.requests import count
from ledger.spool import SpoolWriter, segments
from ledger.store import open_store, sqlite_url

WRITER = """
import os, sys
from pathlib import Path
from ledger.records import Content, RequestRecord, encode_record
from ledger.spool import SpoolWriter

folder, name, size = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
writer = SpoolWriter(folder, segment_bytes=200_000)
content = Content(messages=[{"role": "user", "content": "x" * size}])
i = 0
while True:
    record = RequestRecord(id=f"{name}-{i}", created_at=i, route="teacher", reason="hard", content=content)
    if writer.append(encode_record(record)):
        os.write(1, f"{record.id}\\n".encode())
    i += 1
    if i % 50 == 0:
        writer.sync()
"""


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request, tmp_path):
    if request.param == "sqlite":
        yield sqlite_url(tmp_path)
    else:
        with request.getfixturevalue("postgres").database() as url:
            yield url


@pytest.fixture
def store(store_url):
    opened = open_store(store_url)
    yield opened
    opened.close()


def stored(store) -> Counter[str]:
    with store.read() as connection:
        return Counter(connection.execute(sa.text("select id from requests")).scalars())


def row(name: str) -> RequestRecord:
    return RequestRecord(id=name, created_at=1, route="teacher", reason="hard")


def killed_after(seconds: float, spool: Path, name: str, size: int) -> list[str]:
    """The ids that a writer printed, each after its append returned, before it was killed."""
    arguments = [sys.executable, "-c", WRITER, spool, name, str(size)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE) as process:
        first = process.stdout.readline()
        killer = threading.Timer(seconds, process.kill)
        killer.start()
        printed = first + process.stdout.read()
        killer.join()
    assert process.returncode == -9
    assert printed.endswith(b"\n")
    return printed.decode().splitlines()


def test_twenty_killed_writers_lose_no_record_whose_append_returned(tmp_path, store):
    spool = tmp_path / "spool"
    generator = random.Random(0)
    printed: list[str] = []
    ingester = Ingester(spool, store)
    for life in range(20):
        size = generator.choice([10, 1_000, 30_000])
        printed += killed_after(generator.uniform(0.005, 0.1), spool, f"life{life}", size)
        ingester.run_once()
    found = stored(store)
    assert len({name.partition("-")[0] for name in printed}) == 20
    assert set(printed) <= set(found)
    assert set(found.values()) == {1}
    assert count(store) == len(found)
    # at most the one record of each life that was appended and not printed any more
    assert len(found) - len(printed) <= 20
    assert segments(spool) == []


def test_records_are_moved_while_their_writer_goes_on(tmp_path, store):
    spool = tmp_path / "spool"
    arguments = [sys.executable, "-c", WRITER, spool, "living", "100"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE) as process:
        printed = [process.stdout.readline()]
        ingesters = [Ingester(spool, store), Ingester(spool, store)]
        deadline = time.monotonic() + 1
        while time.monotonic() < deadline:
            printed += [process.stdout.readline() for _ in range(20)]
            ingesters[len(printed) // 20 % 2].run_once()
            last = printed[-1].decode().strip()
            assert last in stored(store)
        process.kill()
        printed += process.stdout.read().splitlines()
    ingesters[0].run_once()
    found = stored(store)
    assert {line.decode().strip() for line in printed} <= set(found)
    assert set(found.values()) == {1}
    assert count(store) == len(found)


@pytest.fixture
def waiting(tmp_path):
    with ten_and_ten(tmp_path, sqlite_url(tmp_path)) as ingester:
        yield ingester


@contextlib.contextmanager
def ten_and_ten(tmp_path, url: str):
    """A spool with a living writer, ten records in the store already and ten more on their way."""
    store = open_store(url)
    writer = SpoolWriter(tmp_path / "spool")
    ingester = Ingester(tmp_path / "spool", store)
    for i in range(10):
        assert writer.append(encode_record(row(f"before-{i}")))
    assert ingester.run_once() == 10
    for i in range(10):
        assert writer.append(encode_record(row(f"after-{i}")))
    yield ingester
    writer.close()
    store.close()


ALL = Counter({f"{when}-{i}": 1 for when in ("before", "after") for i in range(10)})


def refuse_to_wait(store) -> None:
    with store.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA busy_timeout=50")


def test_a_database_that_another_program_has_locked_takes_the_records_later(tmp_path, waiting):
    other = sqlite3.connect(tmp_path / "ledger.sqlite", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    refuse_to_wait(waiting.store)
    for _ in range(2):
        with pytest.raises(sa.exc.OperationalError, match="locked"):
            waiting.run_once()
    other.execute("ROLLBACK")
    other.close()
    assert waiting.run_once() == 10
    assert stored(waiting.store) == ALL
    assert count(waiting.store) == 20


def test_a_database_that_is_unlocked_while_ingestion_waits_takes_the_records_at_once(tmp_path, waiting):
    other = sqlite3.connect(tmp_path / "ledger.sqlite", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN EXCLUSIVE")
    timer = threading.Timer(0.3, other.execute, ["ROLLBACK"])
    timer.start()
    assert waiting.run_once() == 10
    timer.join()
    other.close()
    assert stored(waiting.store) == ALL


def test_a_database_that_is_deleted_is_not_written_to_and_its_successor_gets_every_spooled_record(tmp_path, waiting):
    for path in tmp_path.glob("ledger.sqlite*"):
        path.unlink()
    for _ in range(2):
        with pytest.raises(sa.exc.OperationalError, match="unable to open"):
            waiting.run_once()
    assert not (tmp_path / "ledger.sqlite").exists()
    successor = open_store(sqlite_url(tmp_path))
    assert waiting.run_once() == 20
    assert stored(successor) == ALL
    assert count(successor) == 20
    successor.close()


def test_a_database_that_is_replaced_by_its_backup_gets_what_the_backup_lacks(tmp_path, waiting):
    waiting.store.close()
    backup = tmp_path / "backup.sqlite"
    shutil.copy(tmp_path / "ledger.sqlite", backup)
    for path in tmp_path.glob("ledger.sqlite*"):
        path.unlink()
    with pytest.raises(sa.exc.OperationalError):
        waiting.run_once()
    backup.rename(tmp_path / "ledger.sqlite")
    assert waiting.run_once() == 10
    assert stored(waiting.store) == ALL
    assert count(waiting.store) == 20


def test_a_database_that_cannot_be_written_takes_the_records_once_it_can(tmp_path, waiting):
    with waiting.store.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA query_only=ON")
    with pytest.raises(sa.exc.OperationalError, match="readonly"):
        waiting.run_once()
    waiting.store.close()
    assert waiting.run_once() == 10
    assert stored(waiting.store) == ALL


def test_a_full_disk_under_the_database_loses_nothing(tmp_path, waiting):
    with waiting.store.engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")
    big = SpoolWriter(tmp_path / "spool")
    names = [f"big-{i}-{'x' * 2_000}" for i in range(100)]
    for name in names:
        assert big.append(encode_record(row(name)))
    big.close()
    with pytest.raises(sa.exc.OperationalError, match="full"):
        waiting.run_once()
    waiting.store.close()
    waiting.run_once()
    assert stored(waiting.store) == ALL + Counter(names)
    assert count(waiting.store) == 120


def test_a_table_that_another_program_has_locked_takes_the_records_later(tmp_path, postgres):
    with postgres.database() as url, ten_and_ten(tmp_path, f"{url}&options=-c%20lock_timeout=50ms") as waiting:
        with waiting.store.engine.connect() as other, other.begin():
            other.exec_driver_sql("LOCK TABLE requests IN ACCESS EXCLUSIVE MODE")
            for _ in range(2):
                with pytest.raises(sa.exc.OperationalError, match="lock timeout"):
                    waiting.run_once()
        assert waiting.run_once() == 10
        assert stored(waiting.store) == ALL
        assert count(waiting.store) == 20


def test_a_server_that_ended_without_a_word_gets_what_it_lacks_when_it_is_back(tmp_path, postgres):
    with postgres.database() as url, ten_and_ten(tmp_path, url) as waiting:
        postgres.stop("immediate")
        try:
            for _ in range(2):
                with pytest.raises(sa.exc.OperationalError):
                    waiting.run_once()
        finally:
            postgres.start()
        assert waiting.run_once() == 10
        assert stored(waiting.store) == ALL
        assert count(waiting.store) == 20


def test_the_database_is_sound_after_its_ingester_was_killed(tmp_path, store_url):
    spool = tmp_path / "spool"
    writer = SpoolWriter(spool)
    names = [f"r{i}" for i in range(3_000)]
    for name in names:
        assert writer.append(encode_record(row(name)))
    writer.close()
    code = (
        "import sys; from pathlib import Path; from ledger.ingest import Ingester; from ledger.store import *\n"
        "store = open_store(sys.argv[2]); print('up', flush=True)\n"
        "Ingester(Path(sys.argv[1]), store).run_once()"
    )
    for life in range(5):
        with subprocess.Popen([sys.executable, "-c", code, spool, store_url], stdout=subprocess.PIPE) as process:
            assert process.stdout.readline() == b"up\n"
            time.sleep(0.02 * life)
            process.kill()
    store = open_store(store_url)
    Ingester(spool, store).run_once()
    assert stored(store) == Counter(names)
    assert count(store) == len(names)
    if store.engine.dialect.name == "sqlite":
        with store.read() as connection:
            assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
    store.close()
