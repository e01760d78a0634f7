"""Filling a ledger with 90 days: one day of each release is inserted as records are, into a ledger of its own, and
copied to each of the release's days by SQL, rows with their ids, and sums. The recount shows that nothing got lost.
"""

import itertools
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import numpy as np
import sqlalchemy as sa
from sqlalchemy import event

from bench.ledger.traffic import DAYS, ERA_DAYS, RELEASES, of_day
from ledger import schema
from ledger.requests import insert_records
from ledger.rollups import DAY_MS, HOUR_MS, insert_rows
from ledger.store import Store, open_store, sqlite_url

__all__ = ("batches", "fill_days", "in_a_hurry")

INSERTED: Final = 20_000
ROWS: Final = (schema.requests, schema.contents, schema.labels)
SUMS: Final = (schema.usage_hourly, schema.usage_rollups, schema.latency_hourly, schema.first_token_hourly)
TIMES: Final = ("created_at", "hour", "at")
IDS: Final = ("id", "request_id")


def fill_days(store: Store, rows: int, ends_at: int) -> int:
    """Fill the days before a time (ms). Returns how many rows are new."""
    begins = ends_at // HOUR_MS * HOUR_MS - DAYS * DAY_MS
    chance, new = np.random.default_rng(), 0
    for era in range(RELEASES):
        with tempfile.TemporaryDirectory(dir=Path(store.engine.url.database or "").parent) as folder:
            day = in_a_hurry(open_store(sqlite_url(Path(folder))))
            records = of_day(rows, begins + era * ERA_DAYS * DAY_MS, era, chance)
            of_one = sum(insert_records(day, some) for some in batches(records, INSERTED))
            new += of_one * ERA_DAYS
            _copy(store, day, Path(folder) / "ledger.sqlite")
            day.close()
    return new


def _copy(store: Store, day: Store, file: Path) -> None:
    with day.read() as connection:
        sums = {table: [tuple(row) for row in connection.execute(sa.select(table))] for table in SUMS}
    with store.engine.connect() as connection:
        raw = connection.connection.driver_connection
        assert raw is not None
        raw.execute("ATTACH DATABASE ? AS day", (str(file),))
        for shift in range(0, ERA_DAYS * DAY_MS, DAY_MS):
            with connection.execution_options(stillroom_write=True).begin():
                for table in ROWS:
                    names = [column.name for column in table.columns]
                    moved = ", ".join(_shifted(name, shift) for name in names)
                    into = f"{table.name} ({', '.join(names)})"
                    connection.exec_driver_sql(f"INSERT INTO {into} SELECT {moved} FROM day.{table.name}")
                for table, kept in sums.items():
                    at = next(i for i, column in enumerate(table.columns) if column.name in TIMES)
                    rows = [(*row[:at], row[at] + shift, *row[at + 1 :]) for row in kept]
                    insert_rows(connection, table, rows, add=True)
        raw.execute("DETACH DATABASE day")


def _shifted(column: str, shift: int) -> str:
    """SQL of a column's value so many ms later. An id begins with the time of its row, or its request's: the same."""
    if column in TIMES:
        return f"{column} + {shift}"
    if column in IDS:
        return f"'req_' || printf('%011x', created_at + {shift}) || substr({column}, 16)"
    return column


def in_a_hurry(store: Store) -> Store:
    """The same, no longer waiting for the disk: a power cut would spoil it."""

    def configure(connection: Any, _record: Any) -> None:
        connection.execute("PRAGMA synchronous=OFF")
        connection.execute("PRAGMA cache_size=-500000")
        connection.execute("PRAGMA wal_autocheckpoint=100000")

    store.close()
    event.listen(store.engine, "connect", configure)
    return store


def batches(records: Iterable[Any], size: int) -> Iterable[list[Any]]:
    """So many at a time."""
    each = iter(records)
    while batch := list(itertools.islice(each, size)):
        yield batch
