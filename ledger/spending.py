"""What keys spent today and this month (UTC), read from the hourly sums, and which records are in those sums."""

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

import msgspec
import sqlalchemy as sa

from ledger import schema
from ledger.rollups import DAY_MS, HOUR_MS
from ledger.store import Store

__all__ = ("NOTHING_SPENT", "Periods", "Reading", "SpendReader", "Spent", "spent_by")

CLOSED_FOR_S: Final = 60.0
"""How long the sums of past hours are trusted: a row of another process may come late into one of them."""
IDS_AT_ONCE: Final = 500


@dataclass(frozen=True, slots=True)
class Periods:
    """The day and the month that a time lies in; ms since the epoch."""

    day: int
    month: int

    @staticmethod
    def at(now: int) -> "Periods":
        """Those of a time."""
        day = now // DAY_MS * DAY_MS
        month = datetime.fromtimestamp(day / 1000, UTC).replace(day=1)
        return Periods(day, round(month.timestamp() * 1000))

    @property
    def day_end(self) -> int:
        """When the day is over, and with it what was known of it."""
        return self.day + DAY_MS


class Spent(msgspec.Struct, frozen=True):
    """Nano-units."""

    day: int = 0
    month: int = 0


NOTHING_SPENT: Final = Spent()


@dataclass(frozen=True, slots=True)
class Reading:
    """One consistent sight of the store: the spend of the keys, and the pending records that are a part of it."""

    periods: Periods
    spent: Mapping[str, Spent]
    stored: Collection[str]


@dataclass
class SpendReader:
    """Reads the last two hours each time and the ones before once a minute. Used by one thread at a time."""

    store: Store
    _closed: dict[str, Spent] = field(default_factory=dict[str, Spent])
    _closed_for: tuple[object, ...] = ()
    _closed_at: float = 0.0

    def read(self, key_ids: Sequence[str], now: int, pending: Callable[[], Mapping[str, int]]) -> Reading:
        """The spend of these keys at a time (ms), and which of the ``pending`` records (id: created_at) are in it.

        Blocks; raises the store's error.
        """
        periods = Periods.at(now)
        open_from = max(periods.month, now // HOUR_MS * HOUR_MS - HOUR_MS)
        with self.store.read() as connection:
            recent = _sums(connection, key_ids, periods, open_from, None)
            # listed after the first read: whatever that one saw was pending by then, so that nothing counts twice
            waiting = dict(pending())
            stored = [i for ids in _chunks(list(waiting)) for i in _stored(connection, ids)]
            late = any(waiting[request_id] < open_from for request_id in stored)
            self._close(connection, key_ids, periods, open_from, late)
        return Reading(periods, {k: _plus(self._closed.get(k), recent.get(k)) for k in key_ids}, stored)

    def _close(
        self, connection: sa.Connection, key_ids: Sequence[str], periods: Periods, until: int, late: bool
    ) -> None:
        """Read the past hours again where they may have changed."""
        wanted = (tuple(key_ids), periods, until)
        if not late and wanted == self._closed_for and time.monotonic() - self._closed_at < CLOSED_FOR_S:
            return
        self._closed = _sums(connection, key_ids, periods, periods.month, until)
        self._closed_for, self._closed_at = wanted, time.monotonic()


def spent_by(store: Store, key_id: str, now: int) -> Spent:
    """One key's spend at a time (ms)."""
    periods = Periods.at(now)
    with store.read() as connection:
        return _sums(connection, [key_id], periods, periods.month, None).get(key_id, NOTHING_SPENT)


def _sums(
    connection: sa.Connection, key_ids: Sequence[str], periods: Periods, since: int, until: int | None
) -> dict[str, Spent]:
    table = schema.usage_hourly
    of_day = sa.case((table.c.hour >= periods.day, table.c.cost_nano), else_=0)
    statement = sa.select(table.c.key_id, sa.func.sum(of_day), sa.func.sum(table.c.cost_nano))
    statement = statement.where(table.c.hour >= since).group_by(table.c.key_id)
    if until is not None:
        statement = statement.where(table.c.hour < until)
    found: dict[str, Spent] = {}
    for ids in _chunks(key_ids):
        rows = connection.execute(statement.where(table.c.key_id.in_(ids)))
        found |= {key_id: Spent(int(day), int(month)) for key_id, day, month in rows}
    return found


def _stored(connection: sa.Connection, ids: Sequence[str]) -> Iterator[str]:
    yield from connection.execute(sa.select(schema.requests.c.id).where(schema.requests.c.id.in_(ids))).scalars()


def _chunks(ids: Sequence[str]) -> list[Sequence[str]]:
    return [ids[i : i + IDS_AT_ONCE] for i in range(0, len(ids), IDS_AT_ONCE)]


def _plus(closed: Spent | None, recent: Spent | None) -> Spent:
    a, b = closed or NOTHING_SPENT, recent or NOTHING_SPENT
    return Spent(a.day + b.day, a.month + b.month)
