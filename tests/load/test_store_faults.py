"""The database is locked, moved away, deleted, and the disk full, while clients keep asking: answers go on, and what
was recorded arrives once.
"""

import asyncio
import resource
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator

import psutil
import pytest

from router.model import RouterModel
from tests.gateway_fixtures import wait_until
from tests.load.conftest import Arena, arena_of
from tests.load.traffic import Load, Tally, tell

CLIENTS, SECONDS = 12, 1.5
PATIENT = "timeout_seconds = 60.0\nfirst_byte_timeout_seconds = 60.0\ntotal_timeout_seconds = 60.0\n"
"""Limits of both sides: nobody is late here but the database."""


@pytest.fixture(scope="module")
def module_arena(router: RouterModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    with arena_of(tmp_path_factory.mktemp("store"), router, PATIENT) as arena:
        yield arena


async def asked_during(arena: Arena, begin: Callable[[], object], end: Callable[[], object]) -> tuple[Tally, int]:
    """Clients ask before, while and after the fault holds. Returns their tally and the answers while it did."""
    load = Load(arena.gateway, CLIENTS)
    tally = load.tally
    async with load:
        await load.each_asked()
        await asyncio.to_thread(begin)
        before = len(tally.answered)
        await asyncio.sleep(SECONDS)
        # whoever waits for the store is not answered until the fault is over
        await load.each_asked()
        during = len(tally.answered) - before
        await asyncio.to_thread(end)
        await load.each_asked()
    tell(f"{tally.summary()}; {during} answered while the fault held")
    return tally, during


def assert_all_answered(tally: Tally, during: int) -> None:
    assert (tally.improper, tally.cut, tally.refused, tally.broken) == ([], 0, [], [])
    assert during >= 3 * CLIENTS


def assert_recorded_once(arena: Arena, tally: Tally, before: Counter[str]) -> None:
    wait_until(lambda: set(tally.ids) <= set(arena.gateway.recorded()))
    recorded = Counter(arena.gateway.recorded())
    assert recorded - before == Counter(tally.ids)
    assert arena.gateway.rolled_up() == recorded.total()


def test_a_locked_database_delays_no_answer_and_loses_no_row(arena: Arena):
    before = Counter(arena.gateway.recorded())
    other = sqlite3.connect(arena.gateway.home / "ledger.sqlite", isolation_level=None, check_same_thread=False)
    tally, during = asyncio.run(
        asked_during(arena, lambda: other.execute("BEGIN IMMEDIATE"), lambda: other.execute("ROLLBACK"))
    )
    other.close()
    assert_all_answered(tally, during)
    assert_recorded_once(arena, tally, before)


def test_a_database_that_is_away_for_a_while_gets_every_row_when_it_is_back(arena: Arena):
    home = arena.gateway.home
    before = Counter(arena.gateway.recorded())
    arena.gateway.store.close()

    def away() -> None:
        for name in ("ledger.sqlite", "ledger.sqlite-wal", "ledger.sqlite-shm"):
            if (home / name).exists():
                (home / name).rename(home / f"away-{name}")

    def back() -> None:
        # the database last: with it, all of it is there
        for path in sorted(home.glob("away-*"), reverse=True):
            path.rename(home / path.name.removeprefix("away-"))

    tally, during = asyncio.run(asked_during(arena, away, back))
    assert_all_answered(tally, during)
    assert_recorded_once(arena, tally, before)


def test_a_deleted_databases_older_backup_gets_what_it_lacks(arena: Arena):
    home = arena.gateway.home
    before = Counter(arena.gateway.recorded())
    arena.gateway.store.close()
    with sqlite3.connect(home / "ledger.sqlite") as source, sqlite3.connect(home / "backup.sqlite") as copy:
        source.backup(copy)
    source.close()
    copy.close()

    def delete() -> None:
        for path in home.glob("ledger.sqlite*"):
            path.unlink()

    tally, during = asyncio.run(
        asked_during(arena, delete, lambda: (home / "backup.sqlite").rename(home / "ledger.sqlite"))
    )
    assert_all_answered(tally, during)
    assert_recorded_once(arena, tally, before)


def test_on_a_full_disk_answers_go_on_and_the_metric_counts_what_was_not_recorded(arena: Arena):
    """No file can grow: neither the spool, nor the database, nor the log."""
    before = Counter(arena.gateway.recorded())
    unlimited = resource.RLIM_INFINITY

    def limit(size: int) -> None:
        arena.gateway.system.rlimit(psutil.RLIMIT_FSIZE, (size, unlimited))

    tally, during = asyncio.run(asked_during(arena, lambda: limit(1), lambda: limit(unlimited)))
    assert_all_answered(tally, during)
    refused = int(arena.gateway.metric("stillroom_spool_write_failures"))
    tell(f"{refused} records refused")
    assert during <= refused + CLIENTS
    wait_until(lambda: len(arena.gateway.recorded()) == before.total() + len(tally.ids) - refused)
    recorded = Counter(arena.gateway.recorded())
    assert (recorded - before).keys() <= set(tally.ids)
    assert arena.gateway.rolled_up() == recorded.total()
    assert arena.gateway.metric("stillroom_store_reachable") == 1
