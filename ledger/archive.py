"""Copies the rows of old requests and their labels to Parquet files; where asked, deletes what was verified there.

What is archived is what erasure leaves in the ledger: no content. Rows are looked at a day at a time, and deleted
only one by one as they were read back. What came late is added by the next run; what is there already is not written
again.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import sqlalchemy as sa

from ledger import leases, schema
from ledger.archive_files import Archived, ArchiveError, ArchiveFiles, Key, Row, is_same, key_of
from ledger.requests import MINUTE_MS
from ledger.rollups import DAY_MS
from ledger.store import Store, now_ms

__all__ = ("YOUNGEST_DAYS", "ArchiveError", "Day", "archive", "youngest")

YOUNGEST_DAYS: Final = 2
"""Records of a younger day may still be on their way, and a record that comes again would be counted again."""
PAGE: Final = 10_000
DELETED_AT_ONCE: Final = 1_000
LEASE: Final = "archive"
LEASE_MS: Final = 600_000


@dataclass(frozen=True, slots=True)
class Day:
    """What came of a table's day (days since the epoch): rows that there were, that were new in the archive, and that
    were deleted.
    """

    table: str
    day: int
    rows: int
    written: int
    deleted: int


def archive(store: Store, url: str, before: int, delete: bool, say: Callable[[Day], None]) -> None:
    """Archive whole days (UTC) that end before a time (ms); ``say`` is told of each when it is done.

    Raises `ArchiveError`, `ArtifactError`. What was done by then stays, and need not be done again.
    """
    run = _Run(store, ArchiveFiles(url), delete)
    run.hold()
    try:
        # a label goes when its request has gone
        for table in (schema.requests, schema.labels):
            for day in run.days(table, before // DAY_MS):
                say(run.archived(table, day))
    finally:
        leases.give_back(store, LEASE, run.owner)


@dataclass
class _Run:
    store: Store
    files: ArchiveFiles
    delete: bool
    owner: str = field(default_factory=leases.new_owner)
    _renew_at: float = 0.0

    def hold(self) -> None:
        """Be, and stay, the only one. Raises `ArchiveError`."""
        now = time.monotonic()
        if now < self._renew_at:
            return
        self._renew_at = now + LEASE_MS / 10_000
        if not leases.take(self.store, LEASE, self.owner, LEASE_MS):
            raise ArchiveError(
                f"another process archives this ledger, or was ended within {LEASE_MS // MINUTE_MS} minutes"
            )

    def days(self, table: sa.Table, end: int) -> Iterator[int]:
        """Days before one that have rows, oldest first."""
        at, after = table.c.created_at, 0
        while True:
            with self.store.read() as connection:
                oldest = sa.select(sa.func.min(at)).where(at >= after, at < end * DAY_MS)
                found = connection.execute(oldest).scalar()
            if found is None:
                return
            yield int(found) // DAY_MS
            after = (int(found) // DAY_MS + 1) * DAY_MS

    def archived(self, table: sa.Table, day: int) -> Day:
        """Archive one day, and delete it where that is asked for."""
        known = self.files.rows(table, day)
        rows = missing = 0
        for page in self._pages(table, day):
            rows, missing = rows + len(page), missing + len(_missing(table, page, known))
        written = deleted = 0
        if missing:
            new = (some for page in self._pages(table, day) if (some := _missing(table, page, known)))
            written = self.files.write(table, day, new)
        if self.delete and not self._has_content(table, day):
            deleted = self._deleted(table, day, self.files.rows(table, day))
        return Day(str(table.name), day, rows, written, deleted)

    def _pages(self, table: sa.Table, day: int, size: int = PAGE) -> Iterator[list[Row]]:
        """The rows of a day, in order."""
        order = (table.c.created_at, *table.primary_key)
        of_day = sa.and_(table.c.created_at >= day * DAY_MS, table.c.created_at < (day + 1) * DAY_MS)
        last: tuple[Any, ...] | None = None
        while True:
            self.hold()
            wanted = sa.select(table).where(of_day).order_by(*order).limit(size)
            if last is not None:
                behind = [sa.literal(value, column.type) for value, column in zip(last, order, strict=True)]
                wanted = wanted.where(table.c.created_at >= last[0], sa.tuple_(*order) > sa.tuple_(*behind))
            with self.store.read() as connection:
                page: list[Row] = [dict(row) for row in connection.execute(wanted).mappings()]
            if not page:
                return
            yield page
            last = (page[-1]["created_at"], *key_of(table, page[-1]))

    def _has_content(self, table: sa.Table, day: int) -> bool:
        """Whether content of the day is left: its requests then stay, so that erasure and pages find them."""
        if table is not schema.requests:
            return False
        minute, first = schema.content_minute, day * DAY_MS // MINUTE_MS
        of_day = sa.and_(minute >= first, minute < first + DAY_MS // MINUTE_MS)
        with self.store.read() as connection:
            return (
                connection.execute(sa.select(schema.contents.c.request_id).where(of_day).limit(1)).first() is not None
            )

    def _deleted(self, table: sa.Table, day: int, known: Mapping[Key, Archived]) -> int:
        """Delete what was read back, in small transactions with as long a pause after each, in which others write."""
        deleted, key = 0, sa.tuple_(*table.primary_key)
        for page in self._pages(table, day, DELETED_AT_ONCE):
            sure = [key_of(table, row) for row in page if _is_known(table, row, known)]
            if not sure:
                continue
            began = time.monotonic()
            with self.store.write(None) as connection:
                gone = sa.delete(table).where(key.in_(sure), _may_go(table))
                deleted += int(connection.execute(gone).rowcount)
            time.sleep(time.monotonic() - began)
        return deleted


def _may_go(table: sa.Table) -> sa.ColumnElement[bool]:
    """A request that no dataset holds, since erasure asks whose it was; a label whose request has gone."""
    requests, labels, held = schema.requests, schema.labels, schema.dataset_rows
    if table is requests:
        return ~sa.select(held.c.request_id).where(held.c.request_id == requests.c.id).exists()
    return ~sa.select(requests.c.id).where(requests.c.id == labels.c.request_id).exists()


def _missing(table: sa.Table, rows: list[Row], known: Mapping[Key, Archived]) -> list[Row]:
    return [row for row in rows if not _is_known(table, row, known)]


def _is_known(table: sa.Table, row: Row, known: Mapping[Key, Archived]) -> bool:
    """Whether a row is in the archive. Raises `ArchiveError` where it is, and says something else."""
    key = key_of(table, row)
    archived = known.get(key)
    if archived is not None and not is_same(row, archived):
        raise ArchiveError(
            f"{table.name} {'/'.join(map(str, key))} differs from what is archived: is it another ledger's?"
        )
    return archived is not None


def youngest() -> int:
    """The end (ms) of the youngest day that may be archived."""
    return now_ms() // DAY_MS * DAY_MS - (YOUNGEST_DAYS - 1) * DAY_MS
